// What a measurement says, as plain data and as the lines of a table. No I/O.
import type { Model } from '../../src/face/similarity.ts'
import { toCount, toTable } from '../database/terminal.ts'
import type { Measurement } from './measurement.ts'
import type { DrawnIntervals } from './people.ts'
import {
  type ErrorRates,
  type Extreme,
  type Interval,
  type Rate,
  type Scores,
  STEPS,
  toConfidence,
  toCosine,
  toFmr,
  toLargestGallery,
  toMostErrors,
  toStep,
  toTrialsNeeded,
  toUpperBound,
} from './statistics.ts'

/** Confidences at which both rates are always told. */
const GRID = [0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9]
/** Errors from which a rate is known to about a third: the rule of 30 (Doddington et al., 2000). */
const ENOUGH_ERRORS = 30

/** Thresholds tried for a proposal: to 0.03 above the lowest. */
const CANDIDATES = 31
const CANDIDATE_STRIDE = 10

export interface Wanted {
  /** For 1:1. */
  fmr: number
  /** For 1:N, at a gallery of so many faces. */
  identification: { fpir: number; gallery: number } | null
  /** Further confidences to tell the rates at. */
  at: number[]
}

/** A threshold on both scales. */
export interface Threshold {
  confidence: number
  cosine: number
}

interface Kind {
  pairs: number
  mean_cosine: number
  mean_confidence: number
  /** Of the cosine; null for a single pair. */
  standard_deviation: number | null
  lowest: Extreme & { confidence: number }
  highest: Extreme & { confidence: number }
}

/** A rate with the interval as if pairs were independent, and with the one that counts by people, where it is known. */
type ReportedRate = Rate & { by_people: Interval | null }

export interface ReportedThreshold extends Threshold {
  /** What the service has it for: "floor", "verify", "search". */
  used_for: string[]
  fmr: ReportedRate
  fnmr: ReportedRate
}

export interface Proposal {
  wanted: { fmr: number; fpir?: number; gallery?: number }
  /**
   * supported: with 95 % confidence; qualified: only if the pairs were independent, or of that many people;
   * refused: this test is too small to say so, or no threshold does it.
   */
  verdict: 'supported' | 'qualified' | 'refused'
  threshold: ReportedThreshold | null
  /** The false match rate at the threshold is at most this: the larger of the bound of independent pairs and by people. */
  fmr_at_most: number | null
  reasons: string[]
}

export interface Report {
  date: string
  file: string
  embeddings: number | null
  people: number | null
  model: Model
  genuine: Kind
  impostor: Kind
  equal_error_rate: Threshold & { rate: number; by_people: Interval | null } & Interval
  error_free: { from: Threshold; to: Threshold } | null
  thresholds: ReportedThreshold[]
  /** The lowest false match rate that independent pairs could claim, and from where on; null when even 1 has errors. */
  least_claim: (Threshold & { fmr_at_most: number }) | null
  proposals: Proposal[]
  notes: string[]
}

export interface Context {
  date: string
  file: string
  model: Model
  wanted: Wanted
}

/** Errors by people at some steps; null when people are not known. */
export type Draw = (steps: number[]) => Map<number, DrawnIntervals> | null

export function toReport(measurement: Measurement, rates: ErrorRates, draw: Draw, context: Context): Report {
  const { genuine, impostor, embeddings, people } = measurement
  const { model, wanted } = context
  const used = { floor: model.floor, verify: model.verification, search: model.identification }
  const listed = [...GRID, ...Object.values(used), ...wanted.at].map(toStep)
  const claims = toClaims(wanted).map((claim) => ({ claim, candidates: toCandidates(rates, claim.fmr) }))
  const equal = rates.findEqualErrorRate()
  const steps = [...new Set([...listed, equal.step, ...claims.flatMap(({ candidates }) => candidates)])].sort(
    (a, b) => a - b,
  )
  const drawn = draw(steps)
  const toReported = (step: number): ReportedThreshold => ({
    ...toThreshold(step),
    used_for: Object.entries(used).flatMap(([name, threshold]) => (toStep(threshold) === step ? name : [])),
    fmr: { ...rates.fmr(step), by_people: drawn?.get(step)?.fmr ?? null },
    fnmr: { ...rates.fnmr(step), by_people: drawn?.get(step)?.fnmr ?? null },
  })
  const errorFree = rates.findErrorFree()
  const least = rates.findStep(0)
  return {
    date: context.date,
    file: context.file,
    embeddings,
    people: people?.count ?? null,
    model,
    genuine: toKind(genuine),
    impostor: toKind(impostor),
    equal_error_rate: {
      ...toThreshold(equal.step),
      rate: equal.rate,
      low: equal.low,
      high: equal.high,
      by_people: toWider(toReported(equal.step)),
    },
    error_free: errorFree && { from: toThreshold(errorFree.from), to: toThreshold(errorFree.to) },
    thresholds: [...new Set(listed)].sort((a, b) => a - b).map(toReported),
    least_claim: least === null ? null : { ...toThreshold(least), fmr_at_most: toUpperBound(0, impostor.count) },
    proposals: claims.map(({ claim, candidates }) =>
      toProposal(claim, candidates.map(toReported), rates, people?.count ?? null, model),
    ),
    notes: toNotes(measurement, rates),
  }
}

