// The schema of migrations/, as far as drizzle can say it; test/node/schema.test.ts holds the two together.
//
// The Worker does not import this file: it would pull drizzle into the bundle, and its statements are
// SQL. It is for `drizzle-kit generate`, which writes the SQL of a change for a new migration
// (drizzle.config.ts), and for reading.
//
// What drizzle cannot express stands in the migrations only: the vault, which a function makes, the extension, roles and grants, FORCE
// row-level security, functions and triggers, INCLUDE of an index, storage parameters and the storage
// of a column, and which columns ON DELETE SET NULL sets (drizzle would set tenant_id too).
import { type SQL, sql } from 'drizzle-orm'
import {
  bigint,
  bit,
  boolean,
  check,
  customType,
  doublePrecision,
  foreignKey,
  index,
  integer,
  jsonb,
  numeric,
  type PgPolicyConfig,
  pgPolicy,
  pgRole,
  pgTable,
  primaryKey,
  text,
  timestamp,
  unique,
  uuid,
  vector,
} from 'drizzle-orm/pg-core'

const rekkoApp = pgRole('rekko_app').existing()
const rekkoOwner = pgRole('rekko_owner').existing()

export const tenants = pgTable(
  'tenants',
  {
    id: id().primaryKey(),
    name: text('name').notNull(),
    environment: text('environment').notNull().default('live'),
    settings: jsonb('settings').notNull().default({}),
    isActive: boolean('is_active').notNull().default(true),
    createdAt: now('created_at'),
    updatedAt: now('updated_at'),
    erasureRequestedAt: instant('erasure_requested_at'),
  },
  (table) => [
    check('tenants_name_check', sql`char_length(name) between 1 and 255`),
    check('tenants_environment_check', sql`environment in ('live', 'test')`),
    check('tenants_settings_check', sql`jsonb_typeof(settings) = 'object'`),
    index('idx_tenants_is_active').on(table.isActive),
    ...wall('tenants', sql`id = current_tenant_id()`),
    ownerPolicy('tenants', { for: 'select', using: sql`true` }),
    ownerPolicy('tenants', { for: 'insert', withCheck: sql`true` }),
    ownerPolicy('tenants', { for: 'update', using: sql`true`, withCheck: sql`true` }),
    ownerPolicy('tenants', { for: 'delete', using: sql`erasure_requested_at IS NOT NULL` }),
  ],
).enableRLS()

export const apiKeys = pgTable(
  'api_keys',
  {
    tenantId: tenantId(),
    id: id(),
    name: text('name').notNull(),
    hash: bytea('hash').notNull(),
    prefix: text('prefix').notNull(),
    scopes: text('scopes').array().notNull(),
    expiresAt: instant('expires_at'),
    revokedAt: instant('revoked_at'),
    lastUsedAt: instant('last_used_at'),
    createdAt: now('created_at'),
  },
  (table) => [
    primaryKey({ name: 'api_keys_pkey', columns: [table.tenantId, table.id] }),
    foreignKey({ name: 'api_keys_tenant_id_fkey', columns: [table.tenantId], foreignColumns: [tenants.id] }),
    unique('api_keys_hash_key').on(table.hash),
    check('api_keys_hash_check', sql`octet_length(hash) = 32`),
    check('api_keys_name_check', sql`char_length(name) between 1 and 255`),
    check(
      'api_keys_scopes_check',
      sql`scopes <@ array['faces:read', 'faces:write', 'verify', 'identify', 'scores:read', 'audit:read', 'usage:read', 'admin']`,
    ),
    ...wall('api_keys'),
    ownerPolicy('api_keys', { for: 'select', using: sql`true` }),
    ownerPolicy('api_keys', { for: 'insert', withCheck: sql`true` }),
    ownerPolicy('api_keys', { for: 'update', using: sql`revoked_at IS NULL`, withCheck: sql`true` }),
    ownerPolicy('api_keys', { for: 'delete', using: sql`tenant_id = current_tenant_id()` }),
  ],
).enableRLS()

