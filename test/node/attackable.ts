// What can be attacked in a database, read from its catalog: tables with their columns, keys and
// references, what a login may do with each, and rows for every tenant, made from the columns' types.
import { randomBytes, randomUUID } from 'node:crypto'
import type { Connection } from '../../scripts/database/connection.ts'
import { findSqlState } from '../../scripts/database/transaction.ts'

export interface Column {
  name: string
  /** As PostgreSQL writes it: "numeric(5,4)", "text[]". */
  type: string
  enumLabels: string[]
  isNotNull: boolean
  hasDefault: boolean
  /** Computed or counted by the database: nobody writes it. */
  isGenerated: boolean
  canSelect: boolean
  canInsert: boolean
  canUpdate: boolean
}

/** A foreign key; `parent` is the name of a `Table`. */
export interface Reference {
  name: string
  columns: string[]
  parent: string
  parentColumns: string[]
  isDeferrable: boolean
}

export interface Table {
  /** Schema and name, quoted where they must be. */
  name: string
  /** `relkind`: r and p are tables, v and m views, f foreign. */
  kind: string
  /** Says whose a row is; null where rows are of no tenant. */
  tenantColumn: string | null
  columns: Column[]
  /** Primary and unique. */
  keys: { name: string; columns: string[] }[]
  references: Reference[]
  checks: { name: string; columns: string[]; definition: string }[]
  canDelete: boolean
  /** More than a lock of its own rows: PostgreSQL grants it with UPDATE, DELETE or TRUNCATE on the table. */
  canLock: boolean
  /** Any right at all, on the whole or on a column. */
  isReachable: boolean
}

/** Values as PostgreSQL writes and reads them. */
export type Row = Record<string, string | null>

/** What keeps rows of its own: neither a view nor a foreign table. */
export function isTable({ kind }: Table): boolean {
  return kind === 'r' || kind === 'p'
}

/** For the places where no parameter can stand; the name is from the catalog. */
export function quote(name: string): string {
  return `"${name.replaceAll('"', '""')}"`
}

/** Parameters for the columns of an insert; they travel as text. */
export function toPlaces(columns: Column[]): string {
  return columns.map(({ type }, index) => `$${index + 1}::text::${type}`).join(', ')
}

