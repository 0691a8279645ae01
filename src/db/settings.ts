// A tenant as it sees itself, and the settings that it may change.
import { type Settings, toSettings } from '../settings.ts'
import type { TenantDatabase } from './tenant.ts'

export interface TenantDetails {
  name: string
  settings: Settings
  created_at: Date
  updated_at: Date
}

type TenantRow = Omit<TenantDetails, 'settings'> & { settings: unknown }

/** Reads what is stored now, which an isolate that remembers the tenant may not know yet. */
export async function readTenant(db: TenantDatabase): Promise<TenantDetails> {
  const [row] = await db.run<TenantRow>(
    db.sql`select name, settings, created_at, updated_at from tenants where id = ${db.tenant.id}`,
    { readOnly: true },
  )
  return toDetails(db, row)
}

/**
 * Changes settings, and notes it.
 *
 * @param change by the names under which settings are stored; null goes back to the default, what is not named
 *   stays
 */
export async function changeSettings(db: TenantDatabase, change: Record<string, unknown>): Promise<TenantDetails> {
  const [row] = await db.act<TenantRow>({
    parts: db.sql`changed as (
      update tenants set
        settings = jsonb_strip_nulls(settings || ${JSON.stringify(change)}::jsonb),
        updated_at = transaction_timestamp()
      where id = ${db.tenant.id} and ${db.isFirst}
      returning id, name, settings, created_at, updated_at
    ), noted as (
      insert into admin_events (tenant_id, action, request_id)
      select id, 'tenant.settings_changed', ${db.requestId} from changed
    )`,
    answer: db.sql`select name, settings, created_at, updated_at from changed`,
  })
  return toDetails(db, row)
}

function toDetails({ models }: TenantDatabase, row: TenantRow | undefined): TenantDetails {
  if (!row) throw new RangeError('a tenant that was entered is not there')
  return { ...row, settings: toSettings(row.settings, models) }
}
