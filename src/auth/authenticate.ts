// Middleware: whose credential this is. What it may do is checked in the transaction itself.
import type { Context } from 'hono'
import { createMiddleware } from 'hono/factory'
import {
  type Entrance,
  findTenantByApiKey,
  findTenantByToken,
  findTokenIssuer,
  openTenant,
  type Tenant,
  unauthenticated,
  type VerifiedIssuer,
} from '../db/tenant.ts'
import type { AppContext, Env } from '../env.ts'
import { ExpiringMap } from '../expiring-map.ts'
import { findIdempotencyKey, nameKeyedRequest, nameUnkeyedRequest, type RequestName } from '../idempotency.ts'
import { Problem } from '../problem.ts'
import { isWithin, POLICY_OF_SCOPE, type PolicyName, tooManyRequests, toPolicyHeader } from '../rate-limit.ts'
import { hashApiKey, isApiKey, type Scope, toPepper, toPrefix } from './api-key.ts'
import { parseObject } from './canonical.ts'
import { countFailure, isBlocked, noteAccepted, refuseBlocked, type Source } from './failures.ts'
import { type Issuer, isIssuerFault, toIssuer } from './issuer.ts'
import { KeysUnavailable } from './jwks.ts'
import { findIssuerName, TokenRefused, type VerifiedToken, verifyToken } from './jwt.ts'

// Which tenant a credential belongs to never changes; its settings may, and reach an isolate within a minute.
const CACHE_TTL_MS = 60_000
const tenantsByKey = new ExpiringMap<Tenant>(10_000, CACHE_TTL_MS)
const issuersByName = new ExpiringMap<VerifiedIssuer & { issuer: Issuer }>(1_000, CACHE_TTL_MS)
const tenantsByToken = new ExpiringMap<Tenant>(10_000, CACHE_TTL_MS)

/** Opens the door to the data of the credential's tenant, for one scope: `c.var.db`. */
export function requires(scope: Scope) {
  return createMiddleware<AppContext>(async (c, next) => {
    const policy = POLICY_OF_SCOPE[scope]
    const presented = findCredential(c)
    if (!presented) {
      c.var.trace.refusal = 'absent'
      throw unauthenticated()
    }
    const idempotencyKey = isReading(c) ? null : findIdempotencyKey(c)
    const entrance = isToken(presented)
      ? await enterByToken(c, presented, policy)
      : await enterByApiKey(c, presented, policy)
    const { id } = entrance.tenant
    c.var.trace.tenantId = id
    let named: Promise<RequestName> | undefined
    const name = () => {
      named ??= nameRequest(c, idempotencyKey, id)
      return named
    }
    c.set('db', openTenant(c.env, c.var.trace, entrance, scope, name))
    await next()
    if (c.var.db.isReplay) c.res.headers.set('Idempotent-Replayed', 'true')
    // a refusal in the transaction looks like one before it
    if (c.res.status !== 401) c.res.headers.set('RateLimit-Policy', toPolicyHeader(policy))
  })
}

/** Whether a request changes nothing. */
export function isReading({ req: { method } }: Context<AppContext>): boolean {
  return method === 'GET' || method === 'HEAD'
}

async function nameRequest(c: Context<AppContext>, key: string | null, tenantId: string): Promise<RequestName> {
  return key === null ? nameUnkeyedRequest() : nameKeyedRequest(c, key, tenantId, await pepper(c.env))
}

/** After a change of its settings: this isolate reads the tenant anew, whatever credential comes next. */
export function forgetTenant(tenantId: string): void {
  for (const tenants of [tenantsByKey, tenantsByToken]) tenants.deleteWhere(({ id }) => id === tenantId)
}

async function enterByApiKey(c: Context<AppContext>, key: string, policy: PolicyName): Promise<Entrance> {
  const hash = await hashApiKey(key, await pepper(c.env))
  const source = { address: findAddress(c), fingerprint: hash, prefix: isApiKey(key) ? toPrefix(key) : null }
  const refuse = (reason: string) => refused(c, source, reason)
  const credential = { kind: 'api_key', hash } as const
  const forget = () => tenantsByKey.delete(hash)
  const renew = async () => credential

  const known = tenantsByKey.get(hash)
  if (!known) refuseBlocked(c.var.trace, source)
  if (!isApiKey(key)) throw await refuse('malformed')
  if (!(await isWithin(c.env, policy, hash))) throw tooManyRequests(policy)
  if (known) return { tenant: known, credential, forget, renew }

  const found = await findTenantByApiKey(c.env, c.var.trace, hash)
  if (!found) throw await refuse('unknown')
  c.var.trace.tenantId = found.tenant.id
  if (found.refusal !== null) throw await refuse(found.refusal)
  tenantsByKey.set(hash, found.tenant)
  noteAccepted(source)
  return { tenant: found.tenant, credential, forget, renew }
}

