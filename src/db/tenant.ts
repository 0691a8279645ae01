// The one door to tenant data. Nothing else in the Worker reads or writes a tenant's rows.
//
// A request sends one Neon batch: the first statement enters the tenant (and refuses a credential
// that was revoked a moment ago), the last does the work. Row-level security is the wall; the
// statements name `tenant_id` as well, because the planner needs it.
//
// What changes something is an `Act`: its statement also remembers what it answers, under the name of the request, so
// that it is done once however often it is sent. Where it may have been done before, a statement between the two asks.
import type { Environment, Scope } from '../auth/api-key.ts'
import { isObject, isUuid } from '../auth/canonical.ts'
import type { Env } from '../env.ts'
import type { Models } from '../face/models.ts'
import type { RequestName } from '../idempotency.ts'
import { modelsOf } from '../models.ts'
import { Problem } from '../problem.ts'
import { type Settings, toSettings } from '../settings.ts'
import type { Trace } from '../trace.ts'
import {
  type Act,
  answerGone,
  type Call,
  claimRequest,
  isFirst,
  lockSubject,
  type NamedFace,
  remembering,
  restore,
} from './acts.ts'
import { connect, DatabaseError, type Row, type Sql, type Statement, type StatementResult } from './neon.ts'
import { repeating } from './repetition.ts'
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
  /** Under which the act of this request is remembered. */
  name(): Promise<RequestName>
  /**
   * Reads, or notes something beside the act of the request: one HTTP request, one transaction.
   *
   * @throws Problem UNAUTHENTICATED or MISSING_SCOPE when the credential is refused; DatabaseError
   *   for everything else. Nothing is written in either case.
   */
  run<Result extends Row>(statement: Statement, options?: { readOnly: boolean }): Promise<Result[]>
  /**
   * Does what the request is about, once; of several with one name, the later are answered with what the first one did. As
   * `run` otherwise.
   *
   * @throws Problem IDEMPOTENCY_KEY_IN_USE, IDEMPOTENCY_KEY_REUSED, or ANSWER_GONE when a face that was answered is
   */
  act<Result extends Row>(act: Act | Call): Promise<Result[]>
  /**
   * As `act`, for a statement that compares or writes templates; one request more when the isolate does not know the
   * tenant's keys.
   *
   * @param protect does what takes the keys; `write` makes the act of it. Both are asked again when it turns out
   *   that the tenant was re-keyed meanwhile. They are two because a Statement is a promise: awaited, it would be sent.
   * @returns the rows, what was protected when they were found, and whether they are remembered ones
   * @throws Problem NOT_CONFIGURED when the tenant's keys cannot be had
   */
  actProtected<Result extends Row, Protected>(
    protect: (keys: TemplateKeys) => Promise<Protected>,
    write: (protected_: Protected) => Act | Call,
  ): Promise<{ rows: Result[]; protected: Protected; wasDone: boolean }>
  /** SQL: whether what this transaction is to do was not done before. Every part of an act asks it, or reads one that does. */
  readonly isFirst: Statement
  /** Whether the answer was remembered, under a key of the client's, when this request came. */
  readonly isReplay: boolean
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
const IN_FLIGHT = 'RK409'
const OTHER_REQUEST = 'RK422'
const UNIQUE_VIOLATION = '23505'
const LOCK_TIMEOUT = '55P03'
// An audit row names a face that another request erased or replaced after this one had found it.
const FOREIGN_KEY_VIOLATION = '23503'
/** One face can be replaced again and again, faster than it is verified. */
const MAX_ROUNDS = 5

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
  const row = await resolve(
    env,
    trace,
    (sql) => sql`select tenant_id, environment, settings, refusal from resolve_api_key(decode(${keyHash}, 'hex'))`,
    { readOnly: false },
  )
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
  const row = await resolve(
    env,
    trace,
    (sql) => sql`select environment, settings from resolve_token_tenant(
      ${issuer.id}::uuid, ${issuer.revision}::bigint, ${tenantId}::uuid
    )`,
  )
  return row ? toTenant(env, tenantId, row) : null
}

/** An active issuer of tokens by its name, as it is configured; null when there is none. For a cold isolate. */
export async function findTokenIssuer(
  env: Env,
  trace: Trace,
  name: string,
): Promise<(VerifiedIssuer & { configuration: unknown }) | null> {
  const row = await resolve(
    env,
    trace,
    (sql) => sql`select id, revision::text, configuration from resolve_token_issuer(${name})`,
  )
  return row ? { id: String(row['id']), revision: String(row['revision']), configuration: row['configuration'] } : null
}

