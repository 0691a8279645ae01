// Proves how an isolate comes by a tenant's template keys and how long it keeps them; that a tenant can be re-keyed while
// it works, in isolates that do not know of it yet; and that without the keys nothing is stored or compared, in any
// environment. On a real PostgreSQL. Fake: the embeddings, and the steps of re-keying, one at a time.
import { env } from 'cloudflare:workers'
import { afterEach, describe, expect, it, vi } from 'vitest'
import { app } from '../../src/app.ts'
import { countTemplateKeys, masterKeys } from '../../src/db/template-keys.ts'
import type { Env } from '../../src/env.ts'
import { unwrapDataSecret, wrapNewDataSecret } from '../../src/face/protection/data-secret.ts'
import { buildKeyring, type Keyring } from '../../src/face/protection/keyring.ts'
import { fromBase64, toBase64 } from '../../src/face/protection/octets.ts'
import { open } from '../../src/face/protection/sealed-copy.ts'
import { underKey } from '../../src/face/protection/template.ts'
import {
  asAdmin,
  axis,
  countRequests,
  countRows,
  createTenant,
  enroll,
  enrollCrowd,
  randomEmbedding,
  type TestTenant,
} from './tenant.ts'

const MODEL = 'arcface-512@1'

async function search(tenant: TestTenant, embedding: number[]): Promise<string[]> {
  const response = await tenant.request('POST', '/v1/faces/search', { embedding })
  expect(response.status).toBe(200)
  return (await response.json<{ matches: { external_id: string }[] }>()).matches.map(({ external_id }) => external_id)
}

async function verify(tenant: TestTenant, externalId: string, embedding: number[]): Promise<boolean> {
  const response = await tenant.request('POST', '/v1/faces/verify', { external_id: externalId, embedding })
  expect(response.status).toBe(200)
  return (await response.json<{ verified: boolean }>()).verified
}

// == The steps of re-keying, as scripts/database/rekey.ts takes them ==

async function addKey(tenant: TestTenant, version: number): Promise<void> {
  const wrapped = await wrapNewDataSecret(await masterKeys(env), { tenantId: tenant.id, version })
  await asAdmin`
    insert into vault.template_keys (tenant_id, version, wrapped)
    values (${tenant.id}, ${version}, decode(${toBase64(wrapped)}, 'base64'))`
}

async function readKeyring(tenant: TestTenant, version: number): Promise<Keyring> {
  const [row] = await asAdmin`
    select encode(wrapped, 'base64') as wrapped from vault.template_keys where tenant_id = ${tenant.id} and version = ${version}`
  const owner = { tenantId: tenant.id, version }
  const secret = await unwrapDataSecret(await masterKeys(env), owner, fromBase64(String(row?.['wrapped'])))
  return buildKeyring(owner, secret, [MODEL])
}

async function move(tenant: TestTenant, externalId: string, from: number, to: number): Promise<void> {
  const [old, next] = [await readKeyring(tenant, from), await readKeyring(tenant, to)]
  const [row] = await asAdmin`
    select id, encode(sealed, 'base64') as sealed from faces where tenant_id = ${tenant.id} and external_id = ${externalId}`
  const face = { id: String(row?.['id']), externalId, model: MODEL }
  const embedding = await open(old, face, fromBase64(String(row?.['sealed'])))
  if (embedding === 'not opened') throw new Error('the sealed copy does not open')
  const { rotated, sealed } = await underKey(next, face, embedding)
  await asAdmin`
    update faces set embedding = ${JSON.stringify([...rotated])}::vector, key_version = ${to},
      sealed = decode(${toBase64(sealed)}, 'base64')
    where tenant_id = ${tenant.id} and external_id = ${externalId}`
}

async function readVersions(tenant: TestTenant) {
  const rows = await asAdmin`
    select external_id, key_version from faces where tenant_id = ${tenant.id} order by external_id`
  return Object.fromEntries(rows.map((row) => [row['external_id'], row['key_version']]))
}

