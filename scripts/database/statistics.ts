// The monitoring queries of the database guide and a few more, each a section that answers rows. They only read.
import type { Connection } from './connection.ts'
import type { Target } from './target.ts'

export type Row = Record<string, string | number | boolean | null>

interface Section {
  title: string
  /** @returns rows, or why there are none to show */
  read(connection: Connection, target: Target, longSeconds: number): Promise<Row[] | string>
}

/** A section's answer: its rows, or why it was left out. */
export type SectionResult = { title: string; rows: Row[] } | { title: string; skipped: string }

const STATEMENT_TIMEOUT = '60s'

// A statement as text may hold a face or a password: plain SQL is shown as pg_stat_statements normalized
// it, and of anything else only its first words.
const HARMLESS_QUERY = `
  case when query ~* '^\\s*(with|select|insert|update|delete|merge)\\M'
    then left(regexp_replace(query, '\\s+', ' ', 'g'), 100)
    else upper(coalesce(substring(query from '^\\s*(\\w+(?:\\s+\\w+)?)'), '')) || ' ...' end`

const SECTIONS = {
  sizes: {
    title: 'Table sizes',
    read: (connection) =>
      connection.query<Row>(`
        select t.schemaname, t.tablename, pg_size_pretty(pg_total_relation_size(c.oid)) as size,
          pg_total_relation_size(c.oid)::float8 as bytes, pg_indexes_size(c.oid)::float8 as index_bytes,
          greatest(s.n_live_tup, c.reltuples, 0)::float8 as rows
        from pg_tables t
        join pg_class c on c.oid = format('%I.%I', t.schemaname, t.tablename)::regclass
        left join pg_stat_user_tables s on s.relid = c.oid
        where t.schemaname = 'public'
        order by pg_total_relation_size(c.oid) desc, t.tablename`),
  },
  indexes: {
    title: 'Index usage',
    // the guide names tablename and indexname, which pg_stat_user_indexes calls relname and indexrelname
    read: (connection) =>
      connection.query<Row>(`
        select s.schemaname, s.relname, s.indexrelname, s.idx_scan::float8, s.idx_tup_read::float8,
          s.idx_tup_fetch::float8, pg_size_pretty(pg_relation_size(s.indexrelid)) as size, i.indisvalid as valid
        from pg_stat_user_indexes s join pg_index i on i.indexrelid = s.indexrelid
        order by s.idx_scan desc, s.indexrelname`),
  },
  connections: {
    title: 'Connections',
    read: (connection, target) =>
      target.kind === 'embedded'
        ? Promise.resolve('the embedded database has one session')
        : connection.query<Row>(`
            select datname, count(*)::int as connections, count(*) filter (where state = 'active')::int as active,
              count(*) filter (where state = 'idle')::int as idle,
              count(*) filter (where state like 'idle in transaction%')::int as in_transaction,
              current_setting('max_connections')::int as limit
            from pg_stat_activity
            where datname is not null
            group by datname
            order by count(*) desc, datname`),
  },
  slow_queries: {
    title: 'Slow queries',
    read: async (connection, target) => {
      if (target.kind === 'embedded') return 'the embedded database does not have pg_stat_statements'
      const [extension] = await connection.query<{ view: string }>(`
        select quote_ident(n.nspname) || '.pg_stat_statements' as view
        from pg_extension e join pg_namespace n on n.oid = e.extnamespace
        where e.extname = 'pg_stat_statements' and exists (select from pg_settings where name = 'pg_stat_statements.max')`)
      if (!extension) {
        return (
          'pg_stat_statements is not installed: have it in shared_preload_libraries, restart PostgreSQL, ' +
          'then as administrator: create extension pg_stat_statements'
        )
      }
      return connection.query<Row>(`
        select ${HARMLESS_QUERY} as query, calls::float8, round(total_exec_time::numeric, 1)::float8 as total_exec_time,
          round(mean_exec_time::numeric, 2)::float8 as mean_exec_time, round(max_exec_time::numeric, 1)::float8 as max_exec_time
        from ${extension.view}
        where dbid = (select oid from pg_database where datname = current_database())
        order by mean_exec_time desc
        limit 10`)
    },
  },
  transactions: {
    title: 'Long transactions',
    read: (connection, target, longSeconds) =>
      target.kind === 'embedded'
        ? Promise.resolve('the embedded database has one session')
        : // what they run is not shown: its text may hold a face
          connection.query<Row>(
            `select pid, usename, application_name, state, round(extract(epoch from now() - xact_start))::float8 as seconds,
              concat_ws(' ', wait_event_type, wait_event) as waits_for
            from pg_stat_activity
            where datname = current_database() and pid <> pg_backend_pid()
              and xact_start < clock_timestamp() - make_interval(secs => $1)
            order by xact_start
            limit 20`,
            [longSeconds],
          ),
  },
  dead_rows: {
    title: 'Dead rows',
    read: (connection) =>
      connection.query<Row>(`
        select relname, n_live_tup::float8 as live, n_dead_tup::float8 as dead,
          round(100.0 * n_dead_tup / greatest(n_live_tup + n_dead_tup, 1), 1)::float8 as dead_percent,
          n_ins_since_vacuum::float8 as inserted_since_vacuum,
          to_char(greatest(last_vacuum, last_autovacuum) at time zone 'UTC', 'YYYY-MM-DD HH24:MI') as last_vacuum_utc,
          to_char(greatest(last_analyze, last_autoanalyze) at time zone 'UTC', 'YYYY-MM-DD HH24:MI') as last_analyze_utc
        from pg_stat_user_tables
        where schemaname = 'public'
        order by n_dead_tup desc, relname`),
  },
  cache: {
    title: 'Cache hit ratio',
    read: (connection) =>
      connection.query<Row>(`
        with reads as (
          select relname as what, heap_blks_hit + coalesce(toast_blks_hit, 0) as hits,
            heap_blks_read + coalesce(toast_blks_read, 0) as misses
          from pg_statio_user_tables where schemaname = 'public'
          union all
          select indexrelname, idx_blks_hit, idx_blks_read from pg_statio_user_indexes where schemaname = 'public'
          union all
          select '(the database)', blks_hit, blks_read from pg_stat_database where datname = current_database()
        )
        select what, hits::float8, misses::float8,
          round(100.0 * hits / nullif(hits + misses, 0), 2)::float8 as hit_percent
        from reads
        where hits + misses > 0 or what = '(the database)'
        order by hits + misses desc, what
        limit 15`),
  },
  tenants: {
    title: 'Largest tenants',
    read: async (connection) => {
      const [schema] = await connection.query<{ is_there: boolean }>(
        "select to_regclass('public.face_counts') is not null as is_there",
      )
      if (!schema?.is_there) return 'the schema is not there yet: scripts/db.sh up'
      // the month's records and what was not rolled up yet, which is less to read than the audit
      return connection.query<Row>(`
        with month as (
          select to_char(now() at time zone 'UTC', 'YYYY-MM') as period
        ), faces as (
          select tenant_id, sum(change) as faces from face_counts group by tenant_id
        ), acts as (
          select tenant_id, verifications, identifications from usage_records, month where usage_records.period = month.period
          union all
          select tenant_id, (kind = 'verification')::int, (kind = 'identification')::int
          from usage_events, month where to_char(occurred_at at time zone 'UTC', 'YYYY-MM') = month.period
        ), counted as (
          select tenant_id, sum(verifications) as verifications, sum(identifications) as identifications
          from acts group by tenant_id
        )
        select t.id::text as tenant, left(t.name, 40) as name, t.environment, coalesce(f.faces, 0)::float8 as faces,
          coalesce(c.verifications, 0)::float8 as verifications_this_month,
          coalesce(c.identifications, 0)::float8 as identifications_this_month
        from tenants t
        left join faces f on f.tenant_id = t.id
        left join counted c on c.tenant_id = t.id
        order by 4 desc, 5 desc, 1
        limit 10`)
    },
  },
} satisfies Record<string, Section>

export type SectionName = keyof typeof SECTIONS
// the keys of SECTIONS, and nothing else was put into it
export const SECTION_NAMES = Object.keys(SECTIONS) as SectionName[]

/**
 * @param names which sections to read
 * @param longSeconds from which age a transaction is long: it keeps vacuum from removing dead rows
 */
export async function readStatistics(
  connection: Connection,
  target: Target,
  names: readonly SectionName[] = SECTION_NAMES,
  longSeconds = 60,
): Promise<Partial<Record<SectionName, SectionResult>>> {
  const results: Partial<Record<SectionName, SectionResult>> = {}
  for (const name of names) {
    const section: Section = SECTIONS[name]
    // a transaction of its own, so that a pooled session is left as it was
    await connection.execute(`begin read only; set local statement_timeout = '${STATEMENT_TIMEOUT}'`)
    try {
      const answer = await section.read(connection, target, longSeconds)
      results[name] =
        typeof answer === 'string' ? { title: section.title, skipped: answer } : { title: section.title, rows: answer }
    } finally {
      await connection.execute('rollback')
    }
  }
  return results
}
