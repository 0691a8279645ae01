// Proves that the row-level-security linter finds nothing in the schema of the migrations, and that each of its
// rules speaks, and no other, when the one thing is broken that it is about. Each breach is rolled back; what
// belongs to all databases of a server is broken in an embedded one of its own. Fake: the facts of a server
// (its version, fsync), which a test must not change for everybody.
import { execFile } from 'node:child_process'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, it, onTestFinished } from 'vitest'
import { bootstrap } from '../../scripts/database/bootstrap.ts'
import {
  type Connection,
  connectEmbedded,
  type EmbeddedDatabase,
  openEmbedded,
} from '../../scripts/database/connection.ts'
import { DEVELOPMENT_PASSWORDS } from '../../scripts/database/development.ts'
import { type LintFinding, lint, STALE, toSentence } from '../../scripts/database/linter.ts'
import { EXCEPTIONS } from '../../scripts/database/linter-exceptions.ts'
import { RULES, type ServerFacts } from '../../scripts/database/linter-rules.ts'
import { migrate } from '../../scripts/database/migrate.ts'
import { type Target, toTarget } from '../../scripts/database/target.ts'
import { EXIT } from '../../scripts/database/terminal.ts'
import { createDatabase, type FreshDatabase, needsNative } from './database.ts'

const EMBEDDED: Target = { kind: 'embedded', folder: 'memory' }
const TENANT = '10000000-0000-4000-8000-000000000001'

let database: FreshDatabase
let target: Target
/** Roles belong to all databases of a server: these are nobody else's. */
let alone: EmbeddedDatabase

beforeAll(async () => {
  database = await createDatabase()
  target = database.isNative ? toTarget(database.url, undefined) : EMBEDDED
  await migrate(database.connection)
  alone = await openEmbedded()
  const connection = connectEmbedded(alone.pglite)
  await bootstrap(connection, DEVELOPMENT_PASSWORDS)
  await migrate(connection)
})

afterAll(async () => {
  await alone.close()
  await database.drop()
})

/** What the linter says after a breach, which is taken back. */
async function lintAfter(breach: string, connection = database.connection, where = target): Promise<LintFinding[]> {
  await connection.execute('begin')
  try {
    await connection.execute(breach)
    await connection.execute('reset role')
    return (await lint(connection, where)).findings
  } finally {
    await connection.execute('rollback')
  }
}

const problemsOf = (findings: LintFinding[]) => findings.filter(({ level }) => level === 'problem')

interface Breach {
  rule: string
  what: string
  sql: string
  /** The problems, as sentences. */
  says: (string | RegExp)[]
  /** It changes what belongs to all databases of the server. */
  isShared?: true
  /** PostgreSQL has it since this major version. */
  since?: number
}

const OWN = 'using (tenant_id = current_tenant_id()) with check (tenant_id = current_tenant_id())'
/** A table as migrations make them: whatever is added to it is the one thing that is wrong. */
const NOTES = `
  set local role rekko_owner;
  create table notes (tenant_id uuid not null references tenants (id), id uuid not null, body text, primary key (tenant_id, id));
  alter table notes enable row level security;
  alter table notes force row level security;
  create policy notes_wall on notes as restrictive to rekko_app ${OWN};
  create policy notes_tenant on notes to rekko_app ${OWN};`
const asOwner = (sql: string) => `set local role rekko_owner; ${sql}`
const pinned = 'set search_path = pg_catalog, pg_temp'
/** A function that is closed, as default privileges make it. */
const makeFunction = (name: string, body: string, options = '') =>
  asOwner(`create function ${name} language sql ${options} as $f$ ${body} $f$;`)
const alterDatabase = (change: string, whose = 'database') =>
  `do $$ begin execute format('alter ${whose} %I ${change.replaceAll("'", "''")}', current_database()); end $$`

