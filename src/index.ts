// The Worker's entry: requests, and the work that a schedule does.
import { app } from './app.ts'
import { runJobs } from './db/jobs.ts'
import type { Env } from './env.ts'

export default {
  fetch: app.fetch,
  async scheduled(_controller, env): Promise<void> {
    await runJobs(env)
  },
} satisfies ExportedHandler<Env>
