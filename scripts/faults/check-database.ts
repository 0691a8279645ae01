// What the database holds after a round, and the invariants that are read from it: I1 every template opens, I3 usage is the
// audit, I4 nothing is half done, I6 tenants are apart.
import type { Connection } from '../database/connection.ts'
import { inSnapshot, listTables, takeInventory } from '../database/inventory.ts'
import { checkIsolation } from '../database/isolation.ts'
import { openRandomTemplates } from '../database/open-templates.ts'
import type { AuditRow } from './check-audit.ts'
import { toRegister } from './check-history.ts'
import { type Entry, isAcknowledged, isUnanswered, type Kind } from './history.ts'
import type { Stage, Tenant } from './stage.ts'
import type { Violation } from './violation.ts'

/** More than any round enrolls. */
const ALL_FACES = 100_000

export async function listAudit(admin: Connection, tenants: readonly Tenant[]): Promise<AuditRow[]> {
  const rows = await admin.query<Omit<AuditRow, 'tenant'> & { tenantId: string }>(`
    select tenant_id as "tenantId", 'verify' as kind, id, verified as "isMatch", request_id as "requestId" from verifications
    union all
    select tenant_id, 'search', id, identified, request_id from identifications`)
  return rows.map(({ tenantId, ...row }) => ({ ...row, tenant: tenants.findIndex(({ id }) => id === tenantId) }))
}

/** The face_id that stands under each external_id. */
export async function listFaces(admin: Connection, tenants: readonly Tenant[]): Promise<Map<string, string>> {
  const rows = await admin.query<{ tenantId: string; externalId: string; id: string }>(
    'select tenant_id as "tenantId", external_id as "externalId", id from faces',
  )
  return new Map(
    rows.map(({ tenantId, externalId, id }) => {
      return [toRegister({ tenant: tenants.findIndex((tenant) => tenant.id === tenantId), externalId }), id]
    }),
  )
}

export async function checkTemplates(admin: Connection, { masterKeys }: Stage, faces: number): Promise<Violation[]> {
  const { opened, failed } = await openRandomTemplates(admin, masterKeys, ALL_FACES)
  const violations = failed.map(({ faceId, reason }): Violation => {
    return { invariant: 'I1', kind: 'lost', says: `the template of face ${faceId}: ${reason}` }
  })
  if (opened + failed.length !== faces) {
    violations.push({ invariant: 'I4', kind: 'wrong', says: `${faces} faces, and ${opened} templates opened` })
  }
  return violations
}

/** Usage is the audit, per tenant and month; of what has no audit, as much as was answered, or not answered at all. */
export async function checkUsage(
  admin: Connection,
  tenants: readonly Tenant[],
  entries: readonly Entry[],
): Promise<Violation[]> {
  const violations: Violation[] = []
  const months = await admin.query<{
    tenant_id: string
    month: string
    kind: string
    audited: number
    billed: number
  }>(`
    with audited as (
      select tenant_id, to_char(created_at at time zone 'UTC', 'YYYY-MM') as month, 'verification' as kind from verifications
      union all
      select tenant_id, to_char(created_at at time zone 'UTC', 'YYYY-MM'), 'identification' from identifications
    ), billed as (
      select tenant_id, to_char(occurred_at at time zone 'UTC', 'YYYY-MM') as month, kind, 1 as count from usage_events
      union all select tenant_id, period, 'verification', verifications from usage_records
      union all select tenant_id, period, 'identification', identifications from usage_records
      union all select tenant_id, period, 'registration', registrations from usage_records
      union all select tenant_id, period, 'deletion', deletions from usage_records
    )
    select tenant_id, month, kind, coalesce(a.count, 0)::int as audited, coalesce(b.count, 0)::int as billed
    from (select tenant_id, month, kind, count(*) as count from audited group by 1, 2, 3) as a
    full join (select tenant_id, month, kind, sum(count) as count from billed group by 1, 2, 3) as b
      using (tenant_id, month, kind)`)
  for (const { month, kind, audited, billed } of months) {
    if (!['verification', 'identification'].includes(kind) || audited === billed) continue
    violations.push({
      ...{ invariant: 'I3', kind: billed < audited ? 'lost' : 'doubled' },
      says: `${month}: ${audited} rows of ${kind} in the audit, ${billed} in the usage`,
    })
  }
  for (const [tenant, { id }] of tenants.entries()) {
    for (const [kind, kinds] of [
      ['registration', ['enroll', 'replace']],
      ['deletion', ['erase']],
    ] as const) {
      const billed = months
        .filter((row) => row.tenant_id === id && row.kind === kind)
        .reduce((total, row) => total + row.billed, 0)
      violations.push(...checkWritesBilled(entries, tenant, kind, kinds, billed))
    }
  }
  return violations
}

