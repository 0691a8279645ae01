// Proves `npm run calibrate`: the rates at every threshold, worked out by hand on small cases; the intervals, against
// published values; which claims a number of pairs allows and which it does not; what of a file is refused, and on
// which line; the command and its drawing. Fake: the faces, but for the last suite, which reads REKKO_FACES_DIR.
import { execFile } from 'node:child_process'
import { randomBytes } from 'node:crypto'
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { draw } from '../../scripts/calibrate/drawing.ts'
import { type Measurement, measureEmbeddings, measurePairs } from '../../scripts/calibrate/measurement.ts'
import { AllComparisons, ErrorsByPerson, ListedComparisons } from '../../scripts/calibrate/people.ts'
import { type Report, toBoundText, toReport, toText, toTextLines, type Wanted } from '../../scripts/calibrate/report.ts'
import {
  ErrorRates,
  findHighestStep,
  type Interval,
  Scores,
  STEPS,
  toCosine,
  toFmr,
  toInterval,
  toLargestGallery,
  toMostErrors,
  toStep,
  toTrialsNeeded,
  toUpperBound,
} from '../../scripts/calibrate/statistics.ts'
import { EXIT, Terminal } from '../../scripts/database/terminal.ts'
import { createRandom, gaussian, generateGallery } from '../../scripts/gallery.ts'
import { ARCFACE_512, toDistance } from '../../src/face/similarity.ts'

const ROOT = join(import.meta.dirname, '../..')
const TERMINAL = new Terminal({})

let folder: string
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'rekko-calibrate-'))
})
afterAll(() => rm(folder, { recursive: true }))

async function write(name: string, lines: string[]): Promise<string> {
  const path = join(folder, `${randomBytes(4).toString('hex')}-${name}`)
  await writeFile(path, lines.join('\n'))
  return path
}

function toScores(cosines: number[]): Scores {
  const scores = new Scores()
  for (const [index, cosine] of cosines.entries()) scores.add(cosine, index + 1)
  return scores
}

function toRates(genuine: number[], impostor: number[]): ErrorRates {
  return new ErrorRates(toScores(genuine), toScores(impostor))
}

describe('the scale', () => {
  it('has a score at each threshold match it and not the next, written as a cosine or as a confidence', () => {
    for (let step = 0; step <= STEPS; step++) {
      const steps = [toCosine(step), Number(toCosine(step).toFixed(4)), 2 * (step / STEPS) - 1].map(findHighestStep)
      expect(steps, String(step)).toEqual([step, step, step])
    }
  })

  it('has a score just below each threshold match the one before', () => {
    for (let step = 1; step <= STEPS; step++) expect(findHighestStep(toCosine(step) - 1e-9)).toBe(step - 1)
  })

  it('agrees with the distance that the service compares', () => {
    for (const cosine of [-0.9, -0.12345, 0, 0.3, 0.34999, 0.35, 0.350001, 0.38, 0.99999]) {
      const step = findHighestStep(cosine)
      expect(1 - cosine).toBeLessThanOrEqual(toDistance(step / STEPS) + 1e-12)
      expect(1 - cosine).toBeGreaterThan(toDistance((step + 1) / STEPS))
    }
  })

  it('rounds a threshold of more decimals up, and keeps one of four', () => {
    expect([0.65, 0.675, 0.69, 0.6901, 0, 1].map(toStep)).toEqual([6500, 6750, 6900, 6901, 0, 10_000])
    expect([0.67501, 0.675001].map(toStep)).toEqual([6751, 6751])
    for (let step = 0; step <= STEPS; step++) expect(toStep(step / STEPS)).toBe(step)
  })
})

describe('the rates', () => {
  //                     0.6  0.7  0.8  0.9 as confidences
  const genuine = [0.2, 0.4, 0.6, 0.8]
  //                      0.4 0.5  0.6  0.75
  const impostor = [-0.2, 0, 0.2, 0.5]
  const rates = toRates(genuine, impostor)

  it.each([
    [0, 4, 0],
    [4000, 4, 0],
    [4001, 3, 0],
    [5000, 3, 0],
    [5001, 2, 0],
    [6000, 2, 0],
    [6001, 1, 1],
    [7000, 1, 1],
    [7001, 1, 2],
    [7500, 1, 2],
    [7501, 0, 2],
    [9000, 0, 3],
    [9001, 0, 4],
    [10_000, 0, 4],
  ])('at step %i are %i of 4 false matches and %i of 4 false non-matches', (step, falseMatches, falseNonMatches) => {
    expect(rates.fmr(step)).toMatchObject({ errors: falseMatches, trials: 4, rate: falseMatches / 4 })
    expect(rates.fnmr(step)).toMatchObject({ errors: falseNonMatches, trials: 4, rate: falseNonMatches / 4 })
  })

  it('are equal where they cross', () => {
    // both 1 of 4; Clopper and Pearson: 0.0063 to 0.8059
    expect(rates.findEqualErrorRate()).toMatchObject({ step: 6001, rate: 0.25 })
    expect(rates.findEqualErrorRate().low).toBeCloseTo(0.00631, 5)
    expect(rates.findEqualErrorRate().high).toBeCloseTo(0.80588, 5)
    expect(rates.findErrorFree()).toBeNull()
  })

  it('cross at a mean where no step has them equal', () => {
    // FMR falls from 1/2 to 0 behind 0.6, where FNMR goes from 0 to 1/4
    expect(toRates([0.2, 0.4, 0.6, 0.8], [0, 0.2]).findEqualErrorRate()).toMatchObject({ step: 6001, rate: 0.125 })
  })

  it('are both 0 from the highest impostor to the lowest genuine pair, which still matches', () => {
    const apart = toRates([0.4, 0.6], [0, 0.2])
    expect(apart.findErrorFree()).toEqual({ from: 6001, to: 7000 })
    expect(apart.findEqualErrorRate()).toMatchObject({ step: 6501, rate: 0, low: 0 })
    expect(toRates([0.2], [0.2]).findErrorFree()).toBeNull()
    expect(toRates([0.2002], [0.2]).findErrorFree()).toEqual({ from: 6001, to: 6001 })
  })

  it('give the lowest threshold for so many false matches', () => {
    expect([4, 3, 2, 1, 0].map((errors) => rates.findStep(errors))).toEqual([0, 4001, 5001, 6001, 7501])
  })

  it('give none where an impostor is the same picture', () => {
    const same = toRates([0.5], [1, 0])
    expect(same.findStep(0)).toBeNull()
    expect(same.findStep(1)).toBe(5001)
    expect(same.findErrorFree()).toBeNull()
  })

  it('come with mean, deviation and the extremes with their lines', () => {
    const scores = toScores([0.1, 0.3, 0.8])
    expect(scores.mean).toBeCloseTo(0.4, 12)
    // ((0.3)^2 + (0.1)^2 + (0.4)^2) / 2
    expect(scores.deviation).toBeCloseTo(Math.sqrt(0.13), 12)
    expect(scores.lowest).toEqual({ cosine: 0.1, lines: [1] })
    expect(scores.highest).toEqual({ cosine: 0.8, lines: [3] })
    expect(toScores([0.1]).deviation).toBeNull()
  })

  it('keep the digits of the deviation of many scores that are nearly alike', () => {
    const scores = new Scores()
    for (let index = 0; index < 100_000; index++) scores.add(0.9 + (index % 2 === 0 ? 1e-9 : -1e-9), index)
    expect(scores.deviation).toBeCloseTo(1e-9, 13)
  })
})

