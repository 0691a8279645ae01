// Middleware: whose credential this is. What it may do is checked in the transaction itself.
import type { Context } from 'hono'
import { createMiddleware } from 'hono/factory'
import {
  type Credential,
  findTenantByApiKey,
  findTenantByToken,
  findTokenIssuer,
  openTenant,
  type Tenant,
  unauthenticated,
} from '../db/tenant.ts'
import type { AppContext, Env } from '../env.ts'
import { ExpiringMap } from '../expiring-map.ts'
import { Problem } from '../problem.ts'
import { isWithin, POLICY_OF_SCOPE, type PolicyName, tooManyRequests, toPolicyHeader } from '../rate-limit.ts'
import { hashApiKey, isApiKey, type Scope, toPepper, toPrefix } from './api-key.ts'
import { countFailure, refuseBlocked, type Source } from './failures.ts'
import { type Issuer, isIssuerFault, toIssuer } from './issuer.ts'
import { KeysUnavailable } from './jwks.ts'
import { findIssuerName, TokenRefused, type VerifiedToken, verifyToken } from './jwt.ts'

// Which tenant a credential belongs to never changes; its settings may, and reach an isolate within a minute.
const CACHE_TTL_MS = 60_000
const tenantsByKey = new ExpiringMap<Tenant>(10_000, CACHE_TTL_MS)
const issuersByName = new ExpiringMap<{ id: string; issuer: Issuer }>(1_000, CACHE_TTL_MS)
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
    const { tenant, credential, forget } = isToken(presented)
      ? await enterByToken(c, presented, policy)
      : await enterByApiKey(c, presented, policy)
    c.var.trace.tenantId = tenant.id
    c.set('db', openTenant(c.env, c.var.trace, tenant, credential, scope, forget))
    await next()
    // a refusal in the transaction looks like one before it
    if (c.res.status !== 401) c.res.headers.set('RateLimit-Policy', toPolicyHeader(policy))
  })
}

/** After a change of its settings: this isolate reads the tenant anew, whatever credential comes next. */
export function forgetTenant(tenantId: string): void {
  for (const tenants of [tenantsByKey, tenantsByToken]) tenants.deleteWhere(({ id }) => id === tenantId)
}

interface Entrance {
  tenant: Tenant
  credential: Credential
  /** Called when the transaction refuses the credential. */
  forget: () => void
}

async function enterByApiKey(c: Context<AppContext>, key: string, policy: PolicyName): Promise<Entrance> {
  const hash = await hashApiKey(key, await pepper(c.env))
  const source = { address: findAddress(c), fingerprint: hash, prefix: isApiKey(key) ? toPrefix(key) : null }
  const refuse = (reason: string) => refused(c, source, reason)
  const credential = { kind: 'api_key', hash } as const
  const forget = () => tenantsByKey.delete(hash)

  const known = tenantsByKey.get(hash)
  if (!known) refuseBlocked(c.var.trace, source)
  if (!isApiKey(key)) throw await refuse('malformed')
  if (!(await isWithin(c.env, policy, hash))) throw tooManyRequests(policy)
  if (known) return { tenant: known, credential, forget }

  const found = await findTenantByApiKey(c.env, c.var.trace, hash)
  if (!found) throw await refuse('unknown')
  c.var.trace.tenantId = found.tenant.id
  if (found.refusal !== null) throw await refuse(found.refusal)
  tenantsByKey.set(hash, found.tenant)
  return { tenant: found.tenant, credential, forget }
}

async function enterByToken(c: Context<AppContext>, token: string, policy: PolicyName): Promise<Entrance> {
  const { env } = c
  const source = { address: findAddress(c), fingerprint: await fingerprint(token, env), prefix: null }
  const refuse = (reason: string) => refused(c, source, reason)
  refuseBlocked(c.var.trace, source)

  const name = findIssuerName(token)
  if (name === null) throw await refuse('malformed')
  const found = await issuersByName.find(name, () => findIssuer(c, name))
  if (!found) throw await refuse('issuer')

  const verified = await verify(c, token, found.issuer, refuse)
  // an issuer of tenants' tokens has a tenant claim, which was checked
  const tenantId = String(verified.tenantId)
  const id = `${found.id} ${tenantId}`
  if (!(await isWithin(env, policy, id))) throw tooManyRequests(policy)
  const tenant = await tenantsByToken.find(id, () => findTenantByToken(env, c.var.trace, found.id, tenantId))
  if (!tenant) throw await refuse('tenant')
  return {
    tenant,
    credential: { kind: 'token', issuerId: found.id, scopes: verified.scopes, subject: verified.subject },
    forget: () => {
      issuersByName.delete(name)
      tenantsByToken.delete(id)
    },
  }
}

async function findIssuer(c: Context<AppContext>, name: string): Promise<{ id: string; issuer: Issuer } | null> {
  const found = await findTokenIssuer(c.env, c.var.trace, name)
  if (!found) return null
  const issuer = toIssuer(found.configuration, isDevelopment(c.env))
  // written by put_token_issuer after the same check: a row that was edited by hand lets nobody in
  return isIssuerFault(issuer) ? null : { id: found.id, issuer }
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
    return await verifyToken(token, issuer, { allowsLoopback: isDevelopment(c.env) })
  } catch (error) {
    if (error instanceof TokenRefused) throw await refuse(error.reason)
    if (!(error instanceof KeysUnavailable)) throw error
    c.var.trace.fault = { fault: 'token_keys_unavailable', reason: error.reason }
    throw new Problem('TOKEN_KEYS_UNAVAILABLE', 'Try again in a moment, or use an API key.', {
      headers: { 'Retry-After': '30' },
    })
  }
}

/** Notes why, for the log; counts it; and makes the one answer. */
export async function refused(c: Context<AppContext>, source: Source, reason: string): Promise<Problem> {
  c.var.trace.refusal = reason
  await countFailure(c.env, c.var.trace, source)
  return unauthenticated()
}

/** The one credential of a request; null when there is none, or when two of them disagree. */
export function findCredential(c: Context<AppContext>): string | null {
  const bearer = /^Bearer +(\S+)$/i.exec(c.req.header('Authorization') ?? '')?.[1]
  const apiKey = c.req.header('X-API-Key')
  if (bearer && apiKey && bearer !== apiKey) return null
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
