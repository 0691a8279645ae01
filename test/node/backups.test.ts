// Proves dump, restore and drill: a dump holds what the database held or does not come to be, and neither a key nor a
// face that anybody could read; a restore brings all of it or nothing; keys come back from a file of their own, and
// never a destroyed one; and the drill notices a wall that is down and a face that does not open. Fake: the faces,
// which are generated, and pg_dump and pg_restore where they have to misbehave, as scripts that call the real ones.
import { execFile } from 'node:child_process'
import { createHash } from 'node:crypto'
import { createReadStream } from 'node:fs'
import { mkdtemp, readdir, readFile, rm, stat, truncate, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { Readable } from 'node:stream'
import { afterAll, beforeAll, describe, expect, it, type TestContext } from 'vitest'
import { defaultFile, makeBackup } from '../../scripts/database/backup.ts'
import { bootstrap } from '../../scripts/database/bootstrap.ts'
import { findTool, runTool, type Tool } from '../../scripts/database/client-tools.ts'
import { runDrill } from '../../scripts/database/commands/backups.ts'
import { type Connection, connectEmbedded, connectNative, openEmbedded } from '../../scripts/database/connection.ts'
import { DEVELOPMENT_PASSWORDS } from '../../scripts/database/development.ts'
import { enrollFaces } from '../../scripts/database/import.ts'
import {
  countCopiedRows,
  type Inventory,
  inSnapshot,
  listTables,
  takeInventory,
} from '../../scripts/database/inventory.ts'
import { checkIsolation } from '../../scripts/database/isolation.ts'
import { type Manifest, manifestOf } from '../../scripts/database/manifest.ts'
import { migrate } from '../../scripts/database/migrate.ts'
import { isLive, openRandomTemplates } from '../../scripts/database/open-templates.ts'
import { restoreBackup } from '../../scripts/database/restore.ts'
import { seedTenant } from '../../scripts/database/seed.ts'
import { type NativeTarget, toTarget } from '../../scripts/database/target.ts'
import {
  findTemplateKeys,
  initTemplateKeys,
  listStoredKeys,
  type StoredTemplateKey,
} from '../../scripts/database/template-keys.ts'
import { readTemplateKeys, writeTemplateKeys } from '../../scripts/database/template-keys-file.ts'
import { EXIT, Terminal } from '../../scripts/database/terminal.ts'
import { asOwner, asTenant } from '../../scripts/database/transaction.ts'
import { copyVault, fillVault, type RefusedKey, requireNoneRefused } from '../../scripts/database/vault.ts'
import { toVectorTexts } from '../../scripts/database/vector-array.ts'
import { generateGallery } from '../../scripts/gallery.ts'
import { type Embedding, isFault, toEmbedding } from '../../src/face/embedding.ts'
import {
  FIRST_VERSION,
  unwrapDataSecret,
  wrapDataSecret,
  wrapNewDataSecret,
} from '../../src/face/protection/data-secret.ts'
import { type MasterKeys, toMasterKeys } from '../../src/face/protection/master-keys.ts'
import type { Octets } from '../../src/face/protection/octets.ts'
import { open } from '../../src/face/protection/sealed-copy.ts'
import { createDatabase, describeCatalog, type FreshDatabase, needsNative } from './database.ts'
import { masterKeys } from './tenant-door.ts'

const ROOT = join(import.meta.dirname, '../..')
const MODEL = 'arcface-512@1'
const ACME = '00000000-0000-4000-8000-00000000000a'
const RIVAL = '00000000-0000-4000-8000-00000000000b'
const SMALL = '00000000-0000-4000-8000-00000000000c'

let database: FreshDatabase
let folder: string
const terminal = new (class extends Terminal {
  said: string[] = []
  override info() {}
  override warn(text: string) {
    this.said.push(text)
  }
  override progress() {
    return { advance() {}, done() {} }
  }
})({})

beforeAll(async () => {
  database = await createDatabase()
  folder = await mkdtemp(join(tmpdir(), 'rekko-backups-'))
  await migrate(database.connection)
  await database.connection.execute(`
    insert into tenants (id, name) values ('${ACME}', 'acme'), ('${RIVAL}', 'rival');
    insert into api_keys (tenant_id, name, hash, prefix, scopes)
      values ('${ACME}', 'key', sha256('key'), 'rk_test_', '{verify}')`)
  await initTemplateKeys(database.connection, masterKeys, () => FIRST_VERSION)
  await enroll(database.connection, ACME, 1, 200)
  await enroll(database.connection, RIVAL, 201, 300)
  await database.connection.execute(`
    insert into verifications (tenant_id, face_id, external_id, verified, confidence, threshold, model, request_id)
      select tenant_id, id, external_id, true, 0.9, 0.7, model, 'request' from faces where external_id like '%0';
    insert into usage_events (tenant_id, kind) select tenant_id, 'verification' from verifications`)
})
afterAll(async () => {
  await database.drop()
  await rm(folder, { recursive: true })
})

/** Enrolls person-`first` to person-`last`, who are different people whatever the numbers. */
async function enroll(connection: Connection, tenantId: string, first: number, last: number): Promise<void> {
  const keys = await findTemplateKeys(connection, masterKeys, tenantId, MODEL)
  const people = generateGallery(last - first + 1, 1, first).map(({ samples: [sample] }, index) => {
    const embedding = toEmbedding(sample)
    if (isFault(embedding)) throw new RangeError(embedding.detail)
    const note = 'a tab\t, a line\n\\. and COPY public.faces (tenant_id) FROM stdin;'
    return { externalId: `person-${first + index}`, embedding, metadata: { note }, qualityScore: null }
  })
  const gallery = { tenantId, keys, model: MODEL, toVectorArray: toVectorTexts }
  await asTenant(connection, tenantId, () => enrollFaces(connection, gallery, people))
}

/** All keys, as they are stored. */
function readVault(connection: Connection): Promise<StoredTemplateKey[]> {
  return asOwner(connection, () => listStoredKeys(connection, null))
}

function targetOf(url: string): NativeTarget {
  const target = toTarget(url, undefined)
  if (target.kind !== 'native') throw new Error('not native')
  return target
}

const signal = new AbortController().signal
let files = 0
function newFile(): string {
  return join(folder, `${++files}.dump`)
}

type Options = { find?: typeof findTool; signal?: AbortSignal; url?: string }
async function dump(file: string, { url = database.url, ...options }: Options = {}) {
  return makeBackup({ target: targetOf(url), file, terminal, signal, ...options })
}

async function restore(file: string, url: string, options: Options = {}) {
  return restoreBackup({ target: targetOf(url), file, terminal, signal, passwords: DEVELOPMENT_PASSWORDS, ...options })
}

/** The real tool, started by a script of ours that may do something before, after and instead. */
async function wrap(name: 'pg_dump' | 'pg_restore', script: string): Promise<typeof findTool> {
  const file = join(folder, `${++files}.mjs`)
  await writeFile(
    file,
    `import { spawnSync } from 'node:child_process'
     import { createRequire } from 'node:module'
     import { readFileSync, writeFileSync } from 'node:fs'
     const pg = createRequire(${JSON.stringify(join(ROOT, 'package.json'))})('pg')
     const [real, ...args] = process.argv.slice(2)
     const run = (more = [], input = 'inherit') =>
       spawnSync(real, [...args, ...more], { stdio: [typeof input === 'string' ? input : 'pipe', 'inherit', 'inherit'],
         ...(typeof input === 'string' ? {} : { input }) }).status
     ${script}`,
  )
  return async (wanted, minimumMajor, target) => {
    const tool = await findTool(wanted, minimumMajor, target)
    return wanted === name ? { ...tool, file: process.execPath, args: [file, tool.file, ...tool.args] } : tool
  }
}

async function count(connection: Connection): Promise<Inventory> {
  return inSnapshot(connection, 'rekko_backup', async () => takeInventory(connection, await listTables(connection)))
}

async function inventoryOf(url: string): Promise<Inventory> {
  const connection = await connectNative(url)
  const inventory = await count(connection)
  await connection.close()
  return inventory
}

/** Changes a face by SQL, as somebody with the database would. */
async function change(
  which: string,
  assignment: string,
  connection = database.connection,
): Promise<() => Promise<void>> {
  const rows = await connection.query(
    `with old as (select id, embedding::text, sealed, metadata from faces where ${which})
    update faces f set ${assignment} from old where f.id = old.id
    returning old.id, old.embedding, old.sealed, old.metadata`,
  )
  expect(rows).toHaveLength(1)
  const [old] = rows as { id: string; embedding: string; sealed: Uint8Array; metadata: object }[]
  return async () =>
    void (await connection.query('update faces set embedding = $2::vector, sealed = $3, metadata = $4 where id = $1', [
      ...[old?.id, old?.embedding, old?.sealed],
      JSON.stringify(old?.metadata),
    ]))
}

async function runCli(...args: string[]): Promise<{ code: number; stdout: string; stderr: string }> {
  return new Promise((resolve) =>
    execFile(process.execPath, [join(ROOT, 'scripts/db.ts'), ...args], { timeout: 30_000 }, (error, stdout, stderr) =>
      resolve({ code: typeof error?.code === 'number' ? error.code : error ? -1 : 0, stdout, stderr }),
    ),
  )
}

const native = (context: TestContext) => needsNative(context, database, 'pg_dump does not speak to it')

describe('on the embedded database', () => {
  it.each([['dump'], ['restore', 'x.dump'], ['drill']])('%s says what to do instead', async (...command) => {
    const { code, stderr } = await runCliWithoutUrl('--db', 'embedded', ...command)
    expect(stderr).toMatch(/The embedded database cannot do this\. .*copy the folder \.rekko\/data.*--db docker/)
    expect(code).toBe(EXIT.refused)
  })

  async function runCliWithoutUrl(...args: string[]) {
    const url = process.env['DATABASE_URL']
    delete process.env['DATABASE_URL']
    try {
      return await runCli(...args)
    } finally {
      if (url !== undefined) process.env['DATABASE_URL'] = url
    }
  }
})

describe('finding the programs of PostgreSQL', () => {
  const local = targetOf('postgres://u:p@localhost:1/x')

  async function pretend(version: string): Promise<string> {
    const file = join(folder, `pg-${version}`)
    await writeFile(file, `#!/bin/sh\necho "pg_dump (PostgreSQL) ${version} (Debian ${version}-1)"\n`, { mode: 0o700 })
    return file
  }

  async function findAmong(...versions: string[]): Promise<Tool> {
    const all = await Promise.all(versions.map(pretend))
    return findTool('pg_dump', 17, local, async function* () {
      yield { file: join(folder, 'missing'), args: [], server: null }
      for (const file of all) yield { file, args: [], server: null }
    })
  }

  it('takes the one of the same major version, wherever it stands', async () => {
    expect(await findAmong('15.18', '18.1', '17.2')).toMatchObject({ version: '17.2', major: 17 })
  })

  it('takes the next newer one when there is none of the same', async () => {
    expect(await findAmong('15.18', '20.1', '18.1', '19beta1')).toMatchObject({ version: '18.1', major: 18 })
  })

  it('says how to get one when all are too old', async () => {
    await expect(findAmong('15.18', '16.9')).rejects.toThrow(
      /^There is no pg_dump 17 or newer here\. Found only pg_dump 15\.18, 16\.9, too old\. .*postgresql-client-17/,
    )
  })

  it('repeats what a program complains about, without the values of rows', async () => {
    const file = join(folder, 'complains')
    const vector = `[${Array(512).fill('0.0441').join(',')}]`
    await writeFile(
      file,
      `#!/bin/sh\necho 'pg_restore: error: invalid input syntax for type vector: "${vector}"
CONTEXT:  COPY faces, line 1: "ada 0.0441"' >&2\nexit 1\n`,
      { mode: 0o700 },
    )
    const tool: Tool = { name: 'pg_restore', file, args: [], version: '17.0', major: 17, server: null }
    const failure = await runTool(tool, { args: [], signal }).catch(String)
    expect(failure).toContain('pg_restore failed: pg_restore: error: invalid input syntax for type vector: "..."')
    expect(failure).not.toMatch(/0\.0441|ada/)
  })
})

describe('counting the rows of a dump', () => {
  it('counts lines of COPY by tenant, wherever the chunks end, and nothing that only looks like one', async () => {
    const script = [
      'SET x = 1;',
      'COPY public.t (id, tenant_id, "a b") FROM stdin;',
      `1\t${ACME}\tCOPY public.t (id) FROM stdin;`,
      `2\t${RIVAL}\té\\n\\\\.`,
      `3\t\\N\t`,
      `4\t${ACME}\t\\N`,
      '\\.',
      '',
      'COPY public.u (id) FROM stdin;',
      '\\.',
      '',
    ].join('\n')
    const tables = [{ name: 'public.t', tenantColumn: 'tenant_id', rowText: '' }]
    for (const size of [1, 7, 1000]) {
      const bytes = Buffer.from(script)
      const chunks = Array.from({ length: Math.ceil(bytes.length / size) }, (_, n) =>
        bytes.subarray(n * size, n * size + size),
      )
      expect(await countCopiedRows(Readable.from(chunks), tables)).toEqual(
        new Map([
          [
            'public.t',
            new Map([
              [ACME, 2],
              [RIVAL, 1],
              ['', 1],
            ]),
          ],
          ['public.u', new Map()],
        ]),
      )
    }
  })
})

describe('dump', () => {
  it('writes a compressed file that only its owner may read, and a manifest that tells what is in it', async (context) => {
    native(context)
    const file = join(folder, 'new', 'my_backup.sql')
    const manifest = await dump(file)
    expect((await readdir(join(folder, 'new'))).sort()).toEqual(['my_backup.sql', 'my_backup.sql.manifest.json'])
    expect((await stat(file)).mode & 0o777).toBe(0o600)
    expect((await stat(manifestOf(file))).mode & 0o777).toBe(0o600)
    expect((await readFile(file)).subarray(0, 5).toString()).toBe('PGDMP')
    expect(JSON.parse(await readFile(manifestOf(file), 'utf8'))).toEqual(manifest)
    expect(manifest.tables['public.faces']).toMatchObject({ rows: 300, tenants: { [ACME]: 200, [RIVAL]: 100 } })
    expect(manifest.tables['public.tenants']).toMatchObject({ rows: 2, tenants: { [ACME]: 1, [RIVAL]: 1 } })
    expect(manifest.tables['migration.history']?.rows).toBeGreaterThan(1)
    expect(manifest.dump.size_bytes).toBe((await stat(file)).size)
    expect(terminal.said).toEqual([])
  })

  it.for([
    ['*.*', 'The dump holds no rows, and the database has '],
    ['public.faces', `public.faces of tenant ${ACME}: 0 rows instead of 200`],
  ] as const)(
    'fails and leaves no file when pg_dump succeeds without the rows of $0',
    async ([pattern, message], context) => {
      native(context)
      const file = newFile()
      const find = await wrap('pg_dump', `process.exitCode = run(['--exclude-table-data=${pattern}'])`)
      await expect(dump(file, { find })).rejects.toThrow(message)
      expect(await leftOf(file)).toEqual([])
    },
  )

  it('is of one moment: a row that is committed while it counts is in neither', async (context) => {
    native(context)
    const file = newFile()
    const find = await wrap(
      'pg_dump',
      `const client = new pg.Client(${JSON.stringify(database.url)})
       await client.connect()
       await client.query("insert into usage_events (tenant_id, kind) values ('${RIVAL}', 'deletion')")
       await client.end()
       process.exitCode = run()`,
    )
    const before = (await inventoryOf(database.url))['public.usage_events']?.rows
    const manifest = await dump(file, { find })
    expect(manifest.tables['public.usage_events']?.rows).toBe(before)
    expect((await inventoryOf(database.url))['public.usage_events']?.rows).toBe(Number(before) + 1)
  })

  it('gives no password away in the list of processes', async (context) => {
    native(context)
    const seen = newFile()
    const password = 'pass word/%'
    const url = new URL(database.url)
    const role = `backups_${process.pid}`
    await database.connection.execute(`create role ${role} superuser login password '${password}'`)
    try {
      url.username = role
      url.password = encodeURIComponent(password)
      const find = await wrap(
        'pg_dump',
        `writeFileSync(${JSON.stringify(seen)}, JSON.stringify({ args, password: process.env.PGPASSWORD }))
         process.exitCode = 1`,
      )
      await expect(dump(newFile(), { url: url.href, find: findAsRekko(find) })).rejects.toThrow(/^pg_dump failed/)
      const { args, password: given } = JSON.parse(await readFile(seen, 'utf8'))
      expect(given).toBe(password)
      expect(args.join(' ')).toContain(`postgres://${role}@`)
      expect(decodeURIComponent(args.join(' '))).not.toContain(password)
    } finally {
      await database.connection.execute(`drop role ${role}`)
    }
  })

  it('does not overwrite a backup, nor one that is being written', async (context) => {
    native(context)
    const file = newFile()
    await writeFile(file, 'precious')
    await expect(dump(file)).rejects.toMatchObject({ exitCode: EXIT.refused })
    expect(await readFile(file, 'utf8')).toBe('precious')
    await rm(file)
    await writeFile(`${file}.partial`, 'half')
    await expect(dump(file)).rejects.toThrow(/\.partial exists: another dump is writing it/)
    expect(await readFile(`${file}.partial`, 'utf8')).toBe('half')
  })

  it('leaves nothing behind when it is interrupted', async (context) => {
    native(context)
    const file = newFile()
    const controller = new AbortController()
    const started = newFile()
    const find = await wrap('pg_dump', `writeFileSync(${JSON.stringify(started)}, ''); setInterval(() => {}, 1000)`)
    const dumping = dump(file, { find, signal: controller.signal })
    const caught = dumping.catch(String)
    while (!(await stat(started).catch(() => null))) await new Promise((resolve) => setTimeout(resolve, 20))
    expect(await leftOf(file)).toEqual([`${file}.partial`])
    controller.abort(new Error('Interrupted.'))
    expect(await caught).toBe('Error: Interrupted.')
    expect(await leftOf(file)).toEqual([])
  })

  it('waits for no migration, and says that one is at work', async (context) => {
    native(context)
    const other = await database.connect()
    await other.query("select pg_advisory_lock(hashtext('rekko.migrate'))")
    await expect(dump(newFile())).rejects.toThrow(/^A migration, a dump or a restore is at work/)
    await other.close()
  })

  it('as somebody whom the policies bind is refused when rekko_backup cannot read all', async (context) => {
    native(context)
    const role = `backups_bound_${process.pid}`
    const url = new URL(database.url)
    url.username = role
    url.password = 'rekko'
    await database.connection.execute(`
      create role ${role} login password 'rekko';
      do $$ begin execute format('grant connect on database %I to ${role}', current_database()); end $$;
      grant usage on schema public, migration to ${role}; grant select on schema_migrations to ${role};
      revoke select on faces from rekko_backup`)
    try {
      await expect(dump(newFile(), { url: url.href })).rejects.toMatchObject({
        exitCode: EXIT.refused,
        message: expect.stringContaining('rekko_backup cannot read public.faces'),
      })
    } finally {
      await database.connection.execute(
        `grant select on faces to rekko_backup; drop owned by ${role}; drop role ${role}`,
      )
    }
  })

  it('has the time in its name when it is given none', () => {
    expect(defaultFile(new Date(2026, 0, 2, 3, 4, 5))).toBe('./backups/rekko-20260102-030405.dump')
  })

  /** The tools of scripts/native-postgres log in as its own user only: they are found for that one. */
  function findAsRekko(find: typeof findTool): typeof findTool {
    return (name, major) => find(name, major, targetOf(database.url))
  }
})

/** The dump and its companions that exist. */
async function leftOf(file: string): Promise<string[]> {
  const names = await readdir(folder)
  return names
    .map((name) => join(folder, name))
    .filter((path) => path.startsWith(file))
    .sort()
}

describe('restore', () => {
  let file: string
  let manifest: Manifest
  let empty: FreshDatabase
  let nothing: string[]

  beforeAll(async () => {
    if (!database.isNative) return
    empty = await createDatabase()
    nothing = await describeCatalog(empty.connection)
    file = newFile()
    manifest = await dump(file)
  })
  afterAll(() => empty?.drop())

  /** A copy of the dump, and its manifest with changes. */
  async function copy(changes: object = {}): Promise<string> {
    const other = newFile()
    await writeFile(other, await readFile(file))
    await writeFile(manifestOf(other), JSON.stringify({ ...manifest, ...changes }))
    return other
  }

  async function expectNothing() {
    expect(await describeCatalog(empty.connection)).toEqual(nothing)
  }

  it('brings back every row, policy, grant and owner, ready to be searched', async (context) => {
    native(context)
    const target = await createDatabase()
    try {
      await restore(file, target.url)
      expect(await inventoryOf(target.url)).toEqual(manifest.tables)
      expect(await inventoryOf(database.url)).toMatchObject({ 'public.faces': manifest.tables['public.faces'] })
      const walls = ['relation', 'policy', 'grant', 'function', 'trigger', 'index', 'column'] as const
      expect(await describeCatalog(target.connection, ...walls)).toEqual(
        await describeCatalog(database.connection, ...walls),
      )
      expect(await readVault(target.connection)).toEqual([])
      const [faces] = await target.connection.query<{ faces: number; all_visible: boolean }>(
        `select reltuples::int as faces, relallvisible = relpages as all_visible from pg_class where relname = 'faces'`,
      )
      expect(faces).toEqual({ faces: 300, all_visible: true })
      // nothing is left to do for the migration runner, and the restored database can be dumped again
      expect(await migrate(target.connection)).toEqual(manifest.schema)
      expect((await dump(newFile(), { url: target.url })).tables).toEqual(manifest.tables)
    } finally {
      await target.drop()
    }
  })

  it('tells rows apart that are as many as before but not the same', async (context) => {
    native(context)
    const before = await inventoryOf(database.url)
    const mend = await change("external_id = 'person-7'", 'embedding = l2_normalize(array_fill(1, array[512])::vector)')
    const after = await inventoryOf(database.url)
    await mend()
    expect(after['public.faces']).toMatchObject({ rows: 300 })
    expect(after['public.faces']?.checksum).not.toBe(before['public.faces']?.checksum)
    expect(await inventoryOf(database.url)).toEqual(before)
  })

  it('refuses a dump that was cut, changed, or whose manifest is missing', async (context) => {
    native(context)
    const cut = await copy()
    await truncate(cut, manifest.dump.size_bytes - 1)
    await expect(restore(cut, empty.url)).rejects.toThrow(/ is truncated: \d+ bytes instead of \d+/)

    const changed = await copy()
    const bytes = await readFile(changed)
    bytes.writeUInt8((bytes.readUInt8(5000) + 1) % 256, 5000)
    await writeFile(changed, bytes)
    await expect(restore(changed, empty.url)).rejects.toThrow(/was changed since it was made/)

    const alone = await copy()
    await rm(manifestOf(alone))
    await expect(restore(alone, empty.url)).rejects.toThrow(/manifest\.json is missing/)
    await expectNothing()
  })

  it.for([
    [{ format_version: 2 }, / is of format 2, and this release reads format 1\. /],
    [{ format: 'other' }, /is not the manifest of a dump that scripts\/db\.sh made/],
    [{ schema: { version: 999, dirty: false } }, /schema version 999, and this release knows versions up to \d+/],
    [{ postgresql: '99.1' }, /^The dump is of PostgreSQL 99\.1, and .* is the older \d+/],
    [{ pg_dump: '99.1' }, /^There is no pg_restore 99 or newer here/],
    [{ tables: 'many' }, /is damaged: /],
  ] as const)('refuses a dump of another version, and says which: $0', async ([changes, message], context) => {
    native(context)
    await expect(restore(await copy(changes), empty.url)).rejects.toThrow(message)
    await expectNothing()
  })

  it('refuses a database that is not empty, and touches nothing in it', async (context) => {
    native(context)
    const before = await inventoryOf(database.url)
    await expect(restore(file, database.url)).rejects.toMatchObject({
      exitCode: EXIT.refused,
      message: expect.stringMatching(/ is not empty, and restore does not overwrite\..*createdb/),
    })
    expect(await inventoryOf(database.url)).toEqual(before)

    // also when what is there holds no rows, and is nowhere near public
    await empty.connection.execute('create schema elsewhere; create function elsewhere.f() returns int return 1')
    await expect(restore(file, empty.url)).rejects.toThrow(/routine elsewhere\./)
    await empty.connection.execute('drop schema elsewhere cascade')
    await expectNothing()
  })

  const changes: [string, (changed: Manifest) => void, RegExp[]][] = [
    [
      'other rows',
      ({ tables }) => {
        changeTable(tables, 'public.faces', { tenants: { [ACME]: 199, [RIVAL]: 101 } })
        changeTable(tables, 'public.tenants', { rows: 3 })
        changeTable(tables, 'public.verifications', { checksum: '1' })
        Reflect.deleteProperty(tables, 'public.api_keys')
      },
      [
        /public\.faces of tenant 0{8}-.*a: 200 rows instead of 199/,
        /public\.tenants: 2 rows instead of 3/,
        /public\.verifications: the rows are not the same/,
        /public\.api_keys: not expected/,
      ],
    ],
    [
      'other walls',
      (changed) => {
        changed.catalog = changed.catalog
          .filter((line) => line !== 'grant relation faces INSERT to rekko_app')
          .map((line) => line.replace(/^(relation faces .*forced) t/, '$1 f'))
          .concat('policy public faces x')
      },
      [
        /missing: relation faces .* forced f/,
        /missing: policy public faces x/,
        /not expected: grant relation faces INSERT to rekko_app/,
      ],
    ],
  ]
  it.for(changes)(
    'gives the database back empty when the manifest tells of $0',
    async ([, change, messages], context) => {
      native(context)
      const changed = structuredClone(manifest)
      change(changed)
      expect(changed).not.toEqual(manifest)
      const failure = await restore(await copy(changed), empty.url).catch(String)
      for (const message of messages) expect(failure).toMatch(message)
      expect(failure).toMatch(/Nothing was restored: .* is empty again\.$/)
      await expectNothing()
    },
  )

  it.for([
    ['warns', `run(); console.error('pg_restore: warning: restoring tables of another age')`, /of another age/],
    ['fails at the end', `run(); process.exitCode = 1`, /pg_restore failed: exit code 1/],
    [
      'is killed half way',
      `run([], readFileSync(0).subarray(0, 60_000)); process.kill(process.pid, 9)`,
      /pg_restore failed/,
    ],
    ['loses rows', `process.exitCode = run(['--schema-only'])`, /0 rows instead of /],
    [
      'loses a policy',
      `run()
       const client = new pg.Client(args.find((arg) => arg.startsWith('--dbname=')).slice('--dbname='.length))
       await client.connect()
       await client.query('drop policy faces_wall on faces')
       await client.end()`,
      /missing: policy public faces faces_wall /,
    ],
    ['loses grants', `process.exitCode = run(['--no-privileges'])`, /missing: grant /],
    [
      'loses owners',
      `process.exitCode = run(['--no-owner'])`,
      /the vault could not be made: permission denied .*\n(.*\n)* {2}and \d+ more/,
    ],
  ] as const)('gives the database back empty when pg_restore $0', async ([, script, message], context) => {
    native(context)
    const find = await wrap('pg_restore', script)
    const failure = await restore(file, empty.url, { find }).catch(String)
    expect(failure).toMatch(message)
    expect(failure).toMatch(/Nothing was restored: .* is empty again\.$/)
    await expectNothing()
  })

  it('gives the database back empty when it is interrupted', async (context) => {
    native(context)
    const controller = new AbortController()
    const find = await wrap('pg_restore', `run(); process.kill(${process.pid}, 0); setInterval(() => {}, 1000)`)
    const restoring = restore(file, empty.url, { find, signal: controller.signal }).catch(String)
    const other = await empty.connect()
    const isThere = async () => (await describeCatalog(other, 'relation')).length > 0
    while (!(await isThere())) await new Promise((resolve) => setTimeout(resolve, 50))
    controller.abort(new Error('Interrupted.'))
    expect(await restoring).toMatch(/Interrupted\.\nNothing was restored/)
    await other.close()
    await expectNothing()
  })

  function changeTable(tables: Manifest['tables'], name: string, changes: Partial<Manifest['tables'][string]>) {
    const table = tables[name]
    if (!table) throw new Error(`The manifest does not tell of ${name}.`)
    tables[name] = { ...table, ...changes }
  }
})

describe('what a dump holds of faces', () => {
  const PIECE = 24
  let source: FreshDatabase
  let seeded: string

  /** Looks for the first 24 characters of many secrets at every place of a text. */
  class Scanner {
    readonly #pieces = new Map<string, string>()

    add(name: string, text: string) {
      if (text.length < PIECE) throw new RangeError(`${name} is too short to be told from chance`)
      this.#pieces.set(text.slice(0, PIECE), name)
    }

    addBytes(name: string, bytes: Buffer) {
      this.add(`${name}, raw`, bytes.toString('latin1'))
      this.add(`${name}, hex`, bytes.toString('hex'))
      this.add(`${name}, HEX`, bytes.toString('hex').toUpperCase())
      this.add(`${name}, base64`, bytes.toString('base64'))
    }

    find(text: string): string[] {
      const found = new Set<string>()
      for (let at = 0; at + PIECE <= text.length; at++) {
        const name = this.#pieces.get(text.slice(at, at + PIECE))
        if (name) found.add(name)
      }
      return [...found].sort()
    }
  }

  /** What `pg_restore` would send: everything that is in the file. Latin-1, so that each byte is a character. */
  async function readDump(file: string): Promise<string> {
    const { pg_dump } = JSON.parse(await readFile(manifestOf(file), 'utf8'))
    const reader = await findTool('pg_restore', Number.parseInt(pg_dump, 10), targetOf(source.url))
    const chunks: Buffer[] = []
    await runTool(reader, {
      args: ['--file=-'],
      input: createReadStream(file),
      consume: async (output) => {
        for await (const chunk of output) chunks.push(chunk as Buffer)
      },
      signal,
    })
    return Buffer.concat(chunks).toString('latin1')
  }

  /** Every embedding that was enrolled, from its sealed copy. */
  async function listEmbeddings(): Promise<Embedding[]> {
    const { connection } = source
    const embeddings: Embedding[] = []
    for (const tenantId of [ACME, seeded]) {
      const keys = await findTemplateKeys(connection, masterKeys, tenantId, MODEL)
      const faces = await connection.query<{ id: string; external_id: string; sealed: Uint8Array }>(
        'select id, external_id, sealed from faces where tenant_id = $1',
        [tenantId],
      )
      for (const { id, external_id, sealed } of faces) {
        const face = { id, externalId: external_id, model: MODEL }
        const embedding = await open(keys[0], face, new Uint8Array(sealed))
        if (embedding === 'not opened') throw new RangeError('a face of this file does not open')
        embeddings.push(embedding)
      }
    }
    return embeddings
  }

  function toBytes(components: Iterable<number>, isLittleEndian: boolean): Buffer {
    const numbers = [...components]
    const view = new DataView(new ArrayBuffer(numbers.length * 4))
    for (const [index, component] of numbers.entries()) view.setFloat32(index * 4, component, isLittleEndian)
    return Buffer.from(view.buffer)
  }

  /** As PostgreSQL writes it, without brackets. */
  async function toText(embedding: Embedding): Promise<string[]> {
    const [row] = await source.connection.query<{ text: string }>('select $1::real[]::vector::text as text', [
      [...embedding],
    ])
    return row?.text.slice(1, -1).split(',') ?? []
  }

  /** All spellings of an embedding, from three places: generated ones have nothing but zeros behind component 277. */
  async function addEmbedding(scanner: Scanner, embedding: Embedding) {
    const texts = await toText(embedding)
    for (const from of [0, 100, 200]) {
      const part = embedding.slice(from)
      scanner.addBytes('little-endian', toBytes(part, true))
      scanner.addBytes('big-endian', toBytes(part, false))
      // base64 of bytes begins at any of three places
      for (const skipped of [1, 2]) {
        scanner.add('little-endian, base64', toBytes(part, true).subarray(skipped).toString('base64'))
        scanner.add('big-endian, base64', toBytes(part, false).subarray(skipped).toString('base64'))
      }
      scanner.add('vector', texts.slice(from).join(','))
      scanner.add('json', texts.slice(from).join(', '))
      scanner.add('numbers', [...part].join(','))
    }
  }

  beforeAll(async () => {
    if (!database.isNative) return
    source = await createDatabase()
    const { connection } = source
    await migrate(connection)
    await connection.query("insert into tenants (id, name) values ($1, 'acme')", [ACME])
    await initTemplateKeys(connection, masterKeys, () => FIRST_VERSION)
    await enroll(connection, ACME, 1, 100)
    const plan = { name: 'seeded', faces: 100, verifications: 50, identifications: 20 }
    const secrets = { pepper: 'a pepper of this file, not a secret', masterKeys }
    const made = await seedTenant(connection, toVectorTexts, secrets, plan, 7, () => {})
    seeded = made?.id ?? ''
  })
  afterAll(() => source?.drop())

  it('is no embedding of anybody, in any spelling; one that is planted is found in each', async (context) => {
    native(context)
    const embeddings = await listEmbeddings()
    expect(embeddings).toHaveLength(200)
    const scanner = new Scanner()
    for (const embedding of embeddings) await addEmbedding(scanner, embedding)
    const file = newFile()
    await dump(file, { url: source.url })
    const text = await readDump(file)
    // it is the dump of these faces: their rotated vectors are there
    expect(text.match(/^[^\n]*\tperson-\d+\t\[/gm)).toHaveLength(200)
    expect(scanner.find(text)).toEqual([])

    const victim = embeddings[123] as Embedding
    const planted = {
      little: toBytes(victim, true).toString('hex'),
      big: toBytes(victim, false).toString('hex').toUpperCase(),
      shifted: Buffer.concat([Buffer.from('x'), toBytes(victim, true)]).toString('base64'),
      aligned: toBytes(victim.slice(100), false).toString('base64'),
      vector: `[${(await toText(victim)).join(',')}]`,
      numbers: [...victim].join(','),
      json: (await toText(victim)).map(Number),
    }
    const mend = await change(
      `tenant_id = '${ACME}' and external_id = 'person-9'`,
      `metadata = '${JSON.stringify(planted)}'`,
      source.connection,
    )
    const leaky = newFile()
    await dump(leaky, { url: source.url })
    await mend()
    expect(scanner.find(await readDump(leaky))).toEqual([
      ...['big-endian, HEX', 'big-endian, base64', 'json'],
      ...['little-endian, base64', 'little-endian, hex', 'numbers', 'vector'],
    ])
    expect(scanner.find(`...${toBytes(victim, true).toString('latin1')}...`)).toEqual(['little-endian, raw'])
    expect(scanner.find(`...${toBytes(victim, false).toString('latin1')}...`)).toEqual(['big-endian, raw'])
  })

  it('is no key, wrapped or not; one that is planted is found', async (context) => {
    native(context)
    const keys = (await readVault(source.connection)).filter(isLive)
    expect(keys).toHaveLength(2)
    const scanner = new Scanner()
    for (const { tenantId, version, wrapped } of keys) {
      scanner.addBytes('wrapped', Buffer.from(wrapped))
      // without its header, whatever stands before it
      for (const skipped of [3, 4, 5]) scanner.addBytes('wrapped', Buffer.from(wrapped.subarray(skipped)))
      scanner.addBytes('secret', Buffer.from(await unwrapDataSecret(masterKeys, { tenantId, version }, wrapped)))
    }
    const file = newFile()
    await dump(file, { url: source.url })
    const text = await readDump(file)
    expect(text).toMatch(/create schema if not exists vault/)
    expect(text).not.toMatch(/^(CREATE|ALTER|COPY|GRANT).*\bvault\b/m)
    expect(scanner.find(text)).toEqual([])

    const wrapped = Buffer.from(keys[1]?.wrapped ?? [])
    const planted = JSON.stringify({ hex: wrapped.toString('hex'), base64: wrapped.toString('base64') })
    const mend = await change(
      `tenant_id = '${ACME}' and external_id = 'person-9'`,
      `metadata = '${planted}'`,
      source.connection,
    )
    const leaky = newFile()
    await dump(leaky, { url: source.url })
    await mend()
    expect(scanner.find(await readDump(leaky))).toEqual(['wrapped, base64', 'wrapped, hex'])
  })

  it('leaves the vault out even where rekko_backup may read it', async (context) => {
    native(context)
    await source.connection.execute(
      'grant usage on schema vault to rekko_backup; grant select on vault.template_keys to rekko_backup',
    )
    try {
      const file = newFile()
      const manifest = await dump(file, { url: source.url })
      expect(Object.keys(manifest.tables).filter((name) => name.startsWith('vault.'))).toEqual([])
      expect(await readDump(file)).not.toMatch(/^COPY vault\./m)
    } finally {
      await source.connection.execute(
        'revoke select on vault.template_keys from rekko_backup; revoke usage on schema vault from rekko_backup',
      )
    }
  })
})

describe('a file of template keys', () => {
  const key = (changes: Partial<StoredTemplateKey> = {}): StoredTemplateKey => ({
    tenantId: ACME,
    version: 1,
    wrapped: new Uint8Array([1, 0, 7, ...Array<number>(60).fill(42)]),
    createdAt: new Date('2026-01-02T03:04:05.678Z'),
    destroyedAt: null,
    ...changes,
  })
  const KEYS = [
    key(),
    key({ version: 2, wrapped: null, destroyedAt: new Date('2026-02-03T04:05:06.789Z') }),
    key({ tenantId: RIVAL, version: 65_535 }),
  ]

  async function write(keys = KEYS): Promise<string> {
    const file = newFile()
    await writeTemplateKeys(file, 'rekko', keys)
    return file
  }

  /** A file with something changed, and its checksum made to fit unless that is what is changed. */
  async function forge(change: (content: Content) => void, isChecksumMended = true): Promise<string> {
    const content: Content = JSON.parse(await readFile(await write(), 'utf8'))
    change(content)
    if (isChecksumMended && Array.isArray(content.keys)) {
      const values = content.keys.map((entry) =>
        ['tenant_id', 'version', 'master_key', 'wrapped', 'created_at', 'destroyed_at'].map((name) => entry[name]),
      )
      content['sha256'] = createHash('sha256').update(JSON.stringify(values)).digest('hex')
    }
    const file = newFile()
    await writeFile(file, JSON.stringify(content))
    return file
  }
  type Content = Record<string, unknown> & { keys: Record<string, unknown>[] }

  it('is read as it was written, and only its owner may read it', async () => {
    const file = join(folder, 'kept', 'apart', 'keys.json')
    await writeTemplateKeys(file, 'rekko', KEYS)
    expect(await readTemplateKeys(file)).toEqual(KEYS)
    expect((await stat(file)).mode & 0o777).toBe(0o600)
    expect(await readdir(join(folder, 'kept', 'apart'))).toEqual(['keys.json'])
    expect(JSON.parse(await readFile(file, 'utf8'))).toMatchObject({
      ...{ format: 'rekko-template-keys', format_version: 1, database: 'rekko' },
      made_at: expect.stringMatching(/^\d{4}-.*Z$/),
      keys: [
        { tenant_id: ACME, version: 1, master_key: 7, wrapped: expect.stringMatching(/^AQAH/), destroyed_at: null },
        { version: 2, master_key: null, wrapped: null, destroyed_at: '2026-02-03T04:05:06.789Z' },
        { tenant_id: RIVAL, version: 65_535 },
      ],
    })
    expect(await readTemplateKeys(await write([]))).toEqual([])
  })

  it('is not overwritten, nor one that is being written', async () => {
    const file = newFile()
    await writeFile(file, 'precious')
    await expect(writeTemplateKeys(file, 'rekko', KEYS)).rejects.toMatchObject({ exitCode: EXIT.refused })
    expect(await readFile(file, 'utf8')).toBe('precious')
    await rm(file)
    await writeFile(`${file}.partial`, 'half')
    await expect(writeTemplateKeys(file, 'rekko', KEYS)).rejects.toThrow(/\.partial exists/)
    expect(await readFile(`${file}.partial`, 'utf8')).toBe('half')
    expect(await leftOf(file)).toEqual([`${file}.partial`])
  })

  it('is told from one that was only spelled anew', async () => {
    expect(await readTemplateKeys(await forge(() => {}, false))).toEqual(KEYS)
    const reordered = await forge((content) => {
      content.keys = content.keys.map((entry) => Object.fromEntries(Object.entries(entry).reverse()))
    }, false)
    expect(await readTemplateKeys(reordered)).toEqual(KEYS)
  })

  const other = key({ wrapped: new Uint8Array([1, 0, 7, ...Array<number>(60).fill(43)]) }).wrapped
  const first = (changes: Record<string, unknown>) => (content: Content) =>
    void Object.assign(content.keys[0] ?? {}, changes)
  it.for<[string, (content: Content) => void, RegExp, boolean]>([
    ['another format', (content) => (content['format'] = 'rekko-backup'), /is not a file of template keys that/, true],
    ['a newer format', (content) => (content['format_version'] = 2), /is of format 2, and this release reads/, true],
    ['a field more', (content) => (content['more'] = 1), /is damaged: .*more/, true],
    ['no keys', (content) => Reflect.deleteProperty(content, 'keys'), /is damaged: /, true],
    ['a key less', (content) => content.keys.pop(), /was changed since it was made: the SHA-256/, false],
    ['two keys in another order', (content) => content.keys.reverse(), /the SHA-256/, false],
    ['another date', first({ created_at: '2026-01-02T03:04:05.679Z' }), /the SHA-256/, false],
    ['other bytes', first({ wrapped: Buffer.from(other ?? []).toString('base64') }), /the SHA-256/, false],
    ['a key twice', (content) => content.keys.push({ ...content.keys[0] }), /same tenant and version twice/, true],
    ['a field more in a key', first({ secret: 'x' }), /is damaged: .*secret/, true],
    ['a tenant that is none', first({ tenant_id: "'; drop table faces; --" }), /is damaged: .*tenant_id/s, true],
    ['version 0', first({ version: 0 }), /is damaged: .*version/s, true],
    ['version 65,536', first({ version: 65_536 }), /is damaged: .*version/s, true],
    ['a key that is too short', first({ wrapped: 'AQAH' }), /is damaged: .*wrapped/s, true],
    ['another master key', first({ master_key: 8 }), /is damaged: .*master_key is not the number/s, true],
    ['a live key that is destroyed', first({ destroyed_at: '2026-01-02T03:04:05Z' }), /live or destroyed/, true],
    ['a destroyed key that is not', first({ wrapped: null, master_key: null }), /live or destroyed/, true],
    ['a date that is none', first({ created_at: 'yesterday' }), /is damaged: .*created_at/s, true],
  ])('is refused with $0', async ([, change, message, isChecksumMended]) => {
    await expect(readTemplateKeys(await forge(change, isChecksumMended))).rejects.toThrow(message)
  })

  it('is refused when it is missing, too large, or not JSON', async () => {
    await expect(readTemplateKeys(newFile())).rejects.toMatchObject({ exitCode: EXIT.usage })
    const file = newFile()
    await writeFile(file, '{"format": "rekko-temp')
    await expect(readTemplateKeys(file)).rejects.toThrow(/is not a file of template keys that/)
    await truncate(file, 128 * 1024 * 1024 + 1)
    await expect(readTemplateKeys(file)).rejects.toThrow(/is not a file of template keys: it has 134217729 bytes/)
  })
})

describe('filling a vault from a file', () => {
  const TENANT = '00000000-0000-4000-8000-0000000000a1'
  const OTHER = '00000000-0000-4000-8000-0000000000a2'
  const ERASING = '00000000-0000-4000-8000-0000000000a3'
  const STRANGER = '00000000-0000-4000-8000-0000000000a4'
  const NOTHING = {
    ...{ restored: 0, marked: 0, identical: 0, destroyed: 0, outlived: 0, erasing: 0, unknownTenants: 0 },
    refused: [] as RefusedKey[],
  }
  let copy: FreshDatabase
  let keys: StoredTemplateKey[]

  beforeAll(async () => {
    copy = await createDatabase()
    await migrate(copy.connection)
    await copy.connection.query(
      "insert into tenants (id, name) select t, 'a tenant' from unnest(string_to_array($1, ' ')::uuid[]) as t",
      [`${TENANT} ${OTHER} ${ERASING}`],
    )
    await initTemplateKeys(copy.connection, masterKeys, () => FIRST_VERSION)
    await enroll(copy.connection, TENANT, 1, 20)
    await enroll(copy.connection, OTHER, 1, 2)
    await enroll(copy.connection, ERASING, 1, 2)
    keys = await readVault(copy.connection)
    await copy.connection.query('select request_tenant_erasure($1)', [ERASING])
  })
  afterAll(() => copy.drop())

  const fill = (from: StoredTemplateKey[], masters: MasterKeys | null = masterKeys, isDryRun = false) =>
    fillVault(copy.connection, from, masters, isDryRun)
  const openFaces = (limit = 100) => openRandomTemplates(copy.connection, masterKeys, limit)
  const keyOf = (tenantId: string) => {
    const found = keys.find((key) => key.tenantId === tenantId)
    if (!found?.wrapped) throw new RangeError('a tenant of this file has no key')
    return { ...found, wrapped: found.wrapped }
  }
  const emptyVault = () => copy.connection.execute('delete from vault.template_keys')
  const destroyed = { wrapped: null, destroyedAt: new Date('2026-01-02T03:04:05.678Z') }
  const reasons = async () => new Set((await openFaces()).failed.map(({ reason }) => reason))

  it('brings back what is missing, so that faces open again; what is there is left, and again', async () => {
    await emptyVault()
    expect(await openFaces()).toMatchObject({ opened: 0, failed: { length: 22 } })
    expect(await reasons()).toEqual(new Set(['no key']))

    expect(await fill([keyOf(TENANT)])).toEqual({ ...NOTHING, restored: 1 })
    expect((await openFaces()).opened).toBe(20)
    expect(await fill(keys)).toEqual({ ...NOTHING, restored: 1, identical: 1, erasing: 1 })
    expect(await openFaces()).toEqual({ opened: 22, failed: [] })
    expect(await fill(keys)).toEqual({ ...NOTHING, identical: 2, erasing: 1 })
    expect(await readVault(copy.connection)).toEqual([keyOf(TENANT), keyOf(OTHER)])
    const events = await copy.connection.query<{ target: string }>(
      "select target from operator_events where action = 'tenant.template_keys_restored' order by target",
    )
    expect(events.map(({ target }) => target)).toEqual([TENANT, OTHER])
  })

  it('makes the vault where it is missing', async () => {
    const before = await describeCatalog(copy.connection)
    await copy.connection.execute('drop schema vault cascade')
    await expect(copyVault(copy.connection)).rejects.toMatchObject({ exitCode: EXIT.refused })
    expect(await fill(keys, masterKeys, true)).toEqual({ ...NOTHING, restored: 2, erasing: 1 })
    expect(await describeCatalog(copy.connection)).not.toEqual(before)
    expect(await fill(keys)).toEqual({ ...NOTHING, restored: 2, erasing: 1 })
    expect(await describeCatalog(copy.connection)).toEqual(before)
  })

  it('says what it would do, and does nothing', async () => {
    await emptyVault()
    expect(await fill(keys, masterKeys, true)).toEqual({ ...NOTHING, restored: 2, erasing: 1 })
    expect(await readVault(copy.connection)).toEqual([])
    await fill(keys)
  })

  it('never brings back a key that was destroyed, here or in the file', async () => {
    await copy.connection.query(
      "update vault.template_keys set wrapped = null, destroyed_at = '2026-03-04T05:06:07Z' where tenant_id = $1",
      [TENANT],
    )
    const before = await readVault(copy.connection)
    expect(await fill(keys)).toEqual({ ...NOTHING, identical: 1, destroyed: 1, erasing: 1 })
    expect(await readVault(copy.connection)).toEqual(before)

    // destroyed in both is the same, and a mark keeps its version from being given out again
    expect(await fill([{ ...keyOf(TENANT), ...destroyed }])).toEqual({ ...NOTHING, identical: 1 })
    await emptyVault()
    const later = { ...keyOf(TENANT), version: 2, ...destroyed }
    expect(await fill([later])).toEqual({ ...NOTHING, marked: 1 })
    expect(await readVault(copy.connection)).toEqual([later])
    const live = { ...later, wrapped: keyOf(TENANT).wrapped, destroyedAt: null }
    expect(await fill([live, ...keys])).toEqual({ ...NOTHING, restored: 2, destroyed: 1, erasing: 1 })
    await emptyVault()
    await fill(keys)
  })

  it('refuses for a tenant the mark of a destroyed key that its faces are under, and restores the others', async () => {
    await emptyVault()
    const mark = { ...keyOf(TENANT), ...destroyed }
    const next = { ...keyOf(TENANT), version: 2, ...destroyed }
    for (const isDryRun of [true, false]) {
      const filled = await fill([mark, next, keyOf(OTHER)], masterKeys, isDryRun)
      expect(filled).toEqual({
        ...NOTHING,
        restored: 1,
        refused: [{ tenantId: TENANT, version: 1, reason: 'in use' }],
      })
      expect(() => requireNoneRefused(filled, masterKeys)).toThrow(
        RegExp(`^1 key destroyed in the file, and the database has faces.*\\n {2}key 1 of tenant ${TENANT}\\n`),
      )
    }
    expect(await readVault(copy.connection)).toEqual([keyOf(OTHER)])
    // the file of their time opens them still
    await fill(keys)
    expect(await openFaces()).toEqual({ opened: 22, failed: [] })
  })

  it('leaves live what only the file says is destroyed', async () => {
    expect(await fill([{ ...keyOf(TENANT), ...destroyed }])).toEqual({ ...NOTHING, outlived: 1 })
    expect(await openFaces()).toEqual({ opened: 22, failed: [] })
  })

  it('leaves out tenants that are not there, and those that are being erased', async () => {
    const strangers = [1, 2].map((version) => ({ ...keyOf(TENANT), tenantId: STRANGER, version }))
    expect(await fill([...strangers, keyOf(ERASING)])).toEqual({ ...NOTHING, unknownTenants: 1, erasing: 1 })
    expect(await readVault(copy.connection)).toEqual([keyOf(TENANT), keyOf(OTHER)])
  })

  it('refuses for a tenant a key that differs from the one that is there, and restores the others', async () => {
    const wrapped = await wrapNewDataSecret(masterKeys, { tenantId: TENANT, version: 1 })
    const before = await readVault(copy.connection)
    for (const masters of [masterKeys, null]) {
      await copy.connection.query('delete from vault.template_keys where tenant_id = $1', [OTHER])
      const next = { ...keyOf(TENANT), version: 2, ...destroyed }
      const filled = await fill([keyOf(OTHER), { ...keyOf(TENANT), wrapped }, next], masters)
      expect(filled).toEqual({
        ...NOTHING,
        restored: 1,
        refused: [{ tenantId: TENANT, version: 1, reason: 'differs' }],
      })
      expect(() => requireNoneRefused(filled, masters)).toThrow(
        RegExp(`^1 key of the file differ.*\n {2}key 1 of tenant ${TENANT}\n`),
      )
    }
    expect(await readVault(copy.connection)).toEqual(before)
  })

  it('takes a key for the same when another master key wraps it, as long as that can be told', async () => {
    const [numbers, secret] = [new Map<number, Octets>(), await unwrap(TENANT)]
    numbers.set(0xffff, new TextEncoder().encode('known to everybody: development!') as Octets)
    numbers.set(2, crypto.getRandomValues(new Uint8Array(32)))
    const both = await toMasterKeys(numbers)
    const wrapped = await wrapDataSecret(both, 2, { tenantId: TENANT, version: 1 }, secret)
    expect(await fill([{ ...keyOf(TENANT), wrapped }], both)).toEqual({ ...NOTHING, identical: 1 })
    const untold = await fill([{ ...keyOf(TENANT), wrapped }], null)
    expect(() => requireNoneRefused(untold, null)).toThrow(/rotate-master.*set TEMPLATE_MASTER_KEYS/)
    expect(await readVault(copy.connection)).toEqual([keyOf(TENANT), keyOf(OTHER)])
  })

  it('refuses a key that the master keys do not open; where they are not known it is taken untried', async () => {
    await copy.connection.query('delete from vault.template_keys where tenant_id = $1', [OTHER])
    const others = await toMasterKeys(new Map([[7, crypto.getRandomValues(new Uint8Array(32))]]))
    const foreign = {
      ...keyOf(OTHER),
      wrapped: await wrapNewDataSecret(others, { tenantId: OTHER, version: 1 }),
    }
    await expect(fill([foreign])).rejects.toThrow(
      /^1 key of the file do not open: wrapped with master key 7, and TEMPLATE_MASTER_KEYS has the numbers 65535\. Nothing/,
    )
    // of another tenant: bound to whom it is for
    await expect(fill([{ ...keyOf(OTHER), wrapped: keyOf(TENANT).wrapped }])).rejects.toThrow(/do not open/)
    expect(await readVault(copy.connection)).toEqual([keyOf(TENANT)])

    expect(await fill([foreign], null)).toEqual({ ...NOTHING, restored: 1 })
    expect((await openFaces()).opened).toBe(20)
    expect(await reasons()).toEqual(new Set(['key not opened']))
    await emptyVault()
    await fill(keys)
  })

  it('waits for who is changing a key, and is not overtaken', async (context) => {
    needsNative(context, database, 'the embedded database has one session')
    const other = await copy.connect()
    await other.execute(`begin; update vault.template_keys set wrapped = null, destroyed_at = now()`)
    const filling = fill(keys)
    await new Promise((resolve) => setTimeout(resolve, 200))
    await other.execute('commit')
    await other.close()
    expect(await filling).toEqual({ ...NOTHING, destroyed: 2, erasing: 1 })
    await emptyVault()
    await fill(keys)
  })

  describe('opening random faces', () => {
    it('opens as many as it is told, of every tenant that is not being erased', async () => {
      expect(await openFaces(7)).toEqual({ opened: 7, failed: [] })
      expect(await openFaces(1)).toEqual({ opened: 1, failed: [] })
      await copy.connection.query('delete from vault.template_keys where tenant_id = $1', [OTHER])
      // half for each, and what the smaller one cannot give, from the larger one
      for (const [limit, ofTenant, ofOther] of [
        [2, 1, 1],
        [3, 2, 1],
        [6, 4, 2],
        [99, 20, 2],
      ] as const) {
        const { opened, failed } = await openFaces(limit)
        expect([opened, failed.length], `of ${limit}`).toEqual([ofTenant, ofOther])
        expect(new Set(failed.map(({ tenantId }) => tenantId))).toEqual(new Set([OTHER]))
      }
      await fill(keys)
    })

    it.for([
      ['a vector', 'embedding = l2_normalize(array_fill(1, array[512])::vector)', 'differs'],
      [
        'a vector, slightly',
        'embedding = l2_normalize(old.embedding::vector + array_fill(0.003, array[512])::vector)',
        'differs',
      ],
      ['a sealed copy', 'sealed = set_byte(old.sealed, 2078, get_byte(old.sealed, 2078) # 1)', 'not opened'],
    ] as const)('notices that somebody changed $0', async ([, assignment, reason]) => {
      const mend = await change(`tenant_id = '${OTHER}' and external_id = 'person-1'`, assignment, copy.connection)
      const { opened, failed } = await openFaces()
      await mend()
      expect(opened).toBe(21)
      expect(failed).toEqual([{ tenantId: OTHER, faceId: expect.any(String), keyVersion: 1, reason }])
      expect(await openFaces()).toEqual({ opened: 22, failed: [] })
    })

    it('takes rounding for what it is', async () => {
      const mend = await change(
        `tenant_id = '${OTHER}' and external_id = 'person-1'`,
        'embedding = l2_normalize(old.embedding::vector + array_fill(0.00001, array[512])::vector)',
        copy.connection,
      )
      expect(await openFaces()).toEqual({ opened: 22, failed: [] })
      await mend()
    })
  })

  async function unwrap(tenantId: string): Promise<Octets> {
    return unwrapDataSecret(masterKeys, { tenantId, version: 1 }, keyOf(tenantId).wrapped)
  }
})

describe('the keys of the embedded database', () => {
  it('are dumped and restored by the same commands, which make no database by looking', async () => {
    const home = await mkdtemp(join(folder, 'embedded-'))
    const run = (...args: string[]) => runIn(home, '--db', 'embedded', ...args)
    expect(await run('dump', '--template-keys')).toMatchObject({ code: EXIT.unreachable })
    expect(await readdir(home)).toEqual([])

    const embedded = await openEmbedded(join(home, '.rekko/data'))
    const connection = connectEmbedded(embedded.pglite)
    await bootstrap(connection, DEVELOPMENT_PASSWORDS)
    await migrate(connection)
    await connection.query("insert into tenants (id, name) values ($1, 'acme')", [ACME])
    await initTemplateKeys(connection, masterKeys, () => FIRST_VERSION)
    await enroll(connection, ACME, 1, 3)
    await embedded.close()

    const dumped = await run('dump', '--template-keys')
    expect(dumped.code, dumped.stderr).toBe(EXIT.ok)
    expect(dumped.stdout).toMatch(/^\.\/backups\/rekko-\d{8}-\d{6}\.template-keys\.json\n$/)
    const file = dumped.stdout.trim()
    const again = await run('restore', '--template-keys', file, '--json')
    expect(again.code, again.stderr).toBe(EXIT.ok)
    expect(JSON.parse(again.stdout)).toMatchObject({
      keys: { restored: 0, identical: 1 },
      faces: { opened: 3, failed: 0 },
    })
  })

  function runIn(cwd: string, ...args: string[]): Promise<{ code: number; stdout: string; stderr: string }> {
    const { DATABASE_URL: _, TEMPLATE_MASTER_KEYS: __, ...env } = process.env
    return new Promise((resolve) =>
      execFile(process.execPath, [join(ROOT, 'scripts/db.ts'), ...args], { cwd, env }, (error, stdout, stderr) =>
        resolve({ code: typeof error?.code === 'number' ? error.code : error ? -1 : 0, stdout, stderr }),
      ),
    )
  }
})

describe('drill', () => {
  let drills: string
  let scratch: string[] = []
  beforeAll(async () => {
    drills = await mkdtemp(join(folder, 'drills-'))
  })

  /** Its files go to a folder of ours, and we see the name of its database. */
  async function drill(masters: MasterKeys | null = masterKeys) {
    scratch = []
    const before = process.env['TMPDIR']
    process.env['TMPDIR'] = drills
    const find: typeof findTool = async (name, minimumMajor, target) => {
      scratch.push(target.url.pathname.slice(1))
      return findTool(name, minimumMajor, target)
    }
    try {
      return await runDrill({ target: targetOf(database.url), terminal, signal, find, masterKeys: masters })
    } finally {
      if (before === undefined) delete process.env['TMPDIR']
      else process.env['TMPDIR'] = before
    }
  }

  async function leftovers() {
    const names = scratch.filter((name) => name.startsWith('rekko_drill_'))
    expect(names).toHaveLength(1)
    const databases = await database.connection.query('select datname from pg_database where datname = any ($1)', [
      names,
    ])
    return [...databases, ...(await readdir(drills))]
  }

  it('passes where the walls stand, tells its times, and leaves nothing behind', async (context) => {
    native(context)
    const { isolation, rules, steps, manifest, templates } = await drill()
    expect(isolation.failures).toEqual([])
    expect(rules).toBeGreaterThanOrEqual(28)
    // without a tenant, and two tenants: own rows, rows of others, planting, deleting
    expect(isolation.checks).toBeGreaterThan(20)
    expect(steps.map(({ step }) => step)).toEqual(['dump', 'restore', 'template keys', 'lint', 'isolation'])
    expect(templates).toEqual({ opened: 100, failed: [] })
    expect(manifest.tables['public.faces']?.rows).toBe(300)
    expect(await leftovers()).toEqual([])
  })

  it('fails where a face of a tenant does not open, and leaves nothing behind', async (context) => {
    native(context)
    await database.connection.execute(`insert into tenants (id, name) values ('${SMALL}', 'small')`)
    await initTemplateKeys(database.connection, masterKeys, () => FIRST_VERSION)
    await enroll(database.connection, SMALL, 301, 301)
    try {
      // of three tenants, each has faces among a hundred
      expect((await drill()).templates).toEqual({ opened: 100, failed: [] })
      await change(`tenant_id = '${SMALL}'`, 'embedding = l2_normalize(array_fill(1, array[512])::vector)')
      const failure = await drill().catch(String)
      expect(failure).toMatch(/1 of 100 faces that chance picked do not open\./)
      expect(failure).toMatch(RegExp(`face [-0-9a-f]+ of tenant ${SMALL}, under key 1: differs$`))
      expect(await leftovers()).toEqual([])
    } finally {
      await database.connection.execute(`
        delete from faces where tenant_id = '${SMALL}'; delete from usage_events where tenant_id = '${SMALL}';
        delete from face_counts where tenant_id = '${SMALL}'; delete from vault.template_keys where tenant_id = '${SMALL}';
        delete from tenants where id = '${SMALL}'`)
    }
  })

  it('says that no face was opened where the master keys are not known', async (context) => {
    native(context)
    terminal.said = []
    const { templates, steps } = await drill(null)
    expect(templates).toBeNull()
    expect(steps.map(({ step }) => step)).toContain('template keys')
    expect(terminal.said).toEqual([expect.stringMatching(/^TEMPLATE_MASTER_KEYS is not set here: the keys came back/)])
    terminal.said = []
  })

  it('fails where a wall is down, and leaves nothing behind', async (context) => {
    native(context)
    await database.connection.execute('alter table faces disable row level security')
    try {
      const failure = await drill().catch(String)
      expect(failure).toMatch(/Tenants do not stay apart in the restored database/)
      expect(failure).toMatch(/public\.faces answers without a tenant \(1 rows\)/)
      expect(failure).toMatch(/L07 table faces has no row-level security/)
      expect(await leftovers()).toEqual([])
    } finally {
      await database.connection.execute('alter table faces enable row level security')
    }
  })
})

describe('the checks of isolation', () => {
  const A = 'tenant 0{8}-[-0-9]+a'
  const B = 'tenant 0{8}-[-0-9]+b'

  it('find nothing where the walls stand', async () => {
    const { failures, checks } = await checkIsolation(database.connection, await count(database.connection))
    expect(failures).toEqual([])
    expect(checks).toBeGreaterThan(20)
  })

  it.for([
    [
      'alter table faces disable row level security',
      'alter table faces enable row level security',
      [
        /^public\.faces answers without a tenant \(1 rows\)$/,
        RegExp(`^public\\.faces lets ${A} plant a row in another \\(1 rows\\)$`),
        RegExp(`^public\\.faces shows ${A} 100 rows of others$`),
        RegExp(`^public\\.faces lets ${A} delete from another \\(100 rows\\)$`),
        RegExp(`^public\\.faces lets ${B} plant a row in another \\(1 rows\\)$`),
        RegExp(`^public\\.faces shows ${B} 200 rows of others$`),
        RegExp(`^public\\.faces lets ${B} delete from another \\(200 rows\\)$`),
      ],
    ],
    [
      `alter policy usage_events_wall on usage_events with check (true);
       alter policy usage_events_tenant on usage_events with check (true)`,
      `alter policy usage_events_wall on usage_events with check (tenant_id = current_tenant_id());
       alter policy usage_events_tenant on usage_events with check (tenant_id = current_tenant_id())`,
      [A, B].map((tenant) => RegExp(`^public\\.usage_events lets ${tenant} plant a row in another \\(1 rows\\)$`)),
    ],
    // rekko_app may add to these and read none, or not all, of their columns: the wall is asked before NOT NULL
    ...(['admin_events', 'api_keys'] as const).map(
      (table) =>
        [
          `alter policy ${table}_wall on ${table} with check (true); alter policy ${table}_tenant on ${table} with check (true)`,
          `alter policy ${table}_wall on ${table} with check (tenant_id = current_tenant_id());
           alter policy ${table}_tenant on ${table} with check (tenant_id = current_tenant_id())`,
          // one tenant has a key to copy
          (table === 'api_keys' ? [A] : [A, B]).map((tenant) =>
            RegExp(`^public\\.${table} lets ${tenant} plant a row in another \\(23502\\)$`),
          ),
        ] as const,
    ),
    [
      'alter policy faces_tenant on faces using (tenant_id = current_tenant_id() and quality_score > 0)',
      'alter policy faces_tenant on faces using (tenant_id = current_tenant_id())',
      [
        RegExp(`^public\\.faces lets ${A} plant a row in another \\(0 rows\\)$`),
        RegExp(`^public\\.faces shows ${A} 0 of its 200 rows$`),
        RegExp(`^public\\.faces lets ${B} plant a row in another \\(0 rows\\)$`),
        RegExp(`^public\\.faces shows ${B} 0 of its 100 rows$`),
      ],
    ],
    [
      'grant select on api_keys to rekko_app; drop policy api_keys_wall on api_keys; alter policy api_keys_tenant on api_keys using (true)',
      `revoke select on api_keys from rekko_app;
       create policy api_keys_wall on api_keys as restrictive to rekko_app
         using (tenant_id = current_tenant_id()) with check (tenant_id = current_tenant_id());
       alter policy api_keys_tenant on api_keys using (tenant_id = current_tenant_id())`,
      [/^public\.api_keys answers without a tenant/, RegExp(`^public\\.api_keys shows ${B} 1 rows of others$`)],
    ],
    [
      'grant usage on schema vault to rekko_app; grant select on vault.template_keys to rekko_app',
      'revoke select on vault.template_keys from rekko_app; revoke usage on schema vault from rekko_app',
      // of each tenant its own row: the policies still hold
      [A, B].map(() => /^vault\.template_keys answers rekko_app, which has no right on it \(1 rows\)$/),
    ],
    [
      `create or replace function list_template_keys() returns table (version integer, wrapped bytea)
       language sql stable security definer set search_path = pg_catalog, pg_temp
       as $$ select k.version, k.wrapped from vault.template_keys k $$`,
      `create or replace function list_template_keys() returns table (version integer, wrapped bytea)
       language sql stable security definer set search_path = pg_catalog, pg_temp
       as $$ select k.version, k.wrapped from vault.template_keys k
         where k.tenant_id = public.current_tenant_id() and k.destroyed_at is null order by k.version desc $$`,
      [
        /^list_template_keys answers without a tenant \(2 rows\)$/,
        RegExp(`^list_template_keys answers ${A} 2 rows instead of 1 rows$`),
        RegExp(`^list_template_keys answers ${B} 2 rows instead of 1 rows$`),
      ],
    ],
  ] as const)('find what $0 opens', async ([breach, repair, expected]) => {
    const inventory = await count(database.connection)
    await database.connection.execute(breach)
    try {
      const { failures } = await checkIsolation(database.connection, inventory)
      expect(failures).toEqual(expected.map((message) => expect.stringMatching(message)))
    } finally {
      await database.connection.execute(repair)
    }
    expect(await checkIsolation(database.connection, inventory)).toMatchObject({ failures: [] })
  })
})

describe('the commands', () => {
  it('dump, restore and drill answer with exit codes and JSON', async (context) => {
    native(context)
    const target = await createDatabase()
    const file = newFile()
    try {
      const dumped = await runCli('--database-url', database.url, 'dump', file, '--json')
      expect(dumped.code, dumped.stderr).toBe(EXIT.ok)
      expect(JSON.parse(dumped.stdout)).toMatchObject({ file, schema: { dirty: false } })

      expect(dumped.stderr).toMatch(/the template keys are not in it: scripts\/db\.sh dump --template-keys/)
      const keys = newFile()
      const kept = await runCli('--database-url', database.url, 'dump', '--template-keys', keys, '--json')
      expect(kept.code, kept.stderr).toBe(EXIT.ok)
      expect(JSON.parse(kept.stdout)).toEqual({ file: keys, keys: 2, destroyed: 0, tenants_without_key: 0 })
      const repeated = await runCli('--database-url', database.url, 'dump', '--template-keys', keys, '--dry-run')
      expect(repeated).toMatchObject({ code: EXIT.refused, stderr: expect.stringContaining(`${keys} exists`) })

      const restored = await runCli('--database-url', target.url, 'restore', file)
      expect(restored.code, restored.stderr).toBe(EXIT.ok)
      expect(restored.stderr).toMatch(/policies, grants and owners are as the manifest says/)
      expect(restored.stderr).toMatch(
        /no face can be read before the keys are there too: .*restore --template-keys FILE/,
      )
      const lost = await runCli('--database-url', target.url, 'drill')
      expect(lost.code, lost.stderr).toBe(EXIT.findings)
      expect(lost.stderr).toMatch(/100 of 100 faces that chance picked do not open/)

      const planned = await runCli('--database-url', target.url, 'restore', '--template-keys', keys, '--dry-run')
      expect(planned.stdout).toMatch(/^would restore 2 keys into /)
      expect(await readVault(target.connection)).toEqual([])
      const opened = await runCli('--database-url', target.url, 'restore', '--template-keys', keys, '--json')
      expect(opened.code, opened.stderr).toBe(EXIT.ok)
      expect(JSON.parse(opened.stdout)).toMatchObject({
        restored: true,
        keys: { restored: 2, identical: 0, unknown_tenants: 0 },
        faces: { opened: 100, failed: 0 },
      })
      expect(opened.stderr).toMatch(/100 faces that chance picked open$/m)
      const full = await runCli('--database-url', target.url, 'restore', file)
      expect(full.code).toBe(EXIT.refused)

      const drilled = await runCli('--database-url', target.url, 'drill')
      expect(drilled.code, drilled.stderr).toBe(EXIT.ok)
      expect(drilled.stdout).toMatch(
        /^dump +[\d.]+ s\nrestore +[\d.]+ s\ntemplate keys +[\d.]+ s\nlint +[\d.]+ s\nisolation +[\d.]+ s\ntotal +[\d.]+ s\n$/,
      )
    } finally {
      await target.drop()
    }
  })

  it('restore keeps what it brought and ends with 5 when the linter finds something to mend in it', async (context) => {
    native(context)
    const target = await createDatabase()
    const file = newFile()
    try {
      await database.connection.execute('alter table faces no force row level security')
      try {
        expect((await runCli('--database-url', database.url, 'dump', file)).code).toBe(EXIT.ok)
      } finally {
        await database.connection.execute('alter table faces force row level security')
      }
      const restored = await runCli('--database-url', target.url, 'restore', file)
      expect(restored.stderr).toMatch(/The rows are back, and the linter finds 1 to mend/)
      expect(restored.stderr).toMatch(/^ {2}L08 table faces row-level security does not bind its owner$/m)
      expect(restored.code).toBe(EXIT.findings)
      expect(await inventoryOf(target.url)).toMatchObject({ 'public.faces': { rows: 300 } })
    } finally {
      await target.drop()
    }
  })

  it('restore does not judge an older schema by the rules of this release', async (context) => {
    native(context)
    const [older, target] = [await createDatabase(), await createDatabase()]
    const file = newFile()
    try {
      await migrate(older.connection, 3)
      expect((await runCli('--database-url', older.url, 'dump', file)).code).toBe(EXIT.ok)
      const restored = await runCli('--database-url', target.url, 'restore', file)
      expect(restored.stderr).toMatch(
        /of version 3, this release needs \d+: scripts\/db\.sh up, then scripts\/db\.sh lint/,
      )
      expect(restored.code, restored.stderr).toBe(EXIT.ok)
      // there were no keys yet
      expect(restored.stderr).not.toMatch(/template-keys/)
      const drilled = await runCli('--database-url', target.url, 'drill', '--json')
      expect(drilled.stderr).not.toMatch(/template keys/)
    } finally {
      await older.drop()
      await target.drop()
    }
  })

  it('say that the password is wrong, without repeating it', async (context) => {
    native(context)
    const url = new URL(database.url)
    url.password = 'not-the-password'
    for (const command of [['dump', newFile()], ['drill']]) {
      const { code, stdout, stderr } = await runCli('--database-url', url.href, ...command)
      expect(code).toBe(EXIT.unreachable)
      expect(stderr).toMatch(/refuses the user or the password/)
      expect(stdout + stderr).not.toContain('not-the-password')
    }
  })
})
