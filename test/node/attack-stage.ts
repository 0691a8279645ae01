// Where the attacks happen: two tenants with rows in every table, and one transaction at a time, as the
// Worker's login or as somebody who sees all.
import pg from 'pg'
import { DEVELOPMENT_PASSWORDS } from '../../scripts/database/development.ts'
import { migrate } from '../../scripts/database/migrate.ts'
import { type Backend, type Credentials, type Query, QueryError } from '../../scripts/neon-endpoint/backend.ts'
import { type Column, isTable, listAttackable, quote, type Row, RowMaker, type Table, toPlaces } from './attackable.ts'
import { createDatabase, type FreshDatabase } from './database.ts'

export const VICTIM = 'aaaaaaaa-0000-4000-8000-00000000000a'
export const RIVAL = 'bbbbbbbb-0000-4000-8000-00000000000b'
export const APP: Credentials = { role: 'rekko_app', password: DEVELOPMENT_PASSWORDS.rekko_app }
export const REFUSED = '42501'

/** What a statement did: `rows` as JSON, sorted. */
export type Outcome = { sqlstate: string; words: string } | { sqlstate: null; rows: string[]; count: number | null }

export const enter = (tenant: string): Query => ({
  query: "select set_config('app.current_tenant_id', $1, true)",
  params: [tenant],
})

export class Stage {
  readonly database: FreshDatabase
  readonly backend: Backend
  readonly rows: RowMaker
  tables: Table[] = []

  private constructor(database: FreshDatabase) {
    this.database = database
    this.backend = database.openBackend()
    this.rows = new RowMaker(database.connection)
  }

  static async build(): Promise<Stage> {
    const database = await createDatabase()
    await migrate(database.connection)
    const stage = new Stage(database)
    try {
      await createPlayground(database)
      await stage.readCatalog()
    } catch (error) {
      // a table that cannot be filled: nobody else would close it
      await stage.close()
      throw error
    }
    return stage
  }

  async close(): Promise<void> {
    await this.backend.close()
    await this.database.drop()
  }

  /** Reads the tables anew, and gives those that are new their rows. */
  async readCatalog(): Promise<void> {
    this.tables = await listAttackable(this.database.connection, APP.role)
    await this.restore()
  }

  ofTenants(): Table[] {
    return this.tables.filter((table) => isTable(table) && table.tenantColumn !== null)
  }

  /** @throws RangeError when there is no such table */
  find(name: string, schema = 'public'): Table {
    const table = this.tables.find((found) => found.name === `${schema}.${name}`)
    if (!table) throw new RangeError(`there is no table ${schema}.${name}`)
    return table
  }

  /** More rows for the victim than for the rival, so that a count tells whose they are. */
  async restore(): Promise<void> {
    for (const tenant of [VICTIM, RIVAL]) {
      await this.rows.clear(this.tables, tenant)
      await this.rows.fill(this.tables, tenant, tenant === VICTIM ? 3 : 2)
    }
  }

  /** Runs statements as one transaction; answers what the last of them did. */
  async run(credentials: Credentials, statements: Query[], end: 'commit' | 'rollback'): Promise<Outcome> {
    try {
      const all = end === 'rollback' ? [...statements, { query: 'rollback', params: [] }] : statements
      const result = (await this.backend.transact(credentials, 'begin', all))[statements.length - 1]
      const found = (result?.rows ?? []).map((row) => JSON.stringify(row)).sort()
      return { sqlstate: null, rows: found, count: result?.rowCount ?? null }
    } catch (error) {
      if (!(error instanceof QueryError)) throw error
      const { code, ...rest } = error.refusal
      return { sqlstate: code ?? '', words: JSON.stringify(rest) }
    }
  }

  /** One statement of the rival, rolled back. */
  asRival(query: string, params: (string | null)[] = []): Promise<Outcome> {
    return this.run(APP, [enter(RIVAL), { query, params }], 'rollback')
  }

  commitAs(tenant: string, query: string, params: (string | null)[] = []): Promise<Outcome> {
    return this.run(APP, [enter(tenant), { query, params }], 'commit')
  }

  /** The Worker's login before it has entered a tenant. */
  asNobody(query: string): Promise<Outcome> {
    return this.run(APP, [{ query, params: [] }], 'rollback')
  }

  asAdmin(query: string, params: (string | null)[] = []): Promise<Outcome> {
    return this.run(this.database.admin, [{ query, params }], 'rollback')
  }

  /** A session of its own as the Worker's login; native only. */
  async connectAsApp(): Promise<pg.Client> {
    const url = new URL(this.database.url)
    url.username = APP.role
    url.password = APP.password
    const client = new pg.Client({ connectionString: url.href, connectionTimeoutMillis: 15_000 })
    await client.connect()
    return client
  }

  /** Everything a tenant has, by table. */
  async snapshot(tenant: string): Promise<Record<string, string[]>> {
    const all: Record<string, string[]> = {}
    for (const table of this.ofTenants()) {
      const found = await this.database.connection.query<{ line: string }>(
        `select to_jsonb(t)::text as line from ${table.name} t where t.${tenantOf(table)} = $1 order by 1`,
        [tenant],
      )
      all[table.name] = found.map(({ line }) => line)
    }
    return all
  }

