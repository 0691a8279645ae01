// The crops that MiniFASNet-shaped networks judge, and what their answers mean. No I/O.
import type { Face } from './detection.ts'
import { clamp } from './picture.ts'

/** The class of a live face; the others are kinds of attack (print, screen). */
const LIVE = 1
export const CLASSES = 3

/**
 * The face's box enlarged around its center, and pushed back where it leaves the picture: as the networks'
 * authors cut their training data (`CropImage` of Silent-Face-Anti-Spoofing). Whole pixels.
 *
 * @param scale of the crop relative to the box; less is taken when the picture is too small for it
 */
export function enlargeBox(face: Face, scale: number, width: number, height: number) {
  const factor = Math.min(scale, (height - 1) / face.height, (width - 1) / face.width)
  const cropWidth = face.width * factor
  const cropHeight = face.height * factor
  const left = clamp(face.x + face.width / 2 - cropWidth / 2, 0, width - 1 - cropWidth)
  const top = clamp(face.y + face.height / 2 - cropHeight / 2, 0, height - 1 - cropHeight)
  return {
    left: Math.floor(left),
    top: Math.floor(top),
    right: Math.floor(left + cropWidth) + 1,
    bottom: Math.floor(top + cropHeight) + 1,
  }
}

/** @returns the probability of a live face, softmax over the classes */
export function toLiveScore(logits: Float32Array): number {
  const highest = Math.max(...logits)
  const weights = Array.from(logits, (logit) => Math.exp(logit - highest))
  const score = (weights[LIVE] ?? 0) / weights.reduce((total, weight) => total + weight, 0)
  if (!Number.isFinite(score)) throw new RangeError('the liveness network answered no number')
  return score
}
