// Proves the road from a picture to a decision: what the recognizer says of it decides what is stored, compared, recorded and
// told; a recognizer that is away, slow or wrong lets nobody in and writes nothing. On a real PostgreSQL. Fake: the recognizer
// (test/recognizer-server.ts), for which a picture is a text that says what it shows.
import { env } from 'cloudflare:workers'
import { describe, expect, it, vi } from 'vitest'
import { app } from '../../src/app.ts'
import type { Env } from '../../src/env.ts'
import type { Shown } from '../recognizer-server.ts'
import { inBase64, sendForm } from './picture.ts'
import {
  asAdmin,
  atCosine,
  axis,
  countRequests,
  countRows,
  createKey,
  createTenant,
  enroll,
  halves,
  readUsage,
  type TestTenant,
} from './tenant.ts'

const BYTES_10_MIB = 10 * 1024 * 1024

/** A picture of one face. */
const of = (face: number[], more: Shown = {}): Shown => ({ faces: [face], ...more })

function toBase64(shown: Shown | string): string {
  return inBase64(typeof shown === 'string' ? shown : JSON.stringify(shown))
}

function toForm(shown: Shown, fields: Record<string, string> = {}): FormData {
  const form = new FormData()
  for (const [name, value] of Object.entries(fields)) form.set(name, value)
  form.set('image', new Blob([JSON.stringify(shown)]), 'picture.jpg')
  return form
}

async function read(response: Response) {
  return { status: response.status, body: await response.json<Record<string, unknown>>() }
}

async function post(tenant: TestTenant, path: string, body: object) {
  return read(await tenant.request('POST', path, body))
}

async function configure(tenant: TestTenant, settings: object): Promise<void> {
  await asAdmin`update tenants set settings = ${JSON.stringify(settings)}::jsonb where id = ${tenant.id}`
}

