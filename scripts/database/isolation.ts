// Whether tenants can see each other, tried on a database with rows as the login of the Worker. Every
// attempt is rolled back.
import type { Connection } from './connection.ts'
import { type Inventory, NO_TENANT } from './inventory.ts'

interface WalledTable {
  name: string
  tenantColumn: string
  /** Those that rekko_app may read and write. */
  columns: string[]
  canSelect: boolean
  canInsert: boolean
  canDelete: boolean
}

const REFUSED = '42501'
const NOBODY = '00000000-0000-4000-8000-000000000000'

/** What was tried, and each thing that went wrong, a sentence each. */
export interface IsolationReport {
  checks: number
  failures: string[]
}

/**
 * @param connection an administrator's, who may become rekko_app
 * @param inventory what the database holds; of the tenants in it, the two largest are played against each other
 */
export async function checkIsolation(connection: Connection, inventory: Inventory): Promise<IsolationReport> {
  const report: IsolationReport = { checks: 0, failures: [] }
  const check = (isRight: boolean, failure: string) => {
    report.checks++
    if (!isRight) report.failures.push(failure)
  }
  const tables = await listWalledTables(connection)
  check(tables.length > 0, 'there is no table with tenants')
  const [tenant, rival = NOBODY] = listTenants(inventory)
  if (tenant === undefined) {
    check(false, 'there is no tenant, so nothing could be tried')
    return report
  }

  const keys = await countLiveKeys(connection)

  await asApp(connection, async () => {
    // as below: without a row, nothing is asked
    if (keys && keys.size > 0) {
      const outcome = await attempt(connection, LIST_KEYS)
      check(outcome === REFUSED, `list_template_keys answers without a tenant (${outcome})`)
    }
    for (const table of tables) {
      const rows = inventory[table.name]?.rows ?? 0
      // a policy is asked for each row: an empty table raises nothing, and shows nothing
      if (rows === 0) continue
      const outcome = await attempt(connection, `select 1 from ${table.name} limit 1`)
      check(outcome === REFUSED, `${table.name} answers without a tenant (${outcome})`)
    }
  })

  for (const [own, other] of [
    [tenant, rival],
    [rival, tenant],
  ] as const) {
    await asApp(connection, async () => {
      await connection.query("select set_config('app.current_tenant_id', $1, true)", [own])
      if (keys) {
        const outcome = await attempt(connection, LIST_KEYS)
        const expected = `${keys.get(own) ?? 0} rows`
        check(outcome === expected, `list_template_keys answers tenant ${own} ${outcome} instead of ${expected}`)
        const direct = await attempt(connection, 'select 1 from vault.template_keys limit 1')
        check(direct === REFUSED, `vault.template_keys answers rekko_app, which has no right on it (${direct})`)
      }
      for (const table of tables) {
        const expected = inventory[table.name]?.tenants?.[own] ?? 0
        const copies = table.columns.includes(table.tenantColumn)
        if (table.canInsert && (expected > 0 || !copies)) {
          const outcome = await attempt(connection, toPlanting(table), copies ? [other, own] : [other])
          check(outcome === REFUSED, `${table.name} lets tenant ${own} plant a row in another (${outcome})`)
        }
        if (!table.canSelect) {
          const outcome = await attempt(connection, `select 1 from ${table.name} limit 1`)
          check(outcome === REFUSED, `${table.name} answers rekko_app, which has no right on it (${outcome})`)
          continue
        }
        const [seen] = await connection.query<{ own: number; others: number }>(
          `select count(*) filter (where ${table.tenantColumn} = $1)::int as own,
             count(*) filter (where ${table.tenantColumn} is distinct from $1)::int as others from ${table.name}`,
          [own],
        )
        check(seen?.others === 0, `${table.name} shows tenant ${own} ${seen?.others} rows of others`)
        check(seen?.own === expected, `${table.name} shows tenant ${own} ${seen?.own} of its ${expected} rows`)
        if (table.canDelete) {
          const outcome = await attempt(connection, `delete from ${table.name} where ${table.tenantColumn} = $1`, [
            other,
          ])
          check(outcome === '0 rows', `${table.name} lets tenant ${own} delete from another (${outcome})`)
        }
      }
    })
  }
  return report
}

