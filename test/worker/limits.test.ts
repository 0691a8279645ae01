// Proves that a credential is held to a number of calls for each class of routes, and an address or a prefix to a
// number of failures, before the database is asked. Cloudflare's limiter is the real one of workerd, with a quota
// of three in the place of each of ours; the addresses are made up.
import { env } from 'cloudflare:workers'
import { describe, expect, it, vi } from 'vitest'
import { app } from '../../src/app.ts'
import { generateApiKey, isApiKey } from '../../src/auth/api-key.ts'
import type { RateLimiter } from '../../src/env.ts'
import { POLICIES, type PolicyName } from '../../src/rate-limit.ts'
import { pictureOf, toForm } from './picture.ts'
import { asAdmin, axis, countRequests, countRows, createKey, createTenant } from './tenant.ts'
import { configureIssuer, createSigner, inline, toClaims } from './tokens.ts'

// vitest.config.ts binds it for this file alone
const { TIGHT_LIMIT } = env as typeof env & { TIGHT_LIMIT: RateLimiter }
const QUOTA = 3

/** The Worker, but with three calls a minute under one policy. */
const tight = (name: PolicyName) => ({ ...env, [POLICIES[name].binding]: TIGHT_LIMIT })

const send = (path: string, init: RequestInit, bindings: object = env) => app.request(path, init, bindings)
const withKey = (key: string, address?: string) => ({
  headers: { 'X-API-Key': key, ...(address && { 'CF-Connecting-IP': address }) },
})

describe('the calls of a credential', () => {
  it('are answered up to the quota; beyond it 429 says how long to wait, and the database is not asked', async () => {
    const tenant = await createTenant()
    const bindings = tight('read')
    for (let call = 0; call < QUOTA; call++) {
      const response = await send('/v1/faces', withKey(tenant.key), bindings)
      expect(response.status).toBe(200)
      expect(response.headers.get('RateLimit-Policy')).toBe('"read";q=3000;w=60')
    }
    const cost = await countRequests(async () => {
      const response = await send('/v1/faces', withKey(tenant.key), bindings)
      expect(response.status).toBe(429)
      expect(await response.json()).toMatchObject({ code: 'TOO_MANY_REQUESTS' })
      expect(response.headers.get('Retry-After')).toBe('60')
      expect(response.headers.get('RateLimit-Policy')).toBe('"read";q=3000;w=60')
    })
    expect(cost.requests).toBe(0)
  })

  it('are counted for each credential, and for each class of routes', async () => {
    const tenant = await createTenant()
    const another = await createKey(tenant.id, ['faces:read'])
    const bindings = tight('read')
    for (let call = 0; call <= QUOTA; call++) await send('/v1/faces', withKey(tenant.key), bindings)
    expect((await send('/v1/faces', withKey(tenant.key), bindings)).status).toBe(429)
    expect((await send('/v1/faces', withKey(another.key), bindings)).status).toBe(200)
    const search = { method: 'POST', body: JSON.stringify({ embedding: axis(0) }) }
    const headers = { 'X-API-Key': tenant.key, 'Content-Type': 'application/json' }
    expect((await send('/v1/faces/search', { ...search, headers }, bindings)).status).toBe(200)
  })

  it('that are refused write nothing', async () => {
    const tenant = await createTenant()
    const bindings = tight('write')
    const init = (id: string) => ({
      method: 'POST',
      headers: { 'X-API-Key': tenant.key, 'Content-Type': 'application/json' },
      body: JSON.stringify({ external_id: id, embedding: axis(0) }),
    })
    for (let call = 0; call < QUOTA + 2; call++) await send('/v1/faces', init(`person ${call}`), bindings)
    expect(await countRows(tenant)).toMatchObject({ faces: QUOTA, usage_events: QUOTA })
  })

  it.each([
    ['verify', '/v1/faces/liveness', ['image']],
    ['verify', '/v1/faces/compare', ['first', 'second']],
    ['identify', '/v1/faces/search', ['image']],
    ['write', '/v1/faces', ['image']],
  ] as const)('that are refused under %s have no picture looked at: %s', async (name, path, files) => {
    const tenant = await createTenant()
    const used = { ...env, [POLICIES[name].binding]: { limit: async () => ({ success: false }) } }
    const fetched = vi.spyOn(globalThis, 'fetch')
    const body = toForm(files.map((file) => [file, { file: pictureOf(axis(0)) }]))
    const response = await send(path, { method: 'POST', ...withKey(tenant.key), body }, used)
    const asked = fetched.mock.calls.filter(([url]) => String(url).includes('/analyze'))
    fetched.mockRestore()
    expect(response.status).toBe(429)
    expect(asked).toEqual([])
  })

  it.each([
    ['verify', 'POST', '/v1/faces/verify'],
    ['identify', 'POST', '/v1/faces/search'],
    ['verify', 'POST', '/v1/faces/compare'],
    ['verify', 'POST', '/v1/faces/liveness'],
    ['verify', 'POST', '/v1/faces/detect'],
    ['write', 'DELETE', '/v1/faces/ada'],
    ['read', 'GET', '/v1/usage'],
  ] as const)('of the class %s are those of %s %s, among others', async (name, method, path) => {
    const tenant = await createTenant()
    const used = { ...env, [POLICIES[name].binding]: { limit: async () => ({ success: false }) } }
    expect((await send(path, { method, ...withKey(tenant.key) }, used)).status).toBe(429)
  })
})

