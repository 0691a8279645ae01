// Proves dump, restore and drill: a dump holds what the database held or does not come to be, a restore
// brings all of it or nothing, and the drill notices a wall that is down. Fake: pg_dump and pg_restore where
// they have to misbehave, as scripts that call the real ones.
import { execFile } from 'node:child_process'
import { mkdtemp, readdir, readFile, rm, stat, truncate, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { Readable } from 'node:stream'
import { afterAll, beforeAll, describe, expect, it, type TestContext } from 'vitest'
import { defaultFile, makeBackup } from '../../scripts/database/backup.ts'
import { findTool, runTool, type Tool } from '../../scripts/database/client-tools.ts'
import { runDrill } from '../../scripts/database/commands/backups.ts'
import { type Connection, connectNative } from '../../scripts/database/connection.ts'
import { DEVELOPMENT_PASSWORDS } from '../../scripts/database/development.ts'
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
import { restoreBackup } from '../../scripts/database/restore.ts'
import { type NativeTarget, toTarget } from '../../scripts/database/target.ts'
import { EXIT, Terminal } from '../../scripts/database/terminal.ts'
import { createDatabase, describeCatalog, type FreshDatabase, needsNative } from './database.ts'

const ROOT = join(import.meta.dirname, '../..')
const ACME = '00000000-0000-4000-8000-00000000000a'
const RIVAL = '00000000-0000-4000-8000-00000000000b'

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
      values ('${ACME}', 'key', sha256('key'), 'rk_test_', '{verify}');
    insert into faces (tenant_id, external_id, embedding, model, metadata)
      select case when n <= 200 then '${ACME}' else '${RIVAL}' end::uuid, 'person-' || n,
        l2_normalize((select array_agg(sin(n * 512 + i)) from generate_series(1, 512) i)::vector), 'arcface-512@1',
        jsonb_build_object('note', E'a tab\\t, a line\\n\\\\. and COPY public.faces (tenant_id) FROM stdin;')
      from generate_series(1, 300) n;
    insert into verifications (tenant_id, face_id, external_id, verified, confidence, threshold, model, request_id)
      select tenant_id, id, external_id, true, 0.9, 0.7, model, 'request' from faces where external_id like '%0';
    insert into usage_events (tenant_id, kind) select tenant_id, 'verification' from verifications`)
})
afterAll(async () => {
  await database.drop()
  await rm(folder, { recursive: true })
})

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
    const connection = database.connection
    await connection
      .execute(`update faces set embedding = l2_normalize(-1 * embedding) where external_id = 'person-7'`)
      .catch(() =>
        connection.execute(`
        update faces set embedding = l2_normalize(array_fill(1, array[512])::vector) where external_id = 'person-7'`),
      )
    const after = await inventoryOf(database.url)
    expect(after['public.faces']).toMatchObject({ rows: 300 })
    expect(after['public.faces']?.checksum).not.toBe(before['public.faces']?.checksum)
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
    ['loses owners', `process.exitCode = run(['--no-owner'])`, /missing: function .*\n(.*\n)* {2}and \d+ more/],
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

describe('drill', () => {
  let drills: string
  let scratch: string[] = []
  beforeAll(async () => {
    drills = await mkdtemp(join(folder, 'drills-'))
  })

  /** Its files go to a folder of ours, and we see the name of its database. */
  async function drill() {
    scratch = []
    const before = process.env['TMPDIR']
    process.env['TMPDIR'] = drills
    const find: typeof findTool = async (name, minimumMajor, target) => {
      scratch.push(target.url.pathname.slice(1))
      return findTool(name, minimumMajor, target)
    }
    try {
      return await runDrill({ target: targetOf(database.url), terminal, signal, find })
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
    const { isolation, rules, steps, manifest } = await drill()
    expect(isolation.failures).toEqual([])
    expect(rules).toBeGreaterThanOrEqual(28)
    // without a tenant, and two tenants: own rows, rows of others, planting, deleting
    expect(isolation.checks).toBeGreaterThan(20)
    expect(steps.map(({ step }) => step)).toEqual(['dump', 'restore', 'lint', 'isolation'])
    expect(manifest.tables['public.faces']?.rows).toBe(300)
    expect(await leftovers()).toEqual([])
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

      const restored = await runCli('--database-url', target.url, 'restore', file)
      expect(restored.code, restored.stderr).toBe(EXIT.ok)
      expect(restored.stderr).toMatch(/policies, grants and owners are as the manifest says/)
      const full = await runCli('--database-url', target.url, 'restore', file)
      expect(full.code).toBe(EXIT.refused)

      const drilled = await runCli('--database-url', target.url, 'drill')
      expect(drilled.code, drilled.stderr).toBe(EXIT.ok)
      expect(drilled.stdout).toMatch(
        /^dump +[\d.]+ s\nrestore +[\d.]+ s\nlint +[\d.]+ s\nisolation +[\d.]+ s\ntotal +[\d.]+ s\n$/,
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
