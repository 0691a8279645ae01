// What a drill is played on: a cluster of its own, a local Neon endpoint with a fault proxy before it, and the Worker in raw
// workerd. Each round has a database of its own, copied from one that was migrated once.
import { randomBytes } from 'node:crypto'
import { closeSync, mkdirSync, openSync } from 'node:fs'
import { join } from 'node:path'
import { SCOPES } from '../../src/auth/api-key.ts'
import type { MasterKeys } from '../../src/face/protection/master-keys.ts'
import { FAILED_VERIFICATIONS } from '../../src/settings.ts'
import { bootstrap, LOGIN_ROLES } from '../database/bootstrap.ts'
import type { Connection } from '../database/connection.ts'
import { DEVELOPMENT_MASTER_KEYS, DEVELOPMENT_PASSWORDS, readDevelopmentMasterKeys } from '../database/development.ts'
import { MIGRATIONS, migrate } from '../database/migrate.ts'
import type { Edit } from '../edit.ts'
import { nativeBackend } from '../neon-endpoint/backend.ts'
import { type Endpoint, startEndpoint } from '../neon-endpoint/server.ts'
import { createApiKey, createTenant } from '../provision.ts'
import { startWorkerd, type Workerd } from '../workerd.ts'
import { Cluster, type ClusterOptions } from './cluster.ts'
import { type FaultProxy, PASS, startFaultProxy } from './proxy.ts'
import { toRememberedKey } from './remembered.ts'
import { buildWorker, CLOCK_PATH, type WorkerBuild } from './worker-build.ts'

export const OUTPUT = join(import.meta.dirname, '../../.rekko/faults')
const TEMPLATE = 'rekko_template'
const PEPPER = randomBytes(32).toString('base64')

export interface Tenant {
  id: string
  apiKey: string
}

export class Stage {
  readonly cluster: Cluster
  readonly proxy: FaultProxy
  readonly masterKeys: MasterKeys
  readonly #build: WorkerBuild
  /** What the Worker writes, which is much: a line for each request that fails. */
  readonly #log: number
  #worker: Workerd | null = null
  #endpoint: Endpoint | null = null
  #database = ''
  #rounds = 0

  private constructor(cluster: Cluster, proxy: FaultProxy, masterKeys: MasterKeys, workerBuild: WorkerBuild) {
    this.cluster = cluster
    this.proxy = proxy
    this.masterKeys = masterKeys
    this.#build = workerBuild
    mkdirSync(OUTPUT, { recursive: true })
    this.#log = openSync(join(OUTPUT, 'worker.log'), 'a')
  }

  /** @param edits what of the Worker is broken on purpose */
  static async start(options: ClusterOptions, edits: readonly Edit[]): Promise<Stage> {
    const workerBuild = await buildWorker(edits)
    const cluster = await Cluster.start(options).catch(async (error: unknown) => {
      await workerBuild.close()
      throw error
    })
    const stage = new Stage(cluster, await startFaultProxy(), await readDevelopmentMasterKeys(), workerBuild)
    try {
      await cluster.administer('postgres', (admin) => admin.execute(`create database ${TEMPLATE}`))
      await cluster.administer(TEMPLATE, async (admin) => {
        await bootstrap(admin, DEVELOPMENT_PASSWORDS)
        await migrate(admin, undefined, () => {}, MIGRATIONS, { masterKeys: stage.masterKeys })
      })
      await stage.restartWorker()
    } catch (error) {
      await stage.close()
      throw error
    }
    return stage
  }

  /** Where the Worker answers now; another place after a restart. */
  get workerUrl(): string {
    if (!this.#worker) throw new RangeError('no Worker runs')
    return this.#worker.url
  }

  get endpointUrl(): string {
    if (!this.#endpoint) throw new RangeError('no round has begun')
    return this.#endpoint.url
  }

  /** A new database with tenants in it; batches pass. */
  async beginRound(tenantCount: number): Promise<Tenant[]> {
    await this.#endpoint?.close()
    const former = this.#database
    this.#rounds++
    this.#database = `rekko_round_${this.#rounds}`
    await this.cluster.administer('postgres', async (admin) => {
      if (former) await admin.execute(`drop database ${former} with (force)`)
      await admin.execute(`create database ${this.#database} template ${TEMPLATE}`)
    })
    const { hostname, port } = new URL(this.cluster.url)
    this.#endpoint = await startEndpoint(
      nativeBackend({ host: hostname, port: Number(port), database: this.#database }, LOGIN_ROLES),
    )
    this.proxy.serve(this.#endpoint.url, () => PASS)
    const tenants = await this.administer(async (admin) => {
      const made: Tenant[] = []
      for (let index = 0; index < tenantCount; index++) {
        const id = await createTenant(admin, this.masterKeys, `tenant ${index}`, 'live')
        // a gate shows as many wrong faces as it likes
        await admin.query('select change_tenant($1, null, $2)', [id, SETTINGS])
        made.push({ id, apiKey: await createApiKey(admin, PEPPER, id, 'live', 'faults', SCOPES) })
      }
      return made
    })
    return tenants
  }

  /** Under which the service remembers what it answered under a client's key. */
  toRememberedKey(tenant: Tenant, key: string): string {
    return toRememberedKey(PEPPER, tenant, key)
  }

  /** As the administrator, in the database of this round. */
  administer<Result>(work: (admin: Connection) => Promise<Result>): Promise<Result> {
    return this.cluster.administer(this.#database, work)
  }

  /** Ends the Worker, with all that it was about to answer, and starts a cold one. */
  async restartWorker(): Promise<void> {
    await this.#worker?.close()
    const toUrl = (role: keyof typeof DEVELOPMENT_PASSWORDS) =>
      `postgres://${role}:${DEVELOPMENT_PASSWORDS[role]}@local.endpoint/rekko`
    const bindings = {
      DATABASE_URL: toUrl('rekko_app'),
      JOBS_DATABASE_URL: toUrl('rekko_jobs'),
      NEON_FETCH_ENDPOINT: this.proxy.url,
      API_KEY_PEPPER: PEPPER,
      TEMPLATE_MASTER_KEYS: DEVELOPMENT_MASTER_KEYS,
      ENVIRONMENT: 'dev',
    }
    this.#worker = await startWorkerd(this.#build.file, bindings, { log: this.#log })
  }

  /** @param ms from the true time */
  async setWorkerClock(ms: number): Promise<void> {
    await fetch(`${this.workerUrl}${CLOCK_PATH}?${ms}`, { method: 'POST' })
  }

  async close(): Promise<void> {
    await this.#worker?.close()
    await this.proxy.close()
    await this.#endpoint?.close().catch(() => {})
    await this.cluster.close()
    await this.#build.close()
    closeSync(this.#log)
  }
}

const SETTINGS = {
  failed_verifications_per_hour: FAILED_VERIFICATIONS.perHour.max,
  failed_verifications_per_day: FAILED_VERIFICATIONS.perDay.max,
}
