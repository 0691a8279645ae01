// An external_id as a register: which enrollment stands under it, or none. What each operation's answer says of it. No I/O.
import { type Answer, codeOf, type Entry, isUnanswered, WRITES } from './history.ts'
import { IMPOSSIBLE, type Operation } from './linearizability.ts'

/** The id of the operation that wrote what stands there; null for nobody. */
export type Enrolled = string | null

/** Operations of one external_id of one tenant, as the checker takes them; those that say nothing are left out. */
export function toOperations(records: readonly Entry[]): Operation<Enrolled>[] {
  const writes = new Map(records.filter(({ kind }) => WRITES.includes(kind)).map((record) => [record.id, record]))
  const writesByFace = new Map<unknown, string>()
  for (const { id, answer } of writes.values()) {
    if (answer?.body['face_id'] !== undefined) writesByFace.set(answer.body['face_id'], id)
  }

  const personOf = (state: Enrolled) => (state === null ? null : (writes.get(state)?.person ?? null))
  /** Whether a face_id is that of this write; one that nobody was told is that of a write that nobody answered. */
  const isFaceOf = (faceId: unknown, state: Enrolled) => {
    const known = writesByFace.get(faceId)
    return known !== undefined
      ? known === state
      : state !== null && writes.get(state)?.answer?.body['face_id'] === undefined
  }

  return records.flatMap((record) => {
    const apply = toStep(record, personOf, isFaceOf)
    return apply ? [{ start: record.start, end: record.end, apply }] : []
  })
}

type Step = Operation<Enrolled>['apply']

function toStep(
  entry: Entry,
  personOf: (state: Enrolled) => number | null,
  isFaceOf: (faceId: unknown, state: Enrolled) => boolean,
): Step | null {
  const wants = (holds: (state: Enrolled) => boolean, after?: Enrolled): Step => {
    return (state) => (holds(state) ? (after === undefined ? state : after) : IMPOSSIBLE)
  }
  const isNobody = (state: Enrolled) => state === null
  const isSomebody = (state: Enrolled) => state !== null
  const { id, kind, externalId, person, answer } = entry
  // what may have been carried out, but nobody was told how: its answer was lost, or is gone since
  const isUnknown = answer === null || isUnanswered(entry)

  switch (kind) {
    case 'enroll':
      if (isUnknown) return (state) => state ?? id
      if (answer.status === 201) return wants(isNobody, id)
      return codeOf(answer) === 'FACE_ALREADY_EXISTS' ? wants(isSomebody) : null
    case 'replace':
      if (isUnknown) return () => id
      if (answer.status === 201) return wants(isNobody, id)
      return answer.status === 200 ? wants(isSomebody, id) : null
    case 'erase':
      if (isUnknown) return () => null
      if (answer.status === 204) return wants(isSomebody, null)
      return codeOf(answer) === 'FACE_NOT_FOUND' ? wants(isNobody) : null
    case 'verify':
      if (isUnknown) return null
      if (codeOf(answer) === 'FACE_NOT_FOUND') return wants(isNobody)
      if (answer.status !== 200) return null
      return answer.body['verified'] === true
        ? wants((state) => personOf(state) === person)
        : wants((state) => state !== null && personOf(state) !== person)
    case 'search': {
      if (isUnknown || answer.status !== 200) return null
      const match = findMatch(answer, externalId)
      if (!match) return wants((state) => personOf(state) !== person)
      return wants((state) => personOf(state) === person && isFaceOf(match['face_id'], state))
    }
    case 'read':
      if (isUnknown) return null
      if (codeOf(answer) === 'FACE_NOT_FOUND') return wants(isNobody)
      return answer.status === 200 ? wants((state) => isFaceOf(answer.body['face_id'], state)) : null
  }
}

/** @returns what a search says of this external_id; undefined when it does not name it */
export function findMatch({ body }: Answer, externalId: string): Record<string, unknown> | undefined {
  const matches: unknown[] = Array.isArray(body['matches']) ? body['matches'] : []
  return matches
    .filter((match): match is Record<string, unknown> => typeof match === 'object' && match !== null)
    .find((match) => match['external_id'] === externalId)
}