describe('an interval', () => {
  // R. G. Newcombe, "Two-sided confidence intervals for the single proportion", Statistics in Medicine 17 (1998),
  // table I, method 5
  it.each([
    [81, 263, 0.2527, 0.3676],
    [15, 148, 0.0578, 0.1617],
    [0, 20, 0, 0.1684],
    [1, 29, 0.0009, 0.1776],
  ])('of %i in %i is the published one', (errors, trials, low, high) => {
    expect(toInterval(errors, trials).low).toBeCloseTo(low, 4)
    expect(toInterval(errors, trials).high).toBeCloseTo(high, 4)
  })

  it.each([
    [1, 7],
    [3, 50],
    [30, 1000],
    [2, 4023],
    [400, 1200],
  ])('of %i in %i leaves 2.5 %% of the binomial distribution on both sides', (errors, trials) => {
    const { low, high } = toInterval(errors, trials)
    expect(1 - binomial(errors - 1, trials, low)).toBeCloseTo(0.025, 8)
    expect(binomial(errors, trials, high)).toBeCloseTo(0.025, 8)
    expect(binomial(errors, trials, toUpperBound(errors, trials))).toBeCloseTo(0.05, 8)
  })

  it('of all or nothing ends at 1 or at 0, and is the mirror of the other', () => {
    const [none, all] = [toInterval(0, 29), toInterval(29, 29)]
    expect(none.low).toBe(0)
    expect(all.high).toBe(1)
    expect(all.low).toBeCloseTo(1 - none.high, 12)
    expect(toUpperBound(29, 29)).toBe(1)
    // 1 - 0.025^(1/29)
    expect(none.high).toBeCloseTo(1 - 0.025 ** (1 / 29), 12)
  })

  it('holds its digits where rates are very small', () => {
    // as the Poisson distribution has it: 0.619 and 8.767 for 3
    expect(toInterval(3, 1e9).low * 1e9).toBeCloseTo(0.6187, 4)
    expect(toInterval(3, 1e9).high * 1e9).toBeCloseTo(8.7673, 4)
  })
})

describe('a claim', () => {
  it('without an error is about 3 / n: the rule of three', () => {
    expect(toUpperBound(0, 4023)).toBeCloseTo(1 - 0.05 ** (1 / 4023), 12)
    for (const pairs of [100, 1000, 1e6]) {
      expect(toUpperBound(0, pairs) * pairs).toBeGreaterThan(2.95)
      expect(toUpperBound(0, pairs) * pairs).toBeLessThan(3)
    }
  })

  it('of 0.1 % takes 2,995 pairs without an error, and one fewer is too few', () => {
    expect(toTrialsNeeded(1e-3)).toBe(2995)
    expect(toMostErrors(1e-3, 2995)).toBe(0)
    expect(toMostErrors(1e-3, 2994)).toBe(-1)
  })

  it.each([1, 2, 10, 40])('allows %i errors from the number of pairs on at which they are improbable', (errors) => {
    let pairs = Math.ceil(errors / 1e-2)
    while (binomial(errors, pairs, 1e-2) > 0.05) pairs++
    expect(toMostErrors(1e-2, pairs)).toBe(errors)
    expect(toMostErrors(1e-2, pairs - 1)).toBe(errors - 1)
  })

  it('about a gallery is one about each of its faces', () => {
    expect(toFmr(0.01, 1)).toBeCloseTo(0.01, 15)
    expect(1 - (1 - toFmr(0.01, 60_000)) ** 60_000).toBeCloseTo(0.01, 9)
    expect(toFmr(0.01, 60_000)).toBeCloseTo(1.675e-7, 10)
    // docs/thresholds.md: 5.8 % at an FMR of one in a million
    expect(1 - (1 - 1e-6) ** 60_000).toBeCloseTo(0.058, 3)
    expect(toLargestGallery(toFmr(0.01, 60_000) * (1 - 1e-9), 0.01)).toBe(60_000)
    expect(toLargestGallery(toFmr(0.01, 60_000) * (1 + 1e-9), 0.01)).toBe(59_999)
    expect(toLargestGallery(0.02, 0.01)).toBe(0)
  })
})

/** The probability of at most so many errors, summed up. */
function binomial(errors: number, trials: number, rate: number): number {
  let term = trials * Math.log1p(-rate)
  let sum = 0
  for (let count = 0; count <= errors; count++) {
    sum += Math.exp(term)
    term += Math.log((trials - count) / (count + 1)) + Math.log(rate) - Math.log1p(-rate)
  }
  return sum
}

