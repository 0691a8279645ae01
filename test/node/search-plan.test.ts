// Proves how a search reads the gallery, from the plans that PostgreSQL really used: one index-only scan
// of the sign codes, for one tenant alone and for one among many; and that verifications and searches, whose plans are kept, find
// faces by index, whatever the table was like when the session began. Native PostgreSQL only: the embedded
// one has no auto_explain. Fake: the faces, which are random directions that nothing sealed opens, and the way to the
// database, which is a plain connection here.
import pg from 'pg'
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from 'vitest'
import { migrate } from '../../scripts/database/migrate.ts'
import { findTemplateKeys, initTemplateKeys } from '../../scripts/database/template-keys.ts'
import { identifyFace } from '../../src/db/identifications.ts'
import type { TemplateKeys } from '../../src/db/template-keys.ts'
import { probeCodes, toProtectedProbe } from '../../src/db/templates.ts'
import type { TenantDatabase } from '../../src/db/tenant.ts'
import { verifyFace } from '../../src/db/verifications.ts'
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
/** So many that the usual tenant has a handful of faces. */
const LONELY_TENANTS = 5_000

const PROBE = { embedding: toProbe(), quality: null, isLive: null }

/** As superuser: row-level security is not what is looked at here. */
async function insertTenant({ connection }: FreshDatabase, id: string, faces: number): Promise<void> {
  await connection.query('insert into tenants (id, name) values ($1, $2)', [id, 'a gallery'])
  await insertFaces({ connection }, id, 1, faces)
}

async function insertFaces(
  { connection }: Pick<FreshDatabase, 'connection'>,
  tenantId: string,
  first: number,
  last: number,
): Promise<void> {
  await connection.query(
    `insert into faces (tenant_id, external_id, embedding, key_version, sealed, model)
     select $1, 'person ' || person, l2_normalize(
       (select array_agg(random() - 0.5) from generate_series(1, 512) where person > 0)::vector(512)
     ), 1, $4, 'arcface-512@1'
     from generate_series($2::int, $3::int) as person`,
    [tenantId, first, last, UNOPENED],
  )
}

/** Made with the first look at a tenant. */
async function readKeys({ connection }: FreshDatabase, tenantId: string): Promise<TemplateKeys> {
  await initTemplateKeys(connection, masterKeys, () => FIRST_VERSION)
  return findTemplateKeys(connection, masterKeys, tenantId, MODEL)
}

/** A session of rekko_app, and the plans of all statements that it runs: the Worker's own, and those inside it. */
async function openSession({ url }: FreshDatabase) {
  const client = new pg.Client({ connectionString: url })
  let plans: string[] = []
  client.on('notice', ({ message }) => plans.push(message ?? ''))
  await client.connect()
  await client.query("load 'auto_explain'")
  await client.query(`
    set auto_explain.log_min_duration = 0; set auto_explain.log_nested_statements = on;
    set auto_explain.log_level = notice; set auto_explain.log_analyze = on; set role rekko_app`)
  return {
    async readPlans(tenantId: string, keys: TemplateKeys, ask: (door: TenantDatabase) => Promise<void>) {
      plans = []
      await client.query('begin')
      await client.query("select set_config('app.current_tenant_id', $1, true)", [tenantId])
      await ask(openDoor(tenantId, keys, async (text, params) => (await client.query(text, params)).rows))
      await client.query('commit')
      return plans
    },
    close: () => client.end(),
  }
}

