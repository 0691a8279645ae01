// Proves what `status`, `psql`, `doctor`, `stats` and `index` say: each check of doctor finds what was broken and is
// content again when it is mended. Fake: the faces, which are random directions, or generated people where they are to
// be opened; psql and docker where a test says so; and the facts of the server and its logins, which a test must not
// change for everybody.
import { execFile } from 'node:child_process'
import { access, chmod, mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { afterAll, beforeAll, describe, expect, it, onTestFinished, vi } from 'vitest'
import { bootstrap } from '../../scripts/database/bootstrap.ts'
import { type Connection, connectEmbedded, connectNative, openEmbedded } from '../../scripts/database/connection.ts'
import type { Context } from '../../scripts/database/context.ts'
import { DEVELOPMENT_PASSWORDS } from '../../scripts/database/development.ts'
import {
  examine,
  judgeChecksums,
  judgeDurability,
  judgeLogging,
  judgePgvector,
  judgeServer,
  judgeVacuum,
} from '../../scripts/database/doctor.ts'
import { enrollFaces } from '../../scripts/database/import.ts'
import { migrate } from '../../scripts/database/migrate.ts'
import { isBefore } from '../../scripts/database/server.ts'
import { readStatistics, SECTION_NAMES } from '../../scripts/database/statistics.ts'
import { type Target, toTarget } from '../../scripts/database/target.ts'
import {
  addTemplateKey,
  findTemplateKeys,
  initTemplateKeys,
  listStoredKeys,
} from '../../scripts/database/template-keys.ts'
import { advise, tuneIndex } from '../../scripts/database/tenant-index.ts'
import { CommandError, EXIT, Terminal, toCount } from '../../scripts/database/terminal.ts'
import { asOwner, asTenant } from '../../scripts/database/transaction.ts'
import { fillVault } from '../../scripts/database/vault.ts'
import { toVectorTexts } from '../../scripts/database/vector-array.ts'
import { generateGallery } from '../../scripts/gallery.ts'
import { isFault, toEmbedding } from '../../src/face/embedding.ts'
import { FIRST_VERSION, unwrapDataSecret, wrapDataSecret } from '../../src/face/protection/data-secret.ts'
import { toMasterKeys } from '../../src/face/protection/master-keys.ts'
import { createDatabase, type FreshDatabase, needsNative, UNOPENED } from './database.ts'
import { masterKeys } from './tenant-door.ts'

const TENANT = '10000000-0000-4000-8000-000000000001'
const RIVAL = '20000000-0000-4000-8000-000000000002'
const NOBODY = '30000000-0000-4000-8000-000000000003'
const INDEX = 'idx_faces_hnsw_10000000'
const FACES = 2_000
const PASSWORD = 'correct-horse'

let database: FreshDatabase
let target: Target
let folder: string

beforeAll(async () => {
  database = await createDatabase()
  await migrate(database.connection)
  target = database.isNative ? toTarget(database.url, undefined) : { kind: 'embedded', folder: 'memory' }
  folder = await mkdtemp(join(tmpdir(), 'rekko-health-'))
  await database.connection.query('insert into tenants (id, name) values ($1, $2), ($3, $4)', [
    ...[TENANT, 'a gallery'],
    ...[RIVAL, 'a rival'],
  ])
  await initTemplateKeys(database.connection, masterKeys, () => FIRST_VERSION)
})

afterAll(async () => {
  await database.drop()
  await rm(folder, { recursive: true })
})

interface Outcome {
  code: number
  stdout: string
  stderr: string
}

/** Runs scripts/db.ts as an operator does, in a folder of the test's. */
function run(parameters: string[], environment: Record<string, string> = {}): Promise<Outcome> {
  const inherited = Object.entries(process.env).filter(([name]) => !/^(DATABASE_URL|DB|PG[A-Z]+)$/.test(name))
  return new Promise((resolve) => {
    execFile(
      process.execPath,
      [join(import.meta.dirname, '../../scripts/db.ts'), ...parameters],
      { cwd: folder, env: { ...Object.fromEntries(inherited), ...environment }, timeout: 50_000 },
      (error, stdout, stderr) => resolve({ code: error ? Number(error.code ?? -1) : 0, stdout, stderr }),
    )
  })
}

/** The database of this file, as an operator names it. */
function runHere(parameters: string[], environment: Record<string, string> = {}): Promise<Outcome> {
  return run(['--database-url', database.url, ...parameters], environment)
}

/** A folder with programs that a test stands in for, to put in front of PATH or in its place. */
async function fakePrograms(programs: Record<string, string>): Promise<string> {
  const bin = await mkdtemp(join(folder, 'bin-'))
  for (const [name, script] of Object.entries(programs)) {
    await writeFile(join(bin, name), `#!/bin/sh\n${script}\n`)
    await chmod(join(bin, name), 0o755)
  }
  return bin
}

describe('doctor', () => {
  /** What it says of one check: the level, the words and the mending of each finding. */
  async function look(check: string, connection: Connection = database.connection, where: Target = target) {
    return (await examine(connection, where)).filter((finding) => finding.check === check)
  }

  const well = (check: string) => look(check).then((findings) => findings.map(({ level }) => level))

  it('finds nothing to mend in a new database', async () => {
    const findings = await examine(database.connection, target)
    expect(findings.filter(({ level }) => level === 'problem')).toEqual([])
    const skipped = findings.filter(({ level }) => level === 'skipped').map(({ check }) => check)
    expect(skipped).toEqual(database.isNative ? [] : ['durability', 'parameter logging', 'pg_stat_statements'])
    expect(findings.length).toBeGreaterThanOrEqual(15)
  })

  it.each([
    {
      what: 'row-level security that does not bind the owner',
      broken: 'alter table faces no force row level security',
      mended: 'alter table faces force row level security',
      check: 'isolation',
      says: /^L08 table faces row-level security does not bind its owner$/,
    },
    {
      what: 'a login that owns something',
      broken: 'create schema taken authorization rekko_app',
      mended: 'drop schema taken',
      check: 'isolation',
      says: /^L06 schema taken belongs to rekko_app$/,
    },
    {
      what: 'a dirty version',
      broken: 'update schema_migrations set dirty = true',
      mended: 'update schema_migrations set dirty = false',
      check: 'migrations',
      says: /is dirty: a migration did not finish$/,
    },
    {
      what: 'a migration that is pending',
      broken: 'update schema_migrations set version = 1',
      mended: 'update schema_migrations set version = (select max(version) from migration.history)',
      check: 'migrations',
      says: /^000002_tenancy\.up\.sql is pending/,
    },
    {
      what: 'a file that was changed after it was applied',
      broken: "update migration.history set checksum = 'x' || checksum where version = 2",
      mended: 'update migration.history set checksum = substr(checksum, 2) where version = 2',
      check: 'migrations',
      says: /^000002_tenancy\.up\.sql was changed after it was applied/,
    },
    {
      what: 'an index whose build did not finish',
      broken: "update pg_index set indisvalid = false where indexrelid = 'idx_tenants_is_active'::regclass",
      mended: "update pg_index set indisvalid = true where indexrelid = 'idx_tenants_is_active'::regclass",
      check: 'indexes',
      says: /^idx_tenants_is_active is not valid/,
    },
  ])('finds $what', async ({ broken, mended, check, says }) => {
    expect(await well(check)).toEqual(['ok'])
    await database.connection.execute(broken)
    const findings = await look(check)
    await database.connection.execute(mended)
    const told = findings.find((finding) => says.test(finding.says))
    expect(findings.map((finding) => finding.says).join('\n')).toMatch(new RegExp(says.source, `${says.flags}m`))
    expect(told?.level).toBe('problem')
    expect(told?.mend).toBeTruthy()
    expect(await well(check)).toEqual(['ok'])
  })

  it('finds face counts that are wrong, and the statement it offers mends them', async () => {
    expect(await well('face counts')).toEqual(['ok'])
    await database.connection.query('insert into face_counts (tenant_id, change) values ($1, 3), ($2, 0)', [
      TENANT,
      RIVAL,
    ])
    const findings = await look('face counts')
    expect(findings.map(({ says }) => says)).toEqual([`the tenant ${TENANT} has 0 faces, and face_counts says 3`])
    expect(findings[0]?.level).toBe('problem')
    await database.connection.execute(findings[0]?.mend ?? '')
    expect(await well('face counts')).toEqual(['ok'])
  })

  it('warns of usage events that wait for more than an hour, not of younger ones', async () => {
    const insert = `insert into usage_events (tenant_id, kind, occurred_at) values ($1, 'verification', now() - $2::interval)`
    await database.connection.query(insert, [TENANT, '59 minutes'])
    expect(await well('metering')).toEqual(['ok'])
    await database.connection.query(insert, [TENANT, '3 hours'])
    expect(await look('metering')).toMatchObject([
      { level: 'warning', says: expect.stringMatching(/^1 usage events wait .* the oldest for 3\.0 hours/) },
    ])
    await database.connection.execute('delete from usage_events')
  })

  it('finds commits that are not waited for, and parameters that reach the log, where they are set', async (context) => {
    needsNative(context, database, 'the embedded database is for development and writes no log')
    const set = (setting: string) =>
      database.connection.execute(
        `do $$ begin execute format('alter database %I ${setting}', current_database()); end $$`,
      )
    await set('set synchronous_commit = off')
    await set('set log_parameter_max_length_on_error = 100')
    // a setting of the database counts for sessions that begin after it
    const later = await database.connect()
    onTestFinished(() => later.close())
    const durability = await look('durability', later)
    expect(durability.map(({ level }) => level)).toContain('problem')
    expect(durability.map(({ says }) => says).join('\n')).toMatch(/^synchronous_commit is off for database /m)
    expect((await look('parameter logging', later)).map(({ says }) => says)).toEqual([
      'log_parameter_max_length_on_error is not 0: a failing statement puts a face into the log',
    ])
    for (const { mend } of durability) if (mend?.startsWith('alter database')) await database.connection.execute(mend)
    await set('reset log_parameter_max_length_on_error')
    expect(await well('durability')).toEqual(['ok'])
  })

  it('warns without pg_stat_statements, and is content with it', async (context) => {
    needsNative(context, database, 'the embedded database does not have pg_stat_statements')
    expect(await well('pg_stat_statements')).toEqual(['warning'])
    await database.connection.execute('create extension pg_stat_statements')
    expect(await well('pg_stat_statements')).toEqual(['ok'])
    await database.connection.execute('drop extension pg_stat_statements')
  })

  it('finds a pooled URL, and leaves to Neon what Neon does', async () => {
    const neon = (host: string) => toTarget(`postgres://somebody:${PASSWORD}@${host}/rekko?sslmode=require`, undefined)
    const pooled = neon('ep-cool-rain-123-pooler.eu-central-1.aws.neon.tech')
    const direct = neon('ep-cool-rain-123.eu-central-1.aws.neon.tech')
    expect(await look('direct connection', database.connection, pooled)).toMatchObject([{ level: 'problem' }])
    expect(await look('direct connection', database.connection, direct)).toMatchObject([{ level: 'ok' }])
    expect(await look('durability', database.connection, direct)).toMatchObject([{ level: 'skipped' }])
    expect(JSON.stringify(await examine(database.connection, pooled))).not.toContain(PASSWORD)
  })

  it('goes on after what it may not look at, and does not trust counts of a login that sees no rows', async (context) => {
    needsNative(context, database, 'the embedded database has one session, and it is the administrator’s')
    const url = new URL(database.url)
    url.username = 'rekko_app'
    url.password = 'rekko_app'
    const app = await connectNative(url.href)
    onTestFinished(() => app.close())
    const findings = await examine(app, toTarget(url.href, undefined))
    const of = (check: string) => findings.find((finding) => finding.check === check)
    expect(of('migrations')).toMatchObject({
      level: 'problem',
      says: expect.stringMatching(/^could not be looked at: /),
    })
    expect(of('face counts')?.level).toBe('skipped')
    expect(of('template keys')).toMatchObject({
      level: 'problem',
      says: expect.stringMatching(/^could not be looked at: /),
    })
    expect(of('indexes')?.level).toBe('ok')
  })

  it('says what a database without the schema lacks, and looks at the rest', async () => {
    const empty = await createDatabase()
    onTestFinished(() => empty.drop())
    const where = empty.isNative ? toTarget(empty.url, undefined) : target
    const findings = await examine(empty.connection, where)
    expect(findings.find(({ check }) => check === 'migrations')).toMatchObject({
      level: 'problem',
      says: '000001_init.up.sql is pending',
      mend: 'scripts/db.sh up',
    })
    expect(findings.find(({ check }) => check === 'isolation')?.level).toBe('skipped')
    expect(findings.find(({ check }) => check === 'template keys')?.level).toBe('skipped')
    expect(findings.find(({ check }) => check === 'indexes')?.level).toBe('ok')
  })

  it('ends with 5 when there is something to mend, and with 0 when there are warnings only', async (context) => {
    needsNative(context, database, 'the command would open an embedded database of its own')
    const well = await runHere(['doctor', '--json'])
    expect(well.code).toBe(EXIT.ok)
    expect(JSON.parse(well.stdout)).toMatchObject({ problems: 0, findings: expect.any(Array) })
    await database.connection.execute('alter table faces no force row level security')
    const ill = await runHere(['doctor'])
    await database.connection.execute('alter table faces force row level security')
    expect(ill.code).toBe(EXIT.findings)
    expect(ill.stdout).toMatch(/^✗ isolation +L08 table faces row-level security does not bind its owner$/m)
    expect(ill.stdout).toMatch(/^ +to mend: alter table faces force row level security$/m)
  })
})

describe('doctor, of template keys', () => {
  const KEYED = '40000000-0000-4000-8000-000000000004'
  const OTHER = '50000000-0000-4000-8000-000000000005'
  const MODEL = 'arcface-512@1'
  const ELSEWHERE = toTarget('postgres://somebody:secret@db.example.com/rekko', undefined)
  let keyed: FreshDatabase
  let here: Target

  beforeAll(async () => {
    vi.stubEnv('TEMPLATE_MASTER_KEYS', undefined)
    keyed = await createDatabase()
    here = keyed.isNative ? toTarget(keyed.url, undefined) : { kind: 'embedded', folder: 'memory' }
    await migrate(keyed.connection)
    await keyed.connection.query("insert into tenants (id, name) values ($1, 'keyed'), ($2, 'other')", [KEYED, OTHER])
    await initTemplateKeys(keyed.connection, masterKeys, () => FIRST_VERSION)
    await enroll(KEYED, 4)
    await enroll(OTHER, 2)
  })
  afterAll(async () => {
    vi.unstubAllEnvs()
    await keyed.drop()
  })

  async function enroll(tenantId: string, people: number) {
    const keys = await findTemplateKeys(keyed.connection, masterKeys, tenantId, MODEL)
    const faces = generateGallery(people, 1, 1).map(({ name, samples: [sample] }) => {
      const embedding = toEmbedding(sample)
      if (isFault(embedding)) throw new RangeError(embedding.detail)
      return { externalId: name, embedding, metadata: {}, qualityScore: null }
    })
    const gallery = { tenantId, keys, model: MODEL, toVectorArray: toVectorTexts }
    await asTenant(keyed.connection, tenantId, () => enrollFaces(keyed.connection, gallery, faces))
  }

  async function look(where: Target = here, connection: Connection = keyed.connection) {
    return (await examine(connection, where)).filter(({ check }) => check === 'template keys')
  }

  /** What it says after `broken`, and that it is content before and after. */
  async function afterwards(broken: () => Promise<unknown>, mend: () => Promise<unknown>, where: Target = here) {
    expect((await look()).map(({ level }) => level)).toEqual(['ok'])
    await broken()
    try {
      return await look(where)
    } finally {
      await mend()
      expect((await look()).map(({ level }) => level)).toEqual(['ok'])
    }
  }

  const execute = (script: string) => () => keyed.connection.execute(script)
  const setMasters = async (numbers: Record<number, string>) =>
    vi.stubEnv(
      'TEMPLATE_MASTER_KEYS',
      Object.entries(numbers)
        .map(([number, secret]) => `${number}:${Buffer.from(secret).toString('base64')}`)
        .join(','),
    )
  const unsetMasters = async () => vi.stubEnv('TEMPLATE_MASTER_KEYS', undefined)
  const DEVELOPMENT = 'known to everybody: development!'
  const SECRET = 'thirty-two bytes of this test ..'

  /** Wraps the keys of all tenants with another master key; answers how to take it back. */
  async function rewrap(number: number, secret: string): Promise<() => Promise<unknown>> {
    const secrets = [[0xffff, DEVELOPMENT] as const, [number, secret] as const]
    const masters = await toMasterKeys(
      new Map(secrets.map(([each, text]) => [each, Uint8Array.from(Buffer.from(text))])),
    )
    const stored = await asOwner(keyed.connection, () => listStoredKeys(keyed.connection, null))
    const write = (tenantId: string, version: number, wrapped: Uint8Array | null) =>
      keyed.connection.query('update vault.template_keys set wrapped = $3 where tenant_id = $1 and version = $2', [
        ...[tenantId, version, wrapped && Buffer.from(wrapped)],
      ])
    for (const { tenantId, version, wrapped } of stored) {
      if (!wrapped) continue
      const opened = await unwrapDataSecret(masters, { tenantId, version }, wrapped)
      await write(tenantId, version, await wrapDataSecret(masters, number, { tenantId, version }, opened))
    }
    return async () => {
      for (const { tenantId, version, wrapped } of stored) await write(tenantId, version, wrapped)
    }
  }

  it('is content where every tenant has its key, keys open, and faces are what they were', async () => {
    expect(await look()).toEqual([
      {
        ...{ check: 'template keys', level: 'ok', mend: null },
        says: 'every tenant has its key; 2 keys and 6 faces that chance picked were opened',
      },
    ])
  })

  it('leaves the session as it was: the administrator’s, and outside of any tenant', async () => {
    await look()
    const [session] = await keyed.connection.query<{ role: string; tenant: string | null }>(
      `select current_user as role, nullif(current_setting('app.current_tenant_id', true), '') as tenant`,
    )
    expect(session).toEqual({ role: keyed.admin.role, tenant: null })
  })

  it('finds tenants without a key, not those that are being erased, and names the first of many', async () => {
    const insert = (count: number) =>
      keyed.connection.query(
        `insert into tenants (id, name) select ('60000000-0000-4000-8000-' || lpad(n::text, 12, '0'))::uuid, 'keyless'
        from generate_series(1, $1::int) n`,
        [count],
      )
    const remove = execute("delete from tenants where name = 'keyless'")
    expect(await afterwards(() => insert(1), remove)).toMatchObject([
      {
        level: 'problem',
        says: '1 tenant (60000000-0000-4000-8000-000000000001) has no template key, so nobody can be enrolled there',
        mend: 'scripts/db.sh template-keys init',
      },
    ])
    const [many] = await afterwards(() => insert(1_007), remove)
    expect(many?.says).toMatch(/^1,007 tenants \((60000000-[-0-9]+, ){4}60000000-[-0-9]+ and 1,002 more\) have no/)
    const erasing = async () => {
      await insert(1)
      await keyed.connection.execute("update tenants set erasure_requested_at = now() where name = 'keyless'")
    }
    expect(await afterwards(erasing, remove)).toMatchObject([{ level: 'ok' }])
  })

  it('finds faces under a key that is not there, and not those of a tenant that is being erased', async () => {
    const [key] = await keyed.connection.query<{ wrapped: Uint8Array }>(
      'select wrapped from vault.template_keys where tenant_id = $1',
      [KEYED],
    )
    const bringBack = () =>
      keyed.connection.query(
        `insert into vault.template_keys (tenant_id, version, wrapped) values ($1, 1, $2)
        on conflict (tenant_id, version) do update set wrapped = excluded.wrapped, destroyed_at = null`,
        [KEYED, Buffer.from(key?.wrapped ?? [])],
      )
    const lost = {
      level: 'problem',
      says: `4 faces of tenant ${KEYED} are under key 1, which is not there`,
      mend: 'scripts/db.sh restore --template-keys FILE',
    }
    const remove = execute(`delete from vault.template_keys where tenant_id = '${KEYED}'`)
    // init would make another key, under which none of them opens
    expect(await afterwards(remove, bringBack)).toMatchObject([lost])
    const destroy = execute(
      `update vault.template_keys set wrapped = null, destroyed_at = now() where tenant_id = '${KEYED}'`,
    )
    expect(await afterwards(destroy, bringBack)).toMatchObject([lost])
    const erase = async () => {
      await destroy()
      await keyed.connection.execute(`update tenants set erasure_requested_at = now() where id = '${KEYED}'`)
    }
    const resume = async () => {
      await keyed.connection.execute(`update tenants set erasure_requested_at = null where id = '${KEYED}'`)
      await bringBack()
    }
    expect(await afterwards(erase, resume)).toMatchObject([{ level: 'ok' }])
  })

  it('names the keys with the most faces when many are missing', async () => {
    const versions = [2, 3, 4, 5, 6, 7, 8]
    const insert = async () => {
      for (const version of versions) {
        const sealed = Buffer.concat([Buffer.from([1, 0, version]), Buffer.alloc(2_076)])
        await keyed.connection.query(
          `insert into faces (tenant_id, external_id, embedding, key_version, sealed, model)
          select $1, 'stray ' || $2 || ' ' || n, l2_normalize(array_fill(1, array[512])::vector), $2::int, $3, '${MODEL}'
          from generate_series(1, $2::int) n`,
          [OTHER, version, sealed],
        )
      }
    }
    const findings = await afterwards(insert, execute("delete from faces where external_id like 'stray %'"))
    expect(findings.map(({ says }) => says)).toEqual([
      ...[8, 7, 6, 5, 4].map((n) => `${n} faces of tenant ${OTHER} are under key ${n}, which is not there`),
      'and so are faces under 2 other keys',
    ])
  })

  it('warns of a tenant with two live keys', async () => {
    const findings = await afterwards(
      () => asOwner(keyed.connection, () => addTemplateKey(keyed.connection, masterKeys, KEYED, 2)),
      execute('delete from vault.template_keys where version = 2'),
    )
    expect(findings).toMatchObject([
      {
        level: 'warning',
        says: `1 tenant (${KEYED}) has two live keys: re-keying was not finished`,
        mend: 'scripts/db.sh template-keys rekey TENANT, for each',
      },
    ])
  })

  it('warns where the master keys are not known, and that nothing was tried', async () => {
    const takeBack = await rewrap(1, SECRET)
    const findings = await look(ELSEWHERE)
    await takeBack()
    expect(findings).toMatchObject([
      { level: 'warning', says: 'TEMPLATE_MASTER_KEYS is not set here, so the keys were not tried' },
    ])
  })

  it('finds keys of development on a database of another machine, and not on this one', async () => {
    expect(await look(ELSEWHERE)).toMatchObject([
      { level: 'problem', says: expect.stringMatching(/^2 keys are wrapped with the master key of development/) },
      { level: 'warning' },
    ])
  })

  it('finds master keys that are not written right, and does not repeat them', async () => {
    for (const text of ['1:not a secret', `65535:${Buffer.from(DEVELOPMENT).toString('base64')}`]) {
      vi.stubEnv('TEMPLATE_MASTER_KEYS', text)
      const findings = await look(ELSEWHERE)
      await unsetMasters()
      expect(findings).toContainEqual(
        expect.objectContaining({ level: 'problem', says: expect.stringMatching(/^TEMPLATE_MASTER_KEYS /) }),
      )
      expect(JSON.stringify(findings)).not.toMatch(/not a secret|a25vd24/)
    }
  })

  it('finds keys that do not open, and says which master key they need', async () => {
    const findings = await afterwards(() => setMasters({ 1: SECRET }), unsetMasters)
    expect(findings).toMatchObject([
      {
        level: 'problem',
        says: `2 keys of 2 tenants (${KEYED}, ${OTHER}) do not open: master key 65535 is needed, and TEMPLATE_MASTER_KEYS has the numbers 1`,
      },
    ])
    // the right number, and another secret
    expect(await afterwards(() => setMasters({ 65535: SECRET }), unsetMasters)).toMatchObject([
      { level: 'problem', says: expect.stringMatching(/^2 keys .* do not open: master key 65535 is needed/) },
    ])
  })

  it('warns of keys under an older master key than the newest', async () => {
    let takeBack = async (): Promise<unknown> => undefined
    const findings = await afterwards(
      async () => {
        takeBack = await rewrap(1, SECRET)
        await setMasters({ 1: SECRET, 2: SECRET.toUpperCase() })
      },
      async () => {
        await unsetMasters()
        await takeBack()
      },
    )
    expect(findings).toMatchObject([
      {
        level: 'warning',
        says: '2 keys are wrapped with master key 1, and 2 is the newest',
        mend: 'scripts/db.sh template-keys rotate-master',
      },
    ])
  })

  it.each([
    ['a vector', 'embedding = l2_normalize(array_fill(1, array[512])::vector)', 'embedding', 'differs'],
    ['a sealed copy', 'sealed = set_byte(sealed, 2000, 255 - get_byte(sealed, 2000))', 'sealed', 'not opened'],
  ])('finds that somebody changed %s', async (_, assignment, column, reason) => {
    const which = `tenant_id = '${OTHER}' and external_id = (select min(external_id) from faces where tenant_id = '${OTHER}')`
    const [old] = await keyed.connection.query<{ id: string; old: unknown }>(
      `select id, ${column === 'embedding' ? 'embedding::text' : column} as old from faces where ${which}`,
    )
    const findings = await afterwards(execute(`update faces set ${assignment} where ${which}`), () =>
      keyed.connection.query(`update faces set ${column} = $2 where id = $1`, [old?.id, old?.old]),
    )
    expect(findings).toMatchObject([
      {
        level: 'problem',
        says: `1 of 6 faces that chance picked is not what was enrolled (face ${old?.id} of tenant ${OTHER}: ${reason}): somebody changed faces in the database`,
      },
    ])
  })

  it('finds matches of the last seven days that were not confirmed, and no older ones', async () => {
    const insert = (tenant: string, age: string) =>
      keyed.connection.query(
        `insert into integrity_events (tenant_id, reason, request_id, created_at) values ($1, 'differs', 'r', now() - $2::interval)`,
        [tenant, age],
      )
    const forget = execute('delete from integrity_events')
    expect(await afterwards(() => insert(KEYED, '7 days 1 minute'), forget)).toMatchObject([{ level: 'ok' }])
    expect(await afterwards(() => insert(KEYED, '6 days 23 hours'), forget)).toMatchObject([
      {
        level: 'problem',
        says: expect.stringMatching(
          RegExp(`^1 match was not confirmed by its sealed copy since 20.*Z, of 1 tenant \\(${KEYED}\\): somebody`),
        ),
        mend: 'see docs/keys.md',
      },
    ])
    const both = async () => {
      await insert(KEYED, '1 day')
      await insert(OTHER, '2 days')
    }
    expect((await afterwards(both, forget))[0]?.says).toMatch(/^2 matches were not confirmed .* of 2 tenants \(4.*, 5/)
  })

  it('finds that the vault is missing', async () => {
    const stored = await asOwner(keyed.connection, () => listStoredKeys(keyed.connection, null))
    const findings = await afterwards(execute('drop schema vault cascade'), () =>
      fillVault(keyed.connection, stored, masterKeys),
    )
    expect(findings).toMatchObject([
      {
        level: 'problem',
        says: 'the vault is missing, and every template key with it',
        mend: 'scripts/db.sh restore --template-keys FILE makes it again and fills it',
      },
    ])
  })

  it('does not ask a schema that had none yet', async () => {
    const older = await createDatabase()
    onTestFinished(() => older.drop())
    await migrate(older.connection, 5)
    const [finding] = (await examine(older.connection, here)).filter(({ check }) => check === 'template keys')
    expect(finding).toMatchObject({ level: 'skipped', says: expect.stringMatching(/older than protected templates/) })
  })

  it('as an administrator whom the policies bind, says what it did not see, and finds what it sees', async (context) => {
    needsNative(context, database, 'the embedded database has one session, and it is the administrator’s')
    const role = `health_bound_${process.pid}`
    await keyed.connection.execute(`
      create role ${role} login password 'rekko';
      grant rekko_owner to ${role}; grant rekko_app to ${role} with inherit false, set true;
      do $$ begin execute format('grant connect on database %I to ${role}', current_database()); end $$`)
    const url = new URL(keyed.url)
    url.username = role
    url.password = 'rekko'
    const bound = await connectNative(url.href)
    try {
      const unseen = { level: 'skipped', says: expect.stringMatching(/^this login is bound by row-level security/) }
      expect(await look(here, bound)).toMatchObject([unseen])
      const stored = await asOwner(keyed.connection, () => listStoredKeys(keyed.connection, KEYED))
      await keyed.connection.query('delete from vault.template_keys where tenant_id = $1', [KEYED])
      expect(await look(here, bound)).toMatchObject([
        {
          level: 'problem',
          says: `1 tenant (${KEYED}) has faces and no template key, so nobody can be recognized there`,
          mend: 'scripts/db.sh restore --template-keys FILE',
        },
        unseen,
      ])
      await fillVault(keyed.connection, stored, masterKeys)
    } finally {
      await bound.close()
      await keyed.connection.execute(`drop owned by ${role}; drop role ${role}`)
    }
  })
})

describe('a word that is no command', () => {
  it.each([
    [['keys', 'lst'], 'list', 'keys'],
    [['keys', 'rotat', '--tenant', 'x'], 'rotate', 'keys'],
    [['tenants', 'lst', '--json'], 'list', 'tenants'],
    [['tenant'], 'tenants', null],
  ])('%j is told so, and what is nearest', async (args, nearest, group) => {
    const { code, stdout, stderr } = await run(args)
    expect({ code, stdout }).toEqual({ code: EXIT.usage, stdout: '' })
    const word = group === null ? args[0] : args[1]
    expect(stderr).toBe(
      `error: unknown command '${word}'\n(Did you mean ${nearest}?)\nTry: ${['scripts/db.sh', group].filter(Boolean).join(' ')} --help\n`,
    )
  })

  it('is not an option of the default command, nor its error', async () => {
    const { code, stderr } = await run(['keys', '--name', 'x'])
    expect({ code, stderr }).toMatchObject({ code: EXIT.usage, stderr: expect.stringContaining('keys list --help') })
  })
})

describe('a count in a sentence', () => {
  it('is one of a thing or several', () => {
    expect([0, 1, 2, 2_000].map((count) => toCount(count, 'warning'))).toEqual([
      ...['0 warnings', '1 warning', '2 warnings', '2,000 warnings'],
    ])
  })
})

describe('what doctor makes of facts', () => {
  const levels = (verdicts: { level: string }[]) => verdicts.map(({ level }) => level)

  it.each([
    [150_018, 'problem'],
    [160_013, 'problem'],
    [160_014, 'ok'],
    [170_009, 'problem'],
    [170_010, 'ok'],
    [180_003, 'problem'],
    [180_004, 'ok'],
    [190_000, 'warning'],
  ])('server_version_num %i is %s', (version, level) => {
    expect(judgeServer(version).level).toBe(level)
  })

  it.each([
    [{ installed: null }, 'problem'],
    [{ installed: '0.7.4' }, 'problem'],
    [{ installed: '0.7.4', workers: 0 }, 'problem'],
    [{ installed: '0.8.1' }, 'problem'],
    [{ installed: '0.8.1', workers: 0 }, 'warning'],
    [{ installed: '0.8.2' }, 'ok'],
    [{ installed: '0.8.3', hnsw_indexes: 1 }, 'warning'],
    [{ installed: '0.8.4', hnsw_indexes: 1 }, 'ok'],
    [{ installed: '0.8.4', available: '0.8.10' }, 'warning'],
  ])('pgvector %j is %s', (facts, level) => {
    const verdicts = judgePgvector({ available: null, workers: 2, hnsw_indexes: 0, ...facts })
    expect(levels(verdicts)).toEqual([level])
  })

  it('orders versions by number, not by letter', () => {
    expect(isBefore('0.8.9', '0.8.10')).toBe(true)
    expect(isBefore('0.8.10', '0.8.9')).toBe(false)
    expect(isBefore('0.8', '0.8.0')).toBe(false)
    expect(isBefore('0.9.0', '1.0.0')).toBe(true)
  })

  it.each(['fsync', 'full_page_writes', 'synchronous_commit'])('%s off is a problem, on is not', (name) => {
    expect(levels(judgeDurability([{ name, setting: 'off', whose: null }]))).toEqual(['problem'])
    expect(levels(judgeDurability([{ name, setting: 'on', whose: null }]))).toEqual(['ok'])
    for (const setting of ['OFF', 'of', 'false', 'f', 'no', '0']) {
      expect([setting, ...levels(judgeDurability([{ name, setting, whose: 'role a' }]))]).toEqual([setting, 'problem'])
    }
    expect(levels(judgeDurability([{ name, setting: 'local', whose: 'role a' }]))).toEqual(['ok'])
    expect(judgeDurability([{ name, setting: 'off', whose: 'role a database b' }])[0]?.mend).toBe(
      `alter role a in database b reset ${name}`,
    )
  })

  it('pages without checksums are a problem', () => {
    expect([judgeChecksums(true).level, judgeChecksums(false).level]).toEqual(['ok', 'problem'])
  })

  it.each([
    [{}, ['ok']],
    [{ log_statement: 'all' }, ['problem']],
    [{ log_statement: 'ddl' }, ['ok']],
    [{ log_parameter_max_length_on_error: '-1' }, ['problem']],
    [{ log_parameter_max_length: '-1' }, ['warning']],
    [{ log_parameter_max_length: '-1', log_min_duration_statement: '0' }, ['problem']],
    [{ log_parameter_max_length: '-1', log_statement: 'mod' }, ['problem']],
    [{ log_parameter_max_length: '-1', log_transaction_sample_rate: '0.1' }, ['problem']],
  ])('the logging settings %j are %j', (facts, expected) => {
    const settings = {
      log_statement: 'none',
      log_parameter_max_length: '0',
      log_parameter_max_length_on_error: '0',
      log_min_duration_statement: '-1',
      log_min_duration_sample: '-1',
      log_transaction_sample_rate: '0',
      ...facts,
    }
    expect(levels(judgeLogging(new Map(Object.entries(settings))))).toEqual(expected)
  })

  it.each([
    [{ rows: 999, dead: 999, unvacuumed: 999, unanalyzed: 999 }, ['ok']],
    [{ rows: 1_000, dead: 100, unvacuumed: 100, unanalyzed: 300 }, ['ok']],
    [{ rows: 1_000, dead: 101, unvacuumed: 0, unanalyzed: 0 }, ['warning']],
    [{ rows: 1_000, dead: 0, unvacuumed: 101, unanalyzed: 0 }, ['warning']],
    [{ rows: 1_000, dead: 0, unvacuumed: 0, unanalyzed: 301 }, ['warning']],
  ])('faces with %j are %j', (facts, expected) => {
    expect(levels(judgeVacuum(facts))).toEqual(expected)
  })
})

describe('status', () => {
  it('answers as the database guide shows it, and more', async (context) => {
    needsNative(context, database, 'the command would open an embedded database of its own')
    const url = new URL(database.url)
    const { code, stdout } = await runHere(['status'], { PATH: await fakePrograms({}) })
    expect(code).toBe(EXIT.ok)
    expect(stdout).toMatch(
      new RegExp(
        [
          'ℹ Database status:',
          `  Host: ${url.hostname}:${url.port}`,
          `  Database: ${url.pathname.slice(1)}`,
          `  User: ${url.username}`,
          '✓ Native PostgreSQL on this machine',
          '✓ Database is accessible',
          '  Schema version: \\d+',
          '  Pending migrations: none',
          '  PostgreSQL: \\d+\\.\\d+.*',
          '  Extensions: .*vector \\d+\\.\\d+\\.\\d+.*',
          '  Size: .*',
          '  Tenants: 2',
          '  Faces: 0\n',
        ].join('\n'),
      ),
    )
  })

  it('ends with 5 when a migration is pending or did not finish', async (context) => {
    needsNative(context, database, 'the command would open an embedded database of its own')
    await database.connection.execute('update schema_migrations set version = version - 1')
    const pending = await runHere(['status', '--json'])
    await database.connection.execute('update schema_migrations set version = version + 1, dirty = true')
    const dirty = await runHere(['status'])
    await database.connection.execute('update schema_migrations set dirty = false')
    expect(pending.code).toBe(EXIT.findings)
    expect(JSON.parse(pending.stdout)).toMatchObject({ reachable: true, dirty: false, tenants: 2, faces: 0 })
    expect(JSON.parse(pending.stdout)['pending']).toHaveLength(1)
    expect(dirty.code).toBe(EXIT.findings)
    expect(dirty.stdout).toMatch(/Schema version: \d+ \(dirty\)/)
    expect(dirty.stderr).toMatch(/scripts\/db\.sh force VERSION/)
  })

  it('counts in a database of the guide too, which has no counts of its own', async (context) => {
    needsNative(context, database, 'the command would open an embedded database of its own')
    const guide = await createDatabase()
    onTestFinished(() => guide.drop())
    await migrate(guide.connection, 1)
    await guide.connection.execute(
      "insert into tenants (name) values ('one'); insert into faces (external_id) values ('a'), ('b')",
    )
    const { code, stdout } = await run(['--database-url', guide.url, 'status', '--json'])
    expect(code).toBe(EXIT.findings)
    expect(JSON.parse(stdout)).toMatchObject({ schema_version: 1, tenants: 1, faces: 2 })
  })

  it('names the container when Docker serves this port, and what to do when it is stopped', async (context) => {
    needsNative(context, database, 'the command would open an embedded database of its own')
    const { port } = new URL(database.url)
    const say = async (answer: string) =>
      (await runHere(['status'], { PATH: await fakePrograms({ docker: `echo "${answer}"` }) })).stdout
    expect(await say(`running ${port}`)).toMatch(/^✓ Container rekko-postgres is running$/m)
    expect(await say(`exited ${port}`)).toMatch(/^✗ Container rekko-postgres is exited: make docker-up$/m)
    expect(await say('running 6543')).toMatch(/^✓ Native PostgreSQL on this machine$/m)
  })

  it.each(['status', 'doctor'])(
    '%s ends with 4 when nothing answers, and keeps the password to itself',
    async (name) => {
      const { code, stdout, stderr } = await run([
        '--database-url',
        `postgres://somebody:${PASSWORD}@127.0.0.1:1/rekko`,
        name,
      ])
      expect(code).toBe(EXIT.unreachable)
      if (name === 'status') {
        expect(stdout).toMatch(/^ {2}Host: 127\.0\.0\.1:1\n {2}Database: rekko\n {2}User: somebody$/m)
        expect(stdout).toMatch(/^✗ Database is not accessible$/m)
      } else expect(stdout).toMatch(/^✗ reachable {2}somebody@127\.0\.0\.1:1\/rekko does not answer$/m)
      expect(stdout + stderr).not.toContain(PASSWORD)
    },
  )

  it('ends with 4 when the password is wrong, and says so', async (context) => {
    needsNative(context, database, 'the embedded database has no passwords')
    const url = new URL(database.url)
    url.password = PASSWORD
    const { code, stdout, stderr } = await run(['--database-url', url.href, 'status', '--json'])
    expect(code).toBe(EXIT.unreachable)
    expect(JSON.parse(stdout)).toMatchObject({ reachable: false, user: url.username })
    expect(stderr).toMatch(/refuses the user or the password/)
    expect(stdout + stderr).not.toContain(PASSWORD)
  })
})

describe('the embedded database', () => {
  const embedded = (...parameters: string[]) => run(['--db', 'embedded', ...parameters])
  const data = () => join(folder, '.rekko/data')

  it('is not made by looking at it', async () => {
    for (const name of ['status', 'stats']) {
      const { code, stderr } = await embedded(name)
      expect(code).toBe(EXIT.unreachable)
      expect(stderr).toMatch(/There is no embedded database .* yet/)
    }
    await expect(access(data())).rejects.toThrow()
  })

  it('has a status, health and statistics, and statements with a table', async () => {
    const made = await openEmbedded(data())
    await bootstrap(connectEmbedded(made.pglite), DEVELOPMENT_PASSWORDS)
    await migrate(connectEmbedded(made.pglite))
    await made.close()
    const status = await embedded('status')
    expect(status.code).toBe(EXIT.ok)
    expect(status.stdout).toMatch(/^✓ Embedded PostgreSQL, inside the process that uses it\n✓ Database is accessible$/m)
    const doctor = await embedded('doctor')
    expect(doctor.code).toBe(EXIT.ok)
    expect(doctor.stdout).toMatch(/^- durability +not looked at: /m)
    const stats = await embedded('stats')
    expect(stats.code).toBe(EXIT.ok)
    expect(stats.stdout).toMatch(/^== Connections ==\nnot shown: the embedded database has one session$/m)
    expect(stats.stdout).toMatch(/^public +faces /m)
    const table = await embedded(
      'psql',
      '--',
      '-c',
      'select 1 as one, $$x$$ as letter',
      "--command=select '{}'::jsonb as j",
    )
    expect(table.stdout).toBe('one  letter\n---  ------\n  1  x\nj\n--\n{}\n')
  })

  it('refuses what it cannot do, and says what to use instead', async () => {
    for (const parameters of [['psql'], ['psql', '--', '-f', 'a.sql'], ['psql', '--', '-c'], ['index', TENANT]]) {
      const { code, stderr } = await embedded(...parameters)
      expect(code).toBe(EXIT.refused)
      expect(stderr).toMatch(/The embedded database cannot do this\. .*DB=native/)
    }
  })

  it('is not accessible while another process has it open', async () => {
    const other = await openEmbedded(data())
    const { code, stdout, stderr } = await embedded('status')
    await other.close()
    expect(code).toBe(EXIT.unreachable)
    expect(stdout).toMatch(/^✗ Database is not accessible$/m)
    expect(stderr).toMatch(/ are in use\b/)
  })
})

describe('psql', () => {
  const url = `postgres://some%20body:${PASSWORD}@127.0.0.1:5433/rekko_dev?sslmode=disable`
  const echo = 'for each in "$@"; do echo "[$each]"; done; echo "password $PGPASSWORD"'

  it('is psql with what follows --, and the password outside of its arguments', async () => {
    const PATH = await fakePrograms({ psql: echo })
    const { code, stdout } = await run(['--database-url', url, 'psql', '--', '-c', 'select 1; --', '-x'], { PATH })
    expect(code).toBe(EXIT.ok)
    expect(stdout).toBe(
      `[--dbname=postgres://some%20body@127.0.0.1:5433/rekko_dev?sslmode=disable]\n[-c]\n[select 1; --]\n[-x]\npassword ${PASSWORD}\n`,
    )
  })

  it('takes a password from the parameters of the URL as well', async () => {
    const PATH = await fakePrograms({ psql: echo })
    const { stdout } = await run(['--database-url', `postgres://a@127.0.0.1/b?password=${PASSWORD}`, 'psql'], { PATH })
    expect(stdout).toBe(`[--dbname=postgres://a@127.0.0.1/b]\npassword ${PASSWORD}\n`)
  })

  it('is the one inside the container when this machine has none', async () => {
    const PATH = await fakePrograms({ docker: `[ "$1" = inspect ] && { echo "running 5433"; exit; }\n${echo}` })
    const { stdout } = await run(['--database-url', url, 'psql', '--', '-l'], { PATH })
    expect(stdout.split('\n')).toEqual([
      ...['[exec]', '[-i]', '[-e]', '[PGPASSWORD]', '[rekko-postgres]', '[psql]', '[--host=localhost]'],
      ...['[--username=some body]', '[--dbname=rekko_dev]', '[-l]', `password ${PASSWORD}`, ''],
    ])
  })

  it('says how to get it when there is none at all', async () => {
    const PATH = await fakePrograms({})
    const { code, stderr } = await run(['--database-url', 'postgres://a:b@db.example.com/c', 'psql'], { PATH })
    expect(code).toBe(EXIT.failed)
    expect(stderr).toMatch(/There is no psql on this machine: /)
  })

  it.each([
    [2, EXIT.unreachable],
    [3, EXIT.failed],
  ])('ends with another code when psql ends with %i', async (of, code) => {
    const PATH = await fakePrograms({ psql: `exit ${of}` })
    expect((await run(['--database-url', url, 'psql'], { PATH })).code).toBe(code)
  })

  it('with --dry-run shows the command and not the password', async () => {
    const PATH = await fakePrograms({ psql: 'echo it ran' })
    const { stdout } = await run(['--database-url', url, '--dry-run', 'psql', '--', '-l'], { PATH })
    expect(stdout).toBe('psql --dbname=postgres://some%20body@127.0.0.1:5433/rekko_dev?sslmode=disable -l\n')
  })

  it('answers rows as JSON', async (context) => {
    needsNative(context, database, 'the command would open an embedded database of its own')
    const { stdout } = await runHere([
      ...['--json', 'psql', '--', '-c', 'select current_database() as name'],
      "--command=select null as n, '{}'::jsonb as j, '2026-01-02T03:04:05Z'::timestamptz as t",
    ])
    expect(JSON.parse(stdout)).toEqual([
      [{ name: new URL(database.url).pathname.slice(1) }],
      [{ n: null, j: '{}', t: '2026-01-02T03:04:05.000Z' }],
    ])
    const refused = await runHere(['--json', 'psql', '--', '-l'])
    expect(refused.code).toBe(EXIT.usage)
  })
})

describe('stats', () => {
  beforeAll(async () => {
    await database.connection.query(
      `insert into usage_records (tenant_id, period, verifications, identifications)
       values ($1, to_char(now() at time zone 'UTC', 'YYYY-MM'), 40, 5), ($1, '2020-01', 1000, 1000)`,
      [TENANT],
    )
    await database.connection.query(
      "insert into usage_events (tenant_id, kind) values ($1, 'verification'), ($1, 'verification'), ($2, 'identification')",
      [TENANT, RIVAL],
    )
    await insertFaces(RIVAL, 3)
    await insertFaces(TENANT, 2)
  })

  afterAll(() => database.connection.execute('delete from faces; delete from usage_events; delete from usage_records'))

  /** The rows of a section; fails when it was left out. */
  async function read(name: (typeof SECTION_NAMES)[number], longSeconds?: number) {
    const result = (await readStatistics(database.connection, target, [name], longSeconds))[name]
    if (!result || 'skipped' in result) throw new Error(`${name} was left out`)
    return result.rows
  }

  it('has rows in every section, or says why not', async () => {
    const results = await readStatistics(database.connection, target)
    expect(Object.keys(results)).toEqual(SECTION_NAMES)
    const skipped = Object.entries(results).filter(([, result]) => 'skipped' in result)
    expect(skipped.map(([name]) => name)).toEqual(
      database.isNative ? ['slow_queries'] : ['connections', 'slow_queries', 'transactions'],
    )
    for (const [name, result] of Object.entries(results)) {
      if (!('rows' in result) || name === 'transactions') continue
      expect(result.rows, name).not.toEqual([])
    }
  })

  it('names tables and indexes as the guide does, and its corrected columns', async () => {
    expect(Object.keys((await read('sizes'))[0] ?? {}).slice(0, 3)).toEqual(['schemaname', 'tablename', 'size'])
    expect((await read('sizes')).map(({ tablename }) => tablename)).toContain('faces')
    const indexes = await read('indexes')
    expect(Object.keys(indexes[0] ?? {}).slice(0, 4)).toEqual(['schemaname', 'relname', 'indexrelname', 'idx_scan'])
    expect(indexes).toContainEqual(expect.objectContaining({ indexrelname: 'idx_faces_tenant_code', valid: true }))
  })

  it('puts the tenant with the most faces first, and counts the acts of this month only', async () => {
    expect(await read('tenants')).toEqual([
      {
        ...{ tenant: RIVAL, name: 'a rival', environment: 'live', faces: 3 },
        ...{ verifications_this_month: 0, identifications_this_month: 1 },
      },
      {
        ...{ tenant: TENANT, name: 'a gallery', environment: 'live', faces: 2 },
        ...{ verifications_this_month: 42, identifications_this_month: 5 },
      },
    ])
  })

  it('shows a transaction that is long, not a young one, and nothing of what it runs', async (context) => {
    needsNative(context, database, 'the embedded database has one session')
    const other = await database.connect()
    onTestFinished(() => other.close())
    await other.execute("begin; select 'a-face-as-text'")
    const [session] = await other.query<{ pid: number }>('select pg_backend_pid() as pid')
    const long = await read('transactions', 0)
    expect(long).toMatchObject([{ pid: session?.pid, state: 'idle in transaction' }])
    expect(JSON.stringify(long)).not.toContain('a-face-as-text')
    expect(await read('transactions', 60)).toEqual([])
  })

  it('shows slow queries, and of commands only what they are', async (context) => {
    needsNative(context, database, 'the embedded database does not have pg_stat_statements')
    await database.connection.execute('create extension pg_stat_statements')
    onTestFinished(() => database.connection.execute('drop extension pg_stat_statements'))
    // the server keeps 5,000 statements of all databases and forgets rare ones: under load, a new one at once
    let slow: Awaited<ReturnType<typeof read>> = []
    const shows = (text: string) => slow.some(({ query }) => query === text)
    for (let attempt = 0; attempt < 10 && !(shows('select pg_sleep($1), $2') && shows('DO ...')); attempt++) {
      await database.connection.execute("do $$ begin perform pg_sleep(0.5); perform 'a-password'; end $$")
      await database.connection.execute("select pg_sleep(0.5), 'a-literal'")
      slow = await read('slow_queries')
    }
    expect(slow.map(({ query }) => query)).toEqual(expect.arrayContaining(['select pg_sleep($1), $2', 'DO ...']))
    expect(Object.keys(slow[0] ?? {})).toEqual(['query', 'calls', 'total_exec_time', 'mean_exec_time', 'max_exec_time'])
    expect(slow.length).toBeLessThanOrEqual(10)
    expect(JSON.stringify(slow)).not.toMatch(/a-password|a-literal/)
  })

  it('as a command: all sections as one object, or one of them as a table', async (context) => {
    needsNative(context, database, 'the command would open an embedded database of its own')
    const all = await runHere(['stats', '--json'])
    expect(all.code).toBe(EXIT.ok)
    expect(Object.keys(JSON.parse(all.stdout))).toEqual(SECTION_NAMES)
    expect(JSON.parse(all.stdout)['slow_queries']).toEqual({
      skipped: expect.stringMatching(/create extension pg_stat_statements$/),
    })
    const one = await runHere(['stats', '--section', 'sizes'])
    expect(one.stdout).toMatch(/^== Table sizes ==\nschemaname +tablename +size/)
    expect(one.stdout).not.toMatch(/Index usage/)
    expect((await runHere(['stats', '--section', 'nonsense'])).code).toBe(EXIT.usage)
  })
})

describe('index', () => {
  beforeAll(async () => {
    await insertFaces(TENANT, FACES)
    await insertFaces(RIVAL, 10)
    await database.connection.execute('vacuum analyze faces')
  })

  afterAll(() => database.connection.execute('delete from faces'))

  const isThere = async () =>
    (
      await database.connection.query<{ is_valid: boolean; predicate: string }>(
        `select indisvalid as is_valid, pg_get_expr(indpred, indrelid) as predicate
         from pg_index where indexrelid = to_regclass($1)`,
        [INDEX],
      )
    )[0]

  const options = { probes: 40, build: false, force: false, drop: false }
  const tune = (given: Partial<typeof options>, efSearch?: number) => {
    // what it prints is looked at where the command runs
    vi.spyOn(console, 'log').mockReturnValue()
    vi.spyOn(process.stderr, 'write').mockReturnValue(true)
    onTestFinished(() => void vi.restoreAllMocks())
    const context: Context = { target, terminal: new Terminal({}), isDryRun: false, timesConfirmed: 0 }
    return tuneIndex(context, TENANT, { ...options, ...given }, efSearch)
  }

  it('helps no gallery that is small or searched quickly', () => {
    expect(advise(999_999, 500).helps).toBe(false)
    expect(advise(1_000_000, 199).helps).toBe(false)
    expect(advise(1_000_000, 200).helps).toBe(true)
  })

  it('measures exact search and builds nothing unless it is told to', async (context) => {
    needsNative(context, database, 'an index is built with a second session')
    const { code, stdout, stderr } = await runHere(['index', TENANT, '--probes', '40', '--json'])
    expect(code).toBe(EXIT.ok)
    expect(JSON.parse(stdout)).toMatchObject({
      ...{ tenant: TENANT, faces: FACES, would_help: false, index: null },
      searches: [{ search: 'exact', recall_at_1: 1, person_found: 1 }],
    })
    expect(stderr).toMatch(/An index would not help/)
    expect(await isThere()).toBeUndefined()
  })

  it('with --dry-run shows the statements and runs none', async (context) => {
    needsNative(context, database, 'an index is built with a second session')
    const { stdout } = await runHere(['index', TENANT, '--build', '--dry-run'])
    expect(stdout).toContain(
      `create index concurrently ${INDEX} on public.faces using hnsw (embedding vector_cosine_ops) where tenant_id = '${TENANT}'\n`,
    )
    const [extension] = await database.connection.query<{ version: string }>(
      "select extversion as version from pg_extension where extname = 'vector'",
    )
    expect(stdout.includes('set max_parallel_maintenance_workers = 0')).toBe(
      isBefore(extension?.version ?? '', '0.8.2'),
    )
    expect(await isThere()).toBeUndefined()
  })

  it('builds one of this tenant alone, compares it with exact search, and drops it again', async (context) => {
    needsNative(context, database, 'an index is built with a second session')
    const { code, stdout, stderr } = await runHere(['index', TENANT, '--probes', '40', '--build', '--json'])
    expect(code).toBe(EXIT.ok)
    const answer = JSON.parse(stdout)
    expect(answer).toMatchObject({
      searches: [{ search: 'exact' }, { search: 'index' }],
      index: { name: INDEX, valid: true, built: true, kept: true },
    })
    expect(answer['searches'][1]['recall_at_1']).toBeGreaterThanOrEqual(0.99)
    expect(stderr).toMatch(/building .* 100 % 2,000 of 2,000/)
    expect(stderr).not.toMatch(/\[-?0\.\d/)
    expect(await isThere()).toEqual({ is_valid: true, predicate: `(tenant_id = '${TENANT}'::uuid)` })

    const again = await runHere(['index', TENANT, '--probes', '5', '--build', '--json'])
    expect(JSON.parse(again.stdout)['index']).toMatchObject({ built: false, kept: true })
    expect((await runHere(['index', TENANT, '--drop'])).stderr).toMatch(new RegExp(`${INDEX} is dropped`))
    expect(await isThere()).toBeUndefined()
    expect((await runHere(['index', TENANT, '--drop'])).stderr).toMatch(new RegExp(`there is no ${INDEX}`))
  })

  it('drops one that finds too little, unless it is told to keep it', async (context) => {
    needsNative(context, database, 'an index is built with a second session')
    await expect(tune({ build: true }, 1)).rejects.toThrow(/finds [\d.]+ % of what .*, less than 99 %: it is dropped/)
    expect(await isThere()).toBeUndefined()
    await tune({ build: true, force: true }, 1)
    expect(await isThere()).toMatchObject({ is_valid: true })
    // measuring again is no reason to drop
    await tune({}, 1)
    expect(await isThere()).toMatchObject({ is_valid: true })
    await tune({ drop: true })
  })

  it('makes an index anew that an interrupted build left behind', async (context) => {
    needsNative(context, database, 'an index is built with a second session')
    await tune({ build: true })
    await database.connection.query('update pg_index set indisvalid = false where indexrelid = $1::regclass', [INDEX])
    await tune({})
    expect(await isThere()).toMatchObject({ is_valid: false })
    await tune({ build: true })
    expect(await isThere()).toMatchObject({ is_valid: true })
    await tune({ drop: true })
  })

  it('leaves nothing behind when a build is canceled', async (context) => {
    needsNative(context, database, 'an index is built with a second session')
    const writer = await database.connect()
    onTestFinished(() => writer.close())
    // the build waits for this transaction
    await writer.execute(`begin; delete from faces where tenant_id = '${RIVAL}'`)
    const build = tune({ build: true })
    const settled = expect(build).rejects.toThrow(/^The build failed: canceling .* What it left behind was dropped\.$/)
    let canceled = false
    for (let attempt = 0; attempt < 200 && !canceled; attempt++) {
      await sleep(50)
      const rows = await database.connection.query<{ canceled: boolean }>(`
        select pg_cancel_backend(pid) as canceled from pg_stat_progress_create_index
        where datname = current_database() and phase like 'waiting%'`)
      canceled = rows[0]?.canceled ?? false
    }
    await writer.execute('rollback')
    await settled
    expect(canceled).toBe(true)
    expect(await isThere()).toBeUndefined()
  })

  it('refuses while another one is being built, and an index of that name that is of another tenant', async (context) => {
    needsNative(context, database, 'an index is built with a second session')
    await database.connection.query("select pg_advisory_lock(hashtext('rekko.index'))")
    await expect(tune({ build: true })).rejects.toThrow(/^Another index is being built/)
    await database.connection.query("select pg_advisory_unlock(hashtext('rekko.index'))")
    await database.connection.execute(`create index ${INDEX} on faces (created_at) where tenant_id = '${RIVAL}'`)
    await expect(tune({ drop: true })).rejects.toThrow(/is of another tenant/)
    await database.connection.execute(`drop index ${INDEX}`)
  })

  it('answers what is no tenant, and what is no count of searches', async (context) => {
    needsNative(context, database, 'an index is built with a second session')
    const code = async (...parameters: string[]) => (await runHere(['index', ...parameters])).code
    const codes = await Promise.all([
      ...[code("1'; drop table faces; --"), code(TENANT, '--probes', '0'), code(TENANT, '--probes', '10001')],
      ...[code(TENANT, '--build', '--drop'), code(NOBODY)],
    ])
    expect(codes).toEqual([EXIT.usage, EXIT.usage, EXIT.usage, EXIT.usage, EXIT.failed])
  })

  it('refuses a login that sees no rows, and a pooled connection', async (context) => {
    needsNative(context, database, 'an index is built with a second session')
    const url = new URL(database.url)
    url.username = 'rekko_app'
    url.password = 'rekko_app'
    const bound = {
      target: toTarget(url.href, undefined),
      terminal: new Terminal({}),
      isDryRun: false,
      timesConfirmed: 0,
    }
    await expect(tuneIndex(bound, TENANT, options)).rejects.toThrow(/bound by row-level security/)
    const pooled = toTarget('postgres://a:b@ep-x-pooler.eu.neon.tech/c', undefined)
    await expect(tuneIndex({ ...bound, target: pooled }, TENANT, options)).rejects.toThrow(CommandError)
  })
})

async function insertFaces(tenant: string, faces: number): Promise<void> {
  await database.connection.query(
    `insert into faces (tenant_id, external_id, embedding, key_version, sealed, model)
     select $1, 'person ' || person, l2_normalize(
       (select array_agg(random() - 0.5) from generate_series(1, 512) where person > 0)::vector(512)
     ), 1, $3, 'arcface-512@1'
     from generate_series(1, $2::int) as person`,
    [tenant, faces, UNOPENED],
  )
}
