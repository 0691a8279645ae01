// Proves what must hold for inputs that nobody thought of: any JSON value as an embedding or as a picture, any text as
// an external_id, any numbers in src/face/embedding.ts. fast-check prints the seed of a failure. Through
// the API on a real PostgreSQL with row-level security. Fake: the faces, which are generated numbers, and the recognizer,
// for which a picture is a text that says what it shows.
import fc from 'fast-check'
import { beforeAll, describe, expect, it } from 'vitest'
import { DIMENSIONS, type Embedding, type EmbeddingFault, isFault, toEmbedding } from '../../src/face/embedding.ts'
import { QUALITY_REASONS } from '../../src/problem.ts'
import { ImageField } from '../../src/routes/face-source.ts'
import { sendForm, toForm } from './picture.ts'
import { createTenant, type TestTenant } from './tenant.ts'

// a failure is not shrunk: each attempt costs requests, and the seed is printed all the same
const TIMEOUT_MS = 120_000

let tenant: TestTenant
beforeAll(async () => {
  tenant = await createTenant()
})

// == What is generated ==

/** Any direction, of norm 1 in double precision. */
const unitVector = fc
  .array(fc.double({ min: -1, max: 1, noNaN: true }), { minLength: DIMENSIONS, maxLength: DIMENSIONS })
  .map((components) => ({ components, norm: Math.hypot(...components) }))
  .filter(({ norm }) => norm > 0.01)
  .map(({ components, norm }) => components.map((component) => component / norm))

const float32s = fc
  .float32Array({ min: -1, max: 1, noNaN: true, minLength: DIMENSIONS, maxLength: DIMENSIONS })
  .map((components) => [...components])

function scale(components: readonly number[], factor: number): number[] {
  return components.map((component) => component * factor)
}

function toBase64(components: readonly number[]): string {
  const bytes = new Uint8Array(components.length * 4)
  const view = new DataView(bytes.buffer)
  for (const [index, component] of components.entries()) view.setFloat32(index * 4, component, true)
  return btoa(String.fromCharCode(...bytes))
}

/** JSON texts, because some of them no JavaScript value can say: 1e999. */
const embeddingTexts = fc.oneof(
  // good ones, and good ones spoiled a little
  unitVector.map((vector) => JSON.stringify(vector)),
  unitVector.map((vector) => JSON.stringify(toBase64(vector))),
  fc
    .tuple(unitVector, fc.double({ min: 0, max: 3, noNaN: true }))
    .map(([vector, factor]) => JSON.stringify(scale(vector, factor))),
  fc
    .tuple(
      unitVector,
      fc.nat(DIMENSIONS - 1),
      fc.oneof(
        fc.constantFrom('1e999', '-1e999', '1e38', '-1e308', '1e-400', '5e-324', '-0', '"0.1"', 'null', '[]', '{}'),
        fc.jsonValue({ maxDepth: 2 }).map((value) => JSON.stringify(value)),
      ),
    )
    .map(([vector, index, token]) => `[${vector.map((component, at) => (at === index ? token : component)).join()}]`),
  fc
    .tuple(unitVector, fc.integer({ min: -3, max: 3 }))
    .map(([vector, more]) => JSON.stringify([...vector, ...vector].slice(0, DIMENSIONS + more))),
  // 2,048 bytes of anything are 512 float32 of anything
  fc
    .uint8Array({ minLength: DIMENSIONS * 4, maxLength: DIMENSIONS * 4 })
    .map((bytes) => JSON.stringify(btoa(String.fromCharCode(...bytes)))),
  fc
    .array(fc.double(), { minLength: DIMENSIONS, maxLength: DIMENSIONS })
    .map((components) => JSON.stringify(components)),
  fc.base64String({ minLength: 2728, maxLength: 2736 }).map((text) => JSON.stringify(text)),
  fc.jsonValue({ maxDepth: 4 }).map((value) => JSON.stringify(value)),
)

