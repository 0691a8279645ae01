// /v1/operator/issuers: who signs tokens of tenants, for which of them, and what those tokens may do.
import { createRoute, OpenAPIHono, z } from '@hono/zod-openapi'
import type { Context } from 'hono'
import { SCOPES } from '../auth/api-key.ts'
import { isDevelopment } from '../auth/authenticate.ts'
import {
  ISSUER_DEFAULTS,
  isIssuerFault,
  TOKEN_ALGORITHMS,
  TOKEN_TYPES,
  toConfiguration,
  toIssuer,
} from '../auth/issuer.ts'
import { findOperatorIssuer, requiresOperator } from '../auth/operator.ts'
import {
  type Conflict,
  createTokenIssuer,
  deleteTokenIssuer,
  findTokenIssuer,
  type IssuerChange,
  listTokenIssuers,
  replaceTokenIssuer,
  type TokenIssuer,
} from '../db/token-issuers.ts'
import type { AppContext } from '../env.ts'
import { jsonBody } from '../json-body.ts'
import { Problem } from '../problem.ts'
import { BODY_PROBLEMS, body, COMMON_PROBLEMS, json, problems, Timestamp, Uuid } from './fields.ts'
import { Page, pageOf, readPage, toPosition } from './page.ts'

/** 39 bytes each in a body of 64 KiB. */
const MAX_TENANTS = 1000

const Keys = z.record(z.string(), z.unknown()).nullable()
const fields = {
  issuer: z.string().openapi({ description: 'Exactly the "iss" of its tokens.', example: 'https://id.example.com' }),
  audience: z.string().openapi({ description: 'What the "aud" of its tokens must name.' }),
  algorithms: z.array(z.enum(TOKEN_ALGORITHMS)),
  scopes: z.array(z.enum(SCOPES)).openapi({ description: 'What its tokens may do at most.' }),
  tenant_ids: z.array(Uuid).openapi({ description: 'The tenants that it may speak for, and no others.' }),
}

const IssuerFields = z
  .strictObject({
    ...fields,
    issuer: fields.issuer.min(1).max(2048),
    audience: fields.audience.min(1).max(2048),
    algorithms: fields.algorithms.min(1).max(TOKEN_ALGORITHMS.length),
    token_type: z.enum(TOKEN_TYPES).default(ISSUER_DEFAULTS.token_type),
    jwks_url: z.string().max(2048).nullable().default(null).openapi({
      description: 'Where its public keys are: https, a public host, no redirects. This or jwks.',
    }),
    jwks: Keys.default(null).openapi({ description: 'Its public keys as a JWK set, when they are not fetched.' }),
    tenant_claim: z.string().min(1).max(255).default(ISSUER_DEFAULTS.tenant_claim),
    scope_claim: z.string().min(1).max(255).default(ISSUER_DEFAULTS.scope_claim),
    scopes: fields.scopes.min(1).max(SCOPES.length),
    // may be empty: so is what is read after the last of its tenants was erased
    tenant_ids: fields.tenant_ids.max(MAX_TENANTS),
    is_active: z.boolean().default(true),
  })
  .openapi('IssuerFields')

const IssuerAnswer = z
  .object({
    issuer_id: Uuid,
    ...fields,
    token_type: z.enum(TOKEN_TYPES),
    jwks_url: z.string().nullable(),
    jwks: Keys,
    tenant_claim: z.string(),
    scope_claim: z.string(),
    is_active: z.boolean(),
    created_at: Timestamp,
    updated_at: Timestamp,
  })
  .openapi('Issuer')

const tags = ['Operator']
const security = [{ operator: [] }]
const ByIssuerId = { params: z.object({ issuer_id: Uuid }) }
const reads = requiresOperator('operator:read')
const writes = requiresOperator('operator:write')