describe('a picture', () => {
  it.each(['JSON', 'a form'])(
    'is enrolled, verified, searched and replaced like the embedding that is in it: %s',
    async (kind) => {
      const tenant = await createTenant()
      const send = async (method: string, path: string, shown: Shown, fields: Record<string, string> = {}) =>
        read(
          kind === 'JSON'
            ? await tenant.request(method, path, { image: toBase64(shown), ...fields })
            : await sendForm(tenant, method, path, toForm(shown, fields)),
        )
      expect(await send('POST', '/v1/faces', of(axis(0), { quality: 0.87654 }), { external_id: 'ada' })).toMatchObject({
        status: 201,
        body: { external_id: 'ada', quality_score: 0.8765 },
      })
      const claim = { external_id: 'ada' }
      expect(await send('POST', '/v1/faces/verify', of(atCosine(0.6, 0, 1), { quality: 0.5 }), claim)).toMatchObject({
        status: 200,
        body: { verified: true, confidence: 0.8, liveness_passed: null },
      })
      expect(await send('POST', '/v1/faces/verify', of(axis(2)), claim)).toMatchObject({ body: { verified: false } })
      expect(await send('POST', '/v1/faces/search', of(axis(0)))).toMatchObject({
        body: { matches: [{ external_id: 'ada', confidence: 1 }] },
      })
      expect(await send('PUT', '/v1/faces/ada', of(axis(3)))).toMatchObject({ status: 200 })
      expect(await send('POST', '/v1/faces/verify', of(axis(3)), claim)).toMatchObject({ body: { verified: true } })

      const audit = await read(await tenant.request('GET', '/v1/verifications'))
      expect(audit.body['data']).toMatchObject([{ probe_quality: 0.9 }, { probe_quality: 0.9 }, { probe_quality: 0.5 }])
      const searches = await read(await tenant.request('GET', '/v1/identifications'))
      expect(searches.body['data']).toMatchObject([{ probe_quality: 0.9, liveness_passed: null }])
    },
  )

  it('costs one request to the recognizer and one to the database', async () => {
    const tenant = await createTenant()
    await enroll(tenant, 'ada', axis(0))
    const fetched = vi.spyOn(globalThis, 'fetch')
    const cost = await countRequests(() =>
      tenant.request('POST', '/v1/faces/verify', { external_id: 'ada', image: toBase64(of(axis(0))) }),
    )
    const asked = fetched.mock.calls.map(([url]) => String(url)).filter((url) => url.includes('/analyze'))
    fetched.mockRestore()
    expect(cost).toEqual({ requests: 1, transactions: 1, statements: 2 })
    expect(asked).toEqual([`${env.RECOGNIZER_URL}/analyze?faces=one`])
  })

  it('takes metadata beside it in a form, as JSON', async () => {
    const tenant = await createTenant()
    const form = toForm(of(axis(0)), { external_id: 'ada', metadata: '{"sector":"north"}' })
    expect((await sendForm(tenant, 'POST', '/v1/faces', form)).status).toBe(201)
    expect(await read(await tenant.request('GET', '/v1/faces/ada'))).toMatchObject({
      body: { metadata: { sector: 'north' } },
    })
    for (const metadata of ['', '{', '[]', '"text"', '{"a":1,"a":2}', '{"__proto__":1}']) {
      const bad = toForm(of(axis(0)), { external_id: 'bob', metadata })
      expect(await read(await sendForm(tenant, 'POST', '/v1/faces', bad))).toMatchObject({
        status: 422,
        body: { code: 'INVALID_REQUEST', errors: [{ pointer: '/metadata' }] },
      })
    }
  })

  it('is given, or an embedding: not both, not neither, and a model only of an embedding', async () => {
    const tenant = await createTenant()
    const image = toBase64(of(axis(0)))
    for (const body of [
      {},
      { image, embedding: axis(0) },
      { image, model: 'arcface-512@1' },
      { model: 'arcface-512@1' },
      { image: '' },
      { image: 'https://example.com/face.jpg' },
      { image: 'not base64!' },
      { image: image.slice(1) },
      { image: [1, 2, 3] },
      { image: null },
      { image_url: 'https://example.com/face.jpg' },
    ]) {
      expect(await post(tenant, '/v1/faces/search', body)).toMatchObject({
        status: 422,
        body: { code: 'INVALID_REQUEST' },
      })
    }
    expect(await countRows(tenant)).toMatchObject({ identifications: 0, usage_events: 0 })
  })

  it('is one file of a form: not two, not a text, and nothing else unknown', async () => {
    const tenant = await createTenant()
    const two = toForm(of(axis(0)))
    two.append('image', new Blob(['another']), 'another.jpg')
    const text = new FormData()
    text.set('image', 'a text')
    const more = toForm(of(axis(0)), { threshold: '0.1' })
    const none = new FormData()
    none.set('max_results', '3')
    for (const form of [two, text, more, none]) {
      expect(await read(await sendForm(tenant, 'POST', '/v1/faces/search', form))).toMatchObject({
        status: 422,
        body: { code: 'INVALID_REQUEST' },
      })
    }
    const limited = toForm(of(axis(0)), { max_results: '3' })
    expect((await sendForm(tenant, 'POST', '/v1/faces/search', limited)).status).toBe(200)
    const broken = await app.request(
      '/v1/faces/search',
      {
        method: 'POST',
        headers: { Authorization: `Bearer ${tenant.key}`, 'Content-Type': 'multipart/form-data; boundary=x' },
        body: '--x\r\nContent-Disposition: form-data; name="image"',
      },
      env,
    )
    expect(await read(broken)).toMatchObject({ status: 400, body: { code: 'MALFORMED_FORM' } })
  })

  it('may have 10 MiB and not one byte more, in either form', async () => {
    const tenant = await createTenant()
    const shown = JSON.stringify(of(axis(0)))
    const [whole, tooLarge] = [BYTES_10_MIB, BYTES_10_MIB + 1].map((bytes) => shown + ' '.repeat(bytes - shown.length))
    const form = (text = '') => {
      const made = new FormData()
      made.set('image', new Blob([text]), 'picture.jpg')
      return made
    }
    expect((await sendForm(tenant, 'POST', '/v1/faces/search', form(whole))).status).toBe(200)
    expect((await post(tenant, '/v1/faces/search', { image: toBase64(whole ?? '') })).status).toBe(200)
    const refusal = { status: 413, body: { code: 'IMAGE_TOO_LARGE', retake: true } }
    expect(await read(await sendForm(tenant, 'POST', '/v1/faces/search', form(tooLarge)))).toMatchObject(refusal)
    expect(await post(tenant, '/v1/faces/search', { image: toBase64(tooLarge ?? '') })).toMatchObject(refusal)
    expect(
      await read(await sendForm(tenant, 'POST', '/v1/faces/search', form('x'.repeat(22 * 1024 * 1024)))),
    ).toMatchObject(refusal)
  }, 60_000)

  it('leaves a body without one as small as it was', async () => {
    const tenant = await createTenant()
    const body = { embedding: axis(0), model: 'x'.repeat(70_000) }
    expect(await post(tenant, '/v1/faces/search', body)).toMatchObject({
      status: 413,
      body: { code: 'BODY_TOO_LARGE' },
    })
  })
})

