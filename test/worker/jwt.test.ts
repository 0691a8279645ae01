// Proves that a token gets in only with the right form, header, key, signature and claims, at and beyond each limit.
// Real keys and signatures, made here; the clock is a parameter. Nothing is fake.
import fc from 'fast-check'
import { base64url, compactVerify, importJWK } from 'jose'
import { beforeAll, describe, expect, it } from 'vitest'
import { type Issuer, TOKEN_ALGORITHMS, type TokenAlgorithm } from '../../src/auth/issuer.ts'
import { toTrustedKey } from '../../src/auth/jwk.ts'
import {
  findIssuerName,
  type Refusal,
  TokenRefused,
  type VerifiedToken,
  verifySignature,
  verifyToken,
} from '../../src/auth/jwt.ts'
import { createSigner, encode, type Signer } from './tokens.ts'

const NOW = 1_800_000_000
const TENANT = '0190b2f4-5c1e-7a3b-9d2e-3f4a5b6c7d8e'
const CLAIMS = {
  iss: 'https://id.example.com',
  aud: 'https://api.rekko.test',
  sub: 'gate-7',
  iat: NOW,
  exp: NOW + 900,
  tenant_id: TENANT,
  scope: 'verify identify',
}

let signer: Signer
let rsa: Signer
let issuer: Issuer

beforeAll(async () => {
  signer = await createSigner('ES256')
  rsa = await createSigner('RS256')
  issuer = issuerOf(signer, rsa)
})

function issuerOf(...signers: Signer[]): Issuer {
  return {
    issuer: CLAIMS.iss,
    audience: CLAIMS.aud,
    algorithms: [...TOKEN_ALGORITHMS],
    tokenType: 'at+jwt',
    keys: { jwks: { keys: signers.map(({ jwk }) => jwk) } },
    tenantClaim: 'tenant_id',
    scopeClaim: 'scope',
  }
}

/** @param seconds of the clock, since 1970 */
function verify(token: string, by: Partial<Issuer> = {}, seconds = NOW): Promise<VerifiedToken> {
  return verifyToken(token, { ...issuer, ...by }, { allowsLoopback: false, now: seconds * 1000 })
}

/** Why the token is refused, or what it is good for. */
async function outcome(token: string, by: Partial<Issuer> = {}, seconds = NOW): Promise<Refusal | VerifiedToken> {
  try {
    return await verify(token, by, seconds)
  } catch (error) {
    if (error instanceof TokenRefused) return error.reason
    throw error
  }
}

/** The claims of CLAIMS, but for these; a claim that is undefined is left out. */
function withClaims(claims: Record<string, unknown>): Promise<string> {
  return signer.sign({ ...CLAIMS, ...claims })
}

const ACCEPTED = { tenantId: TENANT, scopes: ['verify', 'identify'], subject: 'gate-7', expiresAt: NOW + 900 }

describe('a good token', () => {
  it.each(TOKEN_ALGORITHMS)('is accepted with %s', async (algorithm) => {
    const own = await createSigner(algorithm)
    expect(await verify(await own.sign(CLAIMS), issuerOf(own))).toEqual(ACCEPTED)
  })

  it('is accepted when its key names no algorithm', async () => {
    const { alg: _, ...jwk } = rsa.jwk
    expect(await verify(await rsa.sign(CLAIMS), { keys: { jwks: { keys: [jwk] } } })).toEqual(ACCEPTED)
  })

  it('needs no subject, scopes or start', async () => {
    expect(await verify(await withClaims({ sub: undefined, scope: undefined }))).toEqual({
      ...ACCEPTED,
      subject: null,
      scopes: [],
    })
  })

  it('of an issuer without tenants speaks for none, whatever it says', async () => {
    expect((await verify(await signer.sign(CLAIMS), { tenantClaim: null })).tenantId).toBeNull()
  })

  it('has its tenant and scopes in the claims that the issuer uses', async () => {
    const token = await withClaims({ tenant_id: undefined, 'https://rekko.dev/tenant': TENANT, scp: ['faces:read'] })
    const by = { tenantClaim: 'https://rekko.dev/tenant', scopeClaim: 'scp' }
    expect(await verify(token, by)).toEqual({ ...ACCEPTED, scopes: ['faces:read'] })
  })
})

