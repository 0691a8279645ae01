// The faces of a tenant's gallery: enroll, replace, read, erase.
import type { Embedding } from '../face/embedding.ts'
import { toBase64 } from '../face/protection/octets.ts'
import { type Template, toTemplate } from '../face/protection/template.ts'
import type { Statement } from './neon.ts'
import { toVector } from './templates.ts'
import type { TenantDatabase } from './tenant.ts'

export type Metadata = Record<string, unknown>

export interface NewFace {
  externalId: string
  embedding: Embedding
  metadata: Metadata
  /** 0 to 1; null when the client did not say. */
  qualityScore: number | null
}

export type Face = {
  id: string
  external_id: string
  metadata: Metadata
  quality_score: number | null
  created_at: Date
  updated_at: Date
}

/** @returns the face, or null when one is already enrolled under this external_id */
export async function enrollFace(db: TenantDatabase, face: NewFace): Promise<Face | null> {
  const { rows } = await runWithTemplate<Face>(
    db,
    face,
    (template) => db.sql`
    with enrolled as (
      ${insertInto(db, face, template)}
      on conflict (tenant_id, external_id) do nothing
      returning tenant_id, id, external_id, metadata, quality_score, created_at, updated_at
    ), metered as (
      insert into usage_events (tenant_id, kind) select tenant_id, 'registration' from enrolled
    )
    select id, external_id, metadata, quality_score::float8, created_at, updated_at from enrolled`,
  )
  return rows[0] ?? null
}

/** Enrolls, or replaces what is enrolled under this external_id; the face keeps its id. */
export async function replaceFace(db: TenantDatabase, face: NewFace): Promise<Face & { is_new: boolean }> {
  const { rows } = await runWithTemplate<Face & { is_new: boolean }>(
    db,
    face,
    (template) => db.sql`
    with replaced as (
      ${insertInto(db, face, template)}
      on conflict (tenant_id, external_id) do update set
        embedding = excluded.embedding,
        template_id = excluded.template_id,
        key_version = excluded.key_version,
        sealed = excluded.sealed,
        model = excluded.model,
        metadata = excluded.metadata,
        quality_score = excluded.quality_score,
        updated_at = transaction_timestamp()
      -- xmax is 0 in a row that this statement inserted
      returning tenant_id, id, external_id, metadata, quality_score, created_at, updated_at, xmax = 0 as is_new
    ), metered as (
      insert into usage_events (tenant_id, kind) select tenant_id, 'registration' from replaced
    )
    select id, external_id, metadata, quality_score::float8, created_at, updated_at, is_new from replaced`,
  )
  const [replaced] = rows
  if (!replaced) throw new RangeError('an upsert answered no row')
  return replaced
}

function runWithTemplate<Result extends Face>(
  db: TenantDatabase,
  { externalId, embedding }: NewFace,
  write: (template: Template) => Statement,
): Promise<{ rows: Result[] }> {
  return db.runProtected<Result, Template>(
    ([active]) => toTemplate(active, { externalId, model: db.tenant.settings.model.id }, embedding),
    write,
  )
}

/** SQL: the insert of a face, under a key that stays until the transaction ends. */
function insertInto({ sql, tenant }: TenantDatabase, face: NewFace, template: Template): Statement {
  return sql`insert into faces (
        tenant_id, id, external_id, embedding, template_id, key_version, sealed, model, metadata, quality_score
      )
      select
        ${tenant.id}, ${crypto.randomUUID()}, ${face.externalId}, ${toVector(template.rotated)}::vector, ${template.templateId},
        ${template.keyVersion}, decode(${toBase64(template.sealed)}, 'base64'), ${tenant.settings.model.id},
        ${JSON.stringify(face.metadata)}::jsonb, ${face.qualityScore}
      from hold_template_key(${template.keyVersion})`
}

/** @returns null when nobody is enrolled under this external_id */
export async function findFace(db: TenantDatabase, externalId: string): Promise<Face | null> {
  const [face] = await db.run<Face>(
    db.sql`
    select id, external_id, metadata, quality_score::float8, created_at, updated_at
    from faces
    where tenant_id = ${db.tenant.id} and external_id = ${externalId}`,
    { readOnly: true },
  )
  return face ?? null
}

/**
 * @param after the external_id behind which the page begins; null for the first page
 * @param limit rows at most; ask for one more than a page to learn whether there is another
 * @returns faces in the byte order of their external_id
 */
export async function listFaces(db: TenantDatabase, after: string | null, limit: number): Promise<Face[]> {
  return db.run<Face>(
    db.sql`
    select id, external_id, metadata, quality_score::float8, created_at, updated_at
    from faces
    where tenant_id = ${db.tenant.id} and external_id > ${after ?? ''}
    order by external_id
    limit ${limit}`,
    { readOnly: true },
  )
}

/** @returns null when nobody is enrolled under this external_id */
export async function updateMetadata(db: TenantDatabase, externalId: string, metadata: Metadata): Promise<Face | null> {
  const [face] = await db.run<Face>(db.sql`
    update faces set metadata = ${JSON.stringify(metadata)}::jsonb, updated_at = transaction_timestamp()
    where tenant_id = ${db.tenant.id} and external_id = ${externalId}
    returning id, external_id, metadata, quality_score::float8, created_at, updated_at`)
  return face ?? null
}

/**
 * Erases a face, and the person's external_id from the audit, in one statement.
 *
 * @returns false when nobody is enrolled under this external_id
 */
export async function eraseFace(db: TenantDatabase, externalId: string): Promise<boolean> {
  const erased = await db.run(db.sql`
    with erased as (
      delete from faces where tenant_id = ${db.tenant.id} and external_id = ${externalId}
      returning tenant_id, external_id
    ), metered as (
      insert into usage_events (tenant_id, kind) select tenant_id, 'deletion' from erased
    )
    select forget_subject(external_id) from erased`)
  return erased.length > 0
}
