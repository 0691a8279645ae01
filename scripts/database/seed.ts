// Development data: tenants of different sizes with face-like galleries, and three months of history that
// was really decided. Everything of one tenant comes in one transaction: it is there whole, or not at all.
import { randomInt } from 'node:crypto'
import { SCOPES } from '../../src/auth/api-key.ts'
import { SHORTLIST_SIZE } from '../../src/db/templates.ts'
import { type Embedding, isFault, toEmbedding } from '../../src/face/embedding.ts'
import { rotationOf } from '../../src/face/protection/keyring.ts'
import type { MasterKeys } from '../../src/face/protection/master-keys.ts'
import { type RotatedEmbedding, rotate, signCode } from '../../src/face/protection/rotation.ts'
import { ARCFACE_512, toDistance } from '../../src/face/similarity.ts'
import { generateGallery } from '../gallery.ts'
import { createApiKey, createTenant } from '../provision.ts'
import type { Connection } from './connection.ts'
import { enrollFaces, type Gallery, type NewFace } from './import.ts'
import { findTemplateKeys, loadTemplateKeys } from './template-keys.ts'
import { asOwner, asTenant, enterTenant } from './transaction.ts'
import type { VectorArray } from './vector-array.ts'

export interface SeedTenant {
  name: string
  faces: number
  verifications: number
  identifications: number
}

export const SEED_TENANTS: readonly SeedTenant[] = [
  { name: 'Seed small: 20 faces', faces: 20, verifications: 60, identifications: 20 },
  { name: 'Seed medium: 200 faces', faces: 200, verifications: 300, identifications: 60 },
  { name: 'Seed large: 2,000 faces', faces: 2_000, verifications: 1_000, identifications: 200 },
]

const DAY_MS = 24 * 60 * 60 * 1000
const HISTORY_DAYS = 90
const BATCH_SIZE = 500
/** Of the events, how many are left for the next roll-up, so that both sides of the metering have rows. */
const RECENT = 10
/** More than a developer's history needs; an old database with millions of events is not worked off here. */
const MAX_ROLL_UPS = 20

/**
 * Makes one tenant with its key, gallery and history; nothing when a tenant of its name is there.
 *
 * @param seed the same seed gives the same people
 * @param onRows called with the number of rows made
 * @returns the key, or null when the tenant was there
 */
export function seedTenant(
  connection: Connection,
  toVectorArray: VectorArray,
  secrets: { pepper: string; masterKeys: MasterKeys },
  plan: SeedTenant,
  seed: number,
  onRows: (count: number) => void,
): Promise<{ id: string; apiKey: string } | null> {
  return asOwner(connection, async () => {
    // two seeds at once would both find nothing
    await connection.query("select pg_advisory_xact_lock(hashtext('rekko.seed'))")
    const existing = await connection.query('select id from tenants where name = $1', [plan.name])
    if (existing.length > 0) return null
    const id = await createTenant(connection, secrets.masterKeys, plan.name, 'test')
    const apiKey = await createApiKey(connection, secrets.pepper, id, 'test', 'seed', SCOPES)
    const keys = await loadTemplateKeys(connection, secrets.masterKeys, id, ARCFACE_512.id)

    const { people, erased, strangers } = makePeople(plan.faces, seed)
    const gallery = { tenantId: id, keys, model: ARCFACE_512.id, toVectorArray }
    const history = { connection, gallery, onRows }
    await enterTenant(connection, id)
    for (const chunk of chunksOf([...people, ...erased])) {
      await enrollFaces(connection, gallery, chunk.map(toNewFace))
      onRows(chunk.length)
    }
    const verifications = makeClaims(people, people, plan.verifications)
    const identifications = makeClaims(people, strangers, plan.identifications)
    await verify(history, verifications.slice(RECENT))
    await identify(history, identifications.slice(RECENT))
    await rollUp(connection)
    await enterTenant(connection, id)
    await erase(connection, id, erased)
    await verify(history, verifications.slice(0, RECENT))
    await identify(history, identifications.slice(0, RECENT))
    return { id, apiKey }
  })
}

/**
 * Adds generated people to a tenant, a transaction for each batch; none of them is anybody who is there.
 *
 * @param onRows called with the number of faces enrolled
 */
