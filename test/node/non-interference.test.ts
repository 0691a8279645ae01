// Proves non-interference (attack 61): the same workload of one tenant is carried out on two databases that
// differ in another tenant's data only: nothing there, or thousands of faces like its own under the same names,
// with audit, keys, usage and failed attempts. Every answer, every statement and every row of the tenant must be
// the same, byte for byte, but for what is random or a time: those are masked, the same one always by the same
// word. The workload is generated; NON_INTERFERENCE_SEED=<seed> repeats one that failed. Fake: the embeddings,
// which are random directions that both tenants share, and the recognizer, for which a picture says what it shows.
import fc from 'fast-check'
import { afterAll, beforeAll, describe, expect, it, vi } from 'vitest'
import { DEVELOPMENT_PASSWORDS } from '../../scripts/database/development.ts'
import { migrate } from '../../scripts/database/migrate.ts'
import type { Backend } from '../../scripts/neon-endpoint/backend.ts'
import { type Endpoint, startEndpoint } from '../../scripts/neon-endpoint/server.ts'
import { generateApiKey, hashApiKey, SCOPES, type Scope, toPepper, toPrefix } from '../../src/auth/api-key.ts'
import { toVector } from '../../src/db/templates.ts'
import type { Env } from '../../src/env.ts'
import { type Embedding, isFault, toEmbedding } from '../../src/face/embedding.ts'
import { FIRST_VERSION, generateDataSecret, wrapDataSecret } from '../../src/face/protection/data-secret.ts'
import { buildKeyring, type Keyring, rotationOf } from '../../src/face/protection/keyring.ts'
import { toMasterKeys } from '../../src/face/protection/master-keys.ts'
import { toBase64 } from '../../src/face/protection/octets.ts'
import { rotate } from '../../src/face/protection/rotation.ts'
import { toTemplate } from '../../src/face/protection/template.ts'
import { RECOGNIZER_SECRET, type RecognizerServer, startRecognizerServer } from '../recognizer-server.ts'
import { listAttackable, quote, RowMaker, type Table } from './attackable.ts'
import { createDatabase, type FreshDatabase, UNOPENED } from './database.ts'

const OTHER = 'aaaaaaaa-0000-4000-8000-00000000000a'
const PEPPER = 'a pepper for two databases, long enough'
const MASTER_SECRET = new Uint8Array(32).fill(7)
const MODEL = 'arcface-512@1'
const PEOPLE = Array.from({ length: 8 }, (_, index) => `person-${index}`)
/** More than shortlist_faces takes whole (200), so that it goes by sign codes. */
const OTHERS_FACES = 3_000
const OWN_FACES = 1_200
/** Directions that all embeddings are made of. */
const DIRECTIONS = 64

const seed = Number(process.env['NON_INTERFERENCE_SEED'] ?? Math.floor(Math.random() * 2 ** 31))

// == Two worlds ==

interface World {
  name: string
  database: FreshDatabase
  endpoint: Endpoint
  env: Env
  /** The text of each statement since the replay began. */
  statements: string[]
}

let recognizer: RecognizerServer
let alone: World
let beside: World
let tables: Table[]
let directions: number[][]

async function createWorld(name: string): Promise<World> {
  const database = await createDatabase()
  await migrate(database.connection)
  // superfluous randomness is the same in both: what is made of it is the same, too
  await database.connection.execute(`
    create schema noise;
    create table noise.directions (k integer primary key, v vector(512));
    select setseed(0.25);
    insert into noise.directions
    select k, l2_normalize((select array_agg(random() - 0.5) from generate_series(1, 512) where k >= 0)::vector(512))
    from generate_series(0, ${DIRECTIONS - 1}) k`)
  const statements: string[] = []
  const endpoint = await startEndpoint(listenTo(database.openBackend(), statements))
  const urlOf = (role: keyof typeof DEVELOPMENT_PASSWORDS) =>
    `postgres://${role}:${DEVELOPMENT_PASSWORDS[role]}@${name}.test/rekko`
  const env = {
    DATABASE_URL: urlOf('rekko_app'),
    JOBS_DATABASE_URL: urlOf('rekko_jobs'),
    API_KEY_PEPPER: PEPPER,
    TEMPLATE_MASTER_KEYS: `1:${toBase64(MASTER_SECRET)}`,
    NEON_FETCH_ENDPOINT: endpoint.url,
    RECOGNIZER_URL: recognizer.url,
    RECOGNIZER_SECRET,
  }
  return { name, database, endpoint, env, statements }
}

function listenTo(backend: Backend, statements: string[]): Backend {
  return {
    transact(credentials, begin, queries) {
      statements.push(...queries.map(({ query }) => query))
      return backend.transact(credentials, begin, queries)
    },
    close: () => backend.close(),
  }
}

