// What development and tests share. Nothing here is good for a database that others can reach.
import type { LoginRole } from './bootstrap.ts'

export const DEVELOPMENT_PASSWORDS: Record<LoginRole, string> = {
  rekko_app: 'rekko_app',
  rekko_operator: 'rekko_operator',
  rekko_jobs: 'rekko_jobs',
}
