// How a head is turned, from its five landmarks. No I/O.
import type { Landmarks } from './detection.ts'
import type { Point } from './picture.ts'

/** Degrees, all 0 for a face that looks into the camera. */
export interface Pose {
  /** Positive when the nose points to the right edge of the picture. */
  yaw: number
  /** Positive when the chin is raised. */
  pitch: number
  /** Positive when the head is tilted clockwise, as the picture is seen. */
  roll: number
}

type Vector = readonly [number, number, number]

/**
 * The same five points of a mean adult head, in millimeters: x to the right of the picture, y down, z away from
 * the camera. People differ by some degrees of pitch and yaw; the limits in quality.ts are far wider.
 */
const HEAD: readonly Vector[] = [
  [-31.5, 0, 0],
  [31.5, 0, 0],
  [0, 38, -26],
  [-25, 68, -2],
  [25, 68, -2],
]

const CENTER = HEAD.reduce<Vector>(
  ([x, y, z], point) => [x + point[0] / 5, y + point[1] / 5, z + point[2] / 5],
  [0, 0, 0],
)
const CENTERED = HEAD.map<Vector>((point) => [point[0] - CENTER[0], point[1] - CENTER[1], point[2] - CENTER[2]])
const SOLVER = invert(
  [0, 1, 2].map((row) => [0, 1, 2].map((column) => sum(CENTERED.map((point) => at(point, row) * at(point, column))))),
)

/**
 * Fits the head to the landmarks under weak perspective (least squares), and reads the turn off the fit.
 */
export function estimatePose(landmarks: Landmarks): Pose {
  const { rightEye, leftEye, nose, rightMouth, leftMouth } = landmarks
  const points = [rightEye, leftEye, nose, rightMouth, leftMouth]
  const right = normalize(fitAxis(points, 0))
  const down = normalize(fitAxis(points, 1))
  const away: Vector = [
    right[1] * down[2] - right[2] * down[1],
    right[2] * down[0] - right[0] * down[2],
    right[0] * down[1] - right[1] * down[0],
  ]
  return {
    yaw: degrees(Math.atan2(away[0], Math.hypot(right[0], down[0]))),
    pitch: degrees(Math.atan2(-away[1], away[2])),
    roll: degrees(Math.atan2(down[0], right[0])),
  }
}

/** How one coordinate of the landmarks depends on the three of the head. */
function fitAxis(points: readonly Point[], axis: 0 | 1): Vector {
  const moments = [0, 1, 2].map((column) =>
    sum(points.map((point, index) => point[axis] * at(CENTERED[index] ?? CENTER, column))),
  )
  const [x = 0, y = 0, z = 0] = SOLVER.map((row) => sum(row.map((value, column) => value * (moments[column] ?? 0))))
  return [x, y, z]
}

function normalize([x, y, z]: Vector): Vector {
  // landmarks in one point have no turn: every angle is then 0
  const length = Math.hypot(x, y, z) || 1
  return [x / length, y / length, z / length]
}

function invert(m: number[][]): number[][] {
  const cell = (row: number, column: number) => m[row % 3]?.[column % 3] ?? 0
  const cofactor = (row: number, column: number) =>
    cell(row + 1, column + 1) * cell(row + 2, column + 2) - cell(row + 1, column + 2) * cell(row + 2, column + 1)
  const determinant = sum([0, 1, 2].map((column) => cell(0, column) * cofactor(0, column)))
  return [0, 1, 2].map((row) => [0, 1, 2].map((column) => cofactor(column, row) / determinant))
}

function at(vector: Vector, index: number): number {
  return vector[index] ?? 0
}

function sum(values: number[]): number {
  return values.reduce((total, value) => total + value, 0)
}

function degrees(radians: number): number {
  return (radians * 180) / Math.PI
}
