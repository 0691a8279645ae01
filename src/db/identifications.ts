// 1:N: search, record and meter in one statement, which is search_faces() of migrations/; and the audit of what was found.
import { toDistance } from '../face/similarity.ts'
import {
  type ClaimedMatch,
  isAcceptable,
  keyVersions,
  type Probe,
  type ProtectedProbe,
  probeCodes,
  probeVectors,
  requireConfirmed,
  SHORTLIST_SIZE,
  toProtectedProbe,
  toRememberedDistance,
} from './templates.ts'
import type { TenantDatabase } from './tenant.ts'
import type { AuditPosition } from './verifications.ts'

export type Match = { external_id: string; face_id: string; confidence: number }

export type Search = {
  id: string
  faces_searched: number
  /** Whether the probe was one that a decision for somebody may be made of. */
  is_acceptable: boolean
  matches: Match[]
}

export type Identification = {
  id: string
  identified: boolean
  /** Null when nobody was named, and after the face was erased. */
  external_id: string | null
  /** Null too after the face was replaced. */
  face_id: string | null
  /** Of the nearest face, named or not; null in an empty gallery. */
  confidence: number | null
  threshold: number
  model: string
  faces_searched: number
  faces_matched: number
  liveness_passed: boolean | null
  probe_quality: number | null
  latency_ms: number
  request_id: string
  created_at: Date
}

/**
 * Finds whom a probe shows among all faces of the tenant: a shortlist by sign code, then the exact
 * cosine of those, nearest first, the threshold outside. Exact, not approximate: ARCHITECTURE.md,
 * "Search", says what was measured.
 *
 * A probe that does not show a live person names nobody where the tenant requires that.
 *
 * @param maxResults matches at most, 1 to 20
 * @throws Problem TEMPLATE_INTEGRITY when the database names somebody, and their sealed copy does not agree
 */
export async function identifyFace(db: TenantDatabase, probe: Probe, maxResults: number): Promise<Search> {
  const { model, identificationThreshold } = db.tenant.settings
  const maxDistance = toDistance(identificationThreshold)
  type Row = Omit<Search, 'matches'> & { threshold: number } & Match & ClaimedMatch
  const {
    rows,
    protected: protectedProbe,
    wasDone,
  } = await db.actProtected<Row, ProtectedProbe>(
    (keys) => toProtectedProbe(keys, model.id, probe.embedding),
    (prepared) => ({
      call: ({ key, fingerprint, rememberedFor }) => db.sql`
        select
          id, faces_searched, threshold, is_acceptable, face_id, external_id, confidence, distance, key_version, sealed
        from search_faces(
          ${db.tenant.id}, ${keyVersions(prepared)}::integer[], ${probeVectors(prepared)}::vector[],
          ${probeCodes(prepared)}::bit(512)[], ${SHORTLIST_SIZE}::integer, ${model.id},
          ${maxDistance}::float8, ${identificationThreshold}::float8, ${isAcceptable(db, probe)}::boolean,
          ${probe.isLive}::boolean, ${probe.quality}::numeric, ${maxResults}::integer,
          ${db.requestId}, ${key}, ${fingerprint}, ${rememberedFor}
        )`,
    }),
  )
  const [search] = rows
  if (!search) throw new RangeError('a search answered no row')
  const { id, faces_searched, threshold, is_acceptable } = search
  const matches = rows.filter((row) => row.face_id !== null)
  const farthest = wasDone ? toRememberedDistance(threshold, model) : maxDistance
  await requireConfirmed(db, protectedProbe, farthest, matches, { identificationId: id, wasDone })
  return {
    id,
    faces_searched,
    is_acceptable,
    matches: matches.map(({ external_id, face_id, confidence }) => ({ external_id, face_id, confidence })),
  }
}

/** As `listVerifications`, for searches. */
export async function listIdentifications(
  db: TenantDatabase,
  externalId: string | null,
  after: AuditPosition | null,
  limit: number,
): Promise<Identification[]> {
  const { sql } = db
  const aboutSubject = externalId === null ? sql`` : sql`and external_id = ${externalId}`
  const behind = after ? sql`and (created_at, id) < (${after.createdAt}::timestamptz, ${after.id}::uuid)` : sql``
  return db.run<Identification>(
    sql`
    select
      id, identified, external_id, face_id, confidence::float8, threshold, model, faces_searched, faces_matched,
      liveness_passed, probe_quality::float8, latency_ms, request_id, created_at
    from identifications
    where tenant_id = ${db.tenant.id} ${aboutSubject} ${behind}
    order by created_at desc, id desc
    limit ${limit}`,
    { readOnly: true },
  )
}
