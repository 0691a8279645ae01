// The Worker that `make bench-templates` measures: POST /<what>?rounds=<n> does it n times. Runs in workerd.
import { isFault, toEmbedding } from '../../src/face/embedding.ts'
import { confirm } from '../../src/face/protection/confirmation.ts'
import { generateDataSecret, unwrapDataSecret, wrapDataSecret } from '../../src/face/protection/data-secret.ts'
import { buildKeyring, rotationOf } from '../../src/face/protection/keyring.ts'
import { toMasterKeys } from '../../src/face/protection/master-keys.ts'
import { rotate } from '../../src/face/protection/rotation.ts'
import { seal } from '../../src/face/protection/sealed-copy.ts'

/** As many as a search confirms at once. */
const CANDIDATES = 32
const model = 'arcface-512@1'

export default {
  async fetch(request: Request): Promise<Response> {
    const { pathname, searchParams } = new URL(request.url)
    const round = (await prepare())[pathname.slice(1)]
    if (!round) return new Response(null, { status: 404 })
    for (let rounds = Number(searchParams.get('rounds')); rounds > 0; rounds--) await round()
    return new Response('done')
  },
}

async function prepare(): Promise<Record<string, () => unknown>> {
  const owner = { tenantId: crypto.randomUUID(), version: 1 }
  const masterKeys = await toMasterKeys(new Map([[1, crypto.getRandomValues(new Uint8Array(32))]]))
  const secret = generateDataSecret()
  const wrapped = await wrapDataSecret(masterKeys, 1, owner, secret)
  const keyring = await buildKeyring(owner, secret, [model])
  const embedding = toEmbedding(Array.from({ length: 512 }, (_, index) => Math.sin(index + 1) / 16))
  if (isFault(embedding)) throw new Error(embedding.detail)
  const matches = await Promise.all(
    Array.from({ length: CANDIDATES }, async (_, index) => {
      const face = { id: crypto.randomUUID(), externalId: `user-${index}`, model }
      return { face, sealed: await seal(keyring, face, embedding), distance: 0 }
    }),
  )
  return {
    apply: () => rotate(rotationOf(keyring, model), embedding),
    'open-and-compare-32': async () => {
      const outcomes = await Promise.all(matches.map((match) => confirm(keyring, match, embedding, 0.6)))
      if (outcomes.some((outcome) => outcome !== 'confirmed')) throw new Error('an honest match was not confirmed')
    },
    'cold-key': async () => buildKeyring(owner, await unwrapDataSecret(masterKeys, owner, wrapped), [model]),
  }
}
