// Gives a tenant a new template key and moves its faces to it, while it works: opened with the old key, sealed with the
// new one. Stopped anywhere, it goes on when it is run again.
import { setTimeout as delay } from 'node:timers/promises'
import { MAX_DIFFERENCE } from '../../src/face/protection/confirmation.ts'
import { type Keyring, rotationOf } from '../../src/face/protection/keyring.ts'
import type { MasterKeys } from '../../src/face/protection/master-keys.ts'
import { toBase64 } from '../../src/face/protection/octets.ts'
import { rotate } from '../../src/face/protection/rotation.ts'
import { open } from '../../src/face/protection/sealed-copy.ts'
import { underKey } from '../../src/face/protection/template.ts'
import type { Connection } from './connection.ts'
import { isLive } from './open-templates.ts'
import { addTemplateKey, findTemplateKeys, listFaceVersions, listStoredKeys, toNextVersion } from './template-keys.ts'
import { CommandError, EXIT } from './terminal.ts'
import { againWhenDeadlocked, asOwner, asTenant, findSqlState } from './transaction.ts'
import type { VectorArray } from './vector-array.ts'

/** A transaction of about a third of a second. */
const BATCH_SIZE = 200
/** Whoever writes under the old key has seconds at most (statement_timeout of the logins). */
const DESTROY_ATTEMPTS = 20
const LOCK_NOT_AVAILABLE = '55P03'
/** What integrity_events says of faces that were met here, and not by a request. */
const REQUEST_ID = 'rekey'

export interface RekeyProgress {
  /** Called once, before the first face, with how many there are under the old key. */
  onStart(from: number, to: number, faces: number): void
  onFaces(count: number): void
}

export interface RekeyResult {
  from: number
  to: number
  /** Faces that were moved. */
  moved: number
  /** Ids of faces whose sealed copies do not open: they stay under the old key, and it stays with them. */
  notOpened: string[]
  /** Ids of faces whose vectors were not those of their sealed copies; moving them has mended it. */
  differing: string[]
  /** Whether the old key was destroyed. */
  isFinished: boolean
}

/**
 * Searches and verifications ask under both keys meanwhile, and nothing is written under the old one any more.
 *
 * @throws CommandError when the tenant has no key, is being re-keyed already, or has faces under a key that is not live
 */
export async function rekeyTenant(
  connection: Connection,
  toVectorArray: VectorArray,
  masterKeys: MasterKeys,
  tenantId: string,
  progress: RekeyProgress,
): Promise<RekeyResult> {
  const [turn] = await connection.query<{ is_ours: boolean }>(
    "select pg_try_advisory_lock(hashtext('rekko.rekey'), hashtext($1)) as is_ours",
    [tenantId],
  )
  if (!turn?.is_ours) throw new CommandError('This tenant is being re-keyed already.', EXIT.refused)
  try {
    const { from, to } = await begin(connection, masterKeys, tenantId)
    const result: RekeyResult = { from, to, moved: 0, notOpened: [], differing: [], isFinished: false }
    progress.onStart(from, to, await countFaces(connection, tenantId, from))
    for (let attempt = 0; attempt < DESTROY_ATTEMPTS && !result.isFinished; attempt++) {
      result.notOpened = []
      for (const model of await listModels(connection, tenantId, from)) {
        const keys = await findTemplateKeys(connection, masterKeys, tenantId, model)
        const [active, retiring] = [to, from].map((version) => keys.find((keyring) => keyring.version === version))
        if (!active || !retiring) throw new CommandError('The keys of this tenant were changed meanwhile.')
        await moveFaces({ connection, toVectorArray, tenantId, model, active, retiring }, result, progress)
      }
      // those will not move however often it is tried
      if (result.notOpened.length > 0) break
      result.isFinished = await destroy(connection, tenantId, from)
    }
    await requireLive(connection, tenantId, to)
    return result
  } finally {
    await connection.query("select pg_advisory_unlock(hashtext('rekko.rekey'), hashtext($1))", [tenantId])
  }
}

/** Makes the new key, or finds the one of a run before. Nothing is begun on top of keys that are not those of the faces. */
async function begin(
  connection: Connection,
  masterKeys: MasterKeys,
  tenantId: string,
): Promise<{ from: number; to: number }> {
  return asOwner(connection, async () => {
    const stored = await listStoredKeys(connection, tenantId)
    const live = stored.filter(isLive).map(({ version }) => version)
    const [from] = live
    const to = live.at(-1)
    if (from === undefined || to === undefined) {
      throw new CommandError('This tenant has no template key: scripts/db.sh template-keys init', EXIT.refused)
    }
    const ofFaces = await listFaceVersions(connection, tenantId)
    const lost = ofFaces.filter((version) => !live.includes(version))
    if (lost.length > 0) {
      throw new CommandError(
        `This tenant has faces under key ${lost.join(', ')}, and its live keys are ${live.join(', ')}. Nothing was changed. ` +
          'Bring the missing key back first: scripts/db.sh restore --template-keys FILE',
        EXIT.refused,
      )
    }
    // the newest is the one to write with; a third is what a restore of older keys left, and another run moves it
    if (to !== from) return { from, to }
    const next = toNextVersion([...stored.map(({ version }) => version), ...ofFaces])
    await addTemplateKey(connection, masterKeys, tenantId, next)
    return { from, to: next }
  })
}

