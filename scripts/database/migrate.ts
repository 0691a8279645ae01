// The migration runner, with golang-migrate's habits: NNNNNN_name.up.sql and .down.sql, one row in
// schema_migrations (version, dirty), one runner at a time. Besides, migration.history keeps what was
// applied and the checksum of its file.
import { createHash } from 'node:crypto'
import { readdir, readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import type { Connection } from './connection.ts'
import { PROTECTING_VERSION, type Protection, protectFaces, requireProtectable } from './protection.ts'

export const MIGRATIONS = join(import.meta.dirname, '../../migrations')

export interface Version {
  version: number
  dirty: boolean
}

export interface Migration {
  version: number
  name: string
}

/** Waits for a lock no longer than this: behind a waiting ALTER TABLE, every request waits too. */
const LOCK_TIMEOUT = '5s'
const STATEMENT_TIMEOUT = '15min'
const TURN_POLL_MS = 200
/** The first line of a migration that cannot run in a transaction (CREATE INDEX CONCURRENTLY). */
const NO_TRANSACTION = '-- no transaction'

export async function listMigrations(folder = MIGRATIONS): Promise<Migration[]> {
  const files = await readdir(folder)
  return files
    .flatMap((file) => {
      const match = /^(\d{6})_(\w+)\.up\.sql$/.exec(file)
      return match?.[1] && match[2] ? [{ version: Number(match[1]), name: match[2] }] : []
    })
    .sort((a, b) => a.version - b.version)
}

/** The version of the database; 0 before the first migration. */
export async function findVersion(connection: Connection): Promise<Version> {
  const [table] = await connection.query<{ exists: boolean }>(
    "select to_regclass('public.schema_migrations') is not null as exists",
  )
  if (!table?.exists) return { version: 0, dirty: false }
  // golang-migrate keeps version as bigint, which drivers answer as text
  const [row] = await connection.query<{ version: string; dirty: boolean }>(
    'select version::text, dirty from schema_migrations limit 1',
  )
  return row ? { version: Number(row.version), dirty: row.dirty } : { version: 0, dirty: false }
}

/**
 * Brings the database to a version, up or down, one migration and one transaction at a time.
 *
 * A migration whose first line is "-- no transaction" runs outside of one, and holds one statement.
 *
 * @param connection a direct one, of an administrator who is a member of rekko_owner
 * @param target a version; the newest when it is not given
 * @param report called before each migration
 * @param folder of the migrations
 * @param protection for faces that were enrolled before templates were protected
 * @throws Error with what to do, when the database is dirty or a migration fails; what the failed one
 *   did is rolled back, if it ran in a transaction
 */
export async function migrate(
  connection: Connection,
  target?: number,
  report: (step: string) => void = () => {},
  folder = MIGRATIONS,
  protection: Protection = { masterKeys: null },
): Promise<Version> {
  return exclusively(connection, async () => {
    const migrations = await listMigrations(folder)
    const goal = target ?? migrations.at(-1)?.version ?? 0
    let current = await findVersion(connection)
    const isOurs = folder === MIGRATIONS
    if (isOurs && current.version < PROTECTING_VERSION && goal >= PROTECTING_VERSION && !current.dirty) {
      await requireProtectable(connection, protection)
    }
    for (;;) {
      if (current.dirty) throw new Error(explainDirty(current.version))
      const step = planMigrations(migrations, current.version, goal)[0]
      if (!step) return current
      if (isOurs && step.direction === 'up' && step.migration.version === PROTECTING_VERSION + 1) {
        await protectFaces(connection, protection)
      }
      report(`${step.direction} ${fileName(step.migration, step.direction)}`)
      await run(connection, folder, step)
      current = await findVersion(connection)
    }
  })
}

export interface Step {
  migration: Migration
  direction: 'up' | 'down'
  /** The version of the database afterwards; 0 for none. */
  after: number
}

/** What has to run, in order, to come from one version to another. */
export function planMigrations(migrations: Migration[], current: number, goal: number): Step[] {
  const ups = migrations.filter(({ version }) => version > current && version <= goal)
  if (ups.length > 0) return ups.map((migration) => ({ migration, direction: 'up', after: migration.version }))
  return migrations
    .filter(({ version }) => version <= current && version > goal)
    .reverse()
    .map((migration) => ({
      migration,
      direction: 'down',
      after: migrations.findLast(({ version }) => version < migration.version)?.version ?? 0,
    }))
}

/** Sets the version and clears the dirty mark, and runs nothing; 0 for an empty database. */
export async function forceVersion(connection: Connection, version: number): Promise<void> {
  await exclusively(connection, async () => {
    await connection.execute('begin')
    await recordVersion(connection, version, false)
    await connection.execute('commit')
  })
}

export interface AppliedMigration {
  version: number
  /** SHA-256 of the file that was applied, hexadecimal; null when it was applied by another tool. */
  checksum: string | null
}

/** What was applied to the database, by its own record. */
export async function listApplied(connection: Connection): Promise<AppliedMigration[]> {
  const { version } = await findVersion(connection)
  const [table] = await connection.query<{ exists: boolean }>(
    "select to_regclass('migration.history') is not null as exists",
  )
  const rows = table?.exists
    ? await connection.query<{ version: string; checksum: string }>(
        'select version::text, checksum from migration.history',
      )
    : []
  const checksums = new Map(rows.map((row) => [Number(row.version), row.checksum]))
  const migrations = await listMigrations()
  return migrations
    .filter((migration) => migration.version <= version)
    .map((migration) => ({ version: migration.version, checksum: checksums.get(migration.version) ?? null }))
}

/** SHA-256 of a migration's up file, hexadecimal. */
export async function checksumOf(migration: Migration, folder = MIGRATIONS): Promise<string> {
  return createHash('sha256')
    .update(await readFile(join(folder, fileName(migration, 'up'))))
    .digest('hex')
}

/** Works as rekko_owner, one runner at a time: a second one waits here, then finds nothing left to do. */
async function exclusively<Result>(connection: Connection, work: () => Promise<Result>): Promise<Result> {
  await connection.execute('set role rekko_owner')
  await waitForTurn(connection)
  await watchClient(connection)
  try {
    await connection.execute(`
      create table if not exists schema_migrations (version bigint not null primary key, dirty boolean not null);
      create schema if not exists migration;
      create table if not exists migration.history (
        version bigint primary key, name text not null, checksum text not null, applied_at timestamptz not null default now()
      );
      -- pg_dump stops at a table that its role cannot read
      grant usage on schema migration to rekko_backup;
      grant select on migration.history to rekko_backup;`)
    return await work()
  } finally {
    await connection.query("select pg_advisory_unlock(hashtext('rekko.migrate'))")
    await connection.execute('reset role')
  }
}

/**
 * Asks again and again, instead of waiting inside a statement: a statement that waits holds a snapshot, and CREATE
 * INDEX CONCURRENTLY in the runner before waits for all snapshots, so the two would wait for each other.
 */
async function waitForTurn(connection: Connection): Promise<void> {
  for (;;) {
    const [row] = await connection.query<{ is_ours: boolean }>(
      "select pg_try_advisory_lock(hashtext('rekko.migrate')) as is_ours",
    )
    if (row?.is_ours) return
    await delay(TURN_POLL_MS)
  }
}

/** Lets PostgreSQL notice within seconds that this process has died, also in a long statement. */
async function watchClient(connection: Connection): Promise<void> {
  try {
    await connection.execute("set client_connection_check_interval = '2s'")
  } catch {
    // not on every platform (the embedded database): there, a dead client takes its session with it
  }
}

async function run(connection: Connection, folder: string, { migration, direction, after }: Step): Promise<void> {
  const file = fileName(migration, direction)
  const script = await readFile(join(folder, file), 'utf8')
  const isTransaction = !script.startsWith(NO_TRANSACTION)
  await connection.execute('begin')
  await recordVersion(connection, migration.version, true)
  await connection.execute('commit')
  try {
    // The commit is sent apart, with the version: should this process die, PostgreSQL rolls the script
    // back instead of finishing it with nobody to record that.
    if (isTransaction) {
      await connection.execute(
        `begin; set local lock_timeout = '${LOCK_TIMEOUT}'; set local statement_timeout = '${STATEMENT_TIMEOUT}';\n${script}`,
      )
    } else {
      await connection.execute(script)
      await connection.execute('begin')
    }
    await recordHistory(connection, folder, migration, direction)
    await recordVersion(connection, after, false)
    await connection.execute('commit')
  } catch (error) {
    await connection.execute('rollback')
    const reason = error instanceof Error ? error.message : String(error)
    const remains = isTransaction ? 'failed and was rolled back' : 'failed, and part of it may remain'
    throw new Error(`${file} ${remains}: ${reason}\n${explainDirty(migration.version)}`)
  }
}

/** @param version 0 for none */
async function recordVersion(connection: Connection, version: number, dirty: boolean): Promise<void> {
  await connection.query('delete from schema_migrations')
  if (version > 0) {
    await connection.query('insert into schema_migrations (version, dirty) values ($1, $2)', [version, dirty])
  }
}

async function recordHistory(
  connection: Connection,
  folder: string,
  migration: Migration,
  direction: 'up' | 'down',
): Promise<void> {
  await connection.query('delete from migration.history where version = $1', [migration.version])
  if (direction === 'up') {
    await connection.query('insert into migration.history (version, name, checksum) values ($1, $2, $3)', [
      migration.version,
      migration.name,
      await checksumOf(migration, folder),
    ])
  }
}

function explainDirty(version: number): string {
  return (
    `The database is marked dirty at version ${version}: a migration did not finish. Look at what it left behind, ` +
    'mend it, then say which version the schema really has: scripts/db.sh force VERSION'
  )
}

export function fileName({ version, name }: Migration, direction: 'up' | 'down'): string {
  return `${String(version).padStart(6, '0')}_${name}.${direction}.sql`
}
