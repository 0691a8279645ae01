// Proves the migration commands of scripts/db.sh as an operator meets them: exit codes, refusals, the
// dirty cycle, a runner that dies in the middle, a lock that somebody holds. Native PostgreSQL for what
// needs more than one session. Nothing is fake; the commands run as programs of their own.
import { execFile, spawn } from 'node:child_process'
import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { connectNative } from '../../scripts/database/connection.ts'
import { findVersion, migrate } from '../../scripts/database/migrate.ts'
import { toTarget } from '../../scripts/database/target.ts'
import { createDatabase, type FreshDatabase } from './database.ts'

const ROOT = join(import.meta.dirname, '../..')
const isNative = process.env['DATABASE_URL'] !== undefined
if (!isNative) console.log('skipped: the commands are run on native PostgreSQL only (set DATABASE_URL)')

interface Outcome {
  code: number
  stdout: string
  stderr: string
}

let database: FreshDatabase

/** Runs scripts/db.ts as an operator does, without a terminal to ask at. */
async function db(...args: string[]): Promise<Outcome> {
  try {
    const { stdout, stderr } = await promisify(execFile)(process.execPath, [join(ROOT, 'scripts/db.ts'), ...args], {
      cwd: ROOT,
      env: { ...process.env, DATABASE_URL: database.url, NO_COLOR: '1' },
    })
    return { code: 0, stdout, stderr }
  } catch (error) {
    // execFile rejects with the outcome of a program that ended with another code than 0
    return error as Outcome
  }
}

describe.skipIf(!isNative)('the commands', () => {
  beforeAll(async () => {
    database = await createDatabase()
  })
  afterAll(() => database.drop())

  it('go up, tell the version, and find nothing to mend', async () => {
    expect(await db('up', '--dry-run')).toMatchObject({
      code: 0,
      stdout: expect.stringContaining('000001_init.up.sql'),
    })
    expect(await findVersion(database.connection)).toEqual({ version: 0, dirty: false })
    expect(await db('up')).toMatchObject({ code: 0, stderr: expect.stringContaining('✓ version') })
    const { version } = await findVersion(database.connection)
    expect(JSON.parse((await db('version', '--json')).stdout)).toEqual({ version, dirty: false })
    expect(await db('check')).toMatchObject({ code: 0, stdout: 'nothing to mend\n' })
  })

  it.each([['down'], ['reset'], ['goto', '0'], ['force', '1']])(
    'do not %s without a yes, and then change nothing',
    async (...command) => {
      const before = await findVersion(database.connection)
      expect(await db(...command)).toMatchObject({ code: 3, stderr: expect.stringContaining('--yes') })
      expect(await findVersion(database.connection)).toEqual(before)
    },
  )

  it('go down and up again, and check tells what is pending', async () => {
    const { version } = await findVersion(database.connection)
    expect((await db('down', '--yes')).code).toBe(0)
    expect((await findVersion(database.connection)).version).toBe(version - 1)
    expect(await db('check')).toMatchObject({ code: 5, stdout: expect.stringContaining('is pending') })
    expect((await db('goto', String(version))).code).toBe(0)
    expect((await db('reset', '--yes')).code).toBe(0)
    expect(await findVersion(database.connection)).toEqual({ version, dirty: false })
  })

  it('stop at a dirty database, say what to do, and force mends it', async () => {
    const { version } = await findVersion(database.connection)
    await database.connection.query('update schema_migrations set dirty = true')
    for (const command of [['up'], ['down', '--yes']]) {
      expect(await db(...command)).toMatchObject({ code: 1, stderr: expect.stringContaining('scripts/db.sh force') })
    }
    expect(await db('check')).toMatchObject({ code: 5, stdout: expect.stringContaining('dirty') })
    expect((await db('force', String(version), '--yes')).code).toBe(0)
    expect(await db('up')).toMatchObject({ code: 0 })
  })

  it('tell a file that was changed after it was applied', async () => {
    await database.connection.query("update migration.history set checksum = 'another' where version = 2")
    expect(await db('check')).toMatchObject({
      code: 5,
      stdout: expect.stringContaining('000002_tenancy.up.sql was changed after it was applied'),
    })
    await database.connection.query('delete from migration.history where version = 2')
    // applied by golang-migrate: there is no checksum to compare with
    expect(await db('check')).toMatchObject({ code: 0 })
  })

  it('refuse a version that does not exist, and words that are none', async () => {
    expect(await db('goto', '999')).toMatchObject({ code: 2, stderr: expect.stringContaining('no migration 999') })
    expect((await db('force', 'one', '--yes')).code).toBe(2)
    expect((await db('nonsense')).code).toBe(2)
    expect((await db('create', 'Not Snake')).code).toBe(2)
    expect((await db('--help')).code).toBe(0)
  })

  it('say where nothing answers, and who is refused, without a password', async () => {
    const unreachable = await db('version', '--database-url', 'postgres://rekko:hidden@127.0.0.1:9/rekko_dev')
    expect(unreachable).toMatchObject({
      code: 4,
      stderr: expect.stringContaining('Nothing answers at rekko@127.0.0.1:9'),
    })
    const wrong = new URL(database.url)
    wrong.password = 'hidden'
    const refused = await db('version', '--database-url', wrong.href)
    expect(refused).toMatchObject({ code: 4, stderr: expect.stringContaining('refuses the user or the password') })
    const unknown = await db('version', '--database-url', 'mysql://hidden')
    expect(unknown.code).toBe(2)
    for (const { stdout, stderr } of [unreachable, refused, unknown]) expect(stdout + stderr).not.toContain('hidden')
  })

  it('refuse a pooled connection, and losing data on another machine unless told twice', async () => {
    const pooled = await db('up', '--database-url', 'postgres://a:b@ep-sea-1-pooler.sa-east-1.aws.neon.tech/rekko')
    expect(pooled).toMatchObject({ code: 3, stderr: expect.stringContaining('-pooler') })
    expect(toTarget('postgres://a:b@localhost/rekko', undefined)).toMatchObject({ isLocal: true })
    const elsewhere = 'postgres://a:b@database.invalid/rekko'
    expect(toTarget(elsewhere, undefined)).toMatchObject({ isLocal: false })
    expect(await db('reset', '--yes', '--database-url', elsewhere)).toMatchObject({
      code: 3,
      stderr: expect.stringContaining('not on this machine'),
    })
    // told twice, it goes on to connect, and there is no such host
    expect((await db('reset', '--yes', '--yes', '--database-url', elsewhere)).code).toBe(4)
  })
})

