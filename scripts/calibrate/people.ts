// How far the rates of a test may be off because its pairs share people: the test is drawn again, person by person.
// No I/O.
import { createRandom } from '../gallery.ts'
import { CONFIDENCE_LEVEL, type Interval, STEPS } from './statistics.ts'

/** Pairs kept of each kind: those nearest to being errors. 6 MB. */
const MAX_KEPT = 500_000
/** Different pairs of people in a file of scores; beyond them nothing is drawn again. About 100 MB. */
export const MAX_PAIRS_OF_PEOPLE = 1_000_000
export const DRAWS = 1000
/** Any: the same file gives the same intervals. */
const SEED = 19795

/** Numbers people in the order in which they appear. */
export class People {
  readonly #numbers = new Map<string, number>()

  get count(): number {
    return this.#numbers.size
  }

  toNumber(name: string): number {
    const known = this.#numbers.get(name)
    if (known !== undefined) return known
    this.#numbers.set(name, this.count)
    return this.count - 1
  }
}

/** How many comparisons there were, each counted as often as the people in it were drawn. */
export interface Comparisons {
  weigh(weights: Float64Array): { genuine: number; impostor: number }
}

/** All samples were compared with all others. */
export class AllComparisons implements Comparisons {
  readonly #samples: number[] = []

  addSample(person: number): void {
    this.#samples[person] = (this.#samples[person] ?? 0) + 1
  }

  weigh(weights: Float64Array): { genuine: number; impostor: number } {
    let genuine = 0
    let sum = 0
    let squares = 0
    for (const [person, samples] of this.#samples.entries()) {
      const weight = weights[person] ?? 0
      genuine += (weight * samples * (samples - 1)) / 2
      sum += weight * samples
      squares += (weight * samples) ** 2
    }
    return { genuine, impostor: (sum * sum - squares) / 2 }
  }
}

/** Only some were compared: those of a file of scores. */
export class ListedComparisons implements Comparisons {
  readonly #maxPairs: number
  readonly #counts = new Map<number, number>()
  #isComplete = true

  constructor(maxPairs = MAX_PAIRS_OF_PEOPLE) {
    this.#maxPairs = maxPairs
  }

  /** False when there were more than are counted: then nothing can be weighed. */
  get isComplete(): boolean {
    return this.#isComplete
  }

  add(one: number, other: number): void {
    const key = one * 2 ** 26 + other
    const count = this.#counts.get(key)
    if (count === undefined && this.#counts.size === this.#maxPairs) this.#isComplete = false
    else this.#counts.set(key, (count ?? 0) + 1)
  }

  weigh(weights: Float64Array): { genuine: number; impostor: number } {
    const total = { genuine: 0, impostor: 0 }
    for (const [key, count] of this.#counts) {
      const [one, other] = [Math.floor(key / 2 ** 26), key % 2 ** 26]
      const weight = weights[one] ?? 0
      if (one === other) total.genuine += weight * count
      else total.impostor += weight * (weights[other] ?? 0) * count
    }
    return total
  }
}

/** The pairs that are errors at the most thresholds, in constant memory: when it is full, the lower half is dropped. */
class Tail {
  readonly #capacity: number
  #keys: Uint32Array
  #ones: Uint32Array
  #others: Uint32Array
  #count = 0
  /** All pairs of this key or a higher one are kept. */
  lowestKey = 0

  constructor(capacity: number) {
    this.#capacity = capacity
    this.#keys = new Uint32Array(capacity)
    this.#ones = new Uint32Array(capacity)
    this.#others = new Uint32Array(capacity)
  }

  add(key: number, one: number, other: number): void {
    if (key < this.lowestKey) return
    if (this.#count === this.#capacity) {
      this.#drop()
      if (key < this.lowestKey) return
    }
    this.#keys[this.#count] = key
    this.#ones[this.#count] = one
    this.#others[this.#count] = other
    this.#count++
  }

