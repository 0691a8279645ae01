-- Tenants that cannot see each other: keys that start with tenant_id, row-level security that holds
-- for the owner too, the functions by which a request enters a tenant, append-only metering.
--
-- Runs as rekko_owner. The roles and the extension were made before (scripts/database/bootstrap.ts),
-- because only an administrator may make them.

-- The tables of version 1 step aside; their rows move over at the end.
create schema guide;
alter table tenants set schema guide;
alter table faces set schema guide;
alter table verifications set schema guide;
alter table usage_records set schema guide;

-- == The tenant of a transaction ==

-- STABLE, never IMMUTABLE: a cached plan would carry one tenant's id into another's transaction.
-- Raises when no tenant has been entered: an empty result would read as "no match". After a
-- transaction-local setting, a pooled session holds '' and not null.
create function current_tenant_id() returns uuid
language plpgsql stable parallel safe
set search_path = pg_catalog, pg_temp
as $$
declare
  tenant text := nullif(current_setting('app.current_tenant_id', true), '');
begin
  if tenant is null then
    raise exception 'no tenant has been entered' using errcode = 'insufficient_privilege';
  end if;
  if tenant !~ '^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$' then
    raise exception 'the tenant that was entered is not valid' using errcode = 'insufficient_privilege';
  end if;
  return tenant::uuid;
end
$$;

-- == Tables ==

create table tenants (
  id uuid primary key default gen_random_uuid(),
  name text not null,
  environment text not null default 'live',
  settings jsonb not null default '{}',
  is_active boolean not null default true,
  created_at timestamptz(3) not null default now(),
  updated_at timestamptz(3) not null default now(),
  constraint tenants_name_check check (char_length(name) between 1 and 255),
  constraint tenants_environment_check check (environment in ('live', 'test')),
  constraint tenants_settings_check check (jsonb_typeof(settings) = 'object')
);
create index idx_tenants_is_active on tenants (is_active);

create table api_keys (
  tenant_id uuid not null references tenants (id),
  id uuid not null default gen_random_uuid(),
  name text not null,
  hash bytea not null,
  prefix text not null,
  scopes text[] not null,
  expires_at timestamptz(3),
  revoked_at timestamptz(3),
  last_used_at timestamptz(3),
  created_at timestamptz(3) not null default now(),
  primary key (tenant_id, id),
  -- the one key that does not start with tenant_id: by it, a credential finds its tenant
  constraint api_keys_hash_key unique (hash),
  constraint api_keys_hash_check check (octet_length(hash) = 32),
  constraint api_keys_name_check check (char_length(name) between 1 and 255),
  constraint api_keys_scopes_check check (
    scopes <@ array['faces:read', 'faces:write', 'verify', 'identify', 'scores:read', 'audit:read', 'usage:read', 'admin']
  )
);

create table faces (
  tenant_id uuid not null references tenants (id),
  id uuid not null default gen_random_uuid(),
  external_id text collate "C" not null,
  embedding vector(512) not null,
  code bit(512) generated always as (binary_quantize(embedding)::bit(512)) stored,
  model text not null,
  metadata jsonb not null default '{}',
  quality_score numeric(5, 4),
  created_at timestamptz(3) not null default now(),
  updated_at timestamptz(3) not null default now(),
  primary key (tenant_id, id),
  constraint faces_tenant_external_key unique (tenant_id, external_id),
  constraint faces_external_id_check check (
    char_length(external_id) between 1 and 255 and external_id is nfc normalized and external_id not in ('.', '..')
    -- no control, invisible or bidirectional characters, no space at an end: src/external-id.ts has the whole rule
    and external_id !~ '[\u0001-\u001f\u007f-\u009f\u00ad\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufffd]|^\s|\s$'
  ),
  -- a zero vector has no cosine, and NaN sorts above every threshold
  constraint faces_embedding_check check (vector_norm(embedding) between 0.999 and 1.001),
  constraint faces_metadata_check check (jsonb_typeof(metadata) = 'object'),
  constraint faces_quality_score_check check (quality_score between 0 and 1)
);
-- A vector of 2,056 bytes would move out of line; it stays in the row, so that a comparison reads one page.
alter table faces alter column embedding set storage plain;
alter table faces set (
  toast_tuple_target = 4096,
  -- the index-only scan of the codes needs the visibility map to be fresh
  autovacuum_vacuum_scale_factor = 0.01,
  autovacuum_vacuum_insert_scale_factor = 0.01
);
create index idx_faces_tenant_code on faces (tenant_id) include (code, id);

