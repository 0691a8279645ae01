// Pictures as numbers, and the ways to sample them. No I/O.

/** 8-bit RGB, interleaved, row by row. */
export interface Picture {
  data: Uint8Array
  width: number
  height: number
}

/** Three planes (red, green, blue) of width * height samples, 0 to 255. */
export interface Planes {
  data: Float32Array
  width: number
  height: number
}

export type Point = readonly [x: number, y: number]

/** Maps a point of a crop to one of the picture: x' = a x - b y + x0, y' = b x + a y + y0. */
export interface Similarity {
  a: number
  b: number
  x0: number
  y0: number
}

/** More samples per axis than this change an embedding by nothing that can be measured. */
const MAX_CROP_SAMPLES = 2

/**
 * Shrinks a picture into the upper left corner of a black square, as OpenCV's `resize` does by default (bilinear,
 * one sample): detectors are trained on it, and find their landmarks up to 5 % of a face elsewhere in a picture
 * that was smoothed.
 *
 * @param scale pixels of the canvas per pixel of the picture, at most 1
 */
export function shrink(picture: Picture, scale: number, size: number): Planes {
  const { data: source } = picture
  const width = Math.min(size, Math.round(picture.width * scale))
  const height = Math.min(size, Math.round(picture.height * scale))
  const columns = neighbors(width, picture.width)
  const rows = neighbors(height, picture.height)
  const plane = size * size
  const planes = new Float32Array(plane * 3)
  for (let y = 0; y < height; y++) {
    // every index below is inside: neighbors were made from the picture's own size
    const above = (rows.first[y] as number) * picture.width * 3
    const below = (rows.second[y] as number) * picture.width * 3
    const down = rows.weight[y] as number
    for (let x = 0; x < width; x++) {
      const left = (columns.first[x] as number) * 3
      const right = (columns.second[x] as number) * 3
      const across = columns.weight[x] as number
      let to = y * size + x
      for (let channel = 0; channel < 3; channel++, to += plane) {
        const top = mix(source[above + left + channel] as number, source[above + right + channel] as number, across)
        const bottom = mix(source[below + left + channel] as number, source[below + right + channel] as number, across)
        planes[to] = mix(top, bottom, down)
      }
    }
  }
  return { data: planes, width: size, height: size }
}

function neighbors(length: number, sourceLength: number) {
  const first = new Int32Array(length)
  const second = new Int32Array(length)
  const weight = new Float32Array(length)
  for (let index = 0; index < length; index++) {
    const at = clamp(((index + 0.5) * sourceLength) / length - 0.5, 0, sourceLength - 1)
    first[index] = Math.floor(at)
    second[index] = Math.min(sourceLength - 1, Math.floor(at) + 1)
    weight[index] = at - Math.floor(at)
  }
  return { first, second, weight }
}

function mix(one: number, other: number, share: number): number {
  return one + (other - one) * share
}

/**
 * Cuts a square out of a picture, turned and scaled; what lies outside the picture is black.
 *
 * @param toPicture where a pixel of the crop lies in the picture
 */
export function cropAligned(picture: Picture, toPicture: Similarity, size: number): Planes {
  const { a, b, x0, y0 } = toPicture
  // a pixel of the crop that covers several of the picture is their mean: one sample alone would be noise
  const samples = Math.max(1, Math.min(MAX_CROP_SAMPLES, Math.round(Math.hypot(a, b))))
  const plane = size * size
  const planes = new Float32Array(plane * 3)
  const sample = new Float64Array(3)
  for (let y = 0; y < size; y++) {
    for (let x = 0; x < size; x++) {
      sample.fill(0)
      for (let j = 0; j < samples; j++) {
        const v = y + (j + 0.5) / samples - 0.5
        for (let i = 0; i < samples; i++) {
          const u = x + (i + 0.5) / samples - 0.5
          addBilinear(picture, a * u - b * v + x0, b * u + a * v + y0, sample)
        }
      }
      store(planes, y * size + x, plane, sample, samples * samples)
    }
  }
  return { data: planes, width: size, height: size }
}

