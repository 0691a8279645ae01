// What can be wrong with a database, and how to mend it: one function for each thing to look at. It only reads.

import { findMigrationFindings } from './commands/migrations.ts'
import type { Connection } from './connection.ts'
import { examineTemplateKeys } from './doctor-template-keys.ts'
import { lint, toSentence } from './linter.ts'
import { RULES } from './linter-rules.ts'
import { isBefore, isOff, readSettings, SECURE_MINOR, type Setting } from './server.ts'
import { describeTarget, isNeon, isPooled, type Target } from './target.ts'
import { ok, orOk, type Patient, problem, skipped, type Verdict, warning } from './verdict.ts'

export type Finding = Verdict & { check: string }

interface Check {
  name: string
  examine(patient: Patient): Promise<Verdict[]>
  /** It reads the tables of the present schema. */
  needsSchema?: true
}

/** In the order in which a reader wants them: what makes the later ones meaningless comes first. */
const CHECKS: Check[] = [
  { name: 'reachable', examine: examineReach },
  { name: 'direct connection', examine: examineDirect },
  { name: 'postgresql', examine: examineServer },
  { name: 'pgvector', examine: examinePgvector },
  { name: 'migrations', examine: examineMigrations },
  { name: 'isolation', examine: examineIsolation, needsSchema: true },
  { name: 'durability', examine: examineDurability },
  { name: 'checksums', examine: examineChecksums },
  { name: 'parameter logging', examine: examineLogging },
  { name: 'indexes', examine: examineIndexes },
  { name: 'pg_stat_statements', examine: examineStatements },
  { name: 'template keys', examine: examineTemplateKeys, needsSchema: true },
  { name: 'face counts', examine: examineFaceCounts, needsSchema: true },
  { name: 'metering', examine: examineMetering, needsSchema: true },
  { name: 'vacuum', examine: examineVacuum, needsSchema: true },
]

/** Longer than counting a few million faces; a check that needs more says so and the others go on. */
const CHECK_TIMEOUT = '60s'

/**
 * Looks at everything, in read-only transactions.
 *
 * @param connection an administrator's
 */
export async function examine(connection: Connection, target: Target): Promise<Finding[]> {
  const [login] = await connection.query<{ sees_all_rows: boolean }>(
    'select rolsuper or rolbypassrls as sees_all_rows from pg_roles where rolname = current_user',
  )
  const patient = {
    connection,
    target,
    hasSchema: await hasSchema(connection),
    seesAllRows: login?.sees_all_rows ?? false,
  }
  const findings: Finding[] = []
  for (const check of CHECKS) {
    for (const verdict of await run(check, patient)) findings.push({ check: check.name, ...verdict })
  }
  return findings
}

/** The tables of the present schema are there. */
export async function hasSchema(connection: Connection): Promise<boolean> {
  const [row] = await connection.query<{ is_there: boolean }>(
    "select to_regclass('public.face_counts') is not null as is_there",
  )
  return row?.is_there ?? false
}

/** What stands after "not looked at" where that is so. */
export const NO_SCHEMA = 'the schema is not there yet: scripts/db.sh up'

async function run(check: Check, patient: Patient): Promise<Verdict[]> {
  if (check.needsSchema && !patient.hasSchema) return [skipped(NO_SCHEMA)]
  // a transaction of its own, so that a pooled session is left as it was
  await patient.connection.execute(
    `begin read only; set local statement_timeout = '${CHECK_TIMEOUT}'; set local lock_timeout = '5s'`,
  )
  try {
    return await check.examine(patient)
  } catch (error) {
    const reason = error instanceof Error ? error.message : String(error)
    return [problem(`could not be looked at: ${reason}`, 'run this as the administrator of the database')]
  } finally {
    await patient.connection.execute('rollback')
  }
}

// == The server ==

async function examineReach({ connection, target }: Patient): Promise<Verdict[]> {
  await connection.query('select 1')
  return [ok(`${describeTarget(target)} answers`)]
}

async function examineDirect({ target }: Patient): Promise<Verdict[]> {
  return isPooled(target)
    ? [
        problem(
          'this URL goes through a pooler, where neither the lock of the migrations nor a role lasts from one statement to the next',
          'use the direct URL for administration and migrations: the same host name without "-pooler"',
        ),
      ]
    : [ok('the session is ours alone')]
}

async function examineServer({ connection }: Patient): Promise<Verdict[]> {
  const [row] = await connection.query<{ version: number }>(
    "select current_setting('server_version_num')::int as version",
  )
  return [judgeServer(row?.version ?? 0)]
}

