// Proves who is let in by a token: signed by an issuer that the operator configured, for a tenant that this
// issuer may speak for, with no more scopes than it may grant; checked again in the transaction. On a real
// PostgreSQL; the issuer's keys come inline or from a web server on this machine. Fake: the embeddings.
import { env } from 'cloudflare:workers'
import { beforeAll, describe, expect, it, vi } from 'vitest'
import { app } from '../../src/app.ts'
import { generateApiKey, SCOPES } from '../../src/auth/api-key.ts'
import { asAdmin, axis, comparable, countRequests, createTenant, enroll, type TestTenant } from './tenant.ts'
import {
  configureIssuer,
  countFetches,
  createSigner,
  inline,
  keySetUrl,
  publish,
  type Signer,
  type TestIssuer,
  toClaims,
} from './tokens.ts'

let signer: Signer
beforeAll(async () => {
  signer = await createSigner('ES256')
})

const now = () => Math.floor(Date.now() / 1000)

async function send(
  token: string,
  method = 'GET',
  path = '/v1/faces',
  body?: unknown,
  bindings: object = env,
): Promise<Response> {
  const headers = {
    Authorization: `Bearer ${token}`,
    ...(body !== undefined && { 'Content-Type': 'application/json' }),
  }
  return app.request(path, { method, headers, ...(body !== undefined && { body: JSON.stringify(body) }) }, bindings)
}