const nastyCharacter = fc.constantFrom(
  ...['\0', '\n', '\u007f', '\u0085', '\u00a0', '\u00ad', '\u0301', '\u0323', '\u200b', '\u200d', '\u202e', '\u2028'],
  ...[
    '\u2066',
    '\u212b',
    '\u3000',
    '\ud800',
    '\udfff',
    '\ufe0f',
    '\ufeff',
    '\uffff',
    '\ufffd',
    '\u{e0041}',
    '😀',
    '👩‍👩‍👦',
  ],
  ...['/', '\\', '.', '..', '%', '%2F', '%2e', '%00', '+', '?', '#', '&', '=', ';', ':', '*', '{', '}', ' ', "'", '"'],
  ...[
    'é',
    'e\u0301',
    'ß',
    'İ',
    'ſ',
    'ﬁ',
    '각',
    '\u1100\u1161\u11a8',
    'ใ',
    'ع',
    'ﷺ',
    '\u0344',
    '𝅗𝅥',
    '𐑒',
    '㍿',
    'a',
    'Z',
    '0',
  ],
)
const anyText = fc.oneof(
  fc.string({ unit: nastyCharacter, maxLength: 12 }),
  // composed and trimmed, so that more of them are taken
  fc.string({ unit: nastyCharacter, maxLength: 8 }).map((text) => text.normalize('NFC').trim()),
  fc.string({ unit: 'grapheme', maxLength: 40 }),
  fc.string({ unit: 'binary', maxLength: 10 }),
  // any UTF-16, with surrogates alone
  fc.array(fc.nat(0xffff), { maxLength: 6 }).map((units) => String.fromCharCode(...units)),
  // around the limit of 255 code points
  fc
    .tuple(fc.constantFrom('a', 'é', '😀', '각', '%'), fc.integer({ min: 250, max: 260 }))
    .map(([unit, n]) => unit.repeat(n)),
)

// == Through the API ==

interface Problem {
  code: string
  errors: { pointer: string }[]
}

describe('any JSON value as an embedding', () => {
  it(
    'is refused by a pointer to it, or is enrolled and then verifies as the same person',
    async () => {
      const seen = { taken: 0, refused: 0 }
      await fc.assert(
        fc.asyncProperty(embeddingTexts, async (json) => {
          // a key of that name is refused as a body, whatever field it is in
          fc.pre(!json.includes('__proto__'))
          const externalId = crypto.randomUUID()
          const body = `{"external_id":"${externalId}","embedding":${json}}`
          const enrolled = await tenant.request('POST', '/v1/faces', body)
          const decided = await tenant.request('POST', '/v1/faces/verify', body)
          if (enrolled.status === 201) {
            expect(decided.status).toBe(200)
            expect(await decided.json()).toMatchObject({ verified: true, confidence: 1 })
            seen.taken++
          } else {
            for (const refused of [enrolled, decided]) {
              expect(refused.status).toBe(422)
              const { code, errors } = await refused.json<Problem>()
              expect(code).toBe('INVALID_REQUEST')
              expect(errors).toHaveLength(1)
              expect(errors[0]?.pointer).toMatch(/^\/embedding(\/\d+)?$/)
            }
            expect((await tenant.request('GET', `/v1/faces/${externalId}`)).status).toBe(404)
            seen.refused++
          }
        }),
        { numRuns: 150, endOnFailure: true },
      )
      // both sides were met
      expect(seen.taken).toBeGreaterThan(10)
      expect(seen.refused).toBeGreaterThan(10)
    },
    TIMEOUT_MS,
  )
})

/** Enrolls under the text, reads it back and erases it, or finds it refused; true when it was taken. */
async function roundTrip(externalId: string): Promise<boolean> {
  const enrolled = await tenant.request('POST', '/v1/faces', { external_id: externalId, embedding: unit(0) })
  if (enrolled.status !== 201) {
    expect(enrolled.status).toBe(422)
    const { code, errors } = await enrolled.json<Problem>()
    expect({ code, pointers: errors.map(({ pointer }) => pointer) }).toEqual({
      code: 'INVALID_REQUEST',
      pointers: ['/external_id'],
    })
    return false
  }
  expect(await enrolled.json()).toMatchObject({ external_id: externalId })
  const path = `/v1/faces/${encodeURIComponent(externalId)}`
  const read = await tenant.request('GET', path)
  expect(read.status).toBe(200)
  expect(await read.json()).toMatchObject({ external_id: externalId })
  expect((await tenant.request('DELETE', path)).status).toBe(204)
  expect((await tenant.request('GET', path)).status).toBe(404)
  return true
}

