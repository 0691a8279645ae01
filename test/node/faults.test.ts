// Proves the parts of `make faults` that look for what is wrong: each check is shown what it must not let pass, and the proxy does
// to a batch what its rule says. The endpoint behind the proxy is fake; histories are written by hand.
import { readFile } from 'node:fs/promises'
import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { BITES } from '../../scripts/faults/bites.ts'
import { Chance } from '../../scripts/faults/chance.ts'
import { checkAnswers } from '../../scripts/faults/check-answers.ts'
import { type AuditRow, checkAudit } from '../../scripts/faults/check-audit.ts'
import { checkHistory } from '../../scripts/faults/check-history.ts'
import { checkRemembered } from '../../scripts/faults/check-remembered.ts'
import { checkRepeats } from '../../scripts/faults/check-repeats.ts'
import type { Answer, Entry, Kind } from '../../scripts/faults/history.ts'
import { type Action, type FaultProxy, startFaultProxy } from '../../scripts/faults/proxy.ts'
import { checkPurge } from '../../scripts/faults/purge.ts'
import type { Remembered } from '../../scripts/faults/remembered.ts'
import { judge, putTables, toBiteTable, toFaultTable } from '../../scripts/faults/report.ts'
import type { Violation } from '../../scripts/faults/violation.ts'
import { WIRE_FAULTS } from '../../scripts/faults/wire-faults.ts'
import { buildWorker } from '../../scripts/faults/worker-build.ts'
import { planClient } from '../../scripts/faults/workload.ts'

const UUID = '00000000-0000-4000-8000-000000000000'

function answer(status: number, body: Record<string, unknown> = {}, headers: Record<string, string> = {}): Answer {
  return { status, headers: new Headers(headers), text: JSON.stringify(body), body }
}

/** An operation of one request, from 0 to 10 ms. */
function entry(kind: Kind, answered: Answer | null, given: Partial<Entry> = {}): Entry {
  const id = given.id ?? 's1-c0-0'
  const [start, end] = [given.start ?? 0, given.end ?? (answered ? 10 : Number.POSITIVE_INFINITY)]
  return {
    ...{ id, tenant: 0, kind, externalId: 'ada', person: 1, key: null, start, end, answer: answered },
    attempts: [{ requestId: `${id}-0`, start, end: Math.min(end, 10), answer: answered }],
    ...given,
  }
}

const DECISION = { verification_id: UUID, verified: true, threshold: 0.675 }
const REPLAYED = { 'Idempotent-Replayed': 'true' }
const row = (given: Partial<AuditRow> = {}): AuditRow => {
  return { tenant: 0, kind: 'verify', id: UUID, isMatch: true, requestId: 's1-c0-0-0', ...given }
}
const kinds = (violations: readonly { invariant: string; kind: string }[]) =>
  violations.map(({ invariant, kind }) => `${invariant} ${kind}`)

describe('the check of the audit', () => {
  const verified = entry('verify', answer(200, DECISION))

  it('is content with one row for each answer, and with none or one for what was not answered', () => {
    const unanswered = entry('verify', null, { id: 's1-c0-1' })
    expect(checkAudit([verified, unanswered], [row()])).toEqual([])
    expect(checkAudit([verified, unanswered], [row(), row({ id: 'another', requestId: 's1-c0-1-0' })])).toEqual([])
  })

  it.each<[string, AuditRow[], string]>([
    ['a row that is missing', [], 'I2 lost'],
    ['a row that is there twice', [row(), row({ id: 'another' })], 'I2 doubled'],
    ['two rows of two attempts', [row(), row({ id: 'another', requestId: 's1-c0-0-1' })], 'I2 doubled'],
    ['another decision', [row({ isMatch: false })], 'I2 wrong'],
    ['the row of another verification', [row({ id: 'another' })], 'I2 wrong'],
    ['a row of another tenant', [row({ tenant: 1 })], 'I2 wrong'],
  ])('finds %s', (_, rows, expected) => {
    expect(kinds(checkAudit([verified], rows))).toEqual([expected])
  })

  it('finds a row that nobody asked for, and one of what was refused', () => {
    expect(kinds(checkAudit([], [row()]))).toEqual(['I2 wrong'])
    expect(kinds(checkAudit([entry('verify', answer(404, { code: 'FACE_NOT_FOUND' }))], [row()]))).toEqual(['I2 wrong'])
  })

  it('finds a key that was never answered, and two rows of what was not answered', () => {
    expect(kinds(checkAudit([entry('verify', null, { key: 'a key' })], []))).toEqual(['I5 wrong'])
    expect(kinds(checkAudit([entry('verify', null)], [row(), row({ id: 'another' })]))).toEqual(['I2 doubled'])
  })
})

