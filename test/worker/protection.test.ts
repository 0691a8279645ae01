// Proves the protected templates (PT1) without a database, inside workerd: the official test vector, what is refused,
// what a rotation keeps and what it hides, and that a second implementation on @noble comes to the same bytes.
// Embeddings are made here from a fixed seed, so that every figure is the same in each run; in the test vector
// randomness is fake. Wycheproof's vectors are read from REKKO_WYCHEPROOF_DIR, and skipped, saying so, without it.
import { env } from 'cloudflare:workers'
import { ctr, gcm } from '@noble/ciphers/aes.js'
import { hkdf } from '@noble/hashes/hkdf.js'
import { sha256 } from '@noble/hashes/sha2.js'
import { bytesToHex, concatBytes, hexToBytes, utf8ToBytes } from '@noble/hashes/utils.js'
import { afterEach, describe, expect, it, vi } from 'vitest'
import { systemLinkability } from '../../scripts/bench/linkability.ts'
import { type Embedding, isFault, toEmbedding } from '../../src/face/embedding.ts'
import { decrypt, encrypt, toAeadKey } from '../../src/face/protection/aead.ts'
import { confirm, type Match } from '../../src/face/protection/confirmation.ts'
import {
  generateDataSecret,
  type SecretOwner,
  toMasterNumber,
  UnwrapError,
  unwrapDataSecret,
  wrapDataSecret,
} from '../../src/face/protection/data-secret.ts'
import { deriveKeyBytes } from '../../src/face/protection/hkdf.ts'
import { buildKeyring, type Keyring, rotationOf } from '../../src/face/protection/keyring.ts'
import { toMasterKeys } from '../../src/face/protection/master-keys.ts'
import { type Octets, prefixed, u16, uuid } from '../../src/face/protection/octets.ts'
import { buildRotation, type RotatedEmbedding, rotate } from '../../src/face/protection/rotation.ts'
import { open, type SealedFace, seal } from '../../src/face/protection/sealed-copy.ts'

const MODEL = 'arcface-512@1'
const TENANT = 'aaaaaaaa-aaaa-aaaa-aaaa-aaaaaaaaaaaa'
const RIVAL = 'bbbbbbbb-bbbb-bbbb-bbbb-bbbbbbbbbbbb'
const FACE: SealedFace = { id: 'dddddddd-dddd-dddd-dddd-dddddddddddd', externalId: 'user-42', model: MODEL }

/** MASTER[1] and TDS of the test vector. */
const masterSecret = () => Uint8Array.from({ length: 32 }, (_, index) => index)
const dataSecret = () => Uint8Array.from({ length: 32 }, (_, index) => 0xff - index)

function checked(components: ArrayLike<number>): Embedding {
  const embedding = toEmbedding(Array.from(components))
  if (isFault(embedding)) throw new Error(embedding.detail)
  return embedding
}

function unit(components: number[]): number[] {
  const norm = Math.hypot(...components)
  return components.map((component) => component / norm)
}

const vectorEmbedding = checked(unit(Array.from({ length: 512 }, (_, index) => ((37 * index) % 101) - 50)))

async function keyringOf(owner: Partial<SecretOwner> = {}, secret = dataSecret()): Promise<Keyring> {
  return buildKeyring({ tenantId: TENANT, version: 1, ...owner }, secret, [MODEL])
}

/** Marsaglia's xorshift, for embeddings only: nothing here is a secret. */
function seeded(seed: number): () => number {
  let state = seed
  return () => {
    state ^= state << 13
    state ^= state >>> 17
    state ^= state << 5
    return (state >>> 0) / 2 ** 32
  }
}

function gaussians(random: () => number, length = 512): number[] {
  return Array.from({ length }, () => Math.sqrt(-2 * Math.log(1 - random())) * Math.cos(2 * Math.PI * random()))
}

function cosine(a: Float32Array, b: Float32Array): number {
  let dot = 0
  let squaresOfA = 0
  let squaresOfB = 0
  for (let index = 0; index < a.length; index++) {
    const [component, other] = [a[index] ?? Number.NaN, b[index] ?? Number.NaN]
    dot += component * other
    squaresOfA += component * component
    squaresOfB += other * other
  }
  return dot / Math.sqrt(squaresOfA * squaresOfB)
}

const bytesOf = (floats: Float32Array) => new Uint8Array(floats.buffer, floats.byteOffset, floats.byteLength)
const bare = (id: string) => hexToBytes(id.replaceAll('-', ''))

function flipped(bytes: Octets, at: number, bit = 1): Octets {
  const copy = bytes.slice()
  copy[at] = (copy[at] ?? 0) ^ bit
  return copy
}

/** Every nonce and secret becomes 0x09. */
function fakeRandomness(): void {
  vi.spyOn(crypto, 'getRandomValues').mockImplementation((array) => {
    if (array instanceof Uint8Array) array.fill(9)
    return array
  })
}

