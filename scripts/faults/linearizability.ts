// Whether what clients saw of one object can have happened in one order that agrees with their clocks (Wing and Gong 1993,
// with Lowe's memory of what was tried, 2017). No I/O.

/** Of an operation that does not answer so in this state. */
export const IMPOSSIBLE = Symbol('impossible')

export interface Operation<State> {
  /** Milliseconds, on one clock for all. */
  start: number
  /** Infinity where nobody answered: it takes effect at any time after its start, or never. */
  end: number
  /** The state behind it. */
  apply(state: State): State | typeof IMPOSSIBLE
}

export type Verdict = 'linearizable' | 'not linearizable' | 'undecided'

/** States that are looked at: some seconds' worth. */
const MAX_STEPS = 2_000_000

/** @param initial what nothing has been done to yet; states are told apart by what `String` makes of them */
export function checkLinearizability<State extends string | number | null>(
  operations: readonly Operation<State>[],
  initial: State,
  maxSteps = MAX_STEPS,
): Verdict {
  // the early first, so that a sound history is found at once; those that nobody answered only where nothing else will do
  const ordered = [...operations].sort((a, b) => toRank(a) - toRank(b))
  const tried = new Set<string>()
  let steps = 0

  function completes(done: bigint, state: State): boolean {
    const open = ordered.flatMap((operation, index) => ((done >> BigInt(index)) & 1n ? [] : [{ operation, index }]))
    const firstEnd = Math.min(...open.map(({ operation }) => operation.end))
    // whatever is left may never have happened
    if (firstEnd === Number.POSITIVE_INFINITY) return true
    const key = `${done.toString(36)} ${String(state)}`
    if (tried.has(key) || ++steps > maxSteps) return false
    tried.add(key)
    return open.some(({ operation, index }) => {
      // what began after another had ended comes after it
      if (operation.start > firstEnd) return false
      const next = operation.apply(state)
      return next !== IMPOSSIBLE && completes(done | (1n << BigInt(index)), next)
    })
  }

  if (completes(0n, initial)) return 'linearizable'
  return steps > maxSteps ? 'undecided' : 'not linearizable'
}

function toRank({ start, end }: Operation<unknown>): number {
  return end === Number.POSITIVE_INFINITY ? Number.MAX_VALUE : start
}