create table verifications (
  tenant_id uuid not null references tenants (id),
  id uuid not null default gen_random_uuid(),
  face_id uuid,
  -- null after the face was erased
  external_id text collate "C",
  verified boolean not null,
  confidence numeric(5, 4) not null,
  threshold double precision not null,
  model text not null,
  liveness_passed boolean,
  latency_ms integer,
  request_id text not null,
  created_at timestamptz(3) not null default now(),
  primary key (tenant_id, id),
  constraint verifications_face_fkey foreign key (tenant_id, face_id) references faces (tenant_id, id)
    on delete set null (face_id)
);
create index idx_verifications_tenant_created on verifications (tenant_id, created_at desc, id desc);
create index idx_verifications_tenant_external on verifications (tenant_id, external_id, created_at desc, id desc);
create index idx_verifications_tenant_face on verifications (tenant_id, face_id);

create table identifications (
  tenant_id uuid not null references tenants (id),
  id uuid not null default gen_random_uuid(),
  -- the nearest face, when it was near enough to be named
  face_id uuid,
  external_id text collate "C",
  identified boolean not null,
  -- of the nearest face, named or not; null in an empty gallery
  confidence numeric(5, 4),
  threshold double precision not null,
  model text not null,
  faces_searched integer not null,
  faces_matched integer not null,
  latency_ms integer,
  request_id text not null,
  created_at timestamptz(3) not null default now(),
  primary key (tenant_id, id),
  constraint identifications_face_fkey foreign key (tenant_id, face_id) references faces (tenant_id, id)
    on delete set null (face_id)
);
create index idx_identifications_tenant_created on identifications (tenant_id, created_at desc, id desc);
create index idx_identifications_tenant_external on identifications (tenant_id, external_id, created_at desc, id desc);
create index idx_identifications_tenant_face on identifications (tenant_id, face_id);

-- Written with the act it counts, then consumed by roll_up_usage. A counter row would make every
-- request of a tenant wait for the one before.
create table usage_events (
  tenant_id uuid not null references tenants (id),
  id uuid not null default gen_random_uuid(),
  kind text not null,
  occurred_at timestamptz(3) not null default now(),
  primary key (tenant_id, id),
  constraint usage_events_kind_check check (kind in ('registration', 'verification', 'identification', 'deletion'))
);

create table usage_records (
  tenant_id uuid not null references tenants (id),
  id uuid not null default gen_random_uuid(),
  period text not null,
  registrations bigint not null default 0,
  verifications bigint not null default 0,
  identifications bigint not null default 0,
  deletions bigint not null default 0,
  created_at timestamptz(3) not null default now(),
  updated_at timestamptz(3) not null default now(),
  primary key (tenant_id, id),
  constraint usage_records_tenant_period_key unique (tenant_id, period),
  constraint usage_records_period_check check (period ~ '^[0-9]{4}-(0[1-9]|1[0-2])$')
);

-- How many faces a tenant has, as changes to add up: written by triggers on faces, merged by
-- merge_face_counts. Counting 100,000 faces takes nearly as long as searching them (measured: 15 ms
-- against 18), and every search reports the number.
create table face_counts (
  tenant_id uuid not null references tenants (id),
  id uuid not null default gen_random_uuid(),
  change bigint not null,
  primary key (tenant_id, id)
);

-- == Row-level security ==
-- The restrictive policy keeps the wall up should somebody add a permissive one by mistake.