/** Keys and streams of the product on their way, in hexadecimal: it wipes what it was given. */
function watchKeys(): { derived: string[]; streams: string[] } {
  const watched = { derived: [] as string[], streams: [] as string[] }
  const { encrypt, deriveBits } = crypto.subtle
  vi.spyOn(crypto.subtle, 'deriveBits').mockImplementation(async (...call) => {
    const key = await deriveBits.apply(crypto.subtle, call)
    watched.derived.push(bytesToHex(new Uint8Array(key)))
    return key
  })
  vi.spyOn(crypto.subtle, 'encrypt').mockImplementation(async (...call) => {
    const stream = await encrypt.apply(crypto.subtle, call)
    watched.streams.push(bytesToHex(new Uint8Array(stream)))
    return stream
  })
  return watched
}

afterEach(() => {
  vi.restoreAllMocks()
})

describe('the test vector', () => {
  it('has this KEK', async () => {
    const kek = await deriveKeyBytes(masterSecret(), new Uint8Array(32), new Uint8Array(utf8ToBytes('rekko/pt1/kek')))
    expect(bytesToHex(kek)).toBe('c7447c46b39f42642732d045f2b4e38e58b2d9642b25c19d86f2d97139107c6c')
  })

  it('has this wrapped data secret, which opens', async () => {
    fakeRandomness()
    const masterKeys = await toMasterKeys(new Map([[1, masterSecret()]]))
    const wrapped = await wrapDataSecret(masterKeys, 1, { tenantId: TENANT, version: 1 }, dataSecret())
    expect(bytesToHex(wrapped)).toBe(
      '01000109090909090909090909090986946b6e83db45c64f23e270ca2ad0b1840550c782645fdfe84506b3758003404ed3b0764bb7b125977f279e601d69ed',
    )
    expect(wrapped).toHaveLength(63)
    expect(toMasterNumber(wrapped)).toBe(1)
    expect(await unwrapDataSecret(masterKeys, { tenantId: TENANT, version: 1 }, wrapped)).toEqual(dataSecret())
  })

  it('has these K_seal, K_rot and first bytes of S', async () => {
    const { derived, streams } = watchKeys()
    await keyringOf()
    expect(derived).toEqual([
      '9f13e186140e5d5c65b20f54e25e6a876af21b1e36e4b5855bc850b7c0161c5b',
      '7dcce49d6cb8dd0b46add8569685717a7f2284e3581b5f8256d41f3f3353f300',
    ])
    expect(streams).toEqual([expect.stringMatching(/^d89189be712fef9834b30ebbb0d34d42/)])
    expect(streams[0]).toHaveLength(2 * 525_376)
  })

  it('has this rotated embedding', async () => {
    const y = rotate(rotationOf(await keyringOf(), MODEL), vectorEmbedding)
    const deviations = [-0.0174732357, 0.0226858016, -0.0402893014, -0.0594077595].map((x, i) => x - (y[i] ?? 1))
    deviations.push(...[0.0067522982, 0.0042122649, 0.0079162112, -0.0166535098].map((x, i) => x - (y[508 + i] ?? 1)))
    expect(deviations).toHaveLength(8)
    expect(Math.max(...deviations.map(Math.abs))).toBeLessThanOrEqual(1e-6)
    expect(Array.from(y.subarray(0, 16), (component) => (component > 0 ? 1 : 0)).join('')).toBe('0100101110000100')
  })

  it('has associated data of 74 bytes and this sealed copy', async () => {
    fakeRandomness()
    const encrypting = vi.spyOn(crypto.subtle, 'encrypt')
    const keyring = await keyringOf()
    encrypting.mockClear()
    const sealed = await seal(keyring, FACE, vectorEmbedding)
    expect(encrypting.mock.lastCall?.[0]).toMatchObject({ additionalData: { byteLength: 74 } })
    expect(sealed).toHaveLength(2079)
    expect(bytesToHex(sha256(sealed))).toBe('235dca496df9422fef7ce8fde5e82576b0fe04312986c25dbd343edcd968cbbe')
  })
})