export const faces = pgTable(
  'faces',
  {
    tenantId: tenantId(),
    id: id(),
    externalId: textInByteOrder('external_id').notNull(),
    embedding: vector('embedding', { dimensions: 512 }).notNull(),
    code: bit('code', { dimensions: 512 }).generatedAlwaysAs(sql`binary_quantize(embedding)::bit(512)`),
    model: text('model').notNull(),
    metadata: jsonb('metadata').notNull().default({}),
    qualityScore: score('quality_score'),
    createdAt: now('created_at'),
    updatedAt: now('updated_at'),
    keyVersion: integer('key_version').notNull(),
    sealed: bytea('sealed').notNull(),
  },
  (table) => [
    primaryKey({ name: 'faces_pkey', columns: [table.tenantId, table.id] }),
    foreignKey({ name: 'faces_tenant_id_fkey', columns: [table.tenantId], foreignColumns: [tenants.id] }),
    unique('faces_tenant_external_key').on(table.tenantId, table.externalId),
    check(
      'faces_external_id_check',
      sql`char_length(external_id) between 1 and 255 and external_id is nfc normalized and external_id not in ('.', '..')
        and external_id !~ ${sql.raw(String.raw`'[\u0001-\u001f\u007f-\u009f\u00ad\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufffd]|^\s|\s$'`)}`,
    ),
    check('faces_embedding_check', sql`vector_norm(embedding) between 0.999 and 1.001`),
    check('faces_metadata_check', sql`jsonb_typeof(metadata) = 'object'`),
    check('faces_quality_score_check', sql`quality_score between 0 and 1`),
    check(
      'faces_template_check',
      sql`key_version is not null and sealed is not null and octet_length(sealed) = 2079
        and get_byte(sealed, 0) = 1 and (get_byte(sealed, 1) << 8 | get_byte(sealed, 2)) = key_version`,
    ),
    // include (code, id)
    index('idx_faces_tenant_code').on(table.tenantId),
    ...wall('faces'),
    ownerPolicy('faces', { for: 'select', using: sql`tenant_id = current_tenant_id()` }),
    ownerPolicy('faces', { for: 'delete', using: sql`tenant_id = current_tenant_id()` }),
  ],
).enableRLS()

export const verifications = pgTable(
  'verifications',
  {
    tenantId: tenantId(),
    id: id(),
    faceId: uuid('face_id'),
    externalId: textInByteOrder('external_id'),
    verified: boolean('verified').notNull(),
    confidence: score('confidence').notNull(),
    threshold: doublePrecision('threshold').notNull(),
    model: text('model').notNull(),
    livenessPassed: boolean('liveness_passed'),
    latencyMs: integer('latency_ms'),
    requestId: text('request_id').notNull(),
    createdAt: now('created_at'),
    probeQuality: score('probe_quality'),
  },
  (table) => [
    primaryKey({ name: 'verifications_pkey', columns: [table.tenantId, table.id] }),
    foreignKey({ name: 'verifications_tenant_id_fkey', columns: [table.tenantId], foreignColumns: [tenants.id] }),
    // set null (face_id)
    foreignKey({
      name: 'verifications_face_fkey',
      columns: [table.tenantId, table.faceId],
      foreignColumns: [faces.tenantId, faces.id],
    }).onDelete('set null'),
    index('idx_verifications_tenant_created').on(
      table.tenantId,
      table.createdAt.desc().nullsFirst(),
      table.id.desc().nullsFirst(),
    ),
    index('idx_verifications_tenant_external').on(
      table.tenantId,
      table.externalId,
      table.createdAt.desc().nullsFirst(),
      table.id.desc().nullsFirst(),
    ),
    index('idx_verifications_tenant_face').on(table.tenantId, table.faceId),
    ...wall('verifications'),
    index('idx_verifications_failed')
      .on(table.tenantId, table.externalId, table.createdAt.desc().nullsFirst())
      .where(sql`not verified`),
    ownerPolicy('verifications', { for: 'delete', using: sql`tenant_id = current_tenant_id()` }),
    ownerPolicy('verifications', { for: 'select', using: sql`tenant_id = current_tenant_id()` }),
    ownerPolicy('verifications', {
      for: 'update',
      using: sql`tenant_id = current_tenant_id()`,
      withCheck: sql`tenant_id = current_tenant_id()`,
    }),
  ],
).enableRLS()