export const operatorIssuers = new OpenAPIHono<AppContext>()
  .openapi(
    createRoute({
      operationId: 'createIssuer',
      summary: 'Accept the tokens of an issuer',
      tags,
      security,
      method: 'post',
      path: '/',
      middleware: [writes, jsonBody] as const,
      request: body(IssuerFields),
      responses: {
        201: json(IssuerAnswer, 'Configured'),
        ...problems(...COMMON_PROBLEMS, ...BODY_PROBLEMS, 'ISSUER_ALREADY_EXISTS'),
      },
    }),
    async (c) => {
      const issuer = await createTokenIssuer(c.var.operator, toChange(c, c.req.valid('json')))
      return c.json(toIssuerAnswer(requireStored(issuer)), 201)
    },
  )
  .openapi(
    createRoute({
      operationId: 'listIssuers',
      summary: 'List the issuers of tokens, newest first',
      tags,
      security,
      method: 'get',
      path: '/',
      middleware: [reads] as const,
      request: { query: z.strictObject(Page) },
      responses: { 200: json(pageOf(IssuerAnswer), 'A page'), ...problems(...COMMON_PROBLEMS) },
    }),
    async (c) => {
      const { rows, ...page } = await readPage(
        c,
        c.req.valid('query'),
        ['issuers'],
        (after, limit) => listTokenIssuers(c.var.operator, toPosition(after), limit),
        ({ created_at, id }) => [created_at.toISOString(), id],
      )
      return c.json({ data: rows.map(toIssuerAnswer), ...page }, 200)
    },
  )
  .openapi(
    createRoute({
      operationId: 'findIssuer',
      summary: 'Read an issuer of tokens',
      tags,
      security,
      method: 'get',
      path: '/{issuer_id}',
      middleware: [reads] as const,
      request: ByIssuerId,
      responses: { 200: json(IssuerAnswer, 'Configured'), ...problems(...COMMON_PROBLEMS, 'ISSUER_NOT_FOUND') },
    }),
    async (c) => {
      const issuer = await findTokenIssuer(c.var.operator, c.req.valid('param').issuer_id)
      if (!issuer) throw issuerNotFound()
      return c.json(toIssuerAnswer(issuer), 200)
    },
  )
  .openapi(
    createRoute({
      operationId: 'replaceIssuer',
      summary: 'Replace everything about an issuer of tokens',
      tags,
      security,
      method: 'put',
      path: '/{issuer_id}',
      middleware: [writes, jsonBody] as const,
      request: { ...ByIssuerId, ...body(IssuerFields) },
      responses: {
        200: json(IssuerAnswer, 'Replaced, from the next request on'),
        ...problems(...COMMON_PROBLEMS, ...BODY_PROBLEMS, 'ISSUER_NOT_FOUND', 'ISSUER_ALREADY_EXISTS'),
      },
    }),
    async (c) => {
      const change = toChange(c, c.req.valid('json'))
      const issuer = await replaceTokenIssuer(c.var.operator, c.req.valid('param').issuer_id, change)
      if (!issuer) throw issuerNotFound()
      return c.json(toIssuerAnswer(requireStored(issuer)), 200)
    },
  )
  .openapi(
    createRoute({
      operationId: 'deleteIssuer',
      summary: 'Refuse the tokens of an issuer from the next request on',
      tags,
      security,
      method: 'delete',
      path: '/{issuer_id}',
      middleware: [writes] as const,
      request: ByIssuerId,
      responses: { 204: { description: 'Deleted' }, ...problems(...COMMON_PROBLEMS, 'ISSUER_NOT_FOUND') },
    }),
    async (c) => {
      const wasDeleted = await deleteTokenIssuer(c.var.operator, c.req.valid('param').issuer_id)
      if (!wasDeleted) throw issuerNotFound()
      return c.body(null, 204)
    },
  )

/** @throws Problem INVALID_REQUEST when it cannot be trusted with what it asks for */
function toChange(c: Context<AppContext>, sent: z.infer<typeof IssuerFields>): IssuerChange {
  const { scopes, tenant_ids, is_active, ...fields } = sent
  const issuer = toIssuer(fields, isDevelopment(c.env))
  if (isIssuerFault(issuer)) throw invalidField(`/${issuer.field}`, issuer.detail)
  // whoever may speak for a tenant must not be taken for the operator
  if (issuer.issuer === findOperatorIssuer(c.env, c.var.trace).issuer) {
    throw invalidField('/issuer', "Must not be the operator's own issuer.")
  }
  return {
    configuration: toConfiguration(issuer),
    scopes: SCOPES.filter((scope) => scopes.includes(scope)),
    tenantIds: tenant_ids,
    isActive: is_active,
  }
}

function requireStored(result: TokenIssuer | Conflict): TokenIssuer {
  switch (result) {
    case 'unknown tenant':
      throw invalidField('/tenant_ids', 'Must be ids of tenants that are there.')
    case 'issuer exists':
      throw new Problem('ISSUER_ALREADY_EXISTS', 'Replace the one that has this "issuer", or delete it.')
    default:
      return result
  }
}

function invalidField(pointer: string, detail: string): Problem {
  return new Problem('INVALID_REQUEST', 'Correct the fields named in errors.', { errors: [{ pointer, detail }] })
}

function issuerNotFound(): Problem {
  return new Problem('ISSUER_NOT_FOUND', 'Check the issuer_id, or create the issuer.')
}

function toIssuerAnswer({ id, created_at, updated_at, ...row }: TokenIssuer): z.infer<typeof IssuerAnswer> {
  return {
    issuer_id: id,
    issuer: row.issuer,
    audience: row.audience,
    algorithms: row.algorithms,
    token_type: row.token_type,
    jwks_url: row.jwks_url,
    jwks: row.jwks,
    tenant_claim: row.tenant_claim,
    scope_claim: row.scope_claim,
    scopes: row.scopes,
    tenant_ids: row.tenant_ids,
    is_active: row.is_active,
    created_at: created_at.toISOString(),
    updated_at: updated_at.toISOString(),
  }
}
