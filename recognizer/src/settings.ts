// What the environment says, checked once at the start.
import { availableParallelism } from 'node:os'
import { ConfigurationError } from './models.ts'

export const MIN_SECRET_LENGTH = 32

export interface Settings {
  host: string
  port: number
  modelsPath: string
  secret: string
  environment: string
  threads: number
  queue: number
}

const ENVIRONMENTS = ['dev', 'staging', 'production']

/** @throws ConfigurationError naming the variable and what it must be */
export function toSettings(env: NodeJS.ProcessEnv): Settings {
  const secret = env['RECOGNIZER_SECRET'] ?? ''
  if (secret.length < MIN_SECRET_LENGTH) {
    throw new ConfigurationError(
      `RECOGNIZER_SECRET must have ${MIN_SECRET_LENGTH} characters or more, the same here and in the Worker.`,
    )
  }
  if (/[^\x21-\x7e]/.test(secret)) {
    throw new ConfigurationError('RECOGNIZER_SECRET must be of visible ASCII characters: it travels in a header.')
  }
  const modelsPath = env['MODELS']
  if (!modelsPath) throw new ConfigurationError('MODELS must be the path of a models.json: docs/models.md has one.')
  // what nobody named is production: a model for research does not start by accident
  const environment = env['ENVIRONMENT'] || 'production'
  if (!ENVIRONMENTS.includes(environment)) {
    throw new ConfigurationError(`ENVIRONMENT must be one of ${ENVIRONMENTS.join(', ')}.`)
  }
  return {
    host: env['HOST'] || '127.0.0.1',
    port: toNumber(env, 'PORT', 8790, 0, 65_535),
    modelsPath,
    secret,
    environment,
    threads: toNumber(env, 'THREADS', availableParallelism(), 1, 64),
    queue: toNumber(env, 'QUEUE', 16, 0, 1000),
  }
}

function toNumber(env: NodeJS.ProcessEnv, name: string, usual: number, least: number, most: number): number {
  const text = env[name]
  if (!text) return usual
  const value = Number(text)
  if (!/^\d+$/.test(text) || value < least || value > most) {
    throw new ConfigurationError(`${name} must be a whole number from ${least} to ${most}.`)
  }
  return value
}
