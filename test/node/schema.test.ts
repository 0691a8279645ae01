// Proves that src/db/schema.ts and a migrated database say the same, both ways; and what must hold for
// every table, function and role, read from the catalog, so that a new one is covered unasked. Nothing
// is fake.
import { generateDrizzleJson, generateMigration } from 'drizzle-kit/api'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { LOGIN_ROLES } from '../../scripts/database/bootstrap.ts'
import { migrate } from '../../scripts/database/migrate.ts'
import {
  describeTable,
  findSchemaFindings,
  listDeclaredTables,
  listTables,
} from '../../scripts/database/schema-comparison.ts'
import * as schema from '../../src/db/schema.ts'
import { createDatabase, describeCatalog, type FreshDatabase } from './database.ts'

/** Those of the extension are not ours. */
const OWN_FUNCTIONS = `
  pg_proc p
  where p.pronamespace = 'public'::regnamespace
    and not exists (select from pg_depend d where d.classid = 'pg_proc'::regclass and d.objid = p.oid and d.deptype = 'e')`

let database: FreshDatabase
let tables: string[]

beforeAll(async () => {
  database = await createDatabase()
  await migrate(database.connection)
  tables = await listTables(database.connection)
})

afterAll(() => database.drop())

function query<Row extends object>(text: string, parameters?: unknown[]): Promise<Row[]> {
  return database.connection.query<Row>(text, parameters)
}

describe('src/db/schema.ts and the migrated database', () => {
  const declared = listDeclaredTables()

  it('have the same tables', () => {
    expect(declared.map(({ name }) => name).sort()).toEqual(tables)
  })

  it.each(declared)('say the same of $name', async (table) => {
    expect(table).toEqual(await describeTable(database.connection, table.name))
  })

  it('are told apart where they differ, line by line', async () => {
    expect(await findSchemaFindings(database.connection)).toEqual([])
    await database.connection.execute(`
      create table stranger (); alter table faces add column late integer;
      alter table usage_events drop constraint usage_events_kind_check`)
    try {
      expect(await findSchemaFindings(database.connection)).toEqual([
        'table stranger is in the database and not in src/db/schema.ts',
        'table faces has what src/db/schema.ts does not say: late integer',
        'table usage_events lacks what src/db/schema.ts says: usage_events_kind_check',
      ])
    } finally {
      await database.connection.execute(`
        drop table stranger; alter table faces drop column late;
        alter table usage_events add constraint usage_events_kind_check
          check (kind in ('registration', 'verification', 'identification', 'deletion'))`)
    }
  })

  it('have the same expressions, where PostgreSQL reads what drizzle-kit writes', async () => {
    const drafted = await createDatabase()
    try {
      await drafted.connection.execute(`
        set role rekko_owner;
        create function current_tenant_id() returns uuid language sql stable as 'select null::uuid'`)
      const statements = await generateMigration(generateDrizzleJson({}), generateDrizzleJson(schema))
      for (const statement of statements) await drafted.connection.execute(statement)

      const kinds = ['column', 'constraint', 'index', 'policy'] as const
      const migrated = await describeCatalog(database.connection, ...kinds)
      const inexpressible = [/ INCLUDE \([^)]*\)/, /(?<=SET NULL) \([^)]*\)/]
      expect(await describeCatalog(drafted.connection, ...kinds)).toEqual(
        migrated
          .filter((line) => !/ schema_migrations| migration\.history/.test(line))
          .map((line) => inexpressible.reduce((rest, words) => rest.replace(words, ''), line)),
      )
    } finally {
      await drafted.drop()
    }
  })
})

