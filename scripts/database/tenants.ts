// Tenants and their API keys, as an administrator sees and makes them. Never a key itself, and never its hash.
import { type Environment, generateApiKey, hashApiKey, isApiKey, toPepper, toPrefix } from '../../src/auth/api-key.ts'
import { findSecrets, keepSecrets, makeSecrets } from '../development-secrets.ts'
import type { Connection } from './connection.ts'
import type { Target } from './target.ts'
import { CommandError, EXIT } from './terminal.ts'
import { asOwner, findSqlState } from './transaction.ts'

const UUID = /^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$/

export type Tenant = {
  id: string
  name: string
  environment: Environment
  is_active: boolean
  /** As /v1/operator/tenants has it. */
  status: 'active' | 'suspended' | 'erasing'
  settings: unknown
  faces: number
  created_at: Date
}

/** All tenants, the oldest first. */
export function listTenants(connection: Connection): Promise<Tenant[]> {
  return asOwner(connection, () =>
    connection.query<Tenant>(`
      select
        t.id, t.name, t.environment, t.is_active, t.settings, t.created_at,
        case when t.erasure_requested_at is not null then 'erasing' when t.is_active then 'active' else 'suspended' end
          as status,
        (select coalesce(sum(c.change), 0)::int from face_counts c where c.tenant_id = t.id) as faces
      from tenants t
      order by t.created_at, t.id`),
  )
}

/**
 * The tenant that somebody means.
 *
 * @param reference its id, or its exact name
 * @throws CommandError when there is none, or several have the name
 */
export async function findTenant(connection: Connection, reference: string): Promise<Tenant> {
  const wanted = reference.toLowerCase()
  const tenants = await listTenants(connection)
  const found = UUID.test(wanted)
    ? tenants.filter(({ id }) => id === wanted)
    : tenants.filter(({ name }) => name === reference)
  const [tenant, another] = found
  if (!tenant) {
    throw new CommandError(`There is no tenant "${reference}". List them: scripts/db.sh tenants`, EXIT.usage)
  }
  if (another) {
    const ids = found.map(({ id }) => id).join(', ')
    throw new CommandError(`${found.length} tenants are called "${reference}". Say which by its id: ${ids}`, EXIT.usage)
  }
  return tenant
}

/** @throws CommandError when it is shut out for good, and what is given to it now would be erased with the rest */
export function requireLasting({ name, status }: Pick<Tenant, 'name' | 'status'>): void {
  if (status !== 'erasing') return
  throw new CommandError(`"${name}" is being erased, which cannot be taken back.`, EXIT.refused)
}

export type StoredKey = {
  id: string
  prefix: string
  name: string
  scopes: string[]
  created_at: Date
  expires_at: Date | null
  revoked_at: Date | null
  /** To within about ten minutes; null when never. */
  last_used_at: Date | null
}

/** The keys of a tenant, the oldest first. */
export function listKeys(connection: Connection, tenantId: string): Promise<StoredKey[]> {
  return asOwner(connection, () =>
    connection.query<StoredKey>(
      `select id, prefix, name, scopes, created_at, expires_at, revoked_at, last_used_at
      from api_keys where tenant_id = $1 order by created_at, id`,
      [tenantId],
    ),
  )
}

/**
 * The key that somebody means.
 *
 * @param reference its id, or its prefix as the list shows it
 * @throws CommandError when there is none, or several have the prefix
 */
export async function findKey(connection: Connection, tenantId: string, reference: string): Promise<StoredKey> {
  // a whole key is not needed, and not repeated either
  const wanted = isApiKey(reference) ? toPrefix(reference) : reference.replace(/(…|\.\.\.)$/, '')
  const keys = await listKeys(connection, tenantId)
  const found = keys.filter(({ id, prefix }) => id === wanted.toLowerCase() || prefix === wanted)
  const [key, another] = found
  if (!key) {
    throw new CommandError(
      'This tenant has no such key. List them with their ids: scripts/db.sh keys list --tenant T',
      EXIT.usage,
    )
  }
  if (another) {
    const ids = found.map(({ id }) => id).join(', ')
    throw new CommandError(`${found.length} keys begin with ${wanted}. Say which by its id: ${ids}`, EXIT.usage)
  }
  return key
}

/** @returns false when it was revoked already */
export async function revokeKey(connection: Connection, tenantId: string, keyId: string): Promise<boolean> {
  try {
    const [row] = await asOwner(connection, () =>
      connection.query<{ revoked: boolean }>('select revoke_api_key($1, $2) as revoked', [tenantId, keyId]),
    )
    return row?.revoked === true
  } catch (error) {
    if (findSqlState(error) !== '42883') throw error
    throw new CommandError('This schema cannot revoke keys yet: scripts/db.sh up', EXIT.refused)
  }
}

/**
 * Makes a second key with the name and the scopes of a valid one, which ends after an overlap, and never later
 * than it would have. The owner does it by hand, because nobody but an administrator needs to: a tenant rotates
 * its keys itself (src/db/api-keys.ts).
 *
 * @param overlapMs 0 ends the old key at once
 * @param expiresAt of the new key; null for never
 * @returns the new key, which is shown this once; null when the old one is revoked or has expired
 */
export async function rotateKey(
  connection: Connection,
  pepper: string,
  { id, environment }: Pick<Tenant, 'id' | 'environment'>,
  keyId: string,
  overlapMs: number,
  expiresAt: Date | null,
): Promise<string | null> {
  const key = generateApiKey(environment)
  const hash = await hashApiKey(key, await toPepper(pepper))
  const made = await asOwner(connection, () =>
    connection.query(
      `with rotated as (
        update api_keys set expires_at = least(
          expires_at, date_trunc('milliseconds', clock_timestamp()) + make_interval(secs => $3::float8 / 1000)
        )
        where tenant_id = $1 and id = $2 and revoked_at is null and (expires_at is null or expires_at > clock_timestamp())
        returning tenant_id, id, name, scopes
      ), created as (
        insert into api_keys (tenant_id, name, hash, prefix, scopes, expires_at)
        select tenant_id, name, decode($4, 'hex'), $5, scopes, $6::timestamptz from rotated
      ), noted as (
        insert into admin_events (tenant_id, action, target) select tenant_id, 'api_key.rotated', id::text from rotated
      )
      select id from rotated`,
      [id, keyId, overlapMs, hash, toPrefix(key), expiresAt],
    ),
  )
  return made.length > 0 ? key : null
}

/**
 * The pepper under which keys are hashed. On this machine it is the one of `make dev` unless another is given,
 * made now when there is none, so that a key made here works there.
 *
 * @throws CommandError for a database of another machine when API_KEY_PEPPER is not set
 */
export async function findPepper(target: Target): Promise<string> {
  const given = process.env['API_KEY_PEPPER']
  if (given) {
    if (given.length >= 32) return given
    throw new CommandError('API_KEY_PEPPER must have at least 32 characters, as the Worker asks for.', EXIT.usage)
  }
  if (target.kind === 'native' && !target.isLocal) {
    throw new CommandError(
      'Set API_KEY_PEPPER to the secret of the Worker that serves this database: a key works under the pepper it was made with only.',
      EXIT.usage,
    )
  }
  const known = await findSecrets()
  if (known) return known.pepper
  const made = makeSecrets()
  await keepSecrets(made)
  return made.pepper
}
