// Proves which issuers can be configured: their fields, the addresses of their key sets (SSRF), and which public keys
// are trusted. Pure functions; the weak moduli are made up here and belong to nobody.
import { describe, expect, it } from 'vitest'
import { isIssuerFault, TOKEN_ALGORITHMS, toIssuer } from '../../src/auth/issuer.ts'
import { findKeySetFault, toKeySet, toTrustedKey } from '../../src/auth/jwk.ts'
import { findUrlFault } from '../../src/auth/jwks-url.ts'
import { createSigner, encode } from './tokens.ts'

const STORED = {
  issuer: 'https://id.example.com',
  audience: 'https://api.rekko.test',
  algorithms: ['ES256', 'RS256'],
  token_type: 'at+jwt',
  jwks_url: 'https://id.example.com/jwks.json',
  jwks: null,
  tenant_claim: 'tenant_id',
  scope_claim: 'scope',
}

const P256 = {
  kid: 'p256',
  kty: 'EC',
  crv: 'P-256',
  x: encode(new Uint8Array(32).fill(1)),
  y: encode(new Uint8Array(32).fill(2)),
}
const ED25519 = { kid: 'ed', kty: 'OKP', crv: 'Ed25519', x: encode(new Uint8Array(32).fill(3)) }

describe('an issuer', () => {
  const faultOf = (change: Record<string, unknown>) => {
    const result = toIssuer({ ...STORED, ...change })
    return isIssuerFault(result) ? result.field : result
  }

  it('is read from a row, with a URL or with keys of its own', () => {
    const read = {
      issuer: STORED.issuer,
      audience: STORED.audience,
      algorithms: ['ES256', 'RS256'],
      tokenType: 'at+jwt',
      tenantClaim: 'tenant_id',
      scopeClaim: 'scope',
    }
    expect(toIssuer({ ...STORED, id: 'of the row' })).toEqual({ ...read, keys: { url: STORED.jwks_url } })
    const jwks = { keys: [P256] }
    expect(toIssuer({ ...STORED, jwks_url: null, jwks })).toEqual({ ...read, keys: { jwks } })
    const { jwks_url: _, ...withoutUrl } = STORED
    expect(toIssuer({ ...withoutUrl, jwks })).toEqual({ ...read, keys: { jwks } })
    expect(faultOf({ tenant_claim: null, token_type: 'JWT', algorithms: TOKEN_ALGORITHMS })).toMatchObject({
      tenantClaim: null,
      tokenType: 'JWT',
    })
  })

  it.each([
    ['issuer', ['', ' ', 'https://id.example.com ', 'a\n', 'a'.repeat(2049), null, undefined, 1, ['a'], '\ud800']],
    ['audience', ['', ' a', 'a\u0000', 'a'.repeat(2049), null, undefined, 1]],
    ['algorithms', [[], ['HS256'], ['ES256', 'none'], ['ES256', 'ES256'], ['es256'], 'ES256', null, undefined, [null]]],
    ['token_type', ['', 'jwt', 'at+JWT', 'id+jwt', null, undefined, 1]],
    ['tenant_claim', ['', 'a '.repeat(2), 'a'.repeat(256), undefined, 1]],
    ['scope_claim', ['', 'a'.repeat(256), null, undefined, 1]],
    ['jwks_url', ['http://id.example.com/jwks', 'https://localhost/jwks', '', 1, null]],
  ])('is told what is wrong with its %s', (field, values) => {
    for (const value of values) expect([value, faultOf({ [field]: value })]).toEqual([value, field])
  })

  it('takes the longest names', () => {
    const names = { issuer: 'a'.repeat(2048), audience: 'a'.repeat(2048), tenant_claim: 'a'.repeat(255) }
    expect(faultOf({ ...names, scope_claim: 'a'.repeat(255) })).toMatchObject({ issuer: names.issuer })
  })

  it('has either an address of keys or keys', () => {
    expect(faultOf({ jwks: { keys: [P256] } })).toBe('jwks_url')
    expect(faultOf({ jwks_url: undefined })).toBe('jwks_url')
  })

  it('is told which key of its own is not to be trusted', () => {
    const detailOf = (jwks: unknown) => {
      const result = toIssuer({ ...STORED, jwks_url: null, jwks })
      return isIssuerFault(result) && result.field === 'jwks' ? result.detail : null
    }
    expect(detailOf({ keys: [P256, ED25519] })).toBeNull()
    expect(detailOf({ keys: [P256, { ...ED25519, d: 'AA' }] })).toBe('keys[1]: Must be a public key.')
    expect(detailOf({ keys: [P256, { ...ED25519, kid: 'p256' }] })).toBe('Must give each key another "kid".')
    for (const jwks of [{}, { keys: [] }, { keys: 'p256' }, [P256], 'keys']) expect(detailOf(jwks)).toContain('JWK set')
    expect(detailOf({ keys: [P256], padding: 'a'.repeat(256 * 1024) })).toContain('262144 characters')
  })

  it('is an object', () => {
    for (const stored of [null, undefined, 'issuer', [STORED]]) expect(toIssuer(stored)).toMatchObject({ field: null })
  })

  it('has its keys on this machine in development only', () => {
    const local = { ...STORED, jwks_url: 'http://127.0.0.1:9999/jwks' }
    expect(isIssuerFault(toIssuer(local))).toBe(true)
    expect(isIssuerFault(toIssuer(local, true))).toBe(false)
  })
})

