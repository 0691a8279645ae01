// The bytes of a request, within limits of size and time.
import type { IncomingMessage } from 'node:http'
import type { Limits } from './limits.ts'
import { Refusal } from './refusal.ts'

/** @throws Refusal IMAGE_TOO_LARGE by the announced length, before anything is read */
export function refuseAnnounced(request: IncomingMessage, limits: Limits): void {
  if (Number(request.headers['content-length']) > limits.maxBytes) throw tooLarge(limits)
}

/**
 * @throws Refusal IMAGE_TOO_LARGE by the bytes that came, as a chunked body announces nothing; TIMEOUT when they
 *   come too slowly, also when each of them comes in time
 */
export function readBody(request: IncomingMessage, limits: Limits): Promise<Uint8Array> {
  return new Promise((resolve, reject) => {
    const chunks: Buffer[] = []
    let size = 0
    const timer = setTimeout(() => end(new Refusal('TIMEOUT', 'The image came too slowly.')), limits.bodyMs)
    const end = (refusal: Refusal | null) => {
      clearTimeout(timer)
      request.off('data', take)
      request.off('end', finish)
      request.off('close', hangUp)
      if (refusal) reject(refusal)
      else resolve(Buffer.concat(chunks, size))
    }
    const take = (chunk: Buffer) => {
      size += chunk.length
      if (size > limits.maxBytes) end(tooLarge(limits))
      else chunks.push(chunk)
    }
    const finish = () => end(null)
    const hangUp = () => end(new Refusal('TIMEOUT', 'The connection was closed.'))
    request.on('data', take)
    request.on('end', finish)
    request.on('close', hangUp)
  })
}

function tooLarge({ maxBytes }: Limits): Refusal {
  return new Refusal('IMAGE_TOO_LARGE', `The image has more than ${maxBytes} bytes.`)
}
