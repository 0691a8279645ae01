// Tokens (RFC 7519) of configured issuers: everything that jose does not check, around jose's signature check.
import { compactVerify } from 'jose'
import { decodeBase64url, isText, isUuid, parseObject } from './canonical.ts'
import { type Issuer, TOKEN_ALGORITHMS, type TokenAlgorithm } from './issuer.ts'
import { type TrustedKey, toCryptoKey } from './jwk.ts'
import { findKey } from './jwks.ts'

/** Room for the largest signature (RSA-8192: 1,366 characters) and 5 KiB of claims. jose takes 2 MB, in 161 ms. */
const MAX_TOKEN_LENGTH = 8 * 1024
const MAX_ISSUER_LENGTH = 2048
const MAX_SUBJECT_LENGTH = 255
const MAX_SCOPE_LENGTH = 255
const MAX_SCOPES = 50
/** Between the issuer's clock and ours. */
const TOLERANCE_SECONDS = 30
/** A stolen token is of use no longer than this: tokens are not looked up anywhere, so they cannot be revoked. */
const MAX_LIFETIME_SECONDS = 3600

export interface VerifiedToken {
  /** Null for an issuer that speaks for no tenant. Whether the issuer may speak for it is the caller's to ask. */
  tenantId: string | null
  /** As the issuer wrote them; the caller drops what it does not know or the issuer may not grant. */
  scopes: string[]
  subject: string | null
  /** Seconds since 1970. */
  expiresAt: number
}

/** Why a token was refused, for our log; the client gets one answer for all. */
export type Refusal =
  | 'malformed'
  | 'header'
  | 'algorithm'
  | 'type'
  | 'key'
  | 'signature'
  | 'issuer'
  | 'audience'
  | 'claims'
  | 'lifetime'
  | 'expired'
  | 'not_yet_valid'
  | 'tenant'

/** Carries nothing of the token. */
export class TokenRefused extends Error {
  readonly reason: Refusal

  constructor(reason: Refusal) {
    super(`the token is refused: ${reason}`)
    this.name = 'TokenRefused'
    this.reason = reason
  }
}

/**
 * Who claims to have signed this, only to find that issuer among those configured: nothing was verified, and no
 * address may be made of it.
 *
 * @returns null when it is no token that could be accepted from anybody
 */
export function findIssuerName(token: string): string | null {
  const claims = split(token)?.claims
  const issuer = claims && parseObject(claims)?.['iss']
  return isText(issuer, MAX_ISSUER_LENGTH) ? issuer : null
}

/**
 * Checks a token of one issuer. An ECDSA signature (r, s) has a twin (r, n - s), so the same token can be spelled
 * twice: key nothing by its text or hash.
 *
 * @param options.now milliseconds since 1970
 * @param options.keepAlive given a fetch of keys, which is to end even when the client hangs up
 * @throws TokenRefused when the token is not good
 * @throws KeysUnavailable when nobody can say, because the issuer's keys cannot be had
 */
export async function verifyToken(
  token: string,
  issuer: Issuer,
  options: { allowsLoopback: boolean; now?: number; keepAlive?: (work: Promise<unknown>) => void },
): Promise<VerifiedToken> {
  const now = options.now ?? Date.now()
  const { header, payload } = await verifySignature(token, issuer.algorithms, (kid) =>
    findKey(issuer.keys, kid, options.allowsLoopback, now, options.keepAlive),
  )
  if (toMediaType(header['typ']) !== toMediaType(issuer.tokenType)) throw new TokenRefused('type')
  const claims = parseObject(payload)
  if (!claims) throw new TokenRefused('malformed')
  if (claims['iss'] !== issuer.issuer) throw new TokenRefused('issuer')
  if (!isAudience(claims['aud'], issuer.audience)) throw new TokenRefused('audience')
  const expiresAt = checkTimes(claims, now / 1000)
  const subject = claims['sub'] ?? null
  if (subject !== null && !isText(subject, MAX_SUBJECT_LENGTH)) throw new TokenRefused('claims')
  return {
    tenantId: issuer.tenantClaim === null ? null : toTenantId(claims[issuer.tenantClaim]),
    scopes: toScopes(claims[issuer.scopeClaim]),
    subject,
    expiresAt,
  }
}

