-- Requests that can be repeated: what was answered is remembered in the transaction that did it, under the client's
-- Idempotency-Key or, for the Worker's own repetition, under a random key of the request.

create table idempotent_requests (
  tenant_id uuid not null references tenants (id),
  -- 32 bytes: HMAC-SHA-256 of a client's key; 16 bytes: random, the Worker's own
  key bytea not null,
  -- HMAC-SHA-256 of what was asked; null with a key of the Worker's own, under which nothing else is asked
  fingerprint bytea,
  -- The rows that the statement answered, without what only a face may hold: an external_id, metadata, a sealed copy. Of an
  -- erased person there is the id of a face that is gone.
  answer jsonb not null,
  created_at timestamptz(3) not null default now(),
  expires_at timestamptz(3) not null,
  primary key (tenant_id, key),
  constraint idempotent_requests_key_check check (octet_length(key) = case when fingerprint is null then 16 else 32 end),
  constraint idempotent_requests_fingerprint_check check (octet_length(fingerprint) = 32),
  constraint idempotent_requests_answer_check check (jsonb_typeof(answer) = 'array'),
  constraint idempotent_requests_expires_at_check check (expires_at <= created_at + interval '24 hours')
);
create index idx_idempotent_requests_expires on idempotent_requests (expires_at);

alter table idempotent_requests enable row level security;
alter table idempotent_requests force row level security;
create policy idempotent_requests_wall on idempotent_requests as restrictive to rekko_app
  using (tenant_id = current_tenant_id()) with check (tenant_id = current_tenant_id());
create policy idempotent_requests_tenant on idempotent_requests to rekko_app
  using (tenant_id = current_tenant_id()) with check (tenant_id = current_tenant_id());
create policy idempotent_requests_owner_select on idempotent_requests for select to rekko_owner using (true);
create policy idempotent_requests_owner_delete on idempotent_requests for delete to rekko_owner using (true);
-- to lock what is deleted next; nothing is ever changed
create policy idempotent_requests_owner_update on idempotent_requests for update to rekko_owner
  using (expires_at <= transaction_timestamp()) with check (false);

-- it is read by claim_request only
grant insert (tenant_id, key, fingerprint, answer, expires_at) on idempotent_requests to rekko_app;
grant select on idempotent_requests to rekko_backup;

-- The second statement of a transaction that may be a repetition, behind the one that enters the tenant. Answers no row
-- when nothing is remembered under the key. Otherwise what is, with those of the faces it names that are still there, and
-- how long ago it was begun; and app.is_replay says to the statement that follows that there is nothing to do.
--
-- RK409 a request with this key is being carried out: nobody waits for it. RK422 the key was used for another request.
-- VOLATILE: a request that ends while this one begins is seen once its lock could be had.
create function claim_request(request_key bytea, request_fingerprint bytea)
returns table (answer jsonb, faces jsonb, age_ms double precision)
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
as $$
declare
  tenant uuid := public.current_tenant_id();
  remembered public.idempotent_requests;
begin
  if not pg_try_advisory_xact_lock(
    ('x' || left(encode(sha256(convert_to('request ' || tenant, 'UTF8') || request_key), 'hex'), 16))::bit(64)::bigint
  ) then
    raise exception 'a request with this key is being carried out' using errcode = 'RK409';
  end if;
  select r.* into remembered from public.idempotent_requests r where r.tenant_id = tenant and r.key = request_key;
  if not found then
    return;
  end if;
  if remembered.expires_at <= transaction_timestamp() then
    delete from public.idempotent_requests r where r.tenant_id = tenant and r.key = request_key;
    return;
  end if;
  if remembered.fingerprint is distinct from request_fingerprint then
    raise exception 'the key was used for another request' using errcode = 'RK422';
  end if;
  perform set_config('app.is_replay', 'on', true);
  return query
    select
      remembered.answer,
      coalesce(
        jsonb_agg(
          jsonb_build_object(
            'id', f.id, 'external_id', f.external_id, 'model', f.model, 'key_version', f.key_version,
            'sealed', encode(f.sealed, 'base64')
          )
        ),
        '[]'
      ),
      1000 * extract(epoch from clock_timestamp() - remembered.created_at)::double precision
    from public.faces f
    where f.tenant_id = tenant
      and f.id = any (
        array(select (named ->> 'face_id')::uuid from jsonb_array_elements(remembered.answer) as named)
      );
end
$$;

-- Forgets at most `batch_size` requests whose time is over. Answers how many; 0 at once when another purge is at work.
create function purge_idempotent_requests(batch_size integer) returns integer
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
as $$
declare
  purged integer;
begin
  if not pg_try_advisory_xact_lock(hashtext('rekko.purge_idempotent_requests')) then
    return 0;
  end if;
  delete from public.idempotent_requests
  where (tenant_id, key) in (
    select r.tenant_id, r.key from public.idempotent_requests r
    where r.expires_at <= transaction_timestamp()
    order by r.expires_at
    limit batch_size
    -- claim_request may be taking one away
    for update skip locked
  );
  get diagnostics purged = row_count;
  return purged;
end
$$;

create or replace function erase_tenant_batch(tenant uuid, batch_size integer) returns integer
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
as $$
declare
  -- what refers to another comes before it
  tenant_tables constant regclass[] := array[
    'public.idempotent_requests', 'public.integrity_events', 'public.verifications', 'public.identifications', 'public.faces',
    'public.face_counts', 'public.usage_events', 'public.usage_records', 'public.api_keys',
    'public.token_issuer_tenants', 'public.admin_events'
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

revoke all on function claim_request(bytea, bytea), purge_idempotent_requests(integer) from public;
grant execute on function claim_request(bytea, bytea) to rekko_app;
grant execute on function purge_idempotent_requests(integer) to rekko_jobs;
