// The picture of a calibration, as SVG: histograms of both kinds of pair above, error rates over thresholds below.
// Numbers and the name of the file only, nobody's identity. No I/O.
import { type Report, toBoundText } from './report.ts'
import { type ErrorRates, type Interval, STEPS, toConfidence, toStep } from './statistics.ts'

const WIDTH = 1000
const HEIGHT = 800
const LEFT = 78
const RIGHT = 972
const HISTOGRAM = { top: 176, bottom: 384 }
const CURVES = { top: 446, bottom: 690 }
/** Of the histograms, in steps: 0.01. */
const BIN = 100
/** How much of the height the highest bin takes: its name stands above. */
const FILLED = 0.88
/** Of the curves: 0.001, about a pixel. */
const STRIDE = 10

// Okabe and Ito's blue and vermilion, which color-blind people tell apart; dashes tell them apart without color
const STYLE = `
  .paper { fill: #ffffff } .ink { fill: #1b1f24 } .soft { fill: #57606a } .grid { stroke: #d8dee4 } .axis { stroke: #6e7781 }
  .mark { stroke: #57606a; stroke-dasharray: 2 3 } .halo { stroke-width: 4; paint-order: stroke }
  .genuine { fill: #0072b2; stroke: #0072b2 } .impostor { fill: #c04d00; stroke: #c04d00 }
  text { font: 13px system-ui, -apple-system, 'Segoe UI', 'DejaVu Sans', sans-serif }
  text.genuine, text.impostor { stroke: none } text.halo { stroke: #ffffff } .title { font-size: 22px; font-weight: 600 } .name { font-size: 14px; font-weight: 600 }
  .small { font-size: 12px } .bar { fill-opacity: .28; stroke-width: 1.5 } path.band { fill-opacity: .16; stroke: none }
  path.line { fill: none; stroke-width: 2.25; stroke-linejoin: round } .line.impostor { stroke-dasharray: 7 3 }
  @media (prefers-color-scheme: dark) {
    .paper { fill: #0d1117 } .ink { fill: #e6edf3 } .soft { fill: #9aa4af } .grid { stroke: #262d36 } .axis { stroke: #7d8590 }
    .mark { stroke: #9aa4af } text.halo { stroke: #0d1117 }
    .genuine { fill: #58b4f0; stroke: #58b4f0 } .impostor { fill: #ff9d5c; stroke: #ff9d5c }
    .bar { fill-opacity: .32 } path.band { fill-opacity: .22 }
  }`

interface Scale {
  from: number
  to: number
  /** @param step of confidence */
  x(step: number): number
}

/** @returns a whole SVG document */
export function draw(report: Report, rates: ErrorRates): string {
  const scale = toScale(report, rates)
  const count = (value: number) => value.toLocaleString('en')
  const subtitle = [
    `${count(rates.genuineCount)} genuine and ${count(rates.impostorCount)} impostor pairs`,
    report.people === null ? 'people not known' : `${count(report.people)} people`,
    toShort(report.file),
    report.date,
  ].join('  ·  ')
  return `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${WIDTH} ${HEIGHT}" width="${WIDTH}" height="${HEIGHT}" role="img" aria-labelledby="title desc">
<title id="title">How well thresholds separate people: ${toXml(toShort(report.file))}, ${report.date}</title>
<desc id="desc">${toXml(`${subtitle}. Histograms of genuine and impostor scores, and false match and false non-match rates over thresholds.`)}</desc>
<style>${STYLE}
</style>
<rect class="paper" width="${WIDTH}" height="${HEIGHT}"/>
<text class="ink title" x="${LEFT}" y="44">How well thresholds separate people</text>
<text class="soft" x="${LEFT}" y="68">${toXml(subtitle)}</text>
${drawMarks(report, scale)}
${drawHistograms(rates, scale)}
${drawCurves(rates, scale)}
${drawScales(scale)}
<text class="soft small" x="${LEFT}" y="${HEIGHT - 16}">${toXml(
    `Bands: 95 %, Clopper-Pearson, as if pairs were independent${
      report.people === null ? '' : `; they are of ${count(report.people)} people, and the truth may lie further off`
    }.`,
  )}</text>
</svg>
`
}

/** From the lowest pair to the highest, with the marked thresholds, in whole twentieths. */
function toScale({ genuine, impostor, model }: Report, rates: ErrorRates): Scale {
  const lowest = Math.min(genuine.lowest.confidence, impostor.lowest.confidence, model.floor)
  const highest = Math.max(genuine.highest.confidence, impostor.highest.confidence, model.identification)
  const unit = STEPS / 20
  // a few outliers among many pairs would squeeze the rest together
  const total = rates.genuineCount + rates.impostorCount
  let from = Math.floor(Math.max(0, lowest * STEPS) / unit) * unit
  const below = (step: number) => total - rates.falseMatches(step) - (rates.genuineCount - rates.falseNonMatches(step))
  while (below(from + unit) < total / 10_000 && from + unit < toStep(model.floor)) from += unit
  const to = Math.min(STEPS, Math.ceil((highest * STEPS) / unit) * unit)
  return { from, to, x: (step) => LEFT + ((step - from) / (to - from)) * (RIGHT - LEFT) }
}

