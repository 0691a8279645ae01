// Proves what an administrator does with template keys: a tenant is re-keyed while it works and after a crash, the master
// key is rotated, keys are made and destroyed. The commands run with their arguments, and the service answers through its
// own app and the local Neon endpoint, on native PostgreSQL. Fake: the faces.
import { spawn } from 'node:child_process'
import { randomBytes } from 'node:crypto'
import { once } from 'node:events'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, it, type TestContext } from 'vitest'
import { registerTemplateKeys } from '../../scripts/database/commands/template-keys.ts'
import type { Connection } from '../../scripts/database/connection.ts'
import { DEVELOPMENT_MASTER_KEYS, DEVELOPMENT_PASSWORDS } from '../../scripts/database/development.ts'
import type { EmbeddingFile } from '../../scripts/database/embedding-files.ts'
import { enrollFaces, importFaces } from '../../scripts/database/import.ts'
import { migrate } from '../../scripts/database/migrate.ts'
import { rekeyTenant } from '../../scripts/database/rekey.ts'
import {
  destroyTemplateKeys,
  findTemplateKeys,
  initTemplateKeys,
  isKeyChange,
  listStoredKeys,
} from '../../scripts/database/template-keys.ts'
import { EXIT } from '../../scripts/database/terminal.ts'
import { asOwner, asTenant } from '../../scripts/database/transaction.ts'
import { findVectorArray } from '../../scripts/database/vector-array.ts'
import { generateGallery } from '../../scripts/gallery.ts'
import { startEndpoint } from '../../scripts/neon-endpoint/server.ts'
import { createApiKey, createTenant } from '../../scripts/provision.ts'
import { app } from '../../src/app.ts'
import { SCOPES } from '../../src/auth/api-key.ts'
import { forgetTemplateKeys } from '../../src/db/template-keys.ts'
import { type Embedding, isFault, toEmbedding } from '../../src/face/embedding.ts'
import { toMasterNumber } from '../../src/face/protection/data-secret.ts'
import { parseMasterKeys, toMasterKeys } from '../../src/face/protection/master-keys.ts'
import { open } from '../../src/face/protection/sealed-copy.ts'
import { toSettings } from '../../src/settings.ts'
import { createDatabase, type FreshDatabase, needsNative } from './database.ts'
import { runCommand } from './run-command.ts'
import { masterKeys } from './tenant-door.ts'

const ROOT = join(import.meta.dirname, '../..')
const MODEL = 'arcface-512@1'
const PEPPER = 'a pepper that only this test file knows'
const PEOPLE = generateGallery(300, 2, 11)

let database: FreshDatabase
let endpoint: Awaited<ReturnType<typeof startEndpoint>>
beforeAll(async () => {
  database = await createDatabase()
  await migrate(database.connection)
  endpoint = await startEndpoint(database.openBackend())
})
afterAll(async () => {
  await endpoint.close()
  await database.drop()
})

const native = (context: TestContext) =>
  needsNative(context, database, 'a command opens a connection of its own, and works beside the service')

function db(...args: string[]) {
  return runCommand(registerTemplateKeys, args, { DATABASE_URL: database.url, TEMPLATE_MASTER_KEYS: '' })
}

function dbWith(masters: string, ...args: string[]) {
  return runCommand(registerTemplateKeys, args, { DATABASE_URL: database.url, TEMPLATE_MASTER_KEYS: masters })
}

function embeddingOf(person: number, sample = 0): Embedding {
  const embedding = toEmbedding(PEOPLE[person]?.samples[sample])
  if (isFault(embedding)) throw new RangeError(embedding.detail)
  return embedding
}

const nameOf = (person: number) => `person ${person}`