describe('the URL of a key set', () => {
  it.each([
    'https://id.example.com/.well-known/jwks.json',
    'https://id.example.com:443/jwks',
    'HTTPS://ID.EXAMPLE.COM/jwks?tenant=a',
    'https://bücher.example/jwks',
    'https://xn--bcher-kva.example/jwks',
    'https://1.example.com/jwks',
    'https://localhost.example.com/jwks',
    'https://internal.example.com/jwks',
    'https://notlocal.example/jwks',
    // a backslash is a slash: the rest is the path
    'https://id.example.com\\@127.0.0.1:8443/jwks',
  ])('may be %s', (url) => {
    expect(findUrlFault(url, false)).toBeNull()
    expect(findUrlFault(url, true)).toBeNull()
  })

  it.each([
    // another scheme or port, or none
    'http://id.example.com/jwks',
    'ftp://id.example.com/jwks',
    'file:///etc/passwd',
    'data:application/json,{}',
    'javascript:alert(1)',
    'blob:https://id.example.com/1',
    '//id.example.com/jwks',
    'id.example.com/jwks',
    '',
    'https://',
    'https://id.example.com:8443/jwks',
    'https://id.example.com:80/jwks',
    // what a URL may carry beside its host
    'https://user@id.example.com/jwks',
    'https://:secret@id.example.com/jwks',
    'https://id.example.com@127.0.0.1/jwks',
    'https://id.example.com/jwks#',
    'https://id.example.com/jwks#keys',
    // addresses, in every spelling that WHATWG parsing knows
    'https://127.0.0.1/jwks',
    'https://127.0.0.1./jwks',
    'https://127.1/jwks',
    'https://2130706433/jwks',
    'https://0x7f.1/jwks',
    'https://0x7f000001/jwks',
    'https://0177.0.0.1/jwks',
    'https://①②⑦.⓪.⓪.①/jwks',
    'https://127。0。0。1/jwks',
    'https://0/jwks',
    'https://169.254.169.254/latest/meta-data',
    'https://8.8.8.8/jwks',
    'https://[::1]/jwks',
    'https://[::ffff:127.0.0.1]/jwks',
    'https://[::ffff:7f00:1]/jwks',
    'https://[64:ff9b::7f00:1]/jwks',
    'https://[fd00::1]/jwks',
    'https://[2606:4700::1111]/jwks',
    'https://1.2.3.4.5/jwks',
    'https://example.123/jwks',
    // names of inside a network
    'https://localhost/jwks',
    'https://LOCALHOST/jwks',
    'https://localhost./jwks',
    'https://ｌｏｃａｌｈｏｓｔ/jwks',
    'https://local\thost/jwks',
    'https://a.localhost/jwks',
    'https://db/jwks',
    'https://printer.local/jwks',
    'https://printer.local./jwks',
    'https://metadata.google.internal/jwks',
    'https://metadata.google.INTERNAL./jwks',
    'https://nas.home.arpa/jwks',
    'https://id.example.com./jwks',
    'https://id.example.com../jwks',
    'https:\\\\127.0.0.1\\jwks',
  ])('may not be %s', (url) => {
    expect(findUrlFault(url, false)).toBeTypeOf('string')
    expect(findUrlFault(url, true)).toBeTypeOf('string')
  })

  it('has at most 2,048 characters', () => {
    const longest = `https://id.example.com/${'a'.repeat(2025)}`
    expect(longest.length).toBe(2048)
    expect(findUrlFault(longest, false)).toBeNull()
    expect(findUrlFault(`${longest}a`, false)).toBe('Must have at most 2048 characters.')
  })

  it('gives a name: an address is told to be one', () => {
    for (const host of ['127.0.0.1', '0x7f.1', '8.8.8.8', '[::1]', '[::ffff:127.0.0.1]', '[2606:4700::1111]']) {
      expect([host, findUrlFault(`https://${host}/`, false)]).toEqual([
        host,
        'Must name its host, not give its address.',
      ])
    }
  })

  it('may be on this machine in development, and on no other', () => {
    for (const url of ['http://127.0.0.1:9999/jwks', 'http://localhost:9999/jwks', 'http://localhost/jwks']) {
      expect([url, findUrlFault(url, true)]).toEqual([url, null])
      expect([url, findUrlFault(url, false)]).toEqual([url, 'Must begin with https://.'])
    }
    for (const url of [
      'http://192.168.0.1:9999/',
      'http://a:b@localhost/',
      'http://localhost/#',
      'http://[::1]/',
      'https://localhost/',
    ]) {
      expect([url, findUrlFault(url, true)]).toEqual([url, expect.any(String)])
    }
  })
})

