// Every limit of the service, with its reason.

export interface Limits {
  maxBytes: number
  maxPixels: number
  bodyMs: number
  analysisMs: number
}

export const LIMITS: Limits = {
  // what the API takes; a photograph of a phone has 2 to 6 MB
  maxBytes: 10 * 1024 * 1024,
  // 40 million: above every common phone's default (12 to 24), and 120 MB when decoded at once
  maxPixels: 40_000_000,
  // 10 MB at 8 Mbit/s; whoever is slower holds a place that others wait for
  bodyMs: 10_000,
  // waiting included: a gate's client has given up by then
  analysisMs: 10_000,
}

/**
 * The longer side of the picture that is looked at. Larger ones are shrunk while they are decoded: a face that
 * fills a tenth of such a picture still has more pixels than the recognizer takes.
 */
export const WORKING_SIDE_PX = 1600

/** A crowd has more; nobody enrolls one. Bounds the answer and the work of `faces=all`. */
export const MAX_FACES = 100