describe('a wrapped data secret', () => {
  const owner = { tenantId: TENANT, version: 1 }
  const makeMasters = () => toMasterKeys(new Map([1, 2].map((r) => [r, crypto.getRandomValues(new Uint8Array(32))])))

  it('opens under the master key that wrapped it while several are live', async () => {
    const masterKeys = await makeMasters()
    for (const masterNumber of [1, 2]) {
      const secret = generateDataSecret()
      const wrapped = await wrapDataSecret(masterKeys, masterNumber, owner, secret)
      expect(toMasterNumber(wrapped)).toBe(masterNumber)
      expect(await unwrapDataSecret(masterKeys, owner, wrapped)).toEqual(secret)
    }
  })

  it('is refused in the same words for another tenant, version or master, without one, cut, or longer', async () => {
    const masterKeys = await makeMasters()
    const others = await makeMasters()
    const wrapped = await wrapDataSecret(masterKeys, 1, owner, generateDataSecret())
    const attempts = [
      unwrapDataSecret(masterKeys, { ...owner, tenantId: RIVAL }, wrapped),
      unwrapDataSecret(masterKeys, { ...owner, version: 2 }, wrapped),
      unwrapDataSecret(masterKeys, { ...owner, version: 257 }, wrapped),
      unwrapDataSecret(others, owner, wrapped),
      unwrapDataSecret(new Map(), owner, wrapped),
      unwrapDataSecret(masterKeys, owner, new Uint8Array(0)),
      ...[1, 2, 3, 30, 31, 62].map((length) => unwrapDataSecret(masterKeys, owner, wrapped.slice(0, length))),
      unwrapDataSecret(masterKeys, owner, new Uint8Array(concatBytes(wrapped, new Uint8Array(1)))),
    ]
    for (const attempt of attempts) await expect(attempt).rejects.toStrictEqual(new UnwrapError())
  })

  it('is refused when its number is changed, even to one under which the same master key is live', async () => {
    const secret = masterSecret()
    const masterKeys = await toMasterKeys(
      new Map([
        [1, secret],
        [2, secret],
      ]),
    )
    const wrapped = await wrapDataSecret(masterKeys, 1, owner, generateDataSecret())
    wrapped[2] = 2
    await expect(unwrapDataSecret(masterKeys, owner, wrapped)).rejects.toStrictEqual(new UnwrapError())
  })

  it('is refused when any bit of any byte is flipped', async () => {
    const masterKeys = await makeMasters()
    const wrapped = await wrapDataSecret(masterKeys, 1, owner, generateDataSecret())
    for (let bit = 0; bit < 63 * 8; bit++) {
      const attempt = unwrapDataSecret(masterKeys, owner, flipped(wrapped, bit >> 3, 1 << (bit & 7)))
      await expect(attempt, `bit ${bit}`).rejects.toStrictEqual(new UnwrapError())
    }
  })

  it('is never the same twice, nor is the secret', async () => {
    const masterKeys = await makeMasters()
    const secret = generateDataSecret()
    expect(await wrapDataSecret(masterKeys, 1, owner, secret)).not.toEqual(
      await wrapDataSecret(masterKeys, 1, owner, secret),
    )
    expect(generateDataSecret()).not.toEqual(secret)
  })

  it('needs master keys of 32 bytes whose number fits two, and a secret of 32', async () => {
    for (const length of [0, 16, 31, 33]) {
      await expect(toMasterKeys(new Map([[1, new Uint8Array(length)]])), `${length} bytes`).rejects.toThrow(RangeError)
    }
    for (const number of [-1, 0.5, 65_536, Number.NaN]) {
      await expect(toMasterKeys(new Map([[number, masterSecret()]])), `${number}`).rejects.toThrow(RangeError)
    }
    const masterKeys = await toMasterKeys(
      new Map([
        [0, masterSecret()],
        [65_535, masterSecret()],
      ]),
    )
    expect(toMasterNumber(await wrapDataSecret(masterKeys, 65_535, owner, dataSecret()))).toBe(65_535)
    await expect(wrapDataSecret(masterKeys, 1, owner, dataSecret())).rejects.toThrow(RangeError)
    await expect(wrapDataSecret(masterKeys, 0, owner, new Uint8Array(31))).rejects.toThrow(RangeError)
  })
})

describe('the bytes that are bound', () => {
  it('hold a uuid in one spelling only', () => {
    expect(uuid('00112233-4455-6677-8899-aabbccddeeff')).toEqual(
      new Uint8Array(hexToBytes('00112233445566778899aabbccddeeff')),
    )
    for (const text of ['', TENANT.toUpperCase(), `{${TENANT}}`, TENANT.replaceAll('-', ''), `${TENANT}a`]) {
      expect(() => uuid(text), text).toThrow(RangeError)
    }
  })

  it('hold a text in NFC behind its length in bytes', () => {
    expect(bytesToHex(prefixed('e\u0301'))).toBe('0002c3a9')
    expect(prefixed('\u00e9')).toEqual(prefixed('e\u0301'))
    expect(prefixed('')).toEqual(new Uint8Array(2))
    expect(prefixed('a'.repeat(65_535))).toHaveLength(65_537)
    expect(() => prefixed('a'.repeat(65_536))).toThrow(RangeError)
    expect(() => prefixed('\ud800')).toThrow(RangeError)
  })

  it('hold numbers of two bytes, the high one first', () => {
    expect(u16(0x0102)).toEqual(Uint8Array.of(1, 2))
    for (const value of [-1, 1.5, 65_536, Number.NaN]) expect(() => u16(value), `${value}`).toThrow(RangeError)
  })
})

