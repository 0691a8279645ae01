// Proves that a tenant reads and changes its own settings within what the model and the service allow, that they
// decide the next request of the isolate that was told, and within a minute those of one that was not, and that
// no other tenant is touched. On a real PostgreSQL. Fake: the embeddings, the recognizer, and where a test says so the
// clock of the isolate.
import { afterEach, describe, expect, it, vi } from 'vitest'
import { SCOPES } from '../../src/auth/api-key.ts'
import { inBase64, pictureOf } from './picture.ts'
import {
  asAdmin,
  atCosine,
  axis,
  countRequests,
  createKey,
  createTenant,
  enroll,
  randomEmbedding,
  type TestTenant,
} from './tenant.ts'

const TIME = /^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$/
const DEFAULTS = {
  verification_threshold: 0.675,
  identification_threshold: 0.69,
  max_results: 5,
  failed_verifications_per_hour: 10,
  failed_verifications_per_day: 40,
  allowed_origins: [],
  minimum_quality: 0.5,
  duplicates: 'allow',
  require_liveness: false,
  liveness_threshold: null,
}
const ORIGIN = 'https://gate.example'

function change(tenant: TestTenant, settings: object, headers?: Record<string, string>): Promise<Response> {
  return tenant.request('PATCH', '/v1/tenant', { settings }, headers)
}

async function readSettings(tenant: TestTenant): Promise<Record<string, unknown>> {
  const response = await tenant.request('GET', '/v1/tenant')
  return (await response.json<{ settings: Record<string, unknown> }>()).settings
}

/** What is stored, and what was noted of requests. */
async function readRows({ id }: TestTenant): Promise<unknown[]> {
  return [
    await asAdmin`select * from tenants where id = ${id}`,
    await asAdmin`select * from admin_events where tenant_id = ${id} and request_id is not null order by created_at`,
  ]
}

/** A key of the tenant that opens everything, as a gate's would: not the one that changes settings. */
async function createGate(tenant: TestTenant): Promise<TestTenant> {
  return { ...tenant, ...(await createKey(tenant.id, SCOPES)) }
}

/** Whether ada is verified by a probe whose confidence is 0.70. */
async function isVerified(tenant: TestTenant): Promise<boolean> {
  const probe = { external_id: 'ada', embedding: atCosine(0.4, 0, 1) }
  const response = await tenant.request('POST', '/v1/faces/verify', probe)
  expect(response.status).toBe(200)
  return (await response.json<{ verified: boolean }>()).verified
}

/** How many of ten equal faces a probe whose confidence is 0.70 finds. */
async function countMatches(tenant: TestTenant): Promise<number> {
  const response = await tenant.request('POST', '/v1/faces/search', { embedding: atCosine(0.4, 0, 1) })
  return (await response.json<{ matches: unknown[] }>()).matches.length
}

describe('GET /v1/tenant', () => {
  it('answers what a tenant is, with the defaults of what it has not set, for one request to the database', async () => {
    const tenant = await createTenant()
    await tenant.request('GET', '/v1/tenant')
    const cost = await countRequests(async () => {
      const response = await tenant.request('GET', '/v1/tenant')
      expect(response.status).toBe(200)
      expect(await response.json()).toEqual({
        tenant_id: tenant.id,
        name: 'a test tenant',
        environment: 'test',
        settings: DEFAULTS,
        model: { id: 'arcface-512@1', floor: 0.65 },
        created_at: expect.stringMatching(TIME),
        updated_at: expect.stringMatching(TIME),
      })
    })
    expect(cost).toEqual({ requests: 1, transactions: 1, statements: 2 })
  })

  it('answers what is in force: a row that was damaged by hand is never below the floor', async () => {
    const tenant = await createTenant()
    const damaged = {
      verification_threshold: 0.1,
      identification_threshold: 'high',
      max_results: 1000,
      failed_verifications_per_hour: 0,
      failed_verifications_per_day: -1,
      allowed_origins: [ORIGIN, 'https://gate.example/path', 7],
      minimum_quality: 2,
      duplicates: 'perhaps',
      require_liveness: 'no',
      liveness_threshold: -1,
      model: 'another@1',
      unknown: 'words',
    }
    await asAdmin`update tenants set settings = ${JSON.stringify(damaged)}::jsonb where id = ${tenant.id}`
    expect(await readSettings(tenant)).toEqual({
      ...DEFAULTS,
      verification_threshold: 0.65,
      failed_verifications_per_hour: 1,
      allowed_origins: [ORIGIN],
    })
  })

  it('says of a live tenant that it is live', async () => {
    const tenant = await createTenant()
    await asAdmin`update tenants set environment = 'live' where id = ${tenant.id}`
    expect(await (await tenant.request('GET', '/v1/tenant')).json()).toMatchObject({ environment: 'live' })
  })
})

