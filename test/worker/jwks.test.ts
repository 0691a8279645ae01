// Proves when an issuer's keys are fetched, how long they serve, and that no web server can make us wait, grow or go
// elsewhere. The server is real (test/issuer-server.ts) and misbehaves on order; only the clock is a parameter.
import { describe, expect, it } from 'vitest'
import { toIssuer } from '../../src/auth/issuer.ts'
import { type TrustedKey, toCryptoKey } from '../../src/auth/jwk.ts'
import { findKey, type KeysFailure, KeysUnavailable } from '../../src/auth/jwks.ts'
import { verifyToken } from '../../src/auth/jwt.ts'
import type { Behavior } from '../issuer-server.ts'
import { countFetches, createSigner, keySetUrl, publish } from './tokens.ts'

const START = 1_800_000_000_000
const SECOND = 1000
const MINUTE = 60 * SECOND

/** A set of its own for each test: what is cached is cached by URL. */
async function createSet(behavior: Behavior = 'answer') {
  const name = crypto.randomUUID()
  const [first, second] = [await createSigner('ES256'), await createSigner('ES256')]
  await publish(name, behavior, { keys: [first.jwk] })
  return {
    name,
    first,
    second,
    publish: (next: Behavior, ...signers: { jwk: object }[]) =>
      publish(name, next, { keys: signers.map(({ jwk }) => jwk) }),
    /** The kid of what was found, null for nothing, or why there are no keys. */
    find: (kid: string, elapsed: number) => outcome(findKey({ url: keySetUrl(name) }, kid, true, START + elapsed)),
    count: () => countFetches(name),
  }
}

async function outcome(found: Promise<TrustedKey | null>): Promise<{ kid: string } | KeysFailure | null> {
  try {
    const key = await found
    return key && { kid: key.kid }
  } catch (error) {
    if (error instanceof KeysUnavailable) return error.reason
    throw error
  }
}

describe('a key set', () => {
  it('is fetched once and serves for five minutes', async () => {
    const set = await createSet()
    const found = { kid: set.first.kid }
    for (const elapsed of [0, 1, 31 * SECOND, 5 * MINUTE - 1]) {
      expect([elapsed, await set.find(set.first.kid, elapsed)]).toEqual([elapsed, found])
    }
    expect(await set.count()).toBe(1)
    expect(await set.find(set.first.kid, 5 * MINUTE)).toEqual(found)
    expect(await set.count()).toBe(2)
  })

  it('is fetched to the end for whoever comes next, though the client that caused it hangs up', async () => {
    const set = await createSet('slow')
    const kept: Promise<unknown>[] = []
    const keys = { url: keySetUrl(set.name) }
    const abandoned = findKey(keys, set.first.kid, true, START, (work) => kept.push(work))
    expect(kept).toHaveLength(1)
    await Promise.all(kept)
    expect(await set.find(set.first.kid, 1)).toEqual({ kid: set.first.kid })
    expect(await set.count()).toBe(1)
    await abandoned
    // warm, there is nothing to keep
    await findKey(keys, set.first.kid, true, START + 1, (work) => kept.push(work))
    expect(kept).toHaveLength(1)
  })

  it('keeps its imported keys, so that a token costs one verification', async () => {
    const set = await createSet()
    const keys = { url: keySetUrl(set.name) }
    const [key, again] = [
      await findKey(keys, set.first.kid, true, START),
      await findKey(keys, set.first.kid, true, START + 1),
    ]
    if (!key || !again) throw new Error('the key was not found')
    const imported = await toCryptoKey(key, 'ES256')
    expect(imported).not.toBeNull()
    expect(await toCryptoKey(again, 'ES256')).toBe(imported)

    const jwks = { keys: [set.first.jwk] }
    const inline = () => findKey({ jwks }, set.first.kid, false, START)
    expect(await inline()).not.toBeNull()
    expect(await inline()).toBe(await inline())
  })

  it('is asked again at most once in 30 seconds, whatever kids are invented', async () => {
    const set = await createSet()
    await set.find(set.first.kid, 0)
    for (let attempt = 0; attempt < 50; attempt++) {
      expect(await set.find(`unknown-${attempt}`, attempt * 600)).toBeNull()
    }
    expect(await set.find('unknown', 30 * SECOND - 1)).toBeNull()
    expect(await set.count()).toBe(1)
    const storm = Array.from({ length: 50 }, (_, attempt) => set.find(`unknown-${attempt}`, 30 * SECOND))
    expect(await Promise.all(storm)).toEqual(Array(50).fill(null))
    expect(await set.count()).toBe(2)
  })

  it('is asked again at most once in 30 seconds after a failure too', async () => {
    const set = await createSet('status-500')
    for (const elapsed of [0, 1, 30 * SECOND - 1]) expect(await set.find(set.first.kid, elapsed)).toBe('status')
    expect(await set.count()).toBe(1)
    await set.publish('answer', set.first)
    expect(await set.find(set.first.kid, 30 * SECOND - 1)).toBe('status')
    expect(await set.find(set.first.kid, 30 * SECOND)).toEqual({ kid: set.first.kid })
    expect(await set.count()).toBe(2)
  })

  it('is fetched by at most six requests at a time when it is new, and serves all who wait', async () => {
    const set = await createSet('slow')
    const found = await Promise.all(Array.from({ length: 20 }, () => set.find(set.first.kid, 0)))
    expect(found).toEqual(Array(20).fill({ kid: set.first.kid }))
    expect(await set.count()).toBe(6)
    expect(await set.find('unknown', 1)).toBeNull()
    expect(await set.count()).toBe(6)
  })

  it('is fetched anew when requests were canceled that fetched it', async () => {
    const set = await createSet('hang')
    // as if their end were never seen
    const canceled = Array.from({ length: 6 }, () => set.find(set.first.kid, 0))
    await set.publish('answer', set.first)
    expect(await set.find(set.first.kid, 2500)).toEqual({ kid: set.first.kid })
    await Promise.all(canceled)
  })

  it('is not fetched more often because requests are canceled', async () => {
    const set = await createSet()
    await set.find(set.first.kid, 0)
    await set.publish('hang')
    const canceled = set.find('unknown', 30 * SECOND)
    for (const elapsed of [33, 36, 59]) expect(await set.find(`unknown-${elapsed}`, elapsed * SECOND)).toBeNull()
    await canceled
    expect(await set.count()).toBe(2)
  })

  it('that is kept for a thousand others is forgotten', async () => {
    const set = await createSet()
    await set.find(set.first.kid, 0)
    const others = Array.from({ length: 999 }, (_, index) => `${set.name}-${index}`)
    const ask = (name: string) => outcome(findKey({ url: keySetUrl(name) }, 'a', true, START))
    for (const name of others) expect(await ask(name)).toBe('status')
    await set.find(set.first.kid, 1)
    expect(await set.count()).toBe(1)
    expect(await ask(`${set.name}-999`)).toBe('status')
    await set.find(set.first.kid, 2)
    expect(await set.count()).toBe(2)
  })
})

