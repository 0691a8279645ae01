// What a server is: its versions and the fixes they need, and its settings, wherever they were made.
import type { Connection } from './connection.ts'

/** The newest major that this code was tried with, and what each needs: the fixes of 14 May 2026, eleven CVEs. */
export const SECURE_MINOR = new Map([
  [16, 14],
  [17, 10],
  [18, 4],
])

/** Whether a version like 0.8.1 comes before another; 0.8.10 comes after 0.8.9. */
export function isBefore(version: string, other: string): boolean {
  const [a, b] = [version, other].map((text) => text.split('.').map(Number))
  for (let part = 0; part < 3; part++) {
    const difference = (a?.[part] ?? 0) - (b?.[part] ?? 0)
    if (difference !== 0) return difference < 0
  }
  return false
}

export interface Setting {
  name: string
  setting: string
  /** The role, database or function that it was set for; null for the server's. */
  whose: string | null
}

/** What is set for a role or a database is kept as it was written: off, false, no or 0, in any case, also cut short. */
export function isOff({ setting }: Setting): boolean {
  return /^(off?|f(a(l(se?)?)?)?|no?|0)$/i.test(setting)
}

/** What the server is set to, and what is set for roles, for this database and for functions. */
export function readSettings(connection: Connection, names: string[]): Promise<Setting[]> {
  return connection.query<Setting>(
    `select name, setting, null as whose from pg_settings where name = any ($1)
     union all
     select split_part(c, '=', 1), substr(c, strpos(c, '=') + 1),
       concat_ws(
         ' ', 'role ' || (select quote_ident(rolname) from pg_roles where oid = s.setrole),
         case when s.setdatabase <> 0 then 'database ' || quote_ident(current_database()) end
       )
     from pg_db_role_setting s
     join unnest(s.setconfig) as c on s.setdatabase in (0, (select oid from pg_database where datname = current_database()))
     where split_part(c, '=', 1) = any ($1)
     union all
     select split_part(c, '=', 1), substr(c, strpos(c, '=') + 1), 'function ' || p.oid::regprocedure
     from pg_proc p cross join unnest(p.proconfig) as c
     where split_part(c, '=', 1) = any ($1)`,
    [names],
  )
}
