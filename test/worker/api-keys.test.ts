// Proves that a tenant makes, rotates and revokes its own API keys: that nobody grants what they have not got, that
// an end is effective on the next request of a warm isolate, that a rival sees and touches none of it, and that each
// act is one request to the database and leaves one event. On a real PostgreSQL with row-level security. Fake: the
// issuer of tokens, the clock of the isolate where a test says so, and times that are moved in the rows.
import { env } from 'cloudflare:workers'
import { afterEach, describe, expect, it, vi } from 'vitest'
import { app } from '../../src/app.ts'
import { generateApiKey, hashApiKey, isApiKey, SCOPES, type Scope, toPepper } from '../../src/auth/api-key.ts'
import { asAdmin, axis, countRequests, createKey, createTenant, enroll, type TestTenant } from './tenant.ts'
import { configureIssuer, createSigner, inline, toClaims } from './tokens.ts'

const UUID = /^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/
const TIME = /^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$/
const DAY_MS = 24 * 60 * 60 * 1000
const WARM = { requests: 1, transactions: 1, statements: 2 }

interface Key {
  api_key_id: string
  name: string
  prefix: string
  scopes: Scope[]
  created_at: string
  expires_at: string | null
  revoked_at: string | null
  last_used_at: string | null
}
type ShownKey = Key & { api_key: string }

const FIELDS = ['api_key_id', 'created_at', 'expires_at', 'last_used_at', 'name', 'prefix', 'revoked_at', 'scopes']

async function make(tenant: TestTenant, body: object = { name: 'gate 1', scopes: ['faces:read'] }): Promise<ShownKey> {
  const response = await tenant.request('POST', '/v1/api-keys', body)
  expect(response.status).toBe(201)
  return response.json()
}

function rotate(tenant: TestTenant, id: string, body: object = {}): Promise<Response> {
  return tenant.request('POST', `/v1/api-keys/${id}/rotate`, body)
}

function revoke(tenant: TestTenant, id: string): Promise<Response> {
  return tenant.request('DELETE', `/v1/api-keys/${id}`)
}

async function list(tenant: TestTenant): Promise<Key[]> {
  return (await (await tenant.request('GET', '/v1/api-keys?limit=100')).json<{ data: Key[] }>()).data
}

async function find(tenant: TestTenant, id: string): Promise<Key> {
  const key = (await list(tenant)).find(({ api_key_id }) => api_key_id === id)
  if (!key) throw new RangeError('the list has no such key')
  return key
}

/** A request with a key that a test was shown. */
function use(key: string, method = 'GET', path = '/v1/faces', body?: object): Promise<Response> {
  const headers = { Authorization: `Bearer ${key}`, ...(body && { 'Content-Type': 'application/json' }) }
  return Promise.resolve(app.request(path, { method, headers, ...(body && { body: JSON.stringify(body) }) }, env))
}

/** Everything that the acts below could change, but for the notes of use. */
function readRows({ id }: TestTenant): Promise<unknown[]> {
  return asAdmin`
    select 'key' as kind, id, to_jsonb(k) - 'last_used_at' - 'hash' as row from api_keys k where tenant_id = ${id}
    union all
    select 'event', id, to_jsonb(e) from admin_events e where tenant_id = ${id}
    order by kind, id`
}

/** Of requests: the operator's own events have no request. */
function readEvents({ id }: TestTenant): Promise<Record<string, unknown>[]> {
  return asAdmin`
    select actor, action, target, request_id from admin_events
    where tenant_id = ${id} and request_id is not null order by created_at`
}

async function expectRefused(
  tenant: TestTenant,
  send: () => Promise<Response>,
  status: number,
  problem: object,
): Promise<string> {
  const before = await readRows(tenant)
  const response = await send()
  const text = await response.text()
  expect(response.status, text).toBe(status)
  expect(JSON.parse(text)).toMatchObject(problem)
  expect(await readRows(tenant)).toEqual(before)
  return text
}

