// Proves what the operator can do, and who is the operator: one issuer's tokens and nobody else's. Tenants are
// created, changed, suspended, let in and erased without a trace, also in pieces and by the schedule; issuers are
// configured; and the operator's login reads no table and no face. On a real PostgreSQL with row-level security.
// Fake: the embeddings, and limiters that say how often they were asked.
import { env } from 'cloudflare:workers'
import { type NeonDbError, neon } from '@neondatabase/serverless'
import { afterEach, describe, expect, it, vi } from 'vitest'
import { app } from '../../src/app.ts'
import { SCOPES } from '../../src/auth/api-key.ts'
import { runJobs } from '../../src/db/jobs.ts'
import { OPERATOR, type OperatorOptions, operate, operatorToken } from './operator.ts'
import { asAdmin, axis, countRequests, createKey, createTenant, enroll, type TestTenant } from './tenant.ts'
import { createSigner, keySetUrl, publish, type Signer } from './tokens.ts'

const asOperator = neon(env.TEST.operatorUrl)
const NOBODY = '00000000-0000-4000-8000-000000000000'

afterEach(() => {
  vi.restoreAllMocks()
})

/** The routes of the router, with an id that nothing has in the place of each parameter. */
function listRoutes(): { method: string; path: string; isOperators: boolean }[] {
  const routes = app.routes.filter(({ method, path }) => method !== 'ALL' && path.startsWith('/v1/'))
  const distinct = new Map(routes.map(({ method, path }) => [`${method} ${path}`, { method, path }]))
  return [...distinct.values()].map(({ method, path }) => ({
    method,
    path: path.replace(/:\w+/g, NOBODY),
    isOperators: path.startsWith('/v1/operator'),
  }))
}
const operatorRoutes = listRoutes()
  .filter(({ isOperators }) => isOperators)
  .map(({ method, path }) => ({ method, path: path.replace('/v1/operator', '') }))
const tenantRoutes = listRoutes().filter(({ isOperators }) => !isOperators)

/** An answer without what differs between any two requests. */
async function comparable(answer: Response | Promise<Response>): Promise<unknown> {
  const response = await answer
  const headers = [...response.headers].filter(([name]) => !['x-request-id', 'server-timing'].includes(name))
  const text = (await response.text()).replace(/"request_id":"[^"]*"/, '')
  return { status: response.status, headers, text }
}

async function problemOf(response: Promise<Response>): Promise<[number, unknown]> {
  const answer = await response
  return [answer.status, (await answer.json<{ code: string }>()).code]
}

async function json<Body>(response: Promise<Response>, status: number): Promise<Body> {
  const answer = await response
  const text = await answer.text()
  expect([answer.status, text]).toEqual([status, expect.anything()])
  return JSON.parse(text)
}

interface Tenant {
  tenant_id: string
  name: string
  environment: string
  status: string
  settings: Record<string, unknown>
  model: string
  created_at: string
  updated_at: string
}

interface Issuer {
  issuer_id: string
  issuer: string
  jwks_url: string | null
  jwks: { keys: unknown[] } | null
  tenant_ids: string[]
}

async function makeIssuer(
  tenants: string[],
  fields: Record<string, unknown> = {},
): Promise<{ issuer: Issuer; tokenFor: (tenantId: string, claims?: object) => Promise<string> }> {
  const signer = await createSigner('ES256')
  const issuer = await json<Issuer>(operate('POST', '/issuers', issuerFields(signer, tenants, fields)), 201)
  const tokenFor = (tenantId: string, claims: object = {}) => {
    const iat = Math.floor(Date.now() / 1000)
    const own = { iss: issuer.issuer, aud: 'rekko', sub: 'gate 7', tenant_id: tenantId, scope: SCOPES.join(' ') }
    return signer.sign({ ...own, iat, exp: iat + 300, jti: crypto.randomUUID(), ...claims })
  }
  return { issuer, tokenFor }
}

function issuerFields(signer: Signer, tenants: string[], fields: Record<string, unknown> = {}) {
  return {
    issuer: `https://${crypto.randomUUID()}.example.com`,
    audience: 'rekko',
    algorithms: ['ES256'],
    jwks: { keys: [signer.jwk] },
    scopes: SCOPES,
    tenant_ids: tenants,
    ...fields,
  }
}

const asTenant = (credential: string, path = '/v1/faces', headers: Record<string, string> = {}) =>
  app.request(path, { headers: { Authorization: `Bearer ${credential}`, ...headers } }, env)

