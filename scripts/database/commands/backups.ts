// dump, restore, drill: backups of faces and, apart from them, of their keys; and the proof that they can be used.
import { randomBytes } from 'node:crypto'
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import type { Command } from 'commander'
import type { MasterKeys } from '../../../src/face/protection/master-keys.ts'
import { defaultFile, findServer, list, makeBackup, type Work } from '../backup.ts'
import { findTool } from '../client-tools.ts'
import { type Context, toContext } from '../context.ts'
import { countRows, inSnapshot } from '../inventory.ts'
import { checkIsolation, type IsolationReport } from '../isolation.ts'
import { lint, toSentence } from '../linter.ts'
import { hasVault, type Manifest, manifestOf } from '../manifest.ts'
import { findMasterKeys } from '../master-keys.ts'
import { listMigrations } from '../migrate.ts'
import { type OpenedTemplates, openRandomTemplates } from '../open-templates.ts'
import { restoreBackup } from '../restore.ts'
import { describeTarget, type NativeTarget, requireDirect, requireNative, withConnection } from '../target.ts'
import { readTemplateKeys, writeTemplateKeys } from '../template-keys-file.ts'
import { CommandError, EXIT, type Terminal } from '../terminal.ts'
import { copyVault, type FilledVault, fillVault, requireNoneRefused } from '../vault.ts'
import { dumpKeys, OPENED_FACES, requireOpened, restoreKeys, toOpened } from './key-backups.ts'
import { readPasswords } from './migrations.ts'

const INSTEAD =
  'To copy it, stop it (make dev-clean) and copy the folder .rekko/data; for dumps use a real PostgreSQL (--db docker or --db native).'

export function registerBackups(program: Command): void {
  program
    .command('dump')
    .description('write a backup, with a manifest beside it, compared with the database row by row count')
    .argument('[file]', 'where to; by default ./backups/rekko-YYYYMMDD-HHMMSS.dump, or .template-keys.json')
    .option('--template-keys', 'write the keys instead, which are not in a backup: wrapped, to be kept elsewhere')
    .action((file: string | undefined, { templateKeys }: { templateKeys?: true }, command) =>
      templateKeys
        ? dumpKeys(toContext(command), file ?? defaultFile(new Date(), 'template-keys.json'))
        : dump(toContext(command), file ?? defaultFile(new Date())),
    )

  program
    .command('restore')
    .description('restore a backup into an empty database, all or nothing, compare it with its manifest, and lint it')
    .argument('<file>', 'what dump has written; its manifest must be beside it')
    .option(
      '--template-keys',
      'bring back keys instead, from what dump --template-keys has written: those that are missing',
    )
    .action((file: string, { templateKeys }: { templateKeys?: true }, command) =>
      templateKeys ? restoreKeys(toContext(command), file) : restore(toContext(command), file),
    )

  program
    .command('drill')
    .description(
      'dump, restore into a scratch database, try there whether faces open and tenants stay apart, tell the times',
    )
    .action((_, command) => drill(toContext(command)))
}

async function dump(context: Context, file: string): Promise<void> {
  const { terminal } = context
  const target = toNative(context)
  if (context.isDryRun) {
    const tool = await withConnection(target, async (connection) =>
      findTool('pg_dump', (await findServer(connection)).major, target),
    )
    const plan = { database: describeTarget(target), file, pg_dump: tool.version }
    return terminal.result(plan, [`would dump ${plan.database} to ${file} with pg_dump ${tool.version}`])
  }
  const manifest = await interruptibly((signal) => makeBackup({ target, file, terminal, signal }))
  const rows = countRows(manifest.tables)
  terminal.ok(`${rows.toLocaleString('en')} rows of ${Object.keys(manifest.tables).length} tables, as in the database`)
  if (hasVault(manifest)) terminal.info('the template keys are not in it: scripts/db.sh dump --template-keys')
  terminal.result({ file, manifest: manifestOf(file), rows, ...manifest.dump, schema: manifest.schema }, [
    file,
    manifestOf(file),
  ])
}