const BREACHES: Breach[] = [
  ...(
    [
      ['nologin', 'cannot log in'],
      ['superuser', 'is a superuser, whom no policy binds'],
      ['bypassrls', 'bypasses row-level security: it sees every tenant'],
      ['createrole', 'may create roles'],
      ['createdb', 'may create databases'],
      ['replication', 'may replicate the whole server'],
      ['inherit', 'has INHERIT'],
    ] as const
  ).map(
    ([attribute, fault]): Breach => ({
      rule: 'L01',
      what: `a login with ${attribute}`,
      sql: `alter role rekko_jobs ${attribute}`,
      says: [`role rekko_jobs ${fault}`],
      isShared: true,
    }),
  ),
  {
    rule: 'L02',
    what: 'an owner who logs in and bypasses',
    sql: 'alter role rekko_owner login bypassrls',
    says: ['role rekko_owner bypasses row-level security', 'role rekko_owner can log in'],
    isShared: true,
  },
  {
    rule: 'L02',
    what: 'a backup role that logs in',
    sql: 'alter role rekko_backup login',
    says: ['role rekko_backup can log in'],
    isShared: true,
  },
  {
    rule: 'L03',
    what: 'a login that is a member of the owner',
    sql: 'grant rekko_owner to rekko_app',
    says: ['role rekko_app is a member of rekko_owner: it can take over what that may do'],
    isShared: true,
  },
  {
    rule: 'L04',
    what: 'somebody who is a member of rekko_app',
    sql: 'create role stranger login; grant rekko_app to stranger',
    says: ['role stranger is a member of rekko_app: it can take over what that may do'],
    isShared: true,
  },
  {
    rule: 'L05',
    what: 'somebody who reads everything',
    sql: 'create role stranger login; grant pg_read_all_data, pg_monitor to stranger',
    says: ['role stranger has the predefined role pg_read_all_data'],
    isShared: true,
  },
  {
    rule: 'L06',
    what: 'a table that is the administrator’s',
    sql: 'alter table usage_events owner to current_user',
    says: [/^table usage_events belongs to /],
  },
  {
    rule: 'L06',
    what: 'a function that is the administrator’s',
    sql: 'alter function current_tenant_id() owner to current_user',
    says: [/^function current_tenant_id\(\) belongs to /],
  },
  {
    rule: 'L06',
    what: 'a schema that is a login’s',
    sql: 'create schema taken authorization rekko_app',
    says: ['schema taken belongs to rekko_app'],
  },
  {
    rule: 'L06',
    what: 'a type that is a login’s',
    sql: "create type mood as enum ('good'); alter type mood owner to rekko_app",
    says: ['type mood belongs to rekko_app'],
  },
  {
    rule: 'L07',
    what: 'a table without row-level security',
    sql: 'alter table verifications disable row level security',
    says: ['table verifications has no row-level security'],
  },
  {
    rule: 'L08',
    what: 'row-level security that does not bind the owner',
    sql: 'alter table faces no force row level security',
    says: ['table faces row-level security does not bind its owner'],
  },
  {
    rule: 'L09',
    what: 'a table of nobody',
    sql: asOwner(
      'create table notes (id uuid primary key); alter table notes enable row level security; alter table notes force row level security',
    ),
    says: ['table notes has no tenant_id'],
  },
  {
    rule: 'L09',
    what: 'a tenant that may be null',
    sql: `${NOTES} alter table notes drop constraint notes_pkey, alter column tenant_id drop not null, add unique (tenant_id, id)`,
    says: ['table notes tenant_id is not "uuid not null"'],
  },
  {
    rule: 'L10',
    what: 'a wall that is gone',
    sql: 'drop policy faces_wall on faces',
    says: ['table faces has no restrictive policy that keeps rekko_app in its tenant'],
  },
  {
    rule: 'L11',
    what: 'a tenant that is not let in',
    sql: 'drop policy faces_tenant on faces',
    says: ['table faces has no permissive policy that lets rekko_app into its own tenant'],
  },
  {
    rule: 'L12',
    what: 'one more policy that says less',
    sql: 'create policy extra on faces for delete to rekko_app using (quality_score is not null)',
    says: [/^policy extra on faces .*quality_score IS NOT NULL\)\) says something else to rekko_app$/],
  },
  {
    rule: 'L12',
    what: 'one more policy that writes more than it reads',
    sql: `create policy extra on faces to rekko_app using (tenant_id = current_tenant_id()) with check (tenant_id is not null)`,
    says: [/^policy extra on faces .*tenant_id IS NOT NULL\)\) says something else to rekko_app$/],
  },
  {
    rule: 'L13',
    what: 'a policy that lets all rows through',
    sql: 'create policy extra on faces for select to rekko_owner using (true)',
    says: [
      'policy extra on faces for select to rekko_owner using (true) names no column: all rows of all tenants pass',
    ],
  },
  {
    rule: 'L13',
    what: 'a policy that lets all rows through in other words',
    sql: 'create policy extra on faces for insert to rekko_owner with check (current_tenant_id() is not null)',
    says: [/^policy extra on faces for insert .* names no column/],
  },
  {
    rule: 'L14',
    what: 'a policy of the owner that compares a column with itself',
    sql: 'create policy extra on faces for select to rekko_owner using (tenant_id = tenant_id)',
    says: ['policy extra on faces for select to rekko_owner using ((tenant_id = tenant_id)) reaches beyond one tenant'],
  },
  {
    rule: 'L15',
    what: 'a policy for PUBLIC',
    sql: `create policy extra on faces as restrictive to public ${OWN}`,
    says: [/^policy extra on faces for all to PUBLIC .* is for somebody else$/],
  },
  {
    rule: 'L15',
    what: 'a policy for the schedule',
    sql: `create policy extra on faces for select to rekko_jobs using (tenant_id = current_tenant_id())`,
    says: [/^policy extra on faces for select to rekko_jobs .* is for somebody else$/],
  },
  {
    rule: 'L16',
    what: 'a policy of the owner for everything',
    sql: `create policy extra on faces to rekko_owner ${OWN}`,
    says: [/^policy extra on faces for all to rekko_owner .* lets rekko_owner do everything$/],
  },
  {
    rule: 'L17',
    what: 'a tenant that is read without nullif',
    sql: `create or replace function current_tenant_id() returns uuid language plpgsql stable parallel safe ${pinned} as $$
      begin
        if current_setting('app.current_tenant_id', true) is null then raise exception 'none'; end if;
        return current_setting('app.current_tenant_id', true)::uuid;
      end $$`,
    says: [
      'function current_tenant_id() does not take an empty setting for none',
      "function current_tenant_id() reads a setting without nullif(current_setting(name, true), '')",
    ],
  },
  {
    rule: 'L17',
    what: 'a missing tenant that is no error',
    sql: `create or replace function current_tenant_id() returns uuid language sql stable parallel safe ${pinned} as $$
      select nullif(current_setting('app.current_tenant_id', true), '')::uuid $$`,
    says: ['function current_tenant_id() does not raise when no tenant has been entered'],
  },
  {
    rule: 'L17',
    what: 'a constraint that reads a setting',
    sql: "alter table faces add constraint odd check (model <> current_setting('app.model', true))",
    says: ['constraint odd on faces reads a setting itself'],
  },
  {
    rule: 'L18',
    what: 'an immutable tenant',
    sql: 'alter function current_tenant_id() immutable',
    says: ['function current_tenant_id() is not STABLE'],
  },
  {
    rule: 'L18',
    what: 'an immutable function over the tenant',
    sql: makeFunction('my_tenant() returns uuid', 'select current_tenant_id()', 'immutable'),
    says: ['function my_tenant() is IMMUTABLE and reads what changes from one transaction to the next'],
  },
  ...[
    "select set_config('app.current_tenant_id', tenant, false)",
    "select set_config('app.current_tenant_id', tenant, false), set_config('app.actor', '', true)",
    "select set_config('app.current_tenant_id', tenant, false), coalesce(tenant = '', true)",
  ].map(
    (body): Breach => ({
      rule: 'L19',
      what: `a function with ${body}`,
      sql: makeFunction(`enter(tenant text) returns ${body.includes('), ') ? 'record' : 'text'}`, body),
      says: ['function enter(text) calls set_config without "true" as its last argument'],
    }),
  ),
  {
    rule: 'L19',
    what: 'a function with a tenant of its own',
    sql: `create function enter() returns int language sql set app.current_tenant_id = '${TENANT}' as 'select 1';
      alter function enter() owner to rekko_owner; revoke all on function enter() from public`,
    says: ['function enter() has a setting of its own for app.current_tenant_id'],
  },
  {
    rule: 'L20',
    what: 'a view that asks as its owner',
    sql: asOwner('create view people as select external_id from faces'),
    says: ['view people is without security_invoker'],
  },
  {
    rule: 'L21',
    what: 'a materialized view',
    sql: asOwner('create materialized view people as select 1 as one with no data'),
    says: ['materialized view people cannot have row-level security'],
  },
  {
    rule: 'L22',
    what: 'a child without row-level security',
    sql: asOwner('create table archive () inherits (faces)'),
    says: ['table archive is a child without row-level security of its own'],
  },
  {
    rule: 'L22',
    what: 'a partition that a login may name',
    sql: asOwner(`create table notes (tenant_id uuid not null, body text) partition by list (tenant_id);
      create table notes_one partition of notes default;
      alter table notes enable row level security; alter table notes force row level security;
      create policy notes_wall on notes as restrictive to rekko_app ${OWN};
      create policy notes_tenant on notes to rekko_app ${OWN};
      alter table notes_one enable row level security; alter table notes_one force row level security;
      grant select on notes_one to rekko_app`),
    says: ['table notes_one is a child, and granted to somebody directly'],
  },
  {
    rule: 'L23',
    what: 'a rewrite rule',
    sql: 'create rule quiet as on delete to faces do instead nothing',
    says: ['rule quiet on faces rewrites statements with its owner’s rights'],
  },
  {
    rule: 'L24',
    what: 'a publication',
    sql: 'create publication everything for table faces',
    says: ['publication everything streams rows without policies'],
  },
  {
    rule: 'L24',
    what: 'a large object',
    sql: 'select lo_create(4711)',
    says: ['large object 4711 has no row-level security'],
  },
  ...['reset search_path', 'set search_path = public, pg_temp', 'set search_path = pg_catalog, public'].map(
    (change): Breach => ({
      rule: 'L25',
      what: `a SECURITY DEFINER function after ${change}`,
      sql: `alter function forget_subject(text) ${change}`,
      says: [
        'function forget_subject(text) takes its search_path from the caller, or does not begin with pg_catalog and end with pg_temp',
      ],
    }),
  ),
  {
    rule: 'L26',
    what: 'a function for PUBLIC',
    sql: 'grant execute on function shortlist_faces(uuid, bit, integer) to public',
    says: ['function shortlist_faces(uuid,bit,integer) may be executed by PUBLIC'],
  },
  {
    rule: 'L27',
    what: 'a SECURITY DEFINER function that nobody reviewed',
    sql: `${makeFunction('count_everybody() returns bigint', 'select count(*) from public.faces', `stable security definer ${pinned}`)}
      grant execute on function count_everybody() to rekko_app`,
    says: ['function count_everybody() for rekko_app runs with its owner’s rights and was not reviewed'],
  },
  {
    rule: 'L28',
    what: 'a leakproof function',
    sql: 'alter function current_tenant_id() leakproof',
    says: ['function current_tenant_id() is LEAKPROOF'],
  },
  {
    rule: 'L28',
    what: 'a function in an untrusted language',
    sql: `create function sine(double precision) returns double precision language internal immutable as 'dsin';
      revoke all on function sine from public; alter function sine owner to rekko_owner`,
    says: ['function sine(double precision) is written in internal'],
  },
  {
    rule: 'L29',
    what: 'a key that all tenants share',
    sql: asOwner('create unique index one_model on faces (model, tenant_id)'),
    says: ['index one_model of faces is a key that does not begin with tenant_id'],
  },
  {
    rule: 'L29',
    what: 'a name that only one tenant may have',
    sql: 'alter table tenants add constraint one_name unique (name)',
    says: ['index one_name of tenants is a key that does not begin with id'],
  },
  {
    rule: 'L30',
    what: 'a foreign key that crosses the columns',
    sql: 'alter table verifications add constraint crossed foreign key (face_id, tenant_id) references faces (tenant_id, id)',
    says: ['foreign key crossed of verifications does not pair the tenant with the tenant of faces'],
  },
  {
    rule: 'L31',
    what: 'a foreign key that takes the audit along',
    sql: `alter table verifications drop constraint verifications_face_fkey, add constraint verifications_face_fkey
      foreign key (tenant_id, face_id) references faces (tenant_id, id) on delete cascade`,
    says: ['foreign key verifications_face_fkey of verifications cascades'],
  },
  {
    rule: 'L31',
    what: 'a foreign key that empties the tenant',
    sql: `alter table verifications drop constraint verifications_face_fkey, add constraint verifications_face_fkey
      foreign key (tenant_id, face_id) references faces (tenant_id, id) on delete set null`,
    says: ['foreign key verifications_face_fkey of verifications empties the tenant when the other row is deleted'],
  },
  {
    rule: 'L31',
    what: 'a foreign key that changes with the other row',
    sql: `alter table verifications drop constraint verifications_face_fkey, add constraint verifications_face_fkey
      foreign key (tenant_id, face_id) references faces (tenant_id, id) on update set null`,
    says: ['foreign key verifications_face_fkey of verifications changes the row when the other one is changed'],
  },
  {
    rule: 'L32',
    what: 'a foreign key without an index',
    sql: 'drop index idx_verifications_tenant_face',
    says: ['foreign key verifications_face_fkey of verifications has no index'],
  },
  {
    rule: 'L32',
    what: 'a foreign key with an index of some rows only',
    sql: `drop index idx_verifications_tenant_face;
      set local role rekko_owner; create index partial on verifications (tenant_id, face_id) where verified`,
    says: ['foreign key verifications_face_fkey of verifications has no index'],
  },
  {
    rule: 'L33',
    what: 'a constraint that was not asked of old rows',
    sql: "alter table faces add constraint later check (model <> '') not valid",
    says: ['constraint later on faces is not valid for all rows'],
  },
  {
    rule: 'L33',
    what: 'a constraint that is not enforced',
    sql: "alter table faces add constraint never check (model <> '') not enforced",
    says: ['constraint never on faces is not valid for all rows'],
    since: 18,
  },
  {
    rule: 'L34',
    what: 'an index whose build did not finish',
    sql: "update pg_index set indisvalid = false where indexrelid = 'idx_tenants_is_active'::regclass",
    says: ['index idx_tenants_is_active is not valid: its build did not finish'],
  },
  {
    rule: 'L35',
    what: 'a trigger that is off',
    sql: 'alter table faces disable trigger faces_deleted',
    says: ['trigger faces_deleted on faces does not fire'],
  },
  {
    rule: 'L35',
    what: 'foreign keys that are off',
    sql: 'alter table usage_records disable trigger all',
    says: [
      /^trigger "RI_ConstraintTrigger_c_\d+" on usage_records does not fire$/,
      /^trigger "RI_ConstraintTrigger_c_\d+" on usage_records does not fire$/,
    ],
  },
  ...['TRUNCATE', 'TRIGGER', 'REFERENCES'].map(
    (privilege): Breach => ({
      rule: 'L36',
      what: `a grant of ${privilege}`,
      sql: `grant ${privilege} on faces to rekko_app`,
      says: [`table faces grants ${privilege} to rekko_app`],
    }),
  ),
  {
    rule: 'L36',
    what: 'a grant of MAINTAIN',
    sql: 'grant maintain on faces to rekko_app',
    says: ['table faces grants MAINTAIN to rekko_app'],
    since: 17,
  },
  {
    rule: 'L36',
    what: 'a grant of REFERENCES on one column',
    sql: 'grant references (id) on faces to rekko_backup',
    says: ['table faces grants REFERENCES to rekko_backup'],
  },
  {
    rule: 'L36',
    what: 'a grant that may be passed on',
    sql: 'grant insert on faces to rekko_app with grant option',
    says: ['table faces grants INSERT to rekko_app with grant option'],
  },
  {
    rule: 'L37',
    what: 'a table that the schedule reads',
    sql: 'grant select on usage_events to rekko_jobs',
    says: ['table usage_events may be reached by rekko_jobs: SELECT'],
  },
  {
    rule: 'L37',
    what: 'a column that PUBLIC reads',
    sql: 'grant select (name) on tenants to public',
    says: ['table tenants may be reached by PUBLIC: SELECT (name)'],
  },
  {
    rule: 'L37',
    what: 'a backup that writes',
    sql: 'grant update on faces to rekko_backup',
    says: ['table faces may be reached by rekko_backup: UPDATE'],
  },
  {
    rule: 'L38',
    what: 'the issuers of tokens, for every tenant',
    sql: 'grant select on token_issuers to rekko_app',
    says: ['table token_issuers has no tenant, and rekko_app may SELECT'],
  },
  ...['UPDATE', 'DELETE'].flatMap((privilege) =>
    ['verifications', 'identifications', 'integrity_events', 'usage_events', 'usage_records', 'admin_events'].map(
      (table): Breach => ({
        rule: 'L39',
        what: `a right to ${privilege} ${table}`,
        sql: `grant ${privilege} on ${table} to rekko_app`,
        says: [`${privilege} on ${table} is granted to rekko_app`],
      }),
    ),
  ),
  {
    rule: 'L40',
    what: 'a login that reads hashes',
    sql: 'grant select (hash) on api_keys to rekko_app',
    says: ['column api_keys.hash may be read by rekko_app'],
  },
  {
    rule: 'L41',
    what: 'a sequence that a login reads',
    sql: asOwner('create sequence counter; grant select on counter to rekko_app'),
    says: ['sequence counter may be reached by rekko_app: SELECT'],
  },
  {
    rule: 'L42',
    what: 'a login that creates',
    sql: 'grant create on schema public to rekko_operator',
    says: ['schema public lets rekko_operator create'],
  },
  {
    rule: 'L43',
    what: 'temporary tables',
    sql: `do $$ begin execute format('grant temporary on database %I to rekko_app', current_database()); end $$`,
    says: [/^database \S+ gives TEMPORARY to rekko_app$/],
  },
  {
    rule: 'L43',
    what: 'a schema that everybody may look into',
    sql: 'grant usage on schema migration to public',
    says: ['schema migration gives USAGE to PUBLIC'],
  },
  {
    rule: 'L44',
    what: 'functions that are open by default',
    sql: 'alter default privileges for role rekko_owner grant execute on functions to public',
    says: ['default privileges of rekko_owner give PUBLIC the execution of every new function'],
  },
  {
    rule: 'L44',
    what: 'tables that are open by default',
    sql: 'alter default privileges for role rekko_owner in schema public grant select on tables to rekko_jobs',
    says: ['default privileges of rekko_owner give rekko_jobs SELECT on every new table'],
  },
  ...['rekko_app', 'rekko_operator', 'rekko_jobs', 'rekko_backup'].map(
    (role): Breach => ({
      rule: 'L51',
      what: `${role} in the vault`,
      sql: `grant usage on schema vault to ${role}`,
      says: [`schema vault gives USAGE to ${role}`],
    }),
  ),
  {
    rule: 'L51',
    what: 'a login that reads wrapped keys, its own tenant’s only',
    sql: 'grant select on vault.template_keys to rekko_app',
    says: ['table vault.template_keys may be reached by rekko_app: SELECT'],
  },
  {
    rule: 'L51',
    what: 'a login that writes a key',
    sql: 'grant insert (tenant_id, version, wrapped) on vault.template_keys to rekko_app',
    says: ['tenant_id', 'version', 'wrapped'].map(
      (column) => `table vault.template_keys may be reached by rekko_app: INSERT (${column})`,
    ),
  },
  {
    rule: 'L51',
    what: 'a backup that carries the keys',
    sql: 'grant select on vault.template_keys to rekko_backup',
    says: ['table vault.template_keys may be reached by rekko_backup: SELECT'],
  },
  {
    rule: 'L45',
    what: 'a database that starts inside a tenant',
    sql: alterDatabase(`set app.current_tenant_id = '${TENANT}'`),
    says: [/^database \S+ sets app\.current_tenant_id$/],
  },
  {
    rule: 'L45',
    what: 'a login that starts inside a tenant in this database',
    sql: alterDatabase(`set app.current_tenant_id = '${TENANT}'`, 'role rekko_app in database'),
    says: [/^role rekko_app database \S+ sets app\.current_tenant_id$/],
  },
  {
    rule: 'L45',
    what: 'a login that starts inside a tenant in every database',
    sql: `alter role rekko_app set app.current_tenant_id = '${TENANT}'`,
    says: ['role rekko_app sets app.current_tenant_id'],
    isShared: true,
  },
  {
    rule: 'L45',
    what: 'a login that starts with another search_path',
    sql: 'alter role rekko_app set search_path = pg_temp, public',
    says: ['role rekko_app sets search_path'],
    isShared: true,
  },
  {
    rule: 'L45',
    what: 'a session that started inside a tenant',
    sql: `set local app.current_tenant_id = '${TENANT}'`,
    says: ['this session starts inside a tenant'],
  },
  {
    rule: STALE.id,
    what: 'an exception that nothing matches',
    sql: 'drop policy face_counts_owner_delete on face_counts',
    says: [
      'policy face_counts_owner_delete on face_counts for delete to rekko_owner using (true) is an exception of L13 that nothing matches',
    ],
  },
]

