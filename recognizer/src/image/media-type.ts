// What kind of image bytes are, by their magic numbers: a Content-Type or a file's name is only a claim. No I/O.

export type MediaType = 'image/jpeg' | 'image/png' | 'image/webp'

const PNG = [0x89, 0x50, 0x4e, 0x47, 0x0d, 0x0a, 0x1a, 0x0a]
const JPEG = [0xff, 0xd8, 0xff]
const RIFF = [0x52, 0x49, 0x46, 0x46]
const WEBP = [0x57, 0x45, 0x42, 0x50]

/** @returns null for everything else: no other decoder is ever run */
export function findMediaType(bytes: Uint8Array): MediaType | null {
  if (hasAt(bytes, 0, JPEG)) return 'image/jpeg'
  if (hasAt(bytes, 0, PNG)) return 'image/png'
  if (hasAt(bytes, 0, RIFF) && hasAt(bytes, 8, WEBP)) return 'image/webp'
  return null
}

function hasAt(bytes: Uint8Array, offset: number, magic: number[]): boolean {
  return magic.every((byte, index) => bytes[offset + index] === byte)
}
