// I5, of keys: what was answered is answered so again, and a key is good for one request only. No I/O.
import { type Answer, codeOf, type Entry } from './history.ts'
import type { Violation } from './violation.ts'

/** A request under a key that was answered before. */
export interface Repeat {
  entry: Entry
  /** Null where the service was away, or said nothing. */
  answer: Answer | null
  /** Whether it asked for something else. */
  isAnother: boolean
}

export function checkRepeats(repeats: readonly Repeat[]): Violation[] {
  return repeats.flatMap(({ entry, answer, isAnother }): Violation[] => {
    // overtaxed, or away: it says nothing about the first request
    if (!answer || answer.status >= 500 || codeOf(answer) === 'TOO_MANY_REQUESTS') return []
    const flaw = isAnother ? findReuse(answer) : findDifference(entry, answer)
    return flaw ? [{ invariant: 'I5', kind: 'wrong', says: `${entry.kind} ${entry.id}, its key again: ${flaw}` }] : []
  })
}

function findReuse(answer: Answer): string | null {
  return answer.status === 422 && codeOf(answer) === 'IDEMPOTENCY_KEY_REUSED'
    ? null
    : `another request under it was answered ${answer.status} ${answer.text}`
}

function findDifference({ answer: first }: Entry, again: Answer): string | null {
  if (again.status === 410 && codeOf(again) === 'ANSWER_ERASED') return null
  if (!first || first.status !== again.status || toComparable(first) !== toComparable(again)) {
    return `answered ${first?.status} ${first?.text}, then ${again.status} ${again.text}`
  }
  return again.headers.get('Idempotent-Replayed') === 'true' ? null : 'the same answer, not marked as replayed'
}

/** What must be the same: all but how long it took, and the name of the request. */
function toComparable({ body }: Answer): string {
  const { latency_ms: _latency, request_id: _request, ...rest } = body
  return JSON.stringify(rest)
}
