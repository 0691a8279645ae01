// /v1/faces: the gallery of a tenant, and the two questions asked of it.
import { createRoute, OpenAPIHono, z } from '@hono/zod-openapi'
import type { Scope } from '../auth/api-key.ts'
import { requires } from '../auth/authenticate.ts'
import { enrollFace, eraseFace, type Face, findFace, listFaces, replaceFace, updateMetadata } from '../db/faces.ts'
import { identifyFace, type Match } from '../db/identifications.ts'
import type { TenantDatabase } from '../db/tenant.ts'
import { type Verification, verifyFace } from '../db/verifications.ts'
import type { AppContext } from '../env.ts'
import { jsonBody } from '../json-body.ts'
import { Problem } from '../problem.ts'
import { MAX_RESULTS } from '../settings.ts'
import {
  BODY_PROBLEMS,
  body,
  COMMON_PROBLEMS,
  Confidence,
  EmbeddingField,
  ExternalId,
  json,
  MetadataField,
  ModelField,
  problems,
  QualityScore,
  Threshold,
  Timestamp,
  Uuid,
} from './fields.ts'
import { Page, pageOf, readPage } from './page.ts'

const Enrollment = z
  .strictObject({
    external_id: ExternalId,
    embedding: EmbeddingField,
    model: ModelField.optional(),
    metadata: MetadataField.optional(),
    quality_score: QualityScore.optional(),
  })
  .openapi('Enrollment')

const Replacement = Enrollment.omit({ external_id: true }).openapi('Replacement')

const MetadataChange = z.strictObject({ metadata: MetadataField }).openapi('MetadataChange')

const Claim = z
  .strictObject({ external_id: ExternalId, embedding: EmbeddingField, model: ModelField.optional() })
  .openapi('Claim')

const Probe = z
  .strictObject({
    embedding: EmbeddingField,
    model: ModelField.optional(),
    max_results: z.int().min(1).max(MAX_RESULTS).optional(),
  })
  .openapi('Probe')

const EnrolledFace = z
  .object({
    face_id: Uuid,
    external_id: z.string(),
    quality_score: QualityScore.nullable(),
    created_at: Timestamp,
  })
  .openapi('EnrolledFace')

const FaceDetails = EnrolledFace.extend({
  metadata: z.record(z.string(), z.unknown()),
  updated_at: Timestamp,
}).openapi('Face')

const Decision = z
  .object({
    verification_id: Uuid,
    verified: z.boolean(),
    confidence: Confidence.optional(),
    threshold: Threshold,
    liveness_passed: z.boolean().nullable(),
    latency_ms: z.int(),
  })
  .openapi('Decision')

const SearchResult = z
  .object({
    search_id: Uuid,
    matches: z.array(z.object({ external_id: z.string(), face_id: Uuid, confidence: Confidence.optional() })),
    faces_searched: z.int(),
    latency_ms: z.int(),
  })
  .openapi('SearchResult')

const ByExternalId = { params: z.object({ external_id: ExternalId }) }
const tags = ['Faces']

