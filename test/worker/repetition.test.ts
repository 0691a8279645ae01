// Proves that the Worker repeats a request to the database where that is safe and only there: an answer that was lost, a
// batch that was carried out twice and an endpoint that answers nonsense leave one act, one audit row and one metered event.
// On a real PostgreSQL. Fake: what happens on the way to the local Neon endpoint, and the embeddings, which are axes.
import { env } from 'cloudflare:workers'
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest'
import { asAdmin, axis, createTenant, enroll, type TestTenant } from './tenant.ts'

type Send = () => Promise<Response>
/** What becomes of the request that is sent as the n-th, from 1. */
type Way = (send: Send, count: number) => Promise<Response>

const realFetch = fetch

/** Of what the Worker's login sends from now on; the tests' own requests go as ever. */
function onTheWay(way: Way): { sent: () => number } {
  let count = 0
  vi.stubGlobal('fetch', (url: string, init: RequestInit) => {
    const isWorkers = new Headers(init.headers).get('Neon-Connection-String')?.includes('//rekko_app:')
    if (!isWorkers) return realFetch(url, init)
    count++
    return way(() => realFetch(url, init), count)
  })
  return { sent: () => count }
}

beforeEach(() => {
  vi.spyOn(console, 'error').mockImplementation(() => {})
})
afterEach(() => {
  vi.unstubAllGlobals()
  vi.restoreAllMocks()
})

const lost = () => Promise.reject(new TypeError('Network connection lost.'))
const answered = (status: number, body: string) => Promise.resolve(new Response(body, { status }))
const sqlState = (code: string) => answered(400, JSON.stringify({ message: 'words', code }))
/** Carries it out first. */
const carriedOut =
  (way: (response: Response) => Promise<Response>): Way =>
  async (send) =>
    way(await send())
const swapped = carriedOut(async (response) => {
  const { results } = await response.json<{ results: unknown[] }>()
  return Response.json({ results: results.toReversed() })
})

type Field = { name: string }
type Result = { fields: Field[]; rows: unknown[][] }

function withResults(change: (result: Result) => Result): Way {
  return carriedOut(async (response) => {
    const { results } = await response.json<{ results: Result[] }>()
    return Response.json({ results: results.map(change) })
  })
}
function withRows(change: (row: unknown[]) => unknown[]): Way {
  return withResults((result) => ({ ...result, rows: result.rows.map(change) }))
}
function withCells(change: () => unknown): Way {
  return withRows((row) => row.map(change))
}
function withFields(change: (field: Field) => Field): Way {
  return withResults((result) => ({ ...result, fields: result.fields.map(change) }))
}

/** Only the first is met. */
const once =
  (way: Way): Way =>
  (send, count) =>
    count === 1 ? way(send, count) : send()

const HARMLESS: [string, Way][] = [
  ['is lost before it arrives', lost],
  ['is lost when it was carried out', carriedOut(lost)],
  ['meets a gateway that answers 502', () => answered(502, '<html>Bad Gateway</html>')],
  ['meets an endpoint that answers 500', () => answered(500, '{"message":"Control plane request failed"}')],
  ['is told 429', () => answered(429, '{"message":"Too many connections attempts"}')],
  ['was carried out and is told 507', carriedOut(() => answered(507, '{"message":"response is too large"}'))],
  ['was carried out and is told 400 without an SQLSTATE', carriedOut(() => answered(400, '{"message":"lost"}'))],
  ['was carried out and is answered a page', carriedOut(() => answered(200, '<html>hello</html>'))],
  ['was carried out and is answered half', carriedOut(async (r) => answered(200, (await r.text()).slice(0, 100)))],
  ['was carried out and is answered null', carriedOut(() => answered(200, 'null'))],
  ['was carried out and is answered another shape', carriedOut(() => answered(200, '{"results":"all of them"}'))],
  ['was carried out and is answered numbers for texts', withCells(() => 1e9)],
  ['was carried out and is answered objects for texts', withCells(() => ({}))],
  ['was carried out and is answered columns without a type', withFields(({ name }) => ({ name }))],
  ['was carried out and is answered rows that are too short', withRows((row) => row.slice(1))],
  ['was carried out and is answered one result less', carriedOut(() => answered(200, '{"results":[]}'))],
  ['was carried out and is answered the results the other way round', swapped],
  ['is carried out twice', async (send) => (await send()) && send()],
  ['is not serializable', () => sqlState('40001')],
  ['is in a deadlock', () => sqlState('40P01')],
  ['meets a shutdown', () => sqlState('57P01')],
  ['meets a start', () => sqlState('57P03')],
  ['finds no connection', () => sqlState('53300')],
]