beforeAll(async () => {
  recognizer = await startRecognizerServer()
  alone = await createWorld('alone')
  beside = await createWorld('beside')
  tables = (await listAttackable(alone.database.connection, 'rekko_app')).filter((table) => table.tenantColumn !== null)
  directions = await readDirections(alone)
  expect(await readDirections(beside)).toEqual(directions)
  await createOther()
}, 120_000)

afterAll(async () => {
  for (const world of [alone, beside]) {
    await world?.endpoint.close()
    await world?.database.drop()
  }
  await recognizer.close()
})

async function readDirections({ database }: World): Promise<number[][]> {
  const rows = await database.connection.query<{ v: string }>('select v::text from noise.directions order by k')
  return rows.map(({ v }) => JSON.parse(v))
}

/** The other tenant: of everything more than the one that is looked at, under the same names. */
async function createOther(): Promise<void> {
  const { connection } = beside.database
  const all = await listAttackable(connection, 'rekko_app')
  // a row in every table, also in those that are younger than this test
  await new RowMaker(connection).fill(all, OTHER, 2)
  await insertOthersFaces()
  for (const [index, name] of PEOPLE.entries()) {
    await connection.query(
      `insert into faces (tenant_id, external_id, embedding, key_version, sealed, model)
      values ($1, $2, $3::text::vector, 1, $4, $5)`,
      [OTHER, name, JSON.stringify(embeddingOf(index, 0)), UNOPENED, MODEL],
    )
  }
  await connection.query(
    `insert into verifications (tenant_id, face_id, external_id, verified, confidence, threshold, model, latency_ms, request_id, created_at)
     select f.tenant_id, f.id, f.external_id, n % 5 = 0, 0.5, 0.675, f.model, 3, 'request-' || n, now() - n * interval '1 second'
     from faces f, generate_series(1, 60) n where f.tenant_id = $1 and f.external_id like 'person-%'`,
    [OTHER],
  )
  await connection.query(
    `insert into identifications (tenant_id, face_id, external_id, identified, confidence, threshold, model, faces_searched,
       faces_matched, latency_ms, request_id, created_at)
     select f.tenant_id, f.id, f.external_id, true, 0.9, 0.69, f.model, 3000, 1, 3, 'request-' || n, now() - n * interval '1 second'
     from faces f, generate_series(1, 40) n where f.tenant_id = $1 and f.external_id like 'person-%'`,
    [OTHER],
  )
  await connection.query(
    `insert into usage_records (tenant_id, period, registrations, verifications, identifications, deletions)
     values ($1, to_char(now() at time zone 'UTC', 'YYYY-MM'), 7, 7, 7, 7)`,
    [OTHER],
  )
  for (const key of await listKeys(OTHER, 'other')) await insertKey(beside, OTHER, key)
  await connection.execute('vacuum analyze faces')
}

/** The schedule consumes them, so there are new ones for each workload. */
async function createEvents(): Promise<void> {
  await beside.database.connection.query(
    `insert into usage_events (tenant_id, kind) select $1, kind
     from generate_series(1, 100), unnest(array['registration', 'verification', 'identification', 'deletion']) kind`,
    [OTHER],
  )
}

/** Faces made of two directions each; those of all tenants are the same, under the same names. Nobody asks for these. */
async function insertOthersFaces(): Promise<void> {
  await beside.database.connection.query(
    `insert into faces (tenant_id, id, external_id, embedding, key_version, sealed, model, created_at, updated_at)
     select $1::text::uuid, md5($1::text || n)::uuid, 'bulk-' || n, l2_normalize(a.v + a.v + b.v), 1, $3, $4,
       '2026-01-01', '2026-01-01'
     from generate_series(1, $2::int) n
     join noise.directions a on a.k = n % ${DIRECTIONS}
     join noise.directions b on b.k = n / ${DIRECTIONS} % ${DIRECTIONS}
     where a.k <> b.k`,
    [OTHER, OTHERS_FACES, UNOPENED, MODEL],
  )
}

/** As above, protected with the tenant's own key; in both worlds the very same rows. */
async function insertFaces(tenant: string, keyring: Keyring, count: number): Promise<void> {
  const faces: object[] = []
  for (let n = 1; n <= count; n++) {
    const [a, b] = [n % DIRECTIONS, Math.floor(n / DIRECTIONS) % DIRECTIONS]
    if (a === b) continue
    const embedding = embed(mix([directionOf(a), 2], [directionOf(b), 1]))
    const template = await toTemplate(keyring, { externalId: `bulk-${n}`, model: MODEL }, embedding)
    faces.push({
      n,
      embedding: toVector(template.rotated),
      id: template.id,
      sealed: toBase64(template.sealed),
    })
  }
  for (const { database } of [alone, beside]) {
    for (let from = 0; from < faces.length; from += 300) {
      await database.connection.query(
        `insert into faces (tenant_id, id, external_id, embedding, key_version, sealed, model, created_at, updated_at)
        select $1::text::uuid, id, 'bulk-' || n, embedding::vector, $3, decode(sealed, 'base64'), $4,
          '2026-01-01', '2026-01-01'
        from jsonb_to_recordset($2::text::jsonb) as f (n integer, embedding text, id uuid, sealed text)`,
        [tenant, JSON.stringify(faces.slice(from, from + 300)), keyring.version, MODEL],
      )
    }
  }
}

