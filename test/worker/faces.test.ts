// Proves the gallery: enroll, replace, read, list, change, erase. On a real PostgreSQL with row-level
// security, through the real driver. Fake: the embeddings, which are axes and random directions.
import { describe, expect, it } from 'vitest'
import type { Embedding } from '../../src/face/embedding.ts'
import { rotationOf } from '../../src/face/protection/keyring.ts'
import { fromBase64, toBase64 } from '../../src/face/protection/octets.ts'
import { rotate } from '../../src/face/protection/rotation.ts'
import { open } from '../../src/face/protection/sealed-copy.ts'
import { ARCFACE_512 } from '../../src/face/similarity.ts'
import {
  asAdmin,
  atCosine,
  axis,
  createTenant,
  embed,
  enroll,
  openKeyring,
  randomEmbedding,
  readUsage,
} from './tenant.ts'

interface Page {
  data: { external_id: string }[]
  has_more: boolean
  next_cursor: string | null
}

describe('POST /v1/faces', () => {
  it('enrolls a face, and answers its id and never its embedding', async () => {
    const tenant = await createTenant()
    const response = await tenant.request('POST', '/v1/faces', {
      external_id: 'ada',
      embedding: axis(0),
      metadata: { sector: 'north', seats: [1, 2] },
      quality_score: 0.9123,
    })
    expect(response.status).toBe(201)
    const face = await response.json<Record<string, unknown>>()
    expect(face).toEqual({
      face_id: expect.stringMatching(/^[0-9a-f-]{36}$/),
      external_id: 'ada',
      quality_score: 0.9123,
      created_at: expect.stringMatching(/^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$/),
    })
    expect(response.headers.get('Cache-Control')).toBe('no-store')

    const read = await tenant.request('GET', '/v1/faces/ada')
    expect(await read.json()).toEqual({
      ...face,
      metadata: { sector: 'north', seats: [1, 2] },
      updated_at: face['created_at'],
    })
  })

  it('keeps the embedding exactly, as float32, in both forms: sealed, and rotated to search by', async () => {
    const tenant = await createTenant()
    const embedding = randomEmbedding()
    const float32 = Float32Array.from(embedding)
    const base64 = btoa(String.fromCharCode(...new Uint8Array(float32.buffer)))
    await enroll(tenant, 'as numbers', [...float32])
    const response = await tenant.request('POST', '/v1/faces', { external_id: 'as base64', embedding: base64 })
    expect(response.status).toBe(201)

    const plain = embed([...float32])
    const keyring = await openKeyring(tenant)
    const rows = await asAdmin`
      select id, external_id, embedding::text, encode(sealed, 'base64') as sealed, to_jsonb(f)::text as row
      from faces f where tenant_id = ${tenant.id}`
    expect(rows).toHaveLength(2)
    for (const { id, external_id, embedding: stored, sealed, row } of rows) {
      const face = { id, externalId: external_id, model: ARCFACE_512.id }
      expect(await open(keyring, face, fromBase64(sealed))).toEqual(plain)
      const vector = Float32Array.from(JSON.parse(stored))
      expect(vector).toEqual(rotate(rotationOf(keyring, ARCFACE_512.id), plain))
      const cosine = vector.reduce((sum, component, index) => sum + component * (plain[index] ?? 0), 0)
      expect(Math.abs(cosine)).toBeLessThan(0.25)
      for (const trace of tracesOf(plain)) expect(row).not.toContain(trace)
    }
    // what is looked for can be found
    const [seen] = await asAdmin`
      select jsonb_build_object('v', ${JSON.stringify([...plain])}::vector(512), 'b', decode(${toBase64(new Uint8Array(plain.buffer))}, 'base64'))::text as row`
    const isFound = (trace: string) => seen?.['row'].includes(trace)
    expect(tracesOf(plain).filter(isFound).length).toBeGreaterThan(900)
  })

  it('refuses a second face under the same external_id, and changes and bills nothing', async () => {
    const tenant = await createTenant()
    await enroll(tenant, 'ada', axis(0))
    const before = await (await tenant.request('GET', '/v1/faces/ada')).text()

    const response = await tenant.request('POST', '/v1/faces', { external_id: 'ada', embedding: axis(1) })
    expect(response.status).toBe(409)
    expect(await response.json()).toMatchObject({
      type: 'https://rekko.dev/problems/face-already-exists',
      code: 'FACE_ALREADY_EXISTS',
      status: 409,
    })

    expect(await (await tenant.request('GET', '/v1/faces/ada')).text()).toBe(before)
    expect(await readUsage(tenant)).toMatchObject({ registrations: 1 })
  })
})

