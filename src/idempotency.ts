// Which request this is: by the client's Idempotency-Key, or by a number of our own. Whatever comes again under the same
// name is answered with what the first one did.
import type { Context } from 'hono'
import { hashApiKey } from './auth/api-key.ts'
import type { AppContext } from './env.ts'
import { Problem } from './problem.ts'

export const IDEMPOTENCY_KEY = 'Idempotency-Key'
export const MAX_IDEMPOTENCY_KEY_LENGTH = 255
/** Printable characters of ASCII. */
export const IDEMPOTENCY_KEY_PATTERN = /^[\x20-\x7e]+$/

/** Hexadecimal digits. */
export interface RequestName {
  /** HMAC-SHA-256 of the client's key and the tenant, 64 digits; a random number of our own, 32. */
  key: string
  /** HMAC-SHA-256 of what is asked; null with a number of our own, under which nothing else is asked. */
  fingerprint: string | null
}

/**
 * @returns null when the client has named nothing
 * @throws Problem INVALID_REQUEST
 */
export function findIdempotencyKey(c: Context<AppContext>): string | null {
  const key = c.req.header(IDEMPOTENCY_KEY)
  if (key === undefined) return null
  if (key.length <= MAX_IDEMPOTENCY_KEY_LENGTH && IDEMPOTENCY_KEY_PATTERN.test(key)) return key
  throw new Problem('INVALID_REQUEST', 'Correct the fields named in errors.', {
    errors: [
      {
        parameter: IDEMPOTENCY_KEY,
        detail: `Must be 1 to ${MAX_IDEMPOTENCY_KEY_LENGTH} printable characters of ASCII.`,
      },
    ],
  })
}

/** Of a client that has named nothing: for the Worker's own repetition. */
export function nameUnkeyedRequest(): RequestName {
  return { key: crypto.randomUUID().replaceAll('-', ''), fingerprint: null }
}

/**
 * Of a client's key. Both are hashed under the pepper: a key and an address may say who somebody is, and outlive their
 * erasure by a day.
 *
 * @param c whose body was read
 */
export async function nameKeyedRequest(
  c: Context<AppContext>,
  key: string,
  tenantId: string,
  pepper: CryptoKey,
): Promise<RequestName> {
  const { pathname, search } = new URL(c.req.url)
  const asked = [c.req.method, pathname, search, ...(await partsOfBody(c))]
  // hashes have one length, so no two requests are written alike
  const hashes = await Promise.all(asked.map((part) => crypto.subtle.digest('SHA-256', Buffer.from(part))))
  const written = hashes.map((hash) => Buffer.from(hash).toString('hex')).join('')
  return {
    key: await hashApiKey(`idempotency key\0${tenantId}\0${key}`, pepper),
    fingerprint: await hashApiKey(`fingerprint\0${written}`, pepper),
  }
}

/** A form by its fields, in the order of their names: the line between them is another in every request. */
async function partsOfBody({ req: { bodyCache } }: Context<AppContext>): Promise<(string | Buffer)[]> {
  // the caches hold promises, whatever their types say
  const text = await bodyCache.text
  if (text !== undefined) return [text]
  const form = await bodyCache.formData
  const parts: (string | Buffer)[] = []
  const fields = [...(form ?? [])].toSorted(([one], [other]) => (one < other ? -1 : Number(one > other)))
  for (const [name, value] of fields) {
    parts.push(name, typeof value === 'string' ? value : Buffer.from(await value.arrayBuffer()))
  }
  return parts
}