describe('the door of the operator', () => {
  it('has routes to guard', () => {
    expect(operatorRoutes).toHaveLength(13)
    expect(tenantRoutes.length).toBeGreaterThan(10)
  })

  it('opens for a token of its issuer', async () => {
    const response = await operate('GET', '/tenants?limit=1')
    expect(response.status).toBe(200)
    expect(response.headers.get('RateLimit-Policy')).toBe('"admin";q=120;w=60')
  })

  it.each(operatorRoutes)('does not open $method $path for a key or a token of a tenant', async ({ method, path }) => {
    const tenant = await createTenant()
    const { tokenFor } = await makeIssuer([tenant.id])
    const token = await tokenFor(tenant.id, { scope: `${SCOPES.join(' ')} ${OPERATOR.scope}` })
    const nobody = await comparable(app.request(`/v1/operator${path}`, { method }, env))
    expect(nobody).toMatchObject({ status: 401 })
    for (const credential of [tenant.key, token]) {
      expect(await comparable(operate(method, path, undefined, { credential }))).toEqual(nobody)
    }
    // they were good where they belong, and still are
    expect((await asTenant(tenant.key)).status).toBe(200)
    expect((await asTenant(token)).status).toBe(200)
  })

  it.each(tenantRoutes)("does not let the operator's token in at $method $path", async ({ method, path }) => {
    const tenant = await createTenant()
    const nobody = await comparable(app.request(path, { method }, env))
    expect(nobody).toMatchObject({ status: 401 })
    const credential = await operatorToken({ tenant_id: tenant.id, scope: `${SCOPES.join(' ')} ${OPERATOR.scope}` })
    const headers = { Authorization: `Bearer ${credential}` }
    expect(await comparable(app.request(path, { method, headers }, env))).toEqual(nobody)
    expect((await operate('GET', '/tenants?limit=1', undefined, { credential })).status).toBe(200)
  })

  const now = Math.floor(Date.now() / 1000)
  it.each<[string, Record<string, unknown>, string?]>([
    ['of another issuer', { iss: 'https://operator.example.com/' }],
    ['for another audience', { aud: 'https://api.rekko.test' }],
    ['for no audience', { aud: undefined }],
    ['that has expired', { iat: now - 700, exp: now - 31 }],
    ['that lives longer than an hour', { iat: now, exp: now + 3601 }],
    ['without an end', { exp: undefined }],
    ['without a subject', { sub: undefined }],
    ['with an empty subject', { sub: '' }],
    ['with a control character in its subject', { sub: 'olivia\n' }],
    ['of another type', {}, 'JWT'],
  ])('does not open for a token %s', async (_, claims, typ) => {
    const nobody = await comparable(app.request('/v1/operator/tenants', {}, env))
    const credential = await operatorToken(claims, typ)
    const options: OperatorOptions = { credential }
    expect(await comparable(operate('GET', '/tenants', undefined, options))).toEqual(nobody)
    // and again, from memory
    expect(await comparable(operate('GET', '/tenants', undefined, options))).toEqual(nobody)
  })

  it('does not open for what others have signed, or nobody', async () => {
    const impostor = await createSigner('ES256', { kid: 'operator' })
    const claims = { ...OPERATOR, iat: now, exp: now + 300 }
    const [, payload] = (await operatorToken()).split('.')
    const unsigned = `${btoa('{"alg":"none","typ":"at+jwt","kid":"operator"}').replaceAll('=', '')}.${payload}.`
    for (const credential of [await impostor.sign(claims), unsigned, `${unsigned}AA`, 'rk_live_', 'a.b.c']) {
      expect(await problemOf(operate('GET', '/tenants', undefined, { credential }))).toEqual([401, 'UNAUTHENTICATED'])
    }
  })

  it.each(operatorRoutes)('opens $method $path only with its scope, and names it', async ({ method, path }) => {
    const needed = method === 'GET' ? 'operator:read' : 'operator:write'
    const other = method === 'GET' ? 'operator:write' : 'operator:read'
    for (const scope of [other, '', `admin ${SCOPES.join(' ')}`, `${needed}:all`]) {
      const credential = await operatorToken({ scope })
      const response = await operate(method, path, undefined, { credential })
      expect(await response.json()).toMatchObject({
        status: 403,
        code: 'MISSING_SCOPE',
        detail: expect.stringContaining(`"${needed}"`),
      })
    }
    const credential = await operatorToken({ scope: needed })
    expect((await operate(method, path, undefined, { credential })).status).not.toBe(403)
  })

  it.each([
    ['without OPERATOR_ISSUER', { OPERATOR_ISSUER: undefined }, undefined],
    ['with an empty OPERATOR_ISSUER', { OPERATOR_ISSUER: '' }, undefined],
    ['without OPERATOR_DATABASE_URL', { OPERATOR_DATABASE_URL: undefined }, undefined],
    ['with an OPERATOR_ISSUER that is not JSON', { OPERATOR_ISSUER: 'https://operator.example.com' }, null],
    ['with an OPERATOR_ISSUER without keys', { OPERATOR_ISSUER: issuerWithout('jwks') }, 'jwks_url'],
    [
      'with an OPERATOR_ISSUER that may sign HS256',
      { OPERATOR_ISSUER: issuerWith('algorithms', ['HS256']) },
      'algorithms',
    ],
    [
      "with an issuer of tenants' tokens as OPERATOR_ISSUER",
      { OPERATOR_ISSUER: issuerWith('tenant_claim', 'tenant_id') },
      'tenant_claim',
    ],
    [
      'with keys on this machine, but in development',
      { OPERATOR_ISSUER: issuerWith('jwks_url', 'http://127.0.0.1:9/jwks', 'jwks'), ENVIRONMENT: 'production' },
      'jwks_url',
    ],
  ])('is shut %s', async (_, bindings, field) => {
    const log = vi.spyOn(console, 'error').mockImplementation(() => {})
    const options = { bindings: { ...env, ...bindings } as typeof env }
    expect(await problemOf(operate('GET', '/tenants', undefined, options))).toEqual([503, 'NOT_CONFIGURED'])
    expect(log).toHaveBeenCalledOnce()
    const line = String(log.mock.calls[0]?.[0])
    expect(JSON.parse(line).field).toBe(field)
    expect(line).not.toContain('operator.example.com')
    expect(line).not.toContain('HS256')
  })

  it("opens with keys of the issuer's web server too, and says when they cannot be had", async () => {
    const name = crypto.randomUUID()
    const bindings = { ...env, OPERATOR_ISSUER: issuerWith('jwks_url', keySetUrl(name), 'jwks') }
    await publish(name, 'status-500')
    expect(await problemOf(operate('GET', '/tenants', undefined, { bindings }))).toEqual([
      503,
      'TOKEN_KEYS_UNAVAILABLE',
    ])
    const another = crypto.randomUUID()
    await publish(another, 'answer', JSON.parse(env.OPERATOR_ISSUER ?? '').jwks)
    const good = { ...env, OPERATOR_ISSUER: issuerWith('jwks_url', keySetUrl(another), 'jwks') }
    expect((await operate('GET', '/tenants?limit=1', undefined, { bindings: good })).status).toBe(200)
  })

  it('counts calls by subject, and a refused one costs no request to the database', async () => {
    const asked: string[] = []
    const bindings = (success: boolean) => ({
      ...env,
      ADMIN_LIMIT: { limit: async ({ key }: { key: string }) => ({ success: asked.push(key) > 0 && success }) },
    })
    const credential = await operatorToken({ sub: 'oscar' })
    expect((await operate('GET', '/tenants?limit=1', undefined, { credential, bindings: bindings(true) })).status).toBe(
      200,
    )
    const cost = await countRequests(async () => {
      const refused = await operate('DELETE', `/tenants/${NOBODY}`, undefined, {
        credential,
        bindings: bindings(false),
      })
      expect([refused.status, refused.headers.get('Retry-After')]).toEqual([429, '60'])
    })
    expect(cost.requests).toBe(0)
    expect(asked).toEqual(['operator oscar', 'operator oscar'])
  })

  it('counts failures by address, and a missing scope is none', async () => {
    const counted: string[] = []
    const bindings = {
      ...env,
      FAILURE_LIMIT: { limit: async ({ key }: { key: string }) => ({ success: counted.push(key) > 0 }) },
    }
    const headers = { 'CF-Connecting-IP': '192.0.2.77' }
    const expired = await operatorToken({ iat: now - 700, exp: now - 60 })
    await operate('GET', '/tenants', undefined, { credential: expired, bindings, headers })
    await operate('GET', '/tenants', undefined, { credential: expired, bindings, headers })
    const scopeless = await operatorToken({ scope: '' })
    await operate('GET', '/tenants', undefined, { credential: scopeless, bindings, headers })
    expect(counted).toEqual(['address 192.0.2.77'])
  })
})

