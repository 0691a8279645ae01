// How figures grow: with the tenants in the tables, and in bytes for each face.
import { httpPeer, loadInTurns, of, ofProcess } from './peers.ts'
import { inTurn, toClaims, toSearchShot, toVerifyShot } from './requests.ts'
import type { Growth } from './results.ts'
import type { BenchTenant, Stage } from './stage.ts'

/** What a face takes in the table, in what lies out of line, and in each index. */
export async function measureBytes({ admin }: Stage): Promise<Growth['bytesPerFace']> {
  const rows = await admin.query<{ what: string; bytes: number }>(
    `with faces_count as (select count(*)::float8 as faces from faces), parts as (
      select 1 as place, 'table' as what, pg_relation_size('faces') as bytes
      union all
      select 2, 'sealed copies, out of line', pg_total_relation_size(reltoastrelid) from pg_class where oid = 'faces'::regclass
      union all
      select 3, 'index ' || c.relname, pg_relation_size(c.oid) from pg_index i join pg_class c on c.oid = i.indexrelid
      where i.indrelid = 'faces'::regclass
    )
    select what, bytes / faces as bytes from parts, faces_count order by place, what`,
  )
  const total = rows.reduce((sum, { bytes }) => sum + bytes, 0)
  return [...rows, { what: 'together', bytes: total }]
}

export async function measureSmallTenant(
  stage: Stage,
  tenant: BenchTenant,
  others: number,
  windowMs: number,
  windows: number,
): Promise<Growth['byTenants'][number]> {
  const { worker } = stage
  const parts = { server: ofProcess(worker.pid), database: () => stage.readBackendsCpuMs('rekko_app') }
  const claims = toClaims(tenant, 32)
  const verify = inTurn(claims.map((claim) => toVerifyShot(worker.url, tenant, claim)))
  const search = inTurn(claims.map(({ probe }) => toSearchShot(worker.url, tenant, probe)))
  const peers = [httpPeer('verify', worker.url, parts, verify), httpPeer('search', worker.url, parts, search)]
  const measured = await loadInTurns(peers, 1, windowMs, windows)
  return { others, verify: of(measured, 'verify'), search: of(measured, 'search') }
}
