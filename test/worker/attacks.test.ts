// Proves that nobody reaches another tenant through the API: attacks 53 to 60, for every operation and every id of
// /openapi.json, so that a new one is attacked unasked or fails for want of a sample. On a real PostgreSQL with
// row-level security. Fake: the embeddings, which are axes, and the recognizer.
import { env } from 'cloudflare:workers'
import { beforeAll, describe, expect, it } from 'vitest'
import { app } from '../../src/app.ts'
import { SCOPES } from '../../src/auth/api-key.ts'
import { bodySchema, formSchema, isOperators, type Operation, operations, resolve } from './openapi-document.ts'
import { inBase64, type Parts, pictureOf, sendForm, toForm } from './picture.ts'
import { asAdmin, axis, comparable, createKey, createTenant, enroll, type TestTenant } from './tenant.ts'

/** What a tenant has, under the names by which paths, queries and bodies ask for it. */
type Samples = Record<string, string>

interface Stage {
  tenant: TestTenant
  samples: Samples
}

let victim: Stage
let rival: Stage

beforeAll(async () => {
  victim = await createStage('Ada Lovelace', 0)
  rival = await createStage('Grace Hopper', 1)
})

/** A tenant with something of everything, and two of what is listed. */
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
  // for a new id: a line here
  return { tenant, samples: { external_id: person, verification_id, api_key_id } }
}

const tenantOperations = operations.filter((operation) => operation.path.startsWith('/v1/') && !isOperators(operation))

function sampleOf(samples: Samples, name: string, at: string): string {
  const sample = samples[name]
  if (sample === undefined) throw new Error(`${at}: add a "${name}" to createStage in this file`)
  return sample
}

/** An id that nobody has, in the form of one that somebody has. */
const nobodys = (id: string) => (/^[0-9a-f-]{36}$/.test(id) ? crypto.randomUUID() : `no ${id}`)

function toPath(operation: Operation, samples: Samples): string {
  return operation.path.replace(/\{(\w+)\}/g, (_, name) => encodeURIComponent(sampleOf(samples, name, operation.path)))
}

/** A body that the operation takes, about the person of `samples`. */
function toBody(operation: Operation, samples: Samples): Record<string, unknown> | undefined {
  const schema = bodySchema(operation)
  if (!schema) return undefined
  const values: Record<string, unknown> = {
    external_id: samples['external_id'],
    first: { embedding: axis(0) },
    second: { image: inBase64(pictureOf(axis(0))) },
    metadata: { planted: true },
    name: 'a key',
    scopes: ['verify'],
    settings: { max_results: 7 },
  }
  const { properties = {}, required = [] } = resolve(schema)
  // one of the two, where there is a choice
  if ('embedding' in properties) values['embedding'] = axis(0)
  else values['image'] = inBase64(pictureOf(axis(0)))
  for (const name of required) {
    if (!(name in values)) throw new Error(`${operation.path}: add a "${name}" to toBody in this file`)
  }
  // optional ones that are wanted too: a change without anything to change is refused
  return Object.fromEntries(Object.entries(values).filter(([name]) => name in properties))
}