function checkWritesBilled(
  entries: readonly Entry[],
  tenant: number,
  name: string,
  kinds: readonly Kind[],
  billed: number,
): Violation[] {
  const writes = entries.filter((entry) => entry.tenant === tenant && kinds.includes(entry.kind))
  const acknowledged = writes.filter(isAcknowledged).length
  const unknown = writes.filter(isUnanswered).length
  if (billed >= acknowledged && billed <= acknowledged + unknown) return []
  return [
    {
      ...{ invariant: 'I3', kind: billed < acknowledged ? 'lost' : 'doubled' },
      says: `tenant ${tenant}: ${billed} ${name}s in the usage, ${acknowledged} acknowledged, ${unknown} not answered`,
    },
  ]
}

/** Of what is written together, one part without the other. */
export async function checkWhole(admin: Connection): Promise<Violation[]> {
  const [counts] = await admin.query<Record<string, number>>(`
    select
      (
        select count(*)::int from (select tenant_id, count(*) as faces from faces group by 1) as f
        full join (select tenant_id, sum(change) as faces from face_counts group by 1) as c using (tenant_id)
        where coalesce(f.faces, 0) <> coalesce(c.faces, 0)
      ) as "tenants whose faces are not counted right",
      (select count(*)::int from faces where sealed is null or key_version is null) as "faces without a sealed copy",
      (select count(*)::int from integrity_events) as "events of a template that was tampered with",
      (
        select count(*)::int from verifications v
        where v.face_id is not null
          and not exists (select from faces f where f.tenant_id = v.tenant_id and f.id = v.face_id)
      ) as "verifications of a face that is not there"`)
  return Object.entries(counts ?? {}).flatMap(([what, count]): Violation[] => {
    return count === 0 ? [] : [{ invariant: 'I4', kind: 'wrong', says: `${count} ${what}` }]
  })
}

/** As many requests at once as the endpoint has sessions: whatever a round has left in one is met. */
const SESSIONS = 12

export async function checkTenantsApart(admin: Connection, { endpointUrl }: Stage): Promise<Violation[]> {
  const inventory = await inSnapshot(admin, null, async () => takeInventory(admin, await listTables(admin)))
  const { failures } = await checkIsolation(admin, inventory)
  const seen = await Promise.all(Array.from({ length: SESSIONS }, () => countWithoutTenant(endpointUrl)))
  return [
    ...failures,
    ...seen.flatMap((answer) => (answer === 'refused' ? [] : [`without a tenant, the service's login sees ${answer}`])),
  ].map((says): Violation => ({ invariant: 'I6', kind: 'wrong', says }))
}

async function countWithoutTenant(endpointUrl: string): Promise<string> {
  const response = await fetch(endpointUrl, {
    method: 'POST',
    headers: { 'Neon-Connection-String': 'postgres://rekko_app:rekko_app@local.endpoint/rekko' },
    body: JSON.stringify({ query: 'select count(*), pg_sleep(0.05) from faces', params: [] }),
  })
  const body = await response.text()
  // insufficient_privilege, as current_tenant_id() raises it
  return response.status === 400 && body.includes('"42501"') ? 'refused' : body
}
