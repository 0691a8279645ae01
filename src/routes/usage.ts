// /v1/usage: what a tenant is billed for.
import { createRoute, OpenAPIHono, z } from '@hono/zod-openapi'
import { requires } from '../auth/authenticate.ts'
import { findUsage } from '../db/usage.ts'
import type { AppContext } from '../env.ts'
import { COMMON_PROBLEMS, json, problems } from './fields.ts'

const Period = z
  .string()
  .regex(/^20[0-9]{2}-(0[1-9]|1[0-2])$/, 'Must be a month, YYYY-MM.')
  .openapi({ description: 'A month in UTC; the present one when it is not given.', example: '2026-11' })

const UsageOfPeriod = z
  .object({
    period: z.string(),
    registrations: z.int(),
    verifications: z.int(),
    identifications: z.int(),
    deletions: z.int(),
    analyses: z.int().openapi({ description: 'Comparisons, detections and checks of liveness that keep nothing.' }),
  })
  .openapi('Usage')

export const usage = new OpenAPIHono<AppContext>().openapi(
  createRoute({
    operationId: 'findUsage',
    summary: 'Count the billable acts of a month, up to this moment',
    tags: ['Usage'],
    method: 'get',
    path: '/',
    middleware: [requires('usage:read')] as const,
    request: { query: z.strictObject({ period: Period.optional() }) },
    responses: { 200: json(UsageOfPeriod, 'Counted'), ...problems(...COMMON_PROBLEMS) },
  }),
  async (c) => {
    const period = c.req.valid('query').period ?? new Date().toISOString().slice(0, 7)
    return c.json({ period, ...(await findUsage(c.var.db, period)) }, 200)
  },
)
