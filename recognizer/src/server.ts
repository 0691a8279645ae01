// HTTP: who may ask what, and one line of log for each request. docs/recognizer.md has the contract.
import { createHash, randomUUID, timingSafeEqual } from 'node:crypto'
import { createServer, type IncomingMessage, type ServerResponse } from 'node:http'
import type { AddressInfo } from 'node:net'
import type { Task } from './analysis.ts'
import { toAnswer, toModelDescriptions } from './answer.ts'
import { readBody, refuseAnnounced } from './body.ts'
import { LIMITS, type Limits } from './limits.ts'
import type { Models } from './models.ts'
import { Fault, startPool } from './pool.ts'
import { Refusal } from './refusal.ts'

/** What the one log line says. Never a picture, an embedding, the secret, a path or an error's message. */
interface Trace {
  requestId: string
  startedAt: number
  bytes: number
  faces: number | null
  analysisMs: number | null
  code: string | null
  fault: string | null
}

export interface RecognizerOptions {
  host: string
  /** 0 for any that is free. */
  port: number
  secret: string
  threads: number
  queue: number
  limits?: Limits
  log?: (line: string) => void
}

export interface Recognizer {
  url: string
  /** Takes nothing new, ends what is under way, and stops. */
  close(): Promise<void>
}

const METHODS: Record<string, string> = { '/analyze': 'POST', '/ready': 'GET', '/health': 'GET' }

/** Anybody may ask whether we are ready; the inference that answers is not run more often than this. */
const READY_MS = 2_000
/** What a refused caller still sends is taken for so long, or it would meet a reset instead of the answer. */
const DRAIN_MS = 1_000
/** Far above the places: connections are kept open between requests. */
const MAX_CONNECTIONS = 512

/** @throws ConfigurationError, or the error of the port that cannot be had */
export async function startRecognizer(models: Models, options: RecognizerOptions): Promise<Recognizer> {
  const { secret, limits = LIMITS, log = console.log } = options
  const pool = await startPool(models, options.threads, options.queue, limits)
  let isClosing = false
  let proof: { at: number; ready: Promise<boolean> } | null = null

  const answer = (request: IncomingMessage, response: ServerResponse) => {
    const trace = startTrace(request)
    const gone = new AbortController()
    // also after an answer, when there is nothing left to stop
    response.once('close', () => {
      if (!response.writableFinished) trace.code ??= 'CLOSED'
      gone.abort()
      log(toLine(trace, request, response))
    })
    void route(request, response, trace, gone.signal)
      .then(
        (body) => ({ status: 200, body }),
        (error: unknown) => refuse(request, response, trace, error),
      )
      .then(({ status, body }) => {
        // or a connection that is kept open would keep us from stopping
        if (isClosing) response.setHeader('Connection', 'close')
        send(request, response, status, body)
      })
  }
  // Node looks for overdue heads every 30 s by itself
  const server = createServer({ connectionsCheckingInterval: 1_000 }, answer)
  // whoever asks before sending ("Expect: 100-continue") is refused before sending
  server.on('checkContinue', answer)

  async function route(
    request: IncomingMessage,
    response: ServerResponse,
    trace: Trace,
    signal: AbortSignal,
  ): Promise<unknown> {
    const { pathname, searchParams } = toUrl(request)
    const method = METHODS[pathname]
    if (!method) throw new Refusal('NOT_FOUND')
    if (request.method !== method) throw new Refusal('METHOD_NOT_ALLOWED', `This address takes ${method} only.`)
    if (pathname === '/health') return { status: 'ok' }
    if (pathname === '/ready') {
      if (!(await isReady())) throw new Refusal('NOT_READY')
      const isKnown = isAuthorized(request, secret)
      return { status: 'ready', ...(isKnown && { models: toModelDescriptions(models) }) }
    }
    if (!isAuthorized(request, secret)) throw new Refusal('UNAUTHORIZED')
    const task = toTask(searchParams)
    // before the body: whoever is still sending has a place, or memory would have no bound
    if (!pool.enter()) throw new Refusal('OVERLOADED')
    try {
      refuseAnnounced(request, limits)
      if (request.headers.expect !== undefined) response.writeContinue()
      const bytes = await readBody(request, limits)
      trace.bytes = bytes.length
      const analysisFrom = performance.now()
      const analysis = await pool.analyze(bytes, task, signal)
      trace.analysisMs = Math.round(performance.now() - analysisFrom)
      trace.faces = analysis.faces.length
      return toAnswer(analysis, models)
    } finally {
      pool.leave()
    }
  }

  function isReady(): Promise<boolean> {
    if (!proof || Date.now() - proof.at > READY_MS) {
      const ready = pool.prove().then(
        () => true,
        () => false,
      )
      proof = { at: Date.now(), ready }
    }
    return proof.ready
  }

  server.headersTimeout = 5_000
  // a little longer than a body may take, so that it is our answer that the caller meets
  server.requestTimeout = limits.bodyMs + 5_000
  server.keepAliveTimeout = 60_000
  server.maxConnections = MAX_CONNECTIONS
  server.on('clientError', (_error, socket) => {
    // half closed is not enough: who drips a head would go on
    const hangUp = () => socket.destroy()
    if (!socket.writable) return hangUp()
    socket.end('HTTP/1.1 400 Bad Request\r\nConnection: close\r\nContent-Length: 0\r\n\r\n', hangUp)
  })

  try {
    await new Promise<void>((resolve, reject) => {
      server.once('error', reject)
      server.listen(options.port, options.host, resolve)
    })
  } catch (error) {
    await pool.close()
    throw error
  }
  // listening on TCP, so the address is not a pipe's name
  const { port } = server.address() as AddressInfo
  return {
    url: `http://${options.host}:${port}`,
    async close() {
      isClosing = true
      const closed = new Promise((resolve) => server.close(resolve))
      server.closeIdleConnections()
      const timer = setTimeout(() => server.closeAllConnections(), limits.bodyMs + limits.analysisMs)
      await closed
      clearTimeout(timer)
      await pool.close()
    },
  }
}