/** @param version as in server_version_num: 170011 is 17.11 */
export function judgeServer(version: number): Verdict {
  const [major, minor] = [Math.floor(version / 10_000), version % 10_000]
  const name = `PostgreSQL ${major}.${minor}`
  if (major < 16) return problem(`${name} is older than 16`, 'move to PostgreSQL 16 or newer: dump, then restore there')
  const needed = SECURE_MINOR.get(major)
  if (needed === undefined) {
    return warning(
      `${name} is newer than this check knows`,
      'see that its minor version is the newest: postgresql.org/support/security',
    )
  }
  if (minor < needed) {
    return problem(
      `${name} lacks security fixes: ${major}.${needed} has them`,
      `install the newest ${major}.x and restart PostgreSQL; the data stay as they are`,
    )
  }
  return ok(name)
}

async function examinePgvector({ connection }: Patient): Promise<Verdict[]> {
  const [row] = await connection.query<PgvectorFacts>(`
    select
      (select extversion from pg_extension where extname = 'vector') as installed,
      (select default_version from pg_available_extensions where name = 'vector') as available,
      current_setting('max_parallel_maintenance_workers')::int as workers,
      (
        select count(*)::int from pg_index i join pg_class c on c.oid = i.indexrelid join pg_am a on a.oid = c.relam
        where a.amname = 'hnsw'
      ) as hnsw_indexes`)
  return row ? judgePgvector(row) : []
}

export interface PgvectorFacts {
  installed: string | null
  /** What `alter extension vector update` would give. */
  available: string | null
  /** max_parallel_maintenance_workers */
  workers: number
  hnsw_indexes: number
}

export function judgePgvector({ installed, available, workers, hnsw_indexes }: PgvectorFacts): Verdict[] {
  if (installed === null) {
    return [
      problem(
        'the extension is not installed',
        available === null
          ? 'install the package pgvector on the server, then run scripts/db.sh up'
          : 'scripts/db.sh up, or as administrator: create extension vector',
      ),
    ]
  }
  const update =
    available !== null && isBefore(installed, available)
      ? `alter extension vector update (to ${available})`
      : 'install pgvector 0.8.2 or newer on the server, then: alter extension vector update'
  if (isBefore(installed, '0.8.0')) return [problem(`pgvector ${installed} is older than 0.8.2`, update)]
  if (isBefore(installed, '0.8.2')) {
    const flaw = `pgvector ${installed} can leak other tables while it builds an HNSW index in parallel (CVE-2026-3172)`
    return workers === 0
      ? [warning(`${flaw}; max_parallel_maintenance_workers is 0, which avoids it`, update)]
      : [problem(flaw, `${update}; until then: alter system set max_parallel_maintenance_workers = 0`)]
  }
  if (hnsw_indexes > 0 && isBefore(installed, '0.8.4')) {
    return [warning(`pgvector ${installed} can damage an HNSW index in vacuum; 0.8.4 does not`, update)]
  }
  if (available !== null && isBefore(installed, available)) {
    return [warning(`pgvector ${installed} is older than what the server has: ${available}`, update)]
  }
  return [ok(`pgvector ${installed}`)]
}

async function examineDurability({ connection, target }: Patient): Promise<Verdict[]> {
  if (target.kind === 'embedded') return [skipped('the embedded database is for development: a crash may lose data')]
  if (isNeon(target)) return [skipped('Neon keeps the log on machines of its own, whatever these settings say')]
  const settings = await readSettings(connection, ['fsync', 'full_page_writes', 'synchronous_commit'])
  return judgeDurability(settings)
}

export function judgeDurability(settings: Setting[]): Verdict[] {
  const consequences: Record<string, string> = {
    fsync: 'a power failure can destroy the whole database',
    full_page_writes: 'a power failure can leave half-written pages',
    synchronous_commit: 'what was answered can be gone after a crash',
  }
  const verdicts = settings
    .filter(isOff)
    .map(({ name, whose }) =>
      problem(
        `${name} is off${whose === null ? '' : ` for ${whose}`}: ${consequences[name]}`,
        whose === null
          ? `alter system reset ${name}, or take it out of postgresql.conf, then select pg_reload_conf()`
          : toReset(whose, name),
      ),
    )
  return orOk(verdicts, 'fsync, full_page_writes and synchronous_commit are on')
}

/** The statement that takes a setting back from whom it was set for: "role x", "database y" or "role x database y". */
function toReset(whose: string, name: string): string {
  return `alter ${whose.replace(/^(role .+) database /, '$1 in database ')} reset ${name}`
}

