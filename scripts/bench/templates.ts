// `make bench-templates`: measures the protected templates against each of their bars, and fails when one is missed.
// The numbers are made up to behave like faces; keys, cryptography and workerd are those of production.
import { join } from 'node:path'
import { performance } from 'node:perf_hooks'
import { type Embedding, isFault, toEmbedding } from '../../src/face/embedding.ts'
import { generateDataSecret } from '../../src/face/protection/data-secret.ts'
import { buildKeyring, type Keyring, rotationOf } from '../../src/face/protection/keyring.ts'
import { type Rotation, rotate } from '../../src/face/protection/rotation.ts'
import { open, type SealedFace, seal } from '../../src/face/protection/sealed-copy.ts'
import { ARCFACE_512, toDistance } from '../../src/face/similarity.ts'
import { gaussian, readGallery } from '../gallery.ts'
import { startWorkerd } from '../workerd.ts'
import { systemLinkability } from './linkability.ts'

const MODEL = ARCFACE_512.id
const PEOPLE = 6000
const ROWS = 1000
const TENANT_PAIRS = 2
const LIMITS_MS = { apply: 0.6, 'open-and-compare-32': 0.5, 'cold-key': 12 }

let missed = 0
const startedAt = performance.now()
await measureRotation()
await measureSealedCopy()
await measureUnlinkability()
await measureRealFaces()
await measureCpu()
console.log('a dump scanned for the enrolled embeddings: test/node/backups.test.ts')
console.log(`${missed === 0 ? 'every bar is met' : `${missed} missed`}, ${seconds()} s`)
if (missed > 0) process.exitCode = 1

function report(bar: string, measured: number, relation: '<=' | '>' | '>=', limit: number): void {
  const isMet = relation === '<=' ? measured <= limit : relation === '>' ? measured > limit : measured >= limit
  if (!isMet) missed++
  const figure = measured !== 0 && Math.abs(measured) < 1e-3 ? measured.toExponential(1) : String(+measured.toFixed(4))
  console.log(`${isMet ? 'met   ' : 'MISSED'}  ${bar.padEnd(64)} ${figure.padStart(9)}  ${relation} ${limit}`)
}

async function measureRotation(): Promise<void> {
  const rotation = await newRotation()
  const errors: number[] = []
  const norms: number[] = []
  const toPlain: number[] = []
  for (const [a, b] of makePeople(ROWS)) {
    const [x, y] = [rotate(rotation, a), rotate(rotation, b)]
    errors.push(Math.abs(cosine(a, b) - cosine(x, y)))
    norms.push(Math.abs(Math.hypot(...x) - 1), Math.abs(Math.hypot(...y) - 1))
    toPlain.push(cosine(a, x))
  }
  report(`cosine error through the rotation, ${ROWS} pairs`, Math.max(...errors), '<=', 1e-6)
  report('distance of a stored norm from 1', Math.max(...norms), '<=', 1e-3)
  report(`|mean| of cos(stored, plain), ${ROWS} rows`, Math.abs(mean(toPlain)), '<=', 0.01)
  report('largest |cos(stored, plain)|', Math.max(...toPlain.map(Math.abs)), '<=', 0.25)
  report('kB of a cached key', (rotation.reflectors.byteLength + rotation.signs.byteLength) / 1000, '<=', 540)
}

async function measureSealedCopy(): Promise<void> {
  const keyring = await newKeyring()
  const face = { id: crypto.randomUUID(), externalId: 'user-42', model: MODEL }
  const people = makePeople(ROWS)
  let exact = 0
  for (const [embedding] of people) {
    const opened = await open(keyring, face, await seal(keyring, face, embedding))
    // as bytes, which tell -0 from 0
    exact += Number(opened !== 'not opened' && Buffer.from(opened.buffer).equals(Buffer.from(embedding.buffer)))
  }
  report(`% of ${ROWS} embeddings that open bit for bit`, (100 * exact) / people.length, '>=', 100)

  const sealed = await seal(keyring, face, first(people)[0])
  const attempts: [Keyring, SealedFace, Uint8Array<ArrayBuffer>][] = [
    [{ ...keyring, tenantId: crypto.randomUUID() }, face, sealed],
    [{ ...keyring, version: 2 }, face, Uint8Array.from(sealed, (byte, at) => (at === 2 ? 2 : byte))],
    [keyring, { ...face, id: crypto.randomUUID() }, sealed],
    [keyring, { ...face, externalId: 'user-43' }, sealed],
    [keyring, { ...face, model: 'arcface-512@2' }, sealed],
  ]
  for (const at of sealed.keys()) {
    attempts.push([keyring, face, Uint8Array.from(sealed, (byte, index) => (index === at ? byte ^ 1 : byte))])
  }
  let refused = 0
  for (const attempt of attempts) refused += Number((await open(...attempt)) === 'not opened')
  report(`% refused of ${attempts.length} altered fields and bytes`, (100 * refused) / attempts.length, '>=', 100)
}

