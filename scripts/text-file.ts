// Reads text files in constant memory: lines, and the records of CSV. What makes a whole file unreadable is refused here.
import { createReadStream } from 'node:fs'
import { stat } from 'node:fs/promises'
import { CommandError, EXIT } from './database/terminal.ts'

/** The longest line of a text file, in characters: an embedding takes about 11,000, metadata at most 8,192. */
const MAX_LINE_LENGTH = 1024 * 1024
const BLOCK_BYTES = 1024 * 1024

export async function requireFile(path: string): Promise<void> {
  const found = await stat(path).catch(() => null)
  if (!found) throw new CommandError(`There is no file "${path}".`, EXIT.usage)
  // a pipe cannot be read twice, and rows are counted before they are read
  if (!found.isFile()) throw new CommandError(`"${path}" is not a file.`, EXIT.usage)
}

// == CSV ==

export async function readHeader(path: string): Promise<string[]> {
  for await (const { cells } of readRecords(path)) {
    if (cells) return cells
    break
  }
  throw new CommandError('Line 1: there are no column names.')
}

/** NaN for what is no number, and for an empty cell, which Number takes for 0. */
export function toNumber(cell: string | undefined): number {
  return Number(cell?.trim() || Number.NaN)
}

/** Records of RFC 4180, with the line on which each begins; cells are null where the quotation marks do not fit. */
export async function* readRecords(path: string): AsyncGenerator<{ line: number; cells: string[] | null }> {
  let pending: { line: number; text: string } | null = null
  for await (const { line, text } of readLines(path)) {
    // nearly every line has no quotation mark
    if (!pending && !text.includes('"')) {
      yield { line, cells: text.split(',') }
      continue
    }
    // with their annotation: the variable is assigned from itself
    const record: { line: number; text: string } = pending
      ? { line: pending.line, text: `${pending.text}\n${text}` }
      : { line, text }
    if (record.text.length > MAX_LINE_LENGTH) {
      throw new CommandError(`Line ${record.line}: a quotation mark is not closed.`)
    }
    const cells = splitRecord(record.text)
    pending = cells === 'open' ? record : null
    if (cells !== 'open') yield { line: record.line, cells }
  }
  if (pending) yield { line: pending.line, cells: null }
}

/** The cells of a record; 'open' when it ends inside quotation marks, null when one stands where none may. */
function splitRecord(text: string): string[] | 'open' | null {
  const cells: string[] = []
  for (let start = 0; ; ) {
    if (text.charAt(start) !== '"') {
      const comma = text.indexOf(',', start)
      const cell = comma < 0 ? text.slice(start) : text.slice(start, comma)
      if (cell.includes('"')) return null
      cells.push(cell)
      if (comma < 0) return cells
      start = comma + 1
      continue
    }
    let end = text.indexOf('"', start + 1)
    while (end >= 0 && text.charAt(end + 1) === '"') end = text.indexOf('"', end + 2)
    if (end < 0) return 'open'
    cells.push(text.slice(start + 1, end).replaceAll('""', '"'))
    if (end + 1 === text.length) return cells
    if (text.charAt(end + 1) !== ',') return null
    start = end + 2
  }
}

// == Lines ==

/** How many lines a text file has, whether or not the last one ends; those inside quotation marks count too. */
export async function countLines(path: string): Promise<number> {
  let lines = 0
  let endsInside = false
  for await (const chunk of createReadStream(path, { highWaterMark: BLOCK_BYTES })) {
    // a stream without an encoding gives buffers
    const bytes = chunk as Buffer
    for (let at = bytes.indexOf(10); at >= 0; at = bytes.indexOf(10, at + 1)) lines++
    endsInside = bytes.at(-1) !== 10
  }
  return endsInside ? lines + 1 : lines
}

/**
 * The lines of a file in UTF-8, without their ends and without a byte order mark.
 *
 * @throws CommandError when it is not UTF-8, or a line is too long to be one
 */
export async function* readLines(path: string): AsyncGenerator<{ line: number; text: string }> {
  const decoder = new TextDecoder('utf-8', { fatal: true })
  let line = 0
  let rest = ''
  const decode = (bytes?: Buffer) => {
    try {
      return bytes ? decoder.decode(bytes, { stream: true }) : decoder.decode()
    } catch {
      throw new CommandError(`"${path}" is not in UTF-8, at line ${line + 1} or soon after.`)
    }
  }
  for await (const chunk of createReadStream(path, { highWaterMark: BLOCK_BYTES / 4 })) {
    // a stream without an encoding gives buffers
    const text = rest + decode(chunk as Buffer)
    let start = 0
    for (let end = text.indexOf('\n'); end >= 0; end = text.indexOf('\n', start)) {
      yield { line: ++line, text: text.slice(start, text.charAt(end - 1) === '\r' ? Math.max(end - 1, start) : end) }
      start = end + 1
    }
    rest = text.slice(start)
    if (rest.length > MAX_LINE_LENGTH) throw tooLong(line + 1)
  }
  rest += decode()
  if (rest !== '') yield { line: line + 1, text: rest.endsWith('\r') ? rest.slice(0, -1) : rest }
}

function tooLong(line: number): CommandError {
  return new CommandError(`Line ${line} is longer than ${MAX_LINE_LENGTH} characters. Is this the right format?`)
}
