// What somebody calls a tenant, or a key: for people to read, and never looked anything up by in the API. No I/O.

export const MAX_NAME_LENGTH = 255

/** Why a text cannot be a name, for its author; undefined when it can. */
export function findNameFault(text: string): string | undefined {
  const length = [...text].length
  if (length < 1 || length > MAX_NAME_LENGTH) return `Must have 1 to ${MAX_NAME_LENGTH} characters.`
  if (!text.isWellFormed() || /[\p{Cc}\ufffd]/u.test(text)) {
    return 'Must be well-formed Unicode without control characters.'
  }
  if (text !== text.trim()) return 'Must not begin or end with a space.'
  return undefined
}
