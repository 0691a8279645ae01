// Proves that what a client names by an Idempotency-Key is done, audited and metered once, and answered again as the first
// time, for every route that changes something; and that nothing of an erased person is kept for it. On a real PostgreSQL
// with row-level security. Fake: the embeddings, which are axes, and the recognizer, for which a picture is a text.
import { createScheduledController } from 'cloudflare:test'
import { env } from 'cloudflare:workers'
import { describe, expect, it } from 'vitest'
import { app } from '../../src/app.ts'
import { SCOPES, type Scope } from '../../src/auth/api-key.ts'
import worker from '../../src/index.ts'
import { guarded, isOperators } from './openapi-document.ts'
import { inBase64, pictureOf, sendForm, toForm } from './picture.ts'
import {
  asAdmin,
  atCosine,
  axis,
  countRequests,
  countRows,
  createKey,
  createTenant,
  enroll,
  readUsage,
  type TestTenant,
} from './tenant.ts'

const image = inBase64(pictureOf(axis(0)))
const near = inBase64(pictureOf(atCosine(0.4, 0, 9)))
const probe = { external_id: 'ada', embedding: axis(0) }
const withKey = (key: string) => ({ 'Idempotency-Key': key })

const ACTS = {
  enrollFace: ['POST', '/v1/faces', { external_id: 'grace', embedding: axis(1), metadata: { b: 1, a: [2] } }, 201],
  replaceFace: ['PUT', '/v1/faces/ada', { embedding: axis(1), quality_score: 0.5 }, 200],
  updateFaceMetadata: ['PATCH', '/v1/faces/ada', { metadata: { sector: 'north' } }, 200],
  eraseFace: ['DELETE', '/v1/faces/ada', undefined, 204],
  verifyFace: ['POST', '/v1/faces/verify', probe, 200],
  searchFaces: ['POST', '/v1/faces/search', { embedding: axis(0) }, 200],
  compareFaces: ['POST', '/v1/faces/compare', { first: { image }, second: { image } }, 200],
  checkLiveness: ['POST', '/v1/faces/liveness', { image }, 200],
  detectFaces: ['POST', '/v1/faces/detect', { image }, 200],
  createApiKey: ['POST', '/v1/api-keys', { name: 'gate', scopes: ['verify'] }, 201],
  rotateApiKey: ['POST', '/v1/api-keys/{api_key_id}/rotate', { overlap_seconds: 600 }, 201],
  revokeApiKey: ['DELETE', '/v1/api-keys/{api_key_id}', undefined, 204],
  changeOwnTenant: ['PATCH', '/v1/tenant', { settings: { max_results: 7 } }, 200],
} as const

const OUTCOMES = [
  ['who is enrolled already', 'POST', '/v1/faces', probe, 409],
  ['nobody to verify', 'POST', '/v1/faces/verify', { external_id: 'eve', embedding: axis(0) }, 404],
  ['a decision against', 'POST', '/v1/faces/verify', { external_id: 'ada', embedding: axis(1) }, 200],
  ['a search for nobody', 'POST', '/v1/faces/search', { embedding: axis(3) }, 200],
  ['nobody to erase', 'DELETE', '/v1/faces/eve', undefined, 404],
  ['nobody to change', 'PATCH', '/v1/faces/eve', { metadata: {} }, 404],
  ['a key that is not there', 'DELETE', '/v1/api-keys/00000000-0000-4000-8000-000000000000', undefined, 404],
  ['somebody new by PUT', 'PUT', '/v1/faces/eve', { embedding: axis(1) }, 201],
] as const

/** A tenant with ada, and a key that is not the one it asks with. */
async function createBusyTenant(): Promise<{ tenant: TestTenant; otherKeyId: string }> {
  const tenant = await createTenant()
  await enroll(tenant, 'ada', axis(0))
  return { tenant, otherKeyId: (await createKey(tenant.id, ['verify'])).keyId }
}

