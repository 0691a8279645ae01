// The faces of a tenant's gallery: enroll, replace, read, erase.
import type { Embedding } from '../face/embedding.ts'
import { toBase64 } from '../face/protection/octets.ts'
import { type Template, toTemplate } from '../face/protection/template.ts'
import { toDistance } from '../face/similarity.ts'
import type { Statement } from './neon.ts'
import { confidence, distanceTo, type ProtectedProbe, shortlist, toProtectedProbe, toVector } from './templates.ts'
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

/**
 * @returns the face; 'exists' when one is already enrolled under this external_id; 'duplicate' when the tenant wants no
 *   face under two of them, and this one is under another: the search that found it is recorded and billed as one
 */
export async function enrollFace(db: TenantDatabase, face: NewFace): Promise<Face | 'exists' | 'duplicate'> {
  const outcome = await insertFace(
    db,
    face,
    db.sql`select null::timestamptz as created_at where false`,
    db.sql`do nothing`,
  )
  if (outcome.is_duplicate) return 'duplicate'
  return outcome.face ?? 'exists'
}

/**
 * Enrolls, or replaces what is enrolled under this external_id, with a face of another id: the sealed copy is bound to
 * it. Otherwise as `enrollFace`.
 */
export async function replaceFace(
  db: TenantDatabase,
  face: NewFace,
): Promise<{ face: Face; isNew: boolean } | 'duplicate'> {
  const { sql } = db
  const outcome = await insertFace(
    db,
    face,
    sql`delete from faces
      where tenant_id = ${db.tenant.id} and external_id = ${face.externalId} and ${db.isFirst}
        and not exists (select from twin)
      returning created_at`,
    // one that another request has put in the place of the deleted one meanwhile
    sql`do update set
        id = excluded.id,
        embedding = excluded.embedding,
        key_version = excluded.key_version,
        sealed = excluded.sealed,
        model = excluded.model,
        metadata = excluded.metadata,
        quality_score = excluded.quality_score,
        updated_at = transaction_timestamp()`,
  )
  if (outcome.is_duplicate) return 'duplicate'
  if (!outcome.face) throw new RangeError('an upsert answered no row')
  return { face: outcome.face, isNew: outcome.is_new === true }
}

type Insertion = { face: Face | null; is_new: boolean | null; is_duplicate: boolean }

/**
 * @param replaced SQL: takes away what is enrolled under this external_id, unless there is a `twin`, and answers when it
 *   was enrolled
 * @param onConflict SQL: what becomes of a face that is enrolled under this external_id all the same
 */
