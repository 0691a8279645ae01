// I4, of what is remembered for repetitions: each row is what one request was told, and what must be remembered is; a face
// that it names is there, or was erased or replaced; and it is kept for as long as promised. No I/O.
import type { AuditRow } from './check-audit.ts'
import { toRegister } from './check-history.ts'
import { codeOf, type Entry, isAcknowledged, isGone, isUnanswered, WRITES } from './history.ts'
import type { Remembered } from './remembered.ts'
import type { Violation } from './violation.ts'

export interface RememberedContext {
  /** Under which an operation with a key is remembered. */
  toKey(entry: Entry): string
  audit: readonly AuditRow[]
  /** The face_id that stands at the end, by `toRegister`. */
  faces: ReadonlyMap<string, string>
  /** Whether the clock of the database stepped, so that what is kept for ten minutes may be gone. */
  hasStepped: boolean
}

/** 24 hours for a client, ten minutes for the Worker itself. */
const LIFE_SECONDS = { clients: 86_400, ours: 600 }
const CLIENTS_DIGITS = 64

export function checkRemembered(
  entries: readonly Entry[],
  rows: readonly Remembered[],
  context: RememberedContext,
): Violation[] {
  const owners = toOwners(entries, context)
  const rowsByEntry = Map.groupBy(rows, (row) => owners.find(row)?.id ?? null)
  return [
    ...rows.flatMap((row) => findFlaws(row, owners.find(row), entries, context)),
    ...entries.flatMap((entry) => checkEntry(entry, rowsByEntry.get(entry.id) ?? [], context)),
    ...checkErasures(entries, rows, context),
  ]
}

interface Owners {
  /** Whose request a row is of; undefined where that cannot be told. */
  find(row: Remembered): Entry | undefined
}

/** By the key; of requests without one, by the decision or the face that the client was told, or the audit names. */
function toOwners(entries: readonly Entry[], { toKey, audit }: RememberedContext): Owners {
  const byKey = new Map(entries.flatMap((entry) => (entry.key === null ? [] : [[toKey(entry), entry] as const])))
  const byId = new Map(entries.map((entry) => [entry.id, entry]))
  const byAnswer = new Map<unknown, Entry>()
  for (const { id, requestId } of audit) {
    const entry = byId.get(requestId.replace(/-\d+$/, ''))
    if (entry) byAnswer.set(id, entry)
  }
  for (const entry of entries) {
    if (WRITES.includes(entry.kind) && isAcknowledged(entry)) byAnswer.set(entry.answer?.body['face_id'], entry)
  }
  return {
    find: ({ key, answer: [first] }) =>
      key.length === CLIENTS_DIGITS ? byKey.get(key) : first?.['id'] ? byAnswer.get(first['id']) : undefined,
  }
}

function findFlaws(
  row: Remembered,
  owner: Entry | undefined,
  entries: readonly Entry[],
  { faces }: RememberedContext,
): Violation[] {
  const isClients = row.key.length === CLIENTS_DIGITS
  const name = `tenant ${row.tenant}, remembered under ${row.key.slice(0, 8)}`
  const wrong = (says: string): Violation[] => [{ invariant: 'I4', kind: 'wrong', says: `${name}: ${says}` }]
  const life = LIFE_SECONDS[isClients ? 'clients' : 'ours']
  if (row.lifeSeconds !== life) return wrong(`is kept for ${row.lifeSeconds} s, not ${life}`)
  if (!owner) {
    if (isClients) return wrong('no request had this key')
    return canBeAnybodys(row, entries) ? [] : wrong(`nobody asked for ${JSON.stringify(row.answer)}`)
  }
  if (owner.tenant !== row.tenant) return wrong(`is a request of tenant ${owner.tenant}`)
  if (!isClients && owner.key !== null) return wrong(`${owner.id} has a key, and is remembered without it`)
  if (isAcknowledged(owner) && !agrees(owner, row)) {
    return wrong(`${owner.kind} ${owner.id} was told ${owner.answer?.text}, not ${JSON.stringify(row.answer)}`)
  }
  const lost = toNamedFaces(row).find((face) => face !== faces.get(toRegister(owner)) && !isTakenAway(owner, entries))
  return lost === undefined
    ? []
    : wrong(`${owner.kind} ${owner.id} names face ${lost}, which is gone, and nobody erased it`)
}

