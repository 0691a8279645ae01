// Search: is it right, and what does it cost, beside the other ways to find somebody in PostgreSQL and beside a loop over
// the codes in memory.
import { performance } from 'node:perf_hooks'
import pg from 'pg'
import { SHORTLIST_SIZE, toVector } from '../../src/db/templates.ts'
import { cosine, type Embedding } from '../../src/face/embedding.ts'
import { rotationOf } from '../../src/face/protection/keyring.ts'
import { rotate, signCode } from '../../src/face/protection/rotation.ts'
import { ARCFACE_512, roundDistance, toDistance } from '../../src/face/similarity.ts'
import { readCpuMs } from '../cpu.ts'
import { findTemplateKeys } from '../database/template-keys.ts'
import { HttpConnection, requireStatus } from './client.ts'
import { findNearest, prepareScan } from './kernels.ts'
import { toExternalId, toFace } from './people.ts'
import { toSearchShot } from './requests.ts'
import { type BenchTenant, MODEL, type Stage } from './stage.ts'
import { type Answer, median, type Recall, toRecall } from './statistics.ts'

export interface Probes {
  /** Of people of the gallery, each by another sample than the enrolled one. */
  genuine: Embedding[]
  /** Of people who are in no gallery. */
  impostors: Embedding[]
  /** What brute force over the plain embeddings names for each: the genuine ones first. */
  expected: Answer[]
}

const MAX_DISTANCE = toDistance(ARCFACE_512.identification)

export async function prepareProbes({ seed, faces }: BenchTenant, count: number): Promise<Probes> {
  const genuine = Array.from({ length: count }, (_, index) => {
    const person = faces >= count ? Math.floor((index * faces) / count) : index % faces
    return toFace(seed, person, 1 + Math.floor(index / faces))
  })
  const impostors = Array.from({ length: count }, (_, index) => toFace(seed, faces + index, 1))
  const probes = [...genuine, ...impostors]
  const nearest = await findNearest(faces, (person) => toFace(seed, person, 0), probes)
  const expected = nearest.map(({ person }, index) => {
    // found in float32, decided in float64 as the service decides
    const exact = 1 - cosine(toFace(seed, person, 0), probes[index] as Embedding)
    return roundDistance(exact) <= MAX_DISTANCE ? toExternalId(person) : null
  })
  return { genuine, impostors, expected }
}

export interface SearchRun {
  faces: number
  recall: Recall
  /** Of genuine probes, those that brute force names as somebody else or nobody: what no search can mend. */
  genuineMissedByBruteForce: number
  p50: number
  databaseCpuMs: number
  searches: number
}

/** Asks the Worker for every probe. */
export async function measureSearch(
  stage: Stage,
  tenant: BenchTenant,
  { genuine, impostors, expected }: Probes,
  connections: number,
): Promise<SearchRun> {
  const probes = [...genuine, ...impostors]
  const answers: Answer[] = probes.map(() => null)
  const latencies: number[] = []
  const open = await Promise.all(Array.from({ length: connections }, () => HttpConnection.open(stage.worker.url)))
  let next = 0
  // the first one is cold
  requireStatus(
    await (open[0] as HttpConnection).ask(toSearchShot(stage.worker.url, tenant, probes[0] as Embedding)),
    200,
  )
  const before = await stage.readBackendsCpuMs('rekko_app')
  await Promise.all(
    open.map(async (connection) => {
      while (next < probes.length) {
        const index = next++
        const answer = await connection.ask(toSearchShot(stage.worker.url, tenant, probes[index] as Embedding))
        requireStatus(answer, 200)
        latencies.push(answer.ms)
        // as the API documents it
        const { matches } = JSON.parse(answer.body) as { matches: { external_id: string }[] }
        answers[index] = matches[0]?.external_id ?? null
      }
    }),
  )
  const databaseCpuMs = ((await stage.readBackendsCpuMs('rekko_app')) - before) / probes.length
  for (const connection of open) connection.close()
  const genuineMissedByBruteForce = genuine.filter((_, index) => expected[index] === null).length
  return {
    ...{ faces: tenant.faces, recall: toRecall(expected, answers), genuineMissedByBruteForce },
    ...{ p50: median(latencies), databaseCpuMs, searches: probes.length },
  }
}

/** Another way to search the same gallery. */
export interface Alternative {
  name: string
  faces: number
  p50: number
  databaseCpuMs: number
  recall: Recall
  /** Seconds to build its index; null where it has none. */
  buildSeconds: number | null
}

