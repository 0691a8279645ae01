// Proves the default thresholds on real embeddings of real people: nobody wrong gets in. Reads
// embeddings.csv in REKKO_FACES_DIR, and skips, saying so, without it. Nothing is fake.
import { env } from 'cloudflare:workers'
import { describe, expect, it } from 'vitest'
import { parseGallery } from '../../scripts/gallery.ts'
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

    const verify = async (external_id: string, embedding: number[]) => {
      const response = await tenant.request('POST', '/v1/faces/verify', { external_id, embedding })
      // a refusal would count as an impostor who was kept out
      if (response.status !== 200) throw new Error(`verifying answered ${response.status}`)
      return (await response.json<{ verified: boolean }>()).verified
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
    expect(shareOf(genuine)).toBeGreaterThanOrEqual(0.97)
    expect(shareOf(identified)).toBeGreaterThanOrEqual(0.9)
  }, 60_000)
})