/** From the lower end of both rates to the upper; null unless both are known. */
function toWider({ fmr, fnmr }: ReportedThreshold): Interval | null {
  if (!fmr.by_people || !fnmr.by_people) return null
  return {
    low: Math.min(fmr.by_people.low, fnmr.by_people.low),
    high: Math.max(fmr.by_people.high, fnmr.by_people.high),
  }
}

function toThreshold(step: number): Threshold {
  return { confidence: toConfidence(step), cosine: toCosine(step) }
}

function toKind(scores: Scores): Kind {
  const { count, mean, deviation, lowest, highest } = scores
  // the command ends before when there is no pair of a kind
  if (!lowest || !highest) throw new RangeError('there are no scores')
  const withConfidence = (extreme: Extreme) => ({ ...extreme, confidence: (1 + extreme.cosine) / 2 })
  return {
    pairs: count,
    mean_cosine: mean,
    mean_confidence: (1 + mean) / 2,
    standard_deviation: deviation,
    lowest: withConfidence(lowest),
    highest: withConfidence(highest),
  }
}

// == Proposals ==

type Claim = Proposal['wanted']

function toClaims({ fmr, identification }: Wanted): Claim[] {
  if (!identification) return [{ fmr }]
  const { fpir, gallery } = identification
  return [{ fmr }, { fmr: toFmr(fpir, gallery), fpir, gallery }]
}

/**
 * The lowest threshold of which the claim can be made if pairs are independent, and some above it, of which it may be
 * true by people as well; none when there is no such threshold. That it is chosen by the same pairs takes nothing from
 * the claim: rates fall as thresholds rise, so one is chosen too low only when the bound at the right one fails, in 5 %
 * of tests.
 */
function toCandidates(rates: ErrorRates, fmr: number): number[] {
  const mostErrors = toMostErrors(fmr, rates.impostorCount)
  const lowest = mostErrors < 0 ? null : rates.findStep(mostErrors)
  if (lowest === null) return []
  return Array.from({ length: CANDIDATES }, (_, index) => lowest + index * CANDIDATE_STRIDE).filter(
    (step) => step <= STEPS,
  )
}

function toProposal(
  wanted: Claim,
  candidates: ReportedThreshold[],
  rates: ErrorRates,
  people: number | null,
  model: Model,
): Proposal {
  const pairs = rates.impostorCount
  const gallery = wanted.fpir === undefined ? [] : [toLargestGalleryReason(wanted.fpir, pairs)]
  const undoubted = candidates.find((candidate) => toDoubts(wanted.fmr, candidate, people).length === 0)
  const threshold = undoubted ?? candidates[0]
  if (!threshold) {
    const needed = toTrialsNeeded(wanted.fmr)
    const reason =
      pairs < needed
        ? `It takes ${toCount(needed, 'impostor pair')} without an error, and there are ${pairs.toLocaleString('en')}.`
        : `Even at 1, ${toCount(rates.falseMatches(STEPS), 'impostor pair')} match: look for people under two names.`
    return { wanted, verdict: 'refused', threshold: null, fmr_at_most: null, reasons: [reason, ...gallery] }
  }
  const reasons = [...toDoubts(wanted.fmr, threshold, people), ...gallery]
  if (threshold.confidence < model.floor) {
    reasons.push(`It is below the floor of ${model.id}, ${model.floor}: the service takes the floor.`)
  }
  return {
    wanted,
    verdict: undoubted ? 'supported' : 'qualified',
    threshold,
    fmr_at_most: Math.max(toUpperBound(threshold.fmr.errors, pairs), threshold.fmr.by_people?.high ?? 0),
    reasons,
  }
}

