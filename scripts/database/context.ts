// What every command of scripts/db.sh is given.
import type { Command } from 'commander'
import { type Target, toTarget } from './target.ts'
import { Terminal } from './terminal.ts'

export interface Context {
  target: Target
  terminal: Terminal
  /** Show what would be done, and do nothing. */
  isDryRun: boolean
  /** How often the user said --yes: twice for what cannot be taken back on another machine. */
  timesConfirmed: number
}

type GlobalOptions = { databaseUrl?: string; db?: string; json?: boolean; dryRun?: boolean; yes: number }

/** The context of a command, from the options before and after its name. */
export function toContext(command: Command): Context {
  const { databaseUrl, db, json = false, dryRun = false, yes } = command.optsWithGlobals<GlobalOptions>()
  return {
    target: toTarget(databaseUrl, db),
    terminal: new Terminal({ json, yes: yes > 0 }),
    isDryRun: dryRun,
    timesConfirmed: yes,
  }
}
