// What only an administrator may do, once per database and safe to repeat: roles, the extension, and
// handing the schema to its owner. Everything after this runs as rekko_owner.
import type { Connection } from './connection.ts'
import { findSqlState } from './transaction.ts'

/** The logins of the Worker. Tests and development use the name as the password. */
export const LOGIN_ROLES = ['rekko_app', 'rekko_operator', 'rekko_jobs'] as const
export type LoginRole = (typeof LOGIN_ROLES)[number]

/**
 * @param passwords for logins that do not exist yet; a login that exists keeps its password
 */
export async function bootstrap(admin: Connection, passwords: Record<LoginRole, string>): Promise<void> {
  await createRole(admin, 'rekko_owner', 'nologin')
  for (const role of LOGIN_ROLES) {
    await createRole(admin, role, `login password ${toLiteral(passwords[role])}`)
  }
  await limitLogins(admin)
  await createBackupRole(admin)
  await admin.execute(`
    do $$
    begin
      execute format('revoke all on database %I from public', current_database());
      execute format('grant connect on database %I to rekko_app, rekko_operator, rekko_jobs, rekko_backup', current_database());
      execute format('grant connect, create on database %I to rekko_owner', current_database());
      -- the administrator works as them: migrations as the one, dumps as the other
      execute format('grant rekko_owner, rekko_backup to %I', current_user);
      -- an import enters one tenant and works inside the wall, as the service does. Not inherited, or the
      -- administrator would be bound by the policies of rekko_app; before PostgreSQL 16 that could not be said.
      if current_setting('server_version_num')::int >= 160000 then
        execute format('grant rekko_app to %I with inherit false, set true', current_user);
      end if;
    end $$;
    -- not in a migration: the schema belongs to the administrator, and for rekko_owner a REVOKE would only warn
    revoke all on schema public from public;
    grant usage on schema public to rekko_app, rekko_operator, rekko_jobs, rekko_backup;
    grant usage, create on schema public to rekko_owner;
    create extension if not exists vector;
    alter default privileges for role rekko_owner revoke execute on functions from public;
  `)
  await handOver(admin)
}

async function createRole(admin: Connection, role: string, options: string): Promise<void> {
  const [existing] = await admin.query<{ is_unbound: boolean }>(
    'select rolsuper or (rolbypassrls and rolname <> $2) as is_unbound from pg_roles where rolname = $1',
    [role, 'rekko_backup'],
  )
  if (!existing) {
    await admin.execute(`create role ${role} nosuperuser nocreatedb nocreaterole noinherit ${options}`)
  } else if (existing.is_unbound) {
    // somebody gave it a way around row-level security: no service may run with that
    await admin.execute(`alter role ${role} nosuperuser nobypassrls`)
  }
}

/**
 * Only an administrator who may bypass row-level security can make a role that does. Where he may not,
 * the role is made without, and `db.sh dump` says that it cannot see all rows.
 */
async function createBackupRole(admin: Connection): Promise<void> {
  try {
    await createRole(admin, 'rekko_backup', 'nologin bypassrls')
  } catch (error) {
    // insufficient_privilege
    if (findSqlState(error) !== '42501') throw error
    await createRole(admin, 'rekko_backup', 'nologin')
  }
}

/**
 * A transaction of the Worker ends in the database before the Worker gives it up, which is 10 s after the first and at least 5 s
 * after each (src/db/neon.ts, src/db/repetition.ts). PostgreSQL 16 knows no limit for a transaction: there it is that of each
 * statement. The embedded database, which nobody logs in to, does not know these.
 */
async function limitLogins(admin: Connection): Promise<void> {
  for (const role of LOGIN_ROLES) {
    await admin.execute(`
      alter role ${role} set statement_timeout = '4s';
      alter role ${role} set lock_timeout = '2s';
      alter role ${role} set idle_in_transaction_session_timeout = '10s';`)
  }
  await admin.execute(`
    do $$
    begin
      if current_setting('server_version_num')::int >= 170000 then
        alter role rekko_app set transaction_timeout = '5s';
        alter role rekko_operator set transaction_timeout = '5s';
      end if;
    end $$`)
  // the roll-up works in batches of thousands
  await admin.execute("alter role rekko_jobs set statement_timeout = '30s'")
}

/** Tables of an earlier installation belong to whoever migrated it; the owner needs to own them. */
async function handOver(admin: Connection): Promise<void> {
  await admin.execute(`
    do $$
    declare
      relation regclass;
    begin
      for relation in
        select c.oid from pg_class c
        where c.relnamespace = 'public'::regnamespace and c.relkind = 'r' and c.relowner <> 'rekko_owner'::regrole
          and c.relname in ('tenants', 'faces', 'verifications', 'usage_records', 'schema_migrations')
      loop
        execute format('alter table %s owner to rekko_owner', relation);
      end loop;
    end $$;
  `)
}

/** Passwords cannot be parameters of CREATE ROLE. */
function toLiteral(text: string): string {
  if (text.includes('\\') || text.includes('\0')) throw new RangeError('a password must not contain a backslash or NUL')
  return `'${text.replaceAll("'", "''")}'`
}
