// Makes a dump that is proven to hold what the database held: counted in the snapshot that pg_dump reads,
// then counted again in the file that it wrote.
import { createReadStream } from 'node:fs'
import { mkdir, open, rename, rm } from 'node:fs/promises'
import { dirname } from 'node:path'
import type { Readable } from 'node:stream'
import { describeCatalog } from './catalog.ts'
import { findTool, runTool, type Tool } from './client-tools.ts'
import type { Connection } from './connection.ts'
import { createPartial, syncFolder, writeWhole } from './durable-file.ts'
import {
  type CountedTable,
  compareCounts,
  countCopiedRows,
  countRows,
  type Inventory,
  inSnapshot,
  listTables,
  takeInventory,
  VAULT,
} from './inventory.ts'
import { checksumOfFile, type Manifest, manifestOf, sizeOf, toManifest } from './manifest.ts'
import { findVersion, type Version } from './migrate.ts'
import { describeTarget, type NativeTarget, withConnection } from './target.ts'
import { CommandError, EXIT, type Terminal } from './terminal.ts'

/** What dump, restore and drill share. */
export interface Work {
  target: NativeTarget
  /** The dump. */
  file: string
  terminal: Terminal
  /** Aborted when the user interrupts. */
  signal: AbortSignal
  /** How the programs of PostgreSQL are found; tests put others in their place. */
  find?: typeof findTool
}

export interface Server {
  /** For example 17.6. */
  version: string
  major: number
  /** Null where the extension is not installed. */
  pgvector: string | null
  database: string
}

/**
 * Writes a dump and its manifest; the files have their names only when everything was compared.
 *
 * @param file refused when it exists
 * @throws CommandError when the database cannot be read whole, or the dump does not hold what it held
 */
export async function makeBackup({ target, file, terminal, signal, find = findTool }: Work): Promise<Manifest> {
  if ((await sizeOf(file)) !== null) {
    throw new CommandError(`${file} exists, and a backup is not overwritten. Choose another name.`, EXIT.refused)
  }
  return withConnection(target, async (connection) => {
    await excludeMigrations(connection, 'share')
    const server = await findServer(connection)
    const dumper = await find('pg_dump', server.major, target)
    const reader = await find('pg_restore', dumper.major, target)
    await mkdir(dirname(file), { recursive: true })
    const partial = `${file}.partial`
    await createPartial(partial)
    try {
      const source = await dumpInto(partial, { connection, target, terminal, signal, dumper })
      await compareWithDump(partial, source, reader, signal)
      const manifest = toManifest({
        made_at: new Date().toISOString(),
        database: server.database,
        postgresql: server.version,
        pgvector: server.pgvector,
        pg_dump: dumper.version,
        schema: source.version,
        is_bootstrapped: source.catalog.includes('grant schema public USAGE to rekko_backup'),
        dump: { size_bytes: (await sizeOf(partial)) ?? 0, sha256: await checksumOfFile(partial) },
        tables: source.inventory,
        catalog: source.catalog,
      })
      signal.throwIfAborted()
      await finish(partial, file, manifest)
      return manifest
    } finally {
      await rm(partial, { force: true })
    }
  })
}

/**
 * A migration must not run meanwhile. The lock ends with the session.
 *
 * @param mode share for who reads, alone for who writes
 */
export async function excludeMigrations(connection: Connection, mode: 'share' | 'alone'): Promise<void> {
  const lock = mode === 'share' ? 'pg_try_advisory_lock_shared' : 'pg_try_advisory_lock'
  const [row] = await connection.query<{ held: boolean }>(`select ${lock}(hashtext('rekko.migrate')) as held`)
  if (!row?.held) {
    throw new CommandError('A migration, a dump or a restore is at work on this database. Try again later.')
  }
}

export async function findServer(connection: Connection): Promise<Server> {
  const [row] = await connection.query<Server>(`
    select split_part(current_setting('server_version'), ' ', 1) as version,
      current_setting('server_version_num')::int / 10000 as major,
      (select extversion from pg_extension where extname = 'vector') as pgvector,
      current_database()::text as database`)
  if (!row) throw new Error('The server does not tell its version.')
  return row
}

interface Source {
  version: Version
  tables: CountedTable[]
  inventory: Inventory
  catalog: string[]
}

async function dumpInto(
  partial: string,
  options: { connection: Connection; target: NativeTarget; terminal: Terminal; signal: AbortSignal; dumper: Tool },
): Promise<Source> {
  const { connection, target, terminal, signal, dumper } = options
  const tables = await listTables(connection)
  if (tables.length === 0) {
    throw new CommandError(`${describeTarget(target)} has no tables: there is nothing to dump.`, EXIT.refused)
  }
  const version = await findVersion(connection)
  if (version.dirty) terminal.warn(`version ${version.version} is dirty: a migration did not finish`)
  const role = await chooseRole(connection, tables, terminal)

  return inSnapshot(connection, role, async () => {
    const [snapshot] = await connection.query<{ id: string }>('select pg_export_snapshot() as id')
    const counting = terminal.progress('counting, rows', null)
    const inventory = await takeInventory(connection, tables, (rows) => counting.advance(rows))
    counting.done()
    const catalog = await describeCatalog(connection)

    const writing = terminal.progress('writing, bytes', null)
    const messages = await runTool(dumper, {
      args: [
        '--format=custom',
        `--compress=${toCompression(dumper)}`,
        `--snapshot=${snapshot?.id}`,
        `--lock-wait-timeout=${LOCK_TIMEOUT_MS}`,
        // others, such as pg_stat_statements, are the server's own business
        '--extension=vector',
        // whoever has the faces has no copy of their keys; restore makes it again, empty
        `--exclude-schema=${VAULT}`,
        ...(role ? [`--role=${role}`] : []),
      ],
      target,
      consume: (output) => writeTo(partial, output, (bytes) => writing.advance(bytes)),
      signal,
    })
    writing.done()
    for (const message of messages) terminal.warn(message)
    return { version, tables, inventory, catalog }
  })
}

