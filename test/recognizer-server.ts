// A recognizer for the tests, on this machine: it speaks as the real one does and sees nothing. A "picture" is a JSON text
// that says what is to be answered of it, so that every similarity can be worked out by hand.
import { once } from 'node:events'
import { createServer, type IncomingMessage, type ServerResponse } from 'node:http'

export const RECOGNIZER_SECRET = 'a secret of the recognizer in tests'

/** What a picture of the tests shows. */
export interface Shown {
  /** 512 numbers for each face. */
  faces?: number[][]
  quality?: number
  reasons?: string[]
  /** The score of the model of liveness; without it there is no such model. */
  liveness?: number
  model?: string
  /** The recognizer refuses, with this status and code. */
  refusal?: [status: number, code: string, retryAfter?: string]
  /** Instead of all that: how it misbehaves. */
  misbehavior?: 'hang' | 'hang up' | 'HTML' | 'half' | 'endless' | 'no embedding' | 'zero' | 'redirect'
}

export interface RecognizerServer {
  url: string
  close(): Promise<void>
}

export async function startRecognizerServer(): Promise<RecognizerServer> {
  const server = createServer((request, response) => {
    answer(request, response).catch(() => response.destroy())
  })
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  const address = server.address()
  if (typeof address !== 'object' || !address) throw new Error('the recognizer of the tests has no port')
  return {
    url: `http://127.0.0.1:${address.port}`,
    async close() {
      server.closeAllConnections()
      server.close()
      await once(server, 'close')
    },
  }
}

async function answer(request: IncomingMessage, response: ServerResponse): Promise<void> {
  const chunks: Buffer[] = []
  // a stream without an encoding yields buffers
  for await (const chunk of request) chunks.push(chunk as Buffer)
  const url = new URL(request.url ?? '', 'http://recognizer')
  if (request.headers.authorization !== `Bearer ${RECOGNIZER_SECRET}`) return refuse(response, 401, 'UNAUTHORIZED')
  if (request.method !== 'POST' || url.pathname !== '/analyze') return refuse(response, 404, 'NOT_FOUND')
  let shown: Shown
  try {
    shown = JSON.parse(Buffer.concat(chunks).toString()) as Shown
  } catch {
    return refuse(response, 415, 'UNSUPPORTED_MEDIA_TYPE')
  }
  if (shown.refusal) return refuse(response, ...shown.refusal)
  const body = JSON.stringify(toAnswer(shown, url.searchParams.get('faces') === 'all'))
  switch (shown.misbehavior) {
    case 'hang':
      return
    case 'hang up':
      response.destroy()
      return
    case 'HTML':
      response.end('<html>It works!</html>')
      return
    case 'half':
      response.end(body.slice(0, body.length / 2))
      return
    case 'endless':
      while (response.write('['.repeat(65_536)) || response.writable) {
        await new Promise((resolve) => setTimeout(resolve, 1))
        if (response.destroyed) return
      }
      return
    case 'redirect':
      response.writeHead(302, { Location: '/elsewhere' }).end()
      return
    default:
      response.setHeader('Content-Type', 'application/json')
      response.end(body)
  }
}

function refuse(response: ServerResponse, status: number, code: string, retryAfter?: string): void {
  if (retryAfter !== undefined) response.setHeader('Retry-After', retryAfter)
  response.writeHead(status, { 'Content-Type': 'application/json' })
  response.end(JSON.stringify({ code, detail: 'words of the recognizer' }))
}

function toAnswer({ faces = [], quality = 0.9, reasons = [], liveness, model, misbehavior }: Shown, isAll: boolean) {
  const isOne = faces.length === 1 && !isAll && misbehavior !== 'no embedding'
  return {
    image: { width: 640, height: 480 },
    models: {
      detector: 'test@1',
      recognizer: model ?? 'arcface-512@1',
      liveness: liveness === undefined ? null : 'test-live@1',
    },
    faces: faces.map((face, index) => ({
      box: { x: 10 + index, y: 20.5, width: 100, height: 120 },
      landmarks: {
        right_eye: [30, 50],
        left_eye: [80, 50],
        nose: [55, 80],
        right_mouth: [35, 110],
        left_mouth: [75, 110],
      },
      detection_score: 0.95,
      quality: { score: quality, reasons, face_size_px: 100, sharpness: 40 },
      embedding: isOne ? toBase64(misbehavior === 'zero' ? face.map(() => 0) : face) : null,
      liveness: isOne && liveness !== undefined ? { score: liveness, passed: liveness >= 0.5 } : null,
    })),
  }
}

function toBase64(numbers: number[]): string {
  return Buffer.from(Float32Array.from(numbers).buffer).toString('base64')
}