/** A tenant with the first of PEOPLE enrolled, and a way to ask the service on its behalf. */
async function makeTenant(faces: number) {
  const { connection } = database
  const id = await createTenant(connection, masterKeys, `tenant ${randomBytes(4).toString('hex')}`, 'test')
  const key = await createApiKey(connection, PEPPER, id, 'test', 'gate', SCOPES)
  const toVectorArray = await findVectorArray(connection, database.isNative)
  const gallery = {
    tenantId: id,
    keys: await findTemplateKeys(connection, masterKeys, id, MODEL),
    model: MODEL,
    toVectorArray,
  }
  const people = Array.from({ length: faces }, (_, person) => ({
    externalId: nameOf(person),
    embedding: embeddingOf(person),
    metadata: {},
    qualityScore: null,
  }))
  await asTenant(connection, id, () => enrollFaces(connection, gallery, people))
  const ask = async (method: string, path: string, body: object, masters = DEVELOPMENT_MASTER_KEYS) => {
    const response = await app.request(
      path,
      {
        method,
        headers: { Authorization: `Bearer ${key}`, 'Content-Type': 'application/json' },
        body: JSON.stringify(body),
      },
      {
        ENVIRONMENT: 'dev',
        DATABASE_URL: `postgres://rekko_app:${DEVELOPMENT_PASSWORDS.rekko_app}@database.test/rekko`,
        API_KEY_PEPPER: PEPPER,
        TEMPLATE_MASTER_KEYS: masters,
        NEON_FETCH_ENDPOINT: endpoint.url,
      },
    )
    return { status: response.status, body: (await response.json()) as Record<string, unknown> }
  }
  return { id, gallery, ask }
}

type TestTenant = Awaited<ReturnType<typeof makeTenant>>

async function readVersions(connection: Connection, tenantId: string): Promise<Record<number, number>> {
  const rows = await connection.query<{ version: number; faces: number }>(
    'select key_version as version, count(*)::int as faces from faces where tenant_id = $1 group by 1',
    [tenantId],
  )
  return Object.fromEntries(rows.map(({ version, faces }) => [version, faces]))
}

async function listStates(tenantId: string): Promise<[version: number, isLive: boolean][]> {
  const stored = await asOwner(database.connection, () => listStoredKeys(database.connection, tenantId))
  return stored.map(({ version, wrapped }) => [version, wrapped !== null])
}

/** Everybody who was enrolled is there, and opens to what was enrolled. */
async function expectIntact(tenant: TestTenant, faces: number): Promise<void> {
  const keys = await findTemplateKeys(database.connection, masterKeys, tenant.id, MODEL)
  const rows = await database.connection.query<{
    external_id: string
    id: string
    key_version: number
    sealed: Uint8Array
  }>('select id, external_id, key_version, sealed from faces where tenant_id = $1', [tenant.id])
  expect(rows).toHaveLength(faces)
  for (const row of rows) {
    const keyring = keys.find(({ version }) => version === row.key_version)
    if (!keyring) throw new RangeError('a face is under a key that is not there')
    const face = { id: row.id, externalId: row.external_id, model: MODEL }
    const person = Number(row.external_id.slice('person '.length))
    expect(await open(keyring, face, new Uint8Array(row.sealed))).toEqual(embeddingOf(person))
  }
}

async function expectFound(tenant: TestTenant, person: number): Promise<void> {
  const embedding = [...embeddingOf(person, 1)]
  const claim = { external_id: nameOf(person), embedding }
  expect(await tenant.ask('POST', '/v1/faces/verify', claim)).toMatchObject({ status: 200, body: { verified: true } })
  expect(await tenant.ask('POST', '/v1/faces/search', { embedding, max_results: 1 })).toMatchObject({
    status: 200,
    body: { matches: [{ external_id: nameOf(person) }] },
  })
}