export const identifications = pgTable(
  'identifications',
  {
    tenantId: tenantId(),
    id: id(),
    faceId: uuid('face_id'),
    externalId: textInByteOrder('external_id'),
    identified: boolean('identified').notNull(),
    confidence: score('confidence'),
    threshold: doublePrecision('threshold').notNull(),
    model: text('model').notNull(),
    facesSearched: integer('faces_searched').notNull(),
    facesMatched: integer('faces_matched').notNull(),
    latencyMs: integer('latency_ms'),
    requestId: text('request_id').notNull(),
    createdAt: now('created_at'),
    probeQuality: score('probe_quality'),
    livenessPassed: boolean('liveness_passed'),
  },
  (table) => [
    primaryKey({ name: 'identifications_pkey', columns: [table.tenantId, table.id] }),
    foreignKey({ name: 'identifications_tenant_id_fkey', columns: [table.tenantId], foreignColumns: [tenants.id] }),
    // set null (face_id)
    foreignKey({
      name: 'identifications_face_fkey',
      columns: [table.tenantId, table.faceId],
      foreignColumns: [faces.tenantId, faces.id],
    }).onDelete('set null'),
    index('idx_identifications_tenant_created').on(
      table.tenantId,
      table.createdAt.desc().nullsFirst(),
      table.id.desc().nullsFirst(),
    ),
    index('idx_identifications_tenant_external').on(
      table.tenantId,
      table.externalId,
      table.createdAt.desc().nullsFirst(),
      table.id.desc().nullsFirst(),
    ),
    index('idx_identifications_tenant_face').on(table.tenantId, table.faceId),
    ...wall('identifications'),
    ownerPolicy('identifications', { for: 'delete', using: sql`tenant_id = current_tenant_id()` }),
    ownerPolicy('identifications', { for: 'select', using: sql`tenant_id = current_tenant_id()` }),
    ownerPolicy('identifications', {
      for: 'update',
      using: sql`tenant_id = current_tenant_id()`,
      withCheck: sql`tenant_id = current_tenant_id()`,
    }),
  ],
).enableRLS()

export const idempotentRequests = pgTable(
  'idempotent_requests',
  {
    tenantId: uuid('tenant_id').notNull(),
    key: bytea('key').notNull(),
    fingerprint: bytea('fingerprint'),
    answer: jsonb('answer').notNull(),
    createdAt: now('created_at'),
    expiresAt: instant('expires_at').notNull(),
  },
  (table) => [
    primaryKey({ name: 'idempotent_requests_pkey', columns: [table.tenantId, table.key] }),
    foreignKey({ name: 'idempotent_requests_tenant_id_fkey', columns: [table.tenantId], foreignColumns: [tenants.id] }),
    check('idempotent_requests_key_check', sql`octet_length(key) = case when fingerprint is null then 16 else 32 end`),
    check('idempotent_requests_fingerprint_check', sql`octet_length(fingerprint) = 32`),
    check('idempotent_requests_answer_check', sql`jsonb_typeof(answer) = 'array'`),
    check('idempotent_requests_expires_at_check', sql`expires_at <= created_at + interval '24 hours'`),
    index('idx_idempotent_requests_expires').on(table.expiresAt),
    ...wall('idempotent_requests'),
    ownerPolicy('idempotent_requests', { for: 'select', using: sql`true` }),
    ownerPolicy('idempotent_requests', { for: 'delete', using: sql`true` }),
    ownerPolicy('idempotent_requests', {
      for: 'update',
      using: sql`expires_at <= transaction_timestamp()`,
      withCheck: sql`false`,
    }),
  ],
).enableRLS()