async function measureUnlinkability(): Promise<void> {
  const people = makePeople(PEOPLE)
  report(
    `D_sys of plain embeddings, ${PEOPLE} mated (control)`,
    systemLinkability(toScores(people, 0), toScores(people, 1)),
    '>',
    0.9,
  )
  const linkabilities: number[] = []
  const floors: number[] = []
  for (let pair = 0; pair < TENANT_PAIRS; pair++) {
    const [own, rival] = [await newRotation(), await newRotation()]
    const stored = people.map(([here, there]): Pair => [rotate(own, here), rotate(rival, there)])
    linkabilities.push(systemLinkability(toScores(stored, 0), toScores(stored, 1)))
    // strangers against other strangers: what a sample of this size shows where there is nothing to see
    floors.push(systemLinkability(toScores(stored, 2), toScores(stored, 1)))
  }
  const linkability = mean(linkabilities)
  report(`D_sys of two tenants, ${PEOPLE} mated, mean of ${TENANT_PAIRS} pairs`, linkability, '<=', 0.06)
  report('D_sys of two tenants above that of identical distributions', linkability - mean(floors), '<=', 0.02)
}

/** Each pair of real photographs, decided at the default thresholds on the plain and on the protected embeddings. */
async function measureRealFaces(): Promise<void> {
  const path = process.env['FACES']
  if (!path) return console.log('not measured here: real faces, which FACES=embeddings.csv would name')
  const rotation = await newRotation()
  const plain = (await readGallery(path)).flatMap(({ samples }) => samples).map(toChecked)
  const stored = plain.map((embedding) => rotate(rotation, embedding))
  const limits = [ARCFACE_512.verification, ARCFACE_512.identification].map(toDistance)
  let pairs = 0
  let different = 0
  let digits = 0
  let error = 0
  for (const [i, a] of plain.entries()) {
    for (let j = 0; j < i; j++) {
      const [b, x, y] = [plain[j], stored[i], stored[j]]
      if (!b || !x || !y) throw new Error('every face has its rotation')
      const [exact, protectedDistance] = [1 - cosine(a, b), 1 - cosine(x, y)]
      pairs++
      different += limits.filter((limit) => exact <= limit !== protectedDistance <= limit).length
      digits += Number(toConfidence(exact) !== toConfidence(protectedDistance))
      error = Math.max(error, Math.abs(exact - protectedDistance))
    }
  }
  report(`decisions that differ, of ${pairs} pairs of real faces`, different, '<=', 0)
  report('confidences that differ in a printed digit', digits, '<=', 0)
  report('cosine error, real faces', error, '<=', 1e-6)
}

/** As src/db/ answers it: the distance rounded to five decimals, the confidence cut to four. */
function toConfidence(distance: number): number {
  return Math.floor((1 - Math.round(distance * 1e5) / 2e5) * 1e4 + 1e-9) / 1e4
}

async function measureCpu(): Promise<void> {
  if (process.platform !== 'linux') return console.log('not measured here: CPU, which needs the /proc of Linux')
  const workerd = await startWorkerd(join(import.meta.dirname, 'templates-worker.ts'))
  try {
    for (const [what, limit] of Object.entries(LIMITS_MS)) {
      // about half a second, so that a tick is 2 %
      const rounds = Math.ceil(500 / limit)
      await workerd.post(`/${what}?rounds=${rounds}`)
      const batches: number[] = []
      for (let batch = 0; batch < 5; batch++) {
        const before = await workerd.readCpuMs()
        await workerd.post(`/${what}?rounds=${rounds}`)
        batches.push(((await workerd.readCpuMs()) - before) / rounds)
      }
      // the median: neighbors on the machine slow some batches down
      const median = batches.sort((a, b) => a - b)[2] ?? Number.NaN
      report(`ms of CPU in workerd: ${what}, 5 x ${rounds} rounds`, median, '<=', limit)
    }
  } finally {
    await workerd.close()
  }
}

type Pair = readonly [Float32Array, Float32Array]

/** Each template here against the one `shift` people further there: 0 for the same person. */
function toScores(pairs: readonly Pair[], shift: number): number[] {
  return pairs.map(([here], index) => cosine(here, (pairs[(index + shift) % pairs.length] ?? first(pairs))[1]))
}

/** Two pictures each, at a cosine of about 0.6. */
function makePeople(count: number): [Embedding, Embedding][] {
  const direction = () => Array.from({ length: 512 }, () => gaussian(Math.random))
  return Array.from({ length: count }, () => {
    const person = direction()
    const picture = () => {
      const noise = direction()
      return toChecked(normalize(person.map((component, index) => component + 0.8 * (noise[index] ?? 0))))
    }
    return [picture(), picture()]
  })
}

function normalize(components: number[]): number[] {
  const norm = Math.hypot(...components)
  return components.map((component) => component / norm)
}

function toChecked(components: number[]): Embedding {
  const embedding = toEmbedding(components)
  if (isFault(embedding)) throw new Error(embedding.detail)
  return embedding
}

async function newKeyring(): Promise<Keyring> {
  return buildKeyring({ tenantId: crypto.randomUUID(), version: 1 }, generateDataSecret(), [MODEL])
}

async function newRotation(): Promise<Rotation> {
  return rotationOf(await newKeyring(), MODEL)
}

function cosine(a: Float32Array, b: Float32Array): number {
  let [dot, squaresOfA, squaresOfB] = [0, 0, 0]
  for (let index = 0; index < a.length; index++) {
    const [x, y] = [a[index] ?? Number.NaN, b[index] ?? Number.NaN]
    dot += x * y
    squaresOfA += x * x
    squaresOfB += y * y
  }
  return dot / Math.sqrt(squaresOfA * squaresOfB)
}

function mean(values: readonly number[]): number {
  return values.reduce((total, value) => total + value, 0) / values.length
}

function first<Item>(items: readonly Item[]): Item {
  const [item] = items
  if (item === undefined) throw new RangeError('there is none')
  return item
}

function seconds(): number {
  return Math.round((performance.now() - startedAt) / 1000)
}