async function examineChecksums({ connection, target }: Patient): Promise<Verdict[]> {
  if (isNeon(target)) return [skipped('Neon checks its pages itself')]
  const [row] = await connection.query<{ is_on: boolean }>("select current_setting('data_checksums') = 'on' as is_on")
  return [judgeChecksums(row?.is_on ?? false)]
}

export function judgeChecksums(isOn: boolean): Verdict {
  return isOn
    ? ok('data_checksums is on')
    : problem(
        'data_checksums is off: a damaged page is answered as if it were right',
        'stop PostgreSQL, run pg_checksums --enable, start it; or restore a dump into a cluster made with initdb --data-checksums',
      )
}

async function examineLogging({ connection, target }: Patient): Promise<Verdict[]> {
  if (target.kind === 'embedded') return [skipped('the embedded database writes no log')]
  const rows = await connection.query<{ name: string; setting: string }>(
    `select name, setting from pg_settings
     where name ~ '^log_(statement|parameter_max_length|parameter_max_length_on_error|min_duration_statement|min_duration_sample|transaction_sample_rate)$'`,
  )
  return judgeLogging(new Map(rows.map(({ name, setting }) => [name, setting])))
}

/** @param settings by name, as pg_settings has them */
export function judgeLogging(settings: Map<string, string>): Verdict[] {
  const verdicts: Verdict[] = []
  if (settings.get('log_statement') === 'all') {
    verdicts.push(
      problem("log_statement is 'all': every statement is logged", "alter system set log_statement = 'none'"),
    )
  }
  if (settings.get('log_parameter_max_length_on_error') !== '0') {
    verdicts.push(
      problem(
        'log_parameter_max_length_on_error is not 0: a failing statement puts a face into the log',
        'alter system set log_parameter_max_length_on_error = 0',
      ),
    )
  }
  if (settings.get('log_parameter_max_length') !== '0') {
    const logsStatements =
      settings.get('log_statement') !== 'none' ||
      Number(settings.get('log_min_duration_statement')) >= 0 ||
      Number(settings.get('log_min_duration_sample')) >= 0 ||
      Number(settings.get('log_transaction_sample_rate')) > 0
    const mend = 'alter system set log_parameter_max_length = 0'
    verdicts.push(
      logsStatements
        ? problem('log_parameter_max_length is not 0 and statements are logged: faces are in the log', mend)
        : warning('log_parameter_max_length is not 0: once statements are logged, faces are in the log', mend),
    )
  }
  return orOk(
    verdicts.map((verdict) => ({ ...verdict, mend: `${verdict.mend}, then select pg_reload_conf()` })),
    'parameters do not reach the log',
  )
}

async function examineStatements({ connection, target }: Patient): Promise<Verdict[]> {
  if (target.kind === 'embedded') return [skipped('the embedded database does not have it')]
  const [row] = await connection.query<{ is_there: boolean }>(
    "select exists (select from pg_extension where extname = 'pg_stat_statements') as is_there",
  )
  return row?.is_there
    ? [ok('installed')]
    : [
        warning(
          'not installed: stats cannot name slow queries',
          'have it in shared_preload_libraries, restart, then as administrator: create extension pg_stat_statements',
        ),
      ]
}

// == Schema and access ==

async function examineMigrations({ connection }: Patient): Promise<Verdict[]> {
  const findings = await findMigrationFindings(connection)
  return orOk(
    findings.map(({ says, mend }) => problem(says, mend)),
    'the newest version, and the files are as they were applied',
  )
}

async function examineIsolation({ connection, target }: Patient): Promise<Verdict[]> {
  const { rules, objects, findings } = await lint(connection, target)
  // another check says these, and has more to go by
  const elsewhere = RULES.flatMap(({ id, doctor }) => (doctor === undefined ? [] : [id]))
  return orOk(
    findings
      .filter(({ rule }) => !elsewhere.includes(rule))
      .map((finding) => ({ level: finding.level, says: toSentence(finding), mend: finding.mend })),
    `${rules} rules of the linter hold for ${objects.toLocaleString('en')} objects`,
  )
}

