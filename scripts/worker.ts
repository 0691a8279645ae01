// Runs the Worker in workerd on this machine, as `wrangler dev` does.
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdtemp, writeFile } from 'node:fs/promises'
import { createServer } from 'node:net'
import { join } from 'node:path'

const ROOT = join(import.meta.dirname, '..')
const START_DEADLINE_MS = 60_000

export interface RunningWorker {
  url: string
  /** Resolves when the Worker has stopped, whoever stopped it. */
  stopped: Promise<void>
  stop(): Promise<void>
}

/**
 * @param bindings secrets and variables, as src/env.ts names them
 * @throws Error with the Worker's own output, when it does not start
 */
export async function startWorker(port: number, bindings: Record<string, string>): Promise<RunningWorker> {
  const folder = await mkdtemp(join(ROOT, '.rekko', 'worker-'))
  const envFile = join(folder, '.dev.vars')
  const lines = Object.entries(bindings).map(([name, value]) => `${name}=${quote(value)}\n`)
  await writeFile(envFile, lines.join(''), { mode: 0o600 })

  // its standard input is what ties the Worker to this process: see supervise.ts
  const worker = spawn(
    process.execPath,
    [
      ...[join(ROOT, 'scripts/supervise.ts'), folder, process.execPath],
      ...[join(ROOT, 'node_modules/wrangler/bin/wrangler.js'), 'dev', '--env', 'dev', '--env-file', envFile],
      ...['--ip', '127.0.0.1', '--port', String(port), '--inspector-port', '0'],
      // "log" shows what the Worker writes: a line for each request, which says why a credential was refused
      ...['--show-interactive-dev-session=false', '--log-level', process.env['VERBOSE'] ? 'log' : 'warn'],
    ],
    { cwd: ROOT, stdio: ['pipe', 'pipe', 'pipe'] },
  )
  let output = ''
  for (const stream of [worker.stdout, worker.stderr]) {
    stream.on('data', (chunk: Buffer) => {
      output = (output + chunk.toString()).slice(-20_000)
      if (process.env['VERBOSE']) process.stderr.write(chunk)
    })
  }
  const stopped = once(worker, 'exit').then(() => {})

  const url = `http://127.0.0.1:${port}`
  const deadline = Date.now() + START_DEADLINE_MS
  while (!(await answers(url))) {
    if (worker.exitCode !== null || Date.now() > deadline) {
      worker.stdin.end()
      await stopped
      throw new Error(`The Worker did not start:\n${output}`)
    }
    await new Promise((resolve) => setTimeout(resolve, 100))
  }
  return {
    url,
    stopped,
    async stop() {
      worker.stdin.end()
      await stopped
    },
  }
}

/** As dotenv reads it, which knows no escapes: a JSON text must come back as it was. */
function quote(value: string): string {
  const mark = ["'", '"', '`'].find((candidate) => !value.includes(candidate))
  if (!mark) throw new RangeError('a binding of the Worker must not have all three kinds of quotation marks')
  return mark + value + mark
}

async function answers(url: string): Promise<boolean> {
  try {
    const response = await fetch(`${url}/health`, { signal: AbortSignal.timeout(2_000) })
    return response.ok
  } catch {
    return false
  }
}

/** @param port 0 for any; answers the port, or null when another program has it */
export async function findFreePort(port: number): Promise<number | null> {
  const server = createServer()
  try {
    server.listen(port, '127.0.0.1')
    await once(server, 'listening')
    const address = server.address()
    return typeof address === 'object' && address ? address.port : null
  } catch {
    return null
  } finally {
    server.close()
  }
}