describe('re-keying', () => {
  it('moves every face to a new key, destroys the old one, and can be repeated', async (context) => {
    native(context)
    const tenant = await makeTenant(250)
    const first = await db('template-keys', 'rekey', tenant.id, '--json')
    expect(first).toMatchObject({ code: EXIT.ok })
    expect(JSON.parse(first.stdout)).toEqual({
      tenant: tenant.id,
      from: 1,
      to: 2,
      moved: 250,
      not_opened: [],
      differing: [],
      finished: true,
    })
    expect(await readVersions(database.connection, tenant.id)).toEqual({ 2: 250 })
    expect(await listStates(tenant.id)).toEqual([
      [1, false],
      [2, true],
    ])
    await expectIntact(tenant, 250)
    await db('template-keys', 'rekey', tenant.id)
    expect(await readVersions(database.connection, tenant.id)).toEqual({ 3: 250 })
    await expectIntact(tenant, 250)
    await expectFound(tenant, 7)
  })

  it('changes nothing that a client can see, and bills nothing', async (context) => {
    native(context)
    const tenant = await makeTenant(20)
    const read = () =>
      database.connection.query(
        `select id, external_id, model, metadata, created_at, updated_at, (select count(*) from usage_events u where u.tenant_id = f.tenant_id)
        from faces f where tenant_id = $1 order by external_id`,
        [tenant.id],
      )
    const before = await read()
    await db('template-keys', 'rekey', tenant.id)
    expect(await read()).toEqual(before)
  })

  it('loses nobody and mistakes nobody while gates ask and people come, go and are replaced', async (context) => {
    native(context)
    const tenant = await makeTenant(200)
    await expectFound(tenant, 0)
    let isDone = false
    let asked = 0
    const come = [...Array(60).keys()].map((index) => 200 + index)
    const gate = async (start: number) => {
      for (let person = start; !isDone; person = (person + 7) % 150) {
        await expectFound(tenant, person)
        const impostor = { external_id: nameOf(person), embedding: [...embeddingOf((person + 1) % 150)] }
        expect(await tenant.ask('POST', '/v1/faces/verify', impostor)).toMatchObject({ body: { verified: false } })
        asked++
      }
    }
    const desk = async () => {
      for (const person of come) {
        const face = { external_id: nameOf(person), embedding: [...embeddingOf(person)] }
        expect(await tenant.ask('POST', '/v1/faces', face)).toMatchObject({ status: 201 })
        const replaced = { embedding: [...embeddingOf(person - 50)] }
        expect(await tenant.ask('PUT', `/v1/faces/person%20${person - 50}`, replaced)).toMatchObject({ status: 200 })
      }
    }
    const rekey = async () => {
      for (let round = 0; round < 3; round++) {
        expect(await db('template-keys', 'rekey', tenant.id)).toMatchObject({ code: EXIT.ok })
      }
      isDone = true
    }
    // a wrong face is refused 10 times an hour, and each gate asks about another third of the people
    await Promise.all([gate(0), gate(3), desk(), rekey()])
    expect(asked).toBeGreaterThan(3)
    expect((await listStates(tenant.id)).at(-1)).toEqual([4, true])
    expect((await listStates(tenant.id)).filter(([, isLive]) => isLive)).toHaveLength(1)
    await expectIntact(tenant, 260)
    for (const person of come.slice(0, 5)) await expectFound(tenant, person)
  })

  it('goes on after it was killed, with the same new key', async (context) => {
    native(context)
    const tenant = await makeTenant(0)
    const { connection } = database
    // enough batches for a kill to fall between two of them
    for (let copy = 0; copy < 8; copy++) {
      const people = PEOPLE.map((_, person) => ({
        externalId: `copy ${copy} of ${person}`,
        embedding: embeddingOf(person),
        metadata: {},
        qualityScore: null,
      }))
      await asTenant(connection, tenant.id, () => enrollFaces(connection, tenant.gallery, people))
    }
    const child = spawn(process.execPath, ['scripts/db.ts', 'template-keys', 'rekey', tenant.id], {
      cwd: ROOT,
      env: { ...process.env, DATABASE_URL: database.url, TEMPLATE_MASTER_KEYS: '' },
      stdio: 'ignore',
    })
    const ended = once(child, 'exit')
    for (let moved = 0; moved === 0 && child.exitCode === null; ) {
      await new Promise((resolve) => setTimeout(resolve, 20))
      moved = (await readVersions(connection, tenant.id))[2] ?? 0
    }
    child.kill('SIGKILL')
    await ended
    const versions = await readVersions(connection, tenant.id)
    expect(versions).toEqual({ 1: expect.any(Number), 2: expect.any(Number) })
    expect((versions[1] ?? 0) + (versions[2] ?? 0)).toBe(2_400)
    expect((await listStates(tenant.id)).map(([, isLive]) => isLive)).toEqual([true, true])

    // its session, and the lock with it, ends when PostgreSQL notices
    await expect
      .poll(async () => (await db('template-keys', 'rekey', tenant.id, '--json')).code, {
        timeout: 15_000,
        interval: 500,
      })
      .toBe(EXIT.ok)
    expect(await readVersions(connection, tenant.id)).toEqual({ 2: 2_400 })
    expect(await listStates(tenant.id)).toEqual([
      [1, false],
      [2, true],
    ])
  })

  it('is not done twice at once', async (context) => {
    native(context)
    const tenant = await makeTenant(3)
    const other = await database.connect()
    await other.query("select pg_advisory_lock(hashtext('rekko.rekey'), hashtext($1))", [tenant.id])
    expect(await db('template-keys', 'rekey', tenant.id)).toMatchObject({
      code: EXIT.refused,
      stderr: expect.stringContaining('is being re-keyed already'),
    })
    expect(await listStates(tenant.id)).toEqual([[1, true]])
    await other.close()
  })

  it('leaves what it cannot open under the old key, says which, and ends when they are gone', async (context) => {
    native(context)
    const tenant = await makeTenant(10)
    const { connection } = database
    const [broken] = await connection.query<{ id: string }>(
      `update faces set sealed = set_byte(sealed, 50, get_byte(sealed, 50) # 1)
      where tenant_id = $1 and external_id = 'person 3' returning id`,
      [tenant.id],
    )
    const [edited] = await connection.query<{ id: string }>(
      `update faces set embedding = (select embedding from faces where tenant_id = $1 and external_id = 'person 5')
      where tenant_id = $1 and external_id = 'person 4' returning id`,
      [tenant.id],
    )
    const outcome = await db('template-keys', 'rekey', tenant.id, '--json')
    expect(outcome).toMatchObject({ code: EXIT.findings, stderr: expect.stringContaining(String(broken?.id)) })
    expect(JSON.parse(outcome.stdout)).toMatchObject({
      moved: 9,
      not_opened: [broken?.id],
      differing: [edited?.id],
      finished: false,
    })
    expect(
      await connection.query('select face_id, reason from integrity_events where tenant_id = $1 order by reason', [
        tenant.id,
      ]),
    ).toEqual([
      { face_id: edited?.id, reason: 'differs' },
      { face_id: broken?.id, reason: 'not opened' },
    ])
    expect(await listStates(tenant.id)).toEqual([
      [1, true],
      [2, true],
    ])
    // what was edited is mended from its sealed copy
    await expectFound(tenant, 4)

    await connection.query("delete from faces where tenant_id = $1 and external_id = 'person 3'", [tenant.id])
    expect(await db('template-keys', 'rekey', tenant.id)).toMatchObject({ code: EXIT.ok })
    expect(await listStates(tenant.id)).toEqual([
      [1, false],
      [2, true],
    ])
  })

  it('is not begun while faces are under a key that is not live', async (context) => {
    native(context)
    const tenant = await makeTenant(3)
    const { connection } = database
    const before = await asOwner(connection, () => listStoredKeys(connection, tenant.id))
    await db('template-keys', 'rekey', tenant.id)
    const after = await asOwner(connection, () => listStoredKeys(connection, tenant.id))
    const setVault = async (keys: typeof before) => {
      await connection.query('delete from vault.template_keys where tenant_id = $1', [tenant.id])
      for (const { version, wrapped, destroyedAt } of keys) {
        await connection.query(
          'insert into vault.template_keys (tenant_id, version, wrapped, destroyed_at) values ($1, $2, $3, $4)',
          [tenant.id, version, wrapped && Buffer.from(wrapped), destroyedAt],
        )
      }
    }
    // an old copy of the vault: the key of the faces is not in it
    await setVault(before)
    expect(await db('template-keys', 'rekey', tenant.id)).toMatchObject({
      code: EXIT.refused,
      stderr: expect.stringMatching(
        /has faces under key 2, and its live keys are 1\. Nothing was changed\..*--template-keys/,
      ),
    })
    expect(await listStates(tenant.id)).toEqual([[1, true]])
    expect(await readVersions(connection, tenant.id)).toEqual({ 2: 3 })
    await setVault(after)
    expect(await db('template-keys', 'rekey', tenant.id)).toMatchObject({ code: EXIT.ok })
    await expectIntact(tenant, 3)
  })

  it('makes an import read the keys again, and loses none of its rows', async (context) => {
    native(context)
    const tenant = await makeTenant(5)
    const { connection } = database
    await rekeyTenant(connection, tenant.gallery.toVectorArray, masterKeys, tenant.id, { onStart() {}, onFaces() {} })
    const late = [{ externalId: nameOf(6), embedding: embeddingOf(6), metadata: {}, qualityScore: null }]
    const refused = asTenant(connection, tenant.id, () => enrollFaces(connection, tenant.gallery, late))
    await expect(refused.catch(isKeyChange)).resolves.toBe(true)
    expect(await readVersions(connection, tenant.id)).toEqual({ 2: 5 })
  })

  it.for(['rekey', 'import'] as const)('is begun again when a deadlock ended it: %s', async (work, context) => {
    native(context)
    const tenant = await makeTenant(20)
    const { connection } = database
    // whoever waits first looks first, and is ended
    const writer = await database.connect()
    await writer.execute("set deadlock_timeout = '60s'; begin")
    const lock = (people: number[]) =>
      writer.query('select from faces where tenant_id = $1 and external_id = any ($2) order by id for update', [
        tenant.id,
        people.map(nameOf),
      ])
    const ids = await connection.query<{ person: number }>(
      "select split_part(external_id, ' ', 2)::int as person from faces where tenant_id = $1 order by id",
      [tenant.id],
    )
    const people = ids.map(({ person }) => person)
    // not the first that is asked for, whether by id or by external_id, or nobody would hold what the other wants
    await lock(work === 'rekey' ? people.slice(10, 11) : [9])
    const session = await database.connect()
    const importing = async () => {
      const rows = people.map((person, place) => ({
        ...{ place, externalId: nameOf(person), embedding: [...embeddingOf(person, 1)] },
      }))
      return importFaces(
        session,
        {
          rows: async function* () {
            yield* rows
          },
        } as unknown as EmbeddingFile,
        {
          gallery: tenant.gallery,
          findKeys: async () => tenant.gallery.keys,
          isReplacing: true,
          batchSize: 100,
          onRows() {},
          async onReject({ reason }) {
            throw new Error(reason)
          },
        },
      )
    }
    const done =
      work === 'rekey'
        ? rekeyTenant(session, tenant.gallery.toVectorArray, masterKeys, tenant.id, { onStart() {}, onFaces() {} })
        : importing()
    done.catch(() => {})
    const isWaiting = async () =>
      (await connection.query("select from pg_locks where not granted and locktype in ('transactionid', 'tuple')"))
        .length > 0
    await expect.poll(isWaiting, { timeout: 5_000, interval: 20 }).toBe(true)
    const deadlocks = async () =>
      (
        await connection.query<{ n: string }>(
          'select deadlocks::text as n from pg_stat_database where datname = current_database()',
        )
      )[0]?.n
    const before = await deadlocks()
    await lock(people)
    await writer.execute('commit')
    expect(await done).toMatchObject(work === 'rekey' ? { moved: 20, isFinished: true } : { replaced: 20, rejected: 0 })
    await expect.poll(deadlocks, { timeout: 5_000 }).not.toBe(before)
    await Promise.all([writer.close(), session.close()])
  })

  it('is no success when the keys were shredded meanwhile', async (context) => {
    native(context)
    const tenant = await makeTenant(3)
    const { connection } = database
    const session = await database.connect()
    const late: Connection = {
      ...session,
      async query<Row extends object>(text: string, parameters?: unknown[]) {
        if (text.includes('destroy_template_key(')) await destroyTemplateKeys(connection, tenant.id)
        return session.query<Row>(text, parameters)
      },
    }
    const rekeying = rekeyTenant(late, tenant.gallery.toVectorArray, masterKeys, tenant.id, {
      onStart() {},
      onFaces() {},
    })
    await expect(rekeying).rejects.toMatchObject({
      exitCode: EXIT.refused,
      message: 'Key 2 of this tenant was destroyed meanwhile.',
    })
    await session.close()
    // as shred does; init refuses while there are faces without a key
    await connection.query('delete from faces where tenant_id = $1', [tenant.id])
  })

  it('waits for whoever is writing under the old key', async (context) => {
    native(context)
    const tenant = await makeTenant(5)
    const writer = await database.connect()
    await writer.execute(`begin; set local role rekko_app`)
    await writer.query("select set_config('app.current_tenant_id', $1, true)", [tenant.id])
    await enrollFaces(writer, tenant.gallery, [
      { externalId: nameOf(6), embedding: embeddingOf(6), metadata: {}, qualityScore: null },
    ])
    const rekeying = db('template-keys', 'rekey', tenant.id)
    await expect.poll(async () => (await readVersions(database.connection, tenant.id))[2], { timeout: 10_000 }).toBe(5)
    await writer.execute('commit')
    await writer.close()
    expect(await rekeying).toMatchObject({ code: EXIT.ok })
    expect(await readVersions(database.connection, tenant.id)).toEqual({ 2: 6 })
    await expectFound(tenant, 6)
  })
})