describe('an isolate', () => {
  it('asks for the keys of a tenant once, in a request that needs them', async () => {
    const tenant = await createTenant()
    // the credential alone
    expect(await countRequests(() => tenant.request('GET', '/v1/faces'))).toMatchObject({ requests: 2 })
    expect(await countRequests(() => enroll(tenant, 'ada', axis(0)))).toMatchObject({ requests: 2 })
    expect(await countRequests(() => enroll(tenant, 'bob', axis(1)))).toEqual({
      requests: 1,
      transactions: 1,
      statements: 3,
    })
    expect(await countRequests(() => search(tenant, axis(0)))).toEqual({ requests: 1, transactions: 1, statements: 2 })
  })

  it('keeps at most 32, and gives up those that nobody has used for the longest time', async () => {
    const tenants: TestTenant[] = []
    for (let index = 0; index < 34; index++) tenants.push(await createTenant())
    const [first, second, ...others] = tenants
    if (!first || !second) throw new RangeError('there are 34')
    await enroll(first, 'ada', axis(0))
    await enroll(second, 'ada', axis(0))
    for (const other of others.slice(0, 30)) await search(other, axis(0))
    expect(countTemplateKeys()).toBe(32)
    // used again, so that the second is now the oldest
    await verify(first, 'ada', axis(0))
    for (const other of others.slice(30)) await search(other, axis(0))
    expect(countTemplateKeys()).toBe(32)
    expect(await countRequests(() => verify(first, 'ada', axis(0)))).toMatchObject({ requests: 1 })
    expect(await countRequests(() => verify(second, 'ada', axis(0)))).toMatchObject({ requests: 2 })
    expect(countTemplateKeys()).toBe(32)
  })

  it('keeps them for a minute, also those that nobody asks for any more', async () => {
    const [tenant, other] = [await createTenant(), await createTenant()]
    await enroll(tenant, 'ada', axis(0))
    await enroll(other, 'ada', axis(0))
    expect(countTemplateKeys()).toBeGreaterThan(1)
    vi.useFakeTimers({ now: Date.now() + 59_000, toFake: ['Date'] })
    try {
      expect(await countRequests(() => verify(tenant, 'ada', axis(0)))).toMatchObject({ requests: 1 })
      vi.setSystemTime(Date.now() + 2_000)
      // the credential is as old as they are
      expect(await countRequests(() => verify(tenant, 'ada', axis(0)))).toMatchObject({ requests: 3 })
      expect(countTemplateKeys()).toBe(1)
    } finally {
      vi.useRealTimers()
    }
  })
})

