// Reads files of embeddings one row at a time, in constant memory: CSV, JSON Lines, NumPy. Whether a
// row can be enrolled is for import.ts to say; what makes the whole file unreadable is refused here.
import { type FileHandle, open } from 'node:fs/promises'
import { extname } from 'node:path'
import { DIMENSIONS } from '../../src/face/embedding.ts'
import { findFlaw } from '../../src/json-flaw.ts'
import { countLines, readHeader, readLines, readRecords, requireFile, toNumber } from '../text-file.ts'
import { CommandError, EXIT } from './terminal.ts'

export const FORMATS = ['csv', 'jsonl', 'npy'] as const
export type Format = (typeof FORMATS)[number]

/** One row as the file has it, unchecked; or why it is none. */
export type FileRow = { place: number } & (
  | { fault: string; externalId?: unknown }
  | {
      fault?: never
      externalId: unknown
      /** Numbers, or base64: what `toEmbedding` takes. */
      embedding: unknown
      /** Undefined when the row has none. */
      metadata?: unknown
      qualityScore?: unknown
    }
)

export interface EmbeddingFile {
  format: Format
  /** What `place` counts, from 1: the lines of a text file, the rows of a matrix. */
  unit: 'line' | 'row'
  /** About how many rows there are, for the progress bar. */
  total: number
  /** Columns of a CSV that nobody asked for. */
  ignored: string[]
  rows(): AsyncGenerator<FileRow>
}

/** NumPy writes 118 bytes; a header of version 2 may claim 4 GiB. */
const MAX_HEADER_BYTES = 64 * 1024
const BLOCK_BYTES = 1024 * 1024

/**
 * Opens a file and checks what can be checked before the first row: columns, header, length.
 *
 * @param format by the ending of the name when it is not given
 * @param idsPath for NumPy: a text file with the external_id of each row on a line of its own
 * @throws CommandError that says what is wrong with the file
 */
export async function openEmbeddingFile(path: string, format?: Format, idsPath?: string): Promise<EmbeddingFile> {
  await requireFile(path)
  const known = format ?? toFormat(path)
  if (known === 'npy') {
    if (idsPath === undefined) {
      throw new CommandError(
        'A .npy file has no names: give the external_id of each row with --ids FILE, one a line.',
        EXIT.usage,
      )
    }
    await requireFile(idsPath)
    return openNpy(path, idsPath)
  }
  if (idsPath !== undefined) throw new CommandError('--ids is for .npy files: others name each face.', EXIT.usage)
  return known === 'csv' ? openCsv(path) : openJsonl(path)
}

function toFormat(path: string): Format {
  const ending = extname(path).toLowerCase()
  const format = { '.csv': 'csv', '.jsonl': 'jsonl', '.ndjson': 'jsonl', '.npy': 'npy' } as const
  const found = Object.entries(format).find(([name]) => name === ending)?.[1]
  if (found) return found
  throw new CommandError(`Say what "${path}" is with --format ${FORMATS.join('|')}.`, EXIT.usage)
}

// == CSV ==

