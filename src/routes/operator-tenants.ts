// /v1/operator/tenants: the operator creates, changes, suspends and erases tenants, and lets them in. Nothing here
// answers a face, an embedding, an external_id or a decision.
import { createRoute, OpenAPIHono, z } from '@hono/zod-openapi'
import { ENVIRONMENTS, generateApiKey, hashApiKey, toPrefix } from '../auth/api-key.ts'
import { forgetTenant, pepper } from '../auth/authenticate.ts'
import { requiresOperator } from '../auth/operator.ts'
import { wrapNewTemplateKey } from '../db/template-keys.ts'
import {
  changeTenant,
  createTenant,
  createTenantKey,
  eraseTenant,
  findTenant,
  listTenants,
  setTenantActive,
  type TenantRecord,
} from '../db/tenants.ts'
import type { AppContext, Env } from '../env.ts'
import { jsonBody } from '../json-body.ts'
import { modelsOf } from '../models.ts'
import { Problem } from '../problem.ts'
import { toSettings } from '../settings.ts'
import { ApiKeyShown, NewKey } from './api-keys.ts'
import { BODY_PROBLEMS, body, COMMON_PROBLEMS, json, Name, problems, Timestamp, Uuid } from './fields.ts'
import { Page, pageOf, readPage, toPosition } from './page.ts'
import { OperatedSettingsChange, requireFloor, SettingsAnswer, toSettingsAnswer } from './settings.ts'

const NewTenant = z
  .strictObject({ name: Name, environment: z.enum(ENVIRONMENTS), settings: OperatedSettingsChange.optional() })
  .openapi('NewTenant')

const TenantChange = z
  .strictObject({ name: Name.optional(), settings: OperatedSettingsChange.optional() })
  .refine((change) => Object.keys(change).length > 0, 'Must name what to change.')
  .openapi('TenantChange', { minProperties: 1 })

const TenantAnswer = z
  .object({
    tenant_id: Uuid,
    name: z.string(),
    environment: z.enum(ENVIRONMENTS),
    status: z.enum(['active', 'suspended', 'erasing']),
    settings: SettingsAnswer,
    model: z.string().openapi({ description: 'The recognizer whose embeddings are compared.' }),
    created_at: Timestamp,
    updated_at: Timestamp,
  })
  .openapi('OperatedTenant')

/** The rest of an API key's answer is what happens to it later. */
const NewKeyShown = ApiKeyShown.omit({ created_at: true, revoked_at: true, last_used_at: true }).openapi(
  'NewApiKeyShown',
)

const tags = ['Operator']
const security = [{ operator: [] }]
const ByTenantId = { params: z.object({ tenant_id: Uuid }) }
const reads = requiresOperator('operator:read')
const writes = requiresOperator('operator:write')

