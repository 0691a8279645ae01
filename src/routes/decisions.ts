// POST /v1/faces/verify and /v1/faces/search: the two questions asked of a gallery.
import { createRoute, OpenAPIHono, z } from '@hono/zod-openapi'
import type { Scope } from '../auth/api-key.ts'
import { requires } from '../auth/authenticate.ts'
import { identifyFace, type Match } from '../db/identifications.ts'
import { type VerificationOutcome, verifyFace } from '../db/verifications.ts'
import type { AppContext } from '../env.ts'
import { faceBody } from '../face-body.ts'
import { Problem } from '../problem.ts'
import { MAX_RESULTS } from '../settings.ts'
import {
  bodies,
  FACE_SOURCE,
  hasOneSource,
  ImagePart,
  livenessFailed,
  ONE_SOURCE,
  PROBE_PROBLEMS,
  readBody,
  toProbe,
} from './face-source.ts'
import {
  ACT,
  ACT_PROBLEMS,
  BODY_PROBLEMS,
  COMMON_PROBLEMS,
  Confidence,
  ExternalId,
  faceNotFound,
  json,
  problems,
  Threshold,
  Uuid,
} from './fields.ts'

const Claim = z
  .strictObject({ external_id: ExternalId, ...FACE_SOURCE })
  .refine(hasOneSource, ONE_SOURCE)
  .openapi('Claim')
const ClaimForm = z.strictObject({ external_id: ExternalId, image: ImagePart }).openapi('ClaimForm')

const MaxResults = z.int().min(1).max(MAX_RESULTS)
const Probe = z
  .strictObject({ ...FACE_SOURCE, max_results: MaxResults.optional() })
  .refine(hasOneSource, ONE_SOURCE)
  .openapi('Probe')
/** Digits alone, as a page's limit: what else Number reads, it does not say. */
const MaxResultsPart = z
  .string()
  .regex(/^[0-9]{1,2}$/, 'Must be a whole number.')
  .transform(Number)
  .pipe(MaxResults)
  .openapi({ type: 'integer', minimum: 1, maximum: MAX_RESULTS })
const ProbeForm = z.strictObject({ image: ImagePart, max_results: MaxResultsPart.optional() }).openapi('ProbeForm')

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

const tags = ['Faces']

export const decisions = new OpenAPIHono<AppContext>()
  .openapi(
    createRoute({
      operationId: 'verifyFace',
      summary: 'Verify (1:1) that a probe shows the person enrolled under an external_id',
      tags,
      ...ACT,
      method: 'post',
      path: '/verify',
      middleware: [requires('verify'), faceBody] as const,
      request: bodies(Claim, ClaimForm),
      responses: {
        200: json(Decision, 'Decided, for or against'),
        ...problems(
          ...COMMON_PROBLEMS,
          ...ACT_PROBLEMS,
          ...BODY_PROBLEMS,
          ...PROBE_PROBLEMS,
          'LIVENESS_FAILED',
          'FACE_NOT_FOUND',
          'TOO_MANY_ATTEMPTS',
          'TEMPLATE_INTEGRITY',
          'ANSWER_GONE',
        ),
      },
    }),
    async (c) => {
      const { external_id, ...source } = readBody(c, c.req.valid('json'), c.req.valid('form'))
      const probe = await toProbe(c, source)

      const verification = await verifyFace(c.var.db, external_id, probe)
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
      // recorded as a decision against, like any other
      if (!verification.is_acceptable) throw livenessFailed()
      return c.json(toDecision(verification, c.var.db.scopes, Date.now() - c.var.trace.startedAt), 200)
    },
  )
  .openapi(
    createRoute({
      operationId: 'searchFaces',
      summary: 'Identify (1:N) the person a probe shows, among all enrolled faces',
      tags,
      ...ACT,
      method: 'post',
      path: '/search',
      middleware: [requires('identify'), faceBody] as const,
      request: bodies(Probe, ProbeForm),
      responses: {
        200: json(SearchResult, 'Matches at or above the threshold only, best first; none when nobody is near enough'),
        ...problems(
          ...COMMON_PROBLEMS,
          ...ACT_PROBLEMS,
          ...BODY_PROBLEMS,
          ...PROBE_PROBLEMS,
          'LIVENESS_FAILED',
          'TEMPLATE_INTEGRITY',
          'ANSWER_GONE',
        ),
      },
    }),
    async (c) => {
      const { max_results, ...source } = readBody(c, c.req.valid('json'), c.req.valid('form'))
      const maxResults = max_results ?? c.var.db.tenant.settings.maxResults
      const probe = await toProbe(c, source)

      const search = await identifyFace(c.var.db, probe, maxResults)
      // recorded as a search that named nobody
      if (!search.is_acceptable) throw livenessFailed()
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

function toDecision(
  verification: VerificationOutcome,
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
