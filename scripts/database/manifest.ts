// What stands beside a dump: where it comes from and what must be in the database that is restored from it.
import { createHash } from 'node:crypto'
import { createReadStream } from 'node:fs'
import { readFile, stat } from 'node:fs/promises'
import * as z from 'zod'
import { VAULT } from './inventory.ts'
import { CommandError, EXIT } from './terminal.ts'

const FORMAT = 'rekko-backup'
const FORMAT_VERSION = 1
/** About 200,000 tenants. */
const MAX_MANIFEST_BYTES = 128 * 1024 * 1024

const Count = z.int().nonnegative()

const Manifest = z.strictObject({
  format: z.literal(FORMAT),
  format_version: z.literal(FORMAT_VERSION),
  made_at: z.iso.datetime(),
  database: z.string(),
  postgresql: z.string(),
  /** Null where the extension is not installed. */
  pgvector: z.string().nullable(),
  pg_dump: z.string(),
  schema: z.strictObject({ version: Count, dirty: z.boolean() }),
  /** The administrator had prepared it: roles and grants on the schema are part of what is restored. */
  is_bootstrapped: z.boolean(),
  dump: z.strictObject({ size_bytes: Count, sha256: z.string().regex(/^[0-9a-f]{64}$/) }),
  tables: z.record(
    z.string(),
    z.strictObject({
      rows: Count,
      checksum: z.string().regex(/^-?[0-9]+$/),
      tenants: z.record(z.string(), Count).nullable(),
    }),
  ),
  /** Tables, policies, FORCE flags, owners, grants and the rest, as describeCatalog tells them. */
  catalog: z.array(z.string()),
})
export type Manifest = z.infer<typeof Manifest>

export function toManifest(facts: Omit<Manifest, 'format' | 'format_version'>): Manifest {
  return { format: FORMAT, format_version: FORMAT_VERSION, ...facts }
}

export function manifestOf(file: string): string {
  return `${file}.manifest.json`
}

/** Whether the database that was dumped had the vault, whose rows the dump does not hold. */
export function hasVault({ catalog }: Manifest): boolean {
  return catalog.some((line) => line.startsWith(`schema ${VAULT} `))
}

/** @throws CommandError when it is missing, of another format, or not what `dump` writes */
export async function readManifest(file: string): Promise<Manifest> {
  const path = manifestOf(file)
  const size = await sizeOf(path)
  if (size === null) {
    throw new CommandError(
      `${path} is missing: without it nobody can tell whether the dump is whole. Put it back beside the dump.`,
    )
  }
  if (size > MAX_MANIFEST_BYTES) throw new CommandError(`${path} is not a manifest: it has ${size} bytes.`)
  const content = parseJson(await readFile(path, 'utf8'))
  const head = z.object({ format: z.literal(FORMAT), format_version: z.int() }).safeParse(content)
  if (!head.success) throw new CommandError(`${path} is not the manifest of a dump that scripts/db.sh made.`)
  if (head.data.format_version !== FORMAT_VERSION) {
    throw new CommandError(
      `${path} is of format ${head.data.format_version}, and this release reads format ${FORMAT_VERSION}. ` +
        'Restore with the release that made the dump.',
    )
  }
  const manifest = Manifest.safeParse(content)
  if (!manifest.success) throw new CommandError(`${path} is damaged: ${z.prettifyError(manifest.error)}`)
  return manifest.data
}

/** @throws CommandError unless the dump is, byte for byte, the one of the manifest */
export async function verifyDump(file: string, { dump }: Manifest): Promise<void> {
  const size = await sizeOf(file)
  if (size === null) throw new CommandError(`${file} does not exist.`, EXIT.usage)
  if (size !== dump.size_bytes) {
    const how = size < dump.size_bytes ? 'truncated' : 'too long'
    throw new CommandError(`${file} is ${how}: ${size} bytes instead of ${dump.size_bytes}. Nothing was restored.`)
  }
  if ((await checksumOfFile(file)) !== dump.sha256) {
    throw new CommandError(`${file} was changed since it was made: its SHA-256 differs. Nothing was restored.`)
  }
}

/** SHA-256, hexadecimal. */
export async function checksumOfFile(file: string): Promise<string> {
  const hash = createHash('sha256')
  // a stream without an encoding yields buffers
  for await (const chunk of createReadStream(file)) hash.update(chunk as Buffer)
  return hash.digest('hex')
}

/** Null when there is no such file. */
export async function sizeOf(path: string): Promise<number | null> {
  return stat(path).then(
    (stats) => (stats.isFile() ? stats.size : null),
    () => null,
  )
}

/** Null for what is not JSON. */
export function parseJson(text: string): unknown {
  try {
    return JSON.parse(text)
  } catch {
    return null
  }
}
