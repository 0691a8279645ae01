// I5, of keys: what was answered is answered so again, and a key is good for one request only. No I/O.
import { type Answer, codeOf, type Entry, isGone } from './history.ts'
import type { Violation } from './violation.ts'

/** A request under a key that was answered before. */
export interface Repeat {
  entry: Entry
  /** Null where the service was away, or said nothing. */
  answer: Answer | null
  /** Whether it asked for something else. */
  isAnother: boolean
  /** Whether nothing was broken when it was sent: the Worker then learns at once that it was answered before. */
  isCalm: boolean
}

export function checkRepeats(repeats: readonly Repeat[]): Violation[] {
  return repeats.flatMap(({ entry, answer, isAnother, isCalm }): Violation[] => {
    // away: it says nothing about the first request
    if (!answer || answer.status >= 500) return []
    // the Worker's own first attempt may still be under way
    if (!isCalm && codeOf(answer) === 'IDEMPOTENCY_KEY_IN_USE') return []
    const flaw = isAnother ? findReuse(answer) : findDifference(entry, answer, isCalm)
    return flaw ? [{ invariant: 'I5', kind: 'wrong', says: `${entry.kind} ${entry.id}, its key again: ${flaw}` }] : []
  })
}

function findReuse(answer: Answer): string | null {
  return answer.status === 422 && codeOf(answer) === 'IDEMPOTENCY_KEY_REUSED'
    ? null
    : `another request under it was answered ${answer.status} ${answer.text}`
}

function findDifference({ answer: first }: Entry, again: Answer, isCalm: boolean): string | null {
  if (isGone(again)) return null
  if (!first || first.status !== again.status || toComparable(first) !== toComparable(again)) {
    return `answered ${first?.status} ${first?.text}, then ${again.status} ${again.text}`
  }
  // a request that the Worker itself had to send again is not known to have been answered before
  const isMarked = again.headers.get('Idempotent-Replayed') === 'true'
  return isMarked || !isCalm ? null : 'the same answer, not marked as replayed'
}

/** What must be the same: all but how long it took, and the name of the request. */
function toComparable({ body }: Answer): string {
  const { latency_ms: _latency, request_id: _request, ...rest } = body
  return JSON.stringify(rest)
}
