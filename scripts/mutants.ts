// `make mutants`: breaks one line at a time, in a copy, and says whether the tests that should notice do.
//
//   node scripts/mutants.ts [--list] [NAME...]     DATABASE_URL for those that need a real PostgreSQL
import { execFile } from 'node:child_process'
import { cp, mkdtemp, readFile, rm, symlink, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import { parseArgs, promisify } from 'node:util'
import { applyEdit } from './edit.ts'
import { MUTANTS, type Mutant } from './mutant-list.ts'

const run = promisify(execFile)
const ROOT = join(import.meta.dirname, '..')
const DEADLINE_MS = 5 * 60_000

type Outcome = 'killed' | 'SURVIVED' | 'BROKEN' | 'skipped'

interface Verdict {
  outcome: Outcome
  /** The first test that noticed, or why there is no answer. */
  detail: string
}

interface TestReport {
  numTotalTests: number
  testResults: { assertionResults: { status: string; fullName: string }[] }[]
}

async function main(): Promise<void> {
  const { values, positionals } = parseArgs({
    allowPositionals: true,
    options: { list: { type: 'boolean' }, help: { type: 'boolean', short: 'h' } },
  })
  if (values.help) {
    console.log(
      'usage: node scripts/mutants.ts [--list] [NAME...]\n\nWithout names, all of them. --list says which there are.',
    )
    return
  }
  if (values.list) {
    for (const { name, breaks } of MUTANTS) console.log(`${name.padEnd(32)} ${breaks}`)
    return
  }
  const unknown = positionals.filter((name) => !MUTANTS.some((mutant) => mutant.name === name))
  if (unknown.length > 0) throw new Error(`There is no mutant ${unknown.join(', ')}. See --list.`)
  const chosen = positionals.length > 0 ? MUTANTS.filter(({ name }) => positionals.includes(name)) : MUTANTS

  const folder = await copyTree()
  try {
    const suites = [...new Set(chosen.flatMap(({ tests }) => tests))]
    console.log(`the ${suites.length} test files without a mutant`)
    const sound = await test(folder, suites)
    if (sound.outcome !== 'SURVIVED') throw new Error(`The tests fail as they are: ${sound.detail}`)

    const outcomes: Outcome[] = []
    for (const mutant of chosen) {
      const { outcome, detail } = await judge(folder, mutant)
      outcomes.push(outcome)
      console.log(`${outcome.padEnd(9)} ${mutant.name.padEnd(32)} ${detail}`)
    }
    const count = (outcome: Outcome) => outcomes.filter((one) => one === outcome).length
    console.log(
      `mutants: ${count('killed')} killed, ${count('SURVIVED')} survived, ${count('BROKEN')} broken, ${count('skipped')} skipped, of ${chosen.length}`,
    )
    if (count('SURVIVED') + count('BROKEN') > 0) process.exitCode = 1
  } finally {
    await rm(folder, { recursive: true, force: true })
  }
}

/** What git would commit, and the installed packages beside it. */
async function copyTree(): Promise<string> {
  const folder = await mkdtemp(join(tmpdir(), 'rekko-mutants-'))
  const { stdout } = await run('git', ['ls-files', '-z', '--cached', '--others', '--exclude-standard'], { cwd: ROOT })
  for (const path of [...stdout.split('\0').filter(Boolean), 'worker-configuration.d.ts']) {
    // a file that was deleted and not committed yet is still listed
    await cp(join(ROOT, path), join(folder, path)).catch((error: NodeJS.ErrnoException) => {
      if (error.code !== 'ENOENT') throw error
    })
  }
  await symlink(join(ROOT, 'node_modules'), join(folder, 'node_modules'))
  return folder
}

async function judge(folder: string, mutant: Mutant): Promise<Verdict> {
  if (mutant.needsNative && !process.env['DATABASE_URL']) {
    return { outcome: 'skipped', detail: 'set DATABASE_URL: it shows only where there are several sessions' }
  }
  const originals = new Map<string, string>()
  try {
    for (const edit of mutant.edits) {
      const path = join(folder, edit.file)
      const text = await readFile(path, 'utf8')
      if (!originals.has(path)) originals.set(path, text)
      const edited = applyEdit(text, edit)
      if (typeof edited !== 'string') {
        return { outcome: 'BROKEN', detail: `${edit.file} has the line to break ${edited.places} times` }
      }
      await writeFile(path, edited)
    }
    return await test(folder, mutant.tests)
  } finally {
    for (const [path, text] of originals) await writeFile(path, text)
  }
}

/** Runs test files. They noticed when a test failed; that nothing could run at all proves nothing. */
async function test(folder: string, files: string[]): Promise<Verdict> {
  const reportFile = join(folder, 'report.json')
  await rm(reportFile, { force: true })
  const vitest = join(folder, 'node_modules/vitest/vitest.mjs')
  const output = await run(
    process.execPath,
    [vitest, 'run', '--reporter=json', `--outputFile=${reportFile}`, ...files],
    {
      cwd: folder,
      timeout: DEADLINE_MS,
      maxBuffer: 64 * 1024 * 1024,
      env: { ...process.env, WRANGLER_SEND_METRICS: 'false', CLOUDFLARE_CF_FETCH_ENABLED: 'false' },
    },
  ).then(
    ({ stdout }) => stdout,
    (error: { stdout?: string; stderr?: string }) => `${error.stdout ?? ''}${error.stderr ?? ''}`,
  )
  const text = await readFile(reportFile, 'utf8').catch(() => null)
  if (text === null) return { outcome: 'BROKEN', detail: output.trim().split('\n').at(-1) ?? 'no report' }
  // written by vitest itself, whose format this is
  const report = JSON.parse(text) as TestReport
  const results = report.testResults.flatMap(({ assertionResults }) => assertionResults)
  const failed = results.filter(({ status }) => status === 'failed')
  if (failed[0]) return { outcome: 'killed', detail: `${failed.length} failed, the first: ${failed[0].fullName}` }
  if (report.numTotalTests === 0 || results.every(({ status }) => status !== 'passed')) {
    return { outcome: 'BROKEN', detail: `no test ran: ${dirname(files[0] ?? '')}` }
  }
  return { outcome: 'SURVIVED', detail: `${results.length} tests passed` }
}

await main()
