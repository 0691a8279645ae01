// Proves that failed verifications of one person are limited, by the hour and by the day, with the audit as the
// only count; on a real PostgreSQL. Fake: the embeddings, which are axes, and the past, which is made by moving
// audit rows.
import { env } from 'cloudflare:workers'
import { describe, expect, it } from 'vitest'
import { asAdmin, axis, countRequests, countRows, createTenant, enroll, type TestTenant } from './tenant.ts'

const verify = (tenant: TestTenant, externalId: string, index: number) =>
  tenant.request('POST', '/v1/faces/verify', { external_id: externalId, embedding: axis(index) })

/** A tenant with its own budget, before any isolate has cached its settings; ada is axis 0. */
async function createCarefulTenant(perHour: number, perDay: number): Promise<TestTenant> {
  const tenant = await createTenant()
  const settings = { failed_verifications_per_hour: perHour, failed_verifications_per_day: perDay }
  await asAdmin`update tenants set settings = ${JSON.stringify(settings)}::jsonb where id = ${tenant.id}`
  await enroll(tenant, 'ada', axis(0))
  return tenant
}

async function fail(tenant: TestTenant, times: number): Promise<void> {
  for (let attempt = 0; attempt < times; attempt++) {
    const response = await verify(tenant, 'ada', 1)
    expect(response.status).toBe(200)
    expect(await response.json()).toMatchObject({ verified: false })
  }
}

/** Makes every decision of the tenant that much older. */
async function pass(tenant: TestTenant, interval: string): Promise<void> {
  await asAdmin`update verifications set created_at = created_at - ${interval}::interval where tenant_id = ${tenant.id}`
}

describe('failed verifications of one person', () => {
  it('are answered up to the limit; beyond it nothing is decided, recorded or billed, for the right face either', async () => {
    const tenant = await createCarefulTenant(3, 500)
    await fail(tenant, 3)
    const before = await countRows(tenant)
    for (const index of [1, 0]) {
      const response = await verify(tenant, 'ada', index)
      expect(response.status).toBe(429)
      expect(await response.json()).toMatchObject({ code: 'TOO_MANY_ATTEMPTS' })
      const wait = Number(response.headers.get('Retry-After'))
      expect(wait).toBeGreaterThan(3500)
      expect(wait).toBeLessThanOrEqual(3600)
    }
    expect(await countRows(tenant)).toEqual(before)
  })

  it('are counted for that person and that tenant alone', async () => {
    const [tenant, rival] = [await createCarefulTenant(1, 500), await createCarefulTenant(1, 500)]
    await enroll(tenant, 'grace', axis(2))
    await fail(tenant, 1)
    expect((await verify(tenant, 'ada', 0)).status).toBe(429)
    expect((await verify(tenant, 'grace', 2)).status).toBe(200)
    expect((await verify(rival, 'ada', 0)).status).toBe(200)
  })

  it('are forgiven one by one, as each becomes an hour old', async () => {
    const tenant = await createCarefulTenant(2, 500)
    await fail(tenant, 1)
    await pass(tenant, '40 minutes')
    await fail(tenant, 1)
    const refused = await verify(tenant, 'ada', 0)
    expect(refused.status).toBe(429)
    // the older one is forgiven in twenty minutes
    expect(Number(refused.headers.get('Retry-After'))).toBeGreaterThan(19 * 60)
    expect(Number(refused.headers.get('Retry-After'))).toBeLessThanOrEqual(20 * 60)
    await pass(tenant, '19 minutes')
    expect((await verify(tenant, 'ada', 0)).status).toBe(429)
    await pass(tenant, '1 minute')
    expect((await verify(tenant, 'ada', 0)).status).toBe(200)
    await fail(tenant, 1)
    expect((await verify(tenant, 'ada', 0)).status).toBe(429)
  })

  it('are limited by the day too', async () => {
    const tenant = await createCarefulTenant(2, 3)
    await fail(tenant, 2)
    await pass(tenant, '2 hours')
    await fail(tenant, 1)
    const refused = await verify(tenant, 'ada', 1)
    expect(refused.status).toBe(429)
    expect(Number(refused.headers.get('Retry-After'))).toBeGreaterThan(21 * 3600)
    await pass(tenant, '22 hours')
    expect((await verify(tenant, 'ada', 1)).status).toBe(200)
  })

  it('are not forgiven by a match in between, and matches are not counted', async () => {
    const tenant = await createCarefulTenant(2, 500)
    await fail(tenant, 1)
    for (let visit = 0; visit < 4; visit++) expect((await verify(tenant, 'ada', 0)).status).toBe(200)
    await fail(tenant, 1)
    expect((await verify(tenant, 'ada', 0)).status).toBe(429)
  })

  it('are ten an hour and forty a day where a tenant says nothing', async () => {
    const tenant = await createTenant()
    await enroll(tenant, 'ada', axis(0))
    for (let hour = 0; hour < 4; hour++) {
      await fail(tenant, 10)
      expect((await verify(tenant, 'ada', 1)).status).toBe(429)
      await pass(tenant, '61 minutes')
    }
    // the hour is over, the day is not
    expect((await verify(tenant, 'ada', 1)).status).toBe(429)
  })

  it('leave the budget of others alone when the person is not enrolled, and stay an unknown person', async () => {
    const tenant = await createCarefulTenant(1, 500)
    for (let attempt = 0; attempt < 3; attempt++) expect((await verify(tenant, 'eve', 1)).status).toBe(404)
  })

  it('that come all at once are let through up to the limit, and no further', async () => {
    const tenant = await createCarefulTenant(5, 500)
    await verify(tenant, 'ada', 0)
    const answers = await Promise.all(Array.from({ length: 24 }, () => verify(tenant, 'ada', 1)))
    expect(answers.filter(({ status }) => status === 200)).toHaveLength(5)
    expect(answers.filter(({ status }) => status === 429)).toHaveLength(19)
    expect(await countRows(tenant)).toMatchObject({ verifications: 6, usage_events: 7 })
  })

  if (!env.TEST.isNative) console.log('skipped: the embedded database has one session, so no attempt is under way')
  it.skipIf(!env.TEST.isNative)('wait for an attempt that is under way, and count it', async () => {
    const tenant = await createCarefulTenant(1, 500)
    // as a verification does it: asked, failed, and not committed yet
    const underWay = asAdmin.transaction([
      asAdmin`select seconds_until_attempt(${tenant.id}, 'ada', 1, 500)`,
      asAdmin`
        insert into verifications (tenant_id, external_id, verified, confidence, threshold, model, request_id)
        values (${tenant.id}, 'ada', false, 0.5, 0.675, 'a model', 'a test')`,
      asAdmin`select pg_sleep(1)`,
    ])
    await new Promise((resolve) => setTimeout(resolve, 300))
    expect((await verify(tenant, 'ada', 1)).status).toBe(429)
    await underWay
    expect(await countRows(tenant)).toMatchObject({ verifications: 1 })
  })

  it('cost no request to the database of their own', async () => {
    const tenant = await createCarefulTenant(1, 500)
    await fail(tenant, 1)
    const cost = await countRequests(() => verify(tenant, 'ada', 1))
    expect(cost).toEqual({ requests: 1, transactions: 1, statements: 2 })
  })
})
