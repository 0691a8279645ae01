// The recognizers of this deployment, read once per isolate from its configuration.
import type { Env } from './env.ts'
import { BUILT_IN_MODELS, type Models, parseModels } from './face/models.ts'
import { Problem } from './problem.ts'

let read: { text: string | undefined; models: Models | { fault: string } } | undefined

/** @throws Problem NOT_CONFIGURED when FACE_MODELS is not written right: nothing is decided by guessed thresholds */
export function modelsOf({ FACE_MODELS: text }: Env): Models {
  if (!read || read.text !== text) read = { text, models: text ? parseModels(text) : BUILT_IN_MODELS }
  const { models } = read
  if ('fault' in models)
    throw new Problem('NOT_CONFIGURED', `The operator must correct FACE_MODELS: it ${models.fault}.`)
  return models
}