export const faces = new OpenAPIHono<AppContext>()
  .openapi(
    createRoute({
      operationId: 'enrollFace',
      summary: 'Enroll a face',
      tags,
      method: 'post',
      path: '/',
      middleware: [requires('faces:write'), jsonBody] as const,
      request: body(Enrollment),
      responses: {
        201: json(EnrolledFace, 'Enrolled'),
        ...problems(...COMMON_PROBLEMS, ...BODY_PROBLEMS, 'MODEL_MISMATCH', 'FACE_ALREADY_EXISTS'),
      },
    }),
    async (c) => {
      const enrollment = c.req.valid('json')
      requireModel(c.var.db, enrollment.model)

      const face = await enrollFace(c.var.db, { externalId: enrollment.external_id, ...toNewFace(enrollment) })
      if (!face) {
        throw new Problem('FACE_ALREADY_EXISTS', 'Replace it with PUT /v1/faces/{external_id}, or erase it first.')
      }
      return c.json(toEnrolledFace(face), 201)
    },
  )
  .openapi(
    createRoute({
      operationId: 'listFaces',
      summary: 'List the enrolled faces, by external_id',
      tags,
      method: 'get',
      path: '/',
      middleware: [requires('faces:read')] as const,
      request: { query: z.strictObject(Page) },
      responses: { 200: json(pageOf(FaceDetails), 'A page'), ...problems(...COMMON_PROBLEMS) },
    }),
    async (c) => {
      const { rows, ...page } = await readPage(
        c,
        c.req.valid('query'),
        ['faces'],
        (after, limit) => listFaces(c.var.db, after?.[0] ?? null, limit),
        (face) => [face.external_id],
      )
      return c.json({ data: rows.map(toFaceDetails), ...page }, 200)
    },
  )
  .openapi(
    createRoute({
      operationId: 'verifyFace',
      summary: 'Verify (1:1) that a probe shows the person enrolled under an external_id',
      tags,
      method: 'post',
      path: '/verify',
      middleware: [requires('verify'), jsonBody] as const,
      request: body(Claim),
      responses: {
        200: json(Decision, 'Decided, for or against'),
        ...problems(
          ...COMMON_PROBLEMS,
          ...BODY_PROBLEMS,
          'FACE_NOT_FOUND',
          'MODEL_MISMATCH',
          'TOO_MANY_ATTEMPTS',
          'TEMPLATE_INTEGRITY',
        ),
      },
    }),
    async (c) => {
      const { external_id, embedding, model } = c.req.valid('json')
      requireModel(c.var.db, model)

      const verification = await verifyFace(c.var.db, external_id, embedding)
      if (!verification) throw faceNotFound()
      if (verification === 'other model') {
        throw new Problem(
          'MODEL_MISMATCH',
          'Enroll the person again with the present model: PUT /v1/faces/{external_id}.',
        )
      }
      if ('retryAfterSeconds' in verification) {
        throw new Problem(
          'TOO_MANY_ATTEMPTS',
          'Check the person in another way, or wait as long as Retry-After says.',
          {
            headers: { 'Retry-After': String(verification.retryAfterSeconds) },
          },
        )
      }
      return c.json(toDecision(verification, c.var.db.scopes, Date.now() - c.var.trace.startedAt), 200)
    },
  )
  .openapi(
    createRoute({
      operationId: 'searchFaces',
      summary: 'Identify (1:N) the person a probe shows, among all enrolled faces',
      tags,
      method: 'post',
      path: '/search',
      middleware: [requires('identify'), jsonBody] as const,
      request: body(Probe),
      responses: {
        200: json(SearchResult, 'Matches at or above the threshold only, best first; none when nobody is near enough'),
        ...problems(...COMMON_PROBLEMS, ...BODY_PROBLEMS, 'MODEL_MISMATCH', 'TEMPLATE_INTEGRITY'),
      },
    }),
    async (c) => {
      const { embedding, model, max_results } = c.req.valid('json')
      requireModel(c.var.db, model)
      const maxResults = max_results ?? c.var.db.tenant.settings.maxResults

      const search = await identifyFace(c.var.db, embedding, maxResults)
      return c.json(
        {
          search_id: search.id,
          matches: search.matches.map((match) => toMatch(match, c.var.db.scopes)),
          faces_searched: search.faces_searched,
          latency_ms: Date.now() - c.var.trace.startedAt,
        },
        200,
      )
    },
  )
  .openapi(
    createRoute({
      operationId: 'findFace',
      summary: 'Read an enrolled face; never its embedding',
      tags,
      method: 'get',
      path: '/{external_id}',
      middleware: [requires('faces:read')] as const,
      request: ByExternalId,
      responses: { 200: json(FaceDetails, 'Enrolled'), ...problems(...COMMON_PROBLEMS, 'FACE_NOT_FOUND') },
    }),
    async (c) => {
      const face = await findFace(c.var.db, c.req.valid('param').external_id)
      if (!face) throw faceNotFound()
      return c.json(toFaceDetails(face), 200)
    },
  )
  .openapi(
    createRoute({
      operationId: 'replaceFace',
      summary: 'Enroll a face, or replace the one enrolled under this external_id',
      tags,
      method: 'put',
      path: '/{external_id}',
      middleware: [requires('faces:write'), jsonBody] as const,
      request: { ...ByExternalId, ...body(Replacement) },
      responses: {
        200: json(EnrolledFace, 'Replaced: the face_id stays'),
        201: json(EnrolledFace, 'Enrolled'),
        ...problems(...COMMON_PROBLEMS, ...BODY_PROBLEMS, 'MODEL_MISMATCH'),
      },
    }),
    async (c) => {
      const externalId = c.req.valid('param').external_id
      const replacement = c.req.valid('json')
      requireModel(c.var.db, replacement.model)

      const { is_new, ...face } = await replaceFace(c.var.db, { externalId, ...toNewFace(replacement) })
      return c.json(toEnrolledFace(face), is_new ? 201 : 200)
    },
  )
  .openapi(
    createRoute({
      operationId: 'updateFaceMetadata',
      summary: 'Replace the metadata of an enrolled face',
      tags,
      method: 'patch',
      path: '/{external_id}',
      middleware: [requires('faces:write'), jsonBody] as const,
      request: { ...ByExternalId, ...body(MetadataChange) },
      responses: {
        200: json(FaceDetails, 'Changed'),
        ...problems(...COMMON_PROBLEMS, ...BODY_PROBLEMS, 'FACE_NOT_FOUND'),
      },
    }),
    async (c) => {
      const { metadata } = c.req.valid('json')
      const face = await updateMetadata(c.var.db, c.req.valid('param').external_id, metadata)
      if (!face) throw faceNotFound()
      return c.json(toFaceDetails(face), 200)
    },
  )
  .openapi(
    createRoute({
      operationId: 'eraseFace',
      summary: 'Erase a face, and the external_id from the audit',
      tags,
      method: 'delete',
      path: '/{external_id}',
      middleware: [requires('faces:write')] as const,
      request: ByExternalId,
      responses: { 204: { description: 'Erased' }, ...problems(...COMMON_PROBLEMS, 'FACE_NOT_FOUND') },
    }),
    async (c) => {
      const wasErased = await eraseFace(c.var.db, c.req.valid('param').external_id)
      if (!wasErased) throw faceNotFound()
      return c.body(null, 204)
    },
  )

