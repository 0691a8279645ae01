// The faces that were enrolled before templates were protected: gives each its rotation and its sealed copy, between
// the migration that adds the columns and the one that requires them.
import type { TemplateKeys } from '../../src/db/template-keys.ts'
import { isFault, toEmbedding } from '../../src/face/embedding.ts'
import type { MasterKeys } from '../../src/face/protection/master-keys.ts'
import { toBase64 } from '../../src/face/protection/octets.ts'
import { underKey } from '../../src/face/protection/template.ts'
import type { Connection } from './connection.ts'
import { GIVE_MASTER_KEYS } from './master-keys.ts'
import { findTemplateKeys, initTemplateKeys } from './template-keys.ts'
import { CommandError, EXIT, toCount } from './terminal.ts'
import { asOwner, asTenant } from './transaction.ts'
import { toVectorTexts } from './vector-array.ts'

/** The migration that adds the columns; the next one requires them. */
export const PROTECTING_VERSION = 6
const BATCH_SIZE = 200

/** What the runner needs, beside SQL, to bring faces over to protected templates. */
export interface Protection {
  /** Null when they are not known: a database with faces is refused then. */
  masterKeys: MasterKeys | null
  /** Whether they are those of development because nobody gave others: good for no live tenant. */
  isAssumed?: boolean
  /** Called with the number of faces that were protected, and of all that are to be. */
  onFaces?(protectedFaces: number, total: number): void
}

/**
 * Before the columns are added: a database with faces is not begun with what it cannot finish.
 *
 * @throws CommandError when there are faces, and no master keys to protect them with
 */
export async function requireProtectable(connection: Connection, protection: Protection): Promise<void> {
  if (await isProvided(connection, protection)) return
  const faces = await countFaces(connection)
  if (faces === 0) return
  if (protection.masterKeys) {
    throw new CommandError(
      `There are ${toCount(faces, 'face')} to protect and live tenants, and no master key was given: ${GIVE_MASTER_KEYS}. Nothing was changed.`,
      EXIT.refused,
    )
  }
  throw new CommandError(
    `There are ${toCount(faces, 'face')} to protect, and no master key to do it with: set TEMPLATE_MASTER_KEYS. ` +
      'scripts/db.sh template-keys new-master makes one, and docs/keys.md says how it is kept. Nothing was changed.',
    EXIT.refused,
  )
}

async function isProvided(connection: Connection, { masterKeys, isAssumed = false }: Protection): Promise<boolean> {
  return masterKeys !== null && !(isAssumed && (await hasLiveTenants(connection)))
}

/** Before version 2 they did not say what they are, and become live ones. */
async function hasLiveTenants(connection: Connection): Promise<boolean> {
  const [column] = await connection.query<{ is_there: boolean }>(
    `select exists (
      select from pg_attribute where attrelid = to_regclass('public.tenants') and attname = 'environment'
    ) as is_there`,
  )
  if (!column?.is_there) return true
  const [row] = await connection.query<{ has_live: boolean }>(
    "select exists (select from tenants where environment = 'live') as has_live",
  )
  return row?.has_live ?? false
}

/** As the owner, who is bound by the policies of version 2 and later, and sees what their triggers have counted. */
async function countFaces(connection: Connection): Promise<number> {
  const [tables] = await connection.query<{ has_counts: boolean; has_faces: boolean }>(`
    select to_regclass('public.face_counts') is not null as has_counts, to_regclass('public.faces') is not null as has_faces`)
  if (!tables?.has_faces) return 0
  const [counted] = await connection.query<{ faces: number }>(
    tables.has_counts
      ? 'select coalesce(sum(change), 0)::int as faces from face_counts'
      : 'select count(*)::int as faces from faces',
  )
  return counted?.faces ?? 0
}

/**
 * Protects what is not protected yet, a transaction for each batch: run again after an interruption, it goes on. Gives
 * every tenant its key besides. At the end the table is written anew: an update leaves the old row in its file, and the
 * embedding in it.
 *
 * @throws CommandError when there is something to protect and no master key
 */
export async function protectFaces(connection: Connection, protection: Protection): Promise<void> {
  const { masterKeys, onFaces } = protection
  await requireProtectable(connection, protection)
  if (!masterKeys || !(await isProvided(connection, protection))) return
  await finishErasures(connection)
  await initTemplateKeys(connection, masterKeys)
  const total = await countFaces(connection)
  const tenants = await asOwner(connection, () =>
    connection.query<{ id: string }>('select id from tenants order by id'),
  )
  let done = 0
  for (const { id } of tenants) {
    const models = await asTenant(connection, id, () =>
      connection.query<{ model: string }>('select distinct model from faces where tenant_id = $1 and sealed is null', [
        id,
      ]),
    )
    for (const { model } of models) {
      const keys = await findTemplateKeys(connection, masterKeys, id, model)
      for (;;) {
        const batch = await asTenant(connection, id, () => protectBatch(connection, keys, id, model))
        if (batch === 0) break
        done += batch
        onFaces?.(done, total)
      }
    }
  }
  // also when a run before has protected the last face, and was stopped here
  if (total > 0) await connection.execute('vacuum (full, analyze) faces')
}

/** A tenant that is being erased gets no key any more, so what is left of it goes now. */
async function finishErasures(connection: Connection): Promise<void> {
  for (;;) {
    const erased = await asOwner(connection, () =>
      connection.query<{ rows: number }>(
        `select erase_tenant_batch(id, ${BATCH_SIZE}) as rows from tenants where erasure_requested_at is not null limit 1`,
      ),
    )
    if (!erased[0]) return
  }
}

async function protectBatch(
  connection: Connection,
  [active]: TemplateKeys,
  tenantId: string,
  model: string,
): Promise<number> {
  const faces = await connection.query<{ id: string; external_id: string; embedding: string }>(
    `select id, external_id, embedding::text from faces
    where tenant_id = $1 and model = $2 and sealed is null limit ${BATCH_SIZE}`,
    [tenantId, model],
  )
  if (faces.length === 0) return 0
  const templates = await Promise.all(
    faces.map(async ({ id, external_id, embedding }) => {
      // pgvector writes [1,2,3], which is JSON
      const plain = toEmbedding(JSON.parse(embedding))
      if (isFault(plain)) throw new CommandError(`The face ${id} holds no embedding: ${plain.detail}`)
      return underKey(active, { id, externalId: external_id, model }, plain)
    }),
  )
  await connection.query(
    `update faces f set
      embedding = n.embedding, key_version = $2, sealed = decode(n.sealed, 'base64')
    from unnest($3::uuid[], $4::vector[], $5::text[]) as n (id, embedding, sealed)
    where f.tenant_id = $1 and f.id = n.id and f.sealed is null and hold_template_key($2)`,
    [
      tenantId,
      active.version,
      faces.map(({ id }) => id),
      toVectorTexts(templates.map(({ rotated }) => rotated)),
      templates.map(({ sealed }) => toBase64(sealed)),
    ],
  )
  return faces.length
}
