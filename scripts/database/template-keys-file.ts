// The file that carries template keys from one vault to another: wrapped, as they lie there. It stands apart from the
// dump of the faces, and is to be kept apart from it.
import { createHash } from 'node:crypto'
import { mkdir, readFile } from 'node:fs/promises'
import { dirname } from 'node:path'
import * as z from 'zod'
import { toMasterNumber } from '../../src/face/protection/data-secret.ts'
import { fromBase64, toBase64 } from '../../src/face/protection/octets.ts'
import { createPartial, syncFolder, writeWhole } from './durable-file.ts'
import { parseJson, sizeOf } from './manifest.ts'
import type { StoredTemplateKey } from './template-keys.ts'
import { CommandError, EXIT } from './terminal.ts'

const FORMAT = 'rekko-template-keys'
const FORMAT_VERSION = 1
/** About 400,000 keys. */
const MAX_BYTES = 128 * 1024 * 1024

const U16 = z.int().min(0).max(65_535)

const Entry = z
  .strictObject({
    tenant_id: z.string().regex(/^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/),
    version: U16.min(1),
    /** The number of the master key that wraps it; null for a key that was destroyed. */
    master_key: U16.nullable(),
    /** Base64 of 63 bytes; null for a key that was destroyed, so that a restore does not bring it back. */
    wrapped: z
      .string()
      .regex(/^[A-Za-z0-9+/]{84}$/)
      .nullable(),
    created_at: z.iso.datetime(),
    destroyed_at: z.iso.datetime().nullable(),
  })
  .refine(({ wrapped, destroyed_at }) => (wrapped === null) === (destroyed_at !== null), {
    error: 'a key is live or destroyed, and not both',
  })
  .refine(({ wrapped, master_key }) => master_key === (wrapped === null ? null : toMasterNumber(fromBase64(wrapped))), {
    error: 'master_key is not the number that the wrapped key says',
  })
type Entry = z.infer<typeof Entry>

const KeyFile = z.strictObject({
  format: z.literal(FORMAT),
  format_version: z.literal(FORMAT_VERSION),
  made_at: z.iso.datetime(),
  database: z.string(),
  /** Of the keys, as `checksumOf` writes them. */
  sha256: z.string().regex(/^[0-9a-f]{64}$/),
  keys: z.array(Entry),
})

/** @throws CommandError when the file exists */
export async function requireNewFile(file: string): Promise<void> {
  if ((await sizeOf(file)) === null) return
  throw new CommandError(`${file} exists, and a backup is not overwritten. Choose another name.`, EXIT.refused)
}

/**
 * @param file refused when it exists
 * @param database the name of the one that the keys are of
 */
export async function writeTemplateKeys(
  file: string,
  database: string,
  keys: readonly StoredTemplateKey[],
): Promise<void> {
  await requireNewFile(file)
  const entries = keys.map(toEntry)
  const content: z.infer<typeof KeyFile> = {
    format: FORMAT,
    format_version: FORMAT_VERSION,
    made_at: new Date().toISOString(),
    database,
    sha256: checksumOf(entries),
    keys: entries,
  }
  await mkdir(dirname(file), { recursive: true })
  await createPartial(`${file}.partial`)
  await writeWhole(file, `${JSON.stringify(content, null, 2)}\n`)
  await syncFolder(file)
}

/** @throws CommandError when it is missing, of another format, or not what `dump --template-keys` writes */
export async function readTemplateKeys(file: string): Promise<StoredTemplateKey[]> {
  const size = await sizeOf(file)
  if (size === null) throw new CommandError(`${file} does not exist.`, EXIT.usage)
  if (size > MAX_BYTES) throw new CommandError(`${file} is not a file of template keys: it has ${size} bytes.`)
  const content = parseJson(await readFile(file, 'utf8'))
  const head = z.object({ format: z.literal(FORMAT), format_version: z.int() }).safeParse(content)
  if (!head.success) {
    throw new CommandError(`${file} is not a file of template keys that scripts/db.sh dump --template-keys made.`)
  }
  if (head.data.format_version !== FORMAT_VERSION) {
    throw new CommandError(
      `${file} is of format ${head.data.format_version}, and this release reads format ${FORMAT_VERSION}. ` +
        'Restore with the release that made it.',
    )
  }
  const parsed = KeyFile.safeParse(content)
  // what is wrong and where, never what stands there
  if (!parsed.success) throw new CommandError(`${file} is damaged: ${z.prettifyError(parsed.error).slice(0, 1_000)}`)
  const { keys, sha256 } = parsed.data
  if (checksumOf(keys) !== sha256) {
    throw new CommandError(`${file} was changed since it was made: the SHA-256 of its keys differs.`)
  }
  if (new Set(keys.map(nameOf)).size < keys.length) {
    throw new CommandError(`${file} is damaged: it has a key of the same tenant and version twice.`)
  }
  return keys.map(toStored)
}

function nameOf({ tenant_id, version }: Entry): string {
  return `${tenant_id} ${version}`
}

/** SHA-256, hexadecimal, of JSON: an array of each key's values, however the file spells and orders their names. */
function checksumOf(entries: readonly Entry[]): string {
  const values = entries.map((entry) => [
    entry.tenant_id,
    entry.version,
    entry.master_key,
    entry.wrapped,
    entry.created_at,
    entry.destroyed_at,
  ])
  return createHash('sha256').update(JSON.stringify(values)).digest('hex')
}

function toEntry({ tenantId, version, wrapped, createdAt, destroyedAt }: StoredTemplateKey): Entry {
  return {
    tenant_id: tenantId,
    version,
    master_key: wrapped && toMasterNumber(wrapped),
    wrapped: wrapped && toBase64(wrapped),
    created_at: createdAt.toISOString(),
    destroyed_at: destroyedAt?.toISOString() ?? null,
  }
}

function toStored(entry: Entry): StoredTemplateKey {
  return {
    tenantId: entry.tenant_id,
    version: entry.version,
    wrapped: entry.wrapped === null ? null : fromBase64(entry.wrapped),
    createdAt: new Date(entry.created_at),
    destroyedAt: entry.destroyed_at === null ? null : new Date(entry.destroyed_at),
  }
}
