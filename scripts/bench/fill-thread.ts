// A thread of fill.ts: enrolls its share of people as an import does, with the tenant's real key.
import { parentPort, workerData } from 'node:worker_threads'
import { connectNative } from '../database/connection.ts'
import { readDevelopmentMasterKeys } from '../database/development.ts'
import { enrollFaces } from '../database/import.ts'
import { findTemplateKeys } from '../database/template-keys.ts'
import { asTenant } from '../database/transaction.ts'
import { findVectorArray } from '../database/vector-array.ts'
import type { Share } from './fill.ts'
import { toExternalId, toFace } from './people.ts'

/** Rows of one transaction. */
const BATCH_SIZE = 500

// given by fill.ts, which types it
const { url, model, shares } = workerData as { url: string; model: string; shares: Share[] }
const connection = await connectNative(url)
const masterKeys = await readDevelopmentMasterKeys()
const toVectorArray = await findVectorArray(connection, true)
for (const { tenantId, seed, from, to } of shares) {
  const keys = await findTemplateKeys(connection, masterKeys, tenantId, model)
  const gallery = { tenantId, keys, model, toVectorArray }
  for (let start = from; start < to; start += BATCH_SIZE) {
    const faces = Array.from({ length: Math.min(BATCH_SIZE, to - start) }, (_, index) => ({
      externalId: toExternalId(start + index),
      embedding: toFace(seed, start + index, 0),
      metadata: {},
      qualityScore: null,
    }))
    await asTenant(connection, tenantId, () => enrollFaces(connection, gallery, faces))
  }
}
await connection.close()
parentPort?.close()