function unit(index: number): number[] {
  return Array.from({ length: DIMENSIONS }, (_, position) => (position === index ? 1 : 0))
}

describe('any text as an external_id', () => {
  it(
    'is refused, or finds its face and erases it',
    async () => {
      const seen = { taken: 0, refused: 0 }
      await fc.assert(
        fc.asyncProperty(anyText, async (externalId) => {
          seen[(await roundTrip(externalId)) ? 'taken' : 'refused']++
        }),
        { numRuns: 250, endOnFailure: true },
      )
      expect(seen.taken).toBeGreaterThan(10)
      expect(seen.refused).toBeGreaterThan(10)
    },
    TIMEOUT_MS,
  )

  it(
    'of printable ASCII is taken, but for two that are path segments and for spaces at an end',
    async () => {
      const printable = fc
        .string({ unit: 'grapheme-ascii', minLength: 1, maxLength: 255, size: 'max' })
        .filter((text) => text === text.trim() && text !== '.' && text !== '..')
      await fc.assert(
        fc.asyncProperty(printable, async (externalId) => {
          expect(await roundTrip(externalId)).toBe(true)
        }),
        { numRuns: 30, endOnFailure: true },
      )
    },
    TIMEOUT_MS,
  )

  it(
    'is answered in a path and in a query without a failure of ours',
    async () => {
      // 422 in both, or taken in both: one rule for a name, wherever it stands
      const addressable = anyText.filter((text) => text.isWellFormed() && !['', '.', '..'].includes(text))
      await fc.assert(
        fc.asyncProperty(addressable, async (externalId) => {
          const encoded = encodeURIComponent(externalId)
          const inPath = await tenant.request('DELETE', `/v1/faces/${encoded}`)
          const inQuery = await tenant.request('GET', `/v1/verifications?external_id=${encoded}`)
          expect([
            [404, 200],
            [422, 422],
          ]).toContainEqual([inPath.status, inQuery.status])
        }),
        { numRuns: 100, endOnFailure: true },
      )
    },
    TIMEOUT_MS,
  )
})

// == Pictures ==

/** RFC 4648, section 4, with padding; of at least one byte. Other bits than zero behind the last byte are let pass. */
function isBase64(text: string): boolean {
  const padding = text.endsWith('==') ? 2 : text.endsWith('=') ? 1 : 0
  const digits = text.slice(0, text.length - padding)
  const isAlphabet = [...digits].every((digit) =>
    'ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/'.includes(digit),
  )
  return digits !== '' && isAlphabet && text.length % 4 === 0
}

function bytesToBase64(bytes: Uint8Array): string {
  return btoa(String.fromCharCode(...bytes))
}

const anyBase64 = fc.oneof(
  fc.uint8Array({ minLength: 1, maxLength: 40 }).map(bytesToBase64),
  // spoiled in one place: longer, shorter, or another character
  fc
    .tuple(
      fc.uint8Array({ minLength: 1, maxLength: 12 }).map(bytesToBase64),
      fc.nat(16),
      fc.constantFrom('', '=', '==', '-', '_', ' ', '\n', '\0', '%', 'A', 'é', '\ud800', 'Ａ', '\u0130'),
      fc.nat(1),
    )
    .map(([text, at, insert, removed]) => text.slice(0, at) + insert + text.slice(at + removed)),
  fc.string({ unit: fc.constantFrom('A', 'z', '0', '+', '/', '=', '-'), maxLength: 8 }),
  fc.string({ unit: 'binary', maxLength: 8 }),
)

/** A picture of the fake recognizer, with bytes around it that say nothing. */
const anyPicture = fc
  .record({
    faces: fc.array(unitVector, { maxLength: 3 }),
    quality: fc.double({ min: 0, max: 1, noNaN: true }),
    reasons: fc.shuffledSubarray([...QUALITY_REASONS]),
    note: fc.string({ unit: 'grapheme', maxLength: 30 }),
    liveness: fc.double({ min: 0, max: 1, noNaN: true }),
  })
  .chain((shown) =>
    fc
      .tuple(fc.string({ unit: fc.constantFrom(' ', '\n', '\r', '\t'), maxLength: 5 }), fc.nat(5000))
      .map(([before, after]) => ({ shown, text: before + JSON.stringify(shown) + ' '.repeat(after) })),
  )

