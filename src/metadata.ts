// metadata: what a client may keep with a face. No I/O.

const MAX_METADATA_BYTES = 8 * 1024

/** Why an object cannot be kept as metadata, for its author; undefined when it can. Its depth is bounded already. */
export function findMetadataFault(metadata: object): string | undefined {
  if (!isStorable(metadata)) return 'Must have only finite numbers and well-formed text without NUL.'
  const byteLength = new TextEncoder().encode(JSON.stringify(metadata)).length
  return byteLength > MAX_METADATA_BYTES ? `Must take at most ${MAX_METADATA_BYTES} bytes.` : undefined
}

/** What PostgreSQL's jsonb takes, and gives back as it was. */
function isStorable(value: unknown): boolean {
  if (typeof value === 'string') return value.isWellFormed() && !value.includes('\0')
  if (typeof value === 'number') return Number.isFinite(value)
  if (typeof value !== 'object' || value === null) return true
  return Object.entries(value).every(([key, item]) => isStorable(key) && isStorable(item))
}
