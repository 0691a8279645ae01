// Whether the keys that are here open what is here: tries keys, and templates that chance picks.
import { MAX_DIFFERENCE } from '../../src/face/protection/confirmation.ts'
import { toMasterNumber, UnwrapError, unwrapDataSecret } from '../../src/face/protection/data-secret.ts'
import { buildKeyring, type Keyring, rotationOf } from '../../src/face/protection/keyring.ts'
import type { MasterKeys } from '../../src/face/protection/master-keys.ts'
import { rotate } from '../../src/face/protection/rotation.ts'
import { open } from '../../src/face/protection/sealed-copy.ts'
import type { Connection } from './connection.ts'
import { listStoredKeys, type StoredTemplateKey } from './template-keys.ts'
import { asOwner, asTenant } from './transaction.ts'

export type LiveTemplateKey = StoredTemplateKey & { wrapped: NonNullable<StoredTemplateKey['wrapped']> }

export function isLive(key: StoredTemplateKey): key is LiveTemplateKey {
  return key.wrapped !== null
}

/** Of these keys, those that the master keys do not open. */
export async function findUnopened(
  masterKeys: MasterKeys,
  keys: readonly LiveTemplateKey[],
): Promise<LiveTemplateKey[]> {
  const unopened: LiveTemplateKey[] = []
  for (const key of keys) {
    const secret = await tryUnwrap(masterKeys, key)
    if (secret) secret.fill(0)
    else unopened.push(key)
  }
  return unopened
}

/** Whether two wrapped keys of one tenant and version hold the same secret, as they do after `rotate-master`. */
export async function holdTheSame(masterKeys: MasterKeys, a: LiveTemplateKey, b: LiveTemplateKey): Promise<boolean> {
  const [one, other] = [await tryUnwrap(masterKeys, a), await tryUnwrap(masterKeys, b)]
  const isSame = one !== null && other !== null && Buffer.compare(one, other) === 0
  one?.fill(0)
  other?.fill(0)
  return isSame
}

/** Numbers of the master keys that wrap them, each once, as a sentence has them. */
export function listMasterNumbers(keys: readonly LiveTemplateKey[]): string {
  return [...new Set(keys.map(({ wrapped }) => toMasterNumber(wrapped)))].sort((a, b) => a - b).join(', ')
}

async function tryUnwrap(masterKeys: MasterKeys, { tenantId, version, wrapped }: LiveTemplateKey) {
  try {
    return await unwrapDataSecret(masterKeys, { tenantId, version }, wrapped)
  } catch (error) {
    if (error instanceof UnwrapError) return null
    throw error
  }
}

export interface FailedTemplate {
  tenantId: string
  faceId: string
  keyVersion: number
  /**
   * no key: it is not in the vault, or was destroyed; key not opened: the master keys do not open it; not opened: the
   * sealed copy is not one of this face; differs: the vector is not that of the sealed copy.
   */
  reason: 'no key' | 'key not opened' | 'not opened' | 'differs'
}

export interface OpenedTemplates {
  opened: number
  failed: FailedTemplate[]
}

/** How rows are read: as the owner, and inside a tenant. */
export interface Doors {
  asOwner: typeof asOwner
  asTenant: typeof asTenant
}

/**
 * Opens random faces, of as many tenants as there is room for: keys are lost tenant by tenant. Those of a tenant that is
 * being erased are nobody's to open.
 *
 * @param limit how many at most; each tenant costs one read of the index by which its faces are searched
 */
export async function openRandomTemplates(
  connection: Connection,
  masterKeys: MasterKeys,
  limit: number,
  doors: Doors = { asOwner, asTenant },
): Promise<OpenedTemplates> {
  const { tenants, keys } = await doors.asOwner(connection, async () => ({
    tenants: await connection.query<{ id: string; faces: number }>(
      `select t.id, sum(c.change)::float8 as faces from tenants t join face_counts c on c.tenant_id = t.id
      where t.erasure_requested_at is null
      group by t.id having sum(c.change) > 0 order by random() limit $1`,
      [limit],
    ),
    keys: (await listStoredKeys(connection, null)).filter(isLive),
  }))
  const result: OpenedTemplates = { opened: 0, failed: [] }
  let left = limit
  // what a small gallery leaves, a larger one takes
  for (const [index, { id, faces }] of tenants.sort((a, b) => a.faces - b.faces).entries()) {
    const share = Math.min(faces, Math.floor(left / (tenants.length - index)))
    left -= share
    const chosen = await doors.asTenant(connection, id, () => chooseFaces(connection, id, share))
    const ofTenant = keys.filter(({ tenantId }) => tenantId === id)
    await openFaces(masterKeys, id, ofTenant, chosen, result)
  }
  return result
}

interface StoredFace {
  id: string
  external_id: string
  model: string
  key_version: number
  sealed: Uint8Array
  embedding: string
}

function chooseFaces(connection: Connection, tenantId: string, count: number): Promise<StoredFace[]> {
  // chosen from the index; the rows themselves are read for these few
  return connection.query<StoredFace>(
    `with chosen as materialized (select id from faces where tenant_id = $1 order by random() limit $2)
    select f.id, f.external_id, f.model, f.key_version, f.sealed, f.embedding::text as embedding
    from chosen c join faces f on f.tenant_id = $1 and f.id = c.id
    -- null in the middle of the migration that protects them
    where f.sealed is not null`,
    [tenantId, count],
  )
}

async function openFaces(
  masterKeys: MasterKeys,
  tenantId: string,
  keys: readonly LiveTemplateKey[],
  faces: readonly StoredFace[],
  result: OpenedTemplates,
): Promise<void> {
  const keyrings = new Map<number, Keyring | 'no key' | 'key not opened'>()
  for (const version of new Set(faces.map(({ key_version }) => key_version))) {
    const key = keys.find((each) => each.version === version)
    const secret = key && (await tryUnwrap(masterKeys, key))
    const models = [...new Set(faces.filter((face) => face.key_version === version).map(({ model }) => model))]
    const keyring = secret && (await buildKeyring({ tenantId, version }, secret, models))
    keyrings.set(version, keyring ?? (key ? 'key not opened' : 'no key'))
  }
  for (const face of faces) {
    const keyring = keyrings.get(face.key_version) ?? 'no key'
    const outcome = typeof keyring === 'string' ? keyring : await openFace(keyring, face)
    if (outcome === 'opened') result.opened++
    else result.failed.push({ tenantId, faceId: face.id, keyVersion: face.key_version, reason: outcome })
  }
}

async function openFace(
  keyring: Keyring,
  { id, external_id: externalId, model, sealed, embedding }: StoredFace,
): Promise<'opened' | 'not opened' | 'differs'> {
  // a copy, so that it is bytes of its own whichever driver read it
  const plain = await open(keyring, { id, externalId, model }, new Uint8Array(sealed))
  if (plain === 'not opened') return plain
  // pgvector writes [1,2,3], which is JSON
  const stored: unknown = JSON.parse(embedding)
  return distance(rotate(rotationOf(keyring, model), plain), stored) <= MAX_DIFFERENCE ? 'opened' : 'differs'
}

/** 1 - cosine; NaN, which is no match, for what is no vector of this length. */
function distance(a: Float32Array, b: unknown): number {
  if (!Array.isArray(b) || b.length !== a.length) return Number.NaN
  let [dot, squaresOfA, squaresOfB] = [0, 0, 0]
  for (const [index, component] of a.entries()) {
    const other = Number(b[index])
    dot += component * other
    squaresOfA += component ** 2
    squaresOfB += other ** 2
  }
  return 1 - dot / Math.sqrt(squaresOfA * squaresOfB)
}
