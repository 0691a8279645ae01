// The database toolkit, `scripts/db.sh`: what operators do with a database. Each subject registers its
// commands from a file of scripts/database/commands/.
import { Command, CommanderError, Option } from 'commander'
import { registerBackups } from './database/commands/backups.ts'
import { registerData } from './database/commands/data.ts'
import { registerHealth } from './database/commands/health.ts'
import { registerMigrations } from './database/commands/migrations.ts'
import { registerOperator } from './database/commands/operator.ts'
import { registerTemplateKeys } from './database/commands/template-keys.ts'
import { LOCAL_URL } from './database/target.ts'
import { CommandError, EXIT, Terminal } from './database/terminal.ts'

const program = new Command('db.sh')
  .description(`Looks after the PostgreSQL of Rekko: migrations, backups, test data, health.

Works on the database of --database-url or DATABASE_URL: an administrator's direct
connection. Without one, on the local one of docker compose and scripts/native-postgres:
${LOCAL_URL}`)
  .addOption(new Option('--database-url <url>', 'the database to work on').env('DATABASE_URL'))
  .addOption(
    new Option('--db <kind>', 'embedded: the database of `make dev`; docker or native: the local one').env('DB'),
  )
  .option('--json', 'the result as JSON on stdout')
  .option('--dry-run', 'show what would be done, and do nothing')
  .option('-y, --yes', 'do not ask; twice on a database of another machine', (_: string, times: number) => times + 1, 0)
  .addHelpText(
    'after',
    `
Exit codes: 0 done, 1 failed, 2 wrong usage, 3 refused or not confirmed, 4 database not reachable,
5 something to mend (check, doctor, lint). NO_COLOR leaves colors out.`,
  )
  .exitOverride()

registerMigrations(program)
registerOperator(program, registerData(program))
registerTemplateKeys(program)
registerHealth(program)
registerBackups(program)
guide(program, 'scripts/db.sh')

try {
  await program.parseAsync()
} catch (error) {
  process.exitCode = report(error)
}

/** After an error, each command points to its own help; and a word that is no command is not left to the default one. */
function guide(command: Command, path: string): void {
  command.showHelpAfterError(`Try: ${path} --help`)
  command.hook('preSubcommand', ({ args: [word], commands }) => {
    if (word === undefined || word.startsWith('-') || commands.some((known) => known.name() === word))
      return // commander 15 has it, which says what is nearest, and leaves it out of its types
    ;(command as Command & { unknownCommand(): never }).unknownCommand()
  })
  for (const inner of command.commands) guide(inner, `${path} ${inner.name()}`)
}

function report(error: unknown): number {
  // commander has printed its own message, or the help that was asked for
  if (error instanceof CommanderError) return error.exitCode === 0 ? EXIT.ok : EXIT.usage
  const message = error instanceof Error ? error.message : String(error)
  new Terminal({}).fail(message)
  return error instanceof CommandError ? error.exitCode : EXIT.failed
}