describe('the check of answers', () => {
  const retryAfter = { 'Retry-After': '2' }
  const search = (matches: unknown) => answer(200, { search_id: UUID, faces_searched: 1, matches })

  it('is content with what the API promises', () => {
    const good = [
      entry('verify', answer(200, DECISION)),
      entry('verify', answer(404, { code: 'FACE_NOT_FOUND' })),
      entry('verify', answer(503, { code: 'DATABASE_UNAVAILABLE' }, retryAfter)),
      entry('search', search([{ external_id: 'ada', face_id: UUID }])),
      entry('enroll', answer(201, { face_id: UUID })),
      entry('erase', { ...answer(204), text: '' }),
      entry('verify', answer(409, { code: 'IDEMPOTENCY_KEY_IN_USE' }), { key: 'a key' }),
      entry('search', answer(410, { code: 'ANSWER_GONE' }), { key: 'a key' }),
    ]
    expect(checkAnswers(good, {})).toEqual([])
    expect(checkAnswers([entry('verify', null)], { breaksClients: true })).toEqual([])
    const replayed = entry('verify', answer(200, DECISION, REPLAYED), { key: 'a key' })
    expect(checkAnswers([replayed], { duplicates: true })).toEqual([])
    const [attempt] = replayed.attempts
    if (!attempt) throw new RangeError('nothing was asked')
    const lost = { ...attempt, answer: answer(503, { code: 'DATABASE_UNAVAILABLE' }, retryAfter) }
    expect(checkAnswers([{ ...replayed, attempts: [lost, attempt] }], {})).toEqual([])
  })

  it.each<[string, Entry]>([
    ['a connection that breaks', entry('verify', null)],
    ['an answer that is late', entry('verify', answer(200, DECISION), { attempts: [late()] })],
    ['503 that does not say when to come back', entry('verify', answer(503, { code: 'DATABASE_UNAVAILABLE' }))],
    ['500', entry('verify', answer(500, { code: 'INTERNAL' }, retryAfter))],
    ['a decision that is none', entry('verify', answer(200, { ...DECISION, verified: null }))],
    ['a refusal without a code', entry('verify', answer(404))],
    ['a refusal of what was asked rightly', entry('verify', answer(409, { code: 'MODEL_MISMATCH' }))],
    ['a face that is gone, of an enrollment', entry('enroll', answer(410, { code: 'ANSWER_GONE' }), { key: 'a key' })],
    ['a credential that is good, and refused', entry('read', answer(401, { code: 'UNAUTHENTICATED' }))],
    ['a code with the status of another', entry('verify', answer(410, { code: 'FACE_NOT_FOUND' }))],
    ['a key in use that nobody sent', entry('verify', answer(409, { code: 'IDEMPOTENCY_KEY_IN_USE' }))],
    ['a first answer that says it is not', entry('verify', answer(200, DECISION, REPLAYED), { key: 'a key' })],
    ['a search that names somebody else', entry('search', search([{ external_id: 'bob', face_id: UUID }]))],
  ])('finds %s', (_, wrong) => {
    expect(kinds(checkAnswers([wrong], {}))).toEqual(['I8 wrong'])
  })

  function late() {
    return { requestId: 's1-c0-0-0', start: 0, end: 20_000, answer: answer(200, DECISION) }
  }
})