function isAuthorized(request: IncomingMessage, secret: string): boolean {
  const given = /^Bearer (\S+)$/i.exec(request.headers.authorization ?? '')?.[1] ?? ''
  // of equal length whatever was sent, so that the comparison tells neither the length nor a beginning
  const [one, other] = [given, secret].map((text) => createHash('sha256').update(text).digest())
  return one !== undefined && other !== undefined && timingSafeEqual(one, other)
}

function toUrl(request: IncomingMessage): URL {
  try {
    return new URL(request.url ?? '', 'http://recognizer')
  } catch {
    throw new Refusal('NOT_FOUND')
  }
}

function toTask(parameters: URLSearchParams): Task {
  for (const name of parameters.keys()) {
    if (name !== 'faces' && name !== 'tasks')
      throw new Refusal('INVALID_REQUEST', 'The parameters are faces and tasks.')
  }
  const faces = parameters.get('faces') ?? 'one'
  if (faces !== 'one' && faces !== 'all') throw new Refusal('INVALID_REQUEST', 'faces must be "one" or "all".')
  const tasks = (parameters.get('tasks') ?? 'embedding,liveness').split(',').filter((task) => task !== '')
  if (tasks.some((task) => task !== 'embedding' && task !== 'liveness')) {
    throw new Refusal('INVALID_REQUEST', 'tasks must be of "embedding" and "liveness", with commas between them.')
  }
  return { faces, embedding: tasks.includes('embedding'), liveness: tasks.includes('liveness') }
}

function refuse(request: IncomingMessage, response: ServerResponse, trace: Trace, error: unknown) {
  const refusal = error instanceof Refusal ? error : new Refusal('INTERNAL')
  trace.code = refusal.code
  if (error instanceof Fault) trace.fault = error.fault
  else if (error !== refusal) trace.fault = error instanceof Error ? error.constructor.name : typeof error
  if (refusal.code === 'METHOD_NOT_ALLOWED') response.setHeader('Allow', METHODS[toUrl(request).pathname] ?? '')
  if (refusal.code === 'UNAUTHORIZED') response.setHeader('WWW-Authenticate', 'Bearer')
  if (refusal.status === 503) response.setHeader('Retry-After', '1')
  return { status: refusal.status, body: { code: refusal.code, detail: refusal.detail } }
}

function send(request: IncomingMessage, response: ServerResponse, status: number, body: unknown): void {
  if (response.destroyed) return
  const text = JSON.stringify(body)
  response.writeHead(status, {
    'Content-Type': 'application/json',
    'Content-Length': Buffer.byteLength(text),
    'Cache-Control': 'no-store',
  })
  response.end(text)
  if (request.complete) return
  request.resume()
  const timer = setTimeout(() => request.socket.destroy(), DRAIN_MS)
  request.once('close', () => clearTimeout(timer))
}

function startTrace(request: IncomingMessage): Trace {
  const sent = request.headers['x-request-id']
  return {
    // whoever may write anything into a log can write a line of it
    requestId: typeof sent === 'string' && /^[\w.:-]{1,128}$/.test(sent) ? sent : randomUUID(),
    startedAt: performance.now(),
    bytes: 0,
    faces: null,
    analysisMs: null,
    code: null,
    fault: null,
  }
}

function toLine(trace: Trace, request: IncomingMessage, response: ServerResponse): string {
  const isFault = trace.fault !== null || response.statusCode >= 500
  return JSON.stringify({
    level: isFault ? 'error' : 'info',
    event: 'request',
    request_id: trace.requestId,
    method: request.method,
    // the pattern, never what was sent
    route: METHODS[(request.url ?? '').split('?')[0] ?? ''] ? (request.url ?? '').split('?')[0] : null,
    status: response.statusCode,
    ms: Math.round(performance.now() - trace.startedAt),
    bytes: trace.bytes,
    ...(trace.faces !== null && { faces: trace.faces, analysis_ms: trace.analysisMs }),
    ...(trace.code !== null && { code: trace.code }),
    ...(trace.fault !== null && { fault: trace.fault }),
  })
}
