// The secret rotation: an orthogonal matrix that follows from a key, exactly Haar-distributed on O(512) (G. W. Stewart,
// "The Efficient Generation of Random Orthogonal Matrices", 1980). It keeps every cosine. No I/O.
import { DIMENSIONS, type Embedding } from '../embedding.ts'
import type { Octets } from './octets.ts'

declare const rotated: unique symbol
/** An embedding under a tenant's rotation: what the database may have, and is asked with. Only `rotate` makes one. */
export type RotatedEmbedding = Float32Array<ArrayBuffer> & { readonly [rotated]: true }

/** 525 kB, as secret as the key that it was built from. */
export interface Rotation {
  /** The reflectors u_512 .. u_2, one behind the other: 512 + 511 + ... + 2 numbers, each vector of norm sqrt(2). */
  readonly reflectors: Float32Array
  /** 512 numbers, each 1 or -1. */
  readonly signs: Int8Array
}

const REFLECTOR_COMPONENTS = (DIMENSIONS * (DIMENSIONS + 1)) / 2 - 1
// they come in pairs; the last one is left over
const GAUSSIANS = REFLECTOR_COMPONENTS + 1
const SIGNS_OFFSET = GAUSSIANS * 4
const STREAM_BYTES = SIGNS_OFFSET + DIMENSIONS / 8
const TWO_TO_32 = 2 ** 32
const [ZERO, ONE] = [0x30, 0x31]
const ascii = new TextDecoder()

/**
 * @param keyBytes K_rot, 32 bytes; wiped before this answers, as is all that it was expanded to
 */
export async function buildRotation(keyBytes: Octets): Promise<Rotation> {
  const key = await crypto.subtle.importKey('raw', keyBytes, 'AES-CTR', false, ['encrypt'])
  keyBytes.fill(0)
  const counter = { name: 'AES-CTR', counter: new Uint8Array(16), length: 64 }
  // zeros go in, so the stream itself comes out
  const stream = new Uint8Array(await crypto.subtle.encrypt(counter, key, new Uint8Array(STREAM_BYTES)))
  const gaussians = toGaussians(stream)
  const rotation = { reflectors: toReflectors(gaussians), signs: toSigns(stream) }
  gaussians.fill(0)
  stream.fill(0)
  return rotation
}

/** Box and Muller 1958, two at a time. */
function toGaussians(stream: Octets): Float64Array {
  const words = new DataView(stream.buffer)
  const gaussians = new Float64Array(GAUSSIANS)
  for (let index = 0; index < GAUSSIANS; index += 2) {
    // the half keeps the logarithm away from 0
    const radius = Math.sqrt(-2 * Math.log((words.getUint32(index * 4, true) + 0.5) / TWO_TO_32))
    const angle = (2 * Math.PI * words.getUint32(index * 4 + 4, true)) / TWO_TO_32
    gaussians[index] = radius * Math.cos(angle)
    gaussians[index + 1] = radius * Math.sin(angle)
  }
  return gaussians
}

function toReflectors(gaussians: Float64Array): Float32Array {
  const reflectors = new Float32Array(REFLECTOR_COMPONENTS)
  let start = 0
  for (let length = DIMENSIONS; length >= 2; length--) {
    const vector = gaussians.subarray(start, start + length)
    const first = vector[0] as number
    // away from 0, so that nothing cancels
    vector[0] = first + (first < 0 ? -1 : 1) * Math.sqrt(sumOfSquares(vector))
    const scale = Math.sqrt(2 / sumOfSquares(vector))
    for (let index = 0; index < length; index++) reflectors[start + index] = (vector[index] as number) * scale
    start += length
  }
  return reflectors
}

function toSigns(stream: Octets): Int8Array {
  return Int8Array.from({ length: DIMENSIONS }, (_, index) => {
    const byte = stream[SIGNS_OFFSET + (index >> 3)] as number
    return (byte >> (index & 7)) & 1 ? -1 : 1
  })
}

/**
 * y = Q e, in float64 and rounded once at the end: the cosine of two embeddings is that of their rotations to within
 * 1e-6. Takes about 0.2 ms of CPU (`make bench-templates`).
 */
export function rotate({ reflectors, signs }: Rotation, embedding: Embedding): RotatedEmbedding {
  const y = new Float64Array(DIMENSIONS)
  // the loops below stay within arrays of known length, which the compiler cannot see: hence `as number`
  for (let index = 0; index < y.length; index++) y[index] = (embedding[index] as number) * (signs[index] as number)
  let dot = 0
  for (let index = 0; index < y.length; index++) dot += (reflectors[index] as number) * (y[index] as number)
  let start = 0
  for (let first = 0; first < y.length - 1; first++) {
    dot = reflect(y, first, reflectors, start, dot)
    start += y.length - first
  }
  // the one place where this cast is allowed
  return Float32Array.from(y) as RotatedEmbedding
}

/**
 * The 512-bit sign code by which search makes its shortlist: bit i is 1 where component i is positive, as pgvector's
 * `binary_quantize` has it.
 */
export function signCode(rotated: Float32Array): string {
  // digits first: a text that grows by one of them at a time takes four times as long
  const digits = new Uint8Array(rotated.length)
  for (let index = 0; index < rotated.length; index++) digits[index] = (rotated[index] as number) > 0 ? ONE : ZERO
  return ascii.decode(digits)
}

/**
 * y -= u (u . y), on the coordinates from `first` to the last; u begins at `start`. On the same way over y it takes the dot
 * product with the next reflector: a third less time than two ways.
 *
 * @param dot u . y
 * @returns the dot product of the next reflector, which begins behind u and has one coordinate less; 0 behind the last one
 */
function reflect(y: Float64Array, first: number, reflectors: Float32Array, start: number, dot: number): number {
  const shift = start - first
  const shiftOfNext = start + y.length - 2 * first - 1
  y[first] = (y[first] as number) - dot * (reflectors[start] as number)
  if (first === y.length - 2) {
    y[first + 1] = (y[first + 1] as number) - dot * (reflectors[start + 1] as number)
    return 0
  }
  // two sums, because each addition waits for the one before it
  let [even, odd] = [0, 0]
  let index = first + 1
  for (; index + 1 < y.length; index += 2) {
    const one = (y[index] as number) - dot * (reflectors[shift + index] as number)
    const other = (y[index + 1] as number) - dot * (reflectors[shift + index + 1] as number)
    y[index] = one
    y[index + 1] = other
    even += one * (reflectors[shiftOfNext + index] as number)
    odd += other * (reflectors[shiftOfNext + index + 1] as number)
  }
  if (index < y.length) {
    const one = (y[index] as number) - dot * (reflectors[shift + index] as number)
    y[index] = one
    even += one * (reflectors[shiftOfNext + index] as number)
  }
  return even + odd
}

function sumOfSquares(vector: Float64Array): number {
  let sum = 0
  for (let index = 0; index < vector.length; index++) sum += (vector[index] as number) ** 2
  return sum
}