/** All that a tenant has in the database, but for when its key was last used. */
async function readEverything(tenantId: string): Promise<unknown> {
  const tables = await asAdmin`
    select c.oid::regclass::text as name from pg_class c
    where c.relnamespace = 'public'::regnamespace and c.relkind = 'r'
      and exists (select from pg_attribute a where a.attrelid = c.oid and a.attname = 'tenant_id')
    order by 1`
  const contents: Record<string, unknown> = {}
  for (const { name } of tables) {
    // the name of a table of ours, as the catalog spells it: no parameter can stand for one
    contents[String(name)] = await asAdmin.query(
      `select to_jsonb(t) - 'last_used_at' as row from ${name} t where tenant_id = $1 order by to_jsonb(t)::text`,
      [tenantId],
    )
  }
  return { ...contents, tenant: await asAdmin`select settings, updated_at from tenants where id = ${tenantId}` }
}

async function toAnswer(response: Response) {
  const text = await response.text()
  return {
    status: response.status,
    body: text.replace(/"request_id":"[^"]*"|"latency_ms":\d+/g, ''),
    isReplay: response.headers.get('Idempotent-Replayed'),
  }
}

describe('a request with an Idempotency-Key', () => {
  it('can be every one of a tenant that changes something, and the document says so', () => {
    const changing = guarded.filter((one) => one.method !== 'GET' && !isOperators(one))
    expect(Object.keys(ACTS).toSorted()).toEqual(changing.map(({ operationId }) => operationId).toSorted())
    for (const operation of guarded) {
      const takesKey = operation.parameters?.some(({ name }) => name === 'Idempotency-Key') ?? false
      expect(takesKey, operation.operationId).toBe(changing.includes(operation))
    }
  })

  it.each([...Object.entries(ACTS).map(([id, act]) => [id, ...act] as const), ...OUTCOMES])(
    '%s is done once, and answered a second time as the first, in one request to the database each',
    async (_, method, path, body, status) => {
      const { tenant, otherKeyId } = await createBusyTenant()
      const ask = () =>
        tenant.request(method, path.replace('{api_key_id}', otherKeyId), body, withKey('a key of the client'))
      const answers: Response[] = []
      const askOnce = async () => answers.push(await ask())

      const { statements, ...cost } = await countRequests(askOnce)
      expect(cost).toEqual({ requests: 1, transactions: 1 })
      // an isolate that has changed a tenant's settings reads them anew
      await tenant.request('GET', '/v1/tenant')
      const before = await readEverything(tenant.id)
      expect(await countRequests(askOnce)).toEqual({ ...cost, statements })
      expect(await readEverything(tenant.id)).toEqual(before)

      const [first, second] = await Promise.all(answers.map(toAnswer))
      expect(first).toMatchObject({ status, isReplay: null })
      expect(second).toEqual({ ...first, isReplay: 'true' })
    },
  )

  it.each([
    ['another body', 'POST', '/v1/faces/verify', { ...probe, embedding: axis(1) }],
    ['another address', 'POST', '/v1/faces', probe],
    ['another method', 'DELETE', '/v1/faces/verify', undefined],
    ['another query', 'POST', '/v1/faces/verify?a=b', probe],
  ] as const)('is refused with %s, and nothing is written', async (_, method, path, body) => {
    const { tenant } = await createBusyTenant()
    expect((await tenant.request('POST', '/v1/faces/verify', probe, withKey('k'))).status).toBe(200)
    const before = await readEverything(tenant.id)
    const response = await tenant.request(method, path, body, withKey('k'))
    expect(response.status).toBe(422)
    expect(await response.json()).toMatchObject({ code: 'IDEMPOTENCY_KEY_REUSED' })
    expect(response.headers.get('Idempotent-Replayed')).toBeNull()
    expect(await readEverything(tenant.id)).toEqual(before)
  })

  it('knows nothing of the keys of another tenant', async () => {
    const [one, other] = [(await createBusyTenant()).tenant, (await createBusyTenant()).tenant]
    const answers = await Promise.all(
      [one, other].map((tenant) => tenant.request('POST', '/v1/faces/verify', probe, withKey('the same'))),
    )
    const decided = await Promise.all(answers.map((response) => response.json<{ verification_id: string }>()))
    expect(answers.map(({ headers }) => headers.get('Idempotent-Replayed'))).toEqual([null, null])
    expect(decided[0]?.verification_id).not.toBe(decided[1]?.verification_id)
  })

  it('is the same from another credential of the tenant, which learns only what it may', async () => {
    const { tenant } = await createBusyTenant()
    const first = await tenant.request('POST', '/v1/faces/verify', probe, withKey('k'))
    const { verification_id, confidence } = await first.json<Record<string, unknown>>()
    expect(confidence).toBe(1)
    const poorer = async (...scopes: Scope[]) => {
      const credential = await createKey(tenant.id, scopes)
      return credential.request('POST', '/v1/faces/verify', probe, withKey('k'))
    }
    const answered = await (await poorer('verify')).json<Record<string, unknown>>()
    expect(answered['verification_id']).toBe(verification_id)
    expect(answered).not.toHaveProperty('confidence')
    expect((await poorer('identify')).status).toBe(403)
  })

  it.each([
    ['nothing', ''],
    ['256 characters', 'k'.repeat(256)],
    ['a character that is not of ASCII', 'caf\u00e9'],
    ['a tab', 'a\tb'],
  ])('is refused when the key is %s, and nothing is written', async (_, key) => {
    const { tenant } = await createBusyTenant()
    const before = await readEverything(tenant.id)
    const response = await tenant.request('POST', '/v1/faces/verify', probe, withKey(key))
    expect(response.status).toBe(422)
    expect(await response.json()).toMatchObject({
      code: 'INVALID_REQUEST',
      errors: [{ parameter: 'Idempotency-Key' }],
    })
    expect(await readEverything(tenant.id)).toEqual(before)
    // what only reads does not look at it
    for (const method of ['GET', 'HEAD']) {
      expect((await tenant.request(method, '/v1/faces', undefined, withKey(key))).status).toBe(200)
    }
  })

  it('takes a key of one character and one of 255', async () => {
    const { tenant } = await createBusyTenant()
    for (const key of ['k', '~'.repeat(255)]) {
      const ask = async () => (await tenant.request('POST', '/v1/faces/verify', probe, withKey(key))).headers
      expect((await ask()).get('Idempotent-Replayed')).toBeNull()
      expect((await ask()).get('Idempotent-Replayed')).toBe('true')
    }
    expect(await readUsage(tenant)).toMatchObject({ verifications: 2 })
  })

  it('is known again as a form, whatever line stands between the fields', async () => {
    const { tenant } = await createBusyTenant()
    const ask = (external_id: string, face: number[]) =>
      sendForm(
        tenant,
        'POST',
        '/v1/faces/verify',
        toForm([
          ['external_id', external_id],
          ['image', { file: pictureOf(face) }],
        ]),
        withKey('k'),
      )
    expect((await ask('ada', axis(0))).headers.get('Idempotent-Replayed')).toBeNull()
    expect((await ask('ada', axis(0))).headers.get('Idempotent-Replayed')).toBe('true')
    const turned = toForm([
      ['image', { file: pictureOf(axis(0)) }],
      ['external_id', 'ada'],
    ])
    const again = await sendForm(tenant, 'POST', '/v1/faces/verify', turned, withKey('k'))
    expect(again.headers.get('Idempotent-Replayed')).toBe('true')
    expect((await ask('ada', axis(1))).status).toBe(422)
    expect((await ask('eve', axis(0))).status).toBe(422)
    expect(await readUsage(tenant)).toMatchObject({ verifications: 1 })
  })

  it('answers with the same API key, which works, and which the database does not hold', async () => {
    const { tenant } = await createBusyTenant()
    const ask = async () =>
      (await tenant.request('POST', '/v1/api-keys', { name: 'gate', scopes: ['faces:read'] }, withKey('k'))).json<{
        api_key: string
      }>()
    const [first, second] = [await ask(), await ask()]
    expect(second).toEqual(first)
    const response = await app.request('/v1/faces', { headers: { 'X-API-Key': second.api_key } }, env)
    expect(response.status).toBe(200)
    expect(JSON.stringify(await readEverything(tenant.id))).not.toContain(first.api_key.slice(12))
  })

  it('that failed before anything was decided is a new one when it comes again', async () => {
    const tenant = await createTenant()
    const nobody = { image: inBase64(JSON.stringify({ faces: [] })), external_id: 'ada' }
    expect((await tenant.request('POST', '/v1/faces', nobody, withKey('k'))).status).toBe(422)
    expect((await tenant.request('POST', '/v1/faces', { external_id: '' }, withKey('k'))).status).toBe(422)
    const response = await tenant.request('POST', '/v1/faces', probe, withKey('k'))
    expect(response.status).toBe(201)
    expect(response.headers.get('Idempotent-Replayed')).toBeNull()
  })

  it('that came too soon is a new one after the wait', async () => {
    const { tenant } = await createBusyTenant()
    await asAdmin`
      insert into verifications (tenant_id, external_id, verified, confidence, threshold, model, request_id)
      select ${tenant.id}, 'ada', false, 0.5, 0.675, 'a model', 'a test' from generate_series(1, 10)`
    expect((await tenant.request('POST', '/v1/faces/verify', probe, withKey('k'))).status).toBe(429)
    await asAdmin`update verifications set created_at = now() - interval '2 days' where tenant_id = ${tenant.id}`
    const response = await tenant.request('POST', '/v1/faces/verify', probe, withKey('k'))
    expect(await toAnswer(response)).toMatchObject({ status: 200, isReplay: null })
  })

  if (!env.TEST.isNative)
    console.log('skipped: the embedded database has one session, so no request is in flight beside')
  it.skipIf(!env.TEST.isNative)('is refused at once while the first is being carried out', async () => {
    const { tenant } = await createBusyTenant()
    const lock = asAdmin.transaction([
      asAdmin`lock table usage_events in access exclusive mode`,
      asAdmin`select pg_sleep(1.5)`,
    ])
    await new Promise((resolve) => setTimeout(resolve, 300))
    const first = tenant.request('POST', '/v1/faces/verify', probe, withKey('k'))
    await new Promise((resolve) => setTimeout(resolve, 300))
    const second = await tenant.request('POST', '/v1/faces/verify', probe, withKey('k'))
    expect(second.status).toBe(409)
    expect(second.headers.get('Retry-After')).toBe('1')
    expect(await second.json()).toMatchObject({ code: 'IDEMPOTENCY_KEY_IN_USE' })
    // not after the lock was given back
    expect(await Promise.race([lock.then(() => 'released'), Promise.resolve('held')])).toBe('held')
    expect((await first).status).toBe(200)
    await lock
    const third = await tenant.request('POST', '/v1/faces/verify', probe, withKey('k'))
    expect(third.headers.get('Idempotent-Replayed')).toBe('true')
    expect(await countRows(tenant)).toMatchObject({ verifications: 1 })
  })

  it('is done once, of eight at the same time', async () => {
    const { tenant } = await createBusyTenant()
    const answers = await Promise.all(
      Array.from({ length: 8 }, () => tenant.request('POST', '/v1/faces/verify', probe, withKey('k'))),
    )
    for (const { status } of answers) expect([200, 409]).toContain(status)
    expect(answers.some(({ status }) => status === 200)).toBe(true)
    expect(await countRows(tenant)).toMatchObject({ verifications: 1 })
    expect(await readUsage(tenant)).toMatchObject({ verifications: 1 })
  })
})