describe('people drawn again', () => {
  it('are counted or left out as a whole', () => {
    // two people with a genuine pair each, of which one is an error at 7,000: only one of them, or both
    const errors = new ErrorsByPerson()
    errors.add(6999, 0, 0)
    errors.add(7000, 1, 1)
    errors.add(5000, 0, 1)
    const comparisons = new ListedComparisons()
    for (const [one, other] of [
      [0, 0],
      [1, 1],
      [0, 1],
    ] as const)
      comparisons.add(one, other)
    const drawn = errors.draw(2, comparisons, [6999, 7000, 7001])
    expect(drawn.get(6999)).toEqual({ fmr: null, fnmr: null })
    expect(drawn.get(7000)).toEqual({ fmr: null, fnmr: { low: 0, high: 1 } })
    // all are errors, however often: no interval, as no claim can be made of it
    expect(drawn.get(7001)).toEqual({ fmr: null, fnmr: null })
  })

  it('weigh a pair of two people by both, listed or all', () => {
    const all = new AllComparisons()
    const listed = new ListedComparisons()
    const samples = [2, 1, 3]
    for (const [person, count] of samples.entries()) {
      for (let sample = 0; sample < count; sample++) all.addSample(person)
      for (const [other, others] of samples.entries()) {
        if (other > person) continue
        const pairs = other === person ? (count * (count - 1)) / 2 : count * others
        // the order of the two does not matter
        for (let pair = 0; pair < pairs; pair++) {
          if (pair % 2) listed.add(person, other)
          else listed.add(other, person)
        }
      }
    }
    for (const weights of [
      [1, 1, 1],
      [2, 0, 2],
      [0, 2, 0],
      [3, 1, 2],
    ]) {
      const [a = 0, b = 0, c = 0] = weights
      const expected = { genuine: a + 3 * c, impostor: 2 * a * b + 6 * a * c + 3 * b * c }
      expect(all.weigh(Float64Array.from(weights))).toEqual(expected)
      expect(listed.weigh(Float64Array.from(weights))).toEqual(expected)
    }
  })

  it('are given up when a file has too many pairs of them', () => {
    const listed = new ListedComparisons(2)
    for (const other of [1, 2, 1, 2]) listed.add(0, other)
    expect(listed.isComplete).toBe(true)
    listed.add(1, 2)
    expect(listed.isComplete).toBe(false)
  })

  it('widen the interval where one person makes all the errors', () => {
    const drawn = [true, false].map((isOnePerson) => {
      const errors = new ErrorsByPerson()
      const comparisons = new AllComparisons()
      for (let person = 0; person < 40; person++) {
        comparisons.addSample(person)
        for (let other = 0; other < person; other++) {
          const isError = isOnePerson ? other === 0 : person - other === 1
          errors.add(isError ? 7000 : 5000, person, other)
        }
      }
      return errors.draw(40, comparisons, [7000]).get(7000)?.fmr
    })
    const [one, spread] = drawn
    expect(one?.low).toBe(0)
    expect(spread?.low).toBeGreaterThan(0)
    expect(one?.high).toBeGreaterThan((spread?.high ?? 1) * 1.5)
  })

  it('hold the truth where some resemble everybody, which intervals of independent pairs do not', () => {
    const random = createRandom(11)
    // a pair is an error where two people and their pictures add up to the highest percent: a normal sum of variance 1
    const [people, shared, limit, truth] = [60, 0.3, 2.3263, 0.01]
    let held = { independent: 0, byPeople: 0 }
    for (let test = 0; test < 100; test++) {
      const likeness = Array.from({ length: people }, () => gaussian(random) * Math.sqrt(shared / 2))
      const errors = new ErrorsByPerson(people ** 2)
      const comparisons = new AllComparisons()
      const impostor = new Scores()
      for (const [one, own] of likeness.entries()) {
        comparisons.addSample(one)
        for (const [other, others] of likeness.slice(0, one).entries()) {
          const isError = own + others + gaussian(random) * Math.sqrt(1 - shared) > limit
          errors.add(impostor.add(isError ? 0.5 : 0, 1), one, other)
        }
      }
      const independent = new ErrorRates(toScores([0]), impostor).fmr(7500)
      const byPeople = errors.draw(people, comparisons, [7500]).get(7500)?.fmr
      const holds = (interval: Interval | null | undefined) =>
        Number(interval && interval.low <= truth && truth <= interval.high)
      held = { independent: held.independent + holds(independent), byPeople: held.byPeople + holds(byPeople) }
    }
    expect(held.byPeople).toBeGreaterThanOrEqual(91)
    expect(held.independent).toBeLessThan(87)
  })

  it('give the same interval each time, and none where too many pairs are errors to be kept', () => {
    const run = (maxKept: number) => {
      const errors = new ErrorsByPerson(maxKept)
      const comparisons = new AllComparisons()
      for (let person = 0; person < 60; person++) {
        comparisons.addSample(person)
        comparisons.addSample(person)
        errors.add(6500 + 25 * person, person, person)
        for (let other = 0; other < person; other++)
          errors.add(4000 + ((person * 37 + other * 101) % 3000), person, other)
      }
      return errors.draw(60, comparisons, [5000, 6000, 6800, 6900, 6950, 6990, 7900])
    }
    const whole = run(10_000)
    expect(run(10_000)).toEqual(whole)
    const tail = run(200)
    // 1,770 impostor pairs on 3,000 steps: of at most 200 the lowest is about 6,800
    for (const step of [6900, 6950, 6990]) {
      expect(whole.get(step)?.fmr).not.toBeNull()
      expect(tail.get(step)?.fmr).toEqual(whole.get(step)?.fmr)
    }
    for (const step of [5000, 6000]) {
      expect(whole.get(step)?.fmr).not.toBeNull()
      expect(tail.get(step)?.fmr).toBeNull()
    }
    // 60 genuine pairs fit
    for (const step of [6800, 7900]) expect(tail.get(step)?.fnmr).toEqual(whole.get(step)?.fnmr)
    expect(whole.get(7900)?.fnmr).not.toBeNull()
  })
})