describe('a picture that cannot be used', () => {
  it.each<[code: string, status: number, shown: Shown]>([
    ['NO_FACE_DETECTED', 422, { faces: [] }],
    ['MULTIPLE_FACES', 422, { faces: [axis(0), axis(1)] }],
    ['INVALID_IMAGE', 422, { refusal: [422, 'INVALID_IMAGE'] }],
    ['IMAGE_TOO_LARGE', 413, { refusal: [413, 'IMAGE_TOO_LARGE'] }],
    ['UNSUPPORTED_MEDIA_TYPE', 415, { refusal: [415, 'UNSUPPORTED_MEDIA_TYPE'] }],
  ])('is refused with %s, says that another may be taken, and writes nothing', async (code, status, shown) => {
    const tenant = await createTenant()
    await enroll(tenant, 'ada', axis(0))
    const before = await countRows(tenant)
    const image = toBase64(shown)
    for (const [method, path, body] of [
      ['POST', '/v1/faces', { external_id: 'bob', image }],
      ['PUT', '/v1/faces/ada', { image }],
      ['POST', '/v1/faces/verify', { external_id: 'ada', image }],
      ['POST', '/v1/faces/search', { image }],
      ['POST', '/v1/faces/liveness', { image }],
      ['POST', '/v1/faces/compare', { first: { image }, second: { embedding: axis(0) } }],
    ] as const) {
      const { status: answered, body: problem } = await read(await tenant.request(method, path, body))
      expect([path, answered, problem['code'], problem['retake']]).toEqual([path, status, code, true])
      expect(JSON.stringify(problem)).not.toContain('words of the recognizer')
    }
    expect(await countRows(tenant)).toEqual(before)
  })

  it('is not enrolled when it is not good enough, with the reasons, and is compared all the same', async () => {
    const tenant = await createTenant()
    const poor = of(axis(0), { quality: 0.4999, reasons: ['TOO_DARK', 'EXTREME_POSE'] })
    const refusal = {
      status: 422,
      body: { code: 'LOW_QUALITY_IMAGE', retake: true, reasons: ['TOO_DARK', 'EXTREME_POSE'] },
    }
    expect(await post(tenant, '/v1/faces', { external_id: 'ada', image: toBase64(poor) })).toMatchObject(refusal)
    const good = of(axis(0), { quality: 0.5, reasons: ['TOO_DARK'] })
    expect((await post(tenant, '/v1/faces', { external_id: 'ada', image: toBase64(good) })).status).toBe(201)
    expect(await read(await tenant.request('PUT', '/v1/faces/ada', { image: toBase64(poor) }))).toMatchObject(refusal)
    expect(await post(tenant, '/v1/faces/verify', { external_id: 'ada', image: toBase64(poor) })).toMatchObject({
      body: { verified: true },
    })

    const strict = await createTenant()
    await configure(strict, { minimum_quality: 0.8 })
    const fair = { external_id: 'ada', image: toBase64(of(axis(0), { quality: 0.7999 })) }
    expect(await post(strict, '/v1/faces', fair)).toMatchObject({
      status: 422,
      body: { code: 'LOW_QUALITY_IMAGE', reasons: [] },
    })
  })

  it("is not compared when the recognizer has another model than the tenant's", async () => {
    const tenant = await createTenant()
    const image = toBase64(of(axis(0), { model: 'other@1' }))
    expect(await post(tenant, '/v1/faces/search', { image })).toMatchObject({
      status: 409,
      body: { code: 'MODEL_MISMATCH' },
    })
    expect(await countRows(tenant)).toMatchObject({ identifications: 0 })
  })
})

