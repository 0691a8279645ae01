// A client of the API as a gate is one: with an Idempotency-Key it asks until it has an answer, without one it asks once.
// Whatever it asked and was told is kept.
import { setTimeout as wait } from 'node:timers/promises'
import type { Chance } from './chance.ts'
import { type Answer, type Attempt, codeOf, type Entry, type Intent } from './history.ts'
import type { Person } from './people.ts'
import type { Tenant } from './stage.ts'

/** Longer than the Worker may ever take: whoever waits that long was left hanging. */
export const CLIENT_DEADLINE_MS = 30_000
/** With a key: long enough for a database to come back from a crash. */
const PATIENCE_MS = 60_000
/** Less than Retry-After asks for, so that a round is short. */
const PAUSE_MS = { low: 50, high: 400 }

export interface Target {
  /** Where the Worker answers now. */
  readonly workerUrl: string
}

/**
 * Carries out what a client wants.
 *
 * @param chance for pauses only: what was decided beforehand does not depend on how often somebody had to ask
 */
export async function carryOut(
  target: Target,
  tenant: Tenant,
  person: Person,
  intent: Intent,
  chance: Chance,
): Promise<Entry> {
  const entry: Entry = {
    ...intent,
    start: performance.now(),
    end: Number.POSITIVE_INFINITY,
    attempts: [],
    answer: null,
  }
  const givesUpAt = entry.start + PATIENCE_MS
  for (;;) {
    const attempt = await ask(target, tenant, person, entry)
    entry.attempts.push(attempt)
    const { answer } = attempt
    if (answer && isFinal(answer)) return { ...entry, answer, end: attempt.end }
    // what overtaxes a client is not made better by asking at once
    await wait(chance.between(PAUSE_MS.low, PAUSE_MS.high))
    if (intent.key === null || performance.now() > givesUpAt) return { ...entry, answer }
  }
}

/** Whether it says what became of the request: anything but an error of the service, and "not yet". */
function isFinal(answer: Answer): boolean {
  return answer.status < 500 && codeOf(answer) !== 'IDEMPOTENCY_KEY_IN_USE'
}

/** Sends an operation once more under the same key, after it was answered. */
export async function repeat(target: Target, tenant: Tenant, person: Person, entry: Entry): Promise<Attempt> {
  const attempt = await ask(target, tenant, person, entry)
  entry.attempts.push(attempt)
  return attempt
}

async function ask(target: Target, tenant: Tenant, person: Person, entry: Entry): Promise<Attempt> {
  const requestId = `${entry.id}-${entry.attempts.length}`
  const { method, path, body } = toRequest(entry, person)
  const start = performance.now()
  const answer = await fetch(target.workerUrl + path, {
    method,
    headers: {
      Authorization: `Bearer ${tenant.apiKey}`,
      'X-Request-Id': requestId,
      ...(entry.key !== null && { 'Idempotency-Key': entry.key }),
      ...(body && { 'Content-Type': 'application/json' }),
    },
    ...(body && { body: JSON.stringify(body) }),
    signal: AbortSignal.timeout(CLIENT_DEADLINE_MS),
  })
    .then(async (response): Promise<Answer> => {
      const text = await response.text()
      return { status: response.status, headers: response.headers, text, body: toObject(text) }
    })
    // the connection broke, or the time is up
    .catch(() => null)
  return { requestId, start, end: performance.now(), answer }
}

function toRequest({ kind, externalId }: Intent, { embedding }: Person) {
  const path = `/v1/faces/${externalId}`
  switch (kind) {
    case 'enroll':
      return { method: 'POST', path: '/v1/faces', body: { external_id: externalId, embedding } }
    case 'replace':
      return { method: 'PUT', path, body: { embedding } }
    case 'erase':
      return { method: 'DELETE', path, body: null }
    case 'verify':
      return { method: 'POST', path: '/v1/faces/verify', body: { external_id: externalId, embedding } }
    case 'search':
      return { method: 'POST', path: '/v1/faces/search', body: { embedding } }
    case 'read':
      return { method: 'GET', path, body: null }
  }
}

function toObject(text: string): Record<string, unknown> {
  try {
    const value: unknown = JSON.parse(text)
    return typeof value === 'object' && value !== null ? { ...value } : {}
  } catch {
    return {}
  }
}