/** The row that a function answers to an isolate that begins; it may be asked as often as need be. */
async function resolve(
  env: Env,
  trace: Trace,
  write: (sql: Sql) => Statement,
  { readOnly } = { readOnly: true },
): Promise<Row | undefined> {
  const { sql, transact } = connect(env, env.DATABASE_URL, trace)
  const [result] = await repeating(trace, () => transact([write(sql)], { readOnly }), mayHelp)
  return result?.rows[0]
}

function mayHelp(error: DatabaseError): boolean {
  return error.isTransient || error.isAmbiguous
}

/** It is believed for a minute, so what no tenant can be is as unknown as no answer. */
function toTenant(env: Env, id: string, { environment, settings }: Row): Tenant {
  const isEnvironment = environment === 'live' || environment === 'test'
  if (!isUuid(id) || !isEnvironment || !isObject(settings)) throw new DatabaseError(undefined)
  return { id, environment, settings: toSettings(settings, modelsOf(env)) }
}

/** How a request comes in. */
export interface Entrance {
  tenant: Tenant
  credential: Credential
  /** Called when the transaction refuses the credential: forgets what was cached about it. */
  forget: () => void
  /** Called when a token's issuer was changed since: verifies it again, for the same tenant. */
  renew: () => Promise<Credential>
}

/**
 * @param scope what the credential must be allowed to do
 * @param name of the request; asked when its body was read
 */
