// From hostile bytes to a picture: the only file that speaks to the decoders.
import sharp from 'sharp'
import type { Picture } from '../face/picture.ts'
import { type Limits, WORKING_SIDE_PX } from '../limits.ts'
import { Refusal } from '../refusal.ts'
import { findMediaType } from './media-type.ts'

// libvips picks a decoder by its own look at the bytes; all but these three are switched off for the process
sharp.block({ operation: ['VipsForeignLoad'] })
sharp.unblock({
  operation: ['VipsForeignLoadJpegBuffer', 'VipsForeignLoadPngBuffer', 'VipsForeignLoadWebpBuffer'],
})
// nothing is decoded twice, so a cache only keeps pictures of people in memory
sharp.cache(false)
// one analysis has one core: a pool of threads per image would make each of them slower
sharp.concurrency(1)

/** Whatever decoding costs, it is over after this. libvips counts in whole seconds. */
const DECODE_SECONDS = 5

export interface Decoded {
  /** Shrunk so that its longer side is at most `WORKING_SIDE_PX`. */
  picture: Picture
  /** Of the image as it was sent, EXIF orientation applied. */
  width: number
  height: number
}

/**
 * Decodes the first page as 8-bit sRGB, the EXIF orientation applied and transparency flattened on white.
 *
 * @throws Refusal UNSUPPORTED_MEDIA_TYPE, IMAGE_TOO_LARGE or INVALID_IMAGE, never a decoder's own error
 */
export async function decode(bytes: Uint8Array, limits: Limits): Promise<Decoded> {
  if (!findMediaType(bytes)) throw new Refusal('UNSUPPORTED_MEDIA_TYPE')
  // the header alone, without the limit: a decoder's message would have to be parsed to tell size from damage
  const header = await sharp(bytes, { limitInputPixels: false, pages: 1 })
    .metadata()
    .catch(() => {
      throw new Refusal('INVALID_IMAGE')
    })
  const { width, height } = header.autoOrient
  if (width * height > limits.maxPixels) {
    throw new Refusal('IMAGE_TOO_LARGE', `The image has more than ${limits.maxPixels} pixels.`)
  }

  let pipeline = sharp(bytes, { limitInputPixels: limits.maxPixels, failOn: 'error', pages: 1 })
    .timeout({ seconds: DECODE_SECONDS })
    .autoOrient()
  if (width > WORKING_SIDE_PX || height > WORKING_SIDE_PX) {
    pipeline = pipeline.resize(WORKING_SIDE_PX, WORKING_SIDE_PX, { fit: 'inside' })
  }
  if (header.hasAlpha) pipeline = pipeline.flatten({ background: '#fff' })
  const { data, info } = await pipeline
    .toColourspace('srgb')
    .raw({ depth: 'uchar' })
    .toBuffer({ resolveWithObject: true })
    .catch(() => {
      throw new Refusal('INVALID_IMAGE')
    })
  return { picture: toPicture(data, info.width, info.height, info.channels), width, height }
}

function toPicture(data: Uint8Array, width: number, height: number, channels: number): Picture {
  if (channels === 3) return { data, width, height }
  // gray stays one channel in libvips
  if (channels !== 1) throw new Refusal('INVALID_IMAGE')
  const rgb = new Uint8Array(width * height * 3)
  for (let index = 0, at = 0; index < data.length; index++, at += 3) rgb.fill(data[index] ?? 0, at, at + 3)
  return { data: rgb, width, height }
}
