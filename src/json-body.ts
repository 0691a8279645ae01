// Middleware: reads a JSON body within limits, before anything else may touch it.
import { createMiddleware } from 'hono/factory'
import type { AppContext } from './env.ts'
import { findFlaw } from './json-flaw.ts'
import { Problem } from './problem.ts'

/** An embedding of 512 numbers takes about 11 KiB at full precision; metadata at most 8 KiB. */
export const MAX_BODY_BYTES = 64 * 1024

/**
 * Refuses what is not one JSON text in UTF-8 of at most 64 KiB and depth 8 with distinct keys, so that
 * whoever stands before us and we can never read two different things in one body.
 */
export const jsonBody = createMiddleware<AppContext>(async (c, next) => {
  const contentType = c.req.header('Content-Type') ?? ''
  // as strict as Hono's own check behind it: one rule, one answer
  if (!/^application\/json(;\s*[a-z0-9-]+=[^;]+)*$/i.test(contentType)) {
    throw new Problem('UNSUPPORTED_MEDIA_TYPE', 'Send the body as "Content-Type: application/json".')
  }
  if (c.req.header('Content-Encoding')) {
    throw new Problem('UNSUPPORTED_MEDIA_TYPE', 'Send the body without a content encoding.')
  }
  const text = decode(await read(c.req.raw))
  const flaw = findFlaw(text)
  if (flaw) throw new Problem('MALFORMED_JSON', flaw)
  // Hono's validators read the body from here; its own cache holds promises, whatever its type says
  c.req.bodyCache.text = Promise.resolve(text) as unknown as string
  await next()
})

/** Read on, and thrown away, so that the client has finished sending when it is told. */
const MAX_DISCARDED_BYTES = 1024 * 1024

async function read(request: Request): Promise<Uint8Array> {
  if (Number(request.headers.get('Content-Length')) > MAX_BODY_BYTES) throw bodyTooLarge()
  const chunks: Uint8Array[] = []
  let byteLength = 0
  const reader = request.body?.getReader()
  while (reader) {
    const { done, value } = await reader.read()
    if (done) break
    byteLength += value.byteLength
    if (byteLength > MAX_DISCARDED_BYTES) {
      await reader.cancel()
      break
    }
    if (byteLength <= MAX_BODY_BYTES) chunks.push(value)
  }
  if (byteLength > MAX_BODY_BYTES) throw bodyTooLarge()
  const bytes = new Uint8Array(byteLength)
  let offset = 0
  for (const chunk of chunks) {
    bytes.set(chunk, offset)
    offset += chunk.byteLength
  }
  return bytes
}

function bodyTooLarge(): Problem {
  return new Problem('BODY_TOO_LARGE', `Send at most ${MAX_BODY_BYTES} bytes.`)
}

function decode(bytes: Uint8Array): string {
  try {
    // a byte order mark is kept, and JSON.parse then refuses it
    return new TextDecoder('utf-8', { fatal: true, ignoreBOM: true }).decode(bytes)
  } catch {
    throw new Problem('MALFORMED_JSON', 'Send the body in UTF-8.')
  }
}
