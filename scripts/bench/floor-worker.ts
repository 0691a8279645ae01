// What a verification cannot do without, each by itself, as a Worker. Runs in workerd, beside the product's Worker.
//
//   POST /batch             one HTTP request in, the body read, and one batch to the database out: that of a verification
//   POST /<what>?rounds=n   an HMAC, a rotation, or a sealed copy opened and compared, n times
import { neon, neonConfig } from '@neondatabase/serverless'
import { hashApiKey, toPepper } from '../../src/auth/api-key.ts'
import { isFault, toEmbedding } from '../../src/face/embedding.ts'
import { confirm } from '../../src/face/protection/confirmation.ts'
import { generateDataSecret } from '../../src/face/protection/data-secret.ts'
import { buildKeyring, rotationOf } from '../../src/face/protection/keyring.ts'
import { rotate } from '../../src/face/protection/rotation.ts'
import { seal } from '../../src/face/protection/sealed-copy.ts'
import { renewKey } from './request-key.ts'

interface Env {
  DATABASE_URL: string
  NEON_FETCH_ENDPOINT: string
  /** JSON of a batch: what the product's Worker sent. */
  BATCH: string
}

const model = 'arcface-512@1'
let prepared: ReturnType<typeof prepare> | undefined

export default {
  async fetch(request: Request, env: Env): Promise<Response> {
    const { pathname, searchParams } = new URL(request.url)
    prepared ??= prepare(env)
    const rounds = await prepared
    await request.arrayBuffer()
    const round = rounds[pathname.slice(1)]
    if (!round) return new Response(null, { status: 404 })
    for (let left = Number(searchParams.get('rounds') ?? 1); left > 0; left--) await round()
    return new Response('done')
  },
}

async function prepare(env: Env): Promise<Record<string, () => unknown>> {
  neonConfig.fetchEndpoint = env.NEON_FETCH_ENDPOINT
  const sql = neon(env.DATABASE_URL)
  // written by bench/worker-alone.ts
  const queries = JSON.parse(env.BATCH) as { query: string; params: unknown[] }[]
  const owner = { tenantId: crypto.randomUUID(), version: 1 }
  const keyring = await buildKeyring(owner, generateDataSecret(), [model])
  const pepper = await toPepper('a pepper of at least thirty-two characters')
  const embedding = toEmbedding(Array.from({ length: 512 }, (_, index) => Math.sin(index + 1) / 16))
  if (isFault(embedding)) throw new Error(embedding.detail)
  const face = { id: crypto.randomUUID(), externalId: 'user-42', model }
  const match = { face, sealed: await seal(keyring, face, embedding), distance: 0 }
  return {
    batch: () =>
      sql.transaction(
        queries.map(({ query, params }) => sql.query(query, params.map(renewKey))),
        { isolationLevel: 'ReadCommitted', readOnly: false },
      ),
    hmac: () => hashApiKey('rk_live_0123456789abcdefghijABCDEFGHIJ012345', pepper),
    rotation: () => rotate(rotationOf(keyring, model), embedding),
    opening: async () => {
      if ((await confirm(keyring, match, embedding, 0.6)) !== 'confirmed') throw new Error('it was not confirmed')
    },
  }
}
