// /openapi.json as the tests read it: its operations, and whether a value is what a schema of it says. Stricter
// than JSON Schema on purpose.

import { env } from 'cloudflare:workers'
import { app } from '../../src/app.ts'

// == The document ==

export interface Schema {
  $ref?: string
  allOf?: Schema[]
  oneOf?: Schema[]
  type?: string | string[]
  enum?: unknown[]
  properties?: Record<string, Schema>
  required?: string[]
  additionalProperties?: boolean | Schema
  items?: Schema
  format?: string
  minimum?: number
  maximum?: number
  minItems?: number
  maxItems?: number
  minLength?: number
  maxLength?: number
  minProperties?: number
  example?: unknown
}

type Content = Record<string, { schema: Schema }>

export interface DocumentedOperation {
  operationId: string
  summary: string
  security?: unknown[]
  parameters?: { name: string; in: string; required: boolean; schema: Schema }[]
  requestBody?: { required: boolean; content: Content }
  responses: Record<string, { description: string; content?: Content }>
}

interface Document {
  openapi: string
  info: Record<string, unknown>
  security: Record<string, unknown>[]
  paths: Record<string, Record<string, DocumentedOperation>>
  components: { schemas: Record<string, Schema>; securitySchemes: Record<string, unknown> }
}

export const answer = await app.request('/openapi.json', {}, env)
export const document = await answer.clone().json<Document>()

export const operations = Object.entries(document.paths).flatMap(([path, methods]) =>
  Object.entries(methods).map(([method, operation]) => ({ method: method.toUpperCase(), path, ...operation })),
)
export type Operation = (typeof operations)[number]
/** Those that want a credential. */
export const guarded = operations.filter(({ path }) => path.startsWith('/v1/'))

/** Those that want the operator's credential, and know none of a tenant. */
export function isOperators({ path }: Operation): boolean {
  return path.startsWith('/v1/operator/')
}

/** What the operation takes as its body; undefined when it takes none. */
export function bodySchema({ requestBody }: Operation): Schema | undefined {
  return requestBody?.content['application/json']?.schema
}

/** The same of a form; undefined when it takes none. */
export function formSchema({ requestBody }: Operation): Schema | undefined {
  return requestBody?.content['multipart/form-data']?.schema
}

// == Whether a value is what a schema says ==

/** Said by the document, and nothing that a value could violate. */
const ANNOTATIONS = new Set(['description', 'example', 'default', 'contentEncoding'])
const FORMATS: Record<string, RegExp> = {
  uuid: /^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/,
  'date-time': /^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$/,
  uri: /^https:\/\/[a-z.]+(\/[a-z-]+)+$/,
  // a file, as text
  binary: /./s,
}

/**
 * The schema that a reference leads to, and one that is put together of several as a single one.
 *
 * @throws when the reference leads nowhere
 */
export function resolve(schema: Schema): Schema {
  if (schema.$ref) {
    const name = schema.$ref.replace('#/components/schemas/', '')
    const found = document.components.schemas[name]
    if (!found) throw new Error(`${schema.$ref} leads nowhere`)
    return resolve(found)
  }
  if (!schema.allOf) return schema
  const parts = schema.allOf.map(resolve)
  return {
    type: 'object',
    properties: Object.assign({}, ...parts.map(({ properties }) => properties)),
    required: parts.flatMap(({ required }) => required ?? []),
  }
}

function typeOf(value: unknown): string {
  if (value === null) return 'null'
  if (Array.isArray(value)) return 'array'
  return Number.isInteger(value) ? 'integer' : typeof value
}

/**
 * What is wrong with a value, as "where: what". Stricter than JSON Schema: a key that is not documented
 * is wrong, because it may be one that nobody was to see.
 *
 * @throws when the schema has a keyword that this does not know: it would pass anything
 */
export function findFaults(value: unknown, unresolved: Schema, at = ''): string[] {
  const { type, properties, items, oneOf, ...schema } = resolve(unresolved)
  const faults: string[] = []
  const fault = (what: string) => faults.push(`${at || '/'}: ${what}`)

  if (oneOf) {
    const fitting = oneOf.filter((option) => findFaults(value, option, at).length === 0)
    if (fitting.length !== 1) fault(`fits ${fitting.length} of oneOf`)
  }
  const types = [type ?? []].flat()
  const actual = typeOf(value)
  if (types.length > 0 && !types.includes(actual) && !(actual === 'integer' && types.includes('number'))) {
    fault(`is ${actual}, not ${types.join(' or ')}`)
    return faults
  }
  for (const [keyword, limit] of Object.entries(schema)) {
    switch (keyword) {
      case 'enum':
        if (!schema.enum?.includes(value)) fault(`is not one of ${JSON.stringify(limit)}`)
        break
      case 'format':
        if (value !== null && !FORMATS[limit as string]?.test(String(value))) fault(`is not ${limit}`)
        break
      case 'minimum':
        if (value !== null && !(Number(value) >= Number(limit))) fault(`is below ${limit}`)
        break
      case 'maximum':
        if (value !== null && !(Number(value) <= Number(limit))) fault(`is above ${limit}`)
        break
      case 'minItems':
      case 'minLength':
        if (lengthOf(value) < Number(limit)) fault(`is shorter than ${limit}`)
        break
      case 'maxItems':
      case 'maxLength':
        if (lengthOf(value) > Number(limit)) fault(`is longer than ${limit}`)
        break
      case 'minProperties':
        if (Object.keys(value ?? {}).length < Number(limit)) fault(`has fewer than ${limit} fields`)
        break
      case 'required':
      case 'additionalProperties':
        break
      default:
        if (!ANNOTATIONS.has(keyword)) throw new Error(`teach the checker the keyword "${keyword}"`)
    }
  }
  if (Array.isArray(value)) {
    for (const [index, item] of value.entries()) faults.push(...findFaults(item, items ?? {}, `${at}/${index}`))
  } else if (typeof value === 'object' && value !== null && types.length > 0) {
    for (const key of schema.required ?? []) if (!Object.hasOwn(value, key)) fault(`has no "${key}"`)
    const others = schema.additionalProperties
    for (const [key, item] of Object.entries(value)) {
      const known = properties?.[key]
      if (known) faults.push(...findFaults(item, known, `${at}/${key}`))
      else if (typeof others === 'object') faults.push(...findFaults(item, others, `${at}/${key}`))
      else if (others !== true) fault(`has "${key}", which is not documented`)
    }
  }
  return faults
}

function lengthOf(value: unknown): number {
  return Array.isArray(value) ? value.length : [...String(value)].length
}
