// Scheduled work across tenants, as rekko_jobs: a login without any right on a table.
import type { Env } from '../env.ts'
import { startTrace } from '../trace.ts'
import { connect, type Statement } from './neon.ts'

/** Small enough for a transaction of well under a second; enough rounds for 100,000 events a run. */
const BATCH_SIZE = 5_000
const MAX_ROUNDS = 20
/** As long as a statement of rekko_jobs may take. */
const TIMEOUT_MS = 30_000

/**
 * Turns usage events into usage records, merges the changes of face counts, forgets requests that nobody repeats any more,
 * and goes on with the erasure of tenants. May run twice at the same time, and stop anywhere: each transaction consumes
 * what it counts.
 */
export async function runJobs(env: Env): Promise<void> {
  const { sql, transact } = connect(env, env.JOBS_DATABASE_URL, startTrace('scheduled'))
  const run = (...statements: Statement[]) => transact(statements, { readOnly: false, timeoutMs: TIMEOUT_MS })
  for (let round = 0; round < MAX_ROUNDS; round++) {
    const counted = await run(
      sql`select roll_up_usage(${BATCH_SIZE}) as rows`,
      sql`select merge_face_counts(${BATCH_SIZE}) as rows`,
    )
    // transactions of their own: what cannot be purged takes no count back; and with the locks of the others in hand an
    // erasure could meet one of the operator's that wants them the other way round
    const purged = await run(sql`select purge_idempotent_requests(${BATCH_SIZE}) as rows`)
    const erased = await run(sql`select erase_requested_tenants(${BATCH_SIZE}) as rows`)
    if ([...counted, ...purged, ...erased].every(({ rows: [row] }) => row?.['rows'] === 0)) return
  }
}