/** Everything that holds rows, but for PostgreSQL's own; parents before what refers to them. */
export async function listAttackable(admin: Connection, login: string): Promise<Table[]> {
  const tables = await admin.query<Table>(
    `with relations as (
      select c.oid, c.relkind, format('%I.%I', n.nspname, c.relname) as name,
        has_schema_privilege($1, n.oid, 'usage') as is_visible
      from pg_class c join pg_namespace n on n.oid = c.relnamespace
      where c.relkind in ('r', 'p', 'v', 'm', 'f') and n.nspname <> 'information_schema' and n.nspname !~ '^pg_'
        and not exists (select from pg_depend d where d.classid = 'pg_class'::regclass and d.objid = c.oid and d.deptype = 'e')
    ), roots as (
      -- what the tenant_id of other tables refers to
      select distinct o.confrelid as oid, parent.attname as column
      from pg_constraint o
      join pg_attribute own on own.attrelid = o.conrelid and own.attnum = o.conkey[1]
      join pg_attribute parent on parent.attrelid = o.confrelid and parent.attnum = o.confkey[1]
      where o.contype = 'f' and cardinality(o.conkey) = 1 and own.attname = 'tenant_id'
    ), names as (
      select o.oid,
        array(select a.attname::text from unnest(o.conkey) with ordinality k(num, place)
          join pg_attribute a on a.attrelid = o.conrelid and a.attnum = k.num order by place) as columns,
        array(select a.attname::text from unnest(o.confkey) with ordinality k(num, place)
          join pg_attribute a on a.attrelid = o.confrelid and a.attnum = k.num order by place) as parent_columns
      from pg_constraint o
    )
    select
      r.name, r.relkind as kind,
      coalesce(
        (select 'tenant_id' from pg_attribute a where a.attrelid = r.oid and a.attname = 'tenant_id' and not a.attisdropped),
        (select s.column::text from roots s where s.oid = r.oid)
      ) as "tenantColumn",
      (
        select coalesce(json_agg(json_build_object(
          'name', a.attname, 'type', format_type(a.atttypid, a.atttypmod),
          'enumLabels', array(select e.enumlabel from pg_enum e where e.enumtypid = a.atttypid order by e.enumsortorder),
          'isNotNull', a.attnotnull, 'hasDefault', a.atthasdef,
          'isGenerated', a.attgenerated <> '' or a.attidentity <> '',
          'canSelect', r.is_visible and has_column_privilege($1, r.oid, a.attnum, 'select'),
          'canInsert', r.is_visible and has_column_privilege($1, r.oid, a.attnum, 'insert'),
          'canUpdate', r.is_visible and has_column_privilege($1, r.oid, a.attnum, 'update')
        ) order by a.attnum), '[]')
        from pg_attribute a where a.attrelid = r.oid and a.attnum > 0 and not a.attisdropped
      ) as columns,
      (
        select coalesce(json_agg(json_build_object('name', i.indexrelid::regclass::text, 'columns', array(
          select a.attname from unnest(i.indkey::int2[]) with ordinality k(num, place)
          join pg_attribute a on a.attrelid = r.oid and a.attnum = k.num where place <= i.indnkeyatts order by place
        ))), '[]')
        from pg_index i where i.indrelid = r.oid and i.indisunique
      ) as keys,
      (
        select coalesce(json_agg(json_build_object(
          'name', o.conname, 'columns', m.columns, 'parentColumns', m.parent_columns,
          'parent', (select p.name from relations p where p.oid = o.confrelid), 'isDeferrable', o.condeferrable
        )), '[]')
        from pg_constraint o join names m on m.oid = o.oid where o.conrelid = r.oid and o.contype = 'f'
      ) as "references",
      (
        select coalesce(json_agg(json_build_object(
          'name', o.conname, 'columns', m.columns, 'definition', pg_get_constraintdef(o.oid)
        )), '[]')
        from pg_constraint o join names m on m.oid = o.oid where o.conrelid = r.oid and o.contype = 'c'
      ) as checks,
      r.is_visible and has_table_privilege($1, r.oid, 'delete') as "canDelete",
      r.is_visible and has_table_privilege($1, r.oid, 'update, delete, truncate') as "canLock",
      r.is_visible and (
        has_table_privilege($1, r.oid, 'select, insert, update, delete, truncate, references, trigger')
        or has_any_column_privilege($1, r.oid, 'select, insert, update, references')
      ) as "isReachable"
    from relations r
    order by r.name`,
    [login],
  )
  return parentsFirst(tables)
}

function parentsFirst(tables: Table[]): Table[] {
  const sorted: Table[] = []
  while (sorted.length < tables.length) {
    const isPlaced = (name: string) => sorted.some((table) => table.name === name)
    const next = tables.filter(
      ({ name, references }) =>
        !isPlaced(name) && references.every(({ parent }) => parent === name || isPlaced(parent)),
    )
    if (next.length === 0) {
      const left = tables.filter(({ name }) => !isPlaced(name)).map(({ name }) => name)
      throw new Error(`${left.join(', ')} refer to one another in a circle: teach test/node/attackable.ts to fill them`)
    }
    sorted.push(...next)
  }
  return sorted
}

// == Rows ==

/** What one constraint forbids another may allow: far more attempts than any present table needs. */
const MAX_ATTEMPTS = 300
const CHECK_VIOLATION = '23514'

/** Makes rows of any table for any tenant; every row differs from all others in its keys. */
export class RowMaker {
  readonly #admin: Connection
  /** For each table, which of the candidates of each column passed its constraints. */
  readonly #choices = new Map<string, Record<string, number>>()
  /** By table and tenant. Tables of no tenant have rows for each as well, so that theirs can refer to them. */
  readonly #rows = new Map<string, Row[]>()
  #serial = 0

  /** @param admin bound by no policy */
  constructor(admin: Connection) {
    this.#admin = admin
  }

  /** The rows that were made for a tenant, as they are in the table. */
  rowsOf(table: Table, tenant: string): Row[] {
    return this.#rows.get(`${table.name} ${tenant}`) ?? []
  }

