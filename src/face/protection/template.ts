// A face's template: rotated, to search by, and sealed, to confirm a match with and to re-key from. No I/O but randomness.
import type { Embedding } from '../embedding.ts'
import { type Keyring, rotationOf } from './keyring.ts'
import type { Octets } from './octets.ts'
import { type RotatedEmbedding, rotate } from './rotation.ts'
import { type SealedFace, seal } from './sealed-copy.ts'

/** What is stored of an embedding. */
export interface Template {
  /** Of the face: new with every template, because the sealed copy is bound to it. */
  id: string
  keyVersion: number
  rotated: RotatedEmbedding
  sealed: Octets
}

/** @returns the template of a face that is enrolled or replaced: a new id each time */
export function toTemplate(keyring: Keyring, face: Omit<SealedFace, 'id'>, embedding: Embedding): Promise<Template> {
  return underKey(keyring, { ...face, id: crypto.randomUUID() }, embedding)
}

/** @returns the same template under another key */
export async function underKey(keyring: Keyring, face: SealedFace, embedding: Embedding): Promise<Template> {
  return {
    id: face.id,
    keyVersion: keyring.version,
    rotated: rotate(rotationOf(keyring, face.model), embedding),
    sealed: await seal(keyring, face, embedding),
  }
}
