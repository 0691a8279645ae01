// The Hono app: what surrounds every request, the routes, and how a failure becomes an answer.
import { OpenAPIHono } from '@hono/zod-openapi'
import { HTTPException } from 'hono/http-exception'
import { matchedRoutes } from 'hono/route'
import { crossOrigin } from './cross-origin.ts'
import { DatabaseError } from './db/neon.ts'
import type { AppContext } from './env.ts'
import { type FieldError, Problem } from './problem.ts'
import { analyses } from './routes/analyses.ts'
import { apiKeys } from './routes/api-keys.ts'
import { identifications, verifications } from './routes/audit.ts'
import { decisions } from './routes/decisions.ts'
import { faces } from './routes/faces.ts'
import { health } from './routes/health.ts'
import { operatorIssuers } from './routes/operator-issuers.ts'
import { operatorTenants } from './routes/operator-tenants.ts'
import { tenant } from './routes/tenant.ts'
import { usage } from './routes/usage.ts'
import { logRequest, startTrace, type Trace } from './trace.ts'

/** On every answer. It is never a page, nobody may keep it, and it is for one credential only. */
const HEADERS = {
  'Cache-Control': 'no-store',
  'Content-Security-Policy': "default-src 'none'; frame-ancestors 'none'",
  'Referrer-Policy': 'no-referrer',
  'Strict-Transport-Security': 'max-age=63072000; includeSubDomains',
  Vary: 'Authorization, X-API-Key, Origin',
  'X-Content-Type-Options': 'nosniff',
}

export const app = new OpenAPIHono<AppContext>({
  defaultHook: (result) => {
    if (!result.success) throw invalidRequest(result.target, result.error.issues)
  },
})

app.use(async (c, next) => {
  const trace = startTrace(toRequestId(c.req.header('X-Request-Id')))
  c.set('trace', trace)
  await next()
  const { headers } = c.res
  for (const [name, value] of Object.entries(HEADERS)) headers.set(name, value)
  headers.set('X-Request-Id', trace.requestId)
  // how long a refusal took says why: whether there was a key, or an issuer, to look at
  if (c.res.status !== 401) {
    headers.set('Server-Timing', `db;dur=${trace.databaseMs}, total;dur=${Date.now() - trace.startedAt}`)
  }
  logRequest(trace, c.req.method, findRoute(matchedRoutes(c)), c.res.status)
})
app.use(crossOrigin)
app.use(async (c, next) => {
  // what stands before the path has no percent sign: a host with one is no URL
  if (!isDecodable(c.req.url)) throw new Problem('MALFORMED_URL', 'Percent-encode the URL as UTF-8.')
  await next()
})

app.route('/', health)
app.route('/v1/faces', decisions)
app.route('/v1/faces', analyses)
app.route('/v1/faces', faces)
app.route('/v1/verifications', verifications)
app.route('/v1/identifications', identifications)
app.route('/v1/usage', usage)
app.route('/v1/operator/tenants', operatorTenants)
app.route('/v1/operator/issuers', operatorIssuers)
app.route('/v1/api-keys', apiKeys)
app.route('/v1/tenant', tenant)

app.openAPIRegistry.registerComponent('securitySchemes', 'bearer', { type: 'http', scheme: 'bearer' })
app.openAPIRegistry.registerComponent('securitySchemes', 'api_key', { type: 'apiKey', in: 'header', name: 'X-API-Key' })
app.openAPIRegistry.registerComponent('securitySchemes', 'operator', {
  type: 'http',
  scheme: 'bearer',
  bearerFormat: 'JWT',
  description: "A token of the operator's issuer, with the scope operator:read or operator:write.",
})
const DOCUMENT = {
  openapi: '3.1.0',
  info: {
    title: 'Rekko',
    version: '1',
    description: 'Facial recognition as a service: enroll, verify (1:1), identify (1:N), erase.',
    license: { name: 'MIT' },
  },
  security: [{ bearer: [] }, { api_key: [] }],
}
app.get('/openapi.json', (c) => {
  const document = app.getOpenAPI31Document(DOCUMENT)
  // said to the validators, it would have each of two kinds of body asked of both
  for (const path of Object.values(document.paths ?? {})) {
    for (const { requestBody } of [path.post, path.put, path.patch].filter((operation) => operation !== undefined)) {
      if (requestBody && 'content' in requestBody) requestBody.required = true
    }
  }
  return c.json(document)
})