function toLargestGalleryReason(fpir: number, pairs: number): string {
  const largest = toLargestGallery(toUpperBound(0, pairs), fpir)
  return largest === 0
    ? `Even without an error, these pairs support an FPIR of ${toText(fpir)} for no gallery at all.`
    : `Even without an error, these pairs support an FPIR of ${toText(fpir)} for at most ${toCount(largest, 'face')}.`
}

/** Why pairs that share people say less than their number. */
function toDoubts(fmr: number, { fmr: found }: ReportedThreshold, people: number | null): string[] {
  if (people === null) {
    return ['It holds if the pairs are independent, and nothing is known of who they are of (identity_a, identity_b).']
  }
  if (found.errors === 0) {
    const apart = Math.floor(people / 2)
    const bound = toUpperBound(0, apart)
    if (bound <= fmr) return []
    return [
      `It holds if the pairs are independent, and they are of ${toPeople(people)}: only ${apart} share nobody, ` +
        `and by those alone FMR is at most ${toBoundText(bound)}.`,
    ]
  }
  if (found.errors < ENOUGH_ERRORS) {
    return [
      `It holds if the pairs are independent; ${toCount(found.errors, 'error')} of the 30 by which one could see that.`,
    ]
  }
  const high = found.by_people?.high ?? null
  if (high === null) return ['It holds if the pairs are independent; there are too many to draw them again by people.']
  return high <= fmr ? [] : [`It holds if the pairs are independent. By people, FMR may be ${toBoundText(high)}.`]
}

function toNotes({ genuine, impostor, people, embeddings, ignored }: Measurement, rates: ErrorRates): string[] {
  const notes: string[] = []
  if (ignored.length > 0) notes.push(`Not read: ${ignored.map((name) => JSON.stringify(name)).join(', ')}.`)
  if (genuine.mean <= impostor.mean) {
    notes.push(
      'Genuine pairs are no more alike than impostors: is "same" the wrong way round, or the score a distance?',
    )
  }
  if (impostor.mean > 0.4) {
    notes.push(
      `The mean cosine of impostors is ${impostor.mean.toFixed(2)}; recognizers are near 0. Are these confidences?`,
    )
  }
  if (impostor.mean < -0.4) {
    notes.push(
      `The mean cosine of impostors is ${impostor.mean.toFixed(2)}; recognizers are near 0. Are these cosines?`,
    )
  }
  const identical = rates.genuineCount - rates.falseNonMatches(STEPS)
  if (identical > 0) {
    notes.push(`${toCount(identical, 'genuine pair')} with a confidence of 1: the same picture twice tells nothing.`)
  }
  if (impostor.highest && impostor.highest.cosine > genuine.mean) {
    notes.push(
      `The highest impostor (${toLines(impostor.highest)}) is more alike than most genuine pairs: one person under two names?`,
    )
  }
  notes.push(
    people === null
      ? 'Intervals count pairs as independent. Pairs that share people are not, and the truth may lie further off.'
      : `Intervals count pairs as independent, and these are of only ${toPeople(people.count)}${
          embeddings === null ? '' : ` in ${toCount(embeddings, 'picture')}`
        }: the truth may lie further off. "by people" draws the people again; without an error it cannot say anything.`,
  )
  notes.push('What was measured holds for pictures and people like these, and says nothing about groups of people.')
  return notes
}

// == Text ==