describe('a token', () => {
  it('opens its tenant as a key does, in one request to the database when the isolate is warm', async () => {
    const tenant = await createTenant()
    const issuer = await configureIssuer([tenant], inline(signer))
    const token = await signer.sign(toClaims(issuer, tenant))
    const body = { external_id: 'ada', embedding: axis(0) }
    expect((await send(token, 'POST', '/v1/faces', body)).status).toBe(201)
    const cost = await countRequests(async () => {
      const response = await send(token, 'POST', '/v1/faces/verify', body)
      expect(await response.json()).toMatchObject({ verified: true, confidence: 1 })
    })
    expect(cost).toEqual({ requests: 1, transactions: 1, statements: 2 })
    expect((await tenant.request('GET', '/v1/faces/ada')).status).toBe(200)
  })

  it('costs two requests more in an isolate that knows neither its issuer nor its tenant', async () => {
    const tenant = await createTenant()
    const issuer = await configureIssuer([tenant], inline(signer))
    const token = await signer.sign(toClaims(issuer, tenant))
    expect((await countRequests(() => send(token))).requests).toBe(3)
  })

  it('may do what its issuer may grant, and no more', async () => {
    const tenant = await createTenant()
    await enroll(tenant, 'ada', axis(0))
    const issuer = await configureIssuer([tenant], inline(signer), ['verify', 'faces:read'])
    const token = await signer.sign(toClaims(issuer, tenant, { scope: 'verify scores:read faces:write' }))
    const verification = await send(token, 'POST', '/v1/faces/verify', { external_id: 'ada', embedding: axis(0) })
    expect(verification.status).toBe(200)
    // scores:read was not the issuer's to grant
    expect(await verification.json()).not.toHaveProperty('confidence')
    for (const [method, path, scope] of [
      ['DELETE', '/v1/faces/ada', 'faces:write'],
      // the issuer may grant it, the token does not ask for it
      ['GET', '/v1/faces', 'faces:read'],
    ] as const) {
      const refused = await send(token, method, path)
      expect(refused.status).toBe(403)
      expect(await refused.json()).toMatchObject({ code: 'MISSING_SCOPE', detail: expect.stringContaining(scope) })
    }
  })

  it('of one tenant opens no other, and an issuer speaks only for the tenants it was given', async () => {
    const [own, foreign] = [await createTenant(), await createTenant()]
    await enroll(own, 'ada', axis(0))
    await enroll(foreign, 'grace', axis(1))
    const issuer = await configureIssuer([own], inline(signer))
    const response = await send(await signer.sign(toClaims(issuer, own)))
    expect(await response.json()).toMatchObject({ data: [{ external_id: 'ada' }] })
    expect((await send(await signer.sign(toClaims(issuer, foreign)))).status).toBe(401)
    // nor does it help to call the key by another issuer's name
    const theirs = await configureIssuer([foreign], inline(await createSigner('ES256')))
    expect((await send(await signer.sign(toClaims(theirs, foreign)))).status).toBe(401)
  })

  it.each([
    [
      'its issuer is deactivated',
      (issuer: TestIssuer) => asAdmin`update token_issuers set is_active = false where id = ${issuer.id}`,
    ],
    [
      'its issuer may no longer speak for the tenant',
      (issuer: TestIssuer) => asAdmin`delete from token_issuer_tenants where issuer_id = ${issuer.id}`,
    ],
    ['its issuer is deleted', (issuer: TestIssuer) => asAdmin`select delete_token_issuer(${issuer.id})`],
    [
      'its tenant is suspended',
      (_: TestIssuer, tenant: TestTenant) => asAdmin`update tenants set is_active = false where id = ${tenant.id}`,
    ],
  ])('is refused from the next request on, in a warm isolate too, once %s', async (_, change) => {
    const tenant = await createTenant()
    const issuer = await configureIssuer([tenant], inline(signer))
    // another one, which may speak for the tenant on
    await configureIssuer([tenant], inline(signer))
    const token = await signer.sign(toClaims(issuer, tenant))
    expect((await send(token)).status).toBe(200)
    await change(issuer, tenant)
    const response = await send(token, 'POST', '/v1/faces', { external_id: 'ada', embedding: axis(0) })
    expect(response.status).toBe(401)
    expect(await asAdmin`select 1 from faces where tenant_id = ${tenant.id}`).toEqual([])
  })

  it('loses a scope in a warm isolate when its issuer may no longer grant it', async () => {
    const tenant = await createTenant()
    const issuer = await configureIssuer([tenant], inline(signer))
    const token = await signer.sign(toClaims(issuer, tenant))
    expect((await send(token)).status).toBe(200)
    await asAdmin`update token_issuers set scopes = '{verify}' where id = ${issuer.id}`
    expect((await send(token)).status).toBe(403)
  })

  it('is checked against the keys at its address, and nobody can say when those cannot be had', async () => {
    const tenant = await createTenant()
    const name = `set-${crypto.randomUUID()}`
    await publish(name, 'answer', { keys: [signer.jwk] })
    const issuer = await configureIssuer([tenant], { jwks_url: keySetUrl(name) })
    const token = await signer.sign(toClaims(issuer, tenant))
    for (let request = 0; request < 3; request++) expect((await send(token)).status).toBe(200)
    expect(await countFetches(name)).toBe(1)

    const down = `set-${crypto.randomUUID()}`
    await publish(down, 'status-500')
    const unreachable = await configureIssuer([tenant], { jwks_url: keySetUrl(down) })
    const answer = await send(await signer.sign(toClaims(unreachable, tenant)))
    expect(answer.status).toBe(503)
    expect(answer.headers.get('Retry-After')).toBe('30')
    expect(await answer.json()).toMatchObject({ code: 'TOKEN_KEYS_UNAVAILABLE' })
  })

  it('is checked against keys on this machine in development only', async () => {
    const tenant = await createTenant()
    const name = `set-${crypto.randomUUID()}`
    await publish(name, 'answer', { keys: [signer.jwk] })
    const issuer = await configureIssuer([tenant], { jwks_url: keySetUrl(name) })
    const token = await signer.sign(toClaims(issuer, tenant))
    const production = { ...env, ENVIRONMENT: 'production' }
    expect((await send(token, 'GET', '/v1/faces', undefined, production)).status).toBe(401)
    expect(await countFetches(name)).toBe(0)
  })

  it('is measured by what its issuer was within the last minute, however often it comes', async () => {
    const tenant = await createTenant()
    const issuer = await configureIssuer([tenant], inline(signer))
    vi.useFakeTimers({ toFake: ['Date'], now: Date.now() })
    try {
      const token = await signer.sign(toClaims(issuer, tenant))
      expect((await send(token)).status).toBe(200)
      // the operator takes the key away
      const another = { keys: [(await createSigner('ES256')).jwk] }
      await asAdmin`update token_issuers set jwks = ${JSON.stringify(another)}::jsonb where id = ${issuer.id}`
      const start = Date.now()
      for (const [ms, status] of [
        [30_000, 200],
        [59_999, 200],
        [60_000, 401],
      ] as const) {
        vi.setSystemTime(start + ms)
        expect((await send(token)).status, `after ${ms} ms`).toBe(status)
      }
    } finally {
      vi.useRealTimers()
    }
  })

  it("of the operator's issuer opens no tenant, though somebody configured it for one", async () => {
    const tenant = await createTenant()
    const issuer = await configureIssuer([tenant], inline(signer))
    const token = await signer.sign(toClaims(issuer, tenant))
    const operator = { issuer: issuer.name, audience: 'rekko', algorithms: ['ES256'], jwks: { keys: [signer.jwk] } }
    const bindings = { ...env, OPERATOR_ISSUER: JSON.stringify(operator) }
    expect((await send(token, 'GET', '/v1/faces', undefined, bindings)).status).toBe(401)
  })

  it('is verified again when its issuer was changed: what was good enough before does not count', async () => {
    const [own, foreign] = [await createTenant(), await createTenant()]
    await enroll(foreign, 'grace', axis(1))
    const issuer = await configureIssuer([own], inline(signer))
    const token = await signer.sign(toClaims(issuer, own))
    expect((await send(token)).status).toBe(200)
    // one tenant more: the token goes on working, without a refusal in between, and so does one for the new tenant
    await configureIssuer([own, foreign], inline(signer), SCOPES, issuer)
    expect((await send(token)).status).toBe(200)
    expect((await send(await signer.sign(toClaims(issuer, foreign)))).status).toBe(200)
    // another signer takes its place, for the other tenant only
    const successor = await createSigner('ES256')
    const replacement = { ...issuer, name: `${issuer.name}/successor` }
    await configureIssuer([foreign], inline(successor), SCOPES, replacement)
    // first for the tenant that both were given: the other one makes the isolate forget
    for (const tenant of [foreign, own]) {
      expect((await send(await signer.sign(toClaims(issuer, tenant)))).status).toBe(401)
    }
    expect((await send(await successor.sign(toClaims(replacement, foreign)))).status).toBe(200)
  })

  it('names its bearer in the events of administration', async () => {
    const tenant = await createTenant()
    const issuer = await configureIssuer([tenant], inline(signer))
    const token = await signer.sign(toClaims(issuer, tenant))
    const body = { name: 'gate', scopes: ['verify'] }
    expect((await send(token, 'POST', '/v1/api-keys', body)).status).toBe(201)
    const events = await asAdmin`
      select action, actor from admin_events where tenant_id = ${tenant.id} and actor like 'token:%'`
    expect(events).toEqual([{ action: 'api_key.created', actor: `token:${issuer.id}:gate 7` }])
  })
})

