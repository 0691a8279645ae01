// What a check of doctor is given, and what it says.
import type { Connection } from './connection.ts'
import type { Target } from './target.ts'

export type Level = 'ok' | 'warning' | 'problem' | 'skipped'

/** What a check says: one when all is well, or one for each thing that is not. */
export interface Verdict {
  level: Level
  says: string
  /** What to do, in words or as the statement to run; null when there is nothing to do. */
  mend: string | null
}

export interface Patient {
  connection: Connection
  target: Target
  /** The tables of the present schema are there. */
  hasSchema: boolean
  /** The login is not bound by row-level security, so that its counts are the true ones. */
  seesAllRows: boolean
}

export function ok(says: string): Verdict {
  return { level: 'ok', says, mend: null }
}

export function warning(says: string, mend: string): Verdict {
  return { level: 'warning', says, mend }
}

export function problem(says: string, mend: string): Verdict {
  return { level: 'problem', says, mend }
}

export function skipped(says: string): Verdict {
  return { level: 'skipped', says, mend: null }
}

export function orOk(verdicts: Verdict[], says: string): Verdict[] {
  return verdicts.length > 0 ? verdicts : [ok(says)]
}
