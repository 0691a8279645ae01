// Which web pages may read answers (CORS, the Fetch standard): those of the origins that a tenant configured.
import { createMiddleware } from 'hono/factory'
import type { AppContext } from './env.ts'

/**
 * A browser asks first, without a credential, so nobody can know then which tenant it will be: every page
 * is told the same, that it may ask. An answer is what it may not read, unless the tenant of the credential
 * named its origin. (Answering the first question from the tenants' settings would tell anybody which sites
 * are our tenants'.) No cookie is involved, so a page can send nothing that it has not got.
 */
export const crossOrigin = createMiddleware<AppContext>(async (c, next) => {
  const origin = c.req.header('Origin')
  const isPreflight = c.req.method === 'OPTIONS' && c.req.header('Access-Control-Request-Method')
  // no page is the operator's
  if (origin && isPreflight && !c.req.path.startsWith('/v1/operator/')) {
    return c.body(null, 204, PREFLIGHT)
  }
  await next()
  // unset where no credential was known; one that the transaction refuses is answered like any other
  const db: AppContext['Variables']['db'] | undefined = c.var.db
  if (origin && c.res.status !== 401 && db?.tenant.settings.allowedOrigins.includes(origin)) {
    c.res.headers.set('Access-Control-Allow-Origin', origin)
    c.res.headers.set(
      'Access-Control-Expose-Headers',
      'Idempotent-Replayed, RateLimit-Policy, Retry-After, Server-Timing, X-Request-Id',
    )
  }
  return undefined
})

const PREFLIGHT = {
  'Access-Control-Allow-Origin': '*',
  'Access-Control-Allow-Methods': 'GET, POST, PUT, PATCH, DELETE',
  'Access-Control-Allow-Headers': 'Authorization, Content-Type, Idempotency-Key, X-API-Key, X-Request-Id',
  'Access-Control-Max-Age': '86400',
}
