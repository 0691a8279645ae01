// Faults of PostgreSQL itself, and of the machine under it.
import { execFile } from 'node:child_process'
import { existsSync, statfsSync } from 'node:fs'
import { mkdir, mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as wait } from 'node:timers/promises'
import { promisify } from 'node:util'
import type { Connection } from '../database/connection.ts'
import { type Cluster, FAKETIME } from './cluster.ts'
import type { Fault } from './fault.ts'
import { HOUR_STEPS } from './worker-faults.ts'

const run = promisify(execFile)

/** Sessions that hold every connection that a login of the service could have. */
const ALL_CONNECTIONS = 45
/** As many as the local endpoint opens for a login. */
const SERVICE_SESSIONS = 10
const SMALL_DISK_MB = 320
const BALLAST = 'ballast'

export const CLUSTER_FAULTS: readonly Fault[] = [
  {
    name: 'crash',
    says: 'kill -9 of the whole cluster, then recovery',
    toActs: (chance) => [
      {
        at: chance.between(0.2, 0.7),
        async run({ cluster }) {
          await cluster.crash()
          const killedAt = performance.now()
          await cluster.start()
          return killedAt
        },
      },
    ],
  },
  {
    name: 'stop-immediate',
    says: 'the cluster is stopped without a checkpoint, and started',
    toActs: (chance) => [
      {
        at: chance.between(0.2, 0.7),
        async run({ cluster }) {
          await cluster.stopImmediately()
          const killedAt = performance.now()
          await cluster.start()
          return killedAt
        },
      },
    ],
  },
  {
    name: 'terminate',
    says: 'sessions of the service are ended, in the middle of what they do',
    toActs: (chance) =>
      Array.from({ length: 12 }, () => ({
        at: chance.between(0.05, 0.9),
        async run({ cluster }) {
          await cluster.administer('postgres', terminateSessions)
          return performance.now()
        },
      })),
  },
  {
    name: 'no-connections',
    says: 'all connections are taken for half a second',
    toActs: (chance) => [
      {
        at: chance.between(0.2, 0.7),
        async run({ cluster }) {
          const taken = await takeConnections(cluster)
          await wait(500)
          await Promise.all(taken.map((connection) => connection.close()))
          return performance.now()
        },
      },
    ],
  },
  {
    name: 'held-lock',
    says: 'a table is locked for one second, and for three',
    toActs: (chance) =>
      [1, 3].map((seconds, index) => ({
        at: chance.between(0.1, 0.4) + index * 0.4,
        async run(stage) {
          await stage.administer((admin) =>
            admin.execute(
              `begin; lock table ${chance.pick(['faces', 'verifications', 'usage_events'])} in access exclusive mode;
              select pg_sleep(${seconds}); commit`,
            ),
          )
          return performance.now()
        },
      })),
  },
  {
    name: 'database-clock',
    says: 'the clock of the database steps by an hour, forth and back',
    cluster: { hasClock: true },
    findObstacle: findFaketime,
    toActs: (chance) =>
      HOUR_STEPS.map((hours, index) => ({
        at: (index + chance.between(0.2, 0.9)) / (HOUR_STEPS.length + 1),
        async run({ cluster }) {
          cluster.setClock(hours * 3_600)
          return performance.now()
        },
      })),
  },
  {
    name: 'full-disk',
    says: 'the disk of the cluster is full for a while',
    findObstacle: findMount,
    // a log that keeps no files for later needs a new one soon
    cluster: { diskMb: SMALL_DISK_MB, settings: ['wal_recycle=off', 'min_wal_size=32MB'] },
    toActs: (chance) => [
      {
        at: chance.between(0.1, 0.4),
        async run({ cluster }) {
          await fillDisk(cluster)
          // what is full first is a table; then the log, when it needs another file
          await wait(1_000)
          await cluster.administer('postgres', (admin) => admin.execute('select pg_switch_wal()')).catch(() => {})
          await wait(1_000)
          await rm(join(cluster.folder, BALLAST), { recursive: true })
          const roomAt = performance.now()
          // without room for its log it gives up, recovers, and gives up: somebody starts it when there is room
          await cluster.start()
          return roomAt
        },
      },
    ],
  },
]

/** Debian's package, installed where it can be. */
async function findFaketime(): Promise<string | null> {
  if (existsSync(FAKETIME)) return null
  const install = 'apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq faketime'
  await run('bash', ['-c', install]).catch(() => {})
  return existsSync(FAKETIME) ? null : 'the package faketime could not be installed'
}

async function findMount(): Promise<string | null> {
  const folder = await mkdtemp(join(tmpdir(), 'rekko-mount-'))
  try {
    await run('mount', ['-t', 'tmpfs', '-o', 'size=1m', 'tmpfs', folder])
    await run('umount', [folder])
    return null
  } catch {
    return 'this machine does not let us mount a small file system'
  } finally {
    await rm(folder, { recursive: true })
  }
}

async function terminateSessions(admin: Connection): Promise<void> {
  await admin.execute(
    "select pg_terminate_backend(pid) from pg_stat_activity where usename in ('rekko_app', 'rekko_jobs')",
  )
}

/** Until there are none left; an administrator's sessions may have the last ones too. */
async function takeConnections(cluster: Cluster): Promise<Connection[]> {
  const admin = await cluster.connect('postgres')
  // at once, or the service has its sessions back before they are taken
  const [, ...attempts] = await Promise.allSettled([
    terminateSessions(admin),
    ...Array.from({ length: ALL_CONNECTIONS }, () => cluster.connect('postgres')),
  ])
  await terminateSessions(admin)
  const late = await Promise.allSettled(Array.from({ length: SERVICE_SESSIONS }, () => cluster.connect('postgres')))
  return [
    admin,
    ...[...attempts, ...late].flatMap((attempt) => (attempt.status === 'fulfilled' ? [attempt.value] : [])),
  ]
}

/** All that is left of the disk, in a few files: the cluster takes from it meanwhile. */
async function fillDisk({ folder }: Cluster): Promise<void> {
  await mkdir(join(folder, BALLAST))
  for (let file = 0; file < 20; file++) {
    const { bavail, bsize } = statfsSync(folder)
    if (bavail === 0) return
    const path = join(folder, BALLAST, String(file))
    // it takes what it gets, and fails where that is less than it wants
    await run('fallocate', ['-l', String(bavail * bsize), path]).catch(() => {})
  }
}