const LIST_KEYS = 'select 1 from list_template_keys()'

/** By tenant; null where there is no vault. */
async function countLiveKeys(connection: Connection): Promise<Map<string, number> | null> {
  const [vault] = await connection.query<{ is_there: boolean }>(
    "select to_regclass('vault.template_keys') is not null as is_there",
  )
  if (!vault?.is_there) return null
  const rows = await connection.query<{ tenant: string; keys: number }>(
    'select tenant_id::text as tenant, count(*)::int as keys from vault.template_keys where destroyed_at is null group by 1',
  )
  return new Map(rows.map(({ tenant, keys }) => [tenant, keys]))
}

/**
 * A copy of an own row, as far as it can be read, with the other tenant's id. The wall is asked before the
 * constraints: a column that is missing is complained about only when the wall is down.
 */
function toPlanting({ name, tenantColumn, columns }: WalledTable): string {
  if (!columns.includes(tenantColumn)) return `insert into ${name} (${tenantColumn}) values ($1::uuid)`
  const values = columns.map((column) => (column === tenantColumn ? '$1::uuid' : column))
  return `insert into ${name} (${columns.join(', ')}) select ${values.join(', ')} from ${name} where ${tenantColumn} = $2 limit 1 returning 1`
}

/** The SQLSTATE of the error, or how many rows came back. */
async function attempt(connection: Connection, text: string, parameters: unknown[] = []): Promise<string> {
  await connection.execute('savepoint attempt')
  try {
    const rows = await connection.query(text.startsWith('delete') ? `${text} returning 1` : text, parameters)
    return `${rows.length} rows`
  } catch (error) {
    if (error instanceof Error && 'code' in error) return String(error.code)
    throw error
  } finally {
    await connection.execute('rollback to savepoint attempt')
  }
}

async function asApp(connection: Connection, work: () => Promise<void>): Promise<void> {
  await connection.execute("begin; set local statement_timeout = '10min'; set local role rekko_app")
  try {
    await work()
  } finally {
    await connection.execute('rollback')
  }
}

/** Largest first. */
function listTenants(inventory: Inventory): string[] {
  const rows = new Map<string, number>()
  for (const { tenants } of Object.values(inventory)) {
    for (const [tenant, count] of Object.entries(tenants ?? {})) {
      if (tenant !== NO_TENANT) rows.set(tenant, (rows.get(tenant) ?? 0) + count)
    }
  }
  return [...rows].sort(([, a], [, b]) => b - a).map(([tenant]) => tenant)
}

async function listWalledTables(connection: Connection): Promise<WalledTable[]> {
  return connection.query<WalledTable>(`
    select format('%I.%I', n.nspname, c.relname) as name,
      case when c.oid = to_regclass('public.tenants') then 'id' else 'tenant_id' end as "tenantColumn",
      coalesce(array_agg(quote_ident(a.attname) order by a.attnum) filter (
        where a.attgenerated = '' and has_column_privilege('rekko_app', c.oid, a.attnum, 'select')
          and has_column_privilege('rekko_app', c.oid, a.attnum, 'insert')
      ), '{}') as columns,
      -- granted on the table or on columns
      has_any_column_privilege('rekko_app', c.oid, 'select') as "canSelect",
      has_any_column_privilege('rekko_app', c.oid, 'insert') as "canInsert",
      has_table_privilege('rekko_app', c.oid, 'delete') as "canDelete"
    from pg_class c
    join pg_namespace n on n.oid = c.relnamespace
    join pg_attribute a on a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped
    where n.nspname = 'public' and c.relkind in ('r', 'p')
    group by c.oid, n.nspname, c.relname
    having bool_or(a.attname = case when c.oid = to_regclass('public.tenants') then 'id' else 'tenant_id' end)
    order by 1`)
}