alter table tenants enable row level security;
alter table tenants force row level security;
create policy tenants_wall on tenants as restrictive to rekko_app
  using (id = current_tenant_id()) with check (id = current_tenant_id());
create policy tenants_tenant on tenants to rekko_app
  using (id = current_tenant_id()) with check (id = current_tenant_id());

alter table api_keys enable row level security;
alter table api_keys force row level security;
create policy api_keys_wall on api_keys as restrictive to rekko_app
  using (tenant_id = current_tenant_id()) with check (tenant_id = current_tenant_id());
create policy api_keys_tenant on api_keys to rekko_app
  using (tenant_id = current_tenant_id()) with check (tenant_id = current_tenant_id());

alter table faces enable row level security;
alter table faces force row level security;
create policy faces_wall on faces as restrictive to rekko_app
  using (tenant_id = current_tenant_id()) with check (tenant_id = current_tenant_id());
create policy faces_tenant on faces to rekko_app
  using (tenant_id = current_tenant_id()) with check (tenant_id = current_tenant_id());

alter table verifications enable row level security;
alter table verifications force row level security;
create policy verifications_wall on verifications as restrictive to rekko_app
  using (tenant_id = current_tenant_id()) with check (tenant_id = current_tenant_id());
create policy verifications_tenant on verifications to rekko_app
  using (tenant_id = current_tenant_id()) with check (tenant_id = current_tenant_id());

alter table identifications enable row level security;
alter table identifications force row level security;
create policy identifications_wall on identifications as restrictive to rekko_app
  using (tenant_id = current_tenant_id()) with check (tenant_id = current_tenant_id());
create policy identifications_tenant on identifications to rekko_app
  using (tenant_id = current_tenant_id()) with check (tenant_id = current_tenant_id());

alter table usage_events enable row level security;
alter table usage_events force row level security;
create policy usage_events_wall on usage_events as restrictive to rekko_app
  using (tenant_id = current_tenant_id()) with check (tenant_id = current_tenant_id());
create policy usage_events_tenant on usage_events to rekko_app
  using (tenant_id = current_tenant_id()) with check (tenant_id = current_tenant_id());

alter table usage_records enable row level security;
alter table usage_records force row level security;
create policy usage_records_wall on usage_records as restrictive to rekko_app
  using (tenant_id = current_tenant_id()) with check (tenant_id = current_tenant_id());
create policy usage_records_tenant on usage_records to rekko_app
  using (tenant_id = current_tenant_id()) with check (tenant_id = current_tenant_id());

alter table face_counts enable row level security;
alter table face_counts force row level security;
create policy face_counts_wall on face_counts as restrictive to rekko_app
  using (tenant_id = current_tenant_id()) with check (tenant_id = current_tenant_id());
create policy face_counts_tenant on face_counts to rekko_app
  using (tenant_id = current_tenant_id()) with check (tenant_id = current_tenant_id());

-- FORCE binds the owner too, so each SECURITY DEFINER function below needs its own narrow opening.
-- Nobody logs in as the owner in production.
create policy tenants_owner_select on tenants for select to rekko_owner using (true);
create policy tenants_owner_insert on tenants for insert to rekko_owner with check (true);
create policy api_keys_owner_select on api_keys for select to rekko_owner using (true);
create policy api_keys_owner_insert on api_keys for insert to rekko_owner with check (true);
create policy verifications_owner_select on verifications for select to rekko_owner
  using (tenant_id = current_tenant_id());
create policy verifications_owner_update on verifications for update to rekko_owner
  using (tenant_id = current_tenant_id()) with check (tenant_id = current_tenant_id());
create policy identifications_owner_select on identifications for select to rekko_owner
  using (tenant_id = current_tenant_id());
create policy identifications_owner_update on identifications for update to rekko_owner
  using (tenant_id = current_tenant_id()) with check (tenant_id = current_tenant_id());
