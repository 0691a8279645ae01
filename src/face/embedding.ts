// Embeddings: the only way a face's numbers come in. No I/O.
import { fromBase64, toFloat32s } from './protection/octets.ts'

/** Components of every embedding: the output of ArcFace-like recognizers. */
export const DIMENSIONS = 512

declare const checked: unique symbol
/** 512 finite float32 components of unit norm: `toEmbedding` makes one, and `open` brings back what was sealed. */
export type Embedding = Float32Array & { readonly [checked]: true }

/** Why an input is not an embedding; `index` is the component at fault, where there is one. */
export type EmbeddingFault = { index?: number; detail: string }

// A unit vector that a client rounded stays well inside; a raw network output (norm 10 to 30) and a
// picture's pixels stay outside, so that a forgotten normalization is told, not repaired.
const NORM_MIN = 0.5
const NORM_MAX = 2
const BASE64_LENGTH = Math.ceil((DIMENSIONS * 4) / 3) * 4

/**
 * Checks and normalizes (L2) what a client sent.
 *
 * @param input 512 JSON numbers, or base64 (RFC 4648 section 4, padded) of 512 little-endian float32
 * @returns the embedding, or what is wrong with the input. A zero, NaN or huge vector is always a
 *   fault: in SQL the distance to it is NaN, and NaN compares as a perfect match.
 */
export function toEmbedding(input: unknown): Embedding | EmbeddingFault {
  if (typeof input === 'string') {
    const components = decodeFloat32(input)
    return components
      ? normalize(components)
      : { detail: `Must be base64 of ${DIMENSIONS} little-endian float32 (${BASE64_LENGTH} characters).` }
  }
  if (!Array.isArray(input)) return { detail: `Must be ${DIMENSIONS} numbers, or base64 of as many float32.` }
  if (input.length !== DIMENSIONS) return { detail: `Must have ${DIMENSIONS} components, not ${input.length}.` }
  return normalize(input)
}

export function isFault(result: Embedding | EmbeddingFault): result is EmbeddingFault {
  return 'detail' in result
}

/** Of unit vectors, as an Embedding is: from -1 to 1. */
export function cosine(a: Embedding, b: Embedding): number {
  let dot = 0
  for (let index = 0; index < DIMENSIONS; index++) dot += (a[index] as number) * (b[index] as number)
  return dot
}

function normalize(components: ArrayLike<unknown>): Embedding | EmbeddingFault {
  let squares = 0
  for (let index = 0; index < DIMENSIONS; index++) {
    const component = components[index]
    if (typeof component !== 'number' || !Number.isFinite(component)) {
      return { index, detail: 'Must be a finite number.' }
    }
    squares += component * component
  }
  const norm = Math.sqrt(squares)
  // written so that NaN and Infinity fail it
  if (!(norm >= NORM_MIN && norm <= NORM_MAX)) {
    return { detail: `Must be L2-normalized: the norm must be 1, and ${NORM_MIN} to ${NORM_MAX} is accepted.` }
  }
  const embedding = new Float32Array(DIMENSIONS)
  for (let index = 0; index < DIMENSIONS; index++) {
    // every element was seen to be a finite number above
    embedding[index] = (components[index] as number) / norm
  }
  // the one place where this cast is allowed: length, finiteness and norm have just been checked
  return embedding as Embedding
}

function decodeFloat32(text: string): Float32Array | undefined {
  if (text.length !== BASE64_LENGTH) return undefined
  try {
    const bytes = fromBase64(text)
    return bytes.length === DIMENSIONS * 4 ? toFloat32s(bytes) : undefined
  } catch {
    return undefined
  }
}
