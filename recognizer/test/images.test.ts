// Proves what becomes of images of every kind, hostile ones above all, over HTTP. The images are made here; the
// detector is fake and sees one face in anything that was decoded.
import assert from 'node:assert/strict'
import { after, before, describe, it } from 'node:test'
import { crc32, deflateSync } from 'node:zlib'
import sharp from 'sharp'
import { decode } from '../src/image/decode.ts'
import { LIMITS } from '../src/limits.ts'
import { codeOf, cosine, type Service, startService, toEmbedding } from './stage.ts'

/** Four colors in four corners: no two orientations of it are alike. */
const CORNERS = Buffer.alloc(320 * 240 * 3)
for (let at = 0; at < 320 * 240; at++) {
  const isLeft = at % 320 < 160
  const isTop = at < 320 * 120
  CORNERS.set(isTop ? (isLeft ? [220, 30, 30] : [30, 220, 30]) : isLeft ? [30, 30, 220] : [220, 220, 30], at * 3)
}
const upright = () => sharp(CORNERS, { raw: { width: 320, height: 240, channels: 3 } })

describe('decoding', () => {
  const colorAt = async (bytes: Uint8Array, x: number, y: number) => {
    const { picture } = await decode(bytes, LIMITS)
    return [...picture.data.subarray((y * picture.width + x) * 3, (y * picture.width + x) * 3 + 3)]
  }
  const isNear = (color: number[], expected: number[], by = 12) =>
    assert.ok(
      color.every((value, index) => Math.abs(value - (expected[index] ?? 0)) <= by),
      `${color} is not ${expected}`,
    )

  it('applies all eight EXIF orientations', async () => {
    // how the stored picture must be turned so that the orientation makes it upright again
    const stored = {
      1: () => upright(),
      2: () => upright().flop(),
      3: () => upright().rotate(180),
      4: () => upright().flip(),
      5: () => upright().rotate(270).flop(),
      6: () => upright().rotate(270),
      7: () => upright().rotate(90).flop(),
      8: () => upright().rotate(90),
    }
    for (const [orientation, turn] of Object.entries(stored)) {
      const turned = await turn().png().toBuffer()
      const bytes = await sharp(turned)
        .withMetadata({ orientation: Number(orientation) })
        .jpeg({ quality: 95 })
        .toBuffer()
      const { width, height } = await decode(bytes, LIMITS)
      assert.deepEqual([width, height], [320, 240], orientation)
      isNear(await colorAt(bytes, 40, 40), [220, 30, 30])
      isNear(await colorAt(bytes, 280, 40), [30, 220, 30])
      isNear(await colorAt(bytes, 40, 200), [30, 30, 220])
    }
  })

  it('makes 8-bit sRGB of gray, 16-bit, CMYK, palette and transparent images', async () => {
    isNear(await colorAt(await upright().grayscale().png().toBuffer(), 280, 40), [190, 190, 190])
    isNear(await colorAt(await upright().toColourspace('rgb16').png().toBuffer(), 40, 40), [220, 30, 30])
    isNear(await colorAt(await upright().png({ palette: true }).toBuffer(), 40, 40), [220, 30, 30])
    isNear(await colorAt(await upright().toColourspace('cmyk').jpeg().toBuffer(), 40, 40), [220, 30, 30], 60)
    const clear = sharp({
      create: { width: 64, height: 64, channels: 4, background: { r: 255, g: 0, b: 0, alpha: 0 } },
    })
    isNear(await colorAt(await clear.clone().png().toBuffer(), 5, 5), [255, 255, 255])
    isNear(await colorAt(await clear.clone().webp().toBuffer(), 5, 5), [255, 255, 255])
    isNear(await colorAt(await clear.clone().grayscale().png().toBuffer(), 5, 5), [255, 255, 255])
  })

  it('takes the first page of an animation only', async () => {
    const frames = ['#f00', '#00f'].map((background) => ({
      create: { width: 64, height: 48, channels: 3 as const, background },
    }))
    const pages = await Promise.all(frames.map((frame) => sharp(frame).png().toBuffer()))
    const bytes = await sharp(pages, { join: { animated: true } })
      .webp({ lossless: true })
      .toBuffer()
    assert.equal((await sharp(bytes).metadata()).pages, 2)
    const { width, height } = await decode(bytes, LIMITS)
    assert.deepEqual([width, height], [64, 48])
    isNear(await colorAt(bytes, 5, 5), [255, 0, 0])
  })

  it('shrinks a large image, and keeps its size for the answer', async () => {
    const bytes = await sharp({ create: { width: 4000, height: 1000, channels: 3, background: '#777' } })
      .jpeg()
      .toBuffer()
    const { picture, width, height } = await decode(bytes, LIMITS)
    assert.deepEqual([picture.width, picture.height, width, height], [1600, 400, 4000, 1000])
  })
})

