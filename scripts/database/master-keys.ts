// The master keys that administrators work with: those of the Worker that serves the database.
import {
  isDevelopmentKey,
  type MasterKeys,
  parseMasterKeys,
  toMasterKeys,
} from '../../src/face/protection/master-keys.ts'
import { DEVELOPMENT_MASTER_KEYS } from './development.ts'
import type { Target } from './target.ts'
import { CommandError, EXIT, type Terminal } from './terminal.ts'

/**
 * From TEMPLATE_MASTER_KEYS; on this machine those of development, when they are not given.
 *
 * @returns null for a database of another machine when they are not given
 * @throws CommandError when they are not written right, or are those of development and not for this machine
 */
export async function findMasterKeys(target: Target): Promise<MasterKeys | null> {
  const isLocal = target.kind === 'embedded' || target.isLocal
  const text = process.env['TEMPLATE_MASTER_KEYS'] || (isAssumed(target) ? DEVELOPMENT_MASTER_KEYS : undefined)
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

/** Whether the master keys are those of development because nobody gave others. */
export function isAssumed(target: Target): boolean {
  return !process.env['TEMPLATE_MASTER_KEYS'] && (target.kind === 'embedded' || target.isLocal)
}

export const GIVE_MASTER_KEYS =
  'set TEMPLATE_MASTER_KEYS to the secret of the Worker that serves this database. ' +
  'If this is a database of development, give the key of development: docs/keys.md, "Set up"'

/**
 * Before keys of tenants are written. A tunnel makes any database one of this machine, so what everybody knows wraps no
 * key of a live tenant unless it was asked for.
 *
 * @throws CommandError when one of them is live, and the master key would be that of development unasked
 */
export function requireGiven(
  target: Target,
  terminal: Terminal,
  tenants: readonly { id: string; environment: string }[],
): void {
  if (!isAssumed(target) || tenants.length === 0) return
  const live = tenants.find(({ environment }) => environment === 'live')
  if (live) {
    throw new CommandError(
      `The tenant ${live.id} is live, and no master key was given: ${GIVE_MASTER_KEYS}. Nothing was changed.`,
      EXIT.refused,
    )
  }
  terminal.warn('TEMPLATE_MASTER_KEYS is not set: the master key of development is used, which everybody knows')
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