describe('a sealed copy', () => {
  it('opens to exactly the bits that were sealed', async () => {
    const keyring = await keyringOf()
    const random = seeded(1)
    for (let round = 0; round < 100; round++) {
      const embedding = checked(unit(gaussians(random)))
      const opened = await open(keyring, FACE, await seal(keyring, FACE, embedding))
      if (opened === 'not opened') throw new Error('it did not open')
      expect(bytesOf(opened)).toEqual(bytesOf(embedding))
    }
  })

  it('keeps the sign of a zero and the smallest numbers', async () => {
    const keyring = await keyringOf()
    const embedding = checked([1, -0, 1e-45, -1e-40, ...Array(508).fill(0)])
    const opened = await open(keyring, FACE, await seal(keyring, FACE, embedding))
    // toEqual tells -0 from 0
    expect(opened).toEqual(Float32Array.of(1, -0, 1e-45, -1e-40, ...Array(508).fill(0)))
  })

  it('opens where it lies within a larger buffer', async () => {
    const keyring = await keyringOf()
    const sealed = await seal(keyring, FACE, vectorEmbedding)
    const buffer = new Uint8Array(3000)
    buffer.set(sealed, 5)
    expect(await open(keyring, FACE, buffer.subarray(5, 5 + sealed.length))).toEqual(vectorEmbedding)
  })

  it('is never the same twice', async () => {
    const keyring = await keyringOf()
    expect(await seal(keyring, FACE, vectorEmbedding)).not.toEqual(await seal(keyring, FACE, vectorEmbedding))
  })

  it('is refused with any field of its associated data changed', async () => {
    const keyring = await keyringOf()
    const sealed = await seal(keyring, FACE, vectorEmbedding)
    const opened = (ring: Keyring, face: SealedFace, bytes = sealed) => open(ring, face, bytes)
    expect(await opened(keyring, FACE)).toEqual(vectorEmbedding)
    // the key itself stays, so that only the associated data can refuse
    expect(await opened({ ...keyring, tenantId: RIVAL }, FACE)).toBe('not opened')
    expect(await opened({ ...keyring, version: 2 }, FACE)).toBe('not opened')
    const relabeled = sealed.slice()
    relabeled[2] = 2
    expect(await opened({ ...keyring, version: 2 }, FACE, relabeled)).toBe('not opened')
    for (const change of [
      { id: TENANT },
      { externalId: 'user-43' },
      { externalId: 'User-42' },
      { externalId: '' },
      { model: 'arcface-512@2' },
      // the same letters, cut elsewhere
      { externalId: 'user-4', model: `2${MODEL}` },
      { externalId: `user-42${MODEL.slice(0, 1)}`, model: MODEL.slice(1) },
    ]) {
      expect(await opened(keyring, { ...FACE, ...change }), JSON.stringify(change)).toBe('not opened')
    }
  })

  it('is refused under the keys of a rival, of another version or of another secret', async () => {
    const sealed = await seal(await keyringOf(), FACE, vectorEmbedding)
    expect(await open(await keyringOf({ tenantId: RIVAL }), FACE, sealed)).toBe('not opened')
    expect(await open(await keyringOf({ version: 2 }), FACE, sealed)).toBe('not opened')
    expect(await open(await keyringOf({}, masterSecret()), FACE, sealed)).toBe('not opened')
    // not the associated data alone: a rival's key under this tenant's name
    const { sealingKey } = await keyringOf({ tenantId: RIVAL })
    expect(await open({ ...(await keyringOf()), sealingKey }, FACE, sealed)).toBe('not opened')
    const other = await keyringOf({ version: 2 })
    expect(await open({ ...(await keyringOf()), sealingKey: other.sealingKey }, FACE, sealed)).toBe('not opened')
  })

  it('is refused with any byte flipped', async () => {
    const keyring = await keyringOf()
    const sealed = await seal(keyring, FACE, vectorEmbedding)
    for (let at = 0; at < sealed.length; at++) {
      expect(await open(keyring, FACE, flipped(sealed, at, 1 << (at & 7))), `byte ${at}`).toBe('not opened')
    }
  })

  it('is refused cut or lengthened', async () => {
    const keyring = await keyringOf()
    const sealed = await seal(keyring, FACE, vectorEmbedding)
    for (const length of [0, 1, 3, 30, 31, 2078]) {
      expect(await open(keyring, FACE, sealed.slice(0, length)), `${length} bytes`).toBe('not opened')
    }
    expect(await open(keyring, FACE, new Uint8Array(concatBytes(sealed, new Uint8Array(1))))).toBe('not opened')
  })

  it('is refused when what was encrypted well is no embedding', async () => {
    const keyring = await keyringOf()
    const associated = associatedOf(TENANT, 1, FACE)
    for (const length of [0, 2047, 2049]) {
      const box = await encrypt(keyring.sealingKey, new Uint8Array(length), new Uint8Array(associated))
      const sealed = new Uint8Array(concatBytes(Uint8Array.of(1, 0, 1), box))
      expect(await open(keyring, FACE, sealed), `${length} bytes`).toBe('not opened')
    }
  })
})