describe('the check of keys', () => {
  const first = entry('verify', answer(200, { ...DECISION, latency_ms: 4 }), { key: 'a key' })
  const again = (given: Answer | null, isAnother = false, isCalm = true) =>
    kinds(checkRepeats([{ entry: first, answer: given, isAnother, isCalm }]))

  it('is content with the first answer again, and with nothing', () => {
    expect(again(answer(200, { ...DECISION, latency_ms: 9 }, REPLAYED))).toEqual([])
    expect(again(answer(200, DECISION), false, false)).toEqual([])
    expect(again(answer(410, { code: 'ANSWER_GONE' }))).toEqual([])
    expect(again(answer(422, { code: 'IDEMPOTENCY_KEY_REUSED' }), true)).toEqual([])
    expect(again(answer(409, { code: 'IDEMPOTENCY_KEY_IN_USE' }), false, false)).toEqual([])
    expect([again(null), again(answer(503, { code: 'DATABASE_UNAVAILABLE' }))]).toEqual([[], []])
  })

  it.each<[string, Answer, boolean]>([
    ['another decision', answer(200, { ...DECISION, verified: false }, REPLAYED), false],
    ['another status', answer(404, { code: 'FACE_NOT_FOUND' }), false],
    ['a key that nobody uses any more, in use', answer(409, { code: 'IDEMPOTENCY_KEY_IN_USE' }), false],
    ['an answer that does not say that it is the first one', answer(200, DECISION), false],
    ['a key that answers another request', answer(200, DECISION, REPLAYED), true],
  ])('finds %s', (_, given, isAnother) => {
    expect(again(given, isAnother)).toEqual(['I5 wrong'])
  })
})

