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
  /**
   * What the isolate of the Worker holds, in MB: objects, and the buffers outside of the heap; with what nobody needs any more,
   * until V8 throws it away. Only `withInspector`.
   */
  readHeapMb(): Promise<number>
  close(): Promise<void>
}

/**
 * @param entry path of the Worker's module
 * @param bindings texts that it is given; it may ask servers on this machine
 * @param log a file descriptor for what it has to complain of; otherwise that is shown
 * @param environment variables of the process itself
 * @param withInspector whether it can be looked into, which is no way to measure its speed
 */
export async function startWorkerd(
  entry: string,
  bindings: Record<string, string> = {},
  {
    log,
    environment = {},
    withInspector = false,
  }: { log?: number; environment?: Record<string, string>; withInspector?: boolean } = {},
): Promise<Workerd> {
  const folder = await mkdtemp(join(tmpdir(), 'rekko-workerd-'))
  const outfile = join(folder, 'worker.js')
  await build({
    ...{ entryPoints: [entry], outfile, bundle: true, format: 'esm', target: 'es2024', logLevel: 'warning' },
    // what workerd brings along
    external: ['node:*', 'cloudflare:*'],
  })
  await writeFile(join(folder, 'config.capnp'), await toConfig(bindings), { mode: 0o600 })
  const inspector = withInspector ? ['--inspector-addr=127.0.0.1:0'] : []
  const child = spawn(BINARY, ['serve', '--control-fd=3', ...inspector, join(folder, 'config.capnp')], {
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
    const wanted = withInspector ? ['listen', 'listen-inspector'] : ['listen']
    const [port, inspectorPort] = await readPorts(child, wanted)
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
      async readHeapMb() {
        if (inspectorPort === undefined) throw new RangeError('workerd was started without its inspector')
        return readHeapMb(inspectorPort)
      },
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

/** workerd says on its control channel which ports it was given: in the order of `wanted`, its names for them. */
async function readPorts(child: ChildProcess, wanted: readonly string[]): Promise<number[]> {
  const ports = new Map<string, number>()
  // 'pipe' makes a readable stream of it
  const control = child.stdio[3] as Readable
  for await (const line of createInterface({ input: control, signal: AbortSignal.timeout(DEADLINE_MS) })) {
    // one JSON object a line, as workerd's --control-fd has it
    const { event, port } = JSON.parse(line) as { event: string; port?: number }
    if (port) ports.set(event, port)
    const found = wanted.flatMap((name) => ports.get(name) ?? [])
    if (found.length === wanted.length) return found
  }
  throw new Error('workerd ended before it listened')
}

/** By the protocol of V8's inspector, https://chromedevtools.github.io/devtools-protocol/v8/Runtime. */
async function readHeapMb(port: number): Promise<number> {
  // one Worker, so one target, as the inspector documents it
  const [target] = (await (await fetch(`http://127.0.0.1:${port}/json`)).json()) as { webSocketDebuggerUrl: string }[]
  const socket = new WebSocket(target?.webSocketDebuggerUrl ?? '')
  try {
    const signal = AbortSignal.timeout(DEADLINE_MS)
    await once(socket, 'open', { signal })
    const answered = once(socket, 'message', { signal })
    socket.send(JSON.stringify({ id: 1, method: 'Runtime.getHeapUsage' }))
    const [{ data }] = (await answered) as [{ data: string }]
    const { result } = JSON.parse(data) as { result: Record<string, number> }
    // `used` of two heaps, that of JavaScript and that of what workerd gives it; and what ArrayBuffers hold
    const { usedSize = Number.NaN, embedderHeapUsedSize = 0, backingStorageSize = 0 } = result
    return (usedSize + embedderHeapUsedSize + backingStorageSize) / 1e6
  } finally {
    socket.close()
  }
}
