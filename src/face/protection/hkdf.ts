// HKDF-SHA-256 (RFC 5869), 32 bytes at a time: how every key of PT1 follows from one above it. No I/O.
import type { Octets } from './octets.ts'

export const KEY_BYTES = 32

/** @returns 32 bytes, for the caller to import and wipe */
export async function deriveKeyBytes(secret: Octets, salt: Octets, info: Octets): Promise<Octets> {
  const key = await crypto.subtle.importKey('raw', secret, 'HKDF', false, ['deriveBits'])
  return new Uint8Array(
    await crypto.subtle.deriveBits({ name: 'HKDF', hash: 'SHA-256', salt, info }, key, KEY_BYTES * 8),
  )
}
