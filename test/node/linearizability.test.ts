// Proves the checker of `make faults`: it accepts what can have happened in one order, and refuses a lost update, a stale
// read, and somebody who is back after an erasure. Histories are written by hand; nothing is run.
import { describe, expect, it } from 'vitest'
import type { Answer, Entry, Kind } from '../../scripts/faults/history.ts'
import { checkLinearizability, IMPOSSIBLE, type Operation } from '../../scripts/faults/linearizability.ts'
import { toOperations } from '../../scripts/faults/register.ts'

let count = 0

/** @param end Infinity for one that was not answered */
function did(
  kind: Kind,
  [start, end]: [number, number],
  status: number,
  body: Record<string, unknown> = {},
  person = 1,
) {
  count++
  const answer: Answer | null =
    end === Number.POSITIVE_INFINITY ? null : { status, headers: new Headers(), text: JSON.stringify(body), body }
  const record: Entry = {
    ...{ id: `op-${count}`, tenant: 0, kind, externalId: 'ada', person, key: null },
    ...{ start, end, attempts: [], answer },
  }
  return record
}

const enrolled = (at: [number, number], face: string, person = 1) => did('enroll', at, 201, { face_id: face }, person)
const replaced = (at: [number, number], face: string, person = 1) => did('replace', at, 200, { face_id: face }, person)
const erased = (at: [number, number]) => did('erase', at, 204)
const verified = (at: [number, number], isVerified: boolean, person = 1) =>
  did('verify', at, 200, { verified: isVerified }, person)
const notFound = (kind: Kind, at: [number, number]) => did(kind, at, 404, { code: 'FACE_NOT_FOUND' })
const read = (at: [number, number], face: string) => did('read', at, 200, { face_id: face })
const unanswered = (kind: Kind, start: number, person = 1) =>
  did(kind, [start, Number.POSITIVE_INFINITY], 0, {}, person)

const check = (...records: Entry[]) => checkLinearizability(toOperations(records), null)

describe('a history is linearizable', () => {
  it('when one thing happens after the other', () => {
    expect(
      check(
        notFound('verify', [0, 1]),
        enrolled([2, 3], 'a'),
        verified([4, 5], true),
        verified([6, 7], false, 2),
        replaced([8, 9], 'b', 2),
        verified([10, 11], true, 2),
        read([12, 13], 'b'),
        erased([14, 15]),
        notFound('read', [16, 17]),
      ),
    ).toBe('linearizable')
  })

  it('when what overlaps can have happened in either order', () => {
    expect(check(enrolled([0, 1], 'a'), erased([2, 9]), verified([3, 8], true), notFound('verify', [4, 7]))).toBe(
      'linearizable',
    )
    expect(check(enrolled([0, 1], 'a'), replaced([2, 9], 'b', 2), read([3, 4], 'b'), verified([5, 6], true, 2))).toBe(
      'linearizable',
    )
  })

  it('when a write that nobody answered is seen at once, late, or never', () => {
    const write = unanswered('replace', 2, 2)
    const seen = (...later: Entry[]) => check(enrolled([0, 1], 'a'), write, ...later)
    expect(seen(verified([3, 4], true, 2))).toBe('linearizable')
    expect(seen(verified([3, 4], true, 1), verified([5, 6], true, 2))).toBe('linearizable')
    expect(seen(verified([3, 4], true, 1), verified([5, 6], true, 1))).toBe('linearizable')
    expect(check(unanswered('enroll', 0, 2), read([1, 2], 'a face that nobody was told'))).toBe('linearizable')
  })

  it('when two operations that touch in time are in the other order', () => {
    expect(check(enrolled([0, 5], 'a'), notFound('read', [5, 6]))).toBe('linearizable')
  })
})