/** @returns 1 for each pixel of such a crop that lies in the picture, 0 for what is black because it does not */
export function toMask({ width, height }: Picture, { a, b, x0, y0 }: Similarity, size: number): Uint8Array {
  const mask = new Uint8Array(size * size)
  for (let y = 0; y < size; y++) {
    for (let x = 0; x < size; x++) {
      const u = a * x - b * y + x0
      const v = b * x + a * y + y0
      if (u >= 0 && v >= 0 && u <= width - 1 && v <= height - 1) mask[y * size + x] = 1
    }
  }
  return mask
}

/**
 * Stretches a rectangle of a picture to a square, as OpenCV's `resize` does by default (bilinear, one sample):
 * the networks that take such crops were trained on it.
 */
export function cropStretched(
  picture: Picture,
  box: { left: number; top: number; right: number; bottom: number },
  size: number,
): Planes {
  const plane = size * size
  const planes = new Float32Array(plane * 3)
  const sample = new Float64Array(3)
  const stepX = (box.right - box.left) / size
  const stepY = (box.bottom - box.top) / size
  for (let y = 0; y < size; y++) {
    const v = clamp((y + 0.5) * stepY - 0.5, 0, box.bottom - box.top - 1) + box.top
    for (let x = 0; x < size; x++) {
      const u = clamp((x + 0.5) * stepX - 0.5, 0, box.right - box.left - 1) + box.left
      sample.fill(0)
      addBilinear(picture, u, v, sample)
      store(planes, y * size + x, plane, sample, 1)
    }
  }
  return { data: planes, width: size, height: size }
}

/** Adds the picture's color at a point between its pixels; beyond the picture there is black. */
function addBilinear({ data, width, height }: Picture, x: number, y: number, sum: Float64Array): void {
  const left = Math.floor(x)
  const top = Math.floor(y)
  if (left < -1 || top < -1 || left >= width || top >= height) return
  // a neighbor beyond the edge weighs nothing, and is read from inside
  const west = left >= 0 ? 1 - (x - left) : 0
  const east = left + 1 < width ? x - left : 0
  const north = top >= 0 ? 1 - (y - top) : 0
  const south = top + 1 < height ? y - top : 0
  const above = (top >= 0 ? top : 0) * width
  const below = (top + 1 < height ? top + 1 : top) * width
  const first = left >= 0 ? left : 0
  const second = left + 1 < width ? left + 1 : left
  const nw = (above + first) * 3
  const ne = (above + second) * 3
  const sw = (below + first) * 3
  const se = (below + second) * 3
  for (let channel = 0; channel < 3; channel++) {
    sum[channel] =
      // inside, see above
      (sum[channel] as number) +
      (west * (data[nw + channel] as number) + east * (data[ne + channel] as number)) * north +
      (west * (data[sw + channel] as number) + east * (data[se + channel] as number)) * south
  }
}

function store(planes: Float32Array, to: number, plane: number, sum: Float64Array, samples: number): void {
  for (let channel = 0; channel < 3; channel++) planes[to + channel * plane] = (sum[channel] as number) / samples
}

/** How a network wants its pixels: the order of the planes, and (x - mean) / std. */
export interface PixelFormat {
  channels: 'RGB' | 'BGR'
  mean: number
  std: number
}

/** @returns the numbers a network takes; the planes themselves when nothing has to change */
export function toNetworkInput({ data }: Planes, { channels, mean, std }: PixelFormat): Float32Array {
  if (channels === 'RGB' && mean === 0 && std === 1) return data
  const plane = data.length / 3
  const input = new Float32Array(data.length)
  for (let channel = 0; channel < 3; channel++) {
    const from = (channels === 'RGB' ? channel : 2 - channel) * plane
    const to = channel * plane
    if (mean === 0 && std === 1) {
      input.set(data.subarray(from, from + plane), to)
      continue
    }
    for (let index = 0; index < plane; index++) input[to + index] = ((data[from + index] as number) - mean) / std
  }
  return input
}

export function clamp(value: number, low: number, high: number): number {
  return Math.min(high, Math.max(low, value))
}