describe('PUT /v1/faces/{external_id}', () => {
  it('enrolls with 201, then replaces with 200: a face of another id, enrolled when the first was', async () => {
    const tenant = await createTenant()
    const created = await tenant.request('PUT', '/v1/faces/ada', { embedding: axis(0), metadata: { a: 1 } })
    expect(created.status).toBe(201)
    const face = await created.json<{ face_id: string; created_at: string }>()
    const readTemplate = () => asAdmin`
      select id, encode(sealed, 'hex') as sealed from faces where tenant_id = ${tenant.id}`
    const [first] = await readTemplate()

    const replaced = await tenant.request('PUT', '/v1/faces/ada', { embedding: axis(1), quality_score: 0.5 })
    expect(replaced.status).toBe(200)
    const [second] = await readTemplate()
    expect(await replaced.json()).toEqual({ ...face, face_id: second?.['id'], quality_score: 0.5 })
    // so that the sealed copy of before is of no use
    expect(second?.['id']).not.toBe(first?.['id'])
    expect(second?.['sealed']).not.toBe(first?.['sealed'])

    // the new face is the one that counts, and what was not given is gone
    const decide = (embedding: number[]) =>
      tenant.request('POST', '/v1/faces/verify', { external_id: 'ada', embedding }).then((answer) => answer.json())
    expect(await decide(axis(0))).toMatchObject({ verified: false })
    expect(await decide(axis(1))).toMatchObject({ verified: true })
    expect(await (await tenant.request('GET', '/v1/faces/ada')).json()).toMatchObject({ metadata: {} })
    expect(await readUsage(tenant)).toMatchObject({ registrations: 2 })
  })

  it('of many at once leaves one face, and every answer is one of them', async () => {
    const tenant = await createTenant()
    const replace = (n: number) => tenant.request('PUT', '/v1/faces/ada', { embedding: axis(n), metadata: { n } })
    const answers = await Promise.all(Array.from({ length: 12 }, (_, n) => replace(n)))
    expect(answers.map(({ status }) => status).sort()).toEqual([...Array(11).fill(200), 201])
    const faces = await Promise.all(answers.map((answer) => answer.json<{ face_id: string; created_at: string }>()))
    expect(new Set(faces.map(({ face_id }) => face_id)).size).toBe(12)

    const last = await (await tenant.request('GET', '/v1/faces/ada')).json<{
      face_id: string
      metadata: { n: number }
    }>()
    expect(faces[last.metadata.n]?.face_id).toBe(last.face_id)
    // its sealed copy fits it
    const decision = await tenant.request('POST', '/v1/faces/verify', {
      external_id: 'ada',
      embedding: axis(last.metadata.n),
    })
    expect(await decision.json()).toMatchObject({ verified: true })
    expect(await readUsage(tenant)).toMatchObject({ registrations: 12 })
  })

  it('while the person is verified: each decision is made, of the face before or of the one after', async () => {
    const tenant = await createTenant()
    await enroll(tenant, 'ada', axis(0))
    const answers = await Promise.all(
      Array.from({ length: 24 }, (_, n) =>
        n % 3 === 0
          ? tenant.request('PUT', '/v1/faces/ada', { embedding: axis(0) })
          : tenant.request('POST', '/v1/faces/verify', { external_id: 'ada', embedding: axis(0) }),
      ),
    )
    expect(answers.map(({ status }) => status)).toEqual(Array(24).fill(200))
  })
})

describe('PATCH /v1/faces/{external_id}', () => {
  it('replaces the metadata, leaves the rest, and bills nothing', async () => {
    const tenant = await createTenant()
    const face_id = await enroll(tenant, 'ada', axis(0))
    const response = await tenant.request('PATCH', '/v1/faces/ada', { metadata: { gate: 'B' } })
    expect(response.status).toBe(200)
    expect(await response.json()).toMatchObject({ face_id, external_id: 'ada', metadata: { gate: 'B' } })
    expect(await readUsage(tenant)).toMatchObject({ registrations: 1 })
    expect((await tenant.request('PATCH', '/v1/faces/grace', { metadata: {} })).status).toBe(404)
  })
})

