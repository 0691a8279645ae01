// What is measured side by side, and how: one request of each in turn, or a window of load on each in turn.
import { performance } from 'node:perf_hooks'
import type pg from 'pg'
import { readCpuMs } from '../cpu.ts'
import { HttpConnection, requireStatus, type Shot } from './client.ts'
import { median, percentile } from './statistics.ts'

/** Something that answers requests of one kind. */
export interface Peer {
  name: string
  open(): Promise<PeerConnection>
  /** CPU so far, by part: what `load` tells of each request. */
  readCpuMs(): Promise<Record<string, number>>
}

export interface PeerConnection {
  /** @returns milliseconds */
  ask(): Promise<number>
  close(): void
}

export type Parts = Record<string, () => Promise<number>>

/** @param nextShot makes the next request; @param expected the status that every answer must have */
export function httpPeer(name: string, url: string, parts: Parts, nextShot: () => Shot, expected = 200): Peer {
  return {
    name,
    async open() {
      const connection = await HttpConnection.open(url)
      return {
        async ask() {
          const answer = await connection.ask(nextShot())
          requireStatus(answer, expected)
          return answer.ms
        },
        close: () => connection.close(),
      }
    },
    readCpuMs: () => readParts(parts),
  }
}

export interface Query {
  query: string
  params: unknown[]
}

/** The usual way from Node: a pool of sessions, and a transaction whose statements are sent one after the other. */
export function pgPeer(name: string, pool: pg.Pool, parts: Parts, nextBatch: () => Query[]): Peer {
  return {
    name,
    async open() {
      return {
        async ask() {
          const queries = nextBatch()
          const startedAt = performance.now()
          const client = await pool.connect()
          try {
            await client.query('begin')
            for (const { query, params } of queries) await client.query(query, params)
            await client.query('commit')
          } finally {
            client.release()
          }
          return performance.now() - startedAt
        },
        close() {},
      }
    },
    readCpuMs: () => readParts(parts),
  }
}

async function readParts(parts: Parts): Promise<Record<string, number>> {
  const read = Object.entries(parts).map(async ([name, readMs]) => [name, await readMs()] as const)
  return Object.fromEntries(await Promise.all(read))
}

export function ofProcess(pid: number): () => Promise<number> {
  return () => readCpuMs(pid)
}

/** Each round asks every peer once, on one connection each. */
export async function takeTurns(peers: readonly Peer[], rounds: number): Promise<Map<string, number[]>> {
  const open = await Promise.all(peers.map(async (peer) => ({ peer, connection: await peer.open() })))
  try {
    for (let warmUp = 0; warmUp < 20; warmUp++) for (const { connection } of open) await connection.ask()
    const latencies = new Map(peers.map(({ name }) => [name, [] as number[]]))
    for (let round = 0; round < rounds; round++) {
      for (const { peer, connection } of open) latencies.get(peer.name)?.push(await connection.ask())
    }
    return latencies
  } finally {
    for (const { connection } of open) connection.close()
  }
}

export interface Load {
  p50: number
  p99: number
  /** Requests a second: the median of the windows, and each of them in its turn. */
  throughput: number
  throughputs: number[]
  /** Milliseconds of CPU for a request, by part. */
  cpuMs: Record<string, number>
  requests: number
}

/**
 * Windows of load in turns: A, B, C, A, B, C. Closed loop: each connection asks again when it was answered.
 *
 * @param windowMs of each, after a tenth of it that does not count
 */
export async function loadInTurns(
  peers: readonly Peer[],
  connections: number,
  windowMs: number,
  windows: number,
): Promise<Map<string, Load>> {
  const samples = new Map(peers.map(({ name }) => [name, [] as Window[]]))
  for (let window = 0; window < windows; window++) {
    for (const peer of peers) {
      await loadOnce(peer, connections, windowMs / 10)
      samples.get(peer.name)?.push(await loadOnce(peer, connections, windowMs))
    }
  }
  return new Map([...samples].map(([name, taken]) => [name, summarize(taken)]))
}

interface Window {
  latenciesMs: number[]
  throughput: number
  cpuMs: Record<string, number>
}

/** @param until ends it before its time */
export async function loadOnce(
  peer: Peer,
  connections: number,
  windowMs: number,
  until?: AbortSignal,
): Promise<Window> {
  const open = await Promise.all(Array.from({ length: connections }, () => peer.open()))
  const latenciesMs: number[] = []
  try {
    const before = await peer.readCpuMs()
    const startedAt = performance.now()
    await Promise.all(
      open.map(async (connection) => {
        while (performance.now() - startedAt < windowMs && !until?.aborted) latenciesMs.push(await connection.ask())
      }),
    )
    const tookMs = performance.now() - startedAt
    const after = await peer.readCpuMs()
    const cpuMs = Object.fromEntries(Object.entries(after).map(([part, ms]) => [part, ms - (before[part] ?? 0)]))
    return { latenciesMs, throughput: (latenciesMs.length / tookMs) * 1000, cpuMs }
  } finally {
    for (const connection of open) connection.close()
  }
}

function summarize(windows: readonly Window[]): Load {
  const latencies = windows.flatMap(({ latenciesMs }) => latenciesMs)
  const throughputs = windows.map(({ throughput }) => throughput)
  const parts = Object.keys(windows[0]?.cpuMs ?? {})
  return {
    p50: percentile(latencies, 50),
    p99: percentile(latencies, 99),
    throughput: median(throughputs),
    throughputs,
    cpuMs: Object.fromEntries(
      parts.map((part) => [
        part,
        windows.reduce((total, { cpuMs }) => total + (cpuMs[part] ?? 0), 0) / latencies.length,
      ]),
    ),
    requests: latencies.length,
  }
}

/** What was measured of a peer that was asked for. */
export function of<Measured>(measured: ReadonlyMap<string, Measured>, name: string): Measured {
  const found = measured.get(name)
  if (found === undefined) throw new RangeError(`${name} was not measured`)
  return found
}
