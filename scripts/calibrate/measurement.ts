// The pairs of a file, measured one at a time in constant memory: a file of scores, or embeddings of which all pairs
// are formed.
import { extname } from 'node:path'
import { DIMENSIONS, isFault, toEmbedding } from '../../src/face/embedding.ts'
import { findFlaw } from '../../src/json-flaw.ts'
import { type Format, openEmbeddingFile } from '../database/embedding-files.ts'
import { CommandError, EXIT, type Terminal } from '../database/terminal.ts'
import { countLines, readHeader, readLines, readRecords, requireFile, toNumber } from '../text-file.ts'
import {
  AllComparisons,
  type Comparisons,
  ErrorsByPerson,
  ListedComparisons,
  MAX_PAIRS_OF_PEOPLE,
  People,
} from './people.ts'
import { Scores } from './statistics.ts'

/** 100 MB, and 1.25 thousand million pairs: some ten minutes. */
export const MAX_EMBEDDINGS = 50_000
/** A cosine computed in float32 may come out as 1.0000002. */
const ROUNDING = 1e-6

export interface Measurement {
  genuine: Scores
  impostor: Scores
  /** Null for a file of scores. */
  embeddings: number | null
  /** Null when the file does not say who its pairs are of, or they are too many. */
  people: { count: number; errors: ErrorsByPerson; comparisons: Comparisons } | null
  /** Columns that nobody asked for. */
  ignored: string[]
}

// == Scores ==

const SCORES = ['cosine', 'confidence'] as const
const PEOPLE = ['identity_a', 'identity_b'] as const
const SAME = new Map<unknown, boolean>(
  (['1', 'true', 'yes', 'genuine', true, 1] as const)
    .map((word): [unknown, boolean] => [word, true])
    .concat((['0', 'false', 'no', 'impostor', false, 0] as const).map((word) => [word, false])),
)

interface Pair {
  line: number
  same: unknown
  score: unknown
  identities: [unknown, unknown] | null
}

interface PairFile {
  scale: (typeof SCORES)[number]
  hasPeople: boolean
  ignored: string[]
  pairs: AsyncGenerator<Pair>
}

/**
 * Measures a CSV or JSON Lines file: `same`, one of `cosine` and `confidence`, and if it is known `identity_a` and
 * `identity_b`.
 *
 * @throws CommandError that names the line
 */
export async function measurePairs(path: string, terminal: Terminal): Promise<Measurement> {
  await requireFile(path)
  const isCsv = toPairFormat(path) === 'csv'
  const file = isCsv ? await openCsv(path) : await openJsonl(path)
  const [genuine, impostor, people] = [new Scores(), new Scores(), new People()]
  const comparisons = new ListedComparisons()
  const errors = file.hasPeople ? new ErrorsByPerson() : null
  const progress = terminal.progress('Pairs', (await countLines(path)) - Number(isCsv))
  for await (const pair of file.pairs) {
    const isSame = toSame(pair)
    const cosine = toCosine(pair, file.scale)
    const step = (isSame ? genuine : impostor).add(cosine, pair.line)
    if (errors) {
      const [one = 0, other = 0] = toIdentities(pair, isSame).map((name) => people.toNumber(name))
      errors.add(step, one, other)
      comparisons.add(one, other)
    }
    progress.advance(1)
  }
  progress.done()
  if (!comparisons.isComplete) {
    terminal.warn(
      `There are more than ${MAX_PAIRS_OF_PEOPLE.toLocaleString('en')} different pairs of people: intervals by people are left out.`,
    )
  }
  const isKnown = errors !== null && comparisons.isComplete
  return {
    genuine,
    impostor,
    embeddings: null,
    people: isKnown ? { count: people.count, errors, comparisons } : null,
    ignored: file.ignored,
  }
}

function toPairFormat(path: string): 'csv' | 'jsonl' {
  const ending = extname(path).toLowerCase()
  if (ending === '.csv') return 'csv'
  if (ending === '.jsonl' || ending === '.ndjson') return 'jsonl'
  throw new CommandError(`"${path}" must end in .csv, .jsonl or .ndjson.`, EXIT.usage)
}

