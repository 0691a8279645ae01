// Proves what surrounds every request: one line of log that says no secret, the headers, and which web pages may
// read answers. On a real PostgreSQL. Fake: the embeddings and the recognizer; and a database that fails, where one is needed.
import { env } from 'cloudflare:workers'
import { afterEach, describe, expect, it, vi } from 'vitest'
import { app } from '../../src/app.ts'
import { inBase64, pictureOf, sendForm, toForm } from './picture.ts'
import { asAdmin, axis, createTenant, enroll, randomEmbedding, type TestTenant } from './tenant.ts'

afterEach(() => {
  vi.restoreAllMocks()
})

/** What was written to any of the console's streams from now on, a text for each call. */
function listen(): string[] {
  const lines: string[] = []
  for (const stream of ['log', 'info', 'warn', 'error', 'debug'] as const) {
    vi.spyOn(console, stream).mockImplementation((...parts: unknown[]) => {
      lines.push(parts.map(String).join(' '))
    })
  }
  return lines
}

describe('the log', () => {
  it('has one line for each request, which says who asked what, how it ended and how long it took', async () => {
    const tenant = await createTenant()
    await tenant.request('GET', '/v1/faces')
    const lines = listen()
    const response = await tenant.request('GET', '/v1/faces/ada', undefined, { 'X-Request-Id': 'gate-7' })
    expect(response.status).toBe(404)
    expect(lines).toHaveLength(1)
    expect(JSON.parse(lines[0] ?? '')).toEqual({
      level: 'info',
      event: 'request',
      request_id: 'gate-7',
      tenant: tenant.id,
      method: 'GET',
      route: '/v1/faces/:external_id',
      status: 404,
      ms: expect.any(Number),
      database_ms: expect.any(Number),
      database_requests: 1,
    })
  })

  it('says how long the recognizer took, where it was asked, and what was wrong with it', async () => {
    const tenant = await createTenant()
    await tenant.request('GET', '/v1/faces')
    const lines = listen()
    const image = inBase64(pictureOf(axis(0)))
    await tenant.request('POST', '/v1/faces/detect', { image })
    await tenant.request('POST', '/v1/faces/compare', { first: { image }, second: { image } })
    await tenant.request('POST', '/v1/faces/detect', { image: 'none!' })
    const full = inBase64(JSON.stringify({ refusal: [503, 'OVERLOADED'] }))
    await tenant.request('POST', '/v1/faces/detect', { image: full })
    const [detected, compared, refused, failed] = lines.map((line) => JSON.parse(line))
    const line = (route: string, more: object) => ({
      level: 'info',
      event: 'request',
      request_id: expect.any(String),
      tenant: tenant.id,
      method: 'POST',
      route,
      ms: expect.any(Number),
      database_ms: expect.any(Number),
      ...more,
    })
    const asked = { recognizer_ms: expect.any(Number) }
    expect(detected).toEqual(line('/v1/faces/detect', { status: 200, database_requests: 1, ...asked }))
    expect(compared).toEqual(line('/v1/faces/compare', { status: 200, database_requests: 1, ...asked }))
    expect(refused).toEqual(line('/v1/faces/detect', { status: 422, database_requests: 0 }))
    expect(failed).toEqual({
      ...line('/v1/faces/detect', { status: 503, database_requests: 0, ...asked }),
      level: 'error',
      fault: 'recognizer_unavailable',
      reason: 'overloaded',
    })
  })

  it('names no route where there is none, and never the address', async () => {
    const lines = listen()
    await app.request('/v1/people/ada-lovelace', {}, env)
    expect(JSON.parse(lines[0] ?? '')).toMatchObject({ tenant: null, route: null, status: 404 })
    expect(lines.join()).not.toContain('ada-lovelace')
  })

  it('holds no key, embedding, external_id, metadata or words of the database, whatever happens', async () => {
    const canary = `canary-${crypto.randomUUID()}`
    const embedding = randomEmbedding()
    const lines = listen()
    const tenant = await createTenant()
    const answers = await provokeEverything(tenant, canary, embedding)
    // all kinds of answers were met, and each left its line
    expect(new Set(answers.map(({ status }) => status))).toEqual(
      new Set([200, 201, 204, 400, 401, 403, 404, 405, 409, 413, 415, 422, 429, 500, 503]),
    )
    expect(lines).toHaveLength(answers.length)
    const text = lines.join('\n')
    for (const secret of [
      canary,
      canary.slice(8),
      tenant.key,
      tenant.key.slice(8),
      env.API_KEY_PEPPER,
      env.DATABASE_URL,
      'secret words of the driver',
      'rekko_app',
      ...embedding.slice(0, 20).flatMap((component) => [String(component), component.toFixed(5)]),
      env.RECOGNIZER_SECRET ?? '',
      env.RECOGNIZER_URL ?? '',
      'words of the recognizer',
      inBase64(pictureOf(embedding)).slice(100, 140),
    ]) {
      expect(secret.length).toBeGreaterThan(5)
      expect(text).not.toContain(secret)
    }
  })

  it('names the place of a defect, and never its words', async () => {
    const lines = listen()
    const broken = {
      ...env,
      READ_LIMIT: {
        limit: () => {
          throw new Error('first words\nsecret words')
        },
      },
    }
    const tenant = await createTenant()
    const response = await app.request('/v1/faces', { headers: { 'X-API-Key': tenant.key } }, broken)
    expect(response.status).toBe(500)
    expect(JSON.parse(lines[0] ?? '')).toMatchObject({
      fault: 'defect',
      error: 'Error',
      at: expect.stringMatching(/^at /),
    })
    expect(lines.join() + (await response.text())).not.toMatch(/first words|secret words/)
  })
})

