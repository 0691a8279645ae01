// A tenant's data secret (TDS): 32 random bytes for each version, from which its keys follow. The database holds it
// wrapped. It is random and not derived from the master, so that destroying it shreds the tenant. No I/O but randomness.
import { decrypt, encrypt, OVERHEAD_BYTES } from './aead.ts'
import { KEY_BYTES } from './hkdf.ts'
import { type MasterKeys, newestMasterKey } from './master-keys.ts'
import { concatenate, label, type Octets, u16, uuid } from './octets.ts'

/** Whose secret it is, and which of the tenant's: both are bound to the wrapped bytes. */
export interface SecretOwner {
  /** Canonical uuid. */
  tenantId: string
  /** 0 to 65,535. */
  version: number
}

/** Says no more than that it failed: tenant, version, master key or bytes, a guesser must not learn which. */
export class UnwrapError extends Error {
  override name = 'UnwrapError'
  constructor() {
    super('a data secret could not be unwrapped')
  }
}

/** Of a tenant's first secret. */
export const FIRST_VERSION = 1
const FORMAT = 0x01
const HEADER_BYTES = 3
const WRAPPED_BYTES = HEADER_BYTES + OVERHEAD_BYTES + KEY_BYTES
const LABEL = label('rekko/pt1/wrap')

/** @returns 32 bytes, for the caller to wrap, use and wipe */
export function generateDataSecret(): Octets {
  return crypto.getRandomValues(new Uint8Array(KEY_BYTES))
}

/** @returns a new secret of this owner under the newest master key, wrapped; nobody has seen it */
export async function wrapNewDataSecret(masterKeys: MasterKeys, owner: SecretOwner): Promise<Octets> {
  const secret = generateDataSecret()
  try {
    return await wrapDataSecret(masterKeys, newestMasterKey(masterKeys), owner, secret)
  } finally {
    secret.fill(0)
  }
}

/**
 * @param masterNumber which of the master keys is to wrap
 * @returns 63 bytes, good for the database
 * @throws RangeError when there is no such master key, or the secret is not 32 bytes: a defect of ours
 */
export async function wrapDataSecret(
  masterKeys: MasterKeys,
  masterNumber: number,
  owner: SecretOwner,
  secret: Octets,
): Promise<Octets> {
  const key = masterKeys.get(masterNumber)
  if (!key) throw new RangeError('there is no master key of this number')
  if (secret.length !== KEY_BYTES) throw new RangeError(`a data secret must be ${KEY_BYTES} bytes`)
  const box = await encrypt(key, secret, toAssociated(masterNumber, owner))
  return concatenate(Uint8Array.of(FORMAT), u16(masterNumber), box)
}

/**
 * @returns 32 bytes, for the caller to use and wipe
 * @throws UnwrapError for whatever does not fit; also for a wrapped key whose master key is no longer live
 */
export async function unwrapDataSecret(masterKeys: MasterKeys, owner: SecretOwner, wrapped: Octets): Promise<Octets> {
  if (wrapped.length !== WRAPPED_BYTES || wrapped[0] !== FORMAT) throw new UnwrapError()
  const masterNumber = toMasterNumber(wrapped)
  const key = masterKeys.get(masterNumber)
  const secret = key && (await decrypt(key, wrapped.subarray(HEADER_BYTES), toAssociated(masterNumber, owner)))
  if (!secret) throw new UnwrapError()
  return secret
}

/** The number of the master key under which 63 bytes were wrapped: says what is left to wrap again before it is retired. */
export function toMasterNumber(wrapped: Octets): number {
  return new DataView(wrapped.buffer, wrapped.byteOffset, wrapped.byteLength).getUint16(1)
}

function toAssociated(masterNumber: number, { tenantId, version }: SecretOwner): Octets {
  return concatenate(LABEL, u16(masterNumber), uuid(tenantId), u16(version))
}
