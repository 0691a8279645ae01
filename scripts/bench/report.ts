// The figures of a run as tables, for a terminal and for docs/performance.md. No I/O.
import { toTable } from '../markdown-table.ts'
import { type Bar, isMet } from './bars.ts'
import type { Distant } from './distant.ts'
import { CONNECTIONS, type OnePerson } from './one-person.ts'
import type { Results } from './results.ts'
import { median, percentile, recallAt1 } from './statistics.ts'
import type { HeapRange } from './worker-alone.ts'

export function toReport(results: Results): string {
  const { machine, mode, load } = results
  return [
    `## Bars\n\n${toBarTable(results.bars)}`,
    `Run: ${mode}, ${results.startedAt}, ${Math.round(results.seconds)} s. Load of the machine before and after: ${load.before.toFixed(1)}, ${load.after.toFixed(1)} on ${machine['cpu']}.`,
    `PostgreSQL ${machine['postgres']} with pgvector ${machine['pgvector']} (shared_buffers ${machine['shared_buffers']}), workerd ${machine['workerd']}, Node ${machine['node']}.`,
    `## Search is right\n\n${toRecallTable(results)}`,
    `## Search\n\n${toSearchTable(results)}`,
    `## One person\n\nOne connection, one request of each in turn, milliseconds:\n\n${toTurnsTable(results.onePerson)}`,
    ...CONNECTIONS.map((count) => `Load on ${count} connections:\n\n${toLoadTable(results.onePerson, count)}`),
    `Verify with ${results.distant.roundTripMs} ms to the database and back:\n\n${toDistantTable(results.distant)}`,
    `## The Worker\n\n${toWorkerTable(results)}`,
    `## Neighbors\n\n${toNeighborsTable(results)}`,
    `## Metering\n\n${toMeteringTable(results)}`,
    `## Growth\n\n${toGrowthTables(results)}`,
  ].join('\n\n')
}

export function toBarTable(bars: readonly Bar[]): string {
  return toTable(
    ['bar', 'measured', 'wanted', ''],
    bars.map((bar) => {
      const met = isMet(bar)
      return [
        bar.name,
        bar.measured === null ? '-' : toFigure(bar.measured),
        `${bar.relation} ${bar.limit}`,
        met === null ? 'not in this run' : met ? 'met' : 'MISSED',
      ]
    }),
  )
}

function toRecallTable({ searches }: Results): string {
  return toTable(
    [
      'faces',
      'searches',
      'named by brute force',
      'found at rank 1',
      'recall@1',
      'named beyond it',
      'genuine below threshold',
    ],
    searches.map(({ faces, searches: count, recall, genuineMissedByBruteForce }) => [
      toCount(faces),
      toCount(count),
      toCount(recall.named),
      toCount(recall.found),
      toPercent(recallAt1(recall)),
      String(recall.falselyNamed),
      String(genuineMissedByBruteForce),
    ]),
  )
}

function toSearchTable({ searches, alternatives, scanFloor }: Results): string {
  const ours = alternatives.ours.map(({ faces, p50, databaseCpuMs }) => {
    // of all probes of the gallery, of which some were timed beside the others
    const found = searches.find((gallery) => gallery.faces === faces)
    return [
      ...['Rekko, whole request', toCount(faces), toMs(p50), toMs(databaseCpuMs)],
      ...[found ? toPercent(recallAt1(found.recall)) : '', ''],
    ]
  })
  const floor = scanFloor.map(({ faces, cpuMs }) => [
    ...['scan of the codes, WebAssembly', toCount(faces), '', toMs(cpuMs), '', ''],
  ])
  const others = alternatives.others.map(({ name, faces, p50, databaseCpuMs, recall, buildSeconds }) => [
    ...[name, toCount(faces), toMs(p50), toMs(databaseCpuMs), toPercent(recallAt1(recall))],
    buildSeconds === null ? '' : `${buildSeconds.toFixed(0)} s`,
  ])
  return toTable(['how', 'faces', 'p50 ms', 'CPU ms', 'recall@1', 'index built in'], [...ours, ...others, ...floor])
}

function toTurnsTable({ turns }: OnePerson): string {
  return toTable(
    ['', 'verify p50', 'p99', 'enroll p50', 'p99'],
    [...turns.verify].map(([name, verify]) => {
      const enroll = turns.enroll.get(name)
      return [
        ...[name, toMs(median(verify)), toMs(percentile(verify, 99))],
        ...(enroll ? [toMs(median(enroll)), toMs(percentile(enroll, 99))] : ['', '']),
      ]
    }),
  )
}

function toLoadTable({ loads }: OnePerson, connections: number): string {
  const rows = loads
    .filter((load) => load.connections === connections)
    .flatMap(({ act, byPeer }) =>
      [...byPeer].map(([name, { throughput, p50, p99, cpuMs }]) => [
        ...[act, name, throughput.toFixed(0), toMs(p50), toMs(p99)],
        ...['server', 'endpoint', 'database'].map((part) => (cpuMs[part] === undefined ? '' : toMs(cpuMs[part]))),
      ]),
    )
  return toTable(['', '', 'per second', 'p50 ms', 'p99', 'CPU ms: server', 'endpoint', 'database'], rows)
}