export const operatorTenants = new OpenAPIHono<AppContext>()
  .openapi(
    createRoute({
      operationId: 'createTenant',
      summary: 'Create a tenant',
      tags,
      security,
      method: 'post',
      path: '/',
      middleware: [writes, jsonBody] as const,
      request: body(NewTenant),
      responses: { 201: json(TenantAnswer, 'Created'), ...problems(...COMMON_PROBLEMS, ...BODY_PROBLEMS) },
    }),
    async (c) => {
      const { name, environment, settings = null } = c.req.valid('json')
      requireModel(c.env, settings, null)
      const id = crypto.randomUUID()
      const wrappedKey = await wrapNewTemplateKey(c.env, id)

      const tenant = await createTenant(c.var.operator, id, wrappedKey, name, environment, settings)
      return c.json(toTenantAnswer(c.env, tenant), 201)
    },
  )
  .openapi(
    createRoute({
      operationId: 'listTenants',
      summary: 'List tenants, newest first',
      tags,
      security,
      method: 'get',
      path: '/',
      middleware: [reads] as const,
      request: { query: z.strictObject(Page) },
      responses: { 200: json(pageOf(TenantAnswer), 'A page'), ...problems(...COMMON_PROBLEMS) },
    }),
    async (c) => {
      const { rows, ...page } = await readPage(
        c,
        c.req.valid('query'),
        ['tenants'],
        (after, limit) => listTenants(c.var.operator, toPosition(after), limit),
        ({ created_at, id }) => [created_at.toISOString(), id],
      )
      return c.json({ data: rows.map((row) => toTenantAnswer(c.env, row)), ...page }, 200)
    },
  )
  .openapi(
    createRoute({
      operationId: 'findTenant',
      summary: 'Read a tenant',
      tags,
      security,
      method: 'get',
      path: '/{tenant_id}',
      middleware: [reads] as const,
      request: ByTenantId,
      responses: { 200: json(TenantAnswer, 'There'), ...problems(...COMMON_PROBLEMS, 'TENANT_NOT_FOUND') },
    }),
    async (c) => {
      const tenant = await findTenant(c.var.operator, c.req.valid('param').tenant_id)
      if (!tenant) throw tenantNotFound()
      return c.json(toTenantAnswer(c.env, tenant), 200)
    },
  )
  .openapi(
    createRoute({
      operationId: 'changeTenant',
      summary: 'Change the name or the settings of a tenant',
      tags,
      security,
      method: 'patch',
      path: '/{tenant_id}',
      middleware: [writes, jsonBody] as const,
      request: { ...ByTenantId, ...body(TenantChange) },
      responses: {
        200: json(TenantAnswer, 'Changed: settings reach every request within a minute'),
        ...problems(...COMMON_PROBLEMS, ...BODY_PROBLEMS, 'TENANT_NOT_FOUND'),
      },
    }),
    async (c) => {
      const { name = null, settings = null } = c.req.valid('json')
      const { tenant_id } = c.req.valid('param')
      if (settings) requireModel(c.env, settings, await findTenant(c.var.operator, tenant_id))
      const tenant = await changeTenant(c.var.operator, tenant_id, name, settings)
      if (!tenant) throw tenantNotFound()
      forgetTenant(tenant.id)
      return c.json(toTenantAnswer(c.env, tenant), 200)
    },
  )
  .openapi(
    createRoute({
      operationId: 'suspendTenant',
      summary: 'Refuse a tenant from the next request on',
      tags,
      security,
      method: 'post',
      path: '/{tenant_id}/suspend',
      middleware: [writes] as const,
      request: ByTenantId,
      responses: { 200: json(TenantAnswer, 'Suspended'), ...problems(...COMMON_PROBLEMS, 'TENANT_NOT_FOUND') },
    }),
    async (c) => {
      const tenant = await setTenantActive(c.var.operator, c.req.valid('param').tenant_id, false)
      if (!tenant) throw tenantNotFound()
      return c.json(toTenantAnswer(c.env, tenant), 200)
    },
  )
  .openapi(
    createRoute({
      operationId: 'resumeTenant',
      summary: 'Let a suspended tenant in again',
      tags,
      security,
      method: 'post',
      path: '/{tenant_id}/resume',
      middleware: [writes] as const,
      request: ByTenantId,
      responses: {
        200: json(TenantAnswer, 'Resumed: a credential that was refused meanwhile works again within a minute'),
        ...problems(...COMMON_PROBLEMS, 'TENANT_NOT_FOUND', 'TENANT_BEING_ERASED'),
      },
    }),
    async (c) => {
      const tenant = await setTenantActive(c.var.operator, c.req.valid('param').tenant_id, true)
      if (!tenant) throw tenantNotFound()
      if (tenant.erasure_requested_at) throw tenantBeingErased()
      return c.json(toTenantAnswer(c.env, tenant), 200)
    },
  )
  .openapi(
    createRoute({
      operationId: 'createTenantKey',
      summary: 'Make an API key of a tenant, which is shown this once',
      description:
        'So that a tenant can be let in, with whatever scopes and however many keys it has. It sees the key in its list.',
      tags,
      security,
      method: 'post',
      path: '/{tenant_id}/api-keys',
      middleware: [writes, jsonBody] as const,
      request: { ...ByTenantId, ...body(NewKey) },
      responses: {
        201: json(NewKeyShown, 'Created'),
        ...problems(...COMMON_PROBLEMS, ...BODY_PROBLEMS, 'TENANT_NOT_FOUND', 'TENANT_BEING_ERASED'),
      },
    }),
    async (c) => {
      const { tenant_id } = c.req.valid('param')
      const { name, scopes, expires_at } = c.req.valid('json')
      const tenant = await findTenant(c.var.operator, tenant_id)
      if (!tenant) throw tenantNotFound()
      if (tenant.erasure_requested_at) throw tenantBeingErased()

      const api_key = generateApiKey(tenant.environment)
      const prefix = toPrefix(api_key)
      const expiresAt = expires_at ? new Date(expires_at).toISOString() : null
      const hash = await hashApiKey(api_key, await pepper(c.env))
      const api_key_id = await createTenantKey(c.var.operator, tenant_id, { name, hash, prefix, scopes, expiresAt })
      if (!api_key_id) throw tenantNotFound()
      return c.json({ api_key_id, api_key, name, prefix, scopes, expires_at: expiresAt }, 201)
    },
  )
  .openapi(
    createRoute({
      operationId: 'eraseTenant',
      summary: 'Shut a tenant out and erase everything it has',
      tags,
      security,
      method: 'delete',
      path: '/{tenant_id}',
      middleware: [writes] as const,
      request: ByTenantId,
      responses: {
        202: json(
          z.object({ status: z.literal('erasing') }),
          'Shut out; the rest is erased by the schedule, and by asking again',
        ),
        204: { description: 'Erased: nothing is left' },
        ...problems(...COMMON_PROBLEMS, 'TENANT_NOT_FOUND'),
      },
    }),
    async (c) => {
      const status = await eraseTenant(c.var.operator, c.req.valid('param').tenant_id)
      if (!status) throw tenantNotFound()
      return status === 'erased' ? c.body(null, 204) : c.json({ status }, 202)
    },
  )