export const integrityEvents = pgTable(
  'integrity_events',
  {
    tenantId: tenantId(),
    id: id(),
    verificationId: uuid('verification_id'),
    identificationId: uuid('identification_id'),
    faceId: uuid('face_id'),
    reason: text('reason').notNull(),
    requestId: text('request_id').notNull(),
    createdAt: now('created_at'),
  },
  (table) => [
    primaryKey({ name: 'integrity_events_pkey', columns: [table.tenantId, table.id] }),
    foreignKey({ name: 'integrity_events_tenant_id_fkey', columns: [table.tenantId], foreignColumns: [tenants.id] }),
    check('integrity_events_reason_check', sql`reason in ('not opened', 'differs', 'below threshold')`),
    // set null (verification_id)
    foreignKey({
      name: 'integrity_events_verification_fkey',
      columns: [table.tenantId, table.verificationId],
      foreignColumns: [verifications.tenantId, verifications.id],
    }).onDelete('set null'),
    // set null (identification_id)
    foreignKey({
      name: 'integrity_events_identification_fkey',
      columns: [table.tenantId, table.identificationId],
      foreignColumns: [identifications.tenantId, identifications.id],
    }).onDelete('set null'),
    // set null (face_id)
    foreignKey({
      name: 'integrity_events_face_fkey',
      columns: [table.tenantId, table.faceId],
      foreignColumns: [faces.tenantId, faces.id],
    }).onDelete('set null'),
    index('idx_integrity_events_tenant_created').on(
      table.tenantId,
      table.createdAt.desc().nullsFirst(),
      table.id.desc().nullsFirst(),
    ),
    index('idx_integrity_events_verification').on(table.tenantId, table.verificationId),
    index('idx_integrity_events_identification').on(table.tenantId, table.identificationId),
    index('idx_integrity_events_face').on(table.tenantId, table.faceId),
    ...wall('integrity_events'),
    ownerPolicy('integrity_events', { for: 'select', using: sql`tenant_id = current_tenant_id()` }),
    ownerPolicy('integrity_events', { for: 'delete', using: sql`tenant_id = current_tenant_id()` }),
  ],
).enableRLS()

export const usageEvents = pgTable(
  'usage_events',
  {
    tenantId: tenantId(),
    id: id(),
    kind: text('kind').notNull(),
    occurredAt: now('occurred_at'),
  },
  (table) => [
    primaryKey({ name: 'usage_events_pkey', columns: [table.tenantId, table.id] }),
    foreignKey({ name: 'usage_events_tenant_id_fkey', columns: [table.tenantId], foreignColumns: [tenants.id] }),
    check(
      'usage_events_kind_check',
      sql`kind in ('registration', 'verification', 'identification', 'deletion', 'analysis')`,
    ),
    ...wall('usage_events'),
    ownerPolicy('usage_events', { for: 'select', using: sql`true` }),
    ownerPolicy('usage_events', { for: 'delete', using: sql`true` }),
  ],
).enableRLS()

export const usageRecords = pgTable(
  'usage_records',
  {
    tenantId: tenantId(),
    id: id(),
    period: text('period').notNull(),
    registrations: count('registrations'),
    verifications: count('verifications'),
    identifications: count('identifications'),
    deletions: count('deletions'),
    createdAt: now('created_at'),
    updatedAt: now('updated_at'),
    analyses: count('analyses'),
  },
  (table) => [
    primaryKey({ name: 'usage_records_pkey', columns: [table.tenantId, table.id] }),
    foreignKey({ name: 'usage_records_tenant_id_fkey', columns: [table.tenantId], foreignColumns: [tenants.id] }),
    unique('usage_records_tenant_period_key').on(table.tenantId, table.period),
    check('usage_records_period_check', sql`period ~ '^[0-9]{4}-(0[1-9]|1[0-2])$'`),
    ...wall('usage_records'),
    ownerPolicy('usage_records', { for: 'select', using: sql`true` }),
    ownerPolicy('usage_records', { for: 'insert', withCheck: sql`true` }),
    ownerPolicy('usage_records', { for: 'update', using: sql`true`, withCheck: sql`true` }),
    ownerPolicy('usage_records', { for: 'delete', using: sql`tenant_id = current_tenant_id()` }),
  ],
).enableRLS()

