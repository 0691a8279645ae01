// Unlinkability of protected templates: how much the score of two templates tells whether they are of one person. No I/O.

const BINS = 100

/**
 * D_sys of M. Gomez-Barrero et al., "General Framework to Evaluate Unlinkability in Biometric Template Protection
 * Systems", IEEE TIFS 2018, with omega 1 and 100 bins.
 *
 * @param mated scores of two templates of one person
 * @param nonMated scores of templates of two
 * @returns 0 (they tell nothing) to 1. A finite sample never comes to 0: compare with two samples of one distribution.
 */
export function systemLinkability(mated: readonly number[], nonMated: readonly number[]): number {
  const all = [...mated, ...nonMated]
  const low = all.reduce((a, b) => Math.min(a, b))
  const width = (all.reduce((a, b) => Math.max(a, b)) - low) / BINS
  const toDensity = (scores: readonly number[]) => {
    const bins = Array<number>(BINS).fill(0)
    for (const score of scores) {
      // the highest score belongs to the last bin
      const bin = Math.min(BINS - 1, Math.floor((score - low) / width))
      bins[bin] = (bins[bin] ?? 0) + 1 / scores.length
    }
    return bins
  }
  const ofStrangers = toDensity(nonMated)
  return toDensity(mated).reduce((total, p, bin) => {
    const q = ofStrangers[bin] ?? 0
    // p (LR - 1) / (LR + 1) with LR = p / q, where it is positive
    return p > q ? total + (p * (p - q)) / (p + q) : total
  }, 0)
}
