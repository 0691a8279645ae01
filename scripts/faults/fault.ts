// What a fault is: something done to batches on their way, or to the stage at chosen moments.
import type { Chance } from './chance.ts'
import type { Disturbance } from './check-answers.ts'
import type { ClusterOptions } from './cluster.ts'
import type { Rule } from './proxy.ts'
import type { Stage } from './stage.ts'

/** Sends so many requests at once, beside those of the clients; done when all are answered. */
export type Crowd = (count: number) => Promise<void>

export interface Act {
  /** When: behind this part of the clients' operations, 0 to 1. */
  at: number
  /** Is done when the fault is over. Answers the moment, of `performance.now`, from which the time to recover counts. */
  run(stage: Stage, crowd: Crowd): Promise<number>
}

export interface Fault extends Disturbance {
  name: string
  /** For the table: what happens, in a few words. */
  says: string
  /** Of half a minute a round: left out of a quick run. */
  isLong?: boolean
  /** Why it is played only where it is named: nothing is promised under it. */
  outside?: string
  /** What is done to each batch. */
  toRule?(chance: Chance): Rule
  toActs?(chance: Chance): Act[]
  /** A cluster of its own, with these. */
  cluster?: ClusterOptions
  /** Why it cannot be played on this machine; null when it can. */
  findObstacle?(): Promise<string | null>
}
