// Proves the signature check against vectors that others made, inside workerd: Wycheproof's, read from the folder
// REKKO_WYCHEPROOF_DIR and skipped, saying so, without it; and those of the RFCs. Nothing is fake.
import { env } from 'cloudflare:workers'
import { compactVerify } from 'jose'
import { describe, expect, it } from 'vitest'
import { isObject } from '../../src/auth/canonical.ts'
import { TOKEN_ALGORITHMS } from '../../src/auth/issuer.ts'
import { toCryptoKey, toKeySet } from '../../src/auth/jwk.ts'
import { TokenRefused, verifySignature } from '../../src/auth/jwt.ts'

interface Group {
  comment: string
  /** One key or a set of them; the private half alone where the algorithm is symmetric. */
  public?: unknown
  private?: unknown
  tests: { tcId: number; comment: string; jws: string; result: 'valid' | 'invalid' | 'acceptable' }[]
}

const wycheproof = env.TEST.wycheproof
if (wycheproof === null) console.log('skipped: REKKO_WYCHEPROOF_DIR names no folder with the vectors of Wycheproof')

/** Why it is refused, null when it is accepted: what production does with any issuer's keys and algorithms. */
async function refusalOf(token: string, published: unknown): Promise<string | null> {
  const keys = toKeySet(isObject(published) && 'keys' in published ? published : { keys: [published] })
  try {
    await verifySignature(token, TOKEN_ALGORITHMS, (kid) => keys?.get(kid) ?? null)
    return null
  } catch (error) {
    if (error instanceof TokenRefused) return error.reason
    throw error
  }
}

/** The vectors of which we think otherwise than their authors: {tcId: our reason}. */
async function listDeviations(text: string): Promise<{ deviations: Record<string, string>; total: number }> {
  // the schema of the file
  const { testGroups } = JSON.parse(text) as { testGroups: Group[] }
  const deviations: Record<string, string> = {}
  let total = 0
  for (const group of testGroups) {
    for (const { tcId, jws, result } of group.tests) {
      total++
      const refusal = await refusalOf(jws, group.public ?? group.private)
      if (result !== (refusal === null ? 'valid' : 'invalid')) deviations[tcId] = refusal ?? 'accepted'
    }
  }
  return { deviations, total }
}

describe.skipIf(wycheproof === null)('the vectors of Wycheproof', () => {
  it('for signatures are judged as their authors judge them, but for those listed', async () => {
    // HMAC: nobody may verify who could also sign
    const symmetric = [1, 348, 352, 357, 358, 359, 376, 377].map((tcId) => [tcId, 'algorithm'])
    // no claims at all: no token
    const emptyPayload = [259, 264, 268, 272, 320, 325].map((tcId) => [tcId, 'malformed'])
    // called valid although characters that are not base64url were put in (and HMAC besides)
    const laxBase64 = [372, 373].map((tcId) => [tcId, 'malformed'])
    // the key says PS256 and the token PS384; the key says ES521, which is no algorithm (figures 20 and 27 of RFC
    // 7520, whose keys name none: see below)
    const otherAlgorithm = [346, 347, 350, 351].map((tcId) => [tcId, 'key'])
    expect(await listDeviations(wycheproof?.signatures ?? '')).toEqual({
      deviations: Object.fromEntries([...symmetric, ...emptyPayload, ...laxBase64, ...otherAlgorithm]),
      total: 401,
    })
  })

  it('for keys are judged as their authors judge them, but for those listed', async () => {
    // HMAC again
    const symmetric = [2, 13, 14, 15].map((tcId) => [tcId, 'algorithm'])
    expect(await listDeviations(wycheproof?.keys ?? '')).toEqual({
      deviations: Object.fromEntries(symmetric),
      total: 26,
    })
  })
})