describe('a file of pairs', () => {
  it('of known people gives the EER an interval by people, from the lower end of both rates to the upper', async () => {
    const lines = ['same,cosine,identity_a,identity_b']
    for (let one = 0; one < 30; one++) {
      lines.push(`1,${one % 10 === 0 ? 0.1 : 0.6},p${one},p${one}`)
      for (let other = 0; other < one; other++) lines.push(`0,${(one + other) % 10 === 0 ? 0.4 : 0},p${one},p${other}`)
    }
    const measurement = await measurePairs(await write('pairs.csv', lines), TERMINAL)
    const { people, genuine, impostor } = measurement
    const draw = (steps: number[]) => people?.errors.draw(30, people.comparisons, steps) ?? null
    const rates = new ErrorRates(genuine, impostor)
    const { equal_error_rate: equal } = toReport(measurement, rates, draw, {
      date: '2026-11-25',
      file: 'pairs.csv',
      model: ARCFACE_512,
      wanted: { fmr: 1e-3, identification: null, at: [] },
    })
    const drawn = draw([toStep(equal.confidence)])?.get(toStep(equal.confidence))
    expect(drawn?.fmr).not.toBeNull()
    expect(drawn?.fnmr).not.toBeNull()
    expect(equal.by_people).toEqual({
      low: Math.min(drawn?.fmr?.low ?? 0, drawn?.fnmr?.low ?? 0),
      high: Math.max(drawn?.fmr?.high ?? 0, drawn?.fnmr?.high ?? 0),
    })
  })

  const measure = async (name: string, lines: string[]) => measurePairs(await write(name, lines), TERMINAL)

  it('is read by its columns, in any order, and says which were not', async () => {
    const { genuine, impostor, people, ignored } = await measure('pairs.csv', [
      'camera, Cosine ,same,cosine',
      'north,0.9,1,0.5',
      '',
      'south,0.9,0,-0.25',
      '"a, b",0.9,TRUE,"0.7"',
      'x,0.9,impostor,1',
    ])
    expect([genuine.count, impostor.count, people, ignored]).toEqual([2, 2, null, ['camera', 'Cosine']])
    expect(genuine.highest).toEqual({ cosine: 0.7, lines: [5] })
    expect(impostor.lowest).toEqual({ cosine: -0.25, lines: [4] })
  })

  it('is the same in confidences and in JSON Lines', async () => {
    const measured = [
      await measure('pairs.csv', ['same,cosine', '1,0.35', '0,0.349998', '0,-1']),
      await measure('pairs.csv', ['same,confidence', '1,0.675', '0,0.674999', '0,0']),
      await measure('pairs.jsonl', [
        '{"same":true,"confidence":0.675}',
        '{"same":false,"confidence":0.674999,"camera":"north"}',
        '{"same":0,"confidence":0}',
      ]),
    ].map(({ genuine, impostor }) => {
      const rates = new ErrorRates(genuine, impostor)
      return [
        rates.falseNonMatches(6750),
        rates.falseNonMatches(6751),
        rates.falseMatches(6749),
        rates.falseMatches(6750),
      ]
    })
    expect(measured).toEqual(Array(3).fill([0, 1, 1, 0]))
  })

  it('names people, under whatever order and blanks', async () => {
    const { people } = await measure('pairs.csv', [
      'same,cosine,identity_a,identity_b',
      '1,0.7,ada, ada ',
      '0,0.1,ada,mia',
      '0,0.1,mia,zoe',
    ])
    expect(people?.count).toBe(3)
    expect(people?.comparisons.weigh(Float64Array.from([2, 1, 3]))).toEqual({ genuine: 2, impostor: 5 })
  })

  it('may have what float32 makes of a cosine of 1, and no more', async () => {
    const { genuine, impostor } = await measure('pairs.csv', ['same,cosine', '1,1.0000005', '0,-1.0000005'])
    expect([genuine.mean, impostor.mean]).toEqual([1, -1])
  })

  it.each([
    ['NaN', 'same,cosine', '1,NaN', '"cosine" must be a number from -1 to 1.'],
    ['an infinite score', 'same,cosine', '1,Infinity', '"cosine" must be a number from -1 to 1.'],
    ['an empty score', 'same,cosine', '1, ', '"cosine" must be a number from -1 to 1.'],
    ['a word', 'same,cosine', '1,high', '"cosine" must be a number from -1 to 1.'],
    ['a cosine above 1', 'same,cosine', '1,1.000002', '"cosine" must be a number from -1 to 1.'],
    ['a cosine below -1', 'same,cosine', '1,-1.000002', '"cosine" must be a number from -1 to 1.'],
    ['a confidence above 1', 'same,confidence', '1,1.000002', '"confidence" must be a number from 0 to 1.'],
    ['a confidence below 0', 'same,confidence', '1,-0.000002', '"confidence" must be a number from 0 to 1.'],
    ['a percentage', 'same,confidence', '1,67.5', '"confidence" must be a number from 0 to 1.'],
    ['an empty label', 'same,cosine', ',0.5', '"same" must be 1 or 0, true or false.'],
    ['another label', 'same,cosine', '2,0.5', '"same" must be 1 or 0, true or false.'],
    ['too few cells', 'same,cosine', '1', 'must have 2 cells as line 1 has, not 1.'],
    ['too many cells', 'same,cosine', '1,0,5', 'must have 2 cells as line 1 has, not 3.'],
    ['an odd quotation mark', 'same,cosine', '1,0"5', 'a quotation mark stands in the wrong place.'],
    ['a nameless person', 'same,cosine,identity_a,identity_b', '0,0.5,ada,', '"identity_a" or "identity_b" is empty.'],
    [
      'two people who are the same',
      'same,cosine,identity_a,identity_b',
      '1,0.5,ada,mia',
      '"same" says otherwise than "identity_a" and "identity_b".',
    ],
    [
      'one person who is not',
      'same,cosine,identity_a,identity_b',
      '0,0.5,ada,ada',
      '"same" says otherwise than "identity_a" and "identity_b".',
    ],
  ])('is refused with the line of %s', async (_, header, line, fault) => {
    const good = header.includes('identity') ? '0,0.5,ada,mia' : '0,0.5'
    await expect(measure('pairs.csv', [header, good, '', line])).rejects.toThrow(`Line 4: ${fault}`)
  })

  it.each([
    ['same', 'cosine', 'there is no column "same"'],
    ['a score', 'same', 'there is no column "cosine" (-1 to 1) or "confidence" (0 to 1).'],
    ['only one score', 'same,cosine,confidence', 'there are "cosine" and "confidence": leave one of them out.'],
    ['one column of a name', 'same,cosine,same', 'there are two columns "same".'],
    ['both people', 'same,cosine,identity_b', 'there is a column "identity_b" without the other one.'],
  ])('must have %s', async (_, header, fault) => {
    await expect(measure('pairs.csv', [header, ''])).rejects.toThrow(`Line 1: ${fault}`)
  })

  it.each([
    ['NaN', '{"same":true,"cosine":NaN}', 'Line 3: must be one JSON object on one line.'],
    ['null for a score', '{"same":true,"cosine":null}', 'Line 3: "cosine" must be a number from -1 to 1.'],
    ['a score in quotation marks', '{"same":true,"cosine":"0.5"}', 'Line 3: "cosine" must be a number from -1 to 1.'],
    ['an infinite score', '{"same":true,"cosine":1e999}', 'Line 3: "cosine" must be a number from -1 to 1.'],
    ['a label that is left out', '{"cosine":0.5}', 'Line 3: "same" must be 1 or 0, true or false.'],
    ['a list', '[true,0.5]', 'Line 3: must be one JSON object on one line.'],
    ['a name twice', '{"same":true,"same":false,"cosine":0.5}', 'Line 3: '],
  ])('is refused with the line of %s in JSON', async (_, line, fault) => {
    await expect(measure('pairs.jsonl', ['', '{"same":true,"cosine":0.5}', line])).rejects.toThrow(fault)
  })

  it('tells what its first object lacks, and whether it is one at all', async () => {
    await expect(measure('pairs.jsonl', ['', '{"same":true}'])).rejects.toThrow('Line 2: there is no field "cosine"')
    await expect(measure('pairs.jsonl', [''])).rejects.toThrow('is empty.')
    await expect(measure('pairs.txt', [''])).rejects.toThrow('must end in .csv, .jsonl or .ndjson.')
    await expect(measurePairs(join(folder, 'nowhere.csv'), TERMINAL)).rejects.toThrow('There is no file')
  })
})

