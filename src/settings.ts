// A tenant's own settings, as the columns `settings` hold them. No I/O.
import { BUILT_IN_MODELS, type Models } from './face/models.ts'
import type { Model } from './face/similarity.ts'

export interface Settings {
  model: Model
  /** Confidence from which a 1:1 comparison counts as the same person. */
  verificationThreshold: number
  /** The same for 1:N. */
  identificationThreshold: number
  /** Matches a search answers when the request does not say. */
  maxResults: number
  /** Failed verifications of one person, after which further ones are refused until the hour or the day is over. */
  failedVerificationsPerHour: number
  failedVerificationsPerDay: number
  /** Web origins whose pages may read answers. */
  allowedOrigins: readonly string[]
  /** Quality below which a picture is not enrolled, 0 to 1. */
  minimumQuality: number
  /** Whether a face that is enrolled under another external_id may be enrolled. */
  allowsDuplicates: boolean
  /** Whether a decision needs a picture that shows a live person. */
  requiresLiveness: boolean
  /** The score from which a picture does; null for the recognizer's own judgment. */
  livenessThreshold: number | null
}

export const MAX_RESULTS = 20
const DEFAULT_MAX_RESULTS = 5
/**
 * Somebody who stands in the wrong light tries a few times. Somebody who rebuilds a template from scores
 * reaches a cosine of about the root of (tries / 512): 40 a day are 0.28, 500 are 0.99 (docs/thresholds.md).
 */
export const FAILED_VERIFICATIONS = {
  perHour: { default: 10, max: 100 },
  perDay: { default: 40, max: 500 },
} as const
export const MAX_ALLOWED_ORIGINS = 10
/** Below it there is a reason, and only there: docs/recognizer.md, "Quality". */
export const DEFAULT_MINIMUM_QUALITY = 0.5

/**
 * Reads what is stored. A model that is not configured counts as not named; a threshold below the model's floor counts as the floor, and anything that is
 * not a usable number counts as not set: a damaged row may make the gate stricter, never more open.
 */
export function toSettings(stored: unknown, models: Models = BUILT_IN_MODELS): Settings {
  const record = typeof stored === 'object' && stored !== null ? (stored as Record<string, unknown>) : {}
  const model = models.find(({ id }) => id === record['model']) ?? models[0]
  const threshold = (name: string, otherwise: number) => {
    const value = record[name]
    return isNumberUpTo(value, 1) ? Math.max(value, model.floor) : otherwise
  }
  const wholeNumber = (name: string, max: number, otherwise: number) => {
    const value = record[name]
    return Number.isInteger(value) && isNumberUpTo(value, max) ? Math.max(value, 1) : otherwise
  }
  const origins = record['allowed_origins']
  return {
    model,
    verificationThreshold: threshold('verification_threshold', model.verification),
    identificationThreshold: threshold('identification_threshold', model.identification),
    maxResults: wholeNumber('max_results', MAX_RESULTS, DEFAULT_MAX_RESULTS),
    failedVerificationsPerHour: wholeNumber(
      'failed_verifications_per_hour',
      FAILED_VERIFICATIONS.perHour.max,
      FAILED_VERIFICATIONS.perHour.default,
    ),
    failedVerificationsPerDay: wholeNumber(
      'failed_verifications_per_day',
      FAILED_VERIFICATIONS.perDay.max,
      FAILED_VERIFICATIONS.perDay.default,
    ),
    minimumQuality: isNumberUpTo(record['minimum_quality'], 1) ? record['minimum_quality'] : DEFAULT_MINIMUM_QUALITY,
    allowsDuplicates: record['duplicates'] !== 'reject',
    requiresLiveness: record['require_liveness'] === true,
    livenessThreshold: isNumberUpTo(record['liveness_threshold'], 1) ? record['liveness_threshold'] : null,
    allowedOrigins: Array.isArray(origins) ? origins.filter(isOrigin).slice(0, MAX_ALLOWED_ORIGINS) : [],
  }
}

/** The origin of a web page as a browser sends it (RFC 6454): https, no path; http on this machine only. */
export function isOrigin(value: unknown): value is string {
  if (typeof value !== 'string' || value.length > 255 || !URL.canParse(value)) return false
  const { origin, protocol, hostname } = new URL(value)
  // a URL may have it in its host, and whoever writes it means a pattern, which this is not
  if (hostname.includes('*')) return false
  return origin === value && (protocol === 'https:' || (protocol === 'http:' && hostname === 'localhost'))
}

function isNumberUpTo(value: unknown, limit: number): value is number {
  return typeof value === 'number' && value >= 0 && value <= limit
}
