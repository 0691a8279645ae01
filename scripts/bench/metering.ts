// Metering and audit: what they cost on one tenant that is asked from all sides, and that they agree to the row.
import { type Batch, recordBatches, toBatchShots } from './batches.ts'
import { httpPeer, type Load, loadInTurns, of, ofProcess } from './peers.ts'
import { inTurn, toClaims, toVerifyShot } from './requests.ts'
import type { BenchTenant, Stage } from './stage.ts'
import { pairedRatio } from './statistics.ts'

export interface Metering {
  metered: Load
  auditOnly: Load
  /** Throughput with metering to that without, window by window. */
  ratio: number
}

const CONNECTIONS = 16

/** @param tenants two that are alike; the second is left with decisions that nobody metered */
export async function measureMetering(
  stage: Stage,
  tenants: { metered: BenchTenant; unmetered: BenchTenant },
  windowMs: number,
  windows: number,
): Promise<Metering> {
  const { endpoint } = stage
  const parts = { endpoint: ofProcess(endpoint.pid), database: () => stage.readBackendsCpuMs('rekko_app') }
  const record = (tenant: BenchTenant) =>
    recordBatches(stage, (url) => toClaims(tenant, 32).map((claim) => toVerifyShot(url, tenant, claim)))
  const toPeer = (name: string, batches: Batch[]) => {
    const nextShots = inTurn(batches.map((batch) => toBatchShots(endpoint.url, batch)))
    return httpPeer(name, endpoint.url, parts, () => nextShots()())
  }
  await createUnmetered(stage)
  // by hand: the Worker's part, the same for both, would hide a part of the difference
  const metered = toPeer('metered', await record(tenants.metered))
  const auditOnly = toPeer('audit only', (await record(tenants.unmetered)).map(withoutMetering))
  const measured = await loadInTurns([metered, auditOnly], CONNECTIONS, windowMs, windows)
  const [ours, bare] = [of(measured, 'metered'), of(measured, 'audit only')]
  return { metered: ours, auditOnly: bare, ratio: pairedRatio(ours.throughputs, bare.throughputs) }
}

const METERED = /, metered as \(\s*insert into usage_events [^']*'verification' from recorded\s*\)/

/** The function that verifies, under another name and without the part that meters. */
async function createUnmetered({ admin }: Stage): Promise<void> {
  const [found] = await admin.query<{ definition: string; signature: string }>(
    `select pg_get_functiondef(oid) as definition, oid::regprocedure::text as signature
    from pg_proc where proname = 'verify_face'`,
  )
  const bare = found?.definition.replace(METERED, '')
  if (!found || bare === found.definition) throw new RangeError('the function that verifies has no part that meters')
  await admin.execute(String(bare).replace('verify_face(', 'verify_unmetered('))
  await admin.execute(
    `grant execute on function ${found.signature.replace('verify_face(', 'verify_unmetered(')} to rekko_app`,
  )
}

function withoutMetering({ headers, queries }: Batch): Batch {
  const bare = queries.map(({ query, params }) => ({
    query: query.replace('verify_face(', 'verify_unmetered('),
    params,
  }))
  if (bare.every(({ query }, index) => query === queries[index]?.query)) {
    throw new RangeError('no statement calls the function that verifies')
  }
  return { headers, queries: bare }
}

export interface Agreement {
  tenants: number
  acts: number
  /** Tenants of whom usage and audit do not say the same. */
  different: number
}

/** Whether usage says what happened, tenant by tenant and kind by kind. Nothing was erased in this run. */
export async function compareUsage({ admin }: Stage, except: BenchTenant): Promise<Agreement> {
  const [agreement] = await admin.query<{ tenants: number; acts: number; different: number }>(
    `with happened as (
      select tenant_id, 'registration' as kind, count(*) as acts from faces group by tenant_id
      union all select tenant_id, 'verification', count(*) from verifications group by tenant_id
      union all select tenant_id, 'identification', count(*) from identifications group by tenant_id
    ), metered as (
      select tenant_id, kind, sum(acts) as acts
      from (
        select tenant_id, kind, count(*) as acts from usage_events group by tenant_id, kind
        union all select tenant_id, 'registration', registrations from usage_records
        union all select tenant_id, 'verification', verifications from usage_records
        union all select tenant_id, 'identification', identifications from usage_records
        union all select tenant_id, 'deletion', deletions from usage_records
        union all select tenant_id, 'analysis', analyses from usage_records
      ) as both_places
      group by tenant_id, kind
    )
    select
      count(distinct tenant_id)::integer as tenants,
      sum(coalesce(h.acts, 0))::integer as acts,
      count(distinct tenant_id) filter (where coalesce(h.acts, 0) <> coalesce(m.acts, 0))::integer as different
    from happened h full join metered m using (tenant_id, kind)
    where tenant_id <> $1`,
    [except.id],
  )
  if (!agreement) throw new RangeError('an aggregate answered no row')
  return agreement
}
