-- Who may enter: tokens of configured issuers beside API keys, keys that a tenant manages itself, and an
-- operator who creates, suspends and erases tenants. Every change of who may enter leaves an event.

-- == Who is at work ==
-- Set beside the tenant, for the same transaction, by the functions that enter. A script that enters
-- nothing is named by its login.

create function current_actor() returns text
language sql stable parallel safe
set search_path = pg_catalog, pg_temp
as $$
  select coalesce(nullif(current_setting('app.actor', true), ''), session_user::text)
$$;

create function current_request_id() returns text
language sql stable parallel safe
set search_path = pg_catalog, pg_temp
as $$
  select nullif(current_setting('app.request_id', true), '')
$$;

-- What the credential of this transaction may do: nobody can grant more than that.
create function current_scopes() returns text[]
language sql stable parallel safe
set search_path = pg_catalog, pg_temp
as $$
  select string_to_array(coalesce(current_setting('app.scopes', true), ''), ' ')
$$;

-- == Tables ==

-- The end of a key only ever comes nearer, whoever asks: nobody brings back what was revoked or has expired.
create function shorten_api_key() returns trigger
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
begin
  if (old.revoked_at is not null and new.revoked_at is distinct from old.revoked_at)
    or (old.expires_at is not null and (new.expires_at is null or new.expires_at > old.expires_at))
    or (new.tenant_id, new.id, new.hash) is distinct from (old.tenant_id, old.id, old.hash) then
    raise exception 'the end of an API key cannot be put off' using errcode = 'insufficient_privilege';
  end if;
  return new;
end
$$;
create trigger api_keys_shortened before update on api_keys for each row execute function shorten_api_key();

-- Its data are being erased, and it cannot be resumed.
alter table tenants add column erasure_requested_at timestamptz(3);

-- Who signs tokens. Of no tenant: the operator's.
create table token_issuers (
  id uuid primary key default gen_random_uuid(),
  issuer text not null,
  audience text not null,
  algorithms text[] not null,
  token_type text not null default 'at+jwt',
  jwks_url text,
  jwks jsonb,
  tenant_claim text not null default 'tenant_id',
  scope_claim text not null default 'scope',
  -- what its tokens may do at most
  scopes text[] not null,
  is_active boolean not null default true,
  -- what a signature was checked against: raised by every change, so that nobody enters by an older one
  revision bigint not null default 1,
  created_at timestamptz(3) not null default now(),
  updated_at timestamptz(3) not null default now(),
  constraint token_issuers_issuer_key unique (issuer),
  -- in bytes: an entry of an index has room for 2,704
  constraint token_issuers_issuer_check check (octet_length(issuer) between 1 and 2048),
  constraint token_issuers_audience_check check (octet_length(audience) between 1 and 2048),
  -- asymmetric only: a shared secret would let each side sign for the other
  constraint token_issuers_algorithms_check check (
    cardinality(algorithms) > 0
    and algorithms <@ array['ES256', 'ES384', 'ES512', 'EdDSA', 'RS256', 'RS384', 'RS512', 'PS256', 'PS384', 'PS512']
  ),
  constraint token_issuers_token_type_check check (token_type in ('at+jwt', 'JWT')),
  constraint token_issuers_keys_check check (num_nonnulls(jwks_url, jwks) = 1),
  -- this machine in development only: src/auth/jwks-url.ts has the whole rule
  constraint token_issuers_jwks_url_check check (jwks_url ~ '^(https://|http://(127\.0\.0\.1|localhost)[:/])'),
  constraint token_issuers_scopes_check check (
    scopes <@ array['faces:read', 'faces:write', 'verify', 'identify', 'scores:read', 'audit:read', 'usage:read', 'admin']
  )
);

-- Which tenants an issuer may speak for: those, and no others.
create table token_issuer_tenants (
  tenant_id uuid not null references tenants (id),
  issuer_id uuid not null references token_issuers (id),
  primary key (tenant_id, issuer_id)
);
create index idx_token_issuer_tenants_issuer on token_issuer_tenants (issuer_id);