/** Which of the fields that are there holds the score, and whether people are named. */
function toFields(names: readonly string[]): Pick<PairFile, 'scale' | 'hasPeople' | 'ignored'> {
  const repeated = names.find((name, index) => name !== '' && names.indexOf(name) !== index)
  if (repeated !== undefined) throw new CommandError(`Line 1: there are two columns "${repeated}".`)
  if (!names.includes('same')) throw new CommandError('Line 1: there is no column "same": 1 or 0, true or false.')
  const [scale, second] = SCORES.filter((name) => names.includes(name))
  if (!scale) throw new CommandError('Line 1: there is no column "cosine" (-1 to 1) or "confidence" (0 to 1).')
  if (second) throw new CommandError('Line 1: there are "cosine" and "confidence": leave one of them out.')
  const [named, both] = PEOPLE.filter((name) => names.includes(name))
  if (named && !both) throw new CommandError(`Line 1: there is a column "${named}" without the other one.`)
  const used = ['same', scale, ...PEOPLE]
  return { scale, hasPeople: both !== undefined, ignored: names.filter((name) => !used.includes(name)) }
}

async function openCsv(path: string): Promise<PairFile> {
  const names = (await readHeader(path)).map((name) => name.trim())
  const fields = toFields(names)
  const [same, score, a, b] = ['same', fields.scale, ...PEOPLE].map((name) => names.indexOf(name))
  async function* read(): AsyncGenerator<Pair> {
    for await (const { line, cells } of readRecords(path)) {
      if (line === 1 || (cells?.length === 1 && cells[0]?.trim() === '')) continue
      if (!cells) throw new CommandError(`Line ${line}: a quotation mark stands in the wrong place.`)
      if (cells.length !== names.length) {
        throw new CommandError(`Line ${line}: must have ${names.length} cells as line 1 has, not ${cells.length}.`)
      }
      // a column that is not there has the index -1
      const cell = (column = -1) => cells[column]?.trim()
      yield {
        line,
        same: cell(same)?.toLowerCase(),
        score: toNumber(cell(score)),
        identities: fields.hasPeople ? [cell(a), cell(b)] : null,
      }
    }
  }
  return { ...fields, pairs: read() }
}

/** Its first object says which fields all have. */
async function openJsonl(path: string): Promise<PairFile> {
  let fields: Pick<PairFile, 'scale' | 'hasPeople' | 'ignored'> | undefined
  for await (const { line, object } of readObjects(path)) {
    try {
      fields = toFields([...object.keys()])
    } catch (error) {
      // blank lines may stand before it, and its fields are no columns
      if (!(error instanceof CommandError)) throw error
      throw new CommandError(error.message.replace('Line 1', `Line ${line}`).replaceAll('column', 'field'))
    }
    break
  }
  if (!fields) throw new CommandError(`"${path}" is empty.`)
  const { scale, hasPeople } = fields
  async function* read(): AsyncGenerator<Pair> {
    for await (const { line, object } of readObjects(path)) {
      yield {
        line,
        same: object.get('same'),
        score: object.get(scale),
        identities: hasPeople ? [object.get('identity_a'), object.get('identity_b')] : null,
      }
    }
  }
  return { ...fields, pairs: read() }
}

async function* readObjects(path: string): AsyncGenerator<{ line: number; object: Map<string, unknown> }> {
  for await (const { line, text } of readLines(path)) {
    if (text.trim() === '') continue
    const flaw = findFlaw(text)
    if (flaw) throw new CommandError(`Line ${line}: ${flaw}`)
    let value: unknown
    try {
      value = JSON.parse(text)
    } catch {
      value = null
    }
    if (typeof value !== 'object' || value === null || Array.isArray(value)) {
      throw new CommandError(`Line ${line}: must be one JSON object on one line.`)
    }
    yield { line, object: new Map(Object.entries(value)) }
  }
}

function toSame({ line, same }: Pair): boolean {
  const isSame = SAME.get(same)
  if (isSame === undefined) throw new CommandError(`Line ${line}: "same" must be 1 or 0, true or false.`)
  return isSame
}

