// Sessions behind the local Neon endpoint: a pool on a real PostgreSQL, or the one of the embedded
// database. Both speak PostgreSQL's extended protocol and are shared between callers without being
// reset, as a transaction pooler's are: what one caller leaves behind, the next one meets.
import type { PGlite } from '@electric-sql/pglite'
import pg from 'pg'
import { serialize } from 'pg-protocol'

export interface Credentials {
  role: string
  password: string
}

export interface Query {
  query: string
  params: (string | null)[]
}

export interface Field {
  name: string
  tableID: number
  columnID: number
  dataTypeID: number
  dataTypeSize: number
  dataTypeModifier: number
  format: string
}

export interface Result {
  fields: Field[]
  rows: (string | null)[][]
  command: string
  rowCount: number | null
}

/** What PostgreSQL says when it refuses; the fields Neon passes on. */
export interface Refusal {
  message: string
  code?: string | undefined
}

export class QueryError extends Error {
  readonly refusal: Refusal

  constructor(refusal: Refusal) {
    super(refusal.message)
    this.refusal = refusal
  }
}

export interface Backend {
  /**
   * Runs queries one after the other as one transaction, sent in one write.
   *
   * @param begin the statement that opens the transaction
   * @throws QueryError when PostgreSQL refuses; the transaction is rolled back
   */
  transact(credentials: Credentials, begin: string, queries: Query[]): Promise<Result[]>
  close(): Promise<void>
}

/** Messages of the server that matter here; `pg` and PGlite name them alike. */
type Message =
  | { name: 'rowDescription'; fields: Field[] }
  | { name: 'dataRow'; fields: (string | null)[] }
  | { name: 'commandComplete'; text: string }
  | { name: 'error'; refusal: Refusal }
  | { name: 'readyForQuery' }

type Exchange = (request: Buffer) => Promise<Message[]>

/**
 * @param server where PostgreSQL listens; a connection string's own host is never followed
 * @param roles who may log in
 */
export function nativeBackend(
  server: { host: string; port: number; database: string },
  roles: readonly string[],
  maxSessions = 10,
): Backend {
  const pools = new Map<string, Pool>()

  return {
    async transact(credentials, begin, queries) {
      refuseUnknown(credentials.role, roles)
      const key = JSON.stringify([credentials.role, credentials.password])
      const pool =
        pools.get(key) ?? new Pool({ ...server, user: credentials.role, password: credentials.password }, maxSessions)
      pools.set(key, pool)
      return pool.use((exchange) => runTransaction(exchange, [begin], queries))
    },
    async close() {
      await Promise.all([...pools.values()].map((pool) => pool.close()))
    },
  }
}

/**
 * @param roles names and passwords; the embedded database has no log-in of its own, so a transaction
 *   enters its role first. A caller who sends `reset role` leaves it again: what only a real log-in
 *   prevents is proven on a real PostgreSQL
 */
export function embeddedBackend(pglite: PGlite, roles: Record<string, string>): Backend {
  // one session, one transaction at a time
  let previous: Promise<unknown> = Promise.resolve()

  const exchange: Exchange = async (request) => {
    const { messages } = await pglite.execProtocol(request, { throwOnError: false })
    return messages.flatMap((message) => toMessage(message.name, message as unknown as Record<string, unknown>))
  }

  return {
    async transact(credentials, begin, queries) {
      refuseUnknown(credentials.role, Object.keys(roles))
      if (roles[credentials.role] !== credentials.password) {
        throw new QueryError({ message: 'password authentication failed', code: '28P01' })
      }
      // a name from the list of known roles, so it is safe in the statement
      const turn = previous.then(() => runTransaction(exchange, [begin, `set local role ${credentials.role}`], queries))
      previous = turn.catch(() => {})
      return turn
    },
    async close() {
      await previous
    },
  }
}

function refuseUnknown(role: string, roles: readonly string[]): void {
  if (!roles.includes(role)) throw new QueryError({ message: `role "${role}" may not log in here`, code: '28000' })
}

async function runTransaction(exchange: Exchange, preamble: string[], queries: Query[]): Promise<Result[]> {
  const all = [...preamble.map((query) => ({ query, params: [] })), ...queries, { query: 'commit', params: [] }]
  const answer = await exchange(Buffer.concat([...all.flatMap(toMessages), serialize.sync()]))
  const refused = answer.find((message) => message.name === 'error')
  if (refused) {
    await exchange(Buffer.concat([...toMessages({ query: 'rollback', params: [] }), serialize.sync()]))
    throw new QueryError(refused.refusal)
  }
  return toResults(answer).slice(preamble.length, -1)
}

function toMessages({ query, params }: Query): Buffer[] {
  return [
    serialize.parse({ text: query, types: [], name: '' }),
    serialize.bind({ values: params }),
    serialize.describe({ type: 'P' }),
    serialize.execute({}),
  ]
}

