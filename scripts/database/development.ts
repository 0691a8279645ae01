// What development and tests share. Nothing here is good for a database that others can reach.
import { type MasterKeys, parseMasterKeys, toMasterKeys } from '../../src/face/protection/master-keys.ts'
import type { LoginRole } from './bootstrap.ts'

export const DEVELOPMENT_PASSWORDS: Record<LoginRole, string> = {
  rekko_app: 'rekko_app',
  rekko_operator: 'rekko_operator',
  rekko_jobs: 'rekko_jobs',
}

/** The Worker takes it in development only: a master key of such a number protects nothing. */
export const DEVELOPMENT_MASTER_KEYS = `65535:${Buffer.from('known to everybody: development!').toString('base64')}`

export function readDevelopmentMasterKeys(): Promise<MasterKeys> {
  const secrets = parseMasterKeys(DEVELOPMENT_MASTER_KEYS)
  if ('fault' in secrets) throw new RangeError(secrets.fault)
  return toMasterKeys(secrets)
}
