// dump --template-keys and restore --template-keys: backups of the keys, which are no part of those of the faces.
import { findServer, list } from '../backup.ts'
import type { Context } from '../context.ts'
import { findMasterKeys } from '../master-keys.ts'
import { isLive, type OpenedTemplates, openRandomTemplates } from '../open-templates.ts'
import { describeTarget, requireDirect, withConnection } from '../target.ts'
import { readTemplateKeys, requireNewFile, writeTemplateKeys } from '../template-keys-file.ts'
import { CommandError, EXIT, type Terminal, toCount } from '../terminal.ts'
import { copyVault, type FilledVault, fillVault, requireNoneRefused } from '../vault.ts'
import { requireExisting } from './health.ts'

/** What a restore and a drill open: where one face in a hundred is wrong, two runs of three notice. */
export const OPENED_FACES = 100

export async function dumpKeys(context: Context, file: string): Promise<void> {
  const { target, terminal } = context
  requireDirect(target)
  await requireExisting(target)
  const { keys, keyless, database } = await withConnection(target, async (connection) => ({
    ...(await copyVault(connection)),
    database: (await findServer(connection)).database,
  }))
  const live = keys.filter(isLive).length
  const summary = { file, keys: live, destroyed: keys.length - live, tenants_without_key: keyless }
  await requireNewFile(file)
  if (context.isDryRun) {
    return terminal.result(summary, [
      `would write ${toCount(live, 'key')} of ${describeTarget(target)} to ${file}, as they are wrapped`,
    ])
  }
  await writeTemplateKeys(file, database, keys)
  const marks = keys.length > live ? `, and the marks of ${toCount(keys.length - live, 'destroyed one')}` : ''
  terminal.ok(`${toCount(live, 'live key')}${marks}, as they are wrapped`)
  if (keyless > 0) terminal.warn(`${toCount(keyless, 'tenant')} without a live key: scripts/db.sh doctor`)
  terminal.info('keep it apart from the dump, and from TEMPLATE_MASTER_KEYS: together, the three are the faces')
  terminal.result(summary, [file])
}

export async function restoreKeys(context: Context, file: string): Promise<void> {
  const { target, terminal, isDryRun } = context
  requireDirect(target)
  const keys = await readTemplateKeys(file)
  await requireExisting(target)
  const masterKeys = await findMasterKeys(target)
  const { filled, opened } = await withConnection(target, async (connection) => {
    const filled = await fillVault(connection, keys, masterKeys, isDryRun)
    return {
      filled,
      opened: masterKeys && !isDryRun ? await openRandomTemplates(connection, masterKeys, OPENED_FACES) : null,
    }
  })
  explainFilling(filled, terminal)
  if (!masterKeys) {
    terminal.warn('TEMPLATE_MASTER_KEYS is not set here: whether the keys open, and faces with them, was not tried')
  }
  terminal.result({ file, restored: !isDryRun, keys: toCounts(filled), faces: opened && toOpened(opened) }, [
    `${isDryRun ? 'would restore' : 'restored'} ${toCount(filled.restored, 'key')} into ${describeTarget(target)}`,
  ])
  requireNoneRefused(filled, masterKeys)
  if (opened) requireOpened(opened, terminal)
}

function explainFilling({ identical, destroyed, outlived, erasing, unknownTenants }: FilledVault, terminal: Terminal) {
  if (identical > 0) terminal.info(`${toCount(identical, 'key')} there already`)
  if (destroyed > 0) {
    terminal.warn(`${toCount(destroyed, 'key')} not brought back: destroyed in the database since the file was made`)
  }
  if (outlived > 0) {
    terminal.warn(
      `${toCount(outlived, 'key')} left live, destroyed in the file: is it of another database, or a newer one?`,
    )
  }
  if (erasing > 0) terminal.warn(`${toCount(erasing, 'key')} left out: their tenants are being erased`)
  if (unknownTenants > 0) {
    terminal.warn(`${toCount(unknownTenants, 'tenant')} of the file left out, which are not in the database`)
  }
}

function toCounts({ unknownTenants, refused, ...counts }: FilledVault) {
  return { ...counts, unknown_tenants: unknownTenants, refused: refused.length }
}

export function toOpened({ opened, failed }: OpenedTemplates) {
  return { opened, failed: failed.length }
}

/** @throws CommandError when a face did not open */
export function requireOpened(
  { opened, failed }: OpenedTemplates,
  terminal: Terminal,
  advice = 'scripts/db.sh doctor',
): void {
  if (failed.length === 0) {
    terminal.ok(`${toCount(opened, 'face')} that chance picked ${opened === 1 ? 'opens' : 'open'}`)
    return
  }
  const lines = failed.map(
    ({ tenantId, faceId, keyVersion, reason }) =>
      `face ${faceId} of tenant ${tenantId}, under key ${keyVersion}: ${reason}`,
  )
  throw new CommandError(
    `${failed.length} of ${toCount(opened + failed.length, 'face')} that chance picked do not open. ${advice}\n${list(lines)}`,
    EXIT.findings,
  )
}
