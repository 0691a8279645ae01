// Issuers of tokens, as an administrator sees and configures them, and the tenants that they speak for.
import { readFile } from 'node:fs/promises'
import { SCOPES, type Scope } from '../../src/auth/api-key.ts'
import { isObject, parseObject } from '../../src/auth/canonical.ts'
import {
  ISSUER_DEFAULTS,
  type IssuerConfiguration,
  isIssuerFault,
  toConfiguration,
  toIssuer,
} from '../../src/auth/issuer.ts'
import type { Connection } from './connection.ts'
import { CommandError, EXIT } from './terminal.ts'
import { asOwner, findSqlState } from './transaction.ts'

export type StoredIssuer = IssuerConfiguration & {
  id: string
  scopes: Scope[]
  is_active: boolean
  tenant_ids: string[]
  created_at: Date
}

export interface IssuerFile {
  configuration: IssuerConfiguration
  scopes: Scope[]
  tenantIds: string[]
  isActive: boolean
}

const FIELDS = [
  ...['issuer', 'audience', 'algorithms', 'token_type', 'jwks_url', 'jwks', 'tenant_claim', 'scope_claim'],
  ...['scopes', 'tenant_ids', 'is_active'],
]
const UUID = /^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$/
const MAX_ISSUERS = 10_000

/**
 * Reads what POST /v1/operator/issuers takes, from a file.
 *
 * @param allowsLoopback keys on this machine, for a database on this machine
 * @throws CommandError with the field that is wrong
 */
export async function readIssuerFile(path: string, allowsLoopback: boolean): Promise<IssuerFile> {
  const bytes = await readFile(path).catch((error: Error) => {
    throw new CommandError(`The file cannot be read: ${error.message}`, EXIT.usage)
  })
  const fields = parseObject(bytes)
  if (!fields) throw new CommandError(`${path} must hold one JSON object, each key once.`, EXIT.usage)
  const refuse = (field: string, detail: string) => new CommandError(`${path}: ${field}: ${detail}`, EXIT.usage)
  const unknown = Object.keys(fields).find((name) => !FIELDS.includes(name))
  if (unknown !== undefined) throw refuse(unknown, `Is no field of an issuer: use ${FIELDS.join(', ')}.`)

  const issuer = toIssuer({ ...ISSUER_DEFAULTS, ...fields }, allowsLoopback)
  if (isIssuerFault(issuer)) throw refuse(issuer.field ?? 'the file', issuer.detail)
  if (issuer.tenantClaim === null) throw refuse('tenant_claim', 'Must be the name of a claim.')
  const { scopes, tenant_ids: tenantIds, is_active: isActive = true } = fields
  if (!isListOf(scopes, isScope) || scopes.length === 0) throw refuse('scopes', `Must be some of ${SCOPES.join(', ')}.`)
  if (!isListOf(tenantIds, isId)) throw refuse('tenant_ids', 'Must be the ids of tenants: scripts/db.sh tenants')
  if (typeof isActive !== 'boolean') throw refuse('is_active', 'Must be true or false.')
  return {
    configuration: toConfiguration(issuer),
    // as the API does: each once
    scopes: SCOPES.filter((scope) => scopes.includes(scope)),
    tenantIds: [...new Set(tenantIds)],
    isActive,
  }
}

function isListOf<Item>(value: unknown, isItem: (item: unknown) => item is Item): value is Item[] {
  return Array.isArray(value) && value.every(isItem)
}

function isScope(value: unknown): value is Scope {
  return SCOPES.some((scope) => scope === value)
}

function isId(value: unknown): value is string {
  return typeof value === 'string' && UUID.test(value)
}

/** The issuers, newest first. */
export function listIssuers(connection: Connection): Promise<StoredIssuer[]> {
  return asOwner(connection, () =>
    connection.query<StoredIssuer>('select i.* from list_token_issuers(null, null, null, $1) i', [MAX_ISSUERS]),
  )
}

/**
 * Configures a new issuer.
 *
 * @returns its id
 * @throws CommandError when another one has its name, or a tenant is not there
 */
export async function addIssuer(connection: Connection, issuer: IssuerFile): Promise<string> {
  const { configuration, scopes, tenantIds, isActive } = issuer
  const id = crypto.randomUUID()
  try {
    await asOwner(connection, () =>
      connection.query('select put_token_issuer($1, $2::jsonb, $3::text[], $4::uuid[], $5, false)', [
        id,
        JSON.stringify(configuration),
        scopes,
        tenantIds,
        isActive,
      ]),
    )
    return id
  } catch (error) {
    switch (findSqlState(error)) {
      case '23503':
        throw new CommandError('tenant_ids: one of these tenants is not there: scripts/db.sh tenants', EXIT.usage)
      case '23505':
        throw new CommandError(`"${configuration.issuer}" is configured already: scripts/db.sh issuers`, EXIT.refused)
      default:
        throw error
    }
  }
}

/**
 * The issuer that somebody means.
 *
 * @param reference its id, or its name
 * @throws CommandError when there is none
 */
export async function findIssuer(connection: Connection, reference: string): Promise<StoredIssuer> {
  const found = (await listIssuers(connection)).find(({ id, issuer }) => id === reference || issuer === reference)
  if (!found) throw new CommandError(`There is no issuer "${reference}". List them: scripts/db.sh issuers`, EXIT.usage)
  return found
}

export async function removeIssuer(connection: Connection, id: string): Promise<void> {
  await asOwner(connection, () => connection.query('select delete_token_issuer($1)', [id]))
}

/** How many keys are stored with an issuer whose keys are not fetched. */
export function countKeys({ jwks }: IssuerConfiguration): number {
  return isObject(jwks) && Array.isArray(jwks['keys']) ? jwks['keys'].length : 0
}