/**
 * Gives the other tenant's people what only a thief of the key could: vectors under the rotation of the tenant that is
 * looked at, so that a comparison that reached them would find them as near as its own.
 */
async function impersonate(keyring: Keyring): Promise<void> {
  for (const [index, name] of PEOPLE.entries()) {
    const vector = toVector(rotate(rotationOf(keyring, MODEL), embed(embeddingOf(index, 0))))
    await beside.database.connection.query(
      'update faces set embedding = $3::text::vector where tenant_id = $1 and external_id = $2',
      [OTHER, name, vector],
    )
  }
}

function embed(components: number[]): Embedding {
  const embedding = toEmbedding(components)
  if (isFault(embedding)) throw new RangeError(embedding.detail)
  return embedding
}

/** A face of somebody: no two people and no two variants have the same, and none is one of `insertFaces`. */
function embeddingOf(person: number, variant: number): number[] {
  return mix([directionOf(8 * person + variant), 3], [directionOf(60), 1])
}

function directionOf(index: number): number[] {
  const direction = directions[index]
  if (!direction) throw new RangeError(`there is no direction ${index}`)
  return direction
}

function mix(...parts: [vector: number[], weight: number][]): number[] {
  const mixed = Array.from({ length: 512 }, (_, axis) =>
    parts.reduce((total, [vector, weight]) => total + weight * (vector[axis] ?? 0), 0),
  )
  const norm = Math.hypot(...mixed)
  return mixed.map((component) => component / norm)
}

/** A probe whose cosine with a face is `cosine`. */
function atCosine(face: number[], cosine: number): number[] {
  const other = directionOf(63)
  const along = face.reduce((total, component, axis) => total + component * (other[axis] ?? 0), 0)
  const across = mix([other, 1], [face, -along])
  return mix([face, cosine], [across, Math.sqrt(1 - cosine * cosine)])
}

// == The tenant that is looked at ==

const KEY_NAMES = ['full', 'without scores', 'reader', 'revoked', 'expired'] as const
type KeyName = (typeof KEY_NAMES)[number]

interface Key {
  id: string
  name: string
  key: string
  hash: string
  prefix: string
  scopes: readonly Scope[]
  revokedAt: string | null
  expiresAt: string | null
}

/** @param label makes the ids of one tenant's keys differ from another's */
async function listKeys(tenant: string, label: string): Promise<Key[]> {
  const pepper = await toPepper(PEPPER)
  const past = '2026-01-01T00:00:00Z'
  const scopes: Partial<Record<KeyName, Scope[]>> = {
    'without scores': SCOPES.filter((scope) => scope !== 'scores:read'),
    reader: ['faces:read'],
  }
  return Promise.all(
    KEY_NAMES.map(async (name, index) => {
      const key = generateApiKey('test')
      const id = `${tenant.slice(0, 24)}${label === 'other' ? 'a' : 'b'}${tenant.slice(25, 34)}0${index}`
      return {
        id,
        name: `gate ${name}`,
        key,
        hash: await hashApiKey(key, pepper),
        prefix: toPrefix(key),
        scopes: scopes[name] ?? SCOPES,
        revokedAt: name === 'revoked' ? past : null,
        expiresAt: name === 'expired' ? past : null,
      }
    }),
  )
}

async function insertKey({ database }: World, tenant: string, key: Key): Promise<void> {
  await database.connection.query(
    `insert into api_keys (tenant_id, id, name, hash, prefix, scopes, revoked_at, expires_at, created_at)
     values ($1, $2, $3, decode($4, 'hex'), $5, $6, $7, $8, '2026-01-01')`,
    [tenant, key.id, key.name, key.hash, key.prefix, key.scopes, key.revokedAt, key.expiresAt],
  )
}

interface Subject {
  id: string
  keys: Record<KeyName, string>
}

let subjects = 0

/** A new tenant, the very same in both worlds. */
async function createSubject(faces: number): Promise<Subject> {
  subjects++
  const id = `bbbbbbbb-0000-4000-8000-${String(subjects).padStart(12, '0')}`
  const keys = await listKeys(id, 'own')
  const owner = { tenantId: id, version: FIRST_VERSION }
  const secret = generateDataSecret()
  const wrapped = await wrapDataSecret(await toMasterKeys(new Map([[1, MASTER_SECRET]])), 1, owner, secret)
  const keyring = await buildKeyring(owner, secret, [MODEL])
  for (const world of [alone, beside]) {
    await world.database.connection.query(
      "insert into tenants (id, name, environment, created_at, updated_at) values ($1, 'a venue', 'test', '2026-01-01', '2026-01-01')",
      [id],
    )
    await world.database.connection.query(
      "insert into vault.template_keys (tenant_id, version, wrapped, created_at) values ($1, $2, $3, '2026-01-01')",
      [id, owner.version, Buffer.from(wrapped)],
    )
    for (const key of keys) await insertKey(world, id, key)
  }
  await insertFaces(id, keyring, faces)
  await impersonate(keyring)
  // one for each name, above
  return { id, keys: Object.fromEntries(keys.map(({ key }, index) => [KEY_NAMES[index], key])) as Subject['keys'] }
}

