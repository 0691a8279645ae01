// The vault as a whole: made, copied out, and filled again from a file. Nothing here unwraps a key but to try it.
import type { MasterKeys } from '../../src/face/protection/master-keys.ts'
import { toBase64 } from '../../src/face/protection/octets.ts'
import { list } from './backup.ts'
import type { Connection } from './connection.ts'
import { findUnopened, holdTheSame, isLive, type LiveTemplateKey, listMasterNumbers } from './open-templates.ts'
import { listFaceVersions, listStoredKeys, type StoredTemplateKey } from './template-keys.ts'
import { CommandError, EXIT, toCount } from './terminal.ts'
import { asOwner } from './transaction.ts'

/** Makes the vault, empty, where it is not there. */
export async function createVault(connection: Connection): Promise<void> {
  await asOwner(connection, () => connection.query('select create_vault()'))
}

export interface VaultCopy {
  keys: StoredTemplateKey[]
  /** Tenants, not being erased, that have no live key: the copy cannot bring back their faces. */
  keyless: number
}

/** @throws CommandError where there is no vault */
export function copyVault(connection: Connection): Promise<VaultCopy> {
  return asOwner(connection, async () => {
    if (!(await isThere(connection))) {
      throw new CommandError(
        'This database has no template keys: scripts/db.sh up makes them, or restore --template-keys brings them back.',
        EXIT.refused,
      )
    }
    const keys = await listStoredKeys(connection, null)
    const [row] = await connection.query<{ keyless: number }>(`
      select count(*)::int as keyless from tenants t where t.erasure_requested_at is null
        and not exists (select from vault.template_keys k where k.tenant_id = t.id and k.destroyed_at is null)`)
    return { keys, keyless: row?.keyless ?? 0 }
  })
}

async function isThere(connection: Connection): Promise<boolean> {
  const [row] = await connection.query<{ is_there: boolean }>(
    "select to_regclass('vault.template_keys') is not null as is_there",
  )
  return row?.is_there ?? false
}

export interface FilledVault {
  /** Live keys that were put in. */
  restored: number
  /** Marks of destroyed keys that were put in, so that their versions are not given out again. */
  marked: number
  /** Were there already. */
  identical: number
  /** Live in the file and destroyed in the database: not brought back. */
  destroyed: number
  /** Destroyed in the file and live in the database: left live. */
  outlived: number
  /** Keys of tenants that are being erased: left out. */
  erasing: number
  /** Tenants of the file that are not in the database: left out. */
  unknownTenants: number
  /** Keys that would make faces unreadable. Their tenants are left as they were, and all others are not. */
  refused: RefusedKey[]
}

export interface RefusedKey {
  tenantId: string
  version: number
  /** differs: the database has another key of this version; in use: destroyed in the file, and faces are under it */
  reason: 'differs' | 'in use'
}

interface Plan extends Omit<FilledVault, 'restored' | 'marked' | 'unknownTenants'> {
  missing: StoredTemplateKey[]
  unknownTenants: Set<string>
}

/**
 * Puts into the vault what is not there, in one transaction; repeatable.
 *
 * @param masterKeys null when they are not known, and nothing can be tried
 * @param isDryRun says what it would do
 * @throws CommandError when the master keys do not open a key that is to be put in; nothing was changed then
 */
export function fillVault(
  connection: Connection,
  keys: readonly StoredTemplateKey[],
  masterKeys: MasterKeys | null,
  isDryRun = false,
): Promise<FilledVault> {
  return asOwner(connection, async () => {
    await requireVaultMaker(connection)
    if (!isDryRun) {
      await connection.query('select create_vault()')
      // nobody makes, wraps or destroys a key between looking and writing; reading goes on
      await connection.execute('lock table vault.template_keys in share row exclusive mode')
    }
    const plan = await makePlan(connection, keys, masterKeys)
    const live = plan.missing.filter(isLive)
    if (masterKeys) await requireOpening(masterKeys, live)
    if (!isDryRun) await insert(connection, plan.missing)
    const { missing, unknownTenants, ...counts } = plan
    return {
      ...counts,
      restored: live.length,
      marked: missing.length - live.length,
      unknownTenants: unknownTenants.size,
    }
  })
}

async function requireVaultMaker(connection: Connection): Promise<void> {
  const [row] = await connection.query<{ is_there: boolean }>(
    "select to_regprocedure('public.create_vault()') is not null as is_there",
  )
  if (row?.is_there) return
  throw new CommandError('The schema is older than template keys: scripts/db.sh up, then this again.', EXIT.refused)
}

