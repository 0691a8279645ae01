// 1:N: search, record and meter in one statement; and the audit of what was found.
import type { Embedding } from '../face/embedding.ts'
import { toDistance } from '../face/similarity.ts'
import type { Statement } from './neon.ts'
import {
  type ClaimedMatch,
  distanceTo,
  keysAreLive,
  type ProtectedProbe,
  requireConfirmed,
  toProtectedProbe,
} from './templates.ts'
import type { TenantDatabase } from './tenant.ts'
import type { AuditPosition } from './verifications.ts'

export type Match = { external_id: string; face_id: string; confidence: number }

export type Search = {
  id: string
  faces_searched: number
  matches: Match[]
}

export type Identification = {
  id: string
  identified: boolean
  /** Null when nobody was named, and after the face was erased. */
  external_id: string | null
  face_id: string | null
  /** Of the nearest face, named or not; null in an empty gallery. */
  confidence: number | null
  threshold: number
  model: string
  faces_searched: number
  faces_matched: number
  latency_ms: number
  request_id: string
  created_at: Date
}

/**
 * Faces whose sign codes are compared exactly. The genuine person was among the nearest 100 codes in
 * 99.7 % of searches at a cosine of 0.35, and in 100 % from 0.40, in galleries of up to a million.
 */
export const SHORTLIST_SIZE = 200

/**
 * Finds whom a probe shows among all faces of the tenant: a shortlist by sign code, then the exact
 * cosine of those, nearest first, the threshold outside. Exact, not approximate: ARCHITECTURE.md,
 * "Search", says what was measured.
 *
 * @param maxResults matches at most, 1 to 20
 * @throws Problem TEMPLATE_INTEGRITY when the database names somebody, and their sealed copy does not agree
 */
export async function identifyFace(db: TenantDatabase, probe: Embedding, maxResults: number): Promise<Search> {
  const { model, identificationThreshold } = db.tenant.settings
  const maxDistance = toDistance(identificationThreshold)
  type Row = Omit<Search, 'matches'> & { matches: (Match & ClaimedMatch)[] }
  const { rows, protected: protectedProbe } = await db.runProtected<Row, ProtectedProbe>(
    (keys) => toProtectedProbe(keys, model.id, probe),
    (prepared) => db.sql`
    with candidates as materialized (
      select id, external_id, template_id, key_version, sealed, ${distanceTo(db, prepared)} as distance
      from faces
      where tenant_id = ${db.tenant.id}
        and model = ${model.id}
        -- in a sub-select it runs once; as a bare call the planner would run it too, for its estimate
        and id = any ((select ${shortlist(db, prepared)})::uuid[])
    ), nearest as (
      select id, external_id, template_id, key_version, sealed, distance, distance <= ${maxDistance}::float8 as is_match
      from candidates
    ), best as (
      select id, external_id, distance, is_match from nearest order by distance, id limit 1
    ), recorded as (
      insert into identifications (
        tenant_id, face_id, external_id, identified, confidence, threshold, model, faces_searched, faces_matched,
        latency_ms, request_id
      )
      select
        ${db.tenant.id}, case when is_match then id end, case when is_match then external_id end,
        coalesce(is_match, false),
        trunc(round((1 - distance / 2)::numeric, 12), 4),
        ${identificationThreshold}::float8, ${model.id},
        (select coalesce(sum(change), 0) from face_counts where tenant_id = ${db.tenant.id}),
        (select count(*) from nearest where is_match),
        extract(epoch from clock_timestamp() - transaction_timestamp()) * 1000,
        ${db.requestId}
      from (select ${keysAreLive(db, prepared)}) as one_search left join best on true
      returning tenant_id, id, faces_searched
    ), metered as (
      insert into usage_events (tenant_id, kind) select tenant_id, 'identification' from recorded
    ), matches as (
      select id, external_id, template_id, key_version, sealed, distance
      from nearest where is_match order by distance, id limit ${maxResults}
    )
    select
      id, faces_searched,
      coalesce(
        (
          select jsonb_agg(
            jsonb_build_object(
              'external_id', m.external_id, 'face_id', m.id,
              'confidence', trunc(round((1 - m.distance / 2)::numeric, 12), 4),
              'distance', m.distance, 'template_id', m.template_id, 'key_version', m.key_version,
              'sealed', encode(m.sealed, 'base64')
            ) order by m.distance, m.id
          )
          from matches m
        ),
        '[]'
      ) as matches
    from recorded`,
  )
  const [search] = rows
  if (!search) throw new RangeError('a search answered no row')
  await requireConfirmed(db, protectedProbe, maxDistance, search.matches, { identificationId: search.id })
  return {
    ...search,
    matches: search.matches.map(({ external_id, face_id, confidence }) => ({ external_id, face_id, confidence })),
  }
}

/**
 * SQL: the ids to compare exactly. Faces under one key are to a probe under another like strangers, so each rotation of
 * the probe finds its own among all.
 */
function shortlist({ sql, tenant }: TenantDatabase, { rotations }: ProtectedProbe): Statement {
  return rotations
    .map(({ code }) => sql`shortlist_faces(${tenant.id}, ${code}::bit(512), ${SHORTLIST_SIZE})`)
    .reduce((before, each) => sql`${before} || ${each}`)
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
      latency_ms, request_id, created_at
    from identifications
    where tenant_id = ${db.tenant.id} ${aboutSubject} ${behind}
    order by created_at desc, id desc
    limit ${limit}`,
    { readOnly: true },
  )
}