// == One replay ==

/** What is random, or a time, under names that say which of them is which. */
class Masks {
  readonly #names = new Map<string, string>()

  #nameOf(kind: string, value: string): string {
    const name = this.#names.get(value) ?? `${kind}-${this.#names.size + 1}`
    this.#names.set(value, name)
    return name
  }

  /** @param knows names what has no name yet; otherwise it is masked without one */
  mask(text: string, knows: boolean): string {
    const name = (kind: string) => (value: string) =>
      knows || this.#names.has(value) ? this.#nameOf(kind, value) : `${kind}-unseen`
    return text
      .replace(/rk_test_[0-9A-Za-z]{38}/g, (key) => {
        this.#nameOf('prefix', key.slice(0, 12))
        return this.#nameOf('key', key)
      })
      .replace(/rk_test_[0-9A-Za-z]{4}(?![0-9A-Za-z])/g, name('prefix'))
      .replace(/(?<="next_cursor":")[^"]+/g, name('cursor'))
      .replace(/\\\\x[0-9a-f]{4158}/g, 'sealed')
      .replace(/\\\\x[0-9a-f]{64}/g, 'hash')
      .replace(/\\\\x[0-9a-f]{32}/g, 'request')
      .replace(/("seed": ?)"[0-9a-f]{64}"/g, '$1seed')
      .replace(/[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}/g, name('id'))
      .replace(/\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d(:\d\d)?)/g, 'time')
      .replace(/("latency_ms": ?)\d+/g, '$1some')
  }
}

interface Answer {
  status: number
  text: string
  /** Of the body; null where there is none. */
  json: Record<string, unknown> | null
}

interface Ask {
  body?: unknown
  key?: KeyName | 'created' | 'none' | 'nobodys'
  headers?: Record<string, string>
}

type App = typeof import('../../src/app.ts')['app']

/** One tenant in one world, and what it has learned there. */
class Session {
  readonly transcript: unknown[] = []
  readonly masks = new Masks()
  readonly verificationIds: string[] = []
  readonly apiKeyIds: string[] = []
  readonly createdKeys: string[] = []
  readonly #world: World
  readonly #subject: Subject
  readonly #app: App
  readonly runJobs: () => Promise<void>

  private constructor(world: World, subject: Subject, app: App, runJobs: () => Promise<void>) {
    this.#world = world
    this.#subject = subject
    this.#app = app
    this.runJobs = runJobs
  }

  /** With a Worker that remembers nothing. */
  static async begin(world: World, subject: Subject): Promise<Session> {
    vi.resetModules()
    const { app } = await import('../../src/app.ts')
    const { runJobs } = await import('../../src/db/jobs.ts')
    return new Session(world, subject, app, () => runJobs(world.env))
  }

  async send(method: string, path: string, { body, key = 'full', headers = {} }: Ask = {}): Promise<Answer> {
    const credential = this.#credentialOf(key)
    const response = await this.#app.request(
      path,
      {
        method,
        headers: {
          'X-Request-Id': `request-${this.transcript.length}`,
          ...(credential && { Authorization: `Bearer ${credential}` }),
          ...(body !== undefined && { 'Content-Type': 'application/json' }),
          ...headers,
        },
        ...(body !== undefined && { body: typeof body === 'string' ? body : JSON.stringify(body) }),
      },
      this.#world.env,
    )
    const text = await response.text()
    const shown = Object.fromEntries(response.headers)
    if ('server-timing' in shown) shown['server-timing'] = shown['server-timing']?.replace(/dur=[\d.]+/g, 'dur') ?? ''
    // until the hour of a failed attempt is over
    if ('retry-after' in shown && text.includes('TOO_MANY_ATTEMPTS')) shown['retry-after'] = 'later'
    this.transcript.push({
      asked: `${method} ${this.masks.mask(path, true).replace(/cursor=[^&]+/, 'cursor')} by ${key}`,
      status: response.status,
      headers: shown,
      body: this.masks.mask(text, true),
    })
    // two decisions in one millisecond would be listed in the order of their random ids
    await new Promise((resolve) => setTimeout(resolve, 2))
    // an object, when it is JSON at all
    return {
      status: response.status,
      text,
      json: text.startsWith('{') ? (JSON.parse(text) as Record<string, unknown>) : null,
    }
  }

  #credentialOf(key: Ask['key']): string | null {
    if (key === 'none' || key === undefined) return null
    if (key === 'nobodys') return 'rk_test_000000000000000000000000000000002iVxGE'
    if (key === 'created') return this.createdKeys.at(-1) ?? null
    return this.#subject.keys[key]
  }

  /** What the tenant has in the end, a line for each row. */
  async readRows(): Promise<Record<string, string[]>> {
    const rows: Record<string, string[]> = {}
    for (const { name, tenantColumn } of tables) {
      const found = await this.#world.database.connection.query<{ line: string }>(
        `select to_jsonb(t)::text as line from ${name} t where t.${quote(tenantColumn ?? '')} = $1`,
        [this.#subject.id],
      )
      rows[name] = found.map(({ line }) => this.masks.mask(line, false)).sort()
    }
    return rows
  }
}

