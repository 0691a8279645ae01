// The very requests that the Worker sends to its database, written down, so that others can send the same.
import { createServer, type IncomingHttpHeaders } from 'node:http'
import type { AddressInfo } from 'node:net'
import { join } from 'node:path'
import { startWorkerd } from '../workerd.ts'
import { HttpConnection, requireStatus, type Shot, toShot } from './client.ts'
import type { Query } from './peers.ts'
import { isRequestKey, newRequestKey, renewKey } from './request-key.ts'
import { BUNDLE, type Stage } from './stage.ts'

/** One Neon batch: who asks, what, and with which parameters. */
export interface Batch {
  headers: Record<string, string>
  queries: Query[]
}

/**
 * Sends requests through a Worker of its own, and keeps what it asks of the database for each: one batch, because it is
 * warm.
 *
 * @param toShots makes them for the URL of that Worker; the first one warms it up and is not kept
 * @param expected the status that every answer must have
 */
export async function recordBatches(
  { endpoint, bindings }: Stage,
  toShots: (url: string) => Shot[],
  expected = 200,
): Promise<Batch[]> {
  const recorder = await startRecorder(endpoint.url)
  try {
    const worker = await startWorkerd(join(BUNDLE, 'index.js'), { ...bindings, NEON_FETCH_ENDPOINT: recorder.url })
    try {
      const connection = await HttpConnection.open(worker.url)
      const batches: Batch[] = []
      for (const [index, shot] of toShots(worker.url).entries()) {
        requireStatus(await connection.ask(shot), expected)
        const recorded = recorder.take()
        if (index === 0) continue
        const [batch, another] = recorded
        if (!batch || another) throw new Error(`a warm request sent ${recorded.length} batches to the database`)
        batches.push(batch)
      }
      connection.close()
      return batches
    } finally {
      await worker.close()
    }
  } finally {
    await recorder.close()
  }
}

async function startRecorder(endpointUrl: string) {
  let recorded: Batch[] = []
  const server = createServer((request, response) => {
    void (async () => {
      const chunks: Buffer[] = []
      for await (const chunk of request) chunks.push(chunk)
      const body = Buffer.concat(chunks).toString()
      const headers = toNeonHeaders(request.headers)
      const answer = await fetch(endpointUrl, { method: 'POST', headers, body })
      // as Neon's driver writes a batch
      recorded.push({ headers, queries: (JSON.parse(body) as { queries: Query[] }).queries })
      response.writeHead(answer.status, { 'Content-Type': 'application/json' }).end(await answer.text())
    })().catch(() => response.destroy())
  })
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  // listening on TCP, so the address is not a pipe's name
  const { port } = server.address() as AddressInfo
  return {
    url: `http://127.0.0.1:${port}/sql`,
    take() {
      const taken = recorded
      recorded = []
      return taken
    },
    async close() {
      server.closeAllConnections()
      await new Promise((resolve) => server.close(resolve))
    },
  }
}

function toNeonHeaders(headers: IncomingHttpHeaders): Record<string, string> {
  return Object.fromEntries(
    Object.entries(headers).flatMap(([name, value]) => (name.startsWith('neon-') ? [[name, String(value)]] : [])),
  )
}

/** The batch by hand: the bytes that the driver would send. */
export function toBatchShot(endpointUrl: string, { headers, queries }: Batch): Shot {
  return toShot(endpointUrl, '/sql', headers, JSON.stringify({ queries }))
}

/** The same batch as another request. */
export function withNewKey({ headers, queries }: Batch): Batch {
  return { headers, queries: queries.map(({ query, params }) => ({ query, params: params.map(renewKey) })) }
}

/** As `toBatchShot`, each time as another request: written once, and only the key of it anew. */
export function toBatchShots(endpointUrl: string, batch: Batch): () => Shot {
  const shot = toBatchShot(endpointUrl, batch)
  const key = batch.queries.flatMap(({ params }) => params).find(isRequestKey)
  const keyAt = shot.indexOf(`"${key}"`) + 1
  if (key === undefined || keyAt === 0) throw new RangeError('a batch without a key')
  return () => {
    const renewed = Buffer.from(shot)
    renewed.write(newRequestKey(), keyAt, 'latin1')
    return renewed
  }
}
