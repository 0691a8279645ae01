// The operator's tokens and requests, for the tests.
import { env } from 'cloudflare:workers'
import { importJWK, SignJWT } from 'jose'
import { app } from '../../src/app.ts'

/** What a good token of the operator says; global-setup.ts configures the issuer. */
export const OPERATOR = {
  iss: 'https://operator.example.com',
  aud: 'https://api.rekko.test/v1/operator',
  sub: 'olivia',
  scope: 'operator:read operator:write',
}

/** A token of the operator's issuer; a claim that is undefined is left out. */
export async function operatorToken(claims: Record<string, unknown> = {}, typ = 'at+jwt'): Promise<string> {
  const now = Math.floor(Date.now() / 1000)
  const all = { ...OPERATOR, iat: now, exp: now + 300, ...claims }
  return new SignJWT(JSON.parse(JSON.stringify(all)))
    .setProtectedHeader({ alg: 'ES256', typ, kid: 'operator' })
    .sign(await importJWK(JSON.parse(env.TEST.operatorKey), 'ES256'))
}

/** A request with a token of the operator, or with another credential. */
export async function operate(
  method: string,
  path: string,
  body?: unknown,
  { credential, bindings = env, headers = {} }: OperatorOptions = {},
): Promise<Response> {
  return app.request(
    `/v1/operator${path}`,
    {
      method,
      headers: {
        Authorization: `Bearer ${credential ?? (await operatorToken())}`,
        ...(body !== undefined && { 'Content-Type': 'application/json' }),
        ...headers,
      },
      // a string goes as it is, so that a test can send what is not JSON
      ...(body !== undefined && { body: typeof body === 'string' ? body : JSON.stringify(body) }),
    },
    bindings,
  )
}

export interface OperatorOptions {
  credential?: string
  bindings?: typeof env
  headers?: Record<string, string>
}