describe('a key', () => {
  const rsa = (n: bigint, e: string | bigint = 65537n) => ({
    kid: 'rsa',
    kty: 'RSA',
    n: encode(toBytes(n)),
    e: typeof e === 'string' ? e : encode(toBytes(e)),
  })
  const algorithmsOf = (jwk: unknown) => {
    const key = toTrustedKey(jwk)
    return typeof key === 'string' ? key : key.algorithms
  }
  // odd, and a power of 65537 modulo no small prime but by chance
  const ofBits = (bits: number) => 2n ** BigInt(bits - 1) + 3n

  it('serves the algorithms of its kind, or the one that it names', () => {
    expect(algorithmsOf(P256)).toEqual(['ES256'])
    expect(algorithmsOf({ ...P256, alg: 'ES256', use: 'sig', key_ops: ['verify'] })).toEqual(['ES256'])
    expect(algorithmsOf(ED25519)).toEqual(['EdDSA'])
    expect(algorithmsOf(rsa(ofBits(2048)))).toEqual(['RS256', 'RS384', 'RS512', 'PS256', 'PS384', 'PS512'])
    expect(algorithmsOf({ ...rsa(ofBits(2048)), alg: 'PS384' })).toEqual(['PS384'])
    for (const alg of ['ES384', 'RS256', 'HS256', 'RSA-OAEP', 'none', '', null, 1]) {
      expect([alg, algorithmsOf({ ...P256, alg })]).toEqual([alg, 'Must have no "alg" but ES256.'])
    }
  })

  it('is public and for signatures', () => {
    for (const member of ['d', 'p', 'q', 'dp', 'dq', 'qi', 'oth', 'k', 'priv']) {
      expect([member, algorithmsOf({ ...P256, [member]: 'AA' })]).toEqual([member, 'Must be a public key.'])
      expect([member, algorithmsOf({ ...P256, [member]: null })]).toEqual([member, 'Must be a public key.'])
    }
    expect(algorithmsOf({ kid: 'a', kty: 'oct', alg: 'HS256' })).toBe('Must be a public key.')
    for (const use of ['enc', '', null, ['sig']]) expect(algorithmsOf({ ...P256, use })).toContain('"use"')
    for (const key_ops of [['encrypt'], [], 'verify', null])
      expect(algorithmsOf({ ...P256, key_ops })).toContain('key_ops')
  })

  it('has a kid of 1 to 255 characters', () => {
    expect(algorithmsOf({ ...P256, kid: 'a'.repeat(255) })).toEqual(['ES256'])
    for (const kid of ['a'.repeat(256), '', undefined, null, 1])
      expect(algorithmsOf({ ...P256, kid })).toContain('"kid"')
  })

  it('is of a kind and a curve that we know, spelled canonically and in full', () => {
    const faulty = [
      { ...P256, kty: 'RSA' },
      { ...P256, kty: 'OKP' },
      { ...P256, kty: undefined },
      { ...P256, crv: 'P-384' },
      { ...P256, crv: 'secp256k1' },
      { ...P256, crv: 'constructor' },
      { ...P256, crv: undefined },
      { ...ED25519, crv: 'X25519' },
      { ...ED25519, kty: 'EC' },
      { ...P256, x: `${P256.x}=` },
      { ...P256, x: `${P256.x} ` },
      { ...P256, y: undefined },
      { ...P256, y: encode(new Uint8Array(31).fill(2)) },
      { ...P256, y: encode(new Uint8Array(33).fill(2)) },
      { ...rsa(ofBits(2048)), n: undefined },
      { ...rsa(ofBits(2048)), n: `${encode(toBytes(ofBits(2048)))}=` },
      { ...rsa(ofBits(2048)), e: 65537 },
      null,
      'key',
      [],
    ]
    for (const jwk of faulty) expect([jwk, algorithmsOf(jwk)]).toEqual([jwk, expect.any(String)])
  })

  it('of RSA has 2,048 to 8,192 bits', () => {
    for (const bits of [2048, 4096, 8192])
      expect([bits, algorithmsOf(rsa(ofBits(bits)))]).toEqual([bits, expect.any(Array)])
    for (const bits of [512, 1024, 2047, 8193, 16384]) {
      expect([bits, algorithmsOf(rsa(ofBits(bits)))]).toEqual([bits, 'Must have a modulus of 2048 to 8192 bits.'])
    }
    // bytes that are zero add no strength
    const padded = encode(new Uint8Array([...new Uint8Array(128), ...toBytes(ofBits(1024))]))
    expect(algorithmsOf({ ...rsa(ofBits(2048)), n: padded })).toContain('modulus')
  })

  it('of RSA has an odd exponent from 65,537 up, in at most 4 bytes', () => {
    for (const e of [65537n, 65539n, 2n ** 32n - 1n])
      expect(algorithmsOf(rsa(ofBits(2048), e))).toEqual(expect.any(Array))
    for (const e of [1n, 3n, 17n, 65535n, 65536n, 65538n, 2n ** 32n + 1n, ofBits(2048)]) {
      expect([e, algorithmsOf(rsa(ofBits(2048), e))]).toEqual([e, expect.stringContaining('public exponent')])
    }
    expect(algorithmsOf(rsa(ofBits(2048), 'AA'))).toContain('public exponent')
  })

  it('of RSA is not of the generator of CVE-2017-15361', () => {
    // k * M + (65537^a mod M), as the generator made its primes: the product of two is of that form again
    const primes = [2n, 3n, 5n, 7n, 11n, 13n, 17n, 19n, 23n, 29n, 31n, 37n, 41n, 43n, 47n, 53n, 59n, 61n, 67n, 71n, 73n]
    primes.push(79n, 83n, 89n, 97n, 101n, 103n, 107n, 109n, 113n, 127n, 131n, 137n, 139n, 149n, 151n, 157n, 163n, 167n)
    const m = primes.reduce((product, prime) => product * prime)
    const factor = (a: number, k: bigint) => {
      let power = 1n
      for (let step = 0; step < a; step++) power = (power * 65537n) % m
      return k * m + power
    }
    const modulus = factor(12345, 2n ** 805n + 7n) * factor(54321, 2n ** 806n + 9n)
    expect(modulus.toString(2).length).toBeGreaterThanOrEqual(2048)
    expect(algorithmsOf(rsa(modulus))).toContain('ROCA')
    expect(algorithmsOf(rsa(modulus + 2n))).toEqual(expect.any(Array))
    // a power modulo every prime but the last: not the fingerprint
    const step = m / 167n
    const nearly = Array.from({ length: 167 }, (_, count) => modulus + step * BigInt(count)).find(
      (n) => n % 167n === 0n,
    )
    expect(algorithmsOf(rsa(nearly ?? 0n))).toEqual(expect.any(Array))
  })

  it('of Ed25519 is no point of small order, in any spelling', () => {
    const spellings = [
      '0000000000000000000000000000000000000000000000000000000000000000',
      '0100000000000000000000000000000000000000000000000000000000000080',
      '26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05',
      '26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc85',
      'c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a',
      'ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff',
      'edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f',
      'eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff',
    ]
    for (const hex of spellings) {
      const x = encode(toBytes(BigInt(`0x${hex}`), 32))
      expect([hex, algorithmsOf({ ...ED25519, x })]).toEqual([hex, 'Must not be a point of small order.'])
    }
  })

  it('of a fetched set is left out alone when it is bad, and with its namesake', async () => {
    const { jwk } = await createSigner('ES256', { kid: 'good' })
    const kidsOf = (...keys: unknown[]) => [...(toKeySet({ keys }) ?? [])].map(([kid]) => kid)
    expect(kidsOf(jwk, { ...ED25519, use: 'enc' }, null, { kty: 'oct', k: 'AA', kid: 'oct' }, P256)).toEqual([
      'good',
      'p256',
    ])
    expect(kidsOf(P256, jwk, { ...ED25519, kid: 'p256' })).toEqual(['good'])
    expect(kidsOf(P256, jwk, P256, P256)).toEqual(['good'])
    // also when the namesake could not be used anyway
    expect(kidsOf(P256, jwk, { kty: 'oct', k: 'AA', kid: 'p256' })).toEqual(['good'])
    expect(kidsOf()).toEqual([])
  })

  it('is one of at most 50', () => {
    const keys = Array.from({ length: 51 }, (_, index) => ({ ...P256, kid: `key-${index}` }))
    expect(toKeySet({ keys: keys.slice(0, 50) })?.size).toBe(50)
    expect(findKeySetFault({ keys: keys.slice(0, 50) })).toBeNull()
    expect(toKeySet({ keys })).toBeNull()
    expect(findKeySetFault({ keys })).toContain('1 to 50 keys')
    for (const value of [null, 'keys', [], {}, { keys: {} }]) expect(toKeySet(value)).toBeNull()
  })
})

/** Big-endian, without leading zeros unless a length asks for them. */
function toBytes(value: bigint, byteLength?: number): Uint8Array {
  const hex = value.toString(16)
  const padded = hex.padStart(byteLength ? byteLength * 2 : hex.length + (hex.length % 2), '0')
  return Uint8Array.from(padded.match(/../g) ?? [], (pair) => Number.parseInt(pair, 16))
}
