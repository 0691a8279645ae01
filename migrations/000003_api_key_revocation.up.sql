-- Operators can revoke an API key: refused from the next request on, because every transaction of the
-- Worker enters its tenant by the key's row.

-- FORCE binds the owner too: all it may change is a valid key into a revoked one.
create policy api_keys_owner_update on api_keys for update to rekko_owner
  using (revoked_at is null) with check (revoked_at is not null);

-- Answers whether it was this call that revoked the key; false for one that is unknown, of another
-- tenant, or revoked already.
create function revoke_api_key(key_tenant uuid, key_id uuid) returns boolean
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

revoke all on function revoke_api_key(uuid, uuid) from public;
grant execute on function revoke_api_key(uuid, uuid) to rekko_operator;
