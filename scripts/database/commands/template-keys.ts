// template-keys: the keys under which faces are stored. docs/keys.md says when each command is for.
import { randomBytes } from 'node:crypto'
import type { Command } from 'commander'
import { toMasterNumber } from '../../../src/face/protection/data-secret.ts'
import { isDevelopmentKey, newestMasterKey, parseMasterKeys } from '../../../src/face/protection/master-keys.ts'
import type { Connection } from '../connection.ts'
import { type Context, toContext } from '../context.ts'
import { requireGiven, requireMasterKeys } from '../master-keys.ts'
import { rekeyTenant } from '../rekey.ts'
import { requireDirect, withConnection } from '../target.ts'
import {
  destroyTemplateKeys,
  initTemplateKeys,
  listStoredKeys,
  rewrapTemplateKey,
  type StoredTemplateKey,
} from '../template-keys.ts'
import { findTenant, listTenants, requireLasting } from '../tenants.ts'
import { CommandError, EXIT, toCount } from '../terminal.ts'
import { asOwner, asTenant } from '../transaction.ts'
import { findVectorArray } from '../vector-array.ts'
import { requireTenancy } from './data.ts'
import { confirmLoss } from './migrations.ts'

const SHRED_BATCH = 2_000
/** Of faces and tenants that are named: the command says how many more there are. */
const MAX_LISTED = 10

export function registerTemplateKeys(program: Command): void {
  const keys = program
    .command('template-keys')
    .description('the keys under which faces are stored: make, list, rotate, replace or destroy them')
  keys
    .command('list', { isDefault: true })
    .description('list the keys of all tenants, or of one with how many faces are under each')
    .option('--tenant <tenant>', 'the id or the exact name of a tenant')
    .action(({ tenant }: { tenant?: string }, command) => list(toContext(command), tenant ?? null))
  keys
    .command('new-master')
    .description('print TEMPLATE_MASTER_KEYS with one more master key; the database is not asked')
    .action((_, command) => newMaster(toContext(command)))
  keys
    .command('init')
    .description('give a key to every tenant that has none')
    .action((_, command) => init(toContext(command)))
  keys
    .command('rotate-master')
    .description('wrap every key with the newest master key; run it again after an interruption')
    .action((_, command) => rotateMaster(toContext(command)))
  keys
    .command('rekey')
    .description('give a tenant a new key and move its faces to it, while it works; run it again after an interruption')
    .argument('<tenant>', 'its id or its exact name')
    .action((tenant: string, _, command) => rekey(toContext(command), tenant))
  keys
    .command('shred')
    .description('destroy the keys of a tenant: its faces are lost, here and in every backup')
    .argument('<tenant>', 'its id or its exact name')
    .action((tenant: string, _, command) => shred(toContext(command), tenant))
}

async function list({ target, terminal }: Context, reference: string | null): Promise<void> {
  const rows = await withConnection(target, async (connection) => {
    await requireTenancy(connection)
    const tenantId = reference === null ? null : (await findTenant(connection, reference)).id
    const stored = await asOwner(connection, () => listStoredKeys(connection, tenantId))
    const newest = new Map<string, number>()
    for (const { tenantId: owner, version, wrapped } of stored) if (wrapped) newest.set(owner, version)
    const faces = new Map<number, number>()
    if (tenantId !== null) {
      const counted = await asTenant(connection, tenantId, () =>
        connection.query<{ version: number; faces: number }>(
          'select key_version as version, count(*)::int as faces from faces where tenant_id = $1 group by key_version',
          [tenantId],
        ),
      )
      for (const row of counted) faces.set(row.version, row.faces)
    }
    return stored.map((key) => ({
      tenant: key.tenantId,
      version: key.version,
      state: toState(key, newest.get(key.tenantId)),
      master: key.wrapped && toMasterNumber(key.wrapped),
      ...(tenantId !== null && { faces: faces.get(key.version) ?? 0 }),
      created: key.createdAt.toISOString(),
      destroyed: key.destroyedAt?.toISOString() ?? null,
    }))
  })
  terminal.table(rows)
}

function toState({ version, wrapped }: StoredTemplateKey, newest: number | undefined): string {
  if (wrapped === null) return 'destroyed'
  return version === newest ? 'active' : 'retiring'
}

