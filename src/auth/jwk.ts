// Which public keys of a JWK set (RFC 7517) may be trusted, and for which algorithms. No I/O.
import { importJWK, type JWK } from 'jose'
import { decodeBase64url, isObject, isText } from './canonical.ts'
import type { TokenAlgorithm } from './issuer.ts'

export interface TrustedKey {
  kid: string
  /** What the key may verify. */
  algorithms: readonly TokenAlgorithm[]
  /** The public members that were checked, and no others. */
  jwk: JWK
  /** Filled by `toCryptoKey`: WebCrypto ties a key to one algorithm. */
  imported: Map<TokenAlgorithm, CryptoKey>
}

/** The keys of a set that may be used, by `kid`. */
export type KeySet = ReadonlyMap<string, TrustedKey>

const MAX_KEYS = 50
const MAX_KID_LENGTH = 255

// WebCrypto and jose accept smaller and larger ones. 2048: RFC 7518 section 3.3; 8192: a verification takes
// the square of the length, and whoever publishes the key chooses our CPU time.
const MIN_RSA_BITS = 2048
const MAX_RSA_BITS = 8192
/** F4, the smallest that FIPS 186-5 allows: with 1 every text is its own signature, with 3 bad padding is forgeable. */
const MIN_RSA_EXPONENT = 65537
const MAX_RSA_EXPONENT_BYTES = 4

const PRIVATE_MEMBERS = ['d', 'p', 'q', 'dp', 'dq', 'qi', 'oth', 'k', 'priv']

const RSA_ALGORITHMS: readonly TokenAlgorithm[] = ['RS256', 'RS384', 'RS512', 'PS256', 'PS384', 'PS512']

/** RFC 7518 section 6.2.1 and RFC 8037: one algorithm for each curve, coordinates at their full size. */
const CURVES: Record<string, { kty: string; algorithm: TokenAlgorithm; coordinates: string[]; byteLength: number }> = {
  'P-256': { kty: 'EC', algorithm: 'ES256', coordinates: ['x', 'y'], byteLength: 32 },
  'P-384': { kty: 'EC', algorithm: 'ES384', coordinates: ['x', 'y'], byteLength: 48 },
  'P-521': { kty: 'EC', algorithm: 'ES512', coordinates: ['x', 'y'], byteLength: 66 },
  Ed25519: { kty: 'OKP', algorithm: 'EdDSA', coordinates: ['x'], byteLength: 32 },
}

/**
 * The usable keys of a fetched set; null when it is no set of at most 50 keys. A key that may not be trusted is
 * left out. Two keys with one `kid` are both left out, whatever they are: which of them a token means would
 * depend on their order.
 */
export function toKeySet(value: unknown): KeySet | null {
  const jwks = listKeys(value)
  if (!jwks) return null
  const repeated = findRepeatedKids(jwks)
  const keys = new Map<string, TrustedKey>()
  for (const jwk of jwks) {
    const key = toTrustedKey(jwk)
    if (typeof key !== 'string' && !repeated.has(key.kid)) keys.set(key.kid, key)
  }
  return keys
}

/** Why a set that somebody configures is not acceptable, where `toKeySet` would leave keys out; null when it is. */
export function findKeySetFault(value: unknown): string | null {
  const jwks = listKeys(value)
  if (!jwks || jwks.length === 0) return `Must be a JWK set, {"keys": [...]}, of 1 to ${MAX_KEYS} keys.`
  for (const [index, jwk] of jwks.entries()) {
    const key = toTrustedKey(jwk)
    if (typeof key === 'string') return `keys[${index}]: ${key}`
  }
  return findRepeatedKids(jwks).size > 0 ? 'Must give each key another "kid".' : null
}

/**
 * One key of a set, or why it may not be trusted. That an EC point is on its curve is left to `toCryptoKey`:
 * the import checks it.
 */
export function toTrustedKey(value: unknown): TrustedKey | string {
  if (!isObject(value)) return 'Must be an object.'
  const { kid, kty, use, key_ops: operations, alg } = value
  if (!isText(kid, MAX_KID_LENGTH)) {
    return `Must have a "kid" of 1 to ${MAX_KID_LENGTH} characters, without control characters.`
  }
  // the published half of a key whose private half is published too proves nothing
  if (kty === 'oct' || PRIVATE_MEMBERS.some((member) => member in value)) return 'Must be a public key.'
  if (use !== undefined && use !== 'sig') return 'Must have no "use" but "sig".'
  if (operations !== undefined && !(Array.isArray(operations) && operations.includes('verify'))) {
    return 'Must have "verify" in "key_ops", or no "key_ops".'
  }
  const material = kty === 'RSA' ? readRsa(value) : readCurve(value)
  if (typeof material === 'string') return material
  const algorithms = material.algorithms.filter((algorithm) => alg === undefined || alg === algorithm)
  if (algorithms.length === 0) return `Must have no "alg" but ${material.algorithms.join(', ')}.`
  return { kid, algorithms, jwk: material.jwk, imported: new Map() }
}

/**
 * The key as WebCrypto takes it, imported once for each algorithm; null when the import refuses it (a point that
 * is not on its curve).
 *
 * @param algorithm one of `key.algorithms`
 */