  /** Sorts it, the highest key first, by counting. */
  sort(): { keys: Uint32Array; ones: Uint32Array; others: Uint32Array } {
    const places = new Uint32Array(STEPS + 2)
    for (let index = 0; index < this.#count; index++) {
      const key = this.#keys[index] ?? 0
      places[key] = (places[key] ?? 0) + 1
    }
    let place = 0
    for (let key = STEPS + 1; key >= 0; key--) {
      const pairs = places[key] ?? 0
      places[key] = place
      place += pairs
    }
    const [keys, ones, others] = [0, 0, 0].map(() => new Uint32Array(this.#count)) as [
      Uint32Array,
      Uint32Array,
      Uint32Array,
    ]
    for (let index = 0; index < this.#count; index++) {
      const key = this.#keys[index] ?? 0
      const to = places[key] ?? 0
      places[key] = to + 1
      keys[to] = key
      ones[to] = this.#ones[index] ?? 0
      others[to] = this.#others[index] ?? 0
    }
    return { keys, ones, others }
  }

  #drop(): void {
    const { keys, ones, others } = this.sort()
    // whole keys only: the first that no longer fits into the half goes, and all below it
    this.lowestKey = (keys[Math.floor(this.#capacity / 2)] ?? 0) + 1
    const kept = keys.findIndex((key) => key < this.lowestKey)
    this.#count = kept
    this.#keys.set(keys)
    this.#ones.set(ones)
    this.#others.set(others)
  }
}

export interface DrawnIntervals {
  /** Null where there was no error to draw again, or too many pairs to keep them. */
  fmr: Interval | null
  fnmr: Interval | null
}

/** The errors of each person, and what they would have been with other people. */
export class ErrorsByPerson {
  readonly #impostor: Tail
  readonly #genuine: Tail

  constructor(maxKept = MAX_KEPT) {
    this.#impostor = new Tail(maxKept)
    this.#genuine = new Tail(maxKept)
  }

  /** @param step the highest at which the pair matches */
  add(step: number, one: number, other: number): void {
    if (one === other) this.#genuine.add(STEPS - step, one, one)
    else this.#impostor.add(step, one, other)
  }

  /**
   * 95 % intervals at each of some steps: 1,000 times each person is left out or counted twice, and a pair as often as
   * both of its people ("double or nothing": Owen and Eckles, Annals of Applied Statistics 6, 2012, who find it mildly
   * conservative; for face matching, beside others: Fogliato, Patil and Perona, IJCV 2024).
   *
   * @param onDraw told after each
   */
  draw(people: number, comparisons: Comparisons, steps: number[], onDraw = () => {}): Map<number, DrawnIntervals> {
    const random = createRandom(SEED)
    const weights = new Float64Array(people)
    const [impostor, genuine] = [this.#impostor.sort(), this.#genuine.sort()]
    const fmrs = steps.map((): number[] => [])
    const fnmrs = steps.map((): number[] => [])
    // errors at a step: impostor keys from the step on, genuine ones (STEPS - key) below it
    const impostorKeys = steps.map((step) => step)
    const genuineKeys = steps.map((step) => STEPS - step + 1)
    for (let draw = 0; draw < DRAWS; draw++) {
      for (let person = 0; person < people; person++) weights[person] = random() < 0.5 ? 0 : 2
      const total = comparisons.weigh(weights)
      // a test without pairs has no rates; of a dozen people or more it hardly ever happens
      if (total.impostor > 0) collect(fmrs, sumErrors(impostor, impostorKeys, weights, false), total.impostor)
      if (total.genuine > 0) collect(fnmrs, sumErrors(genuine, genuineKeys, weights, true), total.genuine)
      onDraw()
    }
    return new Map(
      steps.map((step, index) => [
        step,
        {
          fmr: this.#impostor.lowestKey <= step ? toPercentiles(fmrs[index] ?? []) : null,
          fnmr: this.#genuine.lowestKey <= STEPS - step + 1 ? toPercentiles(fnmrs[index] ?? []) : null,
        },
      ]),
    )
  }
}

/** The weight of the pairs of at least each key. */
function sumErrors(
  { keys, ones, others }: ReturnType<Tail['sort']>,
  wanted: number[],
  weights: Float64Array,
  isGenuine: boolean,
): number[] {
  const sums = wanted.map(() => 0)
  const order = wanted.map((_, index) => index).sort((a, b) => (wanted[b] ?? 0) - (wanted[a] ?? 0))
  let at = 0
  let sum = 0
  for (const index of order) {
    const lowest = wanted[index] ?? 0
    for (; at < keys.length && (keys[at] ?? 0) >= lowest; at++) {
      const weight = weights[ones[at] ?? 0] ?? 0
      sum += isGenuine ? weight : weight * (weights[others[at] ?? 0] ?? 0)
    }
    sums[index] = sum
  }
  return sums
}

function collect(rates: number[][], errors: number[], total: number): void {
  for (const [index, sum] of errors.entries()) rates[index]?.push(sum / total)
}

function toPercentiles(rates: number[]): Interval | null {
  const sorted = rates.toSorted((a, b) => a - b)
  // without an error every draw has none, and [0, 0] would be a claim that nobody can make; [1, 1] likewise
  if (sorted[0] === sorted.at(-1)) return null
  const tail = (1 - CONFIDENCE_LEVEL) / 2
  const at = (share: number) => sorted[Math.round(share * (sorted.length - 1))] ?? 0
  return { low: at(tail), high: at(1 - tail) }
}
