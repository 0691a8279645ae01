// A tenant's own settings, as the columns `settings` hold them. No I/O.
import { ARCFACE_512, type Model } from './face/similarity.ts'

export interface Settings {
  model: Model
  /** Confidence from which a 1:1 comparison counts as the same person. */
  verificationThreshold: number
  /** The same for 1:N. */
  identificationThreshold: number
  /** Matches a search answers when the request does not say. */
  maxResults: number
}

export const MAX_RESULTS = 20
const DEFAULT_MAX_RESULTS = 5

/**
 * Reads what is stored. A threshold below the model's floor counts as the floor, and anything that is
 * not a usable number counts as not set: a damaged row may make the gate stricter, never more open.
 */
export function toSettings(stored: unknown): Settings {
  const record = typeof stored === 'object' && stored !== null ? (stored as Record<string, unknown>) : {}
  const model = ARCFACE_512
  const threshold = (name: string, otherwise: number) => {
    const value = record[name]
    return isNumberUpTo(value, 1) ? Math.max(value, model.floor) : otherwise
  }
  const maxResults = record['max_results']
  return {
    model,
    verificationThreshold: threshold('verification_threshold', model.verification),
    identificationThreshold: threshold('identification_threshold', model.identification),
    maxResults:
      Number.isInteger(maxResults) && isNumberUpTo(maxResults, MAX_RESULTS)
        ? Math.max(maxResults, 1)
        : DEFAULT_MAX_RESULTS,
  }
}

function isNumberUpTo(value: unknown, limit: number): value is number {
  return typeof value === 'number' && value >= 0 && value <= limit
}
