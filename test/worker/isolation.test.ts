// Proves that two tenants live side by side, that no tenant outlives its transaction in a session, and that the
// service is not ready when it could see more. attacks.test.ts has the attacks. On a real PostgreSQL with row-level
// security. Fake: the embeddings and the recognizer.

import { env } from 'cloudflare:workers'
import { neon } from '@neondatabase/serverless'
import { beforeAll, describe, expect, it } from 'vitest'
import { app } from '../../src/app.ts'
import { inBase64, pictureOf } from './picture.ts'
import { asAdmin, axis, createTenant, enroll, type TestTenant } from './tenant.ts'

const asApp = neon(env.DATABASE_URL)
const enter = (tenantId: string) => asApp`select set_config('app.current_tenant_id', ${tenantId}, true)`

let victim: TestTenant
let rival: TestTenant

beforeAll(async () => {
  victim = await createTenant()
  rival = await createTenant()
  await enroll(victim, 'ada', axis(0))
  await enroll(rival, 'grace', axis(1))
})

describe('through the API', () => {
  it("finds only one's own people, and counts only them", async () => {
    const search = await rival.request('POST', '/v1/faces/search', { embedding: axis(0), max_results: 20 })
    expect(await search.json()).toMatchObject({ matches: [], faces_searched: 1 })
  })

  it('reads nothing of another tenant in any list', async () => {
    const stranger = await createTenant()
    expect((await victim.request('POST', '/v1/faces/detect', { image: inBase64(pictureOf(axis(0))) })).status).toBe(200)
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
      analyses: 0,
    })
  })

  it("finds a duplicate only among one's own people, and the audit of the search is one's own", async () => {
    const [strict, other] = [await createTenant(), await createTenant()]
    for (const { id } of [strict, other]) {
      await asAdmin`update tenants set settings = '{"duplicates": "reject"}' where id = ${id}`
    }
    await enroll(strict, 'ada', axis(3))
    const body = { external_id: 'somebody', image: inBase64(pictureOf(axis(3))) }
    expect((await strict.request('POST', '/v1/faces', body)).status).toBe(409)
    expect((await other.request('POST', '/v1/faces', body)).status).toBe(201)
    const searches = async (tenant: TestTenant) =>
      (await (await tenant.request('GET', '/v1/identifications')).json<{ data: unknown[] }>()).data
    expect(await searches(strict)).toMatchObject([{ external_id: 'ada' }])
    expect(await searches(other)).toEqual([])
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
})

describe("a session of the Worker's login", () => {
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

  it('is not configured without the pepper, without the master keys, or without the database', async () => {
    for (const missing of [{ API_KEY_PEPPER: '' }, { TEMPLATE_MASTER_KEYS: '' }, { DATABASE_URL: '' }]) {
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
