// The sealed copy: the exact embedding, encrypted and bound to one face of one tenant. Who can write to the database
// can neither read it, nor alter it, nor move it to another face. No I/O but randomness.
import { DIMENSIONS, type Embedding } from '../embedding.ts'
import { decrypt, encrypt, OVERHEAD_BYTES } from './aead.ts'
import type { Keyring } from './keyring.ts'
import { concatenate, label, type Octets, prefixed, toFloat32s, u16, uuid } from './octets.ts'

/** What a sealed copy is bound to, beside the tenant and the version of its keyring. */
export interface SealedFace {
  /** The face's id, a canonical uuid: new with every template. */
  id: string
  externalId: string
  model: string
}

const FORMAT = 0x01
const HEADER_BYTES = 3
const EMBEDDING_BYTES = DIMENSIONS * 4
export const SEALED_BYTES = HEADER_BYTES + OVERHEAD_BYTES + EMBEDDING_BYTES
const BOUND_FORMAT = concatenate(label('rekko/pt1/face'), Uint8Array.of(FORMAT))

/** @returns 2,079 bytes */
export async function seal(keyring: Keyring, face: SealedFace, embedding: Embedding): Promise<Octets> {
  const plaintext = new Uint8Array(EMBEDDING_BYTES)
  const view = new DataView(plaintext.buffer)
  embedding.forEach((component, index) => {
    view.setFloat32(index * 4, component, true)
  })
  const box = await encrypt(keyring.sealingKey, plaintext, toAssociated(keyring, face))
  return concatenate(Uint8Array.of(FORMAT), u16(keyring.version), box)
}

/**
 * @param face from the request and the row, never from the sealed bytes
 * @returns bit for bit the embedding that was sealed; 'not opened' when these bytes are not what `seal` made with this
 *   keyring for this face, and no word of why
 */
export async function open(keyring: Keyring, face: SealedFace, sealed: Octets): Promise<Embedding | 'not opened'> {
  if (sealed.length !== SEALED_BYTES || sealed[0] !== FORMAT) return 'not opened'
  if (new DataView(sealed.buffer, sealed.byteOffset).getUint16(1) !== keyring.version) return 'not opened'
  const plaintext = await decrypt(keyring.sealingKey, sealed.subarray(HEADER_BYTES), toAssociated(keyring, face))
  if (!plaintext) return 'not opened'
  // authenticated: these are the bytes of the Embedding that `seal` was given
  return toFloat32s(plaintext) as Embedding
}

function toAssociated({ tenantId, version }: Keyring, { id, externalId, model }: SealedFace): Octets {
  return concatenate(BOUND_FORMAT, u16(version), uuid(tenantId), uuid(id), prefixed(externalId), prefixed(model))
}
