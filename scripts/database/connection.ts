// A direct connection for administrators: to a real PostgreSQL, or to the embedded one.
import { execFile } from 'node:child_process'
import { mkdir, readFile, rm, writeFile } from 'node:fs/promises'
import { dirname } from 'node:path'
import { promisify } from 'node:util'
import { PGlite } from '@electric-sql/pglite'
import { vector } from '@electric-sql/pglite-pgvector'
import pg from 'pg'

export interface Connection {
  /** Runs a whole script of statements, without parameters. */
  execute(script: string): Promise<void>
  query<Row extends object>(text: string, parameters?: unknown[]): Promise<Row[]>
  close(): Promise<void>
}

export async function connectNative(url: string): Promise<Connection> {
  const client = new pg.Client({ connectionString: url, application_name: 'rekko-scripts' })
  await client.connect()
  return {
    execute: async (script) => void (await client.query(script)),
    query: async <Row extends object>(text: string, parameters: unknown[] = []) =>
      (await client.query<Row>(text, parameters)).rows,
    close: () => client.end(),
  }
}

/** @param embedded stays open when the connection closes: it is the whole database */
export function connectEmbedded(embedded: PGlite): Connection {
  return {
    execute: async (script) => void (await embedded.exec(script)),
    query: async <Row extends object>(text: string, parameters: unknown[] = []) =>
      (await embedded.query<Row>(text, parameters)).rows,
    close: async () => {},
  }
}

export interface EmbeddedDatabase {
  pglite: PGlite
  close(): Promise<void>
}

/**
 * Opens the embedded PostgreSQL: one process, one session.
 *
 * @param folder where its data live; none for a database that is gone when the process ends
 * @throws Error with what to do, when another process has the folder open
 */
export async function openEmbedded(folder?: string): Promise<EmbeddedDatabase> {
  const release = folder ? await lock(folder) : async () => {}
  try {
    const pglite = await PGlite.create({ ...(folder && { dataDir: folder }), extensions: { vector } })
    return {
      pglite,
      async close() {
        await pglite.close()
        await release()
      },
    }
  } catch (error) {
    await release()
    throw error
  }
}

/** PGlite does not lock its folder, and two processes on one folder destroy it. */
async function lock(folder: string): Promise<() => Promise<void>> {
  const path = `${folder}.pid`
  await mkdir(dirname(path), { recursive: true })
  for (;;) {
    try {
      await writeFile(path, String(process.pid), { flag: 'wx' })
      return () => rm(path, { force: true })
    } catch (error) {
      if (!isFileError(error, 'EEXIST')) throw error
      const holder = await findProcess(path)
      if (holder !== null) {
        throw new Error(
          `The data in ${folder} are in use by process ${holder}. Stop it with "make dev-clean", or use its server.`,
        )
      }
      await rm(path, { force: true })
    }
  }
}

/**
 * The process of ours that wrote its number into a file and still runs; null when there is none, or when
 * the number is another program's by now.
 */
export async function findProcess(pidFile: string): Promise<number | null> {
  const pid = Number(await readFile(pidFile, 'utf8').catch(() => '0'))
  if (!(pid > 0) || pid === process.pid) return null
  try {
    const { stdout } = await promisify(execFile)('ps', ['-o', 'command=', '-p', String(pid)])
    return stdout.includes('scripts/') ? pid : null
  } catch {
    // ps fails when there is no such process
    return null
  }
}

function isFileError(error: unknown, code: string): boolean {
  return error instanceof Error && 'code' in error && error.code === code
}
