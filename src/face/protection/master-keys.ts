// The master keys: Worker secrets that wrap every tenant's data secret, and nothing else. No I/O.
import { toAeadKey } from './aead.ts'
import { deriveKeyBytes, KEY_BYTES } from './hkdf.ts'
import { fromBase64, isU16, type Octets, utf8 } from './octets.ts'

/** KEK[r] by r, the number of its master key. Several are live while a new one takes over. */
export type MasterKeys = ReadonlyMap<number, CryptoKey>

/** From this number on, a master key is one of development: everybody knows it. */
const DEVELOPMENT_FROM = 0xff00
/** The one that comes with the source, by its only number: under another it would pass for a secret. */
const DEVELOPMENT_NUMBER = 0xffff
const DEVELOPMENT_SECRET = utf8('known to everybody: development!')
const MAX_KEYS = 16
const ENTRY = /^([0-9]{1,5}):([A-Za-z0-9+/]{43}=)$/

const KEK_INFO = utf8('rekko/pt1/kek')
const NO_SALT = new Uint8Array(KEY_BYTES)

/**
 * Reads a secret as operators write it: "1:<base64 of 32 bytes>", and more behind commas while a new key takes over.
 *
 * @returns MASTER[r] by r, for the caller to wipe; or what is wrong, which repeats nothing of the text
 */
export function parseMasterKeys(text: string): Map<number, Octets> | { fault: string } {
  const secrets = new Map<number, Octets>()
  const entries = text.split(',').map((entry) => entry.trim())
  if (entries.length > MAX_KEYS) return { fault: `has more than ${MAX_KEYS} keys` }
  for (const [index, entry] of entries.entries()) {
    const [, number = '', base64 = ''] = ENTRY.exec(entry) ?? []
    if (base64 === '' || !isU16(Number(number))) {
      return { fault: `must be a number from 0 to 65535, a colon, and base64 of 32 bytes: key ${index + 1} is not` }
    }
    if (secrets.has(Number(number))) return { fault: `has two keys of the number ${Number(number)}` }
    const secret = fromBase64(base64)
    if (Number(number) !== DEVELOPMENT_NUMBER && secret.every((byte, index) => byte === DEVELOPMENT_SECRET[index])) {
      return { fault: `has the key of development under another number than ${DEVELOPMENT_NUMBER}: key ${index + 1}` }
    }
    secrets.set(Number(number), secret)
  }
  return secrets
}

/** Of the master keys, the one to wrap with: the highest number, and one of development only where there is no other. */
export function newestMasterKey(keys: ReadonlyMap<number, unknown>): number {
  const numbers = [...keys.keys()]
  const real = numbers.filter((number) => !isDevelopmentKey(number))
  return Math.max(...(real.length > 0 ? real : numbers))
}

/** Whether a master key is one of development, with which nothing is protected. */
export function isDevelopmentKey(number: number): boolean {
  return number >= DEVELOPMENT_FROM
}

/**
 * @param secrets MASTER[r], 32 random bytes, by r (0 to 65,535). They are the caller's to wipe.
 * @throws RangeError for a secret of another length, or a number that two bytes cannot hold: the operator's mistake
 */
export async function toMasterKeys(secrets: ReadonlyMap<number, Octets>): Promise<MasterKeys> {
  const keys = new Map<number, CryptoKey>()
  for (const [number, secret] of secrets) {
    if (!isU16(number)) throw new RangeError('a master key must have a number from 0 to 65535')
    if (secret.length !== KEY_BYTES) throw new RangeError(`a master key must be ${KEY_BYTES} bytes`)
    keys.set(number, await toAeadKey(await deriveKeyBytes(secret, NO_SALT, KEK_INFO)))
  }
  return keys
}