describe('the check of what is remembered', () => {
  const FACE = '00000000-0000-4000-8000-00000000face'
  const CLIENTS = { key: 'c'.repeat(64), lifeSeconds: 86_400 }
  const OURS = { key: '0'.repeat(32), lifeSeconds: 600 }
  const decided = { id: UUID, verified: true, face_id: FACE }
  const enrolled = { id: FACE, is_new: true }
  const withKey = entry('verify', answer(200, DECISION), { key: 'a key' })
  const without = entry('verify', answer(200, DECISION))
  const enrollment = entry('enroll', answer(201, { face_id: FACE }), { id: 's1-c0-9' })
  const remembered = (answered: Remembered['answer'], given: Partial<Remembered> = CLIENTS): Remembered => {
    return { tenant: 0, answer: answered, ...CLIENTS, ...given }
  }
  const check = (entries: Entry[], rows: Remembered[], { faces = [FACE], hasStepped = false } = {}) => {
    const isThere = new Map(faces.map((face) => ['tenant 0, ada', face]))
    return kinds(
      checkRemembered(entries, rows, { toKey: () => CLIENTS.key, audit: [row()], faces: isThere, hasStepped }),
    )
  }

  it('is content with what each request was told, for as long as promised', () => {
    expect(check([withKey], [remembered([decided])])).toEqual([])
    expect(check([without, enrollment], [remembered([decided], OURS), remembered([enrolled], OURS)])).toEqual([])
    expect(
      check([entry('verify', answer(404, { code: 'FACE_NOT_FOUND' }), { key: 'a key' })], [remembered([])]),
    ).toEqual([])
    const match = { external_id: 'ada', face_id: FACE }
    const search = entry('search', answer(200, { search_id: UUID, matches: [match] }), { key: 'a key' })
    expect(check([search], [remembered([{ id: UUID, face_id: FACE }])])).toEqual([])
  })

  it('is content with a face that was erased or replaced, and with what nobody was told', () => {
    const erased = entry('erase', answer(204), { id: 's1-c0-8', key: null, start: 20, end: 30 })
    const forgotten = remembered([{ forgotten: '' }], { ...OURS, key: '1'.repeat(32) })
    expect(check([withKey, erased], [remembered([decided]), forgotten], { faces: [] })).toEqual([])
    expect(check([withKey, entry('replace', null, { id: 's1-c0-8' })], [remembered([decided])], { faces: [] })).toEqual(
      [],
    )
    expect(check([entry('enroll', null)], [remembered([enrolled], OURS)])).toEqual([])
    expect(check([without], [], { hasStepped: true })).toEqual([])
  })

  it.each<[string, Entry[], Remembered[], string]>([
    ['an answer that is not remembered', [withKey], [], 'I4 lost'],
    ['the same without a key', [without], [], 'I4 lost'],
    ['an erasure that is not remembered', [entry('erase', answer(204))], [], 'I4 lost'],
    ['a key of nobody', [], [remembered([decided])], 'I4 wrong'],
    ['a decision of nobody', [], [remembered([{ ...decided, id: FACE }], OURS)], 'I4 wrong'],
    ['an enrollment of nobody', [], [remembered([enrolled], OURS)], 'I4 wrong'],
    ['an erasure of nobody', [entry('read', null)], [remembered([{ forgotten: '' }], OURS)], 'I4 doubled'],
    ['another decision', [withKey], [remembered([{ ...decided, verified: false }])], 'I4 wrong'],
    ['a request of another tenant', [withKey], [remembered([decided], { tenant: 1 })], 'I4 wrong'],
    ['an answer that is kept for longer', [withKey], [remembered([decided], { lifeSeconds: 86_401 })], 'I4 wrong'],
    ['an answer that is kept for less', [without], [remembered([decided], { ...OURS, lifeSeconds: 60 })], 'I4 wrong'],
    ['a face that is gone, and nobody erased it', [withKey], [remembered([{ ...decided, face_id: UUID }])], 'I4 wrong'],
  ])('finds %s', (_, entries, rows, expected) => {
    expect(check(entries, rows)).toEqual([expected])
  })

  it('finds a request without a key that is remembered twice, and one with a key beside it', () => {
    const twice = [remembered([decided], OURS), remembered([decided], { ...OURS, key: '1'.repeat(32) })]
    expect(check([without], twice)).toEqual(['I4 doubled'])
    expect(check([withKey], [remembered([decided], OURS)])).toContain('I4 wrong')
  })

  it('finds what a purge has left, and what it has taken early', () => {
    const planted = { expired: ['a', 'b'], lasting: ['c'] }
    expect(kinds(checkPurge(planted, new Set(['c'])))).toEqual([])
    expect(kinds(checkPurge(planted, new Set(['b', 'c'])))).toEqual(['I4 wrong'])
    expect(kinds(checkPurge(planted, new Set()))).toEqual(['I4 lost'])
  })
})

describe('the check of histories', () => {
  const enrolled = entry('enroll', answer(201, { face_id: UUID }), { id: 'first' })

  it('is content with what stands at the end', () => {
    expect(checkHistory([enrolled], new Map([['tenant 0, ada', UUID]]))).toEqual([])
    const erased = entry('erase', answer(204), { id: 'then', start: 20, end: 30 })
    expect(checkHistory([enrolled, erased], new Map())).toEqual([])
  })

  it('finds an acknowledged enrollment that is gone, and one that another face stands for', () => {
    expect(kinds(checkHistory([enrolled], new Map()))).toEqual(['I1 lost'])
    expect(kinds(checkHistory([enrolled], new Map([['tenant 0, ada', 'another']])))).toEqual(['I1 lost'])
  })

  it('tells the histories of two tenants apart', () => {
    const rival = entry('verify', answer(404, { code: 'FACE_NOT_FOUND' }), {
      id: 'rival',
      tenant: 1,
      start: 20,
      end: 30,
    })
    expect(checkHistory([enrolled, rival], new Map([['tenant 0, ada', UUID]]))).toEqual([])
    expect(kinds(checkHistory([enrolled, { ...rival, tenant: 0 }], new Map([['tenant 0, ada', UUID]])))).toEqual([
      'I7 wrong',
    ])
  })
})

