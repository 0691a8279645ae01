// Creates tenants and their API keys, as the operator's login may: through functions only.
import { type Environment, generateApiKey, hashApiKey, type Scope, toPepper, toPrefix } from '../src/auth/api-key.ts'
import type { Connection } from './database/connection.ts'

export async function createTenant(operator: Connection, name: string, environment: Environment): Promise<string> {
  const [row] = await operator.query<{ id: string }>('select create_tenant($1, $2) as id', [name, environment])
  if (!row) throw new RangeError('create_tenant answered no row')
  return row.id
}

/** @returns the key itself: the only time that it can be seen */
export async function createApiKey(
  operator: Connection,
  pepper: string,
  tenantId: string,
  environment: Environment,
  name: string,
  scopes: readonly Scope[],
  expiresAt: Date | null = null,
): Promise<string> {
  const key = generateApiKey(environment)
  const hash = await hashApiKey(key, await toPepper(pepper))
  await operator.query("select create_api_key($1, $2, decode($3, 'hex'), $4, $5::text[], $6)", [
    tenantId,
    name,
    hash,
    toPrefix(key),
    [...scopes],
    expiresAt,
  ])
  return key
}
