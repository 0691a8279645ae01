// /v1/api-keys: the keys of a tenant, which it makes, rotates and revokes itself.
import { createRoute, OpenAPIHono, z } from '@hono/zod-openapi'
import type { Context } from 'hono'
import { type ApiKeyOrigin, deriveApiKey, hashApiKey, SCOPES, toPrefix } from '../auth/api-key.ts'
import { pepper, requires } from '../auth/authenticate.ts'
import {
  createApiKey,
  listApiKeys,
  MAX_VALID_KEYS,
  type MadeApiKey,
  type NewApiKey,
  revokeApiKey,
  rotateApiKey,
  type StoredApiKey,
} from '../db/api-keys.ts'
import { missingScope } from '../db/tenant.ts'
import type { AppContext } from '../env.ts'
import { jsonBody } from '../json-body.ts'
import { Problem } from '../problem.ts'
import {
  ACT,
  ACT_PROBLEMS,
  BODY_PROBLEMS,
  body,
  COMMON_PROBLEMS,
  json,
  Name,
  problems,
  Timestamp,
  Uuid,
} from './fields.ts'
import { Page, pageOf, readPage, toPosition } from './page.ts'

const MAX_LIFETIME_YEARS = 10
const DEFAULT_OVERLAP_SECONDS = 24 * 60 * 60
const MAX_OVERLAP_SECONDS = 7 * DEFAULT_OVERLAP_SECONDS

const Scopes = z
  .array(z.enum(SCOPES))
  .min(1)
  .max(SCOPES.length)
  .refine((scopes) => new Set(scopes).size === scopes.length, 'Must name each scope once.')

const Expiry = z.iso
  .datetime({ offset: true, error: 'Must be a time as in RFC 3339, like 2027-11-23T12:00:00Z.', abort: true })
  .refine(isExpiry, `Must be in the future, by at most ${MAX_LIFETIME_YEARS} years.`)
  .nullable()
  .optional()
  .openapi({ description: 'When the key ends: null, or not given, for never.', example: '2027-11-23T12:00:00.000Z' })

export const NewKey = z.strictObject({ name: Name, scopes: Scopes, expires_at: Expiry }).openapi('NewApiKey')

const Rotation = z
  .strictObject({
    overlap_seconds: z.int().min(0).max(MAX_OVERLAP_SECONDS).optional().openapi({
      default: DEFAULT_OVERLAP_SECONDS,
      description: 'How long the old key still works, if it would not have expired before. 0 ends it at once.',
    }),
    expires_at: Expiry,
  })
  .openapi('Rotation', { description: '{} for a day of overlap, and a key that does not expire.' })

const ApiKeyAnswer = z
  .object({
    api_key_id: Uuid,
    name: z.string(),
    prefix: z.string().openapi({ description: 'The first characters of the key.', example: 'rk_live_9fQx' }),
    scopes: z.array(z.enum(SCOPES)),
    created_at: Timestamp,
    expires_at: Timestamp.nullable(),
    revoked_at: Timestamp.nullable(),
    last_used_at: Timestamp.nullable().openapi({ description: 'To within about ten minutes; null when never.' }),
  })
  .openapi('ApiKey')

export const ApiKeyShown = ApiKeyAnswer.extend({
  api_key: z.string().openapi({ description: 'The key itself, shown this once: keep it now.' }),
}).openapi('ApiKeyShown')

const ById = { params: z.object({ api_key_id: Uuid }) }
const tags = ['Administration']