async function insertFace(
  db: TenantDatabase,
  face: NewFace,
  replaced: Statement,
  onConflict: Statement,
): Promise<Insertion> {
  const { sql, tenant } = db
  const { model } = tenant.settings
  type Row = Partial<Omit<Face, 'external_id' | 'metadata'>> & { is_new: boolean | null; is_duplicate: boolean }
  const { rows } = await db.actProtected<Row, { template: Template; probe: ProtectedProbe | null }>(
    async (keys) => ({
      template: await toTemplate(keys[0], { externalId: face.externalId, model: model.id }, face.embedding),
      probe: tenant.settings.allowsDuplicates ? null : await toProtectedProbe(keys, model.id, face.embedding),
    }),
    ({ template, probe }) => ({
      subject: face.externalId,
      parts: sql`twin as materialized (${probe ? findTwin(db, face, probe) : noTwin(db)}), found as (
      insert into identifications (
        tenant_id, face_id, external_id, identified, confidence, threshold, model, faces_searched, faces_matched,
        probe_quality, latency_ms, request_id
      )
      select
        ${tenant.id}, id, external_id, true, ${confidence(db)},
        ${tenant.settings.identificationThreshold}::float8, ${model.id},
        (select coalesce(sum(change), 0) from face_counts where tenant_id = ${tenant.id}), 1,
        trunc(${face.qualityScore}::numeric, 4), extract(epoch from clock_timestamp() - transaction_timestamp()) * 1000,
        ${db.requestId}
      from twin
      returning tenant_id
    ), replaced as (
      ${replaced}
    ), enrolled as (
      insert into faces (
        tenant_id, id, external_id, embedding, key_version, sealed, model, metadata, quality_score, created_at
      )
      select
        ${tenant.id}, ${template.id}, ${face.externalId}, ${toVector(template.rotated)}::vector, ${template.keyVersion},
        decode(${toBase64(template.sealed)}, 'base64'), ${model.id}, ${JSON.stringify(face.metadata)}::jsonb,
        ${face.qualityScore}, coalesce(before.created_at, transaction_timestamp())
      -- an aggregate, so that what is replaced is gone first
      from hold_template_key(${template.keyVersion}), (select min(created_at) as created_at from replaced) as before
      where ${db.isFirst} and not exists (select from twin)
      on conflict (tenant_id, external_id) ${onConflict}
      -- xmax is 0 in a row that this statement inserted
      returning tenant_id, id, quality_score, created_at, updated_at, xmax = 0 as is_inserted
    ), metered as (
      insert into usage_events (tenant_id, kind)
      select tenant_id, 'registration' from enrolled union all select tenant_id, 'identification' from found
    )`,
      answer: sql`
    select
      e.id, e.quality_score::float8, e.created_at, e.updated_at,
      e.is_inserted and not exists (select from replaced) as is_new,
      exists (select from twin) as is_duplicate
    from (values (true)) as one_face left join enrolled e on true`,
    }),
  )
  const [row] = rows
  if (!row) throw new RangeError('an insert answered no row')
  const { is_new, is_duplicate, ...enrolled } = row
  // the columns of one row of faces, or none of them
  const written = { ...enrolled, external_id: face.externalId, metadata: face.metadata }
  return { face: enrolled.id ? (written as Face) : null, is_new, is_duplicate }
}

/**
 * SQL: the nearest face under another external_id, when it is near enough to be named by a search. That the keys are
 * live is asked where the face is written.
 */
function findTwin(db: TenantDatabase, { externalId }: NewFace, probe: ProtectedProbe): Statement {
  const { sql, tenant } = db
  return sql`
      select id, external_id, distance from (
        select id, external_id, ${distanceTo(db, probe)} as distance
        from faces
        where tenant_id = ${tenant.id} and model = ${probe.model} and external_id <> ${externalId}
          and id = any (${shortlist(db, probe)})
      ) as others
      where distance <= ${toDistance(tenant.settings.identificationThreshold)}::float8 and ${db.isFirst}
      order by distance, id limit 1`
}

/** SQL: nobody, for a tenant that does not mind. */
function noTwin({ sql }: TenantDatabase): Statement {
  return sql`select null::uuid as id, null::text as external_id, null::float8 as distance where false`
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
  const [face] = await db.act<Omit<Face, 'external_id' | 'metadata'>>({
    subject: externalId,
    parts: db.sql`changed as (
      update faces set metadata = ${JSON.stringify(metadata)}::jsonb, updated_at = transaction_timestamp()
      where tenant_id = ${db.tenant.id} and external_id = ${externalId} and ${db.isFirst}
      returning id, quality_score::float8, created_at, updated_at
    )`,
    answer: db.sql`select id, quality_score, created_at, updated_at from changed`,
  })
  return face ? { ...face, external_id: externalId, metadata } : null
}

/**
 * Erases a face, and the person's external_id from the audit, in one statement.
 *
 * @returns false when nobody is enrolled under this external_id
 */
export async function eraseFace(db: TenantDatabase, externalId: string): Promise<boolean> {
  const erased = await db.act({
    subject: externalId,
    parts: db.sql`erased as (
      delete from faces where tenant_id = ${db.tenant.id} and external_id = ${externalId} and ${db.isFirst}
      returning tenant_id, external_id
    ), metered as (
      insert into usage_events (tenant_id, kind) select tenant_id, 'deletion' from erased
    )`,
    answer: db.sql`select forget_subject(external_id)::text as forgotten from erased`,
  })
  return erased.length > 0
}