describe('the form', () => {
  it('takes 8,192 characters and not one more', async () => {
    const ofLength = async (length: number) => {
      for (let pad = length; pad > 0; pad--) {
        for (const filler of ['', 'a', 'aa']) {
          if (Math.ceil(((pad + 250) * 4) / 3) > length + 100) continue
          const header = { filler }
          const claims = { ...CLAIMS, filler: 'a'.repeat(pad) }
          const full = encode({ alg: 'ES256', typ: 'at+jwt', kid: signer.kid, ...header })
          if (full.length + encode(claims).length + 88 === length) return signer.sign(claims, header)
        }
      }
      throw new RangeError('no token of this length')
    }
    const [longest, tooLong] = [await ofLength(8192), await ofLength(8193)]
    expect([longest.length, tooLong.length]).toEqual([8192, 8193])
    expect(await outcome(longest)).toEqual(ACCEPTED)
    expect(findIssuerName(longest)).toBe(CLAIMS.iss)
    expect(await outcome(tooLong)).toBe('malformed')
    expect(findIssuerName(tooLong)).toBeNull()
  })

  it('has three parts, none of them empty', async () => {
    const [header, claims, signature] = (await signer.sign(CLAIMS)).split('.')
    const forms = [
      `${header}.${claims}`,
      `${header}.${claims}.${signature}.`,
      `${header}.${claims}.${signature}.${signature}`,
      `${header}.${claims}.`,
      `${header}..${signature}`,
      `.${claims}.${signature}`,
      '..',
      '',
    ]
    for (const form of forms) expect([form, await outcome(form)]).toEqual([form, 'malformed'])
  })

  it('is the one canonical spelling, of those that jose takes', async () => {
    // fillers so that header and claims end in unused bits
    const header = {
      filler: 'a'.repeat(
        3 - ((JSON.stringify({ alg: 'ES256', typ: 'at+jwt', kid: signer.kid, filler: '' }).length + 1) % 3),
      ),
    }
    const claims = { ...CLAIMS, filler: 'a'.repeat(3 - ((JSON.stringify({ ...CLAIMS, filler: '' }).length + 1) % 3)) }
    const token = await signer.sign(claims, header)
    const parts = token.split('.')
    expect(await outcome(token)).toEqual(ACCEPTED)

    const variants = parts.flatMap((part, index) => {
      const put = (other: string) => parts.map((original, at) => (at === index ? other : original)).join('.')
      return [
        put(`${part}=`),
        put(`${part}==`),
        put(`${part}\n`),
        put(` ${part}`),
        put(`${part.slice(0, 4)}\t${part.slice(4)}`),
        put(`${part}%3D`),
        put(`${part.slice(0, 4)}+${part.slice(5)}`),
        put(`${part.slice(0, 4)}/${part.slice(5)}`),
        put(withOtherUnusedBits(part)),
      ]
    })
    for (const variant of variants) {
      expect([variant, await outcome(variant)]).toEqual([variant, 'malformed'])
      expect(findIssuerName(variant)).toBeNull()
    }
    // what makes the check ours to do
    const [first, second, signature = ''] = parts
    const respelled = `${first}.${second}.${withOtherUnusedBits(signature)}`
    await compactVerify(respelled, await importJWK(signer.jwk))
  })

  it('is JSON objects in UTF-8 with distinct names at any depth', async () => {
    const claims = JSON.stringify(CLAIMS)
    const header = JSON.stringify({ alg: 'ES256', typ: 'at+jwt', kid: signer.kid })
    const spliced = (text: string, members: string) => `${text.slice(0, -1)},${members}}`
    const bad = [
      spliced(claims, `"tenant_id":"${TENANT}"`),
      spliced(claims, '"\\u0065xp":1'),
      spliced(claims, '"act":{"sub":"a","sub":"b"}'),
      spliced(claims, '"__proto__":{}'),
      spliced(claims, `"deep":${'['.repeat(8)}${']'.repeat(8)}`),
      `[${claims}]`,
      `${claims}x`,
      `\ufeff${claims}`,
      'null',
      '"text"',
      'foo',
    ]
    for (const text of bad) expect([text, await outcome(await signer.sign(text))]).toEqual([text, 'malformed'])
    const notUtf8 = new Uint8Array([...new TextEncoder().encode('{"iss":"'), 0xff, 0x22, 0x7d])
    expect(await outcome(await signer.sign(notUtf8))).toBe('malformed')
    expect(await outcome(await signer.sign(spliced(claims, `"deep":${'['.repeat(7)}${']'.repeat(7)}`)))).toEqual(
      ACCEPTED,
    )

    for (const text of [spliced(header, '"alg":"ES256"'), `[${header}]`, 'null', `${header}x`]) {
      expect([text, await outcome(await signer.sign(CLAIMS, text))]).toEqual([text, 'malformed'])
    }
  })

  it('does not survive the change of any one character', async () => {
    const token = await signer.sign(CLAIMS)
    const alphabet = 'ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_.= '
    await fc.assert(
      fc.asyncProperty(fc.nat(token.length - 1), fc.constantFrom(...alphabet), async (index, character) => {
        fc.pre(token[index] !== character)
        expect(await outcome(token.slice(0, index) + character + token.slice(index + 1))).toBeTypeOf('string')
      }),
      { numRuns: 300 },
    )
  })
})

