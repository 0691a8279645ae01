// Proves that bad input is refused with the exact problem it is, on every route that takes it, and that
// nothing is written then: SECURITY.md 3.1, and who may come in at all. Routes are read from
// /openapi.json, so that a new one is covered unasked, and each is asked in every way in which it may be: with an
// embedding, with a picture, and with a form. Runs on a real PostgreSQL with row-level security, through the real
// driver. Fake: the embeddings, which are axes, and the recognizer, for which a picture is a text that says what it shows.
import { env } from 'cloudflare:workers'
import { describe, expect, it } from 'vitest'
import { app } from '../../src/app.ts'
import { generateApiKey, SCOPES, type Scope } from '../../src/auth/api-key.ts'
import type { ProblemCode } from '../../src/problem.ts'
import { MAX_IMAGE_BYTES } from '../../src/recognizer.ts'
import { inBase64, type Parts, pictureOf, sendForm, toForm } from './picture.ts'
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
  requestBody?: { content: Record<string, { schema: Schema }> }
  responses: Record<string, { description: string }>
}

interface Document {
  paths: Record<string, Record<string, DocumentedOperation>>
  components: { schemas: Record<string, Schema> }
}

/** An operation, and the way in which it is asked. */
interface Operation {
  id: string
  method: string
  template: string
  path: string
  kind: 'no body' | 'JSON' | 'an embedding' | 'a picture' | 'a form'
  /** Names of the fields of its body; none when it takes no body. */
  fields: string[]
  /** Those of them that are objects with a face in them. */
  sides: string[]
}

const document = await (await app.request('/openapi.json', {}, env)).json<Document>()

/** In the place of each id in a path: of ada, or of nobody. */
const toPath = (template: string) => template.replace('{external_id}', 'ada').replace(/\{\w+\}/, crypto.randomUUID())

function propertiesOf(operation: DocumentedOperation, mediaType: string): Record<string, Schema> {
  const schema = operation.requestBody?.content[mediaType]?.schema
  const name = schema?.$ref?.split('/').at(-1)
  return (name ? document.components.schemas[name] : schema)?.properties ?? {}
}

/** What a face is given as, in JSON; a request has one of the two. */
const SOURCES = { 'an embedding': ['embedding', 'model'], 'a picture': ['image'] } as const
const FACE_FIELDS: readonly string[] = Object.values(SOURCES).flat()
const isFace = (name: string) => FACE_FIELDS.includes(name)

const documented = Object.entries(document.paths).flatMap(([template, methods]) =>
  Object.entries(methods).map(([method, operation]) => ({
    id: operation.operationId,
    method: method.toUpperCase(),
    template,
    path: toPath(template),
    properties: propertiesOf(operation, 'application/json'),
    formFields: Object.keys(propertiesOf(operation, 'multipart/form-data')),
  })),
)

const operations = documented.flatMap(({ properties, formFields, ...operation }): Operation[] => {
  const fields = Object.keys(properties)
  const sides = fields.filter((field) => Object.keys(properties[field]?.properties ?? {}).some(isFace))
  const faceFields = new Set(
    [...fields, ...sides.flatMap((side) => Object.keys(properties[side]?.properties ?? {}))].filter(isFace),
  )
  // the keys of SOURCES
  const kinds = (Object.keys(SOURCES) as (keyof typeof SOURCES)[]).filter((kind) =>
    SOURCES[kind].every((field) => faceFields.has(field)),
  )
  if (kinds.length === 0) {
    return [{ ...operation, kind: fields.length > 0 ? 'JSON' : 'no body', fields, sides }]
  }
  return [
    ...kinds.map((kind) => {
      const isOther = (field: string) => isFace(field) && !SOURCES[kind].some((name) => name === field)
      return { ...operation, kind, fields: fields.filter((field) => !isOther(field)), sides }
    }),
    { ...operation, kind: 'a form', fields: formFields, sides: [] },
  ]
})
// the operator's have another credential: operator.test.ts
const guarded = operations.filter(({ template }) => /^\/v1\/(?!operator\/)/.test(template))
const withForm = guarded.filter(({ kind }) => kind === 'a form')
/** In JSON. */
const withBody = guarded.filter(({ kind, fields }) => kind !== 'a form' && fields.length > 0)

/** Where a body takes a field: in itself, or in an object of it. */
interface Place {
  operation: Operation
  side: string | null
}

const fieldsOfSide = ({ kind }: Operation): readonly string[] =>
  kind === 'an embedding' || kind === 'a picture' ? SOURCES[kind] : []

function taking(field: string): Place[] {
  return withBody.flatMap((operation) => [
    ...(operation.fields.includes(field) ? [{ operation, side: null }] : []),
    ...(fieldsOfSide(operation).includes(field) ? operation.sides.map((side) => ({ operation, side })) : []),
  ])
}
const formsTaking = (field: string) => withForm.filter(({ fields }) => fields.includes(field))
const idsOf = (places: Place[]) => places.map(({ operation: { id }, side }) => (side ? `${id} ${side}` : id))

