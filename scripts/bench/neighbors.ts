// Noisy neighbors: what a small tenant feels of a large one that searches at full speed. The machine is as busy either
// way: beside the large tenant, and beside as many sessions of PostgreSQL that do nothing but count, for as long as one
// of its searches takes, and rest for as long as it rests.

import { availableParallelism } from 'node:os'
import { setTimeout as rest } from 'node:timers/promises'
import pg from 'pg'
import { readCpuMs } from '../cpu.ts'
import { httpPeer, loadOnce, ofProcess, type Peer, type PeerConnection } from './peers.ts'
import { inTurn, toClaims, toSearchShot, toVerifyShot } from './requests.ts'
import type { BenchTenant, Stage } from './stage.ts'
import { median } from './statistics.ts'

export interface Neighbors {
  /** Milliseconds, p50 of each kind of request of the small tenant. */
  alone: Latencies
  besideLarge: Latencies
  besideCounting: Latencies
  /** Cores that the large tenant's searches kept busy, and that the counting threads were to keep busy. */
  busyCores: number
  largeSearchesPerSecond: number
}

export interface Latencies {
  search: number
  verify: number
}

/** @param tenants.small with few faces, tenants.large with many */
export async function measureNeighbors(
  stage: Stage,
  tenants: { small: BenchTenant; large: BenchTenant },
  windowMs: number,
  windows: number,
): Promise<Neighbors> {
  const { worker } = stage
  const parts = {
    worker: ofProcess(worker.pid),
    endpoint: ofProcess(stage.endpoint.pid),
    database: () => stage.readBackendsCpuMs('rekko_app'),
  }
  const claims = toClaims(tenants.small, 32)
  const search = httpPeer(
    'search',
    worker.url,
    {},
    inTurn(claims.map(({ probe }) => toSearchShot(worker.url, tenants.small, probe))),
  )
  const verify = httpPeer(
    'verify',
    worker.url,
    {},
    inTurn(claims.map((claim) => toVerifyShot(worker.url, tenants.small, claim))),
  )
  const large = httpPeer(
    'large',
    worker.url,
    parts,
    inTurn(toClaims(tenants.large, 32).map(({ probe }) => toSearchShot(worker.url, tenants.large, probe))),
  )
  const connections = availableParallelism()
  // warm, and how many cores a large tenant keeps busy
  const calm = await loadOnce(large, connections, windowMs)
  const usedMs = Object.values(calm.cpuMs).reduce((total, ms) => total + ms, 0)
  const busyCores = usedMs / windowMs
  const burstMs = usedMs / calm.latenciesMs.length

  const felt = { alone: empty(), besideLarge: empty(), besideCounting: empty() }
  for (let window = 0; window < windows; window++) {
    await watch(search, verify, windowMs / 2, felt.alone)
    const stop = new AbortController()
    const load = loadOnce(large, connections, 60_000, stop.signal)
    await watch(search, verify, windowMs, felt.besideLarge)
    stop.abort()
    await load
    const counting = await startCounting(stage.adminUrl, connections, burstMs, busyCores / connections)
    await watch(search, verify, windowMs, felt.besideCounting)
    await counting.stop()
  }
  return {
    alone: summarize(felt.alone),
    besideLarge: summarize(felt.besideLarge),
    besideCounting: summarize(felt.besideCounting),
    busyCores,
    largeSearchesPerSecond: calm.throughput,
  }
}

interface Samples {
  search: number[]
  verify: number[]
}

function empty(): Samples {
  return { search: [], verify: [] }
}

function summarize({ search, verify }: Samples): Latencies {
  return { search: median(search), verify: median(verify) }
}

async function watch(search: Peer, verify: Peer, windowMs: number, into: Samples): Promise<void> {
  const open: [PeerConnection, number[]][] = [
    [await search.open(), into.search],
    [await verify.open(), into.verify],
  ]
  const until = performance.now() + windowMs
  while (performance.now() < until) {
    for (const [connection, latencies] of open) latencies.push(await connection.ask())
  }
  for (const [connection] of open) connection.close()
}

/**
 * @param burstMs of CPU that each count takes
 * @param share of its time that each session counts
 */
async function startCounting(url: string, sessions: number, burstMs: number, share: number) {
  const stop = new AbortController()
  const counting = Array.from({ length: sessions }, async () => {
    const client = new pg.Client({ connectionString: url })
    await client.connect()
    try {
      const { rows } = await client.query('select pg_backend_pid() as pid')
      const count = (numbers: number) => client.query('select count(*) from generate_series(1, $1::integer)', [numbers])
      const before = await readCpuMs(rows[0].pid)
      await count(CALIBRATION)
      const numbers = Math.round((burstMs / ((await readCpuMs(rows[0].pid)) - before)) * CALIBRATION)
      while (!stop.signal.aborted) {
        await count(numbers)
        // at least a turn of the loop, which sees that it is to stop
        await rest(share < 1 ? burstMs * (1 / share - 1) : 0)
      }
    } finally {
      await client.end()
    }
  })
  return {
    async stop() {
      stop.abort()
      await Promise.all(counting)
    },
  }
}

const CALIBRATION = 200_000
