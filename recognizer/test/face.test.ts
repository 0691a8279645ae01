// Proves the numbers between a network's input and output: detection, alignment, pose, quality, crops. Pure; nothing
// is fake, the pictures are made up.
import assert from 'node:assert/strict'
import { describe, it } from 'node:test'
import { ALIGNED_SIZE, alignFace } from '../src/face/alignment.ts'
import { dropOverlaps, type Face, HEADS, type Landmarks, STRIDES, scaleFace, toFaces } from '../src/face/detection.ts'
import { enlargeBox, toLiveScore } from '../src/face/liveness.ts'
import {
  cropAligned,
  cropStretched,
  type Picture,
  type Point,
  shrink,
  toMask,
  toNetworkInput,
} from '../src/face/picture.ts'
import { estimatePose } from '../src/face/pose.ts'
import { judgeQuality } from '../src/face/quality.ts'

const TEMPLATE: Landmarks = {
  rightEye: [38.2946, 51.6963],
  leftEye: [73.5318, 51.5014],
  nose: [56.0252, 71.7366],
  rightMouth: [41.5493, 92.3655],
  leftMouth: [70.7299, 92.2041],
}

function move(landmarks: Landmarks, to: (point: Point) => Point): Landmarks {
  const { rightEye, leftEye, nose, rightMouth, leftMouth } = landmarks
  return {
    rightEye: to(rightEye),
    leftEye: to(leftEye),
    nose: to(nose),
    rightMouth: to(rightMouth),
    leftMouth: to(leftMouth),
  }
}

function makePicture(width: number, height: number, color: (x: number, y: number) => readonly number[]): Picture {
  const data = new Uint8Array(width * height * 3)
  for (let y = 0; y < height; y++) for (let x = 0; x < width; x++) data.set(color(x, y), (y * width + x) * 3)
  return { data, width, height }
}

function makeFace(changes: Partial<Face> = {}): Face {
  return { x: 0, y: 0, width: 200, height: 250, score: 0.93, landmarks: TEMPLATE, ...changes }
}

function near(actual: number | undefined, expected: number, by: number, what = ''): void {
  assert.ok(Math.abs((actual ?? Number.NaN) - expected) <= by, `${what} ${actual} is not ${expected} +- ${by}`)
}

describe('detection', () => {
  function outputs(size: number, cells: { stride: number; cell: number; cls: number; obj: number }[]) {
    const all: Record<string, Float32Array> = {}
    for (const stride of STRIDES) {
      for (const [head, numbers] of Object.entries(HEADS)) {
        all[`${head}_${stride}`] = new Float32Array((size / stride) ** 2 * numbers)
      }
    }
    for (const { stride, cell, cls, obj } of cells) {
      all[`cls_${stride}`]?.fill(cls, cell, cell + 1)
      all[`obj_${stride}`]?.fill(obj, cell, cell + 1)
    }
    return all
  }
  const thresholds = { score: 0.6, nms: 0.3 }

  it('reads a cell: the root of both scores, a box around its corner, the landmarks', () => {
    // row 1, column 2 of 10
    const heads = outputs(320, [{ stride: 32, cell: 12, cls: 0.81, obj: 1 }])
    heads['bbox_32']?.set([0.5, 0.25, Math.log(2), Math.log(3)], 12 * 4)
    heads['kps_32']?.set([0.5, -0.5], 12 * 10)
    const [face] = toFaces(heads, 320, thresholds)
    near(face?.score, 0.9, 1e-6)
    near(face?.x, 2.5 * 32 - 32, 1e-4)
    near(face?.y, 1.25 * 32 - 48, 1e-4)
    near(face?.width, 64, 1e-4)
    near(face?.height, 96, 1e-4)
    assert.deepEqual(face?.landmarks.rightEye, [80, 16])
    assert.deepEqual(face?.landmarks.leftMouth, [64, 32])
  })

  it('takes a score at the threshold, and neither one below nor NaN', () => {
    const find = (cls: number) =>
      toFaces(outputs(320, [{ stride: 8, cell: 5, cls, obj: 1 }]), 320, { score: 0.5, nms: 0.3 })
    assert.equal(find(0.25).length, 1)
    assert.equal(find(0.2499).length, 0)
    assert.equal(find(Number.NaN).length, 0)
  })

  it('drops the weaker of two that overlap, and keeps neighbors', () => {
    const faces = [makeFace({ x: 10, score: 0.7 }), makeFace({ x: 0, score: 0.9 }), makeFace({ x: 190, score: 0.8 })]
    assert.deepEqual(
      dropOverlaps(faces, 0.3).map(({ x }) => x),
      [0, 190],
    )
  })

  it('bounds the work when every cell is a candidate', () => {
    const heads = outputs(640, [])
    for (const stride of STRIDES) for (const head of ['cls', 'obj']) heads[`${head}_${stride}`]?.fill(1)
    const from = performance.now()
    toFaces(heads, 640, thresholds)
    assert.ok(performance.now() - from < 2_000)
  })

  it('scales all of a face', () => {
    const face = scaleFace(makeFace({ x: 1, y: 2 }), 2)
    assert.deepEqual([face.x, face.y, face.width, face.height, face.score], [2, 4, 400, 500, 0.93])
    assert.deepEqual(face.landmarks.nose, [56.0252 * 2, 71.7366 * 2])
  })
})

