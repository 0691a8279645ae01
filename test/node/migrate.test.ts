// Proves the migrations and their runner: up, down and up again; a failure that leaves nothing but the mark;
// an installation of version 1 that keeps its rows; faces that were enrolled in clear, and are protected on the way.
// Fake: the broken migrations, in a folder of their own; the faces, which are random directions.
import { cp, mkdtemp, readdir, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from 'vitest'
import { bootstrap } from '../../scripts/database/bootstrap.ts'
import { DEVELOPMENT_PASSWORDS } from '../../scripts/database/development.ts'
import { findVersion, forceVersion, listMigrations, MIGRATIONS, migrate } from '../../scripts/database/migrate.ts'
import { PROTECTING_VERSION, type Protection } from '../../scripts/database/protection.ts'
import { destroyTemplateKeys, findTemplateKeys, initTemplateKeys } from '../../scripts/database/template-keys.ts'
import { CommandError } from '../../scripts/database/terminal.ts'
import { SCHEMA_VERSION } from '../../src/db/readiness.ts'
import { toEmbedding } from '../../src/face/embedding.ts'
import { toMasterKeys } from '../../src/face/protection/master-keys.ts'
import { fromBase64 } from '../../src/face/protection/octets.ts'
import { open } from '../../src/face/protection/sealed-copy.ts'
import { createDatabase, describeCatalog, type FreshDatabase, needsNative, UNOPENED } from './database.ts'
import { masterKeys } from './tenant-door.ts'

let database: FreshDatabase
let newest: number
beforeAll(async () => {
  newest = (await listMigrations()).at(-1)?.version ?? 0
  database = await createDatabase()
})
afterAll(() => database.drop())

/** As scripts/db.sh migrates: with the master keys. */
function upgrade(target?: number, protection: Protection = { masterKeys }) {
  return migrate(database.connection, target, undefined, MIGRATIONS, protection)
}

function toFileName({ version, name }: { version: number; name: string }): string {
  return `${String(version).padStart(6, '0')}_${name}`
}

describe('the folder of migrations', () => {
  it('has an up and a down for every version, and nothing else', async () => {
    const migrations = await listMigrations()
    const names = migrations.map(toFileName)
    expect((await readdir(MIGRATIONS)).sort()).toEqual(names.flatMap((name) => [`${name}.down.sql`, `${name}.up.sql`]))
    expect(migrations.map(({ version }) => version)).toEqual(migrations.map((_, index) => index + 1))
  })

  it('reaches the version that the Worker asks for', async () => {
    expect(newest).toBeGreaterThanOrEqual(SCHEMA_VERSION)
  })
})

describe('up and down', () => {
  it('reaches the newest version, leaves nothing behind on the way back, and is the same the second time', async () => {
    const { connection } = database
    const steps: string[] = []
    expect(await migrate(connection, 0)).toEqual({ version: 0, dirty: false })
    const empty = await describeCatalog(connection)
    expect(empty.filter((line) => /^relation /.test(line))).toEqual([
      // what the runner itself keeps
      expect.stringMatching(/^relation migration\.history /),
      expect.stringMatching(/^relation schema_migrations /),
    ])

    expect(await migrate(connection, undefined, (step) => steps.push(step))).toEqual({
      version: newest,
      dirty: false,
    })
    const first = await describeCatalog(connection)
    expect(first.length).toBeGreaterThan(empty.length + 100)

    expect(await migrate(connection, 0, (step) => steps.push(step))).toEqual({ version: 0, dirty: false })
    expect(await describeCatalog(connection)).toEqual(empty)

    expect(await migrate(connection)).toEqual({ version: newest, dirty: false })
    expect(await describeCatalog(connection)).toEqual(first)
    const names = (await listMigrations()).map(toFileName)
    expect(steps).toEqual([
      ...names.map((name) => `up ${name}.up.sql`),
      ...names.toReversed().map((name) => `down ${name}.down.sql`),
    ])
  })

  it('does nothing when there is nothing left to do', async () => {
    await migrate(database.connection)
    const steps: string[] = []
    await migrate(database.connection, undefined, (step) => steps.push(step))
    expect(steps).toEqual([])
  })

  it('leaves the administrator who he was', async () => {
    await migrate(database.connection)
    const [who] = await database.connection.query('select current_user::text as name')
    expect(who).toEqual({ name: database.admin.role })
  })

  it('lets two runners start at once, and each migration run once', async (context) => {
    needsNative(context, database, 'it has one session')
    await migrate(database.connection, 0)
    const steps: string[] = []
    const runners = await Promise.all([database.connect(), database.connect()])
    const versions = await Promise.all(runners.map((runner) => migrate(runner, undefined, (step) => steps.push(step))))
    expect(versions).toEqual(Array(2).fill({ version: newest, dirty: false }))
    expect(steps).toEqual((await listMigrations()).map((migration) => `up ${toFileName(migration)}.up.sql`))
    await Promise.all(runners.map((runner) => runner.close()))
  })
})

describe('a migration that fails', () => {
  let folder: string

  beforeEach(async () => {
    await migrate(database.connection, 0)
    folder = await mkdtemp(join(tmpdir(), 'rekko-migrations-'))
    await writeFile(join(folder, '000001_first.up.sql'), 'create table first (id integer);')
    await writeFile(join(folder, '000001_first.down.sql'), 'drop table first;')
    await writeFile(join(folder, '000002_second.up.sql'), 'create table second (id integer);\nselect 1 / 0;')
    await writeFile(join(folder, '000002_second.down.sql'), 'drop table second;\nselect 1 / 0;')
  })

  afterEach(async () => {
    await database.connection.execute('drop table if exists first, second; delete from schema_migrations')
    await rm(folder, { recursive: true })
  })

  const run = (target?: number) => migrate(database.connection, target, undefined, folder)
  const tables = () =>
    database.connection.query("select relname from pg_class where relname in ('first', 'second') order by relname")

  it('is rolled back, marks the database and says why and what to do', async () => {
    await expect(run()).rejects.toThrow(
      /^000002_second\.up\.sql failed and was rolled back: division by zero\n.* dirty at version 2: .*: scripts\/db\.sh force VERSION$/,
    )
    expect(await tables()).toEqual([{ relname: 'first' }])
    expect(await findVersion(database.connection)).toEqual({ version: 2, dirty: true })
  })

  it('keeps the next run from starting, up or down, until somebody has looked', async () => {
    await expect(run()).rejects.toThrow(/division by zero/)
    for (const target of [undefined, 1, 0]) {
      await expect(run(target)).rejects.toThrow(/^The database is marked dirty at version 2: /)
    }
    expect(await tables()).toEqual([{ relname: 'first' }])

    await writeFile(join(folder, '000002_second.up.sql'), 'create table second (id integer);')
    await database.connection.execute('update schema_migrations set version = 1, dirty = false')
    expect(await run()).toEqual({ version: 2, dirty: false })
    expect(await tables()).toEqual([{ relname: 'first' }, { relname: 'second' }])
  })

  it('on the way down is rolled back and marked as well', async () => {
    await writeFile(join(folder, '000002_second.up.sql'), 'create table second (id integer);')
    await run()
    await expect(run(0)).rejects.toThrow(/^000002_second\.down\.sql failed and was rolled back: division by zero\n/)
    expect(await tables()).toEqual([{ relname: 'first' }, { relname: 'second' }])
    expect(await findVersion(database.connection)).toEqual({ version: 2, dirty: true })
  })

  it('keeps nobody waiting: the lock and the role are given back', async () => {
    await expect(run()).rejects.toThrow(/division by zero/)
    const [left] = await database.connection.query(`
      select current_user::text as role,
        (select count(*)::int from pg_locks where locktype = 'advisory' and database = (select oid from pg_database where datname = current_database())) as locks`)
    expect(left).toEqual({ role: database.admin.role, locks: 0 })
  })

  it('without its file changes nothing', async () => {
    await rm(join(folder, '000001_first.down.sql'))
    await run(1)
    await expect(run(0)).rejects.toThrow(/000001_first\.down\.sql/)
    expect(await findVersion(database.connection)).toEqual({ version: 1, dirty: false })
  })
})

describe('an installation of version 1', () => {
  const ACME = '00000000-0000-4000-8000-00000000000a'
  const RIVAL = '00000000-0000-4000-8000-00000000000b'
  const ADA = '00000000-0000-4000-8000-0000000000fa'
  /** Of a row that version 2 cannot hold. */
  const UNFIT = '00000000-0000-4000-8000-0000000000ff'
  const TABLES = ['tenants', 'faces', 'verifications', 'usage_records'] as const
  type Rows = Record<string, Record<string, unknown>[]>

  beforeEach(async () => {
    const { connection } = database
    await migrate(connection, 0)
    await migrate(connection, 1)
    // whoever installed version 1 owns it
    for (const table of TABLES) await connection.execute(`alter table ${table} owner to current_user`)
    await connection.execute(`
      insert into tenants (id, name, api_key_hash, settings, is_active, created_at, updated_at) values
        ('${ACME}', 'Acme', 'a hash', '{"threshold": 0.7}', false, '2025-01-02 03:04:05.678Z', '2025-02-02 03:04:05.678Z'),
        ('${RIVAL}', 'Rival', null, null, null, null, null);
      insert into faces (id, tenant_id, external_id, embedding, metadata, quality_score, created_at, updated_at) values
        ('${ADA}', '${ACME}', 'ada', array_fill(20, array[512])::vector, '{"sector": "north"}', 0.9123, '2025-01-03Z', '2025-01-04Z'),
        ('00000000-0000-4000-8000-0000000000fb', '${ACME}', 'bob', l2_normalize(array_fill(-1, array[512])::vector), '{}', 1, '2025-01-05Z', '2025-01-05Z'),
        ('00000000-0000-4000-8000-0000000000fc', '${RIVAL}', 'ada', array_fill(1e-30::real, array[512])::vector, null, null, null, null);
      insert into verifications (id, tenant_id, face_id, external_id, verified, confidence, liveness_passed, latency_ms, created_at) values
        ('00000000-0000-4000-8000-00000000001a', '${ACME}', '${ADA}', 'ada', true, 0.9123, true, 12, '2025-03-01Z'),
        ('00000000-0000-4000-8000-00000000001b', '${ACME}', null, 'somebody', false, null, null, null, null);
      insert into usage_records (id, tenant_id, period, registrations, verifications, deletions, created_at, updated_at) values
        ('00000000-0000-4000-8000-00000000002a', '${ACME}', '2025-03', 3, 2, 1, '2025-03-01Z', '2025-03-31Z'),
        ('00000000-0000-4000-8000-00000000002b', '${RIVAL}', '2025-03', null, null, null, null, null)`)
    await bootstrap(connection, DEVELOPMENT_PASSWORDS)
  })

  afterEach(async () => {
    await database.connection.execute('update schema_migrations set version = 1, dirty = false where dirty')
    await migrate(database.connection, 0)
  })

  async function readRows(): Promise<Rows> {
    const rows: Rows = {}
    for (const table of TABLES) {
      const found = await database.connection.query<{ row: Record<string, unknown> }>(
        `select to_jsonb(t) as row from ${table} t order by id`,
      )
      rows[table] = found.map(({ row }) => row)
    }
    return rows
  }

  /** The same rows in the same order, with every value that was not null; embeddings are normalized, hashes do not move. */
  function expectKept(rows: Rows, before: Rows) {
    for (const table of TABLES) {
      const kept = before[table]?.map((row) =>
        Object.fromEntries(
          Object.entries(row).filter(
            ([column, value]) => value !== null && !['embedding', 'api_key_hash'].includes(column),
          ),
        ),
      )
      expect(rows[table]).toEqual(kept?.map((row) => expect.objectContaining(row)))
    }
  }

  it('reaches the newest version without losing a row', async () => {
    const before = await readRows()
    expect(TABLES.map((table) => before[table]?.length)).toEqual([2, 3, 2, 2])
    await upgrade()
    const after = await readRows()
    expectKept(after, before)

    // what was null has a meaning now
    expect(after['tenants']?.[1]).toMatchObject({ environment: 'live', settings: {}, is_active: true })
    expect(after['faces']?.[2]).toMatchObject({ model: 'arcface-512@1', metadata: {}, quality_score: null })
    expect(after['verifications']?.[1]).toMatchObject({ confidence: 0, threshold: 0.675, model: 'arcface-512@1' })
    expect(after['usage_records']?.[1]).toMatchObject({
      registrations: 0,
      verifications: 0,
      identifications: 0,
      deletions: 0,
    })

    const faces = await readFaces()
    const directions = [1, -1, 1].map((component) => toEmbedding(Array(512).fill(component / Math.sqrt(512))))
    expect(await openAll(faces)).toEqual(directions)
    for (const { embedding } of faces) {
      expect(Math.hypot(...embedding)).toBeCloseTo(1, 4)
      // all the same direction, or the opposite one, before
      expect(Math.abs(embedding.reduce((sum, component) => sum + component / Math.sqrt(512), 0))).toBeLessThan(0.25)
    }
    const counts = await database.connection.query(
      'select tenant_id, sum(change)::int as faces from face_counts group by tenant_id order by tenant_id',
    )
    expect(counts).toEqual([
      { tenant_id: ACME, faces: 2 },
      { tenant_id: RIVAL, faces: 1 },
    ])
  })

  it('gets its rows back on the way down from version 5, with those written since', async () => {
    const before = await readRows()
    await migrate(database.connection, PROTECTING_VERSION - 1)
    await database.connection.execute(`
      insert into faces (tenant_id, id, external_id, embedding, model)
        values ('${RIVAL}', 'ffffffff-0000-4000-8000-000000000001', 'eve', l2_normalize(array_fill(1, array[512])::vector), 'arcface-512@1');
      insert into verifications (tenant_id, id, external_id, verified, confidence, threshold, model, request_id)
        values ('${RIVAL}', 'ffffffff-0000-4000-8000-000000000002', null, true, 0.9, 0.7, 'arcface-512@1', 'a request')`)
    await migrate(database.connection, 1)
    const after = await readRows()
    expect(after['faces']?.pop()).toMatchObject({ tenant_id: RIVAL, external_id: 'eve' })
    expect(after['verifications']?.pop()).toMatchObject({ tenant_id: RIVAL, external_id: '(erased)', confidence: 0.9 })
    expectKept(after, before)
  })

  it('loses its faces on the way down from the newest, because nobody can open them there, and keeps the rest', async () => {
    const before = await readRows()
    await upgrade()
    await migrate(database.connection, PROTECTING_VERSION - 1)
    const counts = await database.connection.query(
      'select tenant_id, sum(change)::int as faces from face_counts group by tenant_id order by tenant_id',
    )
    expect(counts).toEqual([
      { tenant_id: ACME, faces: 0 },
      { tenant_id: RIVAL, faces: 0 },
    ])
    await migrate(database.connection, 1)
    const after = await readRows()
    // the audit keeps its words, and no longer names a face
    expect(after['verifications']?.[0]).toMatchObject({ external_id: 'ada', face_id: null, confidence: 0.9123 })
    for (const row of before['verifications'] ?? []) row['face_id'] = null
    expectKept(after, { ...before, faces: [] })
  })

  it('is refused without a master key while it is still of version 1', async () => {
    const before = [await readRows(), await describeCatalog(database.connection)]
    await expect(migrate(database.connection)).rejects.toThrow(/^There are 3 faces to protect, and no master key/)
    expect(await findVersion(database.connection)).toEqual({ version: 1, dirty: false })
    expect([await readRows(), await describeCatalog(database.connection)]).toEqual(before)
  })

  it.each([
    [
      'a tenant without a name',
      'tenants',
      'the name is empty',
      `insert into tenants (id, name) values ('${UNFIT}', '')`,
    ],
    [
      'settings that are a list',
      'tenants',
      'settings is not an object',
      `insert into tenants (id, name, settings) values ('${UNFIT}', 'x', '[]')`,
    ],
    [
      'a face without a tenant',
      'faces',
      'there is no tenant',
      `insert into faces (id, external_id, embedding) values ('${UNFIT}', 'x', array_fill(1, array[512])::vector)`,
    ],
    [
      'a face without an embedding',
      'faces',
      'there is no embedding, or it has no direction',
      `insert into faces (id, tenant_id, external_id) values ('${UNFIT}', '${ACME}', 'x')`,
    ],
    [
      'an embedding of zeros',
      'faces',
      'there is no embedding, or it has no direction',
      `insert into faces (id, tenant_id, external_id, embedding) values ('${UNFIT}', '${ACME}', 'x', array_fill(0, array[512])::vector)`,
    ],
    [
      'an external_id that is a path',
      'faces',
      'external_id is empty, ".", "..", not in Unicode normal form C, or has characters that cannot be seen',
      `insert into faces (id, tenant_id, external_id, embedding) values ('${UNFIT}', '${ACME}', '..', array_fill(1, array[512])::vector)`,
    ],
    [
      'an external_id in another normal form',
      'faces',
      'external_id is empty, ".", "..", not in Unicode normal form C, or has characters that cannot be seen',
      `insert into faces (id, tenant_id, external_id, embedding) values ('${UNFIT}', '${ACME}', U&'Ame\\0301lie', array_fill(1, array[512])::vector)`,
    ],
    [
      'an external_id with a character that cannot be seen',
      'faces',
      'external_id is empty, ".", "..", not in Unicode normal form C, or has characters that cannot be seen',
      `insert into faces (id, tenant_id, external_id, embedding) values ('${UNFIT}', '${ACME}', U&'a\\200Bb', array_fill(1, array[512])::vector)`,
    ],
    [
      'an external_id with a space at its end',
      'faces',
      'external_id is empty, ".", "..", not in Unicode normal form C, or has characters that cannot be seen',
      `insert into faces (id, tenant_id, external_id, embedding) values ('${UNFIT}', '${ACME}', 'x ', array_fill(1, array[512])::vector)`,
    ],
    [
      'metadata that are a list',
      'faces',
      'metadata is not an object',
      `insert into faces (id, tenant_id, external_id, embedding, metadata) values ('${UNFIT}', '${ACME}', 'x', array_fill(1, array[512])::vector, '[]')`,
    ],
    [
      'a quality in percent',
      'faces',
      'quality_score is not from 0 to 1',
      `insert into faces (id, tenant_id, external_id, embedding, quality_score) values ('${UNFIT}', '${ACME}', 'x', array_fill(1, array[512])::vector, 9.1)`,
    ],
    [
      'a verification without a tenant',
      'verifications',
      'there is no tenant',
      `insert into verifications (id, external_id, verified) values ('${UNFIT}', 'x', true)`,
    ],
    [
      "a verification of a rival's face",
      'verifications',
      'the face is of another tenant',
      `insert into verifications (id, tenant_id, face_id, external_id, verified) values ('${UNFIT}', '${RIVAL}', '${ADA}', 'ada', true)`,
    ],
    [
      'usage without a tenant',
      'usage_records',
      'there is no tenant',
      `insert into usage_records (id, period) values ('${UNFIT}', '2025-04')`,
    ],
    [
      'usage of a thirteenth month',
      'usage_records',
      'period is not YYYY-MM',
      `insert into usage_records (id, tenant_id, period) values ('${UNFIT}', '${ACME}', '2025-13')`,
    ],
  ])('is not migrated with %s: the row is named, and nothing is lost', async (_, table, fault, insert) => {
    const { connection } = database
    await connection.execute(insert)
    const before = await readRows()
    await expect(upgrade()).rejects.toThrow(
      `000002_tenancy.up.sql failed and was rolled back: version 2 cannot hold these rows (the first 20); mend or delete them, then migrate again\n${table} ${UNFIT}: ${fault}\nThe database is marked dirty at version 2`,
    )
    expect(await readRows()).toEqual(before)

    await connection.execute(
      `delete from ${table} where id = '${UNFIT}'; update schema_migrations set version = 1, dirty = false`,
    )
    expect(await upgrade()).toEqual({ version: newest, dirty: false })
  })
})

// == Protection ==

interface StoredFace {
  tenant_id: string
  id: string
  external_id: string
  model: string
  embedding: number[]
  key_version: number
  sealed: string
}

/** By id; vectors are 512 numbers, which pgvector writes as JSON. */
async function readFaces(): Promise<StoredFace[]> {
  const rows = await database.connection.query<StoredFace & { vector: string }>(`
    select tenant_id, id, external_id, model, embedding::text as vector, key_version, encode(sealed, 'base64') as sealed
    from faces order by id`)
  return rows.map(({ vector, ...row }) => ({ ...row, embedding: JSON.parse(vector) }))
}

/** What is in the sealed copies, each opened as the row's own face with its tenant's own key. */
async function openAll(faces: StoredFace[]): Promise<unknown[]> {
  const opened: unknown[] = []
  for (const { tenant_id, id, external_id, model, key_version, sealed } of faces) {
    const [keyring] = await keysOf(tenant_id, model)
    expect(key_version).toBe(keyring.version)
    const face = { id, externalId: external_id, model }
    opened.push(await open(keyring, face, fromBase64(sealed)))
  }
  return opened
}

const known = new Map<string, ReturnType<typeof findTemplateKeys>>()

/** A rotation takes 5 ms to build. */
function keysOf(tenant: string, model: string): ReturnType<typeof findTemplateKeys> {
  const name = `${tenant} ${model}`
  const keys = known.get(name) ?? findTemplateKeys(database.connection, masterKeys, tenant, model)
  known.set(name, keys)
  return keys
}

describe('a vault that was lost', () => {
  beforeEach(async () => {
    await migrate(database.connection, 0)
    await migrate(database.connection)
  })

  it('keeps no tenant from being erased, and no version from being left', async () => {
    const { connection } = database
    const id = '00000000-0000-4000-8000-0000000000e1'
    await connection.query("insert into tenants (id, name) values ($1, 'leaving')", [id])
    await connection.query("insert into usage_events (tenant_id, kind) values ($1, 'registration')", [id])
    await connection.execute('drop schema vault cascade')
    await connection.query('select request_tenant_erasure($1)', [id])
    const [row] = await connection.query<{ rows: number }>('select erase_tenant_batch($1, 100) as rows', [id])
    // the event, and the tenant
    expect(row?.rows).toBe(2)
    expect(await connection.query('select from tenants where id = $1', [id])).toEqual([])
    expect(await migrate(connection, PROTECTING_VERSION - 1)).toEqual({
      version: PROTECTING_VERSION - 1,
      dirty: false,
    })
  })

  it('is made again, empty, by giving a tenant a key', async () => {
    const { connection } = database
    const before = await describeCatalog(connection)
    await connection.query("insert into tenants (name) values ('without a key')")
    await connection.execute('drop schema vault cascade')
    expect(await initTemplateKeys(connection, masterKeys)).toHaveLength(1)
    expect(await describeCatalog(connection)).toEqual(before)
  })

  it('has no key to destroy', async () => {
    const { connection } = database
    const id = '00000000-0000-4000-8000-0000000000e2'
    await connection.query("insert into tenants (id, name) values ($1, 'without a key')", [id])
    await connection.execute('drop schema vault cascade')
    expect(await destroyTemplateKeys(connection, id)).toBe(0)
  })
})

describe('faces that were enrolled in clear', () => {
  const ACME = '00000000-0000-4000-8000-00000000000a'
  const RIVAL = '00000000-0000-4000-8000-00000000000b'
  const EMPTY = '00000000-0000-4000-8000-00000000000c'
  /** By tenant and model; the first takes more than one batch of 200. */
  const GALLERIES = [
    { tenant: ACME, model: 'arcface-512@1', faces: 450 },
    { tenant: ACME, model: 'another@1', faces: 30 },
    { tenant: RIVAL, model: 'arcface-512@1', faces: 20 },
  ]
  const TOTAL = 500

  beforeEach(async () => {
    known.clear()
    const { connection } = database
    await migrate(connection, 0)
    await migrate(connection, PROTECTING_VERSION - 1)
    await connection.query(
      `insert into tenants (id, name, is_active) values ($1, 'Acme', true), ($2, 'Rival', false), ($3, 'Empty', true)`,
      [ACME, RIVAL, EMPTY],
    )
    for (const { tenant, model, faces } of GALLERIES) {
      await connection.query(
        // not quite of norm 1, as the constraint allows
        `insert into faces (tenant_id, external_id, embedding, model, metadata, quality_score, created_at, updated_at)
        select $1, $2 || ' ' || n, scaled.v, $2, jsonb_build_object('n', n), 0.5, '2026-01-01', '2026-01-02'
        from generate_series(1, $3::int) n
        cross join lateral (
          select l2_normalize(array_agg(random() - 0.5)::vector(512)) * array_fill(1.0005, array[512])::vector as v
          from generate_series(1, 512) where n > 0
        ) as scaled`,
        [tenant, model, faces],
      )
    }
  })

  afterEach(async () => {
    if ((await findVersion(database.connection)).dirty) await forceVersion(database.connection, PROTECTING_VERSION)
    await migrate(database.connection, 0)
  })

  /** The plain embeddings, and all else that must stay, by id. */
  async function readPlain() {
    const rows = await database.connection.query<{ id: string; vector: string; rest: Record<string, unknown> }>(`
      select id, embedding::text as vector,
        to_jsonb(f) - array['embedding', 'code', 'key_version', 'sealed'] as rest
      from faces f order by id`)
    return rows.map(({ id, vector, rest }) => ({ id, rest, plain: JSON.parse(vector) as number[] }))
  }

  async function countProtected(): Promise<number> {
    const [row] = await database.connection.query<{ faces: number }>(
      'select count(*)::int as faces from faces where sealed is not null',
    )
    return row?.faces ?? 0
  }

  const dot = (a: ArrayLike<number>, b: ArrayLike<number>) =>
    Array.from(a).reduce((sum, component, index) => sum + component * (b[index] ?? 0), 0)

  it('are protected between versions 6 and 7, and lose nothing else', async () => {
    const before = await readPlain()
    const progress: [number, number][] = []
    const reached = await upgrade(undefined, { masterKeys, onFaces: (...done) => progress.push(done) })
    expect(reached).toEqual({ version: newest, dirty: false })
    expect(progress.at(-1)).toEqual([TOTAL, TOTAL])
    expect(progress.length).toBeGreaterThanOrEqual(5)

    const after = await readPlain()
    expect(after.map(({ id, rest }) => ({ id, rest }))).toEqual(before.map(({ id, rest }) => ({ id, rest })))
    const faces = await readFaces()
    const embeddings = before.map(({ plain }) => toEmbedding(plain))
    expect(await openAll(faces)).toEqual(embeddings)
    expect(new Set(faces.map(({ sealed }) => sealed)).size).toBe(TOTAL)

    // what is stored says nothing of the plain one, and keeps every distance within a gallery
    const cosines = faces.map(({ embedding }, index) => dot(embedding, embeddings[index] as Float32Array))
    expect(Math.max(...cosines.map(Math.abs))).toBeLessThan(0.25)
    expect(Math.abs(cosines.reduce((sum, cosine) => sum + cosine) / TOTAL)).toBeLessThan(0.02)
    for (const { tenant, model } of GALLERIES) {
      const own = faces.flatMap((face, index) => (face.tenant_id === tenant && face.model === model ? [index] : []))
      for (const index of own.slice(0, 10)) {
        const [first = 0] = own
        const stored = dot(faces[first]?.embedding ?? [], faces[index]?.embedding ?? [])
        const plain = dot(embeddings[first] as Float32Array, embeddings[index] as Float32Array)
        expect(Math.abs(stored - plain)).toBeLessThan(1e-6)
      }
    }
  })

  it('leave nothing of themselves in the files of the table', async (context) => {
    needsNative(context, database, 'its files are not read')
    const { connection } = database
    const plain = (await readPlain()).map(({ plain }) => Buffer.from(Float32Array.from(plain).buffer).subarray(0, 64))
    const countInFiles = async () => {
      await connection.execute('checkpoint')
      const files = await connection.query<{ bytes: Buffer }>(
        `select pg_read_binary_file(pg_relation_filepath(c.oid)) as bytes from pg_class c
        where 'faces'::regclass in (
          c.oid, (select i.indrelid from pg_index i where i.indexrelid = c.oid),
          (select t.oid from pg_class t where t.reltoastrelid = c.oid)
        )`,
      )
      const all = Buffer.concat(files.map(({ bytes }) => bytes))
      return plain.filter((bytes) => all.includes(bytes)).length
    }
    expect(await countInFiles()).toBe(TOTAL)
    await upgrade()
    expect(await countInFiles()).toBe(0)
  })

  it('give every tenant a key of its own besides, also one that has none of them', async () => {
    await upgrade()
    const keys = await database.connection.query(
      `select tenant_id, version, octet_length(wrapped) as bytes, destroyed_at from vault.template_keys order by tenant_id`,
    )
    expect(keys).toEqual(
      [ACME, RIVAL, EMPTY].map((tenant) => ({
        tenant_id: tenant,
        version: expect.any(Number),
        bytes: 63,
        destroyed_at: null,
      })),
    )
    const [[acme], [rival]] = [await keysOf(ACME, 'arcface-512@1'), await keysOf(RIVAL, 'arcface-512@1')]
    expect(acme.rotations.get('arcface-512@1')?.signs).not.toEqual(rival.rotations.get('arcface-512@1')?.signs)
  })

  it('stop the upgrade when there is no master key, before anything was changed', async () => {
    const before = [await readPlain(), await describeCatalog(database.connection)]
    const refusal = await migrate(database.connection).catch((error: unknown) => error)
    expect(refusal).toBeInstanceOf(CommandError)
    expect(String(refusal)).toMatch(
      /There are 500 faces to protect, and no master key .* set TEMPLATE_MASTER_KEYS\..* Nothing was changed\.$/,
    )
    expect(await findVersion(database.connection)).toEqual({ version: PROTECTING_VERSION - 1, dirty: false })
    expect([await readPlain(), await describeCatalog(database.connection)]).toEqual(before)
  })

  it('stop the upgrade when tenants are live and the master key is that of development unasked', async () => {
    const before = [await readPlain(), await describeCatalog(database.connection)]
    await expect(upgrade(undefined, { masterKeys, isAssumed: true })).rejects.toThrow(
      /^There are 500 faces to protect and live tenants, .* set TEMPLATE_MASTER_KEYS .* Nothing was changed\.$/,
    )
    expect([await readPlain(), await describeCatalog(database.connection)]).toEqual(before)
    await database.connection.execute("update tenants set environment = 'test'")
    await upgrade(undefined, { masterKeys, isAssumed: true })
    expect(await countProtected()).toBe(TOTAL)
  })

  it('are no reason to stop where there are none', async () => {
    await database.connection.execute('delete from faces')
    expect(await migrate(database.connection)).toEqual({ version: newest, dirty: false })
  })

  it('are gone on with after an interruption, and none is protected twice', async () => {
    const before = await readPlain()
    const interrupted = upgrade(undefined, {
      masterKeys,
      onFaces() {
        throw new Error('the plug was pulled')
      },
    })
    await expect(interrupted).rejects.toThrow('the plug was pulled')
    expect(await findVersion(database.connection)).toEqual({ version: PROTECTING_VERSION, dirty: false })
    const done = await countProtected()
    expect(done).toBeGreaterThan(0)
    expect(done).toBeLessThan(TOTAL)
    const first = (await readFaces()).filter(({ sealed }) => sealed !== null)
    expect(first).toHaveLength(done)

    // neither without the key, nor with another one than began it
    const others = await toMasterKeys(new Map([[65_535, new Uint8Array(32).fill(7)]]))
    await expect(migrate(database.connection)).rejects.toThrow(/no master key/)
    await expect(upgrade(undefined, { masterKeys: others })).rejects.toThrow(/does not open/)
    expect(await findVersion(database.connection)).toEqual({ version: PROTECTING_VERSION, dirty: false })
    expect(await countProtected()).toBe(done)

    expect(await upgrade()).toEqual({ version: newest, dirty: false })
    const faces = await readFaces()
    expect(faces).toEqual(expect.arrayContaining(first))
    expect(await openAll(faces)).toEqual(before.map(({ plain }) => toEmbedding(plain)))
  })

  it('are the last of their kind: from version 6 on none is taken without its sealed copy', async () => {
    await upgrade(PROTECTING_VERSION)
    const insert = (columns: string, values: string, parameters: unknown[] = []) =>
      database.connection.query(
        `insert into faces (tenant_id, external_id, embedding, model${columns})
        select tenant_id, 'a new one', embedding, model${values} from faces where tenant_id = $1 limit 1`,
        [ACME, ...parameters],
      )
    const refused = { code: '23514', message: expect.stringContaining('faces_template_check') }
    await expect(insert('', '')).rejects.toMatchObject(refused)
    await expect(insert(', key_version', ', 1')).rejects.toMatchObject(refused)
    const whole = ', key_version, sealed'
    // under key 2, and its bytes say 1
    await expect(insert(whole, ', 2, $2', [UNOPENED])).rejects.toMatchObject(refused)
    await expect(insert(whole, ', 1, $2', [UNOPENED.subarray(0, 2_078)])).rejects.toMatchObject(refused)
    await insert(whole, ', 1, $2', [UNOPENED])
  })

  it('keep version 7 from being reached while one of them is left', async () => {
    await upgrade(PROTECTING_VERSION)
    // another folder with the same files: by a runner that does not protect
    const folder = await mkdtemp(join(tmpdir(), 'rekko-migrations-'))
    await cp(MIGRATIONS, folder, { recursive: true })
    await expect(migrate(database.connection, undefined, undefined, folder)).rejects.toThrow(
      /^000007_\w+\.up\.sql failed and was rolled back: .*"faces_template_check"/,
    )
    await rm(folder, { recursive: true })
    await forceVersion(database.connection, PROTECTING_VERSION)
    expect(await countProtected()).toBe(0)
    expect(await upgrade()).toEqual({ version: newest, dirty: false })
    expect(await countProtected()).toBe(TOTAL)
  })

  it('of a tenant that is being erased do not stand in the way', async () => {
    await database.connection.query(
      'update tenants set is_active = false, erasure_requested_at = now() where id = $1',
      [RIVAL],
    )
    expect(await upgrade()).toEqual({ version: newest, dirty: false })
    const keys = await database.connection.query(
      'select 1 from vault.template_keys where tenant_id = $1 and destroyed_at is null',
      [RIVAL],
    )
    expect(keys).toEqual([])
    const left = await database.connection.query('select 1 from faces where tenant_id = $1', [RIVAL])
    expect(left).toEqual([])
  })
})
