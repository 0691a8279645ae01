// The Worker by itself: its bundle, its start, its memory, and how much of the CPU of a verification is what no
// verification can do without.
import { readdir, readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { gzipSync } from 'node:zlib'
import { readMemoryMb } from '../cpu.ts'
import { startWorkerd, type Workerd } from '../workerd.ts'
import { recordBatches, toBatchShots } from './batches.ts'
import { httpPeer, loadOnce, of, ofProcess, takeTurns } from './peers.ts'
import { inTurn, toClaims, toVerifyShot } from './requests.ts'
import { type BenchTenant, BUNDLE, type Stage } from './stage.ts'
import { median, pairedRatio } from './statistics.ts'

const HERE = import.meta.dirname

export interface WorkerAlone {
  bundleKib: { plain: number; gzip: number }
  /** Of workerd with our Worker, less that of workerd with an empty one: until the first answer. */
  startCpuMs: number
  /** Of the process: after the first answer of ours, of an empty Worker, and of ours after all that was measured. */
  memoryMb: { fresh: number; empty: number; used: number; most: number }
  heap: HeapOfIsolate
}

/** What the isolate of the Worker holds under load on 32 connections, in MB: after V8 has collected, and before. */
export interface HeapOfIsolate {
  oneTenant: HeapRange
  /** More than it keeps the keys of. */
  tenants: number
  manyTenants: HeapRange
}

export interface HeapRange {
  least: number
  most: number
}

/** @param tenants to fill the isolate with: the first one's load, and then that of all */
export async function measureWorkerAlone(
  { worker, bindings }: Stage,
  tenants: readonly BenchTenant[],
  starts: number,
  windowMs: number,
): Promise<WorkerAlone> {
  const scripts = (await readdir(BUNDLE)).filter((file) => file.endsWith('.js'))
  const contents = await Promise.all(scripts.map((file) => readFile(join(BUNDLE, file))))
  const kib = (bytes: number) => bytes / 1024
  const own = { cpu: [] as number[], memory: [] as number[] }
  const empty = { cpu: [] as number[], memory: [] as number[] }
  for (let start = 0; start < starts; start++) {
    await measureStart(join(BUNDLE, 'index.js'), bindings, own)
    await measureStart(join(HERE, 'empty-worker.ts'), {}, empty)
  }
  const { now, most } = await readMemoryMb(worker.pid)
  return {
    bundleKib: {
      plain: kib(contents.reduce((total, content) => total + content.length, 0)),
      gzip: kib(contents.reduce((total, content) => total + gzipSync(content).length, 0)),
    },
    startCpuMs: median(own.cpu.map((ms, index) => ms - (empty.cpu[index] ?? 0))),
    memoryMb: { fresh: median(own.memory), empty: median(empty.memory), used: now, most },
    heap: await measureHeap(bindings, tenants, windowMs),
  }
}

async function measureHeap(
  bindings: Record<string, string>,
  tenants: readonly BenchTenant[],
  windowMs: number,
): Promise<HeapOfIsolate> {
  // a second Worker: one that can be looked into is not one to measure the speed of
  const worker = await startWorkerd(join(BUNDLE, 'index.js'), bindings, { withInspector: true })
  try {
    const measureLoad = async (loaded: readonly BenchTenant[]): Promise<HeapRange> => {
      const shots = loaded.flatMap((tenant) =>
        toClaims(tenant, 2).map((claim) => toVerifyShot(worker.url, tenant, claim)),
      )
      const peer = httpPeer('heap', worker.url, {}, inTurn(shots))
      // what starting left behind is collected
      await loadOnce(peer, HEAP_CONNECTIONS, windowMs)
      const readings: number[] = []
      const load = loadOnce(peer, HEAP_CONNECTIONS, windowMs)
      const until = performance.now() + windowMs
      while (performance.now() < until) readings.push(await worker.readHeapMb())
      await load
      return { least: Math.min(...readings), most: Math.max(...readings) }
    }
    return {
      oneTenant: await measureLoad(tenants.slice(0, 1)),
      tenants: tenants.length,
      manyTenants: await measureLoad(tenants),
    }
  } finally {
    await worker.close()
  }
}

const HEAP_CONNECTIONS = 32

async function measureStart(
  entry: string,
  bindings: Record<string, string>,
  into: { cpu: number[]; memory: number[] },
): Promise<void> {
  const worker = await startWorkerd(entry, bindings)
  try {
    const answer = await fetch(`${worker.url}/health`)
    await answer.arrayBuffer()
    into.cpu.push(await worker.readCpuMs())
    into.memory.push((await readMemoryMb(worker.pid)).now)
  } finally {
    await worker.close()
  }
}

export interface WorkerFloor {
  /** Milliseconds of CPU in workerd, for one verification. */
  ours: number
  parts: { batch: number; hmac: number; rotation: number; opening: number }
  /** Ours to the sum of the parts, window by window. */
  ratio: number
  /** At one connection, p50 beside the same batch by hand: of a Worker that does nothing but pass it on, and of ours. */
  beside: { bare: number; ours: number }
}

const CONNECTIONS = 8
const TURNS = 200
/** Long enough for the clock of the scheduler. */
const ROUNDS = { hmac: 5_000, rotation: 500, opening: 2_000 }

export async function measureWorkerFloor(
  stage: Stage,
  tenant: BenchTenant,
  windowMs: number,
  windows: number,
): Promise<WorkerFloor> {
  const claims = toClaims(tenant, 32)
  const [batch] = await recordBatches(stage, (url) =>
    claims.slice(0, 2).map((claim) => toVerifyShot(url, tenant, claim)),
  )
  if (!batch) throw new RangeError('no verification was recorded')
  const { DATABASE_URL = '', NEON_FETCH_ENDPOINT = '' } = stage.bindings
  const floor = await startWorkerd(join(HERE, 'floor-worker.ts'), {
    ...{ DATABASE_URL, NEON_FETCH_ENDPOINT, BATCH: JSON.stringify(batch.queries) },
  })
  try {
    const shots = (url: string) => claims.map((claim) => toVerifyShot(url, tenant, claim))
    const ours = httpPeer(
      'ours',
      stage.worker.url,
      { server: ofProcess(stage.worker.pid) },
      inTurn(shots(stage.worker.url)),
    )
    const bare = httpPeer(
      'batch',
      floor.url,
      { server: ofProcess(floor.pid) },
      inTurn(shots(floor.url).map((shot) => Buffer.from(shot.toString().replace('/v1/faces/verify', '/batch')))),
    )
    const measured: Record<'ours' | keyof WorkerFloor['parts'], number[]> = {
      ...{ ours: [], batch: [], hmac: [], rotation: [], opening: [] },
    }
    const byHand = httpPeer('by hand', stage.endpoint.url, {}, toBatchShots(stage.endpoint.url, batch))
    const turns = await takeTurns([ours, bare, byHand], TURNS)
    for (let window = 0; window < windows; window++) {
      for (const [name, peer] of [
        ['ours', ours],
        ['batch', bare],
      ] as const) {
        await loadOnce(peer, CONNECTIONS, windowMs / 10)
        const { cpuMs, latenciesMs } = await loadOnce(peer, CONNECTIONS, windowMs)
        measured[name].push((cpuMs['server'] ?? Number.NaN) / latenciesMs.length)
      }
      for (const [name, rounds] of Object.entries(ROUNDS)) {
        measured[name as keyof typeof ROUNDS].push(await measureRounds(floor, name, rounds))
      }
    }
    const sums = measured.ours.map((_, window) =>
      [measured.batch, measured.hmac, measured.rotation, measured.opening].reduce(
        (total, part) => total + (part[window] ?? Number.NaN),
        0,
      ),
    )
    return {
      ours: median(measured.ours),
      parts: {
        batch: median(measured.batch),
        hmac: median(measured.hmac),
        rotation: median(measured.rotation),
        opening: median(measured.opening),
      },
      ratio: pairedRatio(measured.ours, sums),
      beside: {
        bare: pairedRatio(of(turns, 'batch'), of(turns, 'by hand')),
        ours: pairedRatio(of(turns, 'ours'), of(turns, 'by hand')),
      },
    }
  } finally {
    await floor.close()
  }
}

async function measureRounds(floor: Workerd, what: string, rounds: number): Promise<number> {
  await floor.post(`/${what}?rounds=${Math.ceil(rounds / 10)}`)
  const before = await floor.readCpuMs()
  await floor.post(`/${what}?rounds=${rounds}`)
  return ((await floor.readCpuMs()) - before) / rounds
}
