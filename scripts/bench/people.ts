// Galleries of any size: the face of each person follows from a seed and a number, so that whoever needs it, in whichever
// thread, makes it. The cosines are those that scripts/gallery.ts was given from real faces. No I/O.
import { DIMENSIONS, type Embedding, isFault, toEmbedding } from '../../src/face/embedding.ts'
import {
  createRandom,
  GENUINE_DEVIATION,
  GENUINE_MEAN,
  gaussian,
  IMPOSTOR_MEAN,
  INTRINSIC_DIMENSIONS,
} from '../gallery.ts'

/** A picture's likeness to its person: clamped, or a few would be of nobody. */
const LIKENESS = { low: 0.4, high: 0.95 }

/** @param sample 0 is the one that is enrolled; others are probes */
export function toFace(seed: number, person: number, sample: number): Embedding {
  const own = toDirection(mixSeed(seed, person, -1))
  // what all faces have in common; a sample has of it what it has of its person
  mix(toCommon(seed), own, Math.sqrt(IMPOSTOR_MEAN / GENUINE_MEAN))
  const random = createRandom(mixSeed(seed, person, sample))
  // two samples at sqrt(a) and sqrt(b) from their person have a cosine of about sqrt(a * b)
  const likeness = GENUINE_MEAN + Math.SQRT2 * GENUINE_DEVIATION * gaussian(random)
  const picture = toDirection(mixSeed(seed, person, sample + 1_000_000))
  mix(own, picture, Math.sqrt(Math.min(Math.max(likeness, LIKENESS.low), LIKENESS.high)))
  const embedding = toEmbedding([...picture, ...EMPTY])
  if (isFault(embedding)) throw new RangeError(embedding.detail)
  return embedding
}

export function toExternalId(person: number): string {
  return `person-${person}`
}

/** The components that are not zero, which is all that a comparison by hand needs. */
export const COMPONENTS = Math.ceil(INTRINSIC_DIMENSIONS / 4) * 4

const EMPTY: readonly number[] = Array<number>(DIMENSIONS - INTRINSIC_DIMENSIONS).fill(0)
const commons = new Map<number, Float64Array>()

function toCommon(seed: number): Float64Array {
  const known = commons.get(seed) ?? toDirection(mixSeed(seed, -1, -1))
  commons.set(seed, known)
  return known
}

function toDirection(seed: number): Float64Array {
  const random = createRandom(seed)
  const direction = new Float64Array(INTRINSIC_DIMENSIONS)
  let squares = 0
  for (let index = 0; index < direction.length; index++) {
    const component = gaussian(random)
    direction[index] = component
    squares += component * component
  }
  const norm = Math.sqrt(squares)
  for (let index = 0; index < direction.length; index++) direction[index] = (direction[index] as number) / norm
  return direction
}

/** Turns `b` towards `a`, in place. */
function mix(a: Float64Array, b: Float64Array, weight: number): void {
  const rest = Math.sqrt(1 - weight * weight)
  for (let index = 0; index < b.length; index++) {
    // both have the same length
    b[index] = weight * (a[index] as number) + rest * (b[index] as number)
  }
}

/** Seeds that differ in one bit must not make similar faces (the finalizer of MurmurHash3, Appleby 2008). */
function mixSeed(...parts: number[]): number {
  let hash = 0x9e3779b9
  for (const part of parts) {
    hash = Math.imul(hash ^ part, 0x85ebca6b)
    hash = Math.imul(hash ^ (hash >>> 13), 0xc2b2ae35)
    hash ^= hash >>> 16
  }
  return hash
}
