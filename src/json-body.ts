// Middleware: reads a JSON body within limits, before anything else may touch it.
import { createMiddleware } from 'hono/factory'
import type { AppContext } from './env.ts'
import { findFlaw } from './json-flaw.ts'
import { Problem } from './problem.ts'

/** An embedding of 512 numbers takes about 11 KiB at full precision; metadata at most 8 KiB. */
export const MAX_BODY_BYTES = 64 * 1024

/** For routes whose bodies hold no picture. */
export const jsonBody = createMiddleware<AppContext>(async (c, next) => {
  const text = await readText(c.req.raw)
  requireSound(text)
  // Hono's validators read the body from here; its own cache holds promises, whatever its type says
  c.req.bodyCache.text = Promise.resolve(text) as unknown as string
  await next()
})

/** Bodies that may be larger than others: those whose first `MAX_BODY_BYTES` have the mark in them. */
export interface Larger {
  mark: string
  maxBytes: number
}

/**
 * Reads what calls itself JSON, as text in UTF-8 of a bounded length.
 *
 * @throws Problem UNSUPPORTED_MEDIA_TYPE, BODY_TOO_LARGE or MALFORMED_JSON
 */
export async function readText(request: Request, larger?: Larger): Promise<string> {
  const contentType = request.headers.get('Content-Type') ?? ''
  // as strict as Hono's own check behind it: one rule, one answer
  if (!/^application\/json(;\s*[a-z0-9-]+=[^;]+)*$/i.test(contentType)) {
    throw new Problem('UNSUPPORTED_MEDIA_TYPE', 'Send the body as "Content-Type: application/json".')
  }
  requireNoEncoding(request)
  return decode(await read(request, larger))
}

/**
 * Refuses what is not one JSON text of a bounded depth with distinct keys, so that whoever stands before us and we can
 * never read two different things in one body.
 *
 * @throws Problem MALFORMED_JSON
 */
export function requireSound(text: string): void {
  const flaw = findFlaw(text)
  if (flaw) throw new Problem('MALFORMED_JSON', flaw)
}

/** A small body could unpack to one of any size. */
export function requireNoEncoding(request: Request): void {
  if (request.headers.get('Content-Encoding')) {
    throw new Problem('UNSUPPORTED_MEDIA_TYPE', 'Send the body without a content encoding.')
  }
}

/** Read on, and thrown away, so that the client has finished sending when it is told. */
const MAX_DISCARDED_BYTES = 1024 * 1024

async function read(request: Request, larger?: Larger): Promise<Uint8Array> {
  let maxBytes = larger?.maxBytes ?? MAX_BODY_BYTES
  if (Number(request.headers.get('Content-Length')) > maxBytes) throw bodyTooLarge(maxBytes)
  const chunks: Uint8Array[] = []
  let byteLength = 0
  const reader = request.body?.getReader()
  while (reader) {
    const { done, value } = await reader.read()
    if (done) break
    const isBeginning = byteLength <= MAX_BODY_BYTES
    byteLength += value.byteLength
    if (byteLength <= maxBytes) chunks.push(value)
    // else whoever never stops sending would have us keep as much as a picture
    if (larger && isBeginning && byteLength > MAX_BODY_BYTES && !Buffer.concat(chunks).includes(larger.mark)) {
      maxBytes = MAX_BODY_BYTES
      chunks.length = 0
    }
    if (byteLength > Math.max(maxBytes, MAX_DISCARDED_BYTES)) {
      await reader.cancel()
      break
    }
  }
  if (byteLength > maxBytes) throw bodyTooLarge(maxBytes)
  return Buffer.concat(chunks)
}

export function bodyTooLarge(maxBytes: number): Problem {
  return new Problem('BODY_TOO_LARGE', `Send at most ${maxBytes} bytes.`)
}

function decode(bytes: Uint8Array): string {
  try {
    // a byte order mark is kept, and JSON.parse then refuses it
    return new TextDecoder('utf-8', { fatal: true, ignoreBOM: true }).decode(bytes)
  } catch {
    throw new Problem('MALFORMED_JSON', 'Send the body in UTF-8.')
  }
}