/** @throws CommandError when it was shredded meanwhile, which leaves no face to move either */
async function requireLive(connection: Connection, tenantId: string, version: number): Promise<void> {
  const stored = await asOwner(connection, () => listStoredKeys(connection, tenantId))
  if (stored.some((key) => key.version === version && isLive(key))) return
  throw new CommandError(`Key ${version} of this tenant was destroyed meanwhile.`, EXIT.refused)
}

async function countFaces(connection: Connection, tenantId: string, version: number): Promise<number> {
  const [counted] = await asTenant(connection, tenantId, () =>
    connection.query<{ faces: number }>(
      'select count(*)::int as faces from faces where tenant_id = $1 and key_version = $2',
      [tenantId, version],
    ),
  )
  return counted?.faces ?? 0
}

async function listModels(connection: Connection, tenantId: string, version: number): Promise<string[]> {
  const rows = await asTenant(connection, tenantId, () =>
    connection.query<{ model: string }>(
      'select distinct model from faces where tenant_id = $1 and key_version = $2 order by model',
      [tenantId, version],
    ),
  )
  return rows.map(({ model }) => model)
}

interface Move {
  connection: Connection
  toVectorArray: VectorArray
  tenantId: string
  model: string
  active: Keyring
  retiring: Keyring
}

async function moveFaces(move: Move, result: RekeyResult, progress: RekeyProgress): Promise<void> {
  let after = '00000000-0000-0000-0000-000000000000'
  for (;;) {
    // an import that replaces locks the same rows, in an order of its own
    const batch = await againWhenDeadlocked(() =>
      asTenant(move.connection, move.tenantId, () => moveBatch(move, after)),
    )
    if (batch.last === null) return
    after = batch.last
    result.moved += batch.moved
    result.notOpened.push(...batch.notOpened)
    result.differing.push(...batch.differing)
    progress.onFaces(batch.moved)
  }
}

/** @param after the id behind which the batch begins */
async function moveBatch({ connection, toVectorArray, tenantId, model, active, retiring }: Move, after: string) {
  const faces = await connection.query<{ id: string; external_id: string; sealed: Uint8Array }>(
    `select id, external_id, sealed from faces
    where tenant_id = $1 and model = $2 and key_version = $3 and id > $4 order by id limit ${BATCH_SIZE}`,
    [tenantId, model, retiring.version, after],
  )
  const opened = await Promise.all(
    faces.map(async ({ id, external_id, sealed }) => {
      const face = { id, externalId: external_id, model }
      const embedding = await open(retiring, face, new Uint8Array(sealed))
      if (embedding === 'not opened') return { id, template: null }
      const before = rotate(rotationOf(retiring, model), embedding)
      return { id, before, template: await underKey(active, face, embedding) }
    }),
  )
  const notOpened = opened.flatMap(({ id, template }) => (template ? [] : [id]))
  const movable = opened.flatMap(({ id, before, template }) => (template ? [{ id, before, template }] : []))
  // whoever was replaced or erased since is left as they are
  const moved = await connection.query<{ id: string; difference: number }>(
    `with n as (
      select * from unnest($4::uuid[], $5::vector[], $6::vector[], $7::text[])
        as n (id, before, after, sealed)
    ), compared as (
      select f.id, f.embedding <=> n.before as difference from faces f join n on n.id = f.id where f.tenant_id = $1
    ), moved as (
      update faces f set embedding = n.after, key_version = $3, sealed = decode(n.sealed, 'base64')
      from hold_template_key($3), n
      where f.tenant_id = $1 and f.id = n.id and f.key_version = $2
      returning f.id
    )
    select id, difference from moved join compared using (id)`,
    [
      tenantId,
      retiring.version,
      active.version,
      movable.map(({ id }) => id),
      toVectorArray(movable.map(({ before }) => before)),
      toVectorArray(movable.map(({ template }) => template.rotated)),
      movable.map(({ template }) => toBase64(template.sealed)),
    ],
  )
  // written so that NaN is a difference
  const differing = moved.filter(({ difference }) => !(difference <= MAX_DIFFERENCE)).map(({ id }) => id)
  await note(connection, tenantId, notOpened, 'not opened')
  await note(connection, tenantId, differing, 'differs')
  return { last: faces.at(-1)?.id ?? null, moved: moved.length, notOpened, differing }
}

async function note(
  connection: Connection,
  tenantId: string,
  faceIds: string[],
  reason: 'not opened' | 'differs',
): Promise<void> {
  if (faceIds.length === 0) return
  await connection.query(
    `insert into integrity_events (tenant_id, face_id, reason, request_id) select $1, face, $3, $4 from unnest($2::uuid[]) as face`,
    [tenantId, faceIds, reason, REQUEST_ID],
  )
}

/** @returns false when a face needs the key: one that was being written when the new key came */
async function destroy(connection: Connection, tenantId: string, version: number): Promise<boolean> {
  try {
    const [row] = await asOwner(connection, () =>
      connection.query<{ is_gone: boolean }>('select destroy_template_key($1, $2) as is_gone', [tenantId, version]),
    )
    return row?.is_gone ?? false
  } catch (error) {
    if (findSqlState(error) !== LOCK_NOT_AVAILABLE) throw error
    await delay(500)
    return false
  }
}