/** Sound, and each with one thing that is not. */
const SERVER: ServerFacts = {
  version: 170_011,
  pgvector: '0.8.2',
  settings: ['fsync', 'full_page_writes', 'synchronous_commit'].map((name) => ({ name, setting: 'on', whose: null })),
}
const off = (name: string, whose: string | null = null): ServerFacts => ({
  ...SERVER,
  settings: [...SERVER.settings, { name, setting: 'off', whose }],
})
const SERVER_BREACHES: [rule: string, says: string, facts: ServerFacts][] = [
  ['L46', 'setting synchronous_commit is off for the whole server', off('synchronous_commit')],
  ['L46', 'setting synchronous_commit is off for role rekko_app', off('synchronous_commit', 'role rekko_app')],
  ['L47', 'setting fsync is off for the whole server', off('fsync')],
  ['L47', 'setting full_page_writes is off for the whole server', off('full_page_writes')],
  ['L48', 'PostgreSQL 15.18 is older than 16', { ...SERVER, version: 150_018 }],
  ['L48', 'PostgreSQL 16.13 lacks security fixes: 16.14 has them', { ...SERVER, version: 160_013 }],
  ['L48', 'PostgreSQL 17.9 lacks security fixes: 17.10 has them', { ...SERVER, version: 170_009 }],
  ['L48', 'PostgreSQL 18.3 lacks security fixes: 18.4 has them', { ...SERVER, version: 180_003 }],
  ['L49', 'pgvector 0.8.1 is older than 0.8.2, and indexes are built in parallel', { ...SERVER, pgvector: '0.8.1' }],
  [
    'L49',
    'pgvector 0.8.0 is older than 0.8.2; max_parallel_maintenance_workers is 0, which avoids the flaw',
    {
      ...SERVER,
      pgvector: '0.8.0',
      settings: [...SERVER.settings, { name: 'max_parallel_maintenance_workers', setting: '0', whose: null }],
    },
  ],
  ['L49', 'extension vector is not installed', { ...SERVER, pgvector: null }],
]

