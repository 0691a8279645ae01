// Proves 1:1 and 1:N: who matches and who does not, on both sides of the threshold, and that the audit
// and the metering say what was decided. On a real PostgreSQL. Fake: the embeddings, whose cosines can
// be worked out by hand, and the recognizer, for which a picture is a text that says what it shows.
import { describe, expect, it } from 'vitest'
import { SCOPES } from '../../src/auth/api-key.ts'
import { SHORTLIST_SIZE } from '../../src/db/templates.ts'
import { rotationOf } from '../../src/face/protection/keyring.ts'
import type { Rotation } from '../../src/face/protection/rotation.ts'
import { ARCFACE_512, toDistance } from '../../src/face/similarity.ts'
import { inBase64, pictureOf } from './picture.ts'
import {
  asAdmin,
  atCosine,
  axis,
  countRows,
  createKey,
  createTenant,
  enroll,
  enrollCrowd,
  enrollMany,
  halves,
  openKeyring,
  readUsage,
} from './tenant.ts'

const VERIFICATION_COSINE = 0.35
const IDENTIFICATION_COSINE = 0.38

interface Decision {
  verification_id: string
  verified: boolean
  confidence?: number
}

interface Search {
  search_id: string
  matches: { external_id: string; face_id: string; confidence?: number }[]
  faces_searched: number
}

describe('the distance of a threshold', () => {
  it('is what an exact cosine at the threshold has, in spite of binary fractions', () => {
    expect(toDistance(0.675)).toBe(0.65)
    expect(2 * (1 - 0.675)).not.toBe(0.65)
    expect(toDistance(0)).toBe(2)
    expect(toDistance(1)).toBe(0)
  })
})

