// The keys of an issuer: fetched within limits, and kept for the isolate.
import { isObject, parseObject } from './canonical.ts'
import type { Issuer } from './issuer.ts'
import { type KeySet, type TrustedKey, toKeySet } from './jwk.ts'
import { findUrlFault } from './jwks-url.ts'

/** For the whole fetch, body included: what a request can wait for somebody else's server. */
const FETCH_TIMEOUT_MS = 2000
/** 50 keys with certificate chains take some 200 KiB. */
const MAX_BYTES = 256 * 1024
/** How long a key that was taken out of its set goes on working. */
const FRESH_MS = 5 * 60_000
/** Between two fetches of one set, also after a failure: unknown key ids cost nothing to invent. */
const REFETCH_INTERVAL_MS = 30_000
/** How long the last good keys serve while the issuer cannot be reached. */
const LAST_GOOD_MS = 60 * 60_000
/** Fetches of one set at a time while it was never fetched. */
const MAX_FIRST_FETCHES = 6
const MAX_ISSUERS = 1000
const POLL_MS = 20
/** A fetch whose request was canceled never reports its end; by then it has timed out. */
const ABANDONED_MS = FETCH_TIMEOUT_MS + 500

/** Why an issuer has no keys at present, for our log. */
export type KeysFailure = 'address' | 'unreachable' | 'status' | 'too_large' | 'not_a_key_set'

/** Nobody can say whether the token is good: our trouble or the issuer's, not the client's. */
export class KeysUnavailable extends Error {
  readonly reason: KeysFailure

  constructor(reason: KeysFailure) {
    super(`the keys of the issuer cannot be had: ${reason}`)
    this.name = 'KeysUnavailable'
    this.reason = reason
  }
}

interface Entry {
  /** The last good set. */
  keys: KeySet | null
  keysFrom: number
  /** When the last fetch began; null until the first one has ended. */
  fetchedAt: number | null
  /** Fetches that have not ended. */
  pending: Set<{ since: number }>
  failure: KeysFailure
}

// By URL. In a Map the order is that of insertion: the first is the oldest.
const entries = new Map<string, Entry>()
const inline = new WeakMap<object, KeySet>()

/**
 * The key of an issuer that a token names; null when the issuer has no such key that may be trusted.
 *
 * @param now milliseconds since 1970
 * @param keepAlive given the fetch, which is to end even when the client hangs up
 * @throws KeysUnavailable when there are no keys, or none young enough, and they cannot be fetched
 */
export async function findKey(
  keys: Issuer['keys'],
  kid: string,
  allowsLoopback: boolean,
  now: number,
  keepAlive: (work: Promise<unknown>) => void = () => {},
): Promise<TrustedKey | null> {
  if ('jwks' in keys) return findInlineKeys(keys.jwks).get(kid) ?? null
  // also here, so that no other way into an Issuer makes us fetch from inside a network
  if (findUrlFault(keys.url, allowsLoopback)) throw new KeysUnavailable('address')

  const entry = findEntry(keys.url)
  const known = usableKeys(entry, now)?.get(kid)
  if (known && now - entry.keysFrom < FRESH_MS) return known
  if (mayFetch(entry, now)) {
    const refreshing = refresh(entry, keys.url, now)
    // a client that hangs up must not leave the turn used and the keys as they were
    keepAlive(refreshing)
    await refreshing
  }
  // an older key is good enough meanwhile; only who has none waits
  else if (!known) await waitForOthers(entry)

  const usable = usableKeys(entry, now)
  if (!usable) throw new KeysUnavailable(entry.failure)
  return usable.get(kid) ?? null
}

function findInlineKeys(jwks: unknown): KeySet {
  if (!isObject(jwks)) return new Map()
  const known = inline.get(jwks) ?? toKeySet(jwks) ?? new Map()
  inline.set(jwks, known)
  return known
}

function findEntry(url: string): Entry {
  const known = entries.get(url)
  if (known) return known
  const oldest = entries.size >= MAX_ISSUERS ? entries.keys().next().value : undefined
  if (oldest !== undefined) entries.delete(oldest)
  const entry: Entry = { keys: null, keysFrom: 0, fetchedAt: null, pending: new Set(), failure: 'unreachable' }
  entries.set(url, entry)
  return entry
}

function usableKeys(entry: Entry, now: number): KeySet | null {
  return now - entry.keysFrom < LAST_GOOD_MS ? entry.keys : null
}

function mayFetch(entry: Entry, now: number): boolean {
  for (const fetching of entry.pending) {
    if (now - fetching.since >= ABANDONED_MS) entry.pending.delete(fetching)
  }
  if (entry.fetchedAt === null) return entry.pending.size < MAX_FIRST_FETCHES
  return now - entry.fetchedAt >= REFETCH_INTERVAL_MS
}

async function refresh(entry: Entry, url: string, now: number): Promise<void> {
  const fetching = { since: now }
  entry.pending.add(fetching)
  // at once: whoever cancels a request must not get another fetch for it
  if (entry.fetchedAt !== null) entry.fetchedAt = now
  const result = await fetchKeySet(url)
  entry.pending.delete(fetching)
  entry.fetchedAt = now
  if (typeof result === 'string') {
    entry.failure = result
  } else {
    entry.keys = result
    entry.keysFrom = now
  }
}

/**
 * Until a fetch of another request has ended. By looking, on timers of our own: in workerd a request cannot await
 * the I/O of another one.
 */
async function waitForOthers(entry: Entry): Promise<void> {
  const { fetchedAt } = entry
  for (let waitedMs = 0; waitedMs < ABANDONED_MS; waitedMs += POLL_MS) {
    if (entry.pending.size === 0 || entry.fetchedAt !== fetchedAt) return
    await new Promise((resolve) => setTimeout(resolve, POLL_MS))
  }
}

async function fetchKeySet(url: string): Promise<KeySet | KeysFailure> {
  try {
    const response = await fetch(url, {
      // followed, it could lead where findUrlFault would not let us go
      redirect: 'manual',
      // a copy in an edge cache would keep a removed key alive for as long as the issuer's headers say
      cache: 'no-store',
      headers: { Accept: 'application/json' },
      signal: AbortSignal.timeout(FETCH_TIMEOUT_MS),
    })
    if (response.status !== 200) {
      await response.body?.cancel()
      return 'status'
    }
    const bytes = await read(response)
    if (!bytes) return 'too_large'
    return toKeySet(parseObject(bytes)) ?? 'not_a_key_set'
  } catch {
    return 'unreachable'
  }
}

/** The body; null when it is too large. Counted while it arrives: a length in a header binds nobody. */
async function read(response: Response): Promise<Uint8Array | null> {
  const chunks: Uint8Array[] = []
  let byteLength = 0
  const reader = response.body?.getReader()
  while (reader) {
    const { done, value } = await reader.read()
    if (done) break
    byteLength += value.byteLength
    if (byteLength > MAX_BYTES) {
      await reader.cancel()
      return null
    }
    chunks.push(value)
  }
  const bytes = new Uint8Array(byteLength)
  let offset = 0
  for (const chunk of chunks) {
    bytes.set(chunk, offset)
    offset += chunk.byteLength
  }
  return bytes
}
