// status, psql, doctor, lint, stats, index: looking at a database.
import { execFile, spawn } from 'node:child_process'
import { constants } from 'node:fs'
import { access } from 'node:fs/promises'
import { delimiter, join } from 'node:path'
import { promisify, styleText } from 'node:util'
import { Argument, type Command, InvalidArgumentError, Option } from 'commander'
import type { Connection } from '../connection.ts'
import { type Context, toContext } from '../context.ts'
import { examine, type Finding, hasSchema, NO_SCHEMA } from '../doctor.ts'
import { inSnapshot } from '../inventory.ts'
import { type LintFinding, lint, toSentence } from '../linter.ts'
import { findVersion, listMigrations } from '../migrate.ts'
import { type Row, readStatistics, SECTION_NAMES, type SectionName } from '../statistics.ts'
import { describeTarget, type NativeTarget, requireNative, type Target, toHost, withConnection } from '../target.ts'
import { type IndexOptions, tuneIndex } from '../tenant-index.ts'
import { CommandError, EXIT, type Terminal, toCount } from '../terminal.ts'
import type { Level } from '../verdict.ts'

/** Of docker-compose.yml. */
const CONTAINER = 'rekko-postgres'
const ROOT = join(import.meta.dirname, '../../..')

export function registerHealth(program: Command): void {
  program
    .command('status')
    .description('show where the database is, whether it answers, its versions and its size')
    .action((_, command) => status(toContext(command)))

  program
    .command('psql')
    .description("open psql on the database; what follows -- is psql's: psql -- -c 'select 1'")
    .addArgument(new Argument('[arguments...]', 'for psql'))
    .action((parameters: string[], _, command) => psql(toContext(command), parameters))

  program
    .command('doctor')
    .description('say in plain words what is wrong with the database, and how to mend it; changes nothing')
    .action((_, command) => doctor(toContext(command)))

  program
    .command('lint')
    .description('ask the catalogs whether one tenant could see another: roles, policies, functions, keys, grants')
    .action((_, command) => lintDatabase(toContext(command)))

  program
    .command('stats')
    .description('show sizes, index usage, connections, slow queries, dead rows, cache and the largest tenants')
    .addOption(new Option('--section <name>', 'this one only').choices(SECTION_NAMES))
    .action(({ section }: { section?: SectionName }, command) => stats(toContext(command), section))

  program
    .command('index')
    .description("measure a tenant's exact search, say whether an index would help, and build or drop it")
    .addArgument(new Argument('<tenant>', 'its id'))
    .addOption(new Option('--probes <count>', 'searches to measure with').default(200).argParser(toProbes))
    .addOption(new Option('--build', 'build an HNSW index of this tenant, without blocking writes').default(false))
    .addOption(new Option('--force', 'keep an index that finds too little').default(false))
    .addOption(new Option('--drop', "drop the tenant's index").default(false).conflicts('build'))
    .action((tenant: string, options: IndexOptions, command) => tuneIndex(toContext(command), tenant, options))
}

function toProbes(text: string): number {
  const count = Number(text)
  if (!/^[0-9]+$/.test(text) || count < 1 || count > 10_000) throw new InvalidArgumentError('Use 1 to 10000.')
  return count
}

// == status ==

interface Status {
  schema_version: number
  dirty: boolean
  /** Names of migrations that would run. */
  pending: string[]
  postgresql: string
  extensions: Record<string, string>
  size: string
  size_bytes: number
  /** Null before the first migration. */
  tenants: number | null
  faces: number | null
}

