// The one door to tenant data. Nothing else in the Worker reads or writes a tenant's rows.
//
// A request sends one Neon batch: the first statement enters the tenant (and refuses a credential
// that was revoked a moment ago), the second does the work. Row-level security is the wall; the
// statements name `tenant_id` as well, because the planner needs it.
import type { Environment, Scope } from '../auth/api-key.ts'
import type { Env } from '../env.ts'
import type { Models } from '../face/models.ts'
import { modelsOf } from '../models.ts'
import { Problem } from '../problem.ts'
import { type Settings, toSettings } from '../settings.ts'
import type { Trace } from '../trace.ts'
import { connect, DatabaseError, type Row, type Sql, type Statement } from './neon.ts'
import {
  forgetTemplateKeys,
  listTemplateKeys,
  recallTemplateKeys,
  type TemplateKeys,
  unwrapTemplateKeys,
} from './template-keys.ts'

/** What must be known before a batch can be written: cached, and never a permission. */
export interface Tenant {
  id: string
  environment: Environment
  settings: Settings
}

/** What a request is let in by. Checked again in every transaction. */
export type Credential =
  /** HMAC-SHA-256 of the key, 64 hexadecimal digits. */
  | { kind: 'api_key'; hash: string }
  /** What a token says whose signature was verified. */
  | { kind: 'token'; issuer: VerifiedIssuer; scopes: string[]; subject: string | null }

/** By whom a token was verified, and what that issuer was then: a change of it takes a new verification. */
export interface VerifiedIssuer {
  id: string
  /** bigint, as text. */
  revision: string
}

export interface TenantDatabase {
  readonly tenant: Tenant
  /** Those of this deployment. */
  readonly models: Models
  readonly sql: Sql
  readonly requestId: string
  /**
   * Runs one statement inside the tenant: one HTTP request, one transaction.
   *
   * @throws Problem UNAUTHENTICATED or MISSING_SCOPE when the credential is refused; DatabaseError
   *   for everything else. Nothing is written in either case.
   */
  run<Result extends Row>(statement: Statement, options?: { readOnly: boolean }): Promise<Result[]>
  /**
   * As `run`, for a statement that compares or writes templates; one request more when the isolate does not know the
   * tenant's keys.
   *
   * @param protect does what takes the keys; `write` makes the statement of it. Both are asked again when it turns out
   *   that the tenant was re-keyed meanwhile. They are two because a Statement is a promise: awaited, it would be sent.
   * @returns the rows, and what was protected when they were found
   * @throws Problem NOT_CONFIGURED when the tenant's keys cannot be had
   */
  runProtected<Result extends Row, Protected>(
    protect: (keys: TemplateKeys) => Promise<Protected>,
    write: (protected_: Protected) => Statement,
  ): Promise<{ rows: Result[]; protected: Protected }>
  /** Notes, for the log, that a match was not confirmed. */
  noteTampering(reason: string): void
  /** The scopes that the credential had in the transaction; empty before the first `run`. */
  readonly scopes: ReadonlySet<Scope>
}

// SQLSTATEs of our own (class RK), raised by the functions in migrations/ that enter a tenant.
const REFUSALS: Record<string, string> = {
  RK401: 'unknown',
  RK411: 'revoked',
  RK412: 'expired',
  RK413: 'suspended',
  RK414: 'issuer',
}
const ISSUER_CHANGED = 'RK415'
const SCOPE_MISSING = 'RK403'
const KEYS_CHANGED = 'RK416'
// An audit row names a face that another request erased or replaced after this one had found it.
const FOREIGN_KEY_VIOLATION = '23503'
/** One face can be replaced again and again, faster than it is verified. */
const MAX_ATTEMPTS = 5

/** One answer for absent, malformed, unknown, revoked and expired: it tells a guesser nothing. */
export function unauthenticated(): Problem {
  return new Problem(
    'UNAUTHENTICATED',
    'Send a valid API key as "Authorization: Bearer <key>" or "X-API-Key: <key>", or a valid token as "Authorization: Bearer <token>".',
    {
      headers: { 'WWW-Authenticate': 'Bearer' },
    },
  )
}

/**
 * The tenant that an API key belongs to. An extra request, for a cold isolate only; it is also where the
 * key's last use is noted.
 *
 * @returns null when there is no such key; `refusal` when there is one that is not accepted
 */
export async function findTenantByApiKey(
  env: Env,
  trace: Trace,
  keyHash: string,
): Promise<{ tenant: Tenant; refusal: string | null } | null> {
  const { sql, transact } = connect(env, env.DATABASE_URL, trace)
  const [rows] = await transact(
    [sql`select tenant_id, environment, settings, refusal from resolve_api_key(decode(${keyHash}, 'hex'))`],
    { readOnly: false },
  )
  const row = rows?.[0]
  if (!row) return null
  const refusal = row['refusal']
  return {
    tenant: toTenant(env, String(row['tenant_id']), row),
    refusal: typeof refusal === 'string' ? refusal : null,
  }
}

/**
 * A tenant that a verified token names. An extra request, for a cold isolate only.
 *
 * @returns null when the issuer, as it was when it verified the token, may not speak for such a tenant
 */