describe('PATCH /v1/tenant', () => {
  it('answers the tenant as it is now, for one request to the database, and leaves one event', async () => {
    const tenant = await createTenant()
    const before = await (await tenant.request('GET', '/v1/tenant')).json<object>()
    const settings = { verification_threshold: 0.7, allowed_origins: [ORIGIN, 'http://localhost:3000'] }
    const cost = await countRequests(async () => {
      const response = await change(tenant, settings, { 'X-Request-Id': 'a-change' })
      expect(response.status).toBe(200)
      expect(await response.json()).toEqual({
        ...before,
        settings: { ...DEFAULTS, ...settings },
        updated_at: expect.stringMatching(TIME),
      })
    })
    expect(cost).toEqual({ requests: 1, transactions: 1, statements: 2 })
    expect(await readSettings(tenant)).toEqual({ ...DEFAULTS, ...settings })
    const [, events] = await readRows(tenant)
    expect(events).toMatchObject([
      { actor: `api_key:${tenant.keyId}`, action: 'tenant.settings_changed', target: null, request_id: 'a-change' },
    ])
    const [row] = await asAdmin`select updated_at > created_at as is_later from tenants where id = ${tenant.id}`
    expect(row).toEqual({ is_later: true })
  })

  it('leaves what it does not name, and goes back to the default with null', async () => {
    const tenant = await createTenant()
    await change(tenant, { verification_threshold: 0.8, max_results: 7, allowed_origins: [ORIGIN] })
    await change(tenant, { max_results: null, identification_threshold: 0.9 })
    expect(await readSettings(tenant)).toEqual({
      ...DEFAULTS,
      verification_threshold: 0.8,
      identification_threshold: 0.9,
      allowed_origins: [ORIGIN],
    })
    await change(tenant, Object.fromEntries(Object.keys(DEFAULTS).map((name) => [name, null])))
    expect(await readSettings(tenant)).toEqual(DEFAULTS)
    // so that a default that is changed one day is changed for this tenant too
    expect(await asAdmin`select settings from tenants where id = ${tenant.id}`).toEqual([{ settings: {} }])
  })

  it('of several settings at once loses none of them', async () => {
    const tenant = await createTenant()
    const changes = [{ verification_threshold: 0.8 }, { max_results: 7 }, { failed_verifications_per_day: 41 }]
    for (const { status } of await Promise.all(changes.map((settings) => change(tenant, settings)))) {
      expect(status).toBe(200)
    }
    expect(await readSettings(tenant)).toEqual({ ...DEFAULTS, ...Object.assign({}, ...changes) })
  })

  it('changes nothing of a rival', async () => {
    const [tenant, rival] = [await createTenant(), await createTenant()]
    await change(rival, { max_results: 3 })
    const before = await readRows(rival)
    await change(tenant, { max_results: 7, verification_threshold: 0.9 })
    expect(await readRows(rival)).toEqual(before)
    expect(await readSettings(rival)).toEqual({ ...DEFAULTS, max_results: 3 })
    expect(await readSettings(tenant)).toEqual({ ...DEFAULTS, max_results: 7, verification_threshold: 0.9 })
  })

  it.each<[string, string[], unknown[], unknown[]]>([
    [
      'a threshold',
      ['verification_threshold', 'identification_threshold'],
      [0.65, 0.650000000000001, 1],
      [0.649999999999999, 0, -1, 1.000000000000001, '0.7', true, [0.7], {}],
    ],
    ['max_results', ['max_results'], [1, 20], [0, 21, 1.5, '5', true]],
    ['attempts in an hour', ['failed_verifications_per_hour'], [1, 100], [0, 101, 1.5, '5', -1]],
    ['attempts in a day', ['failed_verifications_per_day'], [1, 500], [0, 501, 1.5, '5', -1]],
    [
      'origins',
      ['allowed_origins'],
      [[], [ORIGIN], Array.from({ length: 10 }, (_, index) => `https://gate-${index}.example:8443`)],
      [ORIGIN, {}, Array.from({ length: 11 }, (_, index) => `https://gate-${index}.example`)],
    ],
    [
      'a measure of pictures',
      ['minimum_quality', 'liveness_threshold'],
      [0, 0.5, 5e-324, 1],
      [-5e-324, -1, 1.000000000000001, 2, '0.5', true, [0.5], {}],
    ],
    [
      'what becomes of duplicates',
      ['duplicates'],
      ['reject', 'allow'],
      ['Reject', 'none', '', true, 1, ['reject'], {}],
    ],
    ['that liveness is required', ['require_liveness'], [true, false], ['true', 1, 0, '', [], {}]],
  ])('takes %s up to the limits, and refuses it beyond them without writing', async (_name, fields, good, bad) => {
    const tenant = await createTenant()
    for (const field of fields) {
      for (const value of good) {
        const response = await change(tenant, { [field]: value })
        expect(response.status, JSON.stringify(value)).toBe(200)
        expect(await readSettings(tenant)).toMatchObject({ [field]: value })
      }
      const before = await readRows(tenant)
      for (const value of bad) {
        const response = await change(tenant, { max_results: 3, [field]: value })
        expect(response.status, JSON.stringify(value)).toBe(422)
        const { errors } = await response.json<{ errors: { pointer: string }[] }>()
        expect(new Set(errors.map(({ pointer }) => pointer))).toEqual(new Set([`/settings/${field}`]))
      }
      expect(await readRows(tenant)).toEqual(before)
    }
  })

  it.each([
    'http://gate.example',
    'https://gate.example/',
    'https://gate.example/path',
    'https://Gate.example',
    'https://gate.example:443',
    'https://user@gate.example',
    'https://*.example',
    'gate.example',
    '*',
    'null',
    '',
    'file:///gate',
    `https://${'a.'.repeat(130)}example`,
    7,
  ])('refuses the origin %j, and names it', async (origin) => {
    const tenant = await createTenant()
    const before = await readRows(tenant)
    const response = await change(tenant, { allowed_origins: [ORIGIN, origin] })
    expect(response.status).toBe(422)
    expect(await response.json()).toMatchObject({ errors: [{ pointer: '/settings/allowed_origins/1' }] })
    expect(await readRows(tenant)).toEqual(before)
  })

  it('says the floor to whoever asks for less', async () => {
    const tenant = await createTenant()
    const response = await change(tenant, { verification_threshold: 0.6499, identification_threshold: 0.1 })
    expect(response.status).toBe(422)
    const { errors } = await response.json<{ errors: { pointer: string; detail: string }[] }>()
    expect(errors.map(({ pointer }) => pointer)).toEqual([
      '/settings/verification_threshold',
      '/settings/identification_threshold',
    ])
    for (const { detail } of errors) expect(detail).toContain('0.65')
  })

  it.each<[string, object, string]>([
    ['a name', { settings: { max_results: 3 }, name: 'another' }, '/name'],
    ['an environment', { settings: { max_results: 3 }, environment: 'live' }, '/environment'],
    ['whether it is active', { settings: { max_results: 3 }, is_active: true }, '/is_active'],
    ['an unknown setting', { settings: { max_results: 3, quality: 0.5 } }, '/settings/quality'],
    // the operator's to say, even when it is the one it is
    ['another model', { settings: { max_results: 3, model: 'another@1' } }, '/settings/model'],
    ['the model', { settings: { max_results: 3, model: 'arcface-512@1' } }, '/settings/model'],
    ['no model', { settings: { max_results: 3, model: null } }, '/settings/model'],
    ['no settings', {}, '/settings'],
    ['settings of null', { settings: null }, '/settings'],
    ['empty settings', { settings: {} }, '/settings'],
  ])('refuses %s', async (_name, body, pointer) => {
    const tenant = await createTenant()
    const before = await readRows(tenant)
    const response = await tenant.request('PATCH', '/v1/tenant', body)
    expect(response.status).toBe(422)
    expect(await response.json()).toMatchObject({ errors: [{ pointer }] })
    expect(await readRows(tenant)).toEqual(before)
  })

  it.each([
    ['GET', undefined],
    ['PATCH', { settings: { max_results: 3 } }],
  ] as const)('needs the scope admin, and so does GET; no other opens it: %s', async (method, body) => {
    const tenant = await createTenant()
    const others = await createKey(
      tenant.id,
      SCOPES.filter((scope) => scope !== 'admin'),
    )
    const before = await readRows(tenant)
    const refused = await others.request(method, '/v1/tenant', body)
    expect(refused.status).toBe(403)
    expect(await refused.json()).toMatchObject({ code: 'MISSING_SCOPE', detail: expect.stringContaining('"admin"') })
    expect(await readRows(tenant)).toEqual(before)
    const admin = await createKey(tenant.id, ['admin'])
    expect((await admin.request(method, '/v1/tenant', body)).status).toBe(200)
  })
})

