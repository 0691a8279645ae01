// Whether the database is one that may be trusted with tenants: not only that it answers.
import type { Env } from '../env.ts'
import { connect, DatabaseError, type DatabaseTrace } from './neon.ts'

/** The oldest schema that this code works with: the newest migration it was written for. */
export const SCHEMA_VERSION = 13

export type Readiness = {
  /** The login is rekko_app, owns nothing, is a member of nothing and cannot bypass the policies. */
  role: boolean
  /** Every table has row-level security, it binds the owner too, and it is active for this login. */
  row_level_security: boolean
  schema_version: boolean
}

/** @throws DatabaseError when the database does not answer at all */
export async function findReadiness(env: Env, trace: DatabaseTrace): Promise<Readiness> {
  const { sql, transact } = connect(env, env.DATABASE_URL, trace)
  const checks = sql`
    select
      (
        select r.rolname = 'rekko_app' and not (r.rolsuper or r.rolbypassrls or r.rolcreaterole or r.rolinherit)
          and not exists (select from pg_auth_members m where m.member = r.oid)
          and not exists (select from pg_class c where c.relowner = r.oid)
        from pg_roles r where r.rolname = current_user
      ) as role,
      (
        select count(*) > 0 and bool_and(c.relrowsecurity and c.relforcerowsecurity and row_security_active(c.oid))
        from pg_class c
        where c.relnamespace = 'public'::regnamespace and c.relkind in ('r', 'p') and c.relname <> 'schema_migrations'
      ) as row_level_security,
      coalesce((select version >= ${SCHEMA_VERSION} and not dirty from schema_migrations), false) as schema_version`
  try {
    const [checked] = await transact([checks], { readOnly: true })
    const row = checked?.rows[0]
    return {
      role: row?.['role'] === true,
      row_level_security: row?.['row_level_security'] === true,
      schema_version: row?.['schema_version'] === true,
    }
  } catch (error) {
    if (!(error instanceof DatabaseError) || error.isUnavailable) throw error
    // it answers, and has no such table or lets this login see none
    return { role: false, row_level_security: false, schema_version: false }
  }
}