describe('a key that is made', () => {
  it('is shown once, with all there is to know of it, and works at once with its scopes and no others', async () => {
    const tenant = await createTenant()
    const key = await make(tenant, { name: 'gate 1', scopes: ['verify', 'faces:read'] })
    expect(key).toEqual({
      api_key_id: expect.stringMatching(UUID),
      name: 'gate 1',
      prefix: key.api_key.slice(0, 12),
      scopes: ['verify', 'faces:read'],
      created_at: expect.stringMatching(TIME),
      expires_at: null,
      revoked_at: null,
      last_used_at: null,
      api_key: expect.stringMatching(/^rk_test_/),
    })
    expect(isApiKey(key.api_key)).toBe(true)
    expect((await use(key.api_key)).status).toBe(200)
    expect((await use(key.api_key, 'POST', '/v1/faces', { external_id: 'ada', embedding: axis(0) })).status).toBe(403)
    expect((await use(key.api_key, 'GET', '/v1/api-keys')).status).toBe(403)
  })

  it('is of its tenant and opens no other', async () => {
    const [tenant, rival] = [await createTenant(), await createTenant()]
    await enroll(tenant, 'ada', axis(0))
    await enroll(rival, 'grace', axis(1))
    const { api_key } = await make(tenant)
    expect((await use(api_key, 'GET', '/v1/faces/ada')).status).toBe(200)
    expect((await use(api_key, 'GET', '/v1/faces/grace')).status).toBe(404)
  })

  it('says by its prefix that its tenant is live, and so does its successor', async () => {
    const tenant = await createTenant()
    await asAdmin`update tenants set environment = 'live' where id = ${tenant.id}`
    const key = await make(tenant)
    expect(key.api_key).toMatch(/^rk_live_/)
    expect(key.prefix).toBe(key.api_key.slice(0, 12))
    expect(await (await rotate(tenant, key.api_key_id)).json()).toMatchObject({
      api_key: expect.stringMatching(/^rk_live_/),
    })
  })

  it('has 32 random characters of 62 behind its prefix, and no two are alike', () => {
    const keys = Array.from({ length: 2_000 }, () => generateApiKey('live'))
    expect(new Set(keys).size).toBe(keys.length)
    const counts = new Map<string, number>()
    for (const key of keys) {
      expect(key).toMatch(/^rk_live_[0-9A-Za-z]{38}$/)
      for (const character of key.slice(8, 40)) counts.set(character, (counts.get(character) ?? 0) + 1)
    }
    // 64,000 characters, some 1,032 of each: six standard deviations are 191, and a byte modulo 62 would be off by 250
    expect(counts.size).toBe(62)
    for (const [character, count] of counts) expect(Math.abs(count - 64_000 / 62), character).toBeLessThan(200)
  })

  it('is stored as a hash under the pepper', async () => {
    const tenant = await createTenant()
    const { api_key_id, api_key } = await make(tenant)
    const [row] = await asAdmin`
      select encode(hash, 'hex') as hash, to_jsonb(k)::text as row from api_keys k where id = ${api_key_id}`
    expect(isApiKey(api_key) && (await hashApiKey(api_key, await toPepper(env.API_KEY_PEPPER)))).toBe(row?.['hash'])
    expect(row?.['row']).not.toContain(api_key)
  })

  it.each([
    ['in UTC', '2031-02-03T04:05:06.789Z', '2031-02-03T04:05:06.789Z'],
    ['without fractions', '2031-02-03T04:05:06Z', '2031-02-03T04:05:06.000Z'],
    ['elsewhere on the globe', '2031-02-03T04:05:06.789+05:30', '2031-02-02T22:35:06.789Z'],
    ['never', null, null],
  ])('ends at the time that was asked for, %s', async (_name, asked, answered) => {
    const tenant = await createTenant()
    const key = await make(tenant, { name: 'a', scopes: ['faces:read'], expires_at: asked })
    expect(key.expires_at).toBe(answered)
    expect(await find(tenant, key.api_key_id)).toMatchObject({ expires_at: answered })
  })

  it('is refused from its end on, in a warm isolate too, and not before', async () => {
    const tenant = await createTenant()
    const key = await make(tenant, { name: 'a', scopes: ['faces:read'], expires_at: inDays(1) })
    expect((await use(key.api_key)).status).toBe(200)
    await asAdmin`update api_keys set expires_at = now() + interval '1 minute' where id = ${key.api_key_id}`
    expect((await use(key.api_key)).status).toBe(200)
    await asAdmin`update api_keys set expires_at = now() where id = ${key.api_key_id}`
    const cost = await countRequests(async () => expect((await use(key.api_key)).status).toBe(401))
    expect(cost).toMatchObject({ requests: 1 })
  })

  const good = { name: 'gate 1', scopes: ['faces:read'] }
  it.each<[string, object, string]>([
    ['no name', { scopes: ['faces:read'] }, '/name'],
    ['an empty name', { ...good, name: '' }, '/name'],
    ['a name of 256 characters', { ...good, name: '😀'.repeat(256) }, '/name'],
    ['a name with NUL', { ...good, name: 'a\0' }, '/name'],
    ['a name with a line feed', { ...good, name: 'a\nb' }, '/name'],
    ['a name with a space behind', { ...good, name: 'a ' }, '/name'],
    ['a name that is a number', { ...good, name: 1 }, '/name'],
    ['no scopes', { name: 'a' }, '/scopes'],
    ['an empty list of scopes', { ...good, scopes: [] }, '/scopes'],
    ['a scope twice', { ...good, scopes: ['verify', 'verify'] }, '/scopes'],
    ['nine scopes', { ...good, scopes: [...SCOPES, 'verify'] }, '/scopes'],
    ['an unknown scope', { ...good, scopes: ['verify', 'all'] }, '/scopes/1'],
    ['a scope in other letters', { ...good, scopes: ['Admin'] }, '/scopes/0'],
    ['scopes as text', { ...good, scopes: 'verify' }, '/scopes'],
    ['an end that has passed', { ...good, expires_at: inDays(-1 / DAY_MS) }, '/expires_at'],
    ['an end beyond ten years', { ...good, expires_at: inDays(3660) }, '/expires_at'],
    ['an end without a zone', { ...good, expires_at: '2031-02-03T04:05:06' }, '/expires_at'],
    ['a day', { ...good, expires_at: '2031-02-03' }, '/expires_at'],
    ['an end on a day that is none', { ...good, expires_at: '2031-02-30T00:00:00Z' }, '/expires_at'],
    ['an end in a year of five digits', { ...good, expires_at: '+12031-02-03T00:00:00Z' }, '/expires_at'],
    ['infinity', { ...good, expires_at: 'infinity' }, '/expires_at'],
    ['an end as a number', { ...good, expires_at: 1_900_000_000 }, '/expires_at'],
    ['a key of its own', { ...good, api_key: 'rk_test_0' }, '/api_key'],
    ['a tenant', { ...good, tenant_id: crypto.randomUUID() }, '/tenant_id'],
    ['an environment', { ...good, environment: 'live' }, '/environment'],
  ])('is refused with %s', async (_name, body, pointer) => {
    const tenant = await createTenant()
    const text = await expectRefused(tenant, () => tenant.request('POST', '/v1/api-keys', body), 422, {
      code: 'INVALID_REQUEST',
    })
    expect(JSON.parse(text).errors.map((error: { pointer: string }) => error.pointer)).toEqual([pointer])
  })

  it.each<[string, object]>([
    ['a name of 255 emoji', { ...good, name: '😀'.repeat(255) }],
    ['every scope', { ...good, scopes: [...SCOPES] }],
    ['an end in nearly ten years', { ...good, expires_at: inDays(3650) }],
    ['an end in a minute', { ...good, expires_at: inDays(1 / 1440) }],
  ])('may have %s', async (_name, body) => {
    expect(await make(await createTenant(), body)).toMatchObject(body)
  })
})