describe('a setting that is changed decides the next request of every key in the isolate that was told', () => {
  it('in a verification', async () => {
    const tenant = await createTenant()
    const [gate, rival] = [await createGate(tenant), await createTenant()]
    for (const one of [tenant, rival]) await enroll(one, 'ada', axis(0))
    for (const [threshold, expected] of [
      [0.71, false],
      [0.69, true],
      [null, true],
      [1, false],
    ] as const) {
      expect(await isVerified(rival)).toBe(true)
      // the gate's key is warm, and knows the threshold of before
      await isVerified(gate)
      await change(tenant, { verification_threshold: threshold })
      expect(await isVerified(gate)).toBe(expected)
      expect(await isVerified(tenant)).toBe(expected)
    }
    const [recorded] = await asAdmin`
      select threshold from verifications where tenant_id = ${tenant.id} order by created_at desc, id limit 1`
    expect(recorded).toEqual({ threshold: 1 })
  })

  it('in a search, in who is found and in how many are', async () => {
    const tenant = await createTenant()
    const gate = await createGate(tenant)
    for (let index = 0; index < 10; index++) await enroll(tenant, `person ${index}`, axis(0))
    await enroll(tenant, 'a stranger', randomEmbedding())
    expect(await countMatches(gate)).toBe(5)
    await change(tenant, { max_results: 7 })
    expect(await countMatches(gate)).toBe(7)
    await change(tenant, { identification_threshold: 0.71 })
    expect(await countMatches(gate)).toBe(0)
    await change(tenant, { identification_threshold: 0.69, max_results: 20 })
    expect(await countMatches(gate)).toBe(10)
  })

  it('in the attempts that are allowed', async () => {
    const tenant = await createTenant()
    const gate = await createGate(tenant)
    await enroll(tenant, 'ada', axis(0))
    const attempt = async () =>
      (await gate.request('POST', '/v1/faces/verify', { external_id: 'ada', embedding: axis(1) })).status
    expect([await attempt(), await attempt()]).toEqual([200, 200])
    await change(tenant, { failed_verifications_per_hour: 2 })
    expect(await attempt()).toBe(429)
    await change(tenant, { failed_verifications_per_hour: 3 })
    expect([await attempt(), await attempt()]).toEqual([200, 429])
    await change(tenant, { failed_verifications_per_hour: null, failed_verifications_per_day: 3 })
    expect(await attempt()).toBe(429)
  })

  it('in what a picture must be to be enrolled', async () => {
    const tenant = await createTenant()
    const gate = await createGate(tenant)
    const enrollPicture = async (quality: number) => {
      const image = inBase64(pictureOf(axis(0), { quality }))
      return (await gate.request('PUT', '/v1/faces/ada', { image })).status
    }
    expect([await enrollPicture(0.5), await enrollPicture(0.4999)]).toEqual([201, 422])
    await change(tenant, { minimum_quality: 0.8 })
    expect([await enrollPicture(0.8), await enrollPicture(0.7999)]).toEqual([200, 422])
    await change(tenant, { minimum_quality: 0 })
    expect(await enrollPicture(0)).toBe(200)
    await change(tenant, { minimum_quality: null })
    expect([await enrollPicture(0.5), await enrollPicture(0.4999)]).toEqual([200, 422])
  })

  it('in whether somebody is enrolled twice', async () => {
    const tenant = await createTenant()
    const gate = await createGate(tenant)
    await enroll(gate, 'ada', axis(0))
    const enrollTwin = async (externalId: string) =>
      (await gate.request('POST', '/v1/faces', { external_id: externalId, embedding: axis(0) })).status
    expect(await enrollTwin('bob')).toBe(201)
    await change(tenant, { duplicates: 'reject' })
    expect(await enrollTwin('eve')).toBe(409)
    await change(tenant, { duplicates: null })
    expect(await enrollTwin('eve')).toBe(201)
  })

  it('in whether a live person is asked for, and from which score a picture shows one', async () => {
    const [tenant, rival] = [await createTenant(), await createTenant()]
    const gate = await createGate(tenant)
    for (const one of [tenant, rival]) await enroll(one, 'ada', axis(0))
    const claim = async (one: TestTenant, liveness: number) => {
      const image = inBase64(pictureOf(axis(0), { liveness }))
      return (await one.request('POST', '/v1/faces/verify', { external_id: 'ada', image })).status
    }
    const claimByEmbedding = async () =>
      (await gate.request('POST', '/v1/faces/verify', { external_id: 'ada', embedding: axis(0) })).status
    expect([await claim(gate, 0), await claimByEmbedding()]).toEqual([200, 200])
    await change(tenant, { require_liveness: true })
    // the recognizer of the tests passes from 0.5 on
    expect([await claim(gate, 0.5), await claim(gate, 0.4999), await claimByEmbedding()]).toEqual([200, 422, 422])
    await change(tenant, { liveness_threshold: 0.9 })
    expect([await claim(gate, 0.9), await claim(gate, 0.8999)]).toEqual([200, 422])
    await change(tenant, { liveness_threshold: 0 })
    expect(await claim(gate, 0)).toBe(200)
    await change(tenant, { liveness_threshold: 1 })
    expect([await claim(gate, 1), await claim(gate, 0.9999)]).toEqual([200, 422])
    await change(tenant, { require_liveness: null })
    expect([await claim(gate, 0), await claimByEmbedding()]).toEqual([200, 200])
    expect(await claim(rival, 0)).toBe(200)
  })

  it('in which pages may read answers', async () => {
    const tenant = await createTenant()
    const gate = await createGate(tenant)
    const readAllowed = async () =>
      (await gate.request('GET', '/v1/faces', undefined, { Origin: ORIGIN })).headers.get('Access-Control-Allow-Origin')
    expect(await readAllowed()).toBeNull()
    await change(tenant, { allowed_origins: [ORIGIN] })
    expect(await readAllowed()).toBe(ORIGIN)
    await change(tenant, { allowed_origins: [] })
    expect(await readAllowed()).toBeNull()
  })

  it('and makes only the keys of that tenant ask again whose they are', async () => {
    const [tenant, rival] = [await createTenant(), await createTenant()]
    const gate = await createGate(tenant)
    for (const one of [tenant, gate, rival]) await one.request('GET', '/v1/faces')
    await change(tenant, { max_results: 7 })
    expect(await countRequests(() => rival.request('GET', '/v1/faces'))).toMatchObject({ requests: 1 })
    expect(await countRequests(() => gate.request('GET', '/v1/faces'))).toMatchObject({ requests: 2 })
    expect(await countRequests(() => gate.request('GET', '/v1/faces'))).toMatchObject({ requests: 1 })
  })
})