describe('the schema of the migrations', () => {
  it('has nothing to mend, and every rule and exception was asked', async () => {
    const { rules, objects, findings } = await lintNow()
    expect(problemsOf(findings)).toEqual([])
    // of these two a server may be in need
    expect(findings.filter(({ rule }) => !['L48', 'L49'].includes(rule))).toEqual([])
    expect(rules).toBe(RULES.length + 1)
    expect(rules).toBeGreaterThanOrEqual(28)
    expect(objects).toBeGreaterThan(200)
  })

  it('is read without changing anything, in a transaction that may not', async () => {
    await database.connection.execute('begin read only')
    await lint(database.connection, target)
    await database.connection.execute('rollback')
    expect(problemsOf((await lintNow()).findings)).toEqual([])
  })

  it('is read the same whatever the search_path of the session is', async () => {
    for (const path of ["''", 'migration, public', 'pg_temp, public, pg_catalog']) {
      expect(problemsOf(await lintAfter(`set local search_path = ${path}`)), path).toEqual([])
    }
  })

  async function lintNow() {
    await database.connection.execute('begin')
    try {
      return await lint(database.connection, target)
    } finally {
      await database.connection.execute('rollback')
    }
  }
})

describe('a rule', () => {
  it('has a number and words of its own, and a breach below that makes it speak', () => {
    const ids = [...RULES.map(({ id }) => id), STALE.id]
    expect(new Set(ids).size).toBe(ids.length)
    for (const { id, title, reason, mend } of RULES) {
      expect(id).toMatch(/^L\d\d$/)
      for (const words of [title, reason, mend]) expect(words, id).toMatch(/^.{10,}$/)
    }
    const broken = new Set([...BREACHES.map(({ rule }) => rule), ...SERVER_BREACHES.map(([rule]) => rule)])
    expect([...broken].sort()).toEqual(ids.sort())
  })

  it.for(BREACHES)('$rule alone finds $what', async ({ rule, sql, says, isShared, since }, context) => {
    const [connection, where] = isShared ? [connectEmbedded(alone.pglite), EMBEDDED] : [database.connection, target]
    if (since !== undefined && (await majorOf(connection)) < since) {
      console.log(`skipped: PostgreSQL ${since} and newer know it`)
      return context.skip()
    }
    const findings = problemsOf(await lintAfter(sql, connection, where))
    expect(findings.map((finding) => finding.rule)).toEqual(says.map(() => rule))
    expect(findings.map(({ object, fault }) => `${object} ${fault}`)).toEqual(
      says.map((sentence) => (typeof sentence === 'string' ? sentence : expect.stringMatching(sentence))),
    )
    for (const { mend } of findings) expect(mend).toMatch(/.{10}/)
  })

  it.each(SERVER_BREACHES)('%s alone finds in the facts of a server: %s', (rule, says, facts) => {
    const found = (server: ServerFacts) =>
      RULES.flatMap((asked) =>
        'judge' in asked ? asked.judge(server).map(({ object, fault }) => [asked.id, `${object} ${fault}`]) : [],
      )
    expect(found(SERVER)).toEqual([])
    expect(found(facts)).toEqual([[rule, says]])
  })

  it.each([160_014, 170_010, 180_004, 190_000])('L48 is content with server_version_num %i', (version) => {
    const rule = RULES.find(({ id }) => id === 'L48')
    expect(rule && 'judge' in rule && rule.judge({ ...SERVER, version })).toEqual([])
  })

  it('L46 reads what is set for a database', async (context) => {
    needsNative(context, database, 'the embedded database is for development, and its disk is not judged')
    const findings = problemsOf(await lintAfter(alterDatabase('set synchronous_commit = false')))
    expect(findings.map(toSentence)).toEqual([
      expect.stringMatching(/^L46 setting synchronous_commit is off for database rekko_test_/),
    ])
  })

  it('that only warns does not say that something is to be mended', () => {
    expect(RULES.filter(({ level }) => level === 'warning').map(({ id }) => id)).toEqual(['L48', 'L49'])
  })
})

