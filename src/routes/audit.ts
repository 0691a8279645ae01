// /v1/verifications and /v1/identifications: what was decided, newest first.
import { createRoute, OpenAPIHono, z } from '@hono/zod-openapi'
import { requires } from '../auth/authenticate.ts'
import { type Identification, listIdentifications } from '../db/identifications.ts'
import { type AuditPosition, findVerification, listVerifications, type Verification } from '../db/verifications.ts'
import type { AppContext } from '../env.ts'
import { Problem } from '../problem.ts'
import {
  COMMON_PROBLEMS,
  Confidence,
  ExternalId,
  json,
  problems,
  QualityScore,
  Threshold,
  Timestamp,
  Uuid,
} from './fields.ts'
import { Page, pageOf, readPage } from './page.ts'

const Subject = z.string().nullable().openapi({ description: 'Null after the face was erased.' })

const SubjectFace = Uuid.nullable().openapi({ description: 'Null after the face was erased or replaced.' })

const ProbeQuality = QualityScore.nullable().openapi({ description: 'Of the picture; null for an embedding.' })

const AuditedVerification = z
  .object({
    verification_id: Uuid,
    external_id: Subject,
    face_id: SubjectFace,
    verified: z.boolean(),
    confidence: Confidence.optional(),
    threshold: Threshold,
    model: z.string(),
    liveness_passed: z.boolean().nullable(),
    probe_quality: ProbeQuality,
    latency_ms: z.int(),
    request_id: z.string(),
    created_at: Timestamp,
  })
  .openapi('Verification')

const AuditedIdentification = z
  .object({
    search_id: Uuid,
    identified: z.boolean(),
    external_id: Subject,
    face_id: SubjectFace,
    confidence: Confidence.nullable().optional(),
    threshold: Threshold,
    model: z.string(),
    faces_searched: z.int(),
    faces_matched: z.int(),
    liveness_passed: z.boolean().nullable(),
    probe_quality: ProbeQuality,
    latency_ms: z.int(),
    request_id: z.string(),
    created_at: Timestamp,
  })
  .openapi('Identification')

const AuditQuery = z.strictObject({ ...Page, external_id: ExternalId.optional() })
const tags = ['Audit']

export const verifications = new OpenAPIHono<AppContext>()
  .openapi(
    createRoute({
      operationId: 'listVerifications',
      summary: 'List 1:1 decisions, newest first',
      tags,
      method: 'get',
      path: '/',
      middleware: [requires('audit:read')] as const,
      request: { query: AuditQuery },
      responses: { 200: json(pageOf(AuditedVerification), 'A page'), ...problems(...COMMON_PROBLEMS) },
    }),
    async (c) => {
      const { external_id = null, ...query } = c.req.valid('query')
      const { rows, ...page } = await readPage(
        c,
        query,
        ['verifications', external_id],
        (after, limit) => listVerifications(c.var.db, external_id, toAuditPosition(after), limit),
        ({ created_at, id }) => [created_at.toISOString(), id],
      )
      const showsScores = c.var.db.scopes.has('scores:read')
      return c.json({ data: rows.map((row) => toAuditedVerification(row, showsScores)), ...page }, 200)
    },
  )
  .openapi(
    createRoute({
      operationId: 'findVerification',
      summary: 'Read one 1:1 decision',
      tags,
      method: 'get',
      path: '/{verification_id}',
      middleware: [requires('audit:read')] as const,
      request: { params: z.object({ verification_id: Uuid }) },
      responses: {
        200: json(AuditedVerification, 'Recorded'),
        ...problems(...COMMON_PROBLEMS, 'VERIFICATION_NOT_FOUND'),
      },
    }),
    async (c) => {
      const verification = await findVerification(c.var.db, c.req.valid('param').verification_id)
      if (!verification) throw new Problem('VERIFICATION_NOT_FOUND', 'Check the verification_id.')
      return c.json(toAuditedVerification(verification, c.var.db.scopes.has('scores:read')), 200)
    },
  )

export const identifications = new OpenAPIHono<AppContext>().openapi(
  createRoute({
    operationId: 'listIdentifications',
    summary: 'List 1:N searches, newest first',
    tags,
    method: 'get',
    path: '/',
    middleware: [requires('audit:read')] as const,
    request: { query: AuditQuery },
    responses: { 200: json(pageOf(AuditedIdentification), 'A page'), ...problems(...COMMON_PROBLEMS) },
  }),
  async (c) => {
    const { external_id = null, ...query } = c.req.valid('query')
    const { rows, ...page } = await readPage(
      c,
      query,
      ['identifications', external_id],
      (after, limit) => listIdentifications(c.var.db, external_id, toAuditPosition(after), limit),
      ({ created_at, id }) => [created_at.toISOString(), id],
    )
    const showsScores = c.var.db.scopes.has('scores:read')
    return c.json({ data: rows.map((row) => toAuditedIdentification(row, showsScores)), ...page }, 200)
  },
)

function toAuditPosition(position: string[] | null): AuditPosition | null {
  const [createdAt, id] = position ?? []
  return createdAt && id ? { createdAt, id } : null
}

function toAuditedVerification(
  { id, confidence, created_at, ...row }: Verification,
  showsScores: boolean,
): z.infer<typeof AuditedVerification> {
  return { verification_id: id, ...row, ...(showsScores && { confidence }), created_at: created_at.toISOString() }
}

function toAuditedIdentification(
  { id, confidence, created_at, ...row }: Identification,
  showsScores: boolean,
): z.infer<typeof AuditedIdentification> {
  return { search_id: id, ...row, ...(showsScores && { confidence }), created_at: created_at.toISOString() }
}