-- What was changed about a tenant, its keys and its settings. Append-only.
create table admin_events (
  tenant_id uuid not null references tenants (id),
  id uuid not null default gen_random_uuid(),
  actor text not null default current_actor(),
  action text not null,
  -- what was acted upon: the id of a key
  target text,
  request_id text default current_request_id(),
  created_at timestamptz(3) not null default now(),
  primary key (tenant_id, id)
);
create index idx_admin_events_tenant_created on admin_events (tenant_id, created_at desc, id desc);

-- What the operator did; it survives the tenant. Append-only.
create table operator_events (
  id uuid primary key default gen_random_uuid(),
  actor text not null default current_actor(),
  action text not null,
  -- the id of a tenant or an issuer, which may be gone
  target text not null,
  request_id text default current_request_id(),
  created_at timestamptz(3) not null default now()
);
create index idx_operator_events_created on operator_events (created_at desc);

-- == Row-level security ==

alter table token_issuers enable row level security;
alter table token_issuers force row level security;
create policy token_issuers_owner_select on token_issuers for select to rekko_owner using (true);
create policy token_issuers_owner_insert on token_issuers for insert to rekko_owner with check (true);
create policy token_issuers_owner_update on token_issuers for update to rekko_owner using (true) with check (true);
create policy token_issuers_owner_delete on token_issuers for delete to rekko_owner using (true);

alter table token_issuer_tenants enable row level security;
alter table token_issuer_tenants force row level security;
create policy token_issuer_tenants_wall on token_issuer_tenants as restrictive to rekko_app
  using (tenant_id = current_tenant_id()) with check (tenant_id = current_tenant_id());
create policy token_issuer_tenants_tenant on token_issuer_tenants to rekko_app
  using (tenant_id = current_tenant_id()) with check (tenant_id = current_tenant_id());
create policy token_issuer_tenants_owner_select on token_issuer_tenants for select to rekko_owner using (true);
create policy token_issuer_tenants_owner_insert on token_issuer_tenants for insert to rekko_owner with check (true);
create policy token_issuer_tenants_owner_delete on token_issuer_tenants for delete to rekko_owner using (true);

alter table admin_events enable row level security;
alter table admin_events force row level security;
create policy admin_events_wall on admin_events as restrictive to rekko_app
  using (tenant_id = current_tenant_id()) with check (tenant_id = current_tenant_id());
create policy admin_events_tenant on admin_events to rekko_app
  using (tenant_id = current_tenant_id()) with check (tenant_id = current_tenant_id());
create policy admin_events_owner_insert on admin_events for insert to rekko_owner with check (true);

alter table operator_events enable row level security;
alter table operator_events force row level security;
create policy operator_events_owner_insert on operator_events for insert to rekko_owner with check (true);

create policy tenants_owner_update on tenants for update to rekko_owner using (true) with check (true);
create policy tenants_owner_delete on tenants for delete to rekko_owner using (erasure_requested_at is not null);

-- A valid key can be revoked, shortened, or noted as used; the trigger above sees to it that it is no more than that.
drop policy api_keys_owner_update on api_keys;
create policy api_keys_owner_update on api_keys for update to rekko_owner
  using (revoked_at is null) with check (true);

-- For erase_tenant_batch, which enters the tenant that it erases.
create policy api_keys_owner_delete on api_keys for delete to rekko_owner using (tenant_id = current_tenant_id());
create policy faces_owner_select on faces for select to rekko_owner using (tenant_id = current_tenant_id());
create policy faces_owner_delete on faces for delete to rekko_owner using (tenant_id = current_tenant_id());
create policy verifications_owner_delete on verifications for delete to rekko_owner using (tenant_id = current_tenant_id());
create policy identifications_owner_delete on identifications for delete to rekko_owner
  using (tenant_id = current_tenant_id());
create policy usage_records_owner_delete on usage_records for delete to rekko_owner using (tenant_id = current_tenant_id());
create policy admin_events_owner_select on admin_events for select to rekko_owner using (tenant_id = current_tenant_id());
create policy admin_events_owner_delete on admin_events for delete to rekko_owner using (tenant_id = current_tenant_id());

-- == Grants ==

