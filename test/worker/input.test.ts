// Proves that bad input is refused with the exact problem it is, on every route that takes it, and that
// nothing is written then: SECURITY.md 3.1, and who may come in at all. Routes are read from
// /openapi.json, so that a new one is covered unasked. Runs on a real PostgreSQL with row-level
// security, through the real driver. Fake: the embeddings, which are axes.
import { env } from 'cloudflare:workers'
import { describe, expect, it } from 'vitest'
import { app } from '../../src/app.ts'
import { generateApiKey, SCOPES, type Scope } from '../../src/auth/api-key.ts'
import type { ProblemCode } from '../../src/problem.ts'
import { asAdmin, axis, countRequests, countRows, createKey, createTenant, enroll, type TestTenant } from './tenant.ts'

const UUID = /^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/

// == The routes, as the document has them ==

interface Schema {
  $ref?: string
  properties?: Record<string, Schema>
}

interface DocumentedOperation {
  operationId: string
  security?: unknown[]
  requestBody?: { content: { 'application/json': { schema: Schema } } }
  responses: Record<string, { description: string }>
}

interface Document {
  paths: Record<string, Record<string, DocumentedOperation>>
  components: { schemas: Record<string, Schema> }
}

interface Operation {
  id: string
  method: string
  template: string
  path: string
  /** Names of the fields of its body; none when it takes no body. */
  fields: string[]
}

const document = await (await app.request('/openapi.json', {}, env)).json<Document>()

/** In the place of each id in a path: of ada, or of nobody. */
const toPath = (template: string) => template.replace('{external_id}', 'ada').replace(/\{\w+\}/, crypto.randomUUID())

const operations = Object.entries(document.paths).flatMap(([template, methods]) =>
  Object.entries(methods).map(([method, operation]): Operation => {
    const schema = operation.requestBody?.content['application/json'].schema
    const name = schema?.$ref?.split('/').at(-1)
    return {
      id: operation.operationId,
      method: method.toUpperCase(),
      template,
      path: toPath(template),
      fields: Object.keys((name ? document.components.schemas[name] : schema)?.properties ?? {}),
    }
  }),
)
// the operator's have another credential: operator.test.ts
const guarded = operations.filter(({ template }) => /^\/v1\/(?!operator\/)/.test(template))
const withBody = guarded.filter(({ fields }) => fields.length > 0)
const taking = (field: string) => withBody.filter(({ fields }) => fields.includes(field))

/** A body that the operation takes. Enrolls bob, because ada is enrolled already. */
function validBody({ id, fields }: Operation): Record<string, unknown> {
  const samples: Record<string, unknown> = {
    external_id: id === 'enrollFace' ? 'bob' : 'ada',
    embedding: axis(1),
    model: 'arcface-512@1',
    metadata: { sector: 'north' },
    quality_score: 0.5,
    max_results: 3,
    name: 'gate 1',
    scopes: ['admin'],
    expires_at: new Date(Date.now() + 86_400_000).toISOString(),
    overlap_seconds: 60,
    settings: { max_results: 7 },
  }
  return Object.fromEntries(
    fields.map((field) => {
      if (!(field in samples)) throw new Error(`write a sample for the field "${field}"`)
      return [field, samples[field]]
    }),
  )
}

/** The valid body as text, with one field spelled as given; without that field when that is undefined. */
function bodyWith(operation: Operation, field: string, json: string | undefined): string {
  const placeholder = 'to be replaced'
  const text = JSON.stringify({ ...validBody(operation), [field]: json === undefined ? undefined : placeholder })
  return text.replace(JSON.stringify(placeholder), () => json ?? '')
}

/** What an operation answers when nothing is wrong: 404 is that of an id which is new. */
const TAKEN: Record<string, number> = {
  enrollFace: 201,
  createApiKey: 201,
  rotateApiKey: 201,
  eraseFace: 204,
  revokeApiKey: 204,
  findVerification: 404,
}

function request(tenant: TestTenant, operation: Operation, body?: unknown, headers?: Record<string, string>) {
  const text = operation.fields.length > 0 ? (body ?? validBody(operation)) : undefined
  return tenant.request(operation.method, pathFor(tenant, operation), text, headers)
}

/** Of keys, it is the tenant's own that is acted upon. */
function pathFor(tenant: TestTenant, { template, path }: Operation): string {
  return template.includes('{api_key_id}') ? template.replace('{api_key_id}', tenant.keyId) : path
}

/** With the tenant's key and only the headers given: `tenant.request` would add a content type. */
function sendBytes(tenant: TestTenant, operation: Operation, body: BodyInit, headers: Record<string, string> = {}) {
  return app.request(
    pathFor(tenant, operation),
    { method: operation.method, body, headers: { Authorization: `Bearer ${tenant.key}`, ...headers } },
    env,
  )
}

// == What a refusal is ==

interface Refusal {
  status: number
  code: ProblemCode
  /** What `errors` names, in order; none when there are no errors. */
  errors?: ({ pointer: string } | { parameter: string })[]
}

const MALFORMED_JSON: Refusal = { status: 400, code: 'MALFORMED_JSON' }
const MALFORMED_URL: Refusal = { status: 400, code: 'MALFORMED_URL' }
const NOT_FOUND: Refusal = { status: 404, code: 'NOT_FOUND' }
const BODY_TOO_LARGE: Refusal = { status: 413, code: 'BODY_TOO_LARGE' }
const UNSUPPORTED: Refusal = { status: 415, code: 'UNSUPPORTED_MEDIA_TYPE' }

function invalidField(...pointers: string[]): Refusal {
  return { status: 422, code: 'INVALID_REQUEST', errors: pointers.map((pointer) => ({ pointer })) }
}

function invalidParameter(parameter: string): Refusal {
  return { status: 422, code: 'INVALID_REQUEST', errors: [{ parameter }] }
}

async function expectProblem(response: Response, { status, code, errors }: Refusal): Promise<void> {
  const text = await response.text()
  expect({ status: response.status, code: JSON.parse(text).code }, text).toEqual({ status, code })
  // a surrogate alone, as JSON.stringify writes it; in the comparison below it would stop the test runner
  expect(text).not.toMatch(/\\ud[89a-f]/)
  expect(response.headers.get('Content-Type')).toBe('application/problem+json')
  expect(response.headers.get('Cache-Control')).toBe('no-store')
  expect(JSON.parse(text)).toEqual({
    type: `https://rekko.dev/problems/${code.toLowerCase().replaceAll('_', '-')}`,
    title: expect.stringMatching(/./),
    status,
    code,
    detail: expect.stringMatching(/./),
    request_id: response.headers.get('X-Request-Id'),
    ...(errors && { errors: errors.map((error) => ({ ...error, detail: expect.stringMatching(/./) })) }),
  })
}

/** How many rows a tenant has, and a digest of its gallery, which a replacement would change. */
async function readRows(tenant: TestTenant): Promise<Record<string, unknown>> {
  const [row] = await asAdmin`
    select md5(string_agg(f::text, '' order by f.id)) as gallery from faces f where tenant_id = ${tenant.id}`
  return { ...(await countRows(tenant)), ...row }
}

/** A tenant with ada in its gallery; what `act` does must leave every row as it was. */
async function expectNothingWritten(act: (tenant: TestTenant) => Promise<void>): Promise<void> {
  const tenant = await createTenant()
  await enroll(tenant, 'ada', axis(0))
  const before = await readRows(tenant)
  // that the rows are seen at all
  expect(before).toMatchObject({ faces: 1, usage_events: 1, gallery: expect.stringMatching(/^[0-9a-f]{32}$/) })
  await act(tenant)
  expect(await readRows(tenant)).toEqual(before)
}

/** Each answer is the refusal, and nothing is written. */
async function expectRefused(refusal: Refusal, send: (tenant: TestTenant) => Promise<Response>[]): Promise<void> {
  await expectNothingWritten(async (tenant) => {
    const answers = await Promise.all(send(tenant))
    expect(answers).not.toHaveLength(0)
    for (const answer of answers) await expectProblem(answer, refusal)
  })
}