const ALTERNATIVES = `
  create table bench_plain as select tenant_id, external_id, embedding from faces;
  create index on bench_plain (tenant_id);
  create table bench_half as select tenant_id, external_id, embedding::halfvec(512) as embedding from faces;
  create index on bench_half (tenant_id);
  analyze bench_plain, bench_half`

/** An index over a million faces would take an hour to build. */
const HNSW_FACES = 100_000

export interface AlternativesOptions {
  /** Genuine probes for an exact scan, whose recall is known; and for an approximate index. */
  exactProbes: number
  hnswProbes: number
  /** Whether to build approximate indexes, which takes minutes. */
  withHnsw: boolean
}

/** `hnsw.ef_search`: 40 is its default, 1,000 its most. */
const EF_SEARCH = [40, 100, 200, 400, 1_000]

/** Measured at the same time: what a search of ours takes of the database, turn by turn with the exact scans. */
export interface Alternatives {
  ours: { faces: number; databaseCpuMs: number; p50: number }[]
  others: Alternative[]
}

export async function measureAlternatives(
  stage: Stage,
  galleries: readonly { tenant: BenchTenant; probes: Probes }[],
  options: AlternativesOptions,
  report: (step: string) => void,
): Promise<Alternatives> {
  const { admin } = stage
  await admin.execute(ALTERNATIVES)
  const client = new pg.Client({ connectionString: stage.adminUrl })
  await client.connect()
  try {
    // its CPU would be that of other processes
    await client.query('set max_parallel_workers_per_gather = 0')
    const session = await openSession(client)
    const found: Alternatives = { ours: [], others: [] }
    for (const gallery of galleries) await compareExact(stage, session, gallery, options.exactProbes, found)
    const indexed = galleries.filter(({ tenant }) => tenant.faces <= HNSW_FACES)
    const largest = indexed.at(-1)
    if (!largest || !options.withHnsw) return found
    const tooLarge = galleries.filter((gallery) => !indexed.includes(gallery)).map(({ tenant }) => tenant.id)
    for (const table of ['bench_shared', 'bench_partial']) {
      await client.query(`create table ${table} as select * from bench_half where false`)
      await client.query(`insert into ${table} select * from bench_half where tenant_id <> all ($1)`, [tooLarge])
      await client.query(`analyze ${table}`)
    }
    await client.query('set enable_sort = off; set enable_seqscan = off')
    const { tenant } = largest
    report(`building an HNSW index for the ${tenant.faces} faces of one tenant`)
    const index = 'using hnsw (embedding halfvec_cosine_ops)'
    const partial = await timed(() =>
      client.query(`create index on bench_partial ${index} where tenant_id = '${tenant.id}'`),
    )
    for (const efSearch of EF_SEARCH) {
      await client.query(`set hnsw.ef_search = ${efSearch}`)
      const name = `per-tenant HNSW, ef_search ${efSearch}`
      found.others.push(await measureSql(stage, session, name, 'bench_partial', largest, options.hnswProbes, partial))
    }
    report('building one HNSW index for all tenants')
    const shared = await timed(() => client.query(`create index on bench_shared ${index}`))
    for (const { tenant: of, probes } of indexed) {
      for (const [name, setting] of [
        ['shared HNSW', 'off'],
        ['shared HNSW, iterative', 'strict_order'],
      ] as const) {
        await client.query(`set hnsw.ef_search = 40; set hnsw.iterative_scan = ${setting}`)
        const gallery = { tenant: of, probes }
        found.others.push(
          await measureSql(stage, session, name, 'bench_shared', gallery, Math.min(options.hnswProbes, 500), shared),
        )
      }
    }
    return found
  } finally {
    await client.end()
    await admin.execute('drop table if exists bench_plain, bench_half, bench_shared, bench_partial')
  }
}

interface Session {
  client: pg.Client
  pid: number
}

async function openSession(client: pg.Client): Promise<Session> {
  const { rows } = await client.query('select pg_backend_pid() as pid')
  return { client, pid: Number(rows[0]?.pid) }
}

async function timed(work: () => Promise<unknown>): Promise<number> {
  const startedAt = performance.now()
  await work()
  return (performance.now() - startedAt) / 1000
}