function toCosine({ line, score }: Pair, scale: PairFile['scale']): number {
  const lowest = scale === 'cosine' ? -1 : 0
  // written so that NaN fails it
  if (!(typeof score === 'number' && score >= lowest - ROUNDING && score <= 1 + ROUNDING)) {
    throw new CommandError(`Line ${line}: "${scale}" must be a number from ${lowest} to 1.`)
  }
  const inside = Math.min(1, Math.max(lowest, score))
  return scale === 'cosine' ? inside : 2 * inside - 1
}

function toIdentities({ line, identities }: Pair, isSame: boolean): [string, string] {
  const names = (identities ?? []).map((name) => (typeof name === 'string' ? name.trim() : ''))
  const [one = '', other = ''] = names
  if (one === '' || other === '') throw new CommandError(`Line ${line}: "identity_a" or "identity_b" is empty.`)
  if ((one === other) !== isSame) {
    throw new CommandError(`Line ${line}: "same" says otherwise than "identity_a" and "identity_b".`)
  }
  return [one, other]
}

// == Embeddings ==

/**
 * Measures all pairs of the embeddings in a file that `make demo` or `scripts/db.sh import` takes. One name is one
 * person, however many rows have it.
 *
 * @throws CommandError that names the line
 */
export async function measureEmbeddings(
  path: string,
  terminal: Terminal,
  format?: Format,
  idsPath?: string,
): Promise<Measurement> {
  const file = await openEmbeddingFile(path, format, idsPath)
  if (file.total > MAX_EMBEDDINGS) {
    throw new CommandError(
      `"${path}" has about ${file.total.toLocaleString('en')} embeddings, and all pairs of at most ` +
        `${MAX_EMBEDDINGS.toLocaleString('en')} are formed. Take some people, with all of their pictures.`,
    )
  }
  const people = new People()
  const owners: number[] = []
  const lines: number[] = []
  const comparisons = new AllComparisons()
  const components = new Float32Array(Math.max(file.total, 1) * DIMENSIONS)
  for await (const row of file.rows()) {
    const where = `${file.unit === 'line' ? 'Line' : 'Row'} ${row.place}`
    if (row.fault !== undefined) throw new CommandError(`${where}: ${row.fault}`)
    const name = typeof row.externalId === 'string' ? row.externalId.trim() : ''
    if (name === '') throw new CommandError(`${where}: the identity is empty.`)
    const embedding = toEmbedding(row.embedding)
    if (isFault(embedding)) {
      const component = embedding.index === undefined ? '' : ` component ${embedding.index}:`
      throw new CommandError(`${where}:${component} ${embedding.detail}`)
    }
    const person = people.toNumber(name)
    components.set(embedding, owners.length * DIMENSIONS)
    owners.push(person)
    lines.push(row.place)
    comparisons.addSample(person)
  }
  const [genuine, impostor, errors] = [new Scores(), new Scores(), new ErrorsByPerson()]
  const progress = terminal.progress('Pairs', (owners.length * (owners.length - 1)) / 2)
  for (const [index, owner] of owners.entries()) {
    const line = lines[index] ?? 0
    for (let before = 0; before < index; before++) {
      const other = owners[before] ?? 0
      const cosine = compare(components, index * DIMENSIONS, before * DIMENSIONS)
      const step = (owner === other ? genuine : impostor).add(cosine, lines[before] ?? 0, line)
      errors.add(step, owner, other)
    }
    progress.advance(index)
  }
  progress.done()
  return {
    genuine,
    impostor,
    embeddings: owners.length,
    people: { count: people.count, errors, comparisons },
    ignored: file.ignored,
  }
}

/** The cosine of two unit vectors, in double precision as pgvector's result. */
function compare(components: Float32Array, one: number, other: number): number {
  let [a, b, c, d] = [0, 0, 0, 0]
  // four sums do not wait for each other
  for (let at = 0; at < DIMENSIONS; at += 4) {
    a += (components[one + at] ?? 0) * (components[other + at] ?? 0)
    b += (components[one + at + 1] ?? 0) * (components[other + at + 1] ?? 0)
    c += (components[one + at + 2] ?? 0) * (components[other + at + 2] ?? 0)
    d += (components[one + at + 3] ?? 0) * (components[other + at + 3] ?? 0)
  }
  return Math.min(1, Math.max(-1, a + b + (c + d)))
}
