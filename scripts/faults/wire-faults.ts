// Faults between the Worker and its database: what networks and proxies do to a batch.
import type { Chance } from './chance.ts'
import type { Fault } from './fault.ts'
import { type Action, PASS, type Rule } from './proxy.ts'

/** One batch in so many is spoiled. */
const OFTEN = 0.15
/** What takes many seconds, in a round: it would be long otherwise. */
const LONG_DELAYS = 3

const JSON_TYPE = 'application/json'
/** Of Neon's own words, by status. */
const REFUSALS: Readonly<Record<number, { type: string; body: string }>> = {
  // a connection that is lost in the middle of a query: no code, and nobody knows what was carried out
  400: { type: JSON_TYPE, body: '{"message":"the connection to PostgreSQL failed"}' },
  429: { type: JSON_TYPE, body: '{"message":"Too many connections attempts"}' },
  500: { type: JSON_TYPE, body: '{"message":"Control plane request failed","neon:retryable":true}' },
  502: { type: 'text/plain', body: 'Bad Gateway' },
  507: { type: JSON_TYPE, body: '{"message":"response is too large (max is 67108864 bytes)"}' },
}

export const WIRE_FAULTS: readonly Fault[] = [
  {
    name: 'drop-before',
    says: 'the connection breaks before a batch is carried out',
    toRule: (chance) => often(chance, () => ({ kind: 'drop', when: 'before' })),
  },
  {
    name: 'drop-after',
    says: 'the connection breaks after the commit, before the answer',
    toRule: (chance) => often(chance, () => ({ kind: 'drop', when: 'after' })),
  },
  {
    name: 'delay',
    says: 'batches and answers are late, a few by more than a client waits',
    toRule(chance) {
      // spread over a round, in which each operation is about one batch
      const late = new Set(Array.from({ length: LONG_DELAYS }, () => 20 + chance.below(150)))
      return (batch) => {
        const when = chance.pick(['before', 'after'] as const)
        if (late.has(batch)) return { kind: 'delay', when, ms: chance.between(3_000, 13_000) }
        return chance.happens(OFTEN) ? { kind: 'delay', when, ms: chance.between(5, 400) } : PASS
      }
    },
  },
  {
    name: 'duplicate',
    says: 'a batch arrives twice',
    duplicates: true,
    toRule: (chance) =>
      often(chance, () => ({
        ...{ kind: 'duplicate', answers: chance.pick(['first', 'second'] as const), together: chance.happens(0.5) },
      })),
  },
  {
    name: 'truncate',
    says: 'the connection breaks in the middle of the answer',
    toRule: (chance) => often(chance, () => ({ kind: 'truncate', part: chance.between(0, 0.99) })),
  },
  ...[400, 429, 500, 502, 507].map(
    (status): Fault => ({
      name: `answer-${status}`,
      says: `${status} instead of the answer, carried out or not`,
      toRule: (chance) => often(chance, () => ({ ...toRefusal(status), when: chance.pick(['before', 'after']) })),
    }),
  ),
  {
    name: 'html',
    says: 'a page of HTML with status 200 or 503, carried out or not',
    toRule: (chance) =>
      often(chance, () => ({
        ...{ kind: 'answer', when: chance.pick(['before', 'after'] as const), status: chance.pick([200, 503]) },
        ...{ type: 'text/html', body: '<!doctype html><title>Service unavailable</title>' },
      })),
  },
  {
    name: 'wrong-json',
    says: 'JSON of wrong types, of another order, or with results missing',
    toRule: (chance) => often(chance, () => ({ kind: 'garble', garble: chance.pick(GARBLES) })),
  },
  {
    name: 'wrong-values',
    says: 'an answer of the right shape, with another word, or nothing, in every cell',
    outside: 'whatever has the right shape is believed',
    toRule: (chance) => often(chance, () => ({ kind: 'garble', garble: chance.pick(LIES) })),
  },
]

function often(chance: Chance, toAction: () => Action): Rule {
  return () => (chance.happens(OFTEN) ? toAction() : PASS)
}

function toRefusal(status: number) {
  const refusal = REFUSALS[status]
  if (!refusal) throw new RangeError(`Neon does not answer ${status}`)
  return { kind: 'answer' as const, status, ...refusal }
}

/** Of a batch's answer: `{results: [{fields, rows, command, rowCount, rowAsArray}]}`. */
const GARBLES: readonly ((answer: unknown) => unknown)[] = [
  () => null,
  () => [],
  () => ({}),
  () => ({ results: {} }),
  () => ({ results: 'none' }),
  (answer) => withResults(answer, (results) => results.toReversed()),
  (answer) => withResults(answer, (results) => results.slice(0, -1)),
  (answer) => withResults(answer, (results) => results.slice(1)),
  (answer) => withResults(answer, (results) => [...results, ...results]),
  (answer) => withResults(answer, (results) => results.map((result) => ({ ...toObject(result), rows: null }))),
  (answer) => withResults(answer, (results) => results.map((result) => ({ ...toObject(result), fields: [] }))),
  (answer) => withCells(answer, () => 7),
  (answer) => withCells(answer, () => ({})),
]
const LIES: readonly ((answer: unknown) => unknown)[] = [
  (answer) => withCells(answer, () => 'neither'),
  (answer) => withCells(answer, () => null),
]

function withResults(answer: unknown, change: (results: unknown[]) => unknown[]): unknown {
  const { results } = toObject(answer)
  return { ...toObject(answer), results: change(Array.isArray(results) ? results : []) }
}

function withCells(answer: unknown, change: () => unknown): unknown {
  return withResults(answer, (results) =>
    results.map((result) => {
      const { rows } = toObject(result)
      const changed = Array.isArray(rows) ? rows.map((row) => (Array.isArray(row) ? row.map(change) : row)) : rows
      return { ...toObject(result), rows: changed }
    }),
  )
}

function toObject(value: unknown): Record<string, unknown> {
  return typeof value === 'object' && value !== null ? { ...value } : {}
}
