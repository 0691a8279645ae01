// Middleware for /v1/operator: lets in tokens of the one issuer that OPERATOR_ISSUER names, and nothing else.
import type { Context } from 'hono'
import { createMiddleware } from 'hono/factory'
import { openOperator } from '../db/operator.ts'
import { missingScope, unauthenticated } from '../db/tenant.ts'
import type { AppContext, Env } from '../env.ts'
import { IDEMPOTENCY_KEY } from '../idempotency.ts'
import { Problem } from '../problem.ts'
import { isWithin, tooManyRequests, toPolicyHeader } from '../rate-limit.ts'
import type { Trace } from '../trace.ts'
import { findAddress, findCredential, fingerprint, isDevelopment, isReading, refused, verify } from './authenticate.ts'
import { parseObject } from './canonical.ts'
import { refuseBlocked } from './failures.ts'
import { ISSUER_DEFAULTS, type Issuer, type IssuerFault, isIssuerFault, toIssuer } from './issuer.ts'

export type OperatorScope = 'operator:read' | 'operator:write'

/** Opens the operator's door, for one scope: `c.var.operator`. */
export function requiresOperator(scope: OperatorScope) {
  return createMiddleware<AppContext>(async (c, next) => {
    const issuer = findOperatorIssuer(c.env, c.var.trace)
    const token = findCredential(c)
    if (!token) {
      c.var.trace.refusal = 'absent'
      throw unauthenticated()
    }
    // other than at the tenants' door: what is refused here must not be refused there from memory
    const source = { address: findAddress(c), fingerprint: await fingerprint(`operator ${token}`, c.env), prefix: null }
    refuseBlocked(c.var.trace, source)
    const refuse = (reason: string) => refused(c, source, reason)

    const { subject, scopes } = await verify(c, token, issuer, refuse)
    // the events of what is done must name somebody
    if (subject === null) throw await refuse('subject')
    if (!(await isWithin(c.env, 'admin', `operator ${subject}`))) throw tooManyRequests('admin')
    if (!scopes.includes(scope)) throw missingScope(scope)
    requireNoIdempotencyKey(c)
    c.set('operator', openOperator(c.env, c.var.trace, subject))
    await next()
    c.res.headers.set('RateLimit-Policy', toPolicyHeader('admin'))
  })
}

/** What is not kept must not seem to be: whoever sends a key relies on it. */
function requireNoIdempotencyKey(c: Context<AppContext>): void {
  if (isReading(c) || c.req.header(IDEMPOTENCY_KEY) === undefined) return
  throw new Problem('INVALID_REQUEST', 'Correct the fields named in errors.', {
    errors: [
      { parameter: IDEMPOTENCY_KEY, detail: "Is for a tenant's requests: look whether it was done before you repeat." },
    ],
  })
}

// Parsed once: an inline key set is read once for the object that holds it.
let parsed: { text: string; allowsLoopback: boolean; result: Issuer | IssuerFault } | undefined

/**
 * Who signs the operator's tokens.
 *
 * @throws Problem NOT_CONFIGURED when nobody is configured, or nobody usable, or the operator has no database
 */
export function findOperatorIssuer(env: Env, trace: Trace): Issuer {
  const { OPERATOR_ISSUER: text, OPERATOR_DATABASE_URL: url } = env
  if (!text || !url) throw new Problem('NOT_CONFIGURED', 'Set OPERATOR_DATABASE_URL and OPERATOR_ISSUER.')
  const allowsLoopback = isDevelopment(env)
  if (parsed?.text !== text || parsed.allowsLoopback !== allowsLoopback) {
    parsed = { text, allowsLoopback, result: toOperatorIssuer(text, allowsLoopback) }
  }
  const { result } = parsed
  if (!isIssuerFault(result)) return result
  trace.fault = { fault: 'operator_issuer', field: result.field }
  throw new Problem('NOT_CONFIGURED', 'Correct OPERATOR_ISSUER: the log names the field.')
}

function toOperatorIssuer(text: string, allowsLoopback: boolean): Issuer | IssuerFault {
  const stored = parseObject(new TextEncoder().encode(text))
  if (!stored) return { field: null, detail: 'Must be a JSON object.' }
  const issuer = toIssuer({ ...ISSUER_DEFAULTS, tenant_claim: null, ...stored }, allowsLoopback)
  if (isIssuerFault(issuer) || issuer.tenantClaim === null) return issuer
  // who means an issuer of tenants' tokens must not make operators of them
  return { field: 'tenant_claim', detail: 'Must be absent: the operator speaks for no tenant.' }
}
