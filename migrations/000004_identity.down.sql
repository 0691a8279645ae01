-- Back to API keys alone, made and revoked by the operator. Token issuers and the events of administration are
-- lost; a tenant whose erasure was requested stays suspended.
drop function delete_token_issuer(uuid);
drop function put_token_issuer(uuid, jsonb, text[], uuid[], boolean, boolean);
drop function list_token_issuers(uuid, timestamptz, uuid, integer);
drop function erase_requested_tenants(integer);
drop function erase_tenant_batch(uuid, integer);
drop function request_tenant_erasure(uuid);
drop function set_tenant_active(uuid, boolean);
drop function change_tenant(uuid, text, jsonb);
drop function list_tenants(timestamptz, uuid, integer);
drop function find_tenant(uuid);
drop function seconds_until_attempt(uuid, text, integer, integer);
drop function count_valid_api_keys(uuid);
drop function require_valid_actor(uuid);
drop function enter_tenant_by_token(uuid, uuid, bigint, text[], text, text);
drop function resolve_token_tenant(uuid, bigint, uuid);
drop function resolve_token_issuer(text);
drop function resolve_api_key(bytea);

create function resolve_api_key(key_hash bytea) returns table (tenant_id uuid, settings jsonb)
language sql stable security definer
set search_path = pg_catalog, pg_temp
as $$
  select t.id, t.settings
  from public.api_keys k
  join public.tenants t on t.id = k.tenant_id
  where k.hash = key_hash
    and k.revoked_at is null
    and (k.expires_at is null or k.expires_at > transaction_timestamp())
    and t.is_active
$$;
revoke all on function resolve_api_key(bytea) from public;
grant execute on function resolve_api_key(bytea) to rekko_app;

create or replace function enter_tenant_by_api_key(tenant uuid, key_hash bytea, required_scope text) returns text[]
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
as $$
declare
  granted text[];
begin
  select k.scopes into granted
  from public.api_keys k
  join public.tenants t on t.id = k.tenant_id
  where k.hash = key_hash
    and k.tenant_id = tenant
    and k.revoked_at is null
    and (k.expires_at is null or k.expires_at > transaction_timestamp())
    and t.is_active;
  if not found then
    raise exception 'the credential is refused' using errcode = 'RK401';
  end if;
  if required_scope is null or not required_scope = any (granted) then
    raise exception 'the credential lacks a scope' using errcode = 'RK403';
  end if;
  perform set_config('app.current_tenant_id', tenant::text, true);
  return granted;
end
$$;

create or replace function create_tenant(tenant_name text, tenant_environment text) returns uuid
language sql volatile security definer
set search_path = pg_catalog, pg_temp
as $$
  insert into public.tenants (name, environment) values (tenant_name, tenant_environment) returning id
$$;

create or replace function create_api_key(
  key_tenant uuid, key_name text, key_hash bytea, key_prefix text, key_scopes text[], key_expires_at timestamptz
) returns uuid
language sql volatile security definer
set search_path = pg_catalog, pg_temp
as $$
  insert into public.api_keys (tenant_id, name, hash, prefix, scopes, expires_at)
  values (key_tenant, key_name, key_hash, key_prefix, key_scopes, key_expires_at)
  returning id
$$;

create or replace function revoke_api_key(key_tenant uuid, key_id uuid) returns boolean
language sql volatile security definer
set search_path = pg_catalog, pg_temp
as $$
  with revoked as (
    update public.api_keys set revoked_at = transaction_timestamp()
    where tenant_id = key_tenant and id = key_id and revoked_at is null
    returning id
  )
  select exists (select from revoked)
$$;

revoke select (tenant_id, id, name, prefix, scopes, expires_at, revoked_at, last_used_at, created_at) on api_keys from rekko_app;
revoke insert (tenant_id, id, name, hash, prefix, scopes, expires_at) on api_keys from rekko_app;
revoke update (expires_at, revoked_at) on api_keys from rekko_app;
revoke update (settings, updated_at) on tenants from rekko_app;

drop trigger api_keys_shortened on api_keys;
drop function shorten_api_key();
drop policy tenants_owner_update on tenants;
drop policy tenants_owner_delete on tenants;
drop policy api_keys_owner_delete on api_keys;
drop policy faces_owner_select on faces;
drop policy faces_owner_delete on faces;
drop policy verifications_owner_delete on verifications;
drop policy identifications_owner_delete on identifications;
drop policy usage_records_owner_delete on usage_records;
drop policy api_keys_owner_update on api_keys;
create policy api_keys_owner_update on api_keys for update to rekko_owner
  using (revoked_at is null) with check (revoked_at is not null);

drop table operator_events;
drop table admin_events;
drop table token_issuer_tenants;
drop table token_issuers;
alter table tenants drop column erasure_requested_at;
drop function current_scopes();
drop function current_request_id();
drop function current_actor();