-- a tenant manages its own keys, and never reads their hashes
grant select (tenant_id, id, name, prefix, scopes, expires_at, revoked_at, last_used_at, created_at) on api_keys to rekko_app;
grant insert (tenant_id, id, name, hash, prefix, scopes, expires_at) on api_keys to rekko_app;
grant update (expires_at, revoked_at) on api_keys to rekko_app;
grant update (settings, updated_at) on tenants to rekko_app;
-- the actor and the time are the transaction's
grant insert (tenant_id, action, target, request_id) on admin_events to rekko_app;
grant select on all tables in schema public to rekko_backup;

-- == Entering ==

-- Cold start of an isolate: which tenant a key belongs to. Answers at most one row; `refusal` says, for
-- the log, why a key that exists is not accepted.
--
-- It notes when the key was last used, no more often than every ten minutes: each isolate asks once a
-- minute, so nothing is written for a request.
drop function resolve_api_key(bytea);
create function resolve_api_key(key_hash bytea)
returns table (tenant_id uuid, environment text, settings jsonb, refusal text)
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
as $$
declare
  key public.api_keys;
begin
  select k.* into key from public.api_keys k where k.hash = key_hash;
  if not found then
    return;
  end if;
  return query
    select
      t.id, t.environment, t.settings,
      case
        when key.revoked_at is not null then 'revoked'
        when key.expires_at <= transaction_timestamp() then 'expired'
        when not t.is_active then 'suspended'
      end
    from public.tenants t where t.id = key.tenant_id;
  if current_setting('transaction_read_only') = 'off' and key.revoked_at is null
    and (key.expires_at is null or key.expires_at > transaction_timestamp())
    and (key.last_used_at is null or key.last_used_at < transaction_timestamp() - interval '10 minutes') then
    update public.api_keys k set last_used_at = transaction_timestamp()
    where (k.tenant_id, k.id) = (
      -- not worth a wait: whoever holds the row notes the same
      select l.tenant_id, l.id from public.api_keys l
      where l.tenant_id = key.tenant_id and l.id = key.id and l.revoked_at is null
      for no key update skip locked
    );
  end if;
end
$$;

-- The first statement of every tenant transaction that was asked for with an API key. Checks the credential
-- in the transaction that uses it, so that a revoked key is refused at once, and sets the tenant until the
-- transaction ends. It must be a statement of its own: within one statement the setting would come too late.
--
-- RK401 unknown, RK411 revoked, RK412 expired, RK413 the tenant is suspended, RK403 a scope is missing.
create or replace function enter_tenant_by_api_key(tenant uuid, key_hash bytea, required_scope text) returns text[]
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
as $$
declare
  key public.api_keys;
  tenant_is_active boolean;
begin
  select k.* into key from public.api_keys k where k.hash = key_hash and k.tenant_id = tenant;
  if not found then
    raise exception 'the credential is unknown' using errcode = 'RK401';
  end if;
  if key.revoked_at is not null then
    raise exception 'the credential is revoked' using errcode = 'RK411';
  end if;
  if key.expires_at <= transaction_timestamp() then
    raise exception 'the credential has expired' using errcode = 'RK412';
  end if;
  select t.is_active into tenant_is_active from public.tenants t where t.id = tenant;
  if tenant_is_active is not true then
    raise exception 'the tenant is suspended' using errcode = 'RK413';
  end if;
  if required_scope is null or not required_scope = any (key.scopes) then
    raise exception 'the credential lacks a scope' using errcode = 'RK403';
  end if;
  perform
    set_config('app.current_tenant_id', tenant::text, true),
    set_config('app.actor', 'api_key:' || key.id, true),
    set_config('app.scopes', array_to_string(key.scopes, ' '), true);
  return key.scopes;
end
$$;

-- Cold start of an isolate: an issuer by the name that its tokens carry. Answers at most one row.
create function resolve_token_issuer(issuer_name text) returns table (id uuid, revision bigint, configuration jsonb)
language sql stable security definer
set search_path = pg_catalog, pg_temp
as $$
  select
    i.id, i.revision,
    jsonb_build_object(
      'issuer', i.issuer, 'audience', i.audience, 'algorithms', i.algorithms, 'token_type', i.token_type,
      'jwks_url', i.jwks_url, 'jwks', i.jwks, 'tenant_claim', i.tenant_claim, 'scope_claim', i.scope_claim
    )
  from public.token_issuers i
  where i.issuer = issuer_name and i.is_active
