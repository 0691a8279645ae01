// Proves that nobody reaches another tenant through the API: attacks 53 to 60, for every operation of
// /openapi.json, so that a new one is attacked unasked or fails for want of a sample. On a real PostgreSQL with
// row-level security. Fake: the embeddings, which are axes.
import { env } from 'cloudflare:workers'
import { beforeAll, describe, expect, it } from 'vitest'
import { app } from '../../src/app.ts'
import { SCOPES } from '../../src/auth/api-key.ts'
import { bodySchema, isOperators, type Operation, operations, resolve } from './openapi-document.ts'
import { asAdmin, axis, comparable, createTenant, enroll, type TestTenant } from './tenant.ts'

/** What a tenant has, under the names of the path parameters that lead to it. */
type Samples = Record<string, string>

interface Stage {
  tenant: TestTenant
  samples: Samples
}

let victim: Stage
let rival: Stage
const tenantOperations = operations.filter((operation) => operation.path.startsWith('/v1/') && !isOperators(operation))

/** Ids that the other side does not have, in the form that each parameter takes. */
const nobodys = (samples: Samples): Samples =>
  Object.fromEntries(
    Object.entries(samples).map(([name, id]) => [name, /^[0-9a-f-]{36}$/.test(id) ? crypto.randomUUID() : `no ${id}`]),
  )

beforeAll(async () => {
  victim = await createStage('Ada Lovelace', 0)
  rival = await createStage('Grace Hopper', 1)
})

/** A tenant with something of everything; each name is its own, so that the other's is unknown to it. */
async function createStage(person: string, index: number): Promise<Stage> {
  const tenant = await createTenant()
  await enroll(tenant, person, axis(index))
  await enroll(tenant, `${person} the second`, axis(index + 10))
  const decision = await tenant.request('POST', '/v1/faces/verify', { external_id: person, embedding: axis(index) })
  const { verification_id } = await decision.json<{ verification_id: string }>()
  await tenant.request('POST', '/v1/faces/verify', { external_id: person, embedding: axis(50) })
  for (const probe of [index, 50]) await tenant.request('POST', '/v1/faces/search', { embedding: axis(probe) })
  const key = await tenant.request('POST', '/v1/api-keys', { name: person, scopes: ['verify'] })
  const { api_key_id } = await key.json<{ api_key_id: string }>()
  return { tenant, samples: { external_id: person, verification_id, api_key_id } }
}

const parametersOf = ({ path }: Operation) => [...path.matchAll(/\{(\w+)\}/g)].map(([, name = '']) => name)

function toPath(operation: Operation, samples: Samples): string {
  return operation.path.replace(/\{(\w+)\}/g, (_, name) => {
    const sample = samples[name]
    if (sample === undefined) throw new Error(`${operation.path}: add a "${name}" to createStage in this file`)
    return encodeURIComponent(sample)
  })
}

/** A body that the operation takes, about the person of `samples`. */
function toBody(operation: Operation, samples: Samples): Record<string, unknown> | undefined {
  const schema = bodySchema(operation)
  if (!schema) return undefined
  const values: Record<string, unknown> = {
    external_id: samples['external_id'],
    embedding: axis(0),
    metadata: { planted: true },
    name: 'a key',
    scopes: ['verify'],
    settings: { max_results: 7 },
  }
  const { properties = {}, required = [] } = resolve(schema)
  for (const name of required) {
    if (!(name in values)) throw new Error(`${operation.path}: add a "${name}" to toBody in this file`)
  }
  // optional ones that are wanted too: a change without anything to change is refused
  return Object.fromEntries(Object.entries(values).filter(([name]) => name in properties))
}

/** Every row of a tenant, in every table of the catalog that has tenants. */
async function readRows(tenantId: string): Promise<Record<string, unknown>> {
  const tables = await asAdmin`
    select c.relname as name from pg_class c join pg_attribute a on a.attrelid = c.oid
    where c.relnamespace = 'public'::regnamespace and c.relkind in ('r', 'p') and a.attname = 'tenant_id'
    order by 1`
  const rows: Record<string, unknown> = {}
  for (const { name } of tables) {
    // a name from the catalog of our own schema
    rows[String(name)] = await asAdmin.query(
      `select to_jsonb(t) - 'last_used_at' as row from ${String(name)} t where tenant_id = $1 order by 1`,
      [tenantId],
    )
  }
  rows['tenants'] = await asAdmin`select to_jsonb(t) as row from tenants t where id = ${tenantId}`
  return rows
}

