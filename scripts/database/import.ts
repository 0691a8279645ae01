// Enrolls many faces at once: by the rules of the API, inside the wall of one tenant, metered as there.
import { toVector } from '../../src/db/faces.ts'
import { findExternalIdFault } from '../../src/external-id.ts'
import { DIMENSIONS, type Embedding, isFault, toEmbedding } from '../../src/face/embedding.ts'
import { findMetadataFault } from '../../src/metadata.ts'
import type { Connection } from './connection.ts'
import type { EmbeddingFile, FileRow } from './embedding-files.ts'
import { asTenant, findSqlState } from './transaction.ts'

export interface NewFace {
  externalId: string
  embedding: Embedding
  metadata: Record<string, unknown>
  /** 0 to 1; null when it is not known. */
  qualityScore: number | null
  /** For a history; now, when it is not given. */
  enrolledAt?: Date
}

/** What became of a face. The last two were left as they were, because replacing was not asked for. */
export type Outcome = 'enrolled' | 'replaced' | 'skipped' | 'other embedding' | 'other model' | 'changed meanwhile'

/** How the embeddings of a batch become one parameter. */
export type VectorArray = (embeddings: Embedding[]) => unknown

/**
 * Native PostgreSQL takes vectors as they are, without 512 numbers written out and read; the embedded one takes
 * parameters as text only.
 */
export async function findVectorArray(connection: Connection, isNative: boolean): Promise<VectorArray> {
  if (!isNative) return (embeddings) => `{${embeddings.map((embedding) => `"${toVector(embedding)}"`).join(',')}}`
  const [type] = await connection.query<{ oid: number }>("select 'vector'::regtype::oid::int as oid")
  if (!type) throw new RangeError('regtype answered no row')
  return (embeddings) => toBinaryArray(type.oid, embeddings)
}

/** As array_recv and pgvector's vector_recv read it. */
function toBinaryArray(elementType: number, embeddings: Embedding[]): Buffer {
  const elementBytes = 4 + DIMENSIONS * 4
  const buffer = Buffer.alloc(20 + embeddings.length * (4 + elementBytes))
  const view = new DataView(buffer.buffer, buffer.byteOffset, buffer.byteLength)
  // one dimension, no nulls, the type of its elements, their number, counted from 1
  const header = [1, 0, elementType, embeddings.length, 1]
  for (const [index, word] of header.entries()) view.setInt32(index * 4, word)
  let at = header.length * 4
  for (const embedding of embeddings) {
    view.setInt32(at, elementBytes)
    view.setInt16(at + 4, DIMENSIONS)
    at += 8
    for (const component of embedding) {
      view.setFloat32(at, component)
      at += 4
    }
  }
  return buffer
}

/**
 * Enrolls a batch, inside the transaction of a tenant, and meters each face as one registration.
 *
 * @param faces of distinct external_ids
 * @param isReplacing replaces what is enrolled under an external_id and differs
 * @returns what became of each face, in their order
 */
export async function enrollFaces(
  connection: Connection,
  toVectorArray: VectorArray,
  tenantId: string,
  model: string,
  faces: NewFace[],
  isReplacing = false,
): Promise<Outcome[]> {
  const enrolled = await connection.query<{ external_id: string }>(
    `with enrolled as (
      insert into faces (tenant_id, external_id, embedding, model, metadata, quality_score, created_at, updated_at)
      select
        $1, external_id, embedding, $2, metadata::jsonb, quality_score::numeric,
        coalesce(enrolled_at::timestamptz, transaction_timestamp()), coalesce(enrolled_at::timestamptz, transaction_timestamp())
      from unnest($3::text[], $4::vector[], $5::text[], $6::text[], $7::text[])
        as n (external_id, embedding, metadata, quality_score, enrolled_at)
      on conflict (tenant_id, external_id) do nothing
      returning tenant_id, external_id, created_at
    ), metered as (
      insert into usage_events (tenant_id, kind, occurred_at) select tenant_id, 'registration', created_at from enrolled
    )
    select external_id from enrolled`,
    [
      ...toParameters(tenantId, model, toVectorArray, faces),
      faces.map(({ enrolledAt }) => enrolledAt?.toISOString() ?? null),
    ],
  )
  const outcomes = new Map<string, Outcome>(enrolled.map(({ external_id }) => [external_id, 'enrolled']))
  const known = faces.filter(({ externalId }) => !outcomes.has(externalId))
  if (known.length > 0) {
    const compared = await compareFaces(connection, toVectorArray, tenantId, model, known)
    const differing = known.filter(({ externalId }) => compared.get(externalId)?.isDifferent)
    if (isReplacing && differing.length > 0) {
      await replaceFaces(connection, toVectorArray, tenantId, model, differing)
      for (const { externalId } of differing) outcomes.set(externalId, 'replaced')
    }
    for (const { externalId } of known) {
      if (!outcomes.has(externalId)) outcomes.set(externalId, compared.get(externalId)?.outcome ?? 'changed meanwhile')
    }
  }
  // every face is in the map: it was enrolled, or it was known
  return faces.map(({ externalId }) => outcomes.get(externalId) ?? 'changed meanwhile')
}

