// The chart of docs/performance.md and of README.md: what a search costs, and whether it is right. No I/O.
import type { Results } from './results.ts'
import { recallAt1 } from './statistics.ts'

const WIDTH = 960
const HEIGHT = 400
/** The left one leaves room for the names behind its lines. */
const PANEL = { top: 76, bottom: 330, width: 300 }
const LEFT = 66
const RIGHT = 570

interface Point {
  x: number
  y: number
}

export function toChart({ searches, alternatives, scanFloor, machine }: Results): string {
  const lines = [
    {
      name: 'Rekko',
      tone: 'own',
      points: alternatives.ours.map(({ faces, databaseCpuMs }) => ({ x: faces, y: databaseCpuMs })),
    },
    { name: 'exact halfvec', tone: 'a', points: toPoints(alternatives.others, 'exact halfvec') },
    { name: 'exact vector', tone: 'b', points: toPoints(alternatives.others, 'exact vector(512)') },
    { name: 'scan in memory', tone: 'quiet', points: scanFloor.map(({ faces, cpuMs }) => ({ x: faces, y: cpuMs })) },
  ]
  const points = lines.flatMap((line) => line.points)
  const x = toLogScale(
    points.map((point) => point.x),
    LEFT,
    LEFT + PANEL.width,
  )
  const y = toLogScale(
    points.map((point) => point.y),
    PANEL.bottom,
    PANEL.top,
  )
  const left = [
    ...y.ticks.map((tick) => gridLine(LEFT, y.place(tick), toShort(tick))),
    ...x.ticks.map((tick) => text(x.place(tick), PANEL.bottom + 20, toShort(tick), 'label', 'middle')),
    ...lines.map(({ points: of, tone, name }) =>
      polyline(
        of.map((point) => ({ x: x.place(point.x), y: y.place(point.y) })),
        tone,
        name,
      ),
    ),
    text(LEFT + PANEL.width / 2, PANEL.bottom + 42, 'faces of the tenant', 'label', 'middle'),
  ]

  // of the largest gallery that has approximate indexes, where there are any
  const indexed = alternatives.others.filter(({ name }) => name.includes('HNSW'))
  const largest = Math.max(...(indexed.length > 0 ? indexed : alternatives.ours).map(({ faces }) => faces))
  const ours = alternatives.ours.find(({ faces }) => faces === largest)
  const found = searches.find(({ faces }) => faces === largest)
  const rivals = alternatives.others.filter(({ faces, name }) => faces === largest && name !== 'exact vector(512)')
  const marks = [
    ...(ours && found ? [{ name: 'Rekko', tone: 'own', x: ours.databaseCpuMs, y: recallAt1(found.recall) }] : []),
    ...rivals.map((rival) => ({
      name: rival.name.replace('per-tenant HNSW, ef_search ', 'ef '),
      tone: rival.name.startsWith('shared') ? 'c' : rival.name.startsWith('exact') ? 'a' : 'b',
      x: rival.databaseCpuMs,
      y: recallAt1(rival.recall),
    })),
  ]
  const lowest = Math.min(0.9, Math.floor(Math.min(...marks.map((mark) => mark.y)) * 10) / 10)
  const cpu = toLogScale(
    marks.map((mark) => mark.x),
    RIGHT,
    RIGHT + PANEL.width,
  )
  const recall = (value: number) => PANEL.bottom - ((value - lowest) / (1 - lowest)) * (PANEL.bottom - PANEL.top)
  const steps = Array.from({ length: 6 }, (_, index) => lowest + ((1 - lowest) * index) / 5)
  const right = [
    ...steps.map((step) => gridLine(RIGHT, recall(step), `${Math.round(step * 100)} %`)),
    ...cpu.ticks.map((tick) => text(cpu.place(tick), PANEL.bottom + 20, toShort(tick), 'label', 'middle')),
    ...marks.map((mark) => dot(cpu.place(mark.x), recall(mark.y), mark.tone, mark.name)),
    text(RIGHT + PANEL.width / 2, PANEL.bottom + 42, 'ms of CPU in the database', 'label', 'middle'),
  ]

  return `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${WIDTH} ${HEIGHT}" width="${WIDTH}" height="${HEIGHT}" role="img" aria-label="CPU of a search by gallery size, and recall at rank 1 beside HNSW">
<style>${STYLE}</style>
<rect class="paper" width="${WIDTH}" height="${HEIGHT}" rx="8"/>
${text(LEFT - 46, 32, 'A search: ms of CPU in the database', 'title')}
${text(LEFT - 46, 52, 'both axes logarithmic; the whole request, with audit and metering', 'label')}
${left.join('\n')}
${text(RIGHT - 46, 32, `The right person at rank 1, of ${largest.toLocaleString('en-US')} faces`, 'title')}
${text(RIGHT - 46, 52, 'HNSW: of one tenant, by ef_search; shared by all tenants', 'label')}
${right.join('\n')}
${text(LEFT - 46, HEIGHT - 10, `make bench: PostgreSQL ${toWord(machine['postgres'])}, pgvector ${machine['pgvector'] ?? ''}, ${machine['cpu'] ?? ''}`, 'note')}
</svg>
`
}

