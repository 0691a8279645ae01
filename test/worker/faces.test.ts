// Proves the gallery: enroll, replace, read, list, change, erase. On a real PostgreSQL with row-level
// security, through the real driver. Fake: the embeddings, which are axes and random directions.
import { describe, expect, it } from 'vitest'
import { axis, createTenant } from './tenant.ts'

describe('POST /v1/faces', () => {
  it('enrolls a face and answers its id', async () => {
    const tenant = await createTenant()
    const response = await tenant.request('POST', '/v1/faces', {
      external_id: 'ada',
      embedding: axis(0),
      metadata: { sector: 'north', seats: [1, 2] },
      quality_score: 0.9123,
    })
    expect(response.status).toBe(201)
    const face = await response.json<Record<string, unknown>>()
    expect(face).toEqual({
      face_id: expect.stringMatching(/^[0-9a-f-]{36}$/),
      external_id: 'ada',
      quality_score: 0.9123,
      created_at: expect.stringMatching(/^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$/),
    })
    expect(response.headers.get('Cache-Control')).toBe('no-store')

    const read = await tenant.request('GET', '/v1/faces/ada')
    expect(await read.json()).toEqual({
      ...face,
      metadata: { sector: 'north', seats: [1, 2] },
      updated_at: face['created_at'],
    })
  })
})