function issuerWith(field: string, value: unknown, instead = ''): string {
  const { [instead]: _, ...rest } = JSON.parse(env.OPERATOR_ISSUER ?? '')
  return JSON.stringify({ ...rest, [field]: value })
}

function issuerWithout(field: string): string {
  const { [field]: _, ...rest } = JSON.parse(env.OPERATOR_ISSUER ?? '')
  return JSON.stringify(rest)
}

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
const WITHIN = [
  { verification_threshold: 0.65, identification_threshold: 1, max_results: 1 },
  { max_results: 20, failed_verifications_per_hour: 100, failed_verifications_per_day: 500 },
  { failed_verifications_per_hour: 1, failed_verifications_per_day: 1, allowed_origins: [] },
  { allowed_origins: Array.from({ length: 10 }, (_, index) => `https://gate-${index}.example`) },
  { minimum_quality: 0, duplicates: 'reject', require_liveness: true, liveness_threshold: 0 },
  { minimum_quality: 1, duplicates: 'allow', require_liveness: false, liveness_threshold: 1 },
]
const BEYOND: [string, unknown][] = [
  ['verification_threshold', 0.6499],
  ['identification_threshold', 1.0001],
  ['max_results', 0],
  ['max_results', 21],
  ['failed_verifications_per_hour', 101],
  ['failed_verifications_per_day', 501],
  ['failed_verifications_per_day', 1.5],
  ['allowed_origins', Array.from({ length: 11 }, (_, index) => `https://gate-${index}.example`)],
  ['allowed_origins', ['http://gate.example']],
  ['minimum_quality', -0.0001],
  ['minimum_quality', 1.0001],
  ['minimum_quality', '0.5'],
  ['duplicates', 'maybe'],
  ['duplicates', true],
  ['require_liveness', 'true'],
  ['require_liveness', 1],
  ['liveness_threshold', -0.0001],
  ['liveness_threshold', 1.0001],
  ['liveness_threshold', '0.5'],
  ['model', 'another@1'],
  ['model', 'ARCFACE-512@1'],
  ['model', ''],
  ['model', 'x'.repeat(101)],
  ['model', 1],
  ['models', ['arcface-512@1']],
]

async function createOperated(fields: object = {}): Promise<Tenant> {
  return json<Tenant>(operate('POST', '/tenants', { name: 'Arena Norte', environment: 'test', ...fields }), 201)
}

