// An issuer's web server that behaves as badly as a test asks: key sets on 127.0.0.1, for the token tests.
//
//   PUT /sets/NAME         {behavior, body?}: what GET shall do from now on
//   GET /sets/NAME         does it
//   GET /sets/NAME/count   how often that was asked for, as a number
import { createServer, type IncomingMessage, type ServerResponse } from 'node:http'
import type { AddressInfo } from 'node:net'
import { pipeline } from 'node:stream/promises'
import { setTimeout as delay } from 'node:timers/promises'

export const BEHAVIORS = [
  'answer',
  'slow',
  'status-500',
  'status-203',
  'redirect',
  'html',
  'large',
  'endless',
  'trickle',
  'hang',
  'reset',
] as const
export type Behavior = (typeof BEHAVIORS)[number]

interface KeySetPage {
  behavior: Behavior
  body: string
  count: number
}

export interface IssuerServer {
  /** Sets lie under it, at `/NAME`. */
  url: string
  close(): Promise<void>
}

export async function startIssuerServer(): Promise<IssuerServer> {
  const pages = new Map<string, KeySetPage>()

  const server = createServer((request, response) => {
    respond(request, response).catch(() => response.destroy())
  })

  async function respond(request: IncomingMessage, response: ServerResponse): Promise<void> {
    const [, name = '', view] = /^\/sets\/([a-z0-9-]+)(\/count)?$/.exec(request.url ?? '') ?? []
    const page = pages.get(name)
    if (request.method === 'PUT') {
      const { behavior, body } = await readPage(request)
      pages.set(name, { behavior, body, count: page?.count ?? 0 })
      response.writeHead(204).end()
    } else if (!page) {
      response.writeHead(404).end()
    } else if (view) {
      response.end(String(page.count))
    } else {
      page.count++
      await behave(page, response)
    }
  }

  await new Promise<void>((resolve, reject) => {
    server.once('error', reject)
    server.listen(0, '127.0.0.1', resolve)
  })
  // listening on TCP, so the address is not a pipe's name
  const address = server.address() as AddressInfo
  return {
    url: `http://127.0.0.1:${address.port}/sets`,
    async close() {
      server.closeAllConnections()
      await new Promise((resolve) => server.close(resolve))
    },
  }
}

async function behave({ behavior, body }: KeySetPage, response: ServerResponse): Promise<void> {
  const json = { 'Content-Type': 'application/json' }
  switch (behavior) {
    case 'answer':
      response.writeHead(200, json).end(body)
      return
    case 'slow':
      await delay(300)
      response.writeHead(200, json).end(body)
      return
    case 'status-500':
      response.writeHead(500, json).end(body)
      return
    case 'status-203':
      response.writeHead(203, json).end(body)
      return
    case 'redirect':
      // `body` is where to
      response.writeHead(302, { Location: body }).end()
      return
    case 'html':
      response.writeHead(200, { 'Content-Type': 'text/html' }).end('<!doctype html><title>Sign in</title>')
      return
    case 'large':
      // a good set, if only it were read to its end
      response.writeHead(200, json).end(body + ' '.repeat(300 * 1024))
      return
    case 'endless':
      response.writeHead(200, json)
      // fails when the client hangs up, as it should
      await pipeline(repeat(' '.repeat(64 * 1024)), response)
      return
    case 'trickle':
      response.writeHead(200, json)
      while (!response.destroyed) {
        response.write(' ')
        await delay(50)
      }
      return
    case 'hang':
      return
    case 'reset':
      response.destroy()
      return
  }
}

function* repeat(chunk: string): Generator<string> {
  while (true) yield chunk
}

async function readPage(request: IncomingMessage): Promise<{ behavior: Behavior; body: string }> {
  const chunks: Buffer[] = []
  for await (const chunk of request) chunks.push(chunk)
  const { behavior, body = '' } = JSON.parse(Buffer.concat(chunks).toString('utf8'))
  if (!BEHAVIORS.includes(behavior) || typeof body !== 'string') throw new RangeError('no such behavior')
  return { behavior, body }
}