function inDays(days: number): string {
  return new Date(Date.now() + days * DAY_MS).toISOString()
}

describe('nobody grants what they have not got', () => {
  it('by making a key: the missing scopes are named, and nothing is written', async () => {
    const tenant = await createTenant(['admin', 'verify'])
    const scopes = ['identify', 'verify', 'scores:read', 'admin']
    const text = await expectRefused(tenant, () => tenant.request('POST', '/v1/api-keys', { name: 'a', scopes }), 403, {
      code: 'MISSING_SCOPE',
    })
    expect(JSON.parse(text).detail).toContain('"identify", "scores:read".')
    expect(await make(tenant, { name: 'a', scopes: ['verify', 'admin'] })).toMatchObject({
      scopes: ['verify', 'admin'],
    })
  })

  it('by a key that a key of few scopes made: there is no way up', async () => {
    const tenant = await createTenant(['admin'])
    const { api_key } = await make(tenant, { name: 'a', scopes: ['admin'] })
    const body = { name: 'b', scopes: ['faces:write'] }
    await expectRefused(tenant, () => use(api_key, 'POST', '/v1/api-keys', body), 403, { code: 'MISSING_SCOPE' })
  })

  it('by rotating a key that may do more', async () => {
    const tenant = await createTenant()
    const strong = await make(tenant, { name: 'a', scopes: ['scores:read', 'admin'] })
    const weak = { ...tenant, ...(await createKey(tenant.id, ['admin'])) }
    for (const overlap_seconds of [0, 60]) {
      const text = await expectRefused(weak, () => rotate(weak, strong.api_key_id, { overlap_seconds }), 403, {
        code: 'MISSING_SCOPE',
      })
      expect(JSON.parse(text).detail).toContain('"scores:read"')
    }
    expect((await rotate(weak, weak.keyId)).status).toBe(201)
  })

  it('by a scope that was taken away a moment ago, in a warm isolate', async () => {
    const tenant = await createTenant(['admin', 'verify'])
    const body = { name: 'a', scopes: ['verify'] }
    await make(tenant, body)
    await asAdmin`update api_keys set scopes = '{admin}' where id = ${tenant.keyId}`
    await expectRefused(tenant, () => tenant.request('POST', '/v1/api-keys', body), 403, { code: 'MISSING_SCOPE' })
  })

  it('by a token: it makes keys of the scopes that it has and its issuer may grant, in its own name', async () => {
    const tenant = await createTenant()
    const signer = await createSigner('ES256')
    const issuer = await configureIssuer([tenant], inline(signer), ['admin', 'verify'])
    const token = await signer.sign(toClaims(issuer, tenant, { sub: 'olga', scope: 'admin verify identify' }))
    const ask = (scopes: Scope[]) => use(token, 'POST', '/v1/api-keys', { name: 'a', scopes })
    const text = await expectRefused(tenant, () => ask(['verify', 'identify']), 403, { code: 'MISSING_SCOPE' })
    expect(JSON.parse(text).detail).toContain('"identify".')
    const made = await ask(['verify'])
    expect(made.status).toBe(201)
    expect(await readEvents(tenant)).toEqual([
      {
        actor: `token:${issuer.id}:olga`,
        action: 'api_key.created',
        target: (await made.json<Key>()).api_key_id,
        request_id: made.headers.get('X-Request-Id'),
      },
    ])
  })
})

