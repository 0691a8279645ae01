// From bytes to faces: decode, detect, align, judge. Runs in an analysis thread.
import { ALIGNED_SIZE, alignFace } from './face/alignment.ts'
import { dropOverlaps, type Face, scaleFace, toFaces } from './face/detection.ts'
import { enlargeBox, toLiveScore } from './face/liveness.ts'
import { cropAligned, cropStretched, type Picture, shrink, toMask } from './face/picture.ts'
import { judgeQuality, type Quality } from './face/quality.ts'
import { decode } from './image/decode.ts'
import { type Limits, MAX_FACES } from './limits.ts'
import type { Models } from './models.ts'
import type { Networks } from './networks.ts'

/** What a request asks for. */
export interface Task {
  faces: 'one' | 'all'
  embedding: boolean
  liveness: boolean
}

export interface AnalyzedFace {
  /** In pixels of the image as it was sent, EXIF orientation applied. */
  face: Face
  quality: Quality
  embedding: Float32Array | null
  liveness: { score: number; passed: boolean } | null
}

export interface Analysis {
  width: number
  height: number
  faces: AnalyzedFace[]
}

/**
 * A face smaller than this in the first look calls for a second, finer one: where there is one at the edge of what
 * YuNet finds (it is trained from 10 px on), there may be others beyond it.
 */
const SMALL_FACE_PX = 16

export interface Analyst {
  models: Models
  networks: Networks
  limits: Limits
}

/**
 * @param checkpoint called between steps; throws when nobody waits for the answer any more
 * @throws Refusal when the bytes are no acceptable image
 */
export async function analyze(
  { models, networks, limits }: Analyst,
  bytes: Uint8Array,
  task: Task,
  checkpoint: () => void,
): Promise<Analysis> {
  const { picture, width, height } = await decode(bytes, limits)
  checkpoint()
  const found = await detect(models, networks, picture, checkpoint)
  const isOne = task.faces === 'one' && found.length === 1
  const faces: AnalyzedFace[] = []
  for (const face of found) {
    checkpoint()
    const alignment = alignFace(face.landmarks)
    const aligned = cropAligned(picture, alignment, ALIGNED_SIZE)
    faces.push({
      face: scaleFace(face, width / picture.width),
      quality: judgeQuality(face, aligned, toMask(picture, alignment, ALIGNED_SIZE)),
      embedding: isOne && task.embedding ? await networks.embed(aligned) : null,
      liveness: isOne && task.liveness ? await judgeLiveness(models, networks, picture, face) : null,
    })
  }
  return { width, height, faces }
}

/** @returns best first, in pixels of the picture */
async function detect(models: Models, networks: Networks, picture: Picture, checkpoint: () => void): Promise<Face[]> {
  const { sizes, thresholds } = models.detector
  const look = async (size: number) => {
    const scale = Math.min(1, size / Math.max(picture.width, picture.height))
    const faces = toFaces(await networks.detect(shrink(picture, scale, size)), size, thresholds)
    return { faces: faces.map((face) => scaleFace(face, 1 / scale)), scale }
  }
  const [coarse, fine] = sizes
  const first = await look(coarse)
  const hasSmall = first.faces.some((face) => Math.min(face.width, face.height) * first.scale < SMALL_FACE_PX)
  if (fine === undefined || (first.faces.length > 0 && !hasSmall)) return first.faces.slice(0, MAX_FACES)
  checkpoint()
  const second = await look(fine)
  // a face that fills the picture is too large for the finer look, so neither look alone has all
  return dropOverlaps([...first.faces, ...second.faces], thresholds.nms).slice(0, MAX_FACES)
}

async function judgeLiveness(
  { liveness }: Models,
  networks: Networks,
  picture: Picture,
  face: Face,
): Promise<AnalyzedFace['liveness']> {
  if (!liveness) return null
  let sum = 0
  for (const [index, { cropScale }] of liveness.networks.entries()) {
    const box = enlargeBox(face, cropScale, picture.width, picture.height)
    sum += toLiveScore(await networks.judge(cropStretched(picture, box, liveness.size), index))
  }
  const score = sum / liveness.networks.length
  return { score, passed: score >= liveness.thresholds.live }
}
