// The only file that speaks to Neon's driver: connections, deadlines, and errors without its words.
import { NeonDbError, type NeonQueryFunction, type NeonQueryPromise, neon, neonConfig } from '@neondatabase/serverless'
import { isObject } from '../auth/canonical.ts'
import type { Env } from '../env.ts'
import { Problem } from '../problem.ts'
import type { Trace } from '../trace.ts'

/** Writes statements: values in `${}` always travel as parameters. */
export type Sql = NeonQueryFunction<false, false>
export type Statement = NeonQueryPromise<false, false>
export type Row = Record<string, unknown>
export type DatabaseTrace = Pick<Trace, 'databaseMs' | 'databaseRequests'>

/**
 * A request to the database failed. Carries PostgreSQL's five-character SQLSTATE and nothing else:
 * the driver's message may hold parameters, which are faces. Without an SQLSTATE the request may or
 * may not have been carried out.
 */
export class DatabaseError extends Error {
  readonly sqlstate: string | undefined

  constructor(sqlstate: string | undefined) {
    super(`database error ${sqlstate ?? 'without an SQLSTATE'}`)
    this.name = 'DatabaseError'
    this.sqlstate = sqlstate
  }

  /** The database is away, overloaded or gave up; the same request may succeed later. */
  get isUnavailable(): boolean {
    // connections, a deadlock, resources, an operator or a timeout, a lock that was not to be had, a transaction for too long
    return this.sqlstate === undefined || /^(08|40|53|57|55P03|25P04)/.test(this.sqlstate)
  }

  /** Nothing of it is left, and that need not be so a moment later: a conflict, a restart, too many connections. */
  get isTransient(): boolean {
    return /^(40001|40P01|57P0[123]|53300)$/.test(this.sqlstate ?? '')
  }

  /** Nobody knows what was carried out. */
  get isAmbiguous(): boolean {
    return this.sqlstate === undefined || this.sqlstate.startsWith('08')
  }
}

/**
 * For all that a client's request asks of the database. Longer than Neon needs to wake up, shorter than a gate's patience; and
 * twice what one transaction may take (transaction_timeout of the logins, scripts/database/bootstrap.ts).
 */
export const DEADLINE_MS = 10_000

/** What one statement answered. */
export interface StatementResult {
  rows: Row[]
  columns: { name: string; dataTypeID: number }[]
}

export interface Database {
  readonly sql: Sql
  /**
   * Sends statements as one HTTP request and one transaction.
   *
   * @param options `timeoutMs` where it is not a client's request that waits: what is left of its deadline otherwise
   * @returns what each statement answered
   * @throws DatabaseError, with nothing of the transaction left unless it `isAmbiguous`
   */
  transact(statements: Statement[], options: { readOnly: boolean; timeoutMs?: number }): Promise<StatementResult[]>
}

/** As Neon answers: PostgreSQL's texts, which the driver reads by the types of their columns; a batch is several. */
function isAnswer(value: unknown): boolean {
  if (!isObject(value)) return false
  const { results = [value] } = value
  return Array.isArray(results) && results.every(isResult)
}

function isResult(value: unknown): boolean {
  if (!isObject(value)) return false
  const { fields, rows } = value
  if (!Array.isArray(fields) || !Array.isArray(rows)) return false
  const isField = (field: unknown) =>
    isObject(field) && typeof field['name'] === 'string' && typeof field['dataTypeID'] === 'number'
  const isRow = (row: unknown) =>
    Array.isArray(row) && row.length === fields.length && row.every((cell) => cell === null || typeof cell === 'string')
  return fields.every(isField) && rows.every(isRow)
}

/**
 * The driver's fetch. It believes whatever has the status 200: of a number where an array's text should be it makes an array
 * for ten seconds, in which nobody else is answered.
 */
async function fetchAnswer(url: string, init: RequestInit): Promise<{ ok: boolean; json(): Promise<unknown> }> {
  const response = await fetch(url, init)
  if (!response.ok) return response
  const answer: unknown = await response.json()
  if (!isAnswer(answer)) throw new TypeError('not an answer of the database')
  // the driver takes nothing else of a response that is well
  return { ok: true, json: async () => answer }
}
neonConfig.fetchFunction = fetchAnswer

const drivers = new Map<string, Sql>()

/**
 * @param url a connection string; one driver object is kept for each
 * @param trace of the request that asks; it learns how long the database took
 */
export function connect(env: Env, url: string | undefined, trace: DatabaseTrace): Database {
  if (!url) throw new Problem('NOT_CONFIGURED', 'The operator must set the connection secrets of the database.')
  if (env.NEON_FETCH_ENDPOINT) neonConfig.fetchEndpoint = env.NEON_FETCH_ENDPOINT
  const sql = drivers.get(url) ?? neon(url)
  drivers.set(url, sql)
  return {
    sql,
    async transact(statements, { readOnly, timeoutMs = DEADLINE_MS - trace.databaseMs }) {
      if (timeoutMs <= 0) throw new DatabaseError(undefined)
      const sentAt = Date.now()
      try {
        const results = await sql.transaction(statements, {
          readOnly,
          isolationLevel: 'ReadCommitted',
          fullResults: true,
          fetchOptions: { signal: AbortSignal.timeout(timeoutMs) },
        })
        if (results.length !== statements.length) throw new RangeError('not one result for each statement')
        return results.map(({ rows, fields }) => ({ rows, columns: fields }))
      } catch (error) {
        throw toDatabaseError(error)
      } finally {
        trace.databaseMs += Date.now() - sentAt
        trace.databaseRequests += 1
      }
    },
  }
}

function toDatabaseError(error: unknown): DatabaseError {
  const sqlstate = error instanceof NeonDbError && /^[0-9A-Z]{5}$/.test(error.code ?? '') ? error.code : undefined
  return new DatabaseError(sqlstate)
}