describe('a tenant has at most a hundred valid keys', () => {
  /** Fills up with keys that nobody has, of which those that are revoked or have expired do not count. */
  async function createFullTenant(validKeys: number): Promise<TestTenant> {
    const tenant = await createTenant()
    await asAdmin`
      insert into api_keys (tenant_id, name, hash, prefix, scopes, expires_at, revoked_at)
      select
        ${tenant.id}, 'filling', sha256(gen_random_uuid()::text::bytea), 'rk_test_none', '{}',
        case when n <= 10 then now() - interval '1 second' else now() + interval '1 day' end,
        case when n between 11 and 20 then now() end
      from generate_series(1, ${20 + validKeys - 1}::int) as n`
    return tenant
  }
  const body = { name: 'a', scopes: ['verify'] }
  const TOO_MANY = { code: 'TOO_MANY_API_KEYS' }

  it('of eight that are asked for at once with five places left, five are made', async () => {
    const tenant = await createFullTenant(95)
    const answers = await Promise.all(Array.from({ length: 8 }, () => tenant.request('POST', '/v1/api-keys', body)))
    expect(answers.map(({ status }) => status).sort()).toEqual([201, 201, 201, 201, 201, 409, 409, 409])
    expect(await readEvents(tenant)).toHaveLength(5)
    await expectRefused(tenant, () => tenant.request('POST', '/v1/api-keys', body), 409, TOO_MANY)
  })

  it('a revoked one makes room, and a rival’s keys are not counted', async () => {
    const [tenant, rival] = [await createFullTenant(100), await createFullTenant(99)]
    await expectRefused(tenant, () => tenant.request('POST', '/v1/api-keys', body), 409, TOO_MANY)
    const [victim] = await asAdmin`
      select id from api_keys where tenant_id = ${tenant.id} and name = 'filling' and revoked_at is null
        and expires_at > now() limit 1`
    expect((await revoke(tenant, String(victim?.['id']))).status).toBe(204)
    await make(tenant, body)
    await make(rival, body)
  })

  it('one that ends at once makes room for its successor, and one that overlaps with it does not', async () => {
    const tenant = await createFullTenant(100)
    await expectRefused(tenant, () => rotate(tenant, tenant.keyId, { overlap_seconds: 1 }), 409, TOO_MANY)
    expect((await rotate(tenant, tenant.keyId, { overlap_seconds: 0 })).status).toBe(201)
  })
})

