// Middleware: whose credential this is. What it may do is checked in the transaction itself.
import type { HonoRequest } from 'hono'
import { createMiddleware } from 'hono/factory'
import { findTenantByApiKey, openTenant, type Tenant, unauthenticated } from '../db/tenant.ts'
import type { AppContext, Env } from '../env.ts'
import { Problem } from '../problem.ts'
import { hashApiKey, isApiKey, type Scope, toPepper } from './api-key.ts'

/** Opens the door to the data of the credential's tenant, for one scope: `c.var.db`. */
export function requires(scope: Scope) {
  return createMiddleware<AppContext>(async (c, next) => {
    const credential = findCredential(c.req)
    if (!credential || !isApiKey(credential)) throw unauthenticated()
    const keyHash = await hashApiKey(credential, await pepper(c.env))
    const tenant = findCached(keyHash) ?? remember(keyHash, await findTenantByApiKey(c.env, keyHash))
    if (!tenant) throw unauthenticated()
    c.set(
      'db',
      openTenant(c.env, tenant, keyHash, scope, () => cache.delete(keyHash)),
    )
    await next()
  })
}

/** The one credential of a request; null when there is none, or when two of them disagree. */
function findCredential(req: HonoRequest): string | null {
  const bearer = /^Bearer +(\S+)$/i.exec(req.header('Authorization') ?? '')?.[1]
  const apiKey = req.header('X-API-Key')
  if (bearer && apiKey && bearer !== apiKey) return null
  return bearer ?? apiKey ?? null
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

// Which tenant a key belongs to never changes; its settings may, and reach an isolate within a minute.
const CACHE_TTL_MS = 60_000
const CACHE_MAX_ENTRIES = 10_000
const cache = new Map<string, { tenant: Tenant; expiresAt: number }>()

function findCached(keyHash: string): Tenant | undefined {
  const entry = cache.get(keyHash)
  if (entry && entry.expiresAt > Date.now()) return entry.tenant
  cache.delete(keyHash)
  return undefined
}

function remember(keyHash: string, tenant: Tenant | null): Tenant | null {
  if (!tenant) return null
  // a Map keeps the order of insertion: the first key is the oldest entry
  const oldest = cache.size >= CACHE_MAX_ENTRIES ? cache.keys().next().value : undefined
  if (oldest !== undefined) cache.delete(oldest)
  cache.set(keyHash, { tenant, expiresAt: Date.now() + CACHE_TTL_MS })
  return tenant
}
