// seed, import, tenants, keys: test data, many faces at once, and who may ask.
import { type FileHandle, open, realpath, rm } from 'node:fs/promises'
import { type Command, InvalidArgumentError, Option } from 'commander'
import { ENVIRONMENTS, type Environment, SCOPES, type Scope } from '../../../src/auth/api-key.ts'
import { SCHEMA_VERSION } from '../../../src/db/readiness.ts'
import { findNameFault } from '../../../src/name.ts'
import { toSettings } from '../../../src/settings.ts'
import { createApiKey, createTenant } from '../../provision.ts'
import type { Connection } from '../connection.ts'
import { type Context, toContext } from '../context.ts'
import { FORMATS, type Format, openEmbeddingFile } from '../embedding-files.ts'
import { findModels } from '../face-models.ts'
import { importFaces, type Reject } from '../import.ts'
import { requireMasterKeys } from '../master-keys.ts'
import { findVersion, listMigrations } from '../migrate.ts'
import { leavingOf, SEED_TENANTS, seedFaces, seedTenant } from '../seed.ts'
import { describeTarget, requireDirect, withConnection } from '../target.ts'
import { findTemplateKeys } from '../template-keys.ts'
import {
  findKey,
  findPepper,
  findTenant,
  listKeys,
  listTenants,
  requireLasting,
  revokeKey,
  rotateKey,
  type StoredKey,
} from '../tenants.ts'
import { CommandError, EXIT, toCount } from '../terminal.ts'
import { asOwner } from '../transaction.ts'
import { findVectorArray } from '../vector-array.ts'

const MAX_SEEDED_FACES = 1_000_000
const MAX_BATCH_SIZE = 5_000
const DEFAULT_BATCH_SIZE = 1_000
const MAX_EXPIRY_DAYS = 3_650
/** As /v1/api-keys has them. */
const MAX_OVERLAP_DAYS = 7
const DEFAULT_OVERLAP_MS = 24 * 60 * 60 * 1000
/** Everything a server of a client does; neither similarities nor administration. */
const DEFAULT_SCOPES: Scope[] = ['faces:read', 'faces:write', 'verify', 'identify', 'audit:read', 'usage:read']