const ACTS = {
  enroll: ['POST', '/v1/faces', { external_id: 'grace', embedding: axis(1) }, 201],
  replace: ['PUT', '/v1/faces/ada', { embedding: axis(1) }, 200],
  verify: ['POST', '/v1/faces/verify', { external_id: 'ada', embedding: axis(0) }, 200],
  search: ['POST', '/v1/faces/search', { embedding: axis(0) }, 200],
  erase: ['DELETE', '/v1/faces/ada', undefined, 204],
  'make a key': ['POST', '/v1/api-keys', { name: 'gate', scopes: ['verify'] }, 201],
} as const

/** What a tenant has, and what was noted and metered of it. */
async function countActs({ id }: TestTenant): Promise<unknown> {
  const [row] = await asAdmin`
    select
      (select count(*) from faces where tenant_id = ${id}) as faces,
      (select sum(change) from face_counts where tenant_id = ${id}) as counted,
      (select count(*) from verifications where tenant_id = ${id}) as verifications,
      (select count(*) from identifications where tenant_id = ${id}) as identifications,
      (select count(*) from api_keys where tenant_id = ${id}) as api_keys,
      (select count(*) from admin_events where tenant_id = ${id}) as admin_events,
      (select jsonb_agg(kind order by kind) from usage_events where tenant_id = ${id}) as usage`
  return row
}

async function createBusyTenant(): Promise<TestTenant> {
  const tenant = await createTenant()
  await enroll(tenant, 'ada', axis(0))
  return tenant
}

/** An isolate repeats one request in ten. @param repetitions that it may make after this */
async function saveUp(repetitions: number): Promise<void> {
  for (let count = 0; count < repetitions; count++) {
    await Promise.all(Array.from({ length: 10 }, () => reader.request('GET', '/v1/tenant')))
  }
}

const reader = await createTenant()

/** What is left of each act where nothing happens on the way. */
const undisturbed = Object.fromEntries(
  await Promise.all(
    Object.entries(ACTS).map(async ([name, [method, path, body]]) => {
      const tenant = await createBusyTenant()
      await tenant.request(method, path, body)
      return [name, await countActs(tenant)] as const
    }),
  ),
)

describe.each(Object.entries(ACTS))('%s', (name, [method, path, body, status]) => {
  it.each(HARMLESS)('is done once when the request %s', async (_, way) => {
    const tenant = await createBusyTenant()
    await saveUp(1)
    const { sent } = onTheWay(once(way))
    const response = await tenant.request(method, path, body)
    expect(response.status).toBe(status)
    // the client has not asked twice
    expect(response.headers.get('Idempotent-Replayed')).toBeNull()
    expect(sent()).toBe(2)
    expect(await countActs(tenant)).toEqual(undisturbed[name])
  })

  if (!env.TEST.isNative)
    console.log('skipped: the embedded database has one session, so nothing is still being carried out')
  it.skipIf(!env.TEST.isNative)('is done once when the first attempt is lost while it is carried out', async () => {
    const tenant = await createBusyTenant()
    await saveUp(2)
    const lock = asAdmin.transaction([
      asAdmin`lock table idempotent_requests in share row exclusive mode`,
      asAdmin`select pg_sleep(1)`,
    ])
    await new Promise((resolve) => setTimeout(resolve, 200))
    const { sent } = onTheWay((send, count) => {
      if (count > 1) return send()
      const first = send()
      first.catch(() => {})
      return Promise.race([first, new Promise<never>((_, reject) => setTimeout(reject, 150, new TypeError('lost')))])
    })
    const response = await tenant.request(method, path, body)
    await lock
    expect(response.status).toBe(status)
    expect(response.headers.get('Idempotent-Replayed')).toBeNull()
    expect(sent()).toBeGreaterThan(1)
    expect(await countActs(tenant)).toEqual(undisturbed[name])
  })

  it('is said to be a replay when the client asked twice, and not when the Worker did', async () => {
    const tenant = await createBusyTenant()
    await saveUp(1)
    onTheWay(once(carriedOut(lost)))
    const response = await tenant.request(method, path, body, { 'Idempotency-Key': 'k' })
    expect(response.status).toBe(status)
    expect(response.headers.get('Idempotent-Replayed')).toBeNull()
    // and is one when the client asked before, whatever is lost on the way now
    vi.unstubAllGlobals()
    await saveUp(1)
    onTheWay(once(lost))
    const again = await tenant.request(method, path, body, { 'Idempotency-Key': 'k' })
    expect(again.status).toBe(status)
    expect(again.headers.get('Idempotent-Replayed')).toBe('true')
  })

  it('is answered 503 after three attempts, with Retry-After, and was done once at most', async () => {
    const tenant = await createBusyTenant()
    await saveUp(2)
    const { sent } = onTheWay(carriedOut(lost))
    const response = await tenant.request(method, path, body, { 'Idempotency-Key': 'k' })
    expect(response.status).toBe(503)
    expect(response.headers.get('Retry-After')).toBe('2')
    expect(await response.json()).toMatchObject({ code: 'DATABASE_UNAVAILABLE' })
    expect(sent()).toBe(3)
    vi.unstubAllGlobals()
    // the client asks again, and has its answer
    const again = await tenant.request(method, path, body, { 'Idempotency-Key': 'k' })
    expect(again.status).toBe(status)
    expect(again.headers.get('Idempotent-Replayed')).toBe('true')
    expect(await countActs(tenant)).toEqual(undisturbed[name])
  })
})

