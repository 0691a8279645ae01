// The recognizers of the deployment that a database belongs to, as an administrator says them.
import { BUILT_IN_MODELS, type Models, parseModels } from '../../src/face/models.ts'
import { CommandError, EXIT } from './terminal.ts'

/**
 * From FACE_MODELS, as the Worker has it; the built-in one when it is not set.
 *
 * @throws CommandError when it is not written right
 */
export function findModels(): Models {
  const { FACE_MODELS: text } = process.env
  if (!text) return BUILT_IN_MODELS
  const models = parseModels(text)
  if ('fault' in models) throw new CommandError(`FACE_MODELS ${models.fault}.`, EXIT.usage)
  return models
}