describe('liveness', () => {
  const live = (face: number[], liveness: number) => toBase64(of(face, { liveness }))

  it('is told and recorded, and decides nothing unless the tenant requires it', async () => {
    const tenant = await createTenant()
    await enroll(tenant, 'ada', axis(0))
    const verify = (image: string) => post(tenant, '/v1/faces/verify', { external_id: 'ada', image })
    expect(await verify(live(axis(0), 0.9))).toMatchObject({ body: { verified: true, liveness_passed: true } })
    expect(await verify(live(axis(0), 0.1))).toMatchObject({ body: { verified: true, liveness_passed: false } })
    const audit = await read(await tenant.request('GET', '/v1/verifications'))
    expect(audit.body['data']).toMatchObject([{ liveness_passed: false }, { liveness_passed: true }])
  })

  it('that is required lets no photograph in: recorded as a decision against, and billed', async () => {
    const tenant = await createTenant()
    await enroll(tenant, 'ada', axis(0))
    await configure(tenant, { require_liveness: true })
    const fresh = {
      ...tenant,
      ...(await createKey(tenant.id, ['verify', 'identify', 'audit:read', 'usage:read', 'faces:write'])),
    }
    const refusal = { status: 422, body: { code: 'LIVENESS_FAILED', retake: true } }
    const claim = (image: string) => post(fresh, '/v1/faces/verify', { external_id: 'ada', image })
    expect(await claim(live(axis(0), 0.49))).toMatchObject(refusal)
    expect(await claim(live(axis(0), 0.5))).toMatchObject({ status: 200, body: { verified: true } })
    expect(await post(fresh, '/v1/faces/search', { image: live(axis(0), 0.1) })).toMatchObject(refusal)
    expect(await post(fresh, '/v1/faces', { external_id: 'bob', image: live(axis(1), 0.1) })).toMatchObject(refusal)

    const verifications = await read(await fresh.request('GET', '/v1/verifications'))
    expect(verifications.body['data']).toMatchObject([
      { verified: true, liveness_passed: true },
      { verified: false, liveness_passed: false },
    ])
    const searches = await read(await fresh.request('GET', '/v1/identifications'))
    expect(searches.body['data']).toMatchObject([
      { identified: false, external_id: null, faces_matched: 0, liveness_passed: false },
    ])
    expect(await readUsage(fresh)).toMatchObject({ verifications: 2, identifications: 1, registrations: 1 })
  })

  it('that is required takes a picture, and a model that judges it', async () => {
    const tenant = await createTenant()
    await enroll(tenant, 'ada', axis(0))
    await configure(tenant, { require_liveness: true })
    const fresh = { ...tenant, ...(await createKey(tenant.id, ['verify', 'identify', 'faces:write'])) }
    for (const [path, body] of [
      ['/v1/faces/verify', { external_id: 'ada' }],
      ['/v1/faces/search', {}],
      ['/v1/faces', { external_id: 'bob' }],
    ] as const) {
      expect(await post(fresh, path, { ...body, embedding: axis(0) })).toMatchObject({
        status: 422,
        body: { code: 'INVALID_REQUEST', errors: [{ pointer: '/embedding' }] },
      })
      expect(await post(fresh, path, { ...body, image: toBase64(of(axis(0))) })).toMatchObject({
        status: 503,
        body: { code: 'NOT_CONFIGURED' },
      })
    }
    expect(await countRows(tenant)).toMatchObject({ faces: 1, verifications: 0, identifications: 0 })
  })

  it("is judged by the tenant's threshold, where it has one", async () => {
    const tenant = await createTenant()
    await configure(tenant, { liveness_threshold: 0.8 })
    for (const [score, passed] of [
      [0.8, true],
      [0.7999, false],
    ] as const) {
      expect(await post(tenant, '/v1/faces/liveness', { image: live(axis(0), score) })).toMatchObject({
        status: 200,
        body: { liveness_passed: passed, score },
      })
    }
  })
})