/** @returns the command `tenants`, for those who have more to do with them */
export function registerData(program: Command): Command {
  program
    .command('seed')
    .description('make development tenants with keys, faces and three months of history; only on this machine')
    .option('--faces <n>', 'only add generated faces to a tenant', toWholeNumber(1, MAX_SEEDED_FACES))
    .option('--tenant <tenant>', 'which one: its id or its exact name')
    .action((options: SeedOptions, command) => seed(toContext(command), options))

  program
    .command('import')
    .description('enroll the faces of a file; run it again after an interruption')
    .argument('<file>', 'CSV, JSON Lines, or a NumPy matrix')
    .requiredOption('--tenant <tenant>', 'the id or the exact name of a tenant')
    .addOption(new Option('--format <format>', 'what the file is, when its name does not say').choices([...FORMATS]))
    .option('--ids <file>', 'for .npy: the external_id of each row, one a line')
    .option('--model <model>', 'the recognizer that made the embeddings (default: the one of the tenant)')
    .option('--replace', 'replace what is enrolled under an external_id with another embedding')
    .option('--rejects <file>', 'where to write the rows that were refused (default: FILE.rejects.jsonl)')
    .option('--batch <n>', 'rows of one transaction', toWholeNumber(1, MAX_BATCH_SIZE), DEFAULT_BATCH_SIZE)
    .action((file: string, options: ImportCommandOptions, command) => importFile(toContext(command), file, options))

  const tenants = program.command('tenants').description('list, create, suspend, resume or erase tenants')
  tenants
    .command('list', { isDefault: true })
    .description('list the tenants and how many faces they have')
    .action((_, command) => showTenants(toContext(command)))
  tenants
    .command('create')
    .description('create a tenant, and print its id')
    .argument('<name>', '1 to 255 characters')
    .addOption(
      new Option('--environment <environment>', 'live or test: what its keys begin with')
        .choices([...ENVIRONMENTS])
        .default('live'),
    )
    .action((name: string, { environment }: { environment: Environment }, command) =>
      makeTenant(toContext(command), name, environment),
    )

  const keys = program.command('keys').description('list, create, rotate or revoke the API keys of a tenant')
  keys
    .command('list', { isDefault: true })
    .description('list the keys of a tenant, by what may be shown of them')
    .requiredOption('--tenant <tenant>', 'the id or the exact name of a tenant')
    .action(({ tenant }: { tenant: string }, command) => showKeys(toContext(command), tenant))
  keys
    .command('create')
    .description('create a key and print it, once: it is kept as a hash under API_KEY_PEPPER')
    .requiredOption('--tenant <tenant>', 'the id or the exact name of a tenant')
    .requiredOption('--name <name>', 'what it is for')
    .option('--scopes <scopes>', `of ${SCOPES.join(', ')}`, toScopes, DEFAULT_SCOPES)
    .option(
      '--expires <time>',
      'how long it works, for example 90d or 12h (default: for ever)',
      toDurationMs(1, MAX_EXPIRY_DAYS),
    )
    .action((options: KeyOptions, command) => makeKey(toContext(command), options))
  keys
    .command('rotate')
    .description('make a key of the same name and scopes and print it, once; the old one ends after an overlap')
    .argument('<key>', 'its prefix, as the list shows it, or its id')
    .requiredOption('--tenant <tenant>', 'the id or the exact name of a tenant')
    .addOption(
      new Option('--overlap <time>', 'how long the old key still works; 0h ends it at once')
        .argParser(toDurationMs(0, MAX_OVERLAP_DAYS))
        .default(DEFAULT_OVERLAP_MS, '24h'),
    )
    .option(
      '--expires <time>',
      'how long the new key works, for example 90d (default: for ever, even if the old one was to end)',
      toDurationMs(1, MAX_EXPIRY_DAYS),
    )
    .action((key: string, options: RotationOptions, command) => rotate(toContext(command), key, options))
  keys
    .command('revoke')
    .description('revoke a key: it is refused from the next request on')
    .argument('<key>', 'its prefix, as the list shows it, or its id')
    .requiredOption('--tenant <tenant>', 'the id or the exact name of a tenant')
    .action((key: string, { tenant }: { tenant: string }, command) => revoke(toContext(command), tenant, key))
  return tenants
}

// == Options ==

function toWholeNumber(least: number, most: number) {
  return (text: string): number => {
    const value = /^[0-9]{1,9}$/.test(text) ? Number(text) : Number.NaN
    if (!(value >= least && value <= most)) {
      throw new InvalidArgumentError(`Use a whole number from ${least} to ${most}.`)
    }
    return value
  }
}

function toScopes(text: string): Scope[] {
  const names = [...new Set(text.split(',').map((name) => name.trim()))]
  const scopes = SCOPES.filter((scope) => names.includes(scope))
  if (scopes.length !== names.length) throw new InvalidArgumentError(`Use some of ${SCOPES.join(',')}.`)
  return scopes
}

function toDurationMs(leastHours: number, mostDays: number) {
  return (text: string): number => {
    const match = /^([0-9]{1,5})([dh])$/.exec(text)
    const hours = Number(match?.[1]) * (match?.[2] === 'd' ? 24 : 1)
    if (!(hours >= leastHours && hours <= mostDays * 24)) {
      throw new InvalidArgumentError(`Use hours or days, from ${leastHours}h to ${mostDays}d.`)
    }
    return hours * 60 * 60 * 1000
  }
}

function requireName(name: string): void {
  const fault = findNameFault(name)
  if (fault) throw new CommandError(`The name: ${fault}`, EXIT.usage)
}

// == seed ==

type SeedOptions = { faces?: number; tenant?: string }

