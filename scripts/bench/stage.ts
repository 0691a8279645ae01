// The service that `make bench` measures, and what stands beside it: a database of its own on a native PostgreSQL, the
// local Neon endpoint and the naive server as processes of their own, and the Worker as released, in raw workerd.
import { type ChildProcess, execFileSync, spawn } from 'node:child_process'
import { randomBytes } from 'node:crypto'
import { once } from 'node:events'
import { readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import { toSql } from 'pgvector'
import { SCOPES } from '../../src/auth/api-key.ts'
import type { MasterKeys } from '../../src/face/protection/master-keys.ts'
import { ARCFACE_512 } from '../../src/face/similarity.ts'
import { readCpuMs } from '../cpu.ts'
import { bootstrap } from '../database/bootstrap.ts'
import { type Connection, connectNative } from '../database/connection.ts'
import { DEVELOPMENT_MASTER_KEYS, DEVELOPMENT_PASSWORDS, readDevelopmentMasterKeys } from '../database/development.ts'
import { MIGRATIONS, migrate } from '../database/migrate.ts'
import { createApiKey, createTenant } from '../provision.ts'
import { startWorkerd, type Workerd } from '../workerd.ts'
import { fillGalleries } from './fill.ts'
import { hashNaiveKey, NAIVE_SCHEMA } from './naive-schema.ts'
import { toExternalId, toFace } from './people.ts'

const ROOT = join(import.meta.dirname, '../..')
export const BUNDLE = join(ROOT, '.rekko/bench/worker')
export const MODEL = ARCFACE_512.id

export interface BenchTenant {
  id: string
  name: string
  apiKey: string
  /** Of people.ts: a gallery of its own. */
  seed: number
  faces: number
}

export interface Server {
  url: string
  pid: number
  close(): Promise<void>
}

export interface Stage {
  /** An administrator's. */
  admin: Connection
  adminUrl: string
  database: string
  masterKeys: MasterKeys
  endpoint: Server
  naive: Server
  worker: Workerd
  /** For a second Worker beside the first: what it is given. */
  bindings: Record<string, string>
  /** A connection string of the Worker's login, good at the server. */
  appUrl: string
  createTenants(wanted: readonly { name: string; faces: number }[]): Promise<BenchTenant[]>
  /** CPU that the sessions of a login have used so far. */
  readBackendsCpuMs(login: string): Promise<number>
  /** What the schedule does: roll up the usage, merge the counts; and the vacuum that follows a large import. */
  settle(): Promise<void>
  close(): Promise<void>
}

/** @param serverUrl of an administrator, on this machine */
export async function startStage(serverUrl: string, report: (step: string) => void): Promise<Stage> {
  const closers: (() => Promise<void>)[] = []
  let closing: Promise<void> | undefined
  // once, and whoever asks again waits for it
  const close = () => {
    closing ??= (async () => {
      for (const closeOne of closers.splice(0).reverse()) await closeOne()
    })()
    return closing
  }
  try {
    report('building the Worker')
    buildWorker()
    const server = await connectNative(serverUrl)
    closers.push(() => server.close())
    const database = `rekko_bench_${process.pid}_${randomBytes(4).toString('hex')}`
    await server.execute(`create database ${database}`)
    closers.push(() => server.execute(`drop database ${database} with (force)`))
    const url = new URL(serverUrl)
    url.pathname = `/${database}`
    const adminUrl = url.href
    const admin = await connectNative(adminUrl)
    closers.push(() => admin.close())
    await bootstrap(admin, DEVELOPMENT_PASSWORDS)
    const masterKeys = await readDevelopmentMasterKeys()
    await migrate(admin, undefined, () => {}, MIGRATIONS, { masterKeys })
    await admin.execute(NAIVE_SCHEMA)

    report('starting the endpoint, the naive server and workerd')
    const endpoint = await startServer(['scripts/neon-endpoint/main.ts'], {
      NEON_ENDPOINT_DATABASE: `postgres://${url.hostname}:${url.port || 5432}/${database}`,
      NEON_ENDPOINT_PORT: '0',
    })
    closers.push(() => endpoint.close())
    const naive = await startNaive(adminUrl)
    closers.push(() => naive.close())
    const bindings = {
      DATABASE_URL: `postgres://rekko_app:${DEVELOPMENT_PASSWORDS.rekko_app}@local.endpoint/rekko`,
      NEON_FETCH_ENDPOINT: endpoint.url,
      API_KEY_PEPPER: randomBytes(32).toString('base64'),
      TEMPLATE_MASTER_KEYS: DEVELOPMENT_MASTER_KEYS,
      ENVIRONMENT: 'dev',
    }
    const worker = await startWorkerd(join(BUNDLE, 'index.js'), bindings)
    closers.push(() => worker.close())

    const app = new URL(adminUrl)
    app.username = 'rekko_app'
    app.password = DEVELOPMENT_PASSWORDS.rekko_app
    let tenantCount = 0
    return {
      ...{ admin, adminUrl, database, masterKeys, endpoint, naive, worker, bindings, appUrl: app.href, close },
      async createTenants(wanted) {
        const tenants: BenchTenant[] = []
        for (const { name, faces } of wanted) {
          const id = await createTenant(admin, masterKeys, name, 'live')
          const apiKey = await createApiKey(admin, bindings.API_KEY_PEPPER, id, 'live', 'bench', SCOPES)
          tenantCount++
          tenants.push({ id, name, apiKey, seed: tenantCount, faces })
        }
        await fillGalleries(
          adminUrl,
          MODEL,
          tenants.map(({ id, seed, faces }) => ({ tenantId: id, seed, faces })),
        )
        return tenants
      },
      async readBackendsCpuMs(login) {
        const sessions = await admin.query<{ pid: number }>(
          'select pid from pg_stat_activity where datname = $1 and usename = $2 and pid <> pg_backend_pid()',
          [database, login],
        )
        const times = await Promise.all(sessions.map(({ pid }) => readCpuMs(pid)))
        return times.reduce((total, ms) => total + ms, 0)
      },
      async settle() {
        const [settled] = await admin.query<{ rows: number }>(
          'select roll_up_usage(1000000) + merge_face_counts(1000000) as rows',
        )
        if (settled?.rows !== 0) await admin.execute('vacuum analyze')
      },
    }
  } catch (error) {
    await close()
    throw error
  }
}

/** Gives the naive server a tenant with the same key and the same people, whose embeddings it keeps as they are. */
export async function copyToNaive({ admin }: Stage, tenant: BenchTenant): Promise<void> {
  const { id, name, apiKey, seed, faces } = tenant
  await admin.query("insert into naive.tenants (id, name, is_active, settings) values ($1, $2, true, '{}')", [id, name])
  await admin.query('insert into naive.api_keys (tenant_id, key_hash) values ($1, $2)', [id, hashNaiveKey(apiKey)])
  for (let person = 0; person < faces; person++) {
    await admin.query('insert into naive.faces (tenant_id, external_id, embedding) values ($1, $2, $3)', [
      ...[id, toExternalId(person), toSql(Array.from(toFace(seed, person, 0)))],
    ])
  }
}

function buildWorker(): void {
  execFileSync(
    process.execPath,
    [
      ...[join(ROOT, 'node_modules/wrangler/bin/wrangler.js'), 'deploy', '--dry-run'],
      ...['--env', 'production', '--outdir', BUNDLE],
    ],
    { cwd: ROOT, stdio: ['ignore', 'ignore', 'inherit'] },
  )
}

const START_DEADLINE_MS = 20_000

/** @param databaseUrl of an administrator: in the naive server there is one login for everything */
export function startNaive(databaseUrl: string): Promise<Server> {
  return startServer(['scripts/bench/naive-server.ts', databaseUrl], {})
}

/** A Node program that prints its URL when it listens. */
async function startServer(args: string[], environment: Record<string, string>): Promise<Server> {
  const child = spawn(process.execPath, args, {
    cwd: ROOT,
    env: { ...process.env, ...environment },
    stdio: ['pipe', 'pipe', 'inherit'],
  })
  const close = async () => {
    if (child.exitCode === null && child.signalCode === null && child.kill('SIGTERM')) await once(child, 'exit')
  }
  try {
    const url = await readUrl(child)
    if (child.pid === undefined) throw new Error('a server did not start')
    return { url, pid: child.pid, close }
  } catch (error) {
    await close()
    throw error
  }
}

async function readUrl(child: ChildProcess): Promise<string> {
  // 'pipe' makes streams of it
  const lines = createInterface({
    input: child.stdout as NodeJS.ReadableStream,
    signal: AbortSignal.timeout(START_DEADLINE_MS),
  })
  for await (const line of lines) {
    const url = /http:\/\/127\.0\.0\.1:\d+\S*/.exec(line)?.[0]
    if (url) return url
  }
  throw new Error('a server ended before it listened')
}

/** What this was measured with, for the report. */
export async function describeMachine(admin: Connection): Promise<Record<string, string>> {
  const [versions] = await admin.query<{ postgres: string; vector: string; buffers: string }>(
    `select current_setting('server_version') as postgres, current_setting('shared_buffers') as buffers,
      (select extversion from pg_extension where extname = 'vector') as vector`,
  )
  const cpus = (await readFile('/proc/cpuinfo', 'utf8')).match(/^model name\s*: (.*)$/gm) ?? []
  return {
    cpu: `${cpus.length} x ${cpus[0]?.replace(/^model name\s*: /, '') ?? 'unknown'}`,
    node: process.version,
    postgres: versions?.postgres ?? 'unknown',
    pgvector: versions?.vector ?? 'unknown',
    shared_buffers: versions?.buffers ?? 'unknown',
    workerd: await findVersion('workerd'),
  }
}

async function findVersion(name: string): Promise<string> {
  const text = await readFile(join(ROOT, 'node_modules', name, 'package.json'), 'utf8')
  // npm does not install a package without one
  return (JSON.parse(text) as { version: string }).version
}