describe('POST /v1/faces/verify', () => {
  it('accepts the person and refuses somebody else', async () => {
    const tenant = await createTenant()
    await enroll(tenant, 'ada', axis(0))
    const embedding = atCosine(0.8001, 0, 1)
    const ada = await tenant.request('POST', '/v1/faces/verify', { external_id: 'ada', embedding })
    expect(ada.status).toBe(200)
    expect(await ada.json()).toEqual({
      verification_id: expect.stringMatching(/^[0-9a-f-]{36}$/),
      verified: true,
      confidence: 0.9,
      threshold: 0.675,
      liveness_passed: null,
      latency_ms: expect.any(Number),
    })
    const other = await tenant.request('POST', '/v1/faces/verify', { external_id: 'ada', embedding: axis(1) })
    expect(other.status).toBe(200)
    expect(await other.json()).toMatchObject({ verified: false, confidence: 0.5 })
  })

  // 0.35 has no exact float32, and pgvector adds 512 products in float32: what that rounds must not decide here
  it.each([
    ['accepts', VERIFICATION_COSINE + 1e-5, true],
    ['refuses', VERIFICATION_COSINE - 1e-5, false],
  ])('%s a cosine of %d, next to the threshold', async (_, cosine, verified) => {
    const tenant = await createTenant()
    await enroll(tenant, 'ada', axis(0))
    const response = await tenant.request('POST', '/v1/faces/verify', {
      external_id: 'ada',
      embedding: atCosine(cosine, 0, 1),
    })
    expect(await response.json()).toMatchObject({ verified })
  })

  it('counts a cosine of exactly the threshold as a match, whatever the rotation of the tenant', async () => {
    // a threshold of 0.75 is a cosine of 0.5
    for (let rotation = 0; rotation < 6; rotation++) {
      const tenant = await createTenant()
      await asAdmin`update tenants set settings = '{"verification_threshold": 0.75}' where id = ${tenant.id}`
      await enroll(tenant, 'ada', axis(0))
      const response = await tenant.request('POST', '/v1/faces/verify', { external_id: 'ada', embedding: halves() })
      expect(await response.json()).toMatchObject({ verified: true, confidence: 0.75, threshold: 0.75 })
    }
  })

  it('never takes a distance that is no number for a match', async () => {
    const tenant = await createTenant()
    await enroll(tenant, 'ada', axis(0))
    const zero = JSON.stringify(axis(0).map(() => 0))
    // as if both walls before it had fallen: the Worker's own check and the constraint
    await asAdmin`alter table faces drop constraint faces_embedding_check`
    try {
      await asAdmin`update faces set embedding = ${zero}::vector where tenant_id = ${tenant.id}`
      const verification = await tenant.request('POST', '/v1/faces/verify', { external_id: 'ada', embedding: axis(0) })
      expect(await verification.json()).toMatchObject({ verified: false })
      const search = await tenant.request('POST', '/v1/faces/search', { embedding: axis(0) })
      expect(await search.json()).toMatchObject({ matches: [], faces_searched: 1 })
    } finally {
      await asAdmin`delete from faces where tenant_id = ${tenant.id}`
      await asAdmin`
        alter table faces add constraint faces_embedding_check check (vector_norm(embedding) between 0.999 and 1.001)`
    }
  })

  it('never lets a tenant go below the floor of the model', async () => {
    const tenant = await createTenant()
    await asAdmin`update tenants set settings = '{"verification_threshold": 0.1}' where id = ${tenant.id}`
    await enroll(tenant, 'ada', axis(0))
    const response = await tenant.request('POST', '/v1/faces/verify', { external_id: 'ada', embedding: axis(1) })
    expect(await response.json()).toMatchObject({ verified: false, threshold: ARCFACE_512.floor })
  })

  it('does not show a refused person the threshold itself as their confidence', async () => {
    // 0.67499 rounds to 0.6750
    const tenant = await createTenant()
    await enroll(tenant, 'ada', axis(0))
    const response = await tenant.request('POST', '/v1/faces/verify', {
      external_id: 'ada',
      embedding: atCosine(0.34998, 0, 1),
    })
    expect(await response.json()).toMatchObject({ verified: false, confidence: 0.6749 })
  })

  it('answers 404 for somebody who is not enrolled, and records and bills nothing', async () => {
    const tenant = await createTenant()
    const before = await countRows(tenant)
    const response = await tenant.request('POST', '/v1/faces/verify', { external_id: 'nobody', embedding: axis(0) })
    expect(response.status).toBe(404)
    expect(await response.json()).toMatchObject({ code: 'FACE_NOT_FOUND' })
    expect(await countRows(tenant)).toEqual(before)
  })

  it('refuses to compare with a face that another model made, and records nothing', async () => {
    const tenant = await createTenant()
    await enroll(tenant, 'ada', axis(0))
    await asAdmin`update faces set model = 'other@1' where tenant_id = ${tenant.id}`
    const before = await countRows(tenant)
    const response = await tenant.request('POST', '/v1/faces/verify', { external_id: 'ada', embedding: axis(0) })
    expect(response.status).toBe(409)
    expect(await response.json()).toMatchObject({ code: 'MODEL_MISMATCH' })
    expect(await countRows(tenant)).toEqual(before)
  })

  it('records exactly what it answered', async () => {
    const tenant = await createTenant()
    const faceId = await enroll(tenant, 'ada', axis(0))
    const response = await tenant.request(
      'POST',
      '/v1/faces/verify',
      { external_id: 'ada', embedding: atCosine(0.5, 0, 1) },
      { 'X-Request-Id': 'gate-7-0001' },
    )
    const decision = await response.json<Decision>()
    expect(response.headers.get('X-Request-Id')).toBe('gate-7-0001')

    const audited = await tenant.request('GET', `/v1/verifications/${decision.verification_id}`)
    expect(audited.status).toBe(200)
    expect(await audited.json()).toEqual({
      verification_id: decision.verification_id,
      external_id: 'ada',
      face_id: faceId,
      verified: decision.verified,
      confidence: decision.confidence,
      threshold: 0.675,
      model: 'arcface-512@1',
      liveness_passed: null,
      probe_quality: null,
      latency_ms: expect.any(Number),
      request_id: 'gate-7-0001',
      created_at: expect.any(String),
    })
    const unknown = await tenant.request('GET', `/v1/verifications/${crypto.randomUUID()}`)
    expect(unknown.status).toBe(404)
  })

  it('records of a picture how good it was and whether it shows a live person, as it answered', async () => {
    const tenant = await createTenant()
    await enroll(tenant, 'ada', axis(0))
    const read = async (method: string, path: string, body?: object) =>
      (await tenant.request(method, path, body)).json<Record<string, unknown>>()
    for (const [more, liveness_passed, probe_quality] of [
      [{ liveness: 0.9, quality: 0.87659 }, true, 0.8765],
      [{ liveness: 0.1, quality: 1 }, false, 1],
      [{ quality: 0 }, null, 0],
    ] as const) {
      const image = inBase64(JSON.stringify({ faces: [axis(0)], ...more }))
      const decision = await read('POST', '/v1/faces/verify', { external_id: 'ada', image })
      expect(decision).toMatchObject({ verified: true, liveness_passed })
      expect(decision).not.toHaveProperty('probe_quality')
      expect(await read('GET', `/v1/verifications/${decision['verification_id']}`)).toMatchObject({
        verified: true,
        confidence: decision['confidence'],
        liveness_passed,
        probe_quality,
      })
      const { search_id } = await read('POST', '/v1/faces/search', { image })
      const { data } = await read('GET', '/v1/identifications?limit=1')
      expect(data).toEqual([
        {
          search_id,
          identified: true,
          external_id: 'ada',
          face_id: expect.stringMatching(/^[0-9a-f-]{36}$/),
          confidence: 1,
          threshold: 0.69,
          model: 'arcface-512@1',
          faces_searched: 1,
          faces_matched: 1,
          liveness_passed,
          probe_quality,
          latency_ms: expect.any(Number),
          request_id: expect.any(String),
          created_at: expect.any(String),
        },
      ])
    }
  })

  it('decides of a picture by the embedding in it, next to the threshold', async () => {
    const tenant = await createTenant()
    await enroll(tenant, 'ada', axis(0))
    for (const [cosine, verified] of [
      [VERIFICATION_COSINE + 1e-5, true],
      [VERIFICATION_COSINE - 1e-5, false],
    ] as const) {
      const image = inBase64(pictureOf(atCosine(cosine, 0, 1)))
      const response = await tenant.request('POST', '/v1/faces/verify', { external_id: 'ada', image })
      expect(await response.json()).toMatchObject({ verified })
    }
    for (const [cosine, matches] of [
      [IDENTIFICATION_COSINE + 1e-5, [{ external_id: 'ada' }]],
      [IDENTIFICATION_COSINE - 1e-5, []],
    ] as const) {
      const image = inBase64(pictureOf(atCosine(cosine, 0, 1)))
      const response = await tenant.request('POST', '/v1/faces/search', { image })
      expect((await response.json<Search>()).matches).toMatchObject(matches)
    }
  })

  it('counts a picture of nobody who is alive against the attempts of a person, where liveness is required', async () => {
    const tenant = await createTenant()
    await asAdmin`
      update tenants set settings = '{"require_liveness": true, "failed_verifications_per_hour": 2}'
      where id = ${tenant.id}`
    const image = (liveness: number) => inBase64(pictureOf(axis(0), { liveness }))
    expect((await tenant.request('PUT', '/v1/faces/ada', { image: image(0.9) })).status).toBe(201)
    const claim = async (liveness: number) =>
      (await tenant.request('POST', '/v1/faces/verify', { external_id: 'ada', image: image(liveness) })).status
    expect([await claim(0.1), await claim(0.9), await claim(0.1), await claim(0.9)]).toEqual([422, 200, 422, 429])
  })

  it('shows confidence only to a key with scores:read', async () => {
    const tenant = await createTenant()
    const gate = await createKey(
      tenant.id,
      SCOPES.filter((scope) => scope !== 'scores:read'),
    )
    await enroll(tenant, 'ada', axis(0))
    for (const [path, body] of [
      ['/v1/faces/verify', { external_id: 'ada', embedding: axis(0) }],
      ['/v1/faces/search', { embedding: axis(0) }],
      ['/v1/faces/compare', { first: { embedding: axis(0) }, second: { embedding: axis(0) } }],
    ] as const) {
      expect(await (await tenant.request('POST', path, body)).text()).toContain('"confidence":')
      const withoutScores = await gate.request('POST', path, body)
      expect(withoutScores.status).toBe(200)
      expect(await withoutScores.text()).not.toContain('confidence')
    }
    for (const path of ['/v1/verifications', '/v1/identifications']) {
      expect(await (await tenant.request('GET', path)).text()).toContain('"confidence":')
      const withoutScores = await gate.request('GET', path)
      expect(withoutScores.status).toBe(200)
      expect(await withoutScores.text()).not.toContain('confidence')
    }
  })
})