$$;

-- Cold start of an isolate: a tenant that a verified token names, when its issuer, as it was when the token was
-- verified, may speak for it.
create function resolve_token_tenant(token_issuer uuid, issuer_revision bigint, tenant uuid) returns table (environment text, settings jsonb)
language sql stable security definer
set search_path = pg_catalog, pg_temp
as $$
  select t.environment, t.settings
  from public.token_issuer_tenants s
  join public.token_issuers i on i.id = s.issuer_id
  join public.tenants t on t.id = s.tenant_id
  where s.issuer_id = token_issuer and s.tenant_id = tenant and i.revision = issuer_revision
$$;

-- The first statement of every tenant transaction that was asked for with a token, whose signature the
-- Worker has verified. Whether the issuer may still speak for the tenant is checked here, in the transaction
-- that relies on it; the scopes are cut down to what the issuer may grant.
--
-- RK414 the issuer is unknown, inactive, or not this tenant's; RK415 it was changed since the token was verified;
-- RK413 the tenant is suspended; RK403 as above.
create function enter_tenant_by_token(
  tenant uuid, token_issuer uuid, issuer_revision bigint, token_scopes text[], subject text, required_scope text
) returns text[]
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
as $$
declare
  grantable text[];
  granted text[];
  revision bigint;
  tenant_is_active boolean;
begin
  select i.scopes, i.revision, t.is_active into grantable, revision, tenant_is_active
  from public.token_issuer_tenants s
  join public.token_issuers i on i.id = s.issuer_id
  join public.tenants t on t.id = s.tenant_id
  where s.tenant_id = tenant and s.issuer_id = token_issuer and i.is_active;
  if not found then
    raise exception 'the issuer may not speak for this tenant' using errcode = 'RK414';
  end if;
  if revision <> issuer_revision then
    raise exception 'the issuer was changed since the token was verified' using errcode = 'RK415';
  end if;
  if not tenant_is_active then
    raise exception 'the tenant is suspended' using errcode = 'RK413';
  end if;
  granted := array(select g from unnest(grantable) as g where g = any (token_scopes) order by g);
  if required_scope is null or not required_scope = any (granted) then
    raise exception 'the credential lacks a scope' using errcode = 'RK403';
  end if;
  perform
    set_config('app.current_tenant_id', tenant::text, true),
    set_config('app.actor', 'token:' || token_issuer || coalesce(':' || subject, ''), true),
    set_config('app.scopes', array_to_string(granted, ' '), true);
  return granted;
end
$$;

-- == API keys of a tenant ==

-- Refuses a credential that was revoked, or whose issuer was taken away, after this transaction had entered by it
-- and while it waited for the tenant's row: who revokes takes that row first.
create function require_valid_actor(tenant uuid) returns void
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
as $$
declare
  actor text[] := string_to_array(public.current_actor(), ':');
begin
  if actor[1] = 'api_key' and not exists (
    select from public.api_keys k
    where k.tenant_id = tenant and k.id = actor[2]::uuid and k.revoked_at is null
      and (k.expires_at is null or k.expires_at > clock_timestamp())
  ) then
    raise exception 'the credential is revoked' using errcode = 'RK411';
  end if;
  if actor[1] = 'token' and not exists (
    select from public.token_issuer_tenants i
    where i.tenant_id = tenant and i.issuer_id = actor[2]::uuid
  ) then
    raise exception 'the issuer may not speak for this tenant' using errcode = 'RK414';
  end if;
end
$$;

-- How many keys a tenant has that are neither revoked nor expired. Whoever asks holds the tenant's row until the
-- transaction ends, and counts what was committed before: of eight who add a key at once, each sees those of
-- the others.
create function count_valid_api_keys(tenant uuid) returns integer
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
declare
  valid integer;
begin
  perform from public.tenants t where t.id = tenant for no key update;
  perform public.require_valid_actor(tenant);
  select count(*) into valid from public.api_keys k
  where k.tenant_id = tenant and k.revoked_at is null
    -- a key may have been made to expire at once while this transaction waited
    and (k.expires_at is null or k.expires_at > clock_timestamp());
  return valid;
