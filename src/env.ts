// What the Worker is given (bindings) and what a request carries (context variables).
import type { OperatorDatabase } from './db/operator.ts'
import type { TenantDatabase } from './db/tenant.ts'
import type { Trace } from './trace.ts'

/** Cloudflare's rate-limiting binding. */
export interface RateLimiter {
  limit(options: { key: string }): Promise<{ success: boolean }>
}

/** Of a Durable Object namespace, what is used of it. */
export interface RecognizerContainers {
  getByName(name: string): { fetch(url: URL, init: RequestInit): Promise<Response> }
}

/** Secrets and variables; README.md, "Configuration", says what each is for. */
export interface Env {
  ENVIRONMENT?: string
  /** Login of role rekko_app: every tenant request. */
  DATABASE_URL: string
  /** Login of role rekko_jobs: the scheduled handler only. */
  JOBS_DATABASE_URL: string
  /** Login of role rekko_operator: /v1/operator only. Without it, those routes answer NOT_CONFIGURED. */
  OPERATOR_DATABASE_URL?: string
  /** Who signs the operator's tokens: JSON, as src/auth/issuer.ts reads it. */
  OPERATOR_ISSUER?: string
  /** 32 or more random characters; API keys are stored as HMAC-SHA-256 under it. */
  API_KEY_PEPPER: string
  /** The keys that wrap every tenant's template key: "1:<base64 of 32 bytes>", several behind commas. */
  TEMPLATE_MASTER_KEYS?: string
  /** The recognizer service, for requests with pictures; without it they are answered NOT_CONFIGURED. */
  RECOGNIZER_URL?: string
  /** Shared with the recognizer: 32 characters or more. */
  RECOGNIZER_SECRET?: string
  /** The recognizer as a container of Cloudflare beside the Worker, instead of RECOGNIZER_URL. */
  RECOGNIZER?: RecognizerContainers
  /** Recognizers beside the built-in one: JSON, as src/face/models.ts reads it. */
  FACE_MODELS?: string
  /** Where Neon's driver sends its requests, when that is not Neon: the local endpoint. */
  NEON_FETCH_ENDPOINT?: string
  // Cloudflare's rate limiters: see src/rate-limit.ts. Without one, its calls are not limited.
  VERIFY_LIMIT?: RateLimiter
  IDENTIFY_LIMIT?: RateLimiter
  WRITE_LIMIT?: RateLimiter
  READ_LIMIT?: RateLimiter
  ADMIN_LIMIT?: RateLimiter
  FAILURE_LIMIT?: RateLimiter
}

export interface AppContext {
  Bindings: Env
  Variables: {
    /** Names this request in the answer, the log and the audit; says when it came, and what the log will say. */
    trace: Trace
    /** The only way to a tenant's data; set by `requires(scope)`. */
    db: TenantDatabase
    /** The operator's door; set by `requiresOperator(scope)`. */
    operator: OperatorDatabase
  }
}
