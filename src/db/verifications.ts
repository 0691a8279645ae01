// 1:1: decide, record and meter in one statement; and the audit of what was decided.
import type { Embedding } from '../face/embedding.ts'
import { toDistance } from '../face/similarity.ts'
import { toVector } from './faces.ts'
import type { TenantDatabase } from './tenant.ts'

export type Verification = {
  id: string
  /** Null after the face was erased. */
  external_id: string | null
  face_id: string | null
  verified: boolean
  confidence: number
  threshold: number
  model: string
  liveness_passed: boolean | null
  latency_ms: number
  request_id: string
  created_at: Date
}

/**
 * Compares a probe with the face enrolled under an external_id.
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
 */
export async function verifyFace(
  db: TenantDatabase,
  externalId: string,
  probe: Embedding,
): Promise<Verification | 'other model' | { retryAfterSeconds: number } | null> {
  const { model, verificationThreshold, failedVerificationsPerHour, failedVerificationsPerDay } = db.tenant.settings
  type Row = Omit<Verification, 'id'> & { id: string | null; wait_seconds: number | null }
  const [row] = await db.run<Row>(db.sql`
    with enrolled as (
      select tenant_id, id, external_id, model, embedding <=> ${toVector(probe)}::vector as distance
      from faces
      where tenant_id = ${db.tenant.id} and external_id = ${externalId}
    ), waiting as materialized (
      select seconds_until_attempt(
        tenant_id, external_id, ${failedVerificationsPerHour}::integer, ${failedVerificationsPerDay}::integer
      ) as seconds
      from enrolled
      where model = ${model.id}
    ), recorded as (
      insert into verifications (
        tenant_id, face_id, external_id, verified, confidence, threshold, model, latency_ms, request_id
      )
      select
        tenant_id, id, external_id,
        distance <= ${toDistance(verificationThreshold)}::float8,
        trunc(round((1 - distance / 2)::numeric, 12), 4),
        ${verificationThreshold}::float8, model,
        extract(epoch from clock_timestamp() - transaction_timestamp()) * 1000,
        ${db.requestId}
      from enrolled, waiting
      where waiting.seconds = 0
      returning *
    ), metered as (
      insert into usage_events (tenant_id, kind) select tenant_id, 'verification' from recorded
    )
    select
      r.id, r.external_id, r.face_id, r.verified, r.confidence::float8, r.threshold, r.model, r.liveness_passed,
      r.latency_ms, r.request_id, r.created_at, w.seconds as wait_seconds
    from enrolled left join waiting w on true left join recorded r on true`)
  if (!row) return null
  const { wait_seconds, ...verification } = row
  if (wait_seconds === null) return 'other model'
  if (verification.id === null) return { retryAfterSeconds: wait_seconds }
  return { ...verification, id: verification.id }
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
      id, external_id, face_id, verified, confidence::float8, threshold, model, liveness_passed, latency_ms, request_id,
      created_at
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
      id, external_id, face_id, verified, confidence::float8, threshold, model, liveness_passed, latency_ms, request_id,
      created_at
    from verifications
    where tenant_id = ${db.tenant.id} and id = ${id}`,
    { readOnly: true },
  )
  return verification ?? null
}