describe('an image', () => {
  let service: Service
  before(async () => {
    service = await startService()
  })
  after(() => service.stop())

  it('of a kind that is not taken is 415, whatever it calls itself', async () => {
    const refused: Record<string, Uint8Array> = {
      gif: await upright().gif().toBuffer(),
      tiff: await upright().tiff().toBuffer(),
      avif: await upright().avif({ effort: 0 }).toBuffer(),
      svg: Buffer.from(
        '<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"><rect width="9" height="9"/></svg>',
      ),
      pdf: Buffer.from('%PDF-1.7\n'),
      text: Buffer.from('not an image'),
      html: Buffer.from('<!doctype html><p>hello'),
      riff: Buffer.from('RIFF\x10\0\0\0WAVEfmt '),
    }
    for (const [kind, bytes] of Object.entries(refused)) {
      assert.deepEqual(await codeOf(service.analyze(bytes)), [415, 'UNSUPPORTED_MEDIA_TYPE'], kind)
    }
  })

  it('of another kind has no decoder in this process at all, should its magic bytes ever pass', async () => {
    for (const bytes of [await upright().gif().toBuffer(), await upright().tiff().toBuffer()]) {
      await assert.rejects(sharp(bytes).metadata())
    }
    await assert.rejects(
      sharp(Buffer.from('<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"/>')).metadata(),
    )
  })

  it('that is damaged is 422, and nothing of the decoder is told', async () => {
    const jpeg = await upright().jpeg().toBuffer()
    const png = await upright().png().toBuffer()
    const webp = await upright().webp().toBuffer()
    const flipped = Buffer.from(png)
    flipped[Math.floor(png.length / 2)] = (flipped[Math.floor(png.length / 2)] ?? 0) ^ 255
    const damaged: Record<string, Uint8Array> = {
      'half a JPEG': jpeg.subarray(0, jpeg.length / 2),
      'half a PNG': png.subarray(0, png.length / 2),
      'half a WebP': webp.subarray(0, webp.length / 2),
      'only a JPEG marker': Buffer.from([0xff, 0xd8, 0xff, 0xe0]),
      'only a PNG signature': png.subarray(0, 8),
      'a PNG with a flipped byte': flipped,
      'a GIF behind a PNG signature': Buffer.concat([png.subarray(0, 8), await upright().gif().toBuffer()]),
    }
    for (const [kind, bytes] of Object.entries(damaged)) {
      const response = await service.analyze(bytes)
      const text = await response.clone().text()
      assert.deepEqual(await codeOf(response), [422, 'INVALID_IMAGE'], kind)
      assert.doesNotMatch(text, /vips|png|jpe?g|libspng|buffer|\/|stack/i, kind)
    }
  })

  it('of too many pixels is 413 by its header, before they are decoded', async () => {
    const header = Buffer.alloc(13)
    header.writeUInt32BE(30_000, 0)
    header.writeUInt32BE(30_000, 4)
    header.set([8, 2, 0, 0, 0], 8)
    const bomb = Buffer.concat([
      Buffer.from([0x89, 0x50, 0x4e, 0x47, 0x0d, 0x0a, 0x1a, 0x0a]),
      chunk('IHDR', header),
      chunk('IDAT', deflateSync(Buffer.alloc(2_000_000))),
      chunk('IEND', Buffer.alloc(0)),
    ])
    const memory = process.memoryUsage.rss()
    const from = performance.now()
    assert.deepEqual(await codeOf(service.analyze(bomb)), [413, 'IMAGE_TOO_LARGE'])
    const growth = process.memoryUsage.rss() - memory
    assert.ok(growth < 200e6, `${growth} bytes more`)
    console.log(
      `a bomb of 900 million pixels: ${(performance.now() - from).toFixed(0)} ms, ${(growth / 1e6).toFixed(0)} MB`,
    )
  })

  it('gives the same embedding in every orientation', async () => {
    const embed = async (bytes: Uint8Array) => {
      const answer = (await (await service.analyze(bytes)).json()) as { faces: [{ embedding: string }] }
      return toEmbedding(answer.faces[0].embedding)
    }
    const first = await embed(await upright().jpeg({ quality: 95 }).toBuffer())
    const turned = await upright().rotate(90).png().toBuffer()
    const other = await embed(await sharp(turned).withMetadata({ orientation: 8 }).jpeg({ quality: 95 }).toBuffer())
    const unmarked = await embed(await sharp(turned).jpeg({ quality: 95 }).toBuffer())
    assert.ok(cosine(first, other) > 0.99)
    assert.ok(cosine(first, unmarked) < 0.9)
  })

  it('leaves no memory behind', async () => {
    const images = [
      await upright().jpeg().toBuffer(),
      await upright().png().toBuffer(),
      await sharp({ create: { width: 2000, height: 1500, channels: 3, background: '#999' } })
        .jpeg()
        .toBuffer(),
      Buffer.from('not an image'),
    ]
    const run = async (count: number) => {
      for (let index = 0; index < count; index++) {
        await (await service.analyze(images[index % images.length] ?? Buffer.alloc(0))).arrayBuffer()
      }
      return process.memoryUsage.rss()
    }
    const warm = await run(100)
    const growth = (await run(200)) - warm
    console.log(`200 images more: ${(growth / 1e6).toFixed(1)} MB`)
    assert.ok(growth < 60e6, `${growth} bytes more`)
  })
})

function chunk(type: string, data: Buffer): Buffer {
  const length = Buffer.alloc(4)
  length.writeUInt32BE(data.length)
  const body = Buffer.concat([Buffer.from(type), data])
  const sum = Buffer.alloc(4)
  sum.writeUInt32BE(crc32(body))
  return Buffer.concat([length, body, sum])
}
