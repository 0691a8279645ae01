// Analysis threads behind a bounded number of places: who has none is told at once, not kept waiting.
import { setTimeout as sleep } from 'node:timers/promises'
import { Worker } from 'node:worker_threads'
import type { Analysis, Task } from './analysis.ts'
import type { Order, Report, ThreadData } from './analysis-thread.ts'
import type { Limits } from './limits.ts'
import { ConfigurationError, type Models, type Network, readNetwork } from './models.ts'
import type { NetworkBytes } from './networks.ts'
import { Refusal } from './refusal.ts'

/** Something of ours broke. Carries the class of the error for the log, and no message. */
export class Fault extends Error {
  readonly fault: string

  constructor(fault: string) {
    super(fault)
    this.fault = fault
  }
}

export interface Pool {
  /** @returns false when all places are taken; otherwise `leave` must follow, once */
  enter(): boolean
  leave(): void
  /**
   * @param signal aborted when nobody waits for the answer any more
   * @throws Refusal, or Fault
   */
  analyze(bytes: Uint8Array, task: Task, signal: AbortSignal): Promise<Analysis>
  /** Runs every network on a picture of our own. @throws Refusal, or Fault */
  prove(): Promise<void>
  close(): Promise<void>
}

interface Job {
  order: Order
  finish(outcome: Report | Refusal | Fault): void
}

interface Thread {
  worker: Worker
  abandoned: Int32Array
  job: Job | null
}

/** A thread that broke is replaced, but not in a loop that burns a core. */
const RESTART_MS = 1_000
/** Longer than a step takes that nobody waits for any more. */
const CLOSE_MS = 10_000

/**
 * @param threads how many images are analyzed at once, each on one core
 * @param queue how many more may have a place: being sent, or waiting for a thread
 * @throws ConfigurationError when a network is not the one configured, or does not fit its role
 */
export async function startPool(models: Models, threads: number, queue: number, limits: Limits): Promise<Pool> {
  const bytes = await readNetworks(models)
  const idle: Thread[] = []
  const all = new Set<Thread>()
  const waiting: Job[] = []
  let places = threads + queue
  let isClosing = false

  for (let index = 0; index < threads; index++) await startThread()

  async function startThread(): Promise<void> {
    const abandoned = new Int32Array(new SharedArrayBuffer(4))
    const workerData: ThreadData = { models, bytes, limits, abandoned }
    const worker = new Worker(new URL('./analysis-thread.ts', import.meta.url), { workerData })
    const thread: Thread = { worker, abandoned, job: null }
    all.add(thread)
    await new Promise<void>((resolve, reject) => {
      worker.on('message', (report: Report) => {
        if (report.kind === 'unfit') {
          reject(new ConfigurationError(report.detail))
          void worker.terminate()
          return
        }
        if (report.kind === 'ready') resolve()
        else settle(thread, report)
        employ(thread)
      })
      // its message may hold anything; the class is enough
      worker.on('error', (error: Error) => settle(thread, new Fault(error.constructor.name)))
      worker.on('exit', () => {
        reject(new ConfigurationError('An analysis thread ended before it was ready.'))
        all.delete(thread)
        const at = idle.indexOf(thread)
        if (at >= 0) idle.splice(at, 1)
        settle(thread, new Fault('ThreadEnded'))
        if (!isClosing) setTimeout(() => void startThread().catch(() => {}), RESTART_MS).unref()
      })
    }).catch(async (error: unknown) => {
      isClosing ||= all.size <= 1 && idle.length === 0
      await worker.terminate()
      throw error
    })
  }

  function settle(thread: Thread, outcome: Report | Fault): void {
    const { job } = thread
    thread.job = null
    job?.finish(outcome)
  }

  function employ(thread: Thread): void {
    const job = waiting.shift()
    if (!job) {
      idle.push(thread)
      return
    }
    thread.job = job
    Atomics.store(thread.abandoned, 0, 0)
    thread.worker.postMessage(job.order)
  }

  /**
   * Drops what waits, and tells the thread that works on it to stop at its next step. It is not ended: inside the
   * inference engine that ends the whole process (onnxruntime-node 1.30). Each step is bounded: decoding by its time
   * limit, an inference by its network.
   */
  function abandon(job: Job): void {
    const at = waiting.indexOf(job)
    if (at >= 0) waiting.splice(at, 1)
    for (const thread of all) {
      if (thread.job === job) Atomics.store(thread.abandoned, 0, 1)
    }
  }

  async function carryOut(order: Order, signal: AbortSignal): Promise<Report> {
    const outcome = await new Promise<Report | Refusal | Fault>((resolve) => {
      const job: Job = { order, finish: resolve }
      const giveUp = () => {
        abandon(job)
        resolve(new Refusal('TIMEOUT'))
      }
      if (signal.aborted) return giveUp()
      signal.addEventListener('abort', giveUp, { once: true })
      waiting.push(job)
      const thread = idle.pop()
      if (thread) employ(thread)
    })
    if (outcome instanceof Error) throw outcome
    if (outcome.kind === 'refusal') throw new Refusal(outcome.code, outcome.detail)
    if (outcome.kind === 'fault') throw new Fault(outcome.fault)
    return outcome
  }

  return {
    enter() {
      if (places === 0 || isClosing) return false
      places--
      return true
    },
    leave() {
      places++
    },
    async analyze(image, task, signal) {
      const deadline = AbortSignal.any([signal, AbortSignal.timeout(limits.analysisMs)])
      const report = await carryOut({ bytes: image, task }, deadline)
      if (report.kind !== 'analysis') throw new Fault('UnexpectedReport')
      return report.analysis
    },
    async prove() {
      await carryOut({ bytes: null }, AbortSignal.timeout(limits.analysisMs))
    },
    async close() {
      isClosing = true
      // see abandon: only a thread that does nothing may be ended
      for (const from = Date.now(); idle.length < all.size && Date.now() - from < CLOSE_MS; ) await sleep(10)
      await Promise.all([...all].map(({ worker }) => worker.terminate()))
    },
  }
}

async function readNetworks({ detector, recognizer, liveness }: Models): Promise<NetworkBytes> {
  const read = async (role: string, network: Network) => toShared(await readNetwork(role, network))
  return {
    detector: await read('detector', detector.network),
    recognizer: await read('recognizer', recognizer.network),
    liveness: await Promise.all((liveness?.networks ?? []).map((network) => read('liveness', network))),
  }
}

function toShared(bytes: Uint8Array): Uint8Array {
  const shared = new Uint8Array(new SharedArrayBuffer(bytes.length))
  shared.set(bytes)
  return shared
}