describe('GET /v1/faces', () => {
  it('lists every face once, in pages, by external_id', async () => {
    const tenant = await createTenant()
    const names = ['b', 'a', 'É', 'c', 'Z', 'a/b', '😀']
    for (const [index, name] of names.entries()) await enroll(tenant, name, axis(index))

    const listed: string[] = []
    let cursor: string | null = null
    let pages = 0
    do {
      const response: Response = await tenant.request('GET', `/v1/faces?limit=3${cursor ? `&cursor=${cursor}` : ''}`)
      const page: Page = await response.json()
      expect(page.has_more).toBe(page.next_cursor !== null)
      listed.push(...page.data.map((face) => face.external_id))
      cursor = page.next_cursor
      pages++
    } while (cursor)
    // the order of their UTF-8 bytes
    expect(listed).toEqual(['Z', 'a', 'a/b', 'b', 'c', 'É', '😀'])
    expect(pages).toBe(3)
  })

  it('says that there is no more when the last page is full', async () => {
    const tenant = await createTenant()
    await enroll(tenant, 'a', axis(0))
    await enroll(tenant, 'b', axis(1))
    const page = await (await tenant.request('GET', '/v1/faces?limit=2')).json<Page>()
    expect(page).toMatchObject({ has_more: false, next_cursor: null })
    expect(page.data).toHaveLength(2)
  })
})

describe('DELETE /v1/faces/{external_id}', () => {
  it('erases the person from gallery, searches and audit, once', async () => {
    const tenant = await createTenant()
    await enroll(tenant, 'ada', axis(0))
    await enroll(tenant, 'grace', axis(1))
    for (const name of ['ada', 'grace']) {
      await tenant.request('POST', '/v1/faces/verify', { external_id: name, embedding: axis(0) })
      await tenant.request('POST', '/v1/faces/search', { embedding: name === 'ada' ? axis(0) : axis(1) })
    }

    const response = await tenant.request('DELETE', '/v1/faces/ada')
    expect(response.status).toBe(204)
    expect(await response.text()).toBe('')

    expect((await tenant.request('DELETE', '/v1/faces/ada')).status).toBe(404)
    expect((await tenant.request('GET', '/v1/faces/ada')).status).toBe(404)
    const search = await tenant.request('POST', '/v1/faces/search', { embedding: axis(0) })
    expect(await search.json()).toMatchObject({ matches: [], faces_searched: 1 })

    // the decisions stay, and no longer say about whom; grace's still do
    const audited = await asAdmin`
      select external_id, face_id is null as is_faceless, verified from verifications
      where tenant_id = ${tenant.id} order by created_at`
    expect(audited).toEqual([
      { external_id: null, is_faceless: true, verified: true },
      { external_id: 'grace', is_faceless: false, verified: false },
    ])
    const searches = await asAdmin`
      select external_id, face_id is null as is_faceless, identified from identifications
      where tenant_id = ${tenant.id} order by created_at`
    expect(searches).toEqual([
      { external_id: null, is_faceless: true, identified: true },
      { external_id: 'grace', is_faceless: false, identified: true },
      { external_id: null, is_faceless: true, identified: false },
    ])
    expect(await readUsage(tenant)).toMatchObject({ registrations: 2, deletions: 1 })
  })

  it('lets the person be enrolled again, as a new face', async () => {
    const tenant = await createTenant()
    const first = await enroll(tenant, 'ada', axis(0))
    await tenant.request('DELETE', '/v1/faces/ada')
    const second = await enroll(tenant, 'ada', atCosine(0.9, 0, 1))
    expect(second).not.toBe(first)
  })
})

/** What a row in clear would have of an embedding: its numbers as PostgreSQL writes them, and the bytes of two in a row. */
function tracesOf(plain: Embedding): string[] {
  const view = new DataView(plain.buffer, plain.byteOffset, plain.byteLength)
  // as they are in memory (PostgreSQL's too), and turned around, as they travel
  const bytesOf = (position: number, isTurned: boolean) =>
    view
      .getUint32(position * 4, isTurned)
      .toString(16)
      .padStart(8, '0')
  const pairs = Array.from({ length: plain.length - 1 }, (_, index) =>
    [false, true].map((isTurned) => bytesOf(index, isTurned) + bytesOf(index + 1, isTurned)),
  ).flat()
  const numbers = [...plain].map(toShortest).filter((text) => text.length >= 9)
  return [...numbers, ...pairs]
}

/** The shortest decimal that is this float32. */
function toShortest(component: number): string {
  const candidates = [6, 7, 8, 9].map((digits) => Number(component.toPrecision(digits)))
  return String(candidates.find((candidate) => Math.fround(candidate) === component))
}