const STYLE = `
text { font: 12px system-ui, sans-serif; fill: #444 }
.title { font-size: 15px; font-weight: 600; fill: #111 } .note { font-size: 11px; fill: #666 }
.name { font-weight: 600 } .paper { fill: #fff; stroke: #ddd } .grid { stroke: #e4e4e4 }
path { fill: none; stroke-width: 2 } path.own { stroke-width: 3.5 }
.own { stroke: #0b6e4f; fill: #0b6e4f } .a { stroke: #b3541e; fill: #b3541e } .b { stroke: #2f5fb3; fill: #2f5fb3 }
.c { stroke: #8a2f8a; fill: #8a2f8a } .quiet { stroke: #777; fill: #777; stroke-dasharray: 4 3 }
path.own, path.a, path.b, path.c, path.quiet { fill: none } text.own, text.a, text.b, text.c, text.quiet { stroke: none }
@media (prefers-color-scheme: dark) {
text { fill: #bbb } .title { fill: #f2f2f2 } .note { fill: #999 } .paper { fill: #15181c; stroke: #333 } .grid { stroke: #2c3138 }
.own { stroke: #4fd1a5; fill: #4fd1a5 } .a { stroke: #f0a070; fill: #f0a070 } .b { stroke: #8db4ff; fill: #8db4ff }
.c { stroke: #e08fe0; fill: #e08fe0 } .quiet { stroke: #aaa; fill: #aaa }
path.own, path.a, path.b, path.c, path.quiet { fill: none }
}`

function toPoints(others: Results['alternatives']['others'], name: string): Point[] {
  return others
    .filter((other) => other.name === name)
    .map(({ faces, databaseCpuMs }) => ({ x: faces, y: databaseCpuMs }))
}

/** Whole powers of ten around the values. */
function toLogScale(values: readonly number[], from: number, to: number) {
  const low = Math.floor(Math.log10(Math.min(...values)))
  const high = Math.max(low + 1, Math.ceil(Math.log10(Math.max(...values))))
  return {
    ticks: Array.from({ length: high - low + 1 }, (_, index) => 10 ** (low + index)),
    place: (value: number) => from + ((Math.log10(value) - low) / (high - low)) * (to - from),
  }
}

function gridLine(left: number, y: number, label: string): string {
  return `<line class="grid" x1="${left}" x2="${left + PANEL.width}" y1="${y.toFixed(1)}" y2="${y.toFixed(1)}"/>${text(left - 8, y + 4, label, 'label', 'end')}`
}

function polyline(points: readonly Point[], tone: string, name: string): string {
  const last = points.at(-1)
  if (!last) return ''
  const path = points.map(({ x, y }, index) => `${index === 0 ? 'M' : 'L'}${x.toFixed(1)} ${y.toFixed(1)}`).join('')
  return `<path class="${tone}" d="${path}"/>${points.map(({ x, y }) => `<circle class="${tone}" cx="${x.toFixed(1)}" cy="${y.toFixed(1)}" r="2.5"/>`).join('')}${text(last.x + 8, last.y + 4, name, `name ${tone}`)}`
}

/** Names stand behind their dots, and our own above. */
function dot(x: number, y: number, tone: string, name: string): string {
  const isOwn = tone === 'own'
  const label = isOwn ? text(x, y - 11, name, `name ${tone}`, 'middle') : text(x + 9, y + 4, name, `name ${tone}`)
  return `<circle class="${tone}" cx="${x.toFixed(1)}" cy="${y.toFixed(1)}" r="${isOwn ? 6 : 4}"/>${label}`
}

function text(x: number, y: number, content: string, kind: string, anchor = 'start'): string {
  return `<text class="${kind}" x="${x.toFixed(1)}" y="${y.toFixed(1)}" text-anchor="${anchor}">${content.replaceAll('&', '&amp;').replaceAll('<', '&lt;')}</text>`
}

function toShort(value: number): string {
  if (value >= 1e6) return `${value / 1e6}M`
  return value >= 1e3 ? `${value / 1e3}k` : String(+value.toPrecision(2))
}

/** "17.10 (Debian 17.10-0+deb13u1)" says it twice. */
function toWord(text: string | undefined): string {
  return text?.split(' ')[0] ?? ''
}
