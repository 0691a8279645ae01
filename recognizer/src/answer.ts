// The shapes of our answers: from numbers to JSON.
import type { Analysis, AnalyzedFace } from './analysis.ts'
import type { Point } from './face/picture.ts'
import { type Models, toName } from './models.ts'

export function toAnswer({ width, height, faces }: Analysis, models: Models) {
  return {
    image: { width, height },
    models: {
      detector: toName(models.detector),
      recognizer: toName(models.recognizer),
      liveness: models.liveness && toName(models.liveness),
    },
    faces: faces.map(toFaceAnswer),
  }
}

function toFaceAnswer({ face, quality, embedding, liveness }: AnalyzedFace) {
  const { rightEye, leftEye, nose, rightMouth, leftMouth } = face.landmarks
  return {
    box: { x: tenth(face.x), y: tenth(face.y), width: tenth(face.width), height: tenth(face.height) },
    landmarks: {
      right_eye: toPair(rightEye),
      left_eye: toPair(leftEye),
      nose: toPair(nose),
      right_mouth: toPair(rightMouth),
      left_mouth: toPair(leftMouth),
    },
    detection_score: cut(face.score),
    quality: {
      score: cut(quality.score),
      reasons: quality.reasons,
      face_size_px: Math.round(quality.faceSizePx),
      yaw_degrees: tenth(quality.pose.yaw),
      pitch_degrees: tenth(quality.pose.pitch),
      roll_degrees: tenth(quality.pose.roll),
      sharpness: tenth(quality.sharpness),
      brightness: cut(quality.brightness),
    },
    embedding: embedding && toBase64(embedding),
    liveness: liveness && { score: cut(liveness.score), passed: liveness.passed },
  }
}

/** What `/ready` tells a caller with the secret. */
export function toModelDescriptions({ detector, recognizer, liveness }: Models) {
  return {
    detector: { ...describe(detector), thresholds: detector.thresholds },
    recognizer: { ...describe(recognizer), thresholds: recognizer.thresholds },
    liveness: liveness && { ...describe(liveness), thresholds: liveness.thresholds },
  }
}

function describe(model: Models['detector' | 'recognizer'] | NonNullable<Models['liveness']>) {
  return { id: toName(model), license: model.license, allowed_use: model.allowedUse }
}

/** Little-endian, as every machine that the inference engine has binaries for. */
function toBase64(embedding: Float32Array): string {
  return Buffer.from(embedding.buffer, embedding.byteOffset, embedding.byteLength).toString('base64')
}

function toPair([x, y]: Point): [number, number] {
  return [tenth(x), tenth(y)]
}

function tenth(value: number): number {
  return Math.round(value * 10) / 10
}

/** Cut, not rounded: what missed a threshold must not read as if it had met it. A float32's 0.95 is 0.94999999. */
function cut(score: number): number {
  return Math.floor(score * 10_000 + 1e-3) / 10_000
}