// == The alphabet of the workload ==

interface Act {
  run(session: Session): Promise<unknown>
  [fc.toStringMethod](): string
}

interface Letter {
  /** As the router has them. */
  routes: string[]
  weight: number
  acts: fc.Arbitrary<Act>
}

function letter<Choice>(
  routes: string[],
  weight: number,
  choices: fc.Arbitrary<Choice>,
  run: (session: Session, choice: Choice) => Promise<unknown>,
): Letter {
  const acts = choices.map((choice) => ({
    run: (session: Session) => run(session, choice),
    [fc.toStringMethod]: () => `${routes[0] ?? 'the schedule'} ${JSON.stringify(choice)}`,
  }))
  return { routes, weight, acts }
}

const person = fc.nat(PEOPLE.length - 1)
const variant = fc.constantFrom(0, 0, 0, 1, 2)
/** Whose face a probe shows: mostly the one's who is meant. */
const shift = fc.constantFrom(0, 0, 0, 1)
const key = fc.constantFrom(
  ...KEY_NAMES,
  'full',
  'full',
  'full',
  'full',
  'without scores',
  'created',
  'none',
  'nobodys',
)
const metadata = fc.constantFrom({}, { sector: 'north' }, { seats: [1, null, { row: 'A' }] })
const limit = fc.constantFrom(1, 2, 3, 100)

const PROBES = {
  right: (face: number[]) => face,
  near: (face: number[]) => atCosine(face, 0.9),
  'at the threshold of 1:1': (face: number[]) => atCosine(face, 0.35),
  'just below': (face: number[]) => atCosine(face, 0.3499),
  'at the threshold of 1:N': (face: number[]) => atCosine(face, 0.38),
  between: (face: number[]) => mix([face, 0.8], [directionOf(3), 0.6]),
  'of the crowd': () => mix([directionOf(5), 2], [directionOf(9), 1]),
  nobody: () => directionOf(62).map((component) => -component),
}
// the keys of the object above
const probe = fc.constantFrom(...(Object.keys(PROBES) as (keyof typeof PROBES)[]))

const nameOf = (index: number) => PEOPLE[index] ?? ''
const faceOf = (index: number) => `/v1/faces/${nameOf(index)}`

/** Reads a list to its end, at most five pages of it. */
async function readList(session: Session, path: string, parameters: Record<string, string>, by: Ask): Promise<void> {
  let cursor: unknown = null
  for (let page = 0; page < 5; page++) {
    const query = new URLSearchParams({ ...parameters, ...(typeof cursor === 'string' && { cursor }) })
    const { json } = await session.send('GET', `${path}?${query}`, by)
    const data = Array.isArray(json?.['data']) ? json['data'] : []
    for (const item of data) {
      if ('verification_id' in item) session.verificationIds.push(item.verification_id)
      if ('api_key_id' in item && item.name !== 'gate full') session.apiKeyIds.push(item.api_key_id)
    }
    cursor = json?.['next_cursor']
    if (typeof cursor !== 'string') return
  }
}

async function makeKey(session: Session, path: string, ask: Ask): Promise<void> {
  const { json } = await session.send('POST', path, ask)
  if (typeof json?.['api_key'] === 'string') session.createdKeys.push(json['api_key'])
  if (typeof json?.['api_key_id'] === 'string') session.apiKeyIds.push(json['api_key_id'])
}

/** More failures than anybody may have. */
async function failTooOften(session: Session, tried: number): Promise<void> {
  for (let attempt = 0; attempt < 11; attempt++) {
    await session.send('POST', '/v1/faces/verify', {
      body: { external_id: nameOf(tried), embedding: PROBES.nobody() },
    })
  }
}

const aboutSomebody = fc.option(person, { nil: null })
const filterOf = (about: number | null): Record<string, string> =>
  about === null ? {} : { external_id: nameOf(about) }
const NOBODYS_ID = '00000000-0000-4000-8000-000000000000'

