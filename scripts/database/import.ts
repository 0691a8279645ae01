// Enrolls many faces at once: by the rules of the API, inside the wall of one tenant, metered as there.
import type { TemplateKeys } from '../../src/db/template-keys.ts'
import { findExternalIdFault } from '../../src/external-id.ts'
import { type Embedding, isFault, toEmbedding } from '../../src/face/embedding.ts'
import { toBase64 } from '../../src/face/protection/octets.ts'
import { open } from '../../src/face/protection/sealed-copy.ts'
import { type Template, toTemplate } from '../../src/face/protection/template.ts'
import { findMetadataFault } from '../../src/metadata.ts'
import type { Connection } from './connection.ts'
import type { EmbeddingFile, FileRow } from './embedding-files.ts'
import { isKeyChange } from './template-keys.ts'
import { againWhenDeadlocked, asTenant, findSqlState } from './transaction.ts'
import type { VectorArray } from './vector-array.ts'

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

/** Whose faces, under which keys, of which recognizer. */
export interface Gallery {
  tenantId: string
  keys: TemplateKeys
  model: string
  toVectorArray: VectorArray
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
  gallery: Gallery,
  faces: NewFace[],
  isReplacing = false,
): Promise<Outcome[]> {
  const protectedFaces = await protect(gallery, faces)
  const enrolled = await connection.query<{ external_id: string }>(
    `with enrolled as (
      insert into faces (
        tenant_id, id, external_id, embedding, key_version, sealed, model, metadata, quality_score, created_at,
        updated_at
      )
      select
        $1, n.id, n.external_id, n.embedding, $3, decode(n.sealed, 'base64'), $2, n.metadata::jsonb,
        n.quality_score::numeric, coalesce(n.enrolled_at::timestamptz, transaction_timestamp()),
        coalesce(n.enrolled_at::timestamptz, transaction_timestamp())
      from hold_template_key($3),
        unnest($4::uuid[], $5::text[], $6::vector[], $7::text[], $8::text[], $9::text[], $10::text[])
        as n (id, external_id, embedding, sealed, metadata, quality_score, enrolled_at)
      on conflict (tenant_id, external_id) do nothing
      returning tenant_id, external_id, created_at
    ), metered as (
      insert into usage_events (tenant_id, kind, occurred_at) select tenant_id, 'registration', created_at from enrolled
    )
    select external_id from enrolled`,
    [...toParameters(gallery, protectedFaces), faces.map(({ enrolledAt }) => enrolledAt?.toISOString() ?? null)],
  )
  const outcomes = new Map<string, Outcome>(enrolled.map(({ external_id }) => [external_id, 'enrolled']))
  const known = protectedFaces.filter(({ face }) => !outcomes.has(face.externalId))
  if (known.length > 0) {
    const compared = await compareFaces(
      connection,
      gallery,
      known.map(({ face }) => face),
    )
    const differing = known.filter(({ face }) => compared.get(face.externalId)?.isDifferent)
    if (isReplacing && differing.length > 0) {
      await replaceFaces(connection, gallery, differing)
      for (const { face } of differing) outcomes.set(face.externalId, 'replaced')
    }
    for (const { face } of known) {
      if (outcomes.has(face.externalId)) continue
      outcomes.set(face.externalId, compared.get(face.externalId)?.outcome ?? 'changed meanwhile')
    }
  }
  // every face is in the map: it was enrolled, or it was known
  return faces.map(({ externalId }) => outcomes.get(externalId) ?? 'changed meanwhile')
}

interface ProtectedFace {
  face: NewFace
  template: Template
}

function protect({ keys: [active], model }: Gallery, faces: NewFace[]): Promise<ProtectedFace[]> {
  return Promise.all(
    faces.map(async (face) => ({
      face,
      template: await toTemplate(active, { externalId: face.externalId, model }, face.embedding),
    })),
  )
}