describe('any text as a picture', () => {
  it('is base64 of the bytes that it is, or is refused', () => {
    const seen = { taken: 0, refused: 0 }
    fc.assert(
      fc.property(anyBase64, (text) => {
        const { success } = ImageField.safeParse(text)
        expect(success).toBe(isBase64(text))
        seen[success ? 'taken' : 'refused']++
      }),
      { numRuns: 1000 },
    )
    expect(seen.taken).toBeGreaterThan(100)
    expect(seen.refused).toBeGreaterThan(100)
  })

  it('gives back any bytes', async () => {
    await fc.assert(
      fc.asyncProperty(fc.uint8Array({ minLength: 1, maxLength: 400 }), async (bytes) => {
        const blob = ImageField.parse(bytesToBase64(bytes))
        expect(new Uint8Array(await blob.arrayBuffer())).toEqual(bytes)
      }),
    )
  })

  it(
    'is refused by a pointer to it, or is looked at',
    async () => {
      const seen = { taken: 0, refused: 0 }
      const anything = fc.oneof(
        { weight: 3, arbitrary: anyBase64.map((text) => JSON.stringify(text)) },
        { weight: 1, arbitrary: fc.jsonValue({ maxDepth: 2 }).map((value) => JSON.stringify(value)) },
      )
      await fc.assert(
        fc.asyncProperty(anything, async (json) => {
          fc.pre(!json.includes('__proto__'))
          const value: unknown = JSON.parse(json)
          const response = await tenant.request('POST', '/v1/faces/search', `{"image":${json}}`)
          const { code, errors } = await response.json<Problem>()
          if (typeof value === 'string' && isBase64(value)) {
            // a few bytes are no picture, and a number is one of nobody
            expect([
              [415, 'UNSUPPORTED_MEDIA_TYPE'],
              [422, 'NO_FACE_DETECTED'],
            ]).toContainEqual([response.status, code])
            seen.taken++
          } else {
            expect([response.status, code]).toEqual([422, 'INVALID_REQUEST'])
            expect(errors.map(({ pointer }) => pointer)).toEqual(['/image'])
            seen.refused++
          }
        }),
        { numRuns: 150, endOnFailure: true },
      )
      expect(seen.taken).toBeGreaterThan(10)
      expect(seen.refused).toBeGreaterThan(10)
    },
    TIMEOUT_MS,
  )

  it(
    'that is a picture is seen as it is, in JSON and in a form',
    async () => {
      await fc.assert(
        fc.asyncProperty(anyPicture, async ({ shown, text }) => {
          const bytes = new TextEncoder().encode(text)
          const expected = shown.faces.map(() => ({ quality_score: shown.quality, quality_reasons: shown.reasons }))
          for (const response of [
            await tenant.request('POST', '/v1/faces/detect', { image: bytesToBase64(bytes) }),
            await sendForm(tenant, 'POST', '/v1/faces/detect', toForm([['image', { file: text }]])),
          ]) {
            expect(response.status).toBe(200)
            const { faces } = await response.json<{ faces: Record<string, unknown>[] }>()
            const seen = faces.map(({ quality_score, quality_reasons }) => ({ quality_score, quality_reasons }))
            expect(seen).toEqual(expected)
          }
          const [judged, decided] = [
            await tenant.request('POST', '/v1/faces/liveness', { image: bytesToBase64(bytes) }),
            await tenant.request('POST', '/v1/faces/compare', {
              first: { image: bytesToBase64(bytes) },
              second: { embedding: shown.faces[0] ?? unit(0) },
            }),
          ]
          if (shown.faces.length !== 1) {
            const code = shown.faces.length === 0 ? 'NO_FACE_DETECTED' : 'MULTIPLE_FACES'
            for (const response of [judged, decided])
              expect(await response.json()).toMatchObject({ code, retake: true })
            return
          }
          const isLive = shown.liveness >= 0.5
          expect(await judged.json()).toMatchObject({ liveness_passed: isLive, score: shown.liveness })
          // one and the same face, but not one who is alive
          expect(await decided.json()).toMatchObject({
            verified: isLive,
            liveness_passed: { first: isLive, second: null },
          })
        }),
        { numRuns: 40, endOnFailure: true },
      )
    },
    TIMEOUT_MS,
  )
})

