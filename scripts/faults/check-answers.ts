// I8: whatever happens to the database, a client is answered in time: with what the API promises, or with a 503 that says when
// to try again. No I/O.
import { type Answer, type Attempt, codeOf, type Entry, isGone, type Kind } from './history.ts'
import type { Violation } from './violation.ts'

/** The Worker's own deadline, and what a busy machine adds. */
const MAX_MS = 12_000
const UUID = /^[0-9a-f-]{36}$/
/** With what each can be refused, if its client has done nothing wrong. */
const REFUSALS: Readonly<Record<Kind, readonly string[]>> = {
  ...{ enroll: ['FACE_ALREADY_EXISTS'], replace: [], erase: ['FACE_NOT_FOUND'] },
  ...{ verify: ['FACE_NOT_FOUND'], search: [], read: ['FACE_NOT_FOUND'] },
}
const STATUSES: Readonly<Record<string, number>> = {
  ...{
    FACE_NOT_FOUND: 404,
    FACE_ALREADY_EXISTS: 409,
    IDEMPOTENCY_KEY_IN_USE: 409,
    ANSWER_GONE: 410,
  },
}

export interface Disturbance {
  /** Clients lose connections, because the Worker is killed. */
  breaksClients?: boolean
  /** Somebody sends what the Worker has sent a second time. */
  duplicates?: boolean
}

export function checkAnswers(entries: readonly Entry[], disturbance: Disturbance): Violation[] {
  return entries.flatMap((entry) => {
    return entry.attempts.flatMap((attempt, index): Violation[] => {
      const flaw = findFlaw(entry, attempt, index === 0, disturbance)
      return flaw ? [{ invariant: 'I8', kind: 'wrong', says: `${entry.kind} ${attempt.requestId}: ${flaw}` }] : []
    })
  })
}

function findFlaw(
  { kind, key, externalId }: Entry,
  { start, end, answer }: Attempt,
  isFirst: boolean,
  { breaksClients = false, duplicates = false }: Disturbance,
): string | null {
  if (end - start > MAX_MS) return `took ${((end - start) / 1000).toFixed(1)} s`
  if (!answer) return breaksClients ? null : 'no answer'
  const { status, headers, text } = answer
  if (status >= 500) {
    if (status !== 503) return `answered ${status}: ${text}`
    return headers.has('Retry-After') ? null : '503 without Retry-After'
  }
  if (isFirst && !duplicates && headers.get('Idempotent-Replayed') === 'true')
    return 'replayed, and nobody asked before'
  if (status >= 400) return isRefusal(kind, key !== null, answer) ? null : `answered ${status}: ${text}`
  if (kind === 'search' && namesOthers(answer, externalId)) return `names whom it does not show: ${text}`
  return isPromised(kind, answer) ? null : `${status}, and not what the API promises: ${text}`
}

function isRefusal(kind: Kind, hasKey: boolean, answer: Answer): boolean {
  const code = codeOf(answer)
  if (STATUSES[code] !== answer.status) return false
  // whom it named may be gone when the Worker itself asks once more, too
  if (isGone(answer)) return kind === 'verify' || kind === 'search'
  return code === 'IDEMPOTENCY_KEY_IN_USE' ? hasKey : REFUSALS[kind].includes(code)
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