/** The requests that the tests below spoil are good ones: otherwise any refusal would do. */
describe('every documented request', () => {
  it.each(guarded)('$method $template is taken when nothing is wrong with it', async (operation) => {
    const tenant = await createTenant()
    await enroll(tenant, 'ada', axis(0))
    const response = await request(tenant, operation)
    expect(response.status).toBe(TAKEN[operation.id] ?? 200)
  })
})

// == Embeddings ==

const COMPONENTS = 512
const vectorOf = (token: string) => `[${Array(COMPONENTS).fill(token).join()}]`
const vectorWithSeventh = (token: string) => `[${axis(0).with(7, Number.NaN).join().replace('NaN', token)}]`
const vectorOfLength = (length: number) => `[${['1', ...Array(length - 1).fill('0')].join()}]`

function base64(values: ArrayLike<number>): string {
  const floats = Float32Array.from(values)
  return btoa(String.fromCharCode(...new Uint8Array(floats.buffer)))
}

function bigEndian(values: number[]): string {
  const view = new DataView(new ArrayBuffer(values.length * 4))
  for (const [index, value] of values.entries()) view.setFloat32(index * 4, value, false)
  return btoa(String.fromCharCode(...new Uint8Array(view.buffer)))
}

const WHOLE = invalidField('/embedding')
const SEVENTH = invalidField('/embedding/7')

const BAD_EMBEDDINGS: [name: string, json: string | undefined, refusal: Refusal][] = [
  ['that is missing', undefined, WHOLE],
  ['of null', 'null', WHOLE],
  ['of true', 'true', WHOLE],
  ['that is a number', '1', WHOLE],
  ['that is an object like an array', '{"0":1,"length":512}', WHOLE],
  ['of no components', '[]', WHOLE],
  ['of 511 components', vectorOfLength(511), WHOLE],
  ['of 513 components', vectorOfLength(513), WHOLE],
  ['of 16,001 components', vectorOfLength(16_001), WHOLE],
  ['nested in an array', `[${vectorOf('0.04')}]`, WHOLE],
  ['with the token NaN', vectorWithSeventh('NaN'), MALFORMED_JSON],
  ['with the token Infinity', vectorWithSeventh('Infinity'), MALFORMED_JSON],
  ['with the token -Infinity', vectorWithSeventh('-Infinity'), MALFORMED_JSON],
  ['with a hexadecimal number', vectorWithSeventh('0x1'), MALFORMED_JSON],
  ['with a component left out', vectorWithSeventh(''), MALFORMED_JSON],
  ['with 1e999, which parses to Infinity', vectorWithSeventh('1e999'), SEVENTH],
  ['with -1e999', vectorWithSeventh('-1e999'), SEVENTH],
  ['of 1e999 throughout', vectorOf('1e999'), invalidField('/embedding/0')],
  ['with a number in a string', vectorWithSeventh('"0.1"'), SEVENTH],
  ['with "NaN" in a string', vectorWithSeventh('"NaN"'), SEVENTH],
  ['with a boolean', vectorWithSeventh('true'), SEVENTH],
  ['with a null', vectorWithSeventh('null'), SEVENTH],
  ['with an array', vectorWithSeventh('[0.1]'), SEVENTH],
  ['with an object', vectorWithSeventh('{}'), SEVENTH],
  ['of zeros', vectorOf('0'), WHOLE],
  ['of negative zeros', vectorOf('-0'), WHOLE],
  ['of 1e-400, which parses to zero', vectorOf('1e-400'), WHOLE],
  ['of 1e-200, whose squares are zero', vectorOf('1e-200'), WHOLE],
  ['of the smallest double', vectorOf('5e-324'), WHOLE],
  ['of 1e-46, which is zero as float32', vectorOf('1e-46'), WHOLE],
  ['of 1e38', vectorOf('1e38'), WHOLE],
  ['of 1e308, whose squares overflow', vectorOf('1e308'), WHOLE],
  ['of norm 20', JSON.stringify(axis(0).map((component) => component * 20)), WHOLE],
  ['of a norm just above 2', JSON.stringify(axis(0).map((component) => component * 2.000001)), WHOLE],
  ['of a norm just below 0.5', JSON.stringify(axis(0).map((component) => component * 0.499999)), WHOLE],
  ['of an empty string', '""', WHOLE],
  ['of base64 of 511 float32', JSON.stringify(base64(axis(0).slice(0, 511))), WHOLE],
  ['of base64 of 513 float32', JSON.stringify(base64([...axis(0), 0])), WHOLE],
  ['of base64 one character short', JSON.stringify(base64(axis(0)).slice(0, -1)), WHOLE],
  ['of text as long as base64 would be', JSON.stringify('!'.repeat(base64(axis(0)).length)), WHOLE],
  ['of base64url', JSON.stringify(base64(axis(0)).replaceAll('A', '_')), WHOLE],
  ['of base64 with a NaN payload', JSON.stringify(base64(axis(0).with(7, Number.NaN))), SEVENTH],
  ['of base64 with an infinite payload', JSON.stringify(base64(axis(0).with(7, Number.POSITIVE_INFINITY))), SEVENTH],
  ['of base64 of zeros', JSON.stringify(base64(vectorLike(0))), WHOLE],
  ['of base64 of the smallest float32', JSON.stringify(base64(vectorLike(1.4e-45))), WHOLE],
  ['of base64 of the largest float32', JSON.stringify(base64(vectorLike(3.4e38))), WHOLE],
  ['of base64 of norm 20', JSON.stringify(base64(axis(0).with(0, 20))), WHOLE],
  ['of base64 in the other byte order', JSON.stringify(bigEndian(axis(0))), WHOLE],
]

function vectorLike(component: number): number[] {
  return axis(0).fill(component)
}

describe('an embedding', () => {
  it.each(BAD_EMBEDDINGS)('%s is refused wherever one is taken', async (_name, json, refusal) => {
    expect(taking('embedding').map(({ id }) => id)).toEqual(
      expect.arrayContaining(['enrollFace', 'replaceFace', 'verifyFace', 'searchFaces']),
    )
    await expectRefused(refusal, (tenant) =>
      taking('embedding').map((operation) => request(tenant, operation, bodyWith(operation, 'embedding', json))),
    )
  })

  it.each([
    ['of norm 0.5', JSON.stringify(axis(7).with(7, 0.5))],
    ['of norm 2', JSON.stringify(axis(7).with(7, 2))],
    ['with components that float32 makes zero', vectorWithSeventh('1').replace('[1,', '[1e-46,')],
    ['with components that are zero already', vectorWithSeventh('1').replace('[1,', '[1e-400,')],
    ['with a negative zero', vectorWithSeventh('1').replace('[1,', '[-0,')],
    ['as base64', JSON.stringify(base64(axis(7)))],
  ])('%s is taken, and kept with norm 1', async (_name, json) => {
    const tenant = await createTenant()
    const response = await tenant.request('POST', '/v1/faces', `{"external_id":"ada","embedding":${json}}`)
    expect(response.status).toBe(201)
    const [face] = await asAdmin`select vector_norm(embedding) as norm from faces where tenant_id = ${tenant.id}`
    expect(face?.['norm']).toBeCloseTo(1, 6)
    const verification = await tenant.request('POST', '/v1/faces/verify', { external_id: 'ada', embedding: axis(7) })
    expect(await verification.json()).toMatchObject({ verified: true, confidence: 1 })
  })
})

// == External ids ==