describe('a face that is enrolled already, where the tenant wants nobody twice', () => {
  async function arrange(): Promise<TestTenant> {
    const tenant = await createTenant()
    await configure(tenant, { duplicates: 'reject' })
    await enroll(tenant, 'ada', axis(0))
    return tenant
  }

  it('is refused under another external_id, at the threshold of a search and not below it', async () => {
    const tenant = await arrange()
    // 0.69 is a cosine of 0.38
    const [twin, nearly] = [atCosine(0.38, 0, 1), atCosine(0.3799, 0, 2)]
    expect(await post(tenant, '/v1/faces', { external_id: 'bob', embedding: twin })).toMatchObject({
      status: 409,
      body: { code: 'DUPLICATE_IDENTITY' },
    })
    expect(await read(await tenant.request('PUT', '/v1/faces/bob', { embedding: twin }))).toMatchObject({ status: 409 })
    expect((await post(tenant, '/v1/faces', { external_id: 'bob', embedding: nearly })).status).toBe(201)
  })

  it('is found at exactly the threshold, whatever the rotation of the tenant', async () => {
    for (let rotation = 0; rotation < 6; rotation++) {
      const tenant = await createTenant()
      await configure(tenant, { duplicates: 'reject', identification_threshold: 0.75 })
      await enroll(tenant, 'ada', axis(0))
      expect(await post(tenant, '/v1/faces', { external_id: 'bob', embedding: halves() })).toMatchObject({
        status: 409,
      })
    }
  })

  it('is recorded and billed as the search that found it, and nothing else is written', async () => {
    const tenant = await arrange()
    await post(tenant, '/v1/faces', { external_id: 'bob', embedding: axis(0) })
    const searches = await read(await tenant.request('GET', '/v1/identifications'))
    expect(searches.body['data']).toMatchObject([
      { identified: true, external_id: 'ada', confidence: 1, threshold: 0.69, faces_searched: 1, faces_matched: 1 },
    ])
    expect(await countRows(tenant)).toMatchObject({ faces: 1 })
    expect(await readUsage(tenant)).toMatchObject({ registrations: 1, identifications: 1 })
  })

  it('may be replaced under its own, and costs one request to the database', async () => {
    const tenant = await arrange()
    const cost = await countRequests(async () => {
      expect((await tenant.request('PUT', '/v1/faces/ada', { embedding: axis(0) })).status).toBe(200)
      expect((await post(tenant, '/v1/faces', { external_id: 'ada', embedding: axis(0) })).body).toMatchObject({
        code: 'FACE_ALREADY_EXISTS',
      })
    })
    expect(cost).toMatchObject({ requests: 2, transactions: 2 })
    expect(await readUsage(tenant)).toMatchObject({ registrations: 2, identifications: 0 })
  })

  it("is nobody's business in another tenant, and is taken where duplicates are allowed", async () => {
    await arrange()
    const [other, lenient] = [await createTenant(), await createTenant()]
    await configure(other, { duplicates: 'reject' })
    await enroll(other, 'bob', axis(0))
    await enroll(lenient, 'ada', axis(0))
    await enroll(lenient, 'bob', axis(0))
  })
})