export async function seedFaces(
  connection: Connection,
  toVectorArray: VectorArray,
  masterKeys: MasterKeys,
  tenantId: string,
  count: number,
  onRows: (count: number) => void,
): Promise<void> {
  const keys = await findTemplateKeys(connection, masterKeys, tenantId, ARCFACE_512.id)
  const gallery = { tenantId, keys, model: ARCFACE_512.id, toVectorArray }
  const run = randomInt(2 ** 31)
    .toString(16)
    .padStart(8, '0')
  for (let first = 1; first <= count; first += BATCH_SIZE) {
    const size = Math.min(BATCH_SIZE, count - first + 1)
    const faces = generateGallery(size, 1, randomInt(1, 2 ** 31)).map(({ samples }, index) => ({
      externalId: `seed-${run}-${String(first + index).padStart(7, '0')}`,
      embedding: embeddingOf(samples[0]),
      metadata: {},
      qualityScore: null,
    }))
    await asTenant(connection, tenantId, () => enrollFaces(connection, gallery, faces))
    onRows(size)
  }
}

interface Person {
  externalId: string
  enrolled: Embedding
  probe: Embedding
  quality: number
  enrolledAt: Date
}

/** How many people of a seeded tenant are erased again, besides those who stay. */
export function leavingOf(faces: number): number {
  return Math.max(1, Math.round(faces / 50))
}

/** The people of a gallery, a few more who leave it again, and as many who never come. */
function makePeople(count: number, seed: number): { people: Person[]; erased: Person[]; strangers: Person[] } {
  const leaving = leavingOf(count)
  const ever = count + leaving
  const start = Date.now() - HISTORY_DAYS * DAY_MS
  const all = generateGallery(ever + leaving, 2, seed).map(({ name, samples: [enrolled, probe] }, index) => ({
    externalId: name,
    enrolled: embeddingOf(enrolled),
    probe: embeddingOf(probe),
    quality: 0.7 + 0.3 * Math.random(),
    enrolledAt: new Date(start + (Math.min(index, ever) / (ever + 1)) * HISTORY_DAYS * DAY_MS),
  }))
  return { people: all.slice(0, count), erased: all.slice(count, ever), strangers: all.slice(ever) }
}

function toNewFace({ externalId, enrolled, quality, enrolledAt }: Person): NewFace {
  return { externalId, embedding: enrolled, metadata: { source: 'seed' }, qualityScore: quality, enrolledAt }
}

function embeddingOf(sample: number[] | undefined): Embedding {
  const embedding = toEmbedding(sample)
  if (isFault(embedding)) throw new RangeError('a generated face is no embedding')
  return embedding
}

interface Claim {
  /** Who the probe is said to show. */
  externalId: string
  probe: Embedding
  madeAt: Date
}

/** Questions of the whole time, the newest first; one in five shows one of the others. */
function makeClaims(people: Person[], others: Person[], count: number): Claim[] {
  return Array.from({ length: count }, (_, index) => {
    const person = people[randomInt(people.length)]
    const shown = index % 5 === 4 ? others[randomInt(others.length)] : person
    if (!person || !shown) throw new RangeError('a seeded tenant has people')
    const enrolledAt = person.enrolledAt.getTime()
    return {
      externalId: person.externalId,
      probe: shown.probe,
      madeAt: new Date(enrolledAt + Math.random() * (Date.now() - enrolledAt)),
    }
  }).sort((a, b) => b.madeAt.getTime() - a.madeAt.getTime())
}

interface History {
  connection: Connection
  gallery: Gallery
  onRows(count: number): void
}

/** All under the one key that a new tenant has. */
function rotateProbe({ keys: [active], model }: Gallery, { probe }: Claim): RotatedEmbedding {
  return rotate(rotationOf(active, model), probe)
}