function toDistantTable({ turns, byPeer }: Distant): string {
  return toTable(
    ['', 'p50 ms, 1 connection', 'p50 ms, 32 connections', 'per second'],
    [...turns].map(([name, latencies]) => {
      const load = byPeer.get(name)
      return [name, toMs(median(latencies)), toMs(load?.p50 ?? Number.NaN), (load?.throughput ?? Number.NaN).toFixed(0)]
    }),
  )
}

function toWorkerTable({ workerAlone, workerFloor }: Results): string {
  const { bundleKib, startCpuMs, memoryMb, heap } = workerAlone
  const toHeap = ({ least, most }: HeapRange) => `${least.toFixed(0)} to ${most.toFixed(0)} MB`
  const { ours, parts, beside } = workerFloor
  return toTable(
    ['', ''],
    [
      ['bundle', `${bundleKib.plain.toFixed(0)} KiB, ${bundleKib.gzip.toFixed(0)} KiB gzip`],
      ['start, CPU beyond an empty Worker', `${startCpuMs.toFixed(0)} ms`],
      [
        'memory of workerd: empty Worker, ours fresh, ours after the run (most)',
        `${memoryMb.empty.toFixed(0)}, ${memoryMb.fresh.toFixed(0)}, ${memoryMb.used.toFixed(0)} (${memoryMb.most.toFixed(0)}) MB`,
      ],
      ['heap of the isolate under load of one tenant', toHeap(heap.oneTenant)],
      [`the same of ${heap.tenants} tenants`, toHeap(heap.manyTenants)],
      ['CPU of a verification in the Worker', `${toMs(ours)} ms`],
      ['a bare batch', `${toMs(parts.batch)} ms`],
      ['an HMAC', `${toMs(parts.hmac)} ms`],
      ['a rotation', `${toMs(parts.rotation)} ms`],
      ['a sealed copy opened and compared', `${toMs(parts.opening)} ms`],
      ['p50 alone beside the batch by hand: a Worker that only passes it on', beside.bare.toFixed(2)],
      ['the same of ours', beside.ours.toFixed(2)],
    ],
  )
}

function toNeighborsTable({ neighbors, otherTenants }: Results): string {
  const { alone, besideLarge, besideCounting, busyCores, largeSearchesPerSecond } = neighbors
  const rows = [
    ['alone', alone],
    [
      `beside a large tenant: ${largeSearchesPerSecond.toFixed(0)} searches a second, ${busyCores.large.toFixed(1)} cores`,
      besideLarge,
    ],
    [`beside sessions that count, ${busyCores.counting.toFixed(1)} cores`, besideCounting],
  ] as const
  return `${toTable(
    ['50 faces, p50 ms', 'search', 'verify'],
    rows.map(([name, { search, verify }]) => [name, toMs(search), toMs(verify)]),
  )}\n\nWith ${toCount(otherTenants)} other tenants in the tables.`
}

function toMeteringTable({ metering, agreement }: Results): string {
  const { metered, auditOnly } = metering
  return `${toTable(
    ['one tenant, 16 connections', 'per second', 'CPU ms: database'],
    [
      ['audit and metering', metered.throughput.toFixed(0), toMs(metered.cpuMs['database'] ?? Number.NaN)],
      ['audit only', auditOnly.throughput.toFixed(0), toMs(auditOnly.cpuMs['database'] ?? Number.NaN)],
    ],
  )}\n\nUsage and audit of ${toCount(agreement.tenants)} tenants, ${toCount(agreement.acts)} acts: ${agreement.different} differ.`
}

function toGrowthTables({ growth }: Results): string {
  const bytes = toTable(
    ['bytes a face', ''],
    growth.bytesPerFace.map(({ what, bytes: count }) => [what, toCount(Math.round(count))]),
  )
  const tenants = toTable(
    ['other tenants', 'verify p50', 'CPU ms: database', 'search p50', 'CPU ms: database'],
    growth.byTenants.map(({ others, verify, search }) => [
      toCount(others),
      ...[verify, search].flatMap(({ p50, cpuMs }) => [toMs(p50), toMs(cpuMs['database'] ?? Number.NaN)]),
    ]),
  )
  return `${bytes}\n\nA tenant of 50 faces, one connection:\n\n${tenants}`
}

function toFigure(value: number): string {
  return String(+value.toFixed(3))
}

function toMs(value: number): string {
  return value < 10 ? value.toFixed(2) : value.toFixed(1)
}

export function toCount(value: number): string {
  return value.toLocaleString('en-US')
}

function toPercent(part: number): string {
  return `${+(100 * part).toFixed(2)} %`
}
