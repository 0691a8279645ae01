// One database for the whole run: a new one on the PostgreSQL of DATABASE_URL, or the embedded one; in
// front of it the local Neon endpoint. Migrated as rekko_owner, used as the roles of production.
import { randomBytes } from 'node:crypto'
import { readFile } from 'node:fs/promises'
import { join } from 'node:path'
import type { TestProject } from 'vitest/node'
import { bootstrap } from '../scripts/database/bootstrap.ts'
import { type Connection, connectEmbedded, connectNative, openEmbedded } from '../scripts/database/connection.ts'
import { DEVELOPMENT_PASSWORDS } from '../scripts/database/development.ts'
import { migrate } from '../scripts/database/migrate.ts'
import { type Backend, embeddedBackend, nativeBackend } from '../scripts/neon-endpoint/backend.ts'
import { startEndpoint } from '../scripts/neon-endpoint/server.ts'

export type TestDatabase = {
  /** Connection string of an administrator, good at the endpoint: for what no login of ours may do. */
  adminUrl: string
  operatorUrl: string
  statsUrl: string
  isNative: boolean
  /** For a second direct connection; native PostgreSQL only. */
  directUrl: string | null
  /** Contents of `embeddings.csv` in REKKO_FACES_DIR; null where there is none. */
  facesCsv: string | null
}

declare module 'vitest' {
  interface ProvidedContext {
    workerBindings: Record<string, string>
    testDatabase: TestDatabase
  }
}

interface Database {
  connection: Connection
  backend: Backend
  admin: { role: string; password: string }
  directUrl: string | null
  drop(): Promise<void>
}

export default async function setup(project: TestProject): Promise<() => Promise<void>> {
  const serverUrl = process.env['DATABASE_URL']
  const database = serverUrl ? await createNative(serverUrl) : await createEmbedded()
  console.log(`tests run on ${serverUrl ? 'native PostgreSQL' : 'the embedded PostgreSQL'}`)
  await bootstrap(database.connection, DEVELOPMENT_PASSWORDS)
  await migrate(database.connection)
  const endpoint = await startEndpoint(database.backend)

  const urlOf = (role: string, password: string) =>
    `postgres://${role}:${encodeURIComponent(password)}@database.test/rekko`
  project.provide('workerBindings', {
    DATABASE_URL: urlOf('rekko_app', DEVELOPMENT_PASSWORDS.rekko_app),
    JOBS_DATABASE_URL: urlOf('rekko_jobs', DEVELOPMENT_PASSWORDS.rekko_jobs),
    API_KEY_PEPPER: randomBytes(32).toString('base64'),
    NEON_FETCH_ENDPOINT: endpoint.url,
  })
  project.provide('testDatabase', {
    adminUrl: urlOf(database.admin.role, database.admin.password),
    operatorUrl: urlOf('rekko_operator', DEVELOPMENT_PASSWORDS.rekko_operator),
    statsUrl: endpoint.url.replace(/sql$/, 'stats'),
    isNative: serverUrl !== undefined,
    directUrl: database.directUrl,
    facesCsv: await readFaces(),
  })

  return async () => {
    await endpoint.close()
    await database.connection.close()
    await database.drop()
  }
}

async function createNative(serverUrl: string): Promise<Database> {
  const server = await connectNative(serverUrl)
  const name = `rekko_test_${process.pid}_${randomBytes(4).toString('hex')}`
  await server.execute(`create database ${name}`)
  const url = new URL(serverUrl)
  url.pathname = `/${name}`
  const admin = { role: decodeURIComponent(url.username), password: decodeURIComponent(url.password) }
  return {
    connection: await connectNative(url.href),
    backend: nativeBackend({ host: url.hostname, port: Number(url.port || 5432), database: name }, [
      ...Object.keys(DEVELOPMENT_PASSWORDS),
      admin.role,
    ]),
    admin,
    directUrl: url.href,
    async drop() {
      await server.execute(`drop database ${name} with (force)`)
      await server.close()
    },
  }
}

async function createEmbedded(): Promise<Database> {
  const embedded = await openEmbedded()
  const admin = { role: 'postgres', password: 'postgres' }
  return {
    connection: connectEmbedded(embedded.pglite),
    backend: embeddedBackend(embedded.pglite, { ...DEVELOPMENT_PASSWORDS, [admin.role]: admin.password }),
    admin,
    directUrl: null,
    drop: () => embedded.close(),
  }
}

async function readFaces(): Promise<string | null> {
  const folder = process.env['REKKO_FACES_DIR']
  return folder ? readFile(join(folder, 'embeddings.csv'), 'utf8') : null
}
