// The recognizer service: from a picture to the faces in it. One request; the picture passes through and is kept nowhere.
import * as z from 'zod'
import type { Env } from './env.ts'
import { type Embedding, isFault, toEmbedding } from './face/embedding.ts'
import { Problem, QUALITY_REASONS } from './problem.ts'
import type { Trace } from './trace.ts'

/** As the recognizer has it. */
export const MAX_IMAGE_BYTES = 10 * 1024 * 1024
/** A picture takes a tenth of a second; a full queue some seconds. A gate does not wait longer. */
const DEADLINE_MS = 8_000
/** Of a picture full of people: some 700 characters each. */
const MAX_ANSWER_LENGTH = 1024 * 1024
const MAX_RETRY_AFTER_SECONDS = 60
/** Of the containers beside the Worker: wrangler.toml has as many. */
const CONTAINERS = 4

const Point = z.tuple([z.number(), z.number()])
const Score = z.number().min(0).max(1)

const FaceAnswer = z.object({
  box: z.object({ x: z.number(), y: z.number(), width: z.number(), height: z.number() }),
  landmarks: z.object({ right_eye: Point, left_eye: Point, nose: Point, right_mouth: Point, left_mouth: Point }),
  detection_score: Score,
  quality: z.object({ score: Score, reasons: z.array(z.enum(QUALITY_REASONS)) }),
  embedding: z
    .string()
    .transform((text, context): Embedding => {
      const embedding = toEmbedding(text)
      if (!isFault(embedding)) return embedding
      context.issues.push({ code: 'custom', message: embedding.detail, input: undefined })
      return z.NEVER
    })
    .nullable(),
  liveness: z.object({ score: Score, passed: z.boolean() }).nullable(),
})
export type AnalyzedFace = z.infer<typeof FaceAnswer>

const AnalysisAnswer = z.object({
  models: z.object({ recognizer: z.string(), liveness: z.string().nullable() }),
  faces: z.array(FaceAnswer),
})

export interface Analysis {
  /** The model of the embedding. */
  model: string
  faces: AnalyzedFace[]
}

/**
 * @param image JPEG, PNG or WebP; passed on as it is
 * @param faces one: with embedding and liveness of the one face, when there is one; all: without
 * @throws Problem with what to do about the picture; RECOGNIZER_UNAVAILABLE when the recognizer is away, too slow, full, or
 *   answers what it should not
 */
export async function analyze(env: Env, trace: Trace, image: Blob, faces: 'one' | 'all'): Promise<Analysis> {
  if (image.size > MAX_IMAGE_BYTES) throw imageTooLarge()
  const response = await send(env, trace, image, faces)
  if (response.status !== 200) throw await toProblem(trace, response)
  const answer = AnalysisAnswer.safeParse(await readJson(trace, response))
  if (!answer.success) throw unavailable(trace, 'garbage')
  const { models, faces: found } = answer.data
  if (faces === 'one' && found.length === 1 && !found[0]?.embedding) throw unavailable(trace, 'garbage')
  return { model: models.recognizer, faces: found }
}

export function imageTooLarge(): Problem {
  return new Problem(
    'IMAGE_TOO_LARGE',
    `Send at most ${MAX_IMAGE_BYTES} bytes and 40 million pixels: take a smaller picture.`,
    {
      retake: true,
    },
  )
}

async function send(env: Env, trace: Trace, image: Blob, faces: 'one' | 'all'): Promise<Response> {
  const { RECOGNIZER_SECRET: secret } = env
  const post = toSender(env)
  if (!post || !secret) {
    throw new Problem('NOT_CONFIGURED', 'The operator must set the recognizer of pictures. Embeddings are taken.')
  }
  const sentAt = Date.now()
  try {
    return await post(`/analyze?faces=${faces}`, {
      method: 'POST',
      headers: {
        Authorization: `Bearer ${secret}`,
        'Content-Type': 'application/octet-stream',
        'X-Request-Id': trace.requestId,
      },
      body: image,
      // an address that answers with another one is not the recognizer
      redirect: 'manual',
      signal: AbortSignal.timeout(DEADLINE_MS),
    })
  } catch (error) {
    throw unavailable(trace, isTimeout(error) ? 'timeout' : 'unreachable')
  } finally {
    trace.recognizerMs = (trace.recognizerMs ?? 0) + Date.now() - sentAt
  }
}

type Sender = (path: string, init: RequestInit) => Promise<Response>

function toSender({ RECOGNIZER_URL: url, RECOGNIZER: containers }: Env): Sender | null {
  if (url) return (path, init) => fetch(new URL(path, url), init)
  if (!containers) return null
  return (path, init) => {
    // any of them: none keeps anything
    const name = `recognizer-${Math.floor(Math.random() * CONTAINERS)}`
    return containers.getByName(name).fetch(new URL(path, 'http://recognizer'), init)
  }
}

/** What the recognizer has against a picture is the client's to know; everything else is ours. */
async function toProblem(trace: Trace, response: Response): Promise<Problem> {
  const { status } = response
  const body = await readJson(trace, response).catch(() => null)
  const code = z.object({ code: z.string() }).safeParse(body).data?.code
  switch (code) {
    case 'IMAGE_TOO_LARGE':
      return imageTooLarge()
    case 'UNSUPPORTED_MEDIA_TYPE':
      return new Problem('UNSUPPORTED_MEDIA_TYPE', 'Send the picture as JPEG, PNG or WebP.', { retake: true })
    case 'INVALID_IMAGE':
      return new Problem('INVALID_IMAGE', 'Send the whole file, or take another picture.', { retake: true })
    case 'OVERLOADED': {
      const seconds = Number(response.headers.get('Retry-After'))
      const isUsable = Number.isInteger(seconds) && seconds > 0 && seconds <= MAX_RETRY_AFTER_SECONDS
      return unavailable(trace, 'overloaded', isUsable ? seconds : undefined)
    }
    default:
      return unavailable(trace, `status ${status}`)
  }
}

async function readJson(trace: Trace, response: Response): Promise<unknown> {
  const decoder = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true })
  let text = ''
  try {
    for (const reader = response.body?.getReader(); reader; ) {
      const { done, value } = await reader.read()
      if (done) break
      text += decoder.decode(value, { stream: true })
      if (text.length <= MAX_ANSWER_LENGTH) continue
      await reader.cancel()
      throw new RangeError('the answer is too long')
    }
    return JSON.parse(text + decoder.decode())
  } catch (error) {
    throw unavailable(trace, isTimeout(error) ? 'timeout' : 'garbage')
  }
}

function isTimeout(error: unknown): boolean {
  return error instanceof Error && (error.name === 'TimeoutError' || error.name === 'AbortError')
}

/** @param reason for the log alone */
function unavailable(trace: Trace, reason: string, retryAfterSeconds = 2): Problem {
  trace.fault = { fault: 'recognizer_unavailable', reason }
  return new Problem('RECOGNIZER_UNAVAILABLE', 'Send the same picture again in a moment.', {
    headers: { 'Retry-After': String(retryAfterSeconds) },
    retake: false,
  })
}
