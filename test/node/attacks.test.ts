// Proves that the Worker's login cannot see, change or sense another tenant's rows with any SQL: attacks
// 1 to 52, on every table, column, key and reference of the catalog, so that a new one is attacked unasked.
// What is right follows from the login's privileges: what it may do, it does as if the others were not
// there; what it may not is refused. The last part attacks a table without walls, and each attack finds it.
// Nothing is fake; the rows are made from the columns' types (attackable.ts).
import { randomUUID } from 'node:crypto'
import { readdir, readFile } from 'node:fs/promises'
import { neon, neonConfig } from '@neondatabase/serverless'
import { afterAll, beforeAll, describe, expect, it, type TestContext } from 'vitest'
import type { Query } from '../../scripts/neon-endpoint/backend.ts'
import { startEndpoint } from '../../scripts/neon-endpoint/server.ts'
import {
  APP,
  canInsert,
  changeable,
  enter,
  expectInserted,
  expectOutcome,
  expectRefused,
  findChanged,
  keyOf,
  type Outcome,
  REFUSED,
  RIVAL,
  readable,
  Stage,
  sum,
  tenantOf,
  toInsert,
  VICTIM,
  written,
} from './attack-stage.ts'
import { isTable, listAttackable, quote, type Table } from './attackable.ts'
import { needsNative } from './database.ts'
import { COPY, KEYS_ACROSS_TENANTS, TABLE_ATTACKS } from './table-attacks.ts'

/** Of no tenant, and open: the version of the schema is nobody's secret. */
const OPEN_TABLES = ['public.schema_migrations']
/** Where the Worker has no tenant yet, or chooses one: what they answer to a credential is their purpose. */
const DOORS = /^(enter_tenant_by|resolve)_/

// == The list ==

/** Attacks that another test carries out: file and title. */
const ELSEWHERE: Record<number, [file: string, title: string]> = {
  36: ['test/node/non-interference.test.ts', 'sends no value of a client in the text of a statement'],
  46: ['test/node/linter.test.ts', 'has nothing to mend, and every rule and exception was asked'],
  47: ['test/node/non-interference.test.ts', 'answers one tenant the same, whatever the other has'],
  49: ['test/node/backups.test.ts', 'brings back every row, policy, grant and owner, ready to be searched'],
}
const NOT_APPLICABLE: Record<number, string> = {
  32: 'no route takes SQL, so nobody can ask for a plan: the Worker sends statements that were written once',
  48: 'no test asserts a time, and the benchmark that is to compare latencies is not written yet',
}
const held = new Set<number>()

/** A test that carries out attacks of the list. */
function attack(numbers: number[], title: string, run: (context: TestContext) => Promise<unknown>): void {
  for (const number of numbers) held.add(number)
  it(`${numbers.join(', ')}: ${title}`, async (context) => void (await run(context)))
}

// == The stage ==

let stage: Stage

beforeAll(async () => {
  stage = await Stage.build()
})

afterAll(() => stage?.close())

/** Values of one type among a tenant's rows. */
function valuesOf(tenant: string, types: RegExp): string[] {
  const found = stage
    .ofTenants()
    .flatMap((table) =>
      stage.rows
        .rowsOf(table, tenant)
        .flatMap((row) =>
          table.columns
            .filter(({ name, type }) => types.test(type) && name !== table.tenantColumn)
            .flatMap(({ name }) => row[name] ?? []),
        ),
    )
  return [...new Set(found)]
}

interface OwnFunction {
  oid: number
  name: string
  parameters: { name: string; type: string }[]
  roles: string[]
}