export const faceCounts = pgTable(
  'face_counts',
  {
    tenantId: tenantId(),
    id: id(),
    change: bigint('change', { mode: 'number' }).notNull(),
  },
  (table) => [
    primaryKey({ name: 'face_counts_pkey', columns: [table.tenantId, table.id] }),
    foreignKey({ name: 'face_counts_tenant_id_fkey', columns: [table.tenantId], foreignColumns: [tenants.id] }),
    ...wall('face_counts'),
    ownerPolicy('face_counts', { for: 'select', using: sql`true` }),
    ownerPolicy('face_counts', { for: 'insert', withCheck: sql`true` }),
    ownerPolicy('face_counts', { for: 'delete', using: sql`true` }),
  ],
).enableRLS()

export const tokenIssuers = pgTable(
  'token_issuers',
  {
    id: id().primaryKey(),
    issuer: text('issuer').notNull(),
    audience: text('audience').notNull(),
    algorithms: text('algorithms').array().notNull(),
    tokenType: text('token_type').notNull().default('at+jwt'),
    jwksUrl: text('jwks_url'),
    jwks: jsonb('jwks'),
    tenantClaim: text('tenant_claim').notNull().default('tenant_id'),
    scopeClaim: text('scope_claim').notNull().default('scope'),
    scopes: text('scopes').array().notNull(),
    isActive: boolean('is_active').notNull().default(true),
    revision: bigint('revision', { mode: 'number' }).notNull().default(1),
    createdAt: now('created_at'),
    updatedAt: now('updated_at'),
  },
  (table) => [
    unique('token_issuers_issuer_key').on(table.issuer),
    check('token_issuers_issuer_check', sql`octet_length(issuer) between 1 and 2048`),
    check('token_issuers_audience_check', sql`octet_length(audience) between 1 and 2048`),
    check(
      'token_issuers_algorithms_check',
      sql`cardinality(algorithms) > 0 and algorithms <@ array['ES256', 'ES384', 'ES512', 'EdDSA', 'RS256', 'RS384', 'RS512', 'PS256', 'PS384', 'PS512']`,
    ),
    check('token_issuers_token_type_check', sql`token_type in ('at+jwt', 'JWT')`),
    check('token_issuers_keys_check', sql`num_nonnulls(jwks_url, jwks) = 1`),
    check('token_issuers_jwks_url_check', sql`jwks_url ~ '^(https://|http://(127\\.0\\.0\\.1|localhost)[:/])'`),
    check(
      'token_issuers_scopes_check',
      sql`scopes <@ array['faces:read', 'faces:write', 'verify', 'identify', 'scores:read', 'audit:read', 'usage:read', 'admin']`,
    ),
    ownerPolicy('token_issuers', { for: 'select', using: sql`true` }),
    ownerPolicy('token_issuers', { for: 'insert', withCheck: sql`true` }),
    ownerPolicy('token_issuers', { for: 'update', using: sql`true`, withCheck: sql`true` }),
    ownerPolicy('token_issuers', { for: 'delete', using: sql`true` }),
  ],
).enableRLS()

export const tokenIssuerTenants = pgTable(
  'token_issuer_tenants',
  { tenantId: tenantId(), issuerId: uuid('issuer_id').notNull() },
  (table) => [
    primaryKey({ name: 'token_issuer_tenants_pkey', columns: [table.tenantId, table.issuerId] }),
    foreignKey({
      name: 'token_issuer_tenants_tenant_id_fkey',
      columns: [table.tenantId],
      foreignColumns: [tenants.id],
    }),
    foreignKey({
      name: 'token_issuer_tenants_issuer_id_fkey',
      columns: [table.issuerId],
      foreignColumns: [tokenIssuers.id],
    }),
    index('idx_token_issuer_tenants_issuer').on(table.issuerId),
    ...wall('token_issuer_tenants'),
    ownerPolicy('token_issuer_tenants', { for: 'select', using: sql`true` }),
    ownerPolicy('token_issuer_tenants', { for: 'insert', withCheck: sql`true` }),
    ownerPolicy('token_issuer_tenants', { for: 'delete', using: sql`true` }),
  ],
).enableRLS()

