// The local Neon endpoint: Neon's SQL-over-HTTP protocol in front of the embedded database or of any
// PostgreSQL, for development and tests. Listens on 127.0.0.1, unless a container asks otherwise.
//
//   POST /sql     one query, or a batch as one transaction
//   GET  /stats   {requests, statements, transactions} so far, to prove "one round trip"
import { createServer, type IncomingMessage, type ServerResponse } from 'node:http'
import type { AddressInfo } from 'node:net'
import { type Backend, type Credentials, type Query, QueryError, type Result } from './backend.ts'

const MAX_BODY_BYTES = 16 * 1024 * 1024
const ISOLATION_LEVELS: Record<string, string> = {
  ReadUncommitted: 'read uncommitted',
  ReadCommitted: 'read committed',
  RepeatableRead: 'repeatable read',
  Serializable: 'serializable',
}

export interface Endpoint {
  /** For `neonConfig.fetchEndpoint`. */
  url: string
  close(): Promise<void>
}

/**
 * @param port 0 for any that is free
 * @param host where to listen; anything but this machine is for a container
 */
export async function startEndpoint(backend: Backend, port = 0, host = '127.0.0.1'): Promise<Endpoint> {
  const stats = { requests: 0, statements: 0, transactions: 0 }

  const server = createServer((request, response) => {
    if (request.method === 'GET' && request.url === '/stats') return answer(response, 200, stats)
    if (request.method !== 'POST' || request.url !== '/sql') return answer(response, 404, { message: 'not found' })
    stats.requests++
    runRequest(request).then(
      (body) => answer(response, 200, body),
      (error: unknown) => {
        if (error instanceof QueryError) answer(response, 400, error.refusal)
        else if (error instanceof BadRequest) answer(response, 400, { message: error.message })
        // Neon says 400 without a code when a connection is lost: nobody knows what was carried out
        else answer(response, 400, { message: 'the connection to PostgreSQL failed' })
      },
    )
  })

  async function runRequest(request: IncomingMessage): Promise<unknown> {
    const credentials = toCredentials(request.headers['neon-connection-string'])
    const body = toBody(await readBody(request))
    const queries = 'queries' in body ? body.queries : [body]
    stats.statements += queries.length
    stats.transactions++
    const results = await backend.transact(credentials, toBegin(request), queries)
    return 'queries' in body ? { results: results.map(toAnswer) } : results.map(toAnswer)[0]
  }

  await new Promise<void>((resolve, reject) => {
    server.once('error', reject)
    server.listen(port, host, resolve)
  })
  // listening on TCP, so the address is not a pipe's name
  const address = server.address() as AddressInfo
  return {
    url: `http://127.0.0.1:${address.port}/sql`,
    async close() {
      server.closeAllConnections()
      await new Promise((resolve) => server.close(resolve))
      await backend.close()
    },
  }
}

class BadRequest extends Error {}

function toAnswer(result: Result) {
  return { ...result, rowAsArray: true }
}

function toBegin({ headers }: IncomingMessage): string {
  const level = headers['neon-batch-isolation-level']
  const isolation = typeof level === 'string' ? ISOLATION_LEVELS[level] : 'read committed'
  if (!isolation) throw new BadRequest('unknown isolation level')
  const access = headers['neon-batch-read-only'] === 'true' ? 'read only' : 'read write'
  return `begin isolation level ${isolation} ${access}`
}

function toCredentials(connectionString: string | string[] | undefined): Credentials {
  try {
    const { username, password } = new URL(String(connectionString))
    return { role: decodeURIComponent(username), password: decodeURIComponent(password) }
  } catch {
    throw new BadRequest('the header Neon-Connection-String is missing or not a URL')
  }
}

async function readBody(request: IncomingMessage): Promise<string> {
  const chunks: Buffer[] = []
  let byteLength = 0
  for await (const chunk of request) {
    byteLength += chunk.length
    // read to its end all the same: a connection with a body left in it would fail the next request
    if (byteLength <= MAX_BODY_BYTES) chunks.push(chunk)
  }
  if (byteLength > MAX_BODY_BYTES) throw new BadRequest('the body is too large')
  return Buffer.concat(chunks).toString('utf8')
}

function toBody(text: string): Query | { queries: Query[] } {
  let body: unknown
  try {
    body = JSON.parse(text)
  } catch {
    throw new BadRequest('the body is not JSON')
  }
  if (isQuery(body)) return body
  if (typeof body === 'object' && body !== null && 'queries' in body && Array.isArray(body.queries)) {
    if (body.queries.every(isQuery)) return { queries: body.queries }
  }
  throw new BadRequest('the body is neither a query nor a batch')
}

function isQuery(value: unknown): value is Query {
  return (
    typeof value === 'object' &&
    value !== null &&
    'query' in value &&
    typeof value.query === 'string' &&
    'params' in value &&
    Array.isArray(value.params) &&
    value.params.every((param) => param === null || typeof param === 'string')
  )
}

function answer(response: ServerResponse, status: number, body: unknown): void {
  response.writeHead(status, { 'Content-Type': 'application/json' }).end(JSON.stringify(body))
}
