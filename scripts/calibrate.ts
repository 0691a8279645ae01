// `npm run calibrate`: what thresholds the scores of a recognizer support, and what is too much to say of them.
import { access, writeFile } from 'node:fs/promises'
import { basename } from 'node:path'
import { Command, CommanderError, InvalidArgumentError, Option } from 'commander'
import { ARCFACE_512 } from '../src/face/similarity.ts'
import { draw } from './calibrate/drawing.ts'
import { type Measurement, measureEmbeddings, measurePairs } from './calibrate/measurement.ts'
import { DRAWS } from './calibrate/people.ts'
import { type Draw, toReport, toTextLines } from './calibrate/report.ts'
import { ErrorRates, toStep } from './calibrate/statistics.ts'
import { FORMATS, type Format } from './database/embedding-files.ts'
import { CommandError, EXIT, Terminal } from './database/terminal.ts'

const DEFAULT_SVG = 'calibration.svg'
const DEFAULT_FPIR = 0.01

interface Options {
  pairs?: string
  embeddings?: string
  format?: Format
  ids?: string
  fmr: number
  fpir?: number
  gallery?: number
  at?: number[]
  /** False with --no-svg. */
  svg: string | false
  force?: boolean
  json?: boolean
}

const program = new Command('npm run calibrate --')
  .description(`Says what thresholds your recognizer supports: error rates with 95 % intervals, the
threshold for a wanted false match rate, and whether the pairs are enough to claim it.`)
  .option('--pairs <file>', 'CSV or JSON Lines with "same" (1 or 0) and "cosine" or "confidence"')
  .option(
    '--embeddings <file>',
    'CSV with "identity", "e0" to "e511", of which all pairs are formed; JSON Lines; NumPy',
  )
  .addOption(new Option('--format <format>', 'of the embeddings, if the ending does not say').choices(FORMATS))
  .option('--ids <file>', 'for .npy: the identity of each row, one a line')
  .option('--fmr <rate>', 'wanted false match rate for 1:1', toRate, 1e-3)
  .option('--gallery <faces>', 'for 1:N: how many faces are searched', toFaces)
  .option('--fpir <rate>', `wanted false alarms a search (default: ${DEFAULT_FPIR}; needs --gallery)`, toRate)
  .option('--at <thresholds>', 'further confidences to tell the rates at, with commas between', toThresholds)
  .option('--svg <file>', 'where to draw the curves', DEFAULT_SVG)
  .option('--no-svg', 'draw nothing')
  .option('--force', 'overwrite the drawing')
  .option('--json', 'the result as JSON on stdout')
  .addHelpText(
    'after',
    `
A file of pairs:                 or, if people are known, for intervals by people:
  same,cosine                      same,confidence,identity_a,identity_b
  1,0.6231                         1,0.8116,ada,ada
  0,0.0418                         0,0.5209,ada,mia

Examples:
  npm run calibrate -- --pairs pairs.csv
  npm run calibrate -- --pairs pairs.csv --fmr 1e-4 --gallery 60000 --fpir 0.01
  npm run calibrate -- --embeddings faces.csv --at 0.7,0.72 --svg faces.svg --force
  npm run --silent calibrate -- --embeddings faces.csv --no-svg --json

Exit codes: 0 done, also when a proposal is refused; 1 failed; 2 wrong usage; 3 the drawing exists.`,
  )
  .showHelpAfterError('Try: npm run calibrate -- --help')
  .exitOverride()
  .action(calibrate)

try {
  await program.parseAsync()
} catch (error) {
  process.exitCode = report(error)
}

