// One person, one round trip: verify and enroll through the Worker, beside the same SQL in other hands, and beside a naive
// server that does the same job.
import { randomUUID } from 'node:crypto'
import pg from 'pg'
import { type Batch, recordBatches, toBatchShot, toBatchShots, withNewKey } from './batches.ts'
import { httpPeer, type Load, loadInTurns, of, ofProcess, type Peer, pgPeer, takeTurns } from './peers.ts'
import { toFace } from './people.ts'
import { inTurn, toClaims, toEnrollShot, toVerifyShot } from './requests.ts'
import type { BenchTenant, Stage } from './stage.ts'

/** Requests that are prepared and taken in turn. */
const PREPARED = 64
/** As many sessions as the endpoint and the naive server keep. */
const SESSIONS = 10
export const CONNECTIONS = [1, 8, 32] as const

export const OURS = 'Rekko'
export const BASE64 = 'Rekko, base64'
export const BY_HAND = 'same batch by hand, same endpoint'
export const OVER_TCP = 'same SQL over TCP, pg'
export const NAIVE = 'naive: Fastify, pg, pgvector'

export interface OnePerson {
  /** Milliseconds of each request, one in turn for each peer. */
  turns: { verify: Map<string, number[]>; enroll: Map<string, number[]> }
  loads: { act: 'verify' | 'enroll'; connections: number; byPeer: Map<string, Load> }[]
}

/** @param tenants of the gallery that is verified, and of the one that grows */
export async function measureOnePerson(
  stage: Stage,
  tenants: { verified: BenchTenant; growing: BenchTenant },
  { rounds, windowMs, windows }: { rounds: number; windowMs: number; windows: number },
): Promise<OnePerson> {
  const pool = new pg.Pool({ connectionString: stage.appUrl, max: SESSIONS, application_name: 'bench by hand' })
  try {
    const verify = await toVerifyPeers(stage, tenants.verified, pool)
    const enroll = await toEnrollPeers(stage, tenants.growing, pool)
    const turns = { verify: await takeTurns(verify, rounds), enroll: await takeTurns(enroll, rounds) }
    const loads: OnePerson['loads'] = []
    for (const connections of CONNECTIONS) {
      for (const [act, peers] of [
        ['verify', verify],
        ['enroll', enroll],
      ] as const) {
        loads.push({ act, connections, byPeer: await loadInTurns(peers, connections, windowMs, windows) })
      }
    }
    return { turns, loads }
  } finally {
    await pool.end()
  }
}

async function toVerifyPeers(stage: Stage, tenant: BenchTenant, pool: pg.Pool): Promise<Peer[]> {
  const { worker, naive, endpoint } = stage
  const claims = toClaims(tenant, PREPARED)
  const shotsOf = (url: string) => claims.map((claim) => toVerifyShot(url, tenant, claim))
  const batches = await recordBatches(stage, shotsOf)
  const nextShots = inTurn(batches.map((batch) => toBatchShots(endpoint.url, batch)))
  const nextBatch = inTurn(batches)
  const parts = toParts(stage)
  return [
    httpPeer(OURS, worker.url, parts.ours, inTurn(shotsOf(worker.url))),
    httpPeer(
      BASE64,
      worker.url,
      parts.ours,
      inTurn(claims.map((claim) => toVerifyShot(worker.url, tenant, claim, 'base64'))),
    ),
    httpPeer(BY_HAND, endpoint.url, parts.byHand, () => nextShots()()),
    pgPeer(OVER_TCP, pool, parts.overTcp, () => withNewKey(nextBatch()).queries),
    httpPeer(NAIVE, naive.url, parts.naive, inTurn(shotsOf(naive.url))),
  ]
}

async function toEnrollPeers(stage: Stage, tenant: BenchTenant, pool: pg.Pool): Promise<Peer[]> {
  const { worker, naive, endpoint } = stage
  const face = toFace(tenant.seed, 0, 0)
  const newName = () => `enrolled-${randomUUID()}`
  const names: string[] = []
  const batches = await recordBatches(
    stage,
    (url) =>
      Array.from({ length: 2 }, () => {
        const name = newName()
        names.push(name)
        return toEnrollShot(url, tenant, name, face)
      }),
    201,
  )
  const [batch, recordedName] = [batches[0], names[1]]
  if (!batch || !recordedName) throw new RangeError('no enrollment was recorded')
  const nextBatch = () => withNewFace(batch, recordedName, newName())
  const parts = toParts(stage)
  return [
    httpPeer(OURS, worker.url, parts.ours, () => toEnrollShot(worker.url, tenant, newName(), face), 201),
    httpPeer(BY_HAND, endpoint.url, parts.byHand, () => toBatchShot(endpoint.url, nextBatch())),
    pgPeer(OVER_TCP, pool, parts.overTcp, () => nextBatch().queries),
    httpPeer(NAIVE, naive.url, parts.naive, () => toEnrollShot(naive.url, tenant, newName(), face), 201),
  ]
}

const UUID = /^[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[0-9a-f]{4}-[0-9a-f]{12}$/

/** The same enrollment as another request, under another name, with another id: the only uuid that was made for it. */
function withNewFace(batch: Batch, oldName: string, newName: string): Batch {
  const { headers, queries } = withNewKey(batch)
  const [enter, ...others] = queries
  if (!enter) throw new RangeError('a batch begins with entering')
  const tenantId = enter.params[0]
  const renewed = others.map(({ query, params }) => ({
    query,
    params: params.map((param) => {
      if (typeof param !== 'string') return param
      if (param !== tenantId && UUID.test(param)) return randomUUID()
      // the lock of a person is of the tenant and the name
      return param === oldName || param === `${tenantId} ${oldName}` ? param.replace(oldName, newName) : param
    }),
  }))
  return { headers, queries: [enter, ...renewed] }
}

function toParts(stage: Stage) {
  const database = (login: string) => () => stage.readBackendsCpuMs(login)
  const endpoint = ofProcess(stage.endpoint.pid)
  const administrator = new URL(stage.adminUrl).username
  return {
    ours: { server: ofProcess(stage.worker.pid), endpoint, database: database('rekko_app') },
    byHand: { endpoint, database: database('rekko_app') },
    overTcp: { database: database('rekko_app') },
    naive: { server: ofProcess(stage.naive.pid), database: database(administrator) },
  }
}

export function findLoad({ loads }: OnePerson, act: 'verify' | 'enroll', connections: number, peer: string): Load {
  const found = loads.find((load) => load.act === act && load.connections === connections)
  if (!found) throw new RangeError('it was not measured')
  return of(found.byPeer, peer)
}
