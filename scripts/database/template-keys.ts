// The template keys in the vault, as an administrator works with them: wrapped, and unwrapped with the master keys.
import { randomInt } from 'node:crypto'
import type { TemplateKeys } from '../../src/db/template-keys.ts'
import {
  toMasterNumber,
  UnwrapError,
  unwrapDataSecret,
  wrapDataSecret,
  wrapNewDataSecret,
} from '../../src/face/protection/data-secret.ts'
import { buildKeyring, type Keyring } from '../../src/face/protection/keyring.ts'
import { type MasterKeys, newestMasterKey } from '../../src/face/protection/master-keys.ts'
import type { Octets } from '../../src/face/protection/octets.ts'
import type { Connection } from './connection.ts'
import { CommandError, EXIT } from './terminal.ts'
import { asOwner, findSqlState } from './transaction.ts'

/** A row of vault.template_keys. */
export interface StoredTemplateKey {
  tenantId: string
  version: number
  /** Null once it was destroyed. */
  wrapped: Octets | null
  createdAt: Date
  destroyedAt: Date | null
}

/** As the functions of the vault raise it: the keys that were used are no longer the tenant's. */
const KEYS_CHANGED = 'RK416'

/**
 * All keys, destroyed ones too, by tenant and version. Inside a transaction of the owner.
 *
 * @param tenantId only of this tenant; null for all
 */
export async function listStoredKeys(connection: Connection, tenantId: string | null): Promise<StoredTemplateKey[]> {
  const rows = await connection.query<{
    tenant_id: string
    version: number
    wrapped: Uint8Array | null
    created_at: Date
    destroyed_at: Date | null
  }>(
    `select tenant_id, version, wrapped, created_at, destroyed_at from vault.template_keys
    where $1::uuid is null or tenant_id = $1 order by tenant_id, version`,
    [tenantId],
  )
  return rows.map((row) => ({
    tenantId: row.tenant_id,
    version: row.version,
    // a copy, so that it is bytes of its own whichever driver read it
    wrapped: row.wrapped && new Uint8Array(row.wrapped),
    createdAt: row.created_at,
    destroyedAt: row.destroyed_at,
  }))
}

/**
 * A tenant's live keys, unwrapped, newest first. Inside a transaction of the owner.
 *
 * @throws CommandError when it has none, or the master keys do not open them
 */
export async function loadTemplateKeys(
  connection: Connection,
  masterKeys: MasterKeys,
  tenantId: string,
  model: string,
): Promise<TemplateKeys> {
  const keyrings: Keyring[] = []
  for (const { version, wrapped } of (await listStoredKeys(connection, tenantId)).reverse()) {
    if (wrapped === null) continue
    const secret = await unwrap(masterKeys, tenantId, version, wrapped)
    keyrings.push(await buildKeyring({ tenantId, version }, secret, [model]))
  }
  const [active, ...retiring] = keyrings
  if (active) return [active, ...retiring]
  throw new CommandError(
    `The tenant ${tenantId} has no template key: scripts/db.sh template-keys init makes one, and scripts/db.sh restore --template-keys brings one back.`,
    EXIT.refused,
  )
}

/** As `loadTemplateKeys`, in a transaction of its own. */
export function findTemplateKeys(
  connection: Connection,
  masterKeys: MasterKeys,
  tenantId: string,
  model: string,
): Promise<TemplateKeys> {
  return asOwner(connection, () => loadTemplateKeys(connection, masterKeys, tenantId, model))
}

/** @throws CommandError when the master keys do not open it */
export async function unwrap(
  masterKeys: MasterKeys,
  tenantId: string,
  version: number,
  wrapped: Octets,
): Promise<Octets> {
  try {
    return await unwrapDataSecret(masterKeys, { tenantId, version }, wrapped)
  } catch (error) {
    if (!(error instanceof UnwrapError)) throw error
    throw new CommandError(
      `Template key ${version} of tenant ${tenantId} was wrapped with master key ${toMasterNumber(wrapped)}, and does not open. ` +
        `TEMPLATE_MASTER_KEYS has the numbers ${[...masterKeys.keys()].join(', ')}.`,
      EXIT.refused,
    )
  }
}

/** Versions under which the tenant has faces, the oldest first. Inside a transaction of the owner. */
export async function listFaceVersions(connection: Connection, tenantId: string): Promise<number[]> {
  await connection.query("select set_config('app.current_tenant_id', $1, true)", [tenantId])
  const rows = await connection.query<{ version: number }>(
    // null in the middle of the migration that protects them
    `select distinct key_version as version from faces
    where tenant_id = $1 and key_version is not null order by key_version`,
    [tenantId],
  )
  await connection.query("select set_config('app.current_tenant_id', '', true)")
  return rows.map(({ version }) => version)
}

/** Two bytes of a sealed copy say the version. */
const MAX_VERSION = 65_535