async function openCsv(path: string): Promise<EmbeddingFile> {
  const header = await readHeader(path)
  const names = header.map((name) => name.trim())
  const repeated = names.find((name, index) => name !== '' && names.indexOf(name) !== index)
  if (repeated !== undefined) throw new CommandError(`Line 1: there are two columns "${repeated}".`)

  const idColumn = names.includes('external_id') ? names.indexOf('external_id') : names.indexOf('identity')
  if (idColumn < 0) throw new CommandError('Line 1: there is no column "external_id" or "identity".')
  const components = Array.from({ length: DIMENSIONS }, (_, index) => names.indexOf(`e${index}`))
  const missing = components.indexOf(-1)
  if (missing >= 0) throw new CommandError(`Line 1: there is no column "e${missing}".`)
  const extra = `e${DIMENSIONS}`
  if (names.includes(extra)) {
    throw new CommandError(`Line 1: there is a column "${extra}", and an embedding has ${DIMENSIONS} components.`)
  }
  const metadataColumn = names.indexOf('metadata')
  const qualityColumn = names.indexOf('quality_score')
  const used = new Set([idColumn, metadataColumn, qualityColumn, ...components])

  return {
    format: 'csv',
    unit: 'line',
    total: Math.max((await countLines(path)) - 1, 0),
    ignored: names.filter((_, index) => !used.has(index)),
    async *rows() {
      for await (const { line, cells } of readRecords(path)) {
        if (line === 1 || (cells?.length === 1 && cells[0]?.trim() === '')) continue
        if (!cells) {
          yield { place: line, fault: 'A quotation mark stands in the wrong place.' }
        } else if (cells.length !== names.length) {
          yield {
            place: line,
            externalId: cells[idColumn],
            fault: `Must have ${names.length} cells as line 1 has, not ${cells.length}.`,
          }
        } else {
          yield {
            place: line,
            externalId: cells[idColumn],
            embedding: components.map((column) => toNumber(cells[column])),
            qualityScore: toOptionalNumber(cells[qualityColumn]),
            ...toMetadata(toOptional(cells[metadataColumn])),
          }
        }
      }
    },
  }
}

function toOptional(cell: string | undefined): string | undefined {
  return cell === undefined || cell.trim() === '' ? undefined : cell
}

function toOptionalNumber(cell: string | undefined): number | undefined {
  return toOptional(cell) === undefined ? undefined : toNumber(cell)
}

function toMetadata(text: string | undefined): { metadata?: unknown } | { fault: string } {
  if (text === undefined) return {}
  // as the API sees it, in a body
  const flaw = findFlaw(`{"metadata":${text}}`)
  if (flaw) return { fault: `metadata: ${flaw}` }
  try {
    return { metadata: JSON.parse(text) }
  } catch {
    return { fault: 'metadata: Must be JSON.' }
  }
}

// == JSON Lines ==

async function openJsonl(path: string): Promise<EmbeddingFile> {
  return {
    format: 'jsonl',
    unit: 'line',
    total: await countLines(path),
    ignored: [],
    async *rows() {
      for await (const { line, text } of readLines(path)) {
        if (text.trim() !== '') yield toRow(line, text)
      }
    },
  }
}

const JSON_FIELDS = ['external_id', 'embedding', 'metadata', 'quality_score']

function toRow(place: number, text: string): FileRow {
  const flaw = findFlaw(text)
  if (flaw) return { place, fault: flaw }
  let value: unknown
  try {
    value = JSON.parse(text)
  } catch {
    // without the parser's own message, which repeats the text
    return { place, fault: 'Must be one JSON object on one line.' }
  }
  if (typeof value !== 'object' || value === null || Array.isArray(value)) {
    return { place, fault: 'Must be one JSON object on one line.' }
  }
  const fields = new Map<string, unknown>(Object.entries(value))
  const externalId = fields.get('external_id')
  if ([...fields.keys()].some((name) => !JSON_FIELDS.includes(name))) {
    return { place, externalId, fault: `Must have only the fields ${JSON_FIELDS.join(', ')}.` }
  }
  return {
    place,
    externalId,
    embedding: fields.get('embedding'),
    metadata: fields.get('metadata'),
    // null is how the API answers "not known"
    qualityScore: fields.get('quality_score') ?? undefined,
  }
}

// == NumPy ==

interface Matrix {
  rows: number
  /** Bytes of a component: float32 or float64. */
  width: 4 | 8
  /** Where the first component stands. */
  offset: number
}

async function openNpy(path: string, idsPath: string): Promise<EmbeddingFile> {
  const matrix = await readMatrix(path)
  const ids = await countLines(idsPath)
  if (ids !== matrix.rows) {
    throw new CommandError(
      `"${idsPath}" has ${ids} lines, and "${path}" has ${matrix.rows} rows: each row needs its name.`,
    )
  }
  return {
    format: 'npy',
    unit: 'row',
    total: matrix.rows,
    ignored: [],
    async *rows() {
      let place = 0
      const vectors = readVectors(path, matrix)
      try {
        for await (const { text } of readLines(idsPath)) {
          const { value: embedding } = await vectors.next()
          yield { place: ++place, externalId: text, embedding }
        }
      } finally {
        // closes the file when the caller stops early
        await vectors.return(undefined)
      }
    },
  }
}

