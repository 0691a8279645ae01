// What JSON.parse would let pass and we do not. No I/O.

const MAX_DEPTH = 8
/** In an array: what tells nothing of depth or keys, up to the next text or bracket. */
const PLAIN = /[^"[\]{}]*/y

/**
 * Finds what JSON.parse would let pass: depth that exhausts a stack later, and keys of which the last
 * silently wins. Text that is not JSON at all is left to JSON.parse.
 */
export function findFlaw(text: string): string | undefined {
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
        if (!isKeyNext) index = findEndOfPlain(text, index)
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

/** In one go, because an embedding is 512 numbers: a quarter of the time that a look at each character takes. */
function findEndOfPlain(text: string, start: number): number {
  PLAIN.lastIndex = start + 1
  // matches always, be it nothing
  PLAIN.test(text)
  return PLAIN.lastIndex - 1
}

/** By jumps, because a picture in base64 has millions of characters. */
function findEndOfString(text: string, start: number): number {
  for (let end = text.indexOf('"', start + 1); end >= 0; end = text.indexOf('"', end + 1)) {
    let backslashes = 0
    while (text.charAt(end - 1 - backslashes) === '\\') backslashes++
    // an escaped backslash escapes nothing
    if (backslashes % 2 === 0) return end
  }
  return text.length
}

/** Two spellings of one key ("a" and "\u0061") are the same key. */
function toKey(literal: string): string {
  try {
    return String(JSON.parse(literal))
  } catch {
    return literal
  }
}