async function restore(context: Context, file: string): Promise<void> {
  const { terminal, isDryRun } = context
  const target = toNative(context)
  const passwords = readPasswords(target)
  const manifest = await interruptibly((signal) =>
    restoreBackup({ target, file, terminal, signal, passwords, isDryRun }),
  )
  const rows = countRows(manifest.tables)
  const summary = { restored: !isDryRun, file, rows, schema: manifest.schema }
  if (isDryRun) {
    return terminal.result(summary, [`would restore ${rows.toLocaleString('en')} rows into ${describeTarget(target)}`])
  }
  terminal.ok(`${rows.toLocaleString('en')} rows, policies, grants and owners are as the manifest says`)
  if (hasVault(manifest)) {
    terminal.warn(
      'no face can be read before the keys are there too: scripts/db.sh restore --template-keys FILE (not template-keys init, which makes other ones)',
    )
  }
  const { findings } = await lintRestored(target, manifest, terminal)
  terminal.result({ ...summary, findings }, [`restored ${file} into ${describeTarget(target)}`])
  // what was dumped had them too: it is not taken away again
  if (findings.length > 0) {
    throw new CommandError(
      `The rows are back, and the linter finds ${findings.length} to mend: scripts/db.sh lint\n${list(findings)}`,
      EXIT.findings,
    )
  }
}

/** A sentence for each problem. An older schema is not judged by the rules of this release: it is to be migrated first. */
async function lintRestored(
  target: NativeTarget,
  { schema }: Manifest,
  terminal: Terminal,
): Promise<{ rules: number; findings: string[] }> {
  const newest = (await listMigrations()).at(-1)?.version ?? 0
  if (schema.version < newest) {
    terminal.warn(
      `the schema is of version ${schema.version}, this release needs ${newest}: scripts/db.sh up, then scripts/db.sh lint`,
    )
    return { rules: 0, findings: [] }
  }
  const { rules, findings } = await withConnection(target, (connection) =>
    inSnapshot(connection, null, () => lint(connection, target)),
  )
  return { rules, findings: findings.filter(({ level }) => level === 'problem').map(toSentence) }
}

async function drill(context: Context): Promise<void> {
  const { terminal } = context
  const target = toNative(context)
  if (context.isDryRun) {
    const plan = ['dump', 'restore into a scratch database', 'template keys', 'lint', 'isolation', 'drop it']
    return terminal.result({ database: describeTarget(target), plan }, plan)
  }
  const masterKeys = await findMasterKeys(target)
  const { manifest, rules, isolation, templates, steps } = await interruptibly((signal) =>
    runDrill({ target, terminal, signal, masterKeys }),
  )
  const rows = countRows(manifest.tables)
  terminal.ok(
    `${rows.toLocaleString('en')} rows came back; ${rules} rules and ${isolation.checks} checks of isolation passed`,
  )
  const total = steps.reduce((sum, { ms }) => sum + ms, 0)
  const lines = [...steps, { step: 'total', ms: total }].map(
    ({ step, ms }) => `${step.padEnd(13)} ${(ms / 1000).toFixed(1).padStart(8)} s`,
  )
  const faces = templates && toOpened(templates)
  terminal.result({ rows, ...manifest.dump, rules, checks: isolation.checks, faces, steps, total_ms: total }, lines)
}

export interface DrillResult {
  manifest: Manifest
  /** How many the linter asked; 0 for an older schema. */
  rules: number
  isolation: IsolationReport
  /** Faces that were opened in the restored database; null where that could not be tried. */
  templates: OpenedTemplates | null
  steps: { step: string; ms: number }[]
}

/** @param masterKeys null when they are not known, and no face can be opened */
export type DrillWork = Omit<Work, 'file'> & { masterKeys: MasterKeys | null }

/**
 * Dumps the target and its keys, restores both into a database of its own on the same server, opens faces there and
 * tries the walls. The scratch database and the files are gone afterwards, whatever happens.
 *
 * @throws CommandError when any step fails, a face does not open, or a wall does not hold
 */
