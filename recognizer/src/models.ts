// models.json: which networks run, how they want their pixels, and what they may be used for.
import { createHash } from 'node:crypto'
import { readFile } from 'node:fs/promises'
import { dirname, resolve } from 'node:path'
import type { PixelFormat } from './face/picture.ts'

/** Told at the start, in one line, with what to do about it. */
export class ConfigurationError extends Error {}

export type AllowedUse = 'commercial' | 'research-only' | 'evaluation'

export interface Network {
  /** Absolute; never in an answer or a log. */
  path: string
  sha256: string
}

interface Model {
  id: string
  version: string
  license: string
  allowedUse: AllowedUse
  pixels: PixelFormat
}

export interface Detector extends Model {
  network: Network
  /** Sides of the square input, the small one first. A network of one fixed size has one. */
  sizes: readonly [number] | readonly [number, number]
  thresholds: { score: number; nms: number }
}

export interface Recognizer extends Model {
  network: Network
  /** Confidences, (1 + cosine) / 2. They are told to whoever asks `/ready`; the decision is the caller's. */
  thresholds: { floor: number; verification: number; identification: number }
}

export interface LivenessModel extends Model {
  size: number
  /** Each judges a crop of its own; the score is their mean. */
  networks: (Network & { cropScale: number })[]
  thresholds: { live: number }
}

export interface Models {
  detector: Detector
  recognizer: Recognizer
  liveness: LivenessModel | null
}

/**
 * @param path of models.json; paths in it are relative to its folder
 * @param environment `dev` alone may use models that are not licensed for commerce
 * @throws ConfigurationError naming the field
 */
export async function readModels(path: string, environment: string): Promise<Models> {
  const text = await readFile(path, 'utf8').catch(() => {
    throw new ConfigurationError(`MODELS: ${path} cannot be read. docs/models.md says how to write one.`)
  })
  let json: unknown
  try {
    json = JSON.parse(text)
  } catch {
    throw new ConfigurationError(`MODELS: ${path} is not JSON.`)
  }
  const models = toModels(new Fields(json, ''), dirname(path))
  for (const [role, model] of Object.entries(models)) {
    if (model && model.allowedUse !== 'commercial' && environment !== 'dev') {
      throw new ConfigurationError(
        `${role} "${model.id}" is for ${model.allowedUse} and starts with ENVIRONMENT=dev only. ` +
          'Configure a model that is licensed for commercial use: docs/models.md.',
      )
    }
  }
  return models
}

/** How an answer names a model. */
export function toName({ id, version }: { id: string; version: string }): string {
  return `${id}@${version}`
}

/**
 * Reads a network and proves that it is the one configured. What is returned is what was hashed: the file may
 * change afterwards and nothing happens.
 *
 * @throws ConfigurationError
 */
export async function readNetwork(role: string, { path, sha256 }: Network): Promise<Uint8Array> {
  const bytes = await readFile(path).catch(() => {
    throw new ConfigurationError(`${role}: ${path} cannot be read.`)
  })
  const found = createHash('sha256').update(bytes).digest('hex')
  if (found !== sha256) {
    throw new ConfigurationError(`${role}: ${path} has the SHA-256 ${found}, and models.json says ${sha256}.`)
  }
  return bytes
}

function toModels(fields: Fields, folder: string): Models {
  const models: Models = {
    detector: toDetector(fields.object('detector'), folder),
    recognizer: toRecognizer(fields.object('recognizer'), folder),
    liveness: fields.has('liveness') ? toLiveness(fields.object('liveness'), folder) : null,
  }
  fields.end()
  return models
}

function toDetector(fields: Fields, folder: string): Detector {
  const input = fields.object('input')
  const sizes = input.numbers('sizes', 32, 1280)
  const [size, larger] = sizes
  if (size === undefined || sizes.length > 2 || sizes.some((each) => each % 32 !== 0) || (larger ?? 1281) <= size) {
    throw input.fault('sizes', 'must be one or two multiples of 32, the smaller first')
  }
  const thresholds = fields.object('thresholds')
  const detector: Detector = {
    ...toModel(fields, input),
    network: toNetwork(fields, folder),
    sizes: larger === undefined ? [size] : [size, larger],
    thresholds: { score: thresholds.number('score', 0.05, 1), nms: thresholds.number('nms', 0, 1) },
  }
  for (const each of [input, thresholds, fields]) each.end()
  return detector
}

