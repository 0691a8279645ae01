// Proves that src/db/schema.ts and a migrated database say the same, both ways; and what rekko_app and
// rekko_backup have rights on, table by table. What must hold for every table, function and role, linter.test.ts
// proves. Nothing is fake.
import { generateDrizzleJson, generateMigration } from 'drizzle-kit/api'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { migrate } from '../../scripts/database/migrate.ts'
import {
  describeTable,
  findSchemaFindings,
  listDeclaredTables,
  listTables,
} from '../../scripts/database/schema-comparison.ts'
import * as schema from '../../src/db/schema.ts'
import { createDatabase, describeCatalog, type FreshDatabase } from './database.ts'

/** Of no tenant: only the operator's functions reach them. */
const OPERATOR_TABLES = ['operator_events', 'token_issuers']

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
          check (kind in ('registration', 'verification', 'identification', 'deletion', 'analysis'))`)
    }
  })

  it('have the same expressions, where PostgreSQL reads what drizzle-kit writes', async () => {
    const drafted = await createDatabase()
    try {
      await drafted.connection.execute(`
        set role rekko_owner;
        create function current_tenant_id() returns uuid language sql stable as 'select null::uuid';
        create function current_actor() returns text language sql stable as 'select null::text';
        create function current_request_id() returns text language sql stable as 'select null::text'`)
      const statements = await generateMigration(generateDrizzleJson({}), generateDrizzleJson(schema))
      for (const statement of statements) await drafted.connection.execute(statement)

      const kinds = ['column', 'constraint', 'index', 'policy'] as const
      const migrated = await describeCatalog(database.connection, ...kinds)
      const inexpressible = [/ INCLUDE \([^)]*\)/, /(?<=SET NULL) \([^)]*\)/]
      expect(await describeCatalog(drafted.connection, ...kinds)).toEqual(
        migrated
          .filter((line) => !/ schema_migrations| migration\.history| vault[ .]/.test(line))
          .map((line) => inexpressible.reduce((rest, words) => rest.replace(words, ''), line)),
      )
    } finally {
      await drafted.drop()
    }
  })
})

describe('the roles', () => {
  it('rekko_app can add to the audit and the metering, and change or delete nothing of it', async () => {
    expect(await tablesWith('rekko_app', 'DELETE')).toEqual(['faces'])
    expect(await tablesWith('rekko_app', 'UPDATE')).toEqual(['api_keys', 'faces', 'tenants'])
    expect(await tablesWith('rekko_app', 'INSERT')).toEqual([
      'admin_events',
      'api_keys',
      'faces',
      'idempotent_requests',
      'identifications',
      'integrity_events',
      'usage_events',
      'verifications',
    ])
  })

  it('rekko_app cannot read the hashes of API keys, nor who may sign tokens', async () => {
    const hidden = [
      ...OPERATOR_TABLES,
      'admin_events',
      'idempotent_requests',
      'integrity_events',
      'token_issuer_tenants',
    ]
    expect(await tablesWith('rekko_app', 'SELECT')).toEqual(
      [...tables, 'schema_migrations'].filter((name) => !hidden.includes(name)).sort(),
    )
    const [may] = await query(`select has_column_privilege('rekko_app', 'api_keys', 'hash', 'SELECT') as read_hashes`)
    expect(may).toEqual({ read_hashes: false })
  })

  it.each([
    ['faces', ['embedding', 'id', 'key_version', 'metadata', 'model', 'quality_score', 'sealed', 'updated_at']],
    ['api_keys', ['expires_at', 'revoked_at']],
    ['tenants', ['settings', 'updated_at']],
  ])('rekko_app changes nothing else in %s: not whose it is, and not who may what', async (table, changeable) => {
    const columns = await query<{ name: string }>(
      `select attname as name from pg_attribute
      where attrelid = $1::regclass and attnum > 0 and has_column_privilege('rekko_app', attrelid, attnum, 'UPDATE')
      order by attname`,
      [table],
    )
    expect(columns.map(({ name }) => name)).toEqual(changeable)
  })

  it('no login, and not rekko_backup, has any right on the vault', async () => {
    const roles = ['rekko_app', 'rekko_operator', 'rekko_jobs', 'rekko_backup']
    const rights = await query(
      `select r as role, has_schema_privilege(r, 'vault', 'usage, create') as "onSchema",
        has_table_privilege(r, 'vault.template_keys', 'select, insert, update, delete, truncate, references, trigger') as "onTable",
        has_any_column_privilege(r, 'vault.template_keys', 'select, insert, update, references') as "onColumn"
      from unnest(string_to_array($1, ' ')) with ordinality as named (r, place) order by place`,
      [roles.join(' ')],
    )
    expect(rights).toEqual(roles.map((role) => ({ role, onSchema: false, onTable: false, onColumn: false })))
  })

  it('rekko_backup reads every table', async () => {
    expect(await tablesWith('rekko_backup', 'SELECT')).toEqual([...tables, 'schema_migrations'].sort())
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
