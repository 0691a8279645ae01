// Fills galleries on all cores: rotating and sealing 100,000 faces takes one of them half a minute.
import { once } from 'node:events'
import { availableParallelism } from 'node:os'
import { join } from 'node:path'
import { Worker } from 'node:worker_threads'

/** People of one tenant, the last one not included. */
export interface Share {
  tenantId: string
  seed: number
  from: number
  to: number
}

export interface NewGallery {
  tenantId: string
  seed: number
  faces: number
}

/** Larger ones are cut, so that all threads end at about the same time. */
const MAX_SHARE = 5_000

/** @param url of an administrator */
export async function fillGalleries(url: string, model: string, galleries: readonly NewGallery[]): Promise<void> {
  const threads = availableParallelism()
  const shares = galleries.flatMap(({ tenantId, seed, faces }) =>
    Array.from({ length: Math.ceil(faces / MAX_SHARE) }, (_, index): Share => {
      const from = index * MAX_SHARE
      return { tenantId, seed, from, to: Math.min(from + MAX_SHARE, faces) }
    }),
  )
  await Promise.all(
    Array.from({ length: threads }, async (_, thread) => {
      const mine = shares.filter((_share, index) => index % threads === thread)
      const worker = new Worker(join(import.meta.dirname, 'fill-thread.ts'), {
        workerData: { url, model, shares: mine },
      })
      // 'error' rejects
      const [code] = await once(worker, 'exit')
      if (code !== 0) throw new Error(`a thread that fills galleries ended with ${code}`)
    }),
  )
}