describe('a refused credential', () => {
  it('gets one answer, whatever is wrong with it; the log alone says what', async () => {
    const [tenant, foreign] = [await createTenant(), await createTenant()]
    const issuer = await configureIssuer([tenant], inline(signer))
    const stranger = await createSigner('ES256', { kid: signer.kid })
    const [revoked, expired, suspended] = [await createTenant(), await createTenant(), await createTenant()]
    await asAdmin`update api_keys set revoked_at = now() where tenant_id = ${revoked.id}`
    await asAdmin`update api_keys set expires_at = now() where tenant_id = ${expired.id}`
    await asAdmin`update tenants set is_active = false where id = ${suspended.id}`
    const credentials: [string, string][] = [
      ['malformed', 'nonsense'],
      ['malformed', tenant.key.slice(0, -1)],
      ['unknown', generateApiKey('live')],
      ['revoked', revoked.key],
      ['expired', expired.key],
      ['suspended', suspended.key],
      ['malformed', 'a.b.c'],
      ['issuer', await signer.sign(toClaims({ name: 'https://nobody.example' }, tenant))],
      ['signature', await stranger.sign(toClaims(issuer, tenant))],
      ['audience', await signer.sign(toClaims(issuer, tenant, { aud: 'rekko.example' }))],
      ['expired', await signer.sign(toClaims(issuer, tenant, { iat: now() - 120, exp: now() - 60 }))],
      ['type', await signer.sign(toClaims(issuer, tenant), { typ: 'JWT' })],
      ['tenant', await signer.sign(toClaims(issuer, foreign))],
      ['tenant', await signer.sign(toClaims(issuer, tenant, { tenant_id: [tenant.id] }))],
    ]
    const log = vi.spyOn(console, 'log').mockImplementation(() => {})
    const absent = await comparable(await app.request('/v1/faces', {}, env))
    expect(absent).toMatchObject({ status: 401 })
    for (const [reason, credential] of credentials) {
      expect(await comparable(await send(credential)), reason).toEqual(absent)
      const line = String(log.mock.lastCall?.[0])
      expect(JSON.parse(line), reason).toMatchObject({ status: 401, refusal: reason })
      expect(line).not.toContain(credential)
    }
    // and once more, from memory
    for (const [, credential] of credentials) expect(await comparable(await send(credential))).toEqual(absent)
    vi.restoreAllMocks()
  })

  it('is what two credentials are that disagree', async () => {
    const tenant = await createTenant()
    const headers = { Authorization: `Bearer ${tenant.key}`, 'X-API-Key': generateApiKey('test') }
    expect((await app.request('/v1/faces', { headers }, env)).status).toBe(401)
    expect((await app.request('/v1/faces', { headers: { ...headers, 'X-API-Key': tenant.key } }, env)).status).toBe(200)
  })
})
