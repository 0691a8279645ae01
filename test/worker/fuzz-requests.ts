// Requests for any operation of /openapi.json, made of the operation's own schema by fast-check: good ones, and ones
// that are spoiled in one part. What a schema cannot say (which 512 numbers are a face, what a picture shows) stands in
// SAMPLES, by the name of the field.
import fc from 'fast-check'
import { bodySchema, formSchema, isOperators, type Operation, resolve, type Schema } from './openapi-document.ts'
import { inBase64 } from './picture.ts'
import { atCosine, axis } from './tenant.ts'

export interface Credentials {
  good: string
  /** Of the same tenant, or the operator, and good for nothing. */
  scopeless: string
}

export interface Sent {
  method: string
  path: string
  headers: Record<string, string>
  body?: string | Uint8Array
}

/** A request that may name what earlier answers named; so it is written when it is sent. */
export type Plan = (known: Known, credentials: Credentials) => Sent

const MAX_KNOWN = 50

/** The ids and cursors that answers have named, by the name of the field, the latest of them. */
export class Known {
  readonly #values = new Map<string, string[]>()
  readonly #foreign = new Map<string, string[]>()
  readonly #never: ReadonlySet<string>

  /** @param never what no request may name, because what it does could end the run */
  constructor(never: ReadonlySet<string>) {
    this.#never = never
  }

  learn(answer: unknown): void {
    for (const [name, text] of listIds(answer)) {
      if (!this.#never.has(text)) remember(this.#values, name, text)
    }
  }

  /** What was named in the path of a request that has erased it. */
  forget(path: string): void {
    for (const [name, texts] of this.#values) {
      this.#values.set(
        name,
        texts.filter((text) => !path.includes(encodeURIComponent(text))),
      )
    }
  }

