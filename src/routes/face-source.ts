// A face as a request may give it: an embedding, or a picture of which the recognizer makes one.
import { z } from '@hono/zod-openapi'
import type { Context } from 'hono'
import type { Probe } from '../db/templates.ts'
import type { AppContext } from '../env.ts'
import type { Embedding } from '../face/embedding.ts'
import { Problem, type ProblemCode, type QualityReason } from '../problem.ts'
import { type AnalyzedFace, analyze } from '../recognizer.ts'
import { EmbeddingField, ModelField } from './fields.ts'

const BASE64 = /^[A-Za-z0-9+/]*={0,2}$/

/** In JSON. */
export const ImageField = z
  .string()
  .transform((text, context): Blob => {
    const bytes = text.length % 4 === 0 && BASE64.test(text) && text !== '' ? Buffer.from(text, 'base64') : null
    if (bytes) return new Blob([bytes])
    context.issues.push({ code: 'custom', message: 'Must be base64 (RFC 4648 section 4, padded).', input: undefined })
    return z.NEVER
  })
  .openapi({
    type: 'string',
    // OpenAPI 3.1 has it from JSON Schema; the types of 3.0 have not
    ...{ contentEncoding: 'base64' },
    description:
      'A JPEG, PNG or WebP picture with one face, at most 10 MiB: instead of an embedding. Never a URL. ' +
      'Two in one JSON text have 10 MiB together; in a form, each.',
  })

/** The same as a part of a form, which spares a third of the bytes. */
export const ImagePart = z
  .custom<Blob>((value) => value instanceof Blob, { message: 'Must be one file.' })
  .openapi({
    type: 'string',
    format: 'binary',
    description: 'A JPEG, PNG or WebP picture with one face, at most 10 MiB.',
  })

/** Of a JSON body: `image`, or `embedding` with its `model`. */
export const FACE_SOURCE = {
  embedding: EmbeddingField.optional(),
  model: ModelField.optional(),
  image: ImageField.optional(),
}

export type FaceSource = { embedding?: Embedding | undefined; model?: string | undefined; image?: Blob | undefined }

export const ONE_SOURCE = 'Must have either embedding or image.'

/** Exactly one of the two, and a model only of an embedding. */
export function hasOneSource({ embedding, model, image }: FaceSource): boolean {
  return (embedding === undefined) !== (image === undefined) && (image === undefined || model === undefined)
}

/** What a route that takes pictures may answer besides. */
export const IMAGE_PROBLEMS = [
  'MALFORMED_FORM',
  'IMAGE_TOO_LARGE',
  'INVALID_IMAGE',
  'RECOGNIZER_UNAVAILABLE',
] as const satisfies ProblemCode[]

/** The same of one that looks for one face in them. */
export const ONE_FACE_PROBLEMS = [
  ...IMAGE_PROBLEMS,
  'NO_FACE_DETECTED',
  'MULTIPLE_FACES',
] as const satisfies ProblemCode[]

/** The same of one that compares the face. */
export const PROBE_PROBLEMS = [...ONE_FACE_PROBLEMS, 'MODEL_MISMATCH'] as const satisfies ProblemCode[]

/**
 * The face that a request gives, to be compared.
 *
 * @throws Problem for a picture without exactly one face, of another model than the tenant's, or without a judgment of
 *   liveness where the tenant requires one
 */
export async function toProbe(c: Context<AppContext>, source: FaceSource): Promise<Probe> {
  return (await resolve(c, source)).probe
}

/** As `toProbe`, for a face that is to be enrolled: of a good picture, and of a live person where that is required. */
export async function toEnrollment(c: Context<AppContext>, source: FaceSource): Promise<Probe> {
  const { requiresLiveness, minimumQuality } = c.var.db.tenant.settings
  const { probe, reasons } = await resolve(c, source)
  if (requiresLiveness && probe.isLive !== true) throw livenessFailed()
  // one bad picture in a gallery is taken for many people
  if (probe.quality !== null && probe.quality < minimumQuality) {
    throw new Problem('LOW_QUALITY_IMAGE', 'Take another picture, and mind the reasons.', { retake: true, reasons })
  }
  return probe
}

async function resolve(
  c: Context<AppContext>,
  { embedding, model, image }: FaceSource,
): Promise<{ probe: Probe; reasons: QualityReason[] }> {
  const { settings } = c.var.db.tenant
  if (embedding) {
    requireModel(settings.model.id, model ?? settings.model.id)
    if (settings.requiresLiveness) {
      throw new Problem('INVALID_REQUEST', 'Correct the fields named in errors.', {
        errors: [{ pointer: '/embedding', detail: 'The tenant requires liveness, which takes an image.' }],
      })
    }
    return { probe: { embedding, quality: null, isLive: null }, reasons: [] }
  }
  // the schema has seen that there is one of the two
  if (!image) throw new RangeError('a face has neither embedding nor image')
  const analysis = await analyze(c.env, c.var.trace, image, 'one')
  const face = findOneFace(analysis.faces)
  requireModel(settings.model.id, analysis.model)
  const isLive = toIsLive(face, settings.livenessThreshold)
  if (settings.requiresLiveness && isLive === null) {
    throw new Problem('NOT_CONFIGURED', 'The tenant requires liveness, and the operator must configure a model of it.')
  }
  return { probe: { embedding: face.embedding, quality: face.quality.score, isLive }, reasons: face.quality.reasons }
}

/** @throws Problem MODEL_MISMATCH */
function requireModel(ofTenant: string, model: string): void {
  if (model === ofTenant) return
  throw new Problem('MODEL_MISMATCH', `Send an embedding of ${ofTenant}.`)
}

/** @throws Problem when there is none, or more than one */
export function findOneFace(faces: readonly AnalyzedFace[]): AnalyzedFace & { embedding: Embedding } {
  const [face, another] = faces
  if (!face)
    throw new Problem('NO_FACE_DETECTED', 'Take a picture of the whole face, from the front.', { retake: true })
  if (another) throw new Problem('MULTIPLE_FACES', 'Take a picture of one person alone.', { retake: true })
  // `analyze` has seen to it for one face that was asked for
  if (!face.embedding) throw new RangeError('one face came without its embedding')
  return { ...face, embedding: face.embedding }
}

/** @param threshold of the tenant; null for the recognizer's own judgment */
export function toIsLive({ liveness }: AnalyzedFace, threshold: number | null): boolean | null {
  if (!liveness) return null
  return threshold === null ? liveness.passed : liveness.score >= threshold
}

export function livenessFailed(): Problem {
  return new Problem('LIVENESS_FAILED', 'Take a picture of the person, not of a photograph or a screen.', {
    retake: true,
  })
}

/** The body that came, of the two that the validators have made: the other one is empty. */
export function readBody<Json, Form>(c: Context<AppContext>, json: Json, form: Form): Json | Form {
  return /^multipart\/form-data/i.test(c.req.header('Content-Type') ?? '') ? form : json
}

/** A body that is JSON with a picture in base64, or a form with a file: `faceBody` has required one of the two. */
export function bodies<Json extends z.ZodType, Form extends z.ZodType>(jsonSchema: Json, formSchema: Form) {
  return {
    body: {
      content: { 'application/json': { schema: jsonSchema }, 'multipart/form-data': { schema: formSchema } },
    },
  }
}
