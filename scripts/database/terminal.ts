// How the commands talk: results on stdout (or JSON), everything else on stderr, exit codes for scripts.
import { createInterface } from 'node:readline/promises'
import { styleText } from 'node:util'

export const EXIT = {
  ok: 0,
  /** It was tried and did not work. */
  failed: 1,
  /** The command line is wrong. */
  usage: 2,
  /** It would have been unsafe, or was not confirmed. Nothing was done. */
  refused: 3,
  /** The database does not answer, or not to this login. */
  unreachable: 4,
  /** It works, and there is something to mend: pending migrations, findings of check, doctor and lint. */
  findings: 5,
} as const

/** Says what is wrong and what to do; ends the command with its exit code and without a stack. */
export class CommandError extends Error {
  readonly exitCode: number

  constructor(message: string, exitCode: number = EXIT.failed) {
    super(message)
    this.exitCode = exitCode
  }
}

type Style = Parameters<typeof styleText>[0]

export class Terminal {
  readonly isJson: boolean
  readonly isConfirmed: boolean

  /** @param isConfirmed the user said --yes */
  constructor(options: { json?: boolean; yes?: boolean }) {
    this.isJson = options.json ?? false
    this.isConfirmed = options.yes ?? false
  }

  info(text: string): void {
    this.#mark('blue', 'ℹ', text)
  }

  ok(text: string): void {
    this.#mark('green', '✓', text)
  }

  warn(text: string): void {
    this.#mark('yellow', '!', text)
  }

  fail(text: string): void {
    this.#mark('red', '✗', text)
  }

  /**
   * The command's result: as JSON with --json, otherwise as the lines.
   *
   * @param value plain data
   */
  result(value: unknown, lines: string[]): void {
    if (this.isJson) console.log(JSON.stringify(value, null, 2))
    else for (const line of lines) console.log(line)
  }

  /**
   * Rows as an aligned table, or as JSON with --json.
   *
   * @param whole what JSON has instead, where a table has no room for it: plain data
   */
  table(rows: Record<string, string | number | boolean | null>[], whole: object[] = rows): void {
    this.result(whole, toTable(rows))
  }

  /** @throws CommandError unless the user agrees, at the terminal or with --yes */
  async confirm(question: string): Promise<void> {
    if (this.isConfirmed) return
    if (!process.stdin.isTTY) throw new CommandError(`${question} Say so with --yes.`, EXIT.refused)
    const reader = createInterface({ input: process.stdin, output: process.stderr })
    const answer = await reader.question(`${question} [y/N] `)
    reader.close()
    if (!/^y(es)?$/i.test(answer.trim())) throw new CommandError('Nothing was done.', EXIT.refused)
  }

  /**
   * Progress of long work on stderr: a bar at a terminal, now and then a line elsewhere.
   *
   * @param total in the unit of what `advance` is given; null when it is not known
   */
  progress(label: string, total: number | null): { advance(by: number): void; done(): void } {
    const startedAt = Date.now()
    const everyMs = process.stderr.isTTY ? 100 : 10_000
    let drawnAt = startedAt
    let done = 0
    const draw = () => {
      drawnAt = Date.now()
      const rate = Math.round(done / Math.max((drawnAt - startedAt) / 1000, 0.001))
      const share = total ? ` ${bar(done / total)} ${Math.floor((100 * done) / total)} %` : ''
      const line = `${label}${share} ${done.toLocaleString('en')}${total ? ` of ${total.toLocaleString('en')}` : ''} (${rate.toLocaleString('en')}/s)`
      process.stderr.write(process.stderr.isTTY ? `\r\x1b[K${line}` : `${line}\n`)
    }
    return {
      advance(by) {
        done += by
        if (Date.now() - drawnAt >= everyMs) draw()
      },
      done() {
        draw()
        if (process.stderr.isTTY) process.stderr.write('\n')
      },
    }
  }

  #mark(style: Style, mark: string, text: string): void {
    // honors NO_COLOR, and leaves colors out where stderr is no terminal
    process.stderr.write(`${styleText(style, mark, { stream: process.stderr })} ${text}\n`)
  }
}

/** "1 tenant", "2,000 tenants". */
export function toCount(count: number, noun: string): string {
  return `${count.toLocaleString('en')} ${noun}${count === 1 ? '' : 's'}`
}

function bar(share: number): string {
  const width = 24
  const filled = Math.min(width, Math.round(share * width))
  return '█'.repeat(filled) + '░'.repeat(width - filled)
}

/** An aligned table, with its header. */
export function toTable(rows: Record<string, string | number | boolean | null>[]): string[] {
  const [first] = rows
  if (!first) return ['(no rows)']
  const columns = Object.keys(first).map((name) => {
    const cells = rows.map((row) => String(row[name] ?? ''))
    const isNumeric = rows.every((row) => typeof row[name] === 'number' || row[name] === null)
    return { name, cells, isNumeric, width: Math.max(name.length, ...cells.map((cell) => cell.length)) }
  })
  const line = (cellOf: (column: (typeof columns)[number]) => string) =>
    columns
      .map((column) => (column.isNumeric ? cellOf(column).padStart(column.width) : cellOf(column).padEnd(column.width)))
      .join('  ')
      .trimEnd()
  return [
    line(({ name }) => name),
    line(({ width }) => '-'.repeat(width)),
    ...rows.map((_, index) => line(({ cells }) => cells[index] ?? '')),
  ]
}