describe('a change of keys', () => {
  it('is seen when a token names the new key, by requests at the same time too', async () => {
    const set = await createSet()
    await set.find(set.first.kid, 0)
    await set.publish('slow', set.first, set.second)
    expect(await set.find(set.second.kid, 30 * SECOND - 1)).toBeNull()
    const found = await Promise.all(Array.from({ length: 10 }, () => set.find(set.second.kid, 30 * SECOND)))
    expect(found).toEqual(Array(10).fill({ kid: set.second.kid }))
    expect(await set.find(set.first.kid, 30 * SECOND)).toEqual({ kid: set.first.kid })
    expect(await set.count()).toBe(2)
  })

  it('that takes a key away is seen within five minutes', async () => {
    const set = await createSet()
    await set.find(set.first.kid, 0)
    await set.publish('answer', set.second)
    expect(await set.find(set.first.kid, 5 * MINUTE - 1)).toEqual({ kid: set.first.kid })
    expect(await set.find(set.first.kid, 5 * MINUTE)).toBeNull()
    expect(await set.find(set.second.kid, 5 * MINUTE)).toEqual({ kid: set.second.kid })
  })

  it('that takes all keys away is no outage', async () => {
    const set = await createSet()
    await set.find(set.first.kid, 0)
    await set.publish('answer')
    expect(await set.find(set.first.kid, 5 * MINUTE)).toBeNull()
  })

  it('that puts another key under the same kid replaces it', async () => {
    const set = await createSet()
    const issuer = toIssuer(
      {
        issuer: 'https://id.example.com',
        audience: 'us',
        algorithms: ['ES256'],
        token_type: 'JWT',
        jwks_url: keySetUrl(set.name),
        tenant_claim: null,
        scope_claim: 'scope',
      },
      true,
    )
    if ('detail' in issuer) throw new Error(issuer.detail)
    const successor = await createSigner('ES256', { kid: set.first.kid })
    const claims = { iss: issuer.issuer, aud: 'us', iat: START / 1000, exp: START / 1000 + 3600 }
    const tokens = [await set.first.sign(claims, { typ: 'JWT' }), await successor.sign(claims, { typ: 'JWT' })]
    const accepted = async (elapsed: number) => {
      const results: boolean[] = []
      for (const token of tokens) {
        const verifying = verifyToken(token, issuer, { allowsLoopback: true, now: START + elapsed })
        results.push(
          await verifying.then(
            () => true,
            () => false,
          ),
        )
      }
      return results
    }
    expect(await accepted(0)).toEqual([true, false])
    await set.publish('answer', successor)
    expect(await accepted(5 * MINUTE)).toEqual([false, true])
  })
})

