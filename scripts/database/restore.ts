// Restores a dump into an empty database: all of it, proven equal to what the manifest says, or nothing.
import { createReadStream } from 'node:fs'
import { excludeMigrations, findServer, list, type Work } from './backup.ts'
import { bootstrap, type LoginRole } from './bootstrap.ts'
import { describeCatalog } from './catalog.ts'
import { findTool, runTool } from './client-tools.ts'
import type { Connection } from './connection.ts'
import { compareInventories, inSnapshot, listTables, takeInventory } from './inventory.ts'
import { hasVault, type Manifest, readManifest, verifyDump } from './manifest.ts'
import { listMigrations } from './migrate.ts'
import { describeTarget, withConnection } from './target.ts'
import { CommandError, EXIT } from './terminal.ts'
import { createVault } from './vault.ts'

export interface RestoreWork extends Work {
  /** For logins that do not exist yet. */
  passwords: Record<LoginRole, string>
  /** Check the dump and the database, and restore nothing. */
  isDryRun?: boolean
}

/**
 * @throws CommandError when the dump is not whole, the database is not empty or too old, pg_restore says
 *   anything at all, or what is restored differs from the manifest; the database is empty again then
 */
export async function restoreBackup(work: RestoreWork): Promise<Manifest> {
  const { target, file, terminal, signal, passwords, isDryRun = false, find = findTool } = work
  const manifest = await readManifest(file)
  await requireKnownSchema(manifest)
  await verifyDump(file, manifest)
  return withConnection(target, async (connection) => {
    await excludeMigrations(connection, 'alone')
    const server = await findServer(connection)
    const dumpedFrom = Number.parseInt(manifest.postgresql, 10)
    if (server.major < dumpedFrom) {
      throw new CommandError(
        `The dump is of PostgreSQL ${manifest.postgresql}, and ${describeTarget(target)} is the older ${server.version}. ` +
          `Restore into PostgreSQL ${dumpedFrom} or newer.`,
        EXIT.refused,
      )
    }
    await requireEmpty(connection, describeTarget(target))
    // an older pg_restore may not know the format that a newer pg_dump wrote
    const restorer = await find('pg_restore', Math.max(server.major, Number.parseInt(manifest.pg_dump, 10)), target)
    if (isDryRun) return manifest

    const schemas = await listSchemas(connection)
    try {
      if (manifest.is_bootstrapped) await bootstrap(connection, passwords)
      const reading = terminal.progress('restoring, bytes', manifest.dump.size_bytes)
      const input = createReadStream(file)
      input.on('data', (chunk) => reading.advance(chunk.length))
      const messages = await runTool(restorer, {
        args: ['--single-transaction', '--exit-on-error'],
        target,
        input,
        signal,
      })
      reading.done()
      if (messages.length > 0)
        throw new CommandError(`pg_restore warned, which is not accepted: ${messages.join('\n')}`)
      const differences = [
        ...(hasVault(manifest) ? await makeVault(connection) : []),
        ...(await compareWithManifest(connection, manifest, dumpedFrom === server.major)),
      ]
      signal.throwIfAborted()
      if (differences.length > 0) {
        throw new CommandError(`What was restored is not what was dumped.\n${list(differences)}`)
      }
    } catch (error) {
      const reason = error instanceof Error ? error.message : String(error)
      const where = describeTarget(target)
      const outcome = await empty(connection, schemas).then(
        () => `Nothing was restored: ${where} is empty again.`,
        () => `It could not be emptied again. Do not use ${where}: drop it.`,
      )
      throw new CommandError(`${reason}\n${outcome}`, error instanceof CommandError ? error.exitCode : EXIT.failed)
    }
    // pg_restore brings no statistics and no visibility map, without which searches do not find their plan
    await connection.execute('vacuum (analyze)')
    return manifest
  })
}

async function requireKnownSchema({ schema }: Manifest): Promise<void> {
  const newest = (await listMigrations()).at(-1)?.version ?? 0
  if (schema.version > newest) {
    throw new CommandError(
      `The dump is of schema version ${schema.version}, and this release knows versions up to ${newest}. ` +
        'Restore with the release that made it, or a newer one.',
      EXIT.refused,
    )
  }
}

