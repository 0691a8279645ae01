// A tenant's template keys on their way from the vault to a request: unwrapped with the master keys, which only the
// Worker has, and kept by the isolate for a minute.
import type { Env } from '../env.ts'
import { FIRST_VERSION, UnwrapError, unwrapDataSecret, wrapNewDataSecret } from '../face/protection/data-secret.ts'
import { buildKeyring, type Keyring } from '../face/protection/keyring.ts'
import { isDevelopmentKey, type MasterKeys, parseMasterKeys, toMasterKeys } from '../face/protection/master-keys.ts'
import { fromBase64, toBase64 } from '../face/protection/octets.ts'
import { Problem } from '../problem.ts'
import type { Row, Sql, Statement } from './neon.ts'
import type { Tenant } from './tenant.ts'

/** The live keys of a tenant: faces are written under the first; while it is re-keyed, some are under the second. */
export type TemplateKeys = readonly [active: Keyring, ...retiring: Keyring[]]

/** 527 kB each: 17 MB of an isolate's 128. */
const MAX_KEYRINGS = 32
/** How long a key stays that was destroyed meanwhile; the transaction refuses to be used with it from the first moment. */
const TTL_MS = 60_000

const cache = new Map<string, { keys: TemplateKeys; expiresAt: number }>()

/** A keyring has the rotation of one model. */
function nameOf({ id, settings }: Tenant): string {
  return `${id} ${settings.model.id}`
}

/** What this isolate remembers of a tenant's keys. */
export function recallTemplateKeys(tenant: Tenant): TemplateKeys | undefined {
  const now = Date.now()
  // all of them, so that a key does not stay because nobody asks for it any more
  for (const [name, { expiresAt }] of cache) if (expiresAt <= now) cache.delete(name)
  const name = nameOf(tenant)
  const entry = cache.get(name)
  if (!entry) return undefined
  // a Map keeps the order of insertion: the first entry is the one that nobody has used for the longest time
  cache.delete(name)
  cache.set(name, entry)
  return entry.keys
}

export function forgetTemplateKeys(tenant: Tenant): void {
  cache.delete(nameOf(tenant))
}

/** How many keys this isolate remembers. */
export function countTemplateKeys(): number {
  let keyrings = 0
  for (const { keys } of cache.values()) keyrings += keys.length
  return keyrings
}

/** What is asked of the vault, in a transaction that has entered the tenant; `unwrapTemplateKeys` takes the answer. */
export function listTemplateKeys(sql: Sql): Statement {
  return sql`select version, encode(wrapped, 'base64') as wrapped from list_template_keys()`
}

/**
 * Unwraps a tenant's keys, and remembers them.
 *
 * @param rows what `listTemplateKeys` answered
 * @throws Problem NOT_CONFIGURED without master keys, without a key of the tenant, or when they do not fit each other
 */
export async function unwrapTemplateKeys(env: Env, tenant: Tenant, rows: Row[]): Promise<TemplateKeys> {
  // another request of this isolate may have asked too, and had its answer first
  const known = cache.get(nameOf(tenant))
  if (known && known.keys[0].version === Number(rows[0]?.['version'])) return known.keys
  const masters = await masterKeys(env)
  const keyrings: Keyring[] = []
  for (const row of rows) {
    const owner = { tenantId: tenant.id, version: Number(row['version']) }
    const secret = await unwrapDataSecret(masters, owner, fromBase64(String(row['wrapped']))).catch(toProblem)
    keyrings.push(await buildKeyring(owner, secret, [tenant.settings.model.id]))
  }
  const [active, ...retiring] = keyrings
  if (!active) {
    throw new Problem('NOT_CONFIGURED', 'The operator must give the tenant a template key.')
  }
  const keys: TemplateKeys = [active, ...retiring]
  while (countTemplateKeys() + keys.length > MAX_KEYRINGS) {
    const oldest = cache.keys().next().value
    if (oldest === undefined) break
    cache.delete(oldest)
  }
  cache.set(nameOf(tenant), { keys, expiresAt: Date.now() + TTL_MS })
  return keys
}

function toProblem(error: unknown): never {
  if (!(error instanceof UnwrapError)) throw error
  throw new Problem('NOT_CONFIGURED', 'The master keys of the service do not open the template key of the tenant.')
}

/** A new tenant's first key, wrapped: 63 bytes, base64. */
export async function wrapNewTemplateKey(env: Env, tenantId: string): Promise<string> {
  return toBase64(await wrapNewDataSecret(await masterKeys(env), { tenantId, version: FIRST_VERSION }))
}

let imported: { text: string | undefined; environment: string | undefined; keys: Promise<MasterKeys> } | undefined

/**
 * The master keys, imported once per isolate.
 *
 * @throws Problem NOT_CONFIGURED when there are none, or one that this environment must not have
 */
export function masterKeys(env: Env): Promise<MasterKeys> {
  const { TEMPLATE_MASTER_KEYS: text, ENVIRONMENT: environment } = env
  if (!imported || imported.text !== text || imported.environment !== environment) {
    imported = { text, environment, keys: importMasterKeys(text, environment) }
  }
  return imported.keys
}

async function importMasterKeys(text: string | undefined, environment: string | undefined): Promise<MasterKeys> {
  if (!text) throw new Problem('NOT_CONFIGURED', 'The operator must set the secret TEMPLATE_MASTER_KEYS.')
  const secrets = parseMasterKeys(text)
  if ('fault' in secrets) {
    throw new Problem(
      'NOT_CONFIGURED',
      `The operator must correct the secret TEMPLATE_MASTER_KEYS: it ${secrets.fault}.`,
    )
  }
  if (environment !== 'dev' && [...secrets.keys()].some(isDevelopmentKey)) {
    throw new Problem('NOT_CONFIGURED', 'The operator must take the development key out of TEMPLATE_MASTER_KEYS.')
  }
  try {
    return await toMasterKeys(secrets)
  } finally {
    for (const secret of secrets.values()) secret.fill(0)
  }
}
