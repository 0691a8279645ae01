// The settings of a tenant as requests and answers spell them: the tenant changes its own, the operator anyone's.
import { z } from '@hono/zod-openapi'
import { LEAST_FLOOR } from '../face/models.ts'
import { ARCFACE_512, type Model } from '../face/similarity.ts'
import { Problem } from '../problem.ts'
import { FAILED_VERIFICATIONS, isOrigin, MAX_ALLOWED_ORIGINS, MAX_RESULTS, type Settings } from '../settings.ts'
import { ModelField } from './fields.ts'

const ThresholdChange = z
  .number()
  .max(1)
  .nullable()
  .optional()
  .openapi({ minimum: LEAST_FLOOR, description: "At least the floor of the tenant's model." })

const DUPLICATES = ['allow', 'reject'] as const

const Origin = z
  .string()
  .refine(isOrigin, 'Must be the origin of a web page, like https://gate.example: scheme and host, without a path.')
  .openapi({ maxLength: 255, example: 'https://gate.example' })

const fields = z.strictObject({
  verification_threshold: ThresholdChange,
  identification_threshold: ThresholdChange,
  max_results: z.int().min(1).max(MAX_RESULTS).nullable().optional(),
  failed_verifications_per_hour: z.int().min(1).max(FAILED_VERIFICATIONS.perHour.max).nullable().optional(),
  failed_verifications_per_day: z.int().min(1).max(FAILED_VERIFICATIONS.perDay.max).nullable().optional(),
  allowed_origins: z.array(Origin).max(MAX_ALLOWED_ORIGINS).nullable().optional(),
  minimum_quality: z.number().min(0).max(1).nullable().optional(),
  duplicates: z.enum(DUPLICATES).nullable().optional(),
  require_liveness: z.boolean().nullable().optional(),
  liveness_threshold: z.number().min(0).max(1).nullable().optional(),
})

const isNotEmpty = (change: object) => Object.keys(change).length > 0
const EMPTY = 'Must name at least one setting.'
const documented = {
  minProperties: 1,
  description: 'What is not named stays as it is; null goes back to the default.',
}

/** What a request may change; it is stored as it is sent. Null goes back to the default, what is not named stays. */
export const SettingsChange = fields.refine(isNotEmpty, EMPTY).openapi('SettingsChange', documented)

/** The operator also says which recognizer a tenant has: the faces of another one have to be enrolled again. */
export const OperatedSettingsChange = fields
  .extend({ model: ModelField.nullable().optional() })
  .refine(isNotEmpty, EMPTY)
  .openapi('OperatedSettingsChange', documented)

/**
 * @param model of the tenant
 * @throws Problem INVALID_REQUEST for a threshold below its floor
 */
export function requireFloor(
  { verification_threshold, identification_threshold }: z.infer<typeof SettingsChange>,
  { id, floor }: Model,
): void {
  const detail = `Must be at least ${floor}, the floor of the model ${id}.`
  const errors = Object.entries({ verification_threshold, identification_threshold }).flatMap(([name, threshold]) =>
    typeof threshold === 'number' && threshold < floor ? [{ pointer: `/settings/${name}`, detail }] : [],
  )
  if (errors.length > 0) throw new Problem('INVALID_REQUEST', 'Correct the fields named in errors.', { errors })
}

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
    minimum_quality: z.number().openapi({ description: 'Quality below which a picture is not enrolled, 0 to 1.' }),
    duplicates: z.enum(DUPLICATES).openapi({
      description: 'Whether a face that is enrolled under another external_id may be enrolled.',
    }),
    require_liveness: z.boolean().openapi({
      description: 'Whether a decision, and enrolling, takes a picture that shows a live person.',
    }),
    liveness_threshold: z.number().nullable().openapi({
      description: "Score from which a picture does; null for the recognizer's own judgment.",
    }),
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
    minimum_quality: settings.minimumQuality,
    duplicates: settings.allowsDuplicates ? 'allow' : 'reject',
    require_liveness: settings.requiresLiveness,
    liveness_threshold: settings.livenessThreshold,
  }
}
