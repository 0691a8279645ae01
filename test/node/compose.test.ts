// Proves that docker-compose.yml is valid by the schema of Compose itself, and that what it promises
// stands the same everywhere else: image, port, user, password, database. The second service is started
// here as a program on native PostgreSQL, as no Docker engine need run for it. Nothing is fake.
import { execFile, spawn } from 'node:child_process'
import { once } from 'node:events'
import { readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { neon, neonConfig } from '@neondatabase/serverless'
import { afterAll, describe, expect, it } from 'vitest'
import { LOCAL_URL } from '../../scripts/database/target.ts'
import { findFreePort } from '../../scripts/worker.ts'
import { createDatabase } from './database.ts'

const ROOT = join(import.meta.dirname, '../..')
const run = promisify(execFile)

/** The compose program of this machine: it validates without an engine. */
async function findCompose(): Promise<string[] | null> {
  for (const command of [['docker', 'compose'], ['docker-compose']]) {
    const [program = '', ...args] = command
    const works = await run(program, [...args, 'version']).then(
      () => true,
      () => false,
    )
    if (works) return command
  }
  return null
}

const compose = await findCompose()
if (!compose) console.log('skipped: neither "docker compose" nor "docker-compose" is on this machine to validate with')
const databaseUrl = process.env['DATABASE_URL']
if (!databaseUrl)
  console.log('skipped: the endpoint as a program is tried on native PostgreSQL only (set DATABASE_URL)')

describe('docker-compose.yml', () => {
  it.skipIf(!compose)('is valid, and an unknown option is not', async () => {
    const [program = '', ...args] = compose ?? []
    const validate = (file: string) => run(program, [...args, '-f', file, 'config', '-q'], { cwd: ROOT })
    await expect(validate('docker-compose.yml')).resolves.toBeDefined()
    const text = await readFile(join(ROOT, 'docker-compose.yml'), 'utf8')
    const spoiled = spawn(program, [...args, '-f', '-', 'config', '-q'], {
      cwd: ROOT,
      stdio: ['pipe', 'ignore', 'ignore'],
    })
    spoiled.stdin.end(text.replace('image: pgvector', 'imagine: pgvector'))
    expect((await once(spoiled, 'exit'))[0]).not.toBe(0)
  })

  it('is what the toolkit connects to, and what CI runs on', async () => {
    const text = await readFile(join(ROOT, 'docker-compose.yml'), 'utf8')
    const setting = (name: string) => new RegExp(`${name}: (\\S+)`).exec(text)?.[1]
    const url = new URL(LOCAL_URL)
    expect([url.username, url.password, url.pathname]).toEqual([
      setting('POSTGRES_USER'),
      setting('POSTGRES_PASSWORD'),
      `/${setting('POSTGRES_DB')}`,
    ])
    expect(text).toContain(`127.0.0.1:${url.port}:5432`)
    expect(text).toContain('container_name: rekko-postgres')

    const image = /image: (pgvector\/\S+)/.exec(text)?.[1]
    expect(image).toBe('pgvector/pgvector:pg16')
    expect(await readFile(join(ROOT, '.github/workflows/ci.yml'), 'utf8')).toContain(`image: ${image}`)
    const native = await readFile(join(ROOT, 'scripts/native-postgres'), 'utf8')
    expect(native).toContain(`NATIVE_POSTGRES_PORT:-${url.port}`)
    expect(native).toContain(`${url.username}:${url.password}@127.0.0.1:$port${url.pathname}`)
  })

  it('starts the recognizer only when it is asked for: its networks are not in the repository', async () => {
    const text = await readFile(join(ROOT, 'docker-compose.yml'), 'utf8')
    expect(text).toMatch(/^ {2}recognizer:\n {4}profiles: \[recognizer\]$/m)
  })

  it('opens no port to anybody but this machine', async () => {
    const text = await readFile(join(ROOT, 'docker-compose.yml'), 'utf8')
    const published = [...text.matchAll(/^ {6}- (\S+:\d+)$/gm)].map(([, port]) => port)
    expect(published).toEqual(['127.0.0.1:5433:5432', '127.0.0.1:5434:5434', '127.0.0.1:8790:8790'])
  })
})

describe('the local Neon endpoint as a program', () => {
  const opened: (() => Promise<unknown>)[] = []
  afterAll(async () => {
    for (const close of opened.reverse()) await close()
  })

  it.skipIf(!databaseUrl)('serves the database that it is told, to the logins of the Worker', async () => {
    const database = await createDatabase()
    opened.push(() => database.drop())
    const { hostname, port, pathname } = new URL(database.url)
    const endpointPort = await findFreePort(0)
    const endpoint = spawn(process.execPath, [join(ROOT, 'scripts/neon-endpoint/main.ts')], {
      env: {
        ...process.env,
        NEON_ENDPOINT_DATABASE: `postgres://${hostname}:${port}${pathname}`,
        NEON_ENDPOINT_PORT: String(endpointPort),
      },
      stdio: ['ignore', 'pipe', 'inherit'],
    })
    opened.push(async () => {
      endpoint.kill('SIGTERM')
      if (endpoint.exitCode === null) await once(endpoint, 'exit')
    })
    await once(endpoint.stdout, 'data')

    neonConfig.fetchEndpoint = `http://127.0.0.1:${endpointPort}/sql`
    const as = (role: string, password: string) => neon(`postgres://${role}:${password}@endpoint.test/rekko`)
    expect(await as('rekko_app', 'rekko_app')`select current_user::text as login`).toEqual([{ login: 'rekko_app' }])
    await expect(as('rekko', 'rekko')`select 1`).rejects.toMatchObject({ code: '28000' })
    await expect(as('rekko_app', 'wrong')`select 1`).rejects.toMatchObject({ code: '28P01' })
  })

  it('says what it needs when it is told no database', async () => {
    const { NEON_ENDPOINT_DATABASE: _, ...env } = process.env
    const failed = await run(process.execPath, [join(ROOT, 'scripts/neon-endpoint/main.ts')], { env }).catch(
      (error: { code: number; stderr: string }) => error,
    )
    expect(failed).toMatchObject({ code: 2, stderr: expect.stringContaining('NEON_ENDPOINT_DATABASE') })
  })
})
