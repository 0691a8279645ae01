// The master keys: Worker secrets that wrap every tenant's data secret, and nothing else. No I/O.
import { toAeadKey } from './aead.ts'
import { deriveKeyBytes, KEY_BYTES } from './hkdf.ts'
import { isU16, type Octets, utf8 } from './octets.ts'

/** KEK[r] by r, the number of its master key. Several are live while a new one takes over. */
export type MasterKeys = ReadonlyMap<number, CryptoKey>

const KEK_INFO = utf8('rekko/pt1/kek')
const NO_SALT = new Uint8Array(KEY_BYTES)

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