describe('a rotation', () => {
  it('keeps the cosine of 1,000 pairs within 1e-6, and the norm within 0.001', async () => {
    const rotation = rotationOf(await keyringOf(), MODEL)
    const random = seeded(2)
    const errors: number[] = []
    const norms: number[] = []
    for (let pair = 0; pair < 1000; pair++) {
      const a = unit(gaussians(random))
      // from opposite to equal, so that every part of the scale is there
      const weight = (pair / 999) * 2 - 1
      const b = unit(gaussians(random)).map((component, i) => component * (1 - Math.abs(weight)) + weight * (a[i] ?? 0))
      const [x, y] = [checked(a), checked(unit(b))]
      const [qx, qy] = [rotate(rotation, x), rotate(rotation, y)]
      errors.push(Math.abs(cosine(x, y) - cosine(qx, qy)))
      norms.push(Math.hypot(...qx), Math.hypot(...qy))
    }
    expect(Math.max(...errors)).toBeLessThanOrEqual(1e-6)
    expect(Math.min(...norms)).toBeGreaterThan(0.999)
    expect(Math.max(...norms)).toBeLessThan(1.001)
  })

  it('leaves nothing of the plain embedding to see in 1,000 stored ones', async () => {
    const rotation = rotationOf(await keyringOf(), MODEL)
    const random = seeded(3)
    const cosines = Array.from({ length: 1000 }, () => {
      const embedding = checked(unit(gaussians(random)))
      return cosine(embedding, rotate(rotation, embedding))
    })
    const mean = cosines.reduce((total, value) => total + value, 0) / cosines.length
    expect(Math.abs(mean)).toBeLessThanOrEqual(0.01)
    expect(Math.max(...cosines.map(Math.abs))).toBeLessThanOrEqual(0.25)
  })

  it('is another one for each tenant, version, model and secret', async () => {
    const models = [MODEL, 'arcface-512@2']
    const [keyring, ...others] = await Promise.all([
      buildKeyring({ tenantId: TENANT, version: 1 }, dataSecret(), models),
      keyringOf({ tenantId: RIVAL }),
      keyringOf({ version: 2 }),
      keyringOf({}, masterSecret()),
    ])
    const own = rotate(rotationOf(keyring, MODEL), vectorEmbedding)
    const rotations = others.map((other) => rotationOf(other, MODEL))
    for (const rotation of [...rotations, rotationOf(keyring, 'arcface-512@2')]) {
      expect(Math.abs(cosine(own, rotate(rotation, vectorEmbedding)))).toBeLessThan(0.25)
    }
    expect(rotate(rotationOf(await keyringOf(), MODEL), vectorEmbedding)).toEqual(own)
  })

  it('costs at most 540 kB, and is not there for a model that was not asked for', async () => {
    const keyring = await keyringOf()
    const { reflectors, signs } = rotationOf(keyring, MODEL)
    // of their own buffers: a view would keep what lies beneath it
    expect(reflectors.buffer.byteLength + signs.buffer.byteLength).toBe(131_327 * 4 + 512)
    expect(reflectors.buffer.byteLength + signs.buffer.byteLength).toBeLessThanOrEqual(540_000)
    expect(() => rotationOf(keyring, 'arcface-512@2')).toThrow(RangeError)
  })

  it('wipes the secrets that it came from', async () => {
    const encrypting = vi.spyOn(crypto.subtle, 'encrypt')
    const key = masterSecret()
    await buildRotation(key)
    expect(key).toEqual(new Uint8Array(32))
    const answer = encrypting.mock.results[0]
    if (answer?.type !== 'return') throw new Error('the stream was not made by WebCrypto')
    expect(new Uint8Array(await answer.value).every((byte) => byte === 0)).toBe(true)

    const deriving = vi.spyOn(crypto.subtle, 'deriveBits')
    const secret = dataSecret()
    const keyring = await buildKeyring({ tenantId: TENANT, version: 1 }, secret, [MODEL])
    expect(secret).toEqual(new Uint8Array(32))
    expect(deriving).toHaveBeenCalledTimes(2)
    for (const { type, value } of deriving.mock.results) {
      if (type !== 'return') throw new Error('a key was not derived by WebCrypto')
      expect(new Uint8Array(await value)).toEqual(new Uint8Array(32))
    }
    await expect(crypto.subtle.exportKey('raw', keyring.sealingKey)).rejects.toThrow()
  })
})

