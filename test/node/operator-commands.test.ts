// Proves what an administrator does for the operator with scripts/db.sh: issuers come from a file that is read as
// strictly as the API reads a body, and tenants are suspended, resumed and erased without a rest. The commands run
// with their arguments, on native PostgreSQL. Nothing is fake.
import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { registerData } from '../../scripts/database/commands/data.ts'
import { registerOperator } from '../../scripts/database/commands/operator.ts'
import { addIssuer, findIssuer, listIssuers, readIssuerFile, removeIssuer } from '../../scripts/database/issuers.ts'
import { migrate } from '../../scripts/database/migrate.ts'
import { EXIT } from '../../scripts/database/terminal.ts'
import { createApiKey, createTenant } from '../../scripts/provision.ts'
import { SCOPES } from '../../src/auth/api-key.ts'
import { createDatabase, type FreshDatabase, needsNative } from './database.ts'
import { runCommand } from './run-command.ts'
import { masterKeys } from './tenant-door.ts'

const NOBODY = '00000000-0000-4000-8000-000000000000'
const ISSUER = {
  issuer: 'https://id.example.com',
  audience: 'rekko',
  algorithms: ['ES256'],
  jwks_url: 'https://id.example.com/jwks',
  scopes: ['verify'],
  tenant_ids: [] as string[],
}

let database: FreshDatabase
let folder: string
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'rekko-operator-'))
  database = await createDatabase()
  await migrate(database.connection)
})
afterAll(async () => {
  await database.drop()
  await rm(folder, { recursive: true })
})

async function write(content: unknown): Promise<string> {
  const path = join(folder, `${crypto.randomUUID()}.json`)
  await writeFile(path, typeof content === 'string' ? content : JSON.stringify(content))
  return path
}

describe('the file of an issuer', () => {
  it('is read with defaults, and its URL as fetch would read it', async () => {
    const path = await write({ ...ISSUER, jwks_url: 'https://ID.example.com\\jwks', tenant_ids: [NOBODY] })
    expect(await readIssuerFile(path, false)).toEqual({
      configuration: {
        issuer: 'https://id.example.com',
        audience: 'rekko',
        algorithms: ['ES256'],
        token_type: 'at+jwt',
        jwks_url: 'https://id.example.com/jwks',
        jwks: null,
        tenant_claim: 'tenant_id',
        scope_claim: 'scope',
      },
      scopes: ['verify'],
      tenantIds: [NOBODY],
      isActive: true,
    })
  })

  it('names each tenant and each scope once, however often it says them', async () => {
    const path = await write({ ...ISSUER, scopes: ['verify', 'faces:read', 'verify'], tenant_ids: [NOBODY, NOBODY] })
    expect(await readIssuerFile(path, false)).toMatchObject({ scopes: ['faces:read', 'verify'], tenantIds: [NOBODY] })
  })

  it.each<[string, unknown]>([
    ['one JSON object', '[]'],
    ['one JSON object', '{"issuer":"a","issuer":"b"}'],
    ['trusted', { ...ISSUER, trusted: true }],
    ['algorithms', { ...ISSUER, algorithms: ['HS256'] }],
    ['jwks_url', { ...ISSUER, jwks_url: 'http://127.0.0.1:8080/jwks' }],
    ['tenant_claim', { ...ISSUER, tenant_claim: null }],
    ['scopes', { ...ISSUER, scopes: [] }],
    ['scopes', { ...ISSUER, scopes: ['operator:write'] }],
    ['tenant_ids', { ...ISSUER, tenant_ids: ['Arena Norte'] }],
    ['is_active', { ...ISSUER, is_active: 'yes' }],
  ])('is refused for its %s: %j', async (field, content) => {
    await expect(readIssuerFile(await write(content), false)).rejects.toMatchObject({
      exitCode: EXIT.usage,
      message: expect.stringContaining(field),
    })
  })

  it('may name keys on this machine for a database on this machine only', async () => {
    const path = await write({ ...ISSUER, jwks_url: 'http://127.0.0.1:8080/jwks' })
    expect((await readIssuerFile(path, true)).configuration.jwks_url).toBe('http://127.0.0.1:8080/jwks')
  })

  it('that is not there is said so', async () => {
    await expect(readIssuerFile(join(folder, 'nothing.json'), false)).rejects.toMatchObject({ exitCode: EXIT.usage })
  })
})

describe('an issuer', () => {
  it('is added once, found by name and by id, and removed', async () => {
    const { connection } = database
    const tenant = await createTenant(connection, masterKeys, 'Arena', 'test')
    const issuer = await readIssuerFile(await write({ ...ISSUER, tenant_ids: [tenant] }), false)
    const id = await addIssuer(connection, issuer)
    await expect(addIssuer(connection, issuer)).rejects.toMatchObject({ exitCode: EXIT.refused })
    const stranger = { ...issuer, configuration: { ...issuer.configuration, issuer: 'another' }, tenantIds: [NOBODY] }
    await expect(addIssuer(connection, stranger)).rejects.toMatchObject({ exitCode: EXIT.usage })
    expect(await listIssuers(connection)).toMatchObject([{ id, issuer: ISSUER.issuer, tenant_ids: [tenant] }])
    expect(await findIssuer(connection, id)).toEqual(await findIssuer(connection, ISSUER.issuer))
    await removeIssuer(connection, id)
    await expect(findIssuer(connection, id)).rejects.toMatchObject({ exitCode: EXIT.usage })
  })
})

