// What a database holds, counted: rows for each table and tenant, and a checksum that does not depend on
// their order. Of a database by SQL, of a dump by reading what pg_restore would send.
import type { Readable } from 'node:stream'
import type { Connection } from './connection.ts'

export interface TableInventory {
  rows: number
  /** The sum of a 64-bit hash of each row, decimal. */
  checksum: string
  /** Rows of each tenant; null for a table that belongs to none. */
  tenants: Record<string, number> | null
}

/** By the table's name with its schema, quoted as PostgreSQL does. */
export type Inventory = Record<string, TableInventory>

/** Rows of a table by tenant; by `NO_TENANT` for those that have none. */
export type RowCounts = Map<string, Map<string, number>>

export const NO_TENANT = ''

/** The schema of the wrapped keys, which no dump holds. */
export const VAULT = 'vault'

/** The same text for the same value in every session. */
const SETTINGS = `
  set local search_path = public;
  set local timezone = 'UTC';
  set local datestyle = 'ISO';
  set local intervalstyle = 'postgres';
  set local bytea_output = 'hex';
  set local extra_float_digits = 1;
  -- an error instead of fewer rows, for a role that the policies bind
  set local row_security = off;
  set local lock_timeout = '10s';
  set local statement_timeout = '1h';
  -- PostgreSQL's programs work meanwhile
  set local idle_in_transaction_session_timeout = '6h'`

/**
 * Runs work in a transaction that sees one state of the database, changes nothing, and is bound by no
 * policy in silence.
 *
 * @param role to work as; the administrator when null
 */
export async function inSnapshot<Result>(
  connection: Connection,
  role: 'rekko_backup' | null,
  work: () => Promise<Result>,
): Promise<Result> {
  await connection.execute('begin isolation level repeatable read read only')
  try {
    await connection.execute(SETTINGS)
    if (role) await connection.execute(`set local role ${role}`)
    return await work()
  } finally {
    // after a lost connection there is nothing to roll back
    await connection.execute('rollback').catch(() => {})
  }
}

/** A table whose rows a dump holds. */
export interface CountedTable {
  name: string
  /** The column that says whose a row is, quoted; null when there is none. */
  tenantColumn: string | null
  /** SQL: the row as text. */
  rowText: string
}

/** Every table with rows of its own, except those of the vault, of extensions and of the system. */
export async function listTables(connection: Connection): Promise<CountedTable[]> {
  // a vector's own bytes are shorter than its text, and exact
  return connection.query<CountedTable>(`
    select
      format('%I.%I', n.nspname, c.relname) as "name",
      max(quote_ident(a.attname)) filter (
        where a.attname = case when c.oid = to_regclass('public.tenants') then 'id' else 'tenant_id' end
      ) as "tenantColumn",
      format('row(%s)::text', string_agg(
        case when t.typname = 'vector' then format('sha256(%s(t.%I))', t.typsend, a.attname) else format('t.%I', a.attname) end,
        ', ' order by a.attnum
      )) as "rowText"
    from pg_class c
    join pg_namespace n on n.oid = c.relnamespace
    join pg_attribute a on a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped
    join pg_type t on t.oid = a.atttypid
    where c.relkind = 'r' and n.nspname !~ '^pg_' and n.nspname not in ('information_schema', '${VAULT}')
      and not exists (select from pg_depend d where d.classid = 'pg_class'::regclass and d.objid = c.oid and d.deptype = 'e')
    group by c.oid, n.nspname, c.relname
    order by 1`)
}

/** @param report called after each table with its rows */
export async function takeInventory(
  connection: Connection,
  tables: CountedTable[],
  report: (rows: number) => void = () => {},
): Promise<Inventory> {
  const inventory: Inventory = {}
  for (const { name, tenantColumn, rowText } of tables) {
    // the names were quoted by PostgreSQL
    const groups = await connection.query<{ tenant: string; rows: string; checksum: string }>(`
      select coalesce(${tenantColumn ? `t.${tenantColumn}::text` : 'null'}, '${NO_TENANT}') as tenant,
        count(*)::text as rows, sum(hashtextextended(${rowText} collate "C", 0))::text as checksum
      from ${name} as t group by 1 order by 1`)
    const rows = groups.reduce((sum, group) => sum + Number(group.rows), 0)
    inventory[name] = {
      rows,
      checksum: String(groups.reduce((sum, group) => sum + BigInt(group.checksum), 0n)),
      tenants: tenantColumn ? Object.fromEntries(groups.map((group) => [group.tenant, Number(group.rows)])) : null,
    }
    report(rows)
  }
  return inventory
}