function drawMarks({ model }: Report, { x }: Scale): string {
  const marks = [
    { name: 'floor', confidence: model.floor },
    { name: 'verify', confidence: model.verification },
    { name: 'search', confidence: model.identification },
  ].toSorted((a, b) => a.confidence - b.confidence)
  // they stand close together: each name on a line of its own
  return [
    `<text class="soft small" x="${RIGHT}" y="102" text-anchor="end">thresholds of ${toXml(model.id)}</text>`,
    ...marks.map(({ name, confidence }, index) => {
      const at = round(x(confidence * STEPS))
      const y = 102 + 18 * index
      return (
        // not through the numbers between the two
        `<line class="mark" x1="${at}" x2="${at}" y1="${y - 10}" y2="${HISTOGRAM.bottom}"/>` +
        `<line class="mark" x1="${at}" x2="${at}" y1="${CURVES.top}" y2="${CURVES.bottom}"/>` +
        `<text class="ink small halo" x="${at + 6}" y="${y}">${name} ${confidence}</text>`
      )
    }),
  ].join('\n')
}

// == Histograms ==

function drawHistograms(rates: ErrorRates, scale: Scale): string {
  const { top, bottom } = HISTOGRAM
  const bins = Array.from({ length: (scale.to - scale.from) / BIN }, (_, index) => scale.from + index * BIN)
  // scores of exactly 1 are counted at the last step, and belong to the last bin
  const end = (step: number) => (step + BIN === STEPS ? STEPS + 1 : step + BIN)
  const genuine = bins.map((step) => (matches(rates, step) - matches(rates, end(step))) / rates.genuineCount)
  const impostor = bins.map((step) => (rates.falseMatches(step) - rates.falseMatches(end(step))) / rates.impostorCount)
  const most = Math.max(...genuine, ...impostor)
  const y = (share: number) => round(bottom - (share / most) * (bottom - top) * FILLED)
  const draw = (kind: string, shares: number[]) => {
    const outline = bins.map((step, index) => `V${y(shares[index] ?? 0)}H${round(scale.x(step + BIN))}`).join('')
    return `<path class="bar ${kind}" d="M${round(scale.x(scale.from))} ${bottom}${outline}V${bottom}Z"/>`
  }
  const peak = (shares: number[]) => shares.indexOf(Math.max(...shares))
  const name = (kind: string, shares: number[]) => {
    const [at, height] = [peak(shares), y(Math.max(...shares))]
    const x = round(Math.min(RIGHT - 60, Math.max(LEFT + 60, scale.x((bins[at] ?? 0) + BIN / 2))))
    return `<text class="${kind} name halo" x="${x}" y="${height - 9}" text-anchor="middle">${kind}</text>`
  }
  const unit = [0.5, 0.2, 0.1, 0.05, 0.02, 0.01, 0.005].find((step) => most / step >= 3) ?? 0.002
  const ticks = Array.from({ length: Math.floor(most / FILLED / unit) + 1 }, (_, index) => index * unit)
  return [
    `<text class="ink name" x="${LEFT}" y="${top - 24}">Share of pairs, by hundredths of confidence</text>`,
    ...ticks.map((share) => drawLevel(y(share), `${Number((share * 100).toFixed(1))} %`)),
    draw('impostor', impostor),
    draw('genuine', genuine),
    name('impostor', impostor),
    name('genuine', genuine),
  ].join('\n')
}

function matches(rates: ErrorRates, step: number): number {
  return step > STEPS ? 0 : rates.genuineCount - rates.falseNonMatches(step)
}

// == Curves ==

