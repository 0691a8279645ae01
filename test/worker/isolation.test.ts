// Proves that a tenant cannot see that another exists: through the API, and as the Worker's own login
// with any SQL at all. On a real PostgreSQL with row-level security. Fake: the embeddings.

import { env } from 'cloudflare:workers'
import { type NeonDbError, neon } from '@neondatabase/serverless'
import { beforeAll, describe, expect, it } from 'vitest'
import { app } from '../../src/app.ts'
import { asAdmin, axis, countRows, createTenant, enroll, randomEmbedding, type TestTenant } from './tenant.ts'

const asApp = neon(env.DATABASE_URL)
const enter = (tenantId: string) => asApp`select set_config('app.current_tenant_id', ${tenantId}, true)`

let victim: TestTenant
let rival: TestTenant
let victimVerification: string
let tenantTables: string[]

beforeAll(async () => {
  victim = await createTenant()
  rival = await createTenant()
  await enroll(victim, 'ada', axis(0))
  await enroll(rival, 'grace', axis(1))
  const decision = await victim.request('POST', '/v1/faces/verify', { external_id: 'ada', embedding: axis(0) })
  victimVerification = (await decision.json<{ verification_id: string }>()).verification_id
  await victim.request('POST', '/v1/faces/search', { embedding: axis(0) })
  const tables = await asAdmin`
    select c.relname as name from pg_class c
    where c.relnamespace = 'public'::regnamespace and c.relkind in ('r', 'p') and c.relname <> 'schema_migrations'`
  tenantTables = tables.map((row) => String(row['name']))
})