describe('a look at pictures', () => {
  it('compares two of them, an embedding and a picture, or two embeddings, and keeps nothing but that it did', async () => {
    const tenant = await createTenant()
    const image = (face: number[]) => ({ image: toBase64(of(face)) })
    for (const [first, second, verified, confidence] of [
      [image(axis(0)), image(atCosine(0.35, 0, 1)), true, 0.675],
      [image(axis(0)), { embedding: atCosine(0.34, 0, 1) }, false, 0.67],
      [{ embedding: axis(0) }, { embedding: axis(0) }, true, 1],
    ] as const) {
      expect(await post(tenant, '/v1/faces/compare', { first, second })).toMatchObject({
        status: 200,
        body: { verified, confidence, threshold: 0.675, liveness_passed: { first: null, second: null } },
      })
    }
    const form = new FormData()
    for (const name of ['first', 'second']) form.set(name, new Blob([JSON.stringify(of(axis(5)))]), name)
    expect(await read(await sendForm(tenant, 'POST', '/v1/faces/compare', form))).toMatchObject({
      body: { verified: true },
    })
    expect(await countRows(tenant)).toMatchObject({ faces: 0, verifications: 0, identifications: 0, usage_events: 4 })
    expect(await readUsage(tenant)).toMatchObject({ analyses: 4, verifications: 0 })
  })

  it('finds all faces and says how good they are, without an embedding', async () => {
    const tenant = await createTenant()
    const { status, body } = await post(tenant, '/v1/faces/detect', {
      image: toBase64({ faces: [axis(0), axis(1), axis(2)], quality: 0.4, reasons: ['TOO_SMALL'] }),
    })
    expect(status).toBe(200)
    expect(body['faces']).toEqual(
      [10, 11, 12].map((x) => ({
        box: { x, y: 20.5, width: 100, height: 120 },
        landmarks: {
          right_eye: [30, 50],
          left_eye: [80, 50],
          nose: [55, 80],
          right_mouth: [35, 110],
          left_mouth: [75, 110],
        },
        detection_score: 0.95,
        quality_score: 0.4,
        quality_reasons: ['TOO_SMALL'],
      })),
    )
    expect(await post(tenant, '/v1/faces/detect', { image: toBase64({ faces: [] }) })).toMatchObject({
      body: { faces: [] },
    })
    expect(await readUsage(tenant)).toMatchObject({ analyses: 2 })
  })

  it('shows scores only to credentials that may have them', async () => {
    const tenant = await createTenant(['verify'])
    const compared = await post(tenant, '/v1/faces/compare', {
      first: { embedding: axis(0) },
      second: { embedding: axis(0) },
    })
    expect(compared.body).not.toHaveProperty('confidence')
    const judged = await post(tenant, '/v1/faces/liveness', { image: toBase64(of(axis(0), { liveness: 0.9 })) })
    expect(judged).toMatchObject({ status: 200, body: { liveness_passed: true } })
    expect(judged.body).not.toHaveProperty('score')
    expect(await post(tenant, '/v1/faces/liveness', { image: toBase64(of(axis(0))) })).toMatchObject({
      status: 503,
      body: { code: 'NOT_CONFIGURED' },
    })
  })

  it('is refused with a revoked key, in a warm isolate too, and not billed', async () => {
    const tenant = await createTenant()
    const pair = { first: { embedding: axis(0) }, second: { embedding: axis(0) } }
    expect((await post(tenant, '/v1/faces/compare', pair)).status).toBe(200)
    await asAdmin`update api_keys set revoked_at = now() where tenant_id = ${tenant.id}`
    expect((await post(tenant, '/v1/faces/compare', pair)).status).toBe(401)
    expect(await countRows(tenant)).toMatchObject({ usage_events: 1 })
  })
})