const PICTURE = pictureOf(axis(1))

/** A body that the operation takes. Enrolls bob, because ada is enrolled already. */
function validBody({ id, fields, kind, sides }: Operation): Record<string, unknown> {
  const faces: Record<string, unknown> = { embedding: axis(1), model: 'arcface-512@1', image: inBase64(PICTURE) }
  const side = Object.fromEntries(fieldsOfSide({ kind } as Operation).map((name) => [name, faces[name]]))
  const samples: Record<string, unknown> = {
    ...faces,
    ...Object.fromEntries(sides.map((name) => [name, side])),
    external_id: id === 'enrollFace' ? 'bob' : 'ada',
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

/** A form that the operation takes. */
function validParts({ id, fields }: Operation): Parts {
  const samples: Record<string, Parts[number][1]> = {
    external_id: id === 'enrollFace' ? 'bob' : 'ada',
    image: { file: PICTURE },
    first: { file: PICTURE },
    second: { file: PICTURE },
    metadata: '{"sector":"north"}',
    max_results: '3',
  }
  return fields.map((field) => {
    const sample = samples[field]
    if (sample === undefined) throw new Error(`write a sample for the part "${field}"`)
    return [field, sample]
  })
}

/** The same with one part in the place of those of its name; without them when there is none. */
function partsWith(operation: Operation, field: string, ...parts: Parts[number][1][]): Parts {
  const others = validParts(operation).filter(([name]) => name !== field)
  return [...others, ...parts.map((part): Parts[number] => [field, part])]
}

/** The valid body as text, with one field spelled as given; without that field when that is undefined. */
function bodyWith({ operation, side }: Place, field: string, json: string | undefined): string {
  const placeholder = 'to be replaced'
  const replaced = { [field]: json === undefined ? undefined : placeholder }
  const body = validBody(operation)
  const changed = side ? { ...body, [side]: { ...(body[side] as object), ...replaced } } : { ...body, ...replaced }
  return JSON.stringify(changed).replace(JSON.stringify(placeholder), () => json ?? '')
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
  if (operation.kind === 'a form') return requestForm(tenant, operation, validParts(operation), headers)
  const text = operation.fields.length > 0 ? (body ?? validBody(operation)) : undefined
  return tenant.request(operation.method, pathFor(tenant, operation), text, headers)
}

function requestForm(tenant: TestTenant, operation: Operation, parts: Parts, headers?: Record<string, string>) {
  return sendForm(tenant, operation.method, pathFor(tenant, operation), toForm(parts), headers)
}

/** Of keys, it is the tenant's own that is acted upon. */
function pathFor(tenant: TestTenant, { template, path }: Operation): string {
  return template.includes('{api_key_id}') ? template.replace('{api_key_id}', tenant.keyId) : path
}

/** With the tenant's key and only the headers given: `tenant.request` would add a content type. */
async function sendBytes(
  tenant: TestTenant,
  operation: Operation,
  body: BodyInit,
  headers: Record<string, string> = {},
): Promise<Response> {
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
  /** Whether another picture may be taken; nothing is said of it when it is no matter of a picture. */
  retake?: boolean
  reasons?: string[]
}

const MALFORMED_JSON: Refusal = { status: 400, code: 'MALFORMED_JSON' }
const MALFORMED_URL: Refusal = { status: 400, code: 'MALFORMED_URL' }
const NOT_FOUND: Refusal = { status: 404, code: 'NOT_FOUND' }
const BODY_TOO_LARGE: Refusal = { status: 413, code: 'BODY_TOO_LARGE' }
const UNSUPPORTED: Refusal = { status: 415, code: 'UNSUPPORTED_MEDIA_TYPE' }
const MALFORMED_FORM: Refusal = { status: 400, code: 'MALFORMED_FORM' }
const IMAGE_TOO_LARGE: Refusal = { status: 413, code: 'IMAGE_TOO_LARGE', retake: true }

function invalidField(...pointers: string[]): Refusal {
  return { status: 422, code: 'INVALID_REQUEST', errors: pointers.map((pointer) => ({ pointer })) }
}

function invalidParameter(parameter: string): Refusal {
  return { status: 422, code: 'INVALID_REQUEST', errors: [{ parameter }] }
}

async function expectProblem(response: Response, { status, code, errors, ...extensions }: Refusal): Promise<void> {
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
    ...extensions,
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

/** With the field spelled like this, wherever JSON takes one, the answer is the refusal; `path` may lead into the field. */
async function expectFieldRefused(refusal: Refusal, field: string, json: string | undefined): Promise<void> {
  await expectNothingWritten(async (tenant) => {
    const places = taking(field)
    expect(places).not.toHaveLength(0)
    const answers = await Promise.all(
      places.map((place) => request(tenant, place.operation, bodyWith(place, field, json))),
    )
    for (const [index, answer] of answers.entries()) await expectProblem(answer, within(refusal, places[index]?.side))
  })
}

/** The same refusal of what lies in an object of the body. */
function within(refusal: Refusal, side: string | null | undefined): Refusal {
  if (!refusal.errors || !side) return refusal
  return {
    ...refusal,
    errors: refusal.errors.map((error) => ('pointer' in error ? { pointer: `/${side}${error.pointer}` } : error)),
  }
}

/** The requests that the tests below spoil are good ones: otherwise any refusal would do. */
describe('every documented request', () => {
  it('is asked in all ways that the document has', () => {
    const waysOf = (method: string, template: string) =>
      guarded.filter((one) => one.method === method && one.template === template).map(({ kind }) => kind)
    for (const template of ['/v1/faces', '/v1/faces/verify', '/v1/faces/search', '/v1/faces/compare']) {
      expect(waysOf('POST', template)).toEqual(['an embedding', 'a picture', 'a form'])
    }
    expect(waysOf('PUT', '/v1/faces/{external_id}')).toEqual(['an embedding', 'a picture', 'a form'])
    for (const template of ['/v1/faces/liveness', '/v1/faces/detect']) {
      expect(waysOf('POST', template)).toEqual(['a picture', 'a form'])
    }
    expect(waysOf('PATCH', '/v1/faces/{external_id}')).toEqual(['JSON'])
    expect(waysOf('GET', '/v1/faces')).toEqual(['no body'])
  })

  it.each(guarded)('$method $template with $kind is taken when nothing is wrong with it', async (operation) => {
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
  // there may be a picture instead
  ['that is missing', undefined, invalidField('')],
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
    expect(idsOf(taking('embedding')).sort()).toEqual([
      'compareFaces first',
      'compareFaces second',
      'enrollFace',
      'replaceFace',
      'searchFaces',
      'verifyFace',
    ])
    await expectFieldRefused(refusal, 'embedding', json)
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
    expect(idsOf(taking('external_id'))).toEqual(expect.arrayContaining(['enrollFace', 'verifyFace']))
    await expectFieldRefused(invalidField('/external_id'), 'external_id', json)
  })

  it.each([...BAD_EXTERNAL_IDS, ...BAD_EXTERNAL_IDS_OUTSIDE_PATHS])(
    '%s is refused in a form',
    async (_name, externalId) => {
      expect(formsTaking('external_id').map(({ id }) => id)).toEqual(['verifyFace', 'enrollFace'])
      await expectRefused(invalidField('/external_id'), (tenant) =>
        formsTaking('external_id').map((operation) =>
          requestForm(tenant, operation, partsWith(operation, 'external_id', externalId)),
        ),
      )
    },
  )

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

  it.each(documented)(
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

/** So long that there are `bytes` beside the pictures in it. */
function grow(good: string, bytes: number, filler = ' '): string {
  const inPictures = [...good.matchAll(/"image":("[^"]*")/g)].map(([, picture = '']) => picture.length)
  return good.padEnd(bytes + inPictures.reduce((sum, length) => sum + length, 0), filler)
}

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
  ['of 65,537 bytes', (good) => grow(good, 65_537), BODY_TOO_LARGE],
  ['of 65,537 bytes in fewer characters', (good) => grow(good, 65_536).replace(/ $/, '\u00a0'), BODY_TOO_LARGE],
  ['of 65,537 bytes from a stream', (good) => new Blob([grow(good, 65_537)]).stream(), BODY_TOO_LARGE],
  ['of 65,537 bytes, most of them before it', (good) => ' '.repeat(65_537) + good, BODY_TOO_LARGE],
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
    ['of 65,536 bytes', (good) => grow(good, 65_536)],
    ['of 65,536 bytes from a stream', (good) => new Blob([grow(good, 65_536)]).stream()],
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
        request(tenant, operation, grow(JSON.stringify(validBody(operation)), 65_537), { 'Content-Length': '10' }),
      ),
    )
  })

  const KIB = 1024
  // pictures of 10 MiB together in base64, and 64 KiB beside them; in a form two of 10 MiB as they are
  const MOST_JSON = Math.ceil((MAX_IMAGE_BYTES * 4) / 3) + 64 * KIB
  const MOST_FORM = 2 * MAX_IMAGE_BYTES + 64 * KIB
  const FORM = { 'Content-Type': 'multipart/form-data; boundary=x' }
  const part = (name: string) => `--x\r\nContent-Disposition: form-data; name="${name}"; filename="a.jpg"\r\n\r\n`

  it.each<[string, string, number, Refusal, Record<string, string>?]>([
    // read on for a while, so that a client that sends a little too much hears the answer
    ['1 MiB, where it begins with no picture', '', KIB * KIB, BODY_TOO_LARGE],
    ['as much as a picture, where it begins with one', '{"image":"', MOST_JSON, BODY_TOO_LARGE],
    ['as much as two pictures, in a form', part('image'), MOST_FORM, IMAGE_TOO_LARGE, FORM],
    ['as much as two pictures, in a form that is none', 'x', MOST_FORM, IMAGE_TOO_LARGE, FORM],
  ])(
    'that never ends is left after %s',
    async (_name, beginning, most, refusal, headers) => {
      const pieceBytes = 64 * KIB
      for (const { method, path } of withForm) {
        let sent = 0
        let wasCanceled = false
        const stream = new ReadableStream<Uint8Array>({
          pull(controller) {
            const piece = sent === 0 ? beginning.padEnd(pieceBytes, 'A') : 'A'.repeat(pieceBytes)
            sent += pieceBytes
            controller.enqueue(new TextEncoder().encode(piece))
          },
          cancel() {
            wasCanceled = true
          },
        })
        await expectRefused(refusal, (tenant) => [tenant.request(method, path, stream, headers)])
        expect(wasCanceled).toBe(true)
        expect(sent).toBeGreaterThan(most)
        // two pieces may be under way
        expect(sent).toBeLessThanOrEqual(most + 3 * pieceBytes)
      }
    },
    60_000,
  )

  it('that is long without an end is left after 1 MiB where no picture is taken, whatever it begins with', async () => {
    for (const { method, path } of withBody.filter(({ kind }) => kind === 'JSON')) {
      let sent = 0
      const stream = new ReadableStream<Uint8Array>({
        pull(controller) {
          const piece = sent === 0 ? '{"image":"'.padEnd(KIB, 'A') : 'A'.repeat(KIB)
          sent += KIB
          controller.enqueue(new TextEncoder().encode(piece))
        },
      })
      await expectRefused(BODY_TOO_LARGE, (tenant) => [tenant.request(method, path, stream)])
      expect(sent).toBeLessThan(1100 * KIB)
    }
  })

  it.each<[string, (picture: string, rest: string) => string]>([
    ['in many keys', (picture, rest) => `{"image":"${picture}",${rest}`],
    ['in many keys, with the picture at the end', (picture, rest) => `{${rest.slice(0, -1)},"image":"${picture}"}`],
    ['in an array', (picture) => `{"image":"${picture}","a":[${'[],'.repeat(3_000_000)}0]}`],
    ['in another text', (picture) => `{"image":"${picture}","a":"${'a'.repeat(10_000_000)}"}`],
    ['in the text of another picture', (picture) => `{"image":"${picture}","image_url":"${picture.repeat(7000)}"}`],
    ['with a quotation mark in the picture', (picture) => `{"image":"${picture}\\"${picture.repeat(100)}"}`],
    ['in many pictures', (picture) => `{${`"image":"${picture}",`.repeat(8000)}"a":1}`],
  ])('may be large for its picture, and not beside it: %s', async (_name, spell) => {
    const rest = `${Array.from({ length: 300_000 }, (_, index) => `"${index}":0`).join()}}`
    await expectRefused(BODY_TOO_LARGE, (tenant) =>
      taking('image').map(({ operation }) => request(tenant, operation, spell(inBase64(PICTURE), rest))),
    )
  })

  it('may have a picture under a key in escapes, but not a large one', async () => {
    const spell = (picture: string) => `{"im\\u0061ge":"${inBase64(picture)}"}`
    const tenant = await createTenant()
    expect((await tenant.request('POST', '/v1/faces/search', spell(PICTURE))).status).toBe(200)
    const large = PICTURE.padEnd(60_000)
    expect((await tenant.request('POST', '/v1/faces/search', { image: inBase64(large) })).status).toBe(200)
    await expectRefused(BODY_TOO_LARGE, (other) => [other.request('POST', '/v1/faces/search', spell(large))])
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
    'multipart/form-data',
    'multipart/mixed; boundary=x',
    'multipart/form-data, application/json',
    'application/xml',
    'application/octet-stream',
    'image/jpeg',
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

  it('of a form is refused where no picture is taken, and of JSON makes no form of it where one is', async () => {
    const headers = { 'Content-Type': 'multipart/form-data; boundary=x' }
    const [others, pictures] = [
      withBody.filter(({ kind }) => kind === 'JSON'),
      withBody.filter(({ kind }) => kind !== 'JSON'),
    ]
    await expectRefused(UNSUPPORTED, (tenant) => others.map((one) => request(tenant, one, undefined, headers)))
    await expectRefused(MALFORMED_FORM, (tenant) => pictures.map((one) => request(tenant, one, undefined, headers)))
  })

  it.each(['gzip', 'br', 'deflate', 'identity', 'x'])('with the content encoding %s is refused', async (encoding) => {
    await expectRefused(UNSUPPORTED, (tenant) =>
      [...withBody, ...withForm].map((operation) =>
        request(tenant, operation, undefined, { 'Content-Encoding': encoding }),
      ),
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

const UNKNOWN_FIELDS: [name: string, pointer: string][] = [
  ['tenant_id', '/tenant_id'],
  ['id', '/id'],
  ['face_id', '/face_id'],
  ['created_at', '/created_at'],
  ['threshold', '/threshold'],
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
  // what takes a picture takes none by its address
  ['image_url', '/image_url'],
  ['url', '/url'],
]

describe('a field', () => {
  it.each(UNKNOWN_FIELDS)('of the name %j is unknown, and refused by a pointer to it', async (name, pointer) => {
    await expectRefused(invalidField(pointer), (tenant) =>
      withBody.map((operation) => request(tenant, operation, { ...validBody(operation), [name]: tenant.id })),
    )
  })

  it.each([
    // a part has a name, in UTF-8
    ...UNKNOWN_FIELDS.filter(([name]) => name !== '' && name.isWellFormed()),
    ['__proto__', '/__proto__'],
    ['image[]', '/image[]'],
    ['embedding', '/embedding'],
    ['model', '/model'],
    ['quality_score', '/quality_score'],
  ])('of the name %j is unknown in a form, whether it is a text or a file', async (name, pointer) => {
    for (const content of ['1', { file: PICTURE }]) {
      await expectRefused(invalidField(pointer), (tenant) =>
        withForm.map((operation) => requestForm(tenant, operation, [...validParts(operation), [name, content]])),
      )
    }
  })

  it.each(UNKNOWN_FIELDS)('of the name %j is unknown beside a face of a pair, too', async (name, pointer) => {
    const places = withBody.flatMap((operation) => operation.sides.map((side) => ({ operation, side })))
    await expectNothingWritten(async (tenant) => {
      expect(places).toHaveLength(4)
      for (const { operation, side } of places) {
        const body = validBody(operation)
        const spoiled = { ...body, [side]: { ...(body[side] as object), [name]: tenant.id } }
        // the name of the side takes its part of what a pointer may be long
        const whole = `/${side}${pointer}`.slice(0, 200)
        await expectProblem(await request(tenant, operation, spoiled), invalidField(whole))
      }
    })
  })

  it('that is unknown is named beside the others that are wrong', async () => {
    await expectNothingWritten(async (tenant) => {
      const response = await tenant.request('POST', '/v1/faces', {
        external_id: '',
        embedding: [],
        threshold: 0,
        tenant_id: '',
      })
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
    await expectFieldRefused(refusal, 'model', json)
  })

  it.each(['arcface-512@2', 'ARCFACE-512@1', 'arcface-512@1 ', 'arcface-512', 'x'.repeat(100)])(
    'that is %j and not the tenant’s is refused, wherever an embedding is taken',
    async (model) => {
      expect(taking('model')).toEqual(taking('embedding'))
      await expectFieldRefused({ status: 409, code: 'MODEL_MISMATCH' }, 'model', JSON.stringify(model))
    },
  )

  it('may be left out', async () => {
    for (const place of taking('model')) {
      const tenant = await createTenant()
      await enroll(tenant, 'ada', axis(0))
      const response = await request(tenant, place.operation, bodyWith(place, 'model', undefined))
      expect(response.status).toBe(TAKEN[place.operation.id] ?? 200)
    }
  })

  it('is of an embedding: the recognizer says itself of which model it is', async () => {
    const places = taking('image').filter(({ operation: { id } }) => idsOf(taking('model')).join().includes(id))
    expect(idsOf(places).sort()).toEqual(idsOf(taking('model')).sort())
    await expectNothingWritten(async (tenant) => {
      for (const { operation, side } of places) {
        const body = bodyWith({ operation, side }, 'model', '"arcface-512@1"')
        await expectProblem(await request(tenant, operation, body), within(invalidField(''), side))
      }
    })
  })
})

// == Pictures ==

const WHOLE_IMAGE = invalidField('/image')

const BAD_IMAGES: [name: string, json: string][] = [
  ['of null', 'null'],
  ['of true', 'true'],
  ['that is a number', '1'],
  ['that is an array of bytes', '[255,216,255]'],
  ['that is an object', '{"url":"https://example.com/face.jpg"}'],
  ['of an empty text', '""'],
  ['of padding alone', '"="'],
  ['of four signs of padding', '"===="'],
  ['of three signs of padding', '"A==="'],
  ['of padding too short', JSON.stringify(btoa('a').slice(0, -1))],
  ['of padding too long', JSON.stringify(`${btoa('abc')}=`)],
  ['with padding in the middle', JSON.stringify(btoa('a') + btoa('a'))],
  ['with a character left out', JSON.stringify(inBase64(PICTURE).slice(1))],
  ['in base64url', JSON.stringify(btoa('\u00fb\u00ff\u00fe').replaceAll('+', '-').replaceAll('/', '_'))],
  ['in hexadecimal', '"ffd8ff"'],
  ['with spaces at its ends', JSON.stringify(`  ${inBase64(PICTURE)}  `)],
  ['in lines of 76 characters', JSON.stringify(inBase64(PICTURE).replace(/.{76}/g, '$&\r\n'))],
  ['with NUL', '"AAA\\u0000"'],
  ['with a full-width letter', '"AAA\uff21"'],
  ['with a surrogate alone', '"AAA\\ud800"'],
  ['as a data URL', JSON.stringify(`data:image/jpeg;base64,${inBase64(PICTURE)}`)],
  ['by its address', '"https://example.com/face.jpg"'],
  ['by the address of a neighbor', '"http://169.254.169.254/latest/meta-data/"'],
  ['by the name of a file', '"file:///etc/passwd"'],
]

describe('a picture', () => {
  it('may be sent wherever an embedding may, to be looked at, and in a form', () => {
    const inJson = idsOf(taking('image')).sort()
    expect(inJson).toEqual([...idsOf(taking('embedding')), 'checkLiveness', 'detectFaces'].sort())
    const inForms = withForm.flatMap(({ id, fields }) =>
      fields.includes('image') ? id : [`${id} first`, `${id} second`],
    )
    expect(inForms.sort()).toEqual(inJson)
  })

  it.each(BAD_IMAGES)('%s is refused wherever JSON takes one, by a pointer to it', async (_name, json) => {
    await expectFieldRefused(WHOLE_IMAGE, 'image', json)
  })

  it('is missed where there is nothing else', async () => {
    await expectNothingWritten(async (tenant) => {
      const places = taking('image')
      for (const place of places) {
        const answer = await request(tenant, place.operation, bodyWith(place, 'image', undefined))
        const isAlone = ['checkLiveness', 'detectFaces'].includes(place.operation.id)
        await expectProblem(answer, isAlone ? WHOLE_IMAGE : within(invalidField(''), place.side))
      }
    })
  })

  it('is not sent beside an embedding', async () => {
    const places = taking('embedding')
    await expectNothingWritten(async (tenant) => {
      for (const place of places) {
        const body = bodyWith(place, 'image', JSON.stringify(inBase64(PICTURE)))
        // a model would be one thing more that is wrong with it
        for (const text of [body, body.replaceAll('"model":"arcface-512@1",', '')]) {
          await expectProblem(await request(tenant, place.operation, text), within(invalidField(''), place.side))
        }
        expect(body).toContain('"model":"arcface-512@1",')
      }
    })
  })

  const files = withForm.flatMap((operation) =>
    operation.fields
      .filter((field) => ['image', 'first', 'second'].includes(field))
      .map((field) => ({ operation, field })),
  )

  it.each<[string, Parts[number][1][]]>([
    ['that is missing', []],
    ['that is a text', [PICTURE]],
    ['that is an empty text', ['']],
    ['that is its address', ['https://example.com/face.jpg']],
    ['beside another', [{ file: PICTURE }, { file: PICTURE }]],
    ['beside a text', [{ file: PICTURE }, 'a text']],
  ])('%s is refused in a form, by a pointer to it', async (_name, parts) => {
    expect(files).toHaveLength(8)
    await expectNothingWritten(async (tenant) => {
      for (const { operation, field } of files) {
        const answer = await requestForm(tenant, operation, partsWith(operation, field, ...parts))
        await expectProblem(answer, invalidField(`/${field}`))
      }
    })
  })

  it.each<[string, string, Refusal, boolean?]>([
    ['of nobody', JSON.stringify({ faces: [] }), { status: 422, code: 'NO_FACE_DETECTED', retake: true }, true],
    [
      'of two people',
      JSON.stringify({ faces: [axis(0), axis(1)] }),
      { status: 422, code: 'MULTIPLE_FACES', retake: true },
      true,
    ],
    ['that is none', 'GIF89a', { ...UNSUPPORTED, retake: true }],
    ['of one byte', '\0', { ...UNSUPPORTED, retake: true }],
    [
      'that is cut off',
      JSON.stringify({ refusal: [422, 'INVALID_IMAGE'] }),
      { status: 422, code: 'INVALID_IMAGE', retake: true },
    ],
    ['of too many pixels', JSON.stringify({ refusal: [413, 'IMAGE_TOO_LARGE'] }), IMAGE_TOO_LARGE],
    ['of 10 MiB and one byte', ' '.repeat(MAX_IMAGE_BYTES + 1), IMAGE_TOO_LARGE],
    [
      'that the recognizer has no time for',
      JSON.stringify({ refusal: [503, 'OVERLOADED', '1'] }),
      { status: 503, code: 'RECOGNIZER_UNAVAILABLE', retake: false },
    ],
  ])(
    '%s is refused wherever one is taken, in JSON and in a form',
    async (_name, picture, refusal, isDetected = false) => {
      await expectNothingWritten(async (tenant) => {
        for (const place of taking('image')) {
          if (isDetected && place.operation.id === 'detectFaces') continue
          const json = JSON.stringify(inBase64(picture))
          await expectProblem(await request(tenant, place.operation, bodyWith(place, 'image', json)), refusal)
        }
        for (const { operation, field } of files) {
          if (isDetected && operation.id === 'detectFaces') continue
          const answer = await requestForm(tenant, operation, partsWith(operation, field, { file: picture }))
          await expectProblem(answer, refusal)
        }
      })
    },
    60_000,
  )

  it('without a byte is no picture, in a form either', async () => {
    await expectNothingWritten(async (tenant) => {
      for (const { operation, field } of files) {
        const answer = await requestForm(tenant, operation, partsWith(operation, field, { file: '' }))
        expect(answer.status).toBeGreaterThanOrEqual(415)
        expect(answer.status).toBeLessThan(423)
      }
    })
  })
})

// == Forms ==

const GOOD_PART = `Content-Disposition: form-data; name="image"; filename="a.jpg"\r\nContent-Type: image/jpeg\r\n\r\n`
const END = '\r\n--x--\r\n'

const BAD_FORMS: [name: string, body: string][] = [
  ['that is empty', ''],
  ['that is JSON', JSON.stringify({ image: inBase64(PICTURE) })],
  ['that is a picture', PICTURE],
  ['of another boundary', `--y\r\n${GOOD_PART}${PICTURE}\r\n--y--\r\n`],
  ['that is cut off in the name', '--x\r\nContent-Disposition: form-data; name="im'],
  ['that is cut off before the picture', `--x\r\n${GOOD_PART}`],
  ['that is cut off in the picture', `--x\r\n${GOOD_PART}${PICTURE.slice(0, 100)}`],
  ['that is cut off in the last boundary', `--x\r\n${GOOD_PART}${PICTURE}\r\n--x`],
  ['with a part of no name', `--x\r\nContent-Disposition: form-data; filename="a.jpg"\r\n\r\n${PICTURE}${END}`],
  ['with a part of an empty name', `--x\r\nContent-Disposition: form-data; name=""\r\n\r\na${END}`],
  ['with a part that says nothing of itself', `--x\r\n\r\n${PICTURE}${END}`],
  ['with a part that is an attachment', `--x\r\nContent-Disposition: attachment; name="image"\r\n\r\na${END}`],
]

describe('a form', () => {
  const X = { 'Content-Type': 'multipart/form-data; boundary=x' }
  const good = `--x\r\n${GOOD_PART}${PICTURE}${END}`
  const detect = withForm.filter(({ id }) => id === 'detectFaces')

  it.each(BAD_FORMS)('%s is refused wherever one is taken', async (_name, text) => {
    await expectRefused(MALFORMED_FORM, (tenant) =>
      withForm.map((operation) => sendBytes(tenant, operation, new TextEncoder().encode(text), X)),
    )
  })

  it.each([
    ['multipart/form-data; boundary=x'],
    ['Multipart/Form-Data; boundary=x'],
    ['multipart/form-data; boundary="x"'],
    ['multipart/form-data;boundary=x'],
  ])('of the content type %s is taken', async (contentType) => {
    const tenant = await createTenant()
    for (const operation of detect) {
      const bytes = new TextEncoder().encode(good)
      expect((await sendBytes(tenant, operation, bytes, { 'Content-Type': contentType })).status).toBe(200)
    }
    expect(detect).toHaveLength(1)
  })

  it.each([
    'multipart/form-data;',
    'multipart/form-data; boundary=',
    'multipart/form-data; charset=utf-8',
    'multipart/form-data; charset=utf-8; boundary=x',
    'multipart/form-data; boundary=x; charset=utf-8',
    'multipart/form-data; boundary="x y"',
    'multipart/form-data, multipart/form-data; boundary=x',
    'multipart/related; boundary=x',
  ])('of the content type %s is refused, and told how to say it', async (contentType) => {
    await expectNothingWritten(async (tenant) => {
      for (const operation of withForm) {
        const bytes = new TextEncoder().encode(good)
        const answer = await sendBytes(tenant, operation, bytes, { 'Content-Type': contentType })
        expect((await answer.clone().json<{ detail: string }>()).detail).toContain('multipart/form-data; boundary=')
        await expectProblem(answer, UNSUPPORTED)
      }
    })
  })

  it('has its picture passed on as it is, whatever is in it', async () => {
    const tenant = await createTenant()
    const picture = `\r\n{\r\n"note":"--x --x-- \0\ufeff","faces":[]\r\n}\r\n`.replace('\0', '\\u0000')
    for (const [text, status] of [
      [picture, 200],
      // not JSON any more, so no picture
      [picture.replace('{', '\0{'), 415],
    ] as const) {
      const body = new TextEncoder().encode(`--x\r\n${GOOD_PART}${text}${END}`)
      for (const operation of detect) expect((await sendBytes(tenant, operation, body, X)).status).toBe(status)
    }
  })

  it('may have 64 KiB beside its pictures, and not one byte more', async () => {
    const tenant = await createTenant()
    const withText = (length: number) =>
      toForm([
        ['image', { file: PICTURE }],
        ['max_results', '3'],
        ['x', 'x'.repeat(length)],
      ])
    // of the names and of the texts
    const taken = 65_536 - 'imagemax_results3x'.length
    // it is read, and has a field too many
    const answer = await sendForm(tenant, 'POST', '/v1/faces/search', withText(taken))
    await expectProblem(answer, invalidField('/x'))
    await expectProblem(await sendForm(tenant, 'POST', '/v1/faces/search', withText(taken + 1)), BODY_TOO_LARGE)
    const many: Parts = Array.from({ length: 20_000 }, (_, index): Parts[number] => [`part ${index}`, ''])
    await expectProblem(await sendForm(tenant, 'POST', '/v1/faces/search', toForm(many)), BODY_TOO_LARGE)
  })

  it.each(['0', '21', '-1', '1.5', '1e0', '0x3', '+3', ' 3', '3 ', '003', '', '٣', 'NaN', 'three', '3\0', '[3]'])(
    'with %j for max_results is refused',
    async (maxResults) => {
      expect(formsTaking('max_results')).toHaveLength(1)
      await expectRefused(invalidField('/max_results'), (tenant) =>
        formsTaking('max_results').flatMap((operation) =>
          [maxResults, { file: '3' }].map((part) =>
            requestForm(tenant, operation, partsWith(operation, 'max_results', part)),
          ),
        ),
      )
    },
  )

  it.each(['1', '20', '07'])('with %j for max_results is taken', async (maxResults) => {
    const tenant = await createTenant()
    for (const operation of formsTaking('max_results')) {
      const answer = await requestForm(tenant, operation, partsWith(operation, 'max_results', maxResults))
      expect(answer.status).toBe(200)
    }
  })

  it('with a text twice, or a file in its place, is refused by a pointer to it', async () => {
    await expectNothingWritten(async (tenant) => {
      for (const operation of withForm) {
        for (const [name, part] of validParts(operation)) {
          if (typeof part !== 'string') continue
          for (const parts of [[part, part], [{ file: part }]]) {
            const answer = await requestForm(tenant, operation, partsWith(operation, name, ...parts))
            await expectProblem(answer, invalidField(`/${name}`))
          }
        }
      }
    })
  })
})

const METADATA_OVERHEAD = '{"a":""}'.length

const BAD_METADATA: [name: string, json: string, refusal?: Refusal][] = [
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
]

describe('metadata', () => {
  it.each(BAD_METADATA)('%s is refused', async (_name, json, refusal = invalidField('/metadata')) => {
    expect(idsOf(taking('metadata'))).toEqual(
      expect.arrayContaining(['enrollFace', 'replaceFace', 'updateFaceMetadata']),
    )
    await expectFieldRefused(refusal, 'metadata', json)
  })

  it.each<[string, string, Refusal?]>([
    ...BAD_METADATA,
    ['of nothing', ''],
    ['of a space', ' '],
    ['that is cut off', '{"a":1'],
    ['with another behind', '{}{}'],
    ['with a byte order mark', '\ufeff{}'],
    ['of 9 levels', `{"a":${nested(8, '[', ']')}}`],
    ['of 30,000 levels', nested(30_000, '[', ']')],
  ])('%s is refused in a form, where it is a text of its own', async (_name, json) => {
    expect(formsTaking('metadata').map(({ id }) => id)).toEqual(['enrollFace', 'replaceFace'])
    await expectRefused(invalidField('/metadata'), (tenant) =>
      formsTaking('metadata').map((operation) =>
        requestForm(tenant, operation, partsWith(operation, 'metadata', json)),
      ),
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
    // with an embedding and with a picture
    expect(taking('quality_score')).toHaveLength(4)
    await expectFieldRefused(refusal, 'quality_score', json)
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
    // with an embedding and with a picture
    expect(taking('max_results')).toHaveLength(2)
    await expectFieldRefused(refusal, 'max_results', json)
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
  const { method, path, kind, fields } = operation
  if (kind === 'a form') return app.request(path, { method, headers, body: toForm(validParts(operation)) }, env)
  const body = fields.length > 0 ? JSON.stringify(validBody(operation)) : null
  return app.request(path, { method, headers: { ...headers, 'Content-Type': 'application/json' }, body }, env)
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
  compareFaces: 'verify',
  checkLiveness: 'verify',
  detectFaces: 'verify',
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
  it.each(guarded)('is needed for $method $template with $kind, and named when it is missing', async (operation) => {
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