describe('a tenant', () => {
  it('is created, and answered as it is, with nothing of what it holds', async () => {
    const created = await createOperated({ environment: 'live', settings: { max_results: 7 } })
    expect(created).toEqual({
      tenant_id: expect.stringMatching(/^[0-9a-f-]{36}$/),
      name: 'Arena Norte',
      environment: 'live',
      status: 'active',
      settings: { ...DEFAULTS, max_results: 7 },
      model: 'arcface-512@1',
      created_at: expect.stringMatching(/Z$/),
      updated_at: expect.stringMatching(/Z$/),
    })
    expect(await json(operate('GET', `/tenants/${created.tenant_id}`), 200)).toEqual(created)
    const bare = await createOperated()
    expect([bare.environment, bare.settings]).toEqual(['test', DEFAULTS])
  })

  it('is listed, newest first, in pages whose cursors are good for this list only', async () => {
    const created = [await createOperated(), await createOperated(), await createOperated()]
    const ids: string[] = []
    const cursors: string[] = []
    for (let query = '?limit=1'; ids.length < 3; ) {
      type Page = { data: Tenant[]; has_more: boolean; next_cursor: string }
      const page = await json<Page>(operate('GET', `/tenants${query}`), 200)
      expect([page.data.length, page.has_more]).toEqual([1, true])
      ids.push(...page.data.map(({ tenant_id }) => tenant_id))
      cursors.push(page.next_cursor)
      query = `?limit=1&cursor=${page.next_cursor}`
    }
    expect(ids).toEqual(created.map(({ tenant_id }) => tenant_id).reverse())
    const tenant = await createTenant()
    await enroll(tenant, 'ada', axis(0))
    await enroll(tenant, 'bob', axis(1))
    expect((await tenant.request('GET', `/v1/faces?cursor=${cursors[0]}`)).status).toBe(422)
    expect((await operate('GET', `/issuers?cursor=${cursors[0]}`)).status).toBe(422)
    const { next_cursor } = await (await tenant.request('GET', '/v1/faces?limit=1')).json<{ next_cursor: string }>()
    expect((await operate('GET', `/tenants?cursor=${next_cursor}`)).status).toBe(422)
  })

  it('has its name and its settings changed, each without the other; null goes back to the default', async () => {
    const { tenant_id, ...created } = await createOperated({
      settings: { max_results: 7, verification_threshold: 0.9 },
    })
    const path = `/tenants/${tenant_id}`
    const renamed = await json<Tenant>(operate('PATCH', path, { name: 'Arena Sul' }), 200)
    expect(renamed).toMatchObject({ name: 'Arena Sul', settings: created.settings })
    const set = await json<Tenant>(
      operate('PATCH', path, { settings: { max_results: null, allowed_origins: [] } }),
      200,
    )
    expect(set).toMatchObject({ name: 'Arena Sul', settings: { ...DEFAULTS, verification_threshold: 0.9 } })
    const [{ settings: stored } = {}] = await asAdmin`select settings from tenants where id = ${tenant_id}`
    expect(stored).toEqual({ allowed_origins: [], verification_threshold: 0.9 })
  })

  it.each(WITHIN)('takes settings at their limits: %j', async (settings) => {
    const { tenant_id } = await createOperated({ settings })
    const path = `/tenants/${tenant_id}`
    expect(await json(operate('GET', path), 200)).toMatchObject({ settings: { ...DEFAULTS, ...settings } })
    const changed = await json<Tenant>(
      operate('PATCH', `/tenants/${(await createOperated()).tenant_id}`, { settings }),
      200,
    )
    expect(changed.settings).toEqual({ ...DEFAULTS, ...settings })
  })

  it('is given a model that there is, which is kept by its name, and is back at the usual one with null', async () => {
    const { tenant_id, model } = await createOperated({ settings: { model: 'arcface-512@1' } })
    const path = `/tenants/${tenant_id}`
    const readStored = async () => (await asAdmin`select settings from tenants where id = ${tenant_id}`)[0]
    expect([model, await readStored()]).toEqual(['arcface-512@1', { settings: { model: 'arcface-512@1' } }])
    const changed = await json<Tenant>(operate('PATCH', path, { settings: { model: null } }), 200)
    expect([changed.model, await readStored()]).toEqual(['arcface-512@1', { settings: {} }])
    // a setting of what is stored and nothing that is decided by: it stands beside them
    expect(changed.settings).toEqual(DEFAULTS)
  })

  it.each(BEYOND)('takes no setting beyond its limit: %s %j', async (name, value) => {
    const tenant = await createOperated()
    const settings = { [name]: value }
    const change = await operate('PATCH', `/tenants/${tenant.tenant_id}`, { settings })
    expect(change.status).toBe(422)
    const { errors } = await change.json<{ errors: { pointer: string }[] }>()
    expect(errors[0]?.pointer).toMatch(new RegExp(`^/settings/${name}(/0)?$`))
    expect((await operate('POST', '/tenants', { name: 'x', environment: 'test', settings })).status).toBe(422)
    expect(await json(operate('GET', `/tenants/${tenant.tenant_id}`), 200)).toEqual(tenant)
  })

  it.each([
    [{}, '/name'],
    [{ name: '', environment: 'test' }, '/name'],
    [{ name: 'a'.repeat(256), environment: 'test' }, '/name'],
    [{ name: 'a\u0000', environment: 'test' }, '/name'],
    [{ name: 'a', environment: 'dev' }, '/environment'],
    [{ name: 'a', environment: 'test', is_active: false }, '/is_active'],
  ])('is not created of %j', async (fields, pointer) => {
    const response = await operate('POST', '/tenants', fields)
    expect(response.status).toBe(422)
    expect(await response.json()).toMatchObject({
      errors: expect.arrayContaining([expect.objectContaining({ pointer })]),
    })
  })

  it('decides with its new settings from the next request on, where they were changed', async () => {
    const tenant = await createTenant()
    await enroll(tenant, 'ada', axis(0))
    const verify = async () => {
      const response = await tenant.request('POST', '/v1/faces/verify', { external_id: 'ada', embedding: axis(0) })
      return (await response.json<{ threshold: number }>()).threshold
    }
    expect(await verify()).toBe(0.675)
    await operate('PATCH', `/tenants/${tenant.id}`, { settings: { verification_threshold: 0.8 } })
    expect(await verify()).toBe(0.8)
  })

  it.each(['GET', 'PATCH', 'DELETE'])('that is not there is not found: %s', async (method) => {
    const body = method === 'PATCH' ? { name: 'x' } : undefined
    expect(await problemOf(operate(method, `/tenants/${NOBODY}`, body))).toEqual([404, 'TENANT_NOT_FOUND'])
    expect((await operate(method, '/tenants/1', body)).status).toBe(422)
  })

  it.each(['suspend', 'resume', 'api-keys'])('that is not there is not found: POST %s', async (act) => {
    const body = act === 'api-keys' ? { name: 'x', scopes: ['verify'] } : undefined
    expect(await problemOf(operate('POST', `/tenants/${NOBODY}/${act}`, body))).toEqual([404, 'TENANT_NOT_FOUND'])
  })

  it('leaves an event of each change, with who made it and in which request', async () => {
    const headers = { 'X-Request-Id': 'a-request-of-the-operator' }
    const credential = await operatorToken({ sub: 'ofelia' })
    const act = (method: string, path: string, body?: object) => operate(method, path, body, { headers, credential })
    const { tenant_id } = await json<Tenant>(act('POST', '/tenants', { name: 'x', environment: 'test' }), 201)
    await act('PATCH', `/tenants/${tenant_id}`, { name: 'y' })
    await act('POST', `/tenants/${tenant_id}/suspend`)
    await act('POST', `/tenants/${tenant_id}/suspend`)
    await act('POST', `/tenants/${tenant_id}/resume`)
    expect((await act('DELETE', `/tenants/${tenant_id}`)).status).toBe(204)
    const events = await asAdmin`
      select action, actor, request_id from operator_events where target = ${tenant_id} order by created_at, action`
    const changes = ['created', 'changed', 'suspended', 'resumed', 'erasure_requested', 'erased']
    expect(new Set(events.map(({ action }) => action))).toEqual(new Set(changes.map((change) => `tenant.${change}`)))
    expect(events).toHaveLength(changes.length)
    for (const event of events) {
      expect(event).toMatchObject({ actor: 'operator:ofelia', request_id: 'a-request-of-the-operator' })
    }
  })
})