async function seed(context: Context, { faces, tenant }: SeedOptions): Promise<void> {
  const { target } = context
  if (target.kind === 'native' && !target.isLocal) {
    throw new CommandError(
      `${describeTarget(target)} is not on this machine, and made-up faces have no place there. To enroll real ones: scripts/db.sh import`,
      EXIT.refused,
    )
  }
  requireDirect(target)
  if ((faces === undefined) !== (tenant === undefined)) {
    throw new CommandError('--faces and --tenant belong together: how many faces, and whose.', EXIT.usage)
  }
  await withConnection(target, async (connection) => {
    await requireNewest(connection)
    if (faces !== undefined && tenant !== undefined) await addFaces(context, connection, tenant, faces)
    else await seedTenants(context, connection)
  })
}

async function seedTenants(context: Context, connection: Connection): Promise<void> {
  const { target, terminal } = context
  const names = new Set((await listTenants(connection)).map(({ name }) => name))
  const missing = SEED_TENANTS.filter(({ name }) => !names.has(name))
  if (context.isDryRun) {
    const planned = missing.map(({ name }) => name)
    return terminal.result({ planned }, planned.length > 0 ? planned : ['nothing to make'])
  }
  const made: { id: string; name: string; api_key: string }[] = []
  if (missing.length > 0) {
    const secrets = { pepper: await findPepper(target), masterKeys: await requireMasterKeys(target) }
    const toVectorArray = await findVectorArray(connection, target.kind === 'native')
    const total = missing.reduce(
      (sum, { faces, verifications, identifications }) =>
        sum + faces + leavingOf(faces) + verifications + identifications,
      0,
    )
    const progress = terminal.progress('seed', total)
    for (const plan of missing) {
      const seeded = await seedTenant(
        connection,
        toVectorArray,
        secrets,
        plan,
        SEED_TENANTS.indexOf(plan) + 1,
        progress.advance,
      )
      if (seeded) made.push({ id: seeded.id, name: plan.name, api_key: seeded.apiKey })
    }
    progress.done()
    await settle(connection)
  }
  const existing = SEED_TENANTS.map(({ name }) => name).filter((name) => !made.some((tenant) => tenant.name === name))
  for (const name of existing) terminal.info(`"${name}" is there already, and was left as it is`)
  if (made.length > 0) {
    terminal.ok('the keys are shown this once')
    terminal.info(
      process.env['API_KEY_PEPPER']
        ? 'they work with the API_KEY_PEPPER that is set now'
        : 'they work with `make dev` here: its pepper is in .rekko/dev.json',
    )
  } else {
    terminal.info('for another key: scripts/db.sh keys create --tenant NAME --name NAME')
  }
  terminal.result(
    { tenants: made, existing },
    made.flatMap(({ id, name, api_key }) => [name, `  tenant  ${id}`, `  key     ${api_key}`]),
  )
}

async function addFaces(context: Context, connection: Connection, reference: string, count: number): Promise<void> {
  const { target, terminal } = context
  const tenant = await findTenant(connection, reference)
  requireLasting(tenant)
  const answer = { tenant: tenant.id, name: tenant.name, faces: count }
  if (context.isDryRun) return terminal.result(answer, [`would add ${toCount(count, 'face')} to "${tenant.name}"`])
  const masterKeys = await requireMasterKeys(target)
  const toVectorArray = await findVectorArray(connection, target.kind === 'native')
  const progress = terminal.progress('seed', count)
  await seedFaces(connection, toVectorArray, masterKeys, tenant.id, count, progress.advance)
  progress.done()
  await settle(connection)
  terminal.ok(`${toCount(count, 'face')} added to "${tenant.name}"`)
  if (terminal.isJson) terminal.result(answer, [])
}

/** Many new rows: the planner has to know them, and the index-only scan of a search needs the visibility map. */
async function settle(connection: Connection): Promise<void> {
  await connection.execute('vacuum (analyze) faces')
}