async function makePlan(
  connection: Connection,
  keys: readonly StoredTemplateKey[],
  masterKeys: MasterKeys | null,
): Promise<Plan> {
  const tenants = new Map(
    (
      await connection.query<{ id: string; is_erasing: boolean }>(
        'select id, erasure_requested_at is not null as is_erasing from tenants',
      )
    ).map(({ id, is_erasing }) => [id, is_erasing]),
  )
  const there = new Map(
    ((await isThere(connection)) ? await listStoredKeys(connection, null) : []).map((key) => [nameOf(key), key]),
  )
  const plan: Plan = {
    ...{ missing: [], refused: [], unknownTenants: new Set() },
    ...{ identical: 0, destroyed: 0, outlived: 0, erasing: 0 },
  }
  for (const key of keys) {
    const isErasing = tenants.get(key.tenantId)
    const known = there.get(nameOf(key))
    if (isErasing === undefined) plan.unknownTenants.add(key.tenantId)
    else if (isErasing) plan.erasing++
    else if (!known) plan.missing.push(key)
    else if (!isLive(known)) plan[isLive(key) ? 'destroyed' : 'identical']++
    else if (!isLive(key)) plan.outlived++
    else if (await isSame(masterKeys, key, known)) plan.identical++
    else plan.refused.push({ tenantId: key.tenantId, version: key.version, reason: 'differs' })
  }
  for (const { tenantId, version } of plan.missing.filter((key) => !isLive(key))) {
    const ofFaces = await listFaceVersions(connection, tenantId)
    if (ofFaces.includes(version)) plan.refused.push({ tenantId, version, reason: 'in use' })
  }
  const left = new Set(plan.refused.map(({ tenantId }) => tenantId))
  plan.missing = plan.missing.filter(({ tenantId }) => !left.has(tenantId))
  return plan
}

function nameOf({ tenantId, version }: Pick<StoredTemplateKey, 'tenantId' | 'version'>): string {
  return `key ${version} of tenant ${tenantId}`
}

async function isSame(masterKeys: MasterKeys | null, a: LiveTemplateKey, b: LiveTemplateKey): Promise<boolean> {
  if (Buffer.compare(a.wrapped, b.wrapped) === 0) return true
  return masterKeys !== null && holdTheSame(masterKeys, a, b)
}

/**
 * After a vault was filled.
 *
 * @throws CommandError when a tenant was left out
 */
export function requireNoneRefused({ refused }: FilledVault, masterKeys: MasterKeys | null): void {
  if (refused.length === 0) return
  const differing = refused.filter(({ reason }) => reason === 'differs')
  const inUse = refused.filter(({ reason }) => reason === 'in use')
  const words: string[] = []
  if (differing.length > 0) {
    words.push(
      `${toCount(differing.length, 'key')} of the file differ from those of the database.\n${list(differing.map(nameOf))}`,
      masterKeys
        ? 'The database has other keys of these versions. If `template-keys init` made them after a restore, no face opens with them: see docs/keys.md.'
        : 'If `template-keys rotate-master` has wrapped them anew since, set TEMPLATE_MASTER_KEYS, so that they can be compared.',
    )
  }
  if (inUse.length > 0) {
    words.push(
      `${toCount(inUse.length, 'key')} destroyed in the file, and the database has faces under them.\n${list(inUse.map(nameOf))}`,
      'The file is newer than the faces. Restore the file of their time; if nobody is to read them any more, shred the tenant first.',
    )
  }
  throw new CommandError(
    `${words.join('\n')}\nOf these tenants nothing was changed; those of all others were restored.`,
    EXIT.refused,
  )
}

async function requireOpening(masterKeys: MasterKeys, keys: readonly LiveTemplateKey[]): Promise<void> {
  const unopened = await findUnopened(masterKeys, keys)
  if (unopened.length === 0) return
  throw new CommandError(
    `${toCount(unopened.length, 'key')} of the file do not open: wrapped with master key ${listMasterNumbers(unopened)}, ` +
      `and TEMPLATE_MASTER_KEYS has the numbers ${[...masterKeys.keys()].join(', ')}. Nothing was changed.\n` +
      list(unopened.map(nameOf)),
    EXIT.refused,
  )
}

async function insert(connection: Connection, keys: readonly StoredTemplateKey[]): Promise<void> {
  await connection.query(
    `insert into vault.template_keys (tenant_id, version, wrapped, created_at, destroyed_at)
    select tenant_id, version, decode(wrapped, 'base64'), created_at, destroyed_at
    from unnest($1::uuid[], $2::int[], $3::text[], $4::timestamptz[], $5::timestamptz[])
      as n (tenant_id, version, wrapped, created_at, destroyed_at)`,
    [
      keys.map(({ tenantId }) => tenantId),
      keys.map(({ version }) => version),
      keys.map(({ wrapped }) => wrapped && toBase64(wrapped)),
      keys.map(({ createdAt }) => createdAt.toISOString()),
      keys.map(({ destroyedAt }) => destroyedAt?.toISOString() ?? null),
    ],
  )
  await connection.query(
    `insert into operator_events (action, target)
    select distinct 'tenant.template_keys_restored', tenant from unnest($1::text[]) as tenant`,
    [keys.filter(isLive).map(({ tenantId }) => tenantId)],
  )
}
