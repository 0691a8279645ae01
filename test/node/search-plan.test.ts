// Proves how a search reads the gallery, from the plans that PostgreSQL really used: one index-only scan
// of the sign codes, for one tenant alone and for one among many. Native PostgreSQL only: the embedded
// one has no auto_explain. Fake: the faces, which are random directions that nothing sealed opens, and the way to the
// database, which is a plain connection here.
import pg from 'pg'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { migrate } from '../../scripts/database/migrate.ts'
import { findTemplateKeys, initTemplateKeys } from '../../scripts/database/template-keys.ts'
import { identifyFace } from '../../src/db/identifications.ts'
import type { TemplateKeys } from '../../src/db/template-keys.ts'
import { DIMENSIONS, type Embedding, isFault, toEmbedding } from '../../src/face/embedding.ts'
import { FIRST_VERSION } from '../../src/face/protection/data-secret.ts'
import { createDatabase, type FreshDatabase, UNOPENED } from './database.ts'
import { masterKeys, openDoor } from './tenant-door.ts'

const isNative = process.env['DATABASE_URL'] !== undefined
if (!isNative) console.log('skipped: the plan of a search is read on native PostgreSQL only (set DATABASE_URL)')

const MODEL = 'arcface-512@1'
const LARGE = '00000000-0000-4000-8000-000000000001'
const SMALL = '00000000-0000-4000-8000-000000000002'
const LARGE_FACES = 20_000
const SMALL_FACES = 1_500
const OTHER_TENANTS = 50
const OTHER_FACES = 200

describe.skipIf(!isNative)('the shortlist of a search', () => {
  const probe = toProbe()
  let database: FreshDatabase

  beforeAll(async () => {
    database = await createDatabase()
    await migrate(database.connection)
    await insertTenant(LARGE, LARGE_FACES)
    await database.connection.execute('vacuum analyze')
  }, 120_000)

  afterAll(() => database.drop())

  /** As superuser: row-level security is not what is looked at here. */
  async function insertTenant(id: string, faces: number): Promise<void> {
    await database.connection.query('insert into tenants (id, name) values ($1, $2)', [id, 'a gallery'])
    await database.connection.query(
      `insert into faces (tenant_id, external_id, embedding, key_version, sealed, model)
       select $1, 'person ' || person, l2_normalize(
         (select array_agg(random() - 0.5) from generate_series(1, 512) where person > 0)::vector(512)
       ), 1, $3, 'arcface-512@1'
       from generate_series(1, $2::int) as person`,
      [id, faces, UNOPENED],
    )
  }

  /** Made with the first look at a tenant. */
  async function readKeys(tenantId: string): Promise<TemplateKeys> {
    await initTemplateKeys(database.connection, masterKeys, () => FIRST_VERSION)
    return findTemplateKeys(database.connection, masterKeys, tenantId, MODEL)
  }

  /** The plans of all statements that one search runs, as rekko_app: the Worker's own, and those inside it. */
  async function readPlans(tenantId: string): Promise<string[]> {
    const client = new pg.Client({ connectionString: database.url })
    const plans: string[] = []
    client.on('notice', ({ message }) => plans.push(message ?? ''))
    await client.connect()
    try {
      await client.query("load 'auto_explain'")
      await client.query(`
        set auto_explain.log_min_duration = 0; set auto_explain.log_nested_statements = on;
        set auto_explain.log_level = notice; set auto_explain.log_analyze = on; set role rekko_app`)
      await client.query('begin')
      await client.query("select set_config('app.current_tenant_id', $1, true)", [tenantId])
      const door = openDoor(
        tenantId,
        await readKeys(tenantId),
        async (text, params) => (await client.query(text, params)).rows,
      )
      const search = await identifyFace(door, { embedding: probe, quality: null, isLive: null }, 5)
      await client.query('commit')
      expect(search.faces_searched).toBe(tenantId === LARGE ? LARGE_FACES : SMALL_FACES)
    } finally {
      await client.end()
    }
    return plans
  }

  /** The plans of the shortlist; a search makes one, and a sample before it in a large gallery. */
  async function readShortlistPlans(tenantId: string, count: number): Promise<string[]> {
    const plans = (await readPlans(tenantId)).filter((plan) => plan.includes('<~>'))
    expect(plans).toHaveLength(count)
    return plans
  }

  const isIndexOnly = /Index Only Scan using idx_faces_tenant_code on faces/

  it('is an index-only scan for one tenant that owns the whole table', async () => {
    for (const plan of await readShortlistPlans(LARGE, 2)) {
      expect(plan).toMatch(isIndexOnly)
      expect(plan).toMatch(/Heap Fetches: 0\b/)
      expect(plan).not.toMatch(/Seq Scan|Gather/)
    }
  })

  it('is an index-only scan for a small tenant and a large one among many', async () => {
    await insertTenant(SMALL, SMALL_FACES)
    for (let tenant = 0; tenant < OTHER_TENANTS; tenant++) {
      await insertTenant(`00000000-0000-4000-9000-${String(tenant).padStart(12, '0')}`, OTHER_FACES)
    }
    await database.connection.execute('vacuum analyze')
    for (const [tenant, count] of [
      [LARGE, 2],
      [SMALL, 1],
    ] as const) {
      for (const plan of await readShortlistPlans(tenant, count)) {
        expect(plan).toMatch(isIndexOnly)
        expect(plan).not.toMatch(/Seq Scan|Gather/)
      }
    }
  }, 120_000)

  it('plans anew for each probe, because a generic plan would lose that scan', async () => {
    const [found] = await database.connection.query<{ config: string[] }>(
      "select proconfig as config from pg_proc where proname = 'shortlist_faces'",
    )
    expect(found?.config).toContain('plan_cache_mode=force_custom_plan')
  })
})

function toProbe(): Embedding {
  const result = toEmbedding(
    Array.from({ length: DIMENSIONS }, (_, index) => (index % 2 ? 1 : -1) / Math.sqrt(DIMENSIONS)),
  )
  if (isFault(result)) throw new RangeError(result.detail)
  return result
}