/** https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html */
async function readMatrix(path: string): Promise<Matrix> {
  const file = await open(path)
  try {
    const { size } = await file.stat()
    const start = await readBytes(file, 0, 12)
    if (start.length < 12 || start.toString('latin1', 0, 6) !== '\x93NUMPY') {
      throw new CommandError(`"${path}" is not a .npy file.`)
    }
    const version = start.readUInt8(6)
    if (version < 1 || version > 3)
      throw new CommandError(`"${path}" has a header of version ${version}: 1 to 3 is read.`)
    const headerStart = version === 1 ? 10 : 12
    const headerBytes = version === 1 ? start.readUInt16LE(8) : start.readUInt32LE(8)
    const offset = headerStart + headerBytes
    if (headerBytes > MAX_HEADER_BYTES || offset > size)
      throw new CommandError(`"${path}" is cut off, or no .npy file.`)
    const header = (await readBytes(file, headerStart, headerBytes)).toString('utf8')

    const type = /'descr': *'([^']*)'/.exec(header)?.[1]
    if (type !== '<f4' && type !== '<f8') {
      const detail = type?.startsWith('>') ? ', big-endian' : ''
      throw new CommandError(
        `"${path}" must hold little-endian float32 or float64 (<f4, <f8), not ${type ?? 'a record'}${detail}. In NumPy: .astype("<f4").`,
      )
    }
    if (!/'fortran_order': *False/.test(header)) {
      throw new CommandError(`"${path}" is in Fortran order. In NumPy: numpy.ascontiguousarray(matrix).`)
    }
    const shape = /'shape': *\(([0-9, ]*)\)/
      .exec(header)?.[1]
      ?.split(',')
      .map((length) => length.trim())
    const lengths = shape?.filter((length) => length !== '').map(Number) ?? []
    const rows = lengths[0]
    if (rows === undefined || lengths.length !== 2 || lengths[1] !== DIMENSIONS || !Number.isSafeInteger(rows)) {
      throw new CommandError(`"${path}" must have the shape (n, ${DIMENSIONS}), not (${lengths.join(', ')}).`)
    }
    const width = type === '<f4' ? 4 : 8
    const expected = offset + rows * DIMENSIONS * width
    if (size !== expected) {
      throw new CommandError(
        `"${path}" has ${size} bytes, and ${rows} rows take ${expected}: it is ${size < expected ? 'cut off' : 'too long'}.`,
      )
    }
    return { rows, width, offset }
  } finally {
    await file.close()
  }
}

async function* readVectors(path: string, { rows, width, offset }: Matrix): AsyncGenerator<number[], undefined> {
  const rowBytes = DIMENSIONS * width
  const rowsPerBlock = BLOCK_BYTES / rowBytes
  const file = await open(path)
  try {
    for (let first = 0; first < rows; first += rowsPerBlock) {
      const count = Math.min(rowsPerBlock, rows - first)
      const block = await readBytes(file, offset + first * rowBytes, count * rowBytes)
      if (block.length < count * rowBytes) throw new CommandError(`"${path}" became shorter while it was read.`)
      const view = new DataView(block.buffer, block.byteOffset, block.byteLength)
      for (let row = 0; row < count; row++) {
        yield Array.from({ length: DIMENSIONS }, (_, index) => {
          const at = row * rowBytes + index * width
          return width === 4 ? view.getFloat32(at, true) : view.getFloat64(at, true)
        })
      }
    }
  } finally {
    await file.close()
  }
}

/** Fewer bytes than were asked for only at the end of the file. */
async function readBytes(file: FileHandle, position: number, length: number): Promise<Buffer> {
  const buffer = Buffer.alloc(length)
  let filled = 0
  while (filled < length) {
    const { bytesRead } = await file.read(buffer, filled, length - filled, position + filled)
    if (bytesRead === 0) break
    filled += bytesRead
  }
  return buffer.subarray(0, filled)
}