describe('a key that the operator makes', () => {
  it.each(['live', 'test'])('lets a %s tenant in, is shown once, and its making is noted', async (environment) => {
    const { tenant_id } = await createOperated({ environment })
    const headers = { 'X-Request-Id': 'the-first-key' }
    const body = { name: 'gate 1', scopes: ['faces:read', 'verify'], expires_at: '2030-01-01T00:00:00+01:00' }
    type Key = { api_key_id: string; api_key: string }
    const key = await json<Key>(operate('POST', `/tenants/${tenant_id}/api-keys`, body, { headers }), 201)
    expect(key).toEqual({
      api_key_id: expect.stringMatching(/^[0-9a-f-]{36}$/),
      api_key: expect.stringMatching(new RegExp(`^rk_${environment}_[0-9A-Za-z]{38}$`)),
      name: 'gate 1',
      prefix: key.api_key.slice(0, 12),
      scopes: ['faces:read', 'verify'],
      expires_at: '2029-12-31T23:00:00.000Z',
    })
    expect((await asTenant(key.api_key)).status).toBe(200)
    expect((await asTenant(key.api_key, '/v1/usage')).status).toBe(403)
    expect(
      await asAdmin`select actor, action, target, request_id from admin_events where tenant_id = ${tenant_id}`,
    ).toEqual([
      { actor: 'operator:olivia', action: 'api_key.created', target: key.api_key_id, request_id: 'the-first-key' },
    ])
  })

  it.each([
    { name: 'x', scopes: [] },
    { name: 'x', scopes: ['operator:write'] },
    { name: 'x', scopes: ['verify', 'verify'] },
    { name: ' x', scopes: ['verify'] },
    { name: 'x', scopes: ['verify'], expires_at: '2020-01-01T00:00:00Z' },
    { name: 'x', scopes: ['verify'], hash: 'x' },
  ])('is not made of %j', async (body) => {
    const { tenant_id } = await createOperated()
    expect((await operate('POST', `/tenants/${tenant_id}/api-keys`, body)).status).toBe(422)
    expect(await asAdmin`select from api_keys where tenant_id = ${tenant_id}`).toEqual([])
  })
})

describe('a suspended tenant', () => {
  // A warm isolate has the credential in memory and asks the database all the same. Once refused there, a
  // credential is asked for anew, and that refusal is remembered for a minute: so each is sent once here, and what
  // is sent twice is a credential of its own.
  it('is refused from the next request on, and let in again when it is resumed; its rival notices nothing', async () => {
    const [tenant, rival] = [await createTenant(), await createTenant()]
    const { tokenFor } = await makeIssuer([tenant.id, rival.id])
    const token = await tokenFor(tenant.id)
    const cold = await createKey(tenant.id, SCOPES)
    for (const credential of [tenant.key, token, rival.key]) expect((await asTenant(credential)).status).toBe(200)

    expect(await json(operate('POST', `/tenants/${tenant.id}/suspend`), 200)).toMatchObject({ status: 'suspended' })
    for (const credential of [tenant.key, token, cold.key, await tokenFor(tenant.id)]) {
      expect((await asTenant(credential)).status).toBe(401)
    }
    for (const credential of [rival.key, await tokenFor(rival.id)])
      expect((await asTenant(credential)).status).toBe(200)

    expect(await json(operate('POST', `/tenants/${tenant.id}/resume`), 200)).toMatchObject({ status: 'active' })
    for (const credential of [tenant.key, token, await tokenFor(tenant.id)]) {
      expect((await asTenant(credential)).status).toBe(200)
    }
  })
})

/** The tables that the catalog says are tenants', `tenants` itself among them, with the column that names whose a row is. */
async function listTenantTables(): Promise<{ table: string; owner: string }[]> {
  const rows = await asAdmin`
    select c.oid::regclass as table, a.attname as owner
    from pg_class c join pg_attribute a on a.attrelid = c.oid
    where c.relnamespace in ('public'::regnamespace, 'vault'::regnamespace) and c.relkind in ('r', 'p')
      and a.attname = case c.relname when 'tenants' then 'id' else 'tenant_id' end`
  return rows.map(({ table, owner }) => ({ table: String(table), owner: String(owner) }))
}

/** All rows of a tenant, to the byte, by table. */
async function readEverything(tenantId: string): Promise<Record<string, unknown[]>> {
  const everything: Record<string, unknown[]> = {}
  for (const { table, owner } of await listTenantTables()) {
    const rows = await asAdmin.query(`select t::text as row from ${table} t where ${owner} = $1 order by 1`, [tenantId])
    everything[table] = rows.map(({ row }) => row)
  }
  return everything
}

/** With at least one row in every table. */
async function createFullTenant(): Promise<TestTenant> {
  const tenant = await createTenant()
  const { tokenFor } = await makeIssuer([tenant.id])
  for (let person = 0; person < 5; person++) {
    await enroll(tenant, `person ${person}`, axis(person))
    await tenant.request('POST', '/v1/faces/verify', { external_id: `person ${person}`, embedding: axis(person) })
    await tenant.request('POST', '/v1/faces/search', { embedding: axis(person) })
  }
  expect((await asTenant(await tokenFor(tenant.id))).status).toBe(200)
  await asAdmin`insert into usage_records (tenant_id, period) values (${tenant.id}, '2020-01')`
  await asAdmin`
    insert into integrity_events (tenant_id, verification_id, face_id, reason, request_id)
    select tenant_id, id, face_id, 'differs', request_id from verifications where tenant_id = ${tenant.id}`
  return tenant
}

const countOf = (everything: Record<string, unknown[]>) => Object.values(everything).flat().length

