// Tenants, faces and requests for the tests. Every test makes tenants of its own; nobody truncates.

import { env } from 'cloudflare:workers'
import { neon, neonConfig } from '@neondatabase/serverless'
import { app } from '../../src/app.ts'
import { generateApiKey, hashApiKey, SCOPES, type Scope, toPepper, toPrefix } from '../../src/auth/api-key.ts'
import { masterKeys, wrapNewTemplateKey } from '../../src/db/template-keys.ts'
import { toVector } from '../../src/db/templates.ts'
import { type Embedding, isFault, toEmbedding } from '../../src/face/embedding.ts'
import { unwrapDataSecret } from '../../src/face/protection/data-secret.ts'
import { buildKeyring, type Keyring } from '../../src/face/protection/keyring.ts'
import { fromBase64, toBase64 } from '../../src/face/protection/octets.ts'
import { toTemplate } from '../../src/face/protection/template.ts'
import { ARCFACE_512 } from '../../src/face/similarity.ts'

neonConfig.fetchEndpoint = env.NEON_FETCH_ENDPOINT ?? ''

/** Beyond what any login of ours may do: arranges what a test needs, and looks at what is there. */
export const asAdmin = neon(env.TEST.adminUrl)
const asOperator = neon(env.TEST.operatorUrl)

export interface TestTenant {
  id: string
  key: string
  keyId: string
  /** A request with the tenant's key. */
  request(method: string, path: string, body?: unknown, headers?: Record<string, string>): Promise<Response>
}

export async function createTenant(scopes: readonly Scope[] = SCOPES): Promise<TestTenant> {
  const id = crypto.randomUUID()
  const wrapped = await wrapNewTemplateKey(env, id)
  await asOperator`select create_tenant(${id}, 'a test tenant', 'test', decode(${wrapped}, 'base64'))`
  return { id, ...(await createKey(id, scopes)) }
}

export async function createKey(
  tenantId: string,
  scopes: readonly Scope[],
): Promise<Pick<TestTenant, 'key' | 'keyId' | 'request'>> {
  const key = generateApiKey('test')
  const hash = await hashApiKey(key, await toPepper(env.API_KEY_PEPPER))
  const [row] = await asOperator`
    select create_api_key(${tenantId}, 'a key', decode(${hash}, 'hex'), ${toPrefix(key)}, ${[...scopes]}, null) as id`
  return {
    key,
    keyId: String(row?.['id']),
    request: async (method, path, body, headers = {}) =>
      app.request(
        path,
        {
          method,
          headers: {
            Authorization: `Bearer ${key}`,
            ...(body !== undefined && { 'Content-Type': 'application/json' }),
            ...headers,
          },
          // a string goes as it is, so that a test can send what is not JSON
          ...(body !== undefined && { body: isRaw(body) ? body : JSON.stringify(body) }),
        },
        env,
      ),
  }
}

function isRaw(body: unknown): body is BodyInit {
  return typeof body === 'string' || body instanceof Uint8Array || body instanceof ReadableStream
}

/** A unit vector along one axis: its cosine with another axis is 0, with itself 1. */
export function axis(index: number): number[] {
  return Array.from({ length: 512 }, (_, position) => (position === index ? 1 : 0))
}

/** A unit vector whose cosine with `axis(0)` is exactly 0.5: four halves. */
export function halves(): number[] {
  return Array.from({ length: 512 }, (_, position) => (position < 4 ? 0.5 : 0))
}

/** A unit vector whose cosine with `axis(from)` is `cosine`; the rest points along `axis(towards)`. */
export function atCosine(cosine: number, from: number, towards: number): number[] {
  return axis(from).map((component, position) =>
    position === towards ? Math.sqrt(1 - cosine * cosine) : component * cosine,
  )
}

/** A random direction: nearly orthogonal to any other. */
export function randomEmbedding(): number[] {
  const components = Array.from({ length: 512 }, gaussian)
  const norm = Math.hypot(...components)
  return components.map((component) => component / norm)
}

/** Box and Muller 1958. */
function gaussian(): number {
  return Math.sqrt(-2 * Math.log(1 - Math.random())) * Math.cos(2 * Math.PI * Math.random())
}

