// Scheduled work across tenants, as rekko_jobs: a login without any right on a table.
import type { Env } from '../env.ts'
import { connect, transact } from './neon.ts'

/** Small enough for a transaction of well under a second; enough rounds for 100,000 events a run. */
const BATCH_SIZE = 5_000
const MAX_ROUNDS = 20

/**
 * Turns usage events into usage records, and merges the changes of face counts. May run twice at the
 * same time, and stop anywhere: each round is one transaction that consumes what it counts.
 */
export async function rollUp(env: Env): Promise<void> {
  const sql = connect(env, env.JOBS_DATABASE_URL)
  for (let round = 0; round < MAX_ROUNDS; round++) {
    const [usage, counts] = await transact(
      sql,
      [sql`select roll_up_usage(${BATCH_SIZE}) as rows`, sql`select merge_face_counts(${BATCH_SIZE}) as rows`],
      false,
    )
    if (usage?.[0]?.['rows'] === 0 && counts?.[0]?.['rows'] === 0) return
  }
}