describe('the erasure of a tenant', () => {
  it('leaves nothing in any table, nothing changed of another tenant, and the events', async () => {
    const [victim, rival] = [await createFullTenant(), await createFullTenant()]
    for (const [table, rows] of Object.entries(await readEverything(victim.id)))
      expect([table, rows]).not.toEqual([table, []])
    const before = await readEverything(rival.id)

    const response = await operate('DELETE', `/tenants/${victim.id}`)
    expect([response.status, await response.text()]).toEqual([204, ''])
    expect(countOf(await readEverything(victim.id))).toBe(0)
    expect(await readEverything(rival.id)).toEqual(before)
    expect((await victim.request('GET', '/v1/faces')).status).toBe(401)
    expect((await rival.request('GET', '/v1/faces/person%200')).status).toBe(200)
    for (const method of ['GET', 'DELETE']) {
      expect(await problemOf(operate(method, `/tenants/${victim.id}`))).toEqual([404, 'TENANT_NOT_FOUND'])
    }
    const events =
      await asAdmin`select action, actor from operator_events where target = ${victim.id} and action = 'tenant.erased'`
    expect(events).toEqual([{ action: 'tenant.erased', actor: 'operator:olivia' }])
  })

  it('shuts the tenant out at once and for good, and goes on from wherever it stopped', async () => {
    const [victim, rival] = [await createFullTenant(), await createFullTenant()]
    const { tokenFor } = await makeIssuer([victim.id])
    const token = await tokenFor(victim.id)
    expect((await asTenant(token)).status).toBe(200)
    const before = await readEverything(rival.id)
    let left = countOf(await readEverything(victim.id))

    // nothing goes before it was asked for
    expect(await asOperator`select erase_tenant_batch(${victim.id}, 3) as rows`).toEqual([{ rows: 0 }])
    expect(countOf(await readEverything(victim.id))).toBe(left)

    await asOperator`select request_tenant_erasure(${victim.id})`
    expect((await victim.request('GET', '/v1/faces')).status).toBe(401)
    expect((await asTenant(token)).status).toBe(401)
    // what is still there, and in every backup, can be read by nobody
    expect(
      await asAdmin`
        select version, wrapped, destroyed_at is not null as is_destroyed from vault.template_keys where tenant_id = ${victim.id}`,
    ).toEqual([{ version: 1, wrapped: null, is_destroyed: true }])
    for (let batch = 0; batch < 4; batch++) {
      expect(await asOperator`select erase_tenant_batch(${victim.id}, 3) as rows`).toEqual([{ rows: 3 }])
      const now = countOf(await readEverything(victim.id))
      expect(now).toBeLessThan(left)
      left = now
    }
    expect(left).toBeGreaterThan(0)
    expect(await json(operate('GET', `/tenants/${victim.id}`), 200)).toMatchObject({ status: 'erasing' })
    for (const act of ['resume', 'api-keys']) {
      const body = act === 'resume' ? undefined : { name: 'x', scopes: ['verify'] }
      expect(await problemOf(operate('POST', `/tenants/${victim.id}/${act}`, body))).toEqual([
        409,
        'TENANT_BEING_ERASED',
      ])
    }
    expect((await victim.request('GET', '/v1/faces')).status).toBe(401)
    expect(await json(operate('POST', `/tenants/${victim.id}/suspend`), 200)).toMatchObject({ status: 'erasing' })
    expect((await operate('DELETE', `/tenants/${victim.id}`)).status).toBe(204)
    expect(countOf(await readEverything(victim.id))).toBe(0)
    expect(await readEverything(rival.id)).toEqual(before)
  })

  it('stops after a while in a request, says so, and is finished by asking again', async () => {
    const tenant = await createTenant()
    // more than a request takes
    await asAdmin`
      insert into usage_events (tenant_id, kind) select ${tenant.id}, 'verification' from generate_series(1, 41000)`
    const first = await operate('DELETE', `/tenants/${tenant.id}`)
    expect([first.status, await first.json()]).toEqual([202, { status: 'erasing' }])
    expect((await tenant.request('GET', '/v1/faces')).status).toBe(401)
    let { status } = first
    for (let attempt = 0; status === 202 && attempt < 20; attempt++) {
      status = (await operate('DELETE', `/tenants/${tenant.id}`)).status
    }
    expect(status).toBe(204)
    expect(countOf(await readEverything(tenant.id))).toBe(0)
  })

  it('does not wait for what the tenant had begun before, and is finished by asking again', async (context) => {
    if (!env.TEST.isNative) {
      console.log('skipped on the embedded database: it has one session')
      context.skip('it has one session')
    }
    const tenant = await createFullTenant()
    const held = asAdmin.transaction([
      asAdmin`select from tenants where id = ${tenant.id} for key share`,
      asAdmin`select pg_sleep(3), ${tenant.id} as begun`,
    ])
    const isHeld = asAdmin`select from pg_stat_activity where query like '%pg_sleep(3), $1 as begun%' and state = 'active'
      and pid <> pg_backend_pid()`
    while ((await asAdmin.transaction([isHeld]))[0]?.length === 0);
    expect(await json(operate('DELETE', `/tenants/${tenant.id}`), 202)).toEqual({ status: 'erasing' })
    expect((await tenant.request('GET', '/v1/faces')).status).toBe(401)
    await held
    expect((await operate('DELETE', `/tenants/${tenant.id}`)).status).toBe(204)
    expect(countOf(await readEverything(tenant.id))).toBe(0)
  })

  it('is finished by the schedule too, which touches nobody else', async () => {
    const [victim, rival, suspended] = [await createFullTenant(), await createFullTenant(), await createFullTenant()]
    // not what the schedule itself counts and merges
    const lasting = async (id: string) => {
      const { usage_events: _, usage_records: __, face_counts: ___, ...rest } = await readEverything(id)
      return rest
    }
    await operate('POST', `/tenants/${suspended.id}/suspend`)
    const before = [await lasting(rival.id), await lasting(suspended.id)]
    await asOperator`select request_tenant_erasure(${victim.id})`
    await asOperator`select erase_tenant_batch(${victim.id}, 3)`
    await runJobs(env)
    expect(countOf(await readEverything(victim.id))).toBe(0)
    expect([await lasting(rival.id), await lasting(suspended.id)]).toEqual(before)
    expect(await problemOf(operate('DELETE', `/tenants/${victim.id}`))).toEqual([404, 'TENANT_NOT_FOUND'])
  })
})