create policy usage_events_owner_select on usage_events for select to rekko_owner using (true);
create policy usage_events_owner_delete on usage_events for delete to rekko_owner using (true);
create policy usage_records_owner_select on usage_records for select to rekko_owner using (true);
create policy usage_records_owner_insert on usage_records for insert to rekko_owner with check (true);
create policy usage_records_owner_update on usage_records for update to rekko_owner using (true) with check (true);
create policy face_counts_owner_select on face_counts for select to rekko_owner using (true);
create policy face_counts_owner_insert on face_counts for insert to rekko_owner with check (true);
create policy face_counts_owner_delete on face_counts for delete to rekko_owner using (true);

-- == Grants: what each role may do inside the wall ==

grant select on tenants to rekko_app;
grant select, insert, delete on faces to rekko_app;
grant update (embedding, model, metadata, quality_score, updated_at) on faces to rekko_app;
-- the audit and the metering can be added to, never changed
grant select, insert on verifications, identifications, usage_events to rekko_app;
grant select on usage_records, face_counts to rekko_app;
grant select on schema_migrations to rekko_app;
grant select on all tables in schema public to rekko_backup;

-- == Functions ==

-- Cold start of an isolate: which tenant a key belongs to, and its settings. Answers at most one row.
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

-- The first statement of every tenant transaction. Checks the credential in the transaction that uses
-- it, so that a revoked key is refused at once, and sets the tenant until the transaction ends.
-- It must be a statement of its own: within one statement the setting would come too late.
create function enter_tenant_by_api_key(tenant uuid, key_hash bytea, required_scope text) returns text[]
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

-- Step one of a search: the ids of the faces to compare exactly. In a small gallery that is everybody;
-- otherwise the faces whose sign codes are nearest to the probe's, by Hamming distance, from an
-- index-only scan. When the codes cannot tell the nearest apart (a recognizer whose components are all
-- positive gives everybody the same code), it is everybody again: slow, and still right.
--
-- A generic plan would lose the index-only scan; so would the planner's default for random_page_cost
-- where one tenant owns most of the table. Parallel workers take longer to start than 100,000 codes take
-- to scan, and would let one search occupy every core.
create function shortlist_faces(tenant uuid, probe_code bit, size integer) returns uuid[]
language plpgsql stable
set search_path = public, pg_temp
set plan_cache_mode = force_custom_plan
set random_page_cost = 1.1
set max_parallel_workers_per_gather = 0
as $$
declare
  small_gallery constant integer := 1000;
  shortlist uuid[];
  nearest double precision;
  farthest double precision;
begin
  if (select coalesce(sum(change), 0) from face_counts where tenant_id = tenant) > small_gallery then
    select array_agg(id), min(distance), max(distance) into shortlist, nearest, farthest
    from (
      select id, code <~> probe_code as distance from faces where tenant_id = tenant order by code <~> probe_code limit size
    ) as ranked;
    if nearest < farthest then
      return shortlist;
    end if;
  end if;
  return array(select id from faces where tenant_id = tenant);
end
$$;

create function count_faces() returns trigger
language plpgsql security definer
set search_path = pg_catalog, pg_temp
as $$
begin
  if tg_op = 'INSERT' then
    insert into public.face_counts (tenant_id, change) select tenant_id, count(*) from changed group by tenant_id;
  else
    insert into public.face_counts (tenant_id, change) select tenant_id, -count(*) from changed group by tenant_id;
  end if;
  return null;
end
$$;
create trigger faces_inserted after insert on faces referencing new table as changed
  for each statement execute function count_faces();
create trigger faces_deleted after delete on faces referencing old table as changed
  for each statement execute function count_faces();

-- Adds up at most `batch_size` changes into one row per tenant. Whoever reads sees the same sum before
-- and after. Answers how many rows it saved; 0 at once when another merge is at work.
create function merge_face_counts(batch_size integer) returns integer
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
as $$
declare
  saved integer;