describe('POST /v1/faces/search', () => {
  it('names the person, best first, and nobody below the threshold', async () => {
    const tenant = await createTenant()
    await enroll(tenant, 'far', atCosine(0.2, 0, 3))
    const near = await enroll(tenant, 'near', atCosine(0.6001, 0, 1))
    const nearest = await enroll(tenant, 'nearest', atCosine(0.9001, 0, 2))
    const response = await tenant.request('POST', '/v1/faces/search', { embedding: axis(0) })
    expect(response.status).toBe(200)
    expect(await response.json()).toEqual({
      search_id: expect.stringMatching(/^[0-9a-f-]{36}$/),
      matches: [
        { external_id: 'nearest', face_id: nearest, confidence: 0.95 },
        { external_id: 'near', face_id: near, confidence: 0.8 },
      ],
      faces_searched: 3,
      latency_ms: expect.any(Number),
    })
  })

  it.each([
    ['names', IDENTIFICATION_COSINE + 1e-5, 1],
    ['does not name', IDENTIFICATION_COSINE - 1e-5, 0],
  ])('%s somebody at a cosine of %d, next to the threshold of 1:N', async (_, cosine, matches) => {
    const tenant = await createTenant()
    await enroll(tenant, 'ada', axis(0))
    const response = await tenant.request('POST', '/v1/faces/search', { embedding: atCosine(cosine, 0, 1) })
    expect((await response.json<Search>()).matches).toHaveLength(matches)
  })

  it('counts a cosine of exactly the threshold as a match, whatever the rotation of the tenant', async () => {
    for (let rotation = 0; rotation < 6; rotation++) {
      const tenant = await createTenant()
      await asAdmin`update tenants set settings = '{"identification_threshold": 0.75}' where id = ${tenant.id}`
      await enroll(tenant, 'ada', axis(0))
      const response = await tenant.request('POST', '/v1/faces/search', { embedding: halves() })
      expect((await response.json<Search>()).matches).toMatchObject([{ external_id: 'ada', confidence: 0.75 }])
    }
  })

  it('answers as many matches as were asked for, 5 by default', async () => {
    const tenant = await createTenant()
    for (let index = 1; index <= 7; index++) await enroll(tenant, `person ${index}`, atCosine(0.9, 0, index))
    const search = async (body: object) => {
      const response = await tenant.request('POST', '/v1/faces/search', { embedding: axis(0), ...body })
      return (await response.json<Search>()).matches.length
    }
    expect(await search({})).toBe(5)
    expect(await search({ max_results: 1 })).toBe(1)
    expect(await search({ max_results: 20 })).toBe(7)
  })

  it('records and bills a search that finds nobody, in an empty gallery too', async () => {
    const tenant = await createTenant()
    const empty = await tenant.request('POST', '/v1/faces/search', { embedding: axis(0) })
    expect(await empty.json()).toMatchObject({ matches: [], faces_searched: 0 })
    await enroll(tenant, 'ada', axis(0))
    const stranger = await tenant.request('POST', '/v1/faces/search', { embedding: axis(1) })
    expect(await stranger.json()).toMatchObject({ matches: [], faces_searched: 1 })

    const audit = await tenant.request('GET', '/v1/identifications')
    expect(await audit.json()).toMatchObject({
      data: [
        { identified: false, external_id: null, face_id: null, confidence: 0.5, faces_searched: 1, faces_matched: 0 },
        { identified: false, external_id: null, face_id: null, confidence: null, faces_searched: 0, faces_matched: 0 },
      ],
    })
    expect(await readUsage(tenant)).toMatchObject({ identifications: 2 })
  })

  it('finds the same people as brute force, and only those', async () => {
    const tenant = await createTenant()
    // more than the shortlist takes whole, so that the sign codes make it
    const gallery = await enrollCrowd(tenant, 1_200)
    for (let probe = 0; probe < 20; probe++) {
      // a third of the way from one person to another: near enough to the first to be named
      const from = gallery[probe]?.embedding ?? []
      const towards = gallery[probe + 100]?.embedding ?? []
      const mixed = from.map((component, index) => component + 0.7 * (towards[index] ?? 0))
      const norm = Math.hypot(...mixed)
      const embedding = mixed.map((component) => component / norm)

      const expected = gallery
        .map((person) => ({ name: person.externalId, cosine: dot(person.embedding, embedding) }))
        .filter(({ cosine }) => cosine >= IDENTIFICATION_COSINE)
        .sort((a, b) => b.cosine - a.cosine)
        .map(({ name }) => name)
      expect(expected.length).toBeGreaterThan(0)
      const response = await tenant.request('POST', '/v1/faces/search', { embedding, max_results: 20 })
      expect((await response.json<Search>()).matches.map((match) => match.external_id)).toEqual(expected)
    }
  })

  it.each([
    { counted: 100_499, listed: 200 },
    { counted: 100_500, listed: 201 },
    { counted: 250_000, listed: 500 },
  ])('compares $listed faces exactly in a gallery of $counted', async ({ counted, listed }) => {
    const tenant = await createTenant()
    const people = await enrollCrowd(tenant, 600)
    // the size of a gallery is what was counted: so many are not enrolled here
    await asAdmin`insert into face_counts (tenant_id, change) values (${tenant.id}, ${counted - people.length})`
    const [row] = await asAdmin`
      select cardinality(shortlist_faces(tenant_id, code, ${SHORTLIST_SIZE})) as listed
      from faces where tenant_id = ${tenant.id} limit 1`
    expect(row).toEqual({ listed })
  })

  it.each([261, 1_100])(
    'finds the right person among %d whose sign codes are all equal',
    async (people) => {
      // No component of what is stored is negative, so a code tells nothing; the components still do. A rotation
      // spreads the codes of any gallery: only whoever has the key can make such a one, from its end.
      const tenant = await createTenant()
      const rotation = rotationOf(await openKeyring(tenant), ARCFACE_512.id)
      const embeddingOf = (person: number) =>
        unrotate(
          rotation,
          Array.from({ length: 512 }, (_, component) =>
            component === person % 512 ? 6 : component === Math.floor(person / 512) ? 3 : 0.1,
          ),
        )
      await enrollMany(
        tenant,
        Array.from({ length: people }, (_, person) => ({
          externalId: `person ${person}`,
          embedding: embeddingOf(person),
        })),
      )
      const codes = await asAdmin`select distinct code from faces where tenant_id = ${tenant.id}`
      expect(codes).toEqual([{ code: '1'.repeat(512) }])
      for (const person of [0, 100, 260, people - 1]) {
        const embedding = embeddingOf(person)
        const response = await tenant.request('POST', '/v1/faces/search', { embedding, max_results: 1 })
        expect(await response.json()).toMatchObject({
          matches: [{ external_id: `person ${person}` }],
          faces_searched: people,
        })
      }
    },
    30_000,
  )

  it('leaves out faces that another model made', async () => {
    const tenant = await createTenant()
    await enroll(tenant, 'ada', axis(0))
    await asAdmin`update faces set model = 'other@1' where tenant_id = ${tenant.id}`
    const response = await tenant.request('POST', '/v1/faces/search', { embedding: axis(0) })
    expect(response.status).toBe(200)
    expect(await response.json()).toMatchObject({ matches: [], faces_searched: 1 })
  })
})