export function openTenant(
  env: Env,
  trace: Trace,
  { tenant, credential, forget, renew }: Entrance,
  scope: Scope,
  name: () => Promise<RequestName>,
): TenantDatabase {
  const { sql, transact } = connect(env, env.DATABASE_URL, trace)
  let scopes: ReadonlySet<Scope> = new Set()
  let entering = credential
  let isReplay = false

  function enter(): Statement {
    return entering.kind === 'api_key'
      ? sql`select enter_tenant_by_api_key(${tenant.id}::uuid, decode(${entering.hash}, 'hex'), ${scope}) as scopes`
      : sql`select enter_tenant_by_token(
          ${tenant.id}::uuid, ${entering.issuer.id}::uuid, ${entering.issuer.revision}::bigint,
          ${entering.scopes}::text[], ${entering.subject}, ${scope}
        ) as scopes`
  }

  /** @param statements behind the one that enters */
  async function transactOnce(statements: Statement[], readOnly: boolean): Promise<StatementResult[]> {
    const [entered, ...results] = await transact([enter(), ...statements], { readOnly })
    requireColumn(entered, 'scopes')
    const granted: unknown = entered?.rows[0]?.['scopes']
    // nobody enters without the scope that was asked for: whatever says so is not our database
    if (!Array.isArray(granted) || !granted.includes(scope)) throw new DatabaseError(undefined)
    // the functions answer scopes that a CHECK constraint keeps to those of SCOPES
    scopes = new Set(granted as Scope[])
    return results
  }

  /** As `transactOnce`, again where a change beside it has got in its way. */
  async function transactInside(
    statements: Statement[],
    readOnly: boolean,
    rounds = MAX_ROUNDS,
  ): Promise<StatementResult[]> {
    return transactOnce(statements, readOnly).catch((error: unknown) => {
      // once more, and the face is no longer found, or the one in its place is: the erasure has won
      if (isSqlState(error, FOREIGN_KEY_VIOLATION) && rounds > 1) {
        return transactInside(statements, readOnly, rounds - 1)
      }
      if (!isSqlState(error, ISSUER_CHANGED)) throw error
      return renew().then((renewed) => {
        entering = renewed
        return transactOnce(statements, readOnly)
      })
    })
  }

  /** Turns what the functions raise into the client's answer. */
  function refuse(error: unknown): never {
    if (isSqlState(error, SCOPE_MISSING)) throw missingScope(scope)
    if (isSqlState(error, IN_FLIGHT)) {
      throw new Problem('IDEMPOTENCY_KEY_IN_USE', 'Send it again in a moment.', { headers: { 'Retry-After': '1' } })
    }
    if (isSqlState(error, OTHER_REQUEST)) {
      throw new Problem('IDEMPOTENCY_KEY_REUSED', 'Use another key for another request.')
    }
    const refusal = error instanceof DatabaseError ? REFUSALS[error.sqlstate ?? ''] : undefined
    if (refusal === undefined) throw error
    trace.refusal = refusal
    forget()
    throw unauthenticated()
  }

  async function run(statement: Statement, readOnly: boolean): Promise<Row[]> {
    const [result] = await repeating(
      trace,
      () => transactInside([statement], readOnly),
      // what is only noted is not remembered
      readOnly ? mayHelp : (error) => error.isTransient,
    ).catch(refuse)
    return result?.rows ?? []
  }

  /** @returns the rows; `wasDone` when they are those of an earlier request of this name */
  async function act(write: Act | Call): Promise<{ rows: Row[]; wasDone: boolean }> {
    const named = await name()
    const isOurs = named.fingerprint === null
    // A statement of its own: what waits in the midst of one has seen the rows of before. An erasure that has waited for a
    // replacement would find the face gone, and not the one in its place.
    const alone = write.subject === undefined ? [] : [lockSubject(sql, tenant.id, write.subject)]
    const sentAt = Date.now()
    const statements = [...alone, remembering(sql, tenant.id, named, write)]

    async function send(isRepetition: boolean): Promise<{ done: StatementResult | undefined; remembered?: Row }> {
      try {
        // nobody else knows a random number: nothing can have been done under it before this has been sent once
        if (isOurs && !isRepetition) return { done: (await transactInside(statements, false)).at(-1) }
        const [claimed, ...results] = await transactInside([claimRequest(sql, named), ...statements], false)
        requireColumn(claimed, 'answer')
        const [remembered] = claimed?.rows ?? []
        // what we have sent before may have done it: it was begun after we sent it
        isReplay = remembered !== undefined && !(isRepetition && Number(remembered['age_ms']) <= Date.now() - sentAt)
        return { done: results.at(-1), ...(remembered && { remembered }) }
      } catch (error) {
        // it was, or is being, carried out by what we have sent before, or by somebody who has sent it twice
        if (isSqlState(error, UNIQUE_VIOLATION) || (isOurs && isSqlState(error, IN_FLIGHT))) {
          throw new DatabaseError(undefined)
        }
        throw error
      }
    }

    const { done, remembered } = await repeating(
      trace,
      send,
      // the one in flight, or the one that holds the lock, may be our own, which was given up
      (error, isRepetition) =>
        mayHelp(error) || (isRepetition && [IN_FLIGHT, LOCK_TIMEOUT].includes(error.sqlstate ?? '')),
    ).catch(refuse)
    if (!remembered) return { rows: done?.rows ?? [], wasDone: false }
    // columns of claim_request
    const { answer, faces } = remembered as { answer: Row[]; faces: NamedFace[] }
    const rows = restore(answer, faces, tenant.settings.model.id, done?.columns ?? [])
    // a client that has given no key knows of no earlier request: it asks again
    if (!rows) throw isOurs ? new DatabaseError(undefined) : answerGone()
    return { rows, wasDone: true }
  }

  async function findTemplateKeys(): Promise<TemplateKeys> {
    const known = recallTemplateKeys(tenant)
    return known ?? unwrapTemplateKeys(env, tenant, await run(listTemplateKeys(sql), true))
  }

  return {
    tenant,
    models: modelsOf(env),
    sql,
    requestId: trace.requestId,
    name,
    get scopes() {
      return scopes
    },
    get isReplay() {
      return isReplay
    },
    get isFirst() {
      return isFirst(sql)
    },
    // the caller's statement and its row type stand side by side in one function of db/
    async run<Result extends Row>(statement: Statement, { readOnly } = { readOnly: false }) {
      return (await run(statement, readOnly)) as Result[]
    },
    async act<Result extends Row>(write: Act | Call) {
      return (await act(write)).rows as Result[]
    },
    async actProtected<Result extends Row, Protected>(
      protect: (keys: TemplateKeys) => Promise<Protected>,
      write: (protected_: Protected) => Act | Call,
    ) {
      const attempt = async (isLast: boolean) => {
        const keys = await findTemplateKeys()
        const found = await protect(keys)
        const { rows, wasDone } = await act(write(found))
        // a face may have been moved to a key since it was answered
        const isKnown = ({ key_version }: Row) =>
          key_version == null || keys.some(({ version }) => version === key_version)
        if (wasDone && !isLast && !rows.every(isKnown)) throw new DatabaseError(KEYS_CHANGED)
        return { rows: rows as Result[], protected: found, wasDone }
      }
      try {
        return await attempt(false)
      } catch (error) {
        if (!isSqlState(error, KEYS_CHANGED)) throw error
        forgetTemplateKeys(tenant)
        return attempt(true)
      }
    },
    noteTampering(reason) {
      trace.fault = { fault: 'template_integrity', reason }
    },
  }
}

/** What answers in another shape than ours is not our endpoint's answer, or not the whole of it. */
function requireColumn(result: StatementResult | undefined, name: string): void {
  if (result?.columns[0]?.name !== name) throw new DatabaseError(undefined)
}

export function missingScope(...scopes: string[]): Problem {
  const names = scopes.map((scope) => `"${scope}"`).join(', ')
  return new Problem('MISSING_SCOPE', `This needs a credential with the scope ${names}.`)
}

function isSqlState(error: unknown, sqlstate: string): boolean {
  return error instanceof DatabaseError && error.sqlstate === sqlstate
}
