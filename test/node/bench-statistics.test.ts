// Proves the arithmetic behind `make bench`: percentiles, ratios of pairs, recall. Nothing is timed here.
import { describe, expect, it } from 'vitest'
import { median, pairedRatio, percentile, recallAt1, toRecall } from '../../scripts/bench/statistics.ts'

describe('a percentile', () => {
  const samples = [50, 15, 40, 20, 35]

  it('is the nearest rank, whatever the order', () => {
    expect([5, 30, 40, 50, 100].map((percent) => percentile(samples, percent))).toEqual([15, 20, 20, 35, 50])
  })

  it('of one hundred samples is the sample of that number', () => {
    const hundred = Array.from({ length: 100 }, (_, index) => index + 1)
    expect([1, 50, 99, 100].map((percent) => percentile(hundred, percent))).toEqual([1, 50, 99, 100])
  })

  it('leaves the samples as they are, and sorts them as numbers', () => {
    const unsorted = [10, 9, 100]
    expect(percentile(unsorted, 100)).toBe(100)
    expect(unsorted).toEqual([10, 9, 100])
  })

  it('of nothing, or of no rank, is an error', () => {
    expect(() => percentile([], 50)).toThrow(RangeError)
    expect(() => percentile(samples, 0)).toThrow(RangeError)
    expect(() => percentile(samples, 101)).toThrow(RangeError)
  })
})

describe('a median', () => {
  it('is the middle of an odd number and the mean of the two middles of an even one', () => {
    expect([median([3, 1, 2]), median([4, 1, 3, 2]), median([7])]).toEqual([2, 2.5, 7])
  })

  it('of nothing is an error', () => {
    expect(() => median([])).toThrow(RangeError)
  })
})

describe('a ratio of pairs', () => {
  it('is not moved by a machine that slows both of a pair down', () => {
    expect(pairedRatio([2, 2, 200], [1, 1, 100])).toBe(2)
  })

  it('is the median, so one pair that was disturbed does not count', () => {
    expect(pairedRatio([2, 2, 2, 90, 2], [1, 1, 1, 1, 1])).toBe(2)
  })

  it('needs pairs, and something to compare with', () => {
    expect(() => pairedRatio([1, 2], [1])).toThrow(RangeError)
    expect(() => pairedRatio([1], [0])).toThrow(RangeError)
  })
})

describe('recall', () => {
  it('counts the right person only, and whoever is named for nobody', () => {
    const recall = toRecall(['ann', 'bob', 'cid', null, null], ['ann', 'cid', null, null, 'ann'])
    expect(recall).toEqual({ named: 3, found: 1, falselyNamed: 1 })
    expect(recallAt1(recall)).toBeCloseTo(1 / 3)
  })

  it('is whole when nobody was to be found', () => {
    expect(recallAt1(toRecall([null], [null]))).toBe(1)
  })

  it('needs an answer for each probe', () => {
    expect(() => toRecall(['ann', 'bob'], ['ann'])).toThrow(RangeError)
  })
})
