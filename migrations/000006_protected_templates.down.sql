-- Back to embeddings as they are. What is protected cannot be turned back without the keys, so all faces and all keys
-- are lost; the audit stays, and no longer says which face it was about.
alter table faces no force row level security;
delete from faces;
alter table faces force row level security;

drop function create_tenant(uuid, text, text, bytea);
create function create_tenant(tenant_name text, tenant_environment text) returns uuid
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
as $$
declare
  tenant uuid;
begin
  insert into public.tenants (name, environment) values (tenant_name, tenant_environment) returning id into tenant;
  insert into public.operator_events (action, target) values ('tenant.created', tenant);
  return tenant;
end
$$;
revoke all on function create_tenant(text, text) from public;
grant execute on function create_tenant(text, text) to rekko_operator;

create or replace function request_tenant_erasure(tenant uuid) returns boolean
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
as $$
begin
  update public.tenants t set is_active = false, erasure_requested_at = transaction_timestamp(), updated_at = transaction_timestamp()
  where t.id = tenant and t.erasure_requested_at is null;
  if found then
    insert into public.operator_events (action, target) values ('tenant.erasure_requested', tenant);
  end if;
  return exists (select from public.tenants t where t.id = tenant);
end
$$;

create or replace function erase_tenant_batch(tenant uuid, batch_size integer) returns integer
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
as $$
declare
  -- what refers to another comes before it
  tenant_tables constant text[] := array[
    'verifications', 'identifications', 'faces', 'face_counts', 'usage_events', 'usage_records', 'api_keys',
    'token_issuer_tenants', 'admin_events'
  ];
  tenant_table text;
  affected integer;
  erased integer := 0;
begin
  -- 0 would be answered with 0, as if nothing were left
  if batch_size < 1 then
    raise exception 'a batch has at least one row' using errcode = 'invalid_parameter_value';
  end if;
  -- waits for transactions of the tenant that had begun before it was shut out
  perform from public.tenants t where t.id = tenant and t.erasure_requested_at is not null for update;
  if not found then
    return 0;
  end if;
  perform set_config('app.current_tenant_id', tenant::text, true);
  foreach tenant_table in array tenant_tables loop
    execute format(
      'delete from public.%1$I where ctid = any (array(select ctid from public.%1$I where tenant_id = $1 limit $2))',
      tenant_table
    ) using tenant, batch_size - erased;
    get diagnostics affected = row_count;
    erased := erased + affected;
    exit when erased >= batch_size;
  end loop;
  if erased < batch_size then
    begin
      delete from public.tenants t where t.id = tenant;
      insert into public.operator_events (action, target) values ('tenant.erased', tenant);
      erased := erased + 1;
    exception when foreign_key_violation then
      -- a request that had begun before has changed a row meanwhile: the next batch finds it. A full one is answered,
      -- because there is more to do.
      erased := batch_size;
    end;
  end if;
  perform set_config('app.current_tenant_id', '', true);
  return erased;
end
$$;

drop table integrity_events;
revoke update (id, key_version, sealed) on faces from rekko_app;
alter table faces drop constraint faces_template_check;
alter table faces drop column key_version, drop column sealed;

drop function destroy_template_key(uuid, integer);
drop function hold_template_key(integer);
drop function template_key_lock(uuid, integer);
drop function require_template_keys(integer[]);
drop function list_template_keys();
drop function create_vault();
drop schema if exists vault cascade;