/** Those that can be called: a trigger's cannot. */
async function listFunctions(): Promise<OwnFunction[]> {
  return stage.database.connection.query<OwnFunction>(`
    select p.oid::int, format('%I.%I', n.nspname, p.proname) as name,
      (select coalesce(json_agg(json_build_object('name', p.proargnames[place], 'type', format_type(t, null)) order by place), '[]')
        from unnest(p.proargtypes::oid[]) with ordinality as given (t, place)) as parameters,
      array(select rolname::text from pg_roles where rolname in ('rekko_app', 'rekko_operator', 'rekko_jobs')
        and has_function_privilege(rolname, p.oid, 'execute')) as roles
    from pg_proc p join pg_namespace n on n.oid = p.pronamespace
    where n.nspname not in ('pg_catalog', 'information_schema', 'attacks') and p.prorettype <> 'trigger'::regtype
      and not exists (select from pg_depend d where d.classid = 'pg_proc'::regclass and d.objid = p.oid and d.deptype = 'e')
    order by p.oid`)
}

/** What to call a function with, by the types of its parameters. */
interface Arguments {
  tenant: string
  uuid: string
  text: string
  bytea: string
}

function toCall({ name, parameters }: OwnFunction, given: Arguments): Query {
  const params = parameters.map((parameter) => {
    switch (parameter.type) {
      case 'uuid':
        return parameter.name.includes('tenant') ? given.tenant : given.uuid
      case 'text':
        return given.text
      case 'bytea':
        return given.bytea
      case 'integer':
        return '1000'
      case 'bigint':
        // the revision of an issuer, as attackable.ts made it
        return '1'
      case 'boolean':
        return 'false'
      case 'integer[]':
        return '{1,2,3}'
      case 'text[]':
        return `{"${given.text}"}`
      case 'uuid[]':
        return `{${given.tenant}}`
      case 'vector[]':
        return `{"${JSON.stringify(Array(512).fill(0.04))}"}`
      case 'double precision':
      case 'numeric':
        return '0.5'
      case 'interval':
        return '1 day'
      case 'jsonb':
        return '{}'
      case 'bit':
        return '0'.repeat(512)
      case 'bit[]':
        return `{${'0'.repeat(512)}}`
      case 'timestamp with time zone':
        return null
      default:
        throw new Error(`${name} takes ${parameter.type}, so it cannot be attacked: teach toCall a value of that type`)
    }
  })
  const places = parameters.map(({ type }, index) => `$${index + 1}::${type.replace(/^bit\b/, 'bit(512)')}`)
  return { query: `select * from ${name}(${places.join(', ')})`, params }
}

function argumentsOf(tenant: string): Arguments[] {
  const [uuids, texts, hashes] = [/^uuid$/, /^text$/, /^bytea$/].map((type) => valuesOf(tenant, type))
  const longest = Math.max(uuids?.length ?? 0, texts?.length ?? 0)
  return Array.from({ length: longest }, (_, index) => ({
    tenant,
    uuid: uuids?.[index % uuids.length] ?? '',
    text: texts?.[index % texts.length] ?? '',
    bytea: hashes?.[index % hashes.length] ?? '',
  }))
}

const nobodys = (): Arguments => ({
  tenant: randomUUID(),
  uuid: randomUUID(),
  text: `nobody-${randomUUID()}`,
  bytea: `\\x${'0'.repeat(64)}`,
})

// == The attacks ==