app.notFound((c) => {
  const allowed = findMethods(c.req.path)
  const problem =
    allowed.length > 0
      ? new Problem('METHOD_NOT_ALLOWED', `Use ${allowed.join(', ')}.`, { headers: { Allow: allowed.join(', ') } })
      : new Problem('NOT_FOUND', 'See /openapi.json for the addresses there are.')
  return problem.toResponse(c.var.trace.requestId)
})

app.onError((error, c) => toProblem(error, c.var.trace).toResponse(c.var.trace.requestId))

function toProblem(error: Error, trace: Trace): Problem {
  if (error instanceof Problem) return error
  // thrown by Hono's validators, with words of its own
  if (error instanceof HTTPException && error.status === 400) {
    return new Problem('MALFORMED_JSON', 'Send one valid JSON text.')
  }
  if (error instanceof HTTPException && error.status === 415) {
    return new Problem('UNSUPPORTED_MEDIA_TYPE', 'Send the body as "Content-Type: application/json".')
  }
  if (error instanceof DatabaseError) {
    // what was found before it failed is the worse of the two, and stays
    trace.fault = { fault: 'database_error', sqlstate: error.sqlstate ?? null, ...trace.fault }
    return error.isUnavailable
      ? new Problem('DATABASE_UNAVAILABLE', 'Try again in a moment.', { headers: { 'Retry-After': '2' } })
      : new Problem('INTERNAL', 'Quote the request_id when you report this.')
  }
  // the class and the place, never the message: it may hold what the client sent
  trace.fault = { fault: 'defect', error: error.name, at: findPlace(error) }
  return new Problem('INTERNAL', 'Quote the request_id when you report this.')
}

/** The innermost call on the stack. A message of several lines stands before it. */
function findPlace(error: Error): string | null {
  return (
    error.stack
      ?.split('\n')
      .find((line) => /^\s+at /.test(line))
      ?.trim() ?? null
  )
}

/** The pattern of the route that answered; null when only middleware matched. */
function findRoute(matched: { method: string; path: string }[]): string | null {
  return matched.findLast(({ method }) => method !== 'ALL')?.path ?? null
}

type Issue = { code: string; path: PropertyKey[]; message: string; keys?: string[] }

/** @param target which part of the request, in Hono's words: json, param or query */
function invalidRequest(target: string, issues: Issue[]): Problem {
  const errors = issues.flatMap((issue): FieldError[] => {
    const paths = issue.keys ? issue.keys.map((key) => [...issue.path, key]) : [issue.path]
    const detail = issue.keys ? 'Is not a field of this request.' : issue.message
    return paths.map((path) =>
      target === 'json' || target === 'form'
        ? { pointer: toPointer(path), detail }
        : { parameter: path.map(String).join('.'), detail },
    )
  })
  return new Problem('INVALID_REQUEST', 'Correct the fields named in errors.', {
    errors: errors.slice(0, MAX_FIELD_ERRORS),
  })
}

const MAX_FIELD_ERRORS = 20
const MAX_POINTER_LENGTH = 200

/** RFC 6901; cut, because a client names its fields as it likes. */
function toPointer(path: PropertyKey[]): string {
  const pointer = path.map((part) => `/${String(part).replaceAll('~', '~0').replaceAll('/', '~1')}`).join('')
  return pointer.slice(0, MAX_POINTER_LENGTH).toWellFormed()
}

/** What others call this request, when it is safe to repeat; a new name otherwise. */
function toRequestId(proposed: string | undefined): string {
  return proposed && /^[A-Za-z0-9-]{1,64}$/.test(proposed) ? proposed : crypto.randomUUID()
}

function isDecodable(encoded: string): boolean {
  try {
    decodeURIComponent(encoded)
    return true
  } catch {
    return false
  }
}

/** The methods that a path takes, from the router; none when there is no such path. */
function findMethods(path: string): string[] {
  const methods = new Set(app.routes.filter(({ method }) => method !== 'ALL').map(({ method }) => method))
  return [...methods].filter((method) => {
    const [handlers] = app.router.match(method, path)
    // a route ends in a handler of its own method; middleware alone was registered for all
    return handlers.some(([[, route]]) => route.method === method)
  })
}