describe('a tenant that is re-keyed', () => {
  it('finds and verifies everybody at every step, in an isolate that knew the old key only', async () => {
    const tenant = await createTenant()
    const people = Object.fromEntries(['ada', 'bob', 'eve'].map((name) => [name, randomEmbedding()]))
    for (const [name, embedding] of Object.entries(people)) await enroll(tenant, name, embedding)
    const expectAll = async () => {
      for (const [name, embedding] of Object.entries(people)) {
        expect(await search(tenant, embedding)).toEqual([name])
        expect(await verify(tenant, name, embedding)).toBe(true)
        expect(await verify(tenant, name, randomEmbedding())).toBe(false)
      }
    }
    await expectAll()
    await addKey(tenant, 2)
    await expectAll()
    await move(tenant, 'ada', 1, 2)
    await expectAll()
    // whoever comes now is under the new key, and a face that is replaced goes over to it
    people['joe'] = randomEmbedding()
    await enroll(tenant, 'joe', people['joe'])
    await tenant.request('PUT', '/v1/faces/bob', { embedding: people['bob'] })
    expect(await readVersions(tenant)).toEqual({ ada: 2, bob: 2, eve: 1, joe: 2 })
    await expectAll()
    expect((await asAdmin`select destroy_template_key(${tenant.id}, 1) as gone`)[0]).toEqual({ gone: false })
    await move(tenant, 'eve', 1, 2)
    await expectAll()
    expect((await asAdmin`select destroy_template_key(${tenant.id}, 1) as gone`)[0]).toEqual({ gone: true })
    await expectAll()
    expect(await readVersions(tenant)).toEqual({ ada: 2, bob: 2, eve: 2, joe: 2 })
  })

  it('is searched by the sign codes of each key, where a shortlist does not take everybody', async () => {
    const tenant = await createTenant()
    const underOld = await enrollCrowd(tenant, 400, 'old')
    await addKey(tenant, 2)
    const underNew = await enrollCrowd(tenant, 400, 'new')
    // of those whose code is compared under a wrong key only, a quarter is found by chance: not ten
    for (const { externalId, embedding } of [...underOld.slice(0, 10), ...underNew.slice(0, 10)]) {
      expect(await search(tenant, embedding)).toEqual([externalId])
    }
  })

  it('answers a repeated request as before, at every step', async () => {
    const tenant = await createTenant()
    await enroll(tenant, 'ada', axis(0))
    const ask = async (path: string, body: object) => {
      const response = await tenant.request('POST', path, body, { 'Idempotency-Key': path })
      const { latency_ms: _, ...answer } = await response.json<{ latency_ms: number }>()
      return { ...answer, isReplay: response.headers.has('Idempotent-Replayed') }
    }
    const askBoth = async () => [
      await ask('/v1/faces/verify', { external_id: 'ada', embedding: axis(0) }),
      await ask('/v1/faces/search', { embedding: axis(0) }),
    ]
    const expected = (await askBoth()).map((answer) => ({ ...answer, isReplay: true }))
    expect(expected).toMatchObject([{ verified: true }, { matches: [{ external_id: 'ada' }] }])
    await addKey(tenant, 2)
    expect(await askBoth()).toEqual(expected)
    await move(tenant, 'ada', 1, 2)
    expect(await askBoth()).toEqual(expected)
    expect((await asAdmin`select destroy_template_key(${tenant.id}, 1) as gone`)[0]).toEqual({ gone: true })
    expect(await askBoth()).toEqual(expected)
    expect(await countRows(tenant)).toMatchObject({ verifications: 1, identifications: 1, integrity_events: 0 })
  })

  it.each([
    ['a search', (tenant: TestTenant) => tenant.request('POST', '/v1/faces/search', { embedding: axis(0) })],
    [
      'a verification',
      (tenant: TestTenant) => tenant.request('POST', '/v1/faces/verify', { external_id: 'ada', embedding: axis(0) }),
    ],
    [
      'an enrollment',
      (tenant: TestTenant) => tenant.request('POST', '/v1/faces', { external_id: 'bob', embedding: axis(1) }),
    ],
    ['a replacement', (tenant: TestTenant) => tenant.request('PUT', '/v1/faces/ada', { embedding: axis(0) })],
  ])('costs %s two requests more, once, and nothing is recorded twice', async (_, act) => {
    const tenant = await createTenant()
    await enroll(tenant, 'ada', axis(0))
    await search(tenant, axis(0))
    const before = await countRows(tenant)
    await addKey(tenant, 2)
    const cost = await countRequests(async () => expect((await act(tenant)).ok).toBe(true))
    expect(cost.requests).toBe(3)
    const after = await countRows(tenant)
    expect(Number(after['usage_events'])).toBe(Number(before['usage_events']) + 1)
    expect(await countRequests(() => search(tenant, axis(0)))).toMatchObject({ requests: 1 })
  })

  it('has nothing written under a key that is not its newest, whatever an isolate remembers', async () => {
    const tenant = await createTenant()
    await enroll(tenant, 'ada', axis(0))
    await addKey(tenant, 2)
    await enroll(tenant, 'bob', axis(1))
    expect(await readVersions(tenant)).toEqual({ ada: 1, bob: 2 })
  })

  it('is answered 503 in a warm isolate, from the moment that its keys are destroyed', async () => {
    const tenant = await createTenant()
    await enroll(tenant, 'ada', axis(0))
    await asAdmin`
      update vault.template_keys set wrapped = null, destroyed_at = now() where tenant_id = ${tenant.id}`
    for (const [method, path, body] of [
      ['POST', '/v1/faces/verify', { external_id: 'ada', embedding: axis(0) }],
      ['POST', '/v1/faces/search', { embedding: axis(0) }],
      ['POST', '/v1/faces', { external_id: 'bob', embedding: axis(1) }],
      ['PUT', '/v1/faces/ada', { embedding: axis(1) }],
    ] as const) {
      const response = await tenant.request(method, path, body)
      expect(response.status).toBe(503)
      expect(await response.json()).toMatchObject({
        code: 'NOT_CONFIGURED',
        detail: 'The operator must give the tenant a template key.',
      })
    }
    expect(await countRows(tenant)).toMatchObject({ faces: 1, verifications: 0, identifications: 0, usage_events: 1 })
  })
})