async function majorOf(connection: Connection): Promise<number> {
  const [row] = await connection.query<{ major: number }>(
    "select current_setting('server_version_num')::int / 10000 as major",
  )
  return row?.major ?? 0
}

describe('an exception', () => {
  it('stands once, with a reason, for a rule that exists', () => {
    const ids = RULES.map(({ id }) => id)
    for (const { rule, object, reason } of EXCEPTIONS) {
      expect(ids).toContain(rule)
      expect(reason, object).toMatch(/^.{8,}$/)
    }
    expect(new Set(EXCEPTIONS.map(({ rule, object }) => `${rule} ${object}`)).size).toBe(EXCEPTIONS.length)
  })

  it.each([
    ['a policy that says more', 'alter policy api_keys_owner_update on api_keys using (true)', 'L13'],
    ['a function that more may call', 'grant execute on function roll_up_usage(integer) to rekko_app', 'L27'],
    ['a column more that may be changed', 'grant update (tenant_id) on faces to rekko_app', 'L39'],
    [
      'a policy of the vault that says more',
      'alter policy template_keys_owner_update on vault.template_keys using (destroyed_at is null)',
      'L13',
    ],
    ['keys that the operator may ask for', 'grant execute on function list_template_keys() to rekko_operator', 'L27'],
  ])('is for what was reviewed only: %s is found, and the exception too', async (_, sql, rule) => {
    expect(problemsOf(await lintAfter(sql)).map((finding) => finding.rule)).toEqual([rule, STALE.id])
  })

  it('may be for what a later migration makes', async () => {
    const old = await createDatabase()
    try {
      await migrate(old.connection, 3)
      const findings = await lintAfter('select 1', old.connection)
      expect(findings.filter(({ rule }) => rule === STALE.id)).toEqual([])
    } finally {
      await old.drop()
    }
  })
})

