// Attacks on one table, whichever it is: what the Worker's login may do by its privileges, it does as if
// the other tenant were not there; what it may not is refused.
import { randomUUID } from 'node:crypto'
import pg from 'pg'
import type { Query } from '../../scripts/neon-endpoint/backend.ts'
import {
  APP,
  canInsert,
  canReadTenant,
  changeable,
  enter,
  expectInserted,
  expectNothing,
  expectOutcome,
  expectRefused,
  findChanged,
  insertedColumns,
  keyOf,
  namesOf,
  REFUSED,
  RIVAL,
  readable,
  type Stage,
  sum,
  tenantOf,
  textsOf,
  toArray,
  toInsert,
  VICTIM,
  written,
} from './attack-stage.ts'
import { quote, type Table, toPlaces } from './attackable.ts'

/** Keys that reach across tenants: the hash of an API key (HMAC-SHA-256) is nothing that anybody could guess. */
export const KEYS_ACROSS_TENANTS = ['api_keys_hash_key']

export interface TableAttack {
  numbers: number[]
  title: string
  /** Answers what went wrong, a sentence each. */
  run(stage: Stage, table: Table): Promise<string[]>
}

const SPELLINGS = (tenant: string) => [tenant.toUpperCase(), `{${tenant}}`, tenant.replaceAll('-', ''), 'x', ' ']

