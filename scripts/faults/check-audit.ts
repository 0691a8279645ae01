// I2: every answered verification and search has exactly one audit row with the same decision, and no row lacks a request.
// I5: what was not answered is absent, or there once; what has a key was answered in the end. No I/O.
import { type Entry, isAcknowledged, isUnanswered } from './history.ts'
import type { Violation } from './violation.ts'

/** A row of verifications or of identifications. */
export interface AuditRow {
  tenant: number
  kind: 'verify' | 'search'
  id: string
  /** `verified`, or `identified`. */
  isMatch: boolean
  requestId: string
}

export function checkAudit(entries: readonly Entry[], rows: readonly AuditRow[]): Violation[] {
  const violations: Violation[] = []
  const rowsByEntry = new Map<string, AuditRow[]>()
  for (const row of rows) {
    const id = row.requestId.replace(/-\d+$/, '')
    rowsByEntry.set(id, [...(rowsByEntry.get(id) ?? []), row])
  }
  for (const entry of entries) {
    const ofEntry = rowsByEntry.get(entry.id) ?? []
    rowsByEntry.delete(entry.id)
    violations.push(...checkEntry(entry, ofEntry))
  }
  for (const [id, [row]] of rowsByEntry) {
    violations.push({ invariant: 'I2', kind: 'wrong', says: `${row?.kind} row ${row?.id}: no request ${id}` })
  }
  return violations
}

function checkEntry(entry: Entry, rows: readonly AuditRow[]): Violation[] {
  const { id, kind, key, answer, attempts } = entry
  const name = `${kind} ${id}${key === null ? '' : ' with a key'}`
  const asked = attempts.length > 1 ? `, asked ${attempts.length} times` : ''
  if (key !== null && entry.end === Number.POSITIVE_INFINITY) {
    return [{ invariant: 'I5', kind: 'wrong', says: `${name}: no answer in a minute${asked}` }]
  }
  const strange = rows.filter((row) => row.kind !== kind || row.tenant !== entry.tenant)
  if (strange.length > 0) return [{ invariant: 'I2', kind: 'wrong', says: `${name}: a row of another kind or tenant` }]
  if (rows.length > 1) return [{ invariant: 'I2', kind: 'doubled', says: `${name}: ${rows.length} audit rows${asked}` }]
  const [row] = rows
  if (isAcknowledged(entry) && (kind === 'verify' || kind === 'search')) {
    if (!row) return [{ invariant: 'I2', kind: 'lost', says: `${name}: answered, and no audit row${asked}` }]
    if (!isSameDecision(entry, row)) {
      return [
        { invariant: 'I2', kind: 'wrong', says: `${name}: answered ${answer?.text}, recorded ${JSON.stringify(row)}` },
      ]
    }
  }
  if (row && !isAcknowledged(entry) && !isUnanswered(entry)) {
    return [{ invariant: 'I2', kind: 'wrong', says: `${name}: refused with ${answer?.status}, and recorded${asked}` }]
  }
  return []
}

function isSameDecision({ kind, answer }: Entry, { id, isMatch }: AuditRow): boolean {
  if (kind === 'verify') return answer?.body['verification_id'] === id && answer.body['verified'] === isMatch
  const matches = answer?.body['matches']
  return answer?.body['search_id'] === id && Array.isArray(matches) && matches.length > 0 === isMatch
}