export const apiKeys = new OpenAPIHono<AppContext>()
  .openapi(
    createRoute({
      operationId: 'listApiKeys',
      summary: 'List the API keys, newest first; never a key itself',
      tags,
      method: 'get',
      path: '/',
      middleware: [requires('admin')] as const,
      request: { query: z.strictObject(Page) },
      responses: { 200: json(pageOf(ApiKeyAnswer), 'A page'), ...problems(...COMMON_PROBLEMS) },
    }),
    async (c) => {
      const { rows, ...page } = await readPage(
        c,
        c.req.valid('query'),
        ['api-keys'],
        (after, limit) => listApiKeys(c.var.db, toPosition(after), limit),
        ({ created_at, id }) => [created_at.toISOString(), id],
      )
      return c.json({ data: rows.map(toAnswer), ...page }, 200)
    },
  )
  .openapi(
    createRoute({
      operationId: 'createApiKey',
      summary: 'Make an API key, which is shown this once',
      description:
        'The key is of the environment of the tenant. A credential can grant only scopes that it has itself. ' +
        `A tenant has at most ${MAX_VALID_KEYS} keys that are neither revoked nor expired.`,
      tags,
      ...ACT,
      method: 'post',
      path: '/',
      middleware: [requires('admin'), jsonBody] as const,
      request: body(NewKey),
      responses: {
        201: json(ApiKeyShown, 'Made'),
        ...problems(...COMMON_PROBLEMS, ...ACT_PROBLEMS, ...BODY_PROBLEMS, 'TOO_MANY_API_KEYS'),
      },
    }),
    async (c) => {
      const { name, scopes, expires_at } = c.req.valid('json')
      const created = await createApiKey(c.var.db, name, scopes, await generate(c, expires_at))
      if (!created) throw tooManyKeys()
      if ('missingScopes' in created) throw missingScope(...created.missingScopes)
      return c.json(await toShown(c, created), 201)
    },
  )
  .openapi(
    createRoute({
      operationId: 'rotateApiKey',
      summary: 'Make the successor of an API key, and let the old one end after an overlap',
      description:
        'The new key has the name and the scopes of the old one, all of which the credential that asks must have. ' +
        'During the overlap both work, and both count towards the number of keys that a tenant may have. When the ' +
        'answer was lost, send it again with the same Idempotency-Key (by another key, where the old one has ended), or ' +
        'rotate again and revoke the key that nobody knows.',
      tags,
      ...ACT,
      method: 'post',
      path: '/{api_key_id}/rotate',
      middleware: [requires('admin'), jsonBody] as const,
      request: { ...ById, ...body(Rotation) },
      responses: {
        201: json(ApiKeyShown, 'The successor'),
        ...problems(
          ...COMMON_PROBLEMS,
          ...ACT_PROBLEMS,
          ...BODY_PROBLEMS,
          'API_KEY_NOT_FOUND',
          'API_KEY_NOT_VALID',
          'TOO_MANY_API_KEYS',
        ),
      },
    }),
    async (c) => {
      const { overlap_seconds = DEFAULT_OVERLAP_SECONDS, expires_at } = c.req.valid('json')
      const { api_key_id } = c.req.valid('param')
      const successor = await rotateApiKey(c.var.db, api_key_id, overlap_seconds, await generate(c, expires_at))
      if (!successor) throw keyNotFound()
      if (successor === 'not valid') throw new Problem('API_KEY_NOT_VALID', 'Make a new one with POST /v1/api-keys.')
      if (successor === 'too many') throw tooManyKeys()
      if ('missingScopes' in successor) throw missingScope(...successor.missingScopes)
      return c.json(await toShown(c, successor), 201)
    },
  )
  .openapi(
    createRoute({
      operationId: 'revokeApiKey',
      summary: 'Revoke an API key: it is refused from the next request on',
      description:
        'A key may revoke itself. One that is revoked already, or has expired, is answered in the same way, so that ' +
        'the request can be repeated when its answer was lost.',
      tags,
      ...ACT,
      method: 'delete',
      path: '/{api_key_id}',
      middleware: [requires('admin')] as const,
      request: ById,
      responses: {
        204: { description: 'Revoked, now or before' },
        ...problems(...COMMON_PROBLEMS, ...ACT_PROBLEMS, 'API_KEY_NOT_FOUND'),
      },
    }),
    async (c) => {
      const isRevoked = await revokeApiKey(c.var.db, c.req.valid('param').api_key_id)
      if (!isRevoked) throw keyNotFound()
      return c.body(null, 204)
    },
  )

/** Not the time of the database, which decides when a key has expired: only a bound on what is asked for. */
function isExpiry(text: string): boolean {
  const latest = new Date()
  latest.setUTCFullYear(latest.getUTCFullYear() + MAX_LIFETIME_YEARS)
  const expiry = Date.parse(text)
  return expiry > Date.now() && expiry <= latest.getTime()
}

/** A key of the tenant's environment: what is stored of it, and what it can be derived from. */
async function generate(c: Context<AppContext>, expiresAt: string | null | undefined): Promise<NewApiKey> {
  const seed = Buffer.from(crypto.getRandomValues(new Uint8Array(32))).toString('hex')
  const peppered = await pepper(c.env)
  const key = await deriveApiKey(await toOrigin(c, seed), peppered)
  return {
    seed,
    hash: await hashApiKey(key, peppered),
    prefix: toPrefix(key),
    expiresAt: expiresAt ? new Date(expiresAt) : null,
  }
}

/** Bound to the request that made the key: a seed that is moved to another makes another key. */
async function toOrigin({ var: { db } }: Context<AppContext>, seed: string): Promise<ApiKeyOrigin> {
  return { environment: db.tenant.environment, tenantId: db.tenant.id, request: (await db.name()).key, seed }
}

async function toShown(c: Context<AppContext>, { seed, ...key }: MadeApiKey) {
  return {
    ...toAnswer(key),
    api_key: await deriveApiKey(await toOrigin(c, seed), await pepper(c.env)),
  }
}

function toAnswer({ id, name, prefix, scopes, created_at, expires_at, revoked_at, last_used_at }: StoredApiKey) {
  return {
    api_key_id: id,
    ...{ name, prefix, scopes },
    created_at: created_at.toISOString(),
    expires_at: expires_at?.toISOString() ?? null,
    revoked_at: revoked_at?.toISOString() ?? null,
    last_used_at: last_used_at?.toISOString() ?? null,
  }
}

function keyNotFound(): Problem {
  return new Problem('API_KEY_NOT_FOUND', 'Check the api_key_id: GET /v1/api-keys lists them.')
}

function tooManyKeys(): Problem {
  return new Problem('TOO_MANY_API_KEYS', `Revoke one first: at most ${MAX_VALID_KEYS} may be valid at a time.`)
}