describe('every table', () => {
  it('is one that can be attacked, and holds rows of both tenants', () => {
    expect(stage.ofTenants().length).toBeGreaterThanOrEqual(8)
    for (const table of stage.ofTenants()) {
      expect(stage.rows.rowsOf(table, VICTIM), table.name).not.toHaveLength(0)
      expect(stage.rows.rowsOf(table, RIVAL), table.name).not.toHaveLength(0)
    }
  })

  it('lets the login do something somewhere, so that a refusal is worth something', () => {
    expect(stage.ofTenants().filter(canInsert).length).toBeGreaterThanOrEqual(4)
    expect(stage.ofTenants().filter((table) => readable(table).length > 0).length).toBeGreaterThanOrEqual(6)
    expect(stage.ofTenants().filter(({ canDelete }) => canDelete)).not.toHaveLength(0)
    expect(stage.ofTenants().filter((table) => changeable(table).length > 0)).not.toHaveLength(0)
  })

  it('that is of no tenant is out of reach, by any command', async () => {
    const closed = stage.tables.filter(({ tenantColumn, name }) => tenantColumn === null && !OPEN_TABLES.includes(name))
    expect(closed.filter(({ isReachable }) => isReachable)).toEqual([])
    const failures = await sum(closed, (table) =>
      sum(
        [
          `select from ${table.name}`,
          `select count(*) from ${table.name}`,
          `delete from ${table.name}`,
          `update ${table.name} set ${quote(findChanged(table).name)} = null`,
          `insert into ${table.name} default values`,
          `truncate ${table.name}`,
          `lock table ${table.name} in access share mode`,
        ],
        async (query) => expectRefused(query, await stage.asRival(query)),
      ),
    )
    expect(failures).toEqual([])
    for (const name of OPEN_TABLES) {
      for (const query of [`delete from ${name}`, `insert into ${name} default values`, `truncate ${name}`]) {
        expect(expectRefused(query, await stage.asRival(query))).toEqual([])
      }
    }
  })

  for (const { numbers, title, run: carryOut } of TABLE_ATTACKS) {
    attack(numbers, title, async () =>
      expect(await sum(stage.ofTenants(), (table) => carryOut(stage, table))).toEqual([]),
    )
  }

  attack(COPY.numbers, COPY.title, async (context) => {
    needsNative(context, stage.database, 'COPY has messages of its own, which the local endpoint does not pass on')
    expect(await sum(stage.ofTenants(), (table) => COPY.run(stage, table))).toEqual([])
  })

  attack([18], 'whoever deletes takes nothing of another tenant along, and everything of the own', async () => {
    const pairs = stage.tables.flatMap((child) =>
      child.references.flatMap((reference) => {
        const parent = stage.tables.find(({ name }) => name === reference.parent)
        return parent?.canDelete ? [{ child, reference, parent }] : []
      }),
    )
    expect(pairs).not.toHaveLength(0)
    for (const { child, reference, parent } of pairs) {
      // the rival has rows under the very same ids
      const key = keyOf(stage.rows.rowsOf(parent, VICTIM)[0] ?? {}, reference.parentColumns)
      const twin = { ...stage.rows.next(parent, RIVAL), ...key, [parent.tenantColumn ?? '']: RIVAL }
      const refers = Object.fromEntries(
        reference.columns.map((name, index) => [name, twin[reference.parentColumns[index] ?? ''] ?? null]),
      )
      for (const [table, row] of [
        [parent, twin],
        [child, { ...stage.rows.next(child, RIVAL), ...refers }],
      ] as const) {
        await stage.database.connection.query(...toInsert(table, row, written(table)))
      }
      const before = await stage.snapshot(RIVAL)
      const outcome = await stage.commitAs(VICTIM, `delete from ${parent.name}`)
      expect(outcome).toMatchObject({ sqlstate: null, count: stage.rows.rowsOf(parent, VICTIM).length })
      expect(await stage.snapshot(RIVAL)).toEqual(before)
      const left = await stage.asAdmin(
        `select from ${child.name} where ${tenantOf(child)} = '${VICTIM}' and num_nonnulls(${reference.columns
          .filter((name) => name !== child.tenantColumn)
          .map(quote)
          .join(', ')}) > 0`,
      )
      expect(left).toMatchObject({ count: 0 })
      await stage.restore()
    }
  })

  attack([20], 'no constraint waits for the end of the transaction', async () => {
    const deferrable = stage.tables.flatMap(({ references }) => references.filter(({ isDeferrable }) => isDeferrable))
    expect(deferrable).toEqual([])
  })

  attack([21], 'nobody waits for a row of another tenant that is not committed yet', async (context) => {
    needsNative(context, stage.database, 'it has one session, and this needs two')
    const insertable = stage.ofTenants().filter(canInsert)
    expect(insertable).not.toHaveLength(0)
    for (const table of insertable) {
      const holder = await stage.connectAsApp()
      try {
        await holder.query('begin')
        await holder.query("select set_config('app.current_tenant_id', $1, true)", [VICTIM])
        const theirs = stage.rows.next(table, VICTIM)
        await holder.query(...toInsert(table, theirs))
        const own = stage.rows.next(table, RIVAL)
        const keys = table.keys.filter(({ name }) => !KEYS_ACROSS_TENANTS.includes(name))
        for (const { columns } of keys) {
          const others = columns.filter((name) => name !== table.tenantColumn)
          const [query, params] = toInsert(table, { ...own, ...keyOf(theirs, others) })
          const impatient = { query: "set local lock_timeout = '200ms'", params: [] }
          const outcome = await stage.run(APP, [enter(RIVAL), impatient, { query, params }], 'rollback')
          expect(expectInserted(`${table.name} by ${columns}`, outcome)).toEqual([])
        }
      } finally {
        await holder.query('rollback')
        await holder.end()
      }
    }
  })
})