export function countRows(inventory: Inventory): number {
  return Object.values(inventory).reduce((sum, { rows }) => sum + rows, 0)
}

/** What differs, a sentence each; empty when nothing does. */
export function compareInventories(expected: Inventory, found: Inventory): string[] {
  const differences = compareCounts(expected, toCounts(found))
  for (const [name, { rows, checksum }] of Object.entries(expected)) {
    const other = found[name]
    if (other && other.rows !== rows) differences.push(`${name}: ${other.rows} rows instead of ${rows}`)
    else if (other && other.checksum !== checksum) differences.push(`${name}: the rows are not the same (checksum)`)
  }
  return differences
}

/** As compareInventories, where only counts are known. */
export function compareCounts(expected: Inventory, found: RowCounts): string[] {
  const counts = toCounts(expected)
  const differences: string[] = []
  for (const name of new Set([...counts.keys(), ...found.keys()])) {
    const wanted = counts.get(name)
    if (!wanted) {
      differences.push(`${name}: not expected`)
      continue
    }
    const there = found.get(name) ?? new Map<string, number>()
    for (const tenant of new Set([...wanted.keys(), ...there.keys()])) {
      const [before, after] = [wanted.get(tenant) ?? 0, there.get(tenant) ?? 0]
      if (before !== after) {
        differences.push(`${name}${tenant && ` of tenant ${tenant}`}: ${after} rows instead of ${before}`)
      }
    }
  }
  return differences
}

function toCounts(inventory: Inventory): RowCounts {
  return new Map(
    Object.entries(inventory).map(([name, { rows, tenants }]) => [
      name,
      new Map(Object.entries(tenants ?? { [NO_TENANT]: rows }).filter(([, count]) => count > 0)),
    ]),
  )
}

const NEWLINE = 10
const TAB = 9
const END_OF_COPY = '\\.'

/**
 * Counts the rows in the script that `pg_restore --data-only` writes. Within COPY's text format each row
 * is one line, because a line feed in a value is written as \n, and so is a tab.
 */
export async function countCopiedRows(script: Readable, tables: CountedTable[]): Promise<RowCounts> {
  const byName = new Map(tables.map((table) => [table.name, table]))
  const counts: RowCounts = new Map()
  let current: { counts: Map<string, number>; tenantIndex: number } | null = null
  let rest: Buffer = Buffer.alloc(0)

  const take = (line: Buffer) => {
    if (!current) {
      const [, name, columns] = /^COPY (.+?) \((.*)\) FROM stdin;$/.exec(line.toString()) ?? []
      if (name === undefined || columns === undefined) return
      const tenantColumn = byName.get(name)?.tenantColumn
      const ofTable = counts.get(name) ?? new Map<string, number>()
      counts.set(name, ofTable)
      current = { counts: ofTable, tenantIndex: tenantColumn ? columns.split(', ').indexOf(tenantColumn) : -1 }
      return
    }
    if (line.length === END_OF_COPY.length && line.toString() === END_OF_COPY) {
      current = null
      return
    }
    const tenant = current.tenantIndex < 0 ? NO_TENANT : findCell(line, current.tenantIndex)
    current.counts.set(tenant, (current.counts.get(tenant) ?? 0) + 1)
  }

  for await (const chunk of script) {
    // a stream without an encoding yields buffers
    const bytes = Buffer.concat([rest, chunk as Buffer])
    let start = 0
    for (let end = bytes.indexOf(NEWLINE); end >= 0; end = bytes.indexOf(NEWLINE, start)) {
      take(bytes.subarray(start, end))
      start = end + 1
    }
    rest = bytes.subarray(start)
  }
  return counts
}

function findCell(line: Buffer, index: number): string {
  let start = 0
  for (let cell = 0; cell < index; cell++) start = line.indexOf(TAB, start) + 1
  const end = line.indexOf(TAB, start)
  const text = line.toString('utf8', start, end < 0 ? line.length : end)
  return text === '\\N' ? NO_TENANT : text
}
