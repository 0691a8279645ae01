// AES-256-GCM as PT1 uses it: a fresh random nonce in front, the 16-byte tag behind. No I/O but randomness.
import { concatenate, type Octets } from './octets.ts'

// 96 bits: the only length that GCM takes as it is (NIST SP 800-38D, 5.2.1.1)
const NONCE_BYTES = 12
/** What `encrypt` adds to a plaintext: nonce and tag. */
export const OVERHEAD_BYTES = NONCE_BYTES + 16

/** Imports 32 bytes, and wipes them: afterwards nothing in the isolate can read the key back. */
export async function toAeadKey(bytes: Octets): Promise<CryptoKey> {
  const key = await crypto.subtle.importKey('raw', bytes, 'AES-GCM', false, ['encrypt', 'decrypt'])
  bytes.fill(0)
  return key
}

/**
 * The nonce is random and not the caller's to choose: one that comes twice under a key opens both. Random ones are
 * good for 2^32 encryptions under a key (SP 800-38D, 8.3).
 */
export async function encrypt(key: CryptoKey, plaintext: Octets, associated: Octets): Promise<Octets> {
  const iv = crypto.getRandomValues(new Uint8Array(NONCE_BYTES))
  const sealed = await crypto.subtle.encrypt({ name: 'AES-GCM', iv, additionalData: associated }, key, plaintext)
  return concatenate(iv, new Uint8Array(sealed))
}

/** @returns null when the bytes are not what `encrypt` made with this key and these associated bytes */
export async function decrypt(key: CryptoKey, box: Octets, associated: Octets): Promise<Octets | null> {
  if (box.length < OVERHEAD_BYTES) return null
  const parameters = { name: 'AES-GCM', iv: box.subarray(0, NONCE_BYTES), additionalData: associated }
  try {
    return new Uint8Array(await crypto.subtle.decrypt(parameters, key, box.subarray(NONCE_BYTES)))
  } catch {
    // an OperationError, whose words differ between runtimes and help nobody
    return null
  }
}