/** Requests of all kinds with the same secrets in them: what succeeds, what is refused, and what fails inside. */
async function provokeEverything(tenant: TestTenant, canary: string, embedding: number[]): Promise<Response[]> {
  const face = { external_id: canary, embedding, metadata: { note: canary } }
  const claim = { external_id: canary, embedding }
  const answers = [
    await tenant.request('POST', '/v1/faces', face),
    await tenant.request('POST', '/v1/faces', face),
    await tenant.request('POST', '/v1/faces/verify', claim),
    await tenant.request('POST', '/v1/faces/search', { embedding }),
    await tenant.request('POST', '/v1/faces/verify', { external_id: canary, image: inBase64(pictureOf(embedding)) }),
    await tenant.request('POST', '/v1/faces/detect', { image: inBase64(`no picture, and ${canary}`) }),
    await tenant.request('POST', '/v1/faces/detect', { image: `${canary}!` }),
    await tenant.request('POST', '/v1/faces/detect', { image: inBase64(`{"refusal":[500,"${canary}"]}`) }),
    await tenant.request('POST', '/v1/faces/detect', { image: inBase64(`{"refusal":[422,"INVALID_IMAGE"]}`) }),
    await tenant.request('POST', '/v1/faces/detect', canary, { 'Content-Type': 'multipart/form-data; boundary=x' }),
    await sendForm(tenant, 'POST', '/v1/faces/search', toForm([[canary, canary]])),
    await sendForm(tenant, 'PUT', `/v1/faces/${canary}`, toForm([['image', { file: pictureOf(embedding) }]])),
    await tenant.request('POST', '/v1/faces/verify', { ...claim, embedding: [...embedding, 1] }),
    await tenant.request('POST', '/v1/faces', { ...face, [canary]: 1 }),
    await tenant.request('POST', '/v1/faces', `{"external_id": "${canary}`),
    await tenant.request('POST', '/v1/faces', ' '.repeat(70_000)),
    await tenant.request('POST', '/v1/faces', face, { 'Content-Type': 'text/plain' }),
    await tenant.request('GET', `/v1/faces/${canary}`),
    await tenant.request('GET', `/v1/faces/no-${canary}`),
    await tenant.request('GET', `/v1/faces?cursor=${canary}`),
    await tenant.request('GET', `/v1/verifications?external_id=${canary}`),
    await tenant.request('GET', `/v1/${canary}`),
    await tenant.request('PUT', `/v1/faces`),
    await tenant.request('GET', `/v1/faces/%ff${canary}`),
    await app.request('/v1/faces', { headers: { 'X-API-Key': `${tenant.key}x` } }, env),
    await app.request('/v1/faces', { headers: { Authorization: `Bearer ${canary}.${canary}.${canary}` } }, env),
    await app.request('/v1/faces', { headers: { 'X-API-Key': tenant.key } }, { ...env, API_KEY_PEPPER: 'short' }),
  ]
  await asAdmin`update api_keys set scopes = '{verify}' where tenant_id = ${tenant.id}`
  answers.push(await tenant.request('GET', `/v1/faces/${canary}`))
  await asAdmin`update api_keys set scopes = '{verify,faces:write,identify}' where tenant_id = ${tenant.id}`
  for (let attempt = 0; attempt < 11; attempt++) {
    answers.push(await tenant.request('POST', '/v1/faces/verify', { ...claim, embedding: axis(attempt) }))
  }
  await asAdmin`
    create or replace function betray() returns trigger language plpgsql as $$
    begin raise exception 'secret words of the driver: %', new; end $$`
  await asAdmin.query(
    `create trigger betray before insert on identifications for each row when (new.tenant_id = '${tenant.id}')
     execute function betray()`,
  )
  try {
    answers.push(await tenant.request('POST', '/v1/faces/search', { embedding }))
  } finally {
    // its trigger goes with it
    await asAdmin`drop function betray cascade`
  }
  answers.push(await tenant.request('DELETE', `/v1/faces/${canary}`))
  return answers
}

