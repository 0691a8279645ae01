// The whole service on this machine: database, local Neon endpoint, Worker. For `make dev` and `make demo`.
import { mkdir } from 'node:fs/promises'
import type { MasterKeys } from '../src/face/protection/master-keys.ts'
import { bootstrap, LOGIN_ROLES } from './database/bootstrap.ts'
import { type Connection, connectEmbedded, connectNative, openEmbedded } from './database/connection.ts'
import { DEVELOPMENT_MASTER_KEYS, DEVELOPMENT_PASSWORDS, readDevelopmentMasterKeys } from './database/development.ts'
import { MIGRATIONS, migrate } from './database/migrate.ts'
import { describeTarget, EMBEDDED_FOLDER, LOCAL_URL, toHost, toTarget } from './database/target.ts'
import { type Backend, embeddedBackend, nativeBackend } from './neon-endpoint/backend.ts'
import { startEndpoint } from './neon-endpoint/server.ts'
import type { RunningRecognizer } from './recognizer.ts'
import { startWorker } from './worker.ts'

export interface Service {
  url: string
  /** For provisioning: an administrator's connection to the same database. */
  admin: Connection
  masterKeys: MasterKeys
  /** Resolves when the Worker has stopped, whoever stopped it. */
  workerStopped: Promise<void>
  stop(): Promise<void>
}

export type ServiceDatabase =
  /** An administrator's URL on a real PostgreSQL; an endpoint that already stands in front of it, if there is one. */
  | { url: string; endpointUrl?: string }
  /** The embedded database; in memory without a folder. */
  | { folder?: string }

/**
 * @param report called with what is being done
 * @param recognizer for requests with pictures; null to do without
 */
export async function startService(
  database: ServiceDatabase,
  port: number,
  pepper: string,
  report: (step: string) => void,
  recognizer: Pick<RunningRecognizer, 'url' | 'secret' | 'faceModels'> | null = null,
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
    const masterKeys = await readDevelopmentMasterKeys()
    await migrate(admin, undefined, (step) => report(`migrating ${step}`), MIGRATIONS, { masterKeys })
    let endpointUrl = 'url' in database ? database.endpointUrl : undefined
    if (!endpointUrl) {
      const endpoint = await startEndpoint(backend)
      closers.push(() => endpoint.close())
      endpointUrl = endpoint.url
    }
    report('starting the Worker in workerd')
    const { OPERATOR_ISSUER: operatorIssuer } = process.env
    const worker = await startWorker(port, {
      DATABASE_URL: toUrl('rekko_app'),
      JOBS_DATABASE_URL: toUrl('rekko_jobs'),
      OPERATOR_DATABASE_URL: toUrl('rekko_operator'),
      ...(operatorIssuer && { OPERATOR_ISSUER: operatorIssuer }),
      API_KEY_PEPPER: pepper,
      TEMPLATE_MASTER_KEYS: DEVELOPMENT_MASTER_KEYS,
      NEON_FETCH_ENDPOINT: endpointUrl,
      ...(recognizer && {
        RECOGNIZER_URL: recognizer.url,
        RECOGNIZER_SECRET: recognizer.secret,
        FACE_MODELS: recognizer.faceModels,
      }),
    })
    closers.push(() => worker.stop())
    return { url: worker.url, admin, masterKeys, workerStopped: worker.stopped, stop }
  } catch (error) {
    await stop()
    throw error
  }
}

async function openNative(url: string) {
  const target = toTarget(url, undefined)
  if (target.kind !== 'native' || !target.isLocal) {
    // it would be given logins whose passwords everybody knows
    throw new Error(`This is for databases on this machine, and ${describeTarget(target)} is not. See docs/deploy.md.`)
  }
  const host = toHost(target.url).replace(/^\[|\]$/g, '')
  const database = decodeURIComponent(target.url.pathname.slice(1))
  const admin = await connectNative(url)
  const server = { host, port: Number(target.url.port || 5432), database }
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

/** The endpoint of docker-compose.yml. */
const DOCKER_ENDPOINT = 'http://127.0.0.1:5434/sql'

/**
 * Which database a developer asked for: DATABASE_URL, or DB=docker, native or embedded.
 *
 * @param otherwise when nothing was asked for
 * @throws Error with what there is to choose
 */
export function toServiceDatabase(otherwise: ServiceDatabase): ServiceDatabase {
  const { DATABASE_URL: url, DB: kind } = process.env
  if (url) return { url }
  switch (kind) {
    case undefined:
    case '':
      return otherwise
    case 'embedded':
      return { folder: EMBEDDED_FOLDER }
    case 'native':
      return { url: LOCAL_URL }
    case 'docker':
      return { url: LOCAL_URL, endpointUrl: DOCKER_ENDPOINT }
    default:
      throw new Error(`DB=${kind} is no kind of database: use embedded, native or docker.`)
  }
}
