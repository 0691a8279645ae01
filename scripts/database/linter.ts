// The row-level-security linter: what in a database could let one tenant see another, found in its catalogs. The
// rules are in linter-rules.ts, what was reviewed and is meant to be in linter-exceptions.ts.
import type { Connection } from './connection.ts'
import { EXCEPTIONS } from './linter-exceptions.ts'
import { CATALOG, type Fault, RULES, type Rule, type ServerFacts } from './linter-rules.ts'
import { findVersion, listMigrations } from './migrate.ts'
import { readSettings } from './server.ts'
import { isNeon, type Target } from './target.ts'

export interface LintFinding {
  rule: string
  level: 'problem' | 'warning'
  object: string
  fault: string
  reason: string
  /** What to do. */
  mend: string
}

export interface LintReport {
  rules: number
  /** Objects of the catalogs that the rules were asked about. */
  objects: number
  /** Problems and warnings, in the order of the rules. */
  findings: LintFinding[]
}

/** An exception is a hole in a rule: one that is not needed any more waits for somebody to use it. */
export const STALE: Pick<Rule, 'id' | 'reason' | 'mend'> = {
  id: 'L50',
  reason: 'an exception that nothing needs any more stays open for whatever takes the name',
  mend: 'take it out of scripts/database/linter-exceptions.ts; or see what became of the object',
}

/**
 * Asks every rule, and changes nothing.
 *
 * @param connection in a transaction, whose search_path it sets
 * @param target of the connection: who keeps the disk decides whether its settings matter
 * @throws Error of the driver when a catalog cannot be read
 */
export async function lint(connection: Connection, target: Target): Promise<LintReport> {
  // compiling this one statement takes longer than running it
  await connection.execute(
    "set local search_path = pg_catalog, public; set local jit = off; set local statement_timeout = '60s'",
  )
  const faults = new Map<string, Fault[]>()
  for (const { rule, ...fault } of await connection.query<Fault & { rule: string }>(QUESTIONS)) {
    faults.set(rule, [...(faults.get(rule) ?? []), fault])
  }
  const server = await readServer(connection)
  for (const rule of RULES) {
    // the embedded database is for development, and Neon keeps the log on machines of its own
    if (rule.doctor === 'durability' && (target.kind === 'embedded' || isNeon(target))) continue
    if ('judge' in rule) faults.set(rule.id, rule.judge(server))
  }

  const findings = RULES.flatMap((rule) =>
    (faults.get(rule.id) ?? []).filter((fault) => !isExcepted(rule, fault)).map((fault) => toFinding(rule, fault)),
  )
  // before the newest migration, what some exceptions are for is not there yet
  if (await isNewest(connection)) {
    const unused = EXCEPTIONS.filter(({ rule, object }) => !faults.get(rule)?.some((fault) => fault.object === object))
    for (const { rule, object } of unused) {
      findings.push(toFinding(STALE, { object, fault: `is an exception of ${rule} that nothing matches`, mend: null }))
    }
  }
  const [row] = await connection.query<{ objects: number }>(COUNT)
  return { rules: RULES.length + 1, objects: row?.objects ?? 0, findings }
}

/** One statement, so that all rules see one catalog. */
const QUESTIONS = `with ${CATALOG} ${RULES.flatMap((rule) =>
  'sql' in rule ? [`select '${rule.id}' as rule, q.* from (${rule.sql}) as q(object, fault, mend)`] : [],
).join(' union all ')} order by 1, 2, 3`

const COUNT = `with ${CATALOG} select (
    (select count(*) from relations) + (select count(*) from functions) + (select count(*) from policies)
    + (select count(*) from privileges) + (select count(*) from pg_constraint o join tables t on t.oid = o.conrelid)
    + (select count(*) from pg_trigger g join tables t on t.oid = g.tgrelid) + (select count(*) from roles)
    + (select count(*) from namespaces)
  )::int as objects`

async function readServer(connection: Connection): Promise<ServerFacts> {
  const [row] = await connection.query<{ version: number; pgvector: string | null }>(`
    select current_setting('server_version_num')::int as version,
      (select extversion from pg_extension where extname = 'vector') as pgvector`)
  const names = ['fsync', 'full_page_writes', 'synchronous_commit', 'max_parallel_maintenance_workers']
  return {
    version: row?.version ?? 0,
    pgvector: row?.pgvector ?? null,
    settings: await readSettings(connection, names),
  }
}

function isExcepted(rule: Rule, { object }: Fault): boolean {
  return EXCEPTIONS.some((exception) => exception.rule === rule.id && exception.object === object)
}

function toFinding(rule: Pick<Rule, 'id' | 'reason' | 'mend' | 'level'>, { object, fault, mend }: Fault): LintFinding {
  const { id, level = 'problem', reason } = rule
  return { rule: id, level, object, fault, reason, mend: mend ?? rule.mend }
}

async function isNewest(connection: Connection): Promise<boolean> {
  const { version } = await findVersion(connection)
  return version === (await listMigrations()).at(-1)?.version
}

/** As lines for a person. */
export function toSentence({ rule, object, fault }: LintFinding): string {
  return `${rule} ${object} ${fault}`
}