describe('the list of keys', () => {
  it('has all of them, newest first, in pages, and those of no other tenant', async () => {
    const [tenant, rival] = [await createTenant(), await createTenant()]
    const made: Key[] = []
    for (const name of ['a', 'b', 'c']) made.push(await make(tenant, { name, scopes: ['verify'] }))
    await make(rival)
    await revoke(tenant, made[1]?.api_key_id ?? '')
    const expected = [...made.map(({ api_key_id }) => api_key_id).reverse(), tenant.keyId]

    const read: string[] = []
    let cursor: string | null = ''
    while (cursor !== null) {
      const path: string = `/v1/api-keys?limit=2${cursor && `&cursor=${cursor}`}`
      const page = await (await tenant.request('GET', path)).json<{ data: Key[]; next_cursor: string | null }>()
      read.push(...page.data.map(({ api_key_id }) => api_key_id))
      cursor = page.next_cursor
      if (cursor !== null) {
        const foreign = await rival.request('GET', `/v1/api-keys?cursor=${cursor}`)
        expect(foreign.status).toBe(422)
      }
    }
    expect(read).toEqual(expected)
    expect((await list(rival)).map(({ api_key_id }) => api_key_id)).not.toEqual(expect.arrayContaining([read[0]]))
    expect(await list(rival)).toHaveLength(2)
  })

  it('has neither a key nor a hash, and no answer repeats a key that was shown', async () => {
    const tenant = await createTenant()
    const bodies: string[] = []
    const record = async (response: Response) => {
      const text = await response.text()
      bodies.push(text, JSON.stringify([...response.headers]))
      return text
    }
    const key: ShownKey = JSON.parse(
      await record(await tenant.request('POST', '/v1/api-keys', { name: 'a', scopes: ['faces:read'] })),
    )
    // the one body in which it stands
    expect(bodies.shift()).toContain(key.api_key)
    await use(key.api_key)
    const successor: ShownKey = JSON.parse(await record(await rotate(tenant, key.api_key_id)))
    bodies.splice(bodies.indexOf(JSON.stringify(successor)), 1)
    await record(await tenant.request('GET', '/v1/api-keys'))
    await record(await revoke(tenant, key.api_key_id))
    await record(await rotate(tenant, key.api_key_id))
    await record(await tenant.request('GET', '/v1/api-keys'))

    for (const { api_key_id, ...fields } of await list(tenant)) {
      expect(Object.keys({ api_key_id, ...fields }).sort()).toEqual(FIELDS)
    }
    const everything = bodies.join('\n')
    expect(everything).toContain(key.api_key_id)
    expect(everything).toContain(successor.prefix)
    const hashes = await asAdmin`
      select encode(hash, 'hex') as hex, encode(hash, 'base64') as base64 from api_keys where tenant_id = ${tenant.id}`
    expect(hashes).toHaveLength(3)
    for (const secret of [key.api_key, successor.api_key, tenant.key, ...hashes.flatMap((row) => Object.values(row))]) {
      expect(everything).not.toContain(secret)
    }
  })
})

