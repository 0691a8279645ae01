// Proves that /openapi.json, the router and the answers say the same: every route is documented, every
// documented route is there, and what it answers, for good and for ill, is what the document has. On a
// real PostgreSQL with row-level security. Fake: the embeddings, which are axes; the recognizer, for which a picture is a
// text that says what it shows; and one rate limiter, which says that the quota is used up. Not met here: the 5xx, but
// for a face that was tampered with and a recognizer that is full.
import { env } from 'cloudflare:workers'
import { describe, expect, it } from 'vitest'
import { app } from '../../src/app.ts'
import { SCOPES } from '../../src/auth/api-key.ts'
import { ARCFACE_512 } from '../../src/face/similarity.ts'
import { PROBLEM_CODES } from '../../src/problem.ts'
import { POLICIES } from '../../src/rate-limit.ts'
import {
  answer,
  bodySchema,
  document,
  findFaults,
  formSchema,
  guarded,
  isOperators,
  type Operation,
  operations,
  resolve,
  type Schema,
} from './openapi-document.ts'
import { inBase64, type Parts, pictureOf, sendForm, toForm } from './picture.ts'
import { asAdmin, axis, createKey, createTenant, enroll, type TestTenant } from './tenant.ts'

describe('the checker of the document', () => {
  const problem = {
    type: 'https://rekko.dev/problems/not-found',
    title: 'x',
    status: 404,
    code: 'NOT_FOUND',
    detail: 'x',
    request_id: 'x',
  }
  const face = {
    face_id: '00000000-0000-4000-8000-000000000000',
    external_id: 'ada',
    quality_score: null,
    created_at: '2026-11-23T12:00:00.000Z',
    updated_at: '2026-11-23T12:00:00.000Z',
    metadata: { any: ['thing'] },
  }
  const { metadata: _metadata, ...withoutMetadata } = face

  it.each([
    ['Problem', problem, []],
    ['Problem', { ...problem, errors: [{ detail: 'x', pointer: '/a' }] }, []],
    ['Problem', { ...problem, errors: [{ pointer: '/a' }] }, ['/errors/0: has no "detail"']],
    ['Problem', { ...problem, errors: {} }, ['/errors: is object, not array']],
    ['Problem', { ...problem, status: 404.5 }, ['/status: is number, not integer']],
    ['Problem', { ...problem, code: 'OTHER' }, [`/code: is not one of ${JSON.stringify(PROBLEM_CODES)}`]],
    ['Problem', { ...problem, type: 'not-found' }, ['/type: is not uri']],
    ['Face', face, []],
    ['Face', { ...face, quality_score: 1 }, []],
    ['Face', { ...face, quality_score: 1.1 }, ['/quality_score: is above 1']],
    ['Face', { ...face, quality_score: -0.1 }, ['/quality_score: is below 0']],
    ['Face', { ...face, quality_score: '1' }, ['/quality_score: is string, not number or null']],
    ['Face', { ...face, face_id: null }, ['/face_id: is null, not string']],
    ['Face', { ...face, face_id: 'ada' }, ['/face_id: is not uuid']],
    ['Face', { ...face, created_at: '2026-11-23 12:00:00+00' }, ['/created_at: is not date-time']],
    ['Face', { ...face, embedding: [] }, ['/: has "embedding", which is not documented']],
    ['Face', withoutMetadata, ['/: has no "metadata"']],
    ['Face', null, ['/: is null, not object']],
    ['Probe', { embedding: axis(0) }, []],
    ['Probe', { embedding: axis(0).slice(1) }, ['/embedding: fits 0 of oneOf']],
    ['Problem', { ...problem, retake: true, reasons: ['TOO_DARK'] }, []],
    ['Problem', { ...problem, retake: 'no' }, ['/retake: is string, not boolean']],
    ['Problem', { ...problem, reasons: ['TOO_LATE'] }, [expect.stringMatching('^/reasons/0: is not one of ')]],
    ['ProbeForm', { image: 'a picture', max_results: 3 }, []],
    ['ProbeForm', { image: '' }, ['/image: is not binary']],
    ['ProbeForm', { image: 'a picture', embedding: '' }, ['/: has "embedding", which is not documented']],
  ])('finds in a %s what is wrong with it, and no more (%#)', (name, value, faults) => {
    expect(findFaults(value, { $ref: `#/components/schemas/${name}` })).toEqual(faults)
  })

  it('refuses to pass what it does not understand', () => {
    const schema = { type: 'string', pattern: '^a$' }
    expect(() => findFaults('b', schema)).toThrow('teach the checker the keyword "pattern"')
    expect(() => findFaults('b', { $ref: '#/components/schemas/Nothing' })).toThrow('leads nowhere')
  })
})