describe('a wall that only looks like one', () => {
  it.each([
    ['restricts nothing', 'alter policy faces_wall on faces using (true) with check (true)', ['L10', 'L12', 'L13']],
    ['lets anything be written', 'alter policy faces_wall on faces with check (true)', ['L10', 'L12', 'L13']],
    ['lets anything be read', 'alter policy faces_wall on faces using (true)', ['L10', 'L12', 'L13']],
    [
      'stands for reading only',
      `drop policy faces_wall on faces;
       create policy faces_wall on faces as restrictive for select to rekko_app using (tenant_id = current_tenant_id())`,
      ['L10', 'L12'],
    ],
    [
      'is permissive',
      `drop policy faces_wall on faces; create policy faces_wall on faces to rekko_app ${OWN}`,
      ['L10'],
    ],
    ['compares another column', 'alter policy faces_wall on faces using (id = current_tenant_id())', ['L10', 'L12']],
    [
      'asks another function',
      `create schema evil; grant usage on schema evil to rekko_app; alter schema evil owner to rekko_owner;
       set local role rekko_owner;
       create function evil.current_tenant_id() returns uuid language sql stable as 'select null::uuid';
       alter policy faces_wall on faces using (tenant_id = evil.current_tenant_id())`,
      ['L10', 'L12'],
    ],
    ['is somebody else’s', 'alter policy faces_tenant on faces to rekko_jobs', ['L11', 'L15']],
    ['is everybody’s', 'alter policy faces_tenant on faces to public', ['L11', 'L15']],
    ['is on a table of no tenant', `create policy p on operator_events to rekko_app using (actor = 'me')`, ['L12']],
  ])('because it %s is found', async (_, sql, rules) => {
    expect(problemsOf(await lintAfter(sql)).map(({ rule }) => rule)).toEqual(rules)
  })

  it('and a table that has none at all', async () => {
    const findings = problemsOf(await lintAfter(asOwner('create table notes (tenant_id uuid not null, body text)')))
    expect(findings.map(({ rule }) => rule)).toEqual(['L07', 'L08', 'L10', 'L11'])
  })
})

