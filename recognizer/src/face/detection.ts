// Faces out of the raw outputs of a YuNet-shaped detector. No I/O.
import { clamp, type Point } from './picture.ts'

/** In pixels of the picture that was looked at. Right and left are the person's own. */
export interface Face {
  x: number
  y: number
  width: number
  height: number
  score: number
  landmarks: Landmarks
}

export interface Landmarks {
  rightEye: Point
  leftEye: Point
  nose: Point
  rightMouth: Point
  leftMouth: Point
}

export const STRIDES = [8, 16, 32] as const
/** What the network gives for each cell of a stride: name and numbers per cell. */
export const HEADS = { cls: 1, obj: 1, bbox: 4, kps: 10 } as const

export type DetectorOutputs = Record<string, Float32Array>

/** A picture made to have a candidate in every cell would cost the square of their number. */
const MAX_CANDIDATES = 1000

/**
 * @param outputs `cls_8` to `kps_32`, a row per cell
 * @param width of the network's input, a multiple of 32; the canvas is that large
 * @param thresholds score: faces below are dropped; nms: of two that overlap more, the weaker is dropped
 * @returns best first, in pixels of the network's input
 */
export function toFaces(outputs: DetectorOutputs, width: number, thresholds: { score: number; nms: number }): Face[] {
  const candidates = STRIDES.flatMap((stride) => toCandidates(outputs, stride, width / stride, thresholds.score))
  return dropOverlaps(candidates, thresholds.nms)
}

function toCandidates(outputs: DetectorOutputs, stride: number, columns: number, minScore: number): Face[] {
  const heads = (name: keyof typeof HEADS): Float32Array => {
    const head = outputs[`${name}_${stride}`]
    if (!head) throw new RangeError(`the detector has no output ${name}_${stride}`)
    return head
  }
  const [cls, obj, bbox, kps] = [heads('cls'), heads('obj'), heads('bbox'), heads('kps')]
  const faces: Face[] = []
  for (let cell = 0; cell < cls.length; cell++) {
    const score = Math.sqrt(clamp(cls[cell] ?? 0, 0, 1) * clamp(obj[cell] ?? 0, 0, 1))
    // written so that NaN is no face
    if (!(score >= minScore)) continue
    const column = cell % columns
    const row = Math.floor(cell / columns)
    const [dx = 0, dy = 0, dw = 0, dh = 0] = bbox.subarray(cell * 4, cell * 4 + 4)
    const width = Math.exp(dw) * stride
    const height = Math.exp(dh) * stride
    const point = (index: number): Point => [
      ((kps[cell * 10 + index * 2] ?? 0) + column) * stride,
      ((kps[cell * 10 + index * 2 + 1] ?? 0) + row) * stride,
    ]
    faces.push({
      x: (column + dx) * stride - width / 2,
      y: (row + dy) * stride - height / 2,
      width,
      height,
      score,
      landmarks: {
        rightEye: point(0),
        leftEye: point(1),
        nose: point(2),
        rightMouth: point(3),
        leftMouth: point(4),
      },
    })
  }
  return faces
}

/** Non-maximum suppression. @returns best first */
export function dropOverlaps(faces: Face[], maxOverlap: number): Face[] {
  const kept: Face[] = []
  for (const face of faces.toSorted((one, other) => other.score - one.score).slice(0, MAX_CANDIDATES)) {
    if (kept.every((better) => overlap(face, better) <= maxOverlap)) kept.push(face)
  }
  return kept
}

/** Intersection over union. */
function overlap(one: Face, other: Face): number {
  const width = Math.min(one.x + one.width, other.x + other.width) - Math.max(one.x, other.x)
  const height = Math.min(one.y + one.height, other.y + other.height) - Math.max(one.y, other.y)
  if (width <= 0 || height <= 0) return 0
  const shared = width * height
  return shared / (one.width * one.height + other.width * other.height - shared)
}

/** @param factor pixels of the target per pixel of the present scale */
export function scaleFace(face: Face, factor: number): Face {
  const scale = ([x, y]: Point): Point => [x * factor, y * factor]
  const { rightEye, leftEye, nose, rightMouth, leftMouth } = face.landmarks
  return {
    x: face.x * factor,
    y: face.y * factor,
    width: face.width * factor,
    height: face.height * factor,
    score: face.score,
    landmarks: {
      rightEye: scale(rightEye),
      leftEye: scale(leftEye),
      nose: scale(nose),
      rightMouth: scale(rightMouth),
      leftMouth: scale(leftMouth),
    },
  }
}
