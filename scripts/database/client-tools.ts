// Finds PostgreSQL's own programs, new enough for a server, and runs them: everything through stdin and
// stdout, because some of them live in a container that sees no file of ours.
import { execFile, spawn } from 'node:child_process'
import { readdir } from 'node:fs/promises'
import { join } from 'node:path'
import type { Readable } from 'node:stream'
import { pipeline } from 'node:stream/promises'
import { promisify } from 'node:util'
import type { NativeTarget } from './target.ts'
import { CommandError } from './terminal.ts'

export type ToolName = 'pg_dump' | 'pg_restore'

export interface Tool {
  name: ToolName
  /** The program to start. */
  file: string
  /** What stands before the tool's own arguments. */
  args: string[]
  /** For example 17.6. */
  version: string
  major: number
  /** Where the tool finds the server, when that is not where we find it. */
  server: { host: string; port: string } | null
}

const INSTALLED = '/usr/lib/postgresql'
const NATIVE_POSTGRES = join(import.meta.dirname, '../native-postgres')
/** Of docker-compose.yml. */
const CONTAINER = 'rekko-postgres'
const ASK_TIMEOUT_MS = 10_000
/** Longer than any dump should take; shorter than forever. */
const RUN_TIMEOUT_MS = 6 * 3600_000
const MAX_MESSAGE_BYTES = 64 * 1024

/**
 * The program of the smallest major version that will do: newer ones send settings that older servers
 * do not know.
 *
 * @param minimumMajor pg_dump refuses a newer server; pg_restore may not know a newer format
 * @throws CommandError with how to get one, when there is none
 */
export async function findTool(
  name: ToolName,
  minimumMajor: number,
  target: NativeTarget,
  candidates: () => AsyncIterable<Omit<Tool, 'name' | 'version' | 'major'>> = () => listCandidates(name, target),
): Promise<Tool> {
  const tooOld: string[] = []
  let best: Tool | null = null
  for await (const candidate of candidates()) {
    const version = await findToolVersion(candidate.file, candidate.args)
    if (version === null) continue
    const tool: Tool = { ...candidate, name, version, major: Number.parseInt(version, 10) }
    if (tool.major === minimumMajor) return tool
    if (tool.major < minimumMajor) tooOld.push(version)
    else if (best === null || tool.major < best.major) best = tool
  }
  if (best) return best
  const found = tooOld.length > 0 ? `Found only ${name} ${[...new Set(tooOld)].join(', ')}, too old. ` : ''
  throw new CommandError(
    `There is no ${name} ${minimumMajor} or newer here. ${found}Install it (Debian: apt-get install ` +
      `postgresql-client-${minimumMajor}; macOS: brew install libpq, and add its bin folder to PATH), or start the ` +
      'container rekko-postgres (make docker-up).',
  )
}

async function* listCandidates(
  name: ToolName,
  target: NativeTarget,
): AsyncGenerator<Omit<Tool, 'name' | 'version' | 'major'>> {
  yield { file: name, args: [], server: null }
  for (const version of await readdir(INSTALLED).catch(() => [])) {
    yield { file: join(INSTALLED, version, 'bin', name), args: [], server: null }
  }
  const inside = ['exec', '-i', '-e', 'PGPASSWORD', '-e', 'PGAPPNAME', '-e', 'LC_ALL', CONTAINER, name]
  if (!target.isLocal) {
    yield { file: 'docker', args: inside, server: null }
  } else if (await isPublishedAt(target.url.port || '5432')) {
    yield { file: 'docker', args: inside, server: { host: '127.0.0.1', port: '5432' } }
  }
  // it logs in with the password of its own server, whatever the environment says
  if (['', 'rekko'].includes(target.url.password)) yield { file: NATIVE_POSTGRES, args: [name], server: null }
}

/** Whether the container's PostgreSQL is the one that answers at a port of this machine. */
async function isPublishedAt(port: string): Promise<boolean> {
  try {
    const { stdout } = await promisify(execFile)('docker', ['port', CONTAINER, '5432'], { timeout: ASK_TIMEOUT_MS })
    return stdout.split('\n').some((line) => line.trim().endsWith(`:${port}`))
  } catch {
    // no docker, no engine or no such container
    return false
  }
}