const BAD_EXTERNAL_IDS: [name: string, externalId: string][] = [
  ['of 256 characters', 'a'.repeat(256)],
  ['of 256 emoji', '😀'.repeat(256)],
  ['with NUL', 'a\0b'],
  ['with a control character', 'a\u001fb'],
  ['with a line feed', 'a\nb'],
  ['with DEL', 'a\u007fb'],
  ['with a C1 control character', 'a\u0085b'],
  ['with a right-to-left override', 'a\u202eb'],
  ['with a bidirectional isolate', 'a\u2066b'],
  ['with a zero-width space', 'a\u200bb'],
  ['with a Hangul filler', 'a\u3164b'],
  ['with a blank Braille pattern', 'a\u2800b'],
  ['with a combining grapheme joiner', 'a\u034fb'],
  ['with a zero-width joiner', 'a\u200db'],
  ['with a byte order mark', '\ufeffab'],
  ['with a soft hyphen', 'a\u00adb'],
  ['with a line separator', 'a\u2028b'],
  ['with a replacement character', 'a\ufffdb'],
  ['with a tag character', 'a\u{e0041}b'],
  ['in decomposed form', 'Zoe\u0308'],
  ['with a sign that composes to another', '\u212b'],
  ['with its accents in the wrong order', 'q\u0307\u0323'],
  ['of a space', ' '],
  ['with a space before', ' ada'],
  ['with a space behind', 'ada '],
  ['with a no-break space before', '\u00a0ada'],
  ['with an ideographic space behind', 'ada\u3000'],
]

// what a path cannot say, or says as another path
const BAD_EXTERNAL_IDS_OUTSIDE_PATHS: [name: string, externalId: string][] = [
  ['without a character', ''],
  ['that is a dot', '.'],
  ['that is two dots', '..'],
]

const BAD_EXTERNAL_IDS_IN_JSON: [name: string, json: string | undefined][] = [
  ['that is missing', undefined],
  ['of null', 'null'],
  ['that is a number', '4711'],
  ['that is a boolean', 'true'],
  ['that is an array', '["ada"]'],
  ['that is an object', '{"toString":"ada"}'],
  ['with a high surrogate alone', '"a\\ud83d"'],
  ['with a low surrogate alone', '"\\ude00a"'],
  ['with its surrogates swapped', '"\\ude00\\ud83d"'],
  ['with an escaped NUL', '"a\\u0000b"'],
]

describe('an external_id', () => {
  it.each<[string, string | undefined]>([
    ...BAD_EXTERNAL_IDS_IN_JSON,
    ...[...BAD_EXTERNAL_IDS, ...BAD_EXTERNAL_IDS_OUTSIDE_PATHS].map(([name, externalId]): [string, string] => [
      name,
      JSON.stringify(externalId),
    ]),
  ])('%s is refused in a body', async (_name, json) => {
    expect(taking('external_id').map(({ id }) => id)).toEqual(expect.arrayContaining(['enrollFace', 'verifyFace']))
    await expectRefused(invalidField('/external_id'), (tenant) =>
      taking('external_id').map((operation) => request(tenant, operation, bodyWith(operation, 'external_id', json))),
    )
  })

  it.each(BAD_EXTERNAL_IDS)('%s is refused in a path', async (_name, externalId) => {
    const named = operations.filter(({ template }) => template.endsWith('/{external_id}'))
    expect(named.map(({ method }) => method)).toEqual(expect.arrayContaining(['GET', 'PUT', 'PATCH', 'DELETE']))
    await expectRefused(invalidParameter('external_id'), (tenant) =>
      named.map((operation) => request(tenant, { ...operation, path: `/v1/faces/${encodeURIComponent(externalId)}` })),
    )
  })

  it.each([...BAD_EXTERNAL_IDS, ...BAD_EXTERNAL_IDS_OUTSIDE_PATHS])(
    '%s is refused in a query',
    async (_name, externalId) => {
      await expectRefused(invalidParameter('external_id'), (tenant) =>
        ['/v1/verifications', '/v1/identifications'].map((list) =>
          tenant.request('GET', `${list}?external_id=${encodeURIComponent(externalId)}`),
        ),
      )
    },
  )

  it.each([
    ['of 255 emoji', '😀'.repeat(255)],
    ['of one character', 'a'],
    ['with a slash', 'a/b'],
    ['with a slash at both ends', '/a/'],
    ['of three dots', '...'],
    ['that climbs', '../../health'],
    ['that is escaped twice', 'a%2Fb'],
    ['of what a URL would split', 'a?b#c&d=e;f+g%'],
    ['of what a router would match', ':external_id*{a}'],
    ['of another operation', 'verify'],
    ['of a prototype', '__proto__'],
    ['in composed form', 'Zoë'],
    ['with a space inside', 'Ada Lovelace'],
    ['in a script from right to left', 'עדה'],
    ['with quotes, for SQL and JSON', `'"\\$1--`],
  ])('%s is taken, and finds the face again by every way', async (_name, externalId) => {
    const tenant = await createTenant()
    const faceId = await enroll(tenant, externalId, axis(0))
    const path = `/v1/faces/${encodeURIComponent(externalId)}`
    const expected = { face_id: faceId, external_id: externalId }
    expect(await (await tenant.request('GET', path)).json()).toMatchObject(expected)
    expect(await (await tenant.request('GET', '/v1/faces')).json()).toMatchObject({ data: [expected] })
    await tenant.request('POST', '/v1/faces/verify', { external_id: externalId, embedding: axis(0) })
    const query = `external_id=${encodeURIComponent(externalId)}`
    expect(await (await tenant.request('GET', `/v1/verifications?${query}`)).json()).toMatchObject({ data: [expected] })
    expect((await tenant.request('PUT', path, { embedding: axis(1) })).status).toBe(200)
    expect((await tenant.request('DELETE', path)).status).toBe(204)
    expect((await tenant.request('GET', path)).status).toBe(404)
  })
})

// == Paths ==

describe('a path', () => {
  it.each(['%', '%2', '%zz', '%E0%A4%A', '%ff', '%C0%AF', '%ED%A0%80'])(
    'with %j, which is not UTF-8 in percent-encoding, is refused before anything else',
    async (segment) => {
      await expectRefused(MALFORMED_URL, (tenant) => [
        ...['GET', 'PUT', 'PATCH', 'DELETE', 'OPTIONS'].map((method) => tenant.request(method, `/v1/faces/${segment}`)),
        tenant.request('GET', `/v1/verifications/${segment}`),
        tenant.request('GET', `/v1/verifications?external_id=${segment}`),
        tenant.request('GET', `/v1/faces?cursor=${segment}`),
        tenant.request('GET', `/${segment}`),
        Promise.resolve(app.request(`/v1/faces/${segment}`, {}, env)),
      ])
    },
  )

  it.each(operations)(
    'that is not UTF-8 is refused as $method $template documents',
    async ({ method, path, template }) => {
      const response = await app.request(`${path}?%zz`, { method }, env)
      await expectProblem(response, MALFORMED_URL)
      const documented = document.paths[template]?.[method.toLowerCase()]?.responses['400']
      expect(documented?.description.split(', ')).toContain('MALFORMED_URL')
    },
  )

  it('with an encoded NUL is refused as the external_id that it is', async () => {
    await expectRefused(invalidParameter('external_id'), (tenant) => [
      tenant.request('GET', '/v1/faces/%00'),
      tenant.request('DELETE', '/v1/faces/ada%00'),
      tenant.request('PUT', '/v1/faces/ada%00', { embedding: axis(1) }),
    ])
  })

  it.each(['/v1/faces/%2e%2e', '/v1/faces/%2E%2e', '/v1/faces/%2e', '/v1/faces/..', '/v1/faces/ada/%2e%2e'])(
    '%s is what a URL makes of it, not an external_id',
    async (path) => {
      await expectRefused(NOT_FOUND, (tenant) =>
        ['GET', 'PUT', 'PATCH', 'DELETE'].map((method) => tenant.request(method, path)),
      )
    },
  )

  it.each([
    '/',
    '/v1',
    '/v1/',
    '/v1/face',
    '/V1/faces',
    '/v1/Faces',
    '/v2/faces',
    '/v1/faces/',
    '/v1//faces',
    '/v1/faces/a/b',
    '/v1/faces/verify/ada',
    '/v1/verifications/',
    '/v1/usage/2026-11',
    '/health/',
    '/.env',
    '/openapi.yaml',
  ])('%s is nothing, with a key and without', async (path) => {
    await expectRefused(NOT_FOUND, (tenant) => [
      tenant.request('GET', path),
      tenant.request('POST', path, { external_id: 'bob', embedding: axis(0) }),
      tenant.request('DELETE', path),
      Promise.resolve(app.request(path, {}, env)),
    ])
  })

  it.each([...Object.keys(document.paths), '/openapi.json'])(
    '%s refuses the methods that it does not take, and names those that it does',
    async (template) => {
      const path = toPath(template)
      // /v1/faces/verify is an external_id, too
      const allowed = operations
        .filter((operation) => new RegExp(`^${operation.template.replace(/\{\w+\}/g, '[^/]+')}$`).test(path))
        .map(({ method }) => method)
      const taken = new Set(template === '/openapi.json' ? ['GET'] : allowed)
      const others = ['GET', 'POST', 'PUT', 'PATCH', 'DELETE', 'OPTIONS', 'PROPFIND'].filter((name) => !taken.has(name))
      await expectNothingWritten(async (tenant) => {
        for (const method of others) {
          for (const response of [await tenant.request(method, path), await app.request(path, { method }, env)]) {
            expect(new Set(response.headers.get('Allow')?.split(', '))).toEqual(taken)
            await expectProblem(response, { status: 405, code: 'METHOD_NOT_ALLOWED' })
          }
        }
      })
    },
  )
})