describe('an issuer', () => {
  it('is configured with defaults, answered as it is, and its tokens get in', async () => {
    const tenant = await createTenant()
    const { issuer, tokenFor } = await makeIssuer([tenant.id])
    expect(issuer).toMatchObject({
      audience: 'rekko',
      algorithms: ['ES256'],
      token_type: 'at+jwt',
      jwks_url: null,
      tenant_claim: 'tenant_id',
      scope_claim: 'scope',
      scopes: SCOPES,
      tenant_ids: [tenant.id],
      is_active: true,
    })
    expect(await json(operate('GET', `/issuers/${issuer.issuer_id}`), 200)).toEqual(issuer)
    const { data } = await json<{ data: Issuer[] }>(operate('GET', '/issuers?limit=1'), 200)
    expect(data).toEqual([issuer])
    expect((await asTenant(await tokenFor(tenant.id))).status).toBe(200)
    expect((await asTenant(await tokenFor((await createTenant()).id))).status).toBe(401)
  })

  it('is listed in pages, newest first', async () => {
    const made = [(await makeIssuer([])).issuer, (await makeIssuer([])).issuer]
    const first = await json<{ data: Issuer[]; next_cursor: string }>(operate('GET', '/issuers?limit=1'), 200)
    const second = await json<{ data: Issuer[] }>(operate('GET', `/issuers?limit=1&cursor=${first.next_cursor}`), 200)
    expect([...first.data, ...second.data]).toEqual(made.reverse())
  })

  it('loses tenants, scopes or its place, and its tokens are refused by a warm isolate from the next request on', async () => {
    const [tenant, rival] = [await createTenant(), await createTenant()]
    const signer = await createSigner('ES256')
    const fields = issuerFields(signer, [tenant.id, rival.id])
    const { issuer_id } = await json<Issuer>(operate('POST', '/issuers', fields), 201)
    const tokenFor = (tenantId: string) => {
      const iat = Math.floor(Date.now() / 1000)
      const own = { iss: fields.issuer, aud: 'rekko', tenant_id: tenantId, scope: SCOPES.join(' ') }
      return signer.sign({ ...own, iat, exp: iat + 300, jti: crypto.randomUUID() })
    }
    const statusOf = async (tenantId: string) => (await asTenant(await tokenFor(tenantId))).status
    const replace = (change: object) =>
      json<Issuer>(operate('PUT', `/issuers/${issuer_id}`, { ...fields, ...change }), 200)
    expect([await statusOf(tenant.id), await statusOf(rival.id)]).toEqual([200, 200])

    expect((await replace({ tenant_ids: [rival.id, rival.id] })).tenant_ids).toEqual([rival.id])
    expect([await statusOf(tenant.id), await statusOf(rival.id)]).toEqual([401, 200])
    expect((await replace({ tenant_ids: [] })).tenant_ids).toEqual([])
    expect(await statusOf(rival.id)).toBe(401)
    await replace({ scopes: ['verify'] })
    expect([await statusOf(tenant.id), await statusOf(rival.id)]).toEqual([403, 403])
    await replace({ is_active: false })
    expect(await statusOf(tenant.id)).toBe(401)
    await replace({})
    expect(await statusOf(tenant.id)).toBe(200)
    expect((await operate('DELETE', `/issuers/${issuer_id}`)).status).toBe(204)
    expect(await statusOf(tenant.id)).toBe(401)
    for (const method of ['GET', 'DELETE', 'PUT']) {
      const body = method === 'PUT' ? fields : undefined
      expect(await problemOf(operate(method, `/issuers/${issuer_id}`, body))).toEqual([404, 'ISSUER_NOT_FOUND'])
    }
    const events =
      await asAdmin`select distinct action, actor from operator_events where target = ${issuer_id} order by 1`
    expect(events).toEqual([
      { action: 'token_issuer.deleted', actor: 'operator:olivia' },
      { action: 'token_issuer.put', actor: 'operator:olivia' },
    ])
  })

  it('has a name of its own', async () => {
    const signer = await createSigner('ES256')
    const [one, another] = [issuerFields(signer, []), issuerFields(signer, [])]
    await json(operate('POST', '/issuers', one), 201)
    const { issuer_id } = await json<Issuer>(operate('POST', '/issuers', another), 201)
    expect(await problemOf(operate('POST', '/issuers', one))).toEqual([409, 'ISSUER_ALREADY_EXISTS'])
    expect(await problemOf(operate('PUT', `/issuers/${issuer_id}`, one))).toEqual([409, 'ISSUER_ALREADY_EXISTS'])
    expect(await json(operate('GET', `/issuers/${issuer_id}`), 200)).toMatchObject({ issuer: another.issuer })
  })

  it('speaks for tenants that are there, and a thousand at most; otherwise nothing is stored', async () => {
    const signer = await createSigner('ES256')
    const tenant = await createTenant()
    const refused = [[tenant.id, NOBODY], Array.from({ length: 1001 }, () => tenant.id), ['1']]
    for (const tenant_ids of refused) {
      const fields = issuerFields(signer, [], { tenant_ids })
      const response = await operate('POST', '/issuers', fields)
      expect(response.status).toBe(422)
      const { errors } = await response.json<{ errors: { pointer: string }[] }>()
      expect(errors[0]?.pointer).toMatch(/^\/tenant_ids(\/0)?$/)
      expect(await asAdmin`select from token_issuers where issuer = ${fields.issuer}`).toEqual([])
    }
    const fields = issuerFields(signer, [], { tenant_ids: Array.from({ length: 1000 }, () => tenant.id) })
    expect((await json<Issuer>(operate('POST', '/issuers', fields), 201)).tenant_ids).toEqual([tenant.id])
  })

  it.each<[string, Record<string, unknown>, string]>([
    ["the operator's own", { issuer: OPERATOR.iss }, '/issuer'],
    ['without a name', { issuer: ' ' }, '/issuer'],
    ['with a NUL in its audience', { audience: 'a\u0000' }, '/audience'],
    ['that shares a secret', { algorithms: ['HS256'] }, '/algorithms/0'],
    ['that names an algorithm twice', { algorithms: ['ES256', 'ES256'] }, '/algorithms'],
    ['of another type of token', { token_type: 'jwt' }, '/token_type'],
    ['without a tenant claim', { tenant_claim: null }, '/tenant_claim'],
    ['with an unknown scope', { scopes: ['operator:write'] }, '/scopes/0'],
    ['with an unknown field', { trusted: true }, '/trusted'],
    ['without keys', { jwks: null }, '/jwks_url'],
    ['with keys twice', { jwks_url: 'https://id.example.com/jwks' }, '/jwks_url'],
    ['with keys over http', { jwks: null, jwks_url: 'http://id.example.com/jwks' }, '/jwks_url'],
    ['with keys at an address', { jwks: null, jwks_url: 'https://169.254.169.254/latest' }, '/jwks_url'],
    ['with an empty key set', { jwks: { keys: [] } }, '/jwks'],
    ['with a secret key', { jwks: { keys: [{ kid: 'a', kty: 'oct', k: 'c2VjcmV0' }] } }, '/jwks'],
  ])('is not configured %s', async (_, change, pointer) => {
    const fields = issuerFields(await createSigner('ES256'), [], change)
    const response = await operate('POST', '/issuers', fields)
    expect(response.status).toBe(422)
    expect(await response.json()).toMatchObject({ errors: [{ pointer }] })
    expect(await asAdmin`select from token_issuers where issuer = ${fields.issuer}`).toEqual([])
  })

  it('is not configured with a private key, which is not repeated either', async () => {
    const signer = await createSigner('ES256')
    const jwks = { keys: [{ ...signer.jwk, d: 'a-private-member' }] }
    const response = await operate('POST', '/issuers', issuerFields(signer, [], { jwks }))
    expect(response.status).toBe(422)
    expect(await response.text()).not.toContain('a-private-member')
  })

  it('has its keys fetched from this machine in development only', async () => {
    const change = { jwks: null, jwks_url: keySetUrl('nowhere') }
    const signer = await createSigner('ES256')
    const { jwks_url } = await json<Issuer>(operate('POST', '/issuers', issuerFields(signer, [], change)), 201)
    expect(jwks_url).toBe(change.jwks_url)
    const bindings = { ...env, ENVIRONMENT: 'production' }
    const response = await operate('POST', '/issuers', issuerFields(signer, [], change), { bindings })
    expect(await response.json()).toMatchObject({ status: 422, errors: [{ pointer: '/jwks_url' }] })
  })

  it('is stored with what verifies signatures, in one spelling, and nothing that was sent besides', async () => {
    const signer = await createSigner('ES256')
    const { kid, kty, crv, x, y } = signer.jwk
    const jwks = { keys: [{ ...signer.jwk, x5t: '\u0000', n: 1e308 }], comment: 'x' }
    const stored = await json<Issuer>(operate('POST', '/issuers', issuerFields(signer, [], { jwks })), 201)
    expect(stored.jwks).toEqual({ keys: [{ kid, kty, crv, x, y, alg: 'ES256' }] })
    const odd = { jwks: null, jwks_url: '\u0000 https://ID.example.com\\jwks\t\n' }
    const fetched = await json<Issuer>(operate('POST', '/issuers', issuerFields(signer, [], odd)), 201)
    expect(fetched.jwks_url).toBe('https://id.example.com/jwks')
    const control = { jwks: { keys: [{ ...signer.jwk, kid: 'a\u0000' }] } }
    const response = await operate('POST', '/issuers', issuerFields(signer, [], control))
    expect(await response.json()).toMatchObject({ status: 422, errors: [{ pointer: '/jwks' }] })
  })
})