async function status({ target, terminal }: Context): Promise<void> {
  const where = toPlace(target)
  const container = target.kind === 'native' && target.isLocal ? await findContainer(target) : null
  const lines = [
    `${mark('ℹ', 'blue')} Database status:`,
    `  Host: ${where.host}`,
    `  Database: ${where.database}`,
    `  User: ${where.user}`,
  ]
  if (container !== null) {
    lines.push(
      container === 'running'
        ? `${mark('✓', 'green')} Container ${CONTAINER} is running`
        : `${mark('✗', 'red')} Container ${CONTAINER} is ${container}: make docker-up`,
    )
  }
  const about = { ...where, kind: target.kind, container }
  let found: Status
  try {
    await requireExisting(target)
    found = await connectOrExplain(target, findStatus)
  } catch (error) {
    if (error instanceof CommandError && error.exitCode === EXIT.unreachable) {
      terminal.result({ ...about, reachable: false }, [...lines, `${mark('✗', 'red')} Database is not accessible`])
    }
    throw error
  }
  if (container === null) lines.push(`${mark('✓', 'green')} ${describeKind(target)}`)
  lines.push(
    `${mark('✓', 'green')} Database is accessible`,
    `  Schema version: ${found.schema_version}${found.dirty ? ' (dirty)' : ''}`,
    `  Pending migrations: ${found.pending.length > 0 ? found.pending.join(', ') : 'none'}`,
    `  PostgreSQL: ${found.postgresql}`,
    `  Extensions: ${Object.entries(found.extensions)
      .map(([name, version]) => `${name} ${version}`)
      .join(', ')}`,
    `  Size: ${found.size}`,
  )
  if (found.tenants !== null && found.faces !== null) {
    lines.push(`  Tenants: ${found.tenants.toLocaleString('en')}`, `  Faces: ${found.faces.toLocaleString('en')}`)
  }
  terminal.result({ ...about, reachable: true, ...found }, lines)
  if (found.dirty) {
    throw new CommandError(
      `Version ${found.schema_version} is dirty: a migration did not finish. Mend what it left behind, then: scripts/db.sh force VERSION`,
      EXIT.findings,
    )
  }
  if (found.pending.length > 0) {
    throw new CommandError('There are pending migrations: scripts/db.sh up', EXIT.findings)
  }
}

function mark(sign: string, style: 'blue' | 'green' | 'yellow' | 'red' | 'gray'): string {
  return styleText(style, sign, { stream: process.stdout })
}

function toPlace(target: Target): { host: string; database: string; user: string } {
  if (target.kind === 'embedded')
    return { host: `embedded, in ${target.folder}`, database: 'postgres', user: 'postgres' }
  const { url } = target
  return {
    host: `${toHost(url)}:${url.port || 5432}`,
    database: decodeURIComponent(url.pathname.slice(1)),
    user: decodeURIComponent(url.username),
  }
}

function describeKind(target: Target): string {
  if (target.kind === 'embedded') return 'Embedded PostgreSQL, inside the process that uses it'
  return target.isLocal ? 'Native PostgreSQL on this machine' : 'PostgreSQL on another machine'
}

/**
 * What Docker says of the container ("running", "exited", ...); null when there is no Docker, no such
 * container, or when it serves another port than the URL's.
 */
async function findContainer({ url }: NativeTarget): Promise<string | null> {
  const format = '{{.State.Status}}{{range .HostConfig.PortBindings}}{{range .}} {{.HostPort}}{{end}}{{end}}'
  const output = await promisify(execFile)('docker', ['inspect', '--format', format, CONTAINER], {
    timeout: 5_000,
  }).then(
    ({ stdout }) => stdout.trim(),
    () => '',
  )
  const [state = '', ...ports] = output.split(' ')
  return state !== '' && ports.includes(url.port || '5432') ? state : null
}

/** Opening the embedded database makes one: looking must not. */
export async function requireExisting(target: Target): Promise<void> {
  if (target.kind === 'native') return
  await access(target.folder).catch(() => {
    throw new CommandError(
      `There is no embedded database in ${target.folder} yet: make dev makes it, or scripts/db.sh --db embedded up.`,
      EXIT.unreachable,
    )
  })
}

