// Runs a command of scripts/db.sh in this process, as scripts/db.ts does: another process takes a second to start.
import { Command, CommanderError } from 'commander'
import { vi } from 'vitest'
import { CommandError, EXIT } from '../../scripts/database/terminal.ts'

export interface Result {
  code: number
  stdout: string
  stderr: string
}

/**
 * @param register adds the commands that are tried
 * @param env besides this process's own
 */
export async function runCommand(
  register: (program: Command) => void,
  args: string[],
  env: Record<string, string>,
): Promise<Result> {
  const [out, err]: [string[], string[]] = [[], []]
  const program = new Command('db.sh')
    .option('--database-url <url>')
    .option('--db <kind>')
    .option('--json')
    .option('--dry-run')
    .option('-y, --yes', '', (_: string, times: number) => times + 1, 0)
    .exitOverride()
    .configureOutput({ writeErr: (text) => void err.push(text), writeOut: (text) => void out.push(text) })
  register(program)
  for (const [name, value] of Object.entries(env)) vi.stubEnv(name, value)
  const log = vi.spyOn(console, 'log').mockImplementation((text: string) => void out.push(`${text}\n`))
  const write = vi.spyOn(process.stderr, 'write').mockImplementation((text) => {
    err.push(String(text))
    return true
  })
  const url = env['DATABASE_URL'] ? ['--database-url', env['DATABASE_URL']] : []
  try {
    await program.parseAsync([...url, ...args], { from: 'user' })
    return { code: EXIT.ok, stdout: out.join(''), stderr: err.join('') }
  } catch (error) {
    const message = error instanceof Error ? error.message : String(error)
    const code =
      error instanceof CommanderError ? EXIT.usage : error instanceof CommandError ? error.exitCode : EXIT.failed
    return { code, stdout: out.join(''), stderr: err.join('') + message }
  } finally {
    log.mockRestore()
    write.mockRestore()
    vi.unstubAllEnvs()
  }
}