async function examineIndexes({ connection }: Patient): Promise<Verdict[]> {
  const indexes = await connection.query<{ name: string; is_being_built: boolean }>(`
    select i.indexrelid::regclass::text as name,
      exists (select from pg_stat_progress_create_index b where b.index_relid = i.indexrelid) as is_being_built
    from pg_index i join pg_class c on c.oid = i.indexrelid join pg_namespace n on n.oid = c.relnamespace
    where n.nspname !~ '^pg_' and not (i.indisvalid and i.indisready)
    order by 1`)
  return orOk(
    indexes.map(({ name, is_being_built }) =>
      is_being_built
        ? warning(`${name} is being built now`, 'wait; scripts/db.sh index shows the progress of its own builds')
        : problem(
            `${name} is not valid: its build did not finish. It is kept up to date and never read`,
            `drop index concurrently ${name}, then build it again`,
          ),
    ),
    'all are valid',
  )
}

// == The rows ==

async function examineFaceCounts({ connection, seesAllRows }: Patient): Promise<Verdict[]> {
  if (!seesAllRows) return [skipped('this login is bound by row-level security and cannot count every face')]
  // one statement, so that both are counted in the same snapshot
  const differences = await connection.query<{ tenant: string; faces: string; counted: string }>(`
    with f as (select tenant_id, count(*) as faces from faces group by tenant_id),
      c as (select tenant_id, sum(change) as counted from face_counts group by tenant_id)
    select tenant_id::text as tenant, coalesce(faces, 0)::text as faces, coalesce(counted, 0)::text as counted
    from f full join c using (tenant_id)
    where coalesce(faces, 0) <> coalesce(counted, 0)
    order by tenant_id
    limit 20`)
  return orOk(
    differences.map(({ tenant, faces, counted }) =>
      problem(
        `the tenant ${tenant} has ${faces} faces, and face_counts says ${counted}`,
        `insert into face_counts (tenant_id, change) select '${tenant}', ` +
          `(select count(*) from faces where tenant_id = '${tenant}') - ` +
          `(select coalesce(sum(change), 0) from face_counts where tenant_id = '${tenant}')`,
      ),
    ),
    'face_counts agrees with the faces of each tenant',
  )
}

async function examineMetering({ connection }: Patient): Promise<Verdict[]> {
  const [row] = await connection.query<{ events: string; hours: string }>(`
    select count(*)::text as events, round(extract(epoch from now() - min(occurred_at)) / 3600, 1)::text as hours
    from usage_events where occurred_at < now() - interval '1 hour'`)
  return row && Number(row.events) > 0
    ? [
        warning(
          `${row.events} usage events wait for more than an hour, the oldest for ${row.hours} hours: the scheduled roll-up does not run`,
          "see the Worker's cron trigger and JOBS_DATABASE_URL; by hand: select roll_up_usage(5000), until it answers 0",
        ),
      ]
    : [ok('usage events are rolled up')]
}

async function examineVacuum({ connection }: Patient): Promise<Verdict[]> {
  const [row] = await connection.query<VacuumFacts>(`
    select greatest(s.n_live_tup, c.reltuples)::float8 as rows, s.n_dead_tup::float8 as dead,
      s.n_ins_since_vacuum::float8 as unvacuumed, s.n_mod_since_analyze::float8 as unanalyzed
    from pg_stat_user_tables s join pg_class c on c.oid = s.relid
    where s.relid = 'public.faces'::regclass`)
  return row ? judgeVacuum(row) : []
}

/** Rows of faces. */
export interface VacuumFacts {
  rows: number
  dead: number
  /** Inserted since the last vacuum. */
  unvacuumed: number
  /** Changed since the last analyze. */
  unanalyzed: number
}

/** Below this, no scan is long enough to matter. */
const FEW_ROWS = 1_000

export function judgeVacuum({ rows, dead, unvacuumed, unanalyzed }: VacuumFacts): Verdict[] {
  const percent = (count: number) => Math.round((100 * count) / Math.max(rows, 1))
  if (rows < FEW_ROWS) return [ok('faces has few rows')]
  const verdicts: Verdict[] = []
  const mend = 'vacuum (analyze) faces; if it comes back, see that autovacuum is on'
  // autovacuum begins at 1 % of faces: ten times that means that it does not keep up
  if (unvacuumed > 0.1 * rows) {
    verdicts.push(
      warning(
        `${percent(unvacuumed)} % of faces came since its last vacuum: searches read the table beside the index`,
        mend,
      ),
    )
  }
  if (dead > 0.1 * rows) verdicts.push(warning(`faces has dead rows: ${percent(dead)} % of the living`, mend))
  if (unanalyzed > 0.3 * rows) {
    verdicts.push(warning(`${percent(unanalyzed)} % of faces changed since its last analyze: plans may be poor`, mend))
  }
  return orOk(verdicts, 'faces is vacuumed and analyzed')
}
