// src/db/schema.ts beside the tables that a database really has, both in the same words.
import { is, type SQL } from 'drizzle-orm'
import { getTableConfig, IndexedColumn, PgDialect, type PgPolicy, PgRole, PgTable } from 'drizzle-orm/pg-core'
import * as schema from '../../src/db/schema.ts'
import type { Connection } from './connection.ts'

export type TableDescription = ReturnType<typeof toDescription>

/** The tables of src/db/schema.ts. */
export function listDeclaredTables(): TableDescription[] {
  return Object.values<unknown>(schema)
    .filter((value) => is(value, PgTable))
    .map(toDescription)
}

/** The tables of the schema public that migrations made, by name. */
export async function listTables(connection: Connection): Promise<string[]> {
  const rows = await connection.query<{ name: string }>(`
    select relname as name from pg_class
    where relnamespace = 'public'::regnamespace and relkind in ('r', 'p') and relname <> 'schema_migrations'
    order by relname`)
  return rows.map(({ name }) => name)
}

/** Where src/db/schema.ts and the database differ, a line each; empty when they agree. */
export async function findSchemaFindings(connection: Connection): Promise<string[]> {
  const declared = listDeclaredTables()
  const names = await listTables(connection)
  const undeclared = names.filter((name) => !declared.some((table) => table.name === name))
  const findings = undeclared.map((name) => `table ${name} is in the database and not in src/db/schema.ts`)
  for (const table of declared) {
    if (!names.includes(table.name)) {
      findings.push(`table ${table.name} is in src/db/schema.ts and not in the database`)
      continue
    }
    const found = await describeTable(connection, table.name)
    if (table.hasRowSecurity !== found.hasRowSecurity) findings.push(`table ${table.name}: row-level security differs`)
    for (const part of ['columns', 'keys', 'foreignKeys', 'checks', 'indexes', 'policies'] as const) {
      const missing = table[part].filter((line) => !found[part].includes(line))
      const extra = found[part].filter((line) => !table[part].includes(line))
      findings.push(
        ...missing.map((line) => `table ${table.name} lacks what src/db/schema.ts says: ${line}`),
        ...extra.map((line) => `table ${table.name} has what src/db/schema.ts does not say: ${line}`),
      )
    }
  }
  return findings
}

/** What schema.ts says of a table, in the words of `describeTable`. */
function toDescription(table: PgTable) {
  const config = getTableConfig(table)
  const inlineKey = config.columns.filter(({ primary }) => primary).map(({ name }) => name)
  return {
    name: config.name,
    hasRowSecurity: config.enableRLS,
    columns: config.columns
      .map((column) => {
        // drizzle writes "numeric(5, 4)" and "timestamp (3)"
        const type = column.getSQLType().replace(', ', ',').replace(' (', '(')
        const value = column.generated ? ' generated' : column.hasDefault ? ' default' : ''
        return `${column.name} ${type}${column.notNull ? ' not null' : ''}${value}`
      })
      .sort(),
    keys: [
      ...(inlineKey.length > 0 ? [toKey('p', `${config.name}_pkey`, inlineKey)] : []),
      ...config.primaryKeys.map((key) => toKey('p', key.getName(), namesOf(key.columns))),
      ...config.uniqueConstraints.map((key) => toKey('u', String(key.getName()), namesOf(key.columns))),
    ].sort(),
    foreignKeys: config.foreignKeys
      .map((key) => {
        const { columns, foreignTable, foreignColumns } = key.reference()
        const target = `${getTableConfig(foreignTable).name} (${namesOf(foreignColumns)})`
        return `${key.getName()} (${namesOf(columns)}) to ${target}, delete: ${key.onDelete ?? 'no action'}, update: ${key.onUpdate ?? 'no action'}`
      })
      .sort(),
    checks: config.checks.map(({ name }) => name).sort(),
    indexes: config.indexes
      .map(({ config: { name, unique, method, where, columns } }) => {
        const words = columns.map((column) => {
          if (!is(column, IndexedColumn)) throw new RangeError('an index on an expression needs a test of its own')
          const { order, nulls } = column.indexConfig
          return `${column.name} ${order} nulls ${nulls}`
        })
        return `${unique ? 'unique ' : ''}${name} ${method} (${words.join(', ')})${where ? ' partial' : ''}`
      })
      .sort(),
    policies: config.policies.map(toPolicy).sort(),
  }
}

