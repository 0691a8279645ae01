// The tables of naive-server.ts, in a schema of their own beside the product's.
import { createHash } from 'node:crypto'

export const NAIVE_SCHEMA = `
  create schema naive;
  create table naive.tenants (id uuid primary key, name text not null, is_active boolean not null, settings jsonb not null);
  create table naive.api_keys (
    id uuid primary key default gen_random_uuid(), tenant_id uuid not null references naive.tenants,
    key_hash text not null unique, revoked_at timestamptz
  );
  create table naive.faces (
    id uuid primary key default gen_random_uuid(), tenant_id uuid not null references naive.tenants,
    external_id text not null, embedding vector(512) not null, created_at timestamptz not null default now(),
    unique (tenant_id, external_id)
  );
  create table naive.verifications (
    id uuid primary key default gen_random_uuid(), tenant_id uuid not null references naive.tenants,
    face_id uuid references naive.faces, external_id text not null, verified boolean not null, confidence real not null,
    created_at timestamptz not null default now()
  );
  create index on naive.verifications (tenant_id, created_at desc);
  create table naive.usage_records (
    tenant_id uuid not null references naive.tenants, period text not null, registrations bigint not null default 0,
    verifications bigint not null default 0, primary key (tenant_id, period)
  );`

export function hashNaiveKey(key: string): string {
  return createHash('sha256').update(key).digest('hex')
}
