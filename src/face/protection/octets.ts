// How PT1 writes names and numbers as bytes: big-endian integers, raw uuids, texts behind their length; and bytes as
// text, for JSON and for the database. No I/O.

export type Octets = Uint8Array<ArrayBuffer>

const UUID = /^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$/
const MAX_U16 = 0xffff
const encoder = new TextEncoder()

export function concatenate(...parts: readonly Uint8Array[]): Octets {
  let length = 0
  for (const part of parts) length += part.length
  const whole = new Uint8Array(length)
  let at = 0
  for (const part of parts) {
    whole.set(part, at)
    at += part.length
  }
  return whole
}

export function utf8(text: string): Octets {
  // the types allow any buffer; TextEncoder makes a new one, which nobody shares (Encoding Standard, 8.2)
  return encoder.encode(text) as Octets
}

/** A label and the NUL that ends it, so that no label is the beginning of another. */
export function label(text: string): Octets {
  return utf8(`${text}\0`)
}

/** @throws RangeError for what two bytes cannot hold: a defect of ours */
export function u16(value: number): Octets {
  if (!isU16(value)) throw new RangeError('a number that must fit two bytes does not')
  const bytes = new Uint8Array(2)
  bytes[0] = value >> 8
  bytes[1] = value
  return bytes
}

export function isU16(value: number): boolean {
  return Number.isInteger(value) && value >= 0 && value <= MAX_U16
}

/** @throws RangeError for anything but the one spelling that PostgreSQL and randomUUID have (RFC 9562, lower case) */
export function uuid(text: string): Octets {
  if (!UUID.test(text)) throw new RangeError('a uuid is not in canonical form')
  const digits = text.replaceAll('-', '')
  const bytes = new Uint8Array(16)
  // no slices and no parseInt: a search does this twice for each candidate
  for (let index = 0; index < 16; index++) {
    bytes[index] = (toNibble(digits, 2 * index) << 4) | toNibble(digits, 2 * index + 1)
  }
  return bytes
}

/** Of a digit that UUID has seen: 0 to 9 or a to f. */
function toNibble(digits: string, at: number): number {
  const code = digits.charCodeAt(at)
  return code <= 0x39 ? code - 0x30 : code - 0x61 + 10
}

/**
 * lp(x): UTF-8 in NFC behind its length, so that two texts in a row cannot be cut in two ways.
 *
 * @throws RangeError for a lone surrogate, which would be written as U+FFFD and make two texts one; and for more
 *   than 65,535 bytes
 */
export function prefixed(text: string): Octets {
  if (!text.isWellFormed()) throw new RangeError('a text is not well-formed Unicode')
  const bytes = utf8(text.normalize('NFC'))
  return concatenate(u16(bytes.length), bytes)
}

/** RFC 4648, section 4. */
export function toBase64(bytes: Uint8Array): string {
  let text = ''
  for (const byte of bytes) text += String.fromCharCode(byte)
  return btoa(text)
}

/**
 * Also what PostgreSQL writes, which breaks its lines.
 *
 * @throws DOMException for what is not base64
 */
export function fromBase64(text: string): Octets {
  const characters = atob(text)
  // a loop: through an iterator a sealed copy takes as long as half a rotation
  const bytes = new Uint8Array(characters.length)
  for (let index = 0; index < bytes.length; index++) bytes[index] = characters.charCodeAt(index)
  return bytes
}

/** Little-endian, four bytes each; what is left over is not read. */
export function toFloat32s(bytes: Uint8Array): Float32Array {
  const view = new DataView(bytes.buffer, bytes.byteOffset)
  const numbers = new Float32Array(Math.floor(bytes.length / 4))
  for (let index = 0; index < numbers.length; index++) numbers[index] = view.getFloat32(index * 4, true)
  return numbers
}
