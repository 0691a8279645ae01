// Proves that the local endpoint answers Neon's own driver as Neon does, and is no kinder: a transaction per
// batch, PostgreSQL's own words when it refuses, and sessions that remember the caller before. Nothing is
// fake: the driver is the real one, and so is the database.
import { createConnection } from 'node:net'
import { networkInterfaces } from 'node:os'
import { NeonDbError, neon, neonConfig } from '@neondatabase/serverless'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { type Endpoint, startEndpoint } from '../../scripts/neon-endpoint/server.ts'
import { createDatabase, type FreshDatabase, needsNative } from './database.ts'

const MAX_SESSIONS = 3

let database: FreshDatabase
let endpoint: Endpoint
let sql: ReturnType<typeof neon<false, false>>

beforeAll(async () => {
  database = await createDatabase()
  endpoint = await startEndpoint(database.openBackend(MAX_SESSIONS))
  neonConfig.fetchEndpoint = endpoint.url
  sql = neon(toUrl(database.admin.role, database.admin.password))
  await database.connection.execute(`
    create table notes (id integer primary key, body text not null, constraint notes_body_check check (body <> ''))`)
})

afterAll(async () => {
  await endpoint.close()
  await database.drop()
})

function toUrl(role: string, password: string): string {
  return `postgres://${encodeURIComponent(role)}:${encodeURIComponent(password)}@database.test/rekko`
}

async function readStats(): Promise<{ requests: number; statements: number; transactions: number }> {
  return (await fetch(new URL('/stats', endpoint.url))).json()
}

/** What the driver throws. */
async function refusalOf(promise: Promise<unknown>): Promise<NeonDbError> {
  const error: unknown = await promise.then(
    () => 'nothing was refused',
    (reason: unknown) => reason,
  )
  if (!(error instanceof NeonDbError)) throw new Error(`the driver did not throw its own error: ${String(error)}`)
  return error
}

describe('an answer', () => {
  it('has the types of PostgreSQL, as the driver reads them', async () => {
    const [row] = await sql`
      select
        42::int4 as int4, 9007199254740993::int8 as int8, 0.1::float8 as float8, 0.9123::numeric(5, 4) as numeric,
        true as yes, false as no, 'grüße'::text as text, ''::text as empty, null::text as nothing,
        '00000000-0000-4000-8000-00000000000a'::uuid as uuid,
        '2026-11-23T10:20:30.456Z'::timestamptz(3) as instant,
        '{"a": [1, null, "x"]}'::jsonb as json, 'null'::jsonb as json_null,
        array['a', null, 'c,d'] as texts, array[1, 2] as integers, '{}'::text[] as none,
        '[1,-2.5,0]'::vector as vector, '101'::bit(3) as bits, '\\x00ff'::bytea as bytes`
    expect(row).toEqual({
      int4: 42,
      int8: '9007199254740993',
      float8: 0.1,
      numeric: '0.9123',
      yes: true,
      no: false,
      text: 'grüße',
      empty: '',
      nothing: null,
      uuid: '00000000-0000-4000-8000-00000000000a',
      instant: new Date('2026-11-23T10:20:30.456Z'),
      json: { a: [1, null, 'x'] },
      json_null: null,
      texts: ['a', null, 'c,d'],
      integers: [1, 2],
      none: [],
      vector: '[1,-2.5,0]',
      bits: '101',
      bytes: Buffer.from([0, 255]),
    })
  })

  it('has the parameters that were sent, as values and never as SQL', async () => {
    const hostile = `'); drop table notes; --`
    const [row] = await sql`
      select ${hostile} as text, ${''} as empty, ${null}::text as nothing, ${7}::int as number, ${true}::bool as yes,
        ${['a', 'b"c']}::text[] as list, ${JSON.stringify({ a: 1 })}::jsonb as json`
    expect(row).toEqual({
      text: hostile,
      empty: '',
      nothing: null,
      number: 7,
      yes: true,
      list: ['a', 'b"c'],
      json: { a: 1 },
    })
  })

  it('says what was done and to how many rows', async () => {
    const full = neon(toUrl(database.admin.role, database.admin.password), { fullResults: true })
    const [inserted, found, nothing, deleted] = await full.transaction([
      full`insert into notes values (101, 'a'), (102, 'b')`,
      full`select id, body from notes where id > 100 order by id`,
      full`select id from notes where id < 0`,
      full`delete from notes where id > 100`,
    ])
    expect(inserted).toMatchObject({ command: 'INSERT', rowCount: 2, rows: [] })
    expect(found).toMatchObject({
      command: 'SELECT',
      rowCount: 2,
      rows: [
        { id: 101, body: 'a' },
        { id: 102, body: 'b' },
      ],
    })
    expect(found?.fields.map(({ name, dataTypeID }) => [name, dataTypeID])).toEqual([
      ['id', 23],
      ['body', 25],
    ])
    expect(nothing).toMatchObject({ command: 'SELECT', rowCount: 0, rows: [] })
    expect(deleted).toMatchObject({ command: 'DELETE', rowCount: 2 })
  })
})

