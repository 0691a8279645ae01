// The rules of `scripts/db.sh lint`: what must hold in a database whose tenants cannot see each other. They read
// the catalogs, so that what a later migration makes is covered unasked; what may differ stands, with its
// reason, in linter-exceptions.ts.

import { isBefore, isOff, SECURE_MINOR, type Setting } from './server.ts'

export interface Fault {
  /** What is wrong, by kind and name: "table faces". */
  object: string
  fault: string
  /** What to do about this object; null where the rule's own words are enough. */
  mend: string | null
}

/** What a test must not change for everybody who uses the server. */
export interface ServerFacts {
  /** server_version_num: 170011 is 17.11 */
  version: number
  /** Null when it is not installed. */
  pgvector: string | null
  settings: Setting[]
}

interface Words {
  id: string
  /** What must hold. */
  title: string
  /** What somebody could do otherwise. */
  reason: string
  mend: string
  /** A finding fails the lint, a warning does not. */
  level?: 'warning'
  /** The check of doctor that says the same and has more to go by. */
  doctor?: 'durability' | 'indexes' | 'postgresql' | 'pgvector'
}

/** By a query over the views of CATALOG that answers object, fault and mend, or by the facts of the server. */
export type Rule = Words & ({ sql: string } | { judge(server: ServerFacts): Fault[] })

/**
 * What the queries of the rules read: whatever is not of the system and not of an extension. They run with
 * search_path = pg_catalog, public, so that names of public stand alone and all others have their schema.
 */
export const CATALOG = `
  namespaces as (
    select n.oid, n.nspname, n.nspowner, coalesce(n.nspacl, acldefault('n', n.nspowner)) as acl
    from pg_namespace n
    where n.nspname !~ '^pg_' and n.nspname <> 'information_schema'
      and not exists (
        select from pg_depend d where d.classid = 'pg_namespace'::regclass and d.objid = n.oid and d.deptype = 'e'
      )
  ), relations as (
    select c.*, c.oid::regclass::text as name
    from pg_class c join namespaces n on n.oid = c.relnamespace
    where not exists (select from pg_depend d where d.classid = 'pg_class'::regclass and d.objid = c.oid and d.deptype = 'e')
  ), tables as (
    select r.oid, r.name, r.relrowsecurity, r.relforcerowsecurity, t.attname as tenant_column, t.attnum as tenant,
      t.atttypid = 'uuid'::regtype and t.attnotnull as tenant_is_sound,
      -- how each policy for rekko_app must read
      '(' || quote_ident(t.attname) || ' = current_tenant_id())' as own_rows,
      exists (select from pg_inherits i where i.inhrelid = r.oid) as is_child
    from relations r
    left join pg_attribute t on t.attrelid = r.oid and not t.attisdropped
      and t.attname = case r.oid when to_regclass('public.tenants') then 'id' else 'tenant_id' end
    where r.relkind in ('r', 'p')
  ), functions as (
    select p.*, p.oid::regprocedure::text as name, coalesce(pg_get_function_sqlbody(p.oid), p.prosrc) as body,
      coalesce(p.proacl, acldefault('f', p.proowner)) as acl
    from pg_proc p join namespaces n on n.oid = p.pronamespace
    where not exists (select from pg_depend d where d.classid = 'pg_proc'::regclass and d.objid = p.oid and d.deptype = 'e')
  ), policies as (
    select p.polname, p.polcmd, p.polpermissive, p.polroles, t.oid as relation, t.name as table_name, t.own_rows,
      p.polqual is not null as has_qual, p.polwithcheck is not null as has_check,
      -- what names no column decides for all rows alike
      p.polqual::text !~ '\\{VAR ' or p.polwithcheck::text !~ '\\{VAR ' as is_constant,
      pg_get_expr(p.polqual, p.polrelid) as qual, pg_get_expr(p.polwithcheck, p.polrelid) as with_check,
      to_regrole('rekko_app') = any (p.polroles) as binds_app,
      format('policy %I on %s', p.polname, t.name) as name,
      concat_ws(
        ' ', format('policy %I on %s', p.polname, t.name),
        'for ' || case p.polcmd when 'r' then 'select' when 'a' then 'insert' when 'w' then 'update' when 'd' then 'delete' else 'all' end,
        'to ' || (select string_agg(case role when 0 then 'PUBLIC' else role::regrole::text end, ', ' order by role) from unnest(p.polroles) as role),
        'using (' || pg_get_expr(p.polqual, p.polrelid) || ')',
        'with check (' || pg_get_expr(p.polwithcheck, p.polrelid) || ')'
      ) as description
    from pg_policy p join tables t on t.oid = p.polrelid
  ), privileges as (
    -- of everybody but the owner
    select r.oid as relation, r.name, r.relkind, null::name as column_name, a.grantee, a.privilege_type, a.is_grantable
    from relations r
    cross join aclexplode(coalesce(r.relacl, acldefault((case r.relkind when 'S' then 's' else 'r' end)::"char", r.relowner))) a
    where a.grantee <> r.relowner and r.relkind in ('r', 'p', 'v', 'm', 'f', 'S')
    union all
    select r.oid, r.name, r.relkind, c.attname, a.grantee, a.privilege_type, a.is_grantable
    from relations r
    join pg_attribute c on c.attrelid = r.oid and not c.attisdropped
    cross join aclexplode(c.attacl) a
    where a.grantee <> r.relowner
  ), keys as (
    select o.oid, o.conname, o.conkey, o.confkey, o.confdeltype, o.confupdtype, o.confdelsetcols, o.conrelid,
      format('foreign key %I of %s', o.conname, c.name) as name, c.tenant, r.name as referenced, r.tenant as referenced_tenant
    from pg_constraint o join tables c on c.oid = o.conrelid join tables r on r.oid = o.confrelid
    where o.contype = 'f'
  ), logins as (
    select oid, rolname from pg_roles where rolname in ('rekko_app', 'rekko_operator', 'rekko_jobs')
  ), roles as (
    select oid, rolname from logins
    union all
    select oid, rolname from pg_roles where rolname in ('rekko_owner', 'rekko_backup')
  ), administrators as (
    -- no policy binds them, or they are whoever asks
    select oid from pg_roles
    where (rolsuper or rolbypassrls or rolname = current_user or oid = (select datdba from pg_database where datname = current_database()))
      and oid not in (select oid from roles)
  )`