describe('the confirmation of a match', () => {
  /** Enrolled: the vector's embedding. The probe is at this cosine from it. */
  function probeAt(target: number): Embedding {
    const aside = gaussians(seeded(4))
    const dot = aside.reduce((total, component, i) => total + component * (vectorEmbedding[i] ?? 0), 0)
    const orthogonal = unit(aside.map((component, i) => component - dot * (vectorEmbedding[i] ?? 0)))
    const rest = Math.sqrt(1 - target * target)
    return checked(orthogonal.map((component, i) => target * (vectorEmbedding[i] ?? 0) + rest * component))
  }

  async function enrolled(distance: number): Promise<{ keyring: Keyring; match: Match }> {
    const keyring = await keyringOf()
    return { keyring, match: { face: FACE, sealed: await seal(keyring, FACE, vectorEmbedding), distance } }
  }

  it('confirms what the sealed copy says too, up to the threshold and within rounding of it', async () => {
    const { keyring, match } = await enrolled(0.65)
    const probe = probeAt(0.35)
    expect(await confirm(keyring, match, probe, 0.65)).toBe('confirmed')
    expect(await confirm(keyring, match, probe, 0.65 - 9e-6)).toBe('confirmed')
    expect(await confirm(keyring, match, probe, 0.65 - 1.1e-5)).toBe('below threshold')
    expect(await confirm(keyring, match, probeAt(1), 2)).toBe('differs')
  })

  it('agrees with the distance of the rotated pair', async () => {
    const { keyring, match } = await enrolled(0)
    const rotation = rotationOf(keyring, MODEL)
    for (const target of [-0.9, 0, 0.3, 0.9, 1]) {
      const probe = probeAt(target)
      const distance = 1 - cosine(rotate(rotation, probe), rotate(rotation, vectorEmbedding))
      expect(await confirm(keyring, { ...match, distance }, probe, distance)).toBe('confirmed')
    }
  })

  it('tells a distance that differs by more than a thousandth, in either direction, or is no number', async () => {
    const { keyring, match } = await enrolled(0.65)
    const probe = probeAt(0.35)
    for (const [distance, outcome] of [
      [0.65 - 0.00101, 'differs'],
      [0.65 - 0.00099, 'confirmed'],
      [0.65 + 0.00099, 'confirmed'],
      [0.65 + 0.00101, 'differs'],
      [0, 'differs'],
      [Number.NaN, 'differs'],
      [Number.NEGATIVE_INFINITY, 'differs'],
    ] as const) {
      expect(await confirm(keyring, { ...match, distance }, probe, 0.7), `${distance}`).toBe(outcome)
    }
    expect(await confirm(keyring, match, probe, Number.NaN)).toBe('below threshold')
  })

  it('tells a sealed copy of another face, tenant or version, and one that was altered', async () => {
    const { keyring, match } = await enrolled(0)
    const probe = vectorEmbedding
    expect(await confirm(keyring, match, probe, 0.65)).toBe('confirmed')
    const other = { ...FACE, id: RIVAL, externalId: 'user-43' }
    const sealedOfOther = await seal(keyring, other, vectorEmbedding)
    expect(await confirm(keyring, { ...match, sealed: sealedOfOther }, probe, 0.65)).toBe('not opened')
    const rival = await keyringOf({ tenantId: RIVAL })
    const sealedOfRival = await seal(rival, FACE, vectorEmbedding)
    expect(await confirm(keyring, { ...match, sealed: sealedOfRival }, probe, 0.65)).toBe('not opened')
    expect(await confirm(rival, match, probe, 0.65)).toBe('not opened')
    expect(await confirm(await keyringOf({ version: 2 }), match, probe, 0.65)).toBe('not opened')
    expect(await confirm(keyring, { ...match, sealed: flipped(match.sealed, 100) }, probe, 0.65)).toBe('not opened')
    expect(await confirm(keyring, { ...match, sealed: new Uint8Array(0) }, probe, 0.65)).toBe('not opened')
  })
})

describe('two tenants', () => {
  const PEOPLE = 6000

  it('cannot be linked by their stored embeddings (Gomez-Barrero D_sys)', async () => {
    const own = rotationOf(await keyringOf(), MODEL)
    const rival = rotationOf(await keyringOf({ tenantId: RIVAL }, masterSecret()), MODEL)
    const random = seeded(5)
    // two pictures of each person, at a cosine of about 0.6: one is enrolled here, the other there
    const plain: [Embedding, Embedding][] = []
    const stored: [RotatedEmbedding, RotatedEmbedding][] = []
    for (let person = 0; person < PEOPLE; person++) {
      const identity = gaussians(random)
      const [a, b] = [0, 1].map(() => {
        const noise = gaussians(random)
        return checked(unit(identity.map((component, i) => component + 0.8 * (noise[i] ?? 0))))
      })
      if (!a || !b) throw new Error('two pictures were made')
      plain.push([a, b])
      stored.push([rotate(own, a), rotate(rival, b)])
    }
    const linkable = systemLinkability(scores(plain, 0), scores(plain, 1))
    const linkability = systemLinkability(scores(stored, 0), scores(stored, 1))
    // what the measure says of scores that have nothing to tell: strangers against other strangers
    const floor = systemLinkability(scores(stored, 2), scores(stored, 1))
    console.log(
      `D_sys over ${PEOPLE} mated scores: plain ${linkable.toFixed(4)}, two tenants ${linkability.toFixed(4)}, floor ${floor.toFixed(4)}`,
    )
    expect(linkable).toBeGreaterThan(0.9)
    expect(linkability).toBeLessThanOrEqual(0.06)
    expect(linkability).toBeLessThanOrEqual(floor + 0.02)
  })

  /** Each person here against the one `shift` places further there: 0 for the same person. */
  function scores(pairs: readonly (readonly [Float32Array, Float32Array])[], shift: number): number[] {
    return pairs.map(([here], i) => {
      const there = pairs[(i + shift) % pairs.length]?.[1]
      if (!there) throw new Error('there is nobody there')
      return cosine(here, there)
    })
  }
})