export async function toCryptoKey(key: TrustedKey, algorithm: TokenAlgorithm): Promise<CryptoKey | null> {
  const known = key.imported.get(algorithm)
  if (known) return known
  try {
    // jose answers bytes for kty "oct" only, which is never trusted
    const imported = (await importJWK(key.jwk, algorithm)) as CryptoKey
    key.imported.set(algorithm, imported)
    return imported
  } catch {
    return null
  }
}

type Material = { jwk: JWK; algorithms: readonly TokenAlgorithm[] }

function readRsa({ n, e }: Record<string, unknown>): Material | string {
  const modulus = toInteger(n)
  const exponentBytes = typeof e === 'string' ? decodeBase64url(e) : null
  const exponent = toInteger(e)
  if (modulus === null || exponentBytes === null || exponent === null) {
    return 'Must have "n" and "e" in base64url without padding.'
  }
  const bitLength = modulus.toString(2).length
  if (bitLength < MIN_RSA_BITS || bitLength > MAX_RSA_BITS) {
    return `Must have a modulus of ${MIN_RSA_BITS} to ${MAX_RSA_BITS} bits.`
  }
  const isOdd = exponent % 2n === 1n
  if (exponent < MIN_RSA_EXPONENT || !isOdd || exponentBytes.length > MAX_RSA_EXPONENT_BYTES) {
    return `Must have an odd public exponent of at least ${MIN_RSA_EXPONENT}, in at most ${MAX_RSA_EXPONENT_BYTES} bytes.`
  }
  if (isRoca(modulus)) return 'Must not be a key of the faulty generator of CVE-2017-15361 (ROCA): make a new one.'
  // both were strings, or there would be no integers
  return { jwk: { kty: 'RSA', n: n as string, e: e as string }, algorithms: RSA_ALGORITHMS }
}

function readCurve(value: Record<string, unknown>): Material | string {
  const { kty, crv } = value
  const curve = typeof crv === 'string' && Object.hasOwn(CURVES, crv) ? CURVES[crv] : undefined
  if (!curve || curve.kty !== kty) {
    return 'Must be of kty RSA, EC (P-256, P-384, P-521) or OKP (Ed25519).'
  }
  const jwk: Record<string, string> = { kty: curve.kty, crv: String(crv) }
  for (const name of curve.coordinates) {
    const text = value[name]
    const bytes = typeof text === 'string' ? decodeBase64url(text) : null
    if (typeof text !== 'string' || bytes?.length !== curve.byteLength) {
      return `Must have "${name}" of ${curve.byteLength} bytes in base64url without padding.`
    }
    if (curve.kty === 'OKP' && isSmallOrder(bytes)) return 'Must not be a point of small order.'
    jwk[name] = text
  }
  return { jwk, algorithms: [curve.algorithm] }
}

function toInteger(text: unknown): bigint | null {
  const bytes = typeof text === 'string' ? decodeBase64url(text) : null
  return bytes && BigInt(`0x${toHex(bytes)}`)
}

function toHex(bytes: Uint8Array): string {
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, '0')).join('')
}

// The primes of the paper's M, without 2, which tells nothing.
const ROCA_PRIMES = [
  3, 5, 7, 11, 13, 17, 19, 23, 29, 31, 37, 41, 43, 47, 53, 59, 61, 67, 71, 73, 79, 83, 89, 97, 101, 103, 107, 109, 113,
  127, 131, 137, 139, 149, 151, 157, 163, 167,
]

/**
 * The fingerprint of Nemec et al., "The Return of Coppersmith's Attack" (2017), section 3: the faulty generator
 * made primes k * M + (65537^a mod M), so that its moduli are powers of 65537 modulo each small prime. A modulus
 * made otherwise is one by chance less than once in 2^27 times.
 */
function isRoca(modulus: bigint): boolean {
  return ROCA_PRIMES.every((prime) => isPowerOf65537(Number(modulus % BigInt(prime)), prime))
}

function isPowerOf65537(residue: number, prime: number): boolean {
  let power = 1
  do {
    if (power === residue) return true
    power = (power * 65537) % prime
  } while (power !== 1)
  return false
}

// The y of every Ed25519 point whose order divides 8, little-endian, and the two that are spelled with p added.
// A public key like that verifies signatures which anybody can write down.
const SMALL_ORDER_Y = new Set([
  '0000000000000000000000000000000000000000000000000000000000000000',
  '0100000000000000000000000000000000000000000000000000000000000000',
  '26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05',
  'c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a',
  'ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f',
  'edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f',
  'eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f',
])

function isSmallOrder(point: Uint8Array): boolean {
  // the highest bit is the sign of x
  return SMALL_ORDER_Y.has(toHex(point.map((byte, index) => (index === point.length - 1 ? byte & 0x7f : byte))))
}

function listKeys(value: unknown): unknown[] | null {
  const keys = isObject(value) ? value['keys'] : undefined
  return Array.isArray(keys) && keys.length <= MAX_KEYS ? keys : null
}

function findRepeatedKids(jwks: unknown[]): Set<unknown> {
  const kids = jwks.map((jwk) => (isObject(jwk) ? jwk['kid'] : undefined))
  return new Set(kids.filter((kid, index) => kid !== undefined && kids.indexOf(kid) !== index))
}
