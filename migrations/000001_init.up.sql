-- The schema of the database guide, version 1: the tables that operators of earlier installations
-- have. 000002_tenancy turns them into the present ones, with or without rows in them.
create extension if not exists vector;

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
