// Proves the default thresholds on real embeddings of real people: nobody wrong gets in, and protection moves no
// similarity by more than 3e-6. Reads embeddings.csv in REKKO_FACES_DIR, and skips, saying so, without it. Nothing is
// fake.
import { env } from 'cloudflare:workers'
import { describe, expect, it } from 'vitest'
import { parseGallery } from '../../scripts/gallery.ts'
import { type Embedding, isFault, toEmbedding } from '../../src/face/embedding.ts'
import { asAdmin, createTenant, enroll } from './tenant.ts'

const csv = env.TEST.facesCsv
if (csv === null) console.log('skipped: REKKO_FACES_DIR names no folder with real embeddings')

describe.skipIf(csv === null)('real faces at the default thresholds', () => {
  it('verifies and identifies people, accepts no impostor, and names nobody wrong', async () => {
    const people = parseGallery(csv ?? '')
    const enrolled = people.filter((_, index) => (index + 1) % 5 !== 0)
    const unknown = people.filter((_, index) => (index + 1) % 5 === 0)
    const tenant = await createTenant()
    const settings = { failed_verifications_per_hour: 100, failed_verifications_per_day: 500 }
    await asAdmin`update tenants set settings = ${JSON.stringify(settings)}::jsonb where id = ${tenant.id}`
    for (const { name, samples } of enrolled) await enroll(tenant, name, samples[0] ?? [])

    /** Where the answer is not what the embeddings as they are would give, whatever protection rounds. */
    const differing: string[] = []
    const verify = async (external_id: string, embedding: number[]) => {
      const response = await tenant.request('POST', '/v1/faces/verify', { external_id, embedding })
      // a refusal would count as an impostor who was kept out
      if (response.status !== 200) throw new Error(`verifying answered ${response.status}`)
      const { verified, confidence } = await response.json<{ verified: boolean; confidence: number }>()
      const [enrolledSample = []] = enrolled.find(({ name }) => name === external_id)?.samples ?? []
      const plain = toSimilarity(enrolledSample, embedding)
      // a similarity next to the cut may be printed on either side of it: 0.77149996 is 0.7714 or 0.7715
      if (![-3e-6, 3e-6].some((rounding) => confidence === cut(plain + rounding))) {
        differing.push(`${external_id}: ${confidence} and not ${plain}`)
      }
      return verified
    }
    const identify = async (embedding: number[]) => {
      const response = await tenant.request('POST', '/v1/faces/search', { embedding })
      return (await response.json<{ matches: { external_id: string }[] }>()).matches[0]?.external_id ?? null
    }

    const genuine: boolean[] = []
    const identified: boolean[] = []
    const impostorsAccepted: string[] = []
    const misnamed: string[] = []
    for (const { name, samples } of enrolled) {
      for (const sample of samples.slice(1)) {
        genuine.push(await verify(name, sample))
        const found = await identify(sample)
        identified.push(found === name)
        if (found !== null && found !== name) misnamed.push(`${name} as ${found}`)
        for (const other of enrolled) {
          if (other.name !== name && (await verify(other.name, sample)))
            impostorsAccepted.push(`${name} as ${other.name}`)
        }
      }
    }
    for (const { name, samples } of unknown) {
      for (const sample of samples) {
        const found = await identify(sample)
        if (found !== null) misnamed.push(`${name} as ${found}`)
        for (const other of enrolled) {
          if (await verify(other.name, sample)) impostorsAccepted.push(`${name} as ${other.name}`)
        }
      }
    }

    const shareOf = (outcomes: boolean[]) => outcomes.filter(Boolean).length / outcomes.length
    expect(genuine.length).toBeGreaterThan(20)
    expect(unknown.length).toBeGreaterThan(0)
    expect(impostorsAccepted).toEqual([])
    expect(misnamed).toEqual([])
    expect(differing).toEqual([])
    expect(shareOf(genuine)).toBeGreaterThanOrEqual(0.97)
    expect(shareOf(identified)).toBeGreaterThanOrEqual(0.9)
  }, 60_000)
})

/** Of the embeddings as they are, in float64. */
function toSimilarity(a: number[], b: number[]): number {
  const [x, y] = [toPlain(a), toPlain(b)]
  return (1 + x.reduce((dot, component, index) => dot + component * (y[index] ?? 0), 0)) / 2
}

/** To the four decimals of an answer. */
function cut(similarity: number): number {
  return Math.floor(similarity * 1e4) / 1e4
}

function toPlain(input: number[]): Embedding {
  const embedding = toEmbedding(input)
  if (isFault(embedding)) throw new RangeError(embedding.detail)
  return embedding
}