describe('a batch', () => {
  it('is one transaction: its statements share a time and a transaction id', async () => {
    const results = await sql.transaction([
      sql`select transaction_timestamp() as at, pg_current_xact_id()::text as id`,
      sql`select pg_sleep(0.01)`,
      sql`select transaction_timestamp() as at, pg_current_xact_id()::text as id`,
    ])
    expect(results[2]).toEqual(results[0])
    const [later] = await sql`select pg_current_xact_id()::text as id`
    expect(later?.['id']).not.toBe(results[0]?.[0]?.['id'])
  })

  it('leaves nothing when its last statement is refused', async () => {
    const error = await refusalOf(
      sql.transaction([
        sql`insert into notes values (1, 'first')`,
        sql`insert into notes values (2, 'second')`,
        sql`insert into notes values (1, 'first again')`,
      ]),
    )
    expect(error.code).toBe('23505')
    expect(await sql`select * from notes`).toEqual([])
  })

  it('lets a statement see what the one before has done', async () => {
    const [, seen] = await sql.transaction([
      sql`insert into notes values (3, 'third')`,
      sql`delete from notes where id = 3 returning body`,
    ])
    expect(seen).toEqual([{ body: 'third' }])
  })

  it('that is read-only writes nothing', async () => {
    const error = await refusalOf(sql.transaction([sql`insert into notes values (4, 'fourth')`], { readOnly: true }))
    expect(error.code).toBe('25006')
    expect(await sql`select * from notes`).toEqual([])
  })

  it.each([
    ['ReadCommitted', 'read committed'],
    ['RepeatableRead', 'repeatable read'],
    ['Serializable', 'serializable'],
  ] as const)('runs at the isolation level %s', async (isolationLevel, name) => {
    const [rows] = await sql.transaction([sql`select current_setting('transaction_isolation') as name`], {
      isolationLevel,
    })
    expect(rows).toEqual([{ name }])
  })

  it('gets its own answers, whatever else runs and is refused at the same time', async () => {
    const callers = Array.from({ length: 50 }, (_, caller) => ({
      answer: sql.transaction([
        sql`select ${caller}::int as caller, set_config('test.caller', ${String(caller)}, true)`,
        sql`select pg_sleep(0.001)`,
        sql`select current_setting('test.caller') as caller from generate_series(1, ${caller}::int)`,
      ]),
      refusal: refusalOf(sql`select ${`of ${caller}`}::int`),
    }))
    for (const [caller, { answer, refusal }] of callers.entries()) {
      expect((await refusal).message).toBe(`invalid input syntax for type integer: "of ${caller}"`)
      const [first, , third] = await answer
      expect(first?.[0]?.['caller']).toBe(caller)
      expect(third).toEqual(Array(caller).fill({ caller: String(caller) }))
    }
  })
})

