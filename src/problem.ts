// Every error a client can meet, as RFC 9457 problem details. A code never changes its meaning.
import type { ContentfulStatusCode } from 'hono/utils/http-status'

const CATALOGUE = {
  MALFORMED_URL: [400, 'The URL is not valid'],
  MALFORMED_JSON: [400, 'The body is not acceptable JSON'],
  MALFORMED_FORM: [400, 'The body is not an acceptable form'],
  UNAUTHENTICATED: [401, 'The credential is missing or not accepted'],
  MISSING_SCOPE: [403, 'The credential lacks a scope'],
  NOT_FOUND: [404, 'There is nothing at this address'],
  API_KEY_NOT_FOUND: [404, 'There is no API key with this id'],
  FACE_NOT_FOUND: [404, 'No face is enrolled under this external_id'],
  VERIFICATION_NOT_FOUND: [404, 'There is no verification with this id'],
  TENANT_NOT_FOUND: [404, 'There is no tenant with this id'],
  ISSUER_NOT_FOUND: [404, 'There is no issuer of tokens with this id'],
  METHOD_NOT_ALLOWED: [405, 'The address does not take this method'],
  DUPLICATE_IDENTITY: [409, 'The face is enrolled under another external_id'],
  FACE_ALREADY_EXISTS: [409, 'A face is already enrolled under this external_id'],
  API_KEY_NOT_VALID: [409, 'The API key is revoked or has expired'],
  TOO_MANY_API_KEYS: [409, 'The tenant has as many API keys as it may have'],
  IDEMPOTENCY_KEY_IN_USE: [409, 'A request with this Idempotency-Key is being carried out'],
  TENANT_BEING_ERASED: [409, 'The tenant is being erased'],
  ISSUER_ALREADY_EXISTS: [409, 'An issuer with this name is configured already'],
  MODEL_MISMATCH: [409, 'The embeddings are of different models'],
  ANSWER_GONE: [410, 'What this Idempotency-Key answered is gone'],
  BODY_TOO_LARGE: [413, 'The body is too large'],
  IMAGE_TOO_LARGE: [413, 'The image is too large'],
  UNSUPPORTED_MEDIA_TYPE: [415, 'The body is not of a type this address takes'],
  INVALID_REQUEST: [422, 'The request has fields that are not valid'],
  IDEMPOTENCY_KEY_REUSED: [422, 'The Idempotency-Key was used for another request'],
  INVALID_IMAGE: [422, 'The image cannot be decoded'],
  NO_FACE_DETECTED: [422, 'There is no face in the image'],
  MULTIPLE_FACES: [422, 'There is more than one face in the image'],
  LOW_QUALITY_IMAGE: [422, 'The image is not good enough to enroll'],
  LIVENESS_FAILED: [422, 'The image does not seem to show a live person'],
  TOO_MANY_REQUESTS: [429, 'Too many requests'],
  TOO_MANY_ATTEMPTS: [429, 'Too many failed verifications of this person'],
  TEMPLATE_INTEGRITY: [500, 'A stored face is not what was enrolled'],
  INTERNAL: [500, 'Something went wrong on our side'],
  NOT_CONFIGURED: [503, 'The service is not configured'],
  DATABASE_UNAVAILABLE: [503, 'The database cannot be reached'],
  TOKEN_KEYS_UNAVAILABLE: [503, 'The keys of the issuer of the token cannot be had'],
  RECOGNIZER_UNAVAILABLE: [503, 'The recognizer of faces cannot be reached'],
  NOT_READY: [503, 'The service is not ready to take requests'],
} as const satisfies Record<string, readonly [ContentfulStatusCode, string]>

export type ProblemCode = keyof typeof CATALOGUE
export const PROBLEM_CODES = Object.keys(CATALOGUE) as ProblemCode[]

/** One bad field: an RFC 6901 pointer into the body, or the name of a URL parameter. */
export type FieldError = { detail: string } & ({ pointer: string } | { parameter: string })

export interface Extensions {
  /** Whether another picture may be taken. */
  retake?: boolean
  /** What is wrong with a picture. */
  reasons?: QualityReason[]
}

/** As the recognizer names them. */
export const QUALITY_REASONS = [
  'TOO_SMALL',
  'TOO_BLURRY',
  'TOO_DARK',
  'TOO_BRIGHT',
  'EXTREME_POSE',
  'LOW_CONFIDENCE',
] as const
export type QualityReason = (typeof QUALITY_REASONS)[number]

/** Thrown anywhere on a request's road; `app.ts` turns it into the answer. */
export class Problem extends Error {
  readonly code: ProblemCode
  readonly detail: string
  readonly errors: FieldError[] | undefined
  /** Members of the answer that only some codes have. */
  readonly extensions: Extensions
  readonly headers: Record<string, string>

  /** @param detail what the client can do next; never a key, a vector or a driver's words */
  constructor(
    code: ProblemCode,
    detail: string,
    options: { errors?: FieldError[]; headers?: Record<string, string> } & Extensions = {},
  ) {
    super(code)
    this.code = code
    this.detail = detail
    const { errors, headers = {}, ...extensions } = options
    this.errors = errors
    this.headers = headers
    this.extensions = extensions
  }

  get status(): ContentfulStatusCode {
    return CATALOGUE[this.code][0]
  }

  toResponse(requestId: string): Response {
    const body = {
      type: `https://rekko.dev/problems/${this.code.toLowerCase().replaceAll('_', '-')}`,
      title: CATALOGUE[this.code][1],
      status: this.status,
      code: this.code,
      detail: this.detail,
      request_id: requestId,
      ...(this.errors && { errors: this.errors }),
      ...this.extensions,
    }
    return new Response(JSON.stringify(body), {
      status: this.status,
      headers: { 'Content-Type': 'application/problem+json', ...this.headers },
    })
  }
}
