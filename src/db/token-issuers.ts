// Who signs tokens of tenants, as the operator configures it.
import type { Scope } from '../auth/api-key.ts'
import type { IssuerConfiguration } from '../auth/issuer.ts'
import { DatabaseError } from './neon.ts'
import type { OperatorDatabase } from './operator.ts'
import type { Position } from './tenants.ts'

export type TokenIssuer = IssuerConfiguration & {
  id: string
  /** Never null: tokens of an issuer without it would speak for nobody. */
  tenant_claim: string
  scopes: Scope[]
  is_active: boolean
  tenant_ids: string[]
  created_at: Date
  updated_at: Date
}

export interface IssuerChange {
  /** With a tenant claim. */
  configuration: IssuerConfiguration
  /** What its tokens may do at most. */
  scopes: Scope[]
  /** Whom it may speak for. */
  tenantIds: string[]
  isActive: boolean
}

/** Why an issuer was not stored: a tenant that does not exist, or the name of another issuer. */
export type Conflict = 'unknown tenant' | 'issuer exists'

const CONFLICTS: Record<string, Conflict> = { '23503': 'unknown tenant', '23505': 'issuer exists' }

/** @param after where the page before ended; null from the newest on */
export function listTokenIssuers(db: OperatorDatabase, after: Position | null, limit: number): Promise<TokenIssuer[]> {
  return db.run<TokenIssuer>(db.sql`
    select i.* from list_token_issuers(null, ${after?.createdAt ?? null}::timestamptz, ${after?.id ?? null}::uuid, ${limit}) i`)
}

/** @returns null when there is no such issuer */
export async function findTokenIssuer(db: OperatorDatabase, id: string): Promise<TokenIssuer | null> {
  const [issuer] = await db.run<TokenIssuer>(db.sql`select i.* from list_token_issuers(${id}::uuid, null, null, 1) i`)
  return issuer ?? null
}

export async function createTokenIssuer(db: OperatorDatabase, change: IssuerChange): Promise<TokenIssuer | Conflict> {
  const { configuration, scopes, tenantIds, isActive } = change
  const issuer = await store(
    db,
    db.sql`
    select i.* from list_token_issuers(
      put_token_issuer(
        ${crypto.randomUUID()}::uuid, ${JSON.stringify(configuration)}::jsonb, ${scopes}::text[], ${tenantIds}::uuid[], ${isActive},
        false
      ), null, null, 1
    ) i`,
  )
  if (!issuer) throw new RangeError('an issuer that was created is not there')
  return issuer
}

/** @returns null when there is no such issuer */
export function replaceTokenIssuer(
  db: OperatorDatabase,
  id: string,
  { configuration, scopes, tenantIds, isActive }: IssuerChange,
): Promise<TokenIssuer | Conflict | null> {
  return store(
    db,
    db.sql`
    select i.* from
      put_token_issuer(
        ${id}::uuid, ${JSON.stringify(configuration)}::jsonb, ${scopes}::text[], ${tenantIds}::uuid[], ${isActive}, true
      ) as replaced,
      list_token_issuers(replaced, null, null, 1) i
    -- a list of one that is null would be a list of all
    where replaced is not null`,
  )
}

async function store(
  db: OperatorDatabase,
  statement: Parameters<OperatorDatabase['run']>[0],
): Promise<TokenIssuer | Conflict | null> {
  try {
    const [issuer] = await db.run<TokenIssuer>(statement)
    return issuer ?? null
  } catch (error) {
    const conflict = error instanceof DatabaseError ? CONFLICTS[error.sqlstate ?? ''] : undefined
    if (conflict) return conflict
    throw error
  }
}

/** @returns whether there was such an issuer */
export async function deleteTokenIssuer(db: OperatorDatabase, id: string): Promise<boolean> {
  const [row] = await db.run<{ deleted: boolean }>(db.sql`select delete_token_issuer(${id}::uuid) as deleted`)
  return row?.deleted === true
}