/** As `withConnection`; an embedded database that another process has open counts as unreachable too. */
async function connectOrExplain<Result>(
  target: Target,
  work: (connection: Connection) => Promise<Result>,
): Promise<Result> {
  let isOpen = false
  try {
    return await withConnection(target, (connection) => {
      isOpen = true
      return work(connection)
    })
  } catch (error) {
    if (isOpen || error instanceof CommandError) throw error
    throw new CommandError(error instanceof Error ? error.message : String(error), EXIT.unreachable)
  }
}

async function findStatus(connection: Connection): Promise<Status> {
  const { version, dirty } = await findVersion(connection)
  const pending = (await listMigrations()).filter((migration) => migration.version > version)
  const [server] = await connection.query<{ postgresql: string; size: string; bytes: number }>(`
    select current_setting('server_version') as postgresql,
      pg_size_pretty(pg_database_size(current_database())) as size, pg_database_size(current_database())::float8 as bytes`)
  const extensions = await connection.query<{ name: string; version: string }>(
    'select extname as name, extversion as version from pg_extension order by extname',
  )
  return {
    schema_version: version,
    dirty,
    pending: pending.map((migration) => `${String(migration.version).padStart(6, '0')}_${migration.name}`),
    postgresql: server?.postgresql ?? 'unknown',
    extensions: Object.fromEntries(extensions.map(({ name, version }) => [name, version])),
    size: server?.size ?? 'unknown',
    size_bytes: server?.bytes ?? 0,
    ...(await countRows(connection)),
  }
}

/** The sum of face_counts takes no time, and an administrator who is bound by the policies may read it. */
async function countRows(connection: Connection): Promise<{ tenants: number | null; faces: number | null }> {
  const [tables] = await connection.query<{ tenants: boolean; counts: boolean }>(
    `select to_regclass('public.tenants') is not null as tenants, to_regclass('public.face_counts') is not null as counts`,
  )
  if (!tables?.tenants) return { tenants: null, faces: null }
  const faces = tables.counts ? 'select coalesce(sum(change), 0) from face_counts' : 'select count(*) from faces'
  const [row] = await connection.query<{ tenants: number; faces: number }>(
    `select (select count(*) from tenants)::float8 as tenants, (${faces})::float8 as faces`,
  )
  return row ?? { tenants: null, faces: null }
}

// == psql ==

async function psql(context: Context, parameters: string[]): Promise<void> {
  const { target, terminal } = context
  if (target.kind === 'embedded' || terminal.isJson) return runStatements(context, parameters)
  const program = await findPsql(target)
  if (context.isDryRun) {
    const line = [program.file, ...program.parameters, ...parameters]
    return terminal.result(line, [line.join(' ')])
  }
  const code = await runProgram(program.file, [...program.parameters, ...parameters], program.environment)
  // psql says 2 when it could not connect, and has said why
  if (code !== 0) throw new CommandError(`psql ended with ${code}`, code === 2 ? EXIT.unreachable : EXIT.failed)
}

interface Program {
  file: string
  parameters: string[]
  /** What is added to ours: the password, which other users of the machine could read from arguments. */
  environment: Record<string, string>
}

/** psql itself, or the one inside the container or the native PostgreSQL. */
async function findPsql(target: NativeTarget): Promise<Program> {
  const url = new URL(target.url)
  const password = url.searchParams.get('password') ?? decodeURIComponent(url.password)
  url.password = ''
  url.searchParams.delete('password')
  const environment = { PGAPPNAME: 'rekko-psql', ...(password !== '' && { PGPASSWORD: password }) }
  if (await isOnPath('psql')) return { file: 'psql', parameters: [`--dbname=${url.href}`], environment }

  if (target.isLocal && (await findContainer(target)) === 'running') {
    const { database, user } = toPlace(target)
    const terminal = process.stdin.isTTY && process.stdout.isTTY ? ['-t'] : []
    return {
      file: 'docker',
      // without a value, docker takes the variable from its own environment
      parameters: [
        ...['exec', '-i', ...terminal, '-e', 'PGPASSWORD', CONTAINER],
        ...['psql', `--host=localhost`, `--username=${user}`, `--dbname=${database}`],
      ],
      environment,
    }
  }
  const script = join(ROOT, 'scripts/native-postgres')
  if (target.isLocal && (await toNativeUrl(script)) === `${url.username}:${url.port}${url.pathname}`) {
    return { file: script, parameters: ['psql'], environment: {} }
  }
  throw new CommandError('There is no psql on this machine: apt-get install postgresql-client, or brew install libpq.')
}

