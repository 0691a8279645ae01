// Issuers' keys, tokens to the byte, and the pages of the issuer's web server, for the tests.
import { env } from 'cloudflare:workers'
import { base64url } from 'jose'
import { SCOPES, type Scope } from '../../src/auth/api-key.ts'
import type { TokenAlgorithm } from '../../src/auth/issuer.ts'
import type { Behavior } from '../issuer-server.ts'
import { asAdmin, type TestTenant } from './tenant.ts'

export interface Signer {
  kid: string
  /** As an issuer publishes it: public, with kid, alg and use. */
  jwk: JsonWebKey & { kid: string }
  /** A token of these claims. What is a string goes in as it is, so that a test can write what is not JSON. */
  sign(claims: object | string | Uint8Array, header?: object | string): Promise<string>
}

const EC_CURVES: Partial<Record<TokenAlgorithm, string>> = { ES256: 'P-256', ES384: 'P-384', ES512: 'P-521' }

export async function createSigner(
  algorithm: TokenAlgorithm,
  {
    kid = crypto.randomUUID(),
    bits = 2048,
    exponent = [1, 0, 1],
  }: { kid?: string; bits?: number; exponent?: number[] } = {},
): Promise<Signer> {
  const namedCurve = EC_CURVES[algorithm]
  const hash = `SHA-${algorithm.slice(2)}`
  const name = algorithm.startsWith('RS') ? 'RSASSA-PKCS1-v1_5' : 'RSA-PSS'
  const generation = namedCurve
    ? { name: 'ECDSA', namedCurve }
    : algorithm === 'EdDSA'
      ? { name: 'Ed25519' }
      : { name, hash, modulusLength: bits, publicExponent: new Uint8Array(exponent) }
  // an asymmetric algorithm: generateKey makes a pair
  const pair = (await crypto.subtle.generateKey(generation, true, ['sign', 'verify'])) as CryptoKeyPair
  // exported as "jwk", so it is no buffer
  const { kty, crv, x, y, n, e } = (await crypto.subtle.exportKey('jwk', pair.publicKey)) as JsonWebKey
  const signing = namedCurve
    ? { name: 'ECDSA', hash }
    : { name: generation.name, saltLength: Number(hash.slice(4)) / 8 }
  return {
    kid,
    jwk: {
      kid,
      alg: algorithm,
      use: 'sig',
      kty,
      ...(crv && { crv }),
      ...(x && { x }),
      ...(y && { y }),
      ...(n && { n, e }),
    },
    async sign(claims, header = {}) {
      const full = typeof header === 'string' ? header : { alg: algorithm, typ: 'at+jwt', kid, ...header }
      const input = `${encode(full)}.${encode(claims)}`
      const signature = await crypto.subtle.sign(
        algorithm === 'EdDSA' ? { name: 'Ed25519' } : signing,
        pair.privateKey,
        new TextEncoder().encode(input),
      )
      return `${input}.${base64url.encode(new Uint8Array(signature))}`
    },
  }
}

export interface TestIssuer {
  id: string
  name: string
}

/**
 * An issuer of ES256 tokens for tenants, as put_token_issuer writes it.
 *
 * @param keys {jwks} or {jwks_url}
 * @param replaced the issuer whose place it takes
 */
export async function configureIssuer(
  tenants: Pick<TestTenant, 'id'>[],
  keys: object,
  scopes: readonly Scope[] = SCOPES,
  replaced?: TestIssuer,
): Promise<TestIssuer> {
  const issuer = replaced ?? { id: crypto.randomUUID(), name: `https://${crypto.randomUUID()}.example` }
  const configuration = {
    issuer: issuer.name,
    audience: 'rekko',
    algorithms: ['ES256'],
    token_type: 'at+jwt',
    tenant_claim: 'tenant_id',
    scope_claim: 'scope',
    ...keys,
  }
  await asAdmin`
    select put_token_issuer(
      ${issuer.id}, ${JSON.stringify(configuration)}::jsonb, ${[...scopes]}::text[], ${tenants.map(({ id }) => id)}::uuid[],
      true, ${replaced !== undefined}
    )`
  return issuer
}

export const inline = (signer: Signer) => ({ jwks: { keys: [signer.jwk] } })

/** Claims of a token that the issuer could sign now, good for five minutes. */
export function toClaims(
  issuer: Pick<TestIssuer, 'name'>,
  tenant: Pick<TestTenant, 'id'>,
  claims: object = {},
): object {
  const iat = Math.floor(Date.now() / 1000)
  const usual = { iss: issuer.name, aud: 'rekko', sub: 'gate 7', iat, exp: iat + 300, tenant_id: tenant.id }
  return { ...usual, scope: SCOPES.join(' '), ...claims }
}

/** base64url of bytes, of a text as it is, or of a value as JSON. */
export function encode(part: object | string | Uint8Array): string {
  if (part instanceof Uint8Array || typeof part === 'string') return base64url.encode(part)
  return base64url.encode(JSON.stringify(part))
}

/** The address of a key set on the issuer's web server. */
export function keySetUrl(name: string): string {
  return `${env.TEST.keySetsUrl}/${name}`
}

/** What the web server shall do from now on when it is asked for this set. */
export async function publish(name: string, behavior: Behavior, body: unknown = ''): Promise<void> {
  const text = typeof body === 'string' ? body : JSON.stringify(body)
  await fetch(keySetUrl(name), { method: 'PUT', body: JSON.stringify({ behavior, body: text }) })
}

/** How often the set was asked for. */
export async function countFetches(name: string): Promise<number> {
  return Number(await (await fetch(`${keySetUrl(name)}/count`)).text())
}