async function requireNewest(connection: Connection): Promise<void> {
  const newest = (await listMigrations()).at(-1)?.version ?? 0
  const { version, dirty } = await findVersion(connection)
  if (version === newest && !dirty) return
  throw new CommandError(
    `The schema has version ${version}${dirty ? ' (dirty)' : ''} and the newest is ${newest}: scripts/db.sh up`,
    EXIT.refused,
  )
}

/** @throws CommandError when there are no tenants as this code knows them */
export async function requireTenancy(connection: Connection): Promise<void> {
  const { version, dirty } = await findVersion(connection)
  if (version >= SCHEMA_VERSION && !dirty) return
  throw new CommandError(
    `The schema has version ${version}${dirty ? ' (dirty)' : ''}, and this needs ${SCHEMA_VERSION}: scripts/db.sh up`,
    EXIT.refused,
  )
}

// == import ==

type ImportCommandOptions = {
  tenant: string
  format?: Format
  ids?: string
  model?: string
  replace?: boolean
  rejects?: string
  batch: number
}

async function importFile(context: Context, path: string, options: ImportCommandOptions): Promise<void> {
  const { target, terminal, isDryRun } = context
  requireDirect(target)
  const file = await openEmbeddingFile(path, options.format, options.ids)
  if (file.ignored.length > 0) {
    terminal.warn(`columns that are not read: ${file.ignored.slice(0, 10).join(', ')}`)
  }
  const rejectsPath = options.rejects ?? `${path}.rejects.jsonl`
  const inputs = [path, ...(options.ids === undefined ? [] : [options.ids])]
  const rejects = isDryRun ? null : await openRejects(rejectsPath, inputs, file.unit)
  const reasons = new Reasons()
  try {
    const { tenant, totals } = await withConnection(target, async (connection) => {
      await requireTenancy(connection)
      const tenant = await findTenant(connection, options.tenant)
      requireLasting(tenant)
      const model = requireModel(options.model, toSettings(tenant.settings, findModels()).model.id)
      const findKeys = async () => findTemplateKeys(connection, await requireMasterKeys(target), tenant.id, model)
      const toVectorArray = await findVectorArray(connection, target.kind === 'native')
      const gallery = isDryRun ? null : { tenantId: tenant.id, keys: await findKeys(), model, toVectorArray }
      const progress = terminal.progress(isDryRun ? 'check' : 'import', file.total)
      let place = 0
      try {
        const totals = await importFaces(connection, file, {
          gallery,
          findKeys,
          isReplacing: options.replace ?? false,
          batchSize: options.batch,
          onRows(count) {
            place += count
            progress.advance(count)
          },
          async onReject(reject) {
            reasons.add(reject)
            await rejects?.write(reject)
          },
        })
        progress.done()
        if (totals.enrolled + totals.replaced > 0 && !isDryRun) await settle(connection)
        return { tenant, totals }
      } catch (error) {
        const reason = error instanceof Error ? error.message : String(error)
        throw new CommandError(
          `Stopped after ${place.toLocaleString('en')} ${file.unit}s: ${reason}\nRun the same command again: what is enrolled by now is skipped.`,
          error instanceof CommandError ? error.exitCode : EXIT.failed,
        )
      }
    })
    await rejects?.close()
    const answer = {
      tenant: tenant.id,
      ...totals,
      reasons: reasons.counts(),
      rejects_file: totals.rejected > 0 && rejects ? rejectsPath : null,
    }
    const verb = isDryRun ? 'would be compared and enrolled' : 'enrolled'
    terminal.result(answer, [
      `${totals.read} read`,
      `${totals.enrolled} ${verb}`,
      ...(isDryRun ? [] : [`${totals.replaced} replaced`, `${totals.skipped} skipped: enrolled already`]),
      `${totals.rejected} rejected`,
      ...Object.entries(reasons.counts()).map(([reason, count]) => `  ${count}  ${reason}`),
    ])
    if (totals.rejected > 0) {
      const where = rejects ? `, each with its reason in ${rejectsPath}` : ''
      throw new CommandError(`${totals.rejected} rejected${where}`, EXIT.findings)
    }
  } finally {
    await rejects?.close()
  }
}

