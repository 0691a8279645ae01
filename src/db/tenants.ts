// Tenants as the operator sees them: who they are and whether they may enter. Never what they hold.
import type { Environment, Scope } from '../auth/api-key.ts'
import { DatabaseError } from './neon.ts'
import type { OperatorDatabase } from './operator.ts'

export type TenantRecord = {
  id: string
  name: string
  environment: Environment
  settings: unknown
  is_active: boolean
  /** Null unless it is being erased. */
  erasure_requested_at: Date | null
  created_at: Date
  updated_at: Date
}

/** Where a list of the operator continues, newest first. */
export interface Position {
  createdAt: string
  id: string
}

/** As `erase_tenant_batch` takes it: well under the login's statement_timeout of 4 s for rows of 3 KB. */
const ERASURE_BATCH = 2_000
/** What one request spends on an erasure; the schedule does the rest. */
const MAX_ERASURE_BATCHES = 20
const ERASURE_BUDGET_MS = 5_000
/** What create_api_key raises when there is no such tenant to let in, or it goes away meanwhile. */
const GONE = ['23514', '23503']

/**
 * @param id a new one
 * @param wrappedKey the tenant's first template key, as `wrapNewTemplateKey` makes it for this id
 * @param settings a patch to the defaults, as it is stored; null for none
 */
export async function createTenant(
  db: OperatorDatabase,
  id: string,
  wrappedKey: string,
  name: string,
  environment: Environment,
  settings: object | null,
): Promise<TenantRecord> {
  const created = db.sql`create_tenant(${id}::uuid, ${name}, ${environment}, decode(${wrappedKey}, 'base64'))`
  const [tenant] = await db.run<TenantRecord>(
    settings
      ? db.sql`select t.* from change_tenant(${created}, null, ${JSON.stringify(settings)}::jsonb) t`
      : db.sql`select t.* from find_tenant(${created}) t`,
  )
  if (!tenant) throw new RangeError('a tenant that was created is not there')
  return tenant
}

/** @param after where the page before ended; null from the newest on */
export function listTenants(db: OperatorDatabase, after: Position | null, limit: number): Promise<TenantRecord[]> {
  return db.run<TenantRecord>(db.sql`
    select t.* from list_tenants(${after?.createdAt ?? null}::timestamptz, ${after?.id ?? null}::uuid, ${limit}) t`)
}

/** @returns null when there is no such tenant */
export async function findTenant(db: OperatorDatabase, id: string): Promise<TenantRecord | null> {
  const [tenant] = await db.run<TenantRecord>(db.sql`select t.* from find_tenant(${id}::uuid) t`)
  return tenant ?? null
}

/**
 * @param name null to leave it
 * @param settings a patch, null to leave them: a setting of null goes back to the default, what is not named stays
 * @returns null when there is no such tenant
 */
export async function changeTenant(
  db: OperatorDatabase,
  id: string,
  name: string | null,
  settings: object | null,
): Promise<TenantRecord | null> {
  const patch = settings && JSON.stringify(settings)
  const [tenant] = await db.run<TenantRecord>(db.sql`
    select t.* from change_tenant(${id}::uuid, ${name}, ${patch}::jsonb) t`)
  return tenant ?? null
}

/**
 * Suspends or resumes. A tenant that is being erased is answered as it is.
 *
 * @returns null when there is no such tenant
 */
export async function setTenantActive(
  db: OperatorDatabase,
  id: string,
  isActive: boolean,
): Promise<TenantRecord | null> {
  const [tenant] = await db.run<TenantRecord>(db.sql`select t.* from set_tenant_active(${id}::uuid, ${isActive}) t`)
  return tenant ?? null
}

/**
 * Shuts a tenant out and erases what it has, for a few seconds; asked again, it goes on.
 *
 * @returns null when there is no such tenant
 */
export async function eraseTenant(db: OperatorDatabase, id: string): Promise<'erased' | 'erasing' | null> {
  const startedAt = Date.now()
  const [row] = await db.run<{ exists: boolean }>(db.sql`select request_tenant_erasure(${id}::uuid) as exists`)
  if (!row?.exists) return null
  try {
    for (let batch = 0; batch < MAX_ERASURE_BATCHES && Date.now() - startedAt < ERASURE_BUDGET_MS; batch++) {
      const [result] = await db.run<{ rows: number }>(db.sql`
        select erase_tenant_batch(${id}::uuid, ${ERASURE_BATCH}) as rows`)
      // a batch that is not full has taken the tenant too
      if (result && result.rows < ERASURE_BATCH) return 'erased'
    }
  } catch (error) {
    // a request of the tenant that had begun before, or the schedule, which locks the same rows in another order:
    // the tenant is shut out, and the erasure goes on later
    if (!(error instanceof DatabaseError) || !error.isUnavailable) throw error
  }
  return 'erasing'
}

export interface NewApiKey {
  name: string
  /** 64 hexadecimal digits. */
  hash: string
  prefix: string
  scopes: readonly Scope[]
  expiresAt: string | null
}

/** @returns the id of the key; null when the tenant went away meanwhile */
export async function createTenantKey(db: OperatorDatabase, tenantId: string, key: NewApiKey): Promise<string | null> {
  try {
    const [row] = await db.run<{ id: string }>(db.sql`
      select create_api_key(
        ${tenantId}::uuid, ${key.name}, decode(${key.hash}, 'hex'), ${key.prefix}, ${[...key.scopes]}::text[],
        ${key.expiresAt}::timestamptz
      ) as id`)
    return row?.id ?? null
  } catch (error) {
    if (error instanceof DatabaseError && GONE.includes(error.sqlstate ?? '')) return null
    throw error
  }
}