const PEOPLE = generateGallery(8, 3, 5)
const COMPONENTS = Array.from({ length: 512 }, (_, index) => `e${index}`)

function toCsv(rows: [string, number[]][]): string[] {
  return [['identity', ...COMPONENTS].join(','), ...rows.map(([name, sample]) => [name, ...sample].join(','))]
}

describe('a file of embeddings', () => {
  const rows = PEOPLE.flatMap(({ name, samples }) => samples.map((sample): [string, number[]] => [name, sample]))

  it('is compared with itself: all genuine and all impostor pairs', async () => {
    const { genuine, impostor, people, embeddings } = await measureEmbeddings(
      await write('faces.csv', toCsv(rows)),
      TERMINAL,
    )
    // 8 people of 3: 8 * 3, and 24 * 21 / 2
    expect([genuine.count, impostor.count, people?.count, embeddings]).toEqual([24, 252, 8, 24])
    expect(people?.comparisons.weigh(new Float64Array(8).fill(1))).toEqual({ genuine: 24, impostor: 252 })
    const cosines = rows.flatMap(([name, one], index) =>
      rows.slice(0, index).map(([other, sample], before) => ({
        isSame: name === other,
        cosine: one.reduce((sum, component, at) => sum + component * (sample[at] ?? 0), 0),
        lines: [before + 2, index + 2],
      })),
    )
    for (const [scores, isSame] of [
      [genuine, true],
      [impostor, false],
    ] as const) {
      const all = cosines.filter((pair) => pair.isSame === isSame).sort((a, b) => a.cosine - b.cosine)
      expect(scores.mean).toBeCloseTo(all.reduce((sum, { cosine }) => sum + cosine, 0) / all.length, 6)
      expect(scores.lowest?.lines).toEqual(all[0]?.lines)
      expect(scores.highest?.lines).toEqual(all.at(-1)?.lines)
      expect(scores.highest?.cosine).toBeCloseTo(all.at(-1)?.cosine ?? 0, 6)
    }
  })

  it('may scatter the rows of a person, and write the name with blanks', async () => {
    const scattered = rows
      .toReversed()
      .map(([name, sample], index): [string, number[]] => [index % 2 ? ` ${name} ` : name, sample])
    const { genuine, impostor } = await measureEmbeddings(await write('faces.csv', toCsv(scattered)), TERMINAL)
    expect([genuine.count, impostor.count]).toEqual([24, 252])
  })

  it.each([
    ['a name that is empty', ' ', PEOPLE[0]?.samples[0], 'Line 3: the identity is empty.'],
    [
      'a component that is no number',
      'x',
      PEOPLE[0]?.samples[0]?.with(7, Number.NaN),
      'Line 3: component 7: Must be a finite number.',
    ],
    ['a vector of zeros', 'x', Array<number>(512).fill(0), 'Line 3: Must be L2-normalized'],
  ])('is refused with the line of %s', async (_, name, sample, fault) => {
    const path = await write('faces.csv', toCsv([...rows.slice(0, 1), [name, sample ?? []]]))
    await expect(measureEmbeddings(path, TERMINAL)).rejects.toThrow(fault)
  })

  it('is refused when it is too long to form all pairs', async () => {
    const path = await write('faces.csv', [...toCsv([]), ...Array<string>(50_002).fill('')])
    await expect(measureEmbeddings(path, TERMINAL)).rejects.toThrow('all pairs of at most 50,000 are formed')
  })
})