describe('every answer', () => {
  it.each([
    ['a success', 200, () => app.request('/health', {}, env)],
    ['a refusal', 401, () => app.request('/v1/faces', {}, env)],
    ['no such address', 404, () => app.request('/nowhere', {}, env)],
    ['the document', 200, () => app.request('/openapi.json', {}, env)],
  ])(
    'may not be kept, framed or sniffed, and says how long it took unless that would tell: %s',
    async (_, status, send) => {
      const response = await send()
      expect(response.status).toBe(status)
      expect(response.headers.has('Server-Timing')).toBe(status !== 401)
      expect(Object.fromEntries(response.headers)).toMatchObject({
        'cache-control': 'no-store',
        'content-security-policy': "default-src 'none'; frame-ancestors 'none'",
        'referrer-policy': 'no-referrer',
        'strict-transport-security': 'max-age=63072000; includeSubDomains',
        vary: 'Authorization, X-API-Key, Origin',
        'x-content-type-options': 'nosniff',
        'x-request-id': expect.stringMatching(/^[A-Za-z0-9-]{1,64}$/),
      })
      expect(response.headers.has('Access-Control-Allow-Origin')).toBe(false)
    },
  )

  it.each([
    ['gate-7', true],
    ['a'.repeat(64), true],
    ['a'.repeat(65), false],
    ['gate 7', false],
    ['<script>', false],
    ['gate_7', false],
    ['', false],
  ])('repeats the request id %j only when it is safe to', async (id, isSafe) => {
    const response = await app.request('/health', { headers: { 'X-Request-Id': id } }, env)
    expect(response.headers.get('X-Request-Id') === id).toBe(isSafe)
  })
})

describe('web pages', () => {
  const fromPage = (tenant: TestTenant, origin: string) =>
    tenant.request('GET', '/v1/faces', undefined, { Origin: origin })

  it('of origins that the tenant named may read its answers, and no others', async () => {
    const tenant = await createTenant()
    const rival = await createTenant()
    await asAdmin`
      update tenants set settings = '{"allowed_origins": ["https://gate.example"]}' where id = ${tenant.id}`
    await enroll(tenant, 'ada', axis(0))
    const allowed = await fromPage(tenant, 'https://gate.example')
    expect(allowed.headers.get('Access-Control-Allow-Origin')).toBe('https://gate.example')
    expect(allowed.headers.has('Access-Control-Allow-Credentials')).toBe(false)
    const missing = await tenant.request('GET', '/v1/faces/eve', undefined, { Origin: 'https://gate.example' })
    expect(missing.status).toBe(404)
    expect(missing.headers.get('Access-Control-Allow-Origin')).toBe('https://gate.example')
    for (const origin of ['https://evil.example', 'http://gate.example', 'https://gate.example.evil.example', 'null']) {
      expect((await fromPage(tenant, origin)).headers.has('Access-Control-Allow-Origin'), origin).toBe(false)
    }
    expect((await fromPage(rival, 'https://gate.example')).headers.has('Access-Control-Allow-Origin')).toBe(false)
  })

  it('are told before that they may ask, all of them the same, and the database is not', async () => {
    const preflight = (origin: string, path = '/v1/faces/verify') =>
      app.request(
        path,
        { method: 'OPTIONS', headers: { Origin: origin, 'Access-Control-Request-Method': 'POST' } },
        { ...env, DATABASE_URL: '' },
      )
    const answers = [await preflight('https://gate.example'), await preflight('https://evil.example')]
    for (const answer of answers) {
      expect(answer.status).toBe(204)
      expect(answer.headers.get('Access-Control-Allow-Origin')).toBe('*')
      expect(answer.headers.get('Access-Control-Allow-Headers')).toContain('Authorization')
      expect(answer.headers.has('Access-Control-Allow-Credentials')).toBe(false)
    }
    const operators = await preflight('https://gate.example', '/v1/operator/tenants')
    expect(operators.status).toBe(405)
    expect(operators.headers.has('Access-Control-Allow-Origin')).toBe(false)
  })
})
