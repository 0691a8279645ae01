// Faces to try the service with: real embeddings from a file, or generated ones that behave like them.
import { readFile } from 'node:fs/promises'
import { DIMENSIONS } from '../src/face/embedding.ts'

export interface Identity {
  name: string
  /** L2-normalized embeddings of the same person; the first is the one to enroll. */
  samples: number[][]
}

/**
 * Reads embeddings from CSV: columns `identity` and `e0` to `e511` found by name, others ignored.
 *
 * @returns identities in the order in which they first appear
 * @throws Error that names the line and the column
 */
export function parseGallery(csv: string): Identity[] {
  const [header = '', ...lines] = csv.split(/\r?\n/)
  const columns = header.split(',').map((name) => name.trim())
  const identityColumn = columns.indexOf('identity')
  const componentColumns = Array.from({ length: DIMENSIONS }, (_, index) => columns.indexOf(`e${index}`))
  const missing = identityColumn < 0 ? 'identity' : `e${componentColumns.indexOf(-1)}`
  if (identityColumn < 0 || componentColumns.includes(-1)) throw new Error(`Line 1: there is no column "${missing}".`)

  const identities = new Map<string, Identity>()
  for (const [index, line] of lines.entries()) {
    if (line.trim() === '') continue
    const cells = line.split(',')
    const name = cells[identityColumn]?.trim() ?? ''
    const sample = componentColumns.map((column) => Number(cells[column]?.trim() || Number.NaN))
    if (name === '') throw new Error(`Line ${index + 2}: the column "identity" is empty.`)
    const wrong = sample.findIndex((component) => !Number.isFinite(component))
    if (wrong >= 0) throw new Error(`Line ${index + 2}: the column "e${wrong}" must be a number.`)
    const identity = identities.get(name) ?? { name, samples: [] }
    identity.samples.push(sample)
    identities.set(name, identity)
  }
  return [...identities.values()]
}

export async function readGallery(path: string): Promise<Identity[]> {
  return parseGallery(await readFile(path, 'utf8'))
}

// Measured on 92 photographs of 26 people with a MobileFaceNet: cosine between different people 0.018,
// standard deviation 0.060; between photographs of one person 0.629, standard deviation about 0.12.
export const IMPOSTOR_MEAN = 0.018
export const IMPOSTOR_DEVIATION = 0.06
export const GENUINE_MEAN = 0.63
export const GENUINE_DEVIATION = 0.12
// random directions in d dimensions have cosines of standard deviation 1 / sqrt(d)
export const INTRINSIC_DIMENSIONS = Math.round(1 / IMPOSTOR_DEVIATION ** 2)

/**
 * Generates people whose genuine and impostor cosines follow what was measured on real faces.
 *
 * @param seed the same seed gives the same people
 */
export function generateGallery(people: number, samplesEach: number, seed: number): Identity[] {
  const random = createRandom(seed)
  const direction = () => normalize(Array.from({ length: INTRINSIC_DIMENSIONS }, () => gaussian(random)))
  // what all faces have in common; a sample has of it what it has of its person
  const common = direction()
  return Array.from({ length: people }, (_, person) => {
    const own = mix(common, direction(), Math.sqrt(IMPOSTOR_MEAN / GENUINE_MEAN))
    const samples = Array.from({ length: samplesEach }, () => {
      // two samples at sqrt(a) and sqrt(b) from their person have a cosine of about sqrt(a * b)
      const likeness = clamp(GENUINE_MEAN + Math.SQRT2 * GENUINE_DEVIATION * gaussian(random), 0.4, 0.95)
      const sample = normalize(mix(own, direction(), Math.sqrt(likeness)))
      return [...sample, ...Array<number>(DIMENSIONS - INTRINSIC_DIMENSIONS).fill(0)]
    })
    return { name: `person-${String(person + 1).padStart(3, '0')}`, samples }
  })
}

function mix(a: number[], b: number[], weight: number): number[] {
  const rest = Math.sqrt(1 - weight * weight)
  return a.map((component, index) => weight * component + rest * (b[index] ?? 0))
}

function normalize(components: number[]): number[] {
  const norm = Math.hypot(...components)
  return components.map((component) => component / norm)
}

function clamp(value: number, low: number, high: number): number {
  return Math.min(Math.max(value, low), high)
}

/** One normally distributed number, of mean 0 and deviation 1 (Box and Muller 1958). */
export function gaussian(random: () => number): number {
  return Math.sqrt(-2 * Math.log(1 - random())) * Math.cos(2 * Math.PI * random())
}

/** Marsaglia's xorshift32 (2003): small, and the same everywhere. Not for secrets. */
export function createRandom(seed: number): () => number {
  let state = seed | 0 || 1
  return () => {
    state ^= state << 13
    state ^= state >>> 17
    state ^= state << 5
    return (state >>> 0) / 2 ** 32
  }
}
