// Text with one reading only: base64url, JSON and names, as tokens and key sets must spell them. No I/O.
import { base64url } from 'jose'
import { findFlaw } from '../json-flaw.ts'

/**
 * The bytes of base64url (RFC 4648 section 5) without padding; null when encoding them again would give
 * another text. jose reads padding, whitespace and stray trailing bits too, so that one signature would
 * have many spellings.
 */
export function decodeBase64url(text: string): Uint8Array | null {
  if (!/^[A-Za-z0-9_-]+$/.test(text)) return null
  try {
    const bytes = base64url.decode(text)
    return base64url.encode(bytes) === text ? bytes : null
  } catch {
    // a length that no number of bytes has
    return null
  }
}

/** The JSON object in these bytes; null unless UTF-8, at most 8 levels deep and with distinct names throughout. */
export function parseObject(bytes: Uint8Array): Record<string, unknown> | null {
  try {
    // a byte order mark is kept, and JSON.parse then refuses it
    const text = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true }).decode(bytes)
    // first, because JSON.parse silently takes the last of two members with one name
    if (findFlaw(text)) return null
    const value: unknown = JSON.parse(text)
    return isObject(value) ? value : null
  } catch {
    return null
  }
}

/** A JSON object: neither null nor an array. */
export function isObject(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value)
}

const UUID = /^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/

/** A UUID in lower case with hyphens: PostgreSQL reads four spellings, and one of them is enough. */
export function isUuid(value: unknown): value is string {
  return typeof value === 'string' && UUID.test(value)
}

/** A string of 1 to `maxLength` UTF-16 units that a database and a log can take as it is: no control characters. */
export function isText(value: unknown, maxLength: number): value is string {
  return (
    typeof value === 'string' &&
    value.length > 0 &&
    value.length <= maxLength &&
    value.isWellFormed() &&
    !/\p{Cc}/u.test(value)
  )
}