end
$$;

-- == Attempts ==

-- How many seconds somebody must wait before the next verification against one external_id; 0 for none.
-- The failed verifications are counted where they are recorded, so nothing else is written for it.
--
-- It holds a lock for this person until the transaction ends: of a hundred guesses sent at once, each would
-- see the failures before it only. The lock's number is cut from a SHA-256, so that nobody can choose
-- an external_id to wait for another's.
create function seconds_until_attempt(tenant uuid, subject text, hourly_limit integer, daily_limit integer)
returns integer
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
declare
  full_hour timestamptz;
  full_day timestamptz;
begin
  perform pg_advisory_xact_lock(
    ('x' || left(encode(sha256(convert_to(tenant || ' ' || subject, 'UTF8')), 'hex'), 16))::bit(64)::bigint
  );
  select v.created_at into full_hour from public.verifications v
  where v.tenant_id = tenant and v.external_id = subject and not v.verified
    and v.created_at > transaction_timestamp() - interval '1 hour'
  order by v.created_at desc offset hourly_limit - 1 limit 1;
  select v.created_at into full_day from public.verifications v
  where v.tenant_id = tenant and v.external_id = subject and not v.verified
    and v.created_at > transaction_timestamp() - interval '1 day'
  order by v.created_at desc offset daily_limit - 1 limit 1;
  return ceil(greatest(
    0,
    extract(epoch from full_hour + interval '1 hour' - transaction_timestamp()),
    extract(epoch from full_day + interval '1 day' - transaction_timestamp())
  ));
end
$$;

-- == Operator ==
-- rekko_operator has no right on any table: it works through these.

create or replace function create_tenant(tenant_name text, tenant_environment text) returns uuid
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

-- VOLATILE, to see what the same statement has just created.
create function find_tenant(tenant uuid) returns setof tenants
language sql volatile security definer
set search_path = pg_catalog, pg_temp
as $$
  select t.* from public.tenants t where t.id = tenant
$$;

-- Newest first, behind a position; both parts of it are null for the first page.
create function list_tenants(after_created_at timestamptz, after_id uuid, row_limit integer) returns setof tenants
language sql stable security definer
set search_path = pg_catalog, pg_temp
as $$
  select t.* from public.tenants t
  where after_id is null or (t.created_at, t.id) < (after_created_at, after_id)
  order by t.created_at desc, t.id desc
  limit row_limit
$$;

-- A setting of null goes back to the default; what the patch does not name stays. Answers no row when there
-- is no such tenant.
create function change_tenant(tenant uuid, new_name text, settings_patch jsonb) returns setof tenants
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
as $$
begin
  return query
    update public.tenants t set
      name = coalesce(new_name, t.name),
      settings = jsonb_strip_nulls(t.settings || coalesce(settings_patch, '{}')),
      updated_at = transaction_timestamp()
    where t.id = tenant
    returning t.*;
  if found then
    insert into public.operator_events (action, target) values ('tenant.changed', tenant);
  end if;
end
$$;

-- A suspended tenant is refused from the next request on. One that is being erased cannot be resumed: it is
-- answered as it is.
create function set_tenant_active(tenant uuid, active boolean) returns setof tenants
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
as $$
begin
  update public.tenants t set is_active = active, updated_at = transaction_timestamp()
  where t.id = tenant and t.is_active <> active and t.erasure_requested_at is null;
  if found then
    insert into public.operator_events (action, target)
    values (case when active then 'tenant.resumed' else 'tenant.suspended' end, tenant);
  end if;
  return query select t.* from public.tenants t where t.id = tenant;
end
$$;

-- Shuts the tenant out at once and for good; the rows are erased in batches. Answers whether there is such
-- a tenant.
create function request_tenant_erasure(tenant uuid) returns boolean
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

-- Erases at most about `batch_size` rows of a tenant whose erasure was requested, and in the end the tenant
-- itself. Answers how many rows it erased: 0 when nothing is left. Whatever was committed stays erased, so it
-- may stop anywhere and be called again.
create function erase_tenant_batch(tenant uuid, batch_size integer) returns integer
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