describe('every table', () => {
  it('has row-level security that binds the owner too', async () => {
    const unsafe = await query(`
      select relname from pg_class
      where relnamespace = 'public'::regnamespace and relkind in ('r', 'p') and relname <> 'schema_migrations'
        and not (relrowsecurity and relforcerowsecurity)`)
    expect(unsafe).toEqual([])
    expect(tables).not.toEqual([])
  })

  it('has one restrictive and one permissive policy for rekko_app, and reads and writes by the same rule', async () => {
    const policies = await query<{ tablename: string }>(`
      select tablename, permissive, cmd, qual, with_check
      from pg_policies
      where schemaname = 'public' and roles && array['rekko_app', 'public']::name[]
      order by tablename, permissive desc`)
    expect(policies).toEqual(
      tables.flatMap((tablename) => {
        const rule = tablename === 'tenants' ? '(id = current_tenant_id())' : '(tenant_id = current_tenant_id())'
        return ['RESTRICTIVE', 'PERMISSIVE'].map((permissive) => ({
          tablename,
          permissive,
          cmd: 'ALL',
          qual: rule,
          with_check: rule,
        }))
      }),
    )
  })

  it('has policies for rekko_app and rekko_owner only, and the owner has no policy for everything', async () => {
    const others = await query(`
      select tablename, policyname from pg_policies
      where schemaname = 'public' and not (roles = array['rekko_app']::name[] or (roles = array['rekko_owner']::name[] and cmd <> 'ALL'))`)
    expect(others).toEqual([])
  })

  it('of a tenant names the tenant in a column that is never null', async () => {
    const withTenant = await query<{ name: string }>(`
      select c.relname as name from pg_class c join pg_attribute a on a.attrelid = c.oid
      where c.relnamespace = 'public'::regnamespace and c.relkind in ('r', 'p')
        and a.attname = 'tenant_id' and a.atttypid = 'uuid'::regtype and a.attnotnull
      order by c.relname`)
    expect(withTenant.map(({ name }) => name)).toEqual(tables.filter((name) => name !== 'tenants'))
  })

  it('begins its primary key and its unique keys with tenant_id, but for the hash by which a key finds its tenant', async () => {
    const exceptions = await query(`
      select i.indexrelid::regclass::text as key
      from pg_index i join pg_attribute a on a.attrelid = i.indrelid and a.attname = 'tenant_id'
      where a.attrelid in (select oid from pg_class where relnamespace = 'public'::regnamespace)
        and (i.indisunique or i.indisexclusion) and i.indkey[0] <> a.attnum`)
    expect(exceptions).toEqual([{ key: 'api_keys_hash_key' }])
  })

  it('of a tenant refers to another one by tenant_id as well, and erasing a row never takes one of another tenant along', async () => {
    const references = await query<{ key: string; is_safe: boolean }>(`
      select
        o.conname as key,
        -- tenant_id stands at the same place on both sides
        array_position(o.conkey, own.attnum) = array_position(o.confkey, other.attnum)
          -- nothing cascades, and what is set to null is named, and is not the tenant
          and (o.confdeltype in ('a', 'r') or (o.confdeltype = 'n' and not own.attnum = any (o.confdelsetcols)))
          and o.confupdtype in ('a', 'r') as is_safe
      from pg_constraint o
      join pg_attribute own on own.attrelid = o.conrelid and own.attname = 'tenant_id'
      join pg_attribute other on other.attrelid = o.confrelid and other.attname = 'tenant_id'
      where o.contype = 'f'`)
    expect(references).not.toEqual([])
    expect(references.filter(({ is_safe }) => is_safe !== true)).toEqual([])
  })

  it('belongs to rekko_owner, as the functions do', async () => {
    const strangers = await query(`
      select relname as name from pg_class
      where relnamespace = 'public'::regnamespace and relowner <> 'rekko_owner'::regrole
      union all
      select proname from ${OWN_FUNCTIONS} and proowner <> 'rekko_owner'::regrole`)
    expect(strangers).toEqual([])
  })
})

