// The migration runner, with golang-migrate's habits: NNNNNN_name.up.sql and .down.sql, one row in
// schema_migrations (version, dirty), one runner at a time.
import { readdir, readFile } from 'node:fs/promises'
import { basename, join } from 'node:path'
import type { Connection } from './connection.ts'

export const MIGRATIONS = join(import.meta.dirname, '../../migrations')

export interface Version {
  version: number
  dirty: boolean
}

interface Migration {
  version: number
  name: string
}

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
 * @param connection of an administrator who is a member of rekko_owner
 * @param target a version; the newest when it is not given
 * @param report called before each migration
 * @param folder of the migrations
 * @throws Error with what to do, when the database is dirty or a migration fails; what the failed one
 *   did is rolled back
 */
export async function migrate(
  connection: Connection,
  target?: number,
  report: (step: string) => void = () => {},
  folder = MIGRATIONS,
): Promise<Version> {
  await connection.execute('set role rekko_owner')
  // one runner at a time; a second one waits here, then finds nothing left to do
  await connection.query("select pg_advisory_lock(hashtext('rekko.migrate'))")
  try {
    await connection.execute(
      'create table if not exists schema_migrations (version bigint not null primary key, dirty boolean not null)',
    )
    const migrations = await listMigrations(folder)
    const goal = target ?? migrations.at(-1)?.version ?? 0
    let current = await findVersion(connection)
    for (;;) {
      if (current.dirty) throw new Error(explainDirty(current.version))
      const up = migrations.find(({ version }) => version > current.version && version <= goal)
      const down = migrations.findLast(({ version }) => version <= current.version && version > goal)
      const step = up ?? down
      if (!step) return current
      const after = up ? step.version : (migrations.findLast(({ version }) => version < step.version)?.version ?? 0)
      const file = fileName(step, up ? 'up' : 'down')
      report(`${up ? 'up' : 'down'} ${file}`)
      await run(connection, join(folder, file), step.version, after)
      current = await findVersion(connection)
    }
  } finally {
    await connection.query("select pg_advisory_unlock(hashtext('rekko.migrate'))")
    await connection.execute('reset role')
  }
}

async function run(connection: Connection, path: string, version: number, after: number): Promise<void> {
  const script = await readFile(path, 'utf8')
  const record = (recorded: number, dirty: boolean) =>
    connection.execute(
      `delete from schema_migrations; insert into schema_migrations (version, dirty) values (${recorded}, ${dirty})`,
    )
  await record(version, true)
  try {
    await connection.execute(`begin; set local lock_timeout = '5s';\n${script}\n;commit`)
  } catch (error) {
    await connection.execute('rollback')
    const reason = error instanceof Error ? error.message : String(error)
    throw new Error(`${basename(path)} failed and was rolled back: ${reason}\n${explainDirty(version)}`)
  }
  if (after > 0) await record(after, false)
  else await connection.execute('delete from schema_migrations')
}

function explainDirty(version: number): string {
  return (
    `The database is marked dirty at version ${version}: a migration did not finish. ` +
    'Look at what it left behind, mend it, then set the version that the schema really has: ' +
    `update schema_migrations set version = N, dirty = false`
  )
}

function fileName({ version, name }: Migration, direction: 'up' | 'down'): string {
  return `${String(version).padStart(6, '0')}_${name}.${direction}.sql`
}