function newMaster({ terminal }: Context): void {
  const text = process.env['TEMPLATE_MASTER_KEYS'] ?? ''
  const known = text === '' ? new Map<number, Uint8Array>() : parseMasterKeys(text)
  if ('fault' in known) throw new CommandError(`TEMPLATE_MASTER_KEYS ${known.fault}.`, EXIT.usage)
  // whoever comes from development starts anew: its key protects nothing
  const kept = [...known].filter(([number]) => !isDevelopmentKey(number))
  const number = kept.length === 0 ? 1 : newestMasterKey(new Map(kept)) + 1
  if (isDevelopmentKey(number)) throw new CommandError('There is no number left for another master key.', EXIT.refused)
  const secret = [...kept, [number, randomBytes(32)] as const]
    .map(([each, bytes]) => `${each}:${Buffer.from(bytes).toString('base64')}`)
    .join(',')
  terminal.warn(
    'shown this once, and kept nowhere: put it into the secret TEMPLATE_MASTER_KEYS, and a copy into escrow',
  )
  terminal.result({ number, template_master_keys: secret }, [secret])
}

async function init(context: Context): Promise<void> {
  const { target, terminal } = context
  await withConnection(target, async (connection) => {
    await requireTenancy(connection)
    const masterKeys = await requireMasterKeys(target)
    const lacking = await listWithoutKey(connection)
    const locked = lacking.filter(({ faces }) => faces > 0).map(({ id }) => id)
    if (locked.length > 0) {
      throw new CommandError(
        `${toCount(locked.length, 'tenant')} without a key have faces, which no new key opens: ${sample(locked)}\n` +
          'Bring their keys back: scripts/db.sh restore --template-keys FILE. If those are lost: scripts/db.sh template-keys shred TENANT, then this.',
        EXIT.refused,
      )
    }
    requireGiven(target, terminal, lacking)
    if (context.isDryRun) {
      const tenants = lacking.map(({ id }) => id)
      return terminal.result({ tenants }, [`would give a key to ${toCount(tenants.length, 'tenant')}`])
    }
    const tenants = await initTemplateKeys(connection, masterKeys)
    terminal.result({ tenants }, [
      tenants.length === 0 ? 'every tenant has a key' : `${toCount(tenants.length, 'tenant')} got a key`,
    ])
    if (tenants.length > 0) terminal.info('keep a copy: scripts/db.sh dump --template-keys')
  })
}

function listWithoutKey(connection: Connection): Promise<{ id: string; environment: string; faces: number }[]> {
  return asOwner(connection, () =>
    connection.query<{ id: string; environment: string; faces: number }>(
      `select t.id, t.environment, (select coalesce(sum(c.change), 0)::int from face_counts c where c.tenant_id = t.id) as faces
      from tenants t
      where t.erasure_requested_at is null
        and not exists (select from vault.template_keys k where k.tenant_id = t.id and k.destroyed_at is null)
      order by t.id`,
    ),
  )
}

async function rotateMaster(context: Context): Promise<void> {
  const { target, terminal } = context
  await withConnection(target, async (connection) => {
    await requireTenancy(connection)
    const masterKeys = await requireMasterKeys(target)
    const newest = newestMasterKey(masterKeys)
    const old = (await asOwner(connection, () => listStoredKeys(connection, null))).filter(
      ({ wrapped }) => wrapped !== null && toMasterNumber(wrapped) !== newest,
    )
    const theirs = new Set(old.map(({ tenantId }) => tenantId))
    requireGiven(
      target,
      terminal,
      (await listTenants(connection)).filter(({ id }) => theirs.has(id)),
    )
    if (context.isDryRun) {
      return terminal.result({ master: newest, keys: old.length }, [
        `would wrap ${toCount(old.length, 'key')} with master key ${newest}`,
      ])
    }
    const progress = terminal.progress('rotate-master', old.length)
    let rewrapped = 0
    for (const key of old) {
      if (await rewrapTemplateKey(connection, masterKeys, key)) rewrapped++
      progress.advance(1)
    }
    progress.done()
    terminal.ok(`every key is wrapped with master key ${newest}`)
    const retired = [...masterKeys.keys()].filter((number) => number !== newest)
    if (retired.length > 0) {
      terminal.info(
        `once backups of the keys that are older than this are gone, TEMPLATE_MASTER_KEYS needs no ${retired.join(', ')} any more`,
      )
    }
    terminal.result({ master: newest, rewrapped }, [`${toCount(rewrapped, 'key')} wrapped anew`])
  })
}

