// Noisy neighbors: what a small tenant feels of a large one that searches at full speed. The machine is as busy either
// way: beside the large tenant, and then beside as many sessions of PostgreSQL that do nothing but count, each time for as long
// as one of its searches takes, and use as much CPU as its searches did.

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
  /** Cores that the large tenant's searches kept busy, and that the counting sessions did. */
  busyCores: { large: number; counting: number }
  /** While the small tenant asked too. */
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
  // warm, and what one of its searches takes
  const calm = await loadOnce(large, connections, windowMs)
  const burstMs = Object.values(calm.cpuMs).reduce((total, ms) => total + ms, 0) / calm.latenciesMs.length

  const felt = { alone: empty(), besideLarge: empty(), besideCounting: empty() }
  const searchesPerSecond: number[] = []
  const countingCores: number[] = []
  for (let window = 0; window < windows; window++) {
    await watch(search, verify, windowMs / 2, felt.alone)
    const stop = new AbortController()
    const load = loadOnce(large, connections, 60_000, stop.signal)
    await watch(search, verify, windowMs, felt.besideLarge)
    stop.abort()
    const { throughput } = await load
    searchesPerSecond.push(throughput)
    const counting = await startCounting(stage.adminUrl, connections, burstMs, (throughput * burstMs) / 1000)
    await watch(search, verify, windowMs, felt.besideCounting)
    countingCores.push(await counting.stop())
  }
  return {
    alone: summarize(felt.alone),
    besideLarge: summarize(felt.besideLarge),
    besideCounting: summarize(felt.besideCounting),
    busyCores: { large: (median(searchesPerSecond) * burstMs) / 1000, counting: median(countingCores) },
    largeSearchesPerSecond: median(searchesPerSecond),
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
 * @param cores that all sessions together are to keep busy; whoever had to wait for a core rests less
 * @returns `stop`, which answers how many they did keep busy
 */
async function startCounting(url: string, sessions: number, burstMs: number, cores: number) {
  const open = await Promise.all(Array.from({ length: sessions }, () => openCounter(url, burstMs)))
  const stopped = new AbortController()
  const startedAt = performance.now()
  const counting = open.map(async ({ client, pid, count }) => {
    try {
      const before = await readCpuMs(pid)
      let usedMs = 0
      while (!stopped.signal.aborted) {
        await count()
        usedMs = (await readCpuMs(pid)) - before
        // at least a turn of the loop, which sees that it is to stop
        await rest(Math.max(0, (usedMs * sessions) / cores - (performance.now() - startedAt)))
      }
      return usedMs
    } finally {
      await client.end()
    }
  })
  return {
    async stop(): Promise<number> {
      stopped.abort()
      const usedMs = (await Promise.all(counting)).reduce((total, ms) => total + ms, 0)
      return usedMs / (performance.now() - startedAt)
    },
  }
}

async function openCounter(url: string, burstMs: number) {
  const client = new pg.Client({ connectionString: url })
  await client.connect()
  const { rows } = await client.query('select pg_backend_pid() as pid')
  const pid = Number(rows[0].pid)
  const countTo = (numbers: number) => client.query('select count(*) from generate_series(1, $1::integer)', [numbers])
  // the first of a session looks up what the others know
  await countTo(CALIBRATION)
  const before = await readCpuMs(pid)
  await countTo(CALIBRATION)
  const numbers = Math.round((burstMs / ((await readCpuMs(pid)) - before)) * CALIBRATION)
  return { client, pid, count: () => countTo(numbers) }
}

const CALIBRATION = 200_000