const WRONG: [method: string, path: string, ask: Ask][] = [
  ['POST', '/v1/faces', { body: '{' }],
  ['POST', '/v1/faces', { body: { external_id: 'person-0', embedding: [0] } }],
  ['POST', '/v1/faces', { body: { external_id: 'person-0', tenant_id: OTHER } }],
  ['POST', '/v1/faces/search', { body: { embedding: 'AAAA', max_results: 21 } }],
  ['GET', '/v1/faces?cursor=AAAA', {}],
  ['GET', `/v1/faces?tenant_id=${OTHER}`, {}],
  ['GET', '/v1/faces', { headers: { 'X-Tenant-Id': OTHER } }],
  ['GET', '/v1/faces/%ff', {}],
  ['GET', '/v1/nowhere', {}],
  ['DELETE', '/v1/usage', {}],
  ['GET', '/v1/verifications/none', {}],
  ['GET', '/health', { key: 'none' }],
  ['GET', '/ready', { key: 'none' }],
]

async function sendAllWrong(session: Session): Promise<void> {
  for (const [method, path, ask] of WRONG) await session.send(method, path, ask)
}

/** As the recognizer of the tests reads it. */
function toPicture(faces: number[][]): string {
  return btoa(JSON.stringify({ faces, liveness: 0.9 }))
}

const ALPHABET: Letter[] = [
  letter(['POST /v1/faces'], 6, fc.record({ person, variant, metadata, key }), (session, choice) =>
    session.send('POST', '/v1/faces', {
      key: choice.key,
      body: {
        external_id: nameOf(choice.person),
        embedding: embeddingOf(choice.person, choice.variant),
        metadata: choice.metadata,
      },
    }),
  ),
  letter(['PUT /v1/faces/:external_id'], 3, fc.record({ person, variant, key }), (session, choice) =>
    session.send('PUT', faceOf(choice.person), {
      key: choice.key,
      body: { embedding: embeddingOf(choice.person, choice.variant), quality_score: 0.5 },
    }),
  ),
  letter(['PATCH /v1/faces/:external_id'], 2, fc.record({ person, metadata, key }), (session, choice) =>
    session.send('PATCH', faceOf(choice.person), { key: choice.key, body: { metadata: choice.metadata } }),
  ),
  letter(['GET /v1/faces/:external_id'], 2, fc.record({ person, key }), (session, choice) =>
    session.send('GET', faceOf(choice.person), { key: choice.key }),
  ),
  letter(['DELETE /v1/faces/:external_id'], 2, fc.record({ person, key }), (session, choice) =>
    session.send('DELETE', faceOf(choice.person), { key: choice.key }),
  ),
  letter(['POST /v1/faces/verify'], 10, fc.record({ person, shift, variant, probe, key }), async (session, choice) => {
    const { json } = await session.send('POST', '/v1/faces/verify', {
      key: choice.key,
      body: {
        external_id: nameOf(choice.person),
        embedding: PROBES[choice.probe](embeddingOf((choice.person + choice.shift) % PEOPLE.length, choice.variant)),
      },
    })
    if (typeof json?.['verification_id'] === 'string') session.verificationIds.push(json['verification_id'])
  }),
  letter(['POST /v1/faces/verify'], 1, person, failTooOften),
  letter(
    ['POST /v1/faces/search'],
    8,
    fc.record({ shown: person, variant, probe, maxResults: fc.constantFrom(undefined, 1, 20), key }),
    (session, choice) =>
      session.send('POST', '/v1/faces/search', {
        key: choice.key,
        body: {
          embedding: PROBES[choice.probe](embeddingOf(choice.shown, choice.variant)),
          ...(choice.maxResults && { max_results: choice.maxResults }),
        },
      }),
  ),
  letter(['POST /v1/faces/compare'], 2, fc.record({ shown: person, shift, variant, key }), (session, choice) =>
    session.send('POST', '/v1/faces/compare', {
      key: choice.key,
      body: {
        first: { embedding: embeddingOf(choice.shown, 0) },
        second: { image: toPicture([embeddingOf((choice.shown + choice.shift) % PEOPLE.length, choice.variant)]) },
      },
    }),
  ),
  letter(['POST /v1/faces/liveness'], 1, fc.record({ shown: person, key }), (session, choice) =>
    session.send('POST', '/v1/faces/liveness', {
      key: choice.key,
      body: { image: toPicture([embeddingOf(choice.shown, 0)]) },
    }),
  ),
  letter(['POST /v1/faces/detect'], 1, fc.record({ shown: person, shift, key }), (session, choice) =>
    session.send('POST', '/v1/faces/detect', {
      key: choice.key,
      body: { image: toPicture([choice.shown, choice.shift].map((index) => embeddingOf(index % PEOPLE.length, 0))) },
    }),
  ),
  letter(['GET /v1/faces'], 3, fc.record({ limit, key }), (session, choice) =>
    readList(session, '/v1/faces', { limit: String(choice.limit) }, { key: choice.key }),
  ),
  letter(['GET /v1/verifications'], 3, fc.record({ limit, about: aboutSomebody, key }), (session, choice) =>
    readList(
      session,
      '/v1/verifications',
      { limit: String(choice.limit), ...filterOf(choice.about) },
      { key: choice.key },
    ),
  ),
  letter(['GET /v1/identifications'], 3, fc.record({ limit, about: aboutSomebody, key }), (session, choice) =>
    readList(
      session,
      '/v1/identifications',
      { limit: String(choice.limit), ...filterOf(choice.about) },
      { key: choice.key },
    ),
  ),
  letter(['GET /v1/verifications/:verification_id'], 2, fc.record({ which: fc.nat(9), key }), (session, choice) =>
    session.send('GET', `/v1/verifications/${session.verificationIds[choice.which] ?? NOBODYS_ID}`, {
      key: choice.key,
    }),
  ),
  letter(['GET /v1/usage'], 2, fc.record({ period: fc.constantFrom('', '?period=2026-01'), key }), (session, choice) =>
    session.send('GET', `/v1/usage${choice.period}`, { key: choice.key }),
  ),
  letter(['GET /v1/tenant'], 1, key, (session, by) => session.send('GET', '/v1/tenant', { key: by })),
  letter(
    ['PATCH /v1/tenant'],
    1,
    fc.record({
      settings: fc.constantFrom(
        { duplicates: 'reject' },
        { duplicates: null, minimum_quality: 0.95 },
        { verification_threshold: 0.95 },
        { identification_threshold: 0.9, max_results: 2 },
        { verification_threshold: null, identification_threshold: null, failed_verifications_per_hour: 12 },
        { verification_threshold: 0.1 },
      ),
      key,
    }),
    (session, choice) => session.send('PATCH', '/v1/tenant', { key: choice.key, body: { settings: choice.settings } }),
  ),
  letter(['GET /v1/api-keys'], 1, fc.record({ limit, key }), (session, choice) =>
    readList(session, '/v1/api-keys', { limit: String(choice.limit) }, { key: choice.key }),
  ),
  letter(
    ['POST /v1/api-keys'],
    2,
    fc.record({ scopes: fc.constantFrom([...SCOPES], ['verify'], ['faces:read', 'audit:read']), key }),
    (session, choice) =>
      makeKey(session, '/v1/api-keys', { key: choice.key, body: { name: 'gate full', scopes: choice.scopes } }),
  ),
  letter(
    ['POST /v1/api-keys/:api_key_id/rotate'],
    1,
    fc.record({ which: fc.nat(5), overlap: fc.constantFrom(0, 3600), key }),
    (session, choice) =>
      makeKey(session, `/v1/api-keys/${session.apiKeyIds[choice.which] ?? NOBODYS_ID}/rotate`, {
        key: choice.key,
        body: { overlap_seconds: choice.overlap },
      }),
  ),
  letter(['DELETE /v1/api-keys/:api_key_id'], 1, fc.record({ which: fc.nat(5), key }), (session, choice) =>
    session.send('DELETE', `/v1/api-keys/${session.apiKeyIds[choice.which] ?? NOBODYS_ID}`, { key: choice.key }),
  ),
  // what goes wrong
  letter([], 1, fc.constant('all wrong'), sendAllWrong),
  // the schedule
  letter([], 1, fc.constant('runs'), async (session) => {
    await session.runJobs()
    session.transcript.push('the schedule ran')
  }),
]