/**
 * Checks form, header and signature, and no claim: the part of `verifyToken` that test vectors speak of.
 *
 * @param algorithms what the issuer may sign with; anything that is not in TOKEN_ALGORITHMS is refused all the same
 * @param findKeyOf the issuer's key for a `kid`, null when it has none; what it throws goes to the caller
 * @throws TokenRefused with the reason malformed, header, algorithm, key or signature
 */
export async function verifySignature(
  token: string,
  algorithms: readonly TokenAlgorithm[],
  findKeyOf: (kid: string) => TrustedKey | null | Promise<TrustedKey | null>,
): Promise<{ header: Record<string, unknown>; payload: Uint8Array }> {
  const parts = split(token)
  const header = parts && parseObject(parts.header)
  if (!header) throw new TokenRefused('malformed')
  if (REFUSED_HEADERS.some((name) => Object.hasOwn(header, name))) throw new TokenRefused('header')
  const algorithm = TOKEN_ALGORITHMS.find((known) => known === header['alg'])
  if (!algorithm || !algorithms.includes(algorithm)) throw new TokenRefused('algorithm')
  const kid = header['kid']
  // required: without it, which key a token means would be a guess
  if (typeof kid !== 'string') throw new TokenRefused('key')

  const key = await findKeyOf(kid)
  if (!key?.algorithms.includes(algorithm)) throw new TokenRefused('key')
  const cryptoKey = await toCryptoKey(key, algorithm)
  if (!cryptoKey) throw new TokenRefused('key')
  try {
    await compactVerify(token, cryptoKey, { algorithms: [algorithm] })
  } catch {
    throw new TokenRefused('signature')
  }
  return { header, payload: parts.claims }
}

// `crit` and `b64` (RFC 7797) change what a signature covers, and we know no extension. The others carry a key, or
// say where one lies: the issuer's configuration says that. Ignoring them would be as safe, but nobody who means
// well sends them, and a refusal is seen in the log.
const REFUSED_HEADERS = ['crit', 'b64', 'jwk', 'jku', 'x5u', 'x5c']

/** Header and claims of a token in its one canonical spelling. */
function split(token: string): { header: Uint8Array; claims: Uint8Array } | null {
  // before anything is done with it
  if (token.length > MAX_TOKEN_LENGTH) return null
  const parts = token.split('.')
  const [header, claims, signature] = parts.map(decodeBase64url)
  return parts.length === 3 && header && claims && signature ? { header, claims } : null
}

/** RFC 7515 section 4.1.9: in any case, and "application/" may be left out where no other slash is. */
function toMediaType(type: unknown): string | null {
  if (typeof type !== 'string') return null
  const lowerCase = type.toLowerCase()
  return lowerCase.includes('/') ? lowerCase : `application/${lowerCase}`
}

function isAudience(claim: unknown, audience: string): boolean {
  const audiences: unknown[] = Array.isArray(claim) ? claim : [claim]
  return audiences.every((one) => typeof one === 'string') && audiences.includes(audience)
}

/** @returns `exp` */
function checkTimes(claims: Record<string, unknown>, nowSeconds: number): number {
  const { exp, iat, nbf = iat } = claims
  // 1e308 is an integer to Number.isInteger, and a token that never expires
  if (!isTime(exp) || !isTime(iat) || !isTime(nbf)) throw new TokenRefused('claims')
  if (exp <= iat || exp - iat > MAX_LIFETIME_SECONDS) throw new TokenRefused('lifetime')
  if (nowSeconds >= exp + TOLERANCE_SECONDS) throw new TokenRefused('expired')
  if (Math.max(iat, nbf) > nowSeconds + TOLERANCE_SECONDS) throw new TokenRefused('not_yet_valid')
  return exp
}

function isTime(value: unknown): value is number {
  return Number.isSafeInteger(value)
}

function toTenantId(claim: unknown): string {
  if (isUuid(claim)) return claim
  throw new TokenRefused('tenant')
}

function toScopes(claim: unknown): string[] {
  if (claim === undefined || claim === '') return []
  const scopes: unknown = typeof claim === 'string' ? claim.split(' ') : claim
  if (!Array.isArray(scopes) || scopes.length > MAX_SCOPES || !scopes.every(isScope)) throw new TokenRefused('claims')
  return scopes
}

function isScope(value: unknown): value is string {
  return isText(value, MAX_SCOPE_LENGTH)
}
