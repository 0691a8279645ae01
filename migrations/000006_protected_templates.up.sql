-- Protected templates (PT1): a face is stored as a rotated embedding, to search by, and a sealed copy, to confirm every
-- match with. The keys are wrapped by a master key that is not in the database, and are no part of its dump.
--
-- The faces that are there get theirs between this migration and the next: that takes the master key, so the runner
-- does it (scripts/database/protection.ts). From here on the database takes no face without its sealed copy.

-- == The vault ==

-- The wrapped keys, in a schema of their own. A dump leaves it out, and a restore makes it again by calling this:
-- whoever has a copy of the faces has no copy of their keys. Does nothing when it is there.
create function create_vault() returns void
language plpgsql volatile
set search_path = pg_catalog, public, pg_temp
as $$
begin
  if to_regclass('vault.template_keys') is not null then
    return;
  end if;
  create schema if not exists vault;
  create table vault.template_keys (
    tenant_id uuid not null references public.tenants (id),
    version integer not null,
    -- the tenant's data secret under a master key, 63 bytes; null once it was destroyed
    wrapped bytea,
    created_at timestamptz(3) not null default now(),
    destroyed_at timestamptz(3),
    primary key (tenant_id, version),
    constraint template_keys_version_check check (version between 1 and 65535),
    constraint template_keys_wrapped_check check (octet_length(wrapped) = 63),
    constraint template_keys_destroyed_check check ((wrapped is null) = (destroyed_at is not null))
  );
  alter table vault.template_keys enable row level security;
  alter table vault.template_keys force row level security;
  create policy template_keys_wall on vault.template_keys as restrictive to rekko_app
    using (tenant_id = current_tenant_id()) with check (tenant_id = current_tenant_id());
  create policy template_keys_tenant on vault.template_keys to rekko_app
    using (tenant_id = current_tenant_id()) with check (tenant_id = current_tenant_id());
  -- no login has a right on it: the functions below run as the owner
  create policy template_keys_owner_select on vault.template_keys for select to rekko_owner using (true);
  create policy template_keys_owner_insert on vault.template_keys for insert to rekko_owner with check (true);
  create policy template_keys_owner_update on vault.template_keys for update to rekko_owner using (true) with check (true);
  create policy template_keys_owner_delete on vault.template_keys for delete to rekko_owner using (true);
end
$$;
select create_vault();

-- The live keys of the tenant that was entered, the one to write with first. While a tenant is re-keyed there are two.
create function list_template_keys() returns table (version integer, wrapped bytea)
language sql stable security definer
set search_path = pg_catalog, pg_temp
as $$
  select k.version, k.wrapped
  from vault.template_keys k
  where k.tenant_id = public.current_tenant_id() and k.destroyed_at is null
  order by k.version desc
$$;

-- Part of every statement that compares templates. An isolate may remember a tenant's keys from before it was re-keyed,
-- and would not find whoever is stored under the new one.
--
-- RK416 the tenant has a live key that is not among the `known`, or none. VOLATILE, so that it sees what was committed
-- after the statement began: faces are only moved to a key that was committed before.
create function require_template_keys(known integer[]) returns boolean
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
as $$
declare
  is_known boolean;
begin
  select bool_and(k.version = any (known)) into is_known
  from vault.template_keys k
  where k.tenant_id = public.current_tenant_id() and k.destroyed_at is null;
  if is_known is not true then
    raise exception 'the keys of the tenant have changed' using errcode = 'RK416';
  end if;
  return true;
end
$$;

-- The number of the lock that ties writers under a key to its destruction, cut from a SHA-256.
create function template_key_lock(tenant uuid, key_version integer) returns bigint
language sql stable
set search_path = pg_catalog, pg_temp
as $$
  select ('x' || left(encode(sha256(convert_to('template key ' || tenant || ' ' || key_version, 'UTF8')), 'hex'), 16))::bit(64)::bigint
$$;

-- Part of every statement that writes a template: it is under the newest key, and until this transaction ends that key
-- is not destroyed. RK416 otherwise.
create function hold_template_key(key_version integer) returns boolean
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
as $$
declare
  tenant uuid := public.current_tenant_id();
  newest integer;
begin
  perform pg_advisory_xact_lock_shared(public.template_key_lock(tenant, key_version));
  select max(k.version) into newest from vault.template_keys k where k.tenant_id = tenant and k.destroyed_at is null;
  if newest is distinct from key_version then
    raise exception 'the keys of the tenant have changed' using errcode = 'RK416';
  end if;
  return true;
end
$$;

-- For whoever re-keys a tenant, as the owner. Answers false, and destroys nothing, while a face needs the key.
create function destroy_template_key(tenant uuid, key_version integer) returns boolean
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
declare
  is_needed boolean;
begin
  -- waits for those who are writing under it
  perform pg_advisory_xact_lock(public.template_key_lock(tenant, key_version));
  perform set_config('app.current_tenant_id', tenant::text, true);
  select exists (
    select from public.faces f where f.tenant_id = tenant and f.key_version = destroy_template_key.key_version
  ) into is_needed;
  perform set_config('app.current_tenant_id', '', true);
  if is_needed then
    return false;
  end if;
  update vault.template_keys k set wrapped = null, destroyed_at = transaction_timestamp()
  where k.tenant_id = tenant and k.version = destroy_template_key.key_version and k.destroyed_at is null;
  if found then
    insert into public.operator_events (action, target) values ('tenant.template_key_destroyed', tenant);
  end if;
  return true;