  /** What somebody else's answers have named. */
  learnForeign(answer: unknown): void {
    for (const [name, text] of listIds(answer)) remember(this.#foreign, name, text)
  }

  /** @param index of any size; undefined when no such name was met yet */
  pick(name: string, index: number): string | undefined {
    return pickFrom(this.#values, name, index)
  }

  pickForeign(name: string, index: number): string | undefined {
    return pickFrom(this.#foreign, name, index)
  }

  all(name: string): readonly string[] {
    return this.#values.get(name) ?? []
  }

  /** The UUIDs of somebody else: none of them may be answered. */
  foreignIds(): string[] {
    return [...this.#foreign.values()].flat().filter((text) => /^[0-9a-f-]{36}$/.test(text))
  }
}

function* listIds(value: unknown): Generator<[name: string, text: string]> {
  if (typeof value !== 'object' || value === null) return
  for (const [key, item] of Object.entries(value)) {
    const name = key.replace(/^next_/, '')
    if (typeof item === 'string' && (name.endsWith('_id') || name === 'cursor')) yield [name, item]
    // what a client keeps with a face is no answer of ours
    else if (key !== 'metadata') yield* listIds(item)
  }
}

function remember(map: Map<string, string[]>, name: string, text: string): void {
  const others = (map.get(name) ?? []).filter((other) => other !== text)
  map.set(name, [text, ...others].slice(0, MAX_KNOWN))
}

function pickFrom(map: Map<string, string[]>, name: string, index: number): string | undefined {
  const values = map.get(name) ?? []
  return values[index % values.length]
}

// == Values ==

/** JSON text, not always of a value that JavaScript has. */
type Late = (known: Known) => string

const json = (value: unknown): Late => {
  const text = JSON.stringify(value)
  return () => text
}
const raw =
  (text: string): Late =>
  () =>
    text

/** An id that an earlier answer gave; another one as long as there is none. */
function knownId(name: string, otherwise: string): fc.Arbitrary<Late> {
  return fc.nat(MAX_KNOWN).map((index) => (known) => JSON.stringify(known.pick(name, index) ?? otherwise))
}

function base64(components: number[]): string {
  return bytesToBase64(new Uint8Array(Float32Array.from(components).buffer))
}

function bytesToBase64(bytes: Uint8Array): string {
  return btoa(String.fromCharCode(...bytes))
}

// few, so that a probe often shows somebody who is enrolled; the third is dense, as a real one
const FACES = [
  axis(0),
  axis(1),
  Array.from({ length: 512 }, (_, index) => Math.sin(index + 1) / 16),
  atCosine(0.35, 0, 9),
]

/** As a tenant may require at most, and of somebody in FACES or of one of many others. */
const goodPicture = fc
  .oneof(fc.constantFrom(...FACES), fc.integer({ min: 20, max: 200 }).map(axis))
  .map((face) => JSON.stringify({ faces: [face], liveness: 1, quality: 1 }))
/** With something about them for which they are refused, here or there. */
const POOR_PICTURES = [
  ...[
    { faces: [] },
    { faces: FACES.slice(0, 2), liveness: 1 },
    { faces: [axis(0)], liveness: 0, quality: 1 },
    { faces: [axis(0)], liveness: 1, quality: 0, reasons: ['TOO_DARK', 'EXTREME_POSE'] },
    { faces: [axis(0)], liveness: 1, model: 'another@1' },
    { refusal: [422, 'INVALID_IMAGE'] },
    { refusal: [413, 'IMAGE_TOO_LARGE'] },
    { refusal: [415, 'UNSUPPORTED_MEDIA_TYPE'] },
  ].map((shown) => JSON.stringify(shown)),
  'GIF89a',
  '\0',
  '\u00ff\u00d8\u00ff\u00e0',
  ' '.repeat(100_000),
]
const pictures = fc.oneof(
  { weight: 5, arbitrary: goodPicture },
  { weight: 2, arbitrary: fc.constantFrom(...POOR_PICTURES) },
)

/** RFC 7517, appendix A.1. */
const PUBLIC_KEY = {
  kty: 'EC',
  crv: 'P-256',
  kid: '1',
  x: 'MKBCTNIcKUSDii11ySs3526iDZ8AiTo7Tu6KPAqv7D4',
  y: '4Etl6SRW2YiLUrN5vfvVHuhp7x8PxltmWWlbbM4IFyM',
}

const SAMPLES: Record<string, fc.Arbitrary<Late>> = {
  embedding: fc.constantFrom(...FACES.flatMap((face) => [json(face), json(base64(face))])),
  image: pictures.map((picture) => json(inBase64(picture))),
  external_id: fc.oneof(
    { weight: 3, arbitrary: knownId('external_id', 'ada') },
    { weight: 2, arbitrary: fc.nat(30).map((number) => json(`person-${number}`)) },
    fc
      .constantFrom('a/b', '%2F', '100%', 'ação', '각', '😀'.repeat(255), 'a?b#c', "o'neil", 'verify', '\\', '𝓪')
      .map(json),
  ),
  // mostly the tenant's: a request with another goes no further
  model: fc.constantFrom('arcface-512@1', 'arcface-512@1', 'arcface-512@1', 'another@1').map(json),
  metadata: fc.dictionary(fc.string({ maxLength: 8 }), fc.jsonValue({ maxDepth: 2 }), { maxKeys: 4 }).map(json),
  jwks: fc.constant(json({ keys: [PUBLIC_KEY] })),
  jwks_url: fc.constantFrom('https://id.example.com/jwks.json', 'https://id.example.com/\u0009keys?set=1').map(json),
  issuer: fc.nat(500).map((number) => json(`https://id.example.com/${number}`)),
  cursor: knownId('cursor', 'none'),
}

const DAY_MS = 24 * 60 * 60 * 1000
const FUTURE = fc.integer({ min: 1, max: 3000 }).map((days) => json(new Date(Date.now() + days * DAY_MS).toISOString()))
const TEXT = fc.string({ unit: 'grapheme', maxLength: 30 }).map((text) => text.trim())

/** What the schema takes, as far as it says. */
function good(unresolved: Schema, name: string): fc.Arbitrary<Late> {
  const schema = resolve(unresolved)
  const value = goodValue(schema, name)
  const isNullable = Array.isArray(schema.type) && schema.type.includes('null')
  return isNullable
    ? fc.oneof({ weight: 1, arbitrary: fc.constant(raw('null')) }, { weight: 2, arbitrary: value })
    : value
}

function goodValue(schema: Schema, name: string): fc.Arbitrary<Late> {
  const sample = SAMPLES[name]
  if (sample) return sample
  if (schema.enum) return fc.constantFrom(...schema.enum).map(json)
  if (schema.oneOf) return fc.oneof(...schema.oneOf.map((option) => good(option, name)))
  const { minimum: min = -5, maximum: max = 5 } = schema
  switch (typeNameOf(schema)) {
    case 'object':
      return goodObject(schema)
    case 'array':
      return goodArray(schema, name)
    case 'integer':
      return fc.oneof(fc.constantFrom(min, max), fc.integer({ min, max })).map(json)
    case 'number':
      return fc.oneof(fc.constantFrom(min, max), fc.double({ min, max, noNaN: true })).map(json)
    case 'boolean':
      return fc.boolean().map(json)
    default:
      return goodString(schema, name)
  }
}

function typeNameOf({ type }: Schema): string | undefined {
  return [type ?? []].flat().find((one) => one !== 'null')
}

function goodString(schema: Schema, name: string): fc.Arbitrary<Late> {
  if (schema.format === 'uuid') return knownId(name, crypto.randomUUID())
  if (schema.format === 'date-time') return FUTURE
  const { minLength = 0, maxLength = 100, example } = schema
  const fits = (text: string) => [...text].length >= minLength && [...text].length <= maxLength
  const samples = ['Gate 7', 'x'.repeat(minLength), 'x'.repeat(maxLength), 'é'.repeat(Math.min(maxLength, 200))]
  const own = fc.oneof(fc.constantFrom(...samples.filter(fits)), TEXT.filter(fits)).map(json)
  return typeof example === 'string' ? fc.oneof({ weight: 4, arbitrary: fc.constant(json(example)) }, own) : own
}

function goodArray({ items = {}, minItems = 0, maxItems = 5 }: Schema, name: string): fc.Arbitrary<Late> {
  const { enum: choices } = resolve(items)
  // a list of choices names each once, and in any order
  if (choices) return fc.shuffledSubarray(choices, { minLength: minItems }).map(json)
  return fc
    .array(good(items, name.replace(/s$/, '')), {
      minLength: minItems,
      maxLength: Math.max(minItems, Math.min(maxItems, 2)),
    })
    .map((texts) => (known) => `[${texts.map((text) => text(known)).join()}]`)
}

type Member = [key: string, value: Late]

const writeObject =
  (members: readonly Member[]): Late =>
  (known) =>
    `{${members.map(([key, value]) => `${JSON.stringify(key)}:${value(known)}`).join()}}`

/** Of a face, a request has one or the other: these are left out beside what is required. */
const SOURCES = [
  { required: 'embedding', others: ['image'] },
  { required: 'image', others: ['embedding', 'model'] },
]

function membersOf({ properties = {}, required = [] }: Schema): fc.Arbitrary<Member[]> {
  if (!('image' in properties && 'embedding' in properties)) return membersWith(properties, required)
  return fc.oneof(
    ...SOURCES.map((source) => {
      const fitting = Object.entries(properties).filter(([key]) => !source.others.includes(key))
      return membersWith(Object.fromEntries(fitting), [...required, source.required])
    }),
  )
}

function membersWith(properties: Record<string, Schema>, required: readonly string[]): fc.Arbitrary<Member[]> {
  const members = Object.entries(properties).map(([key, property]) => {
    const member = good(property, key).map((value): Member[] => [[key, value]])
    return required.includes(key) ? member : fc.oneof(member, fc.constant<Member[]>([]))
  })
  return fc.tuple(...members).map((found) => found.flat())
}

function goodObject(schema: Schema): fc.Arbitrary<Late> {
  if (!schema.properties) return fc.dictionary(fc.string({ maxLength: 5 }), fc.jsonValue(), { maxKeys: 3 }).map(json)
  return membersOf(schema).map(writeObject)
}

// == Values that are spoiled ==

const nested = (open: string, depth: number, close: string) => open.repeat(depth) + close.repeat(depth)
/** Words that two spaces or more set apart; a backslash is one. */
const words = (text: string) => text.trim().split(/\s{2,}/)

const HOSTILE_TOKENS = [
  ...words(String.raw`
    null  true  0  -0  1  1.5  -1  1e999  -1e999  5e-324  1e-400  1e308  1e21  9007199254740993  2147483648
    -2147483649  9223372036854775808  0.1e1  1E0  3.0
    ""  " "  "a "  "\u0000"  "a\u0000b"  "\ud800"  "\udfff\ud800"  "\u202e"  "\u200b"  "\ufeffa"  "\ufffd"  "\uffff"
    "e\u0301"  "\u0061"  "\x"  "\u12"  "."  ".."  "a\/b"  "\\"  "%00"  "%2e%2e"  "null"  "NaN"  "1"  "-1"  "true"
    "__proto__"  "constructor"  "toString"  "' or 1=1 --"  "\"; drop table faces; --"  "{{7*7}}"  "<script>"
    "../../etc/passwd"  "infinity"  "now"  "epoch"  "2026-13-45T25:61:61Z"  "9999-12-31T23:59:59.999Z"
    "0000-01-01T00:00:00Z"  "2027-02-30T00:00:00Z"  "2027-01-01T00:00:00+23:59"  "2027-01-01T00:00:00.123456789Z"
    "275760-09-13T00:00:00Z"  "http://127.0.0.1:1/"  "https://[::1]/"  "https://user:pass@example.com"
    "file:///etc/passwd"  "https://a"
    []  {}  [null]  [[]]  {"a":{}}  {"__proto__":{}}  {"constructor":{"prototype":{}}}  {"a":1,"a":2}
    {"a":1,"\u0061":2}  [1,]  {"a":1,}  {"keys":[]}  {"keys":[{"kty":"oct","k":"AA","kid":"1"}]}
    {"keys":[{"kty":"RSA","n":"AQAB","e":"AQAB","kid":"1"}]}`),
  // no JSON at all
  ...words(`NaN  Infinity  -Infinity  undefined  0x10  01  +1  1.  .5  'a'  /**/1  1_000`),
  '',
  '"\t"',
  nested('[', 7, ']'),
  nested('[', 9, ']'),
  nested('{"a":', 9, '}'),
  `"${'a'.repeat(256)}"`,
  `"${'a'.repeat(3000)}"`,
  `"${'\\u0000'.repeat(300)}"`,
  `[${'1,'.repeat(3000)}1]`,
]

/** In the place of a picture in base64. */
const HOSTILE_IMAGES = [
  '',
  '=',
  '====',
  'A',
  'AA',
  'AAA',
  'A===',
  'AA==AA==',
  'AAAA\n',
  ' AAAA',
  '_-_-',
  '%41AAA',
  'ＡＡＡＡ',
  'data:image/png;base64,AAAA',
  'https://example.com/face.jpg',
  'http://169.254.169.254/',
  inBase64(JSON.stringify({ faces: [axis(0)] })).slice(0, -1),
  'A'.repeat(100_001),
]

/** Other spellings of one UUID: PostgreSQL reads most of them. */
const SPELLINGS: ((id: string) => string)[] = [
  (id) => id.toUpperCase(),
  (id) => `{${id}}`,
  (id) => id.replaceAll('-', ''),
  (id) => `urn:uuid:${id}`,
  (id) => `${id} `,
  (id) => `${id}\n`,
  (id) => `${id}\0`,
  (id) => id.slice(1),
  (id) => `${id}0`,
  (id) => id.replace(/.$/, 'g'),
  (id) => id.replace(/(....)$/, '-$1'),
  () => '00000000-0000-0000-0000-000000000000',
  () => 'ffffffff-ffff-ffff-ffff-ffffffffffff',
  () => '00000000-0000-9000-c000-000000000000',
]

function spelledOtherwise(name: string): fc.Arbitrary<Late> {
  const otherwise = crypto.randomUUID()
  return fc.tuple(fc.nat(MAX_KNOWN), fc.constantFrom(...SPELLINGS)).map(
    ([index, spell]) =>
      (known) =>
        JSON.stringify(spell(known.pick(name, index) ?? otherwise)),
  )
}

const anyText = fc.oneof(
  fc.string({ unit: 'binary', maxLength: 20 }),
  // any UTF-16, with surrogates alone
  fc.array(fc.nat(0xffff), { maxLength: 8 }).map((units) => String.fromCharCode(...units)),
  fc.string({
    unit: fc.constantFrom('\0', '\u202e', '\u200d', '\u0301', '%', '/', '\\', "'", '"', '.', ' ', 'a', '😀'),
    maxLength: 8,
  }),
)

/** Just outside of what the schema says, and just inside. */
function limitsOf(schema: Schema): string[] {
  const { minimum, maximum, minLength, maxLength } = schema
  const numbers = [minimum, maximum].flatMap((limit) =>
    limit === undefined
      ? []
      : [limit - 1, limit - 1e-9, limit, limit + 1e-9, limit + 1].flatMap((n) => [`${n}`, `"${n}"`]),
  )
  const lengths = [minLength, maxLength].flatMap((limit) =>
    limit === undefined
      ? []
      : [limit - 1, limit, limit + 1]
          .filter((length) => length >= 0)
          .flatMap((length) => ['a', '😀', '\\u0007'].map((unit) => `"${unit.repeat(length)}"`)),
  )
  return [...numbers, ...lengths]
}

/** A value in the place of what the schema takes, with one thing wrong with it, as a rule. */
function spoiled(unresolved: Schema, name: string): fc.Arbitrary<Late> {
  const schema = resolve(unresolved)
  const options: { weight: number; arbitrary: fc.Arbitrary<Late> }[] = [
    { weight: 3, arbitrary: fc.constantFrom(...HOSTILE_TOKENS).map(raw) },
    { weight: 1, arbitrary: anyText.map(json) },
    { weight: 1, arbitrary: fc.jsonValue({ maxDepth: 3 }).map(json) },
  ]
  const limits = limitsOf(schema)
  if (limits.length > 0) options.push({ weight: 2, arbitrary: fc.constantFrom(...limits).map(raw) })
  if (name === 'image') {
    options.push({ weight: 6, arbitrary: fc.constantFrom(...HOSTILE_IMAGES).map(json) })
    options.push({ weight: 6, arbitrary: fc.constantFrom(...POOR_PICTURES).map((one) => json(inBase64(one))) })
    options.push({ weight: 2, arbitrary: fc.uint8Array({ maxLength: 300 }).map((bytes) => json(bytesToBase64(bytes))) })
  }
  if (schema.format === 'uuid') options.push({ weight: 3, arbitrary: spelledOtherwise(name) })
  if (schema.properties) options.push({ weight: 8, arbitrary: spoiledObject(schema) })
  else if (typeNameOf(schema) === 'object') options.push({ weight: 5, arbitrary: spoiledFreeObject(name) })
  for (const option of schema.oneOf ?? [schema]) {
    if (typeNameOf(option) === 'array') options.push({ weight: 6, arbitrary: spoiledArray(option, name) })
  }
  return fc.oneof(...options)
}

function spoiledObject(schema: Schema): fc.Arbitrary<Late> {
  const properties = Object.entries(schema.properties ?? {})
  const members = membersOf(schema)
  const nth = fc.nat(100)
  const changes: { weight: number; arbitrary: fc.Arbitrary<Late> }[] = properties.map(([key, property]) => ({
    weight: 2,
    arbitrary: fc
      .tuple(members, spoiled(property, key))
      .map(([found, value]) => writeObject([...found.filter(([other]) => other !== key), [key, value]])),
  }))
  changes.push(
    // one is missing, one is there twice
    {
      weight: 1,
      arbitrary: fc
        .tuple(members, nth)
        .map(([found, n]) => writeObject(found.filter((_, at) => at !== n % found.length))),
    },
    {
      weight: 1,
      arbitrary: fc
        .tuple(members, nth)
        .map(([found, n]) => writeObject([...found, ...found.slice(n % (found.length + 1)).slice(0, 1)])),
    },
    {
      weight: 1,
      arbitrary: fc
        .tuple(
          members,
          fc.oneof(
            fc.constantFrom('__proto__', 'constructor', 'id', 'tenant_id', '', '\u0000', '\ud800', 'é'),
            anyText,
          ),
          fc.constantFrom(...HOSTILE_TOKENS),
        )
        .map(([found, key, value]) => writeObject([...found, [key, raw(value)]])),
    },
  )
  return fc.oneof(...changes)
}

const HOSTILE_KEYS = ['', '\0', '\ud800', '\u202e', '__proto__', 'constructor', 'k'.repeat(9000)]
const KEY_MEMBERS = [...Object.keys(PUBLIC_KEY), 'use', 'key_ops', 'alg', 'n', 'e', 'd', 'x5c']

/** One whose members are the client's own: its metadata, or a key set. */
function spoiledFreeObject(name: string): fc.Arbitrary<Late> {
  const token = fc.constantFrom(...HOSTILE_TOKENS)
  if (name === 'jwks') {
    return fc.tuple(fc.constantFrom(...KEY_MEMBERS), token).map(([member, value]) => {
      const others = Object.entries(PUBLIC_KEY).filter(([other]) => other !== member)
      const key = writeObject([...others.map(([other, text]): Member => [other, json(text)]), [member, raw(value)]])
      return (known) => `{"keys":[${key(known)}]}`
    })
  }
  return fc.oneof(
    token.map((value) => writeObject([['a', raw(value)]])),
    fc.tuple(fc.constantFrom(...HOSTILE_KEYS), token).map(([key, value]) => writeObject([[key, raw(value)]])),
    fc.constantFrom(8184, 8185).map((length) => json({ a: 'x'.repeat(length) })),
  )
}

function spoiledArray({ items = {}, minItems = 0, maxItems }: Schema, name: string): fc.Arbitrary<Late> {
  const itemName = name.replace(/s$/, '')
  const limits = [0, 1, minItems - 1, minItems, ...(maxItems ? [maxItems, maxItems + 1] : [])].filter(
    (n) => n >= 0 && n < 2000,
  )
  const ofLength = fc.tuple(good(items, itemName), fc.constantFrom(...limits)).map(
    ([item, length]): Late =>
      (known) =>
        `[${Array.from({ length }, () => item(known)).join()}]`,
  )
  // a face with one number replaced: its own numbers, or nothing would be left of it
  const [face = []] = FACES
  const base =
    name === 'embedding'
      ? fc.constant(face.map(json))
      : fc.array(good(items, itemName), { minLength: minItems, maxLength: minItems + 3 })
  const withOneSpoiled = fc.tuple(base, fc.nat(600), spoiled(items, itemName)).map(([list, at, item]): Late => {
    const others = list.length === 0 ? [item] : list.with(at % list.length, item)
    return (known) => `[${others.map((text) => text(known)).join()}]`
  })
  return fc.oneof(ofLength, withOneSpoiled)
}

// == Parts of a request ==

type Body = (known: Known) => string | Uint8Array

/** In a URL: the text that the JSON says, or the JSON itself where it is none. */
function toParameter(text: string): string {
  try {
    const value: unknown = JSON.parse(text)
    return typeof value === 'string' ? value : JSON.stringify(value)
  } catch {
    return text
  }
}

const encode = (text: string) => encodeURIComponent(text.toWellFormed())

const RAW_SEGMENTS = [
  ...words(String.raw`
    %  %zz  %2  %ff  %00  %0d%0a  %C0%AF  %ED%A0%80  %E2%80%AE  %2e  %2e%2e  .  ..  ...  %252e%252e  %2F  a%2Fb
    ..%2f..%2fhealth  %5c  \  *  :external_id  {external_id}  //  '  %27%20or%201=1--  ;  ;a=b  @  ~  +  &  =  ?  #
    null  undefined  -1  0  é  😀  __proto__  constructor  e%CC%81  %20a  a%20  %EF%BF%BD  %E2%80%8B  %u0041  %41`),
  '',
  ' ',
  'a'.repeat(255),
  'a'.repeat(256),
  'a'.repeat(15_000),
  '%F0%9F%98%80'.repeat(255),
]

type Parameter = NonNullable<Operation['parameters']>[number]

function parametersIn(operation: Operation, place: string): Parameter[] {
  return (operation.parameters ?? []).filter((parameter) => parameter.in === place)
}

function goodPath(operation: Operation): fc.Arbitrary<Late> {
  const parameters = parametersIn(operation, 'path')
  return fc.tuple(...parameters.map(({ schema, name }) => good(schema, name))).map(
    (values) => (known) =>
      fill(
        operation.path,
        values.map((value) => encode(toParameter(value(known)))),
      ),
  )
}

function fill(template: string, segments: string[]): string {
  let next = 0
  return template.replace(/\{\w+\}/g, () => segments[next++] ?? '')
}

function hostilePath(operation: Operation): fc.Arbitrary<Late> {
  const parameters = parametersIn(operation, 'path')
  const tail = fc
    .tuple(
      goodPath(operation),
      fc.constantFrom('/', '//', '/..', '/.', '/%2e%2e', '.css', '%00', '%20', ';a', '/x', '%ff', '\\'),
    )
    .map(
      ([path, end]): Late =>
        (known) =>
          path(known) + end,
    )
  if (parameters.length === 0) return tail
  const segments = parameters.map(({ schema, name }) =>
    fc.oneof(
      { weight: 3, arbitrary: fc.constantFrom(...RAW_SEGMENTS).map(raw) },
      {
        weight: 3,
        arbitrary: spoiled(schema, name).map(
          (value): Late =>
            (known) =>
              encode(toParameter(value(known))),
        ),
      },
      // the operator may act upon anybody
      {
        weight: isOperators(operation) ? 0 : 1,
        arbitrary: fc.nat(MAX_KNOWN).map(
          (index): Late =>
            (known) =>
              encode(known.pickForeign(name, index) ?? 'nobody'),
        ),
      },
    ),
  )
  return fc.oneof(
    { weight: 1, arbitrary: tail },
    {
      weight: 6,
      arbitrary: fc.tuple(...segments).map(
        (values): Late =>
          (known) =>
            fill(
              operation.path,
              values.map((value) => value(known)),
            ),
      ),
    },
  )
}

function goodQuery(operation: Operation): fc.Arbitrary<Late> {
  const members = parametersIn(operation, 'query').map((parameter) => {
    const member = good(parameter.schema, parameter.name).map((value) => [writeMember(parameter.name, value)])
    return parameter.required ? member : fc.oneof(member, fc.constant<Late[]>([]), fc.constant<Late[]>([]))
  })
  return fc.tuple(...members).map((found) => joinQuery(found.flat()))
}

const writeMember =
  (name: string, value: Late): Late =>
  (known) =>
    `${name}=${encode(toParameter(value(known)))}`

const joinQuery =
  (members: readonly Late[]): Late =>
  (known) =>
    members.length === 0 ? '' : `?${members.map((member) => member(known)).join('&')}`

const RAW_QUERIES = [
  ...words(`
    ?  ??  ?&  ?=  ?=1  ?a  ?%  ?%ff=1  ?a=%zz  ?a=%00  ?__proto__=1  ?__proto__[a]=1  ?constructor=1  ?limit  ?limit=
    ?limit[]=1  ?limit=1&limit=2  ?limit=1%00  ?%6cimit=1  ?cursor=  ?a=1;b=2  #a`),
  `?a=${'a'.repeat(15_000)}`,
  `?${'a=1&'.repeat(2000)}`,
]

function hostileQuery(operation: Operation): fc.Arbitrary<Late> {
  const own = parametersIn(operation, 'query').flatMap(({ name, schema }) => {
    const bad = spoiled(schema, name).map((value) => writeMember(name, value))
    const twice = fc
      .tuple(good(schema, name), good(schema, name))
      .map((values) => values.map((value) => writeMember(name, value)))
    return [bad.map((member) => joinQuery([member])), twice.map(joinQuery)]
  })
  const unknown = fc.tuple(anyText, anyText).map(([name, value]) => raw(`?${encode(name)}=${encode(value)}`))
  return fc.oneof(fc.constantFrom(...RAW_QUERIES).map(raw), unknown, ...own)
}

const NO_JSON: (string | Uint8Array)[] = [
  ...words(`null  true  0  "text"  []  {  }  {"a":}  {}{}  {}x  a=1&b=2  <a/>  {'a':1}  \ufeff{}`),
  '',
  ' ',
  nested('[', 5000, ']'),
  nested('{"a":', 5000, '}'),
  '['.repeat(60_000),
  '"'.repeat(60_000),
  `{${Array.from({ length: 5000 }, (_, index) => `"${index}":0`).join()}}`,
  'a'.repeat(65_537),
  ' '.repeat(70_000),
  // UTF-16, gzip, an overlong slash, a surrogate in UTF-8
  new Uint8Array([0xff, 0xfe, 0x7b, 0x00, 0x7d, 0x00]),
  new Uint8Array([0x1f, 0x8b, 0x08, 0, 0, 0, 0, 0, 0, 3]),
  new Uint8Array([0x7b, 0x22, 0xc0, 0xaf, 0x22, 0x3a, 0x31, 0x7d]),
  new Uint8Array([0x7b, 0x22, 0xed, 0xa0, 0x80, 0x22, 0x3a, 0x31, 0x7d]),
]

const garbage: fc.Arbitrary<Body> = fc
  .oneof(
    fc.constantFrom(...NO_JSON),
    anyText.map((text) => text.toWellFormed()),
    fc.uint8Array({ maxLength: 200 }),
  )
  .map((body) => () => body)

function hostileBody(schema: Schema): fc.Arbitrary<Body> {
  const text = good(schema, '')
  // cut off, damaged in one place, or as long as may be and one byte longer
  const damaged = fc
    .tuple(
      text,
      fc.double({ min: 0, max: 1, noNaN: true }),
      fc.constantFrom('', '\0', '"', '{', ',', '\\', '\ud800', '9'),
    )
    .map(
      ([whole, part, insert]): Body =>
        (known) => {
          const written = whole(known)
          const at = Math.floor(written.length * part)
          return written.slice(0, at) + insert.toWellFormed() + written.slice(insert ? at : written.length)
        },
    )
  const padded = fc.tuple(text, fc.constantFrom(65_536, 65_537, 65_537)).map(
    ([whole, length]): Body =>
      (known) =>
        whole(known).padEnd(length),
  )
  return fc.oneof(
    { weight: 14, arbitrary: spoiled(schema, '') },
    { weight: 3, arbitrary: garbage },
    { weight: 2, arbitrary: damaged },
    { weight: 1, arbitrary: padded },
  )
}

// == Forms ==

interface Part {
  name: string
  /** Of a file; a text has none. */
  fileName?: string
  value: Late
}

const BOUNDARY = '----fuzz'
const FORM_TYPE = { 'Content-Type': `multipart/form-data; boundary=${BOUNDARY}` }

/** As RFC 7578 has it, and browsers: of a name, three characters are escaped. */
function writeForm(parts: readonly Part[]): (known: Known) => string {
  const escaped = (name: string) =>
    name.toWellFormed().replaceAll('\r', '%0D').replaceAll('\n', '%0A').replaceAll('"', '%22')
  return (known) =>
    parts
      .map(({ name, fileName, value }) => {
        const file = fileName === undefined ? '' : `; filename="${escaped(fileName)}"\r\nContent-Type: image/jpeg`
        const head = `--${BOUNDARY}\r\nContent-Disposition: form-data; name="${escaped(name)}"${file}`
        return `${head}\r\n\r\n${value(known).toWellFormed()}\r\n`
      })
      .concat(`--${BOUNDARY}--\r\n`)
      .join('')
}

const isFile = (property: Schema) => resolve(property).format === 'binary'
const asFile = (name: string, contents: string): Part => ({ name, fileName: 'face.jpg', value: raw(contents) })
const asText =
  (value: Late): Late =>
  (known) =>
    toParameter(value(known))

function partsOf(schema: Schema): fc.Arbitrary<Part[]> {
  const { properties = {}, required = [] } = resolve(schema)
  const members = Object.entries(properties).map(([name, property]) => {
    const part = isFile(property)
      ? pictures.map((picture): Part[] => [asFile(name, picture)])
      : good(property, name).map((value): Part[] => [{ name, value: asText(value) }])
    return required.includes(name) ? part : fc.oneof(part, fc.constant<Part[]>([]))
  })
  return fc.tuple(...members).map((found) => found.flat())
}

const HOSTILE_PART_NAMES = words(
  `tenant_id  image[]  image.x  Image  __proto__  constructor  embedding  model  threshold  id  first  second  é  😀`,
)

function hostileForm(schema: Schema): fc.Arbitrary<Body> {
  const parts = partsOf(schema)
  const nth = fc.nat(20)
  const properties = Object.entries(resolve(schema).properties ?? {})
  const spoiledPart = properties.map(([name, property]) => {
    const part: fc.Arbitrary<Part> = isFile(property)
      ? fc.oneof(
          fc.constantFrom(...POOR_PICTURES, '').map((picture) => asFile(name, picture)),
          fc.string({ unit: 'binary', maxLength: 200 }).map((text) => asFile(name, `\0${text}`)),
          pictures.map((picture) => ({ name, value: raw(picture) })),
        )
      : fc.oneof(
          spoiled(property, name).map((value) => ({ name, value: asText(value) })),
          spoiled(property, name).map((value) => ({ name, value })),
          good(property, name).map((value) => ({ name, fileName: 'a.txt', value: asText(value) })),
        )
    return fc.tuple(parts, part).map(([found, bad]) => [...found.filter((other) => other.name !== name), bad])
  })
  const written = fc
    .oneof(
      ...spoiledPart,
      fc.tuple(parts, nth).map(([found, n]) => found.filter((_, at) => at !== n % found.length)),
      fc.tuple(parts, nth).map(([found, n]) => [...found, ...found.slice(n % found.length).slice(0, 1)]),
      fc
        .tuple(parts, fc.oneof(fc.constantFrom(...HOSTILE_PART_NAMES), anyText), fc.constantFrom(...HOSTILE_TOKENS))
        .map(([found, name, token]) => [...found, { name, value: raw(token) }]),
      fc
        .tuple(parts, fc.constantFrom(65_000, 66_000))
        .map(([found, n]) => [...found, { name: 'x', value: raw('x'.repeat(n)) }]),
    )
    .map(writeForm)
  const damaged = fc
    .tuple(
      parts.map(writeForm),
      fc.double({ min: 0, max: 1, noNaN: true }),
      fc.constantFrom('', '\0', '\r\n', `--${BOUNDARY}`, `\r\n--${BOUNDARY}\r\n`, `\r\n--${BOUNDARY}--\r\n`, '"', ';'),
    )
    .map(
      ([whole, at, insert]): Body =>
        (known) => {
          const text = whole(known)
          const where = Math.floor(text.length * at)
          return (text.slice(0, where) + insert + text.slice(insert ? where : text.length)).toWellFormed()
        },
    )
  return fc.oneof(
    { weight: 6, arbitrary: written },
    { weight: 3, arbitrary: damaged },
    { weight: 1, arbitrary: garbage },
  )
}

type Credential = (credentials: Credentials) => Record<string, string>

const GOOD_CREDENTIALS: Credential[] = [
  ({ good: key }) => ({ Authorization: `Bearer ${key}` }),
  ({ good: key }) => ({ 'X-API-Key': key }),
  ({ good: key }) => ({ Authorization: `bearer  ${key}`, 'X-API-Key': key }),
]
const SCOPELESS_CREDENTIAL: Credential = ({ scopeless }) => ({ Authorization: `Bearer ${scopeless}` })
const HOSTILE_CREDENTIALS: Credential[] = [
  () => ({}),
  ({ good: key, scopeless }) => ({ Authorization: `Bearer ${key}`, 'X-API-Key': scopeless }),
  ({ good: key }) => ({ Authorization: `Basic ${key}` }),
  ({ good: key }) => ({ Authorization: key }),
  ({ good: key }) => ({ Authorization: `Bearer ${key}, Bearer ${key}` }),
  ({ good: key }) => ({ Authorization: `Bearer ${key.toUpperCase()}` }),
  ({ good: key }) => ({ 'X-API-Key': key.slice(0, -1) }),
  ({ good: key }) => ({ 'X-API-Key': `${key}.` }),
  () => ({ Authorization: 'Bearer ' }),
  () => ({ Authorization: 'Bearer a.b.c' }),
  // {"alg":"none"} and {"iss":"https://id.example.com"}
  () => ({ Authorization: 'Bearer eyJhbGciOiJub25lIn0.eyJpc3MiOiJodHRwczovL2lkLmV4YW1wbGUuY29tIn0.' }),
  () => ({ Authorization: 'Bearer eyJhbGciOiJub25lIn0.eyJpc3MiOiJodHRwczovL2lkLmV4YW1wbGUuY29tIn0.AA' }),
  () => ({ 'X-API-Key': "' or 1=1 --" }),
  () => ({ Authorization: `Bearer ${'a'.repeat(20_000)}` }),
  () => ({ Authorization: `Bearer ${'.'.repeat(5000)}` }),
  () => ({ 'X-API-Key': `rk_test_${'A'.repeat(40)}` }),
  () => ({ Cookie: 'session=1', Authorization: 'Bearer\tx' }),
]

/** Of no effect, whatever they say, or refused. */
const EXTRA_HEADERS: Record<string, string>[] = [
  { Origin: 'https://evil.example' },
  { Origin: 'null', 'Access-Control-Request-Method': 'DELETE', 'Access-Control-Request-Headers': '*' },
  { Accept: 'text/html' },
  { Accept: '*/*;q=0', 'Accept-Language': 'xx-'.repeat(100), 'Accept-Encoding': 'gzip, br;q=0' },
  { 'X-Request-Id': 'gate-7' },
  { 'X-Request-Id': 'a b' },
  { 'X-Request-Id': 'x'.repeat(65) },
  { 'X-Request-Id': '"><script>' },
  // refused: what an acceptable one does is not fuzzed, because it writes of refusals too
  { 'Idempotency-Key': '' },
  { 'Idempotency-Key': 'k'.repeat(5000) },
  { 'X-Forwarded-Host': 'evil.example', 'X-Forwarded-For': '127.0.0.1', 'X-Original-URL': '/v1/operator/tenants' },
  { 'X-HTTP-Method-Override': 'DELETE' },
  { 'X-Tenant-Id': '00000000-0000-0000-0000-000000000000' },
  { Range: 'bytes=0-1', 'If-None-Match': '*', 'If-Modified-Since': 'yesterday' },
  { 'User-Agent': "' or 1=1 --" },
  { 'CF-Connecting-IP': '203.0.113.7' },
  { 'CF-Connecting-IP': '::ffff::1::%' },
]
/** With which a body is refused, or not, and never more than that. */
const BODY_HEADERS: Record<string, string>[] = [
  ...words(`
    text/plain  application/xml  multipart/form-data; boundary=a  application/x-www-form-urlencoded  */*
    application/jsonx  application/ld+json  application/json;  application/json; charset=  application/json, text/html
    application/json; charset=utf-8  APPLICATION/JSON  application/json;charset="utf-16"`),
  '',
  `application/json; a=${'b'.repeat(5000)}`,
].map((type) => ({ 'Content-Type': type }))
for (const encoding of ['gzip', 'br', 'identity', 'x']) {
  BODY_HEADERS.push({ 'Content-Type': 'application/json', 'Content-Encoding': encoding })
}
for (const length of ['0', '-1', '999999999', 'abc', '1e9']) {
  BODY_HEADERS.push({ 'Content-Type': 'application/json', 'Content-Length': length })
}

// == Requests ==

type PartName = 'path' | 'query' | 'headers' | 'credential' | 'body'

const JSON_TYPE = { 'Content-Type': 'application/json' }

interface Content {
  write: Body | undefined
  headers: Record<string, string>
}

function contents(operation: Operation, isSpoiled: boolean): fc.Arbitrary<Content> {
  const [schema, form] = [bodySchema(operation), formSchema(operation)]
  if (!schema) return (isSpoiled ? garbage : fc.constant(undefined)).map((write) => ({ write, headers: {} }))
  const inJson = (isSpoiled ? hostileBody(schema) : good(schema, '')).map((write) => ({ write, headers: JSON_TYPE }))
  if (!form) return inJson
  const inForm = (isSpoiled ? hostileForm(form) : partsOf(form).map(writeForm)).map((write) => ({
    write,
    headers: FORM_TYPE,
  }))
  return fc.oneof({ weight: 3, arbitrary: inJson }, { weight: 2, arbitrary: inForm })
}

function plans(operation: Operation, spoiledPart: PartName | null): fc.Arbitrary<Plan> {
  const schema = bodySchema(operation)
  return fc
    .record({
      path: spoiledPart === 'path' ? hostilePath(operation) : goodPath(operation),
      query: spoiledPart === 'query' ? hostileQuery(operation) : goodQuery(operation),
      credential:
        spoiledPart === 'credential'
          ? fc.oneof(
              { weight: 1, arbitrary: fc.constant(SCOPELESS_CREDENTIAL) },
              { weight: 2, arbitrary: fc.constantFrom(...HOSTILE_CREDENTIALS) },
            )
          : fc.constantFrom(...GOOD_CREDENTIALS),
      // in the place of those of the content
      bodyHeaders: spoiledPart === 'headers' ? fc.constantFrom(...BODY_HEADERS) : fc.constant({}),
      extraHeaders: fc.oneof(
        { weight: 3, arbitrary: fc.constant({}) },
        { weight: 1, arbitrary: fc.constantFrom(...EXTRA_HEADERS) },
      ),
      content: contents(operation, spoiledPart === 'body'),
    })
    .map(({ path, query, credential, bodyHeaders, extraHeaders, content }) => (known, credentials) => ({
      method: operation.method,
      path: path(known) + query(known),
      headers: { ...extraHeaders, ...content.headers, ...(schema && bodyHeaders), ...credential(credentials) },
      ...(content.write && { body: content.write(known) }),
    }))
}

/** What the operation takes, as far as its schema says. */
export function goodRequests(operation: Operation): fc.Arbitrary<Plan> {
  return plans(operation, null)
}

/** The same with one part spoiled; now and then it is taken all the same. */
export function hostileRequests(operation: Operation): fc.Arbitrary<Plan> {
  const weights: Record<PartName, number> = {
    path: parametersIn(operation, 'path').length > 0 ? 4 : 1,
    query: parametersIn(operation, 'query').length > 0 ? 5 : 1,
    credential: 2,
    headers: bodySchema(operation) ? 1 : 0,
    // fetch lets nobody send a body with GET
    body: bodySchema(operation) ? 8 : operation.method === 'GET' ? 0 : 1,
  }
  return fc.oneof(
    // the names of the parts are the keys of `weights`
    ...(Object.keys(weights) as PartName[])
      .filter((part) => weights[part] > 0)
      .map((part) => ({ weight: weights[part], arbitrary: plans(operation, part) })),
  )
}
