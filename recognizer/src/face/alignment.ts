// Where a face lies in the square that the recognizer was trained on. No I/O.
import type { Landmarks } from './detection.ts'
import type { Point, Similarity } from './picture.ts'

/** The side of the square in pixels. */
export const ALIGNED_SIZE = 112

/** Where ArcFace-like recognizers expect the five points (insightface's `arcface_dst`). */
const TEMPLATE: readonly Point[] = [
  [38.2946, 51.6963],
  [73.5318, 51.5014],
  [56.0252, 71.7366],
  [41.5493, 92.3655],
  [70.7299, 92.2041],
]

/**
 * The similarity (turn, scale, shift; no reflection) that brings the landmarks closest to the template,
 * least squares: Umeyama's, which in the plane is one complex division. It is returned backwards, from the
 * square to the picture, as sampling needs it.
 *
 * @throws RangeError when all landmarks are one point
 */
export function alignFace(landmarks: Landmarks): Similarity {
  const { rightEye, leftEye, nose, rightMouth, leftMouth } = landmarks
  const points = [rightEye, leftEye, nose, rightMouth, leftMouth]
  const from = mean(points)
  const to = mean(TEMPLATE)
  let real = 0
  let imaginary = 0
  let spread = 0
  for (const [index, [x, y]] of points.entries()) {
    const [u, v] = TEMPLATE[index] ?? to
    const [px, py, tu, tv] = [x - from[0], y - from[1], u - to[0], v - to[1]]
    real += px * tu + py * tv
    imaginary += px * tv - py * tu
    spread += px * px + py * py
  }
  const a = real / spread
  const b = imaginary / spread
  const square = a * a + b * b
  if (!(square > 0 && Number.isFinite(square))) throw new RangeError('the landmarks are no face')
  const [inverseA, inverseB] = [a / square, -b / square]
  return {
    a: inverseA,
    b: inverseB,
    x0: from[0] - inverseA * to[0] + inverseB * to[1],
    y0: from[1] - inverseB * to[0] - inverseA * to[1],
  }
}

function mean(points: readonly Point[]): Point {
  const sum = points.reduce<Point>(([x, y], [u, v]) => [x + u, y + v], [0, 0])
  return [sum[0] / points.length, sum[1] / points.length]
}