// == Document and router ==

/** With what it refers to in its place. */
function whole(schema: Schema): Schema {
  const { properties, ...others } = resolve(schema)
  return {
    ...others,
    ...(properties && {
      properties: Object.fromEntries(Object.entries(properties).map(([name, property]) => [name, whole(property)])),
    }),
  }
}

describe('the document', () => {
  it('is OpenAPI 3.1, and open to all', () => {
    expect(answer.status).toBe(200)
    expect(answer.headers.get('Content-Type')).toMatch(/^application\/json/)
    expect(document.openapi).toMatch(/^3\.1\.\d+$/)
    expect(document.info).toMatchObject({ title: 'Rekko', version: '1', description: expect.stringMatching(/./) })
  })

  it('has the routes that the router has, and the router those of the document', () => {
    const routed = app.routes
      // middleware is registered for all methods, or once more for those of its route
      .filter(({ method, path }) => method !== 'ALL' && path !== '/openapi.json')
      .map(({ method, path }) => `${method} ${path.replace(/:(\w+)/g, '{$1}')}`)
    const documented = operations.map(({ method, path }) => `${method} ${path}`)
    expect(documented.toSorted()).toEqual([...new Set(routed)].sort())
    expect(documented).toContain('POST /v1/faces/verify')
  })

  it('names each operation once', () => {
    const ids = operations.map(({ operationId }) => operationId)
    expect(ids).toEqual([...new Set(ids)])
    for (const id of ids) expect(id).toMatch(/^[a-z][A-Za-z]+$/)
  })

  it('says how to show a credential', () => {
    expect(document.security).toEqual([{ bearer: [] }, { api_key: [] }])
    expect(document.components.securitySchemes).toEqual({
      bearer: { type: 'http', scheme: 'bearer' },
      api_key: { type: 'apiKey', in: 'header', name: 'X-API-Key' },
      operator: { type: 'http', scheme: 'bearer', bearerFormat: 'JWT', description: expect.stringMatching(/./) },
    })
  })

  it.each(operations)('says of $method $path what it is for and what it answers', (operation) => {
    expect(operation.summary).toMatch(/^[A-Z].+[^.]$/)
    const statuses = Object.keys(operation.responses)
    const successes = statuses.filter((status) => status.startsWith('2'))
    expect(successes).not.toHaveLength(0)
    for (const [status, { description, content }] of Object.entries(operation.responses)) {
      expect(description).toMatch(/./)
      if (status === '204') expect(content).toBeUndefined()
      else if (successes.includes(status)) expect(content?.['application/json']?.schema).toBeDefined()
      else expect(content).toEqual({ 'application/problem+json': { schema: { $ref: '#/components/schemas/Problem' } } })
    }
    const needed = [
      '500',
      ...(guarded.includes(operation) ? ['401', '403'] : []),
      ...(operation.requestBody ? ['400', '413', '415', '422'] : []),
    ]
    expect(statuses).toEqual(expect.arrayContaining(needed))
  })

  it.each(operations)('says what $method $path is given', (operation) => {
    const inPath = (operation.parameters ?? []).filter((parameter) => parameter.in === 'path')
    expect(inPath.map(({ name, required }) => [name, required])).toEqual(
      [...operation.path.matchAll(/\{(\w+)\}/g)].map(([, name]) => [name, true]),
    )
    const isAct = ['suspendTenant', 'resumeTenant'].includes(operation.operationId)
    const takesBody = ['POST', 'PUT', 'PATCH'].includes(operation.method) && !isAct
    expect(operation.requestBody !== undefined).toBe(takesBody)
    const schema = bodySchema(operation)
    if (schema) {
      expect(operation.requestBody?.required).toBe(true)
      expect(resolve(schema).additionalProperties).toBe(false)
    }
    const form = formSchema(operation)
    const types = Object.keys(operation.requestBody?.content ?? {})
    expect(types).toEqual(!schema ? [] : form ? ['application/json', 'multipart/form-data'] : ['application/json'])
    // a picture may be sent either way, and nothing else in a form alone
    expect(form !== undefined).toBe(JSON.stringify(schema ? whole(schema) : {}).includes('"image":'))
    if (form) {
      const { properties = {}, required = [], ...others } = resolve(form)
      // two schemas put together would each forbid the fields of the other
      expect([form.allOf, others.additionalProperties]).toEqual([undefined, false])
      const files = Object.keys(properties).filter((name) => properties[name]?.format === 'binary')
      expect(files).not.toHaveLength(0)
      expect(required).toEqual(expect.arrayContaining(files))
      const inJson = Object.keys(resolve(schema ?? {}).properties ?? {})
      expect(inJson).toEqual(expect.arrayContaining(Object.keys(properties)))
    }
  })

  it('has no schema that is put together of others which forbid its fields', () => {
    for (const [name, { allOf = [] }] of Object.entries(document.components.schemas)) {
      for (const part of allOf) expect(resolve(part).additionalProperties, name).not.toBe(false)
    }
  })

  it.each(operations)('says truly whether $method $path needs a credential', async ({ method, path, ...operation }) => {
    const body = operation.requestBody ? '{}' : null
    // of a form, too, nothing is read before it is known whose it is
    if (operation.requestBody?.content['multipart/form-data']) {
      const form = { method, body: toForm([['image', { file: 'x' }]]) }
      expect((await app.request(path.replace(/\{\w+\}/g, 'ada'), form, env)).status).toBe(401)
    }
    const { status } = await app.request(path.replace(/\{\w+\}/g, 'ada'), { method, body }, env)
    const needed = isOperators({ method, path, ...operation }) ? [{ operator: [] }] : undefined
    expect(operation.security).toEqual(status === 401 ? needed : [])
    expect([200, 401]).toContain(status)
  })
})