/** What scripts/native-postgres serves, as user:port/database. */
async function toNativeUrl(script: string): Promise<string> {
  const { stdout } = await promisify(execFile)(script, ['url'], { timeout: 5_000 })
  const { username, port, pathname } = new URL(stdout.trim())
  return `${username}:${port}${pathname}`
}

async function isOnPath(name: string): Promise<boolean> {
  for (const folder of (process.env['PATH'] ?? '').split(delimiter).filter((folder) => folder !== '')) {
    const isThere = await access(join(folder, name), constants.X_OK).then(
      () => true,
      () => false,
    )
    if (isThere) return true
  }
  return false
}

/** @returns its exit code; 1 when a signal ended it */
function runProgram(file: string, parameters: string[], environment: Record<string, string>): Promise<number> {
  return new Promise((resolve, reject) => {
    // Ctrl-C is psql's: it cancels the statement there
    const ignore = () => {}
    process.on('SIGINT', ignore)
    const child = spawn(file, parameters, { stdio: 'inherit', env: { ...process.env, ...environment } })
    child.once('error', reject)
    child.once('close', (code) => {
      process.off('SIGINT', ignore)
      resolve(code ?? 1)
    })
  })
}

/** What psql -c does, where there is no psql or the answer is wanted as JSON. */
async function runStatements({ target, terminal, isDryRun }: Context, parameters: string[]): Promise<void> {
  const statements = toStatements(parameters)
  if (statements === null) {
    requireNative(
      target,
      "Give it statements: psql -- -c 'select 1'. For psql itself: make dev DB=native, or DATABASE_URL.",
    )
    throw new CommandError("With --json, give it statements and nothing else: psql -- -c 'select 1'", EXIT.usage)
  }
  if (isDryRun) return terminal.result(statements, statements)
  await requireExisting(target)
  const answers = await connectOrExplain(target, async (connection) => {
    const rows: Row[][] = []
    for (const statement of statements) rows.push((await connection.query<object>(statement)).map(toRow))
    return rows
  })
  if (terminal.isJson) terminal.result(answers.length === 1 ? answers[0] : answers, [])
  else for (const rows of answers) terminal.table(rows)
}

/** The statements of -c and --command; null when there are none, or anything else. */
function toStatements(parameters: string[]): string[] | null {
  const statements: string[] = []
  for (let index = 0; index < parameters.length; index++) {
    const parameter = parameters[index] ?? ''
    const attached = /^(?:--command=|-c)(.+)$/s.exec(parameter)?.[1]
    if (attached !== undefined) statements.push(attached)
    else if (parameter === '-c' || parameter === '--command') {
      const statement = parameters[++index]
      if (statement === undefined) return null
      statements.push(statement)
    } else return null
  }
  return statements.length > 0 ? statements : null
}

function toRow(row: object): Row {
  return Object.fromEntries(Object.entries(row).map(([name, value]) => [name, toCell(value)]))
}

function toCell(value: unknown): string | number | boolean | null {
  if (value === null || value === undefined) return null
  if (typeof value === 'string' || typeof value === 'number' || typeof value === 'boolean') return value
  if (typeof value === 'bigint') return value.toString()
  if (value instanceof Date) return value.toISOString()
  if (value instanceof Uint8Array) return `\\x${Buffer.from(value).toString('hex')}`
  return JSON.stringify(value)
}