describe('a key that is rotated', () => {
  it('has a successor of its name and scopes, and works beside it for a day', async () => {
    const tenant = await createTenant()
    const old = await make(tenant, { name: 'gate 1', scopes: ['verify', 'faces:read'] })
    const response = await rotate(tenant, old.api_key_id)
    expect(response.status).toBe(201)
    const successor = await response.json<ShownKey>()
    expect(successor).toEqual({
      ...old,
      api_key_id: expect.not.stringMatching(old.api_key_id),
      prefix: successor.api_key.slice(0, 12),
      created_at: expect.stringMatching(TIME),
      api_key: expect.stringMatching(/^rk_test_/),
    })
    expect(successor.api_key).not.toBe(old.api_key)
    for (const { api_key } of [old, successor]) expect((await use(api_key)).status).toBe(200)

    const { expires_at } = await find(tenant, old.api_key_id)
    const overlapMs = Date.parse(expires_at ?? '') - Date.parse(successor.created_at)
    // the successor is as old as the transaction, whose time is rounded up to a millisecond; the overlap is rounded down
    expect([overlapMs >= DAY_MS - 1, overlapMs < DAY_MS + 60_000]).toEqual([true, true])
    await asAdmin`update api_keys set expires_at = expires_at - interval '1 day 1 minute' where id = ${old.api_key_id}`
    expect((await use(old.api_key)).status).toBe(401)
    expect((await use(successor.api_key)).status).toBe(200)
  })

  it('without an overlap is refused on the next request of a warm isolate, and its successor is not', async () => {
    const tenant = await createTenant()
    const old = await make(tenant)
    await use(old.api_key)
    expect(await countRequests(() => use(old.api_key))).toEqual(WARM)
    const successor = await (await rotate(tenant, old.api_key_id, { overlap_seconds: 0 })).json<ShownKey>()
    const cost = await countRequests(async () => expect((await use(old.api_key)).status).toBe(401))
    expect(cost).toMatchObject({ requests: 1, transactions: 1 })
    expect((await use(successor.api_key)).status).toBe(200)
  })

  it('may be the one that asks', async () => {
    const tenant = await createTenant()
    expect((await tenant.request('GET', '/v1/faces')).status).toBe(200)
    const successor = await (await rotate(tenant, tenant.keyId, { overlap_seconds: 0 })).json<ShownKey>()
    expect((await tenant.request('GET', '/v1/faces')).status).toBe(401)
    expect((await use(successor.api_key)).status).toBe(200)
    expect(successor.scopes).toEqual([...SCOPES])
  })

  it('never lives longer by it', async () => {
    const tenant = await createTenant()
    const expires_at = inDays(1 / 24)
    const old = await make(tenant, { name: 'a', scopes: ['verify'], expires_at })
    const successor = await (await rotate(tenant, old.api_key_id, { overlap_seconds: 604_800 })).json<ShownKey>()
    expect(await find(tenant, old.api_key_id)).toMatchObject({ expires_at })
    expect(successor.expires_at).toBeNull()
  })

  it('gives its successor the end that is asked for', async () => {
    const tenant = await createTenant()
    const expires_at = inDays(90)
    const response = await rotate(tenant, tenant.keyId, { overlap_seconds: 604_800, expires_at })
    expect(await response.json()).toMatchObject({ expires_at })
  })

  it.each<[string, string, object]>([
    ['an overlap below 0', '/overlap_seconds', { overlap_seconds: -1 }],
    ['an overlap beyond a week', '/overlap_seconds', { overlap_seconds: 604_801 }],
    ['an overlap of half a second', '/overlap_seconds', { overlap_seconds: 0.5 }],
    ['an overlap of null', '/overlap_seconds', { overlap_seconds: null }],
    ['an overlap as text', '/overlap_seconds', { overlap_seconds: '60' }],
    ['an end that has passed', '/expires_at', { expires_at: inDays(-1) }],
    ['an end beyond ten years', '/expires_at', { expires_at: inDays(3660) }],
    ['other scopes', '/scopes', { scopes: ['verify'] }],
    ['another name', '/name', { name: 'b' }],
  ])('is left as it is when it is asked for with %s', async (_name, pointer, body) => {
    const tenant = await createTenant()
    await expectRefused(tenant, () => rotate(tenant, tenant.keyId, body), 422, { errors: [{ pointer }] })
  })

  it.each(['revoked_at', 'expires_at'])(
    'must be valid still: with %s in the past there is no successor',
    async (column) => {
      const tenant = await createTenant()
      const old = await make(tenant)
      await asAdmin.query(`update api_keys set ${column} = now() where id = $1`, [old.api_key_id])
      for (const overlap_seconds of [0, 60]) {
        await expectRefused(tenant, () => rotate(tenant, old.api_key_id, { overlap_seconds }), 409, {
          code: 'API_KEY_NOT_VALID',
        })
      }
    },
  )

  it('by several at once and without an overlap has one successor', async () => {
    const tenant = await createTenant()
    const old = await make(tenant)
    const answers = await Promise.all(
      Array.from({ length: 6 }, () => rotate(tenant, old.api_key_id, { overlap_seconds: 0 })),
    )
    expect(answers.map(({ status }) => status).sort()).toEqual([201, 409, 409, 409, 409, 409])
    for (const answer of answers.filter(({ status }) => status === 409)) {
      expect(await answer.json()).toMatchObject({ code: 'API_KEY_NOT_VALID' })
    }
    expect(await list(tenant)).toHaveLength(3)
  })

  if (!env.TEST.isNative) console.log('skipped: the embedded database has one session, so nobody waits for another')
  it.skipIf(!env.TEST.isNative)('has no successor when it ended while the request waited for another', async () => {
    const tenant = await createTenant()
    const old = await make(tenant)
    const other = asAdmin.transaction([
      asAdmin`select 1 from tenants where id = ${tenant.id} for no key update`,
      asAdmin`select pg_sleep(1)`,
      asAdmin`update api_keys set expires_at = clock_timestamp() where id = ${old.api_key_id}`,
    ])
    await new Promise((resolve) => setTimeout(resolve, 300))
    const response = await rotate(tenant, old.api_key_id)
    await other
    expect(response.status).toBe(409)
    expect(await response.json()).toMatchObject({ code: 'API_KEY_NOT_VALID' })
    expect(await list(tenant)).toHaveLength(2)
  })
})

