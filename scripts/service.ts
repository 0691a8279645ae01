// The whole service on this machine: database, local Neon endpoint, Worker. For `make dev` and `make demo`.
import { mkdir } from 'node:fs/promises'
import { bootstrap, LOGIN_ROLES } from './database/bootstrap.ts'
import { type Connection, connectEmbedded, connectNative, openEmbedded } from './database/connection.ts'
import { DEVELOPMENT_PASSWORDS } from './database/development.ts'
import { migrate } from './database/migrate.ts'
import { type Backend, embeddedBackend, nativeBackend } from './neon-endpoint/backend.ts'
import { startEndpoint } from './neon-endpoint/server.ts'
import { startWorker } from './worker.ts'

export interface Service {
  url: string
  /** For provisioning: an administrator's connection to the same database. */
  admin: Connection
  /** Resolves when the Worker has stopped, whoever stopped it. */
  workerStopped: Promise<void>
  stop(): Promise<void>
}

/**
 * @param database the URL of an administrator on a real PostgreSQL, or the embedded database's folder
 *   (none: in memory)
 * @param report called with what is being done
 */
export async function startService(
  database: { url: string } | { folder?: string },
  port: number,
  pepper: string,
  report: (step: string) => void,
): Promise<Service> {
  await mkdir('.rekko', { recursive: true })
  const { admin, backend, close } =
    'url' in database ? await openNative(database.url) : await openLocal(database.folder)
  // what has been opened, to be closed in the opposite order
  const closers = [close]
  const stop = async () => {
    for (const closeOne of closers.splice(0).reverse()) await closeOne()
  }
  try {
    await bootstrap(admin, DEVELOPMENT_PASSWORDS)
    await migrate(admin, undefined, (step) => report(`migrating ${step}`))
    const endpoint = await startEndpoint(backend)
    closers.push(() => endpoint.close())
    report('starting the Worker in workerd')
    const worker = await startWorker(port, {
      DATABASE_URL: toUrl('rekko_app'),
      JOBS_DATABASE_URL: toUrl('rekko_jobs'),
      API_KEY_PEPPER: pepper,
      NEON_FETCH_ENDPOINT: endpoint.url,
    })
    closers.push(() => worker.stop())
    return { url: worker.url, admin, workerStopped: worker.stopped, stop }
  } catch (error) {
    await stop()
    throw error
  }
}

async function openNative(url: string) {
  const { hostname, port, pathname } = new URL(url)
  const admin = await connectNative(url)
  const server = { host: hostname, port: Number(port || 5432), database: decodeURIComponent(pathname.slice(1)) }
  return { admin, backend: nativeBackend(server, LOGIN_ROLES), close: () => admin.close() }
}

async function openLocal(
  folder: string | undefined,
): Promise<{ admin: Connection; backend: Backend; close: () => Promise<void> }> {
  const embedded = await openEmbedded(folder)
  return {
    admin: connectEmbedded(embedded.pglite),
    backend: embeddedBackend(embedded.pglite, DEVELOPMENT_PASSWORDS),
    close: () => embedded.close(),
  }
}

/** The host is never looked up: the endpoint knows which database it serves. */
function toUrl(role: keyof typeof DEVELOPMENT_PASSWORDS): string {
  return `postgres://${role}:${DEVELOPMENT_PASSWORDS[role]}@local.endpoint/rekko`
}