-- For the schedule: goes on with the erasures that were not finished by the request that asked for them.
-- 0 when there are none, or another run is at work.
create function erase_requested_tenants(batch_size integer) returns integer
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
as $$
declare
  tenant uuid;
begin
  if not pg_try_advisory_xact_lock(hashtext('rekko.erase_requested_tenants')) then
    return 0;
  end if;
  select t.id into tenant from public.tenants t
  where t.erasure_requested_at is not null
  order by t.erasure_requested_at limit 1
  for update skip locked;
  if not found then
    return 0;
  end if;
  return public.erase_tenant_batch(tenant, batch_size);
end
$$;

-- The prefix of a key says whether its tenant is live or a test.
create or replace function create_api_key(
  key_tenant uuid, key_name text, key_hash bytea, key_prefix text, key_scopes text[], key_expires_at timestamptz
) returns uuid
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
as $$
declare
  key uuid;
begin
  insert into public.api_keys (tenant_id, name, hash, prefix, scopes, expires_at)
  select t.id, key_name, key_hash, key_prefix, key_scopes, key_expires_at
  from public.tenants t
  where t.id = key_tenant and t.erasure_requested_at is null and starts_with(key_prefix, 'rk_' || t.environment || '_')
  returning id into key;
  if key is null then
    raise exception 'there is no such tenant, or the key is of another environment' using errcode = 'check_violation';
  end if;
  insert into public.admin_events (tenant_id, action, target) values (key_tenant, 'api_key.created', key);
  insert into public.operator_events (action, target) values ('tenant.api_key_created', key_tenant);
  return key;
end
$$;

create or replace function revoke_api_key(key_tenant uuid, key_id uuid) returns boolean
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
as $$
begin
  -- whoever makes a key by this one holds this row: either it is made before, and seen, or not at all
  perform from public.tenants t where t.id = key_tenant for no key update;
  update public.api_keys set revoked_at = transaction_timestamp()
  where tenant_id = key_tenant and id = key_id and revoked_at is null;
  if not found then
    return false;
  end if;
  insert into public.admin_events (tenant_id, action, target) values (key_tenant, 'api_key.revoked', key_id);
  insert into public.operator_events (action, target) values ('tenant.api_key_revoked', key_tenant);
  return true;
end
$$;

-- Issuers with the ids of the tenants that they may speak for: one of them, or newest first behind a position
-- as in list_tenants.
create function list_token_issuers(
  only_id uuid, after_created_at timestamptz, after_id uuid, row_limit integer
) returns table (
  id uuid, issuer text, audience text, algorithms text[], token_type text, jwks_url text, jwks jsonb, tenant_claim text,
  scope_claim text, scopes text[], is_active boolean, tenant_ids uuid[], created_at timestamptz, updated_at timestamptz
)
language sql volatile security definer
set search_path = pg_catalog, pg_temp
as $$
  select
    i.id, i.issuer, i.audience, i.algorithms, i.token_type, i.jwks_url, i.jwks, i.tenant_claim, i.scope_claim, i.scopes,
    i.is_active, array(select s.tenant_id from public.token_issuer_tenants s where s.issuer_id = i.id order by s.tenant_id),
    i.created_at, i.updated_at
  from public.token_issuers i
  where (only_id is null or i.id = only_id)
    and (after_id is null or (i.created_at, i.id) < (after_created_at, after_id))
  order by i.created_at desc, i.id desc
  limit row_limit
$$;