describe('a history is not linearizable', () => {
  it('when an update is lost', () => {
    expect(check(enrolled([0, 1], 'a'), replaced([2, 3], 'b', 2), verified([4, 5], true, 1))).toBe('not linearizable')
    expect(check(enrolled([0, 1], 'a'), notFound('verify', [2, 3]))).toBe('not linearizable')
    expect(check(enrolled([0, 1], 'a'), replaced([2, 3], 'b'), read([4, 5], 'a'))).toBe('not linearizable')
  })

  it('when a read is stale: what one has seen is gone for the next', () => {
    expect(
      check(
        enrolled([0, 1], 'a'),
        replaced([2, 20], 'b', 2),
        verified([3, 4], true, 2),
        // the same write is still under way, but it was seen
        verified([5, 6], true, 1),
      ),
    ).toBe('not linearizable')
  })

  it('when somebody is back after an erasure', () => {
    expect(check(enrolled([0, 1], 'a'), erased([2, 3]), verified([4, 5], true))).toBe('not linearizable')
    expect(check(enrolled([0, 1], 'a'), erased([2, 3]), read([4, 5], 'a'))).toBe('not linearizable')
    expect(
      check(
        enrolled([0, 1], 'a'),
        erased([2, 3]),
        did('search', [4, 5], 200, { matches: [{ external_id: 'ada', face_id: 'a' }] }),
      ),
    ).toBe('not linearizable')
  })

  it('when one enrollment is carried out twice', () => {
    // nobody answered it, so it may be late, but only once
    expect(
      check(unanswered('replace', 0, 2), verified([1, 2], true, 2), erased([3, 4]), verified([5, 6], true, 2)),
    ).toBe('not linearizable')
    expect(check(enrolled([0, 1], 'a'), enrolled([2, 3], 'b'))).toBe('not linearizable')
  })

  it('when something is seen before anybody asked for it', () => {
    expect(check(verified([0, 1], true), unanswered('enroll', 2))).toBe('not linearizable')
  })

  it('when a face_id that was told is found under another enrollment', () => {
    expect(check(enrolled([0, 1], 'a'), read([2, 3], 'nobody was told this one'))).toBe('not linearizable')
  })
})

describe('the checker', () => {
  it('agrees with every order tried by hand, for small histories from a seed', () => {
    let state = 7
    const below = (limit: number) => {
      state = (Math.imul(state, 1_103_515_245) + 12_345) & 0x7fffffff
      return (state >> 8) % limit
    }
    const verdicts = { linearizable: 0, 'not linearizable': 0, undecided: 0 }
    for (let round = 0; round < 3_000; round++) {
      const operations = Array.from({ length: 5 }, (): Operation<number> => {
        const start = below(12)
        const value = below(3)
        const end = below(5) === 0 ? Number.POSITIVE_INFINITY : start + below(6)
        const isWrite = end === Number.POSITIVE_INFINITY || below(2) === 0
        return { start, end, apply: (now) => (isWrite ? value : now === value ? now : IMPOSSIBLE) }
      })
      const verdict = checkLinearizability(operations, 0)
      verdicts[verdict]++
      expect(verdict === 'linearizable').toBe(hasOrder(operations, 0, []))
    }
    expect(Math.min(verdicts.linearizable, verdicts['not linearizable'])).toBeGreaterThan(500)
    expect(verdicts.undecided).toBe(0)
  })

  it('says when it gave up', () => {
    const writes = Array.from({ length: 14 }, (_, index) => unanswered('replace', 0, index))
    const records = [...writes, verified([1, 2], true, 99)]
    expect(checkLinearizability(toOperations(records), null, 50)).toBe('undecided')
  })
})

/** Every order of every choice of what was carried out, with nothing remembered and nothing left out. */
function hasOrder(left: readonly Operation<number>[], state: number, before: readonly Operation<number>[]): boolean {
  const fits = before.every((one, index) => before.slice(index + 1).every((later) => later.end >= one.start))
  if (!fits) return false
  if (left.every(({ end }) => end === Number.POSITIVE_INFINITY)) return true
  return left.some((operation, index) => {
    const next = operation.apply(state)
    return next !== IMPOSSIBLE && hasOrder(left.toSpliced(index, 1), next, [...before, operation])
  })
}