describe('alignment', () => {
  it('brings a turned, scaled and shifted face back to the template', () => {
    const [angle, scale] = [0.7, 3.1]
    const turn = ([x, y]: Point): Point => [
      scale * (Math.cos(angle) * x - Math.sin(angle) * y) + 200,
      scale * (Math.sin(angle) * x + Math.cos(angle) * y) - 50,
    ]
    const { a, b, x0, y0 } = alignFace(move(TEMPLATE, turn))
    for (const point of [TEMPLATE.rightEye, TEMPLATE.leftMouth, [0, 112] as const]) {
      const [x, y] = turn(point)
      near(a * point[0] - b * point[1] + x0, x, 1e-9)
      near(b * point[0] + a * point[1] + y0, y, 1e-9)
    }
  })

  it('is the least squares fit: any other is worse', () => {
    const landmarks = move(TEMPLATE, ([x, y]) => [2 * x + (x > 50 ? 5 : -1), 2 * y + (y > 60 ? -3 : 4)])
    const best = alignFace(landmarks)
    const points = Object.keys(TEMPLATE) as (keyof Landmarks)[]
    // measured in the square, as the fit is
    const error = (a: number, b: number, x0: number, y0: number) => {
      const square = a * a + b * b
      return points.reduce((sum, name) => {
        const [x, y] = [landmarks[name][0] - x0, landmarks[name][1] - y0]
        const [u, v] = TEMPLATE[name]
        return sum + ((a * x + b * y) / square - u) ** 2 + ((a * y - b * x) / square - v) ** 2
      }, 0)
    }
    const least = error(best.a, best.b, best.x0, best.y0)
    for (const [da, db, dx, dy] of [[0.01], [-0.01], [0, 0.01], [0, -0.01], [0, 0, 0.3], [0, 0, 0, -0.3]]) {
      const other = error(best.a + (da ?? 0), best.b + (db ?? 0), best.x0 + (dx ?? 0), best.y0 + (dy ?? 0))
      assert.ok(other > least, `${other} > ${least}`)
    }
  })

  it('refuses landmarks in one point', () => {
    assert.throws(() => alignFace(move(TEMPLATE, () => [5, 5])), RangeError)
  })

  it('cuts what it says, black beyond the edge, and masks that', () => {
    const picture = makePicture(60, 60, (x, y) => [x * 4, y * 4, 100])
    const toPicture = { a: 1, b: 0, x0: 10, y0: -20 }
    const { data } = cropAligned(picture, toPicture, ALIGNED_SIZE)
    const mask = toMask(picture, toPicture, ALIGNED_SIZE)
    const at = (x: number, y: number) =>
      [0, 1, 2].map((plane) => data[plane * ALIGNED_SIZE ** 2 + y * ALIGNED_SIZE + x])
    assert.deepEqual(at(5, 30), [60, 40, 100])
    assert.deepEqual(at(5, 10), [0, 0, 0])
    assert.deepEqual(at(80, 30), [0, 0, 0])
    assert.deepEqual(
      [mask[30 * ALIGNED_SIZE + 5], mask[10 * ALIGNED_SIZE + 5], mask[30 * ALIGNED_SIZE + 80]],
      [1, 0, 0],
    )
  })

  it('shrinks by the mean, not by single pixels', () => {
    const stripes = makePicture(400, 400, (x) => (x % 2 === 0 ? [0, 0, 0] : [200, 200, 200]))
    const { data } = cropAligned(stripes, { a: 2, b: 0, x0: 50.25, y0: 50 }, ALIGNED_SIZE)
    near(data[50 * ALIGNED_SIZE + 50], 100, 1)
  })
})