describe('a seed', () => {
  const scale = { tenants: 3, names: 10, clients: 2, operations: 1 }
  const plan = (seed: number, fault: string, client: number, sendsKeys = true) => {
    const intents = planClient(seed, fault, client, scale, sendsKeys)
    return Array.from({ length: 50 }, () => intents.next().value)
  }

  it('decides what a client does, and what happens to each batch', () => {
    expect(plan(1, 'crash', 0)).toEqual(plan(1, 'crash', 0))
    const others = [plan(2, 'crash', 0), plan(1, 'delay', 0), plan(1, 'crash', 1)]
    for (const other of others)
      expect(other.map(({ kind }) => kind)).not.toEqual(plan(1, 'crash', 0).map(({ kind }) => kind))
    for (const { name, toRule } of WIRE_FAULTS) {
      const actions = (seed: number) => {
        const rule = toRule?.(new Chance(seed, name))
        return JSON.stringify(Array.from({ length: 200 }, (_, batch) => rule?.(batch, false)))
      }
      expect(actions(1), name).toBe(actions(1))
      expect(actions(1), name).not.toBe(actions(2))
    }
  })

  it('makes clients do everything that there is, with a key and without', () => {
    const intents = plan(1, 'crash', 0)
    expect([...new Set(intents.map(({ kind }) => kind))].sort()).toEqual(
      ['enroll', 'erase', 'read', 'replace', 'search', 'verify'], // biome-ignore format: one line
    )
    expect(new Set(intents.map(({ key }) => key === null)).size).toBe(2)
    expect(plan(1, 'crash', 0, false).every(({ key }) => key === null)).toBe(true)
  })
})

describe('the fault proxy', () => {
  const ANSWER = JSON.stringify({ results: [{ rows: [['1']] }, { rows: [['2']] }] })
  let carriedOut = 0
  let proxy: FaultProxy
  const endpoint = createServer((request, response) => {
    request.resume().on('end', () => {
      carriedOut++
      response.writeHead(200, { 'Content-Type': 'application/json' }).end(ANSWER)
    })
  })

  beforeAll(async () => {
    await new Promise<void>((resolve) => endpoint.listen(0, '127.0.0.1', resolve))
    proxy = await startFaultProxy()
  })
  afterAll(async () => {
    await proxy.close()
    endpoint.close()
  })

  /** Sends one batch: what comes back, and how often it was carried out. */
  async function send(action: Action): Promise<{ status: number | null; text: string | null; times: number }> {
    carriedOut = 0
    // listening on TCP, so the address is not a pipe's name
    proxy.serve(`http://127.0.0.1:${(endpoint.address() as AddressInfo).port}/sql`, () => action)
    const response = await fetch(proxy.url, { method: 'POST', body: '{}' }).catch(() => null)
    const text = (await response?.text().catch(() => null)) ?? null
    await proxy.settle()
    return { status: response?.status ?? null, text, times: carriedOut }
  }

  it.each<[string, Action, { status: number | null; text: string | null; times: number }]>([
    ['passes', { kind: 'pass' }, { status: 200, text: ANSWER, times: 1 }],
    ['drops before', { kind: 'drop', when: 'before' }, { status: null, text: null, times: 0 }],
    ['drops after', { kind: 'drop', when: 'after' }, { status: null, text: null, times: 1 }],
    ['is late before', { kind: 'delay', when: 'before', ms: 20 }, { status: 200, text: ANSWER, times: 1 }],
    ['is late after', { kind: 'delay', when: 'after', ms: 20 }, { status: 200, text: ANSWER, times: 1 }],
    ['sends twice', { kind: 'duplicate', answers: 'second', together: false }, { status: 200, text: ANSWER, times: 2 }],
    ['cuts an answer off', { kind: 'truncate', part: 0.5 }, { status: 200, text: null, times: 1 }],
    [
      'answers itself',
      { kind: 'answer', when: 'before', status: 502, type: 'text/plain', body: 'Bad Gateway' },
      { status: 502, text: 'Bad Gateway', times: 0 },
    ],
    ['garbles', { kind: 'garble', garble: () => [] }, { status: 200, text: '[]', times: 1 }],
  ])('%s', async (_, action, expected) => {
    expect(await send(action)).toEqual(expected)
  })

  it('holds batches until it is told', async () => {
    const release = proxy.hold()
    let isAnswered = false
    const answered = send({ kind: 'pass' }).then(() => {
      isAnswered = true
    })
    await new Promise((resolve) => setTimeout(resolve, 50))
    expect(isAnswered).toBe(false)
    release()
    await answered
    expect(isAnswered).toBe(true)
  })
})