describe('the name of the issuer', () => {
  it('is read from any token, whoever signed it', async () => {
    const stranger = await createSigner('ES256')
    expect(findIssuerName(await stranger.sign({ iss: 'https://elsewhere.example.com' }))).toBe(
      'https://elsewhere.example.com',
    )
  })

  it('is a string of 1 to 2,048 characters', async () => {
    const nameOf = async (iss: unknown) => findIssuerName(await signer.sign({ iss }))
    expect(await nameOf('a'.repeat(2048))).toBe('a'.repeat(2048))
    for (const iss of ['a'.repeat(2049), '', 1, null, ['a'], { a: 1 }, undefined, 'a\u0000', '\ud800']) {
      expect([iss, await nameOf(iss)]).toEqual([iss, null])
    }
  })

  it('is null for anything else, without an error', () => {
    fc.assert(
      fc.property(fc.string({ unit: 'binary', maxLength: 60 }), (text) => {
        expect(findIssuerName(text)).toBeNull()
        expect(findIssuerName(`e30.${encode(text)}.e30`)).toBeNull()
      }),
    )
  })
})

describe('the algorithm', () => {
  it('is never none, in any case', async () => {
    for (const alg of ['none', 'None', 'nOnE', 'NONE', '', null, undefined, 1, ['ES256']]) {
      const [header, claims, signature] = (await signer.sign(CLAIMS, { alg })).split('.')
      for (const token of [`${header}.${claims}.${signature}`, `${header}.${claims}.AA`]) {
        expect([alg, await outcome(token)]).toEqual([alg, 'algorithm'])
      }
      expect(await outcome(`${header}.${claims}.`)).toBe('malformed')
    }
  })

  it('is never HMAC, though the secret be the public key', async () => {
    const publicKey = await crypto.subtle.importKey(
      'jwk',
      rsa.jwk,
      { name: 'RSASSA-PKCS1-v1_5', hash: 'SHA-256' },
      true,
      ['verify'],
    )
    // exported as "spki", so it is a buffer
    const der = new Uint8Array((await crypto.subtle.exportKey('spki', publicKey)) as ArrayBuffer)
    const base64 = btoa(String.fromCharCode(...der))
    const pem = `-----BEGIN PUBLIC KEY-----\n${base64.replace(/.{64}/g, '$&\n')}\n-----END PUBLIC KEY-----\n`
    for (const secret of [der, new TextEncoder().encode(pem), base64url.decode(String(rsa.jwk.n))]) {
      const key = await crypto.subtle.importKey('raw', secret, { name: 'HMAC', hash: 'SHA-256' }, false, ['sign'])
      const input = `${encode({ alg: 'HS256', typ: 'at+jwt', kid: rsa.kid })}.${encode(CLAIMS)}`
      const mac = new Uint8Array(await crypto.subtle.sign('HMAC', key, new TextEncoder().encode(input)))
      const token = `${input}.${encode(mac)}`
      expect(await outcome(token)).toBe('algorithm')
      // nor when a damaged row says so; the type knows better
      expect(await outcome(token, { algorithms: ['HS256' as TokenAlgorithm] })).toBe('algorithm')
    }
  })

  it('is one that the issuer uses', async () => {
    const token = await signer.sign(CLAIMS)
    expect(await outcome(token, { algorithms: ['ES256'] })).toEqual(ACCEPTED)
    expect(await outcome(token, { algorithms: ['RS256', 'ES384'] })).toBe('algorithm')
  })

  it('is the one of the key', async () => {
    // the same RSA key could verify both
    const signature = (await rsa.sign(CLAIMS)).split('.')[2]
    const asPss = `${encode({ alg: 'PS256', typ: 'at+jwt', kid: rsa.kid })}.${encode(CLAIMS)}.${signature}`
    expect(await outcome(asPss)).toBe('key')
    const asRsa = `${encode({ alg: 'RS256', typ: 'at+jwt', kid: signer.kid })}.${encode(CLAIMS)}.${signature}`
    expect(await outcome(asRsa)).toBe('key')
    const { alg: _, ...jwk } = rsa.jwk
    expect(await outcome(asPss, { keys: { jwks: { keys: [jwk] } } })).toBe('signature')
  })
})

