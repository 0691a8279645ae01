// The metering of a tenant: what is rolled up, and what is not yet.
import type { TenantDatabase } from './tenant.ts'

export type Usage = {
  registrations: number
  verifications: number
  identifications: number
  deletions: number
  /** Pictures and pairs that were looked at, and left nothing else. */
  analyses: number
}

/** @param period a month in UTC, YYYY-MM */
export async function findUsage(db: TenantDatabase, period: string): Promise<Usage> {
  const firstDay = `${period}-01`
  // one statement, so one snapshot: an event is never counted both before and after its roll-up
  const [usage] = await db.run<Usage>(
    db.sql`
    select
      coalesce(sum(registrations), 0)::float8 as registrations,
      coalesce(sum(verifications), 0)::float8 as verifications,
      coalesce(sum(identifications), 0)::float8 as identifications,
      coalesce(sum(deletions), 0)::float8 as deletions,
      coalesce(sum(analyses), 0)::float8 as analyses
    from (
      select registrations, verifications, identifications, deletions, analyses
      from usage_records
      where tenant_id = ${db.tenant.id} and period = ${period}
      union all
      select
        count(*) filter (where kind = 'registration'),
        count(*) filter (where kind = 'verification'),
        count(*) filter (where kind = 'identification'),
        count(*) filter (where kind = 'deletion'),
        count(*) filter (where kind = 'analysis')
      from usage_events
      where tenant_id = ${db.tenant.id}
        and occurred_at >= ${firstDay}::date::timestamp at time zone 'UTC'
        and occurred_at < (${firstDay}::date + interval '1 month') at time zone 'UTC'
    ) as counted`,
    { readOnly: true },
  )
  if (!usage) throw new RangeError('an aggregate answered no row')
  return usage
}

/**
 * Meters a look at pictures of which nothing is kept, in a transaction that checks the credential like any other.
 *
 * @param verdict what depends on the tenant's settings, and is remembered for whoever asks again: nothing of a face
 * @returns the verdict, of now or of then
 */
export async function recordAnalysis<Verdict extends object>(db: TenantDatabase, verdict: Verdict): Promise<Verdict> {
  const [row] = await db.act<{ verdict: Verdict }>({
    parts: db.sql`metered as (
      insert into usage_events (tenant_id, kind) select ${db.tenant.id}, 'analysis' where ${db.isFirst} returning kind
    )`,
    answer: db.sql`select ${JSON.stringify(verdict)}::jsonb as verdict from metered`,
  })
  if (!row) throw new RangeError('an insert answered no row')
  return row.verdict
}