describe('an attack', () => {
  const withIds = tenantOperations.filter((operation) => parametersOf(operation).length > 0)

  it('is made on every kind of id that a path takes', () => {
    const kinds = new Set(withIds.flatMap(parametersOf))
    expect([...kinds].sort()).toEqual(Object.keys(victim.samples).sort())
  })

  it.each(withIds)(
    "53: $method $path with another tenant's id is answered as with nobody's, and changes nothing",
    async (operation) => {
      const before = await readRows(victim.tenant.id)
      const ask = async (samples: Samples) =>
        comparable(
          await rival.tenant.request(operation.method, toPath(operation, samples), toBody(operation, rival.samples)),
        )
      // replacing enrolls where there is nobody: then the other's name is one's own from there on
      if (operation.method === 'PUT') {
        expect(await ask(victim.samples)).toMatchObject({ status: 201 })
      } else {
        const theirs = await ask(victim.samples)
        expect(theirs).toMatchObject({ status: 404 })
        expect(theirs).toEqual(await ask(nobodys(victim.samples)))
      }
      expect(await readRows(victim.tenant.id)).toEqual(before)
      if (operation.method === 'PUT') {
        await rival.tenant.request('DELETE', `/v1/faces/${victim.samples['external_id']}`)
      }
    },
  )

  it.each(tenantOperations)(
    "53: $method $path about another's person finds one's own people only",
    async (operation) => {
      const body = toBody(operation, victim.samples)
      if (!body || !('external_id' in body) || operation.operationId === 'enrollFace') return
      const theirs = await comparable(await rival.tenant.request(operation.method, operation.path, body))
      const nobody = await comparable(
        await rival.tenant.request(operation.method, operation.path, { ...body, external_id: 'nobody at all' }),
      )
      expect(theirs).toEqual(nobody)
    },
  )

  it.each(tenantOperations)(
    '54: $method $path is not led to another tenant by what a request says',
    async (operation) => {
      const before = await readRows(victim.tenant.id)
      const { method } = operation
      const path = toPath(operation, rival.samples)
      const body = toBody(operation, rival.samples)
      const id = victim.tenant.id
      for (const name of ['tenant_id', 'tid', 'tenant']) {
        if (body) {
          const response = await rival.tenant.request(method, path, { ...body, [name]: id })
          expect(response.status, name).toBe(422)
        }
        const smuggled = await rival.tenant.request('GET', `/v1/faces?${name}=${id}`)
        expect(smuggled.status, name).toBe(422)
      }
      const headers = {
        'X-Tenant-Id': id,
        'X-Forwarded-Host': 'evil.example',
        'X-Original-URL': '/v1/faces',
        Cookie: id,
      }
      if (method === 'GET') {
        const plain = await rival.tenant.request(method, path)
        expect(await comparable(await rival.tenant.request(method, path, undefined, headers))).toEqual(
          await comparable(plain),
        )
      }
      expect(await readRows(victim.tenant.id)).toEqual(before)
    },
  )

  it.each(tenantOperations.filter((operation) => bodySchema(operation)))(
    '55: $method $path takes no field that is not the client’s to set',
    async (operation) => {
      const before = await readRows(rival.tenant.id)
      const body = toBody(operation, rival.samples)
      for (const field of ['id', 'face_id', 'created_at', 'is_active', 'is_admin', 'threshold', 'verified', 'hash']) {
        const text = JSON.stringify({ ...body, planted: true }).replace('"planted"', `"${field}"`)
        const response = await rival.tenant.request(operation.method, toPath(operation, rival.samples), text)
        expect(response.status, field).toBe(422)
      }
      expect(await readRows(rival.tenant.id)).toEqual(before)
    },
  )

  it.each(tenantOperations.filter(({ parameters }) => parameters?.some(({ name }) => name === 'cursor')))(
    "56: $method $path refuses another tenant's cursor",
    async ({ path }) => {
      const readCursor = async ({ tenant }: Stage) =>
        (await (await tenant.request('GET', `${path}?limit=1`)).json<{ next_cursor: string }>()).next_cursor
      const [own, theirs] = [await readCursor(rival), await readCursor(victim)]
      expect(own).toMatch(/./)
      expect((await rival.tenant.request('GET', `${path}?limit=1&cursor=${own}`)).status).toBe(200)
      expect((await rival.tenant.request('GET', `${path}?limit=1&cursor=${theirs}`)).status).toBe(422)
    },
  )

  it.each(tenantOperations)(
    '57 and 58 do not apply to $method $path: no idempotency key and no link is taken yet',
    async ({ parameters = [] }) => {
      expect(parameters.map(({ name }) => name.toLowerCase())).not.toContain('idempotency-key')
    },
  )

  it.each(operations)('59: no answer of $method $path may be kept for the next credential', async (operation) => {
    const samples = { ...rival.samples, tenant_id: crypto.randomUUID(), issuer_id: crypto.randomUUID() }
    const response = await app.request(toPath(operation, samples), { method: operation.method }, env)
    expect(response.headers.get('Cache-Control')).toBe('no-store')
    expect(response.headers.get('Vary')).toContain('Authorization')
  })

  it.each(tenantOperations.filter(({ method }) => method === 'GET'))(
    "60: $method $path shows nothing of another tenant's",
    async (operation) => {
      const response = await rival.tenant.request('GET', toPath(operation, rival.samples))
      expect(response.status).toBe(200)
      const text = await response.text()
      for (const theirs of [victim.tenant.id, ...Object.values(victim.samples)]) expect(text).not.toContain(theirs)
    },
  )
})

describe("the operator's routes", () => {
  it.each(operations.filter(isOperators))(
    '53: $method $path answers a tenant, with all scopes, as anybody',
    async (operation) => {
      const { tenant } = rival
      expect(SCOPES).toContain('admin')
      const path = (id: string) => operation.path.replace(/\{\w+\}/g, id)
      const answers = []
      for (const id of [victim.tenant.id, tenant.id, crypto.randomUUID()]) {
        const body = operation.method === 'GET' ? undefined : {}
        answers.push(await comparable(await tenant.request(operation.method, path(id), body)))
      }
      expect(answers[0]).toMatchObject({ status: 401 })
      expect(answers[1]).toEqual(answers[0])
      expect(answers[2]).toEqual(answers[0])
    },
  )
})