export const TABLE_ATTACKS: TableAttack[] = [
  {
    numbers: [1],
    title: 'without a tenant, nothing is read or changed: an error, never an empty answer',
    async run(stage, table) {
      const changed = quote(findChanged(table).name)
      return sum(
        [
          `select ${namesOf(readable(table)) || '*'} from ${table.name}`,
          `select count(*) from ${table.name}`,
          `update ${table.name} set ${changed} = null`,
          `delete from ${table.name}`,
        ],
        async (query) => expectRefused(query, await stage.asNobody(query)),
      )
    },
  },
  {
    numbers: [2],
    title: 'a session that was a tenant is none afterwards',
    async run(stage, table) {
      const read = `select count(*) from ${table.name}`
      // the session used last is used next
      await stage.run(APP, [enter(RIVAL), { query: 'select 1', params: [] }], 'commit')
      return expectRefused(`${read} in a session used before`, await stage.asNobody(read))
    },
  },
  {
    numbers: [3],
    title: 'a tenant has one spelling',
    run: (stage, table) =>
      sum(SPELLINGS(VICTIM), async (spelling) => {
        const read = { query: `select count(*) from ${table.name}`, params: [] }
        return expectRefused(`${table.name} as ${spelling}`, await stage.run(APP, [enter(spelling), read], 'rollback'))
      }),
  },
  {
    numbers: [4],
    title: "nothing is found by another tenant's id, external_id or any other value",
    async run(stage, table) {
      const names = textsOf(readable(table), 't') || '1'
      const hidden = table.columns.filter(({ canSelect }) => !canSelect)
      return [
        ...(await stage.compare(
          `${table.name}: all columns`,
          [table],
          (t) => `select * from ${t} t`,
          hidden.length === 0,
        )),
        ...(await sum(hidden, async ({ name }) =>
          expectRefused(`${table.name}.${name}`, await stage.asRival(`select ${quote(name)} from ${table.name}`)),
        )),
        ...(await sum(readable(table), (column) => {
          const [values] = [stage.rows.rowsOf(table, VICTIM).map((row) => row[column.name] ?? '')]
          const asked = `select ${names} from %s t where t.${quote(column.name)}::text = any ($1::text[])`
          const what = `${table.name} by ${column.name}`
          return stage.compare(what, [table], (t) => asked.replace('%s', t), true, [toArray(values)])
        })),
        // through the index
        ...(await sum(table.keys, async ({ name, columns }) => {
          const row = stage.rows.rowsOf(table, VICTIM)[0] ?? {}
          const may = columns.every((key) => readable(table).some((column) => column.name === key))
          const asks = columns.map((key, index) => `${quote(key)} = $${index + 1}`).join(' and ')
          const outcome = await stage.asRival(
            `select 1 from ${table.name} where ${asks}`,
            columns.map((key) => row[key] ?? null),
          )
          return expectNothing(`${table.name} by ${name}`, outcome, may)
        })),
      ]
    },
  },
  {
    numbers: [5],
    title: 'counts, extremes and collections are of the own rows only',
    async run(stage, table) {
      const may = readable(table).length > 0
      const asks = readable(table).map(({ name }) => `t.${quote(name)}::text`)
      const everything = asks.flatMap((text) => [
        `count(${text})`,
        `count(distinct ${text})`,
        `min(${text})`,
        `max(${text})`,
        `array_agg(${text} order by ${text})`,
      ])
      const isWhole = readable(table).length === table.columns.length
      return [
        ...(await stage.compare(`${table.name}: count`, [table], (t) => `select count(*) from ${t} t`, may)),
        ...(await stage.compare(
          `${table.name}: aggregates`,
          [table],
          (t) => `select ${everything.join(', ') || '1'} from ${t} t`,
          may,
        )),
        ...(await stage.compare(
          `${table.name}: json`,
          [table],
          (t) => `select json_agg(to_jsonb(t) order by to_jsonb(t)::text)::text from ${t} t`,
          isWhole,
        )),
        ...(await stage.compare(
          `${table.name}: exists`,
          [table],
          (t) => `select exists (select from ${t} t where t.${tenantOf(table)} = '${VICTIM}')`,
          canReadTenant(table),
        )),
      ]
    },
  },
  {
    numbers: [6],
    title: 'joins and sub-selects reach no further, from any table to any other',
    run: (stage, table) =>
      sum(stage.ofTenants(), async (other) => {
        const may = canReadTenant(table) && canReadTenant(other)
        const texts = `${textsOf(readable(other), 'y') || 'null'}`
        const what = `${table.name} and ${other.name}`
        return [
          ...(await stage.compare(
            `${what}, joined`,
            [table, other],
            (t, u) => `select y.${tenantOf(other)}::text, count(*) from ${t} x cross join ${u} y group by 1`,
            may,
          )),
          ...(await stage.compare(
            `${what}, joined across tenants`,
            [table, other],
            (t, u) => `select count(*) from ${t} x join ${u} y on y.${tenantOf(other)} <> x.${tenantOf(table)}`,
            may,
          )),
          ...(await stage.compare(
            `${what}, in a sub-select`,
            [table, other],
            (t, u) =>
              `select (select array_agg(row(${texts})::text order by row(${texts})::text) from ${u} y) from ${t} x`,
            readable(table).length > 0 && readable(other).length > 0,
          )),
        ]
      }),
  },
  {
    numbers: [7],
    title: 'no row is planted in another tenant, and one is in the own',
    async run(stage, table) {
      const own = await stage.asRival(...toInsert(table, stage.rows.next(table, RIVAL)))
      const planted = await stage.asRival(...toInsert(table, stage.rows.next(table, VICTIM)))
      return [
        ...(canInsert(table) ? expectInserted(`${table.name}: an own row`, own) : expectRefused(table.name, own)),
        ...expectRefused(`${table.name}: a planted row`, planted),
      ]
    },
  },
  {
    numbers: [8],
    title: 'no row is of no tenant',
    async run(stage, table) {
      const columns = insertedColumns(table).filter(({ name }) => name !== table.tenantColumn)
      const [query, params] = toInsert(table, stage.rows.next(table, RIVAL), columns)
      const outcome = await stage.asRival(query, params)
      // the policy, or NOT NULL before it
      const isRefused = outcome.sqlstate === REFUSED || outcome.sqlstate === '23502'
      return isRefused ? [] : [`${table.name} takes a row without a tenant: ${JSON.stringify(outcome)}`]
    },
  },
  {
    numbers: [9],
    title: 'no row moves to another tenant',
    run: (stage, table) =>
      sum(['', ` where ${tenantOf(table)} = '${RIVAL}'`], async (where) => {
        const query = `update ${table.name} set ${tenantOf(table)} = $1${where}`
        return expectRefused(query, await stage.asRival(query, [VICTIM]))
      }),
  },
  {
    numbers: [10, 11],
    title: "another tenant's rows are neither changed nor deleted",
    async run(stage, table) {
      const row = stage.rows.rowsOf(table, VICTIM)[0] ?? {}
      const byTenant = `${tenantOf(table)} = '${VICTIM}'`
      const changed = changeable(table).length > 0 ? changeable(table) : [findChanged(table)]
      return [
        ...(await sum(changed, async ({ name, canUpdate }) => {
          const query = `update ${table.name} set ${quote(name)} = $1 where ${byTenant}`
          const outcome = await stage.asRival(query, [row[name] ?? null])
          return expectNothing(query, outcome, canUpdate && canReadTenant(table))
        })),
        ...(await sum([byTenant, `${tenantOf(table)}::text like 'aaaa%'`], async (where) => {
          const query = `delete from ${table.name} where ${where}`
          return expectNothing(query, await stage.asRival(query), table.canDelete && canReadTenant(table))
        })),
      ]
    },
  },
  {
    numbers: [12],
    title: 'a change or a deletion without WHERE is of the own rows only',
    async run(stage, table) {
      const column = findChanged(table)
      const value = stage.rows.rowsOf(table, RIVAL)[0]?.[column.name] ?? null
      const statements: [query: string, params: (string | null)[], may: boolean][] = [
        [`update ${table.name} set ${quote(column.name)} = $1`, [value], column.canUpdate],
        [`delete from ${table.name}`, [], table.canDelete],
      ]
      return sum(statements, async ([query, params, may]) => {
        if (!may) return expectRefused(query, await stage.asRival(query, params))
        const before = await stage.snapshot(VICTIM)
        const own = (await stage.snapshot(RIVAL))[table.name]?.length ?? 0
        const outcome = await stage.commitAs(RIVAL, query, params)
        const after = await stage.snapshot(VICTIM)
        await stage.restore()
        return [
          ...expectOutcome(query, outcome, { sqlstate: null, rows: [], count: own }),
          ...(JSON.stringify(after) === JSON.stringify(before) ? [] : [`${query} reached the other tenant's rows`]),
        ]
      })
    },
  },
  {
    numbers: [13, 15, 16],
    title: "another tenant's key is free: an insert or an upsert meets it as it meets one that nobody has",
    run: (stage, table) =>
      sum(table.keys, async ({ name, columns }) => {
        if (KEYS_ACROSS_TENANTS.includes(name)) return []
        const others = columns.filter((key) => key !== table.tenantColumn)
        // the tenant itself is the key: planting, attack 7
        if (others.length === 0) return []
        const target = columns.map(quote).join(', ')
        const changed = quote(findChanged(table).name)
        const endings = [
          '',
          ' on conflict do nothing',
          ` on conflict (${target}) do nothing`,
          ` on conflict (${target}) do update set ${changed} = excluded.${changed}`,
        ]
        return sum(endings, async (ending) => {
          const theirs = stage.rows.rowsOf(table, VICTIM)[0] ?? {}
          const fresh = stage.rows.next(table, RIVAL)
          const colliding = { ...fresh, ...Object.fromEntries(others.map((key) => [key, theirs[key] ?? null])) }
          const [insert, params] = toInsert(table, fresh)
          const free = await stage.asRival(insert + ending, params)
          const taken = await stage.asRival(insert + ending, toInsert(table, colliding)[1])
          const planted = await stage.asRival(
            insert + ending,
            toInsert(table, { ...stage.rows.next(table, VICTIM), ...keyOf(theirs, columns) })[1],
          )
          return [
            ...expectOutcome(`${table.name} by ${name}${ending}`, taken, free),
            ...(canInsert(table) && ending === '' ? expectInserted(table.name, free) : []),
            ...expectRefused(`${table.name} by ${name}${ending}, as the other tenant`, planted),
          ]
        })
      }),
  },
  {
    numbers: [14],
    title: 'MERGE, RETURNING, FOR UPDATE and statements that change rows within others stay inside',
    async run(stage, table) {
      const tenant = tenantOf(table)
      const column = findChanged(table)
      const change = `${quote(column.name)} = null`
      const [canRead, canDelete] = [canReadTenant(table), table.canDelete]
      const onTheirs = `merge into ${table.name} t using (select '${VICTIM}'::uuid as it) v on t.${tenant} = v.it`
      const insert = toInsert(table, stage.rows.next(table, VICTIM))
      const planting = `${onTheirs} when not matched then insert (${namesOf(insertedColumns(table))}) values (${toPlaces(insertedColumns(table))})`
      const changing = [
        [`${onTheirs} when matched then delete`, canRead && canDelete],
        [`${onTheirs} when matched then update set ${change}`, canRead && column.canUpdate],
        [`delete from ${table.name} where ${tenant} = '${VICTIM}' returning 1`, canRead && canDelete],
        [`update ${table.name} set ${change} where ${tenant} = '${VICTIM}' returning 1`, canRead && column.canUpdate],
        [
          `with gone as (delete from ${table.name} where ${tenant} = '${VICTIM}' returning 1) select * from gone`,
          canRead && canDelete,
        ],
      ] as const
      const canLockRows = readable(table).length > 0 && changeable(table).length > 0
      return [
        ...(await sum(changing, async ([query, may]) => expectNothing(query, await stage.asRival(query), may))),
        ...expectRefused(planting, await stage.asRival(planting, insert[1])),
        ...(await sum(['update', 'no key update', 'share', 'key share'], (strength) =>
          stage.compare(
            `${table.name} for ${strength}`,
            [table],
            (t) => `select ${textsOf(readable(table), 't') || '1'} from ${t} t for ${strength}`,
            canLockRows || (readable(table).length > 0 && canDelete),
          ),
        )),
      ]
    },
  },
  {
    numbers: [17, 19],
    title: "a reference to another tenant's row fails as one to no row at all, word for word",
    run: (stage, table) =>
      sum(table.references, async (reference) => {
        const others = reference.columns.filter((name) => name !== table.tenantColumn)
        if (others.length === 0) return []
        const point = async (values: (name: string) => string) => {
          const row = {
            ...stage.rows.next(table, RIVAL),
            ...Object.fromEntries(others.map((name) => [name, values(name)])),
          }
          const [query, params] = toInsert(table, row)
          const outcome = await stage.run(
            APP,
            [enter(RIVAL), { query, params }, { query: 'set constraints all immediate', params: [] }],
            'rollback',
          )
          return JSON.parse(JSON.stringify(outcome).replace(/[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}/g, 'an id'))
        }
        const theirs = stage.rows.rowsOf(table, VICTIM).find((row) => others.every((name) => row[name] !== null)) ?? {}
        const toNobody = await point(() => randomUUID())
        const toTheirs = await point((name) => theirs[name] ?? '')
        const expected = canInsert(table) ? '23503' : REFUSED
        return [
          ...expectOutcome(`${table.name} by ${reference.name}`, toTheirs, toNobody),
          ...(toNobody.sqlstate === expected ? [] : [`${reference.name}: ${toNobody.sqlstate} for nobody's row`]),
        ]
      }),
  },
  {
    numbers: [22, 23],
    title: 'a function or an error in WHERE meets the own rows only',
    run: (stage, table) =>
      sum(readable(table), async ({ name }) => {
        const text = `t.${quote(name)}::text`
        const spied = await stage.run(
          APP,
          [
            enter(RIVAL),
            { query: `select from ${table.name} t where attacks.spy(${text})`, params: [] },
            { query: "select current_setting('attacks.spied', true)", params: [] },
          ],
          'rollback',
        )
        if (spied.sqlstate !== null) return [`${table.name}.${name}: ${spied.words}`]
        const own = stage.rows.rowsOf(table, RIVAL).flatMap((row) => row[name] ?? [])
        const theirs = stage.rows.rowsOf(table, VICTIM).flatMap((row) => row[name] ?? [])
        const secrets = theirs.filter((value) => value.length >= 8 && !own.includes(value))
        const seen = secrets.filter((secret) =>
          spied.rows.some((row) => row.includes(JSON.stringify(secret).slice(1, -1))),
        )
        const bomb = `select from ${table.name} t where 1 / (case when ${text} = any ($1::text[]) then 0 else 1 end) = 1`
        const defused = await stage.asRival(bomb, [toArray(secrets)])
        const isOwn = await stage.asRival(bomb, [toArray(own)])
        return [
          ...(seen.length > 0 ? [`${table.name}.${name} showed ${seen.length} values to a function`] : []),
          ...(defused.sqlstate === null ? [] : [`${table.name}.${name}: ${defused.words} from another's row`]),
          ...(own.length === 0 || isOwn.sqlstate === '22012'
            ? []
            : [`${table.name}.${name}: no error from the own row`]),
        ]
      }),
  },
  {
    numbers: [27],
    title: 'nothing about the table itself can be changed, emptied or referred to',
    async run(stage, table) {
      const column = quote(table.columns[0]?.name ?? '')
      const refused = [
        `truncate ${table.name}`,
        `truncate ${table.name} cascade`,
        `alter table ${table.name} add column planted text`,
        `alter table ${table.name} disable row level security`,
        `alter table ${table.name} no force row level security`,
        `alter table ${table.name} owner to ${APP.role}`,
        `create policy planted on ${table.name} using (true)`,
        `create trigger planted before insert on ${table.name} execute function suppress_redundant_updates_trigger()`,
        `create index planted on ${table.name} (${column})`,
        `create rule planted as on select to ${table.name} do instead select 1`,
        `comment on table ${table.name} is 'planted'`,
        `drop table ${table.name} cascade`,
      ]
      return [
        ...(await sum(refused, async (query) => expectRefused(query, await stage.asRival(query)))),
        ...(table.canLock
          ? []
          : expectRefused(
              `lock ${table.name}`,
              await stage.asRival(`lock table ${table.name} in access exclusive mode`),
            )),
      ]
    },
  },
  {
    numbers: [28],
    title: 'row security cannot be turned off: an error, never rows',
    async run(stage, table) {
      const off: Query = { query: 'set local row_security = off', params: [] }
      const query = `select ${namesOf(readable(table)) || '*'} from ${table.name}`
      return expectRefused(query, await stage.run(APP, [enter(RIVAL), off, { query, params: [] }], 'rollback'))
    },
  },
  {
    numbers: [43],
    title: "a plan that was made for one tenant never answers another's rows",
    async run(stage, table) {
      if (readable(table).length === 0) return []
      const generic: Query = { query: 'set local plan_cache_mode = force_generic_plan', params: [] }
      const read = `select ${textsOf(readable(table), 't')} from ${table.name} t`
      const turns = Array.from({ length: 10 }, (_, turn) => (turn % 2 ? RIVAL : VICTIM))
      // the session used last is used next, so the statement is there
      await stage.run(APP, [enter(VICTIM), { query: `prepare attacked as ${read}`, params: [] }], 'commit')
      try {
        return await sum(turns, async (tenant) => {
          const outcome = await stage.run(
            APP,
            [enter(tenant), generic, { query: 'execute attacked', params: [] }],
            'rollback',
          )
          const truth = await stage.asAdmin(
            `select ${textsOf(readable(table), 't')} from ${table.name} t where t.${tenantOf(table)} = '${tenant}'`,
          )
          return expectOutcome(`${table.name} for ${tenant}`, outcome, truth)
        })
      } finally {
        await stage.run(APP, [{ query: 'deallocate attacked', params: [] }], 'commit')
      }
    },
  },
  {
    numbers: [44],
    title: 'parallel workers are in the same tenant',
    run(stage, table) {
      const settings = ['debug_parallel_query = on', 'parallel_setup_cost = 0', 'parallel_tuple_cost = 0'].map(
        (text) => ({
          query: `set local ${text}`,
          params: [],
        }),
      )
      const texts = textsOf(readable(table), 't') || '1'
      return stage.compare(
        table.name,
        [table],
        (t) => `select ${texts} from ${t} t`,
        readable(table).length > 0,
        [],
        settings,
      )
    },
  },
  {
    numbers: [45],
    title: 'a second permissive policy, added by mistake, opens nothing',
    async run(stage, table) {
      const texts = textsOf(readable(table), 't') || '1'
      const outcome = await stage.run(
        stage.database.admin,
        [
          { query: `create policy mistake on ${table.name} to public using (true) with check (true)`, params: [] },
          { query: `set local role ${APP.role}`, params: [] },
          enter(RIVAL),
          { query: `select ${texts} from ${table.name} t`, params: [] },
        ],
        'rollback',
      )
      if (readable(table).length === 0) return expectRefused(table.name, outcome)
      const truth = await stage.asAdmin(`select ${texts} from ${table.name} t where t.${tenantOf(table)} = '${RIVAL}'`)
      return expectOutcome(table.name, outcome, truth)
    },
  },
]