const anyAct = fc.oneof(...ALPHABET.map(({ weight, acts }) => ({ weight, arbitrary: acts })))

/** Each workload begins with some people who are there, and a right, a wrong and too many wrong claims. */
async function beginWith(session: Session): Promise<void> {
  for (const index of [0, 1, 2, 3]) {
    await session.send('POST', '/v1/faces', { body: { external_id: nameOf(index), embedding: embeddingOf(index, 0) } })
    for (const shown of [index, index + 1]) {
      await session.send('POST', '/v1/faces/verify', {
        body: { external_id: nameOf(index), embedding: embeddingOf(shown, 0) },
      })
      await session.send('POST', '/v1/faces/search', { body: { embedding: embeddingOf(shown, 0), max_results: 20 } })
    }
  }
  // before the schedule has run
  await session.send('GET', '/v1/usage')
}

/** Each ends with a look at everything there is to see. */
async function endWith(session: Session): Promise<void> {
  for (const path of ['/v1/usage', '/v1/tenant']) await session.send('GET', path)
  for (const path of ['/v1/faces', '/v1/verifications', '/v1/identifications', '/v1/api-keys']) {
    await readList(session, path, { limit: '100' }, {})
  }
}

/** What chance may leave out where the machine has time for few workloads: an answer of each kind. */
const eachAnswer: Act = {
  async run(session) {
    const again = { body: { external_id: nameOf(0), embedding: embeddingOf(0, 1) } }
    for (const key of ['full', 'reader', 'nobodys'] as const) await session.send('POST', '/v1/faces', { ...again, key })
    await session.send('POST', '/v1/faces/search', { body: { image: toPicture([]) } })
    await session.send('GET', faceOf(7))
    await failTooOften(session, 2)
    await session.send('DELETE', faceOf(3))
    await sendAllWrong(session)
  },
  [fc.toStringMethod]: () => 'an answer of each kind',
}