function toResults(messages: Message[]): Result[] {
  const results: Result[] = []
  let fields: Field[] = []
  let rows: (string | null)[][] = []
  for (const message of messages) {
    if (message.name === 'rowDescription') fields = message.fields
    else if (message.name === 'dataRow') rows.push(message.fields)
    else if (message.name === 'commandComplete') {
      const [command = '', ...counts] = message.text.split(' ')
      const count = counts.at(-1)
      results.push({ fields, rows, command, rowCount: count === undefined ? null : Number(count) })
      fields = []
      rows = []
    }
  }
  return results
}

function toMessage(name: string, message: Record<string, unknown>): Message[] {
  switch (name) {
    case 'rowDescription':
    case 'dataRow':
    case 'commandComplete':
    case 'readyForQuery':
      // the two protocol parsers share these shapes
      return [{ ...message, name } as Message]
    case 'error':
      return [{ name, refusal: toRefusal(message) }]
    default:
      return []
  }
}

const REFUSAL_FIELDS = [
  'severity', 'code', 'detail', 'hint', 'position', 'internalPosition', 'internalQuery', 'where', 'schema', 'table',
  'column', 'dataType', 'constraint', 'file', 'line', 'routine',
] // biome-ignore format: one paragraph

function toRefusal(error: Record<string, unknown>): Refusal {
  const refusal: Record<string, unknown> = { message: error['message'] }
  for (const field of REFUSAL_FIELDS) refusal[field] = error[field]
  return refusal as unknown as Refusal
}

/** Sessions of one login. The one used last is used next, so that leftovers are met at once. */
class Pool {
  readonly #config: pg.ClientConfig
  readonly #maxSessions: number
  readonly #idle: pg.Client[] = []
  /** Idle, in use and being opened. */
  readonly #open = new Set<pg.Client>()
  readonly #waiting: ((session: pg.Client | null) => void)[] = []

  constructor(config: pg.ClientConfig, maxSessions: number) {
    this.#config = config
    this.#maxSessions = maxSessions
  }

  async use<T>(work: (exchange: Exchange) => Promise<T>): Promise<T> {
    const session = await this.#acquire()
    try {
      return await work((request) => exchangeWith(session, request))
    } catch (error) {
      // anything but PostgreSQL's own refusal leaves the session in an unknown state
      if (!(error instanceof QueryError)) this.#discard(session)
      throw error
    } finally {
      if (this.#open.has(session)) this.#release(session)
    }
  }

  async close(): Promise<void> {
    await Promise.all(this.#idle.splice(0).map((session) => session.end()))
  }

  async #acquire(): Promise<pg.Client> {
    const idle = this.#idle.pop()
    if (idle) return idle
    if (this.#open.size >= this.#maxSessions) {
      const handed = await new Promise<pg.Client | null>((resolve) => this.#waiting.push(resolve))
      return handed ?? this.#acquire()
    }
    const session = new pg.Client(this.#config)
    this.#open.add(session)
    // a lost session may say so more than once, and an error that nobody hears would end the process
    session.on('error', () => this.#discard(session))
    try {
      await session.connect()
    } catch (error) {
      this.#discard(session)
      throw error instanceof pg.DatabaseError ? new QueryError(toRefusal({ ...error, message: error.message })) : error
    }
    return session
  }

  #release(session: pg.Client): void {
    const waiting = this.#waiting.shift()
    if (waiting) waiting(session)
    else this.#idle.push(session)
  }

  #discard(session: pg.Client): void {
    if (!this.#open.delete(session)) return
    const position = this.#idle.indexOf(session)
    if (position >= 0) this.#idle.splice(position, 1)
    session.end().catch(() => {})
    this.#waiting.shift()?.(null)
  }
}

/** `pg` lets an object with these methods write to the connection and read what comes back. */
function exchangeWith(session: pg.Client, request: Buffer): Promise<Message[]> {
  return new Promise((resolve, reject) => {
    const messages: Message[] = []
    const collect = (name: string) => (message: object) => {
      messages.push(...toMessage(name, message as Record<string, unknown>))
    }
    let wasRefused = false
    const submittable = {
      submit(connection: { stream: { write(data: Buffer): void } }) {
        connection.stream.write(request)
      },
      handleRowDescription: collect('rowDescription'),
      handleDataRow: collect('dataRow'),
      handleCommandComplete: collect('commandComplete'),
      handleEmptyQuery() {},
      handlePortalSuspended() {},
      handleError(error: Error) {
        // without a SQLSTATE it is the connection that failed
        if (!(error instanceof pg.DatabaseError)) return reject(error)
        wasRefused = true
        collect('error')({ ...error, message: error.message })
        // `pg` forgets this object after an error; the session is ready again when the next one runs
        resolve(messages)
      },
      handleReadyForQuery() {
        if (!wasRefused) resolve(messages)
      },
    }
    session.query(submittable as unknown as pg.Submittable)
  })
}
