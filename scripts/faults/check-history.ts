// I7: the history of each external_id is linearizable as a register. I1, of what needs no search for an order: an enrollment
// that was acknowledged and that nothing came after is there at the end. No I/O.
import { type Entry, isAcknowledged, WRITES } from './history.ts'
import { checkLinearizability } from './linearizability.ts'
import { toOperations } from './register.ts'
import type { Violation } from './violation.ts'

/** @param faces the face_id that stands at the end, by `toRegister` */
export function checkHistory(entries: readonly Entry[], faces: ReadonlyMap<string, string>): Violation[] {
  const violations: Violation[] = []
  for (const [register, ofRegister] of Map.groupBy(entries, toRegister)) {
    const lost = findLost(ofRegister, faces.get(register))
    if (lost)
      violations.push({ invariant: 'I1', kind: 'lost', says: `${register}: ${lost.id} was acknowledged and is gone` })
    const verdict = checkLinearizability(toOperations(ofRegister), null)
    if (verdict !== 'linearizable') {
      violations.push({ invariant: 'I7', kind: 'wrong', says: `${register}: ${verdict}\n${toStory(ofRegister)}` })
    }
  }
  return violations
}

export function toRegister({ tenant, externalId }: Pick<Entry, 'tenant' | 'externalId'>): string {
  return `tenant ${tenant}, ${externalId}`
}

function findLost(entries: readonly Entry[], faceId: string | undefined): Entry | undefined {
  const writes = entries.filter(({ kind }) => WRITES.includes(kind))
  return writes.find((entry) => {
    if (entry.kind === 'erase' || !isAcknowledged(entry)) return false
    const isLast = writes.every((other) => other === entry || other.end < entry.start)
    return isLast && entry.answer?.body['face_id'] !== faceId
  })
}

/** A line for each operation, for whoever looks for the reason. */
function toStory(entries: readonly Entry[]): string {
  const first = Math.min(...entries.map(({ start }) => start))
  const toTime = (at: number) => (at === Number.POSITIVE_INFINITY ? '...' : (at - first).toFixed(1)).padStart(8)
  return [...entries]
    .sort((a, b) => a.start - b.start)
    .map(({ id, kind, person, key, start, end, attempts, answer }) => {
      const { verified, face_id: face, code } = answer?.body ?? {}
      const statuses = attempts.map((attempt) => attempt.answer?.status ?? 'none').join(' ')
      const matches = kind === 'search' && answer?.status === 200 ? ` ${answer.text.slice(0, 160)}` : ''
      const said = [verified, face, code].filter((each) => each !== undefined).join(' ')
      return `    ${toTime(start)} ${toTime(end)}  ${kind.padEnd(7)} person ${person}: ${statuses} ${said}${matches}  ${id}${key ? ' key' : ''}`
    })
    .join('\n')
}
