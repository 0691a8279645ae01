// Which database a command works on, and how it connects there as an administrator.
import { type Connection, connectEmbedded, connectNative, openEmbedded } from './connection.ts'
import { CommandError, EXIT } from './terminal.ts'

/** The database of docker-compose.yml and of scripts/native-postgres. */
export const LOCAL_URL = 'postgres://rekko:rekko@localhost:5433/rekko_dev?sslmode=disable'
export const EMBEDDED_FOLDER = '.rekko/data'

export type Target = NativeTarget | { kind: 'embedded'; folder: string }

export interface NativeTarget {
  kind: 'native'
  url: URL
  /** On this machine: where a mistake destroys nothing but one's own data. */
  isLocal: boolean
}

/**
 * @param databaseUrl of an administrator, from --database-url or DATABASE_URL
 * @param kind from --db or DB: embedded, docker or native
 * @throws CommandError with what to do
 */
export function toTarget(databaseUrl: string | undefined, kind: string | undefined): Target {
  if (databaseUrl === undefined && kind === 'embedded') return { kind: 'embedded', folder: EMBEDDED_FOLDER }
  if (kind !== undefined && !['embedded', 'docker', 'native'].includes(kind)) {
    throw new CommandError(`"${kind}" is no kind of database: use embedded, docker or native.`, EXIT.usage)
  }
  const url = toUrl(databaseUrl ?? LOCAL_URL)
  return { kind: 'native', url, isLocal: isThisMachine(toHost(url)) }
}

/** Where the driver goes: a parameter `host` wins over the host of the URL, and PGHOST stands in for both. */
export function toHost(url: URL): string {
  return url.searchParams.getAll('host').at(-1) || url.hostname || process.env['PGHOST'] || 'localhost'
}

function isThisMachine(host: string): boolean {
  // a path is the folder of a socket
  return ['localhost', '127.0.0.1', '::1', '[::1]'].includes(host) || host.startsWith('/')
}

function toUrl(text: string): URL {
  const url = URL.canParse(text) ? new URL(text) : null
  if (!url || !['postgres:', 'postgresql:'].includes(url.protocol) || url.pathname.length < 2) {
    // the text is not repeated: it may hold a password
    throw new CommandError(
      'The database URL must look like postgres://user:password@host:5432/database?sslmode=require.',
      EXIT.usage,
    )
  }
  return url
}

/** A name for messages, without the password. */
export function describeTarget(target: Target): string {
  if (target.kind === 'embedded') return `the embedded database in ${target.folder}`
  const { port, pathname, username } = target.url
  return `${decodeURIComponent(username)}@${toHost(target.url)}:${port || 5432}${pathname}`
}

/**
 * A pooler hands out another session for each transaction, so neither the lock of the migration runner
 * nor `set role` would hold.
 *
 * @throws CommandError when the URL is Neon's pooled one
 */
export function requireDirect(target: Target): void {
  if (isPooled(target)) {
    throw new CommandError(
      'This is a pooled connection, and this command needs a direct one: remove "-pooler" from the host name.',
      EXIT.refused,
    )
  }
}

/** Whether the URL is Neon's pooled one. */
export function isPooled(target: Target): boolean {
  return target.kind === 'native' && (toHost(target.url).split('.')[0]?.endsWith('-pooler') ?? false)
}

/** Neon, which keeps the log and the pages on machines of its own. */
export function isNeon(target: Target): boolean {
  return target.kind === 'native' && target.url.hostname.endsWith('.neon.tech')
}

/** Commands that need PostgreSQL's own programs or several sessions say so here. */
export function requireNative(target: Target, instead: string): NativeTarget {
  if (target.kind === 'native') return target
  throw new CommandError(`The embedded database cannot do this. ${instead}`, EXIT.refused)
}

/** Opens the database, does the work, and closes it whatever happens. */
export async function withConnection<Result>(
  target: Target,
  work: (connection: Connection) => Promise<Result>,
): Promise<Result> {
  const { connection, close } = await open(target)
  try {
    return await work(connection)
  } finally {
    await close()
  }
}

async function open(target: Target): Promise<{ connection: Connection; close(): Promise<void> }> {
  if (target.kind === 'embedded') {
    const embedded = await openEmbedded(target.folder)
    return { connection: connectEmbedded(embedded.pglite), close: () => embedded.close() }
  }
  try {
    const connection = await connectNative(target.url.href)
    return { connection, close: () => connection.close() }
  } catch (error) {
    throw new CommandError(explainFailure(target, error), EXIT.unreachable)
  }
}

function explainFailure(target: NativeTarget, error: unknown): string {
  const where = describeTarget(target)
  const code = error instanceof Error && 'code' in error ? String(error.code) : ''
  switch (code) {
    case 'ECONNREFUSED':
      return `Nothing answers at ${where}. Start it: make docker-up, or scripts/native-postgres start. For the embedded database: --db embedded.`
    case 'ENOTFOUND':
    case 'EAI_AGAIN':
      return `The host of ${where} is not known. Check the database URL.`
    case '28P01':
    case '28000':
      return `${where} refuses the user or the password. Check the database URL.`
    case '3D000':
      return `There is no such database: ${where}.`
    default:
      return `Cannot connect to ${where}: ${error instanceof Error ? error.message : String(error)}`
  }
}