  /** Gives every table rows of a tenant: as many as asked for, or one where the key allows only one. */
  async fill(tables: Table[], tenant: string, count: number): Promise<void> {
    for (const table of tables) {
      // a view has the rows of its tables
      if (!isTable(table) || this.rowsOf(table, tenant).length > 0 || (await this.#isFilledByOthers(table))) continue
      const isOneEach = table.keys.some(({ columns }) => columns.every((name) => name === table.tenantColumn))
      for (let index = 0; index < (isOneEach ? 1 : count); index++) await this.#insert(table, tenant)
    }
  }

  /** What the database has without us: the record of its migrations. */
  async #isFilledByOthers({ name, tenantColumn }: Table): Promise<boolean> {
    if (tenantColumn !== null || this.#choices.has(name)) return false
    const [found] = await this.#admin.query<{ any: boolean }>(`select exists (select from ${name}) as any`)
    return found?.any ?? false
  }

  /** Erases what a tenant has, and what was made for it in tables of no tenant; children first. */
  async clear(tables: Table[], tenant: string): Promise<void> {
    for (const table of tables.filter(isTable).toReversed()) {
      if (table.tenantColumn !== null) {
        await this.#admin.query(`delete from ${table.name} where ${quote(table.tenantColumn)} = $1`, [tenant])
      } else {
        const key = table.keys[0]?.columns ?? []
        const isIt = key.map((name, index) => `${quote(name)}::text = $${index + 1}`).join(' and ') || 'false'
        for (const row of this.rowsOf(table, tenant)) {
          await this.#admin.query(
            `delete from ${table.name} where ${isIt}`,
            key.map((name) => row[name] ?? null),
          )
        }
      }
      this.#rows.delete(`${table.name} ${tenant}`)
    }
  }

  /**
   * A row that the table would take: of the tenant, referring to the tenant's own rows.
   *
   * @throws Error when no row of this table was made before
   */
  next(table: Table, tenant: string): Row {
    const choice = this.#choices.get(table.name)
    if (!choice) throw new Error(`${table.name} has no row yet`)
    return this.#make(table, tenant, choice)
  }

  async #insert(table: Table, tenant: string): Promise<void> {
    const choice = this.#choices.get(table.name) ?? {}
    let refusal = ''
    for (let attempt = 0; attempt < MAX_ATTEMPTS; attempt++) {
      const row = this.#make(table, tenant, choice)
      const columns = table.columns.filter(({ name }) => name in row)
      try {
        const [inserted] = await this.#admin.query<Row>(
          `insert into ${table.name} (${columns.map(({ name }) => quote(name)).join(', ')})
           values (${toPlaces(columns)})
           returning ${table.columns.map(({ name }) => `${quote(name)}::text`).join(', ')}`,
          columns.map(({ name }) => row[name] ?? null),
        )
        if (!inserted) throw new RangeError('an insert answered no row')
        this.#choices.set(table.name, choice)
        this.#rows.set(`${table.name} ${tenant}`, [...this.rowsOf(table, tenant), inserted])
        return
      } catch (error) {
        refusal = error instanceof Error ? error.message : String(error)
        const violated = table.checks.find(({ name }) => refusal.includes(`"${name}"`))
        if (findSqlState(error) !== CHECK_VIOLATION || !violated) break
        if (!advance(table, choice, violated.columns)) break
      }
    }
    throw new Error(
      `${table.name} cannot be filled with a row, so it cannot be attacked: ${refusal}. ` +
        'Add a value that it takes to toCandidates in test/node/attackable.ts.',
    )
  }

  #make(table: Table, tenant: string, choice: Record<string, number>): Row {
    this.#serial++
    const row: Row = {}
    for (const column of table.columns) {
      if (column.isGenerated) continue
      const candidates = toCandidates(table, column, this.#serial)
      row[column.name] = candidates[(choice[column.name] ?? 0) % candidates.length] ?? null
    }
    for (const reference of table.references) {
      const parent = this.#findParent(table, reference, tenant)
      for (const [index, name] of reference.columns.entries()) {
        row[name] = parent?.[reference.parentColumns[index] ?? ''] ?? null
      }
    }
    if (table.tenantColumn !== null) row[table.tenantColumn] = tenant
    return row
  }

  /** The first row of a table that refers to itself has no parent. */
  #findParent(table: Table, reference: Reference, tenant: string): Row | undefined {
    const parents = this.#rows.get(`${reference.parent} ${tenant}`) ?? []
    if (parents.length === 0 && reference.parent !== table.name) {
      throw new Error(`${reference.parent}, to which ${table.name} refers, has no row`)
    }
    // one after the other: a table of references alone has no other key
    return parents[this.rowsOf(table, tenant).length % parents.length]
  }
}

