// I8: whatever happens to the database, a client is answered in time: with what the API promises, or with a 503 that says when
// to try again. No I/O.
import type { Answer, Attempt, Entry, Kind } from './history.ts'
import type { Violation } from './violation.ts'

/** The Worker's own deadline, and what a busy machine adds. */
const MAX_MS = 12_000
const UUID = /^[0-9a-f-]{36}$/

/** @param mayBreak whether clients lost connections because the Worker was killed */
export function checkAnswers(entries: readonly Entry[], mayBreak: boolean): Violation[] {
  return entries.flatMap((entry) => {
    return entry.attempts.flatMap((attempt): Violation[] => {
      const flaw = findFlaw(entry, attempt, mayBreak)
      return flaw ? [{ invariant: 'I8', kind: 'wrong', says: `${entry.kind} ${attempt.requestId}: ${flaw}` }] : []
    })
  })
}

function findFlaw({ kind, externalId }: Entry, { start, end, answer }: Attempt, mayBreak: boolean): string | null {
  if (end - start > MAX_MS) return `took ${((end - start) / 1000).toFixed(1)} s`
  if (!answer) return mayBreak ? null : 'no answer'
  const { status, headers, text, body } = answer
  if (status >= 500) {
    if (status !== 503) return `answered ${status}: ${text}`
    return headers.has('Retry-After') ? null : '503 without Retry-After'
  }
  if (status >= 400) return typeof body['code'] === 'string' ? null : `${status} without a code: ${text}`
  if (kind === 'search' && namesOthers(answer, externalId)) return `names whom it does not show: ${text}`
  return isPromised(kind, answer) ? null : `${status}, and not what the API promises: ${text}`
}

function isPromised(kind: Kind, { status, text, body }: Answer): boolean {
  const isUuid = (name: string) => UUID.test(String(body[name]))
  switch (kind) {
    case 'enroll':
      return status === 201 && isUuid('face_id')
    case 'replace':
      return [200, 201].includes(status) && isUuid('face_id')
    case 'read':
      return status === 200 && isUuid('face_id')
    case 'erase':
      return status === 204 && text === ''
    case 'verify':
      return (
        status === 200 &&
        isUuid('verification_id') &&
        typeof body['verified'] === 'boolean' &&
        body['threshold'] === 0.675
      )
    case 'search':
      return (
        status === 200 &&
        isUuid('search_id') &&
        Number.isInteger(body['faces_searched']) &&
        Array.isArray(body['matches'])
      )
  }
}

/** A probe shows a person of one external_id, whoever else is enrolled in whichever tenant. */
function namesOthers({ body }: Answer, externalId: string): boolean {
  const matches: unknown[] = Array.isArray(body['matches']) ? body['matches'] : []
  return matches.some((match) => (match as { external_id?: unknown } | null)?.external_id !== externalId)
}
