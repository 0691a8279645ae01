-- Back to the tables of version 1. API keys, identifications and usage that was not rolled up have no
-- place there and are lost.
create schema tenancy;
alter table tenants set schema tenancy;
alter table api_keys set schema tenancy;
alter table faces set schema tenancy;
alter table verifications set schema tenancy;
alter table identifications set schema tenancy;
alter table usage_events set schema tenancy;
alter table usage_records set schema tenancy;
alter table face_counts set schema tenancy;

alter table tenancy.tenants no force row level security;
alter table tenancy.faces no force row level security;
alter table tenancy.verifications no force row level security;
alter table tenancy.usage_records no force row level security;

create table tenants (
  id uuid primary key default gen_random_uuid(),
  name varchar(255) not null,
  api_key_hash varchar(255) unique,
  settings jsonb default '{}',
  is_active boolean default true,
  created_at timestamptz default now(),
  updated_at timestamptz default now()
);
create index idx_tenants_api_key_hash on tenants (api_key_hash);
create index idx_tenants_is_active on tenants (is_active);

create table faces (
  id uuid primary key default gen_random_uuid(),
  tenant_id uuid references tenants (id),
  external_id varchar(255) not null,
  embedding vector(512),
  metadata jsonb default '{}',
  quality_score decimal(5, 4),
  created_at timestamptz default now(),
  updated_at timestamptz default now(),
  unique (tenant_id, external_id)
);
create index idx_faces_tenant_id on faces (tenant_id);
create index idx_faces_tenant_external on faces (tenant_id, external_id);

create table verifications (
  id uuid primary key default gen_random_uuid(),
  tenant_id uuid references tenants (id),
  face_id uuid references faces (id),
  external_id varchar(255) not null,
  verified boolean not null,
  confidence decimal(5, 4),
  liveness_passed boolean,
  latency_ms integer,
  created_at timestamptz default now()
);
create index idx_verifications_tenant_created on verifications (tenant_id, created_at);

create table usage_records (
  id uuid primary key default gen_random_uuid(),
  tenant_id uuid references tenants (id),
  period varchar(7) not null,
  registrations integer default 0,
  verifications integer default 0,
  deletions integer default 0,
  created_at timestamptz default now(),
  updated_at timestamptz default now(),
  unique (tenant_id, period)
);

insert into tenants (id, name, settings, is_active, created_at, updated_at)
select id, name, settings, is_active, created_at, updated_at from tenancy.tenants;

insert into faces (id, tenant_id, external_id, embedding, metadata, quality_score, created_at, updated_at)
select id, tenant_id, external_id, embedding, metadata, quality_score, created_at, updated_at from tenancy.faces;

insert into verifications (id, tenant_id, face_id, external_id, verified, confidence, liveness_passed, latency_ms, created_at)
select
  id, tenant_id, face_id, coalesce(external_id, '(erased)'), verified, confidence, liveness_passed, latency_ms, created_at
from tenancy.verifications;

insert into usage_records (id, tenant_id, period, registrations, verifications, deletions, created_at, updated_at)
select id, tenant_id, period, registrations, verifications, deletions, created_at, updated_at from tenancy.usage_records;

drop schema tenancy cascade;
drop function create_api_key(uuid, text, bytea, text, text[], timestamptz);
drop function create_tenant(text, text);
drop function roll_up_usage(integer);
drop function merge_face_counts(integer);
drop function count_faces();
drop function forget_subject(text);
drop function shortlist_faces(uuid, bit, integer);
drop function enter_tenant_by_api_key(uuid, bytea, text);
drop function resolve_api_key(bytea);
drop function current_tenant_id();
revoke select on schema_migrations from rekko_app, rekko_backup;
