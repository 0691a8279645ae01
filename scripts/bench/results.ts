// Everything that a run of `make bench` measured: what its JSON holds.
import type { Bar } from './bars.ts'
import type { Distant } from './distant.ts'
import type { Agreement, Metering } from './metering.ts'
import type { Neighbors } from './neighbors.ts'
import type { OnePerson } from './one-person.ts'
import type { Load } from './peers.ts'
import type { Alternatives, SearchRun } from './search.ts'
import type { WorkerAlone, WorkerFloor } from './worker-alone.ts'

export interface Results {
  startedAt: string
  seconds: number
  mode: string
  machine: Record<string, string>
  /** Runnable processes, over a minute. */
  load: { before: number; after: number }
  bars: Bar[]
  searches: SearchRun[]
  alternatives: Alternatives
  scanFloor: { faces: number; cpuMs: number }[]
  onePerson: OnePerson
  distant: Distant
  /** p50 of a search of 1,000 faces to that of a verification, in turns. */
  searchToVerify: number
  workerAlone: WorkerAlone
  workerFloor: WorkerFloor
  neighbors: Neighbors
  otherTenants: number
  metering: Metering
  agreement: Agreement
  growth: Growth
}

export interface Growth {
  bytesPerFace: { what: string; bytes: number }[]
  /** A small tenant, with so many others in the tables. */
  byTenants: { others: number; verify: Load; search: Load }[]
}