function requireModel(asked: string | undefined, ofTenant: string): string {
  if (asked === undefined || asked === ofTenant) return ofTenant
  throw new CommandError(
    `The tenant works with ${ofTenant}: embeddings of another model cannot be compared with its probes.`,
    EXIT.usage,
  )
}

/** Why rows were refused, and how often; a file of garbage must not fill the memory. */
class Reasons {
  readonly #counts = new Map<string, number>()

  add({ reason }: Reject): void {
    // one line for all components
    const kind = reason.replace(/^e[0-9]+:/, 'embedding:')
    const key = this.#counts.has(kind) || this.#counts.size < 20 ? kind : 'others'
    this.#counts.set(key, (this.#counts.get(key) ?? 0) + 1)
  }

  counts(): Record<string, number> {
    return Object.fromEntries([...this.#counts].sort(([, a], [, b]) => b - a))
  }
}

interface RejectsFile {
  write(reject: Reject): Promise<void>
  /** Removes the file when nothing was written. */
  close(): Promise<void>
}

async function openRejects(path: string, inputs: string[], unit: 'line' | 'row'): Promise<RejectsFile> {
  const taken = await Promise.all(inputs.map((input) => realpath(input)))
  const existing = await realpath(path).catch(() => path)
  if (taken.includes(existing)) throw new CommandError('--rejects would overwrite what is imported.', EXIT.usage)
  let handle: FileHandle | null = await open(path, 'w', 0o600).catch((error: Error) => {
    throw new CommandError(`The rejected rows cannot be written: ${error.message}. Choose a file with --rejects.`)
  })
  let isEmpty = true
  return {
    async write({ place, externalId, reason }) {
      isEmpty = false
      await handle?.write(`${JSON.stringify({ [unit]: place, external_id: externalId, reason })}\n`)
    },
    async close() {
      if (!handle) return
      await handle.close()
      handle = null
      if (isEmpty) await rm(path, { force: true })
    },
  }
}

// == tenants ==

async function showTenants({ target, terminal }: Context): Promise<void> {
  const tenants = await withConnection(target, async (connection) => {
    await requireTenancy(connection)
    return listTenants(connection)
  })
  terminal.table(
    tenants.map(({ id, name, environment, status, faces, created_at }) => ({
      id,
      name,
      environment,
      status,
      faces,
      created: created_at.toISOString(),
    })),
    tenants.map(({ id, name, environment, status, is_active, faces, created_at }) => ({
      ...{ id, name, environment, status, is_active, faces, created: created_at.toISOString() },
    })),
  )
}

async function makeTenant(context: Context, name: string, environment: Environment): Promise<void> {
  const { target, terminal } = context
  requireName(name)
  if (context.isDryRun) return terminal.result({ name, environment }, [`would create "${name}" (${environment})`])
  await withConnection(target, async (connection) => {
    await requireTenancy(connection)
    if ((await listTenants(connection)).some((tenant) => tenant.name === name)) {
      terminal.warn(`another tenant is called "${name}": tell them apart by their ids`)
    }
    const masterKeys = await requireMasterKeys(target)
    const id = await asOwner(connection, () => createTenant(connection, masterKeys, name, environment))
    terminal.result({ id, name, environment }, [id])
  })
}

// == keys ==

async function showKeys({ target, terminal }: Context, reference: string): Promise<void> {
  const keys = await withConnection(target, async (connection) => {
    await requireTenancy(connection)
    return listKeys(connection, (await findTenant(connection, reference)).id)
  })
  terminal.table(keys.map(toKeyRow))
}

function toKeyRow({ prefix, name, scopes, created_at, expires_at, revoked_at, last_used_at, id }: StoredKey) {
  return {
    key: `${prefix}…`,
    name,
    scopes: scopes.join(','),
    created: created_at.toISOString(),
    expires: expires_at?.toISOString() ?? null,
    revoked: revoked_at?.toISOString() ?? null,
    last_used: last_used_at?.toISOString() ?? null,
    id,
  }
}

type KeyOptions = { tenant: string; name: string; scopes: Scope[]; expires?: number }

async function makeKey(context: Context, { tenant: reference, name, scopes, expires }: KeyOptions): Promise<void> {
  const { target, terminal } = context
  requireName(name)
  const expiresAt = expires === undefined ? null : new Date(Date.now() + expires)
  await withConnection(target, async (connection) => {
    await requireTenancy(connection)
    const tenant = await findTenant(connection, reference)
    requireLasting(tenant)
    const about = { tenant: tenant.id, name, scopes, expires: expiresAt?.toISOString() ?? null }
    if (context.isDryRun) return terminal.result(about, [`would create a key of "${tenant.name}": ${scopes.join(',')}`])
    const pepper = await findPepper(target)
    const key = await asOwner(connection, () =>
      createApiKey(connection, pepper, tenant.id, tenant.environment, name, scopes, expiresAt),
    )
    terminal.ok(`a key of "${tenant.name}", shown this once`)
    terminal.result({ ...about, api_key: key }, [key])
  })
}

type RotationOptions = { tenant: string; overlap: number; expires?: number }

async function rotate(context: Context, keyReference: string, options: RotationOptions): Promise<void> {
  const { target, terminal } = context
  const expiresAt = options.expires === undefined ? null : new Date(Date.now() + options.expires)
  await withConnection(target, async (connection) => {
    await requireTenancy(connection)
    const tenant = await findTenant(connection, options.tenant)
    requireLasting(tenant)
    const old = await findKey(connection, tenant.id, keyReference)
    const about = { tenant: tenant.id, rotated: old.id, expires: expiresAt?.toISOString() ?? null }
    if (context.isDryRun) return terminal.result(about, [`would rotate ${old.prefix}… (${old.name})`])
    const pepper = await findPepper(target)
    if (options.overlap === 0) {
      await terminal.confirm(`End ${old.prefix}… (${old.name}) of "${tenant.name}" at once? It cannot be taken back.`)
    }
    const key = await rotateKey(connection, pepper, tenant, old.id, options.overlap, expiresAt)
    if (key === null) {
      throw new CommandError(
        `${old.prefix}… is revoked or has expired. Make a new one: scripts/db.sh keys create`,
        EXIT.refused,
      )
    }
    const ends = (await listKeys(connection, tenant.id)).find(({ id }) => id === old.id)?.expires_at
    terminal.ok(`a key of "${tenant.name}", shown this once; ${old.prefix}… works until ${ends?.toISOString()}`)
    terminal.result({ ...about, old_expires: ends?.toISOString(), api_key: key }, [key])
  })
}

async function revoke(context: Context, reference: string, keyReference: string): Promise<void> {
  const { target, terminal } = context
  await withConnection(target, async (connection) => {
    await requireTenancy(connection)
    const tenant = await findTenant(connection, reference)
    const key = await findKey(connection, tenant.id, keyReference)
    const answer = { tenant: tenant.id, id: key.id, key: `${key.prefix}…` }
    if (key.revoked_at) {
      terminal.info(`${key.prefix}… was revoked on ${key.revoked_at.toISOString()}`)
      if (terminal.isJson) terminal.result({ ...answer, revoked: false }, [])
      return
    }
    if (context.isDryRun) return terminal.result(answer, [`would revoke ${key.prefix}… (${key.name})`])
    await terminal.confirm(`Revoke ${key.prefix}… (${key.name}) of "${tenant.name}"? It cannot be taken back.`)
    const revoked = await revokeKey(connection, tenant.id, key.id)
    terminal.ok(`${key.prefix}… is refused from the next request on`)
    if (terminal.isJson) terminal.result({ ...answer, revoked }, [])
  })
}
