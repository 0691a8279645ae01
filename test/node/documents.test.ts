// Proves that the commands shown in the documents work: the README's requests are run, as they stand,
// against the service that `make dev` starts (the port apart), and every make target named anywhere
// exists. The operator's guide is run command by command, on native PostgreSQL; the guide to thresholds on made faces, which
// alone are fake.
import { execFile } from 'node:child_process'
import { randomBytes } from 'node:crypto'
import { mkdtemp, readdir, readFile, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { describe, expect, it } from 'vitest'
import { generateGallery } from '../../scripts/gallery.ts'
import { createApiKey, createTenant } from '../../scripts/provision.ts'
import { startService } from '../../scripts/service.ts'
import { findFreePort } from '../../scripts/worker.ts'
import { SCOPES } from '../../src/auth/api-key.ts'
import { createDatabase } from './database.ts'

const ROOT = join(import.meta.dirname, '../..')
const isNative = process.env['DATABASE_URL'] !== undefined
if (!isNative)
  console.log('skipped: the commands of the guides for operators are run on native PostgreSQL only (set DATABASE_URL)')

async function listDocuments(): Promise<string[]> {
  const folders = ['.', 'docs']
  const files = await Promise.all(
    folders.map(async (folder) => (await readdir(join(ROOT, folder))).map((file) => join(folder, file))),
  )
  return files.flat().filter((file) => file.endsWith('.md'))
}

describe('the documents', () => {
  it('name only make targets that exist', async () => {
    const makefile = await readFile(join(ROOT, 'Makefile'), 'utf8')
    const targets = new Set([...makefile.matchAll(/^([a-z-]+):/gm)].map((match) => match[1]))
    const named = new Set<string | undefined>()
    for (const document of await listDocuments()) {
      const text = await readFile(join(ROOT, document), 'utf8')
      // in code only: "make" is also an English word
      const code = [...text.matchAll(/```\w*\n([\s\S]*?)```|`([^`\n]+)`/g)].map(
        ([, block, span]) => block ?? span ?? '',
      )
      for (const [, target] of code.join('\n').matchAll(/^(?:DATABASE_URL=\S+ )?make ([a-z-]+)/gm)) {
        expect([document, target, targets.has(target)]).toEqual([document, target, true])
        named.add(target)
      }
    }
    expect([...named]).toEqual(expect.arrayContaining(['demo', 'dev', 'test', 'check']))
  })

  it('name a test for each requirement, and only tests that exist', async () => {
    const text = await readFile(join(ROOT, 'docs/security-tests.md'), 'utf8')
    const rows = [...text.matchAll(/^\| ([ABCF]\d+) \| .+? \| (.+) \|$/gm)]
    const numbers = { A: 14, B: 11, C: 9, F: 5 }
    expect(rows.map(([, id]) => id)).toEqual(
      Object.entries(numbers).flatMap(([group, count]) =>
        Array.from({ length: count }, (_, index) => `${group}${index + 1}`),
      ),
    )
    for (const [, id, tests = ''] of rows) {
      const files = [...tests.matchAll(/`(test\/[\w./-]+)`((?:,? "[^"]+")+)/g)]
      // what no test file can hold: the run of the suites itself
      if (files.length === 0) expect(tests, id).toMatch(/make mutants|\.ci\/run/)
      for (const [, file = '', titles = ''] of files) {
        const source = await readFile(join(ROOT, file), 'utf8')
        for (const [, title = ''] of titles.matchAll(/"([^"]+)"/g)) {
          expect(source.includes(title), `${id}: ${file} "${title}"`).toBe(true)
        }
      }
    }
  })

  it('link only to files that exist', async () => {
    for (const document of await listDocuments()) {
      const text = await readFile(join(ROOT, document), 'utf8')
      for (const [, path] of text.matchAll(/\]\((?!https?:)([^)#]+)\)/g)) {
        await expect(
          readFile(join(ROOT, document, '..', path ?? ''), 'utf8'),
          `${document}: ${path}`,
        ).resolves.toBeDefined()
      }
      for (const [, path] of text
        .replaceAll('NNNNNN_name', '000002_tenancy')
        .matchAll(/`((?:src|test|scripts|migrations)\/[\w./-]+\.\w+)`/g)) {
        await expect(readFile(join(ROOT, path ?? ''), 'utf8'), `${document}: ${path}`).resolves.toBeDefined()
      }
    }
  })

  it.skipIf(!isNative).each([
    ['docs/database.md', 30],
    ['docs/keys.md', 10],
  ])(
    'show commands in the guide for operators that work, in that order: %s',
    async (guide, least) => {
      const text = await readFile(join(ROOT, guide), 'utf8')
      const commands = [...text.matchAll(/```console\n([\s\S]*?)```/g)].flatMap(([, block = '']) =>
        [...block.matchAll(/^\$ (.+)$/gm)].map(([, command = '']) => command),
      )
      expect(commands.length).toBeGreaterThan(least)
      const databases = [await createDatabase(), await createDatabase()]
      const [main, restored] = databases
      const home = await mkdtemp(join(tmpdir(), 'rekko-documents-'))
      try {
        for (const command of commands) {
          const here = command
            .replaceAll('postgres://rekko:rekko@localhost:5433/rekko_restored', restored?.url ?? '')
            .replaceAll('./backups/', `${home}/`)
            .replaceAll('/tmp/', `${home}/`)
          const outcome = await promisify(execFile)('bash', ['-euc', here], {
            cwd: ROOT,
            env: { ...process.env, DATABASE_URL: main?.url, NO_COLOR: '1', MAKEFLAGS: '' },
            timeout: 60_000,
          }).then(
            () => 'works',
            (error: { code: number; stderr: string }) => `ended with ${error.code}: ${error.stderr}`,
          )
          expect([command, outcome]).toEqual([command, 'works'])
        }
      } finally {
        for (const database of databases) await database.drop()
        await rm(home, { recursive: true })
      }
    },
    240_000,
  )

  it('show commands in the guide to thresholds that work, in that order', async () => {
    const text = await readFile(join(ROOT, 'docs/thresholds.md'), 'utf8')
    const commands = [...text.matchAll(/^\$ (.+)$/gm)].map(([, command = '']) => command)
    expect(commands.length).toBeGreaterThan(3)
    const home = await mkdtemp(join(tmpdir(), 'rekko-thresholds-'))
    const samples = generateGallery(5, 2, 1).flatMap(({ name, samples }) => samples.map((sample) => [name, ...sample]))
    const header = ['identity', ...Array.from({ length: 512 }, (_, index) => `e${index}`)]
    await writeFile(join(home, 'faces.csv'), [header, ...samples].join('\n'))
    await writeFile(join(home, 'pairs.csv'), 'same,cosine\n1,0.6\n0,0.1\n')
    // newer than package.json: make does not install anything under the feet of the other tests
    await writeFile(join(home, 'installed'), '')
    try {
      for (const command of commands) {
        const here = command.replaceAll(/\b(faces|pairs)\.(csv|svg)/g, `${home}/$&`)
        const run = promisify(execFile)('bash', ['-euc', here], {
          cwd: ROOT,
          env: { ...process.env, NO_COLOR: '1', MAKEFLAGS: `-- INSTALLED=${home}/installed` },
        })
        const outcome = await run.then(
          ({ stdout }) => stdout,
          (error: { code: number; stderr: string }) => `ended with ${error.code}: ${error.stderr}`,
        )
        expect([command, outcome]).toEqual([command, expect.stringMatching(/^Calibration of|"proposals"/m)])
      }
      expect((await readdir(home)).sort()).toEqual(['faces.csv', 'faces.svg', 'installed', 'pairs.csv', 'pairs.svg'])
    } finally {
      await rm(home, { recursive: true })
    }
  })

  it.skipIf(!isNative)(
    'show commands in the guide to reliability that work',
    async () => {
      const text = await readFile(join(ROOT, 'docs/reliability.md'), 'utf8')
      const commands = [...text.matchAll(/^\$ (.+)$/gm)].map(([, command = '']) => command)
      expect(commands.length).toBe(3)
      for (const command of commands) {
        const { stdout } = await promisify(execFile)('bash', ['-euc', command], {
          cwd: ROOT,
          env: { ...process.env, MAKEFLAGS: '' },
        })
        expect([command, stdout]).toEqual([
          command,
          expect.stringContaining('faults: 0 violations, 0 bites not noticed'),
        ])
      }
    },
    240_000,
  )

  it.each([
    ['docs/database.md', 'docs/banco-de-dados.md'],
    ['docs/keys.md', 'docs/chaves.md'],
  ])('name the same commands in both languages: %s', async (english, portuguese) => {
    const read = async (document: string) =>
      [...(await readFile(join(ROOT, document), 'utf8')).matchAll(/^\$ (.+)$/gm)].map(([, command]) => command)
    expect(await read(portuguese)).toEqual(await read(english))
  })

  it('show requests in the README that work as they are pasted', async () => {
    const readme = await readFile(join(ROOT, 'README.md'), 'utf8')
    const [commands] = [...readme.matchAll(/```sh\n([\s\S]*?)```/g)].flatMap(([, block = '']) =>
      block.includes('curl') ? [block] : [],
    )
    expect(commands).toContain('/v1/faces/verify')
    const pepper = randomBytes(32).toString('base64')
    const service = await startService({}, (await findFreePort(0)) ?? 0, pepper, () => {})
    try {
      const tenant = await createTenant(service.admin, service.masterKeys, 'Readers', 'test')
      const key = await createApiKey(service.admin, pepper, tenant, 'test', 'a reader', SCOPES)
      const script = (commands ?? '').replaceAll('http://127.0.0.1:8787', service.url)
      const { stdout } = await promisify(execFile)('bash', ['-euc', script], {
        env: { ...process.env, REKKO_KEY: key },
      })
      expect(stdout).toMatch(/"external_id":"ticket-holder-4711".*"verified":true,"confidence":1,"threshold":0.675/s)
    } finally {
      await service.stop()
    }
  })
})