function toRecognizer(fields: Fields, folder: string): Recognizer {
  const input = fields.object('input')
  const thresholds = fields.object('thresholds')
  const recognizer: Recognizer = {
    ...toModel(fields, input),
    network: toNetwork(fields, folder),
    thresholds: {
      floor: thresholds.number('floor', 0.5, 1),
      verification: thresholds.number('verification', 0.5, 1),
      identification: thresholds.number('identification', 0.5, 1),
    },
  }
  const { floor, verification, identification } = recognizer.thresholds
  if (!(floor <= verification && verification <= identification)) {
    throw fields.fault('thresholds', 'must rise: floor, verification, identification')
  }
  for (const each of [input, thresholds, fields]) each.end()
  return recognizer
}

function toLiveness(fields: Fields, folder: string): LivenessModel {
  const input = fields.object('input')
  const thresholds = fields.object('thresholds')
  const liveness: LivenessModel = {
    ...toModel(fields, input),
    size: input.number('size', 32, 512),
    networks: fields.objects('networks', 4).map((network) => {
      const checked = { ...toNetwork(network, folder), cropScale: network.number('crop_scale', 1, 8) }
      network.end()
      return checked
    }),
    thresholds: { live: thresholds.number('live', 0, 1) },
  }
  if (!Number.isInteger(liveness.size)) throw input.fault('size', 'must be a whole number')
  for (const each of [input, thresholds, fields]) each.end()
  return liveness
}

function toModel(fields: Fields, input: Fields): Model {
  return {
    // short, and fit for a log and for the database's column of model names
    id: fields.text('id', /^[a-z0-9][a-z0-9._-]{0,39}$/),
    version: fields.text('version', /^[a-z0-9][a-z0-9._-]{0,19}$/),
    license: fields.text('license', /^\S[^\n]{0,99}$/),
    allowedUse: fields.oneOf('allowed_use', ['commercial', 'research-only', 'evaluation']),
    pixels: {
      channels: input.oneOf('channels', ['RGB', 'BGR']),
      mean: input.number('mean', -1000, 1000),
      std: input.number('std', 1e-6, 1000),
    },
  }
}

function toNetwork(fields: Fields, folder: string): Network {
  return {
    path: resolve(folder, fields.text('path', /^[^\0]{1,4096}$/)),
    sha256: fields.text('sha256', /^[0-9a-f]{64}$/),
  }
}

/** Reads an object field by field, and knows which it was not asked for. */
class Fields {
  readonly #values: Map<string, unknown>
  readonly #place: string

  constructor(json: unknown, place: string) {
    if (typeof json !== 'object' || json === null || Array.isArray(json)) {
      throw new ConfigurationError(`models.json: ${place || 'the file'} must be an object.`)
    }
    this.#values = new Map(Object.entries(json))
    this.#place = place
  }

  fault(name: string, what: string): ConfigurationError {
    return new ConfigurationError(`models.json: ${this.#at(name)} ${what}.`)
  }

  has(name: string): boolean {
    const value = this.#values.get(name)
    if (value === null) this.#values.delete(name)
    return value !== undefined && value !== null
  }

  object(name: string): Fields {
    return new Fields(this.#take(name), this.#at(name))
  }

  objects(name: string, most: number): Fields[] {
    const value = this.#take(name)
    if (!Array.isArray(value) || value.length === 0 || value.length > most) {
      throw this.fault(name, `must be a list of 1 to ${most}`)
    }
    return value.map((each, index) => new Fields(each, `${this.#at(name)}[${index}]`))
  }

  text(name: string, pattern: RegExp): string {
    const value = this.#take(name)
    if (typeof value !== 'string' || !pattern.test(value)) throw this.fault(name, `must be text like ${pattern}`)
    return value
  }

  oneOf<const T extends string>(name: string, values: readonly T[]): T {
    const value = this.#take(name)
    const found = values.find((each) => each === value)
    if (found === undefined) throw this.fault(name, `must be one of ${values.join(', ')}`)
    return found
  }

  number(name: string, least: number, most: number): number {
    return this.#toNumber(name, this.#take(name), least, most)
  }

  numbers(name: string, least: number, most: number): number[] {
    const value = this.#take(name)
    if (!Array.isArray(value)) throw this.fault(name, 'must be a list of numbers')
    return value.map((each) => this.#toNumber(name, each, least, most))
  }

  /** A misspelled field would otherwise be a default that nobody chose. */
  end(): void {
    for (const name of this.#values.keys()) throw this.fault(name, 'is not a field')
  }

  #take(name: string): unknown {
    const value = this.#values.get(name)
    this.#values.delete(name)
    return value
  }

  #toNumber(name: string, value: unknown, least: number, most: number): number {
    // written so that NaN fails it
    if (typeof value !== 'number' || !(value >= least && value <= most)) {
      throw this.fault(name, `must be a number from ${least} to ${most}`)
    }
    return value
  }

  #at(name: string): string {
    return this.#place ? `${this.#place}.${name}` : name
  }
}