/** Decides as src/db/verifications.ts does, for many at once and at times gone by. */
async function verify({ connection, gallery, onRows }: History, claims: Claim[]): Promise<void> {
  for (const chunk of chunksOf(claims)) {
    await connection.query(
      `with compared as (
        select f.tenant_id, f.id, f.external_id, round((f.embedding <=> n.probe)::numeric, 5)::float8 as distance, n.made_at::timestamptz as made_at, n.request_id
        from unnest($2::text[], $3::vector[], $4::text[], $5::text[]) as n (external_id, probe, made_at, request_id)
        join faces f on f.tenant_id = $1 and f.external_id = n.external_id
      ), recorded as (
        insert into verifications (
          tenant_id, face_id, external_id, verified, confidence, threshold, model, latency_ms, request_id, created_at
        )
        select
          tenant_id, id, external_id, distance <= $6::float8, trunc(round((1 - distance / 2)::numeric, 12), 4),
          $7::float8, $8, 5 + 20 * random(), request_id, made_at
        from compared
        returning tenant_id, created_at
      )
      insert into usage_events (tenant_id, kind, occurred_at) select tenant_id, 'verification', created_at from recorded`,
      [
        gallery.tenantId,
        chunk.map(({ externalId }) => externalId),
        gallery.toVectorArray(chunk.map((claim) => rotateProbe(gallery, claim))),
        chunk.map(({ madeAt }) => madeAt.toISOString()),
        chunk.map(() => `seed-${crypto.randomUUID()}`),
        toDistance(ARCFACE_512.verification),
        ARCFACE_512.verification,
        ARCFACE_512.id,
      ],
    )
    onRows(chunk.length)
  }
}

/** Searches as src/db/identifications.ts does, for many at once and at times gone by. */
async function identify({ connection, gallery, onRows }: History, claims: Claim[]): Promise<void> {
  for (const chunk of chunksOf(claims)) {
    const probes = chunk.map((claim) => rotateProbe(gallery, claim))
    await connection.query(
      `with searched as (
        select n.made_at::timestamptz as made_at, n.request_id, best.*
        from unnest($2::vector[], $3::text[], $4::text[], $5::text[]) as n (probe, code, made_at, request_id)
        cross join lateral (
          select f.id, f.external_id, round((f.embedding <=> n.probe)::numeric, 5)::float8 as distance,
            count(*) filter (where round((f.embedding <=> n.probe)::numeric, 5) <= $6::float8) over () as matched
          from faces f
          where f.tenant_id = $1 and f.model = $8
            and f.id = any ((select shortlist_faces($1, n.code::bit(512), $9))::uuid[])
          order by distance, f.id
          limit 1
        ) as best
      ), recorded as (
        insert into identifications (
          tenant_id, face_id, external_id, identified, confidence, threshold, model, faces_searched, faces_matched,
          latency_ms, request_id, created_at
        )
        select
          $1, case when distance <= $6 then id end, case when distance <= $6 then external_id end, distance <= $6,
          trunc(round((1 - distance / 2)::numeric, 12), 4), $7::float8, $8,
          (select coalesce(sum(change), 0) from face_counts where tenant_id = $1), matched,
          10 + 30 * random(), request_id, made_at
        from searched
        returning tenant_id, created_at
      )
      insert into usage_events (tenant_id, kind, occurred_at) select tenant_id, 'identification', created_at from recorded`,
      [
        gallery.tenantId,
        gallery.toVectorArray(probes),
        probes.map(signCode),
        chunk.map(({ madeAt }) => madeAt.toISOString()),
        chunk.map(() => `seed-${crypto.randomUUID()}`),
        toDistance(ARCFACE_512.identification),
        ARCFACE_512.identification,
        ARCFACE_512.id,
        SHORTLIST_SIZE,
      ],
    )
    onRows(chunk.length)
  }
}

/** Erases as src/db/faces.ts does. */
async function erase(connection: Connection, tenantId: string, people: Person[]): Promise<void> {
  await connection.query(
    `with erased as (
      delete from faces where tenant_id = $1 and external_id = any ($2::text[]) returning tenant_id, external_id
    ), metered as (
      insert into usage_events (tenant_id, kind) select tenant_id, 'deletion' from erased
    )
    select forget_subject(external_id) from erased`,
    [tenantId, people.map(({ externalId }) => externalId)],
  )
}

async function rollUp(connection: Connection): Promise<void> {
  await connection.execute('set local role rekko_owner')
  for (let round = 0; round < MAX_ROLL_UPS; round++) {
    const [row] = await connection.query<{ events: number }>('select roll_up_usage(5000) as events')
    if (!row || row.events === 0) return
  }
}

function* chunksOf<Item>(items: Item[]): Generator<Item[]> {
  for (let first = 0; first < items.length; first += BATCH_SIZE) yield items.slice(first, first + BATCH_SIZE)
}