describe('a key that is revoked', () => {
  it('is refused on the next request of a warm isolate, and the others of the tenant are not', async () => {
    const tenant = await createTenant()
    const [key, other] = [await make(tenant), await make(tenant)]
    await use(key.api_key)
    expect(await countRequests(() => use(key.api_key))).toEqual(WARM)
    const response = await revoke(tenant, key.api_key_id)
    expect([response.status, await response.text()]).toEqual([204, ''])
    const cost = await countRequests(async () => expect((await use(key.api_key)).status).toBe(401))
    expect(cost).toMatchObject({ requests: 1, transactions: 1 })
    expect((await use(other.api_key)).status).toBe(200)
    expect(await find(tenant, key.api_key_id)).toMatchObject({ revoked_at: expect.stringMatching(TIME) })
  })

  it('may be the one that asks', async () => {
    const tenant = await createTenant()
    expect((await revoke(tenant, tenant.keyId)).status).toBe(204)
    expect((await tenant.request('GET', '/v1/faces')).status).toBe(401)
    expect((await revoke(tenant, tenant.keyId)).status).toBe(401)
  })

  if (!env.TEST.isNative) console.log('skipped: the embedded database has one session, so no revocation is under way')
  it.skipIf(!env.TEST.isNative)('makes no key any more, when it was revoked while that request waited', async () => {
    const tenant = await createTenant()
    expect((await tenant.request('GET', '/v1/api-keys')).status).toBe(200)
    // as a revocation does it: the tenant's row, then the key, and not committed yet
    const revocation = asAdmin.transaction([
      asAdmin`select id from tenants where id = ${tenant.id} for no key update`,
      asAdmin`update api_keys set revoked_at = now() where tenant_id = ${tenant.id}`,
      asAdmin`select pg_sleep(1)`,
    ])
    await new Promise((resolve) => setTimeout(resolve, 300))
    const response = await tenant.request('POST', '/v1/api-keys', { name: 'a late one', scopes: ['verify'] })
    await revocation
    expect(response.status).toBe(401)
    expect(await asAdmin`select 1 from api_keys where tenant_id = ${tenant.id} and revoked_at is null`).toEqual([])
  })

  it('again is answered again, keeps its time, and leaves no second event', async () => {
    const tenant = await createTenant()
    const { api_key_id } = await make(tenant)
    expect((await revoke(tenant, api_key_id)).status).toBe(204)
    const before = await readRows(tenant)
    expect((await revoke(tenant, api_key_id)).status).toBe(204)
    expect(await readRows(tenant)).toEqual(before)
  })

  it('may have expired before, and may have more scopes than the one that asks', async () => {
    const tenant = await createTenant()
    const { api_key_id } = await make(tenant, { name: 'a', scopes: [...SCOPES] })
    await asAdmin`update api_keys set expires_at = now() where id = ${api_key_id}`
    const weak = { ...tenant, ...(await createKey(tenant.id, ['admin'])) }
    expect((await revoke(weak, api_key_id)).status).toBe(204)
    expect(await find(tenant, api_key_id)).toMatchObject({ revoked_at: expect.stringMatching(TIME) })
  })
})

describe('an id of a key', () => {
  it.each(['1', 'ada', '%00', '00000000000040008000000000000000', "00000000-0000-4000-8000-000000000000'--"])(
    'of %s is refused',
    async (id) => {
      const tenant = await createTenant()
      for (const act of [revoke, rotate]) {
        await expectRefused(tenant, () => act(tenant, id), 422, { errors: [{ parameter: 'api_key_id' }] })
      }
    },
  )
})

describe('a rival', () => {
  it.each<[string, (rival: TestTenant, id: string) => Promise<Response>]>([
    ['revoke', (rival, id) => rival.request('DELETE', `/v1/api-keys/${id}`, undefined, SAME_REQUEST)],
    ['rotate', (rival, id) => rival.request('POST', `/v1/api-keys/${id}/rotate`, {}, SAME_REQUEST)],
    [
      'rotate at once',
      (rival, id) => rival.request('POST', `/v1/api-keys/${id}/rotate`, { overlap_seconds: 0 }, SAME_REQUEST),
    ],
  ])('cannot %s a key, and is told in the same bytes as of one that is nobody’s', async (_name, act) => {
    const [tenant, rival] = [await createTenant(), await createTenant()]
    const key = await make(tenant)
    expect((await use(key.api_key)).status).toBe(200)
    const rivalsRows = await readRows(rival)
    const text = await expectRefused(tenant, () => act(rival, key.api_key_id), 404, { code: 'API_KEY_NOT_FOUND' })
    const unknown = await act(rival, crypto.randomUUID())
    expect([unknown.status, await unknown.text()]).toEqual([404, text])
    expect(await readRows(rival)).toEqual(rivalsRows)
    expect((await use(key.api_key)).status).toBe(200)
    // and its own tenant can
    expect((await act(tenant, key.api_key_id)).ok).toBe(true)
  })
})

const SAME_REQUEST = { 'X-Request-Id': 'the-same' }

