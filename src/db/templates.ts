// How a probe is compared with what is stored: under the rotation of each key. What comes back as a match is not believed
// before the sealed copy agrees.
import { toSql } from 'pgvector'
import type { Embedding } from '../face/embedding.ts'
import { type Confirmation, confirm } from '../face/protection/confirmation.ts'
import { type Keyring, rotationOf } from '../face/protection/keyring.ts'
import { fromBase64 } from '../face/protection/octets.ts'
import { type RotatedEmbedding, rotate, signCode } from '../face/protection/rotation.ts'
import { type Model, toDistance } from '../face/similarity.ts'
import { Problem } from '../problem.ts'
import { answerGone } from './acts.ts'
import type { Statement } from './neon.ts'
import type { TemplateKeys } from './template-keys.ts'
import type { TenantDatabase } from './tenant.ts'

/** What a request brings to be compared. */
export interface Probe {
  embedding: Embedding
  /** Of the picture, 0 to 1; null when it came as an embedding. */
  quality: number | null
  /** Whether the picture shows a live person; null when nobody has judged. */
  isLive: boolean | null
}

/** Whether a decision for the person may be made at all of this probe. */
export function isAcceptable({ tenant }: TenantDatabase, { isLive }: Probe): boolean {
  return !tenant.settings.requiresLiveness || isLive === true
}

/** The text in which a vector travels to PostgreSQL, to be stored. Only what was rotated has the type. */
export function toVector(embedding: RotatedEmbedding): string {
  // toSql answers null for null only
  return toSql(Array.from(embedding)) as string
}

/** 2^27: components of a face are about 0.04, so what is cut off is as small as what a float32 itself cuts off. */
const PROBE_SCALE = 134_217_728

/**
 * The text in which a probe travels, to be compared by cosine, which does not ask for the length of a vector: whole numbers
 * are half the text, and a fifth of the time to write it.
 */
export function toProbeVector(embedding: RotatedEmbedding): string {
  const numbers: number[] = []
  for (const component of embedding) numbers.push(Math.round(component * PROBE_SCALE))
  // a text that grows by a thousand pieces would have to be put together once more when it is sent
  return JSON.stringify(numbers)
}

/** A probe under each live key of the tenant: faces are compared with the one of their own key. */
export interface ProtectedProbe {
  embedding: Embedding
  model: string
  rotations: { keyring: Keyring; vector: string; code: string }[]
}

export async function toProtectedProbe(keys: TemplateKeys, model: string, probe: Embedding): Promise<ProtectedProbe> {
  const rotations = keys.map((keyring) => {
    const rotated = rotate(rotationOf(keyring, model), probe)
    return { keyring, vector: toProbeVector(rotated), code: signCode(rotated) }
  })
  return { embedding: probe, model, rotations }
}

/**
 * SQL: the cosine distance of a row of faces and the probe; null for one under a key that is not live.
 *
 * Rounded to five decimals. A rotation keeps a cosine to within 3e-8, and pgvector adds 512 products in float32, which
 * errs by up to 6e-7 (measured: 2,000 pairs under 40 rotations, PGlite; 1.5e-7 on PostgreSQL 17). Unrounded, two
 * embeddings at exactly the threshold are a match under one tenant's rotation and none under another's; at six decimals
 * still 8 of those pairs. As float8, as `roundDistance` does it: by way of numeric it takes as long as the distance itself.
 * verify_face() and search_faces() of migrations/ have it too, and the confidence.
 */
export function distanceTo({ sql }: TenantDatabase, probe: ProtectedProbe): Statement {
  const rotated = sql`(${probeVectors(probe)}::vector[])[array_position(${keyVersions(probe)}::integer[], key_version)]`
  return sql`round((embedding <=> ${rotated}) * 1e5::float8) / 1e5::float8`
}

/** SQL: the confidence of a column `distance`, cut as `toConfidence` cuts it; twelve decimals are without what float8 leaves. */
export function confidence({ sql }: TenantDatabase): Statement {
  return sql`trunc(round((1 - distance / 2)::numeric, 12), 4)`
}

/**
 * How many faces are compared exactly, at least: a gallery of more than 100,000 has one in 500 compared. Among those
 * are 99.5 % of the people at a cosine of 0.38 from the probe, 99.9 % at 0.40 and all from 0.42 (docs/performance.md).
 */
export const SHORTLIST_SIZE = 200

