// `make faults`: plays faults against the service, and checks after each round that nothing was lost, doubled or wrong; then
// breaks the service on purpose, and sees that the checks notice.
//
//   QUICK=1          one short round of each fault, and no bites: under three minutes
//   FAULT=crash      this fault alone; several behind commas
//   BITE=name        this bite alone; BITE=all for all
//   SEED=1234        the seed of the first round: what was printed plays the same again
//   ROUNDS=3         rounds of each fault
//   KEYS=0           clients that send no Idempotency-Key, and ask once
//   DOCUMENT=1       writes the tables into docs/reliability.md
//
// Ends with 1 at a violation, or where a bite is not noticed. Needs root on Debian, as scripts/native-postgres does.
import { readFile, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import type { Edit } from '../edit.ts'
import { BITES, type Bite } from './bites.ts'
import { type ClusterOptions, removeLeftovers } from './cluster.ts'
import { CLUSTER_FAULTS } from './cluster-faults.ts'
import type { Fault } from './fault.ts'
import { type Bitten, judge, type Played, putTables, toBiteTable, toFaultTable } from './report.ts'
import { playRound, type RoundResult } from './round.ts'
import { Stage } from './stage.ts'
import { WIRE_FAULTS } from './wire-faults.ts'
import { WORKER_FAULTS } from './worker-faults.ts'
import type { Scale } from './workload.ts'

const FAULTS: readonly Fault[] = [...WORKER_FAULTS, ...WIRE_FAULTS, ...CLUSTER_FAULTS]
const FULL: Scale = { tenants: 3, names: 10, clients: 8, operations: 40 }
const SHORT: Scale = { tenants: 2, names: 8, clients: 6, operations: 30 }
/** A bite that is not noticed by then is none. */
const BITE_ROUNDS = 5
const SHOWN = 5
const DOCUMENT = join(import.meta.dirname, '../../docs/reliability.md')

const { env } = process
const isQuick = Boolean(env['QUICK'])
const scale = isQuick ? SHORT : FULL
const sendsKeys = env['KEYS'] !== '0'
const seed = toWholeNumber('SEED', Date.now() % 1_000_000)
const rounds = toWholeNumber('ROUNDS', isQuick || env['SEED'] ? 1 : 10)
const faults = choose('FAULT', FAULTS, env['BITE'] ? [] : FAULTS)
if (env['DOCUMENT'] && (isQuick || env['FAULT'] || env['BITE'])) throw new Error('DOCUMENT=1 is for a whole run.')
const bites = env['BITE'] === 'all' ? BITES : choose('BITE', BITES, isQuick || env['FAULT'] ? [] : BITES)

function toWholeNumber(name: string, otherwise: number): number {
  const number = env[name] ? Number(env[name]) : otherwise
  if (!Number.isSafeInteger(number) || number < 0) throw new Error(`${name} is a whole number.`)
  return number
}

function choose<Item extends { name: string }>(variable: string, items: readonly Item[], otherwise: readonly Item[]) {
  const names = env[variable]?.split(',') ?? []
  const unknown = names.filter((name) => !items.some((item) => item.name === name))
  if (unknown.length > 0) {
    throw new Error(`${variable}: there is no ${unknown.join(', ')}, but ${items.map(({ name }) => name).join(', ')}.`)
  }
  return names.length > 0 ? items.filter(({ name }) => names.includes(name)) : otherwise
}

const stages = new Set<Stage>()

async function open(options: ClusterOptions, edits: readonly Edit[] = []): Promise<Stage> {
  const stage = await Stage.start(options, edits)
  stages.add(stage)
  return stage
}

async function close(stage: Stage): Promise<void> {
  if (stages.delete(stage)) await stage.close()
}

async function playFaults(): Promise<Played[]> {
  const played: Played[] = []
  const shared = faults.some(({ cluster }) => !cluster) ? await open({}) : null
  for (const fault of faults) {
    const leftOut = fault.outside ?? (isQuick && fault.isLong ? 'it takes half a minute, QUICK=1' : null)
    const obstacle = (env['FAULT'] ? null : leftOut) ?? (await fault.findObstacle?.()) ?? null
    const results: RoundResult[] = []
    played.push({ fault, results, obstacle })
    if (obstacle !== null) {
      console.log(`${fault.name.padEnd(16)} skipped: ${obstacle}`)
      continue
    }
    const stage = shared && !fault.cluster ? shared : await open(fault.cluster ?? {})
    for (let round = 0; round < rounds; round++) {
      const result = await playRound(stage, fault, seed + round, scale, sendsKeys)
      results.push(result)
      say(fault.name, result)
      if (result.violations.length > 0) console.log(`  again: make faults ${toReplay(fault.name, result.seed)}`)
    }
    if (stage !== shared) await close(stage)
  }
  if (shared) await close(shared)
  return played
}

async function playBites(): Promise<Bitten[]> {
  const bitten: Bitten[] = []
  for (const bite of bites) bitten.push(await play(bite))
  return bitten
}

async function play(bite: Bite): Promise<Bitten> {
  const fault = FAULTS.find(({ name }) => name === bite.fault)
  if (!fault) throw new RangeError(`there is no fault ${bite.fault}`)
  const settings = bite.settings ?? []
  const stage = await open({ ...fault.cluster, settings }, bite.edits)
  try {
    for (let round = 0; round < BITE_ROUNDS; round++) {
      const result = await playRound(stage, fault, seed + round, scale, sendsKeys)
      say(`bite ${bite.name}`, result)
      const isNoticed = result.violations.some(({ invariant }) => bite.expects.includes(invariant))
      if (isNoticed) return { bite, result, rounds: round + 1 }
    }
    return { bite, result: null, rounds: BITE_ROUNDS }
  } finally {
    await close(stage)
  }
}

function toReplay(fault: string, ofSeed: number): string {
  const others = ['QUICK', 'KEYS'].flatMap((name) => (env[name] ? [`${name}=${env[name]}`] : []))
  return [`FAULT=${fault}`, `SEED=${ofSeed}`, ...others].join(' ')
}

function say(name: string, result: RoundResult): void {
  const { seconds, requests, acknowledged, failed, spoiled, recoveryMs, violations } = result
  const facts = [
    `${requests} requests, ${acknowledged} acknowledged, ${failed} failed`,
    ...(spoiled > 0 ? [`${spoiled} batches spoiled`] : []),
    ...(recoveryMs === null ? [] : [`back after ${Math.round(recoveryMs)} ms`]),
    violations.length === 0 ? 'sound' : `${violations.length} VIOLATIONS`,
  ]
  console.log(`${name.padEnd(16)} seed ${result.seed}, ${seconds.toFixed(1)} s: ${facts.join(', ')}`)
  for (const { invariant, kind, says } of violations.slice(0, SHOWN)) console.log(`  ${invariant} ${kind}: ${says}`)
}

let interrupted: Promise<unknown> | null = null
for (const signal of ['SIGINT', 'SIGTERM'] as const) {
  process.once(signal, () => {
    interrupted = Promise.allSettled([...stages].map(close)).finally(() => process.exit(130))
  })
}
await removeLeftovers()
console.log(`seed ${seed}, ${rounds} ${rounds === 1 ? 'round' : 'rounds'} of each fault`)
try {
  const startedAt = performance.now()
  const played = await playFaults()
  const bitten = await playBites()
  const minutes = ((performance.now() - startedAt) / 60_000).toFixed(1)
  const tables = { faults: toFaultTable(played), bites: toBiteTable(bitten) }
  if (played.length > 0) console.log(`\n${tables.faults}`)
  if (bitten.length > 0) console.log(`\n${tables.bites}`)
  const { violations, unnoticed, isSound } = judge(played, bitten)
  console.log(`\nfaults: ${violations} violations, ${unnoticed} bites not noticed, in ${minutes} minutes, seed ${seed}`)
  if (env['DOCUMENT']) await writeFile(DOCUMENT, putTables(await readFile(DOCUMENT, 'utf8'), tables))
  if (!isSound) process.exitCode = 1
} catch (error) {
  // what was under way failed because its servers went
  await interrupted
  throw error
} finally {
  for (const stage of stages) await close(stage)
}