describe('the roles', () => {
  it.each(LOGIN_ROLES)('%s owns nothing, is a member of nothing and has no way around the policies', async (role) => {
    const [found] = await query(
      `select
        (select count(*)::int from pg_shdepend d
         where d.refclassid = 'pg_authid'::regclass and d.refobjid = r.oid and d.deptype = 'o'
           and d.dbid in (0, (select oid from pg_database where datname = current_database()))) as owned,
        (select count(*)::int from pg_auth_members m where m.member = r.oid) as memberships,
        rolsuper or rolbypassrls or rolcreaterole or rolcreatedb or rolreplication or rolinherit as is_special,
        rolcanlogin as may_login
      from pg_roles r where rolname = $1`,
      [role],
    )
    expect(found).toEqual({ owned: 0, memberships: 0, is_special: false, may_login: true })
  })

  it('rekko_app can add to the audit and the metering, and change or delete nothing of it', async () => {
    expect(await tablesWith('rekko_app', 'UPDATE, DELETE')).toEqual(['faces'])
    expect(await tablesWith('rekko_app', 'INSERT')).toEqual([
      'faces',
      'identifications',
      'usage_events',
      'verifications',
    ])
  })

  it('rekko_app cannot read the hashes of API keys', async () => {
    expect(await tablesWith('rekko_app', 'SELECT')).toEqual(
      [...tables, 'schema_migrations'].filter((name) => name !== 'api_keys').sort(),
    )
  })

  it('rekko_app may not empty a table, refer to one or put a trigger on it', async () => {
    expect(await tablesWith('rekko_app', 'TRUNCATE, REFERENCES, TRIGGER')).toEqual([])
  })

  it('rekko_app cannot move a face to another tenant, person or id', async () => {
    const columns = await query<{ name: string }>(`
      select attname as name from pg_attribute
      where attrelid = 'faces'::regclass and attnum > 0 and has_column_privilege('rekko_app', attrelid, attnum, 'UPDATE')
      order by attname`)
    expect(columns.map(({ name }) => name)).toEqual(['embedding', 'metadata', 'model', 'quality_score', 'updated_at'])
  })

  it.each(['rekko_operator', 'rekko_jobs'])('%s has no privilege on any table', async (role) => {
    expect(await tablesWith(role, 'SELECT, INSERT, UPDATE, DELETE, TRUNCATE, REFERENCES, TRIGGER')).toEqual([])
  })

  it('rekko_backup reads every table and does nothing else', async () => {
    expect(await tablesWith('rekko_backup', 'SELECT')).toEqual([...tables, 'schema_migrations'].sort())
    expect(await tablesWith('rekko_backup', 'INSERT, UPDATE, DELETE, TRUNCATE, REFERENCES, TRIGGER')).toEqual([])
  })

  it.each(['public', ...LOGIN_ROLES])('%s cannot create anything, temporary or not', async (role) => {
    const [may] = await query(
      `select has_schema_privilege($1, 'public', 'CREATE') as in_schema,
        has_database_privilege($1, current_database(), 'CREATE, TEMPORARY') as in_database`,
      [role],
    )
    expect(may).toEqual({ in_schema: false, in_database: false })
  })

  it('PUBLIC may not even look into the schema, nor connect', async () => {
    const [may] = await query(
      `select has_schema_privilege('public', 'public', 'USAGE') as in_schema,
        has_database_privilege('public', current_database(), 'CONNECT') as in_database`,
    )
    expect(may).toEqual({ in_schema: false, in_database: false })
  })

  /** Tables of the schema public on which a role holds any of the privileges, on the whole or on a column. */
  async function tablesWith(role: string, privileges: string): Promise<string[]> {
    const ofColumns = privileges.split(', ').filter((name) => /SELECT|INSERT|UPDATE|REFERENCES/.test(name))
    const found = await query<{ name: string }>(
      `select relname as name from pg_class
      where relnamespace = 'public'::regnamespace and relkind in ('r', 'p', 'v', 'm')
        and (has_table_privilege($1, oid, $2) or ($3 <> '' and has_any_column_privilege($1, oid, $3)))
      order by relname`,
      [role, privileges, ofColumns.join(', ')],
    )
    return found.map(({ name }) => name)
  }
})

describe('every function', () => {
  interface Found {
    name: string
    is_definer: boolean
    settings: string[]
    public_may: boolean
  }
  let functions: Found[]

  beforeAll(async () => {
    functions = await query<Found>(`
      select oid::regprocedure::text as name, prosecdef as is_definer, coalesce(proconfig, '{}') as settings,
        has_function_privilege('public', oid, 'EXECUTE') as public_may
      from ${OWN_FUNCTIONS} order by 1`)
    expect(functions.map(({ name }) => name)).toContain('current_tenant_id()')
  })

  it('is closed to PUBLIC', () => {
    expect(functions.filter(({ public_may }) => public_may)).toEqual([])
  })

  it('that runs as its owner pins its search_path, with pg_temp last', () => {
    const definers = functions.filter(({ is_definer }) => is_definer)
    expect(definers).not.toEqual([])
    for (const { name, settings } of definers) {
      expect({ name, settings }).toEqual({
        name,
        settings: [expect.stringMatching(/^search_path=[a-z_, ]+, pg_temp$/)],
      })
    }
  })

  it('that names the tenant is stable: a plan made for one tenant never serves another', async () => {
    const [found] = await query(`select provolatile from pg_proc where oid = 'current_tenant_id()'::regprocedure`)
    expect(found).toEqual({ provolatile: 's' })
  })
})