it('is 503 where a face is gone that the lost answer has named: the client knows of no earlier request', async () => {
  const tenant = await createBusyTenant()
  await saveUp(1)
  onTheWay(async (send, count) => {
    if (count > 1) {
      await asAdmin`delete from faces where tenant_id = ${tenant.id}`
      return send()
    }
    await send()
    return lost()
  })
  const body = { external_id: 'ada', embedding: axis(0) }
  const response = await tenant.request('POST', '/v1/faces/verify', body)
  expect(response.status).toBe(503)
  expect(await response.json()).toMatchObject({ code: 'DATABASE_UNAVAILABLE' })
  vi.unstubAllGlobals()
  expect((await tenant.request('POST', '/v1/faces/verify', body)).status).toBe(404)
})

it.each([
  ['nothing', null],
  ['a word', 'neither'],
])('is 503, and soon over, when every cell of an answer is %s', async (_, cell) => {
  const tenant = await createTenant()
  // an isolate that has not seen the credential, and one that has
  for (const path of ['/v1/faces', '/v1/tenant']) {
    await saveUp(2)
    onTheWay(withCells(() => cell))
    expect((await tenant.request('GET', path)).status).toBe(503)
    vi.unstubAllGlobals()
    expect((await tenant.request('GET', path)).status).toBe(200)
  }
})

describe('what is not repeated', () => {
  it.each(['23505', '23514', '42501', '22P02', '57014', '53100', 'XX000'])(
    'is an answer of SQLSTATE %s',
    async (code) => {
      const tenant = await createBusyTenant()
      // an isolate that has seen the credential
      await tenant.request('GET', '/v1/faces')
      const { sent } = onTheWay(() => sqlState(code))
      expect((await tenant.request('GET', '/v1/faces')).status).toBeGreaterThanOrEqual(500)
      expect(sent()).toBe(1)
    },
  )

  it('is what begins too late', async () => {
    const tenant = await createBusyTenant()
    await tenant.request('GET', '/v1/faces')
    const { sent } = onTheWay(async () => {
      vi.setSystemTime(Date.now() + 5_000)
      return lost()
    })
    vi.useFakeTimers({ toFake: ['Date'] })
    expect((await tenant.request('GET', '/v1/faces')).status).toBe(503)
    vi.useRealTimers()
    expect(sent()).toBe(1)
  })

  it('is more than one in ten, of very many', async () => {
    const tenant = await createBusyTenant()
    await tenant.request('GET', '/v1/faces')
    const { sent } = onTheWay(() => sqlState('53300'))
    const asked = 100
    await Promise.all(Array.from({ length: asked }, () => tenant.request('GET', '/v1/faces')))
    const repeated = sent() - asked
    expect(repeated).toBeGreaterThan(0)
    expect(repeated).toBeLessThanOrEqual(50 + asked / 10)
  })
})