/** The same as a form, whose pictures show the person of the victim. */
function toParts(operation: Operation, samples: Samples): Parts {
  const values: Record<string, Parts[number][1]> = {
    external_id: sampleOf(samples, 'external_id', operation.path),
    metadata: '{"planted":true}',
    max_results: '20',
  }
  const { properties = {} } = resolve(formSchema(operation) ?? {})
  return Object.entries(properties).map(([name, { format }]): Parts[number] => {
    const value = format === 'binary' ? { file: pictureOf(axis(0)) } : values[name]
    if (value === undefined) throw new Error(`${operation.path}: add a "${name}" to toParts in this file`)
    return [name, value]
  })
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

/** An answer without what was asked for and without what is random, so that two that say the same are equal. */
async function masked(response: Response, ...asked: string[]): Promise<unknown> {
  let text = JSON.stringify(await comparable(response))
  for (const value of asked) text = text.replaceAll(value, 'asked')
  return JSON.parse(
    text
      .replace(/rk_test_\w+/g, 'key')
      .replace(/[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}/g, 'id')
      .replace(/\d{4}-\d\d-\d\dT[\d:.]+Z/g, 'time')
      .replace(/(next_cursor\\":\\")[\w-]+/g, '$1cursor')
      .replace(/(latency_ms\\":)\d+/g, '$1some'),
  )
}

/** Where an operation takes an id. */
interface IdPlace {
  operation: Operation
  place: string
  name: string
}

function idPlacesOf(operation: Operation): IdPlace[] {
  const schema = bodySchema(operation)
  const inBody = schema ? Object.keys(resolve(schema).properties ?? {}) : []
  const places = [
    ...(operation.parameters ?? []).map((parameter) => ({ place: parameter.in, name: parameter.name })),
    ...inBody.map((name) => ({ place: 'body', name })),
  ]
  return places
    .filter(({ place, name }) => place === 'path' || name.endsWith('_id'))
    .map((at) => ({ operation, ...at }))
}

/** Asks an operation for somebody or something; the rest of the request is about the one's own. */
function askFor({ operation, place, name }: IdPlace, { tenant, samples }: Stage, id: string): Promise<Response> {
  const all = place === 'path' ? { ...samples, [name]: id } : samples
  const query = place === 'query' ? `?${name}=${encodeURIComponent(id)}` : ''
  const body = toBody(operation, place === 'body' ? { ...samples, [name]: id } : samples)
  return tenant.request(operation.method, toPath(operation, all) + query, body)
}

describe('an attack', () => {
  const places = tenantOperations.flatMap(idPlacesOf)
  const named = places.map((at) => ({ ...at, of: `${at.operation.method} ${at.operation.path}` }))

  it('has a sample of every id, and every sample is of use', () => {
    expect([...new Set(places.map(({ name }) => name))].sort()).toEqual(Object.keys(victim.samples).sort())
    expect(new Set(places.map(({ place }) => place))).toEqual(new Set(['path', 'query', 'body']))
  })

  it.each(named)(
    "53: $of with another tenant's $name in its $place is answered as with nobody's, and changes nothing",
    async ({ of, ...at }) => {
      const [theirs, own] = [await createStage('Ada', 0), await createStage('Grace', 1)]
      const id = sampleOf(theirs.samples, at.name, of)
      const nobody = nobodys(id)
      const before = await readRows(theirs.tenant.id)
      const [toTheirs, toNobody] = [await askFor(at, own, id), await askFor(at, own, nobody)]
      expect(await masked(toTheirs, id)).toEqual(await masked(toNobody, nobody))
      // to find nobody is an answer of 404; enrolling and listing find nobody too
      if (at.place === 'path' && at.operation.method !== 'PUT') expect(toTheirs.status).toBe(404)
      expect(await readRows(theirs.tenant.id)).toEqual(before)

      // the other side: whose it is gets another answer than for nobody's
      const toOwner = await askFor(at, theirs, id)
      expect(await masked(toOwner, id)).not.toEqual(await masked(await askFor(at, theirs, nobodys(id)), nobody))
    },
  )

  it.each(tenantOperations)(
    '54: $method $path is not led to another tenant by what a request says',
    async (operation) => {
      const { method } = operation
      // reading changes nothing; what writes gets a tenant for each request, all of them with the same in it
      const reader = await createStage('Grace', 1)
      const ask = async (query = '', headers = {}) => {
        const { tenant, samples } = method === 'GET' ? reader : await createStage('Grace', 1)
        const body = toBody(operation, samples)
        const path = toPath(operation, samples) + query
        return tenant.request(method, path, body, headers)
      }
      const before = await readRows(victim.tenant.id)
      const plain = await masked(await ask())
      const [id, person] = [victim.tenant.id, victim.samples['external_id']]

      const headers = {
        'X-Tenant-Id': id,
        'X-Rekko-Tenant': id,
        'X-Forwarded-Host': 'evil.example',
        'X-Original-URL': `/v1/faces/${person}`,
        'X-HTTP-Method-Override': 'DELETE',
        Cookie: `tenant_id=${id}`,
      }
      expect(await masked(await ask('', headers))).toEqual(plain)

      const names = ['tenant_id', 'tid', 'tenant', 'app.current_tenant_id'].map((name) => `${name}=${id}`)
      const doubled = (operation.parameters ?? []).filter((parameter) => parameter.in === 'query')
      const queries = [
        // what takes no query at all takes all of it at once
        ...(method === 'GET' ? names : [names.join('&')]).map((query) => `?${query}`),
        ...doubled.map(({ name }) => `?${name}=1&${name}=${person}`),
      ]
      for (const query of queries) {
        const response = await ask(query)
        if (response.status === 422) continue
        expect(await masked(response), query).toEqual(plain)
      }
      if (bodySchema(operation)) {
        for (const name of ['tenant_id', 'tid', 'tenant']) {
          const body = { ...toBody(operation, rival.samples), [name]: id }
          const response = await rival.tenant.request(method, toPath(operation, rival.samples), body)
          expect(response.status, name).toBe(422)
        }
      }
      expect(await readRows(victim.tenant.id)).toEqual(before)
    },
  )

  it.each(tenantOperations.filter((operation) => bodySchema(operation)))(
    '55: $method $path takes no field that is not the client’s to set, be it a column of ours',
    async (operation) => {
      const columns = await asAdmin`
        select distinct a.attname as name from pg_attribute a join pg_class c on c.oid = a.attrelid
        where c.relnamespace = 'public'::regnamespace and c.relkind in ('r', 'p') and a.attnum > 0`
      const documented = Object.keys(resolve(bodySchema(operation) ?? {}).properties ?? {})
      const fields = [...columns.map(({ name }) => String(name)), 'is_admin', 'role', '__proto__', 'constructor']
      expect(fields).toEqual(
        expect.arrayContaining(['id', 'tenant_id', 'created_at', 'is_active', 'threshold', 'hash']),
      )
      const before = await readRows(rival.tenant.id)
      const body = toBody(operation, rival.samples) ?? {}
      for (const field of fields.filter((name) => !documented.includes(name))) {
        const bodies: Record<string, unknown>[] = [{ ...body, planted: 1 }]
        // one object deeper, where there is one with fields of ours
        for (const name of ['settings', 'first', 'second']) {
          if (name in body) bodies.push({ ...body, [name]: { ...(body[name] as object), planted: 1 } })
        }
        for (const sent of bodies) {
          const text = JSON.stringify(sent).replace('"planted"', `"${field}"`)
          const response = await rival.tenant.request(operation.method, toPath(operation, rival.samples), text)
          expect([400, 422], field).toContain(response.status)
        }
      }
      expect(await readRows(rival.tenant.id)).toEqual(before)
    },
  )

  it.each(tenantOperations.filter((operation) => formSchema(operation)))(
    '54, 55: $method $path takes none of these in a form either, and finds nobody of another tenant in a picture',
    async (operation) => {
      const { method } = operation
      const path = toPath(operation, rival.samples)
      const send = (more: Parts = []) =>
        sendForm(rival.tenant, method, path, toForm([...toParts(operation, rival.samples), ...more]))
      const [theirs, own] = [await readRows(victim.tenant.id), await readRows(rival.tenant.id)]
      const documented = Object.keys(resolve(formSchema(operation) ?? {}).properties ?? {})
      const columns = ['tenant_id', 'tid', 'tenant', 'id', 'face_id', 'created_at', 'threshold', 'model', 'embedding']
      for (const name of [...columns, 'is_admin', '__proto__', 'constructor']) {
        expect(documented).not.toContain(name)
        for (const content of [victim.tenant.id, { file: victim.tenant.id }]) {
          expect((await send([[name, content]])).status, name).toBe(422)
        }
      }
      for (const name of documented) {
        expect((await send([[name, String(victim.samples['external_id'])]])).status, `${name} twice`).toBe(422)
      }
      expect(await readRows(rival.tenant.id)).toEqual(own)

      // the picture shows whom the victim has enrolled
      const text = await (await send()).text()
      for (const id of Object.values(victim.samples)) expect(text).not.toContain(id)
      expect(await readRows(victim.tenant.id)).toEqual(theirs)
    },
  )

  it.each(tenantOperations.filter(({ parameters }) => parameters?.some(({ name }) => name === 'cursor')))(
    "56: $method $path takes another tenant's cursor for no cursor at all, and its own for the list it was made for",
    async ({ path, parameters = [] }) => {
      const readCursor = async ({ tenant }: Stage) =>
        (await (await tenant.request('GET', `${path}?limit=1`)).json<{ next_cursor: string }>()).next_cursor
      const follow = (cursor: string, filter = '') =>
        rival.tenant.request('GET', `${path}?limit=1&cursor=${cursor}${filter}`)
      const [own, theirs] = [await readCursor(rival), await readCursor(victim)]
      expect(own).toMatch(/./)
      expect((await follow(own)).status).toBe(200)
      const refused = await follow(theirs)
      expect(refused.status).toBe(422)
      expect(await comparable(refused)).toEqual(await comparable(await follow('AAAA')))
      for (const { name } of parameters.filter((parameter) => parameter.name.endsWith('_id'))) {
        const filter = `&${name}=${encodeURIComponent(sampleOf(rival.samples, name, path))}`
        expect((await follow(own, filter)).status).toBe(422)
      }
    },
  )

  it('57: an idempotency key of one tenant answers another nothing', async () => {
    const ask = ({ request }: TestTenant) =>
      request('POST', '/v1/faces/search', { embedding: axis(0) }, { 'Idempotency-Key': 'the same' })
    const own = await (await ask(victim.tenant)).json<{ search_id: string }>()
    const response = await ask(rival.tenant)
    expect(response.status).toBe(200)
    expect(response.headers.get('Idempotent-Replayed')).toBeNull()
    expect((await response.json<{ search_id: string }>()).search_id).not.toBe(own.search_id)
    // nor the same key for something else
    expect(
      (await rival.tenant.request('DELETE', '/v1/faces/nobody', undefined, { 'Idempotency-Key': 'the other' })).status,
    ).toBe(404)
    const other = await victim.tenant.request(
      'POST',
      '/v1/faces/search',
      { embedding: axis(0) },
      { 'Idempotency-Key': 'the other' },
    )
    expect(other.status).toBe(200)
  })

  it('58: does not apply yet to webhooks and exports: there are none', () => {
    expect(operations.filter(({ path }) => /webhook|export|download|link/.test(path))).toEqual([])
  })

  it.each(operations)('59: no answer of $method $path may be kept for the next credential', async (operation) => {
    const names = [...Object.keys(victim.samples), 'tenant_id', 'issuer_id']
    const ids = Object.fromEntries(names.map((name) => [name, crypto.randomUUID()]))
    const { method } = operation
    const body = bodySchema(operation) ? '{' : null
    const answers = []
    for (const key of [null, victim.tenant.key, rival.tenant.key]) {
      const headers = { 'Content-Type': 'application/json', ...(key && { 'X-API-Key': key }) }
      answers.push(await app.request(toPath(operation, ids), { method, body, headers }, env))
    }
    for (const { headers } of answers) {
      expect(headers.get('Cache-Control')).toBe('no-store')
      expect(headers.get('Vary')).toContain('Authorization')
      expect(headers.get('Vary')).toContain('X-API-Key')
    }
  })

  it.each([
    ['GET', '/v1/nowhere'],
    ['PUT', '/v1/usage'],
    ['GET', '/v1/faces/%ff'],
    ['GET', '/v1/faces/style.css'],
    ['OPTIONS', '/v1/faces'],
    ['GET', '/openapi.json'],
  ])('59: nor one of %s %s', async (method, path) => {
    const headers = { Origin: 'https://gate.example', 'Access-Control-Request-Method': 'GET' }
    for (const { tenant } of [victim, rival]) {
      const response = await tenant.request(method, path, undefined, headers)
      expect(response.headers.get('Cache-Control')).toBe('no-store')
    }
  })

  it.each(tenantOperations.filter(({ method }) => method === 'GET'))(
    "60: $method $path shows nothing of another tenant's",
    async (operation) => {
      const response = await rival.tenant.request('GET', toPath(operation, rival.samples))
      expect(response.status).toBe(200)
      const text = await response.text()
      const ids = JSON.stringify(await readRows(victim.tenant.id)).match(/[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}/g)
      expect(ids?.length).toBeGreaterThan(10)
      for (const theirs of [...(ids ?? []), ...Object.values(victim.samples)]) expect(text).not.toContain(theirs)
    },
  )

  it.each(operations.filter(({ path }) => !path.startsWith('/v1/')))(
    '60: $method $path says the same to everybody',
    async ({ method, path }) => {
      const toNobody = await comparable(await app.request(path, { method }, env))
      for (const { tenant } of [victim, rival]) {
        expect(await comparable(await tenant.request(method, path))).toEqual(toNobody)
      }
    },
  )
})

describe("the operator's routes", () => {
  const keys: Pick<TestTenant, 'request'>[] = []

  beforeAll(async () => {
    for (const scopes of [[], SCOPES, ...SCOPES.map((scope) => [scope])]) {
      keys.push(await createKey(rival.tenant.id, scopes))
    }
  })

  it.each(operations.filter(isOperators))(
    '53: $method $path answers a tenant as anybody, whatever its key may do and whomever it asks for',
    async (operation) => {
      const { method } = operation
      const body = bodySchema(operation) ? {} : undefined
      const path = (id: string) => operation.path.replace(/\{\w+\}/g, id)
      const toNobody = await comparable(await app.request(path(victim.tenant.id), { method }, env))
      expect(toNobody).toMatchObject({ status: 401 })
      for (const key of keys) {
        for (const id of [victim.tenant.id, rival.tenant.id, crypto.randomUUID()]) {
          expect(await comparable(await key.request(method, path(id), body))).toEqual(toNobody)
        }
      }
    },
  )
})
