// /v1/tenant: what a tenant is, and the settings that are its own. Its name and environment are the operator's.
import { createRoute, OpenAPIHono, z } from '@hono/zod-openapi'
import { ENVIRONMENTS } from '../auth/api-key.ts'
import { forgetTenant, requires } from '../auth/authenticate.ts'
import { changeSettings, readTenant, type TenantDetails } from '../db/settings.ts'
import type { Tenant } from '../db/tenant.ts'
import type { AppContext } from '../env.ts'
import { jsonBody } from '../json-body.ts'
import { ACT, ACT_PROBLEMS, BODY_PROBLEMS, body, COMMON_PROBLEMS, json, problems, Timestamp, Uuid } from './fields.ts'
import { requireFloor, SettingsAnswer, SettingsChange, toSettingsAnswer } from './settings.ts'

const TenantChange = z.strictObject({ settings: SettingsChange }).openapi('OwnTenantChange')

const TenantAnswer = z
  .object({
    tenant_id: Uuid,
    name: z.string(),
    environment: z.enum(ENVIRONMENTS),
    settings: SettingsAnswer,
    model: z
      .object({
        id: z.string(),
        floor: z.number().openapi({ description: 'The lowest threshold that a tenant can set.' }),
      })
      .openapi({ description: 'The recognizer whose embeddings are compared.' }),
    created_at: Timestamp,
    updated_at: Timestamp,
  })
  .openapi('OwnTenant')

const tags = ['Administration']

export const tenant = new OpenAPIHono<AppContext>()
  .openapi(
    createRoute({
      operationId: 'findOwnTenant',
      summary: 'Read the tenant and its settings, with defaults where it has set nothing',
      tags,
      method: 'get',
      path: '/',
      middleware: [requires('admin')] as const,
      request: { query: z.strictObject({}) },
      responses: { 200: json(TenantAnswer, 'As it is stored now'), ...problems(...COMMON_PROBLEMS) },
    }),
    async (c) => c.json(toAnswer(c.var.db.tenant, await readTenant(c.var.db)), 200),
  )
  .openapi(
    createRoute({
      operationId: 'changeOwnTenant',
      summary: 'Change settings of the tenant',
      description: 'In force wherever the service runs within a minute.',
      tags,
      ...ACT,
      method: 'patch',
      path: '/',
      middleware: [requires('admin'), jsonBody] as const,
      request: body(TenantChange),
      responses: {
        200: json(TenantAnswer, 'Changed'),
        ...problems(...COMMON_PROBLEMS, ...ACT_PROBLEMS, ...BODY_PROBLEMS),
      },
    }),
    async (c) => {
      const { settings } = c.req.valid('json')
      requireFloor(settings, c.var.db.tenant.settings.model)

      const changed = await changeSettings(c.var.db, settings)
      forgetTenant(c.var.db.tenant.id)
      return c.json(toAnswer(c.var.db.tenant, changed), 200)
    },
  )

function toAnswer({ id, environment }: Tenant, details: TenantDetails): z.infer<typeof TenantAnswer> {
  const { model } = details.settings
  return {
    tenant_id: id,
    name: details.name,
    environment,
    settings: toSettingsAnswer(details.settings),
    model: { id: model.id, floor: model.floor },
    created_at: details.created_at.toISOString(),
    updated_at: details.updated_at.toISOString(),
  }
}