begin
  if not pg_try_advisory_xact_lock(hashtext('rekko.merge_face_counts')) then
    return 0;
  end if;
  with batch as (
    delete from public.face_counts
    where (tenant_id, id) in (
      select c.tenant_id, c.id
      from public.face_counts c
      where c.tenant_id in (select m.tenant_id from public.face_counts m group by m.tenant_id having count(*) > 1)
      order by c.tenant_id
      limit batch_size
    )
    returning tenant_id, change
  ), merged as (
    insert into public.face_counts (tenant_id, change) select tenant_id, sum(change) from batch group by tenant_id
    returning tenant_id
  )
  select (select count(*) from batch) - (select count(*) from merged) into saved;
  return saved;
end
$$;

-- Erasure reaches the audit: its rows stay, and no longer say whom they were about.
create function forget_subject(subject text) returns void
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
as $$
begin
  update public.verifications set external_id = null, face_id = null
  where tenant_id = public.current_tenant_id() and external_id = subject;
  update public.identifications set external_id = null, face_id = null
  where tenant_id = public.current_tenant_id() and external_id = subject;
end
$$;

-- Consumes at most `batch_size` events and raises the counters by them, in one transaction. Answers how
-- many it consumed; 0 at once when another roll-up is at work.
create function roll_up_usage(batch_size integer) returns integer
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
as $$
declare
  consumed integer;
begin
  if not pg_try_advisory_xact_lock(hashtext('rekko.roll_up_usage')) then
    return 0;
  end if;
  with batch as (
    delete from public.usage_events
    where (tenant_id, id) in (select e.tenant_id, e.id from public.usage_events e limit batch_size)
    returning tenant_id, kind, to_char(occurred_at at time zone 'UTC', 'YYYY-MM') as period
  ), counted as (
    insert into public.usage_records as r (tenant_id, period, registrations, verifications, identifications, deletions)
    select
      b.tenant_id,
      b.period,
      count(*) filter (where b.kind = 'registration'),
      count(*) filter (where b.kind = 'verification'),
      count(*) filter (where b.kind = 'identification'),
      count(*) filter (where b.kind = 'deletion')
    from batch b
    group by b.tenant_id, b.period
    order by b.tenant_id, b.period
    on conflict on constraint usage_records_tenant_period_key do update set
      registrations = r.registrations + excluded.registrations,
      verifications = r.verifications + excluded.verifications,
      identifications = r.identifications + excluded.identifications,
      deletions = r.deletions + excluded.deletions,
      updated_at = transaction_timestamp()
  )
  select count(*)::integer into consumed from batch;
  return consumed;
end
$$;

-- Provisioning: the operator's login has no right on any table.
create function create_tenant(tenant_name text, tenant_environment text) returns uuid
language sql volatile security definer
set search_path = pg_catalog, pg_temp
as $$
  insert into public.tenants (name, environment) values (tenant_name, tenant_environment) returning id
$$;

create function create_api_key(
  key_tenant uuid, key_name text, key_hash bytea, key_prefix text, key_scopes text[], key_expires_at timestamptz
) returns uuid
language sql volatile security definer
set search_path = pg_catalog, pg_temp
as $$
  insert into public.api_keys (tenant_id, name, hash, prefix, scopes, expires_at)
  values (key_tenant, key_name, key_hash, key_prefix, key_scopes, key_expires_at)
  returning id
$$;

revoke all on function
  current_tenant_id(),
  resolve_api_key(bytea),
  enter_tenant_by_api_key(uuid, bytea, text),
  shortlist_faces(uuid, bit, integer),
  forget_subject(text),
  roll_up_usage(integer),
  count_faces(),
  merge_face_counts(integer),
  create_tenant(text, text),
  create_api_key(uuid, text, bytea, text, text[], timestamptz)
from public;
grant execute on function
  current_tenant_id(),
  resolve_api_key(bytea),
  enter_tenant_by_api_key(uuid, bytea, text),
  shortlist_faces(uuid, bit, integer),
  forget_subject(text)