describe('the report', () => {
  /** So many impostor pairs at a cosine of 0 but for some higher ones, and ten genuine pairs at 0.6. */
  function report(
    pairs: number,
    {
      higher = [],
      people = null,
      wanted = {},
    }: { higher?: number[]; people?: Measurement['people']; wanted?: Partial<Wanted> } = {},
  ): Report {
    const impostor = toScores([...Array<number>(pairs - higher.length).fill(0), ...higher])
    const measurement = { genuine: toScores(Array(10).fill(0.6)), impostor, embeddings: null, people, ignored: [] }
    const rates = new ErrorRates(measurement.genuine, impostor)
    const draw = (steps: number[]) => people?.errors.draw(people.count, people.comparisons, steps) ?? null
    return toReport(measurement, rates, draw, {
      date: '2026-11-25',
      file: 'pairs.csv',
      model: ARCFACE_512,
      wanted: { fmr: 1e-3, identification: null, at: [], ...wanted },
    })
  }

  /** Only how many they are matters while there is no error. */
  function toPeople(count: number): Measurement['people'] {
    const comparisons = new AllComparisons()
    for (let person = 0; person < count; person++) comparisons.addSample(person)
    return { count, comparisons, errors: new ErrorsByPerson() }
  }

  it('refuses a rate below what the pairs allow, and says how many it takes', () => {
    const [proposal] = report(2994).proposals
    expect(proposal).toMatchObject({ verdict: 'refused', threshold: null, fmr_at_most: null })
    expect(proposal?.reasons).toEqual(['It takes 2,995 impostor pairs without an error, and there are 2,994.'])
  })

  it('proposes the lowest threshold above the impostors once they are enough', () => {
    const [proposal] = report(2995).proposals
    expect(proposal?.threshold).toMatchObject({
      confidence: 0.5001,
      cosine: 0.0002,
      fmr: { errors: 0 },
      fnmr: { errors: 0 },
    })
    expect(proposal?.fmr_at_most).toBeLessThanOrEqual(1e-3)
    expect(proposal?.reasons).toContain('It is below the floor of arcface-512@1, 0.65: the service takes the floor.')
  })

  it('rounds up to the next threshold above the last impostor that is one too many', () => {
    // 4,742 pairs allow one error of 0.1 %: the second-highest has to be left out
    let pairs = 2995
    while (toMostErrors(1e-3, pairs) < 1) pairs++
    const higher = [0.41, 0.40001, 0.4]
    expect(report(pairs, { higher }).proposals[0]?.threshold).toMatchObject({ confidence: 0.7001, fmr: { errors: 1 } })
    expect(report(pairs - 1, { higher }).proposals[0]?.threshold).toMatchObject({
      confidence: 0.7051,
      fmr: { errors: 0 },
    })
  })

  it('qualifies what holds for independent pairs only', () => {
    const unknown = report(4000).proposals[0]
    expect(unknown?.verdict).toBe('qualified')
    expect(unknown?.reasons[0]).toMatch(/nothing is known of who they are of/)
    // 2,995 pairs that share nobody take 5,990 people
    const few = report(4000, { people: toPeople(5989) }).proposals[0]
    expect(few?.verdict).toBe('qualified')
    expect(few?.reasons[0]).toMatch(/5,989 people: only 2994 share nobody, and by those alone FMR is at most 0\.001/)
    const enough = report(4000, { people: toPeople(5990) }).proposals[0]
    expect(enough?.verdict).toBe('supported')
  })

  it('supports a claim with errors when people drawn again agree, at a higher threshold if need be', () => {
    const comparisons = new AllComparisons()
    const errors = new ErrorsByPerson()
    const cosines: number[] = []
    for (let person = 0; person < 300; person++) {
      comparisons.addSample(person)
      for (let other = 0; other < person; other++) {
        // one person in thirty looks like all others, the more alike the later they come
        const cosine = person % 30 === 0 ? 0.2 + other / 10_000 : ((person * other) % 97) / 1000
        cosines.push(cosine)
        errors.add(findHighestStep(cosine), person, other)
      }
    }
    const people = { count: 300, comparisons, errors }
    const run = (fmr: number) => report(cosines.length, { higher: cosines, people, wanted: { fmr } }).proposals[0]
    const supported = run(0.02)
    expect(supported?.verdict).toBe('supported')
    expect(supported?.threshold?.fmr.by_people?.high).toBeLessThanOrEqual(0.02)
    expect(supported?.fmr_at_most).toBe(supported?.threshold?.fmr.by_people?.high)
    const independent = new ErrorRates(toScores([0]), toScores(cosines)).findStep(toMostErrors(0.02, cosines.length))
    expect(toStep(supported?.threshold?.confidence ?? 0)).toBeGreaterThan(independent ?? STEPS)
    // 16 errors are too few to see who makes them
    const few = run(0.0006)
    expect(few?.threshold?.fmr.errors).toBeLessThan(30)
    expect(few?.verdict).toBe('qualified')
    expect(few?.reasons[0]).toMatch(/of the 30 by which one could see that/)
  })

  it('refuses a gallery that the pairs do not support, and says which they do', () => {
    const wanted = { identification: { fpir: 0.01, gallery: 60_000 } }
    const [, proposal] = report(4023, { wanted }).proposals
    expect(proposal).toMatchObject({ verdict: 'refused', wanted: { fpir: 0.01, gallery: 60_000 } })
    expect(proposal?.reasons).toEqual([
      'It takes 17,884,372 impostor pairs without an error, and there are 4,023.',
      // ln(0.99) / ln(1 - 0.000744)
      'Even without an error, these pairs support an FPIR of 0.01 for at most 13 faces.',
    ])
    expect(
      report(4023, { wanted: { identification: { fpir: 0.01, gallery: 13 } } }).proposals[1]?.threshold,
    ).not.toBeNull()
    expect(report(4023, { wanted: { identification: { fpir: 0.01, gallery: 14 } } }).proposals[1]?.threshold).toBeNull()
    expect(report(200, { wanted }).proposals[1]?.reasons[1]).toMatch(/for no gallery at all/)
  })

  it('refuses a threshold where impostors are the same picture', () => {
    const [proposal] = report(3000, { higher: [1, 1] }).proposals
    expect(proposal?.verdict).toBe('refused')
    expect(proposal?.reasons).toEqual(['Even at 1, 2 impostor pairs match: look for people under two names.'])
    expect(report(3000, { higher: [1, 1] }).least_claim).toBeNull()
  })

  it('has the rates at the thresholds of the model, at the grid and at those that were asked for', () => {
    const found = report(100, { higher: [0.35, 0.37, 0.3], wanted: { at: [0.6123, 0.65] } }).thresholds
    expect(found.map(({ confidence }) => confidence)).toEqual([
      0.5, 0.55, 0.6, 0.6123, 0.65, 0.675, 0.69, 0.7, 0.75, 0.8, 0.85, 0.9,
    ])
    const used = found.filter(({ used_for }) => used_for.length > 0)
    // a score at the threshold is a match: 0.3, 0.35 and 0.37 at the floor
    expect(used.map(({ used_for, cosine, fmr }) => [used_for, cosine, fmr.errors])).toEqual([
      [['floor'], 0.3, 3],
      [['verify'], 0.35, 2],
      [['search'], 0.38, 0],
    ])
  })

  it('says when the file seems to be the wrong way round or on another scale', () => {
    const notes = (genuine: number[], impostor: number[]) => {
      const [g, i] = [toScores(genuine), toScores(impostor)]
      const measurement = { genuine: g, impostor: i, embeddings: null, people: null, ignored: ['camera'] }
      return toReport(measurement, new ErrorRates(g, i), () => null, {
        date: '2026-11-25',
        file: 'pairs.csv',
        model: ARCFACE_512,
        wanted: { fmr: 1e-3, identification: null, at: [] },
      }).notes.join('\n')
    }
    const usual = notes([0.6, 0.7], [0, 0.1])
    expect(usual).toMatch(/^Not read: "camera"\.\nIntervals count pairs as independent\. .*\nWhat was measured/)
    expect(notes([0.1], [0.6, -0.2])).toMatch(/wrong way round/)
    expect(notes([0.8], [0.51])).toMatch(/Are these confidences\?/)
    expect(notes([0.2], [-0.96])).toMatch(/Are these cosines\?/)
    expect(notes([1, 0.6], [0])).toMatch(/1 genuine pair with a confidence of 1/)
    expect(notes([0.6], [0.7, 0])).toMatch(/highest impostor \(line 1\).*one person under two names\?/)
  })

  it('rounds what is "at most" up, to three digits', () => {
    expect([0, 1, 0.05, 0.123456, 7.444e-4, 1e-5].map(toText)).toEqual(['0', '1', '0.05', '0.123', '7.44e-4', '1e-5'])
    expect([7.4401e-4, 0.12301, 0.9999].map(toBoundText)).toEqual(['7.45e-4', '0.124', '1'])
  })

  it('says all of it in words', () => {
    const text = toTextLines(report(2994, { wanted: { identification: { fpir: 0.01, gallery: 60_000 } } })).join('\n')
    expect(text).toContain('REFUSED  FMR 0.001 (1:1): no threshold')
    expect(text).toContain('REFUSED  FPIR 0.01 for a gallery of 60,000 faces (1:N), so FMR 1.68e-7')
    expect(text).toContain(
      'No pair is decided wrongly by thresholds from 0.5001 (cosine 0.0002) to 0.8000 (cosine 0.6000).',
    )
    expect(text).toMatch(/^0\.6750 +0\.3500 +0 = 0 +0 to 0\.00123 +0 = 0 +0 to 0\.308 +< verify$/m)
    expect(text).toContain('if they are independent: FMR at most 0.00101 (about 3 / 2,994), from 0.5001')
    const qualified = toTextLines(report(2995)).join('\n')
    expect(qualified).toContain(
      'QUALIFIED  FMR 0.001 (1:1): 0.5001 (cosine 0.0002): FMR at most 0.001 (0 errors), FNMR 0',
    )
  })

  it('is drawn as SVG that any name of a file leaves whole', () => {
    const result = { ...report(3000, { higher: [0.3, 0.4] }), file: '<b>&"\u0000\ud800.csv' }
    const svg = draw(result, toRates(Array(10).fill(0.6), [...Array<number>(2998).fill(0), 0.3, 0.4]))
    expect(svg).toContain('&lt;b&gt;&amp;&quot;\ufffd\ufffd.csv')
    expect(svg).not.toMatch(/NaN|undefined|Infinity/)
    expect(svg).toContain('floor 0.65')
    expect(svg).toContain('10 genuine and 3,000 impostor pairs')
    expect(svg).toContain('2026-11-25')
    // all that is opened is closed
    const open: string[] = []
    for (const [, close, name = '', self] of svg.matchAll(/<(\/?)([a-z]+)[^>]*?(\/?)>/g)) {
      if (close) expect(open.pop()).toBe(name)
      else if (!self) open.push(name)
    }
    expect(open).toEqual([])
  })

  it('is drawn where the pairs are: one in ten thousand does not squeeze the others together', () => {
    const toAxis = (count: number) => {
      const [genuine, impostor] = [toScores(Array(10).fill(0.6)), toScores([-0.95, ...Array<number>(count).fill(0)])]
      const rates = new ErrorRates(genuine, impostor)
      const result = report(count + 1, { higher: [-0.95] })
      return draw(result, rates).match(/(?<=text-anchor="middle">)0\.\d\d(?=<)/)?.[0]
    }
    expect(toAxis(9000)).toBe('0.00')
    // it ends where the others begin
    expect(toAxis(11_000)).toBe('0.50')
  })

  it.each([
    ['everybody is alike', [1, 1], [1, 1, 1]],
    ['everybody is unlike', [-1, -1], [-1, -1]],
    ['there is one pair of each', [0.6], [0]],
  ])('is drawn when %s', (_, genuine, impostor) => {
    const [g, i] = [toScores(genuine), toScores(impostor)]
    const rates = new ErrorRates(g, i)
    const measurement = { genuine: g, impostor: i, embeddings: null, people: null, ignored: [] }
    const result = toReport(measurement, rates, () => null, {
      date: '2026-11-25',
      file: 'pairs.csv',
      model: ARCFACE_512,
      wanted: { fmr: 0.5, identification: { fpir: 0.5, gallery: 1 }, at: [] },
    })
    expect(draw(result, rates)).not.toMatch(/NaN|undefined|Infinity/)
    expect(toTextLines(result).join('\n')).not.toMatch(/NaN|undefined|Infinity/)
  })
})

