// Creates tenants and their API keys, as the operator's login may: through functions only.
import { type Environment, generateApiKey, hashApiKey, type Scope, toPepper, toPrefix } from '../src/auth/api-key.ts'
import { FIRST_VERSION, wrapNewDataSecret } from '../src/face/protection/data-secret.ts'
import type { MasterKeys } from '../src/face/protection/master-keys.ts'
import type { Connection } from './database/connection.ts'

/** Creates a tenant with its first template key. */
export async function createTenant(
  operator: Connection,
  masterKeys: MasterKeys,
  name: string,
  environment: Environment,
): Promise<string> {
  const id = crypto.randomUUID()
  const wrapped = await wrapNewDataSecret(masterKeys, { tenantId: id, version: FIRST_VERSION })
  await operator.query('select create_tenant($1, $2, $3, $4)', [id, name, environment, Buffer.from(wrapped)])
  return id
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