// The second implementation: written from the specification on @noble, sharing no line with the first.

function derive(secret: Uint8Array, salt: Uint8Array, info: Uint8Array): Uint8Array {
  return hkdf(sha256, secret, salt, info, 32)
}

function bigEndian(value: number): Uint8Array {
  return hexToBytes(value.toString(16).padStart(4, '0'))
}

function lengthPrefixed(text: string): Uint8Array {
  const bytes = utf8ToBytes(text.normalize('NFC'))
  return concatBytes(bigEndian(bytes.length), bytes)
}

/** K_seal, K_rot and S. */
function deriveKeys(tenantId: string, version: number, secret: Uint8Array, model: string) {
  const infoOf = (name: string) => concatBytes(utf8ToBytes(`rekko/pt1/${name}\0`), bigEndian(version))
  const rotation = derive(secret, bare(tenantId), concatBytes(infoOf('rotation'), lengthPrefixed(model)))
  return {
    seal: derive(secret, bare(tenantId), infoOf('seal')),
    rotation,
    stream: ctr(rotation, new Uint8Array(16)).encrypt(new Uint8Array(525_376)),
  }
}

function associatedOf(tenantId: string, version: number, face: SealedFace): Uint8Array {
  return concatBytes(
    utf8ToBytes('rekko/pt1/face\0\u0001'),
    bigEndian(version),
    bare(tenantId),
    bare(face.id),
    lengthPrefixed(face.externalId),
    lengthPrefixed(face.model),
  )
}

/** Q e, with plain arrays and the reflectors rounded to float32. */
function rotateAgain(stream: Uint8Array, embedding: Float32Array): number[] {
  const view = new DataView(stream.buffer, stream.byteOffset)
  const normal: number[] = []
  for (let offset = 0; offset < 525_312; offset += 8) {
    const u1 = (view.getUint32(offset, true) + 0.5) / 4294967296
    const u2 = (2 * Math.PI * view.getUint32(offset + 4, true)) / 4294967296
    const r = Math.sqrt(-2 * Math.log(u1))
    normal.push(r * Math.cos(u2), r * Math.sin(u2))
  }
  let y = Array.from(embedding, (component, i) => {
    const byte = stream[525_312 + Math.floor(i / 8)] ?? 0
    return Math.floor(byte / 2 ** (i % 8)) % 2 === 1 ? -component : component
  })
  for (let k = 512; k >= 2; k--) {
    const [head = 0, ...tail] = normal.splice(0, k)
    const length = Math.hypot(head, ...tail)
    const x = [head >= 0 ? head + length : head - length, ...tail]
    const norm = Math.hypot(...x)
    const u = x.map((component) => Math.fround((component * Math.SQRT2) / norm))
    const fixed = y.slice(0, 512 - k)
    const moving = y.slice(512 - k)
    const dot = moving.reduce((total, component, i) => total + component * (u[i] ?? 0), 0)
    y = [...fixed, ...moving.map((component, i) => component - (u[i] ?? 0) * dot)]
  }
  return y
}