export const adminEvents = pgTable(
  'admin_events',
  {
    tenantId: tenantId(),
    id: id(),
    actor: text('actor').notNull().default(sql`current_actor()`),
    action: text('action').notNull(),
    target: text('target'),
    requestId: text('request_id').default(sql`current_request_id()`),
    createdAt: now('created_at'),
  },
  (table) => [
    primaryKey({ name: 'admin_events_pkey', columns: [table.tenantId, table.id] }),
    foreignKey({ name: 'admin_events_tenant_id_fkey', columns: [table.tenantId], foreignColumns: [tenants.id] }),
    index('idx_admin_events_tenant_created').on(
      table.tenantId,
      table.createdAt.desc().nullsFirst(),
      table.id.desc().nullsFirst(),
    ),
    ...wall('admin_events'),
    ownerPolicy('admin_events', { for: 'insert', withCheck: sql`true` }),
    ownerPolicy('admin_events', { for: 'select', using: sql`tenant_id = current_tenant_id()` }),
    ownerPolicy('admin_events', { for: 'delete', using: sql`tenant_id = current_tenant_id()` }),
  ],
).enableRLS()

export const operatorEvents = pgTable(
  'operator_events',
  {
    id: id().primaryKey(),
    actor: text('actor').notNull().default(sql`current_actor()`),
    action: text('action').notNull(),
    target: text('target').notNull(),
    requestId: text('request_id').default(sql`current_request_id()`),
    createdAt: now('created_at'),
  },
  (table) => [
    index('idx_operator_events_created').on(table.createdAt.desc().nullsFirst()),
    ownerPolicy('operator_events', { for: 'insert', withCheck: sql`true` }),
  ],
).enableRLS()

function tenantId() {
  return uuid('tenant_id').notNull()
}

function id() {
  return uuid('id').notNull().defaultRandom()
}

/** A point in time, to the millisecond: all that a JavaScript Date can hold. */
function instant<Name extends string>(name: Name) {
  return timestamp(name, { precision: 3, withTimezone: true })
}

function now<Name extends string>(name: Name) {
  return instant(name).notNull().defaultNow()
}

/** 0 to 1 in four decimals. */
function score<Name extends string>(name: Name) {
  return numeric(name, { precision: 5, scale: 4 })
}

function count<Name extends string>(name: Name) {
  return bigint(name, { mode: 'number' }).notNull().default(0)
}

function bytea<Name extends string>(name: Name) {
  return customType<{ data: Uint8Array }>({ dataType: () => 'bytea' })(name)
}

function textInByteOrder<Name extends string>(name: Name) {
  return customType<{ data: string }>({ dataType: () => 'text collate "C"' })(name)
}

/** The two policies that keep a login of the Worker to the tenant it entered. */
function wall(table: string, isOwn: SQL = sql`tenant_id = current_tenant_id()`) {
  return [
    pgPolicy(`${table}_wall`, { as: 'restrictive', to: rekkoApp, using: isOwn, withCheck: isOwn }),
    pgPolicy(`${table}_tenant`, { to: rekkoApp, using: isOwn, withCheck: isOwn }),
  ]
}

/** An opening for the functions that run as the owner, whom FORCE binds too. */
function ownerPolicy(table: string, config: PgPolicyConfig & { for: 'select' | 'insert' | 'update' | 'delete' }) {
  return pgPolicy(`${table}_owner_${config.for}`, { to: rekkoOwner, ...config })
}
