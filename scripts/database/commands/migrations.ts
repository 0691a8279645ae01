// up, down, goto, reset, version, force, create, check: the schema and its versions.
import { access, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { Argument, type Command } from 'commander'
import { bootstrap, LOGIN_ROLES, type LoginRole } from '../bootstrap.ts'
import type { Connection } from '../connection.ts'
import { type Context, toContext } from '../context.ts'
import { DEVELOPMENT_PASSWORDS } from '../development.ts'
import { findMasterKeys, isAssumed } from '../master-keys.ts'
import {
  checksumOf,
  fileName,
  findVersion,
  forceVersion,
  listApplied,
  listMigrations,
  MIGRATIONS,
  migrate,
  planMigrations,
  type Version,
} from '../migrate.ts'
import { findSchemaFindings } from '../schema-comparison.ts'
import { describeTarget, requireDirect, type Target, withConnection } from '../target.ts'
import { CommandError, EXIT } from '../terminal.ts'

export function registerMigrations(program: Command): void {
  program
    .command('up')
    .description('make roles and extension if need be, then run the migrations that are pending')
    .action((_, command) => moveTo(toContext(command), async () => (await listMigrations()).at(-1)?.version ?? 0))

  program
    .command('down')
    .description('roll back the last migration; its data may be lost')
    .action((_, command) =>
      moveTo(toContext(command), async (current) => {
        const older = (await listMigrations()).filter(({ version }) => version < current)
        return older.at(-1)?.version ?? 0
      }),
    )

  program
    .command('goto')
    .description('migrate up or down to a version')
    .addArgument(new Argument('<version>', 'a version; 0 for none').argParser(toVersion))
    .action((version: number, _, command) => moveTo(toContext(command), async () => version))

  program
    .command('reset')
    .description('roll back everything and migrate again: all data are lost')
    .action((_, command) => reset(toContext(command)))

  program
    .command('version')
    .description('show the version of the schema')
    .action(async (_, command) => {
      const { target, terminal } = toContext(command)
      const version = await withConnection(target, findVersion)
      terminal.result(version, [`${version.version}${version.dirty ? ' (dirty)' : ''}`])
    })

  program
    .command('force')
    .description('set the version and clear the dirty mark, and run nothing')
    .addArgument(new Argument('<version>', 'the version that the schema really has').argParser(toVersion))
    .action((version: number, _, command) => force(toContext(command), version))

  program
    .command('create')
    .description('make the two empty files of the next migration')
    .argument('<name>', 'snake_case: what it does')
    .action((name: string, _, command) => create(toContext(command), name))

  program
    .command('check')
    .description(
      'compare the database with the files: nothing pending, none changed, each with its way back, the same schema',
    )
    .action((_, command) => check(toContext(command)))
}

function toVersion(text: string): number {
  if (!/^[0-9]{1,9}$/.test(text)) throw new CommandError(`"${text}" is not a version: use a whole number.`, EXIT.usage)
  return Number(text)
}

async function moveTo(context: Context, findGoal: (current: number) => Promise<number>): Promise<void> {
  const { target, terminal } = context
  requireDirect(target)
  await withConnection(target, async (connection) => {
    const migrations = await listMigrations()
    const { version: current, dirty } = await findVersion(connection)
    const goal = await findGoal(current)
    if (goal !== 0 && !migrations.some(({ version }) => version === goal)) {
      throw new CommandError(`There is no migration ${goal}.`, EXIT.usage)
    }
    const steps = dirty ? [] : planMigrations(migrations, current, goal)
    if (context.isDryRun) {
      const files = steps.map(({ migration, direction }) => fileName(migration, direction))
      terminal.result({ current, goal, files }, files.length > 0 ? files : ['nothing to run'])
      return
    }
    if (steps.some(({ direction }) => direction === 'down')) {
      await confirmLoss(context, `Roll back to version ${goal}? What the rolled back migrations hold is lost.`)
    }
    if (goal >= current) await bootstrap(connection, readPasswords(target))
    const reached = await migrateTo(context, connection, goal)
    terminal.ok(`version ${reached.version}`)
    if (terminal.isJson) terminal.result(reached, [])
  })
}

/** Migrates, and shows how far the protection of faces that are there has come. */
async function migrateTo(context: Context, connection: Connection, goal: number | undefined): Promise<Version> {
  const { target, terminal } = context
  let progress: ReturnType<typeof terminal.progress> | undefined
  let before = 0
  const reached = await migrate(connection, goal, (step) => terminal.info(step), MIGRATIONS, {
    masterKeys: await findMasterKeys(target),
    isAssumed: isAssumed(target),
    onFaces(done, total) {
      progress ??= terminal.progress('protect', total)
      progress.advance(done - before)
      before = done
    },
  })
  progress?.done()
  return reached
}

async function reset(context: Context): Promise<void> {
  const { target, terminal } = context
  requireDirect(target)
  if (context.isDryRun)
    return terminal.result({ reset: describeTarget(target) }, [`would reset ${describeTarget(target)}`])
  await confirmLoss(context, 'Roll back everything and migrate again? All data are lost.')
  await withConnection(target, async (connection) => {
    await bootstrap(connection, readPasswords(target))
    await migrate(connection, 0, (step) => terminal.info(step))
    const reached = await migrateTo(context, connection, undefined)
    terminal.ok(`version ${reached.version}, empty`)
  })
}

async function force(context: Context, version: number): Promise<void> {
  const { target, terminal } = context
  requireDirect(target)
  const isKnown = version === 0 || (await listMigrations()).some((migration) => migration.version === version)
  if (!isKnown) throw new CommandError(`There is no migration ${version}.`, EXIT.usage)
  if (context.isDryRun) return terminal.result({ version }, [`would set version ${version}`])
  await terminal.confirm(`Set ${describeTarget(target)} to version ${version} without running anything?`)
  await withConnection(target, (connection) => forceVersion(connection, version))
  terminal.ok(`version ${version}`)
}

async function create(context: Context, name: string): Promise<void> {
  if (!/^[a-z][a-z0-9_]{2,60}$/.test(name)) {
    throw new CommandError('Name it in snake_case, for example add_consents.', EXIT.usage)
  }
  const version = ((await listMigrations()).at(-1)?.version ?? 0) + 1
  const files = (['up', 'down'] as const).map((direction) => join(MIGRATIONS, fileName({ version, name }, direction)))
  if (!context.isDryRun) {
    for (const file of files) await writeFile(file, '-- What this changes, and why.\n', { flag: 'wx' })
  }
  context.terminal.result(files, files)
}

async function check(context: Context): Promise<void> {
  const { target, terminal } = context
  const findings = await withConnection(target, async (connection) => {
    const ofMigrations = (await findMigrationFindings(connection)).map(({ says, mend }) => `${says}: ${mend}`)
    // an older schema differs for that reason alone
    return ofMigrations.length > 0 ? ofMigrations : findSchemaFindings(connection)
  })
  terminal.result({ findings }, findings.length > 0 ? findings : ['nothing to mend'])
  if (findings.length > 0) throw new CommandError(`${findings.length} to mend`, EXIT.findings)
}

/** What does not agree between the database's record and the files; empty when all does. */
export async function findMigrationFindings(connection: Connection): Promise<{ says: string; mend: string }[]> {
  const findings: { says: string; mend: string }[] = []
  const migrations = await listMigrations()
  const { version, dirty } = await findVersion(connection)
  if (dirty) {
    findings.push({
      says: `version ${version} is dirty: a migration did not finish`,
      mend: 'mend what it left behind, then scripts/db.sh force VERSION',
    })
  }
  for (const migration of migrations) {
    if (migration.version > version) {
      findings.push({ says: `${fileName(migration, 'up')} is pending`, mend: 'scripts/db.sh up' })
    }
    const down = fileName(migration, 'down')
    const hasDown = await access(join(MIGRATIONS, down)).then(
      () => true,
      () => false,
    )
    if (!hasDown) findings.push({ says: `${down} is missing`, mend: 'write it: each migration has its way back' })
  }
  if (version > (migrations.at(-1)?.version ?? 0)) {
    findings.push({ says: `version ${version} is newer than any file here`, mend: 'use the release that has its file' })
  }
  for (const applied of await listApplied(connection)) {
    const migration = migrations.find((candidate) => candidate.version === applied.version)
    // null: applied by hand or by golang-migrate, which keep no checksum
    if (migration && applied.checksum !== null && applied.checksum !== (await checksumOf(migration))) {
      findings.push({
        says: `${fileName(migration, 'up')} was changed after it was applied`,
        mend: 'undo that, and write a new migration',
      })
    }
  }
  return findings
}

/** What cannot be taken back: asked once here, and twice on another machine. */
export async function confirmLoss({ target, terminal, timesConfirmed }: Context, question: string): Promise<void> {
  const isLocal = target.kind === 'embedded' || target.isLocal
  if (!isLocal && timesConfirmed < 2) {
    throw new CommandError(
      `${describeTarget(target)} is not on this machine. ${question} If you are sure, say --yes twice.`,
      EXIT.refused,
    )
  }
  await terminal.confirm(`${describeTarget(target)}: ${question}`)
}

/**
 * The passwords for logins that do not exist yet: from REKKO_APP_PASSWORD, REKKO_OPERATOR_PASSWORD and
 * REKKO_JOBS_PASSWORD; on this machine, the development ones when they are not given.
 */
export function readPasswords(target: Target): Record<LoginRole, string> {
  const isLocal = target.kind === 'embedded' || target.isLocal
  const given = LOGIN_ROLES.map((role) => {
    const name = `${role.toUpperCase()}_PASSWORD`
    const password = process.env[name] ?? (isLocal ? DEVELOPMENT_PASSWORDS[role] : undefined)
    if (!password) throw new CommandError(`Set ${name}: the password of the login ${role}.`, EXIT.usage)
    return [role, password] as const
  })
  // one entry for each of LOGIN_ROLES
  return Object.fromEntries(given) as Record<LoginRole, string>
}