function tenantNotFound(): Problem {
  return new Problem('TENANT_NOT_FOUND', 'Check the tenant_id: it may have been erased.')
}

function tenantBeingErased(): Problem {
  return new Problem('TENANT_BEING_ERASED', 'It cannot be taken back: create another tenant.')
}

/**
 * @param tenant as it is; null for a new one
 * @throws Problem INVALID_REQUEST for a model that this deployment does not have, or a threshold below the model's floor
 */
function requireModel(
  env: Env,
  settings: z.infer<typeof OperatedSettingsChange> | null,
  tenant: TenantRecord | null,
): void {
  if (!settings) return
  const models = modelsOf(env)
  const { model = undefined } = settings
  if (typeof model === 'string' && !models.some(({ id }) => id === model)) {
    throw new Problem('INVALID_REQUEST', 'Correct the fields named in errors.', {
      errors: [{ pointer: '/settings/model', detail: `Must be one of ${models.map(({ id }) => id).join(', ')}.` }],
    })
  }
  const stored = typeof tenant?.settings === 'object' ? tenant.settings : {}
  requireFloor(settings, toSettings({ ...stored, ...(model !== undefined && { model }) }, models).model)
}

function toTenantAnswer(env: Env, tenant: TenantRecord): z.infer<typeof TenantAnswer> {
  const settings = toSettings(tenant.settings, modelsOf(env))
  return {
    tenant_id: tenant.id,
    name: tenant.name,
    environment: tenant.environment,
    status: tenant.erasure_requested_at ? 'erasing' : tenant.is_active ? 'active' : 'suspended',
    settings: toSettingsAnswer(settings),
    model: settings.model.id,
    created_at: tenant.created_at.toISOString(),
    updated_at: tenant.updated_at.toISOString(),
  }
}
