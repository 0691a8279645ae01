// `make bench`: measures the service beside others on one machine, prints tables, and writes JSON and a chart.
//
//   BENCH_DATABASE_URL   an administrator's, on this machine; otherwise scripts/native-postgres is started
//   QUICK=1              under four minutes: smaller galleries, shorter windows, no approximate index
//   LONG=1               a gallery of a million besides
//
// Ends with 1 when something is wrong: a person who was not found, or usage that is not what happened. A bar of speed that
// is missed is listed, and is no failure: it may be the machine's.
import { execFileSync } from 'node:child_process'
import { mkdir, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { performance } from 'node:perf_hooks'
import { readLoad } from '../cpu.ts'
import { type Bar, isMet } from './bars.ts'
import { toChart } from './chart.ts'
import { measureDistant } from './distant.ts'
import { measureBytes, measureSmallTenant } from './growth.ts'
import { compareUsage, measureMetering } from './metering.ts'
import { measureNeighbors } from './neighbors.ts'
import { BY_HAND, findLoad, measureOnePerson, NAIVE, OURS } from './one-person.ts'
import { httpPeer, of, takeTurns } from './peers.ts'
import { toReport } from './report.ts'
import { inTurn, toClaims, toSearchShot, toVerifyShot } from './requests.ts'
import type { Results } from './results.ts'
import { measureAlternatives, measureScanFloor, measureSearch, prepareProbes } from './search.ts'
import { type BenchTenant, copyToNaive, describeMachine, type Stage, startStage } from './stage.ts'
import { pairedRatio, recallAt1 } from './statistics.ts'
import { measureWorkerAlone, measureWorkerFloor } from './worker-alone.ts'

const ROOT = join(import.meta.dirname, '../..')
const OUTPUT = join(ROOT, '.rekko/bench')

interface Mode {
  name: string
  /** Galleries, and how many genuine probes and as many impostors each is asked. */
  galleries: readonly { faces: number; probes: number }[]
  rounds: number
  windowMs: number
  windows: number
  otherTenants: number
  exactProbes: number
  hnswProbes: number
  withHnsw: boolean
}

const FULL: Mode = {
  name: 'full',
  galleries: [10, 100, 1_000, 10_000, 100_000].map((faces) => ({ faces, probes: 2_000 })),
  ...{ rounds: 500, windowMs: 1_500, windows: 5, otherTenants: 2_000 },
  ...{ exactProbes: 30, hnswProbes: 1_000, withHnsw: true },
}
const LONG: Mode = {
  ...FULL,
  name: 'long',
  galleries: [...FULL.galleries, { faces: 1_000_000, probes: 2_000 }],
}
const QUICK: Mode = {
  name: 'quick',
  galleries: [
    { faces: 10, probes: 500 },
    { faces: 1_000, probes: 2_000 },
    { faces: 10_000, probes: 500 },
    { faces: 100_000, probes: 200 },
  ],
  ...{ rounds: 150, windowMs: 500, windows: 3, otherTenants: 200 },
  ...{ exactProbes: 8, hnswProbes: 0, withHnsw: false },
}

/** More than an isolate keeps the keys of. */
const HEAP_TENANTS = 100

const mode = process.env['LONG'] ? LONG : process.env['QUICK'] ? QUICK : FULL
const startedAt = performance.now()
const seconds = () => (performance.now() - startedAt) / 1000

function say(step: string): void {
  console.error(`${seconds().toFixed(0).padStart(5)} s  ${step}`)
}

async function measure(stage: Stage): Promise<Results> {
  const before = await readLoad()
  const { windowMs, windows, otherTenants } = mode
  const small = await makeSmallTenants(stage)
  const byTenants = [await measureSmallTenant(stage, small.small, 0, windowMs, windows)]

  say(`enrolling ${mode.galleries.map(({ faces }) => faces.toLocaleString('en-US')).join(', ')} faces`)
  const galleries = await stage.createTenants(mode.galleries.map(({ faces }) => ({ name: `gallery-${faces}`, faces })))
  await stage.settle()
  const thousand = findGallery(galleries, 1_000)
  const large = findGallery(galleries, 100_000)

  say('one person')
  await copyToNaive(stage, thousand)
  await copyToNaive(stage, small.growing)
  const onePerson = await measureOnePerson(stage, { verified: thousand, growing: small.growing }, mode)
  say('one person, and a database that is not next door')
  const distant = await measureDistant(stage, thousand, mode)
  say('the Worker alone')
  const workerFloor = await measureWorkerFloor(stage, thousand, windowMs, windows)
  say('search of 1,000 faces beside verify')
  const searchToVerify = await measureSearchToVerify(stage, thousand)

  const searches: Results['searches'] = []
  const scanFloor: Results['scanFloor'] = []
  const compared: Parameters<typeof measureAlternatives>[1][number][] = []
  for (const [index, tenant] of galleries.entries()) {
    const { faces } = tenant
    say(`search: ${faces.toLocaleString('en-US')} faces by brute force, and by the service`)
    const probes = await prepareProbes(tenant, mode.galleries[index]?.probes ?? 0)
    searches.push(await measureSearch(stage, tenant, probes, 2))
    if (faces < 1_000) continue
    scanFloor.push({ faces, cpuMs: await measureScanFloor(stage, tenant, probes) })
    compared.push({ tenant, probes })
  }
  say('the other ways to search')
  const alternatives = await measureAlternatives(stage, compared, mode, say)

  say('metering')
  const hot = { metered: small.hot, unmetered: small.unmetered }
  const metering = await measureMetering(stage, hot, windowMs, windows * 2)
  say(`${otherTenants.toLocaleString('en-US')} more tenants`)
  const others = await stage.createTenants(
    Array.from({ length: otherTenants }, (_, index) => ({ name: `other-${index}`, faces: 10 })),
  )
  await stage.settle()
  byTenants.push(await measureSmallTenant(stage, small.small, otherTenants, windowMs, windows))
  say('noisy neighbors')
  const neighbors = await measureNeighbors(stage, { small: small.small, large }, windowMs * 2, windows)
  const workerAlone = await measureWorkerAlone(stage, others.slice(0, HEAP_TENANTS), 3, windowMs * 2)
  // before the roll-up, and after: an event is counted once wherever it is
  const agreements = [await compareUsage(stage, small.unmetered)]
  await stage.settle()
  agreements.push(await compareUsage(stage, small.unmetered))
  const agreement = agreements.reduce((worst, other) => (other.different > worst.different ? other : worst))

  const results = {
    ...{ startedAt: new Date(Date.now() - seconds() * 1000).toISOString(), seconds: seconds(), mode: mode.name },
    machine: await describeMachine(stage.admin),
    load: { before, after: await readLoad() },
    ...{ searches, alternatives, scanFloor, onePerson, distant, searchToVerify, workerAlone, workerFloor, neighbors },
    ...{ otherTenants, metering, agreement, growth: { bytesPerFace: await measureBytes(stage), byTenants } },
  }
  return { ...results, bars: toBars(results) }
}

async function makeSmallTenants(stage: Stage) {
  const [small, hot, unmetered, growing] = await stage.createTenants([
    { name: 'small', faces: 50 },
    { name: 'hot', faces: 50 },
    { name: 'hot without metering', faces: 50 },
    { name: 'growing', faces: 0 },
  ])
  if (!small || !hot || !unmetered || !growing) throw new RangeError('tenants are missing')
  return { small, hot, unmetered, growing }
}

function findGallery(galleries: readonly BenchTenant[], faces: number): BenchTenant {
  const found = galleries.find((gallery) => gallery.faces === faces)
  if (!found) throw new RangeError(`there is no gallery of ${faces}`)
  return found
}

async function measureSearchToVerify({ worker }: Stage, tenant: BenchTenant): Promise<number> {
  const claims = toClaims(tenant, 64)
  const verify = inTurn(claims.map((claim) => toVerifyShot(worker.url, tenant, claim)))
  const search = inTurn(claims.map(({ probe }) => toSearchShot(worker.url, tenant, probe)))
  const turns = await takeTurns(
    [httpPeer('verify', worker.url, {}, verify), httpPeer('search', worker.url, {}, search)],
    mode.rounds,
  )
  return pairedRatio(of(turns, 'search'), of(turns, 'verify'))
}

function toBars(results: Omit<Results, 'bars'>): Bar[] {
  const { searches, alternatives, onePerson, workerFloor, neighbors, metering, agreement, searchToVerify } = results
  const { verify } = onePerson.turns
  const large = alternatives.ours.find(({ faces }) => faces === 100_000)
  const half = alternatives.others.find(({ faces, name }) => faces === 100_000 && name === 'exact halfvec')
  const ourRecall = searches.find(({ faces }) => faces === 100_000)?.recall
  // no more CPU than ours
  const affordable = alternatives.others.filter(
    ({ name, faces, databaseCpuMs }) =>
      faces === 100_000 && name.startsWith('per-tenant HNSW') && databaseCpuMs <= (large?.databaseCpuMs ?? 0),
  )
  const theirRecall = Math.max(...affordable.map(({ recall }) => recallAt1(recall)))
  const worst = Math.min(...searches.map(({ recall }) => recallAt1(recall)))
  const falselyNamed = searches.reduce((total, { recall }) => total + recall.falselyNamed, 0)
  const beside = (kind: 'search' | 'verify') => neighbors.besideLarge[kind] / neighbors.besideCounting[kind]
  const correctness = 'correctness'
  const speed = 'speed'
  return [
    {
      name: 'recall@1, the worst gallery: ours / brute force',
      measured: worst,
      relation: '=',
      limit: 1,
      kind: correctness,
    },
    {
      name: 'people named beyond those of brute force',
      measured: falselyNamed,
      relation: '=',
      limit: 0,
      kind: correctness,
    },
    {
      name: 'tenants whose usage is not their audit',
      measured: agreement.different,
      relation: '=',
      limit: 0,
      kind: correctness,
    },
    {
      name: 'verify, p50 at 1 connection: ours / same batch by hand',
      ...{ measured: pairedRatio(of(verify, OURS), of(verify, BY_HAND)), relation: '<=', limit: 1.25, kind: speed },
    },
    {
      name: 'verify, throughput at 32 connections: ours / naive',
      measured: pairedRatio(
        findLoad(onePerson, 'verify', 32, OURS).throughputs,
        findLoad(onePerson, 'verify', 32, NAIVE).throughputs,
      ),
      ...{ relation: '>=', limit: 1.5, kind: speed },
    },
    {
      name: 'verify, CPU in the Worker / batch, HMAC, rotation and opening',
      ...{ measured: workerFloor.ratio, relation: '<=', limit: 1.3, kind: speed },
    },
    {
      name: 'search of 100,000, CPU of the database: ours / exact halfvec',
      measured: large && half ? large.databaseCpuMs / half.databaseCpuMs : null,
      ...{ relation: '<=', limit: 0.2, kind: speed },
    },
    {
      name: 'search of 100,000, recall: ours / per-tenant HNSW at equal CPU',
      measured: ourRecall && affordable.length > 0 ? recallAt1(ourRecall) / theirRecall : null,
      ...{ relation: '>=', limit: 1, kind: speed },
    },
    {
      name: 'search of 1,000, p50: ours / verify',
      ...{ measured: searchToVerify, relation: '<=', limit: 2, kind: speed },
    },
    {
      name: 'search of a small tenant, p50: beside a large one / as busy a machine',
      ...{ measured: beside('search'), relation: '<=', limit: 1.5, kind: speed },
    },
    {
      name: 'verify of a small tenant, p50: beside a large one / as busy a machine',
      ...{ measured: beside('verify'), relation: '<=', limit: 1.5, kind: speed },
    },
    {
      name: 'one hot tenant, throughput: with metering / audit only',
      ...{ measured: metering.ratio, relation: '>=', limit: 0.8, kind: speed },
    },
  ]
}

async function write(results: Results): Promise<void> {
  await mkdir(OUTPUT, { recursive: true })
  const name = `${results.startedAt.slice(0, 19).replaceAll(':', '')}-${results.mode}`
  const plain = (_key: string, value: unknown) => (value instanceof Map ? Object.fromEntries(value) : value)
  await writeFile(join(OUTPUT, `${name}.json`), `${JSON.stringify(results, plain, 1)}\n`)
  await writeFile(join(OUTPUT, `${name}.md`), `${toReport(results)}\n`)
  const chart = toChart(results)
  await writeFile(join(OUTPUT, `${name}.svg`), chart)
  // the one that README.md shows
  if (results.mode !== 'quick') await writeFile(join(ROOT, 'docs/performance.svg'), chart)
  console.log(`\n${OUTPUT}/${name}.json, .md and .svg`)
}

function findServer(): string {
  const given = process.env['BENCH_DATABASE_URL']
  if (given) return given
  return execFileSync(join(ROOT, 'scripts/native-postgres'), ['start'], { encoding: 'utf8' }).trim()
}

if (process.platform !== 'linux') throw new Error('This needs Linux: CPU time is read from /proc.')
let isInterrupted = false
const starting = startStage(findServer(), say)
for (const signal of ['SIGINT', 'SIGTERM'] as const) {
  process.once(signal, () => {
    // whatever is under way fails when its servers go
    isInterrupted = true
    const closed = starting.then((started) => started.close())
    void closed.catch(() => {}).finally(() => process.exit(130))
  })
}
const stage = await starting
try {
  const results = await measure(stage)
  console.log(toReport(results))
  await write(results)
  const missed = results.bars.filter((bar) => isMet(bar) === false)
  for (const { name } of missed) console.log(`MISSED  ${name}`)
  if (missed.some(({ kind }) => kind === 'correctness')) process.exitCode = 1
} catch (error) {
  if (!isInterrupted) throw error
} finally {
  await stage.close()
}
