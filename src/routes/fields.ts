// The fields of requests and answers: what validates them also documents them.
import { z } from '@hono/zod-openapi'
import { findExternalIdFault, MAX_EXTERNAL_ID_LENGTH } from '../external-id.ts'
import { DIMENSIONS, type Embedding, isFault, toEmbedding } from '../face/embedding.ts'
import { IDEMPOTENCY_KEY, IDEMPOTENCY_KEY_PATTERN, MAX_IDEMPOTENCY_KEY_LENGTH } from '../idempotency.ts'
import { findFlaw } from '../json-flaw.ts'
import { findMetadataFault } from '../metadata.ts'
import { findNameFault, MAX_NAME_LENGTH } from '../name.ts'
import { PROBLEM_CODES, Problem, type ProblemCode, QUALITY_REASONS } from '../problem.ts'

/** The client's own name for a person, by which it finds them again: one spelling for one person. */
export const ExternalId = z
  .string()
  .check((context) => {
    const fault = findExternalIdFault(context.value)
    if (fault) context.issues.push({ code: 'custom', message: fault, input: context.value })
  })
  .openapi({
    minLength: 1,
    maxLength: MAX_EXTERNAL_ID_LENGTH,
    description:
      'Your own stable name for the person: 1 to 255 characters in Unicode NFC, without control or invisible ' +
      'characters and without space at either end; not "." or "..". Prefer an opaque id to a document number.',
    example: 'ticket-holder-4711',
  })

/** What somebody calls a tenant or a key. */
export const Name = z
  .string()
  .check((context) => {
    const fault = findNameFault(context.value)
    if (fault) context.issues.push({ code: 'custom', message: fault, input: context.value })
  })
  .openapi({
    minLength: 1,
    maxLength: MAX_NAME_LENGTH,
    description: 'For people to read: 1 to 255 characters, no control characters, no space at either end.',
  })

/** A face's or a probe's numbers, as the client's recognizer gave them. */
export const EmbeddingField = z
  .unknown()
  .transform((input, context): Embedding => {
    const result = toEmbedding(input)
    if (!isFault(result)) return result
    context.issues.push({
      code: 'custom',
      message: result.detail,
      path: result.index === undefined ? [] : [result.index],
      input: undefined,
    })
    return z.NEVER
  })
  .openapi({
    oneOf: [
      { type: 'array', items: { type: 'number' }, minItems: DIMENSIONS, maxItems: DIMENSIONS },
      { type: 'string', contentEncoding: 'base64', minLength: 2732, maxLength: 2732 },
    ],
    description: 'The L2-normalized embedding: 512 numbers, or base64 of 512 little-endian float32.',
  })

/** The recognizer that made an embedding: two of different models are never compared. */
export const ModelField = z
  .string()
  .min(1)
  .max(100)
  .openapi({
    description:
      "The recognizer that made the embedding, as the tenant's settings name it. Where it is another than the tenant's, " +
      'the request is refused with MODEL_MISMATCH instead of comparing what cannot be compared.',
    example: 'arcface-512@1',
  })

/** Free for the client; kept and given back as JavaScript reads it (numbers are IEEE 754 doubles). */
export const MetadataField = z
  .custom<Record<string, unknown>>((value) => typeof value === 'object' && value !== null && !Array.isArray(value), {
    message: 'Must be an object.',
  })
  .check((context) => {
    const fault = findMetadataFault(context.value)
    if (fault) context.issues.push({ code: 'custom', message: fault, input: undefined })
  })
  .openapi({
    type: 'object',
    additionalProperties: true,
    description: 'Anything you want to keep with the face: at most 8 KiB as JSON. Never looked at.',
    example: { sector: 'north' },
  })

/** The same as a part of a form: JSON as text. */
export const MetadataPart = z
  .string()
  .transform((text, context): unknown => {
    if (!findFlaw(text)) {
      try {
        return JSON.parse(text)
      } catch {
        // the same as a flaw
      }
    }
    context.issues.push({ code: 'custom', message: 'Must be one JSON text with distinct keys.', input: undefined })
    return z.NEVER
  })
  .pipe(MetadataField)
  .openapi({ type: 'string', description: 'Anything you want to keep with the face, as JSON: at most 8 KiB.' })