describe('the vectors of the RFCs', () => {
  // RFC 7520 section 4: one text, signed by one hobbit
  const PAYLOAD =
    'SXTigJlzIGEgZGFuZ2Vyb3VzIGJ1c2luZXNzLCBGcm9kbywgZ29pbmcgb3V0IHlvdXIgZG9vci4gWW91IHN0ZXAgb250byB0aGUgcm9hZCwg' +
    'YW5kIGlmIHlvdSBkb24ndCBrZWVwIHlvdXIgZmVldCwgdGhlcmXigJlzIG5vIGtub3dpbmcgd2hlcmUgeW91IG1pZ2h0IGJlIHN3ZXB0IG9m' +
    'ZiB0by4'
  const RSA = {
    kty: 'RSA',
    kid: 'bilbo.baggins@hobbiton.example',
    use: 'sig',
    n:
      'n4EPtAOCc9AlkeQHPzHStgAbgs7bTZLwUBZdR8_KuKPEHLd4rHVTeT-O-XV2jRojdNhxJWTDvNd7nqQ0VEiZQHz_AJmSCpMaJMRBSFKrKb2w' +
      'qVwGU_NsYOYL-QtiWN2lbzcEe6XC0dApr5ydQLrHqkHHig3RBordaZ6Aj-oBHqFEHYpPe7Tpe-OfVfHd1E6cS6M1FZcD1NNLYD5lFHpPI9bT' +
      'wJlsde3uhGqC0ZCuEHg8lhzwOHrtIQbS0FVbb9k3-tVTU4fg_3L_vniUFAKwuCLqKnS2BYwdq_mzSnbLY7h_qixoR7jig3__kRhuaxwUkRz5' +
      'iaiQkqgc5gHdrNP5zw',
    e: 'AQAB',
  }
  const P521 = {
    kty: 'EC',
    kid: 'bilbo.baggins@hobbiton.example',
    use: 'sig',
    crv: 'P-521',
    x: 'AHKZLLOsCOzz5cY97ewNUajB957y-C-U88c3v13nmGZx6sYl_oJXu9A5RkTKqjqvjyekWF-7ytDyRXYgCF5cj0Kt',
    y: 'AdymlHvOiLxXkEhayXQnNCvDX4h9htZaCJN34kfmC6pV5OhQHiraVySsUdaQkAgDPrwQrJmbnX9cwlGfP-HqHZR1',
  }

  it.each([
    [
      '4.1, RS256',
      RSA,
      'eyJhbGciOiJSUzI1NiIsImtpZCI6ImJpbGJvLmJhZ2dpbnNAaG9iYml0b24uZXhhbXBsZSJ9',
      'MRjdkly7_-oTPTS3AXP41iQIGKa80A0ZmTuV5MEaHoxnW2e5CZ5NlKtainoFmKZopdHM1O2U4mwzJdQx996ivp83xuglII7PNDi84wnB-BDk' +
        'oBwA78185hX-Es4JIwmDLJK3lfWRa-XtL0RnltuYv746iYTh_qHRD68BNt1uSNCrUCTJDt5aAE6x8wW1Kt9eRo4QPocSadnHXFxnt8Is9Uzp' +
        'ERV0ePPQdLuW3IS_de3xyIrDaLGdjluPxUAhb6L2aXic1U12podGU0KLUQSE_oI-ZnmKJ3F4uOZDnd6QZWJushZ41Axf_fcIe8u9ipH84ogo' +
        'ree7vjbU5y18kDquDg',
    ],
    [
      '4.2, PS384',
      RSA,
      'eyJhbGciOiJQUzM4NCIsImtpZCI6ImJpbGJvLmJhZ2dpbnNAaG9iYml0b24uZXhhbXBsZSJ9',
      'cu22eBqkYDKgIlTpzDXGvaFfz6WGoz7fUDcfT0kkOy42miAh2qyBzk1xEsnk2IpN6-tPid6VrklHkqsGqDqHCdP6O8TTB5dDDItllVo6_1OL' +
        'PpcbUrhiUSMxbbXUvdvWXzg-UD8biiReQFlfz28zGWVsdiNAUf8ZnyPEgVFn442ZdNqiVJRmBqrYRXe8P_ijQ7p8Vdz0TTrxUeT3lm8d9shn' +
        'r2lfJT8ImUjvAA2Xez2Mlp8cBE5awDzT0qI0n6uiP1aCN_2_jLAeQTlqRHtfa64QQSUmFAAjVKPbByi7xho0uTOcbH510a6GYmJUAfmWjwZ6' +
        'oD4ifKo8DYM-X72Eaw',
    ],
    [
      '4.3, ES512',
      P521,
      'eyJhbGciOiJFUzUxMiIsImtpZCI6ImJpbGJvLmJhZ2dpbnNAaG9iYml0b24uZXhhbXBsZSJ9',
      'AE_R_YZCChjn4791jSQCrdPZCNYqHXCTZH0-JZGYNlaAjP2kqaluUIIUnC9qvbu9Plon7KRTzoNEuT4Va2cmL1eJAQy3mtPBu_u_sDDyYjnA' +
        'MDxXPn7XrT0lw-kvAD890jl8e2puQens_IEKBpHABlsbEPX6sFY8OcGDqoRuBomu9xQ2',
    ],
  ])(
    '7520 section %s, are accepted as they stand and refused when one bit differs',
    async (_, key, header, signature) => {
      expect(await refusalOf(`${header}.${PAYLOAD}.${signature}`, key)).toBeNull()
      expect(await refusalOf(`${header}.${PAYLOAD.replace('SXTi', 'SXTj')}.${signature}`, key)).toBe('signature')
      const changed = (signature.startsWith('A') ? 'B' : 'A') + signature.slice(1)
      expect(await refusalOf(`${header}.${PAYLOAD}.${changed}`, key)).toBe('signature')
    },
  )

  it.each([
    [
      '7515 appendix A.3, ES256',
      'ES256' as const,
      {
        kty: 'EC',
        crv: 'P-256',
        x: 'f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU',
        y: 'x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0',
      },
      'eyJhbGciOiJFUzI1NiJ9.eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0' +
        'cnVlfQ.DtEhU3ljbEg8L38VWAfUAqOyKAM6-Xx-F4GawxaepmXFCgfTjDxw5djxLa8ISlSApmWQxfKTUJqPP3-Kg6NU1Q',
    ],
    [
      '8037 appendix A.4, EdDSA',
      'EdDSA' as const,
      { kty: 'OKP', crv: 'Ed25519', x: '11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo' },
      'eyJhbGciOiJFZERTQSJ9.RXhhbXBsZSBvZiBFZDI1NTE5IHNpZ25pbmc.hgyY0il_MGCjP0JzlnLWG1PPOt7-09PGcvMg3AIbQR6dWbhijcNR' +
        '4ki4iylGjg5BhVsPt9g7sVvpAr_MuM0KAg',
    ],
  ])('%s, name no key and are refused for that, though their key verifies them', async (_, algorithm, jwk, token) => {
    expect(await refusalOf(token, { ...jwk, kid: 'a' })).toBe('key')
    const key = toKeySet({ keys: [{ ...jwk, kid: 'a' }] })?.get('a')
    const cryptoKey = key && (await toCryptoKey(key, algorithm))
    if (!cryptoKey) throw new Error('the key is not trusted')
    expect(await compactVerify(token, cryptoKey)).toMatchObject({ protectedHeader: { alg: algorithm } })
  })
})