async function enterByToken(c: Context<AppContext>, token: string, policy: PolicyName): Promise<Entrance> {
  const { env } = c
  const source = { address: findAddress(c), fingerprint: await fingerprint(token, env), prefix: null }
  const refuse = (reason: string) => refused(c, source, reason)

  const name = findIssuerName(token)
  // what this isolate knows already costs no query to verify, so a neighbor's failures shut nobody out
  const known = name === null ? undefined : issuersByName.get(name)
  refuseBlocked(c.var.trace, source, known !== undefined)
  if (name === null) throw await refuse('malformed')
  // who signs for the operator signs for no tenant, whatever was configured
  if (isOperatorIssuer(env, name)) throw await refuse('issuer')
  const found = known ?? (await issuersByName.find(name, () => findIssuer(c, name)))
  if (!found) throw await refuse('issuer')

  const verified = await verify(c, token, found.issuer, refuse)
  // an issuer of tenants' tokens has a tenant claim, which was checked
  const tenantId = String(verified.tenantId)
  const id = `${found.id} ${found.revision} ${tenantId}`
  // a bearer's own quota: somebody with a poorer token of the same issuer does not use it up
  if (!(await isWithin(env, policy, `${id} ${await fingerprint(verified.subject ?? '', env)}`))) {
    throw tooManyRequests(policy)
  }
  const tenant = await tenantsByToken.find(id, () => findTenantByToken(env, c.var.trace, found, tenantId))
  if (!tenant) {
    issuersByName.delete(name)
    // the issuer may have been given this tenant since this isolate last looked
    if (known) return enterByToken(c, token, policy)
    throw await refuse('tenant')
  }
  const forget = () => {
    issuersByName.delete(name)
    tenantsByToken.delete(id)
  }
  return {
    tenant,
    credential: { kind: 'token', issuer: found, scopes: verified.scopes, subject: verified.subject },
    forget,
    renew: async () => {
      forget()
      const renewed = await enterByToken(c, token, policy)
      if (renewed.tenant.id !== tenantId) throw await refuse('tenant')
      return renewed.credential
    },
  }
}

async function findIssuer(c: Context<AppContext>, name: string): Promise<(VerifiedIssuer & { issuer: Issuer }) | null> {
  const found = await findTokenIssuer(c.env, c.var.trace, name)
  if (!found) return null
  const issuer = toIssuer(found.configuration, isDevelopment(c.env))
  // written by put_token_issuer after the same check: a row that was edited by hand lets nobody in
  return isIssuerFault(issuer) ? null : { id: found.id, revision: found.revision, issuer }
}

/**
 * Verifies a token.
 *
 * @param refuse counts a refusal and makes the answer
 * @throws Problem UNAUTHENTICATED, or TOKEN_KEYS_UNAVAILABLE when the issuer's keys cannot be had
 */
export async function verify(
  c: Context<AppContext>,
  token: string,
  issuer: Issuer,
  refuse: (reason: string) => Promise<Problem>,
): Promise<VerifiedToken> {
  try {
    return await verifyToken(token, issuer, { allowsLoopback: isDevelopment(c.env), keepAlive: toKeepAlive(c) })
  } catch (error) {
    if (error instanceof TokenRefused) throw await refuse(error.reason)
    if (!(error instanceof KeysUnavailable)) throw error
    c.var.trace.fault = { fault: 'token_keys_unavailable', reason: error.reason }
    throw new Problem('TOKEN_KEYS_UNAVAILABLE', 'Try again in a moment, or use an API key.', {
      headers: { 'Retry-After': '30' },
    })
  }
}

/** Lets work go on whose client has hung up; where there is no such context (tests), it goes on by itself or not. */
function toKeepAlive(c: Context<AppContext>): (work: Promise<unknown>) => void {
  return (work) => {
    try {
      c.executionCtx.waitUntil(work)
    } catch {
      // Hono throws where the Worker was called without a context
    }
  }
}

/** Notes why, for the log; counts it; and makes the one answer, or says that there were too many. */
export async function refused(c: Context<AppContext>, source: Source, reason: string): Promise<Problem> {
  c.var.trace.refusal = reason
  const wasBlocked = isBlocked(source)
  await countFailure(c.env, c.var.trace, source)
  return wasBlocked ? tooManyRequests('failures') : unauthenticated()
}

/** The one credential of a request; null when there is none, when one is not written right, or when two disagree. */
export function findCredential(c: Context<AppContext>): string | null {
  const authorization = c.req.header('Authorization')
  const bearer = /^Bearer +([^\s,]+)$/i.exec(authorization ?? '')?.[1]
  const apiKey = c.req.header('X-API-Key')
  if (authorization !== undefined && bearer === undefined) return null
  if (bearer !== undefined && apiKey !== undefined && bearer !== apiKey) return null
  return bearer ?? apiKey ?? null
}

/** A key of ours has no dot; whatever else this is not, it is refused as an unknown key. */
function isToken(presented: string): boolean {
  return presented.includes('.')
}

/** Tokens are never remembered as they are: this only tells one failed attempt from the next. */
export async function fingerprint(token: string, env: Env): Promise<string> {
  return hashApiKey(token, await pepper(env))
}

/** Whether OPERATOR_ISSUER names this issuer. */
function isOperatorIssuer(env: Env, name: string): boolean {
  return (
    env.OPERATOR_ISSUER !== undefined && parseObject(new TextEncoder().encode(env.OPERATOR_ISSUER))?.['issuer'] === name
  )
}

export function isDevelopment(env: Env): boolean {
  return env.ENVIRONMENT === 'dev'
}

/** Where Cloudflare says a request comes from; null outside of it. */
export function findAddress(c: Context<AppContext>): string | null {
  return c.req.header('CF-Connecting-IP') ?? null
}

let imported: { text: string | undefined; key: Promise<CryptoKey> } | undefined

/** The pepper as a key, imported once per isolate. */
export async function pepper(env: Env): Promise<CryptoKey> {
  if (imported?.text !== env.API_KEY_PEPPER) {
    imported = { text: env.API_KEY_PEPPER, key: toPepper(env.API_KEY_PEPPER) }
  }
  try {
    return await imported.key
  } catch {
    throw new Problem('NOT_CONFIGURED', 'The operator must set the secret API_KEY_PEPPER.')
  }
}
