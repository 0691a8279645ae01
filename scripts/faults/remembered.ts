// What the service remembers of requests, as a round finds it in idempotent_requests. No I/O but by the connection given.
import { createHmac } from 'node:crypto'
import type { Connection } from '../database/connection.ts'
import type { Tenant } from './stage.ts'

export interface Remembered {
  tenant: number
  /** Hexadecimal digits: 64 for a client's Idempotency-Key, 32 for a number of the Worker's own. */
  key: string
  answer: Record<string, unknown>[]
  /** From when it was written until it is forgotten. */
  lifeSeconds: number
}

export async function listRemembered(admin: Connection, tenants: readonly Tenant[]): Promise<Remembered[]> {
  const rows = await admin.query<Omit<Remembered, 'tenant'> & { tenantId: string }>(`
    select
      tenant_id as "tenantId", encode(key, 'hex') as key, answer,
      extract(epoch from expires_at - created_at)::float8 as "lifeSeconds"
    from idempotent_requests`)
  return rows.map(({ tenantId, ...row }) => ({ ...row, tenant: tenants.findIndex(({ id }) => id === tenantId) }))
}

/** Under which a client's Idempotency-Key is remembered; as `nameKeyedRequest` of src/idempotency.ts makes it. */
export function toRememberedKey(pepper: string, { id }: Tenant, key: string): string {
  return createHmac('sha256', pepper).update(`idempotency key\0${id}\0${key}`).digest('hex')
}