describe('the header', () => {
  it('may not bring a key or say where one lies', async () => {
    const attacker = await createSigner('ES256', { kid: signer.kid })
    const headers = [
      { jwk: attacker.jwk },
      { jwk: signer.jwk },
      { jku: 'https://attacker.example.com/jwks.json' },
      { x5u: 'https://attacker.example.com/cert.pem' },
      { x5c: ['MIIB'] },
      { jwk: null },
    ]
    for (const header of headers) {
      expect([header, await outcome(await attacker.sign(CLAIMS, header))]).toEqual([header, 'header'])
      expect([header, await outcome(await signer.sign(CLAIMS, header))]).toEqual([header, 'header'])
    }
    expect(await outcome(await attacker.sign(CLAIMS))).toBe('signature')
    // names a certificate and brings none: common, and of no effect
    expect(await outcome(await signer.sign(CLAIMS, { x5t: 'abc' }))).toEqual(ACCEPTED)
  })

  it('may not ask for an extension', async () => {
    for (const header of [{ crit: ['exp'], exp: 1 }, { crit: [] }, { crit: ['b64'], b64: false }, { b64: true }]) {
      expect([header, await outcome(await signer.sign(CLAIMS, header))]).toEqual([header, 'header'])
    }
  })

  it('names a key of the issuer', async () => {
    const kids = [
      undefined,
      null,
      1,
      '',
      ['a'],
      `../../${signer.kid}`,
      "' or 1=1 --",
      '__proto__',
      'constructor',
      `${signer.kid} `,
    ]
    for (const kid of kids) expect([kid, await outcome(await signer.sign(CLAIMS, { kid }))]).toEqual([kid, 'key'])
  })

  it('without a kid is refused before anybody looks for a key', async () => {
    const key = toTrustedKey(signer.jwk)
    const find = () => (typeof key === 'string' ? null : key)
    const refused = verifySignature(await signer.sign(CLAIMS, { kid: undefined }), ['ES256'], find)
    await expect(refused).rejects.toMatchObject({ reason: 'key' })
    const { header } = await verifySignature(await signer.sign(CLAIMS), ['ES256'], find)
    expect(header['kid']).toBe(signer.kid)
  })

  it('has the type of the issuer, as RFC 7515 compares them', async () => {
    const typed = async (typ: unknown, by: Partial<Issuer> = {}) => outcome(await signer.sign(CLAIMS, { typ }), by)
    for (const typ of ['at+jwt', 'AT+JWT', 'application/at+jwt', 'Application/At+Jwt']) {
      expect([typ, await typed(typ)]).toEqual([typ, ACCEPTED])
    }
    for (const typ of ['JWT', 'at+jwt ', 'x/at+jwt', 'application/x/at+jwt', '', undefined, null, 1, ['at+jwt']]) {
      expect([typ, await typed(typ)]).toEqual([typ, 'type'])
    }
    for (const typ of ['JWT', 'jwt', 'application/jwt'])
      expect(await typed(typ, { tokenType: 'JWT' })).toEqual(ACCEPTED)
    for (const typ of ['at+jwt', 'dpop+jwt', undefined]) expect(await typed(typ, { tokenType: 'JWT' })).toBe('type')
  })
})

