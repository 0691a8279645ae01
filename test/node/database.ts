// A database of its own for a test file: a new one on the PostgreSQL of DATABASE_URL, or a new embedded
// one. Bootstrapped, not migrated. And its catalog as text, to compare two of them.
import { randomBytes } from 'node:crypto'
import type { TestContext } from 'vitest'
import { bootstrap } from '../../scripts/database/bootstrap.ts'
import { type Connection, connectEmbedded, connectNative, openEmbedded } from '../../scripts/database/connection.ts'
import { DEVELOPMENT_PASSWORDS } from '../../scripts/database/development.ts'
import { type Backend, embeddedBackend, nativeBackend } from '../../scripts/neon-endpoint/backend.ts'

export interface FreshDatabase {
  isNative: boolean
  /** An administrator's connection string; empty on the embedded database, which has none. */
  url: string
  /** An administrator's. */
  connection: Connection
  admin: { role: string; password: string }
  /** One more connection of the administrator; on the embedded database it shares the one session. */
  connect(): Promise<Connection>
  /** Sessions for a local Neon endpoint; whoever takes them closes them. */
  openBackend(maxSessions?: number): Backend
  drop(): Promise<void>
}

export async function createDatabase(): Promise<FreshDatabase> {
  const serverUrl = process.env['DATABASE_URL']
  const database = serverUrl ? await createNative(serverUrl) : await createEmbedded()
  await bootstrap(database.connection, DEVELOPMENT_PASSWORDS)
  return database
}

async function createNative(serverUrl: string): Promise<FreshDatabase> {
  const server = await connectNative(serverUrl)
  const name = `rekko_test_${process.pid}_${randomBytes(4).toString('hex')}`
  await server.execute(`create database ${name}`)
  const url = new URL(serverUrl)
  url.pathname = `/${name}`
  const admin = { role: decodeURIComponent(url.username), password: decodeURIComponent(url.password) }
  const connection = await connectNative(url.href)
  return {
    isNative: true,
    url: url.href,
    connection,
    admin,
    connect: () => connectNative(url.href),
    openBackend: (maxSessions) =>
      nativeBackend(
        { host: url.hostname, port: Number(url.port || 5432), database: name },
        [...Object.keys(DEVELOPMENT_PASSWORDS), admin.role],
        maxSessions,
      ),
    async drop() {
      await connection.close()
      await server.execute(`drop database ${name} with (force)`)
      await server.close()
    },
  }
}

async function createEmbedded(): Promise<FreshDatabase> {
  const embedded = await openEmbedded()
  const admin = { role: 'postgres', password: 'postgres' }
  return {
    isNative: false,
    url: '',
    connection: connectEmbedded(embedded.pglite),
    admin,
    connect: async () => connectEmbedded(embedded.pglite),
    openBackend: () => embeddedBackend(embedded.pglite, { ...DEVELOPMENT_PASSWORDS, [admin.role]: admin.password }),
    drop: () => embedded.close(),
  }
}

/** Leaves a test out on the embedded database, and prints why: the reporter keeps a note of `skip` to itself. */
export function needsNative(context: TestContext, database: FreshDatabase, reason: string): void {
  if (database.isNative) return
  console.log(`skipped on the embedded database: ${reason}`)
  context.skip(reason)
}

/** What a row of faces under key 1 takes for a sealed copy, and no key opens. */
export const UNOPENED = Buffer.concat([Buffer.from([1, 0, 1]), Buffer.alloc(2_076)])

// the same description that backups are checked with
export { describeCatalog, type Kind } from '../../scripts/database/catalog.ts'