/** What the gallery has under the same external_ids. */
async function compareFaces(
  connection: Connection,
  toVectorArray: VectorArray,
  tenantId: string,
  model: string,
  faces: NewFace[],
): Promise<Map<string, { outcome: Outcome; isDifferent: boolean }>> {
  const rows = await connection.query<{
    external_id: string
    same_embedding: boolean
    same_model: boolean
    same_rest: boolean
  }>(
    `select
      f.external_id, f.embedding = n.embedding as same_embedding, f.model = $2 as same_model,
      f.metadata = n.metadata::jsonb and f.quality_score is not distinct from n.quality_score::numeric(5, 4) as same_rest
    from unnest($3::text[], $4::vector[], $5::text[], $6::text[]) as n (external_id, embedding, metadata, quality_score)
    join faces f on f.tenant_id = $1 and f.external_id = n.external_id`,
    toParameters(tenantId, model, toVectorArray, faces),
  )
  return new Map(
    rows.map((row) => {
      const outcome = !row.same_model ? 'other model' : row.same_embedding ? 'skipped' : 'other embedding'
      return [row.external_id, { outcome, isDifferent: outcome !== 'skipped' || !row.same_rest }]
    }),
  )
}

/** Replacing counts as a registration, as in the API. */
async function replaceFaces(
  connection: Connection,
  toVectorArray: VectorArray,
  tenantId: string,
  model: string,
  faces: NewFace[],
): Promise<void> {
  await connection.query(
    `with replaced as (
      update faces f set
        embedding = n.embedding, model = $2, metadata = n.metadata::jsonb, quality_score = n.quality_score::numeric,
        updated_at = transaction_timestamp()
      from unnest($3::text[], $4::vector[], $5::text[], $6::text[]) as n (external_id, embedding, metadata, quality_score)
      where f.tenant_id = $1 and f.external_id = n.external_id
      returning f.tenant_id
    )
    insert into usage_events (tenant_id, kind) select tenant_id, 'registration' from replaced`,
    toParameters(tenantId, model, toVectorArray, faces),
  )
}

function toParameters(tenantId: string, model: string, toVectorArray: VectorArray, faces: NewFace[]): unknown[] {
  return [
    tenantId,
    model,
    faces.map(({ externalId }) => externalId),
    toVectorArray(faces.map(({ embedding }) => embedding)),
    faces.map(({ metadata }) => JSON.stringify(metadata)),
    faces.map(({ qualityScore }) => (qualityScore === null ? null : String(qualityScore))),
  ]
}

export interface Reject {
  place: number
  /** As the file has it, cut to what a line of a report can hold; null when there is none. */
  externalId: string | null
  /** Never a component of the embedding. */
  reason: string
}

export interface ImportOptions {
  tenantId: string
  model: string
  isReplacing: boolean
  /** Rows of one transaction. */
  batchSize: number
  /** Only checks the rows: the database is not asked. */
  isDryRun: boolean
  onRows(count: number): void
  onReject(reject: Reject): Promise<void>
}

export interface ImportTotals {
  read: number
  enrolled: number
  replaced: number
  skipped: number
  rejected: number
}

/**
 * Enrolls what a file holds, a transaction for each batch. What is enrolled already is skipped, so one that
 * was interrupted is run again from the start.
 *
 * @throws the error of the database that stopped it; batches before stay enrolled
 */