describe('a second implementation on @noble', () => {
  const random = seeded(6)
  const bytes = (length: number) => Uint8Array.from({ length }, () => Math.floor(random() * 256))
  const id = () => bytesToHex(bytes(16)).replace(/^(.{8})(.{4})(.{4})(.{4})(.{12})$/, '$1-$2-$3-$4-$5')
  const cases = ['Zoë\u0301', '', '顔-7', 'x'.repeat(255), 'a b'].map((externalId, round) => ({
    externalId,
    model: round % 2 ? MODEL : `other-${round}@é`,
    tenantId: id(),
    id: id(),
    version: Math.floor(random() * 65_536),
    masterNumber: Math.floor(random() * 65_536),
    master: bytes(32),
    secret: bytes(32),
    embedding: checked(unit(gaussians(random))),
  }))

  it.each(cases)('agrees on keys, wrapped secret, rotation and sealed copy ($#)', async (given) => {
    const { tenantId, version, masterNumber, master, secret, model, embedding } = given
    const owner = { tenantId, version }
    const masterKeys = await toMasterKeys(new Map([[masterNumber, master]]))
    const kek = derive(master, new Uint8Array(32), utf8ToBytes('rekko/pt1/kek'))
    const bound = concatBytes(
      utf8ToBytes('rekko/pt1/wrap\0'),
      bigEndian(masterNumber),
      bare(tenantId),
      bigEndian(version),
    )

    const wrapped = await wrapDataSecret(masterKeys, masterNumber, owner, secret)
    expect(bytesToHex(wrapped.subarray(0, 3))).toBe(bytesToHex(concatBytes(Uint8Array.of(1), bigEndian(masterNumber))))
    expect(gcm(kek, wrapped.subarray(3, 15), bound).decrypt(wrapped.subarray(15))).toEqual(secret)
    const nonce = bytes(12)
    const theirs = concatBytes(Uint8Array.of(1), bigEndian(masterNumber), nonce, gcm(kek, nonce, bound).encrypt(secret))
    expect(await unwrapDataSecret(masterKeys, owner, new Uint8Array(theirs))).toEqual(secret)

    const keys = deriveKeys(tenantId, version, secret, model)
    const { derived, streams } = watchKeys()
    const keyring = await buildKeyring(owner, secret.slice(), [model])
    vi.restoreAllMocks()
    expect(derived).toEqual([bytesToHex(keys.seal), bytesToHex(keys.rotation)])
    // a megabyte of digits makes no good message
    expect(streams[0] === bytesToHex(keys.stream)).toBe(true)

    const expected = rotateAgain(keys.stream, embedding)
    const y = rotate(rotationOf(keyring, model), embedding)
    expect(Math.max(...expected.map((component, i) => Math.abs(component - (y[i] ?? 1))))).toBeLessThan(1e-7)

    const associated = associatedOf(tenantId, version, given)
    const sealed = await seal(keyring, given, embedding)
    expect(bytesToHex(sealed.subarray(0, 3))).toBe(bytesToHex(concatBytes(Uint8Array.of(1), bigEndian(version))))
    const plaintext = gcm(keys.seal, sealed.subarray(3, 15), associated).decrypt(sealed.subarray(15))
    expect(plaintext).toEqual(bytesOf(embedding))
    const box = gcm(keys.seal, nonce, associated).encrypt(plaintext)
    const again = new Uint8Array(concatBytes(Uint8Array.of(1), bigEndian(version), nonce, box))
    expect(await open(keyring, given, again)).toEqual(embedding)
  })

  it('agrees where the stream is zero, and a logarithm or a sign could fail', async () => {
    const stream = bytes(525_376)
    const words = new DataView(stream.buffer)
    // an eighth of the pairs, so that some are the first of their vector
    for (let offset = 0; offset < 525_312; offset += 8) if (random() < 1 / 8) words.setBigUint64(offset, 0n)
    vi.spyOn(crypto.subtle, 'encrypt').mockResolvedValue(stream.slice().buffer)
    const y = rotate(await buildRotation(masterSecret()), vectorEmbedding)
    const expected = rotateAgain(stream, vectorEmbedding)
    expect(Math.max(...expected.map((component, i) => Math.abs(component - (y[i] ?? 1))))).toBeLessThan(1e-7)
  })
})

interface AeadGroup {
  ivSize: number
  keySize: number
  tagSize: number
  tests: { tcId: number; key: string; iv: string; aad: string; msg: string; ct: string; tag: string; result: string }[]
}

interface HkdfGroup {
  tests: { tcId: number; ikm: string; salt: string; info: string; size: number; okm: string; result: string }[]
}

const wycheproof = env.TEST.wycheproof
if (wycheproof === null) console.log('skipped: REKKO_WYCHEPROOF_DIR names no folder with the vectors of Wycheproof')

describe.skipIf(wycheproof === null)('the vectors of Wycheproof', () => {
  const fromHex = (text: string) => new Uint8Array(hexToBytes(text))

  it('for AES-GCM are judged as their authors judge them, where key, nonce and tag are as long as ours', async () => {
    // the schema of the file
    const { testGroups } = JSON.parse(wycheproof?.aesGcm ?? '') as { testGroups: AeadGroup[] }
    const ours = testGroups.filter(
      ({ ivSize, keySize, tagSize }) => ivSize === 96 && keySize === 256 && tagSize === 128,
    )
    const deviations: number[] = []
    const judged = { valid: 0, invalid: 0 }
    for (const { tcId, key, iv, aad, msg, ct, tag, result } of ours.flatMap(({ tests }) => tests)) {
      const aeadKey = await toAeadKey(fromHex(key))
      const opened = await decrypt(aeadKey, fromHex(iv + ct + tag), fromHex(aad))
      const isRight = opened === null ? result === 'invalid' : result === 'valid' && bytesToHex(opened) === msg
      if (!isRight) deviations.push(tcId)
      judged[opened === null ? 'invalid' : 'valid']++
    }
    expect(deviations).toEqual([])
    // the other 250 have keys, nonces or tags of lengths that PT1 does not know
    expect(judged).toEqual({ valid: 39, invalid: 27 })
  })

  it('for HKDF-SHA-256 come to the same first 32 bytes', async () => {
    // the schema of the file
    const { testGroups } = JSON.parse(wycheproof?.hkdf ?? '') as { testGroups: HkdfGroup[] }
    const valid = testGroups.flatMap(({ tests }) => tests).filter(({ result }) => result === 'valid')
    for (const { tcId, ikm, salt, info, size, okm } of valid) {
      const derived = bytesToHex(await deriveKeyBytes(fromHex(ikm), fromHex(salt), fromHex(info)))
      const length = 2 * Math.min(size, 32)
      expect(derived.slice(0, length), `vector ${tcId}`).toBe(okm.slice(0, length))
    }
    // the other 3 ask for more than HKDF can give
    expect(valid).toHaveLength(83)
  })
})
