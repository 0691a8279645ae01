// What stands between the Worker and its database in a drill: it passes batches on, or does to them what networks, proxies and
// a database that is rolled over do. Listens on 127.0.0.1.
import { createServer, type IncomingMessage, type ServerResponse } from 'node:http'
import type { AddressInfo } from 'node:net'

/** Whether a batch is carried out before it is spoiled, or never. */
export type When = 'before' | 'after'

export type Action =
  | { kind: 'pass' }
  /** The connection breaks. */
  | { kind: 'drop'; when: When }
  | { kind: 'delay'; when: When; ms: number }
  /** It is carried out twice; the Worker gets the first answer, or the second. */
  | { kind: 'duplicate'; answers: 'first' | 'second'; together: boolean }
  /** The connection breaks in the middle of the answer. */
  | { kind: 'truncate'; part: number }
  | { kind: 'answer'; when: When; status: number; type: string; body: string }
  /** The answer is JSON, and not what was asked for. */
  | { kind: 'garble'; garble: (answer: unknown) => unknown }

/** @param batch how many came before it in this round */
export type Rule = (batch: number, isReadOnly: boolean) => Action

export const PASS: Action = { kind: 'pass' }

export interface FaultProxy {
  /** For `neonConfig.fetchEndpoint`. */
  url: string
  /** Where batches go, and what happens to them; starts counting anew. */
  serve(endpointUrl: string, rule: Rule): void
  /** Lets no batch through until what it answers is called: a database that is asleep. */
  hold(): () => void
  /** Lets every batch wait so long, whatever else happens to it. */
  slowDown(ms: number): void
  /** How many batches came, and how many of them were spoiled. */
  counts(): { batches: number; spoiled: number }
  /** Waits for batches that are still on their way, also those that nobody waits for any more. */
  settle(): Promise<void>
  close(): Promise<void>
}

interface Passed {
  status: number
  body: string
}

export async function startFaultProxy(): Promise<FaultProxy> {
  let target = ''
  let rule: Rule = () => PASS
  let batches = 0
  let spoiled = 0
  let held = Promise.resolve()
  let slowMs = 0
  const underWay = new Set<Promise<void>>()

  const server = createServer((request, response) => {
    const exchange = spoil(request, response)
      // the endpoint went away, or the Worker did
      .catch(() => void response.destroy())
      .finally(() => underWay.delete(exchange))
    underWay.add(exchange)
  })

  async function spoil(request: IncomingMessage, response: ServerResponse): Promise<void> {
    const isReadOnly = request.headers['neon-batch-read-only'] === 'true'
    const action = rule(batches++, isReadOnly)
    if (action.kind !== 'pass') spoiled++
    const url = target
    const body = await readBody(request)
    await held
    if (slowMs > 0) await wait(slowMs)
    const pass = () => send(url, request, body)

    switch (action.kind) {
      case 'pass':
        return answer(response, await pass())
      case 'drop':
        if (action.when === 'after') await pass()
        return void response.destroy()
      case 'delay': {
        if (action.when === 'before') await wait(action.ms)
        const passed = await pass()
        if (action.when === 'after') await wait(action.ms)
        return answer(response, passed)
      }
      case 'duplicate': {
        const first = pass()
        if (!action.together) await first
        const second = pass()
        const [one, other] = await Promise.all([first, second])
        return answer(response, action.answers === 'first' ? one : other)
      }
      case 'truncate': {
        const passed = await pass()
        response.writeHead(passed.status, toHeaders(passed.body))
        response.write(passed.body.slice(0, Math.floor(passed.body.length * action.part)))
        // what was written is on its way before the connection breaks
        await wait(5)
        return void response.destroy()
      }
      case 'answer':
        if (action.when === 'after') await pass()
        return void response.writeHead(action.status, { 'Content-Type': action.type }).end(action.body)
      case 'garble': {
        const passed = await pass()
        const garbled = passed.status === 200 ? action.garble(JSON.parse(passed.body)) : JSON.parse(passed.body)
        return answer(response, { ...passed, body: JSON.stringify(garbled) })
      }
    }
  }

  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  // listening on TCP, so the address is not a pipe's name
  const { port } = server.address() as AddressInfo
  return {
    url: `http://127.0.0.1:${port}/sql`,
    serve(endpointUrl, newRule) {
      target = endpointUrl
      rule = newRule
      batches = 0
      spoiled = 0
    },
    hold() {
      const { promise, resolve } = Promise.withResolvers<void>()
      held = promise
      return resolve
    },
    slowDown(ms) {
      slowMs = ms
    },
    counts: () => ({ batches, spoiled }),
    async settle() {
      while (underWay.size > 0) await Promise.all(underWay)
    },
    async close() {
      server.closeAllConnections()
      await new Promise((resolve) => server.close(resolve))
    },
  }
}

async function readBody(request: IncomingMessage): Promise<Buffer> {
  const chunks: Buffer[] = []
  for await (const chunk of request) chunks.push(chunk)
  return Buffer.concat(chunks)
}

async function send(url: string, { headers }: IncomingMessage, body: Buffer): Promise<Passed> {
  const neon = Object.entries(headers).flatMap(([name, value]) =>
    name.startsWith('neon-') ? [[name, String(value)] as const] : [],
  )
  const response = await fetch(url, { method: 'POST', headers: Object.fromEntries(neon), body: new Uint8Array(body) })
  return { status: response.status, body: await response.text() }
}

function answer(response: ServerResponse, { status, body }: Passed): void {
  response.writeHead(status, toHeaders(body)).end(body)
}

function toHeaders(body: string): Record<string, string> {
  return { 'Content-Type': 'application/json', 'Content-Length': String(Buffer.byteLength(body)) }
}

function wait(ms: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, ms))
}
