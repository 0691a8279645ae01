// Proves which thresholds decide where an operator has configured recognizers of its own, and that a configuration that is
// not written right decides nothing. On a real PostgreSQL. Fake: the embeddings.
import { env } from 'cloudflare:workers'
import { describe, expect, it } from 'vitest'
import { app } from '../../src/app.ts'
import type { Env } from '../../src/env.ts'
import { parseModels } from '../../src/face/models.ts'
import { asAdmin, atCosine, axis, createTenant, type TestTenant } from './tenant.ts'

const MINE = { id: 'mine@2', floor: 0.65, verification: 0.7, identification: 0.75 }

function ask(tenant: TestTenant, models: unknown, path: string, body: object): Promise<Response> {
  const configured = { ...env, FACE_MODELS: typeof models === 'string' ? models : JSON.stringify(models) } as Env
  return Promise.resolve(
    app.request(
      path,
      {
        method: 'POST',
        headers: { Authorization: `Bearer ${tenant.key}`, 'Content-Type': 'application/json' },
        body: JSON.stringify(body),
      },
      configured,
    ),
  )
}

describe('the models of a deployment', () => {
  it('are the configured ones, the usual one first, and the built-in one behind them', () => {
    const other = { ...MINE, id: 'other@1' }
    expect(parseModels(JSON.stringify([MINE, other]))).toMatchObject([MINE, other, { id: 'arcface-512@1' }])
    expect(parseModels('[]')).toMatchObject([{ id: 'arcface-512@1', verification: 0.675 }])
    const measured = { id: 'arcface-512@1', floor: 0.66, verification: 0.69, identification: 0.71 }
    expect(parseModels(JSON.stringify([measured]))).toEqual([measured])
  })

  it.each<[string, string]>([
    ['{', 'is not JSON'],
    ['{}', 'must be a list'],
    [JSON.stringify(Array(21).fill(MINE)), 'at most 20'],
    ['[1]', 'model 1: it is no object'],
    [JSON.stringify([MINE, MINE]), 'names mine@2 twice'],
    [JSON.stringify([{ ...MINE, id: '' }]), 'its id is not one'],
    [JSON.stringify([{ ...MINE, id: 'Mine' }]), 'its id is not one'],
    [JSON.stringify([{ ...MINE, path: '/a' }]), 'a field that is not one'],
    [JSON.stringify([{ ...MINE, floor: '0.65' }]), 'must be numbers'],
    [JSON.stringify([{ ...MINE, floor: null }]), 'must be numbers'],
    [JSON.stringify([{ ...MINE, floor: 0.5999 }]), 'must rise from 0.6'],
    [JSON.stringify([{ ...MINE, verification: 0.64 }]), 'must rise'],
    [JSON.stringify([{ ...MINE, identification: 0.69 }]), 'must rise'],
    [JSON.stringify([{ ...MINE, identification: 1 }]), 'must rise'],
  ])('are none of them when one is not written right: %s', async (text, words) => {
    expect(parseModels(text)).toEqual({ fault: expect.stringContaining(words) })
    const tenant = await createTenant()
    const response = await ask(tenant, text, '/v1/faces/search', { embedding: axis(0) })
    expect(response.status).toBe(503)
    expect(await response.json()).toMatchObject({ code: 'NOT_CONFIGURED', detail: expect.stringContaining(words) })
  })

  it('decide by their own thresholds, at them and just below', async () => {
    const tenant = await createTenant()
    expect((await ask(tenant, [MINE], '/v1/faces', { external_id: 'ada', embedding: axis(0) })).status).toBe(201)
    for (const [cosine, verified] of [
      [0.4, true],
      [0.3999, false],
    ] as const) {
      const claim = { external_id: 'ada', embedding: atCosine(cosine, 0, 1) }
      const response = await ask(tenant, [MINE], '/v1/faces/verify', claim)
      expect(await response.json()).toMatchObject({ verified, threshold: 0.7 })
    }
  })

  it('are one to a tenant: the usual one, or the one that the operator gave it', async () => {
    const tenant = await createTenant()
    await asAdmin`update tenants set settings = '{"model": "arcface-512@1"}' where id = ${tenant.id}`
    const enrolled = await ask(tenant, [MINE], '/v1/faces', { external_id: 'ada', embedding: axis(0), model: 'mine@2' })
    expect(await enrolled.json()).toMatchObject({
      code: 'MODEL_MISMATCH',
      detail: 'Send an embedding of arcface-512@1.',
    })
  })
})