describe('a refusal', () => {
  it('carries the code, the constraint and the words of PostgreSQL', async () => {
    const error = await refusalOf(sql`insert into notes values (5, ${''})`)
    expect(error).toMatchObject({
      message: 'new row for relation "notes" violates check constraint "notes_body_check"',
      code: '23514',
      severity: 'ERROR',
      schema: 'public',
      table: 'notes',
      constraint: 'notes_body_check',
    })
  })

  it('carries the code of our own exceptions', async () => {
    const error = await refusalOf(
      sql.transaction([sql`select 1`, sql`do $$ begin raise exception 'refused' using errcode = 'RK401'; end $$`]),
    )
    expect(error).toMatchObject({ message: 'refused', code: 'RK401' })
  })

  it('of a statement that cannot be read comes with its position', async () => {
    const error = await refusalOf(sql.query('select 1 frm notes'))
    expect(error).toMatchObject({ code: '42601', position: '14', message: 'syntax error at or near "notes"' })
  })

  it('meets two statements in one', async () => {
    const error = await refusalOf(sql.query('insert into notes values (7, $1); select 1', ['seventh']))
    expect(error).toMatchObject({ code: '42601', message: 'cannot insert multiple commands into a prepared statement' })
  })

  it('leaves the session usable', async () => {
    const [before] = await sql`select pg_backend_pid() as pid`
    for (const broken of [sql`select 1 / 0`, sql`selec`, sql`select ${'x'}::int`]) await refusalOf(broken)
    expect(await sql`select pg_backend_pid() as pid, 1 as one`).toEqual([{ pid: before?.['pid'], one: 1 }])
  })
})

describe('the session', () => {
  it('remembers what a caller set for good, as one behind a pooler does', async () => {
    await sql`select set_config('test.leak', 'of the caller before', false)`
    expect(await sql`select current_setting('test.leak', true) as seen`).toEqual([{ seen: 'of the caller before' }])
  })

  it('forgets what a caller set for its transaction', async () => {
    await sql.transaction([sql`select 1`, sql`select set_config('test.local', 'of the caller before', true)`])
    expect(await sql`select current_setting('test.local', true) as seen`).toEqual([{ seen: '' }])
  })

  it('forgets it after a refusal, too', async () => {
    await refusalOf(sql.transaction([sql`select set_config('test.refused', 'x', true)`, sql`select 1 / 0`]))
    const [row] = await sql`select coalesce(current_setting('test.refused', true), '') as seen`
    expect(row).toEqual({ seen: '' })
  })
})

describe('a login', () => {
  it('works as the role it names, which may do no more than that', async () => {
    const asApp = neon(toUrl('rekko_app', 'rekko_app'))
    expect(await asApp`select current_user::text as name`).toEqual([{ name: 'rekko_app' }])
    expect((await refusalOf(asApp`select * from notes`)).code).toBe('42501')
    expect(await sql`select current_user::text as name`).toEqual([{ name: database.admin.role }])
  })

  it.each(['nobody', 'rekko_owner', 'rekko_backup', 'rekko_app; reset role'])('is refused to %s', async (role) => {
    const error = await refusalOf(neon(toUrl(role, role))`select 1`)
    expect(error).toMatchObject({ code: '28000', message: `role "${role}" may not log in here` })
  })

  it('is refused with a wrong password', async () => {
    const error = await refusalOf(neon(toUrl('rekko_app', 'guessed'))`select 1`)
    expect(error.code).toBe('28P01')
    expect(error.message).not.toContain('guessed')
    expect(await neon(toUrl('rekko_app', 'rekko_app'))`select 1 as one`).toEqual([{ one: 1 }])
  })
})

