// Middleware: reads a JSON body within limits, before anything else may touch it.
import { createMiddleware } from 'hono/factory'
import type { AppContext } from './env.ts'
import { Problem } from './problem.ts'

/** An embedding of 512 numbers takes about 11 KiB at full precision; metadata at most 8 KiB. */
export const MAX_BODY_BYTES = 64 * 1024
const MAX_DEPTH = 8

/**
 * Refuses what is not one JSON text in UTF-8 of at most 64 KiB and depth 8 with distinct keys, so that
 * whoever stands before us and we can never read two different things in one body.
 */
export const jsonBody = createMiddleware<AppContext>(async (c, next) => {
  const contentType = c.req.header('Content-Type') ?? ''
  if (!/^application\/json *(;|$)/i.test(contentType)) {
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

async function read(request: Request): Promise<Uint8Array> {
  const chunks: Uint8Array[] = []
  let byteLength = 0
  const reader = request.body?.getReader()
  while (reader) {
    const { done, value } = await reader.read()
    if (done) break
    byteLength += value.byteLength
    if (byteLength > MAX_BODY_BYTES) {
      await reader.cancel()
      throw new Problem('BODY_TOO_LARGE', `Send at most ${MAX_BODY_BYTES} bytes.`)
    }
    chunks.push(value)
  }
  const bytes = new Uint8Array(byteLength)
  let offset = 0
  for (const chunk of chunks) {
    bytes.set(chunk, offset)
    offset += chunk.byteLength
  }
  return bytes
}

function decode(bytes: Uint8Array): string {
  try {
    // a byte order mark is kept, and JSON.parse then refuses it
    return new TextDecoder('utf-8', { fatal: true, ignoreBOM: true }).decode(bytes)
  } catch {
    throw new Problem('MALFORMED_JSON', 'Send the body in UTF-8.')
  }
}

/**
 * Finds what JSON.parse would let pass: depth that exhausts a stack later, and keys of which the last
 * silently wins. Text that is not JSON at all is left to JSON.parse.
 */
function findFlaw(text: string): string | undefined {
  // the keys seen in each open object; null for an open array
  const open: (Set<string> | null)[] = []
  let isKeyNext = false
  for (let index = 0; index < text.length; index++) {
    switch (text.charAt(index)) {
      case '{':
      case '[':
        isKeyNext = text.charAt(index) === '{'
        open.push(isKeyNext ? new Set() : null)
        if (open.length > MAX_DEPTH) return `Nest at most ${MAX_DEPTH} levels deep.`
        break
      case '}':
      case ']':
        open.pop()
        isKeyNext = false
        break
      case ',':
        isKeyNext = open.at(-1) instanceof Set
        break
      case '"': {
        const end = findEndOfString(text, index)
        if (isKeyNext) {
          const key = toKey(text.slice(index, end + 1))
          if (key === '__proto__') return 'Do not use "__proto__" as a key.'
          if (open.at(-1)?.has(key)) return 'Give each key of an object once.'
          open.at(-1)?.add(key)
          isKeyNext = false
        }
        index = end
      }
    }
  }
  return undefined
}

function findEndOfString(text: string, start: number): number {
  let index = start + 1
  while (index < text.length && text.charAt(index) !== '"') index += text.charAt(index) === '\\' ? 2 : 1
  return index
}

/** Two spellings of one key ("a" and "\u0061") are the same key. */
function toKey(literal: string): string {
  try {
    return String(JSON.parse(literal))
  } catch {
    return literal
  }
}