/** Takes the next combination for the columns of a constraint; false after the last. */
function advance(table: Table, choice: Record<string, number>, names: string[]): boolean {
  for (const name of names) {
    const column = table.columns.find((found) => found.name === name)
    if (!column || column.isGenerated) continue
    const place = (choice[name] ?? 0) + 1
    choice[name] = place % toCandidates(table, column, 0).length
    if (choice[name] !== 0) return true
  }
  return false
}

/**
 * Values worth trying for a column, the likeliest first: the words in its constraints are among them.
 *
 * @param serial makes the values of one row differ from another's
 */
function toCandidates(table: Table, column: Column, serial: number): (string | null)[] {
  const definitions = table.checks.filter(({ columns }) => columns.includes(column.name))
  const literals = definitions.flatMap(({ definition }) =>
    [...definition.matchAll(/'((?:[^']|'')*)'/g)].map(([, text = '']) => text.replaceAll("''", "'")),
  )
  const lengths = definitions.flatMap(({ definition }) =>
    [...definition.matchAll(/octet_length\((\w+)\) = (\d+)/g)].flatMap(([, name, length]) =>
      name === column.name ? Number(length) : [],
    ),
  )
  const values = valuesOf(table, column, serial, literals, lengths)
  if (column.isNotNull) return values
  // a moment that may be null has not come yet: no key is revoked, no tenant is being erased
  return column.type.startsWith('timestamp') ? [null, ...values] : [...values, null]
}

function valuesOf(
  table: Table,
  { name, type, enumLabels, hasDefault }: Column,
  serial: number,
  literals: string[],
  lengths: number[],
): string[] {
  if (enumLabels.length > 0) return enumLabels
  const [, kind = '', size = ''] = /^([a-z ]+?)(?:\((\d+)[,\d]*\))?( with(?:out)? time zone)?(\[\])?$/.exec(type) ?? []
  if (type.endsWith('[]')) return [...(kind === 'text' ? literals.map((literal) => `{"${literal}"}`) : []), '{}']
  switch (kind) {
    case 'uuid':
      return [randomUUID()]
    case 'text':
    case 'character varying': {
      const month = `${2000 + (serial % 100)}-${String(1 + (Math.floor(serial / 100) % 12)).padStart(2, '0')}`
      return [`sample-${serial}`, ...literals, month, `https://sample-${serial}.test/`]
    }
    case 'boolean':
      // with a default: is_active, and a tenant that is not could do nothing
      return serial % 2 || hasDefault ? ['true', 'false'] : ['false', 'true']
    case 'smallint':
    case 'integer':
    case 'bigint':
      // a number in a key is another one in each row
      if (table.keys.some(({ columns }) => columns.includes(name))) return [String(1 + (serial % 30_000))]
      return ['1', '0']
    case 'numeric':
    case 'real':
    case 'double precision':
      return ['1', '0']
    case 'timestamp':
    case 'date':
      return [new Date().toISOString()]
    case 'json':
    case 'jsonb':
      return ['{}', `{"sample": ${serial}}`, '[]']
    case 'bytea':
      // sealed copies and wrapped keys begin with their format and a number, both 1 here
      return [...lengths, 32, 16, 12, 64].map((length) => `\\x010001${randomBytes(length - 3).toString('hex')}`)
    case 'bit':
      return [serial.toString(2).padStart(Number(size), '0')]
    case 'vector':
      // a unit vector along one axis
      return [
        JSON.stringify(Array.from({ length: Number(size) }, (_, axis) => (axis === serial % Number(size) ? 1 : 0))),
      ]
    default:
      throw new Error(
        `${table.name}.${name} is ${type}: teach toCandidates in test/node/attackable.ts a value of that type`,
      )
  }
}