describe('credentials that are refused', () => {
  const bindings = tight('failures')
  const network = () => `2001:db8:${Math.floor(Math.random() * 65536).toString(16)}:7`

  it('are answered 401 up to the quota of an address, then 429, without asking the database', async () => {
    const address = `${network()}::1`
    for (let guess = 0; guess < QUOTA; guess++) {
      expect((await send('/v1/faces', withKey(generateApiKey('live'), address), bindings)).status).toBe(401)
    }
    // the one that finds the quota used up is still a 401: it was looked for
    await send('/v1/faces', withKey(generateApiKey('live'), address), bindings)
    const cost = await countRequests(async () => {
      const response = await send('/v1/faces', withKey(generateApiKey('live'), address), bindings)
      expect(response.status).toBe(429)
      expect(await response.json()).toMatchObject({ code: 'TOO_MANY_REQUESTS' })
      expect(response.headers.get('Retry-After')).toBe('60')
    })
    expect(cost.requests).toBe(0)
    // neither from another address of the same subscriber, nor with a token
    const neighbor = address.replace(/::1$/, '::abcd:2')
    expect((await send('/v1/faces', withKey(generateApiKey('live'), neighbor), bindings)).status).toBe(429)
    const token = { headers: { Authorization: 'Bearer a.b.c', 'CF-Connecting-IP': address } }
    expect((await send('/v1/faces', token, bindings)).status).toBe(429)
    // and elsewhere nobody notices
    expect((await send('/v1/faces', withKey(generateApiKey('live'), `${network()}::1`), bindings)).status).toBe(401)
  })

  it('of an IPv4 address are the same in its IPv6 spelling, and those of another address are not', async () => {
    const host = () => Math.floor(Math.random() * 256)
    const address = `203.0.${host()}.${host()}`
    for (let guess = 0; guess < QUOTA + 2; guess++) {
      await send('/v1/faces', withKey(generateApiKey('live'), address), bindings)
    }
    expect((await send('/v1/faces', withKey(generateApiKey('live'), `::ffff:${address}`), bindings)).status).toBe(429)
    expect((await send('/v1/faces', withKey(generateApiKey('live'), '::ffff:198.51.100.1'), bindings)).status).toBe(401)
  })

  it('do not shut out a credential that this isolate has accepted a moment ago', async () => {
    const tenant = await createTenant()
    const address = `${network()}::1`
    expect((await send('/v1/faces', withKey(tenant.key, address), bindings)).status).toBe(200)
    for (let guess = 0; guess < QUOTA + 2; guess++) {
      await send('/v1/faces', withKey(generateApiKey('live'), address), bindings)
    }
    expect((await send('/v1/faces', withKey(generateApiKey('live'), address), bindings)).status).toBe(429)
    expect((await send('/v1/faces', withKey(tenant.key, address), bindings)).status).toBe(200)
  })

  it('do not shut out a good token of an issuer that this isolate knows, nor a key that was good within the hour', async () => {
    const tenant = await createTenant()
    const signer = await createSigner('ES256')
    const token = await signer.sign(toClaims(await configureIssuer([tenant], inline(signer)), tenant))
    const address = `${network()}::1`
    const withToken = (text: string) => ({
      headers: { Authorization: `Bearer ${text}`, 'CF-Connecting-IP': address },
    })
    expect((await send('/v1/faces', withToken(token), bindings)).status).toBe(200)
    expect((await send('/v1/faces', withKey(tenant.key, address), bindings)).status).toBe(200)
    for (let guess = 0; guess < QUOTA + 2; guess++) {
      await send('/v1/faces', withKey(generateApiKey('live'), address), bindings)
    }
    expect((await send('/v1/faces', withToken(token), bindings)).status).toBe(200)
    // one that is not good is one guess too many
    expect((await send('/v1/faces', withToken(`${token.slice(0, -2)}AA`), bindings)).status).toBe(429)
    vi.useFakeTimers({ toFake: ['Date'], now: Date.now() + 61_000 })
    try {
      for (let guess = 0; guess < QUOTA + 2; guess++) {
        await send('/v1/faces', withKey(generateApiKey('live'), address), bindings)
      }
      expect((await send('/v1/faces', withKey(generateApiKey('live'), address), bindings)).status).toBe(429)
      expect((await send('/v1/faces', withKey(tenant.key, address), bindings)).status).toBe(200)
    } finally {
      vi.useRealTimers()
    }
  })

  it('are counted for the prefix of a key too, wherever they come from, and the key itself is not shut out', async () => {
    const prefix = generateApiKey('live').slice(0, 12)
    const guesses: string[] = []
    // one in fourteen million keys begins like that: made here by the rules of generateApiKey
    while (guesses.length < QUOTA + 2) guesses.push(withPrefix(prefix))
    const statuses: number[] = []
    for (const guess of guesses) {
      statuses.push((await send('/v1/faces', withKey(guess, `${network()}::1`), bindings)).status)
    }
    expect(statuses).toEqual([401, 401, 401, 401, 429])
    const tenant = await createTenant()
    for (let guess = 0; guess < QUOTA + 2; guess++) {
      await send('/v1/faces', withKey(withPrefix(tenant.key.slice(0, 12)), `${network()}::1`), bindings)
    }
    expect((await send('/v1/faces', withKey(tenant.key, `${network()}::1`), bindings)).status).toBe(200)
    expect((await send('/v1/faces', withKey(generateApiKey('live'), `${network()}::1`), bindings)).status).toBe(401)
  })

  it('count once a minute when it is the same again, and cost nothing: a kiosk with an old key', async () => {
    const tenant = await createTenant()
    const neighbor = await createTenant()
    await asAdmin`update api_keys set revoked_at = now() where tenant_id = ${tenant.id}`
    const address = `${network()}::1`
    expect((await send('/v1/faces', withKey(tenant.key, address), bindings)).status).toBe(401)
    const cost = await countRequests(async () => {
      for (let attempt = 0; attempt < 10; attempt++) {
        expect((await send('/v1/faces', withKey(tenant.key, address), bindings)).status).toBe(401)
      }
    })
    expect(cost.requests).toBe(0)
    expect((await send('/v1/faces', withKey(neighbor.key, address), bindings)).status).toBe(200)
  })
})

/** A key of the right form, never given to anybody, that begins with `prefix`. */
function withPrefix(prefix: string): string {
  const body = prefix + generateApiKey('live').slice(prefix.length, -6)
  return body + findChecksum(body)
}

/** CRC-32 (ISO 3309) in six base62 digits, by a table, where src/auth/api-key.ts counts bits. */
function findChecksum(body: string): string {
  const table = Array.from({ length: 256 }, (_, byte) => {
    let crc = byte
    for (let bit = 0; bit < 8; bit++) crc = crc & 1 ? (crc >>> 1) ^ 0xedb88320 : crc >>> 1
    return crc >>> 0
  })
  let crc = 0xffffffff
  for (const byte of new TextEncoder().encode(body)) crc = (crc >>> 8) ^ (table[(crc ^ byte) & 255] ?? 0)
  let rest = (crc ^ 0xffffffff) >>> 0
  let digits = ''
  for (let digit = 0; digit < 6; digit++) {
    digits = '0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz'.charAt(rest % 62) + digits
    rest = Math.floor(rest / 62)
  }
  if (!isApiKey(body + digits)) throw new Error('this checksum is not that of the service')
  return digits
}