/** Whatever somebody made: not of the system, not of an extension. */
const OWN = `
  select c.oid, c.relname::text as name, case c.relkind when 'v' then 'view' when 'm' then 'materialized view'
    when 'S' then 'sequence' when 'f' then 'foreign table' else 'table' end as kind, n.nspname as schema,
    'pg_class'::regclass as catalog
  from pg_class c join pg_namespace n on n.oid = c.relnamespace where c.relkind in ('r', 'p', 'v', 'm', 'S', 'f')
  union all
  select p.oid, p.oid::regprocedure::text, 'routine', n.nspname, 'pg_proc'::regclass
  from pg_proc p join pg_namespace n on n.oid = p.pronamespace
  union all
  select t.oid, t.typname::text, 'type', n.nspname, 'pg_type'::regclass
  from pg_type t join pg_namespace n on n.oid = t.typnamespace where t.typtype in ('d', 'e', 'r')`

const NOT_OF_AN_EXTENSION = `
  schema !~ '^pg_' and schema <> 'information_schema'
  and not exists (select from pg_depend d where d.classid = own.catalog and d.objid = own.oid and d.deptype in ('e', 'i'))`

async function requireEmpty(connection: Connection, where: string): Promise<void> {
  const found = await connection.query<{ line: string }>(
    `select format('%s %s.%s', kind, schema, name) as line from (${OWN}) as own where ${NOT_OF_AN_EXTENSION} order by 1`,
  )
  if (found.length > 0) {
    throw new CommandError(
      `${where} is not empty, and restore does not overwrite. Make a new database (createdb) and name it with ` +
        `--database-url.\n${list(
          found.map(({ line }) => line),
          5,
        )}`,
      EXIT.refused,
    )
  }
}

async function listSchemas(connection: Connection): Promise<string[]> {
  const rows = await connection.query<{ name: string }>('select nspname as name from pg_namespace')
  return rows.map(({ name }) => name)
}

/**
 * Takes away what a restore brought that must not stay. It was empty before, so all that is there came
 * from it.
 *
 * @param schemas that were there before
 */
async function empty(connection: Connection, schemas: string[]): Promise<void> {
  const drops = await connection.query<{ statement: string }>(
    `select format('drop schema if exists %I cascade', nspname) as statement from pg_namespace
     where nspname <> all ($1) and nspname !~ '^pg_'
     union all
     select format('drop %s if exists %s cascade', kind,
       case kind when 'routine' then name else format('%I.%I', schema, name) end)
     from (${OWN}) as own where ${NOT_OF_AN_EXTENSION} and schema = any ($1)`,
    [schemas],
  )
  await connection.execute(['begin', ...drops.map(({ statement }) => statement), 'commit'].join(';\n'))
}

/** Why there is no vault; empty when there is one. What else is wrong with the schema explains it. */
async function makeVault(connection: Connection): Promise<string[]> {
  return createVault(connection).then(
    () => [],
    (error: unknown) => [`the vault could not be made: ${error instanceof Error ? error.message : String(error)}`],
  )
}

/**
 * What differs, a sentence each. Rows are compared when the walls around them are right.
 *
 * @param isSameMajor PostgreSQL writes its own catalog in other words from one major version to the next
 */
async function compareWithManifest(
  connection: Connection,
  manifest: Manifest,
  isSameMajor: boolean,
): Promise<string[]> {
  const comparable = (lines: string[]) =>
    new Set(
      lines
        // MAINTAIN is a privilege since PostgreSQL 17
        .filter((line) => isSameMajor || (/^(schema|relation|policy|grant) /.test(line) && !/ MAINTAIN to /.test(line)))
        // read again, ((a AND b) AND c) becomes (a AND b AND c); what walls say is compared to the letter
        .map((line) => (line.startsWith('constraint ') ? line.replace(/[()]/g, '') : line)),
    )
  const expected = comparable(manifest.catalog)
  const found = comparable(await inSnapshot(connection, null, () => describeCatalog(connection)))
  const differences = [
    ...[...expected].filter((line) => !found.has(line)).map((line) => `missing: ${line}`),
    ...[...found].filter((line) => !expected.has(line)).map((line) => `not expected: ${line}`),
  ]
  if (differences.length > 0) return differences
  return inSnapshot(connection, manifest.is_bootstrapped ? 'rekko_backup' : null, async () =>
    compareInventories(manifest.tables, await takeInventory(connection, await listTables(connection))),
  )
}