end
$$;

-- == Faces ==

alter table faces
  add column key_version integer,
  add column sealed bytea;
-- It does not compress, and a comparison does not read it: out of line, so that the vectors stay close together.
alter table faces alter column sealed set storage external;
-- The bytes of the sealed copy say themselves under which key they are.
alter table faces add constraint faces_template_check check (
  key_version is not null and sealed is not null
  and octet_length(sealed) = 2079 and get_byte(sealed, 0) = 1
  and (get_byte(sealed, 1) << 8 | get_byte(sealed, 2)) = key_version
) not valid;

-- A face is replaced by one of another id, to which its sealed copy is bound: beside another request that replaces it,
-- in its place.
grant update (id, key_version, sealed) on faces to rekko_app;

-- == What was found to be tampered with ==

-- A match that the sealed copy did not confirm: never answered as a match. Append-only.
create table integrity_events (
  tenant_id uuid not null references tenants (id),
  id uuid not null default gen_random_uuid(),
  -- the decision of the database that was not believed; neither, where a face was met otherwise
  verification_id uuid,
  identification_id uuid,
  face_id uuid,
  reason text not null,
  request_id text not null,
  created_at timestamptz(3) not null default now(),
  primary key (tenant_id, id),
  constraint integrity_events_reason_check check (reason in ('not opened', 'differs', 'below threshold')),
  constraint integrity_events_verification_fkey foreign key (tenant_id, verification_id)
    references verifications (tenant_id, id) on delete set null (verification_id),
  constraint integrity_events_identification_fkey foreign key (tenant_id, identification_id)
    references identifications (tenant_id, id) on delete set null (identification_id),
  constraint integrity_events_face_fkey foreign key (tenant_id, face_id) references faces (tenant_id, id)
    on delete set null (face_id)
);
create index idx_integrity_events_tenant_created on integrity_events (tenant_id, created_at desc, id desc);
create index idx_integrity_events_verification on integrity_events (tenant_id, verification_id);
create index idx_integrity_events_identification on integrity_events (tenant_id, identification_id);
create index idx_integrity_events_face on integrity_events (tenant_id, face_id);

alter table integrity_events enable row level security;
alter table integrity_events force row level security;
create policy integrity_events_wall on integrity_events as restrictive to rekko_app
  using (tenant_id = current_tenant_id()) with check (tenant_id = current_tenant_id());
create policy integrity_events_tenant on integrity_events to rekko_app
  using (tenant_id = current_tenant_id()) with check (tenant_id = current_tenant_id());
create policy integrity_events_owner_select on integrity_events for select to rekko_owner using (tenant_id = current_tenant_id());
create policy integrity_events_owner_delete on integrity_events for delete to rekko_owner using (tenant_id = current_tenant_id());

grant insert (tenant_id, verification_id, identification_id, face_id, reason, request_id) on integrity_events to rekko_app;
grant select on integrity_events to rekko_backup;

-- == Provisioning ==

-- A tenant and its first key are made together; the id is the caller's, because the wrapped key is bound to it.
drop function create_tenant(text, text);
create function create_tenant(tenant uuid, tenant_name text, tenant_environment text, wrapped_key bytea) returns uuid
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
as $$
begin
  -- a constraint takes no key for a destroyed one
  if wrapped_key is null then
    raise exception 'a tenant needs a key' using errcode = 'not_null_violation';
  end if;
  insert into public.tenants (id, name, environment) values (tenant, tenant_name, tenant_environment);
  insert into vault.template_keys (tenant_id, version, wrapped) values (tenant, 1, wrapped_key);
  insert into public.operator_events (action, target) values ('tenant.created', tenant);
  return tenant;
end
$$;

-- Shuts a tenant out at once and for good, and destroys its keys: from here on nobody can read its faces, here or in a
-- backup. The rows are erased in batches. Answers whether there is such a tenant.
create or replace function request_tenant_erasure(tenant uuid) returns boolean
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
as $$
begin
  update public.tenants t set is_active = false, erasure_requested_at = transaction_timestamp(), updated_at = transaction_timestamp()
  where t.id = tenant and t.erasure_requested_at is null;
  if found then
    -- a vault that was lost has no key to destroy, and is no reason to keep anybody
    if to_regclass('vault.template_keys') is not null then
      update vault.template_keys k set wrapped = null, destroyed_at = transaction_timestamp()
      where k.tenant_id = tenant and k.destroyed_at is null;
    end if;
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

revoke all on function
  create_vault(),
  list_template_keys(),
  require_template_keys(integer[]),
  template_key_lock(uuid, integer),
  hold_template_key(integer),
  destroy_template_key(uuid, integer),
  create_tenant(uuid, text, text, bytea)
from public;
grant execute on function
  list_template_keys(),
  require_template_keys(integer[]),
  hold_template_key(integer)
to rekko_app;
grant execute on function create_tenant(uuid, text, text, bytea) to rekko_operator;
