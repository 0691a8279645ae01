// A raw workerd on 127.0.0.1 with one Worker in it, and the CPU that it uses: clocks stand still inside a Worker, and
// `wrangler dev` is 10 to 15 times slower than what runs in production.
import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises'
import { createRequire } from 'node:module'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import type { Readable } from 'node:stream'
import { build } from 'esbuild'
import { readCpuMs } from './cpu.ts'

const ROOT = join(import.meta.dirname, '..')
// a CommonJS module without types, whose default export is the path of its binary
const { default: BINARY } = createRequire(import.meta.url)('workerd') as { default: string }
const DEADLINE_MS = 20_000

export interface Workerd {
  /** Where it listens, without a path. */
  url: string
  pid: number
  /** @throws Error when the Worker does not answer 200 within 20 s */
  post(path: string): Promise<void>
  /** CPU of the process so far, of all its threads. */
  readCpuMs(): Promise<number>
  close(): Promise<void>
}

/**
 * @param entry path of the Worker's module
 * @param bindings texts that it is given; it may ask servers on this machine
 * @param log a file descriptor for what it has to complain of; otherwise that is shown
 * @param environment variables of the process itself
 */
export async function startWorkerd(
  entry: string,
  bindings: Record<string, string> = {},
  { log, environment = {} }: { log?: number; environment?: Record<string, string> } = {},
): Promise<Workerd> {
  const folder = await mkdtemp(join(tmpdir(), 'rekko-workerd-'))
  const outfile = join(folder, 'worker.js')
  await build({
    ...{ entryPoints: [entry], outfile, bundle: true, format: 'esm', target: 'es2024', logLevel: 'warning' },
    // what workerd brings along
    external: ['node:*', 'cloudflare:*'],
  })
  await writeFile(join(folder, 'config.capnp'), await toConfig(bindings), { mode: 0o600 })
  const child = spawn(BINARY, ['serve', '--control-fd=3', join(folder, 'config.capnp')], {
    // the Worker's own lines, one a request, are its output
    stdio: ['ignore', 'ignore', log ?? 'inherit', 'pipe'],
    env: { ...process.env, ...environment },
  })
  // it would outlive us, where an error ends us
  const endWithUs = () => void child.kill('SIGKILL')
  process.once('exit', endWithUs)
  const close = async () => {
    process.off('exit', endWithUs)
    if (child.exitCode === null && child.kill('SIGKILL')) await once(child, 'exit')
    await rm(folder, { recursive: true })
  }
  try {
    const port = await readPort(child)
    const { pid } = child
    if (pid === undefined) throw new Error('workerd did not start')
    return {
      url: `http://127.0.0.1:${port}`,
      pid,
      async post(path) {
        const signal = AbortSignal.timeout(DEADLINE_MS)
        const response = await fetch(`http://127.0.0.1:${port}${path}`, { method: 'POST', signal })
        await response.arrayBuffer()
        if (!response.ok) throw new Error(`${path} answered ${response.status}`)
      },
      readCpuMs: () => readCpuMs(pid),
      close,
    }
  } catch (error) {
    await close()
    throw error
  }
}

async function toConfig(bindings: Record<string, string>): Promise<string> {
  const date = /^compatibility_date = "(.*)"$/m.exec(await readFile(join(ROOT, 'wrangler.toml'), 'utf8'))?.[1]
  if (!date) throw new Error('wrangler.toml has no compatibility_date')
  // a text of Cap'n Proto has the escapes of JSON
  const texts = Object.entries(bindings).map(([name, text]) => `(name = "${name}", text = ${JSON.stringify(text)})`)
  return `using Workerd = import "/workerd/workerd.capnp";
const config :Workerd.Config = (
  services = [(name = "main", worker = (
    modules = [(name = "worker.js", esModule = embed "worker.js")],
    compatibilityDate = "${date}",
    bindings = [${texts.join(', ')}],
  )), (name = "internet", network = (allow = ["public", "private", "local"]))],
  sockets = [(name = "http", address = "127.0.0.1:0", http = (), service = "main")],
);
`
}

/** workerd says on its control channel which port it was given. */
async function readPort(child: ChildProcess): Promise<number> {
  // 'pipe' makes a readable stream of it
  const control = child.stdio[3] as Readable
  for await (const line of createInterface({ input: control, signal: AbortSignal.timeout(DEADLINE_MS) })) {
    // one JSON object a line, as workerd's --control-fd has it
    const event = JSON.parse(line) as { event: string; port?: number }
    if (event.event === 'listen' && event.port) return event.port
  }
  throw new Error('workerd ended before it listened')
}
