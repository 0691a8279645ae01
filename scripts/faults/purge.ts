// Requests whose time is over, or not, put there before a round: two purges run at the same time, whatever else happens, and
// what they leave is looked at.
import type { Connection } from '../database/connection.ts'
import type { Tenant } from './stage.ts'
import type { Violation } from './violation.ts'

export interface Planted {
  /** Keys as hexadecimal digits. */
  expired: string[]
  lasting: string[]
}

/** Of each tenant. Some expire while the round goes on. */
const LIVES: Readonly<Record<string, { count: number; isLasting: boolean }>> = {
  '-1 hour': { count: 60, isLasting: false },
  '500 ms': { count: 60, isLasting: false },
  '24 hours': { count: 60, isLasting: true },
}
/** What a clock that steps forward and back cannot end. */
const BEGAN = { expired: '-2 hours', lasting: '0' }

/** Requests of nobody, in each tenant. */
export async function plantRemembered(admin: Connection, tenants: readonly Tenant[]): Promise<Planted> {
  const planted: Planted = { expired: [], lasting: [] }
  for (const { id } of tenants) {
    for (const [life, { count, isLasting }] of Object.entries(LIVES)) {
      const rows = await admin.query<{ key: string }>(
        `insert into idempotent_requests (tenant_id, key, fingerprint, answer, created_at, expires_at)
        select $1, sha256(uuid_send(gen_random_uuid())), sha256(''), '[]', now() + $2::interval, now() + $3::interval
        from generate_series(1, $4)
        returning encode(key, 'hex') as key`,
        [id, BEGAN[isLasting ? 'lasting' : 'expired'], life, count],
      )
      planted[isLasting ? 'lasting' : 'expired'].push(...rows.map(({ key }) => key))
    }
  }
  return planted
}

/** @param keys what is there when the last purge is over */
export function checkPurge({ expired, lasting }: Planted, keys: ReadonlySet<string>): Violation[] {
  const left = expired.filter((key) => keys.has(key)).length
  const lost = lasting.filter((key) => !keys.has(key)).length
  return [
    ...(left === 0 ? [] : [{ invariant: 'I4', kind: 'wrong', says: `${left} requests outlive their time` } as const]),
    ...(lost === 0 ? [] : [{ invariant: 'I4', kind: 'lost', says: `${lost} requests were forgotten early` } as const]),
  ]
}