function faceNotFound(): Problem {
  return new Problem('FACE_NOT_FOUND', 'Check the external_id, or enroll the person first.')
}

/** @throws Problem MODEL_MISMATCH when the client names another model than the tenant's */
function requireModel({ tenant }: TenantDatabase, model: string | undefined): void {
  if (model === undefined || model === tenant.settings.model.id) return
  throw new Problem('MODEL_MISMATCH', `Send an embedding of ${tenant.settings.model.id}.`)
}

function toNewFace({ embedding, metadata, quality_score }: z.infer<typeof Replacement>) {
  return { embedding, metadata: metadata ?? {}, qualityScore: quality_score ?? null }
}

function toEnrolledFace(face: Face): z.infer<typeof EnrolledFace> {
  return {
    face_id: face.id,
    external_id: face.external_id,
    quality_score: face.quality_score,
    created_at: face.created_at.toISOString(),
  }
}

function toFaceDetails(face: Face): z.infer<typeof FaceDetails> {
  return { ...toEnrolledFace(face), metadata: face.metadata, updated_at: face.updated_at.toISOString() }
}

function toDecision(
  verification: Verification,
  scopes: ReadonlySet<Scope>,
  latencyMs: number,
): z.infer<typeof Decision> {
  return {
    verification_id: verification.id,
    verified: verification.verified,
    ...(scopes.has('scores:read') && { confidence: verification.confidence }),
    threshold: verification.threshold,
    liveness_passed: verification.liveness_passed,
    latency_ms: latencyMs,
  }
}

function toMatch({ confidence, ...match }: Match, scopes: ReadonlySet<Scope>) {
  return scopes.has('scores:read') ? { ...match, confidence } : match
}