export async function importFaces(
  connection: Connection,
  toVectorArray: VectorArray,
  file: EmbeddingFile,
  options: ImportOptions,
): Promise<ImportTotals> {
  const totals: ImportTotals = { read: 0, enrolled: 0, replaced: 0, skipped: 0, rejected: 0 }
  // two rows of one external_id must not replace each other, in this run and in every repeat of it
  const seen = options.isReplacing ? new Set<string>() : null
  let batch = new Map<string, Candidate>()

  const reject = async (reject: Reject) => {
    totals.rejected++
    await options.onReject(reject)
  }
  const flush = async () => {
    const candidates = [...batch.values()]
    batch = new Map()
    if (candidates.length === 0) return
    const outcomes = options.isDryRun
      ? candidates.map(() => 'enrolled' as const)
      : await enrollCandidates(connection, toVectorArray, options, candidates)
    for (const [index, { place, face }] of candidates.entries()) {
      const outcome = outcomes[index]
      if (outcome === 'enrolled' || outcome === 'replaced' || outcome === 'skipped') totals[outcome]++
      else await reject({ place, externalId: face.externalId, reason: explain(outcome, options.isReplacing) })
    }
    options.onRows(candidates.length)
  }

  for await (const row of file.rows()) {
    totals.read++
    const face = toFace(row)
    if (typeof face === 'string') {
      await reject({ place: row.place, externalId: toReported(row.externalId), reason: face })
      options.onRows(1)
      continue
    }
    // a statement can neither compare a row with itself nor change one twice
    if (batch.has(face.externalId) || batch.size >= options.batchSize) await flush()
    batch.set(face.externalId, { place: row.place, face, isRepeated: seen?.has(face.externalId) ?? false })
    seen?.add(face.externalId)
  }
  await flush()
  return totals
}

interface Candidate {
  place: number
  face: NewFace
  /** An earlier row of this file had the same external_id; known only when replacing. */
  isRepeated: boolean
}

/** One transaction; when the database refuses a row of it, one transaction for each row. */
async function enrollCandidates(
  connection: Connection,
  toVectorArray: VectorArray,
  options: ImportOptions,
  candidates: Candidate[],
): Promise<(Outcome | { refusal: string })[]> {
  const { tenantId, model, isReplacing } = options
  const enroll = (chosen: Candidate[], mayReplace: boolean) =>
    enrollFaces(
      connection,
      toVectorArray,
      tenantId,
      model,
      chosen.map(({ face }) => face),
      mayReplace,
    )
  try {
    return await asTenant(connection, tenantId, async () => {
      const outcomes = new Map<Candidate, Outcome>()
      for (const isRepeated of [false, true]) {
        const chosen = candidates.filter((candidate) => candidate.isRepeated === isRepeated)
        if (chosen.length === 0) continue
        const found = await enroll(chosen, isReplacing && !isRepeated)
        for (const [index, candidate] of chosen.entries()) outcomes.set(candidate, found[index] ?? 'changed meanwhile')
      }
      return candidates.map((candidate) => outcomes.get(candidate) ?? 'changed meanwhile')
    })
  } catch (error) {
    const code = findSqlState(error)
    // class 22, data exceptions; class 23, constraints: a row is at fault and not the connection
    if (code === null || !/^2[23]/.test(code)) throw error
    if (candidates.length === 1) return [{ refusal: code }]
    const outcomes: (Outcome | { refusal: string })[] = []
    for (const candidate of candidates) {
      outcomes.push(...(await enrollCandidates(connection, toVectorArray, options, [candidate])))
    }
    return outcomes
  }
}

function explain(outcome: Outcome | { refusal: string } | undefined, isReplacing: boolean): string {
  if (typeof outcome === 'object') return `The database refuses the row (SQLSTATE ${outcome.refusal}).`
  if (outcome === 'changed meanwhile') return 'Was erased or changed during the import: import it again.'
  if (isReplacing) return 'external_id: An earlier row of this file has it, with another embedding.'
  return outcome === 'other model'
    ? 'external_id: Is enrolled already, with an embedding of another model. --replace replaces it.'
    : 'external_id: Is enrolled already, with another embedding. --replace replaces it.'
}

/** The face of a row, by the rules of the API; or why there is none. */
export function toFace(row: FileRow): NewFace | string {
  if (row.fault !== undefined) return row.fault
  const { externalId, metadata = {}, qualityScore = null } = row
  if (typeof externalId !== 'string') return 'external_id: Must be text.'
  const idFault = findExternalIdFault(externalId)
  if (idFault) return `external_id: ${idFault}`
  const embedding = toEmbedding(row.embedding)
  if (isFault(embedding)) {
    return `${embedding.index === undefined ? 'embedding' : `e${embedding.index}`}: ${embedding.detail}`
  }
  if (!isRecord(metadata)) return 'metadata: Must be an object.'
  const metadataFault = findMetadataFault(metadata)
  if (metadataFault) return `metadata: ${metadataFault}`
  if (qualityScore !== null && !(typeof qualityScore === 'number' && qualityScore >= 0 && qualityScore <= 1)) {
    return 'quality_score: Must be a number from 0 to 1.'
  }
  return { externalId, embedding, metadata, qualityScore }
}

function isRecord(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value)
}

function toReported(externalId: unknown): string | null {
  return typeof externalId === 'string' ? externalId.slice(0, 300).toWellFormed() : null
}