/** Who got a privilege; `a` has a grantee. */
const GRANTEE = "case a.grantee when 0 then 'PUBLIC' else a.grantee::regrole::text end"

const WRITE_AGAIN = 'write the policy again in a migration: migrations/000002_tenancy.up.sql has the statements'

export const RULES: Rule[] = [
  // == Roles ==
  {
    id: 'L01',
    title: 'A login of the Worker can do no more than log in',
    reason:
      'A superuser and a role with BYPASSRLS see every tenant; one that makes roles, databases or replicas soon does too; INHERIT would make every later membership one of those ways.',
    mend: 'alter the role so that it is as scripts/database/bootstrap.ts makes it',
    sql: `
      select 'role ' || wanted.name, f.fault, f.mend
      from unnest(array['rekko_app', 'rekko_operator', 'rekko_jobs']) as wanted(name)
      left join pg_roles r on r.rolname = wanted.name
      cross join lateral (values
        (r.oid is null, 'does not exist', 'scripts/db.sh up makes it'),
        (not r.rolcanlogin, 'cannot log in', format('alter role %I login', r.rolname)),
        (r.rolsuper, 'is a superuser, whom no policy binds', format('alter role %I nosuperuser', r.rolname)),
        (r.rolbypassrls, 'bypasses row-level security: it sees every tenant', format('alter role %I nobypassrls', r.rolname)),
        (r.rolcreaterole, 'may create roles', format('alter role %I nocreaterole', r.rolname)),
        (r.rolcreatedb, 'may create databases', format('alter role %I nocreatedb', r.rolname)),
        (r.rolreplication, 'may replicate the whole server', format('alter role %I noreplication', r.rolname)),
        (r.rolinherit, 'has INHERIT', format('alter role %I noinherit', r.rolname))
      ) as f(is_so, fault, mend)
      where f.is_so`,
  },
  {
    id: 'L02',
    title: 'Nobody logs in as rekko_owner or rekko_backup, and the owner is bound by the policies',
    reason:
      'Forced row-level security does not bind a superuser or BYPASSRLS; the owner can drop every wall and the backup role reads every tenant, so neither may be anybody’s password.',
    mend: 'alter the role so that it is as scripts/database/bootstrap.ts makes it',
    sql: `
      select 'role ' || wanted.name, f.fault, f.mend
      from unnest(array['rekko_owner', 'rekko_backup']) as wanted(name)
      left join pg_roles r on r.rolname = wanted.name
      cross join lateral (values
        (r.oid is null, 'does not exist', 'scripts/db.sh up makes it'),
        (r.rolcanlogin, 'can log in', format('alter role %I nologin', r.rolname)),
        (r.rolsuper, 'is a superuser, whom no policy binds', format('alter role %I nosuperuser', r.rolname)),
        (r.rolbypassrls and r.rolname = 'rekko_owner', 'bypasses row-level security', format('alter role %I nobypassrls', r.rolname)),
        (r.rolcreaterole, 'may create roles', format('alter role %I nocreaterole', r.rolname)),
        (r.rolcreatedb, 'may create databases', format('alter role %I nocreatedb', r.rolname)),
        (r.rolreplication, 'may replicate the whole server', format('alter role %I noreplication', r.rolname))
      ) as f(is_so, fault, mend)
      where f.is_so`,
  },
  {
    id: 'L03',
    title: 'The roles of Rekko are members of nothing',
    reason: 'A member can SET ROLE: without inheriting anything it still becomes whoever it is a member of.',
    mend: 'revoke the membership',
    sql: `
      select format('role %I', m.rolname), format('is a member of %I: it can take over what that may do', g.rolname),
        format('revoke %I from %I', g.rolname, m.rolname)
      from pg_auth_members a join roles m on m.oid = a.member join pg_roles g on g.oid = a.roleid`,
  },
  {
    id: 'L04',
    title: 'Only an administrator is a member of a role of Rekko',
    reason:
      'Whoever is a member of rekko_owner can drop the walls; of rekko_app, enter any tenant; of rekko_backup, read all of them.',
    mend: 'revoke the membership',
    sql: `
      select format('role %I', m.rolname), format('is a member of %I: it can take over what that may do', g.rolname),
        format('revoke %I from %I', g.rolname, m.rolname)
      from pg_auth_members a join roles g on g.oid = a.roleid join pg_roles m on m.oid = a.member
      where m.oid not in (select oid from administrators union all select oid from roles)`,
  },
  {
    id: 'L05',
    title: 'No predefined role that reads, writes or runs for everybody is granted to somebody who is no administrator',
    reason:
      'pg_read_all_data reads what every grant here withholds, pg_read_server_files the data files themselves. Those of monitoring (pg_monitor and its parts) show no rows.',
    mend: 'revoke the membership',
    sql: `
      select format('role %I', m.rolname), format('has the predefined role %I', g.rolname), format('revoke %I from %I', g.rolname, m.rolname)
      from pg_auth_members a join pg_roles g on g.oid = a.roleid join pg_roles m on m.oid = a.member
      where g.rolname ~ '^pg_' and m.rolname !~ '^pg_'
        and g.rolname not in ('pg_monitor', 'pg_read_all_stats', 'pg_read_all_settings', 'pg_stat_scan_tables')
        and m.oid not in (select oid from administrators union all select oid from roles)`,
  },
  {
    id: 'L06',
    title: 'Everything belongs to rekko_owner',
    reason:
      'An owner can take policies away, and a SECURITY DEFINER function or a view has its owner’s rights: a superuser’s shows every tenant.',
    mend: 'alter the object so that rekko_owner owns it',
    sql: `
      select case r.relkind when 'v' then 'view ' when 'm' then 'materialized view ' when 'S' then 'sequence ' when 'f' then 'foreign table ' else 'table ' end || r.name,
        format('belongs to %s', r.relowner::regrole),
        format('alter %s %s owner to rekko_owner', case r.relkind when 'v' then 'view' when 'm' then 'materialized view' when 'S' then 'sequence' when 'f' then 'foreign table' else 'table' end, r.name)
      from relations r where r.relkind in ('r', 'p', 'v', 'm', 'S', 'f') and r.relowner is distinct from to_regrole('rekko_owner')
      union all
      select 'function ' || f.name, format('belongs to %s', f.proowner::regrole), format('alter routine %s owner to rekko_owner', f.name)
      from functions f where f.proowner is distinct from to_regrole('rekko_owner')
      union all
      -- public is the administrator's
      select format('schema %I', n.nspname), format('belongs to %s', n.nspowner::regrole), format('alter schema %I owner to rekko_owner', n.nspname)
      from namespaces n where n.nspname <> 'public' and n.nspowner is distinct from to_regrole('rekko_owner')
      union all
      select pg_describe_object(d.classid, d.objid, d.objsubid), format('belongs to %I', l.rolname), format('reassign owned by %I to rekko_owner', l.rolname)
      from pg_shdepend d join logins l on l.oid = d.refobjid
      where d.refclassid = 'pg_authid'::regclass and d.deptype = 'o'
        and d.dbid in (0, (select oid from pg_database where datname = current_database()))
        and d.classid not in ('pg_class'::regclass, 'pg_proc'::regclass, 'pg_namespace'::regclass)`,
  },

  // == Tables and their policies ==
  {
    id: 'L07',
    title: 'Row-level security is on for every table',
    reason: 'A table without it shows every tenant to whoever may read it.',
    mend: 'alter table ... enable row level security',
    sql: `
      select 'table ' || t.name, 'has no row-level security', format('alter table %s enable row level security', t.name)
      from tables t where not t.relrowsecurity and not t.is_child`,
  },
  {
    id: 'L08',
    title: 'Row-level security binds the owner too',
    reason: 'Without FORCE every SECURITY DEFINER function and every owner’s session sees all tenants.',
    mend: 'alter table ... force row level security',
    sql: `
      select 'table ' || t.name, 'row-level security does not bind its owner', format('alter table %s force row level security', t.name)
      from tables t where not t.relforcerowsecurity and not t.is_child`,
  },
  {
    id: 'L09',
    title: 'Every row says whose it is: tenant_id uuid, not null',
    reason:
      'A row without a tenant is nobody’s, so no policy can keep it from anybody; another type has more than one spelling.',
    mend: 'add tenant_id uuid not null, or name the table among the exceptions and keep every login from it',
    sql: `
      select 'table ' || t.name, case when t.tenant is null then 'has no tenant_id' else format('%I is not "uuid not null"', t.tenant_column) end, null
      from tables t where t.tenant_is_sound is not true`,
  },
  {
    id: 'L10',
    title: 'A restrictive policy keeps rekko_app in its tenant, for reading and for writing',
    reason:
      'Permissive policies are alternatives: one more of them, made by mistake, opens the table unless a restrictive one stands beside it.',
    mend: WRITE_AGAIN,
    sql: `
      select 'table ' || t.name, 'has no restrictive policy that keeps rekko_app in its tenant', null
      from tables t
      where t.tenant is not null and not t.is_child and not exists (
        select from policies p
        where p.relation = t.oid and not p.polpermissive and p.polcmd = '*' and p.polroles = array[to_regrole('rekko_app')::oid]
          and p.qual = t.own_rows and coalesce(p.with_check, p.qual) = t.own_rows
      )`,
  },
  {
    id: 'L11',
    title: 'A permissive policy lets rekko_app into its own tenant',
    reason: 'Without one the table is empty for everybody, and in a face system an empty table reads as "no match".',
    mend: WRITE_AGAIN,
    sql: `
      select 'table ' || t.name, 'has no permissive policy that lets rekko_app into its own tenant', null
      from tables t
      where t.tenant is not null and not t.is_child and not exists (
        select from policies p
        where p.relation = t.oid and p.polpermissive and p.polcmd = '*' and p.polroles = array[to_regrole('rekko_app')::oid]
          and p.qual = t.own_rows and coalesce(p.with_check, p.qual) = t.own_rows
      )`,
  },
  {
    id: 'L12',
    title: 'Policies for rekko_app compare the tenant column with current_tenant_id() and say nothing else',
    reason:
      'DELETE without WHERE under "for delete using (true)" deletes every tenant’s rows whatever the other policies read; WITH CHECK (true) plants rows; a further condition hides a tenant’s own.',
    mend: 'drop the policy, or write it as the others are',
    sql: `
      select p.description, 'says something else to rekko_app', format('drop policy %I on %s', p.polname, p.table_name)
      from policies p
      where p.binds_app and not coalesce(
        p.polcmd = '*' and p.qual = p.own_rows and coalesce(p.with_check, p.qual) = p.own_rows, false)`,
  },
  {
    id: 'L13',
    title: 'No policy decides for all rows alike, but those that were reviewed',
    reason: 'USING (true), and whatever else names no column, is a hole of the size of the table.',
    mend: 'name the rows; or say in linter-exceptions.ts which function needs it and why',
    sql: `select p.description, 'names no column: all rows of all tenants pass', null from policies p where p.is_constant`,
  },
  {
    id: 'L14',
    title: 'A policy of the owner names one tenant, but those that were reviewed',
    reason: 'The owner’s functions run for callers of one tenant: what reaches further has to have a reason.',
    mend: 'compare the tenant column with current_tenant_id(); or say in linter-exceptions.ts why not',
    sql: `
      select p.description, 'reaches beyond one tenant', null
      from policies p
      where not coalesce(p.binds_app, false) and not coalesce(p.is_constant, false)
        and (p.has_qual and p.qual is distinct from p.own_rows or p.has_check and p.with_check is distinct from p.own_rows)`,
  },
  {
    id: 'L15',
    title: 'Policies are for rekko_app and rekko_owner only',
    reason: 'A policy TO PUBLIC is for every role there will ever be; the other logins have no business with rows.',
    mend: 'alter policy ... to rekko_app, or drop it',
    sql: `
      select p.description, 'is for somebody else', format('drop policy %I on %s', p.polname, p.table_name)
      from policies p
      where not p.polroles <@ array[to_regrole('rekko_app')::oid, to_regrole('rekko_owner')::oid]`,
  },
  {
    id: 'L16',
    title: 'A policy of the owner is for one command',
    reason: 'FOR ALL opens reading, planting, changing and deleting at once; each function needs one or two of them.',
    mend: 'write one policy for each command that a function needs',
    sql: `
      select p.description, 'lets rekko_owner do everything', format('drop policy %I on %s', p.polname, p.table_name)
      from policies p where p.polcmd = '*' and to_regrole('rekko_owner') = any (p.polroles)`,
  },
  {
    id: 'L17',
    title: 'A setting that was never made and one that is empty are the same, and no tenant is an error',
    reason:
      'After a transaction-local setting a pooled session holds the empty text and not null: only a reused connection would fail. An empty result instead of an error would read as "no match".',
    mend: "write nullif(current_setting('app...', true), ''), and read the tenant by current_tenant_id() only",
    sql: `
      select 'function ' || f.name, 'reads a setting without nullif(current_setting(name, true), '''')', null
      from functions f
      where regexp_count(f.body, 'current_setting\\s*\\(\\s*(?!''[a-z_]+'')', 1, 'i')
        <> regexp_count(f.body, '(nullif|coalesce)\\s*\\(\\s*(pg_catalog\\.)?current_setting\\s*\\(\\s*(?!''[a-z_]+'')[^()]*,\\s*true\\s*\\)\\s*,\\s*''''', 1, 'i')
      union all
      select 'function current_tenant_id()', w.fault, null
      from (select max(f.body) as body from functions f where f.oid = to_regprocedure('public.current_tenant_id()')) as f
      cross join lateral (values
        (f.body is null, 'does not exist'),
        (f.body !~* 'raise\\s+exception', 'does not raise when no tenant has been entered'),
        (f.body !~* 'nullif\\s*\\(', 'does not take an empty setting for none')
      ) as w(is_so, fault)
      where w.is_so
      union all
      select e.object, 'reads a setting itself', null
      from (
        select p.name as object, concat_ws(' ', p.qual, p.with_check) as expression from policies p
        union all
        select format('constraint %I on %s', o.conname, t.name), pg_get_constraintdef(o.oid) from pg_constraint o join tables t on t.oid = o.conrelid
        union all
        select format('column %s.%I', t.name, a.attname), pg_get_expr(d.adbin, d.adrelid)
        from pg_attrdef d join tables t on t.oid = d.adrelid join pg_attribute a on a.attrelid = d.adrelid and a.attnum = d.adnum
      ) as e
      where e.expression ~* 'current_setting'`,
  },
  {
    id: 'L18',
    title: 'What depends on the tenant is not IMMUTABLE, and current_tenant_id() is STABLE',
    reason:
      'A cached plan keeps the value of an immutable function: the next tenant in the session reads the rows of the one before.',
    mend: 'alter function ... stable',
    sql: `
      select 'function ' || f.name, 'is IMMUTABLE and reads what changes from one transaction to the next', format('alter function %s stable', f.name)
      from functions f
      where f.provolatile = 'i' and f.oid is distinct from to_regprocedure('public.current_tenant_id()') and (
        f.body ~* 'current_setting|current_user|session_user|current_role'
        or exists (select from functions g where g.provolatile <> 'i' and f.body ~ ('\\m' || g.proname || '\\M'))
      )
      union all
      select 'function ' || f.name, 'is not STABLE', format('alter function %s stable', f.name)
      from functions f where f.oid = to_regprocedure('public.current_tenant_id()') and f.provolatile <> 's'`,
  },
  {
    id: 'L19',
    title: 'A setting that a function makes ends with the transaction',
    reason:
      'set_config(..., false) stays in the pooled session: the next client, of another tenant, works in this one.',
    mend: 'set_config(name, value, true)',
    sql: `
      select 'function ' || f.name, 'calls set_config without "true" as its last argument', null
      from functions f
      -- the first quantifier decides for all of them: *? takes the nearest "true"
      where regexp_count(f.body, 'set_config\\s*?\\(', 1, 'i') <> regexp_count(f.body, 'set_config\\s*?\\([^;]*?,\\s*?true\\s*?\\)', 1, 'i')
        or f.body ~* 'set_config\\s*?\\([^;]*?,\\s*?false\\s*?\\)'
        or f.body ~* '\\mset\\s+(session\\s+)?app\\.'
      union all
      select 'function ' || f.name, 'has a setting of its own for ' || split_part(c, '=', 1), format('alter function %s reset %s', f.name, split_part(c, '=', 1))
      from functions f cross join unnest(f.proconfig) as c where c ~ '^app\\.'`,
  },
  {
    id: 'L20',
    title: 'A view asks with the rights of whoever reads it',
    reason: 'Otherwise it asks with its owner’s, and shows what the owner sees.',
    mend: 'alter view ... set (security_invoker = true)',
    sql: `
      select 'view ' || r.name, 'is without security_invoker', format('alter view %s set (security_invoker = true)', r.name)
      from relations r
      where r.relkind = 'v' and not coalesce(
        (select o.option_value::boolean from pg_options_to_table(r.reloptions) o where o.option_name = 'security_invoker'), false)`,
  },
  {
    id: 'L21',
    title: 'There is no materialized view and no foreign table',
    reason: 'Neither can have row-level security: what is in it is every tenant’s.',
    mend: 'drop it; a table with tenant_id and policies does the same',
    sql: `
      select case r.relkind when 'm' then 'materialized view ' else 'foreign table ' end || r.name, 'cannot have row-level security', null
      from relations r where r.relkind in ('m', 'f')`,
  },
  {
    id: 'L22',
    title: 'A partition or child has row-level security of its own, and nobody is granted it',
    reason: 'Named directly, it is read without the policies of its parent.',
    mend: 'enable and force row-level security on it, and let logins reach it through its parent only',
    sql: `
      select 'table ' || t.name, f.fault, f.mend
      from tables t
      cross join lateral (values
        (not (t.relrowsecurity and t.relforcerowsecurity), 'is a child without row-level security of its own',
          format('alter table %1$s enable row level security; alter table %1$s force row level security', t.name)),
        (exists (select from privileges a where a.relation = t.oid and a.grantee is distinct from to_regrole('rekko_backup')),
          'is a child, and granted to somebody directly', format('revoke all on %s from ...', t.name))
      ) as f(is_so, fault, mend)
      where t.is_child and f.is_so`,
  },
  {
    id: 'L23',
    title: 'No table has a rewrite rule',
    reason: 'A rule rewrites the statements of its callers and asks with the rights of the table’s owner.',
    mend: 'drop rule ...; a trigger does the same and can be read',
    sql: `
      select format('rule %I on %s', w.rulename, r.name), 'rewrites statements with its owner’s rights', format('drop rule %I on %s', w.rulename, r.name)
      from pg_rewrite w join relations r on r.oid = w.ev_class where w.rulename <> '_RETURN'`,
  },
  {
    id: 'L24',
    title: 'Nothing carries rows past the policies: no publication, no large object',
    reason: 'A publication streams the changes of every tenant to whoever subscribes; large objects have no policies.',
    mend: 'drop it; or say in linter-exceptions.ts who reads it',
    sql: `
      select format('publication %I', p.pubname), 'streams rows without policies', format('drop publication %I', p.pubname) from pg_publication p
      union all
      select 'large object ' || l.oid, 'has no row-level security', format('select lo_unlink(%s)', l.oid) from pg_largeobject_metadata l`,
  },

  // == Functions ==
  {
    id: 'L25',
    title: 'A SECURITY DEFINER function pins its search_path: pg_catalog first, pg_temp last',
    reason:
      'It runs with its owner’s rights: a caller who can put a table or an operator in front of ours makes it work on that.',
    mend: 'alter function ... set search_path = pg_catalog, pg_temp',
    sql: `
      select 'function ' || f.name, 'takes its search_path from the caller, or does not begin with pg_catalog and end with pg_temp',
        format('alter function %s set search_path = pg_catalog, pg_temp', f.name)
      from functions f
      where f.prosecdef and not exists (
        select from unnest(f.proconfig) as c where c ~ '^search_path=pg_catalog(, [a-z_]+)*, pg_temp$')`,
  },
  {
    id: 'L26',
    title: 'PUBLIC may execute nothing',
    reason: 'PostgreSQL lets PUBLIC execute every new function: each login, and every login there will be.',
    mend: 'revoke all on function ... from public',
    sql: `
      select 'function ' || f.name, 'may be executed by PUBLIC', format('revoke all on function %s from public', f.name)
      from functions f where exists (select from aclexplode(f.acl) a where a.grantee = 0)`,
  },
  {
    id: 'L27',
    title: 'Each SECURITY DEFINER function, and who may execute it, was reviewed',
    reason: 'It is a door through the wall. A door needs a reason and a doorkeeper.',
    mend: 'review what it shows to whom, then add it to linter-exceptions.ts; or write it with SECURITY INVOKER',
    sql: `
      select format(
          'function %s for %s', f.name,
          coalesce((
            select string_agg(${GRANTEE} || case when a.is_grantable then ' with grant option' else '' end, ', ' order by ${GRANTEE})
            from aclexplode(f.acl) a where a.grantee not in (0, f.proowner)
          ), 'nobody')
        ), 'runs with its owner’s rights and was not reviewed', null
      from functions f where f.prosecdef`,
  },
  {
    id: 'L28',
    title: 'No function is LEAKPROOF or written in an untrusted language',
    reason:
      'The planner calls a leakproof function on rows that the policies hide; an untrusted language reads files and memory.',
    mend: 'alter function ... not leakproof, or write it in sql or plpgsql',
    sql: `
      select 'function ' || f.name, 'is LEAKPROOF', format('alter function %s not leakproof', f.name) from functions f where f.proleakproof
      union all
      select 'function ' || f.name, format('is written in %I', l.lanname), null
      from functions f join pg_language l on l.oid = f.prolang where not l.lanpltrusted and l.lanname <> 'sql'`,
  },

  // == Keys ==
  {
    id: 'L29',
    title: 'A primary or unique key of tenants’ rows begins with the tenant',
    reason:
      'A conflict with a row of another tenant says that it exists, and the insert waits for the other’s transaction.',
    mend: 'put tenant_id first into the key',
    sql: `
      select format('index %s of %s', i.indexrelid::regclass, t.name), format('is a key that does not begin with %I', t.tenant_column), null
      from pg_index i join tables t on t.oid = i.indrelid
      where t.tenant is not null and (i.indisunique or i.indisexclusion) and i.indkey[0] <> t.tenant`,
  },
  {
    id: 'L30',
    title: 'A foreign key to a tenant’s rows holds the tenant at the same place on both sides',
    reason:
      'Checks and cascades ignore row-level security: by an id alone a row is tied to another tenant’s, and the error says whether that exists.',
    mend: 'foreign key (tenant_id, x_id) references x (tenant_id, id)',
    sql: `
      select k.name, format('does not pair the tenant with the tenant of %s', k.referenced), null
      from keys k
      where k.referenced_tenant is not null
        and not coalesce(array_position(k.conkey, k.tenant) = array_position(k.confkey, k.referenced_tenant), false)`,
  },
  {
    id: 'L31',
    title: 'A foreign key takes no row along and does not empty a tenant_id',
    reason:
      'A cascade ignores row-level security and takes the audit along; SET NULL without a list of columns empties tenant_id as well.',
    mend: 'on delete restrict, or on delete set null (the_column)',
    sql: `
      select k.name, f.fault, null
      from keys k
      cross join lateral (values
        (k.confdeltype = 'c' or k.confupdtype = 'c', 'cascades'),
        (k.confdeltype in ('n', 'd') and k.tenant = any (coalesce(k.confdelsetcols, k.conkey)), 'empties the tenant when the other row is deleted'),
        (k.confupdtype in ('n', 'd'), 'changes the row when the other one is changed')
      ) as f(is_so, fault)
      where f.is_so`,
  },
  {
    id: 'L32',
    title: 'Every foreign key has an index that serves it',
    reason: 'Without one an erasure reads the whole table of all tenants and holds its locks meanwhile.',
    mend: 'create index concurrently ... on ... (the columns of the key)',
    sql: `
      select k.name, 'has no index', null
      from keys k
      where not exists (
        select from pg_index i
        where i.indrelid = k.conrelid and i.indisvalid and i.indpred is null and i.indnkeyatts >= cardinality(k.conkey)
          and (select array_agg(c order by c) from unnest((i.indkey::int2[])[0:cardinality(k.conkey) - 1]) as c)
            = (select array_agg(c order by c) from unnest(k.conkey) as c)
      )`,
  },
  {
    id: 'L33',
    title: 'Every constraint holds for every row',
    reason: 'One that is NOT VALID, or not enforced, was never asked of the rows that were there.',
    mend: 'alter table ... validate constraint ...',
    sql: `
      select format('constraint %I on %s', o.conname, t.name), 'is not valid for all rows', format('alter table %s validate constraint %I', t.name, o.conname)
      from pg_constraint o join tables t on t.oid = o.conrelid where not o.convalidated`,
  },
  {
    id: 'L34',
    title: 'Every index is valid',
    reason:
      'What an interrupted build leaves is kept up to date and never read; a unique one does not keep anything unique.',
    mend: 'drop index concurrently ..., then build it again',
    doctor: 'indexes',
    sql: `
      select 'index ' || r.name, 'is not valid: its build did not finish', format('drop index concurrently %s', r.name)
      from pg_index i join relations r on r.oid = i.indexrelid
      where not (i.indisvalid and i.indisready and i.indislive)
        and not exists (select from pg_stat_progress_create_index b where b.index_relid = i.indexrelid)`,
  },
  {
    id: 'L35',
    title: 'No trigger is switched off, those of foreign keys included',
    reason: 'A count, a metering or a foreign key that is not kept is wrong from then on, and nothing says so.',
    mend: 'alter table ... enable trigger all; then compare what it should have kept',
    sql: `
      select format('trigger %I on %s', g.tgname, t.name), 'does not fire', format('alter table %s enable trigger %I', t.name, g.tgname)
      from pg_trigger g join tables t on t.oid = g.tgrelid where g.tgenabled in ('D', 'R')`,
  },

  // == Grants ==
  {
    id: 'L36',
    title: 'Only SELECT, INSERT, UPDATE and DELETE are granted, and nobody may pass them on',
    reason:
      'TRUNCATE ignores row-level security, REFERENCES tells what exists, TRIGGER and MAINTAIN run code of the grantee’s for others.',
    mend: 'revoke the privilege',
    sql: `
      select format('%s %s', case a.relkind when 'S' then 'sequence' else 'table' end, a.name),
        format('grants %s to %s%s', a.privilege_type, ${GRANTEE}, case when a.is_grantable then ' with grant option' else '' end),
        format('revoke %s%s on %s from %s', a.privilege_type, ' (' || quote_ident(a.column_name) || ')', a.name, ${GRANTEE})
      from privileges a
      where a.relkind <> 'S' and (a.privilege_type not in ('SELECT', 'INSERT', 'UPDATE', 'DELETE') or a.is_grantable)`,
  },
  {
    id: 'L37',
    title: 'Tables are granted to rekko_app, and to rekko_backup for reading, and to nobody else',
    reason:
      'The operator and the schedule work through functions: a right on a table would let them read around these.',
    mend: 'revoke the privilege',
    sql: `
      select 'table ' || a.name, format('may be reached by %s: %s', ${GRANTEE}, a.privilege_type || coalesce(' (' || quote_ident(a.column_name) || ')', '')),
        format('revoke all on %s from %s', a.name, ${GRANTEE})
      from privileges a
      where a.relkind <> 'S' and a.grantee is distinct from to_regrole('rekko_app')
        and not (a.grantee is not distinct from to_regrole('rekko_backup') and a.privilege_type <> all (array['INSERT', 'UPDATE', 'DELETE']))
        and a.privilege_type in ('SELECT', 'INSERT', 'UPDATE', 'DELETE')`,
  },
  {
    id: 'L38',
    title: 'What belongs to no tenant is out of reach of rekko_app',
    reason:
      'No policy can say which of its rows are whose: it is reached through a function that was reviewed, or not at all.',
    mend: 'revoke the privilege, and write a SECURITY DEFINER function that answers what is needed',
    sql: `
      select 'table ' || t.name, format('has no tenant, and rekko_app may %s', a.privilege_type), format('revoke all on %s from rekko_app', t.name)
      from tables t join privileges a on a.relation = t.oid
      where t.tenant is null and a.grantee = to_regrole('rekko_app')`,
  },
  {
    id: 'L39',
    title: 'What rekko_app may change or delete was reviewed; the audit and the metering are not among it',
    reason: 'Whoever can change the audit can change what was decided; whoever can change tenant_id gives rows away.',
    mend: 'revoke the privilege; or add the columns to linter-exceptions.ts',
    sql: `
      select format('%s on %s%s', a.privilege_type, a.name, ' (' || string_agg(quote_ident(a.column_name), ', ' order by a.column_name) || ')'),
        'is granted to rekko_app', format('revoke %s on %s from rekko_app', a.privilege_type, a.name)
      from privileges a
      where a.relkind <> 'S' and a.grantee = to_regrole('rekko_app') and a.privilege_type in ('UPDATE', 'DELETE')
      group by a.relation, a.name, a.privilege_type, a.column_name is null`,
  },
  {
    id: 'L40',
    title: 'No login reads a hash or a secret',
    reason: 'What proves a credential is compared by a function and never leaves the database.',
    mend: 'grant select on the other columns, by name',
    sql: `
      select format('column %s.%I', t.name, c.attname), format('may be read by %s', ${GRANTEE}), format('revoke select on %s from %s', t.name, ${GRANTEE})
      from tables t
      join pg_attribute c on c.attrelid = t.oid and c.attnum > 0 and not c.attisdropped
      join privileges a on a.relation = t.oid and a.privilege_type = 'SELECT' and coalesce(a.column_name, c.attname) = c.attname
      where c.attname ~ '(^|_)(hash|secret|password|pepper|salt|private_key)(_|$)'
        and a.grantee in (select oid from logins union all select 0)`,
  },
  {
    id: 'L41',
    title: 'No login reads or advances a sequence',
    reason: 'Its last value tells how many rows all tenants together have made.',
    mend: 'revoke all on sequence ...; ids are random uuids',
    sql: `
      select 'sequence ' || a.name, format('may be reached by %s: %s', ${GRANTEE}, a.privilege_type), format('revoke all on sequence %s from %s', a.name, ${GRANTEE})
      from privileges a
      where a.relkind = 'S' and not (a.grantee is not distinct from to_regrole('rekko_backup') and a.privilege_type = 'SELECT')`,
  },
  {
    id: 'L42',
    title: 'Only rekko_owner creates in a schema',
    reason: 'Whoever creates in a schema on the search_path puts a function or an operator where ours was meant.',
    mend: 'revoke create on schema ... from ...',
    sql: `
      select format('schema %I', n.nspname), format('lets %s create', ${GRANTEE}), format('revoke create on schema %I from %s', n.nspname, ${GRANTEE})
      from namespaces n cross join aclexplode(n.acl) a
      where a.privilege_type = 'CREATE' and a.grantee is distinct from to_regrole('rekko_owner')
        and a.grantee not in (select oid from administrators union all select n.nspowner union all select oid from pg_roles where rolname = 'pg_database_owner')`,
  },
  {
    id: 'L43',
    title: 'PUBLIC has nothing in the database, and nobody may make temporary tables or schemas',
    reason:
      'A temporary table stands in front of ours for a function that does not pin its search_path, and stays in a pooled session.',
    mend: 'revoke all on database ... from public; revoke all on schema ... from public',
    sql: `
      select format('database %I', d.datname), format('gives %s to %s', a.privilege_type, ${GRANTEE}), format('revoke %s on database %I from %s', a.privilege_type, d.datname, ${GRANTEE})
      from pg_database d cross join aclexplode(coalesce(d.datacl, acldefault('d', d.datdba))) a
      where d.datname = current_database() and (
        a.grantee = 0
        or a.privilege_type = 'TEMPORARY' and a.grantee not in (select oid from administrators)
        or a.privilege_type = 'CREATE' and a.grantee is distinct from to_regrole('rekko_owner') and a.grantee not in (select oid from administrators)
      )
      union all
      select format('schema %I', n.nspname), format('gives %s to PUBLIC', a.privilege_type), format('revoke all on schema %I from public', n.nspname)
      from namespaces n cross join aclexplode(n.acl) a where a.grantee = 0 and a.privilege_type <> 'CREATE'`,
  },
  {
    id: 'L44',
    title: 'What rekko_owner makes next is closed to PUBLIC and to the logins',
    reason: 'A migration that forgets one REVOKE would otherwise give a new function to everybody.',
    mend: 'alter default privileges for role rekko_owner revoke execute on functions from public',
    sql: `
      select 'default privileges of rekko_owner', 'give PUBLIC the execution of every new function', null
      where not exists (
        select from pg_default_acl d
        where d.defaclrole = to_regrole('rekko_owner') and d.defaclobjtype = 'f' and d.defaclnamespace = 0
      )
      union all
      select 'default privileges of rekko_owner',
        format('give %s %s on every new %s', ${GRANTEE}, a.privilege_type, case d.defaclobjtype when 'r' then 'table' when 'S' then 'sequence' when 'f' then 'function' when 'T' then 'type' else 'schema' end), null
      from pg_default_acl d cross join aclexplode(d.defaclacl) a
      where d.defaclrole = to_regrole('rekko_owner') and a.grantee <> d.defaclrole and not (d.defaclobjtype = 'T' and a.grantee = 0)
        and not (a.grantee is not distinct from to_regrole('rekko_backup') and a.privilege_type = 'SELECT')`,
  },
  {
    id: 'L51',
    title: 'Nobody but its owner has a right on the vault',
    reason:
      'Wrapped keys beside the faces leave nothing but the master key to steal: a login that reads them, or a backup that carries them, undoes the protection of the templates. Whoever writes one gives a tenant a key of their own.',
    mend: 'revoke the privilege: list_template_keys() answers the tenant that was entered',
    sql: `
      select format('schema %I', n.nspname), format('gives %s to %s', a.privilege_type, ${GRANTEE}), format('revoke all on schema %I from %s', n.nspname, ${GRANTEE})
      from namespaces n cross join aclexplode(n.acl) a
      where n.nspname = 'vault' and a.grantee <> n.nspowner
      union all
      select 'table ' || a.name, format('may be reached by %s: %s', ${GRANTEE}, a.privilege_type || coalesce(' (' || quote_ident(a.column_name) || ')', '')),
        format('revoke all on %s from %s', a.name, ${GRANTEE})
      from privileges a join relations r on r.oid = a.relation
      where r.relnamespace = to_regnamespace('vault')`,
  },

  // == Settings ==
  {
    id: 'L45',
    title: 'No session starts inside a tenant, or with another search_path or role than it was made with',
    reason: 'With ALTER DATABASE ... SET app.current_tenant_id a session without any key sees that tenant’s rows.',
    mend: 'alter role or database ... reset the setting',
    sql: `
      select w.whose, format('sets %s', split_part(c, '=', 1)), format('alter %s reset %s', w.statement, split_part(c, '=', 1))
      from pg_db_role_setting s
      cross join unnest(s.setconfig) as c
      cross join lateral (
        select concat_ws(' ', 'role ' || (select quote_ident(rolname) from pg_roles where oid = s.setrole), 'database ' || (select quote_ident(datname) from pg_database where oid = s.setdatabase)) as whose,
          case when s.setrole = 0 then format('database %I', current_database())
            else 'role ' || (select quote_ident(rolname) from pg_roles where oid = s.setrole) || case when s.setdatabase = 0 then '' else format(' in database %I', current_database()) end
          end as statement
      ) as w
      where s.setdatabase in (0, (select oid from pg_database where datname = current_database()))
        and (
          c ~ '^app\\.'
          or c ~ '^(search_path|role|session_authorization|session_replication_role|row_security)=' and (s.setrole = 0 or s.setrole in (select oid from roles))
        )
      union all
      select 'this session', 'starts inside a tenant', 'take app.current_tenant_id out of postgresql.conf and out of the options of the URL'
      where nullif(current_setting('app.current_tenant_id', true), '') is not null
        -- what is set for a role or database shows in the session too, and is named above
        and not exists (
          select from pg_db_role_setting s cross join unnest(s.setconfig) as c
          where c ~ '^app\\.current_tenant_id=' and s.setdatabase in (0, (select oid from pg_database where datname = current_database()))
        )`,
  },
  {
    id: 'L46',
    title: 'A commit is waited for',
    reason:
      'With synchronous_commit off, what was answered can be gone after a crash: 6 to 401 of some 1,200 acknowledged writes, measured.',
    mend: 'reset synchronous_commit where it is set',
    doctor: 'durability',
    judge: ({ settings }) => listOff(settings, ['synchronous_commit']),
  },
  {
    id: 'L47',
    title: 'A power failure costs nothing',
    reason:
      'Without fsync or full_page_writes it can destroy the whole database, and no crash of a process shows that beforehand.',
    mend: 'take it out of postgresql.conf, then select pg_reload_conf()',
    doctor: 'durability',
    judge: ({ settings }) => listOff(settings, ['fsync', 'full_page_writes']),
  },
  {
    id: 'L48',
    title: 'PostgreSQL is 16 or newer and has its security fixes',
    reason:
      'The releases of 14 May 2026 fixed eleven CVEs; older ones leak rows that policies hide through statistics (CVE-2025-8713).',
    mend: 'install the newest minor version and restart PostgreSQL; the data stay as they are',
    level: 'warning',
    doctor: 'postgresql',
    judge: ({ version }) => {
      const [major, minor] = [Math.floor(version / 10_000), version % 10_000]
      const needed = SECURE_MINOR.get(major)
      if (major >= 16 && (needed === undefined || minor >= needed)) return []
      const fault = major < 16 ? 'is older than 16' : `lacks security fixes: ${major}.${needed} has them`
      return [{ object: `PostgreSQL ${major}.${minor}`, fault, mend: null }]
    },
  },
  {
    id: 'L49',
    title: 'pgvector is 0.8.2 or newer',
    reason: 'Before that a parallel build of an HNSW index can leak other tables (CVE-2026-3172).',
    mend: 'install pgvector 0.8.2 or newer, then alter extension vector update; until then max_parallel_maintenance_workers = 0 for index builds',
    level: 'warning',
    doctor: 'pgvector',
    judge: ({ pgvector, settings }) => {
      if (pgvector !== null && !isBefore(pgvector, '0.8.2')) return []
      if (pgvector === null)
        return [{ object: 'extension vector', fault: 'is not installed', mend: 'scripts/db.sh up' }]
      const isMitigated = settings.some(
        ({ name, setting }) => name === 'max_parallel_maintenance_workers' && setting === '0',
      )
      const fault = isMitigated
        ? 'is older than 0.8.2; max_parallel_maintenance_workers is 0, which avoids the flaw'
        : 'is older than 0.8.2, and indexes are built in parallel'
      return [{ object: `pgvector ${pgvector}`, fault, mend: null }]
    },
  },
]

function listOff(settings: Setting[], names: string[]): Fault[] {
  return settings
    .filter((setting) => names.includes(setting.name) && isOff(setting))
    .map(({ name, whose }) => ({
      object: `setting ${name}`,
      fault: `is off for ${whose ?? 'the whole server'}`,
      mend: null,
    }))
}