/**
 * The version behind all that are known of a tenant, at least one.
 *
 * @throws CommandError when two bytes cannot hold it
 */
export function toNextVersion(known: readonly number[]): number {
  const next = Math.max(...known) + 1
  if (next > MAX_VERSION) throw new CommandError('This tenant has no version left for another key.', EXIT.refused)
  return next
}

/** Keys that were counted up from a tenant's first stay below: a rekey a day takes eight months to get here. */
const CHOSEN_FROM = 256
const CHOSEN_BELOW = 2 ** 15

/**
 * For a tenant of which the vault knows nothing: it may have been lost, and an instance of the Worker may remember a key
 * of any version for a minute. Under the same version it would write faces that the new key does not open.
 */
function chooseVersion(): number {
  return randomInt(CHOSEN_FROM, CHOSEN_BELOW)
}

/** Whether an error says that the tenant was re-keyed since its keys were read. */
export function isKeyChange(error: unknown): boolean {
  return findSqlState(error) === KEYS_CHANGED
}

/**
 * Gives every tenant that has no key one of a version that it never had.
 *
 * @param choose the version of a tenant of which the vault knows nothing
 * @returns the ids of those tenants
 */
export function initTemplateKeys(
  connection: Connection,
  masterKeys: MasterKeys,
  choose: () => number = chooseVersion,
): Promise<string[]> {
  return asOwner(connection, async () => {
    await connection.query('select create_vault()')
    const tenants = await connection.query<{ id: string; versions: number[] }>(`
      select t.id, array(select k.version from vault.template_keys k where k.tenant_id = t.id) as versions
      from tenants t
      where t.erasure_requested_at is null
        and not exists (select from vault.template_keys k where k.tenant_id = t.id and k.destroyed_at is null)
      order by t.id`)
    for (const { id, versions } of tenants) {
      const ofFaces = await listFaceVersions(connection, id)
      const least = versions.length > 0 ? toNextVersion(versions) : choose()
      await addTemplateKey(connection, masterKeys, id, toNextVersion([...ofFaces, least - 1]))
    }
    return tenants.map(({ id }) => id)
  })
}

/** Makes a key and puts it into the vault. Inside a transaction of the owner. */
export async function addTemplateKey(
  connection: Connection,
  masterKeys: MasterKeys,
  tenantId: string,
  version: number,
): Promise<void> {
  const wrapped = await wrapNewDataSecret(masterKeys, { tenantId, version })
  await connection.query('insert into vault.template_keys (tenant_id, version, wrapped) values ($1, $2, $3)', [
    tenantId,
    version,
    Buffer.from(wrapped),
  ])
  await connection.query("insert into operator_events (action, target) values ('tenant.template_key_created', $1)", [
    tenantId,
  ])
}

/**
 * Wraps one key with the newest master key. What it opens stays the same, so nothing else changes.
 *
 * @returns false when it is wrapped with that already, or was changed meanwhile
 */
export async function rewrapTemplateKey(
  connection: Connection,
  masterKeys: MasterKeys,
  { tenantId, version, wrapped }: StoredTemplateKey,
): Promise<boolean> {
  const newest = newestMasterKey(masterKeys)
  if (wrapped === null || toMasterNumber(wrapped) === newest) return false
  const secret = await unwrap(masterKeys, tenantId, version, wrapped)
  const rewrapped = await wrapDataSecret(masterKeys, newest, { tenantId, version }, secret)
  secret.fill(0)
  const changed = await asOwner(connection, () =>
    connection.query(
      `update vault.template_keys set wrapped = $4
      where tenant_id = $1 and version = $2 and wrapped = $3 returning version`,
      [tenantId, version, Buffer.from(wrapped), Buffer.from(rewrapped)],
    ),
  )
  return changed.length > 0
}

/**
 * Destroys every key of a tenant: its faces can be read by nobody any more, here and in every backup whose keys were
 * not kept apart.
 *
 * @returns how many it destroyed
 */
export function destroyTemplateKeys(connection: Connection, tenantId: string): Promise<number> {
  return asOwner(connection, async () => {
    await connection.query('select create_vault()')
    // whoever is writing a face under one of them finishes before
    const destroyed = await connection.query(
      `with locked as materialized (
        select version, pg_advisory_xact_lock(template_key_lock($1, version)) from vault.template_keys
        where tenant_id = $1 and destroyed_at is null
      )
      update vault.template_keys k set wrapped = null, destroyed_at = transaction_timestamp()
      from locked where k.tenant_id = $1 and k.version = locked.version and k.destroyed_at is null
      returning k.version`,
      [tenantId],
    )
    await connection.query(
      "insert into operator_events (action, target) values ('tenant.template_keys_shredded', $1)",
      [tenantId],
    )
    return destroyed.length
  })
}