function toKey(kind: 'p' | 'u', name: string, columns: string[]): string {
  return `${kind} ${name} (${columns})`
}

function namesOf(columns: { name: string }[]): string[] {
  return columns.map(({ name }) => name)
}

function toPolicy({ name, as, for: command, to, using, withCheck }: PgPolicy): string {
  const role = is(to, PgRole) ? to.name : String(to)
  return `${name} ${as ?? 'permissive'} ${command ?? 'all'} to ${role} using ${toText(using)} check ${toText(withCheck)}`
}

function toText(expression: SQL | undefined): string {
  return expression ? new PgDialect().sqlToQuery(expression).sql : 'nothing'
}

/** What the catalog says of a table, in the words of schema.ts. */
export async function describeTable(connection: Connection, name: string): Promise<TableDescription> {
  const list = async (text: string) =>
    (await connection.query<{ line: string }>(text, [name])).map(({ line }) => line).sort()
  const columnsOf = (relation: string, numbers: string) =>
    `(select string_agg(a.attname, ',' order by n.place) from unnest(${numbers}) with ordinality as n (number, place)
      join pg_attribute a on a.attrelid = ${relation} and a.attnum = n.number)`
  const action = (column: string) =>
    `case ${column} when 'a' then 'no action' when 'r' then 'restrict' when 'c' then 'cascade' when 'n' then 'set null' else 'set default' end`

  const [relation] = await connection.query<{ relrowsecurity: boolean }>(
    `select relrowsecurity from pg_class where relnamespace = 'public'::regnamespace and relname = $1`,
    [name],
  )
  return {
    name,
    hasRowSecurity: relation?.relrowsecurity === true,
    columns: await list(`
      select concat_ws(
        ' ', a.attname, format_type(a.atttypid, a.atttypmod),
        case when a.attcollation <> t.typcollation then format('collate "%s"', l.collname) end,
        case when a.attnotnull then 'not null' end,
        case when a.attgenerated <> '' then 'generated' when a.atthasdef then 'default' end
      ) as line
      from pg_attribute a join pg_type t on t.oid = a.atttypid left join pg_collation l on l.oid = a.attcollation
      where a.attrelid = $1::regclass and a.attnum > 0 and not a.attisdropped`),
    keys: await list(`
      select format('%s %s (%s)', contype, conname, ${columnsOf('conrelid', 'conkey')}) as line
      from pg_constraint where conrelid = $1::regclass and contype in ('p', 'u')`),
    foreignKeys: await list(`
      select format(
        '%s (%s) to %s (%s), delete: %s, update: %s', conname, ${columnsOf('conrelid', 'conkey')},
        confrelid::regclass, ${columnsOf('confrelid', 'confkey')}, ${action('confdeltype')}, ${action('confupdtype')}
      ) as line
      from pg_constraint where conrelid = $1::regclass and contype = 'f'`),
    checks: await list(`
      select conname as line from pg_constraint where conrelid = $1::regclass and contype in ('c', 'x')`),
    // the index of a key is the key's
    indexes: await list(`
      select format(
        '%s%s %s (%s)%s', case when i.indisunique then 'unique ' end, c.relname, m.amname,
        (
          select string_agg(
            format(
              '%s %s nulls %s', pg_get_indexdef(i.indexrelid, place, false),
              case when i.indoption[place - 1] & 1 = 1 then 'desc' else 'asc' end,
              case when i.indoption[place - 1] & 2 = 2 then 'first' else 'last' end
            ), ', ' order by place
          )
          from generate_series(1, i.indnkeyatts::int) as place
        ),
        case when i.indpred is not null then ' partial' end
      ) as line
      from pg_index i join pg_class c on c.oid = i.indexrelid join pg_am m on m.oid = c.relam
      where i.indrelid = $1::regclass and not exists (select from pg_constraint o where o.conindid = i.indexrelid and o.contype in ('p', 'u', 'x'))`),
    policies: await list(`
      select format(
        '%s %s %s to %s using %s check %s', policyname, lower(permissive), lower(cmd), array_to_string(roles, ','),
        coalesce(regexp_replace(qual, '^\\((.*)\\)$', '\\1'), 'nothing'),
        coalesce(regexp_replace(with_check, '^\\((.*)\\)$', '\\1'), 'nothing')
      ) as line
      from pg_policies where schemaname = 'public' and tablename = $1`),
  }
}
