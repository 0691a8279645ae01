// Runs a program for as long as the one that started it lives: when standard input ends, by whatever
// death, the program is ended too, and the folder with its secrets is deleted.
//
//   node scripts/supervise.ts FOLDER PROGRAM ARGUMENTS...
import { spawn } from 'node:child_process'
import { rmSync } from 'node:fs'

const PATIENCE_MS = 5_000

const [folder = '', program = '', ...args] = process.argv.slice(2)
const child = spawn(program, args, { stdio: ['ignore', 'inherit', 'inherit'] })

function end(): void {
  child.kill('SIGTERM')
  setTimeout(() => child.kill('SIGKILL'), PATIENCE_MS).unref()
}

process.stdin.once('end', end).resume()
// Ctrl-C reaches the child as well; this one outlives it, to clean up
for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) process.on(signal, end)
// nobody may be left to read what the child says
for (const stream of [process.stdout, process.stderr]) stream.on('error', () => {})

child.once('exit', (code) => {
  rmSync(folder, { recursive: true, force: true })
  process.exit(code ?? 1)
})