// == Document and answers ==

/** Sends a request that the document allows, with the operation's own method; parts as a form. */
type Send = (path: string, body?: Record<string, unknown> | Parts) => Promise<Response>

const image = inBase64(pictureOf(axis(0), { quality: 0.75, reasons: ['TOO_BLURRY'] }))
const file = { file: pictureOf(axis(0)) }
const unjudged = inBase64(JSON.stringify({ faces: [axis(0)] }))

const probe = (externalId: string, axisIndex: number) => ({ external_id: externalId, embedding: axis(axisIndex) })

/** For each operation, requests that succeed; between them they meet every status that it documents. */
const SUCCESSES: Record<string, (send: Send, tenant: TestTenant) => Promise<Response>[]> = {
  health: (send) => [send('/health')],
  ready: (send) => [send('/ready')],
  enrollFace: (send) => [
    send('/v1/faces', probe('bob', 1)),
    send('/v1/faces', {
      ...probe('eve', 2),
      model: ARCFACE_512.id,
      metadata: { seats: [1, null, { row: 'A' }] },
      quality_score: 0.25,
    }),
    send('/v1/faces', { external_id: 'joan', image, metadata: {} }),
    send('/v1/faces', [
      ['external_id', 'mary'],
      ['image', file],
      ['metadata', '{"sector":"north"}'],
    ]),
  ],
  listFaces: (send) => [send('/v1/faces'), send('/v1/faces?limit=1')],
  verifyFace: (send) => [
    send('/v1/faces/verify', { ...probe('ada', 0), model: ARCFACE_512.id }),
    send('/v1/faces/verify', probe('ada', 1)),
    send('/v1/faces/verify', { external_id: 'ada', image }),
    send('/v1/faces/verify', { external_id: 'ada', image: unjudged }),
    send('/v1/faces/verify', [
      ['external_id', 'ada'],
      ['image', file],
    ]),
  ],
  searchFaces: (send) => [
    send('/v1/faces/search', { embedding: axis(0), max_results: 1 }),
    send('/v1/faces/search', { embedding: axis(9), model: ARCFACE_512.id }),
    send('/v1/faces/search', { image, max_results: 20 }),
    send('/v1/faces/search', [
      ['image', file],
      ['max_results', '1'],
    ]),
  ],
  compareFaces: (send) => [
    send('/v1/faces/compare', { first: { embedding: axis(0), model: ARCFACE_512.id }, second: { embedding: axis(1) } }),
    send('/v1/faces/compare', { first: { image }, second: { image: unjudged } }),
    send('/v1/faces/compare', { first: { image }, second: { embedding: axis(1) } }),
    send('/v1/faces/compare', [
      ['first', file],
      ['second', { file: pictureOf(axis(1), { liveness: 0.1 }) }],
    ]),
  ],
  checkLiveness: (send) => [
    send('/v1/faces/liveness', { image }),
    send('/v1/faces/liveness', { image: inBase64(pictureOf(axis(0), { liveness: 0.1 })) }),
    send('/v1/faces/liveness', [['image', file]]),
  ],
  detectFaces: (send) => [
    send('/v1/faces/detect', { image }),
    send('/v1/faces/detect', { image: inBase64(JSON.stringify({ faces: [] })) }),
    send('/v1/faces/detect', [['image', { file: JSON.stringify({ faces: [axis(0), axis(1), axis(2)] }) }]]),
  ],
  findFace: (send) => [send('/v1/faces/ada')],
  replaceFace: (send) => [
    send('/v1/faces/ada', { embedding: axis(1), quality_score: 1 }),
    send('/v1/faces/newcomer', { embedding: axis(2), model: ARCFACE_512.id, metadata: {} }),
    send('/v1/faces/ada', { image }),
    send('/v1/faces/stranger', [
      ['image', file],
      ['metadata', '{}'],
    ]),
  ],
  updateFaceMetadata: (send) => [send('/v1/faces/ada', { metadata: { sector: 'north' } })],
  eraseFace: (send) => [send('/v1/faces/ada')],
  listVerifications: (send) => [send('/v1/verifications'), send('/v1/verifications?external_id=ada&limit=1')],
  findVerification: (send, tenant) => [readVerificationId(tenant).then((id) => send(`/v1/verifications/${id}`))],
  listIdentifications: (send) => [send('/v1/identifications'), send('/v1/identifications?external_id=ada&limit=1')],
  findUsage: (send) => [send('/v1/usage'), send('/v1/usage?period=2026-01')],
  listApiKeys: (send) => [send('/v1/api-keys'), send('/v1/api-keys?limit=1')],
  createApiKey: (send) => [
    send('/v1/api-keys', { name: 'gate 1', scopes: ['verify'] }),
    send('/v1/api-keys', { name: 'gate 2', scopes: ['verify', 'admin'], expires_at: inDays(1) }),
  ],
  rotateApiKey: (send, { keyId }) => [
    send(`/v1/api-keys/${keyId}/rotate`, {}),
    send(`/v1/api-keys/${keyId}/rotate`, { overlap_seconds: 60, expires_at: inDays(1) }),
  ],
  revokeApiKey: (send, { id }) => [createKey(id, []).then(({ keyId }) => send(`/v1/api-keys/${keyId}`))],
  findOwnTenant: (send) => [send('/v1/tenant')],
  changeOwnTenant: (send) => [
    send('/v1/tenant', { settings: { verification_threshold: 0.7, max_results: null } }),
    send('/v1/tenant', { settings: { allowed_origins: ['https://gate.example'] } }),
    send('/v1/tenant', {
      settings: { minimum_quality: 0.8, duplicates: 'reject', require_liveness: true, liveness_threshold: 0.9 },
    }),
  ],
}