describe('the signature', () => {
  it('is of the key that the header names', async () => {
    const own = await signer.sign(CLAIMS)
    const other = await signer.sign({ ...CLAIMS, sub: 'gate-8' })
    const [header, claims] = own.split('.')
    expect(await outcome(`${header}.${claims}.${other.split('.')[2]}`)).toBe('signature')
    for (const bytes of [
      new Uint8Array(64),
      new Uint8Array(63).fill(1),
      new Uint8Array(65).fill(1),
      new Uint8Array(1),
    ]) {
      expect(await outcome(`${header}.${claims}.${encode(bytes)}`)).toBe('signature')
    }
  })

  it('of one issuer is worth nothing with another that has the same kid', async () => {
    const rival = await createSigner('ES256', { kid: signer.kid })
    const ofRival = { ...issuerOf(rival), issuer: 'https://rival.example.com' }
    const rivals = await rival.sign({ ...CLAIMS, iss: 'https://rival.example.com' })
    expect(await outcome(rivals, ofRival)).toEqual(ACCEPTED)
    // the rival may sign what it likes: it is checked with the keys of the issuer that it names
    expect(await outcome(await rival.sign(CLAIMS))).toBe('signature')
    expect(await outcome(await rival.sign(CLAIMS), ofRival)).toBe('issuer')
    expect(await outcome(await signer.sign(CLAIMS), ofRival)).toBe('signature')
  })

  it('has a twin in ECDSA, which is why nothing may be keyed by a token', async () => {
    const order = 0xffffffff00000000ffffffffffffffffbce6faada7179e84f3b9cac2fc632551n
    const [header, claims, signature = ''] = (await signer.sign(CLAIMS)).split('.')
    const hex = Array.from(base64url.decode(signature), (byte) => byte.toString(16).padStart(2, '0')).join('')
    const twin = hex.slice(0, 64) + (order - BigInt(`0x${hex.slice(64)}`)).toString(16).padStart(64, '0')
    const bytes = Uint8Array.from(twin.match(/../g) ?? [], (pair) => Number.parseInt(pair, 16))
    expect(await outcome(`${header}.${claims}.${encode(bytes)}`)).toEqual(ACCEPTED)
  })
})

describe('the keys', () => {
  it.each([
    ['RSA of 1,024 bits', { bits: 1024 }],
    ['RSA with the exponent 3', { exponent: [3] }],
  ])('exclude %s, though the signature is good', async (_, options) => {
    const weak = await createSigner('RS256', options)
    const token = await weak.sign(CLAIMS)
    expect(await outcome(token, issuerOf(weak))).toBe('key')
    const hash = 'SHA-256'
    const key = await crypto.subtle.importKey('jwk', weak.jwk, { name: 'RSASSA-PKCS1-v1_5', hash }, false, ['verify'])
    const [header, claims, signature = ''] = token.split('.')
    const input = new TextEncoder().encode(`${header}.${claims}`)
    expect(await crypto.subtle.verify('RSASSA-PKCS1-v1_5', key, base64url.decode(signature), input)).toBe(true)
  })

  it('exclude a point that is not on its curve: the import sees it', async () => {
    const other = await createSigner('ES256')
    const off = { ...signer.jwk, y: other.jwk.y }
    expect(await outcome(await signer.sign(CLAIMS), { keys: { jwks: { keys: [off] } } })).toBe('key')
  })

  it('exclude an Ed25519 point for which anybody can sign', async () => {
    const identity = new Uint8Array(32)
    identity[0] = 1
    const jwk = { kty: 'OKP', crv: 'Ed25519', x: encode(identity), kid: 'small' }
    const input = `${encode({ alg: 'EdDSA', typ: 'at+jwt', kid: 'small' })}.${encode(CLAIMS)}`
    // R the identity, s zero: no private key was used
    const forged = new Uint8Array(64)
    forged[0] = 1
    expect(await outcome(`${input}.${encode(forged)}`, { keys: { jwks: { keys: [jwk] } } })).toBe('key')
    const key = await crypto.subtle.importKey('jwk', jwk, { name: 'Ed25519' }, false, ['verify'])
    expect(await crypto.subtle.verify('Ed25519', key, forged, new TextEncoder().encode(input))).toBe(true)
  })

  it('of one kid exclude each other', async () => {
    const twin = await createSigner('ES256', { kid: signer.kid })
    for (const pair of [
      [signer, twin],
      [twin, signer],
    ]) {
      expect(await outcome(await signer.sign(CLAIMS), issuerOf(...pair, rsa))).toBe('key')
      expect(await outcome(await rsa.sign(CLAIMS), issuerOf(...pair, rsa))).toEqual(ACCEPTED)
    }
  })
})