describe('a schema that is broken all over', () => {
  it('is found in every place', async () => {
    const findings = problemsOf(
      await lintAfter(`
        create table notes (id serial primary key, tenant_id text, face_id uuid, secret text);
        grant all on notes to rekko_app, public;
        create view everybody as select * from faces;
        create function peek() returns setof faces language sql security definer immutable leakproof as 'select * from faces';
        create policy open on faces using (true);
        alter table usage_records disable row level security;
        grant temporary on database ${await quotedDatabase()} to public;
        alter table identifications add constraint late check (faces_searched >= 0) not valid`),
    )
    const counts = new Map<string, number>()
    for (const { rule } of findings) counts.set(rule, (counts.get(rule) ?? 0) + 1)
    const isNew = (await majorOf(database.connection)) >= 17
    expect(Object.fromEntries(counts)).toEqual({
      // notes and its sequence, everybody, peek
      ...{
        L06: 4,
        L07: 2,
        L08: 1,
        L09: 1,
        L10: 1,
        L11: 1,
        L13: 1,
        L15: 1,
        L20: 1,
        L25: 1,
        L26: 1,
        L27: 1,
        L28: 1,
        L29: 1,
      },
      // TRUNCATE, REFERENCES, TRIGGER and MAINTAIN, for both; the four others for PUBLIC
      ...{ L33: 1, L36: isNew ? 8 : 6, L37: 4, L39: 2, L40: 2, L43: 1 },
    })
  })

  async function quotedDatabase(): Promise<string> {
    const [row] = await database.connection.query<{ name: string }>('select quote_ident(current_database()) as name')
    return row?.name ?? ''
  }
})

