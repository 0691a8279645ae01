// A tenant's own API keys: list, create, rotate, revoke. Each change is one statement with its event. Never a key,
// and never its hash: the Worker's login cannot read that column.
import type { Scope } from '../auth/api-key.ts'
import type { TenantDatabase } from './tenant.ts'

/** That are neither revoked nor expired. Far above what gates and back ends of one tenant need; it bounds a leak. */
export const MAX_VALID_KEYS = 100

export type StoredApiKey = {
  id: string
  name: string
  prefix: string
  scopes: Scope[]
  created_at: Date
  expires_at: Date | null
  revoked_at: Date | null
  /** Noted at most once in ten minutes; null when the key was never used. */
  last_used_at: Date | null
}

/** A key as it was made, now or by an earlier request of the same name. */
export type MadeApiKey = StoredApiKey & { seed: string }

/** A key that was generated a moment ago: what is stored of it. */
export interface NewApiKey {
  /** What it was derived from, 64 hexadecimal digits: remembered with the request, to derive it again. */
  seed: string
  /** HMAC-SHA-256, 64 hexadecimal digits. */
  hash: string
  prefix: string
  /** Null: never. */
  expiresAt: Date | null
}

/**
 * Creates a key. The statement asks what the credential of its own transaction may do, so that nobody grants
 * more than that.
 *
 * @returns null when the tenant has as many keys as it may have; the scopes that the credential lacks, when it lacks
 *   some. Nothing is written then.
 */
export async function createApiKey(
  db: TenantDatabase,
  name: string,
  scopes: readonly Scope[],
  key: NewApiKey,
): Promise<MadeApiKey | { missingScopes: Scope[] } | null> {
  type Row = Omit<MadeApiKey, 'id'> & { id: string | null; missing_scopes: Scope[] }
  const [row] = await db.act<Row>({
    parts: db.sql`asked as materialized (
      select
        array(select s from unnest(${[...scopes]}::text[]) as s where not s = any (current_scopes())) as missing_scopes,
        count_valid_api_keys(${db.tenant.id}::uuid) as valid_keys
      where ${db.isFirst}
    ), created as (
      insert into api_keys (tenant_id, name, hash, prefix, scopes, expires_at)
      select
        ${db.tenant.id}::uuid, ${name}, decode(${key.hash}, 'hex'), ${key.prefix}, ${[...scopes]}::text[],
        ${key.expiresAt?.toISOString() ?? null}::timestamptz
      from asked
      where missing_scopes = '{}' and valid_keys < ${MAX_VALID_KEYS}::integer
      returning tenant_id, id, name, prefix, scopes, created_at, expires_at, revoked_at, last_used_at
    ), noted as (
      insert into admin_events (tenant_id, action, target, request_id)
      select tenant_id, 'api_key.created', id::text, ${db.requestId} from created
    )`,
    answer: db.sql`
    select
      a.missing_scopes, ${key.seed}::text as seed, c.id, c.name, c.prefix, c.scopes, c.created_at, c.expires_at, c.revoked_at,
      c.last_used_at
    from asked a left join created c on true`,
    unless: db.sql`cardinality(missing_scopes) > 0`,
  })
  if (!row) throw new RangeError('a statement that always answers a row answered none')
  const { missing_scopes, id, ...created } = row
  if (missing_scopes.length > 0) return { missingScopes: missing_scopes }
  return id === null ? null : requireOwnScopes(db, { id, ...created })
}

/**
 * Makes a second key with the name and the scopes of a valid one, which ends after an overlap, and never later
 * than it would have.
 *
 * The times are the clock's and not the transaction's: of two rotations at once, the later has waited for the
 * earlier, and must see the old key as that one has left it.
 *
 * @param overlapSeconds 0 ends the old key at once
 * @returns null when there is no such key; 'not valid' when it is revoked or has expired; 'too many' when the
 *   tenant would have more valid keys than it may have; the scopes of the key that the credential lacks, when it
 *   lacks some. Nothing is written then.
 */
