// Pages of lists: `limit` and `cursor` come in; `data`, `has_more` and `next_cursor` go out.
import { z } from '@hono/zod-openapi'
import type { Context } from 'hono'
import { pepper } from '../auth/authenticate.ts'
import { findPosition, toCursor } from '../cursor.ts'
import type { AppContext } from '../env.ts'
import { Problem } from '../problem.ts'

const MAX_PAGE = 100
const DEFAULT_PAGE = 50

/** Query parameters of every list. */
export const Page = {
  limit: z
    .string()
    .regex(/^[0-9]{1,3}$/, 'Must be a whole number.')
    .transform(Number)
    .refine((limit) => limit >= 1 && limit <= MAX_PAGE, `Must be from 1 to ${MAX_PAGE}.`)
    .optional()
    .transform((limit) => limit ?? DEFAULT_PAGE)
    .openapi({ type: 'integer', minimum: 1, maximum: MAX_PAGE, default: DEFAULT_PAGE }),
  cursor: z.string().min(1).max(2000).optional().openapi({ description: 'next_cursor of the page before.' }),
}

export function pageOf<Item extends z.ZodType>(item: Item) {
  return z.object({
    data: z.array(item),
    has_more: z.boolean(),
    next_cursor: z.string().nullable(),
  })
}

/**
 * Reads one page of a list.
 *
 * @param query what `Page` has validated
 * @param list names the list and its filter; a cursor is good for the same list of the same tenant (or the operator)
 * @param read answers rows behind a position (null: from the start), at most as many as it is asked for
 * @param toPosition where a page that ends with this row is continued
 */
export async function readPage<Row>(
  c: Context<AppContext>,
  query: { limit: number; cursor?: string | undefined },
  list: readonly unknown[],
  read: (after: string[] | null, limit: number) => Promise<Row[]>,
  toPosition: (row: Row) => string[],
): Promise<{ rows: Row[]; has_more: boolean; next_cursor: string | null }> {
  const key = await pepper(c.env)
  // unset where the operator asks
  const db: AppContext['Variables']['db'] | undefined = c.var.db
  const boundTo = [db?.tenant.id ?? 'operator', ...list]
  const after = query.cursor === undefined ? null : await findPosition(key, boundTo, query.cursor)
  if (query.cursor !== undefined && !after) {
    throw new Problem('INVALID_REQUEST', 'Start again without a cursor.', {
      errors: [{ parameter: 'cursor', detail: 'Was not made for this list with these filters.' }],
    })
  }
  // one row more than the page tells whether there is another page
  const found = await read(after, query.limit + 1)
  const rows = found.slice(0, query.limit)
  const last = rows.at(-1)
  const has_more = found.length > query.limit
  return { rows, has_more, next_cursor: has_more && last ? await toCursor(key, boundTo, toPosition(last)) : null }
}

/** Where a list by time and id continues; null from the start. */
export function toPosition(position: string[] | null): { createdAt: string; id: string } | null {
  const [createdAt, id] = position ?? []
  return createdAt && id ? { createdAt, id } : null
}
