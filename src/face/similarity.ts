// The one scale of similarity, and the models whose thresholds stand on it. No I/O.
//
// confidence = (1 + cosine) / 2, from 0 to 1, in requests, settings, answers and the audit;
// distance = 1 - cosine, from 0 to 2, is what pgvector's `<=>` computes and SQL compares.

export interface Model {
  id: string
  /** No tenant can go below it. */
  floor: number
  /** Default for 1:1. */
  verification: number
  /** Default for 1:N: stricter, because FPIR is about 1 - (1 - FMR)^N. */
  identification: number
}

/**
 * Provisional defaults for an ArcFace-like model (cosine 0.30, 0.35 and 0.38): docs/thresholds.md has
 * the measured distributions.
 */
export const ARCFACE_512: Model = {
  id: 'arcface-512@1',
  floor: 0.65,
  verification: 0.675,
  identification: 0.69,
}

/**
 * The largest cosine distance that counts as a match.
 *
 * @param threshold a confidence, 0 to 1
 * @returns distance, 0 to 2, rounded to 12 decimals: 2 * (1 - 0.675) is 0.6499999999999999 in
 *   floating point, and a cosine of exactly 0.35 would fail at its own threshold
 */
export function toDistance(threshold: number): number {
  return Math.round(2 * (1 - threshold) * 1e12) / 1e12
}

/** Cosine distance as it is decided and told, rounded like SQL's (src/db/templates.ts). */
export function roundDistance(distance: number): number {
  return Math.round(distance * 1e5) / 1e5
}

/**
 * What is told of a comparison, as `confidence` does it in src/db/templates.ts: cut to four decimals, so that what missed a threshold does not
 * read as if it had met it.
 */
export function toConfidence(distance: number): number {
  // 1e-9 is a part of what rounding leaves: 0.8137 may stand as 0.81369999999999998
  return Math.floor((1 - roundDistance(distance) / 2) * 1e4 + 1e-9) / 1e4
}