describe('the master key', () => {
  it('is rotated: every key is wrapped anew, opens as before, and the old one is not needed any more', async (context) => {
    native(context)
    const tenant = await makeTenant(3)
    await db('template-keys', 'rekey', tenant.id)
    const made = await dbWith('', 'template-keys', 'new-master', '--json')
    const { number, template_master_keys: first } = JSON.parse(made.stdout) as {
      number: number
      template_master_keys: string
    }
    expect([number, first]).toEqual([1, expect.stringMatching(/^1:[A-Za-z0-9+/]{43}=$/)])
    const second = (await dbWith(first, 'template-keys', 'new-master')).stdout.trim()
    expect(second.startsWith(`${first},2:`)).toBe(true)

    const all = `${DEVELOPMENT_MASTER_KEYS},${second}`
    const dry = await dbWith(all, 'template-keys', 'rotate-master', '--dry-run')
    expect(dry.stdout).toMatch(/would wrap \d+ keys with master key 2/)
    expect((await dbWith(all, 'template-keys', 'rotate-master')).code).toBe(EXIT.ok)
    const stored = await asOwner(database.connection, () => listStoredKeys(database.connection, null))
    expect(new Set(stored.flatMap(({ wrapped }) => (wrapped ? [toMasterNumber(wrapped)] : [])))).toEqual(new Set([2]))
    // nothing is left to do
    expect((await dbWith(all, 'template-keys', 'rotate-master')).stdout).toBe('0 keys wrapped anew\n')

    const [, newest = ''] = second.split(',')
    const embedding = [...embeddingOf(1)]
    const claim = { external_id: nameOf(1), embedding }
    expect(await tenant.ask('POST', '/v1/faces/verify', claim, newest)).toMatchObject({
      status: 200,
      body: { verified: true },
    })
    const parsed = parseMasterKeys(second)
    if ('fault' in parsed) throw new RangeError(parsed.fault)
    const masters = await toMasterKeys(parsed)
    await expect(findTemplateKeys(database.connection, masters, tenant.id, MODEL)).resolves.toHaveLength(1)
    await expect(findTemplateKeys(database.connection, masterKeys, tenant.id, MODEL)).rejects.toThrow(
      `was wrapped with master key 2, and does not open. TEMPLATE_MASTER_KEYS has the numbers 65535.`,
    )
    // the others of this file work with that of development
    expect((await dbWith(`${second},${DEVELOPMENT_MASTER_KEYS}`, 'template-keys', 'list')).code).toBe(EXIT.ok)
    for (const { tenantId } of stored) {
      await database.connection.query('delete from vault.template_keys where tenant_id = $1', [tenantId])
    }
  })

  it.each([
    ['1:AAAA', 'base64 of 32 bytes'],
    ['nonsense', 'base64 of 32 bytes'],
    [DEVELOPMENT_MASTER_KEYS.replace('65535', '1'), 'has the key of development under another number than 65535'],
    [DEVELOPMENT_MASTER_KEYS.replace('65535', '65534'), 'has the key of development under another number than 65535'],
    // the same 32 bytes, though the last two bits of the text differ
    [DEVELOPMENT_MASTER_KEYS.replace('65535', '1').replace('E=', 'F='), 'has the key of development under another'],
  ])('that is not written right is refused, and not repeated: %s', async (text, words) => {
    const { code, stderr } = await runCommand(registerTemplateKeys, ['template-keys', 'new-master'], {
      TEMPLATE_MASTER_KEYS: text,
    })
    expect(code).toBe(EXIT.usage)
    expect(stderr).toContain(words)
    expect(stderr).not.toContain(text)
  })
})