export async function runDrill(work: DrillWork): Promise<DrillResult> {
  const { target, terminal, masterKeys } = work
  const steps: DrillResult['steps'] = []
  const time = async <Result>(step: string, run: () => Promise<Result>): Promise<Result> => {
    terminal.info(step)
    const startedAt = performance.now()
    const result = await run()
    steps.push({ step, ms: Math.round(performance.now() - startedAt) })
    return result
  }
  const folder = await mkdtemp(join(tmpdir(), 'rekko-drill-'))
  const file = join(folder, 'drill.dump')
  const keyFile = join(folder, 'drill.template-keys.json')
  const name = `rekko_drill_${randomBytes(6).toString('hex')}`
  const url = new URL(target.url)
  url.pathname = `/${name}`
  const scratch: NativeTarget = { ...target, url }
  try {
    const manifest = await time('dump', async () => {
      const made = await makeBackup({ ...work, file })
      // at once: a tenant that is re-keyed meanwhile has other keys than its faces in the dump
      if (hasVault(made)) {
        const { keys } = await withConnection(target, copyVault)
        await writeTemplateKeys(keyFile, made.database, keys)
      }
      return made
    })
    if (!manifest.is_bootstrapped) {
      throw new CommandError('This database has no roles of Rekko yet, so there are no walls to try: scripts/db.sh up')
    }
    // the name is ours; template0 holds nothing that somebody put into template1
    await withConnection(target, (connection) => connection.execute(`create database ${name} template template0`))
    await time('restore', () => restoreBackup({ ...work, target: scratch, file, passwords: inventPasswords() }))
    const templates = hasVault(manifest)
      ? await time('template keys', () => tryKeys(scratch, keyFile, masterKeys, terminal))
      : null
    const linted = await time('lint', () => lintRestored(scratch, manifest, terminal))
    const isolation = await time('isolation', () =>
      withConnection(scratch, (connection) => checkIsolation(connection, manifest.tables)),
    )
    const failures = [...isolation.failures, ...linted.findings]
    if (failures.length > 0) {
      throw new CommandError(`Tenants do not stay apart in the restored database.\n${list(failures)}`)
    }
    return { manifest, rules: linted.rules, isolation, templates, steps }
  } finally {
    await rm(folder, { recursive: true, force: true })
    await withConnection(target, (connection) => connection.execute(`drop database if exists ${name} with (force)`))
  }
}

/** Puts the keys of a file into a restored database and opens faces with them; null when there is no master key to do it. */
async function tryKeys(
  target: NativeTarget,
  file: string,
  masterKeys: MasterKeys | null,
  terminal: Terminal,
): Promise<OpenedTemplates | null> {
  const keys = await readTemplateKeys(file)
  let filled: FilledVault | undefined
  const opened = await withConnection(target, async (connection) => {
    filled = await fillVault(connection, keys, masterKeys)
    return masterKeys && openRandomTemplates(connection, masterKeys, OPENED_FACES)
  })
  if (opened) requireOpened(opened, terminal, 'If a tenant was re-keyed or erased meanwhile, drill again.')
  else terminal.warn('TEMPLATE_MASTER_KEYS is not set here: the keys came back, and whether faces open was not tried')
  if (filled) requireNoneRefused(filled, masterKeys)
  return opened
}

/** The logins exist on this server, and keep their own. */
function inventPasswords() {
  const password = randomBytes(24).toString('hex')
  return { rekko_app: password, rekko_operator: password, rekko_jobs: password }
}

function toNative({ target }: Context): NativeTarget {
  const native = requireNative(target, INSTEAD)
  requireDirect(native)
  return native
}

/** Runs work so that Ctrl-C and a polite kill let it clean up; a second one ends it at once. */
async function interruptibly<Result>(work: (signal: AbortSignal) => Promise<Result>): Promise<Result> {
  const controller = new AbortController()
  const interrupt = () => controller.abort(new CommandError('Interrupted.', EXIT.failed))
  process.once('SIGINT', interrupt).once('SIGTERM', interrupt)
  try {
    return await work(controller.signal)
  } finally {
    process.off('SIGINT', interrupt).off('SIGTERM', interrupt)
  }
}