/** An answer without what differs between any two requests. */
export async function comparable(response: Response): Promise<unknown> {
  // a refused credential has no timing, which would tell why
  const masked = ['x-request-id', ...(response.status === 401 ? [] : ['server-timing'])]
  const headers = Object.fromEntries([...response.headers].filter(([name]) => !masked.includes(name)))
  return { status: response.status, headers, text: (await response.text()).replace(/"request_id":"[^"]*"/, '') }
}

export async function enroll(tenant: TestTenant, externalId: string, embedding: number[]): Promise<string> {
  const response = await tenant.request('POST', '/v1/faces', { external_id: externalId, embedding })
  if (response.status !== 201) throw new Error(`enrolling answered ${response.status}: ${await response.text()}`)
  return ((await response.json()) as { face_id: string }).face_id
}

/** @throws RangeError for what is no embedding */
export function embed(components: number[]): Embedding {
  const embedding = toEmbedding(components)
  if (isFault(embedding)) throw new RangeError(embedding.detail)
  return embedding
}

/** The tenant's newest keys, opened with the master key; the Worker learns nothing of it. */
export async function openKeyring(tenant: TestTenant): Promise<Keyring> {
  const [row] = await asAdmin`
    select version, encode(wrapped, 'base64') as wrapped from vault.template_keys
    where tenant_id = ${tenant.id} and destroyed_at is null order by version desc limit 1`
  const owner = { tenantId: tenant.id, version: Number(row?.['version']) }
  const secret = await unwrapDataSecret(await masterKeys(env), owner, fromBase64(String(row?.['wrapped'])))
  return buildKeyring(owner, secret, [ARCFACE_512.id])
}

/** Enrolls strangers to one another, as `enrollMany` does, and answers who they are. */
export async function enrollCrowd(tenant: TestTenant, count: number, name = 'person') {
  const people = Array.from({ length: count }, (_, index) => ({
    externalId: `${name} ${index}`,
    embedding: randomEmbedding(),
  }))
  await enrollMany(tenant, people)
  return people
}

const FACES_PER_STATEMENT = 300

/** Enrolls many, protected as the Worker does it, without a request and a metered event for each. */
export async function enrollMany(
  tenant: TestTenant,
  people: { externalId: string; embedding: number[] }[],
): Promise<void> {
  const keyring = await openKeyring(tenant)
  for (let from = 0; from < people.length; from += FACES_PER_STATEMENT) {
    const faces = await Promise.all(
      people.slice(from, from + FACES_PER_STATEMENT).map(async ({ externalId, embedding }) => {
        const template = await toTemplate(keyring, { externalId, model: ARCFACE_512.id }, embed(embedding))
        return {
          external_id: externalId,
          embedding: toVector(template.rotated),
          id: template.id,
          sealed: toBase64(template.sealed),
        }
      }),
    )
    await asAdmin`
      insert into faces (tenant_id, id, external_id, embedding, key_version, sealed, model)
      select
        ${tenant.id}, n.id, n.external_id, n.embedding::vector, ${keyring.version}, decode(n.sealed, 'base64'),
        ${ARCFACE_512.id}
      from jsonb_to_recordset(${JSON.stringify(faces)}::jsonb)
        as n (id uuid, external_id text, embedding text, sealed text)`
  }
}

export interface Stats {
  requests: number
  statements: number
  transactions: number
}

export async function readStats(): Promise<Stats> {
  return (await fetch(env.TEST.statsUrl)).json()
}

/** What `act` costs: requests to the database, and transactions. */
export async function countRequests(act: () => Promise<unknown>): Promise<Stats> {
  const before = await readStats()
  await act()
  const after = await readStats()
  return {
    requests: after.requests - before.requests,
    statements: after.statements - before.statements,
    transactions: after.transactions - before.transactions,
  }
}

/** The tenant's metering of this month, as it reads it. */
export async function readUsage(tenant: TestTenant): Promise<Record<string, number>> {
  return (await tenant.request('GET', '/v1/usage')).json()
}

/** What a tenant has in the database, to prove that a refused request wrote nothing. */
export async function countRows(tenant: TestTenant): Promise<Record<string, number>> {
  const [counts] = await asAdmin`
    select
      (select count(*)::int from faces where tenant_id = ${tenant.id}) as faces,
      (select count(*)::int from verifications where tenant_id = ${tenant.id}) as verifications,
      (select count(*)::int from identifications where tenant_id = ${tenant.id}) as identifications,
      (select count(*)::int from integrity_events where tenant_id = ${tenant.id}) as integrity_events,
      (select count(*)::int from usage_events where tenant_id = ${tenant.id}) as usage_events`
  return counts ?? {}
}
