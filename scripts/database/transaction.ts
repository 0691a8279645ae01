// Transactions of an administrator who need not be a superuser: as the owner of the schema, or inside a
// tenant as the service is.
import type { Connection } from './connection.ts'
import { CommandError, EXIT } from './terminal.ts'

/** Behind a waiting lock every request waits too; a batch takes well under a second. */
const TIMEOUTS = "set local lock_timeout = '5s'; set local statement_timeout = '2min'"

/** Works as rekko_owner, which may see tenants, keys and usage; faces only inside a tenant that was entered. */
export function asOwner<Result>(connection: Connection, work: () => Promise<Result>): Promise<Result> {
  return inTransaction(connection, async () => {
    await setRole(connection, 'rekko_owner')
    return work()
  })
}

const DEADLOCK_DETECTED = '40P01'
const DEADLOCK_ATTEMPTS = 5

/** Of transactions that wait for each other's rows PostgreSQL ends one: that one is begun again, a few times. */
export async function againWhenDeadlocked<Result>(transaction: () => Promise<Result>): Promise<Result> {
  for (let attempt = 1; ; attempt++) {
    try {
      return await transaction()
    } catch (error) {
      if (findSqlState(error) !== DEADLOCK_DETECTED || attempt === DEADLOCK_ATTEMPTS) throw error
    }
  }
}

/** Works inside one tenant, by the policies and grants that bind the service. */
export function asTenant<Result>(
  connection: Connection,
  tenantId: string,
  work: () => Promise<Result>,
): Promise<Result> {
  return inTransaction(connection, async () => {
    await enterTenant(connection, tenantId)
    return work()
  })
}

/** Enters a tenant until the transaction ends; of use inside one only. */
export async function enterTenant(connection: Connection, tenantId: string): Promise<void> {
  await setRole(connection, 'rekko_app')
  await connection.query("select set_config('app.current_tenant_id', $1, true)", [tenantId])
}

async function setRole(connection: Connection, role: 'rekko_owner' | 'rekko_app'): Promise<void> {
  try {
    await connection.execute(`set local role ${role}`)
  } catch (error) {
    const code = findSqlState(error)
    // insufficient_privilege; undefined_object: the database was never bootstrapped
    if (code !== '42501' && code !== '22023' && code !== '42704') throw error
    throw new CommandError(
      `This login may not act as ${role}. Run scripts/db.sh up as the administrator who made the roles.`,
      EXIT.refused,
    )
  }
}

async function inTransaction<Result>(connection: Connection, work: () => Promise<Result>): Promise<Result> {
  await connection.execute(`begin; ${TIMEOUTS}`)
  try {
    const result = await work()
    await connection.execute('commit')
    return result
  } catch (error) {
    // on a connection that is lost there is nothing to roll back, and the first error says more
    await connection.execute('rollback').catch(() => {})
    throw error
  }
}

/** The five characters by which PostgreSQL names an error; null for one that is not PostgreSQL's. */
export function findSqlState(error: unknown): string | null {
  if (!(error instanceof Error) || !('code' in error) || typeof error.code !== 'string') return null
  return /^[0-9A-Z]{5}$/.test(error.code) ? error.code : null
}