describe('without the master key', () => {
  const secret = toBase64(new Uint8Array(32).fill(7))

  // the imported keys are the isolate's: the next test file has an isolate of its own, the next test has not
  afterEach(() => masterKeys(env))

  async function ask(changes: Partial<Env>, tenant: TestTenant): Promise<Response> {
    return app.request(
      '/v1/faces',
      {
        method: 'POST',
        headers: { Authorization: `Bearer ${tenant.key}`, 'Content-Type': 'application/json' },
        body: JSON.stringify({ external_id: 'ada', embedding: axis(0) }),
      },
      { ...env, ...changes },
    )
  }

  it.each<[string, string | undefined, string, string]>([
    ['none', undefined, 'dev', 'The operator must set the secret TEMPLATE_MASTER_KEYS.'],
    ['an empty one', '', 'dev', 'The operator must set the secret TEMPLATE_MASTER_KEYS.'],
    ['no number', secret, 'dev', 'base64 of 32 bytes: key 1 is not'],
    ['a short one', '1:AAAA', 'dev', 'base64 of 32 bytes: key 1 is not'],
    ['a second one that is not one', `1:${secret},2`, 'dev', 'base64 of 32 bytes: key 2 is not'],
    ['a number of three bytes', `65536:${secret}`, 'dev', 'base64 of 32 bytes: key 1 is not'],
    ['two of one number', `1:${secret},1:${secret}`, 'dev', 'it has two keys of the number 1'],
    ['one of development, in production', `65535:${secret}`, 'production', 'take the development key out'],
    [
      'one of development beside another, in staging',
      `1:${secret},65280:${secret}`,
      'staging',
      'take the development key',
    ],
    ['one of development, in an environment without a name', `65535:${secret}`, '', 'take the development key out'],
    ['another', `1:${secret}`, 'production', 'do not open the template key'],
    ['another of the same number', `65535:${secret}`, 'dev', 'do not open the template key'],
  ])('a face is refused with 503 and nothing is written: %s', async (_, text, environment, words) => {
    const tenant = await createTenant()
    // exactOptionalPropertyTypes tells a missing secret from one that is undefined; the Worker does not
    const changes = { TEMPLATE_MASTER_KEYS: text, ENVIRONMENT: environment } as Partial<Env>
    const response = await ask(changes, tenant)
    expect(response.status).toBe(503)
    const problem = await response.json<{ code: string; detail: string }>()
    expect(problem).toMatchObject({ code: 'NOT_CONFIGURED', detail: expect.stringContaining(words) })
    expect(JSON.stringify(problem)).not.toContain(secret)
    expect(await countRows(tenant)).toMatchObject({ faces: 0, usage_events: 0 })
    // and with the right one it is taken
    expect((await ask({}, tenant)).status).toBe(201)
  })

  it('the service is not ready', async () => {
    const without = { ...env } as Env
    delete without.TEMPLATE_MASTER_KEYS
    const response = await app.request('/ready', {}, without)
    expect(response.status).toBe(503)
    expect(await response.json()).toMatchObject({ code: 'NOT_CONFIGURED' })
    expect((await app.request('/ready', {}, env)).status).toBe(200)
  })
})

describe('the vault', () => {
  it("shows a tenant's login its own wrapped keys, through the function, and no others", async () => {
    const [tenant, rival] = [await createTenant(), await createTenant()]
    await addKey(rival, 2)
    await search(tenant, axis(0))
    // as the Worker's own login, inside the tenant
    const { neon } = await import('@neondatabase/serverless')
    const sql = neon(env.DATABASE_URL)
    const inside = async (statement: ReturnType<typeof sql>) =>
      (await sql.transaction([sql`select set_config('app.current_tenant_id', ${tenant.id}, true)`, statement]))[1]
    expect(await inside(sql`select version from list_template_keys()`)).toEqual([{ version: 1 }])
    await expect(inside(sql`select * from vault.template_keys`)).rejects.toThrow('permission denied for schema vault')
    await expect(sql`select version from list_template_keys()`).rejects.toThrow('no tenant has been entered')
    await expect(inside(sql`select destroy_template_key(${tenant.id}, 1)`)).rejects.toThrow('permission denied')
    await expect(inside(sql`select hold_template_key(2)`)).rejects.toThrow('have changed')
    await expect(inside(sql`select require_template_keys('{2}')`)).rejects.toThrow('have changed')
    expect(await inside(sql`select require_template_keys('{1,2}') as known`)).toEqual([{ known: true }])
  })
})
