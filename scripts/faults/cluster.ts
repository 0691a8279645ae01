// A PostgreSQL cluster of the drill's own, to be killed, filled up and held: never the one on port 5433.
import { execFile, execFileSync } from 'node:child_process'
import { copyFileSync, existsSync, mkdirSync, readdirSync, rmdirSync, rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { type Connection, connectNative } from '../database/connection.ts'
import { findFreePort } from '../worker.ts'

const SCRIPT = join(import.meta.dirname, '../native-postgres')
const INSTALLATION = process.env['NATIVE_POSTGRES_ROOT'] ?? '/var/tmp/native-postgres'
const CLUSTERS = join(INSTALLATION, 'var/lib/postgresql')
/** Of Debian's package faketime. */
export const FAKETIME = `/usr/lib/${process.arch === 'arm64' ? 'aarch64' : 'x86_64'}-linux-gnu/faketime/libfaketime.so.1`
const DEADLINE_MS = 120_000
/** Small: the galleries are, and so is the room that a drill of a full disk gives. */
const OPTIONS = ['shared_buffers=64MB', 'max_connections=40', 'max_wal_size=64MB', 'log_min_messages=panic']

export interface ClusterOptions {
  /** Settings of its server beside ours, as name=value. */
  settings?: readonly string[]
  /** Puts its data on a file system of this size, in memory. */
  diskMb?: number
  /** Gives it a clock that `setClock` steps. */
  hasClock?: boolean
}

export class Cluster {
  /** Of an administrator, on its database `rekko_dev`. */
  readonly url: string
  /** Its data, as this machine sees them. */
  readonly folder: string
  readonly #environment: Record<string, string>
  readonly #isMounted: boolean
  /** The library and the file by which its clock is stepped, as it sees them itself. */
  readonly #clock: { library: string; file: string }

  private constructor(name: string, port: number, { settings = [], diskMb, hasClock = false }: ClusterOptions) {
    this.url = `postgres://rekko:rekko@127.0.0.1:${port}/rekko_dev`
    this.folder = join(CLUSTERS, name)
    this.#environment = {
      NATIVE_POSTGRES_CLUSTER: name,
      NATIVE_POSTGRES_PORT: String(port),
      NATIVE_POSTGRES_OPTIONS: [...OPTIONS, ...settings].map((setting) => `-c ${setting}`).join(' '),
    }
    this.#clock = { library: `/tmp/${name}-clock.so`, file: `/tmp/${name}-clock` }
    if (hasClock) {
      copyFileSync(FAKETIME, join(INSTALLATION, this.#clock.library))
      this.setClock(0)
      this.#environment['NATIVE_POSTGRES_ENVIRONMENT'] = Object.entries({
        ...{ LD_PRELOAD: this.#clock.library, FAKETIME_TIMESTAMP_FILE: this.#clock.file },
        ...{ FAKETIME_NO_CACHE: '1', FAKETIME_DONT_FAKE_MONOTONIC: '1' },
      })
        .map(([name, value]) => `${name}=${value}`)
        .join(' ')
    }
    this.#isMounted = diskMb !== undefined
    if (diskMb !== undefined) {
      mkdirSync(this.folder, { recursive: true })
      execFileSync('mount', ['-t', 'tmpfs', '-o', `size=${diskMb}m`, 'tmpfs', this.folder])
    }
  }

  /** @throws Error when `diskMb` is given, and this machine does not let us mount */
  static async start(options: ClusterOptions = {}): Promise<Cluster> {
    clusterCount++
    const port = await findFreePort(0)
    const cluster = new Cluster(`faults-${process.pid}-${clusterCount}`, port ?? 0, options)
    try {
      await cluster.start()
    } catch (error) {
      await cluster.close()
      throw error
    }
    return cluster
  }

  /** Waits until it answers, after a recovery too. */
  async start(): Promise<void> {
    await this.#run('start')
  }

  /** Kills every process of it at once. */
  async crash(): Promise<void> {
    await this.#run('crash')
  }

  /** As a service manager that has lost its patience: no checkpoint, sessions are told to go. */
  async stopImmediately(): Promise<void> {
    await this.#run('stop', 'immediate')
  }

  /** @param seconds from the true time */
  setClock(seconds: number): void {
    writeFileSync(join(INSTALLATION, this.#clock.file), `${seconds < 0 ? '' : '+'}${seconds}\n`, { mode: 0o644 })
  }

  connect(database = 'rekko_dev'): Promise<Connection> {
    const url = new URL(this.url)
    url.pathname = `/${database}`
    return connectNative(url.href)
  }

  /** Does something as the administrator, on a session of its own: those of before a crash are gone. */
  async administer<Result>(database: string, work: (admin: Connection) => Promise<Result>): Promise<Result> {
    const admin = await this.connect(database)
    try {
      return await work(admin)
    } finally {
      await admin.close().catch(() => {})
    }
  }

  async close(): Promise<void> {
    if (this.#isMounted) {
      await this.#run('stop', 'immediate')
      await promisify(execFile)('umount', [this.folder])
      rmdirSync(this.folder)
    } else await this.#run('wipe')
    for (const path of Object.values(this.#clock)) rmSync(join(INSTALLATION, path), { force: true })
  }

  async #run(...args: string[]): Promise<void> {
    await promisify(execFile)(SCRIPT, args, {
      env: { ...process.env, ...this.#environment },
      timeout: DEADLINE_MS,
    })
  }
}

let clusterCount = 0

/** Clusters of runs that were killed themselves: stopped, and their data deleted. */
export async function removeLeftovers(): Promise<void> {
  if (!existsSync(CLUSTERS)) return
  for (const name of readdirSync(CLUSTERS)) {
    const pid = /^faults-(\d+)-\d+$/.exec(name)?.[1]
    if (pid === undefined || existsSync(`/proc/${pid}`)) continue
    await promisify(execFile)('umount', ['-l', join(CLUSTERS, name)]).catch(() => {})
    await promisify(execFile)(SCRIPT, ['wipe'], { env: { ...process.env, NATIVE_POSTGRES_CLUSTER: name } })
  }
}
