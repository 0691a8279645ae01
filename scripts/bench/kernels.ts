// Brute force over embeddings, and the scan of sign codes that nothing can be faster than: WebAssembly (kernels.wat).
import { readFile } from 'node:fs/promises'
import { join } from 'node:path'
import wabt from 'wabt'
import type { Embedding } from '../../src/face/embedding.ts'
import { COMPONENTS } from './people.ts'

interface Kernels {
  memory: WebAssembly.Memory
  scan(codes: number, count: number, probe: number, out: number): void
  dots(rows: number, count: number, bytes: number, probes: number, out: number): void
}

const ROW_BYTES = COMPONENTS * 4
const CODE_BYTES = 64
const CODE_BITS = CODE_BYTES * 8
/** As many probes as a pass over the gallery serves. */
const PROBES = 4

async function load(): Promise<Kernels> {
  const path = join(import.meta.dirname, 'kernels.wat')
  const { parseWat } = await wabt()
  const parsed = parseWat(path, await readFile(path, 'utf8'), { simd: true })
  const { instance } = await WebAssembly.instantiate(new Uint8Array(parsed.toBinary({}).buffer))
  parsed.destroy()
  // as kernels.wat exports them
  return instance.exports as unknown as Kernels
}

export interface Nearest {
  person: number
  cosine: number
}

/**
 * For each probe the nearest of `count` people, by cosine and by nothing else.
 *
 * @param faceOf a person's enrolled face, asked once for each
 */
export async function findNearest(
  count: number,
  faceOf: (person: number) => Embedding,
  probes: readonly Embedding[],
): Promise<Nearest[]> {
  const kernels = await load()
  const chunk = Math.min(count, 4_096)
  const [probesAt, outAt] = [chunk * ROW_BYTES, (chunk + PROBES) * ROW_BYTES]
  grow(kernels.memory, outAt + chunk * PROBES * 4)
  const nearest = probes.map((): Nearest => ({ person: -1, cosine: Number.NEGATIVE_INFINITY }))
  for (let from = 0; from < count; from += chunk) {
    const rows = Math.min(chunk, count - from)
    for (let row = 0; row < rows; row++) write(kernels, row * ROW_BYTES, faceOf(from + row))
    for (let at = 0; at < probes.length; at += PROBES) {
      const asked = probes.slice(at, at + PROBES)
      for (const [index, probe] of asked.entries()) write(kernels, probesAt + index * ROW_BYTES, probe)
      kernels.dots(0, rows, ROW_BYTES, probesAt, outAt)
      const dots = new Float32Array(kernels.memory.buffer, outAt, rows * PROBES)
      for (let index = 0; index < asked.length; index++) {
        const best = nearest[at + index] as Nearest
        for (let row = 0; row < rows; row++) {
          const cosine = dots[row * PROBES + index] as number
          if (cosine > best.cosine) {
            best.cosine = cosine
            best.person = from + row
          }
        }
      }
    }
  }
  return nearest
}

function write({ memory }: Kernels, at: number, embedding: Embedding): void {
  new Float32Array(memory.buffer, at, COMPONENTS).set(embedding.subarray(0, COMPONENTS))
}

/** The shortlist of a search, made of codes that lie in memory: what is left when a database has no other cost. */
export async function prepareScan(
  codes: readonly Uint8Array[],
): Promise<(probe: Uint8Array, size: number) => number[]> {
  const kernels = await load()
  const [probeAt, outAt] = [codes.length * CODE_BYTES, (codes.length + 1) * CODE_BYTES]
  grow(kernels.memory, outAt + codes.length * 4)
  const bytes = new Uint8Array(kernels.memory.buffer)
  for (const [index, code] of codes.entries()) bytes.set(code, index * CODE_BYTES)
  const distances = new Int32Array(kernels.memory.buffer, outAt, codes.length)
  return (probe, size) => {
    bytes.set(probe, probeAt)
    kernels.scan(0, codes.length, probeAt, outAt)
    return takeNearest(distances, size)
  }
}

/** Places of the `size` smallest distances, by counting. */
function takeNearest(distances: Int32Array, size: number): number[] {
  const counts = new Int32Array(CODE_BITS + 1)
  for (const distance of distances) counts[distance] = (counts[distance] as number) + 1
  let limit = 0
  for (let total = counts[0] as number; total < size && limit < CODE_BITS; ) total += counts[++limit] as number
  const places: number[] = []
  for (let place = 0; place < distances.length; place++) {
    if ((distances[place] as number) <= limit) places.push(place)
  }
  return places.slice(0, size)
}

function grow(memory: WebAssembly.Memory, bytes: number): void {
  const missing = Math.ceil((bytes - memory.buffer.byteLength) / 65_536)
  if (missing > 0) memory.grow(missing)
}