// == Bodies ==

const WHOLE_BODY = invalidField('')

/** UTF-16, which begins with a byte order mark or does not. */
function utf16(text: string, isLittleEndian: boolean, mark = ''): Uint8Array<ArrayBuffer> {
  const bytes = new Uint8Array((text.length + mark.length) * 2)
  const view = new DataView(bytes.buffer)
  for (let index = 0; index < bytes.length / 2; index++) {
    view.setUint16(index * 2, (mark + text).charCodeAt(index), isLittleEndian)
  }
  return bytes
}

/** The text with every `?` replaced by the bytes: what no string can say. */
function withBytes(text: string, ...replacement: number[]): Uint8Array<ArrayBuffer> {
  return new Uint8Array([...new TextEncoder().encode(text)].flatMap((byte) => (byte === 0x3f ? replacement : byte)))
}

/** A letter as JSON may write it. */
const inEscapes = (letter: string) => `\\u00${letter.charCodeAt(0).toString(16)}`
const nested = (levels: number, open: string, close: string) => open.repeat(levels) + close.repeat(levels)

const BAD_BODIES: [name: string, spoil: (good: string) => BodyInit, refusal: Refusal][] = [
  ['that is empty', () => '', MALFORMED_JSON],
  ['of spaces', () => ' \n\t', MALFORMED_JSON],
  ['that is cut off', (good) => good.slice(0, -1), MALFORMED_JSON],
  ['with text behind', (good) => `${good} x`, MALFORMED_JSON],
  ['with a second object behind', (good) => good + good, MALFORMED_JSON],
  ['with NUL behind', (good) => `${good}\0`, MALFORMED_JSON],
  ['with a comma at the end', (good) => good.replace(/\}$/, ',}'), MALFORMED_JSON],
  ['with a comment', (good) => `/* good */${good}`, MALFORMED_JSON],
  ['in single quotes', (good) => good.replaceAll('"', "'"), MALFORMED_JSON],
  ['with a key without quotes', () => '{embedding:[]}', MALFORMED_JSON],
  ['with a raw line feed in a string', (good) => good.replace('{', '{"a":"\n",'), MALFORMED_JSON],
  ['that is a form', () => 'external_id=ada', MALFORMED_JSON],
  ['of null', () => 'null', WHOLE_BODY],
  ['of true', () => 'true', WHOLE_BODY],
  ['that is a number', () => '1', WHOLE_BODY],
  ['that is a string', (good) => JSON.stringify(good), WHOLE_BODY],
  ['that is an array', (good) => `[${good}]`, WHOLE_BODY],
  ['with a byte order mark', (good) => `\ufeff${good}`, MALFORMED_JSON],
  ['in UTF-16, little-endian', (good) => utf16(good, true), MALFORMED_JSON],
  ['in UTF-16, big-endian', (good) => utf16(good, false), MALFORMED_JSON],
  ['in UTF-16 with a byte order mark', (good) => utf16(good, true, '\ufeff'), MALFORMED_JSON],
  ['with a byte that UTF-8 never has', (good) => withBytes(good.replace('{', '{"?":1,'), 0xff), MALFORMED_JSON],
  ['with an overlong slash', (good) => withBytes(good.replace('{', '{"?":1,'), 0xc0, 0xaf), MALFORMED_JSON],
  ['with a surrogate in UTF-8', (good) => withBytes(good.replace('{', '{"?":1,'), 0xed, 0xa0, 0x80), MALFORMED_JSON],
  ['with a character cut off', (good) => withBytes(good.replace('{', '{"?":1,'), 0xe0, 0xa4), MALFORMED_JSON],
  ['with a key twice', (good) => good.replace(/"(\w+)"/, '"$1":1,"$1"'), MALFORMED_JSON],
  [
    'with a key twice, once in escapes',
    (good) => good.replace(/"(\w)(\w+)"/, (key, first, rest) => `"${inEscapes(first)}${rest}":1,${key}`),
    MALFORMED_JSON,
  ],
  ['with an unknown key twice', (good) => good.replace('{', '{"a":1,"\\u0061":1,'), MALFORMED_JSON],
  ['with a key twice below', (good) => good.replace('{', '{"a":[{"b":{"c":1,"d":{},"c":1}}],'), MALFORMED_JSON],
  ['with __proto__', (good) => good.replace('{', '{"__proto__":{"spoiled":true},'), MALFORMED_JSON],
  ['with __proto__ in escapes', (good) => good.replace('{', '{"\\u005f_proto__":{"spoiled":true},'), MALFORMED_JSON],
  ['with __proto__ below', (good) => good.replace('{', '{"a":{"__proto__":{"spoiled":true}},'), MALFORMED_JSON],
  [
    'of 9 levels of objects',
    (good) => good.replace('{', `{"a":${'{"a":'.repeat(8)}1${'}'.repeat(8)},`),
    MALFORMED_JSON,
  ],
  ['of 9 levels of arrays', (good) => good.replace('{', `{"a":${nested(8, '[', ']')},`), MALFORMED_JSON],
  ['of 30,000 levels', () => nested(30_000, '[', ']'), MALFORMED_JSON],
  ['of 60,000 levels that never end', () => '['.repeat(60_000), MALFORMED_JSON],
  ['of 100,000 levels', () => nested(100_000, '[', ']'), BODY_TOO_LARGE],
  ['of 65,537 bytes', (good) => good.padEnd(65_537), BODY_TOO_LARGE],
  ['of 65,537 bytes in fewer characters', (good) => good.padEnd(65_535, '\u00a0'), BODY_TOO_LARGE],
  ['of 65,537 bytes from a stream', (good) => new Blob([good.padEnd(65_537)]).stream(), BODY_TOO_LARGE],
]

