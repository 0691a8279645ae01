// How often a credential may ask, and how often an address may fail to have one. Counted by Cloudflare's
// rate-limiting binding where the Worker runs, so nothing is asked of the database and a refused call costs
// nothing. The counts are of one location and eventually consistent: a bound on load, not on billing.
import type { Scope } from './auth/api-key.ts'
import type { Env } from './env.ts'
import { Problem } from './problem.ts'

interface Policy {
  /** The binding in wrangler.toml, whose numbers these are; a test holds the two together. */
  binding: keyof Env & `${string}_LIMIT`
  quota: number
  periodSeconds: 10 | 60
}

/** One for each class of routes. A gate's verification must not wait because a back end enrolls. */
export const POLICIES = {
  /** All gates of a venue behind one key: 60,000 people in an hour are 1,000 a minute, and they come in waves. */
  verify: { binding: 'VERIFY_LIMIT', quota: 6_000, periodSeconds: 60 },
  /** A search of 100,000 faces takes 18 ms of a core of the database (ARCHITECTURE.md, "Search"). */
  identify: { binding: 'IDENTIFY_LIMIT', quota: 1_200, periodSeconds: 60 },
  write: { binding: 'WRITE_LIMIT', quota: 3_000, periodSeconds: 60 },
  read: { binding: 'READ_LIMIT', quota: 3_000, periodSeconds: 60 },
  admin: { binding: 'ADMIN_LIMIT', quota: 120, periodSeconds: 60 },
  /** Credentials that were refused, by address and by the prefix of the key: each counts once a minute. */
  failures: { binding: 'FAILURE_LIMIT', quota: 30, periodSeconds: 60 },
} as const satisfies Record<string, Policy>

export type PolicyName = keyof typeof POLICIES

/** The class of the routes that a scope opens. */
export const POLICY_OF_SCOPE: Record<Scope, PolicyName> = {
  verify: 'verify',
  identify: 'identify',
  'faces:write': 'write',
  'faces:read': 'read',
  'scores:read': 'read',
  'audit:read': 'read',
  'usage:read': 'read',
  admin: 'admin',
}

/** The value of the header RateLimit-Policy (draft-ietf-httpapi-ratelimit-headers). */
export function toPolicyHeader(name: PolicyName): string {
  const { quota, periodSeconds } = POLICIES[name]
  return `"${name}";q=${quota};w=${periodSeconds}`
}

/**
 * Counts one call.
 *
 * @param key whose call it is: never a credential itself, which would be kept by the limiter
 * @returns false when the quota is used up; always true where the binding is not configured
 */
export async function isWithin(env: Env, name: PolicyName, key: string): Promise<boolean> {
  const limiter = env[POLICIES[name].binding]
  if (!limiter) return true
  const { success } = await limiter.limit({ key })
  return success
}

export function tooManyRequests(name: PolicyName): Problem {
  return new Problem('TOO_MANY_REQUESTS', 'Wait as long as Retry-After says, and spread your requests.', {
    headers: { 'Retry-After': String(POLICIES[name].periodSeconds), 'RateLimit-Policy': toPolicyHeader(name) },
  })
}