describe.skipIf(!isNative)('a migration that is disturbed', () => {
  let folder: string

  beforeAll(async () => {
    database = await createDatabase()
    folder = await mkdtemp(join(tmpdir(), 'rekko-migrations-'))
  })
  afterAll(async () => {
    await database.drop()
    await rm(folder, { recursive: true })
  })

  it('leaves nothing but the dirty mark when the runner is killed in the middle', async () => {
    await writeFile(join(folder, '000001_slow.up.sql'), 'create table half_done (); select pg_sleep(60);')
    await writeFile(join(folder, '000001_slow.down.sql'), 'drop table half_done;')
    const program = `
      import { connectNative } from ${JSON.stringify(join(ROOT, 'scripts/database/connection.ts'))}
      import { migrate } from ${JSON.stringify(join(ROOT, 'scripts/database/migrate.ts'))}
      await migrate(await connectNative(process.env.URL), undefined, () => {}, process.env.FOLDER)`
    const runner = spawn(process.execPath, ['--input-type=module', '-e', program], {
      env: { ...process.env, URL: database.url, FOLDER: folder },
      stdio: 'ignore',
    })
    const isAtWork = async () =>
      (
        await database.connection.query(
          "select 1 from pg_stat_activity where wait_event = 'PgSleep' and datname = current_database()",
        )
      ).length > 0
    await until(isAtWork)
    runner.kill('SIGKILL')
    // PostgreSQL notices, instead of finishing the script with nobody to record it
    await until(async () => !(await isAtWork()))

    expect(await findVersion(database.connection)).toEqual({ version: 1, dirty: true })
    const [left] = await database.connection.query<{ left: string | null }>(
      "select to_regclass('half_done')::text as left",
    )
    expect(left).toEqual({ left: null })
    await expect(migrate(database.connection, undefined, () => {}, folder)).rejects.toThrow(/dirty at version 1/)
  })

  it('gives up on a lock that another session holds, and is rolled back', async () => {
    await writeFile(join(folder, '000001_slow.up.sql'), 'alter table busy add column late integer;')
    await database.connection.execute('update schema_migrations set dirty = false, version = 1')
    await database.connection.execute(
      'delete from schema_migrations; create table busy (); alter table busy owner to rekko_owner',
    )
    const holder = await connectNative(database.url)
    try {
      await holder.execute('begin; lock table busy in access share mode')
      await expect(migrate(database.connection, undefined, () => {}, folder)).rejects.toThrow(/lock timeout/)
    } finally {
      await holder.close()
    }
    expect(await findVersion(database.connection)).toEqual({ version: 1, dirty: true })
    const columns = await database.connection.query(
      "select 1 from information_schema.columns where table_name = 'busy' and column_name = 'late'",
    )
    expect(columns).toEqual([])
  })

  it('runs outside of a transaction when it asks to', async () => {
    await database.connection.execute('delete from schema_migrations')
    await writeFile(join(folder, '000001_slow.up.sql'), 'select 1;')
    await writeFile(
      join(folder, '000002_index.up.sql'),
      '-- no transaction\ncreate index concurrently idx_busy on busy ((1));',
    )
    await writeFile(join(folder, '000002_index.down.sql'), 'drop index idx_busy;')
    expect(await migrate(database.connection, undefined, () => {}, folder)).toEqual({ version: 2, dirty: false })
    const [index] = await database.connection.query(
      "select indisvalid from pg_index where indexrelid = 'idx_busy'::regclass",
    )
    expect(index).toEqual({ indisvalid: true })
  })
})

/** @throws Error when it does not become so within 20 seconds */
async function until(holds: () => Promise<boolean>): Promise<void> {
  const deadline = Date.now() + 20_000
  while (!(await holds())) {
    if (Date.now() > deadline) throw new Error('it did not happen')
    await new Promise((resolve) => setTimeout(resolve, 100))
  }
}
