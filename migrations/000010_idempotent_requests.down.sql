create or replace function erase_tenant_batch(tenant uuid, batch_size integer) returns integer
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
as $$
declare
  -- what refers to another comes before it
  tenant_tables constant regclass[] := array[
    'public.integrity_events', 'public.verifications', 'public.identifications', 'public.faces', 'public.face_counts',
    'public.usage_events', 'public.usage_records', 'public.api_keys', 'public.token_issuer_tenants',
    'public.admin_events'
  ]::regclass[] || array_remove(array[to_regclass('vault.template_keys')], null); -- the vault may have been lost
  tenant_table regclass;
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
      'delete from %1$s where ctid = any (array(select ctid from %1$s where tenant_id = $1 limit $2))', tenant_table
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

drop function purge_idempotent_requests(integer);
drop function claim_request(bytea, bytea);
drop table idempotent_requests;
