// The one door to tenant data. Nothing else in the Worker reads or writes a tenant's rows.
//
// A request sends one Neon batch: the first statement enters the tenant (and refuses a credential
// that was revoked a moment ago), the second does the work. Row-level security is the wall; the
// statements name `tenant_id` as well, because the planner needs it.
import type { Scope } from '../auth/api-key.ts'
import type { Env } from '../env.ts'
import { Problem } from '../problem.ts'
import { type Settings, toSettings } from '../settings.ts'
import { connect, DatabaseError, type Row, type Sql, type Statement, transact } from './neon.ts'

/** What must be known before a batch can be written: cached, and never a permission. */
export interface Tenant {
  id: string
  settings: Settings
}

export interface TenantDatabase {
  readonly tenant: Tenant
  readonly sql: Sql
  /**
   * Runs one statement inside the tenant: one HTTP request, one transaction.
   *
   * @throws Problem UNAUTHENTICATED or MISSING_SCOPE when the credential is refused; DatabaseError
   *   for everything else. Nothing is written in either case.
   */
  run<Result extends Row>(statement: Statement, options?: { readOnly: boolean }): Promise<Result[]>
  /** The scopes that the credential had in the transaction; empty before the first `run`. */
  readonly scopes: ReadonlySet<Scope>
}

// SQLSTATEs of our own (class RK), raised by enter_tenant_by_api_key in migrations/.
const CREDENTIAL_REFUSED = 'RK401'
const SCOPE_MISSING = 'RK403'
// An audit row names a face that another request erased after this one had found it.
const FOREIGN_KEY_VIOLATION = '23503'

/** One answer for absent, malformed, unknown, revoked and expired: it tells a guesser nothing. */
export function unauthenticated(): Problem {
  return new Problem(
    'UNAUTHENTICATED',
    'Send a valid API key as "Authorization: Bearer <key>" or "X-API-Key: <key>".',
    {
      headers: { 'WWW-Authenticate': 'Bearer' },
    },
  )
}

/** The tenant that an API key belongs to, or null. An extra request, for a cold isolate only. */
export async function findTenantByApiKey(env: Env, keyHash: string): Promise<Tenant | null> {
  const sql = connect(env, env.DATABASE_URL)
  const [rows] = await transact(
    sql,
    [sql`select tenant_id, settings from resolve_api_key(decode(${keyHash}, 'hex'))`],
    true,
  )
  const row = rows?.[0]
  return row ? { id: String(row['tenant_id']), settings: toSettings(row['settings']) } : null
}

/**
 * @param keyHash of the presented credential, 64 hexadecimal digits; checked in every transaction
 * @param scope what the credential must be allowed to do
 * @param onRefused called when the credential is refused, to forget what was cached about it
 */
export function openTenant(
  env: Env,
  tenant: Tenant,
  keyHash: string,
  scope: Scope,
  onRefused: () => void,
): TenantDatabase {
  const sql = connect(env, env.DATABASE_URL)
  let scopes: ReadonlySet<Scope> = new Set()

  async function runOnce(statement: Statement, readOnly: boolean): Promise<Row[]> {
    const enter = sql`select enter_tenant_by_api_key(${tenant.id}::uuid, decode(${keyHash}, 'hex'), ${scope}) as scopes`
    const [entered, rows] = await transact(sql, [enter, statement], readOnly)
    // the function answers the key's scopes, which a CHECK constraint keeps to those of SCOPES
    scopes = new Set(entered?.[0]?.['scopes'] as Scope[])
    return rows ?? []
  }

  return {
    tenant,
    sql,
    get scopes() {
      return scopes
    },
    async run<Result extends Row>(statement: Statement, { readOnly } = { readOnly: false }) {
      try {
        const rows = await runOnce(statement, readOnly).catch((error: unknown) => {
          // once more, and the face is no longer found: the erasure has won
          if (isSqlState(error, FOREIGN_KEY_VIOLATION)) return runOnce(statement, readOnly)
          throw error
        })
        // the caller's statement and its row type stand side by side in one function of db/
        return rows as Result[]
      } catch (error) {
        if (isSqlState(error, SCOPE_MISSING)) {
          throw new Problem('MISSING_SCOPE', `This needs a key with the scope "${scope}".`)
        }
        if (isSqlState(error, CREDENTIAL_REFUSED)) {
          onRefused()
          throw unauthenticated()
        }
        throw error
      }
    },
  }
}

function isSqlState(error: unknown, sqlstate: string): boolean {
  return error instanceof DatabaseError && error.sqlstate === sqlstate
}
