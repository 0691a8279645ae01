// The master keys that administrators work with: those of the Worker that serves the database.
import {
  isDevelopmentKey,
  type MasterKeys,
  parseMasterKeys,
  toMasterKeys,
} from '../../src/face/protection/master-keys.ts'
import { DEVELOPMENT_MASTER_KEYS } from './development.ts'
import type { Target } from './target.ts'
import { CommandError, EXIT } from './terminal.ts'

/**
 * From TEMPLATE_MASTER_KEYS; on this machine those of development, when they are not given.
 *
 * @returns null for a database of another machine when they are not given
 * @throws CommandError when they are not written right, or are those of development and not for this machine
 */
export async function findMasterKeys(target: Target): Promise<MasterKeys | null> {
  const isLocal = target.kind === 'embedded' || target.isLocal
  const text = process.env['TEMPLATE_MASTER_KEYS'] || (isLocal ? DEVELOPMENT_MASTER_KEYS : undefined)
  if (text === undefined) return null
  const secrets = parseMasterKeys(text)
  if ('fault' in secrets) throw new CommandError(`TEMPLATE_MASTER_KEYS ${secrets.fault}.`, EXIT.usage)
  if (!isLocal && [...secrets.keys()].some(isDevelopmentKey)) {
    throw new CommandError(
      'TEMPLATE_MASTER_KEYS has the key of development, which everybody knows: it is for this machine only.',
      EXIT.usage,
    )
  }
  return toMasterKeys(secrets)
}

/** @throws CommandError when there are none */
export async function requireMasterKeys(target: Target): Promise<MasterKeys> {
  const keys = await findMasterKeys(target)
  if (keys) return keys
  throw new CommandError(
    'Set TEMPLATE_MASTER_KEYS to the secret of the Worker that serves this database: without it no face can be read or written.',
    EXIT.usage,
  )
}