describe('GET /v1/verifications', () => {
  it('lists decisions newest first, in pages that neither repeat nor skip', async () => {
    const tenant = await createTenant()
    await enroll(tenant, 'ada', axis(0))
    await enroll(tenant, 'grace', axis(1))
    const made: string[] = []
    for (let index = 0; index < 7; index++) {
      const response = await tenant.request('POST', '/v1/faces/verify', {
        external_id: index % 2 === 0 ? 'ada' : 'grace',
        embedding: axis(0),
      })
      made.unshift((await response.json<Decision>()).verification_id)
    }
    const list = async (filter: string) => {
      const ids: string[] = []
      let cursor: string | null = null
      do {
        const response: Response = await tenant.request(
          'GET',
          `/v1/verifications?limit=3${filter}${cursor ? `&cursor=${cursor}` : ''}`,
        )
        const page: { data: { verification_id: string }[]; next_cursor: string | null } = await response.json()
        ids.push(...page.data.map((row) => row.verification_id))
        cursor = page.next_cursor
      } while (cursor)
      return ids
    }
    // several may share a millisecond; then their ids decide
    expect((await list('')).toSorted()).toEqual(made.toSorted())
    expect((await list('&external_id=ada')).toSorted()).toEqual(made.filter((_, index) => index % 2 === 0).toSorted())
    const times = await asAdmin`
      select id from verifications where tenant_id = ${tenant.id} order by created_at desc, id desc`
    expect(await list('')).toEqual(times.map((row) => row['id']))
  })
})

/** What is stored as this direction: the reflections of src/face/protection/rotation.ts backwards, then the signs. */
function unrotate({ reflectors, signs }: Rotation, stored: number[]): number[] {
  const e = [...stored]
  let start = reflectors.length
  for (let first = e.length - 2; first >= 0; first--) {
    const length = e.length - first
    start -= length
    const u = [...reflectors.subarray(start, start + length)]
    const along = dot(u, e.slice(first))
    u.forEach((component, index) => {
      e[first + index] = (e[first + index] ?? 0) - along * component
    })
  }
  const norm = Math.hypot(...e)
  return e.map((component, index) => (component * (signs[index] ?? 0)) / norm)
}

function dot(a: number[], b: number[]): number {
  return a.reduce((sum, component, index) => sum + component * (b[index] ?? 0), 0)
}
