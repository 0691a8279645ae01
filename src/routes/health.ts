// /health and /ready: for load balancers and operators; no credential, no tenant.
import { createRoute, OpenAPIHono, z } from '@hono/zod-openapi'
import { pepper } from '../auth/authenticate.ts'
import { findReadiness } from '../db/readiness.ts'
import { masterKeys } from '../db/template-keys.ts'
import type { AppContext } from '../env.ts'
import { Problem } from '../problem.ts'
import { json, problems } from './fields.ts'

const tags = ['Health']

export const health = new OpenAPIHono<AppContext>()
  .openapi(
    createRoute({
      operationId: 'health',
      summary: 'The Worker runs',
      tags,
      security: [],
      method: 'get',
      path: '/health',
      responses: { 200: json(z.object({ status: z.literal('ok') }), 'Runs'), ...problems('MALFORMED_URL', 'INTERNAL') },
    }),
    (c) => c.json({ status: 'ok' as const }, 200),
  )
  .openapi(
    createRoute({
      operationId: 'ready',
      summary: 'The database answers, isolates tenants, and has the schema this version needs',
      tags,
      security: [],
      method: 'get',
      path: '/ready',
      responses: {
        200: json(z.object({ status: z.literal('ready') }), 'Ready'),
        ...problems('MALFORMED_URL', 'INTERNAL', 'DATABASE_UNAVAILABLE', 'NOT_CONFIGURED', 'NOT_READY'),
      },
    }),
    async (c) => {
      // without it every credential would be answered 503; without these, every face
      await pepper(c.env)
      await masterKeys(c.env)
      const readiness = await findReadiness(c.env, c.var.trace)
      const failed = Object.entries(readiness).flatMap(([check, passed]) => (passed ? [] : [check]))
      if (failed.length > 0) throw new Problem('NOT_READY', `Failed: ${failed.join(', ')}.`)
      return c.json({ status: 'ready' as const }, 200)
    },
  )
