// 1:1: decide, record and meter in one statement, which is verify_face() of migrations/; and the audit of what was decided.
import { toDistance } from '../face/similarity.ts'
import {
  type ClaimedMatch,
  isAcceptable,
  keyVersions,
  type Probe,
  type ProtectedProbe,
  probeVectors,
  requireConfirmed,
  tampered,
  toProtectedProbe,
  toRememberedDistance,
} from './templates.ts'
import type { TenantDatabase } from './tenant.ts'

export type Verification = {
  id: string
  /** Null after the face was erased. */
  external_id: string | null
  /** Null too after the face was replaced. */
  face_id: string | null
  verified: boolean
  confidence: number
  threshold: number
  model: string
  liveness_passed: boolean | null
  probe_quality: number | null
  latency_ms: number
  request_id: string
  created_at: Date
}

/** What the client is told of a verification. */
export type VerificationOutcome = Pick<
  Verification,
  'id' | 'verified' | 'confidence' | 'threshold' | 'liveness_passed'
> & {
  /** Whether the probe was one that a decision for somebody may be made of. */
  is_acceptable: boolean
}

/**
 * Compares a probe with the face enrolled under an external_id.
 *
 * A probe that does not show a live person is nobody's match where the tenant requires that; the decision says so.
 *
 * The unrounded distance decides. The confidence that is kept is cut, not rounded, to four decimals:
 * 0.67996 must not read as 0.6800 beside a threshold of 0.68 that it did not reach.
 *
 * The budget of failed attempts is asked for before anything is decided, by a function that lets one
 * verification of a person through at a time: of many guesses at once, none sees a budget that another
 * has used up.
 *
 * @returns null when nobody is enrolled; 'other model' when the enrolled face cannot be compared with probes
 *   of the tenant's model; how long to wait when too many attempts have failed. Nothing is recorded then.
 * @throws Problem TEMPLATE_INTEGRITY when the database says that they match, and the sealed copy does not
 */
export async function verifyFace(
  db: TenantDatabase,
  externalId: string,
  probe: Probe,
): Promise<VerificationOutcome | 'other model' | { retryAfterSeconds: number } | null> {
  const { model, verificationThreshold, failedVerificationsPerHour, failedVerificationsPerDay } = db.tenant.settings
  const maxDistance = toDistance(verificationThreshold)
  type Row = Omit<VerificationOutcome, 'id'> &
    Omit<ClaimedMatch, 'distance' | 'external_id'> & {
      id: string | null
      model: string
      wait_seconds: number | null
      distance: number | null
    }
  const {
    rows,
    protected: protectedProbe,
    wasDone,
  } = await db.actProtected<Row, ProtectedProbe>(
    (keys) => toProtectedProbe(keys, model.id, probe.embedding),
    (prepared) => ({
      call: ({ key, fingerprint, rememberedFor }) => db.sql`
        select
          id, verified, confidence, threshold, liveness_passed, wait_seconds, face_id, is_acceptable, model, distance,
          key_version, sealed
        from verify_face(
          ${db.tenant.id}, ${externalId}, ${keyVersions(prepared)}::integer[], ${probeVectors(prepared)}::vector[], ${model.id},
          ${maxDistance}::float8, ${verificationThreshold}::float8, ${isAcceptable(db, probe)}::boolean, ${probe.isLive}::boolean,
          ${probe.quality}::numeric, ${failedVerificationsPerHour}::integer, ${failedVerificationsPerDay}::integer,
          ${db.requestId}, ${key}, ${fingerprint}, ${rememberedFor}
        )`,
    }),
  )
  const [row] = rows
  if (!row) return null
  const { id, wait_seconds, face_id, model: enrolledModel, distance, key_version, sealed, ...decision } = row
  if (enrolledModel !== model.id) return 'other model'
  // under a key that the tenant does not have: nobody who enrolls writes that
  if (distance === null) throw await tampered(db, 'not opened', face_id, {})
  if (id === null) return { retryAfterSeconds: wait_seconds ?? 0 }
  if (decision.verified) {
    const match = { face_id, external_id: externalId, key_version, sealed, distance }
    const farthest = wasDone ? toRememberedDistance(decision.threshold, model) : maxDistance
    await requireConfirmed(db, protectedProbe, farthest, [match], { verificationId: id, wasDone })
  }
  return { ...decision, id }
}

/** Where a page of the audit ends: the newest come first. */
export interface AuditPosition {
  createdAt: string
  id: string
}

/**
 * @param externalId only decisions about this person; null for all
 * @param after the end of the page before; null for the first page
 * @param limit rows at most; ask for one more than a page to learn whether there is another
 */
export async function listVerifications(
  db: TenantDatabase,
  externalId: string | null,
  after: AuditPosition | null,
  limit: number,
): Promise<Verification[]> {
  const { sql } = db
  const aboutSubject = externalId === null ? sql`` : sql`and external_id = ${externalId}`
  const behind = after ? sql`and (created_at, id) < (${after.createdAt}::timestamptz, ${after.id}::uuid)` : sql``
  return db.run<Verification>(
    sql`
    select
      id, external_id, face_id, verified, confidence::float8, threshold, model, liveness_passed, probe_quality::float8,
      latency_ms, request_id, created_at
    from verifications
    where tenant_id = ${db.tenant.id} ${aboutSubject} ${behind}
    order by created_at desc, id desc
    limit ${limit}`,
    { readOnly: true },
  )
}

/** @returns null when the tenant has no such verification */
export async function findVerification(db: TenantDatabase, id: string): Promise<Verification | null> {
  const [verification] = await db.run<Verification>(
    db.sql`
    select
      id, external_id, face_id, verified, confidence::float8, threshold, model, liveness_passed, probe_quality::float8,
      latency_ms, request_id, created_at
    from verifications
    where tenant_id = ${db.tenant.id} and id = ${id}`,
    { readOnly: true },
  )
  return verification ?? null
}
