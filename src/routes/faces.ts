// /v1/faces: the gallery of a tenant.
import { createRoute, OpenAPIHono, z } from '@hono/zod-openapi'
import type { Context } from 'hono'
import { requires } from '../auth/authenticate.ts'
import {
  enrollFace,
  eraseFace,
  type Face,
  findFace,
  listFaces,
  type NewFace,
  replaceFace,
  updateMetadata,
} from '../db/faces.ts'
import type { AppContext } from '../env.ts'
import { faceBody } from '../face-body.ts'
import { jsonBody } from '../json-body.ts'
import { Problem, type ProblemCode } from '../problem.ts'
import {
  bodies,
  FACE_SOURCE,
  type FaceSource,
  hasOneSource,
  ImagePart,
  ONE_SOURCE,
  PROBE_PROBLEMS,
  readBody,
  toEnrollment,
} from './face-source.ts'
import {
  ACT,
  ACT_PROBLEMS,
  BODY_PROBLEMS,
  body,
  COMMON_PROBLEMS,
  ExternalId,
  faceNotFound,
  json,
  MetadataField,
  MetadataPart,
  problems,
  QualityScore,
  Timestamp,
  Uuid,
} from './fields.ts'
import { Page, pageOf, readPage } from './page.ts'

const REPLACEMENT = {
  ...FACE_SOURCE,
  metadata: MetadataField.optional(),
  quality_score: QualityScore.optional().openapi({ description: 'Of an embedding; that of an image is measured.' }),
}
const Enrollment = z
  .strictObject({ external_id: ExternalId, ...REPLACEMENT })
  .refine(hasOneSource, ONE_SOURCE)
  .openapi('Enrollment')
const Replacement = z.strictObject(REPLACEMENT).refine(hasOneSource, ONE_SOURCE).openapi('Replacement')

// not one extended by the other: the document would have two that each forbid the fields of the other
const REPLACEMENT_FORM = { image: ImagePart, metadata: MetadataPart.optional() }
const EnrollmentForm = z.strictObject({ external_id: ExternalId, ...REPLACEMENT_FORM }).openapi('EnrollmentForm')
const ReplacementForm = z.strictObject(REPLACEMENT_FORM).openapi('ReplacementForm')

const MetadataChange = z.strictObject({ metadata: MetadataField }).openapi('MetadataChange')

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

const ENROLLMENT_PROBLEMS = [
  ...PROBE_PROBLEMS,
  'LOW_QUALITY_IMAGE',
  'LIVENESS_FAILED',
  'DUPLICATE_IDENTITY',
] as const satisfies ProblemCode[]
const ByExternalId = { params: z.object({ external_id: ExternalId }) }
const tags = ['Faces']

export const faces = new OpenAPIHono<AppContext>()
  .openapi(
    createRoute({
      operationId: 'enrollFace',
      summary: 'Enroll a face',
      tags,
      ...ACT,
      method: 'post',
      path: '/',
      middleware: [requires('faces:write'), faceBody] as const,
      request: bodies(Enrollment, EnrollmentForm),
      responses: {
        201: json(EnrolledFace, 'Enrolled'),
        ...problems(
          ...COMMON_PROBLEMS,
          ...ACT_PROBLEMS,
          ...BODY_PROBLEMS,
          ...ENROLLMENT_PROBLEMS,
          'FACE_ALREADY_EXISTS',
        ),
      },
    }),
    async (c) => {
      const { external_id, ...enrollment } = readBody(c, c.req.valid('json'), c.req.valid('form'))

      const face = await enrollFace(c.var.db, await toNewFace(c, external_id, enrollment))
      if (face === 'duplicate') throw duplicateIdentity()
      if (face === 'exists') {
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
      ...ACT,
      method: 'put',
      path: '/{external_id}',
      middleware: [requires('faces:write'), faceBody] as const,
      request: { ...ByExternalId, ...bodies(Replacement, ReplacementForm) },
      responses: {
        200: json(EnrolledFace, 'Replaced, by a face of another face_id'),
        201: json(EnrolledFace, 'Enrolled'),
        ...problems(...COMMON_PROBLEMS, ...ACT_PROBLEMS, ...BODY_PROBLEMS, ...ENROLLMENT_PROBLEMS),
      },
    }),
    async (c) => {
      const externalId = c.req.valid('param').external_id

      const replaced = await replaceFace(
        c.var.db,
        await toNewFace(c, externalId, readBody(c, c.req.valid('json'), c.req.valid('form'))),
      )
      if (replaced === 'duplicate') throw duplicateIdentity()
      return c.json(toEnrolledFace(replaced.face), replaced.isNew ? 201 : 200)
    },
  )
  .openapi(
    createRoute({
      operationId: 'updateFaceMetadata',
      summary: 'Replace the metadata of an enrolled face',
      tags,
      ...ACT,
      method: 'patch',
      path: '/{external_id}',
      middleware: [requires('faces:write'), jsonBody] as const,
      request: { ...ByExternalId, ...body(MetadataChange) },
      responses: {
        200: json(FaceDetails, 'Changed'),
        ...problems(...COMMON_PROBLEMS, ...ACT_PROBLEMS, ...BODY_PROBLEMS, 'FACE_NOT_FOUND'),
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
      ...ACT,
      method: 'delete',
      path: '/{external_id}',
      middleware: [requires('faces:write')] as const,
      request: ByExternalId,
      responses: { 204: { description: 'Erased' }, ...problems(...COMMON_PROBLEMS, ...ACT_PROBLEMS, 'FACE_NOT_FOUND') },
    }),
    async (c) => {
      const wasErased = await eraseFace(c.var.db, c.req.valid('param').external_id)
      if (!wasErased) throw faceNotFound()
      return c.body(null, 204)
    },
  )

/** @throws Problem for a picture that is not good enough, or of nobody, or of several */
async function toNewFace(
  c: Context<AppContext>,
  externalId: string,
  { metadata, quality_score, ...source }: FaceSource & Pick<z.infer<typeof Replacement>, 'metadata' | 'quality_score'>,
): Promise<NewFace> {
  const { embedding, quality } = await toEnrollment(c, source)
  return { externalId, embedding, metadata: metadata ?? {}, qualityScore: quality ?? quality_score ?? null }
}

function duplicateIdentity(): Problem {
  return new Problem('DUPLICATE_IDENTITY', 'See /v1/identifications for the search that found the other one.')
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