describe('the issuer and the audience', () => {
  it('has exactly the name that is configured', async () => {
    for (const iss of [
      `${CLAIMS.iss}/`,
      CLAIMS.iss.slice(0, -1),
      CLAIMS.iss.toUpperCase(),
      [CLAIMS.iss],
      undefined,
      null,
    ]) {
      expect([iss, await outcome(await withClaims({ iss }))]).toEqual([iss, 'issuer'])
    }
  })

  it('means us, alone or among others', async () => {
    for (const aud of [CLAIMS.aud, [CLAIMS.aud], ['https://other.example.com', CLAIMS.aud]]) {
      expect([aud, await outcome(await withClaims({ aud }))]).toEqual([aud, ACCEPTED])
    }
    const others = [
      `${CLAIMS.aud}.attacker.example.com`,
      `${CLAIMS.aud}/`,
      CLAIMS.aud.slice(0, -1),
      `${CLAIMS.aud} ${CLAIMS.aud}`,
      [],
      [`${CLAIMS.aud}x`],
      [[CLAIMS.aud]],
      [CLAIMS.aud, 1],
      { [CLAIMS.aud]: true },
      null,
      undefined,
    ]
    for (const aud of others) expect([aud, await outcome(await withClaims({ aud }))]).toEqual([aud, 'audience'])
  })
})

describe('the clock', () => {
  it('may be 30 seconds behind or ahead at the end', async () => {
    const token = await withClaims({ exp: NOW, iat: NOW - 900 })
    for (const seconds of [-31, -29, 0, 29, 29.999]) {
      expect([seconds, await outcome(token, {}, NOW + seconds)]).toEqual([seconds, { ...ACCEPTED, expiresAt: NOW }])
    }
    for (const seconds of [30, 31, 3600]) {
      expect([seconds, await outcome(token, {}, NOW + seconds)]).toEqual([seconds, 'expired'])
    }
  })

  it('may be 30 seconds behind at the start, by iat and by nbf', async () => {
    const tokens = [
      await withClaims({}),
      await withClaims({ iat: NOW - 60, nbf: NOW }),
      await withClaims({ iat: NOW, nbf: NOW - 60 }),
    ]
    for (const token of tokens) {
      for (const seconds of [-30, -29, 0, 29, 31]) {
        expect([seconds, await outcome(token, {}, NOW + seconds)]).toEqual([seconds, ACCEPTED])
      }
      for (const seconds of [-30.001, -31, -3600]) {
        expect([seconds, await outcome(token, {}, NOW + seconds)]).toEqual([seconds, 'not_yet_valid'])
      }
    }
  })

  it('is the real one unless a test says otherwise', async () => {
    const seconds = Math.floor(Date.now() / 1000)
    const current = await withClaims({ iat: seconds, exp: seconds + 60 })
    const past = await withClaims({ iat: seconds - 600, exp: seconds - 60 })
    expect((await verifyToken(current, issuer, { allowsLoopback: false })).expiresAt).toBe(seconds + 60)
    await expect(verifyToken(past, issuer, { allowsLoopback: false })).rejects.toMatchObject({ reason: 'expired' })
  })

  it('leaves a token an hour to live, and some time', async () => {
    expect(await outcome(await withClaims({ exp: NOW + 3600 }))).toEqual({ ...ACCEPTED, expiresAt: NOW + 3600 })
    for (const exp of [NOW + 3601, NOW, NOW - 1, Number.MAX_SAFE_INTEGER]) {
      expect([exp, await outcome(await withClaims({ exp }))]).toEqual([exp, 'lifetime'])
    }
  })

  it('reads whole numbers only', async () => {
    for (const name of ['exp', 'iat']) {
      for (const value of [undefined, null, String(NOW), NOW + 0.5, [NOW], true, {}]) {
        expect([name, value, await outcome(await withClaims({ [name]: value }))]).toEqual([name, value, 'claims'])
      }
    }
    for (const nbf of [null, String(NOW), NOW + 0.5]) expect(await outcome(await withClaims({ nbf }))).toBe('claims')
    for (const literal of ['1e308', '1e999', '-1e308']) {
      const claims = JSON.stringify(CLAIMS).replace(`"exp":${CLAIMS.exp}`, `"exp":${literal}`)
      expect([literal, await outcome(await signer.sign(claims))]).toEqual([literal, 'claims'])
    }
  })
})