describe('a request', () => {
  const post = (body: string, headers: Record<string, string> = {}) =>
    fetch(endpoint.url, {
      method: 'POST',
      body,
      headers: { 'Neon-Connection-String': toUrl('rekko_app', 'rekko_app'), ...headers },
    })

  it.each([
    ['not JSON', '{'],
    ['empty', ''],
    ['a list', '[]'],
    ['null', 'null'],
    ['without a query', '{"params":[]}'],
    ['a query that is not text', '{"query":1,"params":[]}'],
    ['without parameters', '{"query":"select 1"}'],
    ['parameters that are not a list', '{"query":"select 1","params":{}}'],
    ['a parameter that is neither text nor null', '{"query":"select $1","params":[1]}'],
    ['queries that are not a list', '{"queries":{}}'],
    ['one bad query among good ones', '{"queries":[{"query":"select 1","params":[]},{"query":"select 1"}]}'],
  ])('is refused when its body is %s', async (_, body) => {
    const response = await post(body)
    expect(response.status).toBe(400)
    expect(await response.json()).toEqual({
      message: expect.stringMatching(/^the body is n(ot JSON|either a query nor a batch)$/),
    })
  })

  it('is refused when its body is too large', async () => {
    const response = await post(JSON.stringify({ query: `select '${'x'.repeat(17 * 1024 * 1024)}'`, params: [] }))
    expect(response.status).toBe(400)
    expect(await response.json()).toEqual({ message: 'the body is too large' })
  })

  it('is refused without a connection string, and with one that is not a URL', async () => {
    for (const connectionString of ['', 'not a URL']) {
      const response = await post('{"query":"select 1","params":[]}', { 'Neon-Connection-String': connectionString })
      expect(response.status).toBe(400)
      expect(await response.json()).toEqual({ message: 'the header Neon-Connection-String is missing or not a URL' })
    }
  })

  it('is refused at an isolation level that does not exist', async () => {
    const headers = { 'Neon-Batch-Isolation-Level': 'Chaos; drop table notes' }
    const response = await post('{"queries":[{"query":"select 1","params":[]}]}', headers)
    expect(response.status).toBe(400)
    expect(await response.json()).toEqual({ message: 'unknown isolation level' })
  })

  it('to another address is not found', async () => {
    expect((await fetch(new URL('/', endpoint.url))).status).toBe(404)
    expect((await fetch(endpoint.url)).status).toBe(404)
  })

  it('is counted, with its statements and its transaction', async () => {
    const before = await readStats()
    await sql`select 1`
    await sql.transaction([sql`select 1`, sql`select 2`, sql`select 3`])
    await refusalOf(sql`select 1 / 0`)
    await post('{')
    expect(await readStats()).toEqual({
      requests: before.requests + 4,
      statements: before.statements + 5,
      transactions: before.transactions + 3,
    })
  })
})

