// POST /v1/faces/compare, /liveness and /detect: looks at pictures of which nothing is kept but that they were made.
import { createRoute, OpenAPIHono, z } from '@hono/zod-openapi'
import { requires } from '../auth/authenticate.ts'
import { recordAnalysis } from '../db/usage.ts'
import type { AppContext } from '../env.ts'
import { cosine } from '../face/embedding.ts'
import { roundDistance, toConfidence, toDistance } from '../face/similarity.ts'
import { faceBody } from '../face-body.ts'
import { Problem } from '../problem.ts'
import { type AnalyzedFace, analyze } from '../recognizer.ts'
import {
  bodies,
  FACE_SOURCE,
  findOneFace,
  hasOneSource,
  IMAGE_PROBLEMS,
  ImageField,
  ImagePart,
  ONE_FACE_PROBLEMS,
  ONE_SOURCE,
  PROBE_PROBLEMS,
  readBody,
  toIsLive,
  toProbe,
} from './face-source.ts'
import {
  ACT,
  ACT_PROBLEMS,
  BODY_PROBLEMS,
  COMMON_PROBLEMS,
  Confidence,
  json,
  problems,
  QualityReasons,
  QualityScore,
  Threshold,
} from './fields.ts'

const Side = z.strictObject(FACE_SOURCE).refine(hasOneSource, ONE_SOURCE)
const Pair = z.strictObject({ first: Side, second: Side }).openapi('Pair')
const PairForm = z.strictObject({ first: ImagePart, second: ImagePart }).openapi('PairForm')
const Picture = z.strictObject({ image: ImageField }).openapi('Picture')
const PictureForm = z.strictObject({ image: ImagePart }).openapi('PictureForm')

const LivenessPassed = z.boolean().nullable().openapi({ description: 'Null when nobody has judged.' })
const Comparison = z
  .object({
    verified: z.boolean().openapi({ description: 'Whether both show the same person, by the threshold of 1:1.' }),
    confidence: Confidence.optional(),
    threshold: Threshold,
    liveness_passed: z.object({ first: LivenessPassed, second: LivenessPassed }),
    latency_ms: z.int(),
  })
  .openapi('Comparison')

const Liveness = z
  .object({
    liveness_passed: z.boolean(),
    score: z.number().min(0).max(1).optional().openapi({ description: 'Only for credentials with scores:read.' }),
    latency_ms: z.int(),
  })
  .openapi('Liveness')

const Pixel = z.tuple([z.number(), z.number()]).openapi({
  type: 'array',
  items: { type: 'number' },
  minItems: 2,
  maxItems: 2,
  description: 'x and y, in pixels of the picture the right way up.',
})
const Detection = z
  .object({
    faces: z.array(
      z.object({
        box: z.object({ x: z.number(), y: z.number(), width: z.number(), height: z.number() }),
        landmarks: z.object({
          right_eye: Pixel,
          left_eye: Pixel,
          nose: Pixel,
          right_mouth: Pixel,
          left_mouth: Pixel,
        }),
        detection_score: z.number().min(0).max(1),
        quality_score: QualityScore,
        quality_reasons: QualityReasons,
      }),
    ),
    latency_ms: z.int(),
  })
  .openapi('Detection')

const tags = ['Analyses']

export const analyses = new OpenAPIHono<AppContext>()
  .openapi(
    createRoute({
      operationId: 'compareFaces',
      summary: 'Compare two faces that the request brings; neither is kept',
      tags,
      ...ACT,
      method: 'post',
      path: '/compare',
      middleware: [requires('verify'), faceBody] as const,
      request: bodies(Pair, PairForm),
      responses: {
        200: json(Comparison, 'Compared'),
        ...problems(...COMMON_PROBLEMS, ...ACT_PROBLEMS, ...BODY_PROBLEMS, ...PROBE_PROBLEMS),
      },
    }),
    async (c) => {
      const { verificationThreshold } = c.var.db.tenant.settings
      const { first, second } = readBody(c, c.req.valid('json'), c.req.valid('form'))
      const [one, other] = await Promise.all(
        [first, second].map((side) => toProbe(c, side instanceof Blob ? { image: side } : side)),
      )
      if (!one || !other) throw new RangeError('two sides make two probes')

      const distance = roundDistance(1 - cosine(one.embedding, other.embedding))
      const { confidence, ...verdict } = await recordAnalysis(c.var.db, {
        verified: distance <= toDistance(verificationThreshold) && one.isLive !== false && other.isLive !== false,
        confidence: toConfidence(distance),
        threshold: verificationThreshold,
        liveness_passed: { first: one.isLive, second: other.isLive },
      })
      return c.json(
        {
          ...verdict,
          ...(c.var.db.scopes.has('scores:read') && { confidence }),
          latency_ms: Date.now() - c.var.trace.startedAt,
        },
        200,
      )
    },
  )
  .openapi(
    createRoute({
      operationId: 'checkLiveness',
      summary: 'Judge whether a picture shows a live person; it is not kept',
      tags,
      ...ACT,
      method: 'post',
      path: '/liveness',
      middleware: [requires('verify'), faceBody] as const,
      request: bodies(Picture, PictureForm),
      responses: {
        200: json(Liveness, 'Judged, for or against'),
        ...problems(...COMMON_PROBLEMS, ...ACT_PROBLEMS, ...BODY_PROBLEMS, ...ONE_FACE_PROBLEMS),
      },
    }),
    async (c) => {
      const { livenessThreshold } = c.var.db.tenant.settings
      const { faces } = await analyze(
        c.env,
        c.var.trace,
        readBody(c, c.req.valid('json'), c.req.valid('form')).image,
        'one',
      )
      const face = findOneFace(faces)
      const isLive = toIsLive(face, livenessThreshold)
      if (isLive === null || !face.liveness) {
        throw new Problem('NOT_CONFIGURED', 'The operator must configure a model of liveness.')
      }

      const { liveness_passed, score } = await recordAnalysis(c.var.db, {
        liveness_passed: isLive,
        score: face.liveness.score,
      })
      return c.json(
        {
          liveness_passed,
          ...(c.var.db.scopes.has('scores:read') && { score }),
          latency_ms: Date.now() - c.var.trace.startedAt,
        },
        200,
      )
    },
  )
  .openapi(
    createRoute({
      operationId: 'detectFaces',
      summary: 'Find all faces in a picture, and say how good each is; it is not kept',
      tags,
      ...ACT,
      method: 'post',
      path: '/detect',
      middleware: [requires('verify'), faceBody] as const,
      request: bodies(Picture, PictureForm),
      responses: {
        200: json(Detection, 'The faces that were found; none when there are none'),
        ...problems(...COMMON_PROBLEMS, ...ACT_PROBLEMS, ...BODY_PROBLEMS, ...IMAGE_PROBLEMS),
      },
    }),
    async (c) => {
      const { faces } = await analyze(
        c.env,
        c.var.trace,
        readBody(c, c.req.valid('json'), c.req.valid('form')).image,
        'all',
      )

      await recordAnalysis(c.var.db, {})
      return c.json({ faces: faces.map(toDetectedFace), latency_ms: Date.now() - c.var.trace.startedAt }, 200)
    },
  )

function toDetectedFace({ box, landmarks, detection_score, quality }: AnalyzedFace) {
  return { box, landmarks, detection_score, quality_score: quality.score, quality_reasons: quality.reasons }
}
