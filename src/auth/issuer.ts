// Issuers of tokens: who they are and what their tokens must look like. No I/O.
import { isObject, isText } from './canonical.ts'
import { findKeySetFault, toKeySet } from './jwk.ts'
import { findUrlFault } from './jwks-url.ts'

/**
 * What a token may be signed with: every asymmetric algorithm of RFC 7518 and RFC 8037 that WebCrypto has, so that
 * any identity provider fits (most sign RS256), and an issuer's own list narrows it. No HMAC: who could check a
 * token could make one, for every tenant of the issuer. No ES256K, which WebCrypto lacks.
 */
export const TOKEN_ALGORITHMS = [
  'ES256',
  'ES384',
  'ES512',
  'EdDSA',
  'RS256',
  'RS384',
  'RS512',
  'PS256',
  'PS384',
  'PS512',
] as const
export type TokenAlgorithm = (typeof TOKEN_ALGORITHMS)[number]

export const TOKEN_TYPES = ['at+jwt', 'JWT'] as const

export interface Issuer {
  /** Exactly the `iss` of its tokens. */
  issuer: string
  /** Ours: what the `aud` of its tokens must name. */
  audience: string
  algorithms: TokenAlgorithm[]
  /** The `typ` that its tokens must carry: RFC 9068 says at+jwt, and some providers write JWT. */
  tokenType: (typeof TOKEN_TYPES)[number]
  /** A set that is given here is read once for this object: keep the object for as long as it holds. */
  keys: { url: string } | { jwks: unknown }
  /** The claim that names the tenant; null for an issuer that speaks for no tenant (the operator's). */
  tenantClaim: string | null
  /** A claim with the scopes: words in a string (RFC 8693) or an array of strings. */
  scopeClaim: string
}

/** What an issuer has that is configured without these fields: RFC 9068, RFC 8693. */
export const ISSUER_DEFAULTS = { token_type: 'at+jwt', tenant_claim: 'tenant_id', scope_claim: 'scope' } as const

/** An issuer as it is stored. */
export type IssuerConfiguration = {
  issuer: string
  audience: string
  algorithms: TokenAlgorithm[]
  token_type: Issuer['tokenType']
  jwks_url: string | null
  jwks: { keys: object[] } | null
  tenant_claim: string | null
  scope_claim: string
}

/** Why something is no issuer: the field as it is stored, or null for the whole. */
export type IssuerFault = { field: string | null; detail: string }

/** In bytes of UTF-8, as the columns count. */
const MAX_NAME_LENGTH = 2048
const MAX_CLAIM_NAME_LENGTH = 255
const MAX_KEY_SET_LENGTH = 256 * 1024

/**
 * Reads a row of the database, what an operator configured, or what one sent. Every field must be there, but for
 * one of `jwks_url` and `jwks`; null counts as absent. Fields with other names are left alone.
 *
 * @param stored {issuer, audience, algorithms, token_type, jwks_url, jwks, tenant_claim, scope_claim}
 * @param allowsLoopback development only: key sets on this machine
 * @returns the issuer, or what is wrong with it, for who configured it
 */
export function toIssuer(stored: unknown, allowsLoopback = false): Issuer | IssuerFault {
  if (!isObject(stored)) return { field: null, detail: 'Must be an object.' }
  const { issuer, audience, algorithms, token_type: type, tenant_claim: tenantClaim, scope_claim: scopeClaim } = stored
  if (!isName(issuer, MAX_NAME_LENGTH)) return faultyText('issuer', MAX_NAME_LENGTH)
  if (!isName(audience, MAX_NAME_LENGTH)) return faultyText('audience', MAX_NAME_LENGTH)
  if (!isListOfAlgorithms(algorithms)) {
    return { field: 'algorithms', detail: `Must be one or more of ${TOKEN_ALGORITHMS.join(', ')}, each once.` }
  }
  const tokenType = TOKEN_TYPES.find((known) => known === type)
  if (!tokenType) return { field: 'token_type', detail: `Must be ${TOKEN_TYPES.join(' or ')}.` }
  if (tenantClaim !== null && !isName(tenantClaim, MAX_CLAIM_NAME_LENGTH)) {
    return { field: 'tenant_claim', detail: 'Must be the name of a claim, or null for an issuer without tenants.' }
  }
  if (!isName(scopeClaim, MAX_CLAIM_NAME_LENGTH)) return faultyText('scope_claim', MAX_CLAIM_NAME_LENGTH)
  const keys = toKeys(stored['jwks_url'] ?? null, stored['jwks'] ?? null, allowsLoopback)
  if ('detail' in keys) return keys
  return { issuer, audience, algorithms: [...algorithms], tokenType, keys, tenantClaim, scopeClaim }
}

export function isIssuerFault(result: Issuer | IssuerFault): result is IssuerFault {
  return 'detail' in result
}

/** What to store of an issuer: a URL as `fetch` reads it, and of keys what verifies signatures and nothing else. */
export function toConfiguration({ tokenType, keys, tenantClaim, scopeClaim, ...same }: Issuer): IssuerConfiguration {
  return {
    ...same,
    token_type: tokenType,
    jwks_url: 'url' in keys ? new URL(keys.url).href : null,
    jwks: 'jwks' in keys ? { keys: toPublicKeys(keys.jwks) } : null,
    tenant_claim: tenantClaim,
    scope_claim: scopeClaim,
  }
}

function toPublicKeys(jwks: unknown): object[] {
  return [...(toKeySet(jwks)?.values() ?? [])].map(({ kid, algorithms, jwk }) => {
    const [only, another] = algorithms
    return { ...jwk, kid, ...(only && !another && { alg: only }) }
  })
}

function toKeys(url: unknown, jwks: unknown, allowsLoopback: boolean): Issuer['keys'] | IssuerFault {
  if ((url === null) === (jwks === null)) return { field: 'jwks_url', detail: 'Give either jwks_url or jwks.' }
  if (jwks === null) {
    const detail = typeof url === 'string' ? findUrlFault(url, allowsLoopback) : 'Must be a string.'
    // findUrlFault has seen that it is a string
    return detail === null ? { url: url as string } : { field: 'jwks_url', detail }
  }
  if (JSON.stringify(jwks).length > MAX_KEY_SET_LENGTH) {
    return { field: 'jwks', detail: `Must take at most ${MAX_KEY_SET_LENGTH} characters.` }
  }
  const detail = findKeySetFault(jwks)
  return detail === null ? { jwks } : { field: 'jwks', detail }
}

function isListOfAlgorithms(value: unknown): value is TokenAlgorithm[] {
  return (
    Array.isArray(value) &&
    value.length > 0 &&
    new Set(value).size === value.length &&
    value.every((algorithm) => TOKEN_ALGORITHMS.includes(algorithm))
  )
}

/** What can be compared with a claim without surprise: pasted text often has space around it. */
function isName(value: unknown, maxLength: number): value is string {
  return isText(value, maxLength) && value === value.trim() && new TextEncoder().encode(value).length <= maxLength
}

function faultyText(field: string, maxLength: number): IssuerFault {
  const detail = `Must be a string of 1 to ${maxLength} characters, without control characters or space around it.`
  return { field, detail }
}
