// What the measured servers are asked: the same people, in the same words.
import { cosine, type Embedding } from '../../src/face/embedding.ts'
import { type Shot, toShot } from './client.ts'
import { toExternalId, toFace } from './people.ts'
import type { BenchTenant } from './stage.ts'

/** Well above any threshold: claims are genuine, because failed ones are limited. */
const MIN_COSINE = 0.45

export interface Claim {
  externalId: string
  probe: Embedding
}

/** Genuine claims: people of the gallery, each with another sample. */
export function toClaims({ seed, faces }: BenchTenant, count: number): Claim[] {
  const claims: Claim[] = []
  for (let attempt = 0; claims.length < count; attempt++) {
    const person = attempt % faces
    const probe = toFace(seed, person, 1 + Math.floor(attempt / faces))
    if (cosine(toFace(seed, person, 0), probe) >= MIN_COSINE) claims.push({ externalId: toExternalId(person), probe })
  }
  return claims
}

function toHeaders({ apiKey }: BenchTenant): Record<string, string> {
  return { Authorization: `Bearer ${apiKey}`, 'Content-Type': 'application/json' }
}

/** @param encoding of the embedding: 512 numbers, as most clients write it, or base64 */
export function toVerifyShot(
  url: string,
  tenant: BenchTenant,
  { externalId, probe }: Claim,
  encoding: 'numbers' | 'base64' = 'numbers',
): Shot {
  const embedding = encoding === 'numbers' ? Array.from(probe) : toBase64(probe)
  return toShot(url, '/v1/faces/verify', toHeaders(tenant), JSON.stringify({ external_id: externalId, embedding }))
}

export function toEnrollShot(url: string, tenant: BenchTenant, externalId: string, embedding: Embedding): Shot {
  const body = JSON.stringify({ external_id: externalId, embedding: Array.from(embedding) })
  return toShot(url, '/v1/faces', toHeaders(tenant), body)
}

export function toSearchShot(url: string, tenant: BenchTenant, probe: Embedding): Shot {
  const body = JSON.stringify({ embedding: Array.from(probe), max_results: 1 })
  return toShot(url, '/v1/faces/search', toHeaders(tenant), body)
}

function toBase64({ buffer, byteOffset, byteLength }: Embedding): string {
  return Buffer.from(buffer, byteOffset, byteLength).toString('base64')
}

/** Takes what there is in turn, for ever. */
export function inTurn<Item>(items: readonly Item[]): () => Item {
  let next = 0
  return () => {
    const item = items[next++ % items.length]
    if (item === undefined) throw new RangeError('there is nothing to take')
    return item
  }
}
