// A direct connection for administrators: to a real PostgreSQL, or to the embedded one.
import { execFile } from 'node:child_process'
import { mkdir, readFile } from 'node:fs/promises'
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
  const client = new pg.Client({
    connectionString: url,
    application_name: 'rekko-scripts',
    // Neon wakes in well under a second; a host that swallows packets would keep us for minutes
    connectionTimeoutMillis: 15_000,
  })
  // a connection that is lost while idle is told to the next query; unheard, it would end the process
  client.on('error', () => {})
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
  const release = folder ? await lock(folder) : () => {}
  try {
    const pglite = await PGlite.create({ ...(folder && { dataDir: folder }), extensions: { vector } })
    return {
      pglite,
      async close() {
        await pglite.close()
        release()
      },
    }
  } catch (error) {
    release()
    throw error
  }
}

/**
 * PGlite does not lock its folder, and two processes on one folder destroy it. SQLite's lock is the
 * operating system's own: it ends with the process that holds it, however that ends.
 */
async function lock(folder: string): Promise<() => void> {
  await mkdir(dirname(folder), { recursive: true })
  const { DatabaseSync } = await import('node:sqlite')
  const file = new DatabaseSync(`${folder}.lock`)
  try {
    file.exec('begin exclusive')
  } catch {
    file.close()
    throw new Error(`The data in ${folder} are in use. Stop that with "make dev-clean", or use its server.`)
  }
  return () => file.close()
}

/**
 * The process of ours that wrote its number into a file and still runs; null when there is none.
 *
 * @param script part of its command line, to tell it from a program that has got its number since
 */
export async function findProcess(pidFile: string, script: string): Promise<number | null> {
  const pid = Number(await readFile(pidFile, 'utf8').catch(() => '0'))
  if (!(pid > 0) || pid === process.pid || !isAlive(pid)) return null
  try {
    const { stdout } = await promisify(execFile)('ps', ['-o', 'command=', '-p', String(pid)])
    return stdout.includes(script) ? pid : null
  } catch {
    // no ps on this machine: it is alive, and that must do
    return pid
  }
}

function isAlive(pid: number): boolean {
  try {
    return process.kill(pid, 0)
  } catch (error) {
    // a process of another user exists, though we may not signal it
    return error instanceof Error && 'code' in error && error.code === 'EPERM'
  }
}