describe('each act', () => {
  it('costs one request to the database and one transaction, and leaves one event, or none when it only reads', async () => {
    const tenant = await createTenant()
    const { api_key_id: first } = await make(tenant)
    const { api_key_id: second } = await make(tenant)
    const already = await readEvents(tenant)
    expect(already.map(({ action }) => action)).toEqual(['api_key.created', 'api_key.created'])

    const acts = [
      ['GET', '/v1/api-keys', undefined, 200],
      ['POST', '/v1/api-keys', { name: 'a', scopes: ['verify'] }, 201],
      ['POST', `/v1/api-keys/${first}/rotate`, {}, 201],
      ['DELETE', `/v1/api-keys/${second}`, undefined, 204],
    ] as const
    const answers: Response[] = []
    for (const [index, [method, path, body, status]] of acts.entries()) {
      const cost = await countRequests(async () => {
        const response = await tenant.request(method, path, body, { 'X-Request-Id': `act-${index}` })
        expect(response.status).toBe(status)
        answers.push(response)
      })
      expect(cost).toEqual(WARM)
    }
    const made = await answers[1]?.json<Key>()
    const actor = `api_key:${tenant.keyId}`
    expect((await readEvents(tenant)).slice(already.length)).toEqual([
      { actor, action: 'api_key.created', target: made?.api_key_id, request_id: 'act-1' },
      { actor, action: 'api_key.rotated', target: first, request_id: 'act-2' },
      { actor, action: 'api_key.revoked', target: second, request_id: 'act-3' },
    ])
  })

  it.each([
    ['list', 'GET', '', undefined],
    ['make', 'POST', '', { name: 'a', scopes: ['verify'] }],
    ['rotate', 'POST', '/{api_key_id}/rotate', {}],
    ['revoke', 'DELETE', '/{api_key_id}', undefined],
  ] as const)('needs the scope admin, and no other opens it: %s', async (_name, method, template, body) => {
    const tenant = await createTenant()
    const path = `/v1/api-keys${template.replace('{api_key_id}', tenant.keyId)}`
    const others = await createKey(
      tenant.id,
      SCOPES.filter((scope) => scope !== 'admin'),
    )
    const text = await expectRefused(tenant, () => others.request(method, path, body), 403, { code: 'MISSING_SCOPE' })
    expect(JSON.parse(text).detail).toContain('"admin"')
    expect((await tenant.request(method, path, body)).ok).toBe(true)
  })
})

describe('when a key was last used', () => {
  // only the clock: the timers of the driver go on
  const useClock = () => vi.useFakeTimers({ toFake: ['Date'], now: Date.now() })
  afterEach(() => {
    vi.useRealTimers()
  })

  /** A row that was written has another xmin. */
  async function readUse(id: string): Promise<Record<string, unknown>> {
    const [row] = await asAdmin`
      select xmin::text as version, last_used_at, now() - last_used_at < interval '1 minute' as is_fresh
      from api_keys where id = ${id}`
    return row ?? {}
  }

  it('is noted by its first request, and by none of twenty more', async () => {
    const tenant = await createTenant()
    const key = await make(tenant)
    expect(await find(tenant, key.api_key_id)).toMatchObject({ last_used_at: null })
    await use(key.api_key)
    const noted = await readUse(key.api_key_id)
    expect(noted).toMatchObject({ is_fresh: true })
    expect(await find(tenant, key.api_key_id)).toMatchObject({
      last_used_at: (noted['last_used_at'] as Date).toISOString(),
    })
    const cost = await countRequests(async () => {
      for (let index = 0; index < 20; index++) expect((await use(key.api_key)).status).toBe(200)
    })
    expect(cost).toEqual({ requests: 20, transactions: 20, statements: 40 })
    expect(await readUse(key.api_key_id)).toEqual(noted)
  })

  it('is noted again by an isolate that asks whose the key is after ten minutes, and not before', async () => {
    const tenant = await createTenant()
    const { api_key_id, api_key } = await make(tenant)
    await use(api_key)
    useClock()
    /** The isolate has forgotten the key; it was last used so long ago. */
    const useAfter = async (age: string) => {
      await asAdmin`update api_keys set last_used_at = now() - ${age}::interval where id = ${api_key_id}`
      const before = await readUse(api_key_id)
      vi.setSystemTime(Date.now() + 60_001)
      expect(await countRequests(() => use(api_key))).toMatchObject({ requests: 2 })
      return [before, await readUse(api_key_id)] as const
    }
    const [early, unchanged] = await useAfter('9 minutes 55 seconds')
    expect(unchanged).toEqual(early)
    const [, noted] = await useAfter('10 minutes 1 second')
    expect(noted).toMatchObject({ is_fresh: true })
  })
})
