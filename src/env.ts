// What the Worker is given (bindings) and what a request carries (context variables).
import type { TenantDatabase } from './db/tenant.ts'

/** Secrets and variables; README.md, "Configuration", says what each is for. */
export interface Env {
  ENVIRONMENT?: string
  /** Login of role rekko_app: every tenant request. */
  DATABASE_URL: string
  /** Login of role rekko_jobs: the scheduled handler only. */
  JOBS_DATABASE_URL: string
  /** 32 or more random characters; API keys are stored as HMAC-SHA-256 under it. */
  API_KEY_PEPPER: string
  /** Where Neon's driver sends its requests, when that is not Neon: the local endpoint. */
  NEON_FETCH_ENDPOINT?: string
}

export interface AppContext {
  Bindings: Env
  Variables: {
    /** Names this request in the answer, the log and the audit. */
    requestId: string
    /** Milliseconds since the epoch when the request came in. */
    startedAt: number
    /** The only way to a tenant's data; set by `requires(scope)`. */
    db: TenantDatabase
  }
}