async function calibrate(options: Options): Promise<void> {
  const terminal = new Terminal({ json: options.json ?? false })
  const { fmr, fpir, gallery, at = [] } = options
  if (fpir !== undefined && gallery === undefined) throw new CommandError('--fpir needs --gallery.', EXIT.usage)
  // before the work, which may be long
  if (options.svg !== false && !options.force && (await exists(options.svg))) {
    throw new CommandError(
      `"${options.svg}" exists: overwrite it with --force, or name another with --svg FILE.`,
      EXIT.refused,
    )
  }
  const measurement = await measure(options, terminal)
  for (const [kind, { count }] of [
    ['genuine', measurement.genuine],
    ['impostor', measurement.impostor],
  ] as const) {
    if (count === 0) throw new CommandError(`There is no ${kind} pair: both kinds are needed.`)
  }
  const rates = new ErrorRates(measurement.genuine, measurement.impostor)
  const result = toReport(measurement, rates, drawByPeople(measurement, terminal), {
    // the day in UTC: the same wherever it is run
    date: new Date().toISOString().slice(0, 10),
    file: basename(options.pairs ?? options.embeddings ?? ''),
    model: ARCFACE_512,
    wanted: { fmr, identification: gallery === undefined ? null : { fpir: fpir ?? DEFAULT_FPIR, gallery }, at },
  })
  terminal.result(result, toTextLines(result))
  if (options.svg === false) return
  await save(options.svg, draw(result, rates), options.force ?? false)
  terminal.ok(`Drawn: ${options.svg}`)
}

async function measure({ pairs, embeddings, format, ids }: Options, terminal: Terminal): Promise<Measurement> {
  if (pairs !== undefined && embeddings === undefined) {
    if (format !== undefined || ids !== undefined) {
      throw new CommandError('--format and --ids are for --embeddings.', EXIT.usage)
    }
    return measurePairs(pairs, terminal)
  }
  if (embeddings !== undefined && pairs === undefined) return measureEmbeddings(embeddings, terminal, format, ids)
  throw new CommandError('Name one file: --pairs FILE or --embeddings FILE.', EXIT.usage)
}

function drawByPeople({ people }: Measurement, terminal: Terminal): Draw {
  return (steps) => {
    if (!people) return null
    const progress = terminal.progress('Draws of people', DRAWS)
    const drawn = people.errors.draw(people.count, people.comparisons, steps, () => progress.advance(1))
    progress.done()
    return drawn
  }
}

async function exists(path: string): Promise<boolean> {
  return access(path).then(
    () => true,
    () => false,
  )
}

/** Somebody may have made the file while pairs were formed. */
async function save(path: string, text: string, isForced: boolean): Promise<void> {
  try {
    await writeFile(path, text, { flag: isForced ? 'w' : 'wx' })
  } catch (error) {
    // errors of node:fs have a code
    const { code = 'it failed' } = error as NodeJS.ErrnoException
    throw new CommandError(`"${path}" could not be written: ${code}.`)
  }
}

function toRate(text: string): number {
  const rate = Number(text.trim() || Number.NaN)
  if (!(rate > 0 && rate < 1)) throw new InvalidArgumentError('Must be more than 0 and less than 1, such as 1e-3.')
  return rate
}

function toFaces(text: string): number {
  const faces = Number(text.trim() || Number.NaN)
  if (!(Number.isSafeInteger(faces) && faces > 0)) throw new InvalidArgumentError('Must be a whole number, 1 or more.')
  return faces
}

function toThresholds(text: string): number[] {
  return text.split(',').map((part) => {
    const threshold = Number(part.trim() || Number.NaN)
    if (!(threshold >= 0 && threshold <= 1)) throw new InvalidArgumentError('Must be confidences, from 0 to 1.')
    if (toStep(threshold) / 10_000 !== threshold) throw new InvalidArgumentError('Must have at most four decimals.')
    return threshold
  })
}

function report(error: unknown): number {
  // commander has printed its own message, or the help that was asked for
  if (error instanceof CommanderError) return error.exitCode === 0 ? EXIT.ok : EXIT.usage
  new Terminal({}).fail(error instanceof Error ? error.message : String(error))
  return error instanceof CommandError ? error.exitCode : EXIT.failed
}