/** Null when it does not run. */
async function findToolVersion(file: string, args: string[]): Promise<string | null> {
  try {
    const { stdout } = await promisify(execFile)(file, [...args, '--version'], { timeout: ASK_TIMEOUT_MS })
    return /\(PostgreSQL\) (\d+[^\s]*)/.exec(stdout)?.[1] ?? null
  } catch {
    return null
  }
}

export interface Run {
  args: string[]
  /** Connects there; none for work on a file alone. */
  target?: NativeTarget
  /** What it reads. */
  input?: Readable
  /** Takes what it writes; it must read to the end. */
  consume?: (output: Readable) => Promise<void>
  signal: AbortSignal
}

/**
 * Runs a tool to its end.
 *
 * @returns what it said on stderr, line by line, without values of rows
 * @throws CommandError when it fails, or says so in time; whatever `signal` was aborted with
 */
export async function runTool(tool: Tool, { args, target, input, consume = drain, signal }: Run): Promise<string[]> {
  const limit = AbortSignal.any([signal, AbortSignal.timeout(RUN_TIMEOUT_MS)])
  limit.throwIfAborted()
  const connection = target ? [`--dbname=${toConnectionString(tool, target)}`, '--no-password'] : []
  const child = spawn(tool.file, [...tool.args, ...connection, ...args], { env: toEnvironment(target), stdio: 'pipe' })
  const stop = () => child.kill()
  limit.addEventListener('abort', stop)
  let said = ''
  child.stderr.setEncoding('utf8').on('data', (text: string) => {
    said = (said + text).slice(0, MAX_MESSAGE_BYTES)
  })
  const ended = new Promise<number | null>((resolve, reject) => {
    child.once('error', reject).once('close', resolve)
  })
  try {
    const feeding = input ? pipeline(input, child.stdin).catch(ignoreClosedPipe) : child.stdin.end()
    const [code] = await Promise.all([ended, feeding, consume(child.stdout)])
    limit.throwIfAborted()
    const messages = toMessages(said)
    if (code !== 0) throw new CommandError(`${tool.name} failed: ${messages.join('\n') || `exit code ${code}`}`)
    return messages
  } catch (error) {
    child.kill()
    await ended.catch(() => {})
    signal.throwIfAborted()
    throw error
  } finally {
    limit.removeEventListener('abort', stop)
  }
}

async function drain(output: Readable): Promise<void> {
  for await (const _ of output);
}

/** A tool that has failed reads no further; its exit code and its message say why. */
function ignoreClosedPipe(error: unknown): void {
  const code = error instanceof Error && 'code' in error ? error.code : ''
  if (code !== 'EPIPE' && code !== 'ECONNRESET' && code !== 'ERR_STREAM_PREMATURE_CLOSE') throw error
}

/** Everything but the password, which others on the machine would see in the list of processes. */
function toConnectionString(tool: Tool, target: NativeTarget): string {
  const url = new URL(target.url)
  url.password = ''
  url.searchParams.delete('password')
  if (tool.server) {
    url.hostname = tool.server.host
    url.port = tool.server.port
  }
  return url.href
}

function toEnvironment(target: NativeTarget | undefined): NodeJS.ProcessEnv {
  const password = target?.url.searchParams.get('password') ?? decodeURIComponent(target?.url.password ?? '')
  // settings from outside must not reach a session that decides which rows it sees
  const { PGOPTIONS: _, PGSERVICE: __, ...environment } = process.env
  return {
    ...environment,
    ...(password && { PGPASSWORD: password }),
    PGAPPNAME: 'rekko-scripts',
    PGCONNECT_TIMEOUT: '10',
    LC_ALL: 'C',
  }
}

/** PostgreSQL quotes the row that it stumbled over, and a row may be somebody's face. */
function toMessages(said: string): string[] {
  return said
    .split('\n')
    .filter((line) => line.trim() !== '' && !/^\s*(CONTEXT|DETAIL|HINT|Command was|COMMAND|LINE \d+):/i.test(line))
    .map((line) => line.replace(/"[^"]{64,}"?/g, '"..."').slice(0, 300))
    .slice(0, 20)
}