describe("the operator's login, with any SQL", () => {
  const outcome = (run: Promise<unknown>) =>
    run.then(
      () => 'allowed',
      (error: NeonDbError) => error.code,
    )

  it('reads and writes no table, and no face', async () => {
    const tenant = await createFullTenant()
    const tables = await asAdmin`
      select relname as name from pg_class where relnamespace = 'public'::regnamespace and relkind in ('r', 'p', 'v', 'm', 'f')`
    expect(tables.length).toBeGreaterThan(10)
    for (const { name } of tables) {
      for (const statement of [
        `select from ${name}`,
        `insert into ${name} default values`,
        `delete from ${name}`,
        `truncate ${name}`,
        `lock table ${name}`,
        `copy ${name} to stdout`,
      ]) {
        const entered = asOperator`select set_config('app.current_tenant_id', ${tenant.id}, true)`
        const refusal = await outcome(asOperator.transaction([entered, asOperator.query(statement)]))
        expect([statement, refusal]).toEqual([statement, '42501'])
      }
    }
  })

  it('enters no tenant, does not search, and becomes nobody else', async () => {
    const tenant = await createTenant()
    const functions = await asAdmin`
      select p.oid::regprocedure::text as name,
        has_function_privilege('rekko_operator', p.oid, 'execute') as may
      from pg_proc p
      where p.pronamespace = 'public'::regnamespace
        and not exists (select from pg_depend d where d.objid = p.oid and d.deptype = 'e')`
    const allowed = functions.filter(({ may }) => may).map(({ name }) => String(name).replace(/\(.*/, ''))
    expect(allowed.sort()).toEqual([
      'change_tenant',
      'create_api_key',
      'create_tenant',
      'delete_token_issuer',
      'erase_tenant_batch',
      'find_tenant',
      'list_tenants',
      'list_token_issuers',
      'put_token_issuer',
      'request_tenant_erasure',
      'revoke_api_key',
      'set_tenant_active',
    ])
    const enter = asOperator`select enter_tenant_by_api_key(${tenant.id}, '\\x00', 'faces:read')`
    expect(await outcome(asOperator.transaction([enter]))).toBe('42501')
    // the embedded database has no log-in: there, the endpoint enters the role from a superuser's session
    for (const role of env.TEST.isNative ? ['rekko_owner', 'rekko_app', 'rekko_jobs'] : []) {
      expect(await outcome(asOperator.query(`set role ${role}`))).toBe('42501')
    }
  })
})