describe('an outage', () => {
  it('is bridged by the last good keys for an hour, and not longer', async () => {
    const set = await createSet()
    await set.find(set.first.kid, 0)
    await set.publish('status-500')
    for (let elapsed = 5 * MINUTE; elapsed < 60 * MINUTE; elapsed += 10 * MINUTE) {
      expect([elapsed, await set.find(set.first.kid, elapsed)]).toEqual([elapsed, { kid: set.first.kid }])
    }
    expect(await set.count()).toBe(7)
    expect(await set.find(set.first.kid, 60 * MINUTE - 1)).toEqual({ kid: set.first.kid })
    expect(await set.find('unknown', 60 * MINUTE - 1)).toBeNull()
    expect(await set.find(set.first.kid, 60 * MINUTE)).toBe('status')
    expect(await set.find('unknown', 60 * MINUTE)).toBe('status')

    await set.publish('answer', set.first)
    expect(await set.find(set.first.kid, 61 * MINUTE)).toEqual({ kid: set.first.kid })
  })

  // trickle and hang end by the time limit of the fetch, or this test ends by its own
  it.each<[Behavior, KeysFailure]>([
    ['status-500', 'status'],
    ['status-203', 'status'],
    ['redirect', 'status'],
    ['html', 'not_a_key_set'],
    ['large', 'too_large'],
    ['endless', 'too_large'],
    ['trickle', 'unreachable'],
    ['hang', 'unreachable'],
    ['reset', 'unreachable'],
  ])('is what the server makes of %s: no keys while cold, the last good ones while warm', async (behavior, reason) => {
    const good = await createSet()
    const cold = await createSet()
    const warm = await createSet()
    await warm.find(warm.first.kid, 0)
    for (const set of [cold, warm]) {
      // the body of a redirect is where it leads: to a good set, with the right key in it
      const body = behavior === 'redirect' ? keySetUrl(good.name) : { keys: [set.first.jwk] }
      await publish(set.name, behavior, body)
    }
    await good.publish('answer', cold.first, warm.first)
    expect(await Promise.all([cold.find(cold.first.kid, 5 * MINUTE), warm.find(warm.first.kid, 5 * MINUTE)])).toEqual([
      reason,
      { kid: warm.first.kid },
    ])
    expect([await cold.count(), await warm.count(), await good.count()]).toEqual([1, 2, 0])
  })

  it('is what an ambiguous or oversized set makes', async () => {
    const set = await createSet()
    const key = JSON.stringify(set.first.jwk)
    const many = JSON.stringify(Array.from({ length: 51 }, (_, index) => ({ ...set.first.jwk, kid: `key-${index}` })))
    const bodies = [
      `{"keys":[${key}],"keys":[]}`,
      `{"keys":[${key.slice(0, -1)},"kid":"b"}]}`,
      `{"keys":${many}}`,
      `[${key}]`,
      '{"keys":{}}',
      '',
    ]
    for (const body of bodies) {
      const name = crypto.randomUUID()
      await publish(name, 'answer', body)
      const found = await outcome(findKey({ url: keySetUrl(name) }, set.first.kid, true, START))
      expect([body.slice(0, 40), found]).toEqual([body.slice(0, 40), 'not_a_key_set'])
    }
  })

  it('takes a set of 256 KiB and not one byte more', async () => {
    const set = await createSet()
    const text = JSON.stringify({ keys: [set.first.jwk] })
    const found = async (byteLength: number) => {
      const name = crypto.randomUUID()
      await publish(name, 'answer', text.padEnd(byteLength))
      return outcome(findKey({ url: keySetUrl(name) }, set.first.kid, true, START))
    }
    expect(await found(256 * 1024)).toEqual({ kid: set.first.kid })
    expect(await found(256 * 1024 + 1)).toBe('too_large')
  })
})

describe('the address of a key set', () => {
  it('is judged again before it is fetched', async () => {
    const set = await createSet()
    const keys = { url: keySetUrl(set.name) }
    expect(await outcome(findKey(keys, set.first.kid, false, START))).toBe('address')
    expect(await set.count()).toBe(0)
    expect(await outcome(findKey(keys, set.first.kid, true, START))).toEqual({ kid: set.first.kid })
  })
})