export function toTextLines(report: Report): string[] {
  const {
    genuine,
    impostor,
    equal_error_rate: equal,
    error_free: errorFree,
    model,
    people,
    least_claim: least,
  } = report
  const source = [
    report.embeddings === null ? null : toCount(report.embeddings, 'embedding'),
    people === null ? null : toPeople(people),
  ].filter((part) => part !== null)
  const cosine = (value: number | null) => (value === null ? '' : value.toFixed(4))
  const extreme = (found: Extreme) => `${found.cosine.toFixed(4)} (${toLines(found)})`
  const kind = (name: string, scores: Kind) => ({
    '': name,
    pairs: scores.pairs.toLocaleString('en').padStart(7),
    'mean cosine': cosine(scores.mean_cosine),
    'st. deviation': cosine(scores.standard_deviation),
    lowest: extreme(scores.lowest),
    highest: extreme(scores.highest),
  })
  return [
    `Calibration of ${report.file}${source.length === 0 ? '' : ` (${source.join(', ')})`}, ${report.date}`,
    '',
    ...toTable([kind('genuine', genuine), kind('impostor', impostor)]),
    '',
    `EER ${toText(equal.rate)} (${toRange(equal)}${equal.by_people ? `; by people ${toRange(equal.by_people)}` : ''}) at ${toBoth(equal)}`,
    errorFree
      ? `No pair is decided wrongly by thresholds from ${toBoth(errorFree.from)} to ${toBoth(errorFree.to)}.`
      : 'No threshold decides all pairs rightly.',
    '',
    `FMR and FNMR with 95 % intervals (Clopper-Pearson${people === null ? '' : '; by people'}); thresholds of ${model.id} marked`,
    ...toTable(
      report.thresholds.map((threshold) => ({
        threshold: threshold.confidence.toFixed(4),
        cosine: cosine(threshold.cosine).padStart(7),
        ...toColumns('FMR', threshold.fmr, people !== null),
        ...toColumns('FNMR', threshold.fnmr, people !== null),
        '': threshold.used_for.map((name) => `< ${name}`).join(' '),
      })),
    ),
    '',
    'Proposals, with 95 % confidence (one-sided)',
    ...report.proposals.flatMap(toProposalLines),
    least
      ? `  The least that these pairs can claim, if they are independent: FMR at most ${toBoundText(least.fmr_at_most)} (about 3 / ${impostor.pairs.toLocaleString('en')}), from ${toBoth(least)} on.`
      : '  No threshold is without a false match: nothing lower can be claimed.',
    '',
    ...report.notes.map((note) => `- ${note}`),
  ]
}

function toColumns(name: string, rate: ReportedRate, hasPeople: boolean): Record<string, string> {
  const columns = {
    [name]: `${toText(rate.rate)} = ${rate.errors.toLocaleString('en')}`,
    [`${name} 95 %`]: toRange(rate),
  }
  return hasPeople ? { ...columns, [`${name} by people`]: rate.by_people ? toRange(rate.by_people) : '-' } : columns
}

function toProposalLines({ wanted, verdict, threshold, fmr_at_most: atMost, reasons }: Proposal): string[] {
  const aim =
    wanted.gallery === undefined
      ? `FMR ${toText(wanted.fmr)} (1:1)`
      : `FPIR ${toText(wanted.fpir ?? 0)} for a gallery of ${toCount(wanted.gallery, 'face')} (1:N), so FMR ${toText(wanted.fmr)} by FPIR = 1 - (1 - FMR)^N`
  const answer =
    threshold && atMost !== null
      ? `${toBoth(threshold)}: FMR at most ${toBoundText(atMost)} (${toCount(threshold.fmr.errors, 'error')}), FNMR ${toText(threshold.fnmr.rate)} (${toRange(threshold.fnmr)})`
      : 'no threshold'
  return [`  ${verdict.toUpperCase()}  ${aim}: ${answer}`, ...reasons.map((reason) => `    ${reason}`)]
}

function toBoth({ confidence, cosine }: Threshold): string {
  return `${confidence.toFixed(4)} (cosine ${cosine.toFixed(4)})`
}

function toRange({ low, high }: Interval): string {
  return `${toText(low)} to ${toText(high)}`
}

function toLines({ lines }: Extreme): string {
  return `line${lines.length === 1 ? '' : 's'} ${lines.join(' and ')}`
}

/** Three significant digits. */
export function toText(rate: number): string {
  if (rate === 0 || rate === 1) return String(rate)
  return rate < 0.001 ? rate.toExponential(2).replace(/\.?0+e/, 'e') : String(Number(rate.toPrecision(3)))
}

/** The same, rounded up: what is "at most" 7.444e-4 is not at most 7.44e-4. */
export function toBoundText(rate: number): string {
  const unit = 10 ** (Math.floor(Math.log10(rate)) - 2)
  return toText(Math.min(1, Math.ceil(rate / unit) * unit))
}

function toPeople(count: number): string {
  return count === 1 ? '1 person' : `${count.toLocaleString('en')} people`
}
