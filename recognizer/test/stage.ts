// What the tests stand on: a folder with tiny networks and their models.json, and the service started on it.
import { createHash } from 'node:crypto'
import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { LIMITS, type Limits } from '../src/limits.ts'
import { readModels } from '../src/models.ts'
import { startRecognizer } from '../src/server.ts'
import { makeDetector, makeLiveness, makeRecognizer, type StagedFace } from './onnx.ts'

export const SECRET = 'a secret of the tests, 32 or more'.replaceAll(' ', '-')
export const ONE_FACE: StagedFace[] = [{ x: 100, y: 80, width: 100, height: 120, score: 0.95 }]

export interface Staging {
  faces?: StagedFace[]
  slowness?: number
  liveness?: boolean
  detector?: Uint8Array
  recognizer?: Uint8Array
}

/** The JSON of models.json, for tests to spoil. */
export type ModelsJson = Record<string, Record<string, unknown>>

export async function stageModels(staging: Staging = {}) {
  const folder = await mkdtemp(join(tmpdir(), 'rekko-recognizer-'))
  const detector = staging.detector ?? makeDetector(staging.faces ?? ONE_FACE)
  const recognizer = staging.recognizer ?? makeRecognizer(staging.slowness)
  const liveness = makeLiveness()
  await writeFile(join(folder, 'detector.onnx'), detector)
  await writeFile(join(folder, 'recognizer.onnx'), recognizer)
  await writeFile(join(folder, 'liveness.onnx'), liveness)
  const common = { version: '1', license: 'MIT', allowed_use: 'commercial' }
  const json: ModelsJson = {
    detector: {
      ...common,
      id: 'staged-detector',
      path: 'detector.onnx',
      sha256: sha256(detector),
      input: { sizes: [320], channels: 'BGR', mean: 0, std: 1 },
      thresholds: { score: 0.84, nms: 0.3 },
    },
    recognizer: {
      ...common,
      id: 'staged-recognizer',
      path: 'recognizer.onnx',
      sha256: sha256(recognizer),
      input: { channels: 'RGB', mean: 127.5, std: 127.5 },
      thresholds: { floor: 0.65, verification: 0.675, identification: 0.69 },
    },
    ...(staging.liveness && {
      liveness: {
        ...common,
        id: 'staged-liveness',
        networks: [
          { path: 'liveness.onnx', sha256: sha256(liveness), crop_scale: 2.7 },
          { path: 'liveness.onnx', sha256: sha256(liveness), crop_scale: 4 },
        ],
        input: { size: 80, channels: 'BGR', mean: 0, std: 255 },
        thresholds: { live: 0.45 },
      },
    }),
  }
  const path = join(folder, 'models.json')
  const write = (changed: unknown) => writeFile(path, JSON.stringify(changed))
  await write(json)
  return { folder, path, json, write, remove: () => rm(folder, { recursive: true }) }
}

export interface Service {
  url: string
  lines: string[]
  analyze(body: Uint8Array | string, query?: string, headers?: Record<string, string>): Promise<Response>
  stop(): Promise<void>
}

const running = new Set<Service>()

export async function stopServices(): Promise<void> {
  for (const service of running) await service.stop()
}

export async function startService(
  staging: Staging = {},
  options: { threads?: number; queue?: number; limits?: Partial<Limits> } = {},
): Promise<Service> {
  const models = await stageModels(staging)
  const lines: string[] = []
  const recognizer = await startRecognizer(await readModels(models.path, 'production'), {
    host: '127.0.0.1',
    port: 0,
    secret: SECRET,
    threads: options.threads ?? 1,
    queue: options.queue ?? 8,
    limits: { ...LIMITS, ...options.limits },
    log: (line) => lines.push(line),
  })
  const service: Service = {
    url: recognizer.url,
    lines,
    analyze: (body, query = '', headers = {}) =>
      fetch(`${recognizer.url}/analyze${query}`, {
        method: 'POST',
        body,
        headers: { Authorization: `Bearer ${SECRET}`, ...headers },
      }),
    async stop() {
      running.delete(service)
      await recognizer.close()
      await models.remove()
    },
  }
  running.add(service)
  return service
}

/** @returns the answer's status and code */
export async function codeOf(response: Response | Promise<Response>): Promise<[number, string]> {
  const answered = await response
  const body: unknown = await answered.json()
  const code = typeof body === 'object' && body !== null && 'code' in body ? String(body.code) : ''
  return [answered.status, code]
}

export function toEmbedding(base64: string): Float32Array {
  const bytes = Buffer.from(base64, 'base64')
  return Float32Array.from({ length: bytes.length / 4 }, (_, index) => bytes.readFloatLE(index * 4))
}

export function cosine(one: Float32Array, other: Float32Array): number {
  return one.reduce((sum, component, index) => sum + component * (other[index] ?? 0), 0)
}

function sha256(bytes: Uint8Array): string {
  return createHash('sha256').update(bytes).digest('hex')
}