describe('a recognizer that fails', () => {
  const FAILURES: [title: string, shown: Shown, reason: string][] = [
    ['hangs up', of(axis(0), { misbehavior: 'hang up' }), 'unreachable'],
    ['answers HTML', of(axis(0), { misbehavior: 'HTML' }), 'garbage'],
    ['answers half of it', of(axis(0), { misbehavior: 'half' }), 'garbage'],
    ['never stops answering', of(axis(0), { misbehavior: 'endless' }), 'garbage'],
    ['answers a face without its embedding', of(axis(0), { misbehavior: 'no embedding' }), 'garbage'],
    ['answers an embedding of zeros', of(axis(0), { misbehavior: 'zero' }), 'garbage'],
    ['answers a score that is none', of(axis(0), { quality: 1.5 }), 'garbage'],
    ['sends us elsewhere', of(axis(0), { misbehavior: 'redirect' }), 'status'],
    ['does not know our secret', { refusal: [401, 'UNAUTHORIZED'] }, 'status 401'],
    ['breaks', { refusal: [500, 'INTERNAL'] }, 'status 500'],
    ['is too slow for itself', { refusal: [503, 'TIMEOUT'] }, 'status 503'],
  ]

  it.each(FAILURES)('is answered with 503, and nothing is written, when it %s', async (_, shown, reason) => {
    const tenant = await createTenant()
    await enroll(tenant, 'ada', axis(0))
    const before = await countRows(tenant)
    const lines: string[] = []
    const spy = vi.spyOn(console, 'error').mockImplementation((line: string) => void lines.push(line))
    for (const [path, body] of [
      ['/v1/faces', { external_id: 'bob' }],
      ['/v1/faces/verify', { external_id: 'ada' }],
      ['/v1/faces/search', {}],
    ] as const) {
      const response = await tenant.request('POST', path, { ...body, image: toBase64(shown) })
      expect(Number(response.headers.get('Retry-After'))).toBeGreaterThan(0)
      const { status, body: problem } = await read(response)
      expect([status, problem['code'], problem['retake']]).toEqual([503, 'RECOGNIZER_UNAVAILABLE', false])
      expect(JSON.stringify(problem)).not.toMatch(/words of the recognizer|127\.0\.0\.1/)
    }
    spy.mockRestore()
    expect(lines.map((line) => JSON.parse(line))).toMatchObject(
      Array.from({ length: 3 }, () => ({ fault: 'recognizer_unavailable', reason: expect.stringContaining(reason) })),
    )
    expect(await countRows(tenant)).toEqual(before)
  })

  it('is waited for 8 seconds and not longer', async () => {
    const tenant = await createTenant()
    const startedAt = Date.now()
    const image = toBase64(of(axis(0), { misbehavior: 'hang' }))
    expect(await post(tenant, '/v1/faces/search', { image })).toMatchObject({
      status: 503,
      body: { code: 'RECOGNIZER_UNAVAILABLE' },
    })
    expect(Date.now() - startedAt).toBeGreaterThan(7_500)
    expect(await countRows(tenant)).toMatchObject({ identifications: 0 })
  })

  it('says itself how long to wait when it is full', async () => {
    const tenant = await createTenant()
    for (const [said, told] of [
      ['7', '7'],
      ['0', '2'],
      ['100000', '2'],
      ['soon', '2'],
    ] as const) {
      const image = toBase64({ refusal: [503, 'OVERLOADED', said] })
      const response = await tenant.request('POST', '/v1/faces/search', { image })
      expect([response.status, response.headers.get('Retry-After')]).toEqual([503, told])
    }
  })

  it.each<[string, (without: Env) => void, string]>([
    ['is not configured', (without) => delete without.RECOGNIZER_URL, 'NOT_CONFIGURED'],
    ['has no secret', (without) => delete without.RECOGNIZER_SECRET, 'NOT_CONFIGURED'],
    [
      'has another secret',
      (changed) => Object.assign(changed, { RECOGNIZER_SECRET: 'another' }),
      'RECOGNIZER_UNAVAILABLE',
    ],
    [
      'is not there',
      (changed) => Object.assign(changed, { RECOGNIZER_URL: 'http://127.0.0.1:9' }),
      'RECOGNIZER_UNAVAILABLE',
    ],
  ])('is no obstacle to embeddings, and one to pictures, when it %s', async (_, change, code) => {
    const tenant = await createTenant()
    const changed = { ...env } as Env
    change(changed)
    const ask = (body: object) =>
      app.request(
        '/v1/faces/search',
        {
          method: 'POST',
          headers: { Authorization: `Bearer ${tenant.key}`, 'Content-Type': 'application/json' },
          body: JSON.stringify(body),
        },
        changed,
      )
    expect(await read(await ask({ image: toBase64(of(axis(0))) }))).toMatchObject({ status: 503, body: { code } })
    expect((await ask({ embedding: axis(0) })).status).toBe(200)
  })

  it('may be containers beside the Worker, one of four', async () => {
    const tenant = await createTenant()
    const names: string[] = []
    const containers = {
      getByName(name: string) {
        names.push(name)
        return {
          fetch: (url: URL, init: RequestInit) => fetch(new URL(url.pathname + url.search, env.RECOGNIZER_URL), init),
        }
      },
    }
    const beside = { ...env, RECOGNIZER: containers } as Env
    delete beside.RECOGNIZER_URL
    const response = await app.request(
      '/v1/faces/search',
      {
        method: 'POST',
        headers: { Authorization: `Bearer ${tenant.key}`, 'Content-Type': 'application/json' },
        body: JSON.stringify({ image: toBase64(of(axis(0))) }),
      },
      beside,
    )
    expect(response.status).toBe(200)
    expect(names).toEqual([expect.stringMatching(/^recognizer-[0-3]$/)])
  })
})
