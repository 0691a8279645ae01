// The settings of a tenant as requests and answers spell them: the tenant changes its own, the operator anyone's.
import { z } from '@hono/zod-openapi'
import { ARCFACE_512 } from '../face/similarity.ts'
import { FAILED_VERIFICATIONS, isOrigin, MAX_ALLOWED_ORIGINS, MAX_RESULTS, type Settings } from '../settings.ts'

const FLOOR_MESSAGE = `Must be at least ${ARCFACE_512.floor}, the floor of the model ${ARCFACE_512.id}.`
const ThresholdChange = z.number().min(ARCFACE_512.floor, FLOOR_MESSAGE).max(1).nullable().optional()

const Origin = z
  .string()
  .refine(isOrigin, 'Must be the origin of a web page, like https://gate.example: scheme and host, without a path.')
  .openapi({ maxLength: 255, example: 'https://gate.example' })

/** What a request may change; it is stored as it is sent. Null goes back to the default, what is not named stays. */
export const SettingsChange = z
  .strictObject({
    verification_threshold: ThresholdChange,
    identification_threshold: ThresholdChange,
    max_results: z.int().min(1).max(MAX_RESULTS).nullable().optional(),
    failed_verifications_per_hour: z.int().min(1).max(FAILED_VERIFICATIONS.perHour.max).nullable().optional(),
    failed_verifications_per_day: z.int().min(1).max(FAILED_VERIFICATIONS.perDay.max).nullable().optional(),
    allowed_origins: z.array(Origin).max(MAX_ALLOWED_ORIGINS).nullable().optional(),
  })
  .refine((change) => Object.keys(change).length > 0, 'Must name at least one setting.')
  .openapi('SettingsChange', {
    minProperties: 1,
    description: 'What is not named stays as it is; null goes back to the default.',
  })

export const SettingsAnswer = z
  .object({
    verification_threshold: z.number().openapi({
      description: 'Confidence from which a 1:1 comparison counts as the same person.',
      example: ARCFACE_512.verification,
    }),
    identification_threshold: z.number().openapi({
      description: 'The same for 1:N.',
      example: ARCFACE_512.identification,
    }),
    max_results: z.int().openapi({ description: 'Matches that a search answers when the request does not say.' }),
    failed_verifications_per_hour: z.int().openapi({
      description: 'Failed verifications of one external_id, after which further ones are refused.',
    }),
    failed_verifications_per_day: z.int(),
    allowed_origins: z.array(z.string()).openapi({ description: 'Web origins whose pages may read answers.' }),
  })
  .openapi('Settings')

/** The values that are in force, whether they were set or are defaults. */
export function toSettingsAnswer(settings: Settings): z.infer<typeof SettingsAnswer> {
  return {
    verification_threshold: settings.verificationThreshold,
    identification_threshold: settings.identificationThreshold,
    max_results: settings.maxResults,
    failed_verifications_per_hour: settings.failedVerificationsPerHour,
    failed_verifications_per_day: settings.failedVerificationsPerDay,
    allowed_origins: [...settings.allowedOrigins],
  }
}
