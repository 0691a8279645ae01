// external_id: the client's own name for a person, and what may be one. No I/O.

export const MAX_EXTERNAL_ID_LENGTH = 255
// control, format (bidirectional marks, zero width), line and paragraph separators, replacement; and fillers
// and joiners that other categories hold
const UNPRINTABLE =
  /[\p{Cc}\p{Cf}\p{Zl}\p{Zp}\ufffd]|\u034f|\u115f|\u1160|\u17b4|\u17b5|[\u180b-\u180f]|\u2800|\u3164|\uffa0/u

/** Why a text cannot be an external_id, for its author; undefined when it can. */
export function findExternalIdFault(text: string): string | undefined {
  if (!text.isWellFormed()) return 'Must be well-formed Unicode.'
  const length = [...text].length
  if (length < 1 || length > MAX_EXTERNAL_ID_LENGTH) return `Must have 1 to ${MAX_EXTERNAL_ID_LENGTH} characters.`
  if (UNPRINTABLE.test(text)) return 'Must not have control or invisible characters.'
  if (text !== text.trim()) return 'Must not begin or end with a space.'
  if (text !== text.normalize('NFC')) return 'Must be in Unicode normalization form C.'
  if (text === '.' || text === '..') return 'Must not be "." or "..": a URL cannot address them.'
  return undefined
}