/** Whether a row without a key may be of a request whose answer does not name it, or that nobody answered. */
function canBeAnybodys({ tenant, answer: [first] }: Remembered, entries: readonly Entry[]): boolean {
  // a refusal says nothing, and erasures are counted
  if (!first || 'forgotten' in first) return true
  // a decision is in the audit
  if (!('is_new' in first)) return false
  const isOurs = (entry: Entry) => entry.tenant === tenant && entry.key === null
  return (
    first['id'] === null ||
    entries.some((entry) => isOurs(entry) && ['enroll', 'replace'].includes(entry.kind) && isUnanswered(entry))
  )
}

/** What the client was told, and what is remembered of it. */
function agrees({ kind, answer }: Entry, { answer: rows }: Remembered): boolean {
  const body = answer?.body ?? {}
  const [first] = rows
  switch (kind) {
    case 'verify':
      return first?.['id'] === body['verification_id'] && first?.['verified'] === body['verified']
    case 'search':
      return (
        first?.['id'] === body['search_id'] &&
        JSON.stringify(rows.map(({ face_id }) => face_id).filter((id) => id !== null)) ===
          JSON.stringify((body['matches'] as { face_id: string }[]).map(({ face_id }) => face_id))
      )
    case 'enroll':
    case 'replace':
      return first?.['id'] === body['face_id']
    case 'erase':
      return rows.length === 1
    case 'read':
      return false
  }
}

function toNamedFaces({ answer }: Remembered): unknown[] {
  return answer.map((row) => ('is_new' in row ? row['id'] : row['face_id'])).filter((id) => typeof id === 'string')
}

/** Whether somebody may have erased or replaced whom an operation names, since it began. */
function isTakenAway(named: Entry, entries: readonly Entry[]): boolean {
  const register = toRegister(named)
  return entries.some((entry) => {
    const isRemoval = entry !== named && (entry.kind === 'erase' || entry.kind === 'replace')
    return (
      isRemoval &&
      toRegister(entry) === register &&
      entry.end > named.start &&
      (isAcknowledged(entry) || isUnanswered(entry))
    )
  })
}

/** Exactly one row where something was answered that is remembered; one at most where nobody knows. */
function checkEntry(entry: Entry, rows: readonly Remembered[], { hasStepped }: RememberedContext): Violation[] {
  const name = `${entry.kind} ${entry.id}${entry.key === null ? '' : ' with a key'}`
  if (rows.length > 1) {
    return [{ invariant: 'I4', kind: 'doubled', says: `${name} is remembered ${rows.length} times` }]
  }
  const isLost = rows.length === 0 && (entry.key === null ? isTold(entry) && !hasStepped : isRemembered(entry))
  return isLost ? [{ invariant: 'I4', kind: 'lost', says: `${name}: answered, and not remembered` }] : []
}

/** Whether the row of an operation without a key can be told by its answer. */
function isTold(entry: Entry): boolean {
  return isAcknowledged(entry) && entry.kind !== 'read' && entry.kind !== 'erase'
}

function isRemembered(entry: Entry): boolean {
  const { answer } = entry
  if (!answer) return false
  return isAcknowledged(entry) || isGone(answer) || ['FACE_NOT_FOUND', 'FACE_ALREADY_EXISTS'].includes(codeOf(answer))
}

/** An erasure without a key has no number in its answer: as many are remembered as were answered, or not answered at all. */
function checkErasures(
  entries: readonly Entry[],
  rows: readonly Remembered[],
  { hasStepped }: RememberedContext,
): Violation[] {
  const erasures = entries.filter(({ kind, key }) => kind === 'erase' && key === null)
  return [...new Set(entries.map(({ tenant }) => tenant))].flatMap((tenant): Violation[] => {
    const ofTenant = erasures.filter((entry) => entry.tenant === tenant)
    const acknowledged = ofTenant.filter(isAcknowledged).length
    const unknown = ofTenant.filter(isUnanswered).length
    const remembered = rows.filter(({ key, answer, ...row }) => {
      return row.tenant === tenant && key.length !== CLIENTS_DIGITS && answer.some((each) => 'forgotten' in each)
    }).length
    const isLost = remembered < acknowledged && !hasStepped
    if (!isLost && remembered <= acknowledged + unknown) return []
    return [
      {
        ...{ invariant: 'I4', kind: isLost ? 'lost' : 'doubled' },
        says: `tenant ${tenant}: ${remembered} erasures remembered, ${acknowledged} acknowledged, ${unknown} not answered`,
      },
    ]
  })
}