  /**
   * Asks as the rival, and as somebody who sees all but is given the rival's rows only: the two must agree.
   *
   * @param ask writes the question of the sources, in the order of `asked`
   * @param may whether the login has the privileges for it; if not, it must be refused
   */
  async compare(
    what: string,
    asked: Table[],
    ask: (...sources: string[]) => string,
    may: boolean,
    params: string[] = [],
    settings: Query[] = [],
  ): Promise<string[]> {
    const question = ask(...asked.map(({ name }) => name))
    const outcome = await this.run(APP, [...settings, enter(RIVAL), { query: question, params }], 'rollback')
    if (!may) return expectRefused(what, outcome)
    const own = ask(...asked.map((table) => `(select * from ${table.name} where ${tenantOf(table)} = '${RIVAL}')`))
    const truth = await this.asAdmin(own, params)
    if (truth.sqlstate !== null) throw new Error(`${what}: the question itself is wrong: ${truth.words}\n${own}`)
    return expectOutcome(what, outcome, truth)
  }
}

/** A schema where the tests may put what the product must not have. */
async function createPlayground(database: FreshDatabase): Promise<void> {
  await database.connection.execute(`
    create schema if not exists attacks;
    grant usage on schema attacks to ${APP.role};
    -- cheap, so that the planner would love to ask it first
    create or replace function attacks.spy(secret text) returns boolean language plpgsql volatile cost 0.0000001 as $$
    begin
      perform set_config('attacks.spied', coalesce(current_setting('attacks.spied', true), '') || ' ' || secret, true);
      return false;
    end $$;
    grant execute on function attacks.spy(text) to ${APP.role}`)
}

// == Words for an attack ==

export function tenantOf({ name, tenantColumn }: Table): string {
  if (tenantColumn === null) throw new RangeError(`${name} is of no tenant`)
  return quote(tenantColumn)
}

export const namesOf = (columns: Column[]) => columns.map(({ name }) => quote(name)).join(', ')
export const textsOf = (columns: Column[], alias: string) =>
  columns.map(({ name }) => `${alias}.${quote(name)}::text`).join(', ')
export const readable = (table: Table) => table.columns.filter(({ canSelect }) => canSelect)
export const written = (table: Table) => table.columns.filter(({ isGenerated }) => !isGenerated)
export const changeable = (table: Table) => written(table).filter(({ canUpdate }) => canUpdate)
export const isOfKey = (table: Table, column: Column) => table.keys.some(({ columns }) => columns.includes(column.name))
export const canReadTenant = (table: Table) => readable(table).some(({ name }) => name === table.tenantColumn)

/** Whether the login may insert whole rows. */
export function canInsert(table: Table): boolean {
  const required = written(table).filter(({ isNotNull, hasDefault }) => isNotNull && !hasDefault)
  return required.every((column) => column.canInsert) && written(table).some((column) => column.canInsert)
}

/** The columns that an insert names: those that the login may write, or all where that is hopeless anyway. */
export function insertedColumns(table: Table): Column[] {
  return canInsert(table) ? written(table).filter((column) => column.canInsert) : written(table)
}

export function toInsert(
  table: Table,
  row: Row,
  columns = insertedColumns(table),
): [query: string, params: (string | null)[]] {
  return [
    `insert into ${table.name} (${namesOf(columns)}) values (${toPlaces(columns)})`,
    columns.map(({ name }) => row[name] ?? null),
  ]
}

/** A column to change: one that the login may, and that is in no key, where there is one. */
export function findChanged(table: Table): Column {
  const plain = (columns: Column[]) => columns.filter((column) => !isOfKey(table, column))
  const column = [...plain(changeable(table)), ...changeable(table), ...plain(written(table)), ...written(table)][0]
  if (!column) throw new Error(`${table.name} has no column to change, so it cannot be attacked`)
  return column
}

/** What is wrong with an outcome; nothing when it is the expected one. */
export function expectOutcome(what: string, outcome: Outcome, expected: Outcome): string[] {
  const [was, wanted] = [outcome, expected].map((side) => JSON.stringify(side).slice(0, 300))
  return JSON.stringify(outcome) === JSON.stringify(expected) ? [] : [`${what}: ${was} and not ${wanted}`]
}

export function expectRefused(what: string, outcome: Outcome): string[] {
  return outcome.sqlstate === REFUSED ? [] : [`${what}: ${JSON.stringify(outcome).slice(0, 300)} and no refusal`]
}

/** No row touched where the login may try, and a refusal where it may not. */
export function expectNothing(what: string, outcome: Outcome, may: boolean): string[] {
  if (!may) return expectRefused(what, outcome)
  const isNothing = outcome.sqlstate === null && outcome.count === 0 && outcome.rows.length === 0
  return isNothing ? [] : [`${what}: ${JSON.stringify(outcome).slice(0, 300)} and not 0 rows`]
}

export function keyOf(row: Row, columns: string[]): Row {
  return Object.fromEntries(columns.map((name) => [name, row[name] ?? null]))
}

export function expectInserted(what: string, outcome: Outcome): string[] {
  return expectOutcome(what, outcome, { sqlstate: null, rows: [], count: 1 })
}

/** Text of a text[]. */
export function toArray(values: string[]): string {
  return `{${values.map((value) => `"${value.replaceAll('\\', '\\\\').replaceAll('"', '\\"')}"`).join(',')}}`
}

export async function sum<Item>(items: readonly Item[], work: (item: Item) => Promise<string[]>): Promise<string[]> {
  const failures: string[] = []
  for (const item of items) failures.push(...(await work(item)))
  return failures
}