// == Without the API ==
/** @throws with the fault's words when it is one, so that a failure says why */
function expectEmbedding(result: Embedding | EmbeddingFault): Embedding {
  if (isFault(result)) throw new Error(result.detail)
  return result
}

function largestDifference(one: Embedding, other: Embedding): number {
  return Math.max(...one.map((component, index) => Math.abs(component - (other[index] ?? Number.NaN))))
}

describe('toEmbedding', () => {
  it('answers 512 finite components of norm 1, or a fault, whatever it is given', () => {
    const seen = { taken: 0, refused: 0 }
    const anything = fc.oneof(
      embeddingTexts.map((json): unknown => JSON.parse(json)),
      fc.array(fc.double(), { minLength: DIMENSIONS, maxLength: DIMENSIONS }),
      fc.anything(),
    )
    fc.assert(
      fc.property(anything, (input) => {
        const result = toEmbedding(input)
        if (isFault(result)) {
          seen.refused++
          return
        }
        seen.taken++
        expect(result).toHaveLength(DIMENSIONS)
        expect(result.every(Number.isFinite)).toBe(true)
        expect(Math.abs(Math.hypot(...result) - 1)).toBeLessThan(1e-6)
      }),
      { numRuns: 500 },
    )
    expect(seen.taken).toBeGreaterThan(10)
    expect(seen.refused).toBeGreaterThan(50)
  })

  it('does not mind how long a vector is, from 0.5 to 2', () => {
    const factors = fc.double({ min: 0.5 + 1e-9, max: 2 - 1e-9, noNaN: true })
    fc.assert(
      fc.property(unitVector, factors, (vector, factor) => {
        const embedding = expectEmbedding(toEmbedding(vector))
        const scaled = expectEmbedding(toEmbedding(scale(vector, factor)))
        expect(largestDifference(scaled, embedding)).toBeLessThan(1e-6)
      }),
    )
  })

  it('refuses the same directions when they are shorter or longer', () => {
    const factors = fc.oneof(
      fc.double({ min: 0, max: 0.5 - 1e-9, noNaN: true }),
      fc.double({ min: 2 + 1e-9, max: 1e300, noNaN: true }),
    )
    fc.assert(
      fc.property(unitVector, factors, (vector, factor) => {
        expect(isFault(toEmbedding(scale(vector, factor)))).toBe(true)
      }),
    )
  })

  it('keeps the direction', () => {
    fc.assert(
      fc.property(unitVector, (vector) => {
        const embedding = expectEmbedding(toEmbedding(vector))
        const cosine = vector.reduce((sum, component, index) => sum + component * (embedding[index] ?? Number.NaN), 0)
        expect(Math.abs(cosine - 1)).toBeLessThan(1e-6)
      }),
    )
  })

  it('reads base64 of float32 as the numbers that they are, also when it refuses them', () => {
    const seen = { taken: 0, refused: 0 }
    const vectors = fc.oneof(
      unitVector.map((vector) => [...Float32Array.from(vector)]),
      float32s,
      fc.float32Array({ minLength: DIMENSIONS, maxLength: DIMENSIONS }).map((components) => [...components]),
    )
    fc.assert(
      fc.property(vectors, (components) => {
        const result = toEmbedding(toBase64(components))
        expect(result).toEqual(toEmbedding(components))
        seen[isFault(result) ? 'refused' : 'taken']++
      }),
    )
    expect(seen.taken).toBeGreaterThan(5)
    expect(seen.refused).toBeGreaterThan(5)
  })

  it('names the first component that is not a finite number', () => {
    const bad = fc.constantFrom<unknown>(Number.NaN, Number.POSITIVE_INFINITY, '0', null, undefined, true, [0], 0n)
    fc.assert(
      fc.property(unitVector, fc.nat(DIMENSIONS - 1), fc.nat(DIMENSIONS - 1), bad, (vector, one, other, value) => {
        const spoiled = (vector as unknown[]).with(one, value).with(other, value)
        expect(toEmbedding(spoiled)).toEqual({ index: Math.min(one, other), detail: 'Must be a finite number.' })
      }),
    )
  })
})