describe('the commands, on native PostgreSQL', () => {
  const reason = 'a command opens a connection of its own'
  /** Runs a command in this process, which is what scripts/db.ts does with it. */
  const db = (...args: string[]) =>
    runCommand((program) => registerOperator(program, registerData(program)), args, { DATABASE_URL: database.url })
  const statusOf = async (tenant: string) => {
    const rows = await database.connection.query<{ is_active: boolean }>(
      'select is_active from tenants where id = $1',
      [tenant],
    )
    return rows[0]?.is_active
  }

  it('add, list and remove an issuer, and do nothing on a dry run', async (context) => {
    needsNative(context, database, reason)
    const file = await write(ISSUER)
    expect(await db('issuers', 'add', file, '--dry-run')).toMatchObject({ code: 0 })
    expect(JSON.parse((await db('issuers', '--json')).stdout)).toEqual([])
    const { stdout } = await db('issuers', 'add', file, '--json')
    const [listed] = JSON.parse((await db('issuers', 'list', '--json')).stdout)
    expect(listed).toEqual({
      ...ISSUER,
      ...{
        id: JSON.parse(stdout).id,
        token_type: 'at+jwt',
        jwks: null,
        tenant_claim: 'tenant_id',
        scope_claim: 'scope',
      },
      ...{ is_active: true, created_at: expect.any(String), updated_at: expect.any(String) },
    })
    expect(await db('issuers', 'remove', ISSUER.issuer)).toMatchObject({ code: EXIT.refused })
    expect(await db('issuers', 'remove', ISSUER.issuer, '--yes')).toMatchObject({ code: 0 })
    expect(JSON.parse((await db('issuers', '--json')).stdout)).toEqual([])
  })

  it('suspend, resume and erase a tenant, and nobody else', async (context) => {
    needsNative(context, database, reason)
    const { connection } = database
    const [victim, rival] = [
      await createTenant(connection, masterKeys, 'Arena Norte', 'test'),
      await createTenant(connection, masterKeys, 'Arena Sul', 'test'),
    ]
    for (const tenant of [victim, rival]) {
      await createApiKey(connection, 'a pepper of this file, not a secret', tenant, 'test', 'a key', SCOPES)
      // more than a batch
      await connection.query(
        "insert into usage_events (tenant_id, kind) select $1, 'verification' from generate_series(1, 6000)",
        [tenant],
      )
    }
    expect(await db('tenants', 'suspend', 'Arena Norte')).toMatchObject({ code: EXIT.refused })
    expect([await statusOf(victim), (await db('tenants', 'suspend', victim, '--yes')).code]).toEqual([true, 0])
    expect([await statusOf(victim), await statusOf(rival)]).toEqual([false, true])
    expect([(await db('tenants', 'resume', 'Arena Norte')).code, await statusOf(victim)]).toEqual([0, true])

    expect(await db('tenants', 'erase', 'Arena Norte')).toMatchObject({ code: EXIT.refused })
    expect(await db('tenants', 'erase', 'Arena Norte', '--dry-run')).toMatchObject({ code: 0 })
    expect(await statusOf(victim)).toBe(true)
    await connection.query('select request_tenant_erasure($1)', [victim])
    const face = join(folder, 'face.jsonl')
    await writeFile(face, `${JSON.stringify({ external_id: 'ada', embedding: [1, ...Array(511).fill(0)] })}\n`)
    const refusals = [
      ['tenants', 'resume', victim],
      ['tenants', 'suspend', victim, '--yes'],
      ['keys', 'create', '--tenant', victim, '--name', 'late'],
      ['keys', 'rotate', 'rk_test_late', '--tenant', victim],
      ['import', face, '--tenant', victim],
      ['seed', '--faces', '1', '--tenant', victim],
    ]
    for (const args of refusals) {
      for (const options of [[], ['--dry-run']]) {
        const { code, stderr } = await db(...args, ...options)
        expect([...args, code, stderr]).toEqual([...args, EXIT.refused, expect.stringContaining('is being erased')])
      }
    }
    expect(await connection.query('select from faces where tenant_id = $1', [victim])).toEqual([])
    expect(await connection.query('select from api_keys where tenant_id = $1', [victim])).toHaveLength(1)
    const keys = () =>
      connection.query('select tenant_id, wrapped is null as is_destroyed from vault.template_keys order by 2 desc')
    expect(await keys()).toEqual(
      expect.arrayContaining([
        { tenant_id: victim, is_destroyed: true },
        { tenant_id: rival, is_destroyed: false },
      ]),
    )
    const statuses = async () =>
      (JSON.parse((await db('tenants', '--json')).stdout) as { id: string; status: string; is_active: boolean }[]).map(
        ({ id, status, is_active }) => [id, status, is_active],
      )
    await db('tenants', 'suspend', rival, '--yes')
    expect(await statuses()).toEqual(
      expect.arrayContaining([
        [victim, 'erasing', false],
        [rival, 'suspended', false],
      ]),
    )
    await db('tenants', 'resume', rival)
    expect(await statuses()).toEqual(expect.arrayContaining([[rival, 'active', true]]))
    const erased = await db('tenants', 'erase', victim, '--yes', '--json')
    // events, key, the key's event, the template key, and the tenant
    expect(JSON.parse(erased.stdout)).toMatchObject({ id: victim, rows: 6004 })
    expect([await statusOf(victim), await statusOf(rival)]).toEqual([undefined, true])
    expect(await connection.query('select from usage_events where tenant_id = $1', [rival])).toHaveLength(6000)
    expect(await db('tenants', 'erase', victim, '--yes')).toMatchObject({ code: EXIT.usage })
  })
})