/**
 * SQL: the ids to compare exactly. Faces under one key are to a probe under another like strangers, so each rotation of
 * the probe finds its own among all.
 */
export function shortlist({ sql, tenant }: TenantDatabase, probe: ProtectedProbe): Statement {
  return sql`array(
    select listed.face
    from unnest(${probeCodes(probe)}::bit(512)[]) as probe (code),
      unnest(shortlist_faces(${tenant.id}, probe.code, ${SHORTLIST_SIZE})) as listed (face)
  )`
}

/** The keys that a probe was rotated with; in the order of `probeVectors` and `probeCodes`. */
export function keyVersions({ rotations }: ProtectedProbe): number[] {
  return rotations.map(({ keyring }) => keyring.version)
}

/** The text in which a probe travels, by each of `keyVersions`. */
export function probeVectors({ rotations }: ProtectedProbe): string[] {
  return rotations.map(({ vector }) => vector)
}

/** Its sign code, by each of `keyVersions`. */
export function probeCodes({ rotations }: ProtectedProbe): string[] {
  return rotations.map(({ code }) => code)
}

/** A face that the database says matches the probe. */
export type ClaimedMatch = {
  face_id: string
  external_id: string
  key_version: number
  /** Base64. */
  sealed: string
  distance: number
}

/** Which decision of the database is in question; neither, where it made none. */
export interface Decision {
  verificationId?: string
  identificationId?: string
  /** Whether it was made by an earlier request. */
  wasDone?: boolean
}

/**
 * The largest distance that is a match of a remembered decision: by the threshold of then, but never by one that no tenant of
 * the model could have. Whoever writes to the database writes that, too.
 */
export function toRememberedDistance(threshold: unknown, { floor }: Model): number {
  return toDistance(typeof threshold === 'number' && threshold > floor ? threshold : floor)
}

/**
 * Opens the sealed copies of matches, and compares again what is in them with the probe as it came.
 *
 * @param maxDistance the largest distance that is a match
 * @throws Problem TEMPLATE_INTEGRITY for the first that does not agree, which is noted before; ANSWER_GONE where the decision
 *   was remembered and it may be the probe that differs
 */
export async function requireConfirmed(
  db: TenantDatabase,
  probe: ProtectedProbe,
  maxDistance: number,
  matches: readonly ClaimedMatch[],
  decision: Decision,
): Promise<void> {
  for (const match of matches) {
    const confirmation = await confirmMatch(probe, maxDistance, match)
    // the probe may be another one than then: a recognizer need not answer the same of the same picture
    if (decision.wasDone && (confirmation === 'differs' || confirmation === 'below threshold')) throw answerGone()
    if (confirmation !== 'confirmed') throw await tampered(db, confirmation, match.face_id, decision)
  }
}

async function confirmMatch(probe: ProtectedProbe, maxDistance: number, match: ClaimedMatch): Promise<Confirmation> {
  const rotation = probe.rotations.find(({ keyring }) => keyring.version === match.key_version)
  if (!rotation) return 'not opened'
  try {
    return await confirm(
      rotation.keyring,
      {
        face: { id: match.face_id, externalId: match.external_id, model: probe.model },
        sealed: fromBase64(match.sealed),
        distance: match.distance,
      },
      probe.embedding,
      maxDistance,
    )
  } catch {
    // what is no id, no external_id or no base64 at all, nobody has enrolled
    return 'not opened'
  }
}

/** Notes, in a transaction of its own, that a face is not what was enrolled; answers what the client is told. */
export async function tampered(
  db: TenantDatabase,
  reason: Exclude<Confirmation, 'confirmed'>,
  faceId: string,
  { verificationId, identificationId }: Decision,
): Promise<Problem> {
  db.noteTampering(reason)
  await db.run(db.sql`
    insert into integrity_events (tenant_id, verification_id, identification_id, face_id, reason, request_id)
    values (
      ${db.tenant.id}, ${verificationId ?? null}::uuid, ${identificationId ?? null}::uuid,
      -- it may have been erased meanwhile
      (select id from faces where tenant_id = ${db.tenant.id} and id = ${faceId}::uuid),
      ${reason}, ${db.requestId}
    )`)
  return new Problem(
    'TEMPLATE_INTEGRITY',
    'Check the person in another way, and enroll them again: PUT /v1/faces/{external_id}.',
  )
}
