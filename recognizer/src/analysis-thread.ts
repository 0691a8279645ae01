// One analysis thread: the networks of its own, one image at a time. Started by pool.ts.
import { parentPort, workerData } from 'node:worker_threads'
import { type Analysis, type Analyst, analyze, type Task } from './analysis.ts'
import type { Limits } from './limits.ts'
import { ConfigurationError, type Models } from './models.ts'
import { type NetworkBytes, openNetworks, proveNetworks } from './networks.ts'
import { Refusal, type RefusalCode } from './refusal.ts'

export interface ThreadData {
  models: Models
  /** Views of shared memory: each thread loads the bytes that were hashed, and no copy waits in any of them. */
  bytes: NetworkBytes
  limits: Limits
  /** Its one number is 1 while nobody waits for the present answer any more. */
  abandoned: Int32Array
}

/** Analyze an image; or, without one, prove with a picture of our own that all networks answer. */
export type Order = { bytes: Uint8Array; task: Task } | { bytes: null }

export type Report =
  | { kind: 'ready' }
  | { kind: 'unfit'; detail: string }
  | { kind: 'analysis'; analysis: Analysis }
  | { kind: 'proven' }
  | { kind: 'refusal'; code: RefusalCode; detail: string }
  /** Ours; the class of the error, never its message. */
  | { kind: 'fault'; fault: string }

/** A PNG of 8 by 8 gray pixels: decoded, it proves that the decoder works. */
const TEST_IMAGE = Buffer.from(
  'iVBORw0KGgoAAAANSUhEUgAAAAgAAAAICAIAAABLbSncAAAACXBIWXMAAAPoAAAD6AG1e1JrAAAAD0lEQVQImWNowAEYhpYEAILzYAEeEbvlAAAAAElFTkSuQmCC',
  'base64',
)

// pool.ts is the only one who starts this file, with this
const { models, bytes, limits, abandoned } = workerData as ThreadData
const port = parentPort
if (!port) throw new Error('this file is started by pool.ts')

try {
  const analyst: Analyst = { models, networks: await openNetworks(models, bytes), limits }
  port.on('message', (order: Order) => {
    carryOut(analyst, order).then(
      (report) => port.postMessage(report),
      (error: unknown) => port.postMessage(toReport(error)),
    )
  })
  port.postMessage({ kind: 'ready' } satisfies Report)
} catch (error) {
  const detail = error instanceof ConfigurationError ? error.message : 'The networks could not be loaded.'
  port.postMessage({ kind: 'unfit', detail } satisfies Report)
}

async function carryOut(analyst: Analyst, order: Order): Promise<Report> {
  if (order.bytes) return { kind: 'analysis', analysis: await analyze(analyst, order.bytes, order.task, checkpoint) }
  await prove(analyst)
  return { kind: 'proven' }
}

/** There is no face in a picture that we may ship, so the networks after the detector are run on what it saw. */
async function prove({ networks, models }: Analyst): Promise<void> {
  await analyze(
    { networks, models, limits },
    TEST_IMAGE,
    { faces: 'all', embedding: false, liveness: false },
    checkpoint,
  )
  await proveNetworks(networks, models)
}

function checkpoint(): void {
  if (Atomics.load(abandoned, 0) === 1) throw new Refusal('TIMEOUT')
}

function toReport(error: unknown): Report {
  if (error instanceof Refusal) return { kind: 'refusal', code: error.code, detail: error.detail }
  return { kind: 'fault', fault: error instanceof Error ? error.constructor.name : typeof error }
}
