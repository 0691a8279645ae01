// metadata: what a client may keep with a face. No I/O.

const MAX_METADATA_BYTES = 8 * 1024

/** Why an object cannot be kept as metadata, for its author; undefined when it can. Its depth is bounded already. */
export function findMetadataFault(metadata: object): string | undefined {
  if (!isStorable(metadata)) {
    return 'Must have only well-formed text without NUL, and numbers of at most 2^53 - 1 and at least 1e-15, or 0.'
  }
  const byteLength = new TextEncoder().encode(JSON.stringify(metadata)).length
  return byteLength > MAX_METADATA_BYTES ? `Must take at most ${MAX_METADATA_BYTES} bytes.` : undefined
}

// jsonb writes a number out in full: 1e308 takes 309 digits, and a face of 8 KiB would be read as 360 KiB
const SMALLEST_NUMBER = 1e-15

/** What PostgreSQL's jsonb takes, and gives back as it was. */
function isStorable(value: unknown): boolean {
  if (typeof value === 'string') return value.isWellFormed() && !value.includes('\0')
  if (typeof value === 'number') {
    const magnitude = Math.abs(value)
    return magnitude <= Number.MAX_SAFE_INTEGER && (magnitude === 0 || magnitude >= SMALLEST_NUMBER)
  }
  if (typeof value !== 'object' || value === null) return true
  return Object.entries(value).every(([key, item]) => isStorable(key) && isStorable(item))
}