export async function findTenantByToken(
  env: Env,
  trace: Trace,
  issuer: VerifiedIssuer,
  tenantId: string,
): Promise<Tenant | null> {
  const { sql, transact } = connect(env, env.DATABASE_URL, trace)
  const [rows] = await transact(
    [
      sql`select environment, settings from resolve_token_tenant(
        ${issuer.id}::uuid, ${issuer.revision}::bigint, ${tenantId}::uuid
      )`,
    ],
    { readOnly: true },
  )
  const row = rows?.[0]
  return row ? toTenant(env, tenantId, row) : null
}

/** An active issuer of tokens by its name, as it is configured; null when there is none. For a cold isolate. */
export async function findTokenIssuer(
  env: Env,
  trace: Trace,
  name: string,
): Promise<(VerifiedIssuer & { configuration: unknown }) | null> {
  const { sql, transact } = connect(env, env.DATABASE_URL, trace)
  const [rows] = await transact([sql`select id, revision::text, configuration from resolve_token_issuer(${name})`], {
    readOnly: true,
  })
  const row = rows?.[0]
  return row ? { id: String(row['id']), revision: String(row['revision']), configuration: row['configuration'] } : null
}

function toTenant(env: Env, id: string, row: Row): Tenant {
  return {
    id,
    environment: row['environment'] === 'live' ? 'live' : 'test',
    settings: toSettings(row['settings'], modelsOf(env)),
  }
}

/**
 * @param scope what the credential must be allowed to do
 * @param onRefused called when the credential is refused, to forget what was cached about it
 * @param renew called when a token's issuer was changed since: verifies it again, for the same tenant
 */
export function openTenant(
  env: Env,
  trace: Trace,
  tenant: Tenant,
  credential: Credential,
  scope: Scope,
  onRefused: () => void,
  renew: () => Promise<Credential>,
): TenantDatabase {
  const { sql, transact } = connect(env, env.DATABASE_URL, trace)
  let scopes: ReadonlySet<Scope> = new Set()
  let entering = credential

  function enter(): Statement {
    return entering.kind === 'api_key'
      ? sql`select enter_tenant_by_api_key(${tenant.id}::uuid, decode(${entering.hash}, 'hex'), ${scope}) as scopes`
      : sql`select enter_tenant_by_token(
          ${tenant.id}::uuid, ${entering.issuer.id}::uuid, ${entering.issuer.revision}::bigint,
          ${entering.scopes}::text[], ${entering.subject}, ${scope}
        ) as scopes`
  }

  async function transactOnce(statement: Statement, readOnly: boolean): Promise<Row[]> {
    const [entered, rows] = await transact([enter(), statement], { readOnly })
    // the functions answer scopes that a CHECK constraint keeps to those of SCOPES
    scopes = new Set(entered?.[0]?.['scopes'] as Scope[])
    return rows ?? []
  }

  /** Repeats what may be repeated; turns a refused credential into its answer. */
  async function transactInside(statement: Statement, readOnly: boolean, attempts = MAX_ATTEMPTS): Promise<Row[]> {
    try {
      return await transactOnce(statement, readOnly).catch((error: unknown) => {
        // once more, and the face is no longer found, or the one in its place is: the erasure has won
        if (isSqlState(error, FOREIGN_KEY_VIOLATION) && attempts > 1) {
          return transactInside(statement, readOnly, attempts - 1)
        }
        if (!isSqlState(error, ISSUER_CHANGED)) throw error
        return renew().then((renewed) => {
          entering = renewed
          return transactOnce(statement, readOnly)
        })
      })
    } catch (error) {
      if (isSqlState(error, SCOPE_MISSING)) throw missingScope(scope)
      const refusal = error instanceof DatabaseError ? REFUSALS[error.sqlstate ?? ''] : undefined
      if (refusal === undefined) throw error
      trace.refusal = refusal
      onRefused()
      throw unauthenticated()
    }
  }

  async function findTemplateKeys(): Promise<TemplateKeys> {
    const known = recallTemplateKeys(tenant)
    return known ?? unwrapTemplateKeys(env, tenant, await transactInside(listTemplateKeys(sql), true))
  }

  return {
    tenant,
    models: modelsOf(env),
    sql,
    requestId: trace.requestId,
    get scopes() {
      return scopes
    },
    async run<Result extends Row>(statement: Statement, { readOnly } = { readOnly: false }) {
      // the caller's statement and its row type stand side by side in one function of db/
      return (await transactInside(statement, readOnly)) as Result[]
    },
    async runProtected<Result extends Row, Protected>(
      protect: (keys: TemplateKeys) => Promise<Protected>,
      write: (protected_: Protected) => Statement,
    ) {
      const attempt = async () => {
        const found = await protect(await findTemplateKeys())
        return { rows: (await transactInside(write(found), false)) as Result[], protected: found }
      }
      try {
        return await attempt()
      } catch (error) {
        if (!isSqlState(error, KEYS_CHANGED)) throw error
        forgetTemplateKeys(tenant)
        return attempt()
      }
    },
    noteTampering(reason) {
      trace.fault = { fault: 'template_integrity', reason }
    },
  }
}

export function missingScope(...scopes: string[]): Problem {
  const names = scopes.map((scope) => `"${scope}"`).join(', ')
  return new Problem('MISSING_SCOPE', `This needs a credential with the scope ${names}.`)
}

function isSqlState(error: unknown, sqlstate: string): boolean {
  return error instanceof DatabaseError && error.sqlstate === sqlstate
}
