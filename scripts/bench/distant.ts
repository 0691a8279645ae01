// What a round trip is worth: verify with some milliseconds between the server and its database, as between a Worker and a
// region, ours beside the naive server. On one machine a round trip costs next to nothing, and nobody runs it so.
import { connect, createServer, type Socket } from 'node:net'
import { join } from 'node:path'
import { startWorkerd } from '../workerd.ts'
import { NAIVE, OURS } from './one-person.ts'
import { httpPeer, type Load, loadInTurns, takeTurns } from './peers.ts'
import { inTurn, toClaims, toVerifyShot } from './requests.ts'
import { type BenchTenant, BUNDLE, type Stage, startNaive } from './stage.ts'

export interface Distant {
  roundTripMs: number
  turns: Map<string, number[]>
  byPeer: Map<string, Load>
}

const ROUND_TRIP_MS = 5
const CONNECTIONS = 32

export async function measureDistant(
  stage: Stage,
  tenant: BenchTenant,
  { rounds, windowMs, windows }: { rounds: number; windowMs: number; windows: number },
): Promise<Distant> {
  const closers: (() => Promise<void>)[] = []
  const before = async <Server extends { close(): Promise<void> }>(server: Promise<Server>) => {
    closers.push((await server).close)
    return server
  }
  try {
    const endpoint = new URL(stage.endpoint.url)
    endpoint.port = String((await before(startDelay(Number(endpoint.port)))).port)
    const worker = await before(
      startWorkerd(join(BUNDLE, 'index.js'), { ...stage.bindings, NEON_FETCH_ENDPOINT: endpoint.href }),
    )
    const database = new URL(stage.adminUrl)
    database.hostname = '127.0.0.1'
    database.port = String((await before(startDelay(Number(database.port || 5432)))).port)
    const naive = await before(startNaive(database.href))

    const claims = toClaims(tenant, 64)
    const shotsFor = (url: string) => inTurn(claims.map((claim) => toVerifyShot(url, tenant, claim)))
    const peers = [
      httpPeer(OURS, worker.url, {}, shotsFor(worker.url)),
      httpPeer(NAIVE, naive.url, {}, shotsFor(naive.url)),
    ]
    return {
      roundTripMs: ROUND_TRIP_MS,
      turns: await takeTurns(peers, Math.ceil(rounds / 5)),
      byPeer: await loadInTurns(peers, CONNECTIONS, windowMs, windows),
    }
  } finally {
    for (const close of closers.reverse()) await close()
  }
}

/** Passes bytes on to a port of this machine, half a round trip later. */
async function startDelay(port: number): Promise<{ port: number; close(): Promise<void> }> {
  const sockets = new Set<Socket>()
  const server = createServer((near) => {
    const far = connect(port, '127.0.0.1')
    for (const [from, to] of [
      [near, far],
      [far, near],
    ] as const) {
      sockets.add(from.setNoDelay(true))
      from.on('data', (chunk) => setTimeout(() => to.write(chunk), ROUND_TRIP_MS / 2))
      from.on('close', () => {
        sockets.delete(from)
        to.destroy()
      })
      from.on('error', () => {})
    }
  })
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  const address = server.address()
  if (typeof address !== 'object' || !address) throw new RangeError('a server on TCP has a port')
  return {
    port: address.port,
    async close() {
      for (const socket of sockets) socket.destroy()
      await new Promise((resolve) => server.close(resolve))
    },
  }
}