describe('a tenant without a key', () => {
  it('is given one by init, and only such a tenant', async () => {
    const { connection } = database
    const [made] = await connection.query<{ id: string }>("insert into tenants (name) values ('bare') returning id")
    const [erasing] = await connection.query<{ id: string }>(
      "insert into tenants (name, erasure_requested_at) values ('leaving', now()) returning id",
    )
    const withKey = await createTenant(connection, masterKeys, 'with a key', 'test')
    const given = await initTemplateKeys(connection, masterKeys)
    expect(given).toContain(made?.id)
    expect(given).not.toContain(erasing?.id)
    expect(given).not.toContain(withKey)
    // of a version that no tenant has come to by counting
    expect(await listStates(String(made?.id))).toEqual([[expect.any(Number), true]])
    expect((await listStates(String(made?.id)))[0]?.[0]).toBeGreaterThan(255)
    expect(await initTemplateKeys(connection, masterKeys)).toEqual([])
  })

  it('is one whose keys were shredded: nobody is found, and a key after that is another one', async (context) => {
    native(context)
    const tenant = await makeTenant(5)
    await expectFound(tenant, 1)
    const asked = await db('template-keys', 'shred', tenant.id)
    expect(asked).toMatchObject({ code: EXIT.refused, stderr: expect.stringContaining('5 faces are lost') })
    expect(await listStates(tenant.id)).toEqual([[1, true]])

    expect(await db('template-keys', 'shred', tenant.id, '--yes')).toMatchObject({ code: EXIT.ok })
    expect(await listStates(tenant.id)).toEqual([[1, false]])
    expect(await readVersions(database.connection, tenant.id)).toEqual({})
    const probe = { embedding: [...embeddingOf(1)] }
    expect(await tenant.ask('POST', '/v1/faces/search', probe)).toMatchObject({
      status: 503,
      body: { code: 'NOT_CONFIGURED' },
    })
    await db('template-keys', 'init')
    expect(await listStates(tenant.id)).toEqual([
      [1, false],
      [2, true],
    ])
    expect(await tenant.ask('POST', '/v1/faces/search', probe)).toMatchObject({ status: 200, body: { matches: [] } })
  })

  it('is given none by the command while it has faces, which another key would not open', async (context) => {
    native(context)
    const tenant = await makeTenant(3)
    const [kept] = await database.connection.query<{ wrapped: Buffer }>(
      'delete from vault.template_keys where tenant_id = $1 returning wrapped',
      [tenant.id],
    )
    for (const args of [[], ['--dry-run']]) {
      expect(await db('template-keys', 'init', ...args)).toMatchObject({
        code: EXIT.refused,
        stderr: expect.stringMatching(new RegExp(`have faces.* ${tenant.id}.*restore --template-keys`, 's')),
      })
    }
    expect(await listStates(tenant.id)).toEqual([])
    await database.connection.query(
      'insert into vault.template_keys (tenant_id, version, wrapped) values ($1, 1, $2)',
      [tenant.id, kept?.wrapped],
    )
    await expectFound(tenant, 1)
  })

  it('is given one of another version than it ever had, also when the vault knows nothing of it any more', async (context) => {
    native(context)
    const tenant = await makeTenant(1)
    const { connection } = database
    // this isolate remembers the key for a minute
    await expectFound(tenant, 0)
    await connection.query('delete from vault.template_keys where tenant_id = $1', [tenant.id])
    expect(await db('template-keys', 'shred', tenant.id, '--yes')).toMatchObject({ code: EXIT.ok })
    expect(await db('template-keys', 'init')).toMatchObject({ code: EXIT.ok })
    const face = { external_id: nameOf(7), embedding: [...embeddingOf(7)] }
    expect(await tenant.ask('POST', '/v1/faces', face)).toMatchObject({ status: 201 })
    // as another isolate, which remembers nothing
    forgetTemplateKeys({ id: tenant.id, environment: 'test', settings: toSettings({}) })
    await expectFound(tenant, 7)
  })

  it('is given one above that of its faces, which another key must not pass for', async () => {
    const { connection } = database
    const tenant = await makeTenant(2)
    await connection.query('delete from vault.template_keys where tenant_id = $1', [tenant.id])
    await initTemplateKeys(connection, masterKeys, () => 1)
    expect(await listStates(tenant.id)).toEqual([[2, true]])
    await connection.query('delete from faces where tenant_id = $1', [tenant.id])
  })

  it('that is live gets none from the key of development, unless that is given; one of test does, with a warning', async (context) => {
    native(context)
    const { connection } = database
    const ids: Record<string, string> = {}
    for (const environment of ['test', 'live'] as const) {
      ids[environment] = await createTenant(connection, masterKeys, `${environment} of nobody`, environment)
    }
    const refused = { code: EXIT.refused, stderr: expect.stringMatching(/is live, .* set TEMPLATE_MASTER_KEYS/) }
    const warned = {
      code: EXIT.ok,
      stderr: expect.stringMatching(/TEMPLATE_MASTER_KEYS is not set: .* everybody knows/),
    }
    const before = await listStates(String(ids['live']))
    expect(await db('template-keys', 'rekey', String(ids['live']))).toMatchObject(refused)
    expect(await listStates(String(ids['live']))).toEqual(before)
    expect(await db('template-keys', 'rekey', String(ids['test']))).toMatchObject(warned)
    expect(await dbWith(DEVELOPMENT_MASTER_KEYS, 'template-keys', 'rekey', String(ids['live']))).toMatchObject({
      code: EXIT.ok,
      stderr: expect.not.stringContaining('everybody knows'),
    })

    await connection.query('delete from vault.template_keys where tenant_id = $1', [ids['live']])
    expect(await db('template-keys', 'init')).toMatchObject(refused)
    expect(await listStates(String(ids['live']))).toEqual([])
    expect(await dbWith(DEVELOPMENT_MASTER_KEYS, 'template-keys', 'init')).toMatchObject({ code: EXIT.ok })

    // wrapped with another one, so that there is something to wrap anew
    await connection.query(
      'update vault.template_keys set wrapped = set_byte(wrapped, 2, 1) where tenant_id = $1 and wrapped is not null',
      [ids['live']],
    )
    expect(await db('template-keys', 'rotate-master')).toMatchObject(refused)
    await connection.query('delete from vault.template_keys where tenant_id = any ($1::uuid[])', [Object.values(ids)])
    await connection.query('delete from tenants where id = any ($1::uuid[])', [Object.values(ids)])
  })

  it('is one whose erasure was asked for: its keys go first', async () => {
    const { connection } = database
    const id = await createTenant(connection, masterKeys, 'to be erased', 'test')
    await asOwner(connection, () => connection.query('select request_tenant_erasure($1)', [id]))
    expect(await listStates(id)).toEqual([[1, false]])
    const [row] = await asOwner(connection, () =>
      connection.query<{ rows: number }>('select erase_tenant_batch($1, 100) as rows', [id]),
    )
    // the tombstone of the key, and the tenant
    expect(row?.rows).toBe(2)
    expect(await listStates(id)).toEqual([])
  })
})

describe('the list', () => {
  it('says of each key whose it is, what it is for and which master key has wrapped it', async (context) => {
    native(context)
    const tenant = await makeTenant(4)
    await db('template-keys', 'rekey', tenant.id)
    const { stdout } = await db('template-keys', '--json', 'list', '--tenant', tenant.id)
    expect(JSON.parse(stdout)).toMatchObject([
      { tenant: tenant.id, version: 1, state: 'destroyed', master: null, faces: 0 },
      { tenant: tenant.id, version: 2, state: 'active', master: 65_535, faces: 4, destroyed: null },
    ])
    const whole = await db('template-keys', 'list', '--json')
    expect(JSON.parse(whole.stdout)).toEqual(
      expect.arrayContaining([expect.objectContaining({ tenant: tenant.id, version: 2, state: 'active' })]),
    )
  })
})
