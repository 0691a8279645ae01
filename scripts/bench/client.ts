// An HTTP client that writes prepared bytes and reads no more of an answer than it must, because it shares the machine
// with what it measures.
import { once } from 'node:events'
import { connect, type Socket } from 'node:net'
import { performance } from 'node:perf_hooks'

/** A request as it goes over the wire. */
export type Shot = Buffer

export interface Answer {
  status: number
  body: string
  ms: number
}

const DEADLINE_MS = 30_000
const CRLF = '\r\n'

export function toShot(url: string, path: string, headers: Record<string, string>, body: string): Shot {
  const lines = Object.entries({ ...headers, 'Content-Length': String(Buffer.byteLength(body)) })
  const head = lines.map(([name, value]) => `${name}: ${value}${CRLF}`).join('')
  return Buffer.from(`POST ${path} HTTP/1.1${CRLF}Host: ${new URL(url).host}${CRLF}${head}${CRLF}${body}`)
}

/** One connection, kept alive; one request at a time. */
export class HttpConnection {
  readonly #socket: Socket
  #received: Buffer = Buffer.alloc(0)
  #wake: (() => void) | null = null
  #failure: Error | null = null

  private constructor(socket: Socket) {
    this.#socket = socket
    const wakeUp = () => {
      this.#wake?.()
      this.#wake = null
    }
    socket.setNoDelay(true).setTimeout(DEADLINE_MS, () => socket.destroy(new Error('no answer within 30 s')))
    socket.on('data', (chunk: Buffer) => {
      this.#received = this.#received.length === 0 ? chunk : Buffer.concat([this.#received, chunk])
      wakeUp()
    })
    socket.on('error', (error) => {
      this.#failure = error
    })
    socket.on('close', () => {
      this.#failure ??= new Error('the server closed the connection')
      wakeUp()
    })
  }

  /** @param url of a server on this machine: nothing else is ever put under load */
  static async open(url: string): Promise<HttpConnection> {
    const { hostname, port } = new URL(url)
    if (hostname !== '127.0.0.1') throw new RangeError('a benchmark is for 127.0.0.1 only')
    const socket = connect(Number(port), hostname)
    await once(socket, 'connect')
    return new HttpConnection(socket)
  }

  async ask(shot: Shot): Promise<Answer> {
    const sentAt = performance.now()
    this.#socket.write(shot)
    const head = (await this.#readThrough(`${CRLF}${CRLF}`)).toString('latin1')
    const length = /^content-length: *(\d+)/im.exec(head)?.[1]
    const body = length === undefined ? await this.#readChunks() : (await this.#read(Number(length))).toString()
    return { status: Number(head.slice(9, 12)), body, ms: performance.now() - sentAt }
  }

  close(): void {
    this.#socket.destroy()
  }

  async #readChunks(): Promise<string> {
    let body = ''
    for (;;) {
      const size = Number.parseInt((await this.#readThrough(CRLF)).toString('latin1'), 16)
      const chunk = await this.#read(size + CRLF.length)
      if (size === 0) return body
      body += chunk.toString('utf8', 0, size)
    }
  }

  async #readThrough(mark: string): Promise<Buffer> {
    for (;;) {
      const at = this.#received.indexOf(mark)
      if (at >= 0) return this.#take(at + mark.length)
      await this.#waitForMore()
    }
  }

  async #read(length: number): Promise<Buffer> {
    while (this.#received.length < length) await this.#waitForMore()
    return this.#take(length)
  }

  #take(length: number): Buffer {
    const taken = this.#received.subarray(0, length)
    this.#received = this.#received.subarray(length)
    return taken
  }

  async #waitForMore(): Promise<void> {
    if (this.#failure) throw this.#failure
    await new Promise<void>((resolve) => {
      this.#wake = resolve
    })
  }
}

/** @throws Error with the answer */
export function requireStatus({ status, body }: Answer, expected: number): void {
  if (status !== expected) throw new Error(`answered ${status}, not ${expected}: ${body.slice(0, 500)}`)
}
