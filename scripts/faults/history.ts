// What the clients of a round did, when, and what they were told. No I/O.

export type Kind = 'enroll' | 'replace' | 'erase' | 'verify' | 'search' | 'read'

export const WRITES: readonly Kind[] = ['enroll', 'replace', 'erase']

/** What a client wants, decided before anything is sent. */
export interface Intent {
  id: string
  tenant: number
  kind: Kind
  externalId: string
  /** Whose face it shows: of those that are ever enrolled under this external_id. */
  person: number
  /** The Idempotency-Key; null for a client that sends none, and does not ask again. */
  key: string | null
}

/** One request. Several of them are one operation, where it has a key. */
export interface Attempt {
  requestId: string
  start: number
  end: number
  /** Null where the connection broke, or nothing came for longer than a client waits. */
  answer: Answer | null
}

export interface Answer {
  status: number
  headers: Headers
  text: string
  /** Parsed; an empty one where it is not an object. */
  body: Record<string, unknown>
}

export interface Entry extends Intent {
  start: number
  /** Infinity while nobody knows what became of it. */
  end: number
  attempts: Attempt[]
  /** The answer that the client went by; null where it knows nothing. */
  answer: Answer | null
}

/** A problem's code. */
export function codeOf({ body }: Answer): string {
  return typeof body['code'] === 'string' ? body['code'] : ''
}

export function isAcknowledged({ answer }: Pick<Entry, 'answer'>): boolean {
  return answer !== null && answer.status < 300
}

/** Whether what was answered under a key can be answered no more: it was of a face that is gone. */
export function isGone(answer: Answer): boolean {
  return codeOf(answer) === 'ANSWER_GONE'
}

/** Whether nobody was told what became of it: it was carried out, or not. */
export function isUnanswered({ answer }: Pick<Entry, 'answer'>): boolean {
  return answer === null || answer.status >= 500 || isGone(answer) || codeOf(answer) === 'IDEMPOTENCY_KEY_IN_USE'
}
