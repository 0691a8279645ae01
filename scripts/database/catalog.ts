// The catalog of a database as text, to compare two of them: one before and after, a dump and its source.
import type { Connection } from './connection.ts'

/** What a line of the catalog is about. */
export type Kind =
  | 'schema'
  | 'relation'
  | 'column'
  | 'storage'
  | 'constraint'
  | 'index'
  | 'policy'
  | 'function'
  | 'trigger'
  | 'grant'

/**
 * Everything that migrations make, as PostgreSQL itself writes it: one line each, in a fixed order.
 * Without what belongs to the extension and to the system.
 *
 * @param kinds all when none is given
 */
export async function describeCatalog(connection: Connection, ...kinds: Kind[]): Promise<string[]> {
  const lines = await connection.query<{ kind: Kind; line: string }>(CATALOG)
  return lines
    .filter(({ kind }) => kinds.length === 0 || kinds.includes(kind))
    .map(({ kind, line }) => `${kind} ${line}`)
    .sort()
}

const CATALOG = `
  with namespaces as (
    select oid, nspname, nspowner, nspacl from pg_namespace
    where nspname !~ '^pg_' and nspname <> 'information_schema'
  ), relations as (
    select c.*, c.oid::regclass::text as name from pg_class c
    where c.relnamespace in (select oid from namespaces)
      and not exists (select from pg_depend d where d.classid = 'pg_class'::regclass and d.objid = c.oid and d.deptype = 'e')
  ), functions as (
    select p.*, p.oid::regprocedure::text as name from pg_proc p
    where p.pronamespace in (select oid from namespaces)
      and not exists (select from pg_depend d where d.classid = 'pg_proc'::regclass and d.objid = p.oid and d.deptype = 'e')
  ), grants as (
    select 'schema ' || nspname as name, coalesce(nspacl, acldefault('n', nspowner)) as acl from namespaces
    union all
    select 'relation ' || name, coalesce(relacl, acldefault('r', relowner)) from relations where relkind in ('r', 'v', 'm', 'p')
    union all
    select format('column %s.%s', r.name, a.attname), a.attacl
    from relations r join pg_attribute a on a.attrelid = r.oid where a.attacl is not null
    union all
    select 'function ' || name, coalesce(proacl, acldefault('f', proowner)) from functions
    union all
    select format('default %s of %s', defaclobjtype, defaclrole::regrole), defaclacl from pg_default_acl
  )
  select 'schema' as kind, format('%s owned by %s', nspname, nspowner::regrole) as line from namespaces
  union all
  select 'relation', concat_ws(
    ' ', name, 'kind', relkind, 'owned by', relowner::regrole, 'row security', relrowsecurity, 'forced', relforcerowsecurity,
    array_to_string(reloptions, ', ')
  ) from relations where relkind <> 'i'
  union all
  select 'column', concat_ws(
    ' ', r.name || '.' || a.attname, format_type(a.atttypid, a.atttypmod),
    (select 'collate ' || l.collname from pg_collation l join pg_type t on t.oid = a.atttypid
     where l.oid = a.attcollation and l.oid <> t.typcollation),
    case when a.attnotnull then 'not null' end,
    (select case a.attgenerated when '' then 'default ' else 'generated ' end || pg_get_expr(d.adbin, d.adrelid)
     from pg_attrdef d where d.adrelid = r.oid and d.adnum = a.attnum)
  )
  from relations r join pg_attribute a on a.attrelid = r.oid
  where r.relkind in ('r', 'v', 'm', 'p') and a.attnum > 0 and not a.attisdropped
  union all
  select 'storage', format('%s.%s %s', r.name, a.attname, a.attstorage)
  from relations r join pg_attribute a on a.attrelid = r.oid
  where r.relkind in ('r', 'v', 'm', 'p') and a.attnum > 0 and not a.attisdropped
  union all
  -- not null has constraints of its own since PostgreSQL 18; the column's line says it on every version
  select 'constraint', concat_ws(' ', r.name, o.conname, pg_get_constraintdef(o.oid))
  from relations r join pg_constraint o on o.conrelid = r.oid where o.contype <> 'n'
  union all
  select 'index', pg_get_indexdef(oid) from relations where relkind = 'i'
  union all
  select 'policy', concat_ws(' ', schemaname, tablename, policyname, permissive, cmd, roles, 'using', qual, 'check', with_check)
  from pg_policies
  union all
  select 'function', pg_get_functiondef(oid) || ' owned by ' || proowner::regrole from functions
  union all
  select 'trigger', pg_get_triggerdef(t.oid)
  from relations r join pg_trigger t on t.tgrelid = r.oid where not t.tgisinternal
  union all
  select 'grant', concat_ws(' ', g.name, a.privilege_type, 'to', case a.grantee when 0 then 'public' else a.grantee::regrole::text end)
  from grants g cross join lateral aclexplode(g.acl) a
`