describe('input of networks', () => {
  const picture = makePicture(64, 32, (x, y) => [x, y, 200])

  it('is the picture in the upper left corner of a black square, both axes alike', () => {
    const { data } = shrink(picture, 0.5, 32)
    const at = (x: number, y: number) => [0, 1, 2].map((plane) => data[plane * 1024 + y * 32 + x])
    assert.deepEqual(at(4, 3), [8.5, 6.5, 200])
    assert.deepEqual(at(31, 15), [62.5, 30.5, 200])
    assert.deepEqual(at(4, 16), [0, 0, 0])
  })

  it('has the planes and the scale that the model asks for', () => {
    const planes = { data: Float32Array.from([10, 20, 30]), width: 1, height: 1 }
    const as = (channels: 'RGB' | 'BGR', mean: number, std: number) => [
      ...toNetworkInput(planes, { channels, mean, std }),
    ]
    assert.deepEqual(as('RGB', 0, 1), [10, 20, 30])
    assert.deepEqual(as('BGR', 0, 1), [30, 20, 10])
    assert.deepEqual(as('BGR', 10, 2), [10, 5, 0])
  })
})

describe('pose', () => {
  /** The model head, turned and seen from the front. */
  function look(yaw: number, pitch: number, roll: number): Landmarks {
    const head = [
      [-31.5, 0, 0],
      [31.5, 0, 0],
      [0, 38, -26],
      [-25, 68, -2],
      [25, 68, -2],
    ]
    const [y, p, r] = [yaw, pitch, roll].map((degrees) => (degrees * Math.PI) / 180) as [number, number, number]
    const points = head.map(([x = 0, up = 0, z = 0]): Point => {
      // chin up: what is in front (negative z) rises
      const [y1, z1] = [up * Math.cos(p) + z * Math.sin(p), z * Math.cos(p) - up * Math.sin(p)]
      const x2 = x * Math.cos(y) - z1 * Math.sin(y)
      return [300 + 2 * (x2 * Math.cos(r) - y1 * Math.sin(r)), 200 + 2 * (x2 * Math.sin(r) + y1 * Math.cos(r))]
    })
    const [rightEye, leftEye, nose, rightMouth, leftMouth] = points as [Point, Point, Point, Point, Point]
    return { rightEye, leftEye, nose, rightMouth, leftMouth }
  }

  it('is what the head was turned by', () => {
    for (const [yaw, pitch, roll] of [
      [0, 0, 0],
      [35, 0, 0],
      [-35, 0, 0],
      [0, 25, 0],
      [0, -25, 0],
      [0, 0, 40],
      [20, -15, -30],
    ] as const) {
      const pose = estimatePose(look(yaw, pitch, roll))
      near(pose.yaw, yaw, 0.01, 'yaw')
      near(pose.pitch, pitch, 0.01, 'pitch')
      near(pose.roll, roll, 0.01, 'roll')
    }
  })

  it('has signs that can be seen: the nose to the right, the nose up, the right eye higher', () => {
    const nose = (yaw: number, pitch: number) => look(yaw, pitch, 0).nose
    assert.ok(nose(30, 0)[0] > nose(0, 0)[0])
    assert.ok(nose(0, 20)[1] < nose(0, 0)[1])
    const tilted = look(0, 0, 20)
    assert.ok(tilted.rightEye[1] < tilted.leftEye[1])
  })
})

