// What `make bench` makes of its samples. No I/O.

/**
 * By nearest rank: the smallest sample that at least `percent` of them do not exceed.
 *
 * @param percent above 0, up to 100
 * @throws RangeError when there are no samples
 */
export function percentile(samples: readonly number[], percent: number): number {
  if (!(percent > 0 && percent <= 100)) throw new RangeError('a percentile is above 0 and at most 100')
  const sorted = [...samples].sort((a, b) => a - b)
  const found = sorted[Math.ceil((percent / 100) * sorted.length) - 1]
  if (found === undefined) throw new RangeError('there are no samples')
  return found
}

/** The middle sample; the mean of the two in the middle. */
export function median(samples: readonly number[]): number {
  const sorted = [...samples].sort((a, b) => a - b)
  const [low, high] = [sorted[Math.floor((sorted.length - 1) / 2)], sorted[Math.floor(sorted.length / 2)]]
  if (low === undefined || high === undefined) throw new RangeError('there are no samples')
  return (low + high) / 2
}

/**
 * The median of the ratios of what was measured side by side: what slows both of a pair down leaves no trace.
 *
 * @throws RangeError when they are not pairs, or something took nothing
 */
export function pairedRatio(ours: readonly number[], theirs: readonly number[]): number {
  if (ours.length !== theirs.length) throw new RangeError('the samples are not pairs')
  return median(
    ours.map((sample, index) => {
      const other = theirs[index]
      if (!other) throw new RangeError('a ratio to nothing')
      return sample / other
    }),
  )
}

/** Who a search is about: a name, or null for nobody. */
export type Answer = string | null

export interface Recall {
  /** Probes for which brute force names somebody. */
  named: number
  /** Of those, the ones for which the answer is the same person. */
  found: number
  /** Probes for which brute force names nobody, and somebody was named. */
  falselyNamed: number
}

/** @throws RangeError when there is not one answer for each probe */
export function toRecall(bruteForce: readonly Answer[], answers: readonly Answer[]): Recall {
  if (bruteForce.length !== answers.length) throw new RangeError('not every probe has an answer')
  const recall: Recall = { named: 0, found: 0, falselyNamed: 0 }
  for (const [index, expected] of bruteForce.entries()) {
    const answer = answers[index] ?? null
    if (expected === null) recall.falselyNamed += Number(answer !== null)
    else {
      recall.named++
      recall.found += Number(answer === expected)
    }
  }
  return recall
}

/** Recall@1 as a part of 1; 1 when nobody was to be found. */
export function recallAt1({ named, found }: Recall): number {
  return named === 0 ? 1 : found / named
}