describe('the command', () => {
  async function run(args: string[]): Promise<{ code: number; stdout: string; stderr: string }> {
    const command = [join(ROOT, 'scripts/calibrate.ts'), ...args]
    return promisify(execFile)(process.execPath, command, { cwd: folder, env: { ...process.env, NO_COLOR: '1' } }).then(
      (result) => ({ code: 0, ...result }),
      (error: { code: number; stdout: string; stderr: string }) => error,
    )
  }

  it('prints the table, draws, and does not overwrite the drawing unless it is told to', async () => {
    const path = await write('pairs.csv', ['same,cosine', '1,0.6', '1,0.7', '0,0.1', '0,0'])
    const first = await run(['--pairs', path])
    expect(first).toMatchObject({ code: EXIT.ok })
    expect(first.stdout).toContain('REFUSED  FMR 0.001 (1:1): no threshold')
    const svg = join(folder, 'calibration.svg')
    expect(await readFile(svg, 'utf8')).toContain('2 genuine and 2 impostor pairs')

    await writeFile(svg, 'mine')
    const second = await run(['--pairs', path])
    expect(second).toMatchObject({ code: EXIT.refused, stdout: '' })
    expect(second.stderr).toContain('"calibration.svg" exists: overwrite it with --force')
    expect(await run(['--pairs', path, '--no-svg'])).toMatchObject({ code: EXIT.ok })
    expect(await readFile(svg, 'utf8')).toBe('mine')
    expect(await run(['--pairs', path, '--force'])).toMatchObject({ code: EXIT.ok })
    expect(await readFile(svg, 'utf8')).toContain('<svg')
  })

  it('prints JSON, of embeddings too, and names nobody', async () => {
    const rows = PEOPLE.flatMap(({ name, samples }) => samples.map((sample): [string, number[]] => [name, sample]))
    const path = await write('faces.csv', toCsv(rows))
    const svg = join(folder, 'faces.svg')
    const { code, stdout } = await run([
      '--embeddings',
      path,
      '--json',
      '--svg',
      svg,
      '--gallery',
      '60000',
      '--at',
      '0.7123',
    ])
    expect(code).toBe(EXIT.ok)
    const result = JSON.parse(stdout) as Report
    expect(result).toMatchObject({ embeddings: 24, people: 8, genuine: { pairs: 24 }, impostor: { pairs: 252 } })
    expect(result.proposals.map(({ wanted }) => wanted.gallery)).toEqual([undefined, 60_000])
    expect(result.proposals[1]?.wanted.fpir).toBe(0.01)
    expect(result.thresholds.map(({ confidence }) => confidence)).toContain(0.7123)
    expect(stdout + (await readFile(svg, 'utf8'))).not.toContain('person-0')
  })

  it('says what it takes', async () => {
    const { code, stdout } = await run(['--help'])
    expect(code).toBe(EXIT.ok)
    expect(stdout).toContain('npm run calibrate -- --pairs pairs.csv')
    for (const name of ['--embeddings', '--fmr', '--fpir', '--gallery', '--svg', '--force', '--json']) {
      expect(stdout).toContain(name)
    }
  })

  it.each([
    ['no file', [], 'Name one file'],
    ['two files', ['--pairs', 'a.csv', '--embeddings', 'b.csv'], 'Name one file'],
    ['a rate of 0', ['--pairs', 'a.csv', '--fmr', '0'], 'more than 0 and less than 1'],
    ['a rate of 1', ['--pairs', 'a.csv', '--fmr', '1'], 'more than 0 and less than 1'],
    ['half a face', ['--pairs', 'a.csv', '--gallery', '0.5'], 'whole number'],
    ['no gallery', ['--pairs', 'a.csv', '--fpir', '0.01'], '--fpir needs --gallery'],
    ['a threshold of five decimals', ['--pairs', 'a.csv', '--at', '0.70001'], 'at most four decimals'],
    ['a threshold above 1', ['--pairs', 'a.csv', '--at', '0.7,1.1'], 'from 0 to 1'],
    ['the ids of pairs', ['--pairs', 'a.csv', '--ids', 'b.txt'], '--format and --ids are for --embeddings'],
    ['a file that is not there', ['--pairs', 'nowhere.csv', '--no-svg'], 'There is no file'],
    ['an unknown option', ['--pairs', 'a.csv', '--fnmr', '1'], 'unknown option'],
  ])('refuses %s', async (_, args, fault) => {
    const { code, stderr } = await run(args.includes('--no-svg') ? args : [...args, '--no-svg'])
    expect(stderr).toContain(fault)
    expect(code).toBe(EXIT.usage)
  })

  it.each([
    ['genuine', ['0,0.1']],
    ['impostor', ['1,0.1']],
  ])('needs a pair that is %s', async (kind, lines) => {
    const { code, stderr } = await run(['--pairs', await write('pairs.csv', ['same,cosine', ...lines]), '--no-svg'])
    expect([code, stderr]).toEqual([EXIT.failed, expect.stringContaining(`There is no ${kind} pair`)])
  })

  it('tells where a drawing cannot be written', async () => {
    const path = await write('pairs.csv', ['same,cosine', '1,0.6', '0,0'])
    const { code, stderr } = await run(['--pairs', path, '--svg', join(folder, 'nowhere/out.svg')])
    expect([code, stderr]).toEqual([EXIT.failed, expect.stringContaining('could not be written: ENOENT')])
  })
})

