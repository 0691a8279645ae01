// API keys: how they are made, recognized and hashed. No I/O.
//
//   rk_live_ | rk_test_   32 base62 characters (190 random bits)   6 base62 characters (CRC-32)
//
// The prefix tells secret scanners what they found; the checksum refuses a typo without a query.

const BASE62 = '0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz'
const SECRET_LENGTH = 32
const CHECKSUM_LENGTH = 6
const SHAPE = new RegExp(`^rk_(live|test)_[0-9A-Za-z]{${SECRET_LENGTH + CHECKSUM_LENGTH}}$`)

export const ENVIRONMENTS = ['live', 'test'] as const
export type Environment = (typeof ENVIRONMENTS)[number]

export const SCOPES = [
  'faces:read',
  'faces:write',
  'verify',
  'identify',
  'scores:read',
  'audit:read',
  'usage:read',
  'admin',
] as const
export type Scope = (typeof SCOPES)[number]

declare const checked: unique symbol
/** A string of the right shape with the right checksum; whether it is anyone's key is another matter. */
export type ApiKey = string & { readonly [checked]: true }

/**
 * @param random bytes that nobody can guess: 64 are enough but once in 10^31 times, RangeError then
 */
export function generateApiKey(
  environment: Environment,
  random: Uint8Array = crypto.getRandomValues(new Uint8Array(64)),
): ApiKey {
  let secret = ''
  for (const byte of random) {
    // 248 is the largest multiple of 62 in a byte: what lies above would favor some characters
    if (byte < 248 && secret.length < SECRET_LENGTH) secret += BASE62.charAt(byte % 62)
  }
  if (secret.length < SECRET_LENGTH) throw new RangeError('too few random bytes for an API key')
  const unchecked = `rk_${environment}_${secret}`
  // complete by construction
  return (unchecked + checksum(unchecked)) as ApiKey
}

/** Of what an API key is made, beside the pepper. */
export interface ApiKeyOrigin {
  environment: Environment
  tenantId: string
  /** Under which the request is remembered that makes it, hexadecimal digits. */
  request: string
  /** Random, 64 hexadecimal digits. */
  seed: string
}

/**
 * The API key of an origin: whoever has it and the pepper can make the key again, so that a repeated request is answered
 * with the same key, which is stored nowhere.
 */
export async function deriveApiKey(origin: ApiKeyOrigin, pepper: CryptoKey): Promise<ApiKey> {
  const { environment, tenantId, request, seed } = origin
  // no API key and no token begins like that
  const message = `api key\0${environment}\0${tenantId}\0${request}\0${seed}\0`
  const halves = await Promise.all(
    [1, 2].map((half) => crypto.subtle.sign('HMAC', pepper, encoder.encode(message + half))),
  )
  return generateApiKey(environment, Buffer.concat(halves.map((half) => new Uint8Array(half))))
}

export function isApiKey(text: string): text is ApiKey {
  return SHAPE.test(text) && checksum(text.slice(0, -CHECKSUM_LENGTH)) === text.slice(-CHECKSUM_LENGTH)
}

/** What may be shown of a key after its creation: enough to tell two keys apart. */
export function toPrefix(key: ApiKey): string {
  return key.slice(0, 'rk_live_'.length + 4)
}

/**
 * HMAC-SHA-256 of the key under the pepper. The key has 190 random bits, so a fast hash is enough;
 * the pepper keeps a stolen table from telling which of two leaked keys is in it.
 *
 * @param key or whatever was presented as one
 * @returns 64 lower-case hexadecimal digits
 */
export async function hashApiKey(key: string, pepper: CryptoKey): Promise<string> {
  const digest = await crypto.subtle.sign('HMAC', pepper, encoder.encode(key))
  let digits = ''
  for (const byte of new Uint8Array(digest)) digits += HEXADECIMAL[byte]
  return digits
}

const encoder = new TextEncoder()
/** Of each byte, its two digits: they are asked for in every request. */
const HEXADECIMAL = Array.from({ length: 256 }, (_, byte) => byte.toString(16).padStart(2, '0'))

const MIN_PEPPER_LENGTH = 32

/** @throws RangeError when the pepper is absent or shorter than 32 characters: ours to configure */
export async function toPepper(text: string | undefined): Promise<CryptoKey> {
  if (!text || text.length < MIN_PEPPER_LENGTH) {
    throw new RangeError(`API_KEY_PEPPER must have at least ${MIN_PEPPER_LENGTH} characters`)
  }
  return crypto.subtle.importKey('raw', new TextEncoder().encode(text), { name: 'HMAC', hash: 'SHA-256' }, false, [
    'sign',
    'verify',
  ])
}

function checksum(text: string): string {
  let remainder = crc32(text)
  let digits = ''
  for (let digit = 0; digit < CHECKSUM_LENGTH; digit++) {
    digits = BASE62.charAt(remainder % 62) + digits
    remainder = Math.floor(remainder / 62)
  }
  return digits
}

/** CRC-32 as in ISO 3309 and zlib (reflected, polynomial 0xEDB88320). */
function crc32(text: string): number {
  let crc = 0xffffffff
  for (let index = 0; index < text.length; index++) {
    crc ^= text.charCodeAt(index)
    for (let bit = 0; bit < 8; bit++) crc = crc & 1 ? (crc >>> 1) ^ 0xedb88320 : crc >>> 1
  }
  return (crc ^ 0xffffffff) >>> 0
}