describe('a body', () => {
  it.each(BAD_BODIES)('%s is refused wherever one is taken', async (_name, spoil, refusal) => {
    expect(withBody.map(({ method }) => method)).toEqual(expect.arrayContaining(['POST', 'PUT', 'PATCH']))
    await expectRefused(refusal, (tenant) =>
      withBody.map((operation) => request(tenant, operation, spoil(JSON.stringify(validBody(operation))))),
    )
    expect('spoiled' in {}).toBe(false)
  })

  it.each<[string, (good: string) => BodyInit]>([
    ['of 65,536 bytes', (good) => good.padEnd(65_536)],
    ['of 65,536 bytes from a stream', (good) => new Blob([good.padEnd(65_536)]).stream()],
    ['with spaces around', (good) => `\r\n\t ${good} \n`],
    ['with keys in escapes', (good) => good.replace(/"(\w)/, (_, letter) => `"${inEscapes(letter)}`)],
  ])('%s is taken wherever one is', async (_name, spell) => {
    for (const operation of withBody) {
      const tenant = await createTenant()
      await enroll(tenant, 'ada', axis(0))
      const response = await request(tenant, operation, spell(JSON.stringify(validBody(operation))))
      expect(response.status, await response.text()).toBeLessThan(300)
    }
  })

  it('may say a smaller Content-Length than it has, and is refused by what it has', async () => {
    await expectRefused(BODY_TOO_LARGE, (tenant) =>
      withBody.map((operation) =>
        request(tenant, operation, JSON.stringify(validBody(operation)).padEnd(65_537), { 'Content-Length': '10' }),
      ),
    )
  })

  it('that never ends is left after 1 MiB, and nothing beyond 64 KiB is kept', async () => {
    let sent = 0
    let wasCanceled = false
    const stream = new ReadableStream<Uint8Array>({
      pull(controller) {
        sent += 1024
        controller.enqueue(new Uint8Array(1024).fill(0x20))
      },
      cancel() {
        wasCanceled = true
      },
    })
    await expectRefused(BODY_TOO_LARGE, (tenant) => [tenant.request('POST', '/v1/faces', stream)])
    expect(wasCanceled).toBe(true)
    // read on for a while, so that a client that sends a little too much hears the answer
    expect(sent).toBeLessThan(1100 * 1024)
  })

  it('of 8 levels, with keys that are equal in different objects only, comes back as it was', async () => {
    const metadata = {
      a: { a: { a: { a: { a: { a: [] } } } } },
      list: [{ a: 1 }, { a: 1 }, 'a', 'a'],
      quoted: '"a":1,"a":{[',
      'quoted "key': '\\',
      '\\': '",',
    }
    const tenant = await createTenant()
    const face = { external_id: 'ada', embedding: axis(0), metadata }
    expect((await tenant.request('POST', '/v1/faces', face)).status).toBe(201)
    expect(await (await tenant.request('GET', '/v1/faces/ada')).json()).toMatchObject({ metadata })
  })
})

describe('a content type', () => {
  it.each([
    'text/plain',
    'text/json',
    'application/x-www-form-urlencoded',
    'multipart/form-data; boundary=x',
    'application/xml',
    'application/jsonp',
    'application/json5',
    'application/problem+json',
    'application/merge-patch+json',
    'application/json, text/plain',
    'x application/json',
    '*/*',
  ])('of %s is refused', async (contentType) => {
    await expectRefused(UNSUPPORTED, (tenant) =>
      withBody.map((operation) => request(tenant, operation, undefined, { 'Content-Type': contentType })),
    )
  })

  it('is required', async () => {
    await expectRefused(UNSUPPORTED, (tenant) =>
      withBody.map(async (operation) => {
        const bytes = new TextEncoder().encode(JSON.stringify(validBody(operation)))
        return sendBytes(tenant, operation, bytes)
      }),
    )
  })

  it.each([
    'application/json',
    'Application/JSON',
    'application/json; charset=utf-8',
    'application/json;charset="UTF-8"',
  ])('of %s is taken', async (contentType) => {
    for (const operation of withBody) {
      const tenant = await createTenant()
      await enroll(tenant, 'ada', axis(0))
      const bytes = new TextEncoder().encode(JSON.stringify(validBody(operation)))
      expect((await sendBytes(tenant, operation, bytes, { 'Content-Type': contentType })).status).toBeLessThan(300)
    }
  })

  it.each(['gzip', 'br', 'deflate', 'identity', 'x'])('with the content encoding %s is refused', async (encoding) => {
    await expectRefused(UNSUPPORTED, (tenant) =>
      withBody.map((operation) => request(tenant, operation, undefined, { 'Content-Encoding': encoding })),
    )
  })

  it('of JSON does not make gzip into JSON', async () => {
    const text = JSON.stringify({ external_id: 'bob', embedding: axis(0) })
    const gzip = new Blob([text]).stream().pipeThrough(new CompressionStream('gzip'))
    const bytes = new Uint8Array(await new Response(gzip).arrayBuffer())
    await expectRefused(MALFORMED_JSON, (tenant) => [tenant.request('POST', '/v1/faces', bytes)])
  })
})

// == Fields ==

describe('a field', () => {
  it.each([
    ['tenant_id', '/tenant_id'],
    ['id', '/id'],
    ['face_id', '/face_id'],
    ['created_at', '/created_at'],
    ['threshold', '/threshold'],
    ['template_id', '/template_id'],
    ['key_version', '/key_version'],
    ['sealed', '/sealed'],
    ['code', '/code'],
    ['confidence', '/confidence'],
    ['verified', '/verified'],
    ['constructor', '/constructor'],
    ['toString', '/toString'],
    ['Embedding', '/Embedding'],
    ['', '/'],
    ['a/b~c', '/a~1b~0c'],
    ['\ud800', '/\ufffd'],
    ['x'.repeat(300), `/${'x'.repeat(199)}`],
  ])('of the name %j is unknown, and refused by a pointer to it', async (name, pointer) => {
    await expectRefused(invalidField(pointer), (tenant) =>
      withBody.map((operation) => request(tenant, operation, { ...validBody(operation), [name]: tenant.id })),
    )
  })

  it('that is unknown is named beside the others that are wrong', async () => {
    await expectNothingWritten(async (tenant) => {
      const response = await tenant.request('POST', '/v1/faces', { external_id: '', threshold: 0, tenant_id: '' })
      const { errors } = await response.json<{ errors: { pointer: string }[] }>()
      expect(errors.map(({ pointer }) => pointer).sort()).toEqual([
        '/embedding',
        '/external_id',
        '/tenant_id',
        '/threshold',
      ])
    })
  })

  it('is named among 20 at most', async () => {
    await expectNothingWritten(async (tenant) => {
      const fields = Object.fromEntries(Array.from({ length: 1000 }, (_, index) => [`field ${index}`, index]))
      const response = await tenant.request('POST', '/v1/faces/search', { embedding: axis(0), ...fields })
      expect(response.status).toBe(422)
      expect((await response.json<{ errors: unknown[] }>()).errors).toHaveLength(20)
    })
  })
})

describe('model', () => {
  it.each<[string, Refusal?]>([
    ['""'],
    [JSON.stringify('x'.repeat(101))],
    ['null'],
    ['1'],
    ['["arcface-512@1"]'],
    ['NaN', MALFORMED_JSON],
  ])('of %s is refused', async (json, refusal = invalidField('/model')) => {
    await expectRefused(refusal, (tenant) =>
      taking('model').map((operation) => request(tenant, operation, bodyWith(operation, 'model', json))),
    )
  })

  it.each(['arcface-512@2', 'ARCFACE-512@1', 'arcface-512@1 ', 'arcface-512', 'x'.repeat(100)])(
    'that is %j and not the tenant’s is refused, wherever an embedding is taken',
    async (model) => {
      expect(taking('model')).toEqual(taking('embedding'))
      await expectRefused({ status: 409, code: 'MODEL_MISMATCH' }, (tenant) =>
        taking('model').map((operation) => request(tenant, operation, { ...validBody(operation), model })),
      )
    },
  )

  it('may be left out', async () => {
    for (const operation of taking('model')) {
      const tenant = await createTenant()
      await enroll(tenant, 'ada', axis(0))
      const response = await request(tenant, operation, bodyWith(operation, 'model', undefined))
      expect(response.status).toBe(TAKEN[operation.id] ?? 200)
    }
  })
})

const METADATA_OVERHEAD = '{"a":""}'.length

describe('metadata', () => {
  it.each<[string, string, Refusal?]>([
    ['that is an array', '[]'],
    ['that is an array of objects', '[{"sector":"north"}]'],
    ['that is a string', '"north"'],
    ['that is a number', '1'],
    ['that is a boolean', 'false'],
    ['of null', 'null'],
    ['with NUL in a value', '{"a":["b\\u0000c"]}'],
    ['with NUL in a key', '{"a":{"b\\u0000c":1}}'],
    ['with a lone surrogate in a value', '{"a":{"b":"\\ud800"}}'],
    ['with a lone surrogate in a key', '{"a":[{"\\udc00":1}]}'],
    ['with 1e999', '{"a":[[1e999]]}'],
    ['with -1e999', '{"a":{"b":-1e999}}'],
    ['with a number that jsonb would write out in 309 digits', '{"a":1e308}'],
    ['with a number that jsonb would write out in 324 digits', '{"a":[-5e-324]}'],
    ['with an integer that JavaScript would round', '{"a":12345678901234567890}'],
    ['of 8,193 bytes', JSON.stringify({ a: 'x'.repeat(8193 - METADATA_OVERHEAD) })],
    ['of 8,193 bytes in fewer characters', JSON.stringify({ a: `${'é'.repeat((8192 - METADATA_OVERHEAD) / 2)}x` })],
    ['of 8,193 bytes in keys', JSON.stringify({ ['x'.repeat(8193 - '{"":1}'.length)]: 1 })],
    ['with the token NaN', '{"a":NaN}', MALFORMED_JSON],
    ['with a key twice', '{"a":1,"a":1}', MALFORMED_JSON],
    ['with __proto__', '{"__proto__":{}}', MALFORMED_JSON],
  ])('%s is refused', async (_name, json, refusal = invalidField('/metadata')) => {
    expect(taking('metadata').map(({ id }) => id)).toEqual(
      expect.arrayContaining(['enrollFace', 'replaceFace', 'updateFaceMetadata']),
    )
    await expectRefused(refusal, (tenant) =>
      taking('metadata').map((operation) => request(tenant, operation, bodyWith(operation, 'metadata', json))),
    )
  })

  it('is all that a PATCH takes, and required there', async () => {
    await expectRefused(invalidField('/metadata'), (tenant) => [tenant.request('PATCH', '/v1/faces/ada', {})])
    await expectRefused(invalidField('/quality_score'), (tenant) => [
      tenant.request('PATCH', '/v1/faces/ada', { metadata: {}, quality_score: 1 }),
    ])
  })

  it.each<[string, Record<string, unknown>]>([
    ['of no keys', {}],
    ['of 8,192 bytes', { a: 'x'.repeat(8192 - METADATA_OVERHEAD) }],
    ['of 8,192 bytes in fewer characters', { a: 'é'.repeat((8192 - METADATA_OVERHEAD) / 2) }],
    ['with what JavaScript takes for something else', { constructor: 1, toString: null, length: 0, '': [''] }],
    ['with numbers at the limits', { numbers: [0, 1e-15, -1e-15, 0.1, 9007199254740991, -9007199254740991] }],
    ['with any text', { text: '\u0001\u202e\ufeff 😀 Zoe\u0308 \u2028 \ufffd \\u0000' }],
  ])('%s comes back as it was', async (_name, metadata) => {
    const tenant = await createTenant()
    await enroll(tenant, 'ada', axis(0))
    const response = await tenant.request('PATCH', '/v1/faces/ada', { metadata })
    expect((await response.json<{ metadata: unknown }>()).metadata).toEqual(metadata)
    expect(await (await tenant.request('GET', '/v1/faces/ada')).json()).toMatchObject({ metadata })
  })
})

describe('a quality_score', () => {
  it.each<[string, Refusal?]>([
    ['-0.0001'],
    ['1.0001'],
    ['1e999'],
    ['-1e999'],
    ['"0.5"'],
    ['null'],
    ['true'],
    ['[0.5]'],
    ['NaN', MALFORMED_JSON],
    ['Infinity', MALFORMED_JSON],
  ])('of %s is refused', async (json, refusal = invalidField('/quality_score')) => {
    expect(taking('quality_score')).toHaveLength(2)
    await expectRefused(refusal, (tenant) =>
      taking('quality_score').map((operation) =>
        request(tenant, operation, bodyWith(operation, 'quality_score', json)),
      ),
    )
  })

  it.each([
    ['0', 0],
    ['-0', 0],
    ['5e-324', 0],
    ['0.12345', 0.1235],
    ['0.99999', 1],
    ['1', 1],
  ])('of %s is kept, with four decimals', async (json, kept) => {
    const tenant = await createTenant()
    await enroll(tenant, 'ada', axis(0))
    const response = await tenant.request(
      'PUT',
      '/v1/faces/ada',
      `{"embedding":${JSON.stringify(axis(0))},"quality_score":${json}}`,
    )
    expect(await response.json()).toMatchObject({ quality_score: kept })
  })
})

describe('max_results', () => {
  it.each<[string, Refusal?]>([
    ['0'],
    ['-1'],
    ['21'],
    ['1.5'],
    ['1e999'],
    ['"5"'],
    ['null'],
    ['true'],
    ['[5]'],
    ['NaN', MALFORMED_JSON],
  ])('of %s is refused', async (json, refusal = invalidField('/max_results')) => {
    expect(taking('max_results')).toHaveLength(1)
    await expectRefused(refusal, (tenant) =>
      taking('max_results').map((operation) => request(tenant, operation, bodyWith(operation, 'max_results', json))),
    )
  })

  it.each(['1', '20', '5.0', '2e1'])('of %s is taken', async (json) => {
    const tenant = await createTenant()
    const body = `{"embedding":${JSON.stringify(axis(0))},"max_results":${json}}`
    expect((await tenant.request('POST', '/v1/faces/search', body)).status).toBe(200)
  })
})

// == Queries ==

const LISTS = ['/v1/faces', '/v1/verifications', '/v1/identifications', '/v1/api-keys']

describe('a list', () => {
  it.each(['0', '101', '999', '1000', '-1', '+1', '1.5', '1e1', '0x10', 'abc', '', '%201', '٣', 'NaN', '1%00'])(
    'refuses a limit of %j',
    async (limit) => {
      await expectRefused(invalidParameter('limit'), (tenant) =>
        LISTS.map((list) => tenant.request('GET', `${list}?limit=${limit}`)),
      )
    },
  )

  it.each(['1', '100', '007'])('takes a limit of %s', async (limit) => {
    const tenant = await createTenant()
    for (const list of LISTS) expect((await tenant.request('GET', `${list}?limit=${limit}`)).status).toBe(200)
  })

  it.each([
    ['a limit twice', 'limit=1&limit=1', 'limit'],
    ['a limit twice, once in escapes', 'limit=1&%6cimit=2', 'limit'],
    ['a cursor twice', 'cursor=a&cursor=b', 'cursor'],
    ['an unknown parameter', 'page=2', 'page'],
    ['a parameter in other letters', 'Limit=1', 'Limit'],
    ['a tenant_id', 'tenant_id=00000000-0000-4000-8000-000000000000', 'tenant_id'],
    ['__proto__', '__proto__=1', '__proto__'],
    ['constructor', 'constructor=1', 'constructor'],
    ['an empty cursor', 'cursor=', 'cursor'],
    ['a cursor that is not one', 'cursor=abc', 'cursor'],
    ['a cursor that is not base64url', 'cursor=%F0%9F%98%80!', 'cursor'],
    ['a cursor of 16 bytes', `cursor=${'A'.repeat(22)}`, 'cursor'],
    ['a cursor of zeros', `cursor=${'A'.repeat(200)}`, 'cursor'],
    ['a cursor of 2,001 characters', `cursor=${'A'.repeat(2001)}`, 'cursor'],
  ])('refuses %s', async (_name, query, parameter) => {
    await expectRefused(invalidParameter(parameter), (tenant) =>
      LISTS.map((list) => tenant.request('GET', `${list}?${query}`)),
    )
  })

  it('of decisions refuses an external_id twice', async () => {
    await expectRefused(invalidParameter('external_id'), (tenant) =>
      ['/v1/verifications', '/v1/identifications'].map((list) =>
        tenant.request('GET', `${list}?external_id=ada&external_id=bob`),
      ),
    )
  })
})

describe('a cursor', () => {
  const lists = [
    '/v1/faces?limit=1',
    '/v1/verifications?limit=1',
    '/v1/verifications?limit=1&external_id=ada',
    '/v1/identifications?limit=1',
    '/v1/identifications?limit=1&external_id=ada',
    '/v1/api-keys?limit=1',
  ]

  /** A tenant whose every list has two pages. */
  async function createBusyTenant(): Promise<TestTenant> {
    const tenant = await createTenant()
    await createKey(tenant.id, [])
    await enroll(tenant, 'ada', axis(0))
    await enroll(tenant, 'bob', axis(1))
    for (let round = 0; round < 2; round++) {
      await tenant.request('POST', '/v1/faces/verify', { external_id: 'ada', embedding: axis(0) })
      await tenant.request('POST', '/v1/faces/search', { embedding: axis(0) })
    }
    return tenant
  }

  async function readCursor(tenant: TestTenant, list: string): Promise<string> {
    const page = await (await tenant.request('GET', list)).json<{ has_more: boolean; next_cursor: string }>()
    expect(page).toMatchObject({ has_more: true, next_cursor: expect.stringMatching(/^[A-Za-z0-9_-]+$/) })
    return page.next_cursor
  }

  it.each(lists)('of %s is good for that list of that tenant and for nothing else', async (list) => {
    const tenant = await createBusyTenant()
    const rival = await createBusyTenant()
    const before = [await readRows(tenant), await readRows(rival)]
    const cursor = await readCursor(tenant, list)

    const next = await tenant.request('GET', `${list}&cursor=${cursor}`)
    expect(await next.json()).toMatchObject({ data: [{}], has_more: false, next_cursor: null })

    await expectProblem(await rival.request('GET', `${list}&cursor=${cursor}`), invalidParameter('cursor'))
    for (const other of lists.filter((name) => name !== list)) {
      await expectProblem(await tenant.request('GET', `${other}&cursor=${cursor}`), invalidParameter('cursor'))
    }
    expect([await readRows(tenant), await readRows(rival)]).toEqual(before)
  })

  it('is refused with any one of its bytes changed', async () => {
    const tenant = await createBusyTenant()
    const cursor = await readCursor(tenant, '/v1/faces?limit=1')
    // the last character of a cursor may hold bits that belong to no byte
    for (let index = 0; index < cursor.length - 1; index++) {
      const other = cursor.charAt(index) === 'A' ? 'B' : 'A'
      const forged = cursor.slice(0, index) + other + cursor.slice(index + 1)
      await expectProblem(await tenant.request('GET', `/v1/faces?cursor=${forged}`), invalidParameter('cursor'))
    }
  })

  it('is good with another limit', async () => {
    const tenant = await createBusyTenant()
    const cursor = await readCursor(tenant, '/v1/faces?limit=1')
    const next = await tenant.request('GET', `/v1/faces?limit=100&cursor=${cursor}`)
    expect(await next.json()).toMatchObject({ data: [{ external_id: 'bob' }], has_more: false })
  })
})

describe('a period', () => {
  it.each([
    '',
    'abc',
    '2026',
    '2026-1',
    '2026-00',
    '2026-13',
    '26-01',
    '1999-12',
    '2100-01',
    '2026/01',
    '2026-01-01',
    '2026-01%20',
    '%202026-01',
    '2026-01%0a',
    '2026-01%00',
    '٢٠٢٦-٠١',
    "2026-01'--",
  ])('of %j is refused', async (period) => {
    await expectRefused(invalidParameter('period'), (tenant) => [tenant.request('GET', `/v1/usage?period=${period}`)])
  })

  it('is refused twice, and beside an unknown parameter', async () => {
    await expectRefused(invalidParameter('period'), (tenant) => [
      tenant.request('GET', '/v1/usage?period=2026-01&period=2026-02'),
    ])
    await expectRefused(invalidParameter('tenant_id'), (tenant) => [
      tenant.request('GET', `/v1/usage?period=2026-01&tenant_id=${tenant.id}`),
    ])
  })

  it.each(['2000-01', '2026-12', '2099-12'])('of %s is taken', async (period) => {
    const tenant = await createTenant()
    const response = await tenant.request('GET', `/v1/usage?period=${period}`)
    expect(await response.json()).toMatchObject({ period, registrations: 0 })
  })
})

describe('a verification_id', () => {
  it.each([
    'ada',
    '1',
    'null',
    '%00',
    '00000000-0000-4000-8000-00000000000',
    '00000000-0000-4000-8000-0000000000000',
    '00000000000040008000000000000000',
    '{00000000-0000-4000-8000-000000000000}',
    '00000000-0000-4000-8000-00000000000g',
    "00000000-0000-4000-8000-000000000000'--",
  ])('of %s is refused', async (id) => {
    await expectRefused(invalidParameter('verification_id'), (tenant) => [
      tenant.request('GET', `/v1/verifications/${id}`),
    ])
  })

  it('that is a UUID finds the verification, and nothing when it is of none', async () => {
    const tenant = await createTenant()
    await enroll(tenant, 'ada', axis(0))
    const decision = await tenant.request('POST', '/v1/faces/verify', { external_id: 'ada', embedding: axis(0) })
    const { verification_id: id } = await decision.json<{ verification_id: string }>()
    expect((await tenant.request('GET', `/v1/verifications/${id}`)).status).toBe(200)
    await expectProblem(await tenant.request('GET', `/v1/verifications/${crypto.randomUUID()}`), {
      status: 404,
      code: 'VERIFICATION_NOT_FOUND',
    })
  })
})

// == Who may come in ==

/** As `request`, with the headers given and no others. */
function requestAs(operation: Operation, headers: Record<string, string>) {
  const body = operation.fields.length > 0 ? JSON.stringify(validBody(operation)) : null
  return app.request(
    operation.path,
    { method: operation.method, headers: { ...headers, 'Content-Type': 'application/json' }, body },
    env,
  )
}

const UNAUTHENTICATED: Refusal = { status: 401, code: 'UNAUTHENTICATED' }

const CREDENTIALS: [name: string, headersOf: (tenant: TestTenant) => Promise<Record<string, string>>][] = [
  ['none', async () => ({})],
  ['an empty one', async () => ({ Authorization: '', 'X-API-Key': '' })],
  ['a scheme without a key', async () => ({ Authorization: 'Bearer ' })],
  ['one of another scheme', async ({ key }) => ({ Authorization: `Basic ${btoa(`${key}:`)}` })],
  ['a key without a scheme', async ({ key }) => ({ Authorization: key })],
  ['what is not a key', async () => ({ Authorization: 'Bearer nonsense' })],
  ['what is not a key, as X-API-Key', async () => ({ 'X-API-Key': 'nonsense' })],
  ['a key that is cut off', async ({ key }) => ({ Authorization: `Bearer ${key.slice(0, -1)}` })],
  ['a key that is too long', async ({ key }) => ({ Authorization: `Bearer ${key}0` })],
  ['a key with the wrong checksum', async ({ key }) => ({ Authorization: `Bearer ${withTypo(key)}` })],
  ['a key for the other environment', async ({ key }) => ({ 'X-API-Key': key.replace('rk_test_', 'rk_live_') })],
  ['a key in lower case', async ({ key }) => ({ Authorization: `Bearer ${key.toLowerCase()}` })],
  ['the same key twice in a header', async ({ key }) => ({ 'X-API-Key': `${key}, ${key}` })],
  ['a right checksum that is nobody’s key', async () => ({ Authorization: `Bearer ${generateApiKey('test')}` })],
  ['nobody’s live key', async () => ({ 'X-API-Key': generateApiKey('live') })],
  [
    'a key that has expired',
    async ({ id, key }) => {
      await asAdmin`update api_keys set expires_at = now() - interval '1 second' where tenant_id = ${id}`
      return { Authorization: `Bearer ${key}` }
    },
  ],
  [
    'a key that was revoked',
    async ({ id, key }) => {
      await asAdmin`update api_keys set revoked_at = now() where tenant_id = ${id}`
      return { Authorization: `Bearer ${key}` }
    },
  ],
  [
    'a key of a tenant that is not active',
    async ({ id, key }) => {
      await asAdmin`update tenants set is_active = false where id = ${id}`
      return { Authorization: `Bearer ${key}` }
    },
  ],
  [
    'two keys that differ',
    async ({ id, key }) => ({ Authorization: `Bearer ${key}`, 'X-API-Key': (await createKey(id, SCOPES)).key }),
  ],
]

function withTypo(key: string): string {
  return key.slice(0, -1) + (key.endsWith('0') ? '1' : '0')
}

describe('a request with the credential', () => {
  it.each(CREDENTIALS)('%s is refused on every route, in the same bytes as none', async (_name, headersOf) => {
    await expectNothingWritten(async (tenant) => {
      const headers = { ...(await headersOf(tenant)), 'X-Request-Id': 'the-same' }
      for (const operation of guarded) {
        const refused = await requestAs(operation, headers)
        expect(refused.headers.get('WWW-Authenticate')).toBe('Bearer')
        await expectProblem(refused.clone(), UNAUTHENTICATED)
        const anonymous = await requestAs(operation, { 'X-Request-Id': 'the-same' })
        expect(await refused.text()).toBe(await anonymous.text())
        // how long it took is not always the same, even of the same request
        for (const { headers: answered } of [refused, anonymous]) answered.delete('Server-Timing')
        expect([...refused.headers]).toEqual([...anonymous.headers])
      }
    })
  })

  it.each(CREDENTIALS)('%s is refused by an isolate that has never seen the key, too', async (_name, headersOf) => {
    const tenant = await createTenant()
    const headers = await headersOf(tenant)
    for (const operation of guarded) await expectProblem(await requestAs(operation, headers), UNAUTHENTICATED)
    expect(await countRows(tenant)).toEqual({
      faces: 0,
      verifications: 0,
      identifications: 0,
      integrity_events: 0,
      usage_events: 0,
    })
  })

  it.each<[string, (key: string) => Record<string, string>]>([
    ['a key as Bearer', (key) => ({ Authorization: `Bearer ${key}` })],
    ['a key as bearer, whose letters do not matter', (key) => ({ Authorization: `bEARER  ${key}` })],
    ['a key as X-API-Key', (key) => ({ 'X-API-Key': key })],
    ['the same key both ways', (key) => ({ Authorization: `Bearer ${key}`, 'X-API-Key': key })],
  ])('%s is taken on every route', async (_name, headersOf) => {
    for (const operation of guarded) {
      const tenant = await createTenant()
      await enroll(tenant, 'ada', axis(0))
      const response = await requestAs(operation, headersOf(tenant.key))
      const ofNobody = { rotateApiKey: 404, revokeApiKey: 404 }
      expect(response.status).toBe({ ...TAKEN, ...ofNobody }[operation.id] ?? 200)
    }
  })

  it('a key with a typo is refused without asking the database, one that is nobody’s after asking once', async () => {
    const { key } = await createTenant()
    const show = (credential: string) => async () =>
      app.request('/v1/faces', { headers: { 'X-API-Key': credential } }, env)
    expect(await countRequests(show(withTypo(key)))).toMatchObject({ requests: 0 })
    expect(await countRequests(show(generateApiKey('test')))).toMatchObject({ requests: 1 })
  })

  it('a key that expires later is taken', async () => {
    const tenant = await createTenant()
    await asAdmin`update api_keys set expires_at = now() + interval '1 minute' where tenant_id = ${tenant.id}`
    expect((await tenant.request('GET', '/v1/faces')).status).toBe(200)
  })
})

const SCOPE_OF: Record<string, Scope> = {
  enrollFace: 'faces:write',
  replaceFace: 'faces:write',
  updateFaceMetadata: 'faces:write',
  eraseFace: 'faces:write',
  listFaces: 'faces:read',
  findFace: 'faces:read',
  verifyFace: 'verify',
  searchFaces: 'identify',
  listVerifications: 'audit:read',
  findVerification: 'audit:read',
  listIdentifications: 'audit:read',
  findUsage: 'usage:read',
  listApiKeys: 'admin',
  createApiKey: 'admin',
  rotateApiKey: 'admin',
  revokeApiKey: 'admin',
  findOwnTenant: 'admin',
  changeOwnTenant: 'admin',
}

describe('a scope', () => {
  it.each(guarded)('is needed for $method $template, and named when it is missing', async (operation) => {
    const scope = SCOPE_OF[operation.id]
    if (!scope) throw new Error(`say which scope ${operation.id} needs`)
    const missing = { status: 403, code: 'MISSING_SCOPE' } as const
    await expectNothingWritten(async (tenant) => {
      const withNone = { ...tenant, ...(await createKey(tenant.id, [])) }
      await expectProblem(await request(withNone, operation), missing)

      const others = SCOPES.filter((name) => name !== scope)
      const withOthers = { ...tenant, ...(await createKey(tenant.id, others)) }
      const refused = await request(withOthers, operation)
      expect((await refused.clone().json<{ detail: string }>()).detail).toContain(`"${scope}"`)
      await expectProblem(refused, missing)
    })

    const tenant = await createTenant([scope])
    await enroll({ ...tenant, ...(await createKey(tenant.id, ['faces:write'])) }, 'ada', axis(0))
    const taken = await request(tenant, operation)
    expect(taken.status).toBe(TAKEN[operation.id] ?? 200)
  })
})

describe('an X-Request-Id', () => {
  it.each(['a', 'Order-4711', 'f47ac10b-58cc-4372-a567-0e02b2c3d479', 'x'.repeat(64)])(
    'of %s is repeated in answers and in the audit',
    async (proposed) => {
      const tenant = await createTenant()
      await enroll(tenant, 'ada', axis(0))
      const probe = { external_id: 'ada', embedding: axis(0) }
      const decided = await tenant.request('POST', '/v1/faces/verify', probe, { 'X-Request-Id': proposed })
      expect(decided.headers.get('X-Request-Id')).toBe(proposed)
      const audit = await tenant.request('GET', '/v1/verifications')
      expect(await audit.json()).toMatchObject({ data: [{ request_id: proposed }] })
      for (const path of ['/nowhere', '/v1/faces', '/v1/faces/%ff']) {
        const refused = await app.request(path, { headers: { 'X-Request-Id': proposed } }, env)
        expect(refused.headers.get('X-Request-Id')).toBe(proposed)
        expect((await refused.json<{ request_id: string }>()).request_id).toBe(proposed)
      }
    },
  )

  it.each(['', 'a b', 'a_b', 'a/b', 'a,b', '<script>', '"', '%0d%0a', 'x'.repeat(65)])(
    'of %j is replaced',
    async (proposed) => {
      const paths = ['/health', '/nowhere', '/v1/faces', '/v1/faces/%ff']
      for (const path of paths) {
        const response = await app.request(path, { headers: { 'X-Request-Id': proposed } }, env)
        expect(response.headers.get('X-Request-Id')).toMatch(UUID)
      }
    },
  )

  it('is new for each request when none is proposed', async () => {
    const ids = [await app.request('/health', {}, env), await app.request('/health', {}, env)].map((response) =>
      response.headers.get('X-Request-Id'),
    )
    expect(ids).toEqual([expect.stringMatching(UUID), expect.stringMatching(UUID)])
    expect(ids[0]).not.toBe(ids[1])
  })
})
