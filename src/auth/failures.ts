// Credentials that were refused. Whoever guesses is stopped before the database is asked; who has the right credential
// is not, whatever his neighbors behind the same address do.
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
/** Good a while ago, and so worth a look: never a permission. */
const accepted = new ExpiringMap<true>(10_000, 60 * 60_000)

/**
 * For a credential that this isolate does not know at present.
 *
 * @param costsNothing when it can be judged without a query: then a blocked address is no reason yet
 * @throws Problem UNAUTHENTICATED when this credential was refused a moment ago; TOO_MANY_REQUESTS when its
 *   address has failed too often
 */
export function refuseBlocked(trace: Trace, source: Source, costsNothing = false): void {
  const reason = refusedFingerprints.get(source.fingerprint)
  if (reason !== undefined) {
    trace.refusal = reason
    throw unauthenticated()
  }
  const address = toAddressKey(source)
  if (address && blocked.get(address) && !costsNothing && !accepted.get(source.fingerprint)) {
    trace.refusal = 'too many failures'
    throw tooManyRequests('failures')
  }
}

/** Whether one more failure is one too many. A prefix never stops a credential that may be right: anybody can send it. */
export function isBlocked(source: Source): boolean {
  return toLimiterKeys(source).some((key) => blocked.get(key))
}

/** Not shut out by others' failures for an hour. */
export function noteAccepted(source: Source): void {
  accepted.set(source.fingerprint, true)
}

/** Counts a refusal against its address and its prefix. */
export async function countFailure(env: Env, trace: Trace, source: Source): Promise<void> {
  refusedFingerprints.set(source.fingerprint, trace.refusal ?? 'unknown')
  for (const key of toLimiterKeys(source)) {
    if (!(await isWithin(env, 'failures', key))) blocked.set(key, true)
  }
}

function toLimiterKeys(source: Source): string[] {
  const address = toAddressKey(source)
  return [...(address ? [address] : []), ...(source.prefix ? [`prefix ${source.prefix}`] : [])]
}

function toAddressKey({ address }: Source): string | null {
  return address && `address ${toNetwork(address)}`
}

/** Of an IPv6 address its /64: one subscriber has them all (RFC 6177). */
function toNetwork(address: string): string {
  // an IPv4 address may be written as an IPv6 one (RFC 4291, 2.5.5.2)
  const mapped = /^::ffff:([0-9.]+)$/i.exec(address)?.[1]
  if (mapped || !address.includes(':')) return mapped ?? address
  // "::" stands for as many zero groups as are missing
  const [head = '', tail] = address.split('::')
  const left = head.split(':').filter(Boolean)
  const right = tail?.split(':').filter(Boolean) ?? []
  const zeros = tail === undefined ? [] : Array.from({ length: Math.max(0, 8 - left.length - right.length) }, () => '0')
  return [...left, ...zeros, ...right].slice(0, 4).join(':')
}