/** COPY has messages of its own, which the embedded database and Neon's HTTP do not speak. */
export const COPY: TableAttack = {
  numbers: [26],
  title: 'COPY takes out the own rows only, and brings none in',
  async run(stage, table) {
    const client = await stage.connectAsApp()
    try {
      await client.query('begin')
      await client.query("select set_config('app.current_tenant_id', $1, true)", [RIVAL])
      const columns = readable(table).filter(({ isGenerated }) => !isGenerated)
      const what = `${table.name} (${namesOf(columns.length > 0 ? columns : written(table))})`
      await client.query('savepoint attempt')
      const out = await copy(client, `copy ${what} to stdout`)
      await client.query('rollback to savepoint attempt')
      const into = await copy(client, `copy ${what} from stdin`)
      const own = stage.rows.rowsOf(table, RIVAL).length
      return [
        ...(columns.length === 0 && out.sqlstate !== REFUSED ? [`copy ${what} to stdout was not refused`] : []),
        ...(columns.length > 0 && out.lines.length !== (await countOf(stage, table))
          ? [`copy ${what} to stdout: ${out.lines.length} rows, and ${own} are own`]
          : []),
        ...(out.lines.some((line) => line.includes(VICTIM)) ? [`copy ${what} to stdout shows the other tenant`] : []),
        // 0A000: not with row-level security
        ...(into.sqlstate === '0A000' || into.sqlstate === REFUSED
          ? []
          : [`copy ${what} from stdin: ${into.sqlstate}`]),
      ]
    } finally {
      await client.end()
    }
  },
}

async function countOf(stage: Stage, table: Table): Promise<number> {
  return (await stage.snapshot(RIVAL))[table.name]?.length ?? 0
}

async function copy(client: pg.Client, text: string): Promise<{ sqlstate: string | null; lines: string[] }> {
  const chunks: Buffer[] = []
  class Copy extends pg.Query {
    // `pg` calls it for each line, and leaves it out of its types
    handleCopyData({ chunk }: { chunk: Buffer }): void {
      // a copy: `pg` reads the next packet into the same memory
      chunks.push(Buffer.from(chunk))
    }
  }
  const sqlstate = await new Promise<string | null>((resolve, reject) => {
    const query = client.query(new Copy(text))
    query.on('end', () => resolve(null))
    query.on('error', (error) => (error instanceof pg.DatabaseError ? resolve(error.code ?? '') : reject(error)))
  })
  const lines = Buffer.concat(chunks).toString('utf8').split('\n')
  return { sqlstate, lines: lines.filter((line) => line !== '') }
}