describe('the report', () => {
  it('puts its tables between their markers in docs/reliability.md, again and again', async () => {
    const text = await readFile(join(import.meta.dirname, '../../docs/reliability.md'), 'utf8')
    const result = { seed: 1, seconds: 1, requests: 10, acknowledged: 8, failed: 2, spoiled: 0, recoveryMs: 7.4 }
    const violations: Violation[] = [{ invariant: 'I1', kind: 'lost', says: '' }]
    const [fault, another] = WIRE_FAULTS
    if (!fault || !another) throw new RangeError('there are no faults')
    const faults = toFaultTable([
      { fault, results: [{ ...result, violations }], obstacle: null },
      { fault: another, results: [], obstacle: 'no disk' },
    ])
    const once = putTables(text, { faults, bites: 'no bites' })
    expect(once).toMatch(
      /<!-- faults -->\n\n\| fault .*drop-before: .* 1 \|.* 10 \|.* 8 \|.* 1 \|.* 0 \|.* 0 \|.* 7 \|/s,
    )
    expect(once).toContain('skipped: no disk')
    expect(putTables(once, { faults, bites: 'no bites' })).toBe(once)
    expect(() => putTables('no markers', { faults })).toThrow(/no <!-- faults -->/)
  })

  it('is not content with a bite that nobody noticed, nor with a violation', () => {
    const [bite] = BITES
    const [fault] = WIRE_FAULTS
    if (!bite || !fault) throw new RangeError('there is nothing to play')
    const played = (violations: Violation[]) => {
      const result = { seed: 1, seconds: 1, requests: 1, acknowledged: 1, failed: 0, spoiled: 0, recoveryMs: null }
      return { ...result, violations }
    }
    const violation: Violation = { invariant: 'I1', kind: 'lost', says: '' }
    const noticed = { bite, result: played([violation]), rounds: 1 }
    const unnoticed = { bite, result: null, rounds: 5 }
    const sound = { fault, results: [played([])], obstacle: null }
    expect(judge([sound], [noticed]).isSound).toBe(true)
    expect(judge([sound], [noticed, unnoticed]).isSound).toBe(false)
    expect(judge([{ ...sound, results: [played([]), played([violation])] }], [noticed]).isSound).toBe(false)
    expect(toBiteTable([unnoticed])).toContain('NOT in 5 rounds')
  })
})

describe('the Worker of a drill', () => {
  it.each(BITES.map(({ name, edits = [] }) => ({ name, edits })))('can be broken: $name', async ({ edits }) => {
    const built = await buildWorker(edits)
    await built.close()
  })

  it('is not built when the line to break is not there', async () => {
    await expect(buildWorker([{ file: 'src/app.ts', from: 'no such line', to: '' }])).rejects.toThrow(/0 times/)
  })
})