describe('what is remembered of a request', () => {
  it('ends after 24 hours, and then it is a new one', async () => {
    const { tenant } = await createBusyTenant()
    const ask = async () => toAnswer(await tenant.request('POST', '/v1/faces/verify', probe, withKey('k')))
    const first = await ask()
    const [kept] = await asAdmin`
      select extract(epoch from expires_at - created_at)::int as seconds from idempotent_requests
      where tenant_id = ${tenant.id} and fingerprint is not null`
    expect(kept).toEqual({ seconds: 24 * 60 * 60 })
    await asAdmin`update idempotent_requests set expires_at = now() where tenant_id = ${tenant.id}`
    const second = await ask()
    expect(second).toMatchObject({ status: 200, isReplay: null })
    expect(second.body).not.toBe(first.body)
    expect(await readUsage(tenant)).toMatchObject({ verifications: 2 })
  })

  it('is taken away by the schedule when its time is over, and not before', async () => {
    const { tenant } = await createBusyTenant()
    await tenant.request('POST', '/v1/faces/verify', probe, withKey('old'))
    await asAdmin`update idempotent_requests set expires_at = now() where tenant_id = ${tenant.id}`
    await tenant.request('POST', '/v1/faces/verify', probe, withKey('new'))
    await tenant.request('POST', '/v1/faces/verify', probe)
    await Promise.all([
      worker.scheduled(createScheduledController(), env),
      worker.scheduled(createScheduledController(), env),
    ])
    // that of the client's key, and that of the Worker's own
    const left = await asAdmin`
      select octet_length(key) as bytes, extract(epoch from expires_at - created_at)::int as seconds
      from idempotent_requests where tenant_id = ${tenant.id} order by 1`
    expect(left).toEqual([
      { bytes: 16, seconds: 600 },
      { bytes: 32, seconds: 86400 },
    ])
    const again = await tenant.request('POST', '/v1/faces/verify', probe, withKey('new'))
    expect(again.headers.get('Idempotent-Replayed')).toBe('true')
  })

  it('names nobody, and holds no key, metadata, sealed copy or embedding', async () => {
    const { tenant } = await createBusyTenant()
    const name = 'someone-in-particular'
    const enrollment = { external_id: name, embedding: axis(2), metadata: { passport: 'X123' } }
    await tenant.request('POST', '/v1/faces', enrollment, withKey('key of someone'))
    await tenant.request('PATCH', `/v1/faces/${name}`, { metadata: { passport: 'X456' } }, withKey('a second'))
    await tenant.request('POST', '/v1/faces/verify', { external_id: name, embedding: axis(2) }, withKey('a third'))
    await tenant.request('POST', '/v1/faces/search', { embedding: axis(2) })
    await tenant.request('DELETE', `/v1/faces/${name}`)
    const rows = await asAdmin`
      select to_jsonb(r)::text as text, encode(key, 'escape') as key
      from idempotent_requests r where tenant_id = ${tenant.id}`
    expect(rows).toHaveLength(6)
    expect(JSON.stringify(rows)).not.toMatch(/someone|passport|X123|X456|sealed|embedding|external_id/)
  })

  it.each([
    ['verify', '/v1/faces/verify', probe],
    ['search', '/v1/faces/search', { embedding: axis(0) }],
  ] as const)('of a %s is gone with the face that was answered', async (_, path, body) => {
    const { tenant } = await createBusyTenant()
    for (const [key, method, address, change] of [
      ['erased', 'DELETE', '/v1/faces/ada', undefined],
      ['replaced', 'PUT', '/v1/faces/ada', { embedding: axis(0) }],
    ] as const) {
      await tenant.request('PUT', '/v1/faces/ada', { embedding: axis(0) })
      expect((await tenant.request('POST', path, body, withKey(key))).status).toBe(200)
      await tenant.request(method, address, change)
      const response = await tenant.request('POST', path, body, withKey(key))
      expect(response.status).toBe(410)
      expect(await response.json()).toMatchObject({ code: 'ANSWER_GONE' })
    }
  })

  it('of an enrollment answers what was done then, and enrolls nobody anew', async () => {
    const { tenant } = await createBusyTenant()
    const ask = async () =>
      toAnswer(await tenant.request('POST', '/v1/faces', { ...probe, external_id: 'eve' }, withKey('k')))
    const first = await ask()
    await tenant.request('DELETE', '/v1/faces/eve')
    expect(await ask()).toEqual({ ...first, isReplay: 'true' })
    expect((await tenant.request('GET', '/v1/faces/eve')).status).toBe(404)
  })

  it('of an erasure erases nobody who was enrolled since', async () => {
    const { tenant } = await createBusyTenant()
    const ask = async () => toAnswer(await tenant.request('DELETE', '/v1/faces/ada', undefined, withKey('k')))
    const first = await ask()
    await enroll(tenant, 'ada', axis(1))
    expect(await ask()).toEqual({ ...first, isReplay: 'true' })
    expect((await tenant.request('GET', '/v1/faces/ada')).status).toBe(200)
  })

  it.each([
    ['with another distance', `jsonb_set(answer, '{0,distance}', '0.1')`],
    ['with no threshold', `jsonb_set(answer, '{0,threshold}', '0')`],
    ['with a threshold that is none', `jsonb_set(answer, '{0,threshold}', 'null')`],
    ['with a threshold that is a text', `jsonb_set(answer, '{0,threshold}', '"0"')`],
  ])(
    'is believed no more than the database: a decision that somebody turns round %s is for nobody',
    async (_, forged) => {
      const { tenant } = await createBusyTenant()
      const impostor = { ...probe, embedding: axis(7) }
      const verify = () => tenant.request('POST', '/v1/faces/verify', impostor, withKey('v'))
      const search = () => tenant.request('POST', '/v1/faces/search', { embedding: axis(7) }, withKey('s'))
      expect(await (await verify()).json()).toMatchObject({ verified: false })
      expect(await (await search()).json()).toMatchObject({ matches: [] })
      const [face] = await asAdmin`select id from faces where tenant_id = ${tenant.id}`
      // the expression is of this test: no parameter can stand for one
      await asAdmin.query(
        `update idempotent_requests set answer = ${forged} where tenant_id = $1 and fingerprint is not null`,
        [tenant.id],
      )
      await asAdmin`
      update idempotent_requests
      set answer = jsonb_set(answer, '{0}', jsonb_build_object('distance', 1) || (answer -> 0) || jsonb_build_object(
        'verified', true, 'face_id', ${face?.['id']}::text, 'confidence', 0.5,
        'distance', coalesce(answer -> 0 -> 'distance', '1')))
      where tenant_id = ${tenant.id} and fingerprint is not null`
      for (const ask of [verify, search]) {
        const response = await ask()
        expect(response.status).toBe(410)
        expect(await response.json()).toMatchObject({ code: 'ANSWER_GONE' })
        expect(response.headers.get('Idempotent-Replayed')).toBe('true')
      }
    },
  )

  it('of an API key is shown only to who could have made it', async () => {
    const { tenant } = await createBusyTenant()
    const poorer = await createKey(tenant.id, ['admin', 'verify'])
    const { keyId } = await createKey(tenant.id, ['faces:read'])
    const acts = [
      ['/v1/api-keys', { name: 'gate', scopes: ['faces:read', 'admin'] }],
      [`/v1/api-keys/${keyId}/rotate`, { overlap_seconds: 600 }],
    ] as const
    for (const [path, body] of acts) {
      // refused, and not remembered for who may
      expect((await poorer.request('POST', path, body, withKey(path))).status).toBe(403)
      expect((await tenant.request('POST', path, body, withKey(path))).status).toBe(201)
      const response = await poorer.request('POST', path, body, withKey(path))
      expect(response.status).toBe(403)
      expect(await response.text()).not.toContain('rk_test_')
    }
  })

  it('of an API key makes no other tenant’s key, wherever its seed is put', async () => {
    const [one, other] = [(await createBusyTenant()).tenant, (await createBusyTenant()).tenant]
    const ask = async (tenant: TestTenant) =>
      (await tenant.request('POST', '/v1/api-keys', { name: 'gate', scopes: ['verify'] }, withKey('k'))).json<{
        api_key: string
      }>()
    const [first] = [await ask(one), await ask(other)]
    await asAdmin`
      update idempotent_requests set answer = (
        select answer from idempotent_requests where tenant_id = ${one.id} and fingerprint is not null
      ) where tenant_id = ${other.id} and fingerprint is not null`
    expect((await ask(one)).api_key).toBe(first.api_key)
    expect((await ask(other)).api_key).not.toBe(first.api_key)
  })

  it.each([
    ['a verification', 'POST', '/v1/faces/verify', { external_id: 'ada', image }],
    ['a search', 'POST', '/v1/faces/search', { image }],
    ['a comparison', 'POST', '/v1/faces/compare', { first: { image }, second: { image: near } }],
    ['a judgment of liveness', 'POST', '/v1/faces/liveness', { image }],
  ] as const)('of %s stays what it was when the settings change', async (_, method, path, body) => {
    const { tenant } = await createBusyTenant()
    const first = await toAnswer(await tenant.request(method, path, body, withKey('k')))
    expect(first.status).toBe(200)
    await asAdmin`
      update tenants set settings =
        '{"verification_threshold": 0.95, "identification_threshold": 0.95, "liveness_threshold": 0.95, "require_liveness": true}'
      where id = ${tenant.id}`
    // which an isolate learns with a credential that it has not seen
    const informed = await createKey(tenant.id, SCOPES)
    expect(await toAnswer(await informed.request(method, path, body, withKey('k')))).toEqual({
      ...first,
      isReplay: 'true',
    })
    expect((await toAnswer(await informed.request(method, path, body, withKey('other')))).body).not.toBe(first.body)
  })

  it('is not in the way of the schedule while somebody takes it away', async () => {
    const { tenant } = await createBusyTenant()
    await tenant.request('POST', '/v1/faces/verify', probe, withKey('k'))
    await asAdmin`update idempotent_requests set expires_at = now() where tenant_id = ${tenant.id}`
    const taking = asAdmin.transaction([
      asAdmin`select from idempotent_requests where tenant_id = ${tenant.id} for update`,
      asAdmin`select pg_sleep(0.5)`,
    ])
    await new Promise((resolve) => setTimeout(resolve, 200))
    await worker.scheduled(createScheduledController(), env)
    await taking
    expect(await countRows(tenant)).toMatchObject({ usage_events: 0 })
  })

  it('stays decided by the threshold of then', async () => {
    const { tenant } = await createBusyTenant()
    const near = { external_id: 'ada', embedding: atCosine(0.4, 0, 9) }
    const ask = (credential: Pick<TestTenant, 'request'>, path: string) =>
      credential.request('POST', path, path.endsWith('verify') ? near : { embedding: near.embedding }, withKey(path))
    for (const path of ['/v1/faces/verify', '/v1/faces/search']) {
      const first = await toAnswer(await ask(tenant, path))
      expect(first.body).toMatch(/"verified":true|"external_id":"ada"/)
      await asAdmin`
        update tenants set settings = '{"verification_threshold": 0.9, "identification_threshold": 0.9}'
        where id = ${tenant.id}`
      // which an isolate learns with a credential that it has not seen
      const informed = await createKey(tenant.id, ['verify', 'identify', 'scores:read'])
      expect(await toAnswer(await ask(informed, path))).toEqual({ ...first, isReplay: 'true' })
      await asAdmin`update tenants set settings = '{}' where id = ${tenant.id}`
    }
  })
})
