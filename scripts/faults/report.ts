// The figures of a run as tables, for a terminal and for docs/reliability.md. No I/O.
import { toTable } from '../markdown-table.ts'
import type { Bite } from './bites.ts'
import type { Fault } from './fault.ts'
import type { RoundResult } from './round.ts'
import type { Violation } from './violation.ts'

/** Rounds of one fault; or why there are none. */
export interface Played {
  fault: Fault
  results: RoundResult[]
  obstacle: string | null
}

export interface Bitten {
  bite: Bite
  /** The round that brought it to light; null when none did. */
  result: RoundResult | null
  rounds: number
}

export function toFaultTable(played: readonly Played[]): string {
  return toTable(
    ['fault', 'rounds', 'requests', 'acknowledged', 'lost', 'doubled', 'wrong', 'ms to recover'],
    played.map(({ fault, results, obstacle }) => {
      if (obstacle !== null) return [`${fault.name}: ${fault.says}`, `skipped: ${obstacle}`]
      const recoveries = results.flatMap(({ recoveryMs }) => (recoveryMs === null ? [] : [recoveryMs]))
      return [
        `${fault.name}: ${fault.says}`,
        String(results.length),
        toCount(sum(results.map(({ requests }) => requests))),
        toCount(sum(results.map(({ acknowledged }) => acknowledged))),
        ...(['lost', 'doubled', 'wrong'] as const).map((kind) => String(countViolations(results, kind))),
        recoveries.length === 0 ? '-' : String(Math.round(Math.max(...recoveries))),
      ]
    }),
  )
}

export function toBiteTable(bitten: readonly Bitten[]): string {
  return toTable(
    ['what is broken on purpose', 'fault', 'noticed', 'lost', 'doubled', 'wrong'],
    bitten.map(({ bite, result, rounds }) => [
      ...[bite.breaks, bite.fault, result ? `in round ${rounds}` : `NOT in ${rounds} rounds`],
      ...(['lost', 'doubled', 'wrong'] as const).map((kind) => String(result ? countViolations([result], kind) : 0)),
    ]),
  )
}

/** Whether a run says that the service is sound: nothing is wrong, and what was broken on purpose was noticed. */
export function judge(played: readonly Played[], bitten: readonly Bitten[]) {
  const violations = sum(played.flatMap(({ results }) => results.map((result) => result.violations.length)))
  const unnoticed = bitten.filter(({ result }) => result === null).length
  return { violations, unnoticed, isSound: violations + unnoticed === 0 }
}

/**
 * Puts tables between their markers: `<!-- name -->` and `<!-- end of name -->`.
 *
 * @throws Error when a document does not have them
 */
export function putTables(text: string, tables: Readonly<Record<string, string>>): string {
  return Object.entries(tables).reduce((before, [name, table]) => {
    const [begin, end] = [`<!-- ${name} -->`, `<!-- end of ${name} -->`]
    const [from, to] = [before.indexOf(begin), before.indexOf(end)]
    if (from < 0 || to < from) throw new Error(`the document has no ${begin} ... ${end}`)
    return `${before.slice(0, from)}${begin}\n\n${table}\n\n${before.slice(to)}`
  }, text)
}

function countViolations(results: readonly RoundResult[], kind: Violation['kind']): number {
  return sum(results.map(({ violations }) => violations.filter((violation) => violation.kind === kind).length))
}

function sum(numbers: readonly number[]): number {
  return numbers.reduce((total, number) => total + number, 0)
}

function toCount(count: number): string {
  return count.toLocaleString('en-US')
}
