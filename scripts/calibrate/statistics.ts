// What scores of pairs say about thresholds: rates, their intervals, and what may be claimed. No I/O.
import { toDistance } from '../../src/face/similarity.ts'

/** Thresholds are confidences of four decimals; a step is one of them, in ten-thousandths. */
export const STEPS = 10_000
/** Of all intervals and bounds here. */
export const CONFIDENCE_LEVEL = 0.95

const DISTANCES = Float64Array.from({ length: STEPS + 1 }, (_, step) => toDistance(step / STEPS))

export function toConfidence(step: number): number {
  return step / STEPS
}

/** The cosine of a step, with the four decimals that it has. */
export function toCosine(step: number): number {
  return (2 * step - STEPS) / STEPS
}

/** The step of a threshold, rounded up: a claim about a lower one is not one about it. */
export function toStep(threshold: number): number {
  // 0.69 * 10,000 is 6899.999999999999
  return Math.ceil(Math.round(threshold * STEPS * 1e6) / 1e6)
}

/**
 * The highest threshold at which the service takes a score for a match: the distance counts when it is not larger,
 * as in its SQL.
 *
 * @param cosine -1 to 1
 */
export function findHighestStep(cosine: number): number {
  // as `toDistance` rounds: 1 - 0.3002 is not the number that 0.6998 is
  const distance = Math.round((1 - cosine) * 1e12) / 1e12
  let step = Math.min(STEPS, Math.floor(((1 + cosine) / 2) * STEPS) + 1)
  while (step > 0 && distance > (DISTANCES[step] ?? 0)) step--
  return step
}

export interface Extreme {
  cosine: number
  /** Lines of the file that it comes from: one of a pair of scores, two of embeddings. */
  lines: number[]
}

/** The scores of one kind of pair, genuine or impostor, in constant memory and without loss at any step. */
export class Scores {
  count = 0
  mean = 0
  lowest: Extreme | null = null
  highest: Extreme | null = null
  #squares = 0
  readonly #perStep = new Float64Array(STEPS + 1)

  /** @returns the highest step at which it is a match */
  add(cosine: number, line: number, otherLine?: number): number {
    this.count++
    // Welford 1962: sums of squares lose their digits when there are many
    const off = cosine - this.mean
    this.mean += off / this.count
    this.#squares += off * (cosine - this.mean)
    if (!this.lowest || cosine < this.lowest.cosine) this.lowest = toExtreme(cosine, line, otherLine)
    if (!this.highest || cosine > this.highest.cosine) this.highest = toExtreme(cosine, line, otherLine)
    const step = findHighestStep(cosine)
    this.#perStep[step] = (this.#perStep[step] ?? 0) + 1
    return step
  }

  /** Standard deviation of the sample; null for fewer than two. */
  get deviation(): number | null {
    return this.count < 2 ? null : Math.sqrt(this.#squares / (this.count - 1))
  }

  /** How many match at each step. */
  countMatches(): Float64Array {
    const matches = this.#perStep.slice()
    for (let step = STEPS - 1; step >= 0; step--) matches[step] = (matches[step] ?? 0) + (matches[step + 1] ?? 0)
    return matches
  }
}

function toExtreme(cosine: number, line: number, otherLine?: number): Extreme {
  return { cosine, lines: otherLine === undefined ? [line] : [line, otherLine] }
}

export interface Interval {
  low: number
  high: number
}

export interface Rate extends Interval {
  errors: number
  trials: number
  rate: number
}

/** Errors of both kinds at every step. */
export class ErrorRates {
  readonly genuineCount: number
  readonly impostorCount: number
  readonly #genuine: Float64Array
  readonly #impostor: Float64Array

  constructor(genuine: Scores, impostor: Scores) {
    this.genuineCount = genuine.count
    this.impostorCount = impostor.count
    this.#genuine = genuine.countMatches()
    this.#impostor = impostor.countMatches()
  }

  falseMatches(step: number): number {
    return this.#impostor[step] ?? 0
  }

