// Cursors of lists: where the next page begins, bound to the tenant, the list and its filter, so that a
// cursor from elsewhere is refused instead of answering another list's rows.

const MAC_BYTES = 16

/**
 * @param key signs; the same for all instances of the service
 * @param list what the cursor is good for: tenant, name of the list, filter
 * @param position strings that the list's query continues from
 * @returns at most 1,500 characters of base64url
 */
export async function toCursor(key: CryptoKey, list: readonly unknown[], position: readonly string[]): Promise<string> {
  const text = new TextEncoder().encode(JSON.stringify(position))
  const mac = await crypto.subtle.sign('HMAC', key, signedBytes(list, text))
  return toBase64Url(new Uint8Array([...new Uint8Array(mac, 0, MAC_BYTES), ...text]))
}

/** @returns the position, or null when the cursor was not made for this list */
export async function findPosition(key: CryptoKey, list: readonly unknown[], cursor: string): Promise<string[] | null> {
  const bytes = fromBase64Url(cursor)
  if (!bytes || bytes.length <= MAC_BYTES) return null
  const text = bytes.subarray(MAC_BYTES)
  const mac = new Uint8Array(await crypto.subtle.sign('HMAC', key, signedBytes(list, text)))
  let difference = 0
  for (let index = 0; index < MAC_BYTES; index++) difference |= (mac[index] ?? 0) ^ (bytes[index] ?? 0)
  if (difference !== 0) return null
  // signed by us: it is what toCursor was given
  return JSON.parse(new TextDecoder().decode(text)) as string[]
}

/** The label keeps these apart from API keys, which are hashed under the same key and begin with rk_. */
function signedBytes(list: readonly unknown[], text: Uint8Array): Uint8Array<ArrayBuffer> {
  const label = new TextEncoder().encode(`cursor\0${JSON.stringify(list)}\0`)
  const bytes = new Uint8Array(label.length + text.length)
  bytes.set(label)
  bytes.set(text, label.length)
  return bytes
}

function toBase64Url(bytes: Uint8Array): string {
  return btoa(String.fromCharCode(...bytes))
    .replaceAll('+', '-')
    .replaceAll('/', '_')
    .replaceAll('=', '')
}

function fromBase64Url(text: string): Uint8Array | null {
  try {
    const binary = atob(text.replaceAll('-', '+').replaceAll('_', '/'))
    return Uint8Array.from(binary, (character) => character.charCodeAt(0))
  } catch {
    return null
  }
}
