// How good a picture of a face is for recognition, and why not. No I/O.
//
// The limits were set on 18 portraits, each also blurred, darkened, brightened and shrunk; "cosine" below is that of
// the spoiled portrait's embedding with the portrait's own, by a 512-d MobileFaceNet. docs/recognizer.md has the table.
import type { Face } from './detection.ts'
import { clamp, type Planes } from './picture.ts'
import { estimatePose, type Pose } from './pose.ts'

export type QualityReason = 'TOO_SMALL' | 'TOO_BLURRY' | 'TOO_DARK' | 'TOO_BRIGHT' | 'EXTREME_POSE' | 'LOW_CONFIDENCE'

export interface Quality {
  /** 0 to 1: as good as the worst of its properties, and below 0.5 exactly when there is a reason. */
  score: number
  reasons: QualityReason[]
  /** The shorter side of the face's box, in pixels of the picture that was looked at. */
  faceSizePx: number
  pose: Pose
  /** Variance of the Laplacian of the aligned face, gray values 0 to 255. */
  sharpness: number
  /** Mean gray value of the aligned face, 0 to 1. */
  brightness: number
}

/** A property scores 0 at `worst`, 0.5 at `limit`, where its reason ends, and 1 from `ideal` on. */
interface Scale {
  worst: number
  limit: number
  ideal: number
}

const SCALES = {
  // 40 px: cosine 0.94 on average; 24 px: 0.79. From the recognizer's own 112 px on, more do not help
  size: { worst: 16, limit: 40, ideal: 112 },
  // a blur of 2 % of the face's width: about 25, cosine 0.90; of 3 %: about 7, cosine 0.75
  sharpness: { worst: 0, limit: 15, ideal: 150 },
  // low on purpose: dark skin in a dim room has 0.15 and is recognized. Cosine 0.8 at the limit
  darkness: { worst: 0, limit: 0.08, ideal: 0.25 },
  // from here on, most of the skin is burnt out
  brightness: { worst: 1, limit: 0.88, ideal: 0.75 },
  // recognizers of the ArcFace kind are trained on faces up to here, and the farther eye is hidden beyond
  yaw: { worst: 60, limit: 40, ideal: 15 },
  pitch: { worst: 50, limit: 35, ideal: 15 },
  // alignment turns the face upright; detectors miss faces that lie on the side
  roll: { worst: 90, limit: 45, ideal: 20 },
  // YuNet gives 0.92 to 0.95 to good portraits; less means a covered, cut or turned face, or none
  detection: { worst: 0.7, limit: 0.88, ideal: 0.92 },
} as const satisfies Record<string, Scale>

/**
 * A face that is cut by the picture's edge is a face: its embedding stays close (cosine 0.5 to 0.9 to whole ones in
 * the portraits). It has no reason of its own, and this share of the aligned square costs it score.
 */
const VISIBLE: Scale = { worst: -1, limit: 0, ideal: 1 }

/** The rim of the aligned square is hair and background. */
const RIM_PX = 16

/**
 * @param aligned the face as the recognizer sees it
 * @param mask which of its pixels lie in the picture: black beyond its edge is neither dark nor sharp
 */
export function judgeQuality(face: Face, aligned: Planes, mask: Uint8Array): Quality {
  const faceSizePx = Math.min(face.width, face.height)
  const pose = estimatePose(face.landmarks)
  const { sharpness, brightness, visible } = measure(aligned, mask)
  const poseScores = [
    toScore(Math.abs(pose.yaw), SCALES.yaw),
    toScore(Math.abs(pose.pitch), SCALES.pitch),
    toScore(Math.abs(pose.roll), SCALES.roll),
  ]
  const scores: Record<QualityReason, number> = {
    TOO_SMALL: toScore(faceSizePx, SCALES.size),
    TOO_BLURRY: toScore(sharpness, SCALES.sharpness),
    TOO_DARK: toScore(brightness, SCALES.darkness),
    TOO_BRIGHT: toScore(brightness, SCALES.brightness),
    EXTREME_POSE: Math.min(...poseScores),
    LOW_CONFIDENCE: toScore(face.score, SCALES.detection),
  }
  // the names above are the type's own
  const reasons = (Object.keys(scores) as QualityReason[]).filter((reason) => scores[reason] < 0.5)
  const score = Math.min(...Object.values(scores), toScore(visible, VISIBLE))
  return { score, reasons, faceSizePx, pose, sharpness, brightness }
}

function toScore(value: number, { worst, limit, ideal }: Scale): number {
  // on either side of the limit; both quotients are positive towards the ideal, whichever end that is
  const good = (value - limit) / (ideal - limit)
  const bad = (value - limit) / (limit - worst)
  return clamp(0.5 + (good >= 0 ? good : bad) / 2, 0, 1)
}

function measure(aligned: Planes, mask: Uint8Array) {
  const { width: size } = aligned
  const luma = toLuma(aligned)
  let laplacians = 0
  let squares = 0
  let grays = 0
  let count = 0
  let inside = 0
  for (let y = RIM_PX; y < size - RIM_PX; y++) {
    for (let x = RIM_PX; x < size - RIM_PX; x++) {
      const at = y * size + x
      if (mask[at] === 0) continue
      inside++
      // all five are inside the square: the rim was left out
      const gray = luma[at] as number
      grays += gray
      if (!(mask[at - 1] && mask[at + 1] && mask[at - size] && mask[at + size])) continue
      const around =
        (luma[at - 1] as number) + (luma[at + 1] as number) + (luma[at - size] as number) + (luma[at + size] as number)
      const laplacian = 4 * gray - around
      laplacians += laplacian
      squares += laplacian * laplacian
      count++
    }
  }
  return {
    sharpness: count > 0 ? squares / count - (laplacians / count) ** 2 : 0,
    brightness: inside > 0 ? grays / inside / 255 : 0,
    visible: inside / (size - 2 * RIM_PX) ** 2,
  }
}

/** Rec. 601. */
function toLuma({ data }: Planes): Float32Array {
  const plane = data.length / 3
  const luma = new Float32Array(plane)
  for (let index = 0; index < plane; index++) {
    // three planes of this length
    const red = data[index] as number
    const green = data[index + plane] as number
    luma[index] = 0.299 * red + 0.587 * green + 0.114 * (data[index + 2 * plane] as number)
  }
  return luma
}
