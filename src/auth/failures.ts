// Credentials that were refused. A guesser is stopped before the database is asked; a kiosk with a revoked
// key, which asks again and again, costs nothing and does not shut out its neighbors behind the same address.
import { unauthenticated } from '../db/tenant.ts'
import type { Env } from '../env.ts'
import { ExpiringMap } from '../expiring-map.ts'
import { isWithin, POLICIES, tooManyRequests } from '../rate-limit.ts'
import type { Trace } from '../trace.ts'

export interface Source {
  /** IP address; null where it is not known. */
  address: string | null
  /** A hash of the credential under the pepper. */
  fingerprint: string
  /** What may be shown of a key; null for a token and for what has not the form of a key. */
  prefix: string | null
}

const PERIOD_MS = POLICIES.failures.periodSeconds * 1000
/** The same credential again: answered from memory. A key that is resumed works again within a minute. */
const refusedFingerprints = new ExpiringMap<string>(10_000, PERIOD_MS)
const blocked = new ExpiringMap<true>(10_000, PERIOD_MS)

/**
 * For a credential that this isolate has not accepted lately.
 *
 * @throws Problem UNAUTHENTICATED when this credential was refused a moment ago; TOO_MANY_REQUESTS when its
 *   address or its prefix has failed too often
 */
export function refuseBlocked(trace: Trace, source: Source): void {
  const reason = refusedFingerprints.get(source.fingerprint)
  if (reason !== undefined) {
    trace.refusal = reason
    throw unauthenticated()
  }
  if (toLimiterKeys(source).some((key) => blocked.get(key))) {
    trace.refusal = 'too many failures'
    throw tooManyRequests('failures')
  }
}

/** Counts a refusal against its address and its prefix. */
export async function countFailure(env: Env, trace: Trace, source: Source): Promise<void> {
  refusedFingerprints.set(source.fingerprint, trace.refusal ?? 'unknown')
  for (const key of toLimiterKeys(source)) {
    if (!(await isWithin(env, 'failures', key))) blocked.set(key, true)
  }
}

function toLimiterKeys({ address, prefix }: Source): string[] {
  return [...(address ? [`address ${toNetwork(address)}`] : []), ...(prefix ? [`prefix ${prefix}`] : [])]
}

/** Of an IPv6 address its /64: one subscriber has them all (RFC 6177). */
function toNetwork(address: string): string {
  if (!address.includes(':')) return address
  // "::" stands for as many zero groups as are missing
  const [head = '', tail] = address.split('::')
  const left = head.split(':').filter(Boolean)
  const right = tail?.split(':').filter(Boolean) ?? []
  const zeros = tail === undefined ? [] : Array.from({ length: Math.max(0, 8 - left.length - right.length) }, () => '0')
  return [...left, ...zeros, ...right].slice(0, 4).join(':')
}