describe.skipIf(!isNative)('the shortlist of a search', () => {
  let database: FreshDatabase

  beforeAll(async () => {
    database = await createDatabase()
    await migrate(database.connection)
    await insertTenant(database, LARGE, LARGE_FACES)
    await database.connection.execute('vacuum analyze')
  }, 120_000)

  afterAll(() => database.drop())

  /** The plans of the shortlist; a search makes one, and a sample before it in a large gallery. By itself: others ask for it, too. */
  async function readShortlistPlans(tenantId: string, count: number): Promise<string[]> {
    const session = await openSession(database)
    try {
      const keys = await readKeys(database, tenantId)
      const [code] = probeCodes(await toProtectedProbe(keys, MODEL, PROBE.embedding))
      const plans = await session.readPlans(tenantId, keys, async ({ run, sql }) => {
        const asked = sql`select cardinality(shortlist_faces(${tenantId}, ${code}::bit(512), 200)) as faces`
        expect(await run(asked)).toEqual([{ faces: 200 }])
      })
      const ofCodes = plans.filter((plan) => plan.includes('<~>'))
      expect(ofCodes).toHaveLength(count)
      return ofCodes
    } finally {
      await session.close()
    }
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
    await insertTenant(database, SMALL, SMALL_FACES)
    for (let tenant = 0; tenant < OTHER_TENANTS; tenant++) {
      await insertTenant(database, `00000000-0000-4000-9000-${String(tenant).padStart(12, '0')}`, OTHER_FACES)
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

  it('meets codes with a whole header, which need no copy to be compared', async () => {
    const sizes = await database.connection.query('select distinct pg_column_size(code) as bytes from faces')
    // 69 with a short one
    expect(sizes).toEqual([{ bytes: 72 }])
  })

  it('plans anew for each probe, because a generic plan would lose that scan', async () => {
    const [found] = await database.connection.query<{ config: string[] }>(
      "select proconfig as config from pg_proc where proname = 'shortlist_faces'",
    )
    expect(found?.config).toContain('plan_cache_mode=force_custom_plan')
  })
})

describe('a plan that is kept', () => {
  let database: FreshDatabase

  beforeEach(async () => {
    if (!isNative) return
    database = await createDatabase()
    await migrate(database.connection)
  })

  afterEach(() => database?.drop())

  /** What compares embeddings, which reads one face after another by an index, and nobody else's. */
  function expectIndex(plans: string[], index: string): void {
    const comparing = plans.filter((plan) => plan.includes('<=>'))
    expect(comparing).toHaveLength(1)
    expect(comparing[0]).toContain(`Index Scan using ${index} on faces`)
    expect(comparing[0]?.match(/ on faces( f)? /g)).toHaveLength(1)
    expect(comparing[0]).not.toContain('Seq Scan')
    // no more than the shortlist, of whom most are nobody's match
    expect(comparing[0]).not.toMatch(/Rows Removed by .*: \d{4}/)
  }

  async function search(door: TenantDatabase, faces: number): Promise<void> {
    expect(await identifyFace(door, PROBE, 5)).toMatchObject({ faces_searched: faces })
  }

  /** Asks in a session that began when the tables were nearly empty, and again when nobody has analyzed what they hold. */
  async function readPlansOfGrowth(ask: (door: TenantDatabase, person: number) => Promise<void>): Promise<string[]> {
    await insertTenant(database, SMALL, 0)
    // before there are faces, which are of an unknown key else
    const keys = await readKeys(database, SMALL)
    await insertFaces(database, SMALL, 1, 1)
    await database.connection.execute('vacuum analyze')
    const session = await openSession(database)
    try {
      await session.readPlans(SMALL, keys, (door) => ask(door, 1))
      await insertFaces(database, SMALL, 2, SMALL_FACES)
      return await session.readPlans(SMALL, keys, (door) => ask(door, SMALL_FACES))
    } finally {
      await session.close()
    }
  }

  it.skipIf(!isNative)(
    'finds the person of a verification by index',
    async () => {
      const plans = await readPlansOfGrowth(async (door, person) => {
        expect(await verifyFace(door, `person ${person}`, PROBE)).toMatchObject({ verified: false })
      })
      expectIndex(plans, 'faces_tenant_external_key')
    },
    60_000,
  )

  it.skipIf(!isNative)(
    'finds the shortlist of a search by index',
    async () => {
      expectIndex(await readPlansOfGrowth(search), 'faces_pkey')
    },
    60_000,
  )

  it.skipIf(!isNative)(
    'does so for a large tenant among very many of one face each',
    async () => {
      await insertTenant(database, LARGE, LARGE_FACES)
      await insertTenant(database, SMALL, 0)
      await database.connection.query(
        `with lonely as (insert into tenants (name) select 'lonely' from generate_series(1, $2::int) returning id)
      insert into faces (tenant_id, external_id, embedding, key_version, sealed, model)
      select l.id, 'person 1', f.embedding, 1, f.sealed, f.model
      from lonely l, faces f
      where f.tenant_id = $1 and f.external_id = 'person 1'`,
        [LARGE, LONELY_TENANTS],
      )
      const keys = { large: await readKeys(database, LARGE), small: await readKeys(database, SMALL) }
      await insertFaces(database, SMALL, 1, 1)
      await database.connection.execute('vacuum analyze')
      for (const isFirst of [true, false]) {
        const session = await openSession(database)
        try {
          if (!isFirst) await session.readPlans(SMALL, keys.small, (door) => search(door, 1))
          expectIndex(await session.readPlans(LARGE, keys.large, (door) => search(door, LARGE_FACES)), 'faces_pkey')
        } finally {
          await session.close()
        }
      }
    },
    120_000,
  )
})

function toProbe(): Embedding {
  const result = toEmbedding(
    Array.from({ length: DIMENSIONS }, (_, index) => (index % 2 ? 1 : -1) / Math.sqrt(DIMENSIONS)),
  )
  if (isFault(result)) throw new RangeError(result.detail)
  return result
}