const LOCK_TIMEOUT_MS = 10_000

/**
 * Measured on 100,000 faces: Zstandard 234 MB, written in 4.9 s and read in 0.7 s; gzip 284 MB, 12.0 s and
 * 5.1 s. pg_dump knows it since version 16.
 */
function toCompression(dumper: Tool): string {
  return dumper.major >= 16 ? 'zstd:1' : '1'
}

/**
 * rekko_backup reads everything and can do nothing else. It does not exist before version 2; there, an
 * administrator whom no policy binds will do.
 */
async function chooseRole(
  connection: Connection,
  tables: CountedTable[],
  terminal: Terminal,
): Promise<'rekko_backup' | null> {
  const [self] = await connection.query<{ is_unbound: boolean; backup_is_unbound: boolean | null }>(`
    select rolsuper or rolbypassrls as is_unbound,
      (select b.rolsuper or b.rolbypassrls from pg_roles b where b.rolname = 'rekko_backup') as backup_is_unbound
    from pg_roles where rolname = current_user`)
  const unreadable =
    self?.backup_is_unbound === null
      ? tables.map(({ name }) => name)
      : (
          await connection.query<{ name: string }>(
            `select name from unnest($1::text[]) as name
             where not (has_schema_privilege('rekko_backup', (select relnamespace from pg_class where oid = name::regclass), 'usage')
               and has_table_privilege('rekko_backup', name, 'select')) order by 1`,
            [tables.map(({ name }) => name)],
          )
        ).map(({ name }) => name)
  if (self?.backup_is_unbound && unreadable.length === 0) return 'rekko_backup'
  const reason =
    self?.backup_is_unbound === false
      ? 'rekko_backup is bound by row-level security, and would dump nothing (mend it: alter role rekko_backup bypassrls)'
      : `rekko_backup cannot read ${unreadable.join(', ')} (scripts/db.sh up grants it what this release needs)`
  if (!self?.is_unbound) throw new CommandError(`${reason}.`, EXIT.refused)
  terminal.warn(`${reason}; dumping as the administrator`)
  return null
}

async function writeTo(partial: string, output: Readable, report: (bytes: number) => void): Promise<void> {
  const file = await open(partial, 'r+')
  try {
    for await (const chunk of output) {
      // a stream without an encoding yields buffers
      const bytes = chunk as Buffer
      await file.writeFile(bytes)
      report(bytes.length)
    }
    await file.sync()
  } finally {
    await file.close()
  }
}

/** @throws CommandError when the file holds other rows than the database */
async function compareWithDump(file: string, source: Source, reader: Tool, signal: AbortSignal): Promise<void> {
  let differences: string[] = []
  let total = 0
  const messages = await runTool(reader, {
    args: ['--data-only', '--file=-'],
    input: createReadStream(file),
    consume: async (script) => {
      const counts = await countCopiedRows(script, source.tables)
      differences = compareCounts(source.inventory, counts)
      for (const table of counts.values()) for (const rows of table.values()) total += rows
    },
    signal,
  })
  if (messages.length > 0) throw new CommandError(`The dump cannot be read back: ${messages.join('\n')}`)
  const expected = countRows(source.inventory)
  if (total === 0 && expected > 0) {
    throw new CommandError(`The dump holds no rows, and the database has ${expected}. It was thrown away.`)
  }
  if (differences.length > 0) {
    throw new CommandError(`The dump does not hold what the database holds. It was thrown away.\n${list(differences)}`)
  }
}

/** The first of them, a line each. */
export function list(differences: string[], size = 10): string {
  const rest = differences.length - size
  const first = differences.slice(0, size).map((difference) => (difference.split('\n')[0] ?? '').slice(0, 300))
  return [...first, ...(rest > 0 ? [`and ${rest} more`] : [])].map((line) => `  ${line}`).join('\n')
}

/** The manifest first: a dump without one never has its name. */
async function finish(partial: string, file: string, manifest: Manifest): Promise<void> {
  await writeWhole(manifestOf(file), `${JSON.stringify(manifest, null, 2)}\n`)
  await rename(partial, file)
  await syncFolder(file)
}

/**
 * @param at local time
 * @param ending what the file is, as the end of its name
 */
export function defaultFile(at: Date, ending: 'dump' | 'template-keys.json' = 'dump'): string {
  const two = (n: number) => String(n).padStart(2, '0')
  const day = `${at.getFullYear()}${two(at.getMonth() + 1)}${two(at.getDate())}`
  return `./backups/rekko-${day}-${two(at.getHours())}${two(at.getMinutes())}${two(at.getSeconds())}.${ending}`
}