/** Everything a few times, so that no run leaves a letter out. */
const wholeAlphabet = [eachAnswer, ...ALPHABET.flatMap(({ acts }) => fc.sample(acts, { seed, numRuns: 3 }))]

// == The proof ==

async function replay(world: World, subject: Subject, acts: readonly Act[]) {
  world.statements.length = 0
  const session = await Session.begin(world, subject)
  await beginWith(session)
  for (const act of acts) await act.run(session)
  await endWith(session)
  return { transcript: session.transcript, statements: [...world.statements], rows: await session.readRows() }
}

const met = new Map<string, number>()
const texts = new Set<string>()

describe('another tenant', () => {
  it.each([
    { what: 'with a large gallery, beside a small one', isActive: true, faces: 0, numRuns: 4, maxLength: 80 },
    {
      what: 'that is suspended, beside a gallery with a shortlist',
      isActive: false,
      faces: OWN_FACES,
      numRuns: 2,
      maxLength: 60,
    },
  ])(
    'answers one tenant the same, whatever the other has: $what',
    async ({ isActive, faces, numRuns, maxLength }) => {
      console.log(`repeat this workload with NON_INTERFERENCE_SEED=${seed}`)
      await beside.database.connection.query('update tenants set is_active = $2 where id = $1', [OTHER, isActive])
      // as many acts as a day has of each kind, not as few as a shrinker likes
      const workload = fc.noBias(fc.array(anyAct, { minLength: 1, maxLength, size: 'max' }))
      await fc.assert(
        fc.asyncProperty(workload, async (acts) => {
          const subject = await createSubject(faces)
          await createEvents()
          const before = await replay(alone, subject, acts)
          const after = await replay(beside, subject, acts)
          expect(after.transcript).toEqual(before.transcript)
          expect(after.rows).toEqual(before.rows)
          expect(after.statements).toEqual(before.statements)
          note(before)
        }),
        { seed, numRuns, examples: [[wholeAlphabet]], interruptAfterTimeLimit: 40_000 },
      )
    },
    120_000,
  )

  it('had what would have been seen: more faces than a shortlist takes whole, and the same names', async () => {
    const [counted] = await beside.database.connection.query<{ faces: number; names: number }>(
      `select sum(change)::int as faces, (select count(*)::int from faces where tenant_id = $1 and external_id = any ($2::text[])) as names
       from face_counts where tenant_id = $1`,
      [OTHER, `{${PEOPLE.join(',')}}`],
    )
    expect(counted?.faces).toBeGreaterThan(1_000)
    expect(counted?.names).toBe(PEOPLE.length)
    const none = await alone.database.connection.query('select from tenants where id = $1', [OTHER])
    expect(none).toEqual([])
  })
})

/** Keeps what a replay met, to see that it was worth comparing. */
function note({ transcript, statements }: { transcript: unknown[]; statements: string[] }): void {
  for (const entry of transcript) {
    const line = JSON.stringify(entry)
    for (const word of line.matchAll(
      /\\"code\\":\\"([A-Z_]+)|"status":(\d+)|\\"(verified|identified)\\":(true|false)/g,
    )) {
      met.set(word[0], (met.get(word[0]) ?? 0) + 1)
    }
  }
  for (const text of statements) texts.add(text)
}

describe('the workload', () => {
  it('knows every route that a tenant can ask', async () => {
    const { app } = await import('../../src/app.ts')
    const routed = app.routes
      .filter(({ method, path }) => method !== 'ALL' && path.startsWith('/v1/') && !path.startsWith('/v1/operator'))
      .map(({ method, path }) => `${method} ${path}`)
    const known = ALPHABET.flatMap(({ routes }) => routes)
    expect(
      [...new Set(routed)].filter((route) => !known.includes(route)),
      'add a letter to ALPHABET',
    ).toEqual([])
    expect(
      [...new Set(known)].filter((route) => !routed.includes(route)),
      'the router has no such route',
    ).toEqual([])
  })

  it('met successes, refusals and both decisions', () => {
    const words = [...met.keys()].join(' ')
    for (const status of [200, 201, 204, 400, 401, 403, 404, 405, 409, 422, 429])
      expect(words).toContain(`"status":${status}`)
    for (const word of ['verified\\":true', 'verified\\":false', 'FACE_NOT_FOUND', 'TOO_MANY_ATTEMPTS']) {
      expect(words).toContain(word)
    }
    expect(words).not.toMatch(/"status":5/)
  })

  // attack 36: statements are shown to whoever has the same login
  it('sends no value of a client in the text of a statement', () => {
    expect(texts.size).toBeGreaterThan(10)
    for (const text of texts) {
      expect(text).not.toMatch(/person-|gate |rk_test|[0-9a-f]{8}-[0-9a-f]{4}|0\.\d{5}|request-/)
    }
  })
})