/** A form as its schema has it: each part of the type that it stands for. */
function toRecord(parts: Parts, schema: Schema): Record<string, unknown> {
  const { properties = {} } = resolve(schema)
  return Object.fromEntries(
    parts.map(([name, part]) => {
      const text = typeof part === 'string' ? part : String(part.file)
      return [name, properties[name]?.type === 'integer' ? Number(text) : text]
    }),
  )
}

function inDays(days: number): string {
  return new Date(Date.now() + days * 86_400_000).toISOString()
}

async function readVerificationId(tenant: TestTenant): Promise<string> {
  const list = await tenant.request('GET', '/v1/verifications')
  return (await list.json<{ data: { verification_id: string }[] }>()).data[0]?.verification_id ?? 'none'
}

/** Ada is enrolled; there are decisions for and against, about her and about somebody who was erased. */
async function createBusyTenant(): Promise<TestTenant> {
  const tenant = await createTenant()
  await tenant.request('POST', '/v1/faces/search', { embedding: axis(0) })
  for (const [index, externalId] of ['ada', 'erased'].entries()) {
    await enroll(tenant, externalId, axis(index * 100))
    await tenant.request('POST', '/v1/faces/verify', probe(externalId, index * 100))
    await tenant.request('POST', '/v1/faces/verify', probe(externalId, 50))
    await tenant.request('POST', '/v1/faces/search', { embedding: axis(index * 100) })
    await tenant.request('POST', '/v1/faces/search', { embedding: axis(50) })
    await tenant.request('POST', '/v1/faces/verify', { external_id: externalId, image })
    await tenant.request('POST', '/v1/faces/search', { image })
    await tenant.request('POST', '/v1/faces/detect', { image })
  }
  await tenant.request('DELETE', '/v1/faces/erased')
  return tenant
}