/** An answer without what differs between any two requests. */
async function comparable(response: Response): Promise<unknown> {
  const text = await response.text()
  const headers = Object.fromEntries([...response.headers].filter(([name]) => name !== 'x-request-id'))
  return { status: response.status, headers, text: text.replace(/"request_id":"[^"]*"/, '') }
}

describe('through the API', () => {
  it.each([
    ['GET', '/v1/faces/{id}', undefined],
    ['PATCH', '/v1/faces/{id}', { metadata: { planted: true } }],
    ['DELETE', '/v1/faces/{id}', undefined],
  ] as const)("%s %s answers for another tenant's face what it answers for none", async (method, path, body) => {
    const before = await countRows(victim)
    const theirs = await rival.request(method, path.replace('{id}', 'ada'), body)
    const nobodys = await rival.request(method, path.replace('{id}', 'eve'), body)
    expect(theirs.status).toBe(404)
    expect(await comparable(theirs)).toEqual(await comparable(nobodys))
    expect(await countRows(victim)).toEqual(before)
    expect(await (await victim.request('GET', '/v1/faces/ada')).json()).toMatchObject({ metadata: {} })
  })

  it("verifies nobody against another tenant's face", async () => {
    const claim = (external_id: string) =>
      rival.request('POST', '/v1/faces/verify', { external_id, embedding: axis(0) }).then(comparable)
    const theirs = await claim('ada')
    expect(theirs).toMatchObject({ status: 404 })
    expect(theirs).toEqual(await claim('eve'))
  })

  it("finds only one's own people, and counts only them", async () => {
    const search = await rival.request('POST', '/v1/faces/search', { embedding: axis(0), max_results: 20 })
    expect(await search.json()).toMatchObject({ matches: [], faces_searched: 1 })
  })

  it('reads nothing of another tenant in any list', async () => {
    const stranger = await createTenant()
    for (const path of ['/v1/faces', '/v1/verifications', '/v1/identifications']) {
      expect(await (await stranger.request('GET', path)).json()).toEqual({
        data: [],
        has_more: false,
        next_cursor: null,
      })
    }
    expect(await (await stranger.request('GET', '/v1/usage')).json()).toMatchObject({
      registrations: 0,
      verifications: 0,
      identifications: 0,
      deletions: 0,
    })
  })

  it("answers for another tenant's verification what it answers for none", async () => {
    const theirs = await rival.request('GET', `/v1/verifications/${victimVerification}`)
    const nobodys = await rival.request('GET', `/v1/verifications/${crypto.randomUUID()}`)
    expect(theirs.status).toBe(404)
    expect(await comparable(theirs)).toEqual(await comparable(nobodys))
    expect((await victim.request('GET', `/v1/verifications/${victimVerification}`)).status).toBe(200)
  })

  it('lets two tenants enroll the same external_id, and keeps the two apart', async () => {
    await enroll(rival, 'ada', axis(7))
    const verify = async (tenant: TestTenant, embedding: number[]) => {
      const response = await tenant.request('POST', '/v1/faces/verify', { external_id: 'ada', embedding })
      return (await response.json<{ verified: boolean }>()).verified
    }
    expect(await verify(victim, axis(0))).toBe(true)
    expect(await verify(victim, axis(7))).toBe(false)
    expect(await verify(rival, axis(7))).toBe(true)
    expect(await verify(rival, axis(0))).toBe(false)

    expect((await rival.request('DELETE', '/v1/faces/ada')).status).toBe(204)
    expect((await victim.request('GET', '/v1/faces/ada')).status).toBe(200)
    const audit = await victim.request('GET', '/v1/verifications?external_id=ada')
    expect((await audit.json<{ data: unknown[] }>()).data.length).toBeGreaterThan(0)
  })

  it("refuses another tenant's cursor", async () => {
    const tenants = [await createTenant(), await createTenant()]
    const cursors: string[] = []
    for (const tenant of tenants) {
      await enroll(tenant, 'a', axis(0))
      await enroll(tenant, 'b', axis(1))
      const page = await (await tenant.request('GET', '/v1/faces?limit=1')).json<{ next_cursor: string }>()
      cursors.push(page.next_cursor)
    }
    const [own, theirs] = cursors
    expect((await tenants[0]?.request('GET', `/v1/faces?limit=1&cursor=${own}`))?.status).toBe(200)
    expect((await tenants[0]?.request('GET', `/v1/faces?limit=1&cursor=${theirs}`))?.status).toBe(422)
  })
})

describe("as the Worker's login, with any SQL", () => {
  it('sees no table at all, not even as empty, before it has entered a tenant', async () => {
    expect(tenantTables.length).toBeGreaterThanOrEqual(8)
    for (const table of tenantTables) {
      await expect(asApp.query(`select * from ${table}`), table).rejects.toMatchObject({ code: '42501' })
    }
  })

  it('sees only the rows of the tenant that it has entered, without naming it', async () => {
    for (const table of tenantTables) {
      if (table === 'api_keys') continue // not readable at all, the next test says
      const [, rows] = await asApp.transaction([enter(rival.id), asApp.query(`select * from ${table}`)])
      for (const row of rows ?? []) expect(row['tenant_id'] ?? row['id'], table).toBe(rival.id)
    }
    const [, faces] = await asApp.transaction([enter(rival.id), asApp`select external_id from faces`])
    expect(faces).toEqual([{ external_id: 'grace' }])
  })

  it('cannot read API keys, change the audit or the metering, or make a tenant', async () => {
    const refused = [
      'select hash from api_keys',
      'update verifications set verified = true',
      'delete from verifications',
      'update identifications set identified = true',
      'delete from identifications',
      'delete from usage_events',
      "update usage_events set kind = 'deletion'",
      'update usage_records set verifications = 0',
      'insert into face_counts (tenant_id, change) values (current_tenant_id(), 1)',
      "insert into tenants (name) values ('mine')",
      "update tenants set settings = '{}'",
      "select create_tenant('mine', 'test')",
      'select roll_up_usage(1)',
      'truncate faces',
      'create table planted ()',
      'create temp table planted ()',
      'set row_security = off; select 1',
      // the embedded database has no log-in: there, the endpoint enters the role from a superuser's session
      ...(env.TEST.isNative ? ['set role rekko_owner', 'set session authorization rekko_owner'] : []),
    ]
    for (const statement of refused) {
      const outcome = await asApp.transaction([enter(rival.id), asApp.query(statement)]).then(
        () => 'allowed',
        (error: NeonDbError) => error.code,
      )
      expect([statement, outcome]).toEqual([statement, expect.stringMatching(/^(42501|42601)$/)])
    }
  })

  it('cannot plant a row in another tenant, move one there, or take one from there', async () => {
    const plant = asApp`
      insert into faces (tenant_id, external_id, embedding, model)
      values (${victim.id}, 'planted', ${JSON.stringify(randomEmbedding())}::vector, 'arcface-512@1')`
    await expect(asApp.transaction([enter(rival.id), plant])).rejects.toMatchObject({ code: '42501' })
    for (const table of ['verifications', 'identifications', 'usage_events'] as const) {
      const columns: Record<typeof table, string> = {
        verifications: `(tenant_id, external_id, verified, confidence, threshold, model, request_id)
                        values ($1, 'planted', true, 1, 0.675, 'm', 'r')`,
        identifications: `(tenant_id, identified, threshold, model, faces_searched, faces_matched, request_id)
                          values ($1, true, 0.69, 'm', 1, 1, 'r')`,
        usage_events: "(tenant_id, kind) values ($1, 'deletion')",
      }
      const insert = asApp.query(`insert into ${table} ${columns[table]}`, [victim.id])
      await expect(asApp.transaction([enter(rival.id), insert]), table).rejects.toMatchObject({ code: '42501' })
    }
    const before = await countRows(victim)
    await asApp.transaction([enter(rival.id), asApp`delete from faces where tenant_id = ${victim.id}`])
    await asApp.transaction([enter(rival.id), asApp`update faces set metadata = '{"planted": true}'`])
    expect(await countRows(victim)).toEqual(before)
    expect(await (await victim.request('GET', '/v1/faces/ada')).json()).toMatchObject({ metadata: {} })
  })

  it('keeps the tenant for one transaction only, in a session that others use next', async () => {
    await asApp.transaction([enter(victim.id), asApp`select 1`])
    // without the tenant the next user of the session meets an error, never rows and never a cast of ''
    for (let attempt = 0; attempt < 20; attempt++) {
      await expect(asApp`select external_id from faces`).rejects.toMatchObject({ code: '42501' })
    }
  })

  it('leaves no tenant behind in the session after a request of the API', async () => {
    for (let attempt = 0; attempt < 20; attempt++) {
      expect((await victim.request('GET', '/v1/faces')).status).toBe(200)
      await expect(asApp`select external_id from faces`).rejects.toMatchObject({ code: '42501' })
    }
  })

  it.each(['not a uuid', '{00000000-0000-4000-8000-000000000000}', 'AAAAAAAA-0000-4000-8000-000000000000', ' '])(
    'does not take "%s" for a tenant',
    async (tenant) => {
      await expect(asApp.transaction([enter(tenant), asApp`select 1 from faces`])).rejects.toMatchObject({
        code: '42501',
      })
    },
  )

  it('enters no tenant with a key of another one', async () => {
    const [key] = await asAdmin`select encode(hash, 'hex') as hash from api_keys where tenant_id = ${rival.id}`
    const enterWith = (tenantId: string) =>
      asApp`select enter_tenant_by_api_key(${tenantId}::uuid, decode(${key?.['hash']}, 'hex'), 'faces:read')`
    await expect(asApp.transaction([enterWith(victim.id)])).rejects.toMatchObject({ code: 'RK401' })
    await expect(asApp.transaction([enterWith(rival.id)])).resolves.toBeDefined()
  })
})

describe('GET /ready', () => {
  const ready = (url: string) => app.request('/ready', {}, { ...env, DATABASE_URL: url })

  it('is ready with the login of the Worker', async () => {
    const response = await ready(env.DATABASE_URL)
    expect(response.status).toBe(200)
    expect(await response.json()).toEqual({ status: 'ready' })
  })

  it('is not ready with a login that could bypass row-level security, or is not the one', async () => {
    const response = await ready(env.TEST.adminUrl)
    expect(response.status).toBe(503)
    expect(await response.json()).toMatchObject({
      code: 'NOT_READY',
      detail: expect.stringContaining('role, row_level_security'),
    })
    const jobs = await ready(env.JOBS_DATABASE_URL)
    expect(jobs.status).toBe(503)
    expect(await jobs.json()).toMatchObject({ code: 'NOT_READY' })
  })

  it('is not ready when the login has become able to bypass the policies', async () => {
    try {
      await asAdmin`alter role rekko_app bypassrls`
      expect((await ready(env.DATABASE_URL)).status).toBe(503)
    } finally {
      await asAdmin`alter role rekko_app nobypassrls`
    }
    try {
      await asAdmin`grant rekko_owner to rekko_app`
      expect((await ready(env.DATABASE_URL)).status).toBe(503)
    } finally {
      await asAdmin`revoke rekko_owner from rekko_app`
    }
    expect((await ready(env.DATABASE_URL)).status).toBe(200)
  })

  it.each(['no force row level security', 'disable row level security'])(
    'is not ready when a table has %s',
    async (change) => {
      const [undo] = change.startsWith('no') ? ['force row level security'] : ['enable row level security']
      try {
        await asAdmin.query(`alter table faces ${change}`)
        expect((await ready(env.DATABASE_URL)).status).toBe(503)
      } finally {
        await asAdmin.query(`alter table faces ${undo}`)
      }
      expect((await ready(env.DATABASE_URL)).status).toBe(200)
    },
  )

  it.each(['version = 1', 'dirty = true'])('is not ready when schema_migrations has %s', async (change) => {
    const [before] = await asAdmin`select version, dirty from schema_migrations`
    try {
      await asAdmin.query(`update schema_migrations set ${change}`)
      expect((await ready(env.DATABASE_URL)).status).toBe(503)
    } finally {
      await asAdmin`update schema_migrations set version = ${before?.['version']}, dirty = ${before?.['dirty']}`
    }
  })

  it('is not configured without the pepper, or without the database', async () => {
    for (const missing of [{ API_KEY_PEPPER: '' }, { DATABASE_URL: '' }]) {
      const response = await app.request('/ready', {}, { ...env, ...missing })
      expect(response.status).toBe(503)
      expect(await response.json()).toMatchObject({ code: 'NOT_CONFIGURED' })
    }
  })

  it('answers health without a database', async () => {
    const response = await app.request('/health', {}, { ...env, NEON_FETCH_ENDPOINT: 'http://127.0.0.1:9/sql' })
    expect(await response.json()).toEqual({ status: 'ok' })
  })
})