to rekko_app;
grant execute on function roll_up_usage(integer), merge_face_counts(integer) to rekko_jobs;
grant execute on function
  create_tenant(text, text),
  create_api_key(uuid, text, bytea, text, text[], timestamptz)
to rekko_operator;

-- == Rows of version 1 ==
-- One that version 2 cannot hold stops the migration and is named: nothing is lost in silence. API keys
-- are not carried over: version 1 kept another hash of them.
do $$
declare
  unfit text;
begin
  select string_agg(format('%s %s: %s', source, id, fault), E'\n') into unfit
  from (
    select 'tenants' as source, id, 'the name is empty' as fault from guide.tenants where name = ''
    union all
    select 'tenants', id, 'settings is not an object' from guide.tenants where jsonb_typeof(settings) <> 'object'
    union all
    select 'faces', id, 'there is no tenant' from guide.faces where tenant_id is null
    union all
    select 'faces', id, 'external_id is empty, ".", "..", not in Unicode normal form C, or has characters that cannot be seen'
    from guide.faces
    where external_id in ('', '.', '..') or external_id is not nfc normalized
      or external_id ~ '[\u0001-\u001f\u007f-\u009f\u00ad\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufffd]|^\s|\s$'
    union all
    select 'faces', id, 'there is no embedding, or it has no direction' from guide.faces
    where embedding is null or vector_norm(l2_normalize(embedding)) not between 0.999 and 1.001
    union all
    select 'faces', id, 'metadata is not an object' from guide.faces where jsonb_typeof(metadata) <> 'object'
    union all
    select 'faces', id, 'quality_score is not from 0 to 1' from guide.faces where quality_score not between 0 and 1
    union all
    select 'verifications', id, 'there is no tenant' from guide.verifications where tenant_id is null
    union all
    select 'verifications', v.id, 'the face is of another tenant'
    from guide.verifications v join guide.faces f on f.id = v.face_id where f.tenant_id <> v.tenant_id
    union all
    select 'usage_records', id, 'there is no tenant' from guide.usage_records where tenant_id is null
    union all
    select 'usage_records', id, 'period is not YYYY-MM' from guide.usage_records
    where period !~ '^[0-9]{4}-(0[1-9]|1[0-2])$'
    limit 20
  ) as faults;
  if unfit is not null then
    raise exception E'version 2 cannot hold these rows (the first 20); mend or delete them, then migrate again\n%', unfit;
  end if;
end
$$;

-- The owner is bound by its own policies, so the wall goes up after the rows are in.
alter table tenants no force row level security;
alter table faces no force row level security;
alter table verifications no force row level security;
alter table usage_records no force row level security;

insert into tenants (id, name, settings, is_active, created_at, updated_at)
select id, name, coalesce(settings, '{}'), coalesce(is_active, true), coalesce(created_at, now()), coalesce(updated_at, now())
from guide.tenants;

insert into faces (tenant_id, id, external_id, embedding, model, metadata, quality_score, created_at, updated_at)
select
  tenant_id, id, external_id, l2_normalize(embedding), 'arcface-512@1', coalesce(metadata, '{}'), quality_score,
  coalesce(created_at, now()), coalesce(updated_at, now())
from guide.faces;

insert into verifications (
  tenant_id, id, face_id, external_id, verified, confidence, threshold, model, liveness_passed, latency_ms, request_id, created_at
)
select
  tenant_id, id, face_id, external_id, verified, coalesce(confidence, 0), 0.675, 'arcface-512@1', liveness_passed,
  latency_ms, 'before version 2', coalesce(created_at, now())
from guide.verifications;

insert into usage_records (tenant_id, id, period, registrations, verifications, deletions, created_at, updated_at)
select
  tenant_id, id, period, coalesce(registrations, 0), coalesce(verifications, 0), coalesce(deletions, 0),
  coalesce(created_at, now()), coalesce(updated_at, now())
from guide.usage_records;

alter table tenants force row level security;
alter table faces force row level security;
alter table verifications force row level security;
alter table usage_records force row level security;

drop schema guide cascade;