// those of the operator are in openapi-operator.test.ts
describe('an answer', () => {
  it.each(operations.filter((one) => !isOperators(one)))(
    'of $method $path is what the document says, with scores and without',
    async (operation) => {
      const examples = SUCCESSES[operation.operationId]
      if (!examples) throw new Error(`write requests for ${operation.operationId}`)
      const met = new Set<string>()
      for (const scopes of [SCOPES, SCOPES.filter((scope) => scope !== 'scores:read')]) {
        const owner = await createBusyTenant()
        const tenant = { ...owner, ...(await createKey(owner.id, scopes)) }
        const send: Send = (path, body) => {
          const schema = Array.isArray(body) ? formSchema(operation) : bodySchema(operation)
          const said = Array.isArray(body) ? toRecord(body, schema ?? {}) : body
          expect(schema ? findFaults(said, schema) : said, 'the request').toEqual(schema ? [] : undefined)
          if (Array.isArray(body)) return sendForm(tenant, operation.method, path, toForm(body))
          return tenant.request(operation.method, path, body)
        }
        for (const response of await Promise.all(examples(send, tenant))) {
          const documented = operation.responses[response.status]
          expect(documented, `the status ${response.status}`).toBeDefined()
          met.add(String(response.status))
          const text = await response.text()
          const schema = documented?.content?.['application/json']?.schema
          if (!schema) {
            expect(text).toBe('')
            continue
          }
          expect(response.headers.get('Content-Type')).toBe('application/json')
          expect(findFaults(JSON.parse(text), schema), text).toEqual([])
          // an empty list would be right whatever its items were
          expect(JSON.parse(text)).not.toMatchObject({ data: [] })
          if (scopes !== SCOPES) expect(text).not.toMatch(/confidence|"score"/)
        }
      }
      expect([...met].sort()).toEqual(Object.keys(operation.responses).filter((status) => status.startsWith('2')))
    },
  )
})

/** A body that the operation takes, by the names of its fields. */
function validBody(operation: Operation): Record<string, unknown> | undefined {
  const schema = bodySchema(operation)
  if (!schema) return undefined
  const samples: Record<string, unknown> = {
    external_id: 'ada',
    first: { embedding: axis(0) },
    second: { embedding: axis(0) },
    metadata: {},
    name: 'gate 1',
    scopes: ['verify'],
    settings: { max_results: 7 },
  }
  const { properties = {} } = resolve(schema)
  const body = Object.fromEntries(Object.entries(samples).filter(([name]) => name in properties))
  // one of the two, where there is a choice
  if ('embedding' in properties) return { ...body, embedding: axis(0) }
  return 'image' in properties ? { ...body, image } : body
}

/** The same about a picture; undefined when the operation takes none. */
function bodyOf(operation: Operation, picture: string): Record<string, unknown> | undefined {
  const body = validBody(operation)
  if (!body || !formSchema(operation)) return undefined
  const { embedding: _embedding, first, ...others } = body
  const ofPicture = { image: inBase64(picture) }
  return first ? { ...others, first: ofPicture } : { ...others, ...ofPicture }
}

/** Pictures that somebody may send, and what a recognizer may say of them. */
const PICTURES = [
  'no picture',
  JSON.stringify({ faces: [] }),
  JSON.stringify({ faces: [axis(0), axis(1)] }),
  JSON.stringify({ refusal: [422, 'INVALID_IMAGE'] }),
  JSON.stringify({ refusal: [413, 'IMAGE_TOO_LARGE'] }),
  JSON.stringify({ refusal: [503, 'OVERLOADED'] }),
  pictureOf(axis(0), { model: 'another@1' }),
  pictureOf(axis(0), { quality: 0.1, reasons: ['TOO_DARK', 'TOO_SMALL'] }),
]