export const QualityScore = z.number().min(0).max(1)
export const Confidence = z.number().min(0).max(1).openapi({
  description: '(1 + cosine) / 2, cut to four decimals. Only for credentials with the scope scores:read.',
  example: 0.8137,
})
export const Threshold = z.number().min(0).max(1).openapi({
  description: 'The confidence from which the comparison counted as a match.',
  example: 0.675,
})
export const Timestamp = z.iso.datetime().openapi({ example: '2026-11-23T12:00:00.000Z' })
export const Uuid = z.uuid()

export const QualityReasons = z.array(z.enum(QUALITY_REASONS)).openapi({
  description: 'What is wrong with the picture.',
})

const ProblemDetails = z
  .object({
    type: z.url(),
    title: z.string(),
    status: z.int(),
    code: z.enum(PROBLEM_CODES),
    detail: z.string(),
    request_id: z.string(),
    retake: z.boolean().optional().openapi({ description: 'Whether another picture may be taken.' }),
    reasons: QualityReasons.optional(),
    errors: z
      .array(z.object({ detail: z.string(), pointer: z.string().optional(), parameter: z.string().optional() }))
      .optional(),
  })
  .openapi('Problem')

/** The answers that a route gives besides its own, for its documentation. */
export function problems(...codes: ProblemCode[]): Record<never, never> {
  const byStatus: Record<number, { description: string; content: object }> = {}
  for (const code of codes) {
    const { status } = new Problem(code, '')
    const description = byStatus[status] ? `${byStatus[status].description}, ${code}` : code
    byStatus[status] = { description, content: { 'application/problem+json': { schema: ProblemDetails } } }
  }
  return byStatus
}

/** What any route behind a credential may answer. */
export const COMMON_PROBLEMS = [
  'MALFORMED_URL',
  'UNAUTHENTICATED',
  'MISSING_SCOPE',
  'INVALID_REQUEST',
  'TOO_MANY_REQUESTS',
  'INTERNAL',
  'DATABASE_UNAVAILABLE',
  'TOKEN_KEYS_UNAVAILABLE',
  'NOT_CONFIGURED',
] as const satisfies ProblemCode[]

/** What a route with a body may answer besides. */
export const BODY_PROBLEMS = [
  'MALFORMED_JSON',
  'BODY_TOO_LARGE',
  'UNSUPPORTED_MEDIA_TYPE',
] as const satisfies ProblemCode[]

/** What a route that changes something may answer besides. */
export const ACT_PROBLEMS = ['IDEMPOTENCY_KEY_IN_USE', 'IDEMPOTENCY_KEY_REUSED'] as const satisfies ProblemCode[]

/** The header of a route that changes something; `requires` reads it. */
export const ACT = {
  parameters: [
    {
      name: IDEMPOTENCY_KEY,
      in: 'header' as const,
      required: false,
      schema: {
        type: 'string' as const,
        ...{ minLength: 1, maxLength: MAX_IDEMPOTENCY_KEY_LENGTH, pattern: IDEMPOTENCY_KEY_PATTERN.source },
      },
      description:
        'Your name for this request, a random UUID for instance. For 24 hours the same request with the same key is done ' +
        'once, and answered as the first time, with the header "Idempotent-Replayed: true". Send it again whenever an ' +
        'answer was lost.',
    },
  ],
}

export function json<Schema extends z.ZodType>(schema: Schema, description: string) {
  return { description, content: { 'application/json': { schema } } }
}

export function body<Schema extends z.ZodType>(schema: Schema) {
  return { body: { required: true, content: { 'application/json': { schema } } } }
}

export function faceNotFound(): Problem {
  return new Problem('FACE_NOT_FOUND', 'Check the external_id, or enroll the person first.')
}