describe('quality', () => {
  const CHECKS = makePicture(112, 112, (x, y) =>
    (Math.floor(x / 6) + Math.floor(y / 6)) % 2 ? [90, 90, 90] : [170, 170, 170],
  )
  const SHARP = cropAligned(CHECKS, { a: 1, b: 0, x0: 0, y0: 0 }, 112)
  const INSIDE = new Uint8Array(112 * 112).fill(1)
  const flat = (gray: number) =>
    cropAligned(
      makePicture(112, 112, () => [gray, gray, gray]),
      { a: 1, b: 0, x0: 0, y0: 0 },
      112,
    )
  const judge = (face: Partial<Face>, planes = SHARP, mask: Uint8Array = INSIDE) =>
    judgeQuality(makeFace(face), planes, mask)

  it('finds nothing wrong with a good face', () => {
    const { reasons, score, brightness } = judge({})
    assert.deepEqual(reasons, [])
    assert.ok(score > 0.9)
    near(brightness, 130 / 255, 0.02)
  })

  it('names each fault, on its side of each limit, with a score below 0.5', () => {
    const profile = move(TEMPLATE, ([x, y]) => [x * 0.4 + (x === TEMPLATE.nose[0] ? 22 : 0), y])
    const cases: [string[], ReturnType<typeof judge>][] = [
      [[], judge({ width: 40 })],
      [['TOO_SMALL'], judge({ width: 39.9 })],
      [[], judge({ score: 0.88 })],
      [['LOW_CONFIDENCE'], judge({ score: 0.879 })],
      [['TOO_BLURRY'], judge({}, flat(130))],
      [['TOO_BLURRY', 'TOO_DARK'], judge({}, flat(15))],
      [['TOO_BLURRY'], judge({}, flat(26))],
      [['TOO_BLURRY', 'TOO_BRIGHT'], judge({}, flat(230))],
      [['TOO_BLURRY'], judge({}, flat(220))],
      [['EXTREME_POSE'], judge({ landmarks: profile })],
      [['EXTREME_POSE'], judge({ landmarks: move(TEMPLATE, ([x, y]) => [y, -x]) })],
    ]
    for (const [index, [reasons, quality]] of cases.entries()) {
      assert.deepEqual(quality.reasons, reasons, `case ${index}`)
      assert.equal(quality.score < 0.5, reasons.length > 0, `case ${index}: ${quality.score}`)
    }
  })

  it('does not take the black beyond the edge of the picture for darkness or sharpness', () => {
    const half = makePicture(56, 112, () => [130, 130, 130])
    const toPicture = { a: 1, b: 0, x0: 0, y0: 0 }
    const { brightness, sharpness } = judge({}, cropAligned(half, toPicture, 112), toMask(half, toPicture, 112))
    near(brightness, 130 / 255, 0.001)
    near(sharpness, 0, 1e-6)
  })

  it('scores a cut face lower, without a reason', () => {
    const mask = INSIDE.slice().fill(0, 0, 112 * 56)
    const { reasons, score } = judge({}, SHARP, mask)
    assert.deepEqual(reasons, [])
    near(score, 0.75, 0.01)
  })

  it('has no NaN for a face that is wholly outside', () => {
    const quality = judge({}, SHARP, new Uint8Array(112 * 112))
    assert.ok([quality.score, quality.sharpness, quality.brightness].every(Number.isFinite))
  })
})

describe('liveness', () => {
  it('cuts around the middle of the box, and pushes the crop back into the picture', () => {
    const face = makeFace({ x: 400, y: 300, width: 100, height: 120 })
    assert.deepEqual(enlargeBox(face, 2.7, 1000, 1000), { left: 315, top: 198, right: 586, bottom: 523 })
    const corner = enlargeBox(makeFace({ x: 0, y: 0, width: 100, height: 100 }), 2.7, 1000, 1000)
    assert.deepEqual([corner.left, corner.top, corner.right], [0, 0, 271])
    // a picture too small for the scale gives what it has
    const whole = enlargeBox(makeFace({ x: 100, y: 100, width: 200, height: 200 }), 4, 400, 400)
    assert.deepEqual(whole, { left: 0, top: 0, right: 400, bottom: 400 })
  })

  it('stretches the crop to the square', () => {
    const picture = makePicture(200, 200, (x) => [x, 0, 0])
    const { data } = cropStretched(picture, { left: 20, top: 0, right: 180, bottom: 80 }, 80)
    near(data[0], 20.5, 1e-4)
    near(data[79], 178.5, 1e-4)
  })

  it('is the softmax of class 1, and never NaN', () => {
    near(toLiveScore(Float32Array.from([0, 0, 0])), 1 / 3, 1e-9)
    near(toLiveScore(Float32Array.from([-1000, 1000, -1000])), 1, 1e-9)
    assert.throws(() => toLiveScore(Float32Array.from([Number.NaN, 0, 0])), RangeError)
  })
})