/** What is wrong with pictures and with forms; nothing where none is taken. */
async function provokeWithPictures(operation: Operation, path: string, tenant: TestTenant): Promise<Response[]> {
  if (!formSchema(operation)) return []
  const { method } = operation
  const answers: (Response | Promise<Response>)[] = PICTURES.map((picture) =>
    tenant.request(method, path, bodyOf(operation, picture)),
  )
  answers.push(
    sendForm(tenant, method, path, toForm([['unknown', '1']])),
    tenant.request(method, path, 'no form', { 'Content-Type': 'multipart/form-data; boundary=x' }),
  )
  return Promise.all(answers)
}

/** What a tenant may refuse that is strict, of what it took before. */
async function provokeStrict(operation: Operation, path: string, scopes: typeof SCOPES): Promise<Response[]> {
  if (!formSchema(operation)) return []
  const tenant = await createTenant()
  // under another name than that of the request
  await enroll(tenant, 'eve', axis(0))
  await enroll(tenant, 'ada', axis(1))
  await asAdmin`update tenants set settings = '{"duplicates": "reject"}' where id = ${tenant.id}`
  const knowing = await createKey(tenant.id, scopes)
  const { method } = operation
  const twin = { ...bodyOf(operation, pictureOf(axis(0))) }
  if ('external_id' in twin) twin['external_id'] = 'ada the second'
  const answers = [await knowing.request(method, path, twin)]
  await asAdmin`update tenants set settings = '{"require_liveness": true}' where id = ${tenant.id}`
  const requiring = await createKey(tenant.id, scopes)
  answers.push(await requiring.request(method, path, bodyOf(operation, pictureOf(axis(0), { liveness: 0.1 }))))
  return answers
}

const noMore = { limit: async () => ({ success: false }) }
const usedUp = {
  ...env,
  ...Object.fromEntries(Object.values(POLICIES).map(({ binding }) => [binding, noMore])),
}

/** What a client can do wrong, in any operation; those that do not apply send nothing. */
async function provoke(operation: Operation, tenant: TestTenant): Promise<Response[]> {
  const { method } = operation
  const at = (id: string) => operation.path.replace(/\{\w+\}/, id)
  const path = at('ada')
  const isOfKey = operation.path.includes('{api_key_id}')
  const body = validBody(operation)
  const nobody = { ...tenant, ...(await createKey(tenant.id, [])) }
  const answers: (Response | Promise<Response>)[] = [
    tenant.request(method, `${path}?external_id=%ff`, body),
    app.request(path, { method }, env),
    nobody.request(method, at(method === 'GET' || isOfKey ? crypto.randomUUID() : 'ada'), body),
    app.request(path, { method, headers: { 'X-API-Key': tenant.key } }, usedUp),
  ]
  if (operation.path.includes('{')) {
    answers.push(tenant.request(method, at('%00'), body))
    // replacing enrolls where there is nobody
    if (method !== 'PUT') answers.push(tenant.request(method, at(crypto.randomUUID()), body))
  }
  // the tenant is read without a parameter, and with none but those that there are
  const isBare = operation.operationId === 'findOwnTenant'
  if (isBare || operation.parameters?.some((parameter) => parameter.in === 'query')) {
    answers.push(tenant.request(method, `${path}?unknown=1`))
  }
  if (body) {
    answers.push(
      tenant.request(method, at(isOfKey ? crypto.randomUUID() : 'ada'), '{'),
      tenant.request(method, path, {}),
      // beside a picture as well
      tenant.request(method, path, JSON.stringify(body).padEnd(70_000)),
      tenant.request(method, path, body, { 'Content-Type': 'text/plain' }),
    )
    if ('external_id' in body) answers.push(tenant.request(method, path, { ...body, external_id: 'nobody' }))
    if ('embedding' in body) answers.push(tenant.request(method, path, { ...body, model: 'another@1' }))
    answers.push(...(await provokeWithPictures(operation, path, tenant)))
    answers.push(...(await provokeStrict(operation, path, SCOPES)))
    await Promise.all(answers)
    // ada has failed as often as anybody may in an hour
    await asAdmin`
      insert into verifications (tenant_id, external_id, verified, confidence, threshold, model, request_id)
      select ${tenant.id}, 'ada', false, 0.5, 0.675, 'a model', 'a test' from generate_series(1, 10)`
    answers.push(tenant.request(method, path, body))
    await Promise.all(answers)
    // enrolled already, and with another model
    await asAdmin`update faces set model = 'another@1' where tenant_id = ${tenant.id}`
    answers.push(tenant.request(method, path, body))
  }
  answers.push(...(await provokeByKey(operation, at(isOfKey ? crypto.randomUUID() : 'ada'), tenant)))
  if (operation.responses['500']?.description.includes('TEMPLATE_INTEGRITY')) {
    await Promise.all(answers)
    await enroll(tenant, 'eve', axis(5))
    await asAdmin`
      update faces set sealed = set_byte(sealed, 100, get_byte(sealed, 100) # 1)
      where tenant_id = ${tenant.id} and external_id = 'eve'`
    const claim = body && 'external_id' in body ? { external_id: 'eve' } : {}
    answers.push(tenant.request(method, path, { ...claim, embedding: axis(5) }))
  }
  if (operation.path.startsWith('/v1/api-keys') && body) {
    await Promise.all(answers)
    await asAdmin`update api_keys set revoked_at = now() where id = ${nobody.keyId}`
    answers.push(tenant.request(method, at(nobody.keyId), body))
    await asAdmin`
      insert into api_keys (tenant_id, name, hash, prefix, scopes)
      select ${tenant.id}, 'filling', sha256(gen_random_uuid()::text::bytea), 'rk_test_none', '{}'
      from generate_series(1, 100)`
    answers.push(tenant.request(method, at(tenant.keyId), body))
  }
  return Promise.all(answers)
}

