// The bindings of the test Worker: the Worker's own, and what the tests need to know of the database.
import type { Env as WorkerEnv } from '../../src/env.ts'
import type { TestDatabase } from '../global-setup.ts'

declare global {
  namespace Cloudflare {
    interface Env extends WorkerEnv {
      TEST: TestDatabase
    }
  }
}