/** What the gallery has under the same external_ids; embeddings are compared by what is in the sealed copies. */
async function compareFaces(
  connection: Connection,
  gallery: Gallery,
  faces: NewFace[],
): Promise<Map<string, { outcome: Outcome; isDifferent: boolean }>> {
  const rows = await connection.query<{
    id: string
    external_id: string
    key_version: number
    sealed: Uint8Array
    same_model: boolean
    same_rest: boolean
  }>(
    `select
      f.id, f.external_id, f.key_version, f.sealed, f.model = $2 as same_model,
      f.metadata = n.metadata::jsonb and f.quality_score is not distinct from n.quality_score::numeric(5, 4) as same_rest
    from unnest($3::text[], $4::text[], $5::text[]) as n (external_id, metadata, quality_score)
    join faces f on f.tenant_id = $1 and f.external_id = n.external_id`,
    [
      gallery.tenantId,
      gallery.model,
      faces.map(({ externalId }) => externalId),
      faces.map(({ metadata }) => JSON.stringify(metadata)),
      faces.map(({ qualityScore }) => (qualityScore === null ? null : String(qualityScore))),
    ],
  )
  const embeddings = new Map(faces.map(({ externalId, embedding }) => [externalId, embedding]))
  const compared = await Promise.all(
    rows.map(async (row) => {
      const externalId = row.external_id
      const keyring = gallery.keys.find(({ version }) => version === row.key_version)
      const face = { id: row.id, externalId, model: gallery.model }
      const enrolled = keyring && row.same_model ? await open(keyring, face, new Uint8Array(row.sealed)) : 'not opened'
      const isSame = enrolled !== 'not opened' && isEqual(enrolled, embeddings.get(externalId))
      const outcome: Outcome = !row.same_model ? 'other model' : isSame ? 'skipped' : 'other embedding'
      return [externalId, { outcome, isDifferent: outcome !== 'skipped' || !row.same_rest }] as const
    }),
  )
  return new Map(compared)
}

function isEqual(a: Embedding, b: Embedding | undefined): boolean {
  return b !== undefined && a.every((component, index) => component === b[index])
}

/** Replacing counts as a registration, as in the API. */
async function replaceFaces(connection: Connection, gallery: Gallery, faces: ProtectedFace[]): Promise<void> {
  await connection.query(
    `with before as (
      delete from faces where tenant_id = $1 and external_id = any ($5::text[]) returning external_id, created_at
    ), replaced as (
      insert into faces (
        tenant_id, id, external_id, embedding, key_version, sealed, model, metadata, quality_score, created_at
      )
      select
        $1, n.id, external_id, n.embedding, $3, decode(n.sealed, 'base64'), $2, n.metadata::jsonb,
        n.quality_score::numeric, before.created_at
      from hold_template_key($3), unnest($4::uuid[], $5::text[], $6::vector[], $7::text[], $8::text[], $9::text[])
        as n (id, external_id, embedding, sealed, metadata, quality_score)
      join before using (external_id)
      returning tenant_id
    )
    insert into usage_events (tenant_id, kind) select tenant_id, 'registration' from replaced`,
    toParameters(gallery, faces),
  )
}

/** $1 to $9 of the statements that write faces. */
function toParameters({ tenantId, model, keys: [active], toVectorArray }: Gallery, faces: ProtectedFace[]): unknown[] {
  return [
    tenantId,
    model,
    active.version,
    faces.map(({ template }) => template.id),
    faces.map(({ face }) => face.externalId),
    toVectorArray(faces.map(({ template }) => template.rotated)),
    faces.map(({ template }) => toBase64(template.sealed)),
    faces.map(({ face }) => JSON.stringify(face.metadata)),
    faces.map(({ face }) => (face.qualityScore === null ? null : String(face.qualityScore))),
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
  /** Null for a dry run, which needs no keys. */
  gallery: Gallery | null
  /** The keys as they are now: asked for when the tenant is re-keyed during the import. */
  findKeys(): Promise<TemplateKeys>
  isReplacing: boolean
  /** Rows of one transaction. */
  batchSize: number
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
    const outcomes =
      options.gallery === null
        ? candidates.map(() => 'enrolled' as const)
        : await enrollCandidates(connection, options.gallery, options, candidates)
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
  gallery: Gallery,
  options: ImportOptions,
  candidates: Candidate[],
): Promise<(Outcome | { refusal: string })[]> {
  try {
    return await againWhenDeadlocked(() =>
      asTenant(connection, gallery.tenantId, async () => {
        const outcomes = new Map<Candidate, Outcome>()
        for (const isRepeated of [false, true]) {
          const chosen = candidates.filter((candidate) => candidate.isRepeated === isRepeated)
          if (chosen.length === 0) continue
          const faces = chosen.map(({ face }) => face)
          const found = await enrollFaces(connection, gallery, faces, options.isReplacing && !isRepeated)
          for (const [index, candidate] of chosen.entries())
            outcomes.set(candidate, found[index] ?? 'changed meanwhile')
        }
        return candidates.map((candidate) => outcomes.get(candidate) ?? 'changed meanwhile')
      }),
    )
  } catch (error) {
    if (isKeyChange(error)) {
      gallery.keys = await options.findKeys()
      return enrollCandidates(connection, gallery, options, candidates)
    }
    const code = findSqlState(error)
    // class 22, data exceptions; class 23, constraints: a row is at fault and not the connection
    if (code === null || !/^2[23]/.test(code)) throw error
    if (candidates.length === 1) return [{ refusal: code }]
    const outcomes: (Outcome | { refusal: string })[] = []
    for (const candidate of candidates) {
      outcomes.push(...(await enrollCandidates(connection, gallery, options, [candidate])))
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