function drawCurves(rates: ErrorRates, scale: Scale): string {
  const { top, bottom } = CURVES
  // a decade below what one error makes: the zeros of both curves are left out of a logarithm, and their bands are not
  const decades = Math.ceil(Math.log10(Math.max(rates.genuineCount, rates.impostorCount))) + 1
  const y = (rate: number) =>
    rate <= 10 ** -decades ? bottom : round(top + (-Math.log10(rate) / decades) * (bottom - top))
  const steps: number[] = []
  for (let step = scale.from; step <= scale.to; step += STRIDE) steps.push(step)
  const draw = (
    kind: string,
    errorsAt: (step: number) => number,
    rateOf: (step: number) => Interval & { rate: number },
  ) => {
    // intervals take time, and many steps have as many errors as the one before
    let known: { errors: number; rate: Interval & { rate: number } } | null = null
    const points = steps.map((step) => {
      const errors = errorsAt(step)
      if (known?.errors !== errors) known = { errors, rate: rateOf(step) }
      return { x: round(scale.x(step)), ...known.rate }
    })
    const upper = points.map(({ x, high }) => `${x} ${y(high)}`)
    const lower = points.map(({ x, low }) => `${x} ${y(low)}`).toReversed()
    const line = points.filter(({ rate }) => rate > 0).map(({ x, rate }) => `${x} ${y(rate)}`)
    // down to the axis where the last error is left behind
    const last = points.findLast(({ rate }) => rate > 0)
    const first = points.find(({ rate }) => rate > 0)
    if (kind === 'impostor' && last) line.push(`${last.x} ${bottom}`)
    if (kind === 'genuine' && first) line.unshift(`${first.x} ${bottom}`)
    // where there is no error, how little that says
    const none = points.filter(({ rate }) => rate === 0)
    const high = none[0]?.high ?? 1
    const isWide = Math.abs((none.at(-1)?.x ?? 0) - (none[0]?.x ?? 0)) > 250
    const place = kind === 'impostor' ? `x="${RIGHT - 8}" text-anchor="end"` : `x="${LEFT + 8}"`
    const trials = kind === 'impostor' ? rates.impostorCount : rates.genuineCount
    return [
      isWide
        ? `<text class="ink small" ${place} y="${y(high) + 17}">no error in ${trials.toLocaleString('en')}: up to ${toBoundText(high)}</text>`
        : '',
      `<path class="band ${kind}" d="M${[...upper, ...lower].join('L')}Z"/>`,
      line.length === 0 ? '' : `<path class="line ${kind}" d="M${line.join('L')}"/>`,
    ].join('\n')
  }
  return [
    `<text class="ink name" x="${LEFT}" y="${top - 16}">Error rates over thresholds</text>`,
    `<text class="impostor name" x="${RIGHT - 250}" y="${top - 16}" text-anchor="end">- -  FMR: strangers let in</text>`,
    `<text class="genuine name" x="${RIGHT}" y="${top - 16}" text-anchor="end">—  FNMR: people turned away</text>`,
    ...Array.from({ length: decades + 1 }, (_, decade) => drawLevel(y(10 ** -decade), toPower(decade))),
    draw(
      'impostor',
      (step) => rates.falseMatches(step),
      (step) => rates.fmr(step),
    ),
    draw(
      'genuine',
      (step) => rates.falseNonMatches(step),
      (step) => rates.fnmr(step),
    ),
  ].join('\n')
}

/** 10^-decade, as the table writes it: "1" to "0.001", then "1e-4". */
function toPower(decade: number): string {
  return decade <= 3 ? String(Number((10 ** -decade).toPrecision(1))) : `1e-${decade}`
}

// == Scales ==

function drawLevel(y: number, label: string): string {
  return (
    `<line class="grid" x1="${LEFT}" x2="${RIGHT}" y1="${y}" y2="${y}"/>` +
    `<text class="soft small" x="${LEFT - 8}" y="${y + 4}" text-anchor="end">${label}</text>`
  )
}

function drawScales({ from, to, x }: Scale): string {
  const unit = STEPS / 20
  const ticks = Array.from({ length: (to - from) / unit + 1 }, (_, index) => from + index * unit)
  return [
    ...[HISTOGRAM.bottom, CURVES.bottom].map(
      (y) => `<line class="axis" x1="${LEFT}" x2="${RIGHT}" y1="${y}" y2="${y}"/>`,
    ),
    ...ticks.flatMap((step) => {
      const at = round(x(step))
      const tick = (y: number) => `<line class="axis" x1="${at}" x2="${at}" y1="${y}" y2="${y + 5}"/>`
      const label = (y: number, text: string, style: string) =>
        `<text class="${style} small" x="${at}" y="${y}" text-anchor="middle">${text}</text>`
      const confidence = toConfidence(step).toFixed(2)
      const cosine = ((2 * step - STEPS) / STEPS).toFixed(1)
      return [
        tick(HISTOGRAM.bottom),
        tick(CURVES.bottom),
        label(HISTOGRAM.bottom + 20, confidence, 'ink'),
        label(CURVES.bottom + 20, confidence, 'ink'),
        label(CURVES.bottom + 38, cosine, 'soft'),
      ]
    }),
    `<text class="ink small" x="${(LEFT + RIGHT) / 2}" y="${CURVES.bottom + 60}" text-anchor="middle">threshold: confidence, and the cosine below it</text>`,
  ].join('\n')
}

function round(value: number): number {
  return Math.round(value * 10) / 10
}

/** The end of a long name, which tells more than its beginning. */
function toShort(file: string): string {
  return file.length <= 40 ? file : `…${file.slice(-39)}`
}

function toXml(text: string): string {
  return (
    text
      .replaceAll('&', '&amp;')
      .replaceAll('<', '&lt;')
      .replaceAll('>', '&gt;')
      .replaceAll('"', '&quot;')
      // what XML 1.0 has no way to write
      .replace(/[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\u{10000}-\u{10ffff}]/gu, '\ufffd')
  )
}