  falseNonMatches(step: number): number {
    return this.genuineCount - (this.#genuine[step] ?? 0)
  }

  /** False match rate. */
  fmr(step: number): Rate {
    return toRate(this.falseMatches(step), this.impostorCount)
  }

  /** False non-match rate. */
  fnmr(step: number): Rate {
    return toRate(this.falseNonMatches(step), this.genuineCount)
  }

  /** The lowest step at which no more than so many impostor pairs match; null when more do at every step. */
  findStep(mostFalseMatches: number): number | null {
    if (this.falseMatches(STEPS) > mostFalseMatches) return null
    let low = 0
    for (let high = STEPS; low < high; ) {
      const middle = Math.floor((low + high) / 2)
      if (this.falseMatches(middle) > mostFalseMatches) low = middle + 1
      else high = middle
    }
    return low
  }

  /** The steps at which no pair is decided wrongly; null when there is none. */
  findErrorFree(): { from: number; to: number } | null {
    const from = this.findStep(0)
    if (from === null || this.falseNonMatches(from) > 0) return null
    let to = from
    while (to < STEPS && this.falseNonMatches(to + 1) === 0) to++
    return { from, to }
  }

  /**
   * Where both rates are nearest to each other; in the middle where both are 0. The rate is their mean, as steps
   * seldom meet it exactly; the interval goes from the lower end of both intervals to the upper.
   */
  findEqualErrorRate(): { step: number; rate: number } & Interval {
    const errorFree = this.findErrorFree()
    let step = errorFree ? Math.ceil((errorFree.from + errorFree.to) / 2) : 0
    if (!errorFree) {
      const difference = (at: number) =>
        Math.abs(this.falseMatches(at) / this.impostorCount - this.falseNonMatches(at) / this.genuineCount)
      for (let at = 1; at <= STEPS; at++) if (difference(at) < difference(step)) step = at
    }
    const [fmr, fnmr] = [this.fmr(step), this.fnmr(step)]
    return {
      step,
      rate: (fmr.rate + fnmr.rate) / 2,
      low: Math.min(fmr.low, fnmr.low),
      high: Math.max(fmr.high, fnmr.high),
    }
  }
}

function toRate(errors: number, trials: number): Rate {
  return { errors, trials, rate: errors / trials, ...toInterval(errors, trials) }
}

// == Intervals ==

/**
 * The two-sided interval of a proportion (Clopper and Pearson, Biometrika 26, 1934): never shorter than it says, if
 * the trials are independent.
 */
export function toInterval(errors: number, trials: number): Interval {
  const tail = (1 - CONFIDENCE_LEVEL) / 2
  return {
    low: errors === 0 ? 0 : toQuantile(tail, errors, trials - errors + 1),
    high: errors === trials ? 1 : toQuantile(1 - tail, errors + 1, trials - errors),
  }
}

/**
 * What a proportion is below, if the trials are independent: one-sided, because a claim "at most" is. Without an error
 * it is about 3 / trials, the rule of three of ISO/IEC 19795-1.
 */
export function toUpperBound(errors: number, trials: number): number {
  if (errors === trials) return 1
  if (errors === 0) return -Math.expm1(Math.log(1 - CONFIDENCE_LEVEL) / trials)
  return toQuantile(CONFIDENCE_LEVEL, errors + 1, trials - errors)
}

/** How many trials without an error it takes to claim a proportion of at most so much. */
export function toTrialsNeeded(proportion: number): number {
  return Math.ceil(Math.log(1 - CONFIDENCE_LEVEL) / Math.log1p(-proportion))
}

/** The most errors with which so many trials still support the claim; -1 when not even none does. */
export function toMostErrors(proportion: number, trials: number): number {
  // that many are not allowed: at the proportion itself the upper bound is above it
  let high = Math.ceil(proportion * trials)
  let low = -1
  while (high - low > 1) {
    const middle = Math.floor((low + high) / 2)
    if (toUpperBound(middle, trials) <= proportion) low = middle
    else high = middle
  }
  return low
}

/** The proportion below which Beta(a, b) has the given probability, by bisection. */
function toQuantile(probability: number, a: number, b: number): number {
  let low = 0
  let high = 1
  for (;;) {
    const middle = (low + high) / 2
    // the two are neighbors, or close enough for twelve digits
    if (middle === low || middle === high || high - low < 1e-12 * middle) return middle
    if (betaProbability(middle, a, b) < probability) low = middle
    else high = middle
  }
}

/** The regularized incomplete beta function: its continued fraction by Lentz's method (NIST DLMF 8.17.22, 3.10). */
function betaProbability(x: number, a: number, b: number): number {
  // it converges fast below the mean only; above, the other side is taken
  if (x > (a + 1) / (a + b + 2)) return 1 - betaProbability(1 - x, b, a)
  const TINY = 1e-300
  const away = (value: number) => (Math.abs(value) < TINY ? TINY : value)
  let c = 1
  let d = 1 / away(1 - ((a + b) * x) / (a + 1))
  let fraction = d
  for (let m = 1; ; m++) {
    const even = (m * (b - m) * x) / ((a + 2 * m - 1) * (a + 2 * m))
    d = 1 / away(1 + even * d)
    c = away(1 + even / c)
    fraction *= c * d
    const odd = (-(a + m) * (a + b + m) * x) / ((a + 2 * m) * (a + 2 * m + 1))
    d = 1 / away(1 + odd * d)
    c = away(1 + odd / c)
    fraction *= c * d
    if (Math.abs(c * d - 1) < 1e-15) break
    if (m > 1e7) throw new RangeError(`the beta function of ${x}, ${a}, ${b} does not converge`)
  }
  const logFront = a * Math.log(x) + b * Math.log1p(-x) + logGamma(a + b) - logGamma(a) - logGamma(b)
  return (Math.exp(logFront) * fraction) / a
}

/** Stirling's series (NIST DLMF 5.11.1), from 15 on, where five terms have all digits. */
function logGamma(z: number): number {
  let shift = 0
  for (; z < 15; z++) shift -= Math.log(z)
  const square = 1 / (z * z)
  const series = (1 / 12 - square * (1 / 360 - square * (1 / 1260 - square * (1 / 1680 - square / 1188)))) / z
  return shift + (z - 0.5) * Math.log(z) - z + Math.log(2 * Math.PI) / 2 + series
}

// == One against many ==

/** The false match rate that keeps false alarms at a gallery to so much: FPIR = 1 - (1 - FMR)^N. */
export function toFmr(fpir: number, gallery: number): number {
  return -Math.expm1(Math.log1p(-fpir) / gallery)
}

/** The largest gallery at which a false match rate keeps false alarms to so much; 0 when not even one face does. */
export function toLargestGallery(fmr: number, fpir: number): number {
  return Math.floor(Math.log1p(-fpir) / Math.log1p(-fmr))
}