// == doctor, lint, stats ==

const MARKS = {
  ok: mark('✓', 'green'),
  warning: mark('!', 'yellow'),
  problem: mark('✗', 'red'),
  skipped: mark('-', 'gray'),
} satisfies Record<Level, string>

async function doctor({ target, terminal }: Context): Promise<void> {
  let findings: Finding[]
  try {
    await requireExisting(target)
    findings = await connectOrExplain(target, (connection) => examine(connection, target))
  } catch (error) {
    if (error instanceof CommandError && error.exitCode === EXIT.unreachable) {
      const says = `${describeTarget(target)} does not answer`
      const finding: Finding = { check: 'reachable', level: 'problem', says, mend: error.message }
      terminal.result({ problems: 1, warnings: 0, findings: [finding] }, toLines([finding]))
    }
    throw error
  }
  const [problems, warnings] = (['problem', 'warning'] as const).map(
    (wanted) => findings.filter(({ level }) => level === wanted).length,
  )
  terminal.result({ problems, warnings, findings }, toLines(findings))
  conclude(terminal, 'nothing to mend', problems ?? 0, warnings ?? 0)
}

/** @throws CommandError when there is something to mend */
function conclude(terminal: Terminal, well: string, problems: number, warnings: number): void {
  if (problems > 0) throw new CommandError(`${problems} to mend, ${toCount(warnings, 'warning')}`, EXIT.findings)
  terminal.ok(warnings > 0 ? `${well}, ${toCount(warnings, 'warning')}` : well)
}

function toLines(findings: Finding[]): string[] {
  const width = Math.max(...findings.map(({ check }) => check.length))
  return findings.flatMap(({ check, level, says, mend }) => [
    `${MARKS[level]} ${check.padEnd(width)}  ${level === 'skipped' ? 'not looked at: ' : ''}${says}`,
    ...(mend === null ? [] : [`  ${' '.repeat(width)}  to mend: ${mend}`]),
  ])
}

async function lintDatabase({ target, terminal }: Context): Promise<void> {
  await requireExisting(target)
  const { rules, objects, findings } = await connectOrExplain(target, async (connection) => {
    if (!(await hasSchema(connection))) throw new CommandError(`not looked at: ${NO_SCHEMA}`, EXIT.refused)
    return inSnapshot(connection, null, () => lint(connection, target))
  })
  const problems = findings.filter(({ level }) => level === 'problem').length
  const warnings = findings.length - problems
  terminal.result({ rules, objects, problems, warnings, findings }, findings.flatMap(explain))
  conclude(terminal, `${rules} rules hold for ${toCount(objects, 'object')}`, problems, warnings)
}

function explain(finding: LintFinding): string[] {
  const { level, reason, mend } = finding
  return [`${MARKS[level]} ${toSentence(finding)}`, `  why: ${reason}`, `  to mend: ${mend}`]
}

async function stats({ target, terminal }: Context, section: SectionName | undefined): Promise<void> {
  await requireExisting(target)
  const results = await connectOrExplain(target, (connection) =>
    readStatistics(connection, target, section === undefined ? SECTION_NAMES : [section]),
  )
  if (terminal.isJson) {
    const plain = Object.entries(results).map(([name, result]) => [
      name,
      'rows' in result ? result.rows : { skipped: result.skipped },
    ])
    return terminal.result(Object.fromEntries(plain), [])
  }
  if (target.kind === 'embedded') {
    terminal.info('The embedded database counts from when it was opened: indexes, dead rows and cache say little.')
  }
  for (const [index, result] of Object.values(results).entries()) {
    terminal.result(null, [...(index > 0 ? [''] : []), `== ${result.title} ==`])
    if ('rows' in result) terminal.table(result.rows)
    else terminal.result(null, [`not shown: ${result.skipped}`])
  }
}