-- Creates an issuer, or replaces everything about it; only the latter when `must_exist`, and answers null when there
-- is none. A tenant that does not exist is an error (23503), and so
-- is a name that another issuer has (23505).
create function put_token_issuer(
  issuer_id uuid, configuration jsonb, issuer_scopes text[], tenant_ids uuid[], active boolean, must_exist boolean
) returns uuid
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
as $$
begin
  if must_exist then
    perform from public.token_issuers i where i.id = issuer_id for update;
    if not found then
      return null;
    end if;
  end if;
  -- as in revoke_api_key
  perform from public.tenants t
  where t.id in (select s.tenant_id from public.token_issuer_tenants s where s.issuer_id = put_token_issuer.issuer_id)
  order by t.id for no key update;
  insert into public.token_issuers as i (
    id, issuer, audience, algorithms, token_type, jwks_url, jwks, tenant_claim, scope_claim, scopes, is_active
  )
  select
    issuer_id, c.issuer, c.audience, c.algorithms, c.token_type, c.jwks_url, c.jwks, c.tenant_claim, c.scope_claim,
    issuer_scopes, active
  from jsonb_to_record(configuration) as c(
    issuer text, audience text, algorithms text[], token_type text, jwks_url text, jwks jsonb, tenant_claim text,
    scope_claim text
  )
  on conflict (id) do update set
    issuer = excluded.issuer,
    audience = excluded.audience,
    algorithms = excluded.algorithms,
    token_type = excluded.token_type,
    jwks_url = excluded.jwks_url,
    jwks = excluded.jwks,
    tenant_claim = excluded.tenant_claim,
    scope_claim = excluded.scope_claim,
    scopes = excluded.scopes,
    is_active = excluded.is_active,
    revision = i.revision + 1,
    updated_at = transaction_timestamp();
  delete from public.token_issuer_tenants s where s.issuer_id = put_token_issuer.issuer_id and not s.tenant_id = any (tenant_ids);
  insert into public.token_issuer_tenants (tenant_id, issuer_id)
  select distinct t, put_token_issuer.issuer_id from unnest(tenant_ids) as t
  on conflict do nothing;
  insert into public.operator_events (action, target) values ('token_issuer.put', issuer_id);
  return issuer_id;
end
$$;

-- Its tokens are refused from the next request on. Answers whether there was such an issuer.
create function delete_token_issuer(token_issuer uuid) returns boolean
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
as $$
begin
  -- as in revoke_api_key
  perform from public.tenants t
  where t.id in (select s.tenant_id from public.token_issuer_tenants s where s.issuer_id = token_issuer)
  order by t.id for no key update;
  delete from public.token_issuer_tenants s where s.issuer_id = token_issuer;
  delete from public.token_issuers i where i.id = token_issuer;
  if not found then
    return false;
  end if;
  insert into public.operator_events (action, target) values ('token_issuer.deleted', token_issuer);
  return true;
end
$$;

revoke all on function
  current_actor(),
  current_request_id(),
  current_scopes(),
  shorten_api_key(),
  resolve_api_key(bytea),
  resolve_token_issuer(text),
  resolve_token_tenant(uuid, bigint, uuid),
  enter_tenant_by_token(uuid, uuid, bigint, text[], text, text),
  require_valid_actor(uuid),
  count_valid_api_keys(uuid),
  seconds_until_attempt(uuid, text, integer, integer),
  find_tenant(uuid),
  list_tenants(timestamptz, uuid, integer),
  change_tenant(uuid, text, jsonb),
  set_tenant_active(uuid, boolean),
  request_tenant_erasure(uuid),
  erase_tenant_batch(uuid, integer),
  erase_requested_tenants(integer),
  list_token_issuers(uuid, timestamptz, uuid, integer),
  put_token_issuer(uuid, jsonb, text[], uuid[], boolean, boolean),
  delete_token_issuer(uuid)
from public;
grant execute on function
  current_actor(),
  current_request_id(),
  current_scopes(),
  resolve_api_key(bytea),
  resolve_token_issuer(text),
  resolve_token_tenant(uuid, bigint, uuid),
  enter_tenant_by_token(uuid, uuid, bigint, text[], text, text),
  require_valid_actor(uuid),
  count_valid_api_keys(uuid),
  seconds_until_attempt(uuid, text, integer, integer)
to rekko_app;
grant execute on function
  find_tenant(uuid),
  list_tenants(timestamptz, uuid, integer),
  change_tenant(uuid, text, jsonb),
  set_tenant_active(uuid, boolean),
  request_tenant_erasure(uuid),
  erase_tenant_batch(uuid, integer),
  revoke_api_key(uuid, uuid),
  list_token_issuers(uuid, timestamptz, uuid, integer),
  put_token_issuer(uuid, jsonb, text[], uuid[], boolean, boolean),
  delete_token_issuer(uuid)
to rekko_operator;
grant execute on function erase_requested_tenants(integer) to rekko_jobs;