describe('what is not a table', () => {
  attack([24, 25], 'no view shows more than its tables, and a partition is attacked as any other table', () => {
    const views = stage.tables.filter((table) => !isTable(table))
    return Promise.resolve(expect(views.filter(({ isReachable }) => isReachable)).toEqual([]))
  })

  attack(
    [24],
    "a function answers for another tenant's values what it answers for nobody's, and changes nothing",
    async () => {
      const functions = (await listFunctions()).filter(({ roles, name }) => roles.includes(APP.role) && !isDoor(name))
      expect(functions.map(({ name }) => name)).toContain('public.shortlist_faces')
      const before = await stage.snapshot(VICTIM)
      const failures = await sum(functions, async (called) => {
        const unknown = await stage.run(APP, [enter(RIVAL), toCall(called, nobodys())], 'commit')
        return sum(called.parameters.length > 0 ? argumentsOf(VICTIM) : [], async (theirs) =>
          expectOutcome(called.name, await stage.run(APP, [enter(RIVAL), toCall(called, theirs)], 'commit'), unknown),
        )
      })
      expect(failures).toEqual([])
      expect(await stage.snapshot(VICTIM)).toEqual(before)
    },
  )

  attack([24], "a door opens to the own credential, and not to another tenant's rooms", async () => {
    const doors = (await listFunctions()).filter(({ roles, name }) => roles.includes(APP.role) && isDoor(name))
    expect(doors.map(({ name }) => name)).toContain('public.enter_tenant_by_api_key')
    const credentials = argumentsOf(RIVAL).flatMap((own) =>
      valuesOf(RIVAL, /^bytea$/).map((bytea) => ({ ...own, bytea, text: 'faces:read' })),
    )
    for (const door of doors.filter(namesTenant)) {
      const outcomes = await Promise.all(credentials.map((own) => stage.run(APP, [toCall(door, own)], 'rollback')))
      const opened = outcomes.filter(({ sqlstate }) => sqlstate === null)
      expect(opened, `${door.name} opens to none of the rival's values`).not.toHaveLength(0)
      for (const own of credentials) {
        const outcome = await stage.run(APP, [toCall(door, { ...own, tenant: VICTIM })], 'rollback')
        if (door.name.includes('.enter_')) expect(outcome.sqlstate, door.name).toMatch(/^RK4/)
        else expect(outcome, door.name).toMatchObject({ count: 0 })
      }
    }
  })

  attack([31], 'a temporary table with the name of ours deceives no function', async () => {
    const names = await stage.database.connection.query<{ name: string }>(`
      select quote_ident(relname) as name from pg_class where relnamespace = 'public'::regnamespace and relkind in ('r', 'p')`)
    const shadows = names.map(({ name }) => ({ query: `create temporary table ${name} ()`, params: [] }))
    const masked = (outcome: Outcome) =>
      JSON.stringify(outcome).replace(/[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}/g, 'an id')
    const calls = [
      ...(await listFunctions()).map((called) => toCall(called, argumentsOf(RIVAL)[0] ?? nobodys())),
      // the triggers
      ...stage
        .ofTenants()
        .filter(({ tenantColumn }) => tenantColumn === 'tenant_id')
        .map((table) => {
          const [query, params] = toInsert(table, stage.rows.next(table, RIVAL), written(table))
          return { query, params }
        }),
    ]
    for (const call of calls) {
      const plain = await stage.run(stage.database.admin, [enter(RIVAL), call], 'rollback')
      const shadowed = await stage.run(stage.database.admin, [...shadows, enter(RIVAL), call], 'rollback')
      // a time differs by itself
      const moments = /\d{4}-\d\d-\d\d[ T][\d:.+]+/g
      expect(masked(shadowed).replace(moments, 'then'), call.query).toBe(masked(plain).replace(moments, 'then'))
    }
  })

  attack([33], 'the statistics of the planner, which hold values, are hidden', async () => {
    await stage.database.connection.execute('analyze')
    const [kept] = await stage.database.connection.query<{ any: boolean }>(
      "select exists (select from pg_stats where schemaname = 'public' and tablename = 'faces') as any",
    )
    expect(kept).toEqual({ any: true })
    const seen = await stage.asRival(
      `select schemaname, tablename, attname from pg_stats
      where schemaname not in ('pg_catalog', 'information_schema') and tablename <> 'schema_migrations'`,
    )
    expect(seen).toEqual({ sqlstate: null, rows: [], count: 0 })
  })

  attack([34], 'no number counts what others have: there is no sequence, and ids are random', async () => {
    const sequences = await stage.database.connection.query("select from pg_class where relkind = 'S'")
    expect(sequences).toEqual([])
    const counted = stage
      .ofTenants()
      .flatMap(({ name, keys, columns }) =>
        columns
          .filter((column) => keys.some((key) => key.columns.includes(column.name)) && /int|serial/.test(column.type))
          .map((column) => `${name}.${column.name}`),
      )
    // the first key of every tenant has the version 1
    expect(counted).toEqual(['vault.template_keys.version'])
  })

  attack([35], 'nothing goes through what all tenants share: large objects, notifications, locks', async () => {
    const shared = /\b(lo_\w+|listen|unlisten|pg_notify|notify)\b/i
    const functions = await stage.database.connection.query<{ name: string; source: string }>(`
      select proname as name, prosrc as source from pg_proc
      where pronamespace = 'public'::regnamespace and has_function_privilege('${APP.role}', oid, 'execute')
        and not exists (select from pg_depend d where d.classid = 'pg_proc'::regclass and d.objid = pg_proc.oid and d.deptype = 'e')`)
    const files = (await readdir('src/db')).map(async (name) => ({
      name,
      source: await readFile(`src/db/${name}`, 'utf8'),
    }))
    for (const { name, source } of [...functions, ...(await Promise.all(files))]) {
      expect(source.match(shared), name).toBeNull()
      // a lock's number is made from the tenant
      for (const [lock] of source.matchAll(/pg_\w*advisory\w*\([\s\S]*?;/g)) expect(lock, name).toContain('tenant')
    }
    expect(functions).not.toHaveLength(0)
  })

  attack([50], 'no row leaves by replication', async () => {
    const [found] = await stage.database.connection.query(`
      select (select count(*)::int from pg_publication) as publications, (select count(*)::int from pg_subscription) as subscriptions,
        (select count(*)::int from pg_replication_slots where database = current_database()) as slots`)
    expect(found).toEqual({ publications: 0, subscriptions: 0, slots: 0 })
  })
})

describe('the login', () => {
  attack([29], 'becomes nobody else', async (context) => {
    needsNative(
      context,
      stage.database,
      'nobody logs in to it: the endpoint enters the role from an administrator session',
    )
    const others = await stage.database.connection.query<{ name: string }>(
      'select quote_ident(rolname) as name from pg_roles where rolname <> $1',
      [APP.role],
    )
    const client = await stage.connectAsApp()
    try {
      for (const { name } of others) {
        for (const query of [`set role ${name}`, `set session authorization ${name}`]) {
          await expect(client.query(query), query).rejects.toMatchObject({ code: REFUSED })
        }
      }
      await client.query('reset role; reset session authorization; set role none')
      const { rows: found } = await client.query('select current_user::text, session_user::text')
      expect(found).toEqual([{ current_user: APP.role, session_user: APP.role }])
      await expect(client.query('select from faces')).rejects.toMatchObject({ code: REFUSED })
    } finally {
      await client.end()
    }
  })

  attack([30], 'makes nothing of its own, reads no file and starts no program', async () => {
    const refused = [
      'create temporary table planted ()',
      'create temporary view planted as select 1',
      'create table public.planted ()',
      'create view public.planted as select * from faces',
      'create materialized view public.planted as select 1',
      'create schema planted',
      'create sequence public.planted',
      'create type public.planted as enum ()',
      "create function public.planted() returns integer language sql as 'select 1'",
      'create function public.planted() returns void language sql security definer return null',
      'drop extension vector',
      'create role planted',
      'create publication planted',
      'alter role rekko_app bypassrls',
      'alter role rekko_owner login',
      'alter function current_tenant_id() volatile',
      'alter schema public rename to planted',
      'grant rekko_owner to rekko_app',
      "select pg_read_file('/etc/hostname')",
      "select pg_ls_dir('.')",
      'select * from pg_authid',
      "copy (select 1) to program 'true'",
      "copy (select 1) to '/tmp/planted'",
    ]
    expect(await sum(refused, async (query) => expectRefused(query, await stage.asRival(query)))).toEqual([])
  })

  attack([37], 'leaves no tenant behind for the next user of a session', async () => {
    const alone = stage.database.openBackend(1)
    try {
      const read = { query: 'select distinct tenant_id::text from faces', params: [] }
      const key = stage.rows.rowsOf(stage.find('api_keys'), VICTIM)[0]?.['hash'] ?? ''
      const byKey = {
        query: 'select enter_tenant_by_api_key($1::uuid, $2::bytea, $3)',
        params: [VICTIM, key, 'faces:read'],
      }
      for (const door of [enter(VICTIM), byKey]) {
        const [, found] = await alone.transact(APP, 'begin', [door, read])
        expect(found?.rows).toEqual([[VICTIM]])
        await expect(alone.transact(APP, 'begin', [read])).rejects.toMatchObject({ refusal: { code: REFUSED } })
      }
      // somebody has left one for the whole session: who enters is there, and nowhere else
      await alone.transact(APP, 'begin', [{ query: enter(VICTIM).query.replace('true', 'false'), params: [VICTIM] }])
      const [, found] = await alone.transact(APP, 'begin', [enter(RIVAL), read])
      expect(found?.rows).toEqual([[RIVAL]])
      await alone.transact(APP, 'begin', [{ query: 'reset app.current_tenant_id', params: [] }])
    } finally {
      // on the embedded database it shares its session with the others
      if (stage.database.isNative) await alone.close()
    }
  })

  attack([38], 'leaves no tenant behind when its transaction fails', async () => {
    const alone = stage.database.openBackend(1)
    const fault = { query: 'select 1 / (length($1) - 1)', params: ['x'] }
    const read = { query: 'select from faces', params: [] }
    await expect(alone.transact(APP, 'begin', [enter(VICTIM), fault])).rejects.toMatchObject({
      refusal: { code: '22012' },
    })
    await expect(alone.transact(APP, 'begin', [read])).rejects.toMatchObject({ refusal: { code: REFUSED } })
    if (stage.database.isNative) await alone.close()
  })

  attack([39], 'leaves no tenant behind when a statement takes too long or is canceled', async (context) => {
    needsNative(context, stage.database, 'it runs in one thread, and nothing can interrupt a statement')
    const alone = stage.database.openBackend(1)
    try {
      const limited = { query: "set local statement_timeout = '50ms'", params: [] }
      const sleep = { query: 'select pg_sleep(3)', params: [] }
      const read = { query: 'select from faces', params: [] }
      const canceled = { refusal: { code: '57014' } }
      await expect(alone.transact(APP, 'begin', [enter(VICTIM), limited, sleep])).rejects.toMatchObject(canceled)
      await expect(alone.transact(APP, 'begin', [read])).rejects.toMatchObject({ refusal: { code: REFUSED } })

      const asleep = expect(alone.transact(APP, 'begin', [enter(VICTIM), sleep])).rejects.toMatchObject(canceled)
      const cancel = `select pg_cancel_backend(pid) from pg_stat_activity
        where usename = '${APP.role}' and datname = current_database() and query like '%pg_sleep%' and state = 'active'`
      while ((await stage.database.connection.query(cancel)).length === 0)
        await new Promise((done) => setTimeout(done, 10))
      await asleep
      await expect(alone.transact(APP, 'begin', [read])).rejects.toMatchObject({ refusal: { code: REFUSED } })
    } finally {
      await alone.close()
    }
  })

  attack([40], 'is the tenant before again when a savepoint is rolled back', async () => {
    const read = { query: 'select distinct tenant_id::text from faces', params: [] }
    const outcome = await stage.run(
      APP,
      [
        enter(VICTIM),
        { query: 'savepoint before', params: [] },
        enter(RIVAL),
        { query: 'rollback to savepoint before', params: [] },
        read,
      ],
      'rollback',
    )
    expect(outcome).toMatchObject({ rows: [JSON.stringify([VICTIM])] })
  })

  attack([41], 'has no tenant by default, and gets none through a connection string', async () => {
    const defaults = await stage.database.connection.query(
      "select setconfig from pg_db_role_setting where exists (select from unnest(setconfig) s where s ilike 'app.%')",
    )
    expect(defaults).toEqual([])
    const endpoint = await startEndpoint(stage.database.openBackend())
    try {
      const url = new URL('postgres://stage.database.test/rekko')
      url.username = APP.role
      url.password = APP.password
      url.searchParams.set('options', `-c app.current_tenant_id=${VICTIM}`)
      const sql = neon(url.href)
      neonConfig.fetchEndpoint = endpoint.url
      await expect(sql`select from faces`).rejects.toMatchObject({ code: REFUSED })
    } finally {
      if (stage.database.isNative) await endpoint.close()
    }
  })

  attack([42], 'has one tenant, however the name of the setting is spelled', async () => {
    const read = { query: 'select distinct tenant_id::text from faces', params: [] }
    const shouted = { query: "select set_config('APP.Current_Tenant_ID', $1, true)", params: [RIVAL] }
    expect(await stage.run(APP, [enter(VICTIM), shouted, read], 'rollback')).toMatchObject({
      rows: [JSON.stringify([RIVAL])],
    })
    expect(await stage.run(APP, [shouted, enter(VICTIM), read], 'rollback')).toMatchObject({
      rows: [JSON.stringify([VICTIM])],
    })
  })

  attack([52], 'adds to the own audit and metering, and changes or deletes nothing of it', async () => {
    const written = ['verifications', 'identifications', 'integrity_events', 'usage_events']
    for (const name of [...written, 'usage_records', 'face_counts', 'admin_events']) {
      const table = stage.find(name)
      const column = quote(findChanged(table).name)
      for (const query of [`update ${name} set ${column} = null`, `delete from ${name}`]) {
        expect(expectRefused(query, await stage.asRival(query))).toEqual([])
      }
    }
    expect(written.filter((name) => canInsert(stage.find(name)))).toEqual(written)
  })
})

describe('the operator and the schedule', () => {
  attack([51], 'what they do to one tenant leaves the other as it was, row for row', async () => {
    const functions = (await listFunctions()).filter(
      (called) => namesTenant(called) && called.roles.some((role) => role !== APP.role),
    )
    expect(functions).not.toHaveLength(0)
    const before = await stage.snapshot(RIVAL)
    const erased = await stage.snapshot(VICTIM)
    for (const called of functions) {
      for (const role of called.roles.filter((name) => name !== APP.role)) {
        // their password is their name
        for (const theirs of argumentsOf(VICTIM))
          await stage.run({ role, password: role }, [toCall(called, theirs)], 'commit')
        expect(await stage.snapshot(RIVAL), called.name).toEqual(before)
      }
    }
    expect(await stage.snapshot(VICTIM)).not.toEqual(erased)
    await stage.restore()
  })

  attack([51], 'what the schedule does for all keeps the sums of each', async () => {
    const jobs = (await listFunctions()).filter((called) => called.roles.includes('rekko_jobs') && !namesTenant(called))
    expect(jobs).not.toHaveLength(0)
    const sums = () =>
      stage.database.connection.query(`
        select id,
          (select coalesce(sum(change), 0)::int from face_counts c where c.tenant_id = t.id) as faces,
          (select count(*)::int from usage_events e where e.tenant_id = t.id)
            + (select coalesce(sum(registrations + verifications + identifications + deletions), 0)::int
               from usage_records r where r.tenant_id = t.id) as acts
        from tenants t order by id`)
    const before = await sums()
    expect(before).toHaveLength(2)
    for (const job of jobs) {
      for (let turn = 0; turn < 2; turn++) {
        const outcome = await stage.run(
          { role: 'rekko_jobs', password: 'rekko_jobs' },
          [toCall(job, nobodys())],
          'commit',
        )
        expect(outcome, job.name).toMatchObject({ sqlstate: null })
      }
      expect(await sums(), job.name).toEqual(before)
    }
    await stage.restore()
  })
})

describe('these attacks', () => {
  it('are the whole list, each with a test or a reason', async () => {
    for (const [number, reason] of Object.entries(NOT_APPLICABLE))
      console.log(`attack ${number} does not apply: ${reason}`)
    for (const [number, [file, title]] of Object.entries(ELSEWHERE)) {
      expect(await readFile(file, 'utf8'), `attack ${number} in ${file}`).toContain(title)
      console.log(`attack ${number} is in ${file}: ${title}`)
    }
    const all = [...held, ...Object.keys(ELSEWHERE).map(Number), ...Object.keys(NOT_APPLICABLE).map(Number)]
    expect([...new Set(all)].sort((a, b) => a - b)).toEqual(Array.from({ length: 52 }, (_, index) => index + 1))
  })

  describe('on a table without walls', () => {
    let leaky: Table

    beforeAll(async () => {
      await stage.database.connection.execute(`
        create table attacks.leaky (
          tenant_id uuid references public.tenants (id), id uuid primary key, external_id text unique,
          parent_id uuid references attacks.leaky (id)
        );
        grant all on attacks.leaky to ${APP.role}`)
      await stage.readCatalog()
      leaky = stage.find('leaky', 'attacks')
    })

    afterAll(async () => {
      await stage.database.connection.execute('drop table attacks.leaky')
      await stage.readCatalog()
    })

    it.each(TABLE_ATTACKS)('find that $title: it is not so', async ({ run: carryOut }) => {
      expect(await carryOut(stage, leaky)).not.toEqual([])
    })

    it('find that COPY brings rows in and out', async (context) => {
      needsNative(context, stage.database, 'COPY has messages of its own, which the local endpoint does not pass on')
      expect(await COPY.run(stage, leaky)).not.toEqual([])
    })
  })

  it('stop at a table that cannot be filled, and say what to do', async () => {
    await stage.database.connection.execute('create table attacks.odd (tenant_id uuid, place box not null)')
    try {
      const odd = (await listAttackable(stage.database.connection, APP.role)).filter(
        ({ name }) => name === 'attacks.odd',
      )
      await expect(stage.rows.fill(odd, RIVAL, 1)).rejects.toThrow('attacks.odd.place is box: teach')
      await stage.database.connection.execute(
        "alter table attacks.odd alter place type text, add constraint never check (place = '1' and place = '2')",
      )
      const never = (await listAttackable(stage.database.connection, APP.role)).filter(
        ({ name }) => name === 'attacks.odd',
      )
      await expect(stage.rows.fill(never, RIVAL, 1)).rejects.toThrow(
        'attacks.odd cannot be filled with a row, so it cannot be attacked',
      )
    } finally {
      await stage.database.connection.execute('drop table attacks.odd')
    }
  })
})

function isDoor(name: string): boolean {
  return DOORS.test(name.replace(/^\w+\./, ''))
}

function namesTenant({ parameters }: OwnFunction): boolean {
  return parameters.some(({ type }) => type === 'uuid')
}