/** Ours and the exact scans, one search of each in turn. */
async function compareExact(
  stage: Stage,
  session: Session,
  { tenant, probes }: { tenant: BenchTenant; probes: Probes },
  count: number,
  into: Alternatives,
): Promise<void> {
  const chosen = probes.genuine.slice(0, count)
  const toParameter = await toRotated(stage, tenant)
  const tables = [
    { name: 'exact vector(512)', table: 'bench_plain' },
    { name: 'exact halfvec', table: 'bench_half' },
  ].map((each) => ({ ...each, cpu: 0, latencies: [] as number[], answers: [] as Answer[] }))
  const ours = { cpu: 0, latencies: [] as number[] }
  for (const probe of chosen) {
    const shot = toSearchShot(stage.worker.url, tenant, probe)
    // workerd closes one that was idle for as long as the scans of a million take
    const connection = await HttpConnection.open(stage.worker.url)
    const before = await stage.readBackendsCpuMs('rekko_app')
    const answer = await connection.ask(shot)
    ours.cpu += (await stage.readBackendsCpuMs('rekko_app')) - before
    connection.close()
    requireStatus(answer, 200)
    ours.latencies.push(answer.ms)
    for (const each of tables) {
      const asked = await ask(session, each.table, tenant, toParameter(probe))
      each.cpu += asked.cpuMs
      each.latencies.push(asked.ms)
      each.answers.push(asked.answer)
    }
  }
  const { faces } = tenant
  into.ours.push({ faces, databaseCpuMs: ours.cpu / count, p50: median(ours.latencies) })
  for (const { name, cpu, latencies, answers } of tables) {
    into.others.push({
      ...{ name, faces, p50: median(latencies), databaseCpuMs: cpu / count, buildSeconds: null },
      recall: toRecall(probes.expected.slice(0, count), answers),
    })
  }
}

async function measureSql(
  stage: Stage,
  session: Session,
  name: string,
  table: string,
  { tenant, probes }: { tenant: BenchTenant; probes: Probes },
  count: number,
  buildSeconds: number,
): Promise<Alternative> {
  const toParameter = await toRotated(stage, tenant)
  const chosen = probes.genuine.slice(0, count)
  const answers: Answer[] = []
  const latencies: number[] = []
  let cpu = 0
  for (const probe of chosen) {
    const asked = await ask(session, table, tenant, toParameter(probe))
    answers.push(asked.answer)
    latencies.push(asked.ms)
    cpu += asked.cpuMs
  }
  return {
    ...{ name, faces: tenant.faces, p50: median(latencies), databaseCpuMs: cpu / chosen.length, buildSeconds },
    recall: toRecall(probes.expected.slice(0, chosen.length), answers),
  }
}

/** The nearest face, if it is near enough: the threshold outside, as everybody does it. */
async function ask(
  { client, pid }: Session,
  table: string,
  tenant: BenchTenant,
  probe: string,
): Promise<{ answer: Answer; ms: number; cpuMs: number }> {
  const type = table === 'bench_plain' ? 'vector' : 'halfvec'
  const before = await readCpuMs(pid)
  const startedAt = performance.now()
  const { rows } = await client.query(
    `select external_id, embedding <=> $1::${type} as distance from ${table}
    where tenant_id = '${tenant.id}' order by embedding <=> $1::${type} limit 1`,
    [probe],
  )
  const ms = performance.now() - startedAt
  const cpuMs = (await readCpuMs(pid)) - before
  const nearest = rows[0]
  return { answer: nearest && nearest.distance <= MAX_DISTANCE ? nearest.external_id : null, ms, cpuMs }
}

async function toRotated(stage: Stage, tenant: BenchTenant): Promise<(probe: Embedding) => string> {
  const [keyring] = await findTemplateKeys(stage.admin, stage.masterKeys, tenant.id, MODEL)
  return (probe) => toVector(rotate(rotationOf(keyring, MODEL), probe))
}

/** What a scan of the same codes takes when they lie in memory: milliseconds of CPU, in WebAssembly. */
export async function measureScanFloor(stage: Stage, tenant: BenchTenant, { genuine }: Probes): Promise<number> {
  const rows = await stage.admin.query<{ code: string }>('select code::text as code from faces where tenant_id = $1', [
    tenant.id,
  ])
  const scan = await prepareScan(rows.map(({ code }) => toBytes(code)))
  const [keyring] = await findTemplateKeys(stage.admin, stage.masterKeys, tenant.id, MODEL)
  const probes = genuine.slice(0, 50).map((probe) => toBytes(signCode(rotate(rotationOf(keyring, MODEL), probe))))
  const times = probes.map((probe) => {
    const before = process.cpuUsage()
    scan(probe, SHORTLIST_SIZE)
    const { user, system } = process.cpuUsage(before)
    return (user + system) / 1000
  })
  return median(times)
}

function toBytes(bits: string): Uint8Array {
  return Uint8Array.from({ length: bits.length / 8 }, (_, index) =>
    Number.parseInt(bits.slice(index * 8, index * 8 + 8), 2),
  )
}
