// A tenant's keys of one version, unwrapped and ready: what an isolate keeps for a minute. No I/O.
import { toAeadKey } from './aead.ts'
import type { SecretOwner } from './data-secret.ts'
import { deriveKeyBytes } from './hkdf.ts'
import { concatenate, label, type Octets, prefixed, u16, uuid } from './octets.ts'
import { buildRotation, type Rotation } from './rotation.ts'

export interface Keyring extends SecretOwner {
  /** K_seal: opens and closes sealed copies. */
  readonly sealingKey: CryptoKey
  /** By model: embeddings of two models are never compared, and under two rotations cannot be. */
  readonly rotations: ReadonlyMap<string, Rotation>
}

const SEAL_LABEL = label('rekko/pt1/seal')
const ROTATION_LABEL = label('rekko/pt1/rotation')

/**
 * Costs about 5 ms of CPU and 526 kB for each model.
 *
 * @param secret the tenant's data secret of this version; wiped before this answers
 * @param models those whose embeddings the tenant has
 */
export async function buildKeyring(owner: SecretOwner, secret: Octets, models: readonly string[]): Promise<Keyring> {
  const { tenantId, version } = owner
  const salt = uuid(tenantId)
  const rotations = new Map<string, Rotation>()
  const sealingKey = await toAeadKey(await deriveKeyBytes(secret, salt, concatenate(SEAL_LABEL, u16(version))))
  for (const model of models) {
    const info = concatenate(ROTATION_LABEL, u16(version), prefixed(model))
    rotations.set(model, await buildRotation(await deriveKeyBytes(secret, salt, info)))
  }
  secret.fill(0)
  return { tenantId, version, sealingKey, rotations }
}

/** @throws RangeError for a model that the keyring was not built for: a defect of ours */
export function rotationOf(keyring: Keyring, model: string): Rotation {
  const rotation = keyring.rotations.get(model)
  if (!rotation) throw new RangeError('a keyring has no rotation for this model')
  return rotation
}