/** A key that was used for another request, that of one in flight, and that of an answer whose face is gone. */
async function provokeByKey(operation: Operation, path: string, tenant: TestTenant): Promise<Response[]> {
  const { method } = operation
  if (!operation.parameters?.some(({ name }) => name === 'Idempotency-Key')) return []
  const body = validBody(operation)
  const key = { 'Idempotency-Key': 'a key' }
  await tenant.request('PATCH', '/v1/faces/nobody', { metadata: {} }, key)
  const answers = [await tenant.request(method, path, body, key)]
  if (env.TEST.isNative) {
    // somebody is at work under the key that was remembered a moment ago
    const work = asAdmin.transaction([
      asAdmin`
        select pg_advisory_xact_lock(
          ('x' || left(encode(sha256(convert_to('request ' || tenant_id, 'UTF8') || key), 'hex'), 16))::bit(64)::bigint
        ) from idempotent_requests where tenant_id = ${tenant.id} and fingerprint is not null`,
      asAdmin`select pg_sleep(0.5)`,
    ])
    await new Promise((resolve) => setTimeout(resolve, 200))
    answers.push(await tenant.request(method, path, body, key))
    await work
  }
  if (operation.responses['410']) {
    const other = await createTenant()
    await enroll(other, 'eve', axis(0))
    const claim = body && 'external_id' in body ? { external_id: 'eve' } : {}
    const ask = () => other.request(method, path, { ...claim, embedding: axis(0) }, key)
    await ask()
    await other.request('DELETE', '/v1/faces/eve')
    answers.push(await ask())
  }
  return answers
}

/** Of our own defects nobody knows one; and what is away, or not configured, is so in the tests of that. */
const OUR_OWN = ['INTERNAL', 'DATABASE_UNAVAILABLE', 'TOKEN_KEYS_UNAVAILABLE', 'NOT_CONFIGURED']
if (!env.TEST.isNative) {
  console.log(
    'not met: IDEMPOTENCY_KEY_IN_USE, because the embedded database has one session, so nothing is ever in flight',
  )
  OUR_OWN.push('IDEMPOTENCY_KEY_IN_USE')
}

describe('a refusal', () => {
  it.each(guarded.filter((one) => !isOperators(one)))(
    'of $method $path is one that the document names, and all of those can be met',
    async (operation) => {
      const tenant = await createBusyTenant()
      const met = new Set<string>()
      for (const response of await provoke(operation, tenant)) {
        if (response.ok) continue
        const text = await response.text()
        const documented = operation.responses[response.status]
        expect(findFaults(JSON.parse(text), documented?.content?.['application/problem+json']?.schema ?? {})).toEqual(
          [],
        )
        const { code, status } = JSON.parse(text)
        expect(status).toBe(response.status)
        expect(documented?.description.split(', '), `${status} ${code}`).toContain(code)
        met.add(code)
      }
      const named = Object.entries(operation.responses)
        .filter(([status]) => status.startsWith('4') || status.startsWith('5'))
        .flatMap(([, { description }]) => description.split(', '))
        .filter((code) => !OUR_OWN.includes(code))
      expect([...met].sort()).toEqual(named.sort())
    },
  )
})
