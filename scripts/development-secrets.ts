// The secrets of development, .rekko/dev.json: made once by whoever needs them first, `make dev` or
// scripts/db.sh, and kept, so that a key works tomorrow. Never for a database that others can reach.
import { randomBytes } from 'node:crypto'
import { mkdir, readFile, writeFile } from 'node:fs/promises'
import { dirname } from 'node:path'

export const SECRETS_FILE = '.rekko/dev.json'

export interface DevelopmentSecrets {
  /** Under which API keys are hashed. */
  pepper: string
  /** The development key of each database that `make dev` was started on. */
  apiKeys: Record<string, string>
}

export function makeSecrets(): DevelopmentSecrets {
  return { pepper: randomBytes(32).toString('base64'), apiKeys: {} }
}

/**
 * @returns null when there is no file yet
 * @throws Error with what to do, when the file is not one of these
 */
export async function findSecrets(): Promise<DevelopmentSecrets | null> {
  const text = await readFile(SECRETS_FILE, 'utf8').catch(() => null)
  if (text === null) return null
  try {
    const secrets: unknown = JSON.parse(text)
    if (isSecrets(secrets)) return secrets
  } catch {
    // the same as a file with something else in it
  }
  throw new Error(`${SECRETS_FILE} holds no development secrets. Delete it: make dev-reset`)
}

export async function keepSecrets(secrets: DevelopmentSecrets): Promise<void> {
  await mkdir(dirname(SECRETS_FILE), { recursive: true })
  await writeFile(SECRETS_FILE, JSON.stringify(secrets), { mode: 0o600 })
}

function isSecrets(value: unknown): value is DevelopmentSecrets {
  return (
    typeof value === 'object' &&
    value !== null &&
    'pepper' in value &&
    typeof value.pepper === 'string' &&
    'apiKeys' in value &&
    typeof value.apiKeys === 'object' &&
    value.apiKeys !== null
  )
}