async function rekey(context: Context, reference: string): Promise<void> {
  const { target, terminal } = context
  // the lock that keeps a second run away is the session's
  requireDirect(target)
  await withConnection(target, async (connection) => {
    await requireTenancy(connection)
    const tenant = await findTenant(connection, reference)
    requireLasting(tenant)
    const masterKeys = await requireMasterKeys(target)
    requireGiven(target, terminal, [tenant])
    if (context.isDryRun) {
      return terminal.result({ tenant: tenant.id, faces: tenant.faces }, [
        `would move up to ${toCount(tenant.faces, 'face')} of "${tenant.name}" to a new key`,
      ])
    }
    let progress: ReturnType<typeof terminal.progress> | undefined
    const result = await rekeyTenant(
      connection,
      await findVectorArray(connection, target.kind === 'native'),
      masterKeys,
      tenant.id,
      {
        onStart(from, to, faces) {
          terminal.info(`"${tenant.name}": from key ${from} to key ${to}`)
          progress = terminal.progress('rekey', faces)
        },
        onFaces: (count) => progress?.advance(count),
      },
    )
    progress?.done()
    if (result.moved > 0) await connection.execute('vacuum (analyze) faces')
    if (result.differing.length > 0) {
      terminal.warn(
        `${toCount(result.differing.length, 'face')} had another vector than was enrolled, which is mended: ${sample(result.differing)}`,
      )
    }
    terminal.result(
      {
        tenant: tenant.id,
        from: result.from,
        to: result.to,
        moved: result.moved,
        not_opened: result.notOpened,
        differing: result.differing,
        finished: result.isFinished,
      },
      [`${toCount(result.moved, 'face')} moved to key ${result.to}`],
    )
    if (result.notOpened.length > 0) {
      throw new CommandError(
        `${toCount(result.notOpened.length, 'face')} cannot be opened, so key ${result.from} stays: ${sample(result.notOpened)}\n` +
          'Somebody changed them in the database. Erase them or enroll them again, then run this again: docs/keys.md',
        EXIT.findings,
      )
    }
    if (!result.isFinished) {
      throw new CommandError(`Key ${result.from} is still in use. Run the same command again.`)
    }
    terminal.ok(`key ${result.from} is destroyed; keep a copy of the new one: scripts/db.sh dump --template-keys`)
  })
}

function sample(ids: string[]): string {
  const rest = ids.length - MAX_LISTED
  return ids.slice(0, MAX_LISTED).join(', ') + (rest > 0 ? ` and ${rest} more` : '')
}

async function shred(context: Context, reference: string): Promise<void> {
  const { target, terminal } = context
  requireDirect(target)
  await withConnection(target, async (connection) => {
    await requireTenancy(connection)
    const tenant = await findTenant(connection, reference)
    const about = { tenant: tenant.id, name: tenant.name, faces: tenant.faces }
    const whose = `the template keys of "${tenant.name}" (${tenant.id})`
    if (context.isDryRun) return terminal.result(about, [`would destroy ${whose}`])
    await confirmLoss(
      context,
      `Destroy ${whose}? Its ${toCount(tenant.faces, 'face')} are lost, here and in every backup.`,
    )
    const destroyed = await destroyTemplateKeys(connection, tenant.id)
    const progress = terminal.progress('shred', tenant.faces)
    let faces = 0
    for (;;) {
      // nobody can read them, and a search would count them
      const rows = await asTenant(connection, tenant.id, () =>
        connection.query(
          `delete from faces where tenant_id = $1
            and id = any (array(select id from faces where tenant_id = $1 limit ${SHRED_BATCH})) returning 1`,
          [tenant.id],
        ),
      )
      faces += rows.length
      progress.advance(rows.length)
      if (rows.length === 0) break
    }
    progress.done()
    terminal.ok(`${toCount(destroyed, 'key')} destroyed; instances of the Worker forget theirs within a minute`)
    terminal.warn('files of scripts/db.sh dump --template-keys still have them: destroy those that are older than this')
    terminal.result({ ...about, keys: destroyed, deleted: faces }, [`${toCount(faces, 'face')} deleted`])
  })
}