describe('scripts/db.sh lint', () => {
  it('ends with 0 and one line, or with 5, the findings and what to do', async (context) => {
    needsNative(context, database, 'the command would open an embedded database of its own')
    const well = await runLint('--json')
    expect(well.code, well.stderr).toBe(EXIT.ok)
    expect(JSON.parse(well.stdout)).toMatchObject({ rules: RULES.length + 1, problems: 0 })
    expect(well.stderr).toMatch(/^✓ \d+ rules hold for [\d,]+ objects(, \d+ warnings?)?\n$/)

    await database.connection.execute('alter table faces no force row level security')
    const [ill, json] = [await runLint(), await runLint('--json')]
    await database.connection.execute('alter table faces force row level security')
    expect(ill.code).toBe(EXIT.findings)
    expect(ill.stdout).toMatch(
      /^✗ L08 table faces row-level security does not bind its owner\n {2}why: .+\n {2}to mend: alter table faces force row level security$/m,
    )
    expect(json.code).toBe(EXIT.findings)
    expect(JSON.parse(json.stdout)).toMatchObject({
      problems: 1,
      findings: expect.arrayContaining([
        expect.objectContaining({ rule: 'L08', object: 'table faces', level: 'problem' }),
      ]),
    })
  })

  it('looks at nothing, finds nothing and says so where the schema is not there yet', async (context) => {
    needsNative(context, database, 'the command would open an embedded database of its own')
    const empty = await createDatabase()
    onTestFinished(() => empty.drop())
    for (const options of [[], ['--json']]) {
      expect(await runLint('--database-url', empty.url, ...options)).toEqual({
        code: EXIT.refused,
        stdout: '',
        stderr: '✗ not looked at: the schema is not there yet: scripts/db.sh up\n',
      })
    }
  })

  function runLint(...options: string[]): Promise<{ code: number; stdout: string; stderr: string }> {
    return new Promise((resolve) =>
      execFile(
        process.execPath,
        [join(import.meta.dirname, '../../scripts/db.ts'), '--database-url', database.url, 'lint', ...options],
        { timeout: 30_000 },
        (error, stdout, stderr) => resolve({ code: error ? Number(error.code ?? -1) : 0, stdout, stderr }),
      ),
    )
  }
})