describe('the endpoint', () => {
  it('listens on 127.0.0.1 only', async () => {
    const { port, hostname } = new URL(endpoint.url)
    expect(hostname).toBe('127.0.0.1')
    const others = Object.values(networkInterfaces()).flatMap((addresses) =>
      (addresses ?? []).map(({ address }) => address).filter((address) => address !== '127.0.0.1'),
    )
    // on Linux every address of 127/8 is this machine's, and one that listens everywhere answers on it
    for (const host of ['127.0.0.2', ...others]) {
      expect([host, await connects(host, Number(port))]).toEqual([host, false])
    }
    expect(await connects('127.0.0.1', Number(port))).toBe(true)
  })

  it('answers 400 without a code when a session is lost, and works again at once', async (context) => {
    needsNative(context, database, 'it has no session to terminate')
    // more often than there are sessions: one that is lost and still counted would be missed in the end
    for (let round = 0; round < 2 * MAX_SESSIONS; round++) {
      const lost = refusalOf(sql.transaction([sql`insert into notes values (6, 'lost')`, sql`select pg_sleep(30)`]))
      await terminate('select pg_sleep(30)', 1)
      expect(await lost).toMatchObject(AMBIGUOUS)
      expect(await sql`select * from notes`).toEqual([])
    }
    expect(await refusalOf(sql`select pg_terminate_backend(pg_backend_pid())`)).toMatchObject(AMBIGUOUS)
    expect(await sql`select 1 as one`).toEqual([{ one: 1 }])
  })

  it('gives those who wait another session when one is lost', async (context) => {
    needsNative(context, database, 'it has no session to terminate')
    const lost = Promise.all(Array.from({ length: MAX_SESSIONS }, () => refusalOf(sql`select pg_sleep(31)`)))
    await expect.poll(() => running('select pg_sleep(31)')).toHaveLength(MAX_SESSIONS)
    const { requests } = await readStats()
    const waiting = Promise.all([sql`select 1 as one`, sql`select 2 as two`])
    await expect.poll(async () => (await readStats()).requests).toBe(requests + 2)

    await terminate('select pg_sleep(31)', MAX_SESSIONS)
    expect(await waiting).toEqual([[{ one: 1 }], [{ two: 2 }]])
    for (const error of await lost) expect(error).toMatchObject(AMBIGUOUS)
  })

  it('replaces idle sessions that were lost', async (context) => {
    needsNative(context, database, 'it has no session to terminate')
    await Promise.all(Array.from({ length: MAX_SESSIONS }, () => sql`select pg_sleep(0.05)`))
    // materialized, or the function might be called before the condition that spares this session
    await database.connection.query(
      `with sessions as materialized (${SESSIONS}) select pg_terminate_backend(pid) from sessions`,
    )
    await expect.poll(countSessions).toBe(0)
    const answers = await Promise.all(Array.from({ length: 10 }, () => sql`select 1 as one`))
    expect(answers).toEqual(Array(10).fill([{ one: 1 }]))
  })

  it('never opens more sessions than it may, also after some were lost', async (context) => {
    needsNative(context, database, 'it has one session')
    const slow = Array.from({ length: 4 * MAX_SESSIONS }, () => sql`select pg_sleep(0.2)`)
    const all = Promise.all(slow)
    await expect.poll(countSessions).toBe(MAX_SESSIONS)
    const counts: number[] = []
    const isDone = all.then(() => true)
    while (!(await Promise.race([isDone, new Promise((resolve) => setTimeout(resolve, 20, false))]))) {
      counts.push(await countSessions())
    }
    expect(Math.max(...counts)).toBe(MAX_SESSIONS)
  })

  /** Nobody knows what was carried out. */
  const AMBIGUOUS = { message: 'the connection to PostgreSQL failed', code: undefined }

  const SESSIONS = `
    select pid from pg_stat_activity
    where datname = current_database() and usename = current_user and pid <> pg_backend_pid()
      and backend_type = 'client backend'`

  async function countSessions(): Promise<number> {
    return (await database.connection.query(SESSIONS)).length
  }

  /** Ends the sessions that run a statement, once as many do as are expected. */
  async function terminate(statement: string, expected: number): Promise<void> {
    await expect.poll(() => running(statement), { timeout: 10_000 }).toHaveLength(expected)
    await database.connection.query('select pg_terminate_backend(pid) from unnest($1::int[]) as pid', [
      await running(statement),
    ])
  }

  async function running(statement: string): Promise<number[]> {
    const sessions = await database.connection.query<{ pid: number }>(
      "select pid from pg_stat_activity where datname = current_database() and query = $1 and state = 'active'",
      [statement],
    )
    return sessions.map(({ pid }) => pid)
  }
})

function connects(host: string, port: number): Promise<boolean> {
  return new Promise((resolve) => {
    const socket = createConnection({ host, port, timeout: 2_000 })
    const end = (answer: boolean) => {
      socket.destroy()
      resolve(answer)
    }
    socket.once('connect', () => end(true))
    socket.once('error', () => end(false))
    socket.once('timeout', () => end(false))
  })
}