describe('an isolate that was not told of a change', () => {
  afterEach(() => {
    vi.useRealTimers()
  })

  it('works by what it knew for less than a minute more, and then by what is stored', async () => {
    const tenant = await createTenant()
    await enroll(tenant, 'ada', axis(0))
    // only the clock: the timers of the driver go on
    vi.useFakeTimers({ toFake: ['Date'], now: Date.now() + 60_001 })
    const knownSince = Date.now()
    expect(await isVerified(tenant)).toBe(true)
    // another isolate's PATCH
    await asAdmin`update tenants set settings = '{"verification_threshold": 0.71}' where id = ${tenant.id}`
    vi.setSystemTime(knownSince + 59_999)
    expect(await countRequests(() => isVerified(tenant))).toMatchObject({ requests: 1 })
    expect(await isVerified(tenant)).toBe(true)
    vi.setSystemTime(knownSince + 60_000)
    expect(await isVerified(tenant)).toBe(false)
  })

  it('reads with GET what is stored at once', async () => {
    const tenant = await createTenant()
    expect(await readSettings(tenant)).toEqual(DEFAULTS)
    await asAdmin`update tenants set settings = '{"max_results": 7}' where id = ${tenant.id}`
    expect(
      await countRequests(async () => expect(await readSettings(tenant)).toMatchObject({ max_results: 7 })),
    ).toMatchObject({ requests: 1 })
  })
})
