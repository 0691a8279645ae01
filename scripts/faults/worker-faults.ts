// Faults of the Worker: it is ended and started cold, its clock steps, it is cold when its database is.
import { setTimeout as wait } from 'node:timers/promises'
import type { Fault } from './fault.ts'

const CROWD = 200
/** Hours from the true time; the last one sets it right. */
export const HOUR_STEPS = [1, -1, 0]

export const WORKER_FAULTS: readonly Fault[] = [
  {
    name: 'none',
    says: 'nothing: what a round looks like that nobody disturbs',
  },
  {
    name: 'restart-worker',
    says: 'the Worker is killed under load, and a cold one takes its place',
    breaksClients: true,
    toActs: (chance) =>
      Array.from({ length: 4 }, () => ({
        at: chance.between(0.05, 0.9),
        async run(stage) {
          const killedAt = performance.now()
          await stage.restartWorker()
          return killedAt
        },
      })),
  },
  {
    name: 'worker-clock',
    says: "the Worker's clock steps by an hour, forth and back",
    toActs: (chance) =>
      HOUR_STEPS.map((hours, index) => ({
        at: (index + chance.between(0.2, 0.9)) / (HOUR_STEPS.length + 1),
        async run(stage) {
          await stage.setWorkerClock(hours * 3_600_000)
          return performance.now()
        },
      })),
  },
  {
    name: 'late-start',
    says: `the database is down and starts late; ${CROWD} requests at once on a cold Worker`,
    breaksClients: true,
    toActs: (chance) => [
      {
        at: chance.between(0.2, 0.6),
        async run(stage, crowd) {
          await stage.cluster.stopImmediately()
          await stage.restartWorker()
          const answered = crowd(CROWD)
          await wait(chance.between(500, 2_500))
          await stage.cluster.start()
          const startedAt = performance.now()
          await answered
          return startedAt
        },
      },
    ],
  },
  {
    name: 'slow-wake',
    says: `the database answers nothing while it wakes up; ${CROWD} requests at once on a cold Worker`,
    breaksClients: true,
    toActs: (chance) => [
      {
        at: chance.between(0.2, 0.6),
        async run(stage, crowd) {
          const wake = stage.proxy.hold()
          await stage.restartWorker()
          const answered = crowd(CROWD)
          // longer than the Worker waits, or not
          await wait(chance.happens(0.5) ? chance.between(300, 3_000) : chance.between(10_500, 13_000))
          wake()
          const awakeAt = performance.now()
          await answered
          return awakeAt
        },
      },
    ],
  },
  {
    name: 'slow-database',
    says: 'every batch takes five seconds for a while, on a cold Worker',
    isLong: true,
    breaksClients: true,
    toActs: (chance) => [
      {
        at: chance.between(0.2, 0.6),
        async run(stage, crowd) {
          await stage.restartWorker()
          stage.proxy.slowDown(chance.between(4_500, 5_500))
          const answered = crowd(20)
          await wait(14_000)
          stage.proxy.slowDown(0)
          const fastAt = performance.now()
          await answered
          return fastAt
        },
      },
    ],
  },
]
