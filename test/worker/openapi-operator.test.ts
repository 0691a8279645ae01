// Proves of the operator's routes what openapi.test.ts proves of the others: what they answer, for good and for ill,
// is what the document has. On a real PostgreSQL with row-level security. Fake: one rate limiter, which says that the
// quota is used up. Not met here: the 5xx.
import { env } from 'cloudflare:workers'
import { describe, expect, it } from 'vitest'
import { SCOPES } from '../../src/auth/api-key.ts'
import { bodySchema, findFaults, isOperators, type Operation, operations } from './openapi-document.ts'
import { operate, operatorToken } from './operator.ts'
import { asAdmin, createTenant } from './tenant.ts'
import { createSigner } from './tokens.ts'

const operators = operations.filter(isOperators).map((operation) => ({
  ...operation,
  path: operation.path.replace('/v1/operator', ''),
}))

/** What a request can be about: made anew for each. */
interface Subjects {
  tenant: string
  /** Its erasure was asked for. */
  erasing: string
  issuer: string
  /** The name of another issuer. */
  taken: string
}

async function createIssuer(): Promise<{ id: string; name: string }> {
  const fields = await issuerFields()
  const response = await operate('POST', '/issuers', fields)
  return { id: (await response.json<{ issuer_id: string }>()).issuer_id, name: fields.issuer }
}

async function issuerFields() {
  return {
    issuer: `https://${crypto.randomUUID()}.example.com`,
    audience: 'rekko',
    algorithms: ['ES256'],
    jwks: { keys: [(await createSigner('ES256')).jwk] },
    scopes: ['verify'],
    tenant_ids: [(await createTenant()).id],
  }
}

async function createSubjects(): Promise<Subjects> {
  const [tenant, erasing] = [await createTenant(), await createTenant()]
  await asAdmin`select request_tenant_erasure(${erasing.id})`
  const issuer = (await createIssuer()).id
  return { tenant: tenant.id, erasing: erasing.id, issuer, taken: (await createIssuer()).name }
}

/** A body that the operation takes. */
const BODIES: Record<string, () => unknown> = {
  createTenant: () => ({
    name: 'Arena',
    environment: 'live',
    settings: { max_results: 7, allowed_origins: null, model: 'arcface-512@1' },
  }),
  changeTenant: () => ({
    name: 'Arena',
    settings: { verification_threshold: 0.7, require_liveness: true, liveness_threshold: null, model: null },
  }),
  createTenantKey: () => ({ name: 'gate', scopes: [...SCOPES], expires_at: '2030-01-01T00:00:00.000Z' }),
  createIssuer: issuerFields,
  replaceIssuer: issuerFields,
}

function at({ path }: Operation, subjects: Subjects): string {
  return path.replace('{tenant_id}', subjects.tenant).replace('{issuer_id}', subjects.issuer)
}

/** Requests that succeed; between them they meet every status that the operation documents. */
async function succeed(operation: Operation): Promise<Response[]> {
  const { method, operationId } = operation
  const subjects = await createSubjects()
  const body = await BODIES[operationId]?.()
  const schema = bodySchema(operation)
  expect(schema ? findFaults(body, schema) : body, 'the request').toEqual(schema ? [] : undefined)
  const answers = [await operate(method, at(operation, subjects), body)]
  if (operationId === 'eraseTenant') {
    // more than a request takes
    await asAdmin`
      insert into usage_events (tenant_id, kind) select ${subjects.erasing}, 'verification' from generate_series(1, 41000)`
    answers.push(await operate(method, `/tenants/${subjects.erasing}`))
  }
  return answers
}

/** What a client can do wrong. */
async function provoke(operation: Operation): Promise<Response[]> {
  const { method, operationId } = operation
  const subjects = await createSubjects()
  const path = at(operation, subjects)
  const body = await BODIES[operationId]?.()
  const noMore = { ...env, ADMIN_LIMIT: { limit: async () => ({ success: false }) } }
  const answers = [
    await operate(method, `${path}?a=%ff`, body),
    await operate(method, path, body, { credential: 'nobody' }),
    await operate(method, path, body, { credential: await operatorToken({ scope: '' }) }),
    await operate(method, path, body, { bindings: noMore }),
  ]
  if (operation.path.includes('{')) {
    const unknown = { tenant: crypto.randomUUID(), erasing: '', issuer: crypto.randomUUID(), taken: '' }
    answers.push(await operate(method, at(operation, unknown), body))
    answers.push(await operate(method, at(operation, { ...unknown, tenant: 'ada', issuer: 'ada' }), body))
    answers.push(await operate(method, at(operation, { ...unknown, tenant: subjects.erasing }), body))
  } else if (!body) {
    answers.push(await operate(method, `${path}?unknown=1`))
  }
  if (body) {
    answers.push(
      await operate(method, path, '{'),
      await operate(method, path, {}),
      await operate(method, path, JSON.stringify(body).padEnd(65_537)),
      await operate(method, path, body, { headers: { 'Content-Type': 'text/plain' } }),
      await operate(method, path, { ...body, ...(operationId.endsWith('Issuer') && { issuer: subjects.taken }) }),
    )
  }
  return answers
}

describe('an answer to the operator', () => {
  it('is shown for every operation', () => {
    expect(operators.length).toBeGreaterThan(10)
  })

  it.each(operators)('of $method $path is what the document says', async (operation) => {
    const met = new Set<string>()
    for (const response of await succeed(operation)) {
      met.add(String(response.status))
      const text = await response.text()
      const schema = operation.responses[response.status]?.content?.['application/json']?.schema
      if (!schema) {
        expect(text).toBe('')
        continue
      }
      expect(findFaults(JSON.parse(text), schema), text).toEqual([])
      expect(JSON.parse(text)).not.toMatchObject({ data: [] })
    }
    expect([...met].sort()).toEqual(Object.keys(operation.responses).filter((status) => status.startsWith('2')))
  })

  it.each(operators)(
    'of $method $path that refuses is one that the document names, and all of those are met',
    async (operation) => {
      const met = new Set<string>()
      for (const response of await provoke(operation)) {
        if (response.ok) continue
        const text = await response.text()
        const documented = operation.responses[response.status]
        const { code, status } = JSON.parse(text)
        expect(status).toBe(response.status)
        expect(documented?.description.split(', '), `${status} ${code}`).toContain(code)
        expect(findFaults(JSON.parse(text), documented?.content?.['application/problem+json']?.schema ?? {})).toEqual(
          [],
        )
        met.add(code)
      }
      const named = Object.entries(operation.responses)
        .filter(([status]) => status.startsWith('4'))
        .flatMap(([, { description }]) => description.split(', '))
      expect([...met].sort()).toEqual(named.sort())
    },
  )
})