describe('the tenant', () => {
  it('is one UUID in lower case', async () => {
    const others = [
      TENANT.toUpperCase(),
      TENANT.replaceAll('-', ''),
      `{${TENANT}}`,
      `${TENANT} `,
      `${TENANT}\n`,
      [TENANT],
      [TENANT, '0190b2f4-5c1e-7a3b-9d2e-3f4a5b6c7d8f'],
      { id: TENANT },
      1,
      '',
      null,
      undefined,
    ]
    for (const id of others) expect([id, await outcome(await withClaims({ tenant_id: id }))]).toEqual([id, 'tenant'])
  })

  it('is no property that every object has', async () => {
    expect(await outcome(await signer.sign(CLAIMS), { tenantClaim: 'constructor' })).toBe('tenant')
  })
})

describe('scopes and subject', () => {
  it('are words in a string, or an array', async () => {
    const scopes = async (scope: unknown) => {
      const result = await outcome(await withClaims({ scope }))
      return typeof result === 'string' ? result : result.scopes
    }
    const fifty = Array.from({ length: 50 }, (_, index) => `scope-${index}`)
    expect(await scopes('verify')).toEqual(['verify'])
    expect(await scopes('')).toEqual([])
    expect(await scopes([])).toEqual([])
    expect(await scopes(['verify', 'no such scope'])).toEqual(['verify', 'no such scope'])
    expect(await scopes(fifty)).toEqual(fifty)
    expect(await scopes(fifty.join(' '))).toEqual(fifty)
    const others = [
      [...fifty, 'more'],
      `${fifty.join(' ')} more`,
      'a  b',
      ' a',
      'a ',
      'a\tb',
      [1],
      [['verify']],
      [''],
      { verify: true },
      1,
      null,
      true,
    ]
    for (const scope of others) expect([scope, await scopes(scope)]).toEqual([scope, 'claims'])
    expect(await outcome(await signer.sign(CLAIMS), { scopeClaim: 'constructor' })).toBe('claims')
  })

  it('take a subject of 1 to 255 characters that a database can take', async () => {
    const longest = 'a'.repeat(255)
    expect(await outcome(await withClaims({ sub: longest }))).toEqual({ ...ACCEPTED, subject: longest })
    for (const sub of [`${longest}a`, '', 1, ['a'], 'a\u0000', 'a\nb', '\ud800']) {
      expect([sub, await outcome(await withClaims({ sub }))]).toEqual([sub, 'claims'])
    }
  })
})

describe('a refusal', () => {
  it('holds nothing of the token', async () => {
    const token = await withClaims({ aud: 'https://canary.example.com', sub: 'canary' })
    const error: unknown = await verify(token).catch((thrown: unknown) => thrown)
    expect(error).toBeInstanceOf(TokenRefused)
    const text = error instanceof TokenRefused ? `${error.message} ${JSON.stringify(error)} ${String(error.cause)}` : ''
    expect(text).toContain('audience')
    expect(text).not.toMatch(/canary|eyJ|gate/)
  })
})

/** The same bytes in base64url that a lax reader takes: the bits after the last byte are not zero. */
function withOtherUnusedBits(part: string): string {
  const alphabet = 'ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_'
  expect(part.length % 4).toBeGreaterThan(1)
  return part.slice(0, -1) + alphabet.charAt(alphabet.indexOf(part.slice(-1)) + 1)
}