export async function rotateApiKey(
  db: TenantDatabase,
  id: string,
  overlapSeconds: number,
  key: NewApiKey,
): Promise<MadeApiKey | { missingScopes: Scope[] } | 'not valid' | 'too many' | null> {
  type Row = Omit<MadeApiKey, 'id'> & {
    id: string | null
    is_valid: boolean
    has_room: boolean
    missing_scopes: Scope[]
  }
  const [row] = await db.act<Row>({
    parts: db.sql`found as materialized (
      select
        id,
        revoked_at is null and (expires_at is null or expires_at > clock_timestamp()) as is_valid,
        array(select s from unnest(scopes) as s where not s = any (current_scopes())) as missing_scopes,
        -- a key that ends at once makes room for its successor
        count_valid_api_keys(tenant_id) < ${MAX_VALID_KEYS}::integer or ${overlapSeconds}::integer = 0 as has_room
      from api_keys
      where tenant_id = ${db.tenant.id} and id = ${id} and ${db.isFirst}
    ), rotated as (
      update api_keys k set expires_at = least(
        k.expires_at,
        -- never rounded up: the column holds milliseconds, and with 0 seconds the key ends before this is answered
        date_trunc('milliseconds', clock_timestamp()) + make_interval(secs => ${overlapSeconds}::integer)
      )
      from found f
      where k.tenant_id = ${db.tenant.id} and k.id = f.id and f.missing_scopes = '{}' and f.has_room
        and k.revoked_at is null and (k.expires_at is null or k.expires_at > clock_timestamp())
      returning k.tenant_id, k.id, k.name, k.scopes
    ), created as (
      insert into api_keys (tenant_id, name, hash, prefix, scopes, expires_at)
      select
        tenant_id, name, decode(${key.hash}, 'hex'), ${key.prefix}, scopes,
        ${key.expiresAt?.toISOString() ?? null}::timestamptz
      from rotated
      returning id, name, prefix, scopes, created_at, expires_at, revoked_at, last_used_at
    ), noted as (
      insert into admin_events (tenant_id, action, target, request_id)
      select tenant_id, 'api_key.rotated', id::text, ${db.requestId} from rotated
    )`,
    answer: db.sql`
    select
      f.is_valid, f.has_room, f.missing_scopes, ${key.seed}::text as seed, c.id, c.name, c.prefix, c.scopes, c.created_at, c.expires_at,
      c.revoked_at, c.last_used_at
    from found f left join created c on true`,
    unless: db.sql`cardinality(missing_scopes) > 0`,
  })
  if (!row) return null
  const { is_valid, has_room, missing_scopes, id: newId, ...created } = row
  if (newId !== null) return requireOwnScopes(db, { id: newId, ...created })
  if (!is_valid) return 'not valid'
  if (missing_scopes.length > 0) return { missingScopes: missing_scopes }
  // with room, and valid when the statement began: another rotation or a revocation came first
  return has_room ? 'not valid' : 'too many'
}

/** The credential that asks again need not be the one that asked first. */
function requireOwnScopes(db: TenantDatabase, key: MadeApiKey): MadeApiKey | { missingScopes: Scope[] } {
  const missingScopes = key.scopes.filter((scope) => !db.scopes.has(scope))
  return missingScopes.length > 0 ? { missingScopes } : key
}

/**
 * Revokes a key: it is refused from the next request on. One that is revoked already stays as it is, and leaves no
 * second event.
 *
 * @returns false when there is no such key
 */
export async function revokeApiKey(db: TenantDatabase, id: string): Promise<boolean> {
  const found = await db.act({
    parts: db.sql`locked as materialized (
      -- whoever makes a key by this one holds the row too: it is made before, and can be seen, or not at all
      select id from tenants where id = ${db.tenant.id} and ${db.isFirst} for no key update
    ), found as materialized (
      select k.tenant_id, k.id from api_keys k, locked l where k.tenant_id = l.id and k.id = ${id}
    ), revoked as (
      update api_keys k set revoked_at = transaction_timestamp()
      from found f
      where k.tenant_id = f.tenant_id and k.id = f.id and k.revoked_at is null
      returning k.tenant_id, k.id
    ), noted as (
      insert into admin_events (tenant_id, action, target, request_id)
      select tenant_id, 'api_key.revoked', id::text, ${db.requestId} from revoked
    )`,
    answer: db.sql`select id from found`,
  })
  return found.length > 0
}

/**
 * @param after the end of the page before; null for the first page
 * @param limit rows at most; ask for one more than a page to learn whether there is another
 * @returns keys, those that are revoked or expired too, newest first
 */
export async function listApiKeys(
  db: TenantDatabase,
  after: { createdAt: string; id: string } | null,
  limit: number,
): Promise<StoredApiKey[]> {
  const { sql } = db
  const behind = after ? sql`and (created_at, id) < (${after.createdAt}::timestamptz, ${after.id}::uuid)` : sql``
  return db.run<StoredApiKey>(
    sql`
    select id, name, prefix, scopes, created_at, expires_at, revoked_at, last_used_at
    from api_keys
    where tenant_id = ${db.tenant.id} ${behind}
    order by created_at desc, id desc
    limit ${limit}`,
    { readOnly: true },
  )
}
