// What stands between a row that says "match" and an answer that says so: the sealed copy must agree. No I/O.
import { cosine, type Embedding } from '../embedding.ts'
import type { Keyring } from './keyring.ts'
import type { Octets } from './octets.ts'
import { open, type SealedFace } from './sealed-copy.ts'

/** What the database says of a face that it found to match. */
export interface Match {
  face: SealedFace
  sealed: Octets
  /** 1 - cosine of the stored vector and the rotated probe. */
  distance: number
}

export type Confirmation = 'confirmed' | 'not opened' | 'differs' | 'below threshold'

/** Of distances. The stored vector is the sealed embedding, rotated: rounding explains 1e-6; no edited row hides in 1e-3. */
export const MAX_DIFFERENCE = 1e-3
// The database decides by distances that it has rounded to five decimals, of float32 sums. Without this, an honest match at
// the threshold, where it rounds up and we down, would be called tampering.
const ROUNDING = 1e-5

/**
 * Only 'confirmed' may become a match in an answer.
 *
 * @param probe as the client sent it, not rotated
 * @param maxDistance the largest distance that is a match, as the database was asked
 */
export async function confirm(
  keyring: Keyring,
  { face, sealed, distance }: Match,
  probe: Embedding,
  maxDistance: number,
): Promise<Confirmation> {
  const embedding = await open(keyring, face, sealed)
  if (embedding === 'not opened') return embedding
  const exact = 1 - cosine(embedding, probe)
  // both written so that NaN fails them
  if (!(Math.abs(exact - distance) <= MAX_DIFFERENCE)) return 'differs'
  if (!(exact <= maxDistance + ROUNDING)) return 'below threshold'
  return 'confirmed'
}
