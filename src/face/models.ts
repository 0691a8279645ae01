// Which recognizers there are: the built-in one, and those that an operator configured and measured. No I/O.
import { ARCFACE_512, type Model } from './similarity.ts'

/** At least one; a tenant that names none has the first. */
export type Models = readonly [usual: Model, ...others: Model[]]

export const BUILT_IN_MODELS: Models = [ARCFACE_512]

/** Two embeddings of unrelated faces have a confidence of 0.5: a threshold near it would let everybody in. */
export const LEAST_FLOOR = 0.6
const MAX_MODELS = 20
const ID = /^[a-z0-9][a-z0-9._@-]{0,99}$/

/**
 * Reads what stands in FACE_MODELS: a list of `{id, floor, verification, identification}`, as docs/thresholds.md finds
 * them. The first becomes the usual model.
 *
 * @returns the configured models, then the built-in one unless one of them has its id; or what is wrong with the text
 */
export function parseModels(text: string): Models | { fault: string } {
  let list: unknown
  try {
    list = JSON.parse(text)
  } catch {
    return { fault: 'is not JSON' }
  }
  if (!Array.isArray(list) || list.length > MAX_MODELS)
    return { fault: `must be a list of at most ${MAX_MODELS} models` }
  const models: Model[] = []
  for (const [index, entry] of list.entries()) {
    const model = toModel(entry)
    if (typeof model === 'string') return { fault: `is wrong in model ${index + 1}: ${model}` }
    if (models.some(({ id }) => id === model.id)) return { fault: `names ${model.id} twice` }
    models.push(model)
  }
  const [usual = ARCFACE_512, ...others] = [
    ...models,
    ...BUILT_IN_MODELS.filter(({ id }) => !models.some((model) => model.id === id)),
  ]
  return [usual, ...others]
}

function toModel(entry: unknown): Model | string {
  if (typeof entry !== 'object' || entry === null) return 'it is no object'
  const { id, floor, verification, identification, ...rest } = entry as Record<string, unknown>
  if (Object.keys(rest).length > 0) return 'it has a field that is not one of id, floor, verification, identification'
  if (typeof id !== 'string' || !ID.test(id)) return 'its id is not one, like arcface-512@1'
  if (typeof floor !== 'number' || typeof verification !== 'number' || typeof identification !== 'number') {
    return 'its thresholds must be numbers'
  }
  // written so that NaN fails it
  if (!(LEAST_FLOOR <= floor && floor <= verification && verification <= identification && identification < 1)) {
    return `its thresholds must rise from ${LEAST_FLOOR} to below 1: floor, verification, identification`
  }
  return { id, floor, verification, identification }
}