const FACES = process.env['REKKO_FACES_DIR']
if (!FACES) console.log('skipped: REKKO_FACES_DIR names no folder with real embeddings to calibrate')

describe.skipIf(!FACES)('real faces', () => {
  it('give what docs/thresholds.md says', async () => {
    const measurement = await measureEmbeddings(join(FACES ?? '', 'embeddings.csv'), TERMINAL)
    const { genuine, impostor, people, embeddings } = measurement
    const rates = new ErrorRates(genuine, impostor)
    expect([embeddings, people?.count, genuine.count, impostor.count]).toEqual([47, 13, 85, 996])
    // the table of the document
    const rounded = [genuine, impostor].map((scores) =>
      [scores.mean, scores.deviation, scores.lowest?.cosine, scores.highest?.cosine].map((value) => value?.toFixed(3)),
    )
    expect(rounded).toEqual([
      ['0.644', '0.124', '0.370', '0.959'],
      ['0.006', '0.058', '-0.197', '0.163'],
    ])
    expect(rates.findErrorFree()).toEqual({ from: 5817, to: 6851 })
    const document = await readFile(join(ROOT, 'docs/thresholds.md'), 'utf8')
    for (const figure of [
      '| 85 | 0.644 | 0.124 | 0.370 | 0.959 |',
      '| 996 | 0.006 | 0.058 | -0.197 | 0.163 |',
      '0.5817',
      '0.6851',
    ]) {
      expect(document).toContain(figure)
    }
    // the defaults: no false match; one person turned away by search, nobody by verify
    expect([6500, 6750, 6900].map((step) => [rates.falseMatches(step), rates.falseNonMatches(step)])).toEqual([
      [0, 0],
      [0, 0],
      [0, 1],
    ])
  })
})
