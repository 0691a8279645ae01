// Proves the contract over HTTP: who may ask, what is refused and how, what is answered. The networks are fake and
// tiny: a detector that sees what it was staged to see, an embedding of mean colors, a liveness of greenness.
import assert from 'node:assert/strict'
import { once } from 'node:events'
import { connect } from 'node:net'
import { after, before, describe, it } from 'node:test'
import { setTimeout as sleep } from 'node:timers/promises'
import sharp from 'sharp'
import { codeOf, cosine, SECRET, type Service, startService, stopServices, toEmbedding } from './stage.ts'

const GRAY = await sharp({ create: { width: 640, height: 480, channels: 3, background: '#808080' } })
  .jpeg()
  .toBuffer()
const GREEN = await sharp({ create: { width: 640, height: 480, channels: 3, background: '#20c020' } })
  .png()
  .toBuffer()
/** Red above, blue below: not gray, and not the same when it is turned. */
const HALVES = await sharp(
  Buffer.from(Array.from({ length: 640 * 480 * 3 }, (_, at) => (at % 3 === (at < 640 * 240 * 3 ? 0 : 2) ? 200 : 30))),
  { raw: { width: 640, height: 480, channels: 3 } },
)
  .png()
  .toBuffer()

// a test that fails leaves its service running
after(stopServices)

interface FaceAnswer {
  box: { x: number; y: number; width: number; height: number }
  landmarks: Record<string, [number, number]>
  detection_score: number
  quality: { score: number; reasons: string[]; face_size_px: number; roll_degrees: number; brightness: number }
  embedding: string | null
  liveness: { score: number; passed: boolean } | null
}
interface Answer {
  image: { width: number; height: number }
  models: Record<string, string | null>
  faces: FaceAnswer[]
}
const read = async (response: Promise<Response>) => (await (await response).json()) as Answer

describe('an analysis', () => {
  let service: Service
  before(async () => {
    service = await startService({ liveness: true })
  })
  after(() => service.stop())

  it('answers the face, its quality, embedding and liveness, in pixels of the image', async () => {
    const { image, models, faces } = await read(service.analyze(HALVES))
    assert.deepEqual(image, { width: 640, height: 480 })
    assert.deepEqual(models, {
      detector: 'staged-detector@1',
      recognizer: 'staged-recognizer@1',
      liveness: 'staged-liveness@1',
    })
    assert.equal(faces.length, 1)
    const [face] = faces
    // staged at 320 px, and the image has 640
    assert.deepEqual(face?.box, { x: 200, y: 160, width: 200, height: 240 })
    assert.deepEqual(face?.landmarks, {
      right_eye: [260, 256],
      left_eye: [340, 256],
      nose: [300, 304],
      right_mouth: [270, 352],
      left_mouth: [330, 352],
    })
    assert.equal(face?.detection_score, 0.95)
    assert.equal(face?.quality.face_size_px, 200)
    assert.equal(face?.quality.roll_degrees, 0)
    const embedding = toEmbedding(face?.embedding ?? '')
    assert.equal(embedding.length, 512)
    assert.ok(Math.abs(cosine(embedding, embedding) - 1) < 1e-6)
    // the first 256 are the red plane in rows of 16, top left first: RGB, upright
    assert.ok((embedding[8] ?? 0) > 0, 'red above')
    assert.ok((embedding[248] ?? 0) < 0, 'no red below')
  })

  it('answers in pixels of an image that was shrunk to be looked at', async () => {
    const large = await sharp(HALVES).resize(3200, 2400).jpeg().toBuffer()
    const { image, faces } = await read(service.analyze(large))
    assert.deepEqual(image, { width: 3200, height: 2400 })
    assert.deepEqual(faces[0]?.box, { x: 1000, y: 800, width: 1000, height: 1200 })
    // what was looked at has 1600
    assert.equal(faces[0]?.quality.face_size_px, 500)
  })

  it('calls what is green live, in the mean of both crops, and what is gray not', async () => {
    const green = (await read(service.analyze(GREEN))).faces[0]
    const gray = (await read(service.analyze(GRAY))).faces[0]
    // softmax of 32, 192 and 32 of 255; and of three equal ones
    assert.deepEqual(green?.liveness, { score: 0.4835, passed: true })
    assert.deepEqual(gray?.liveness, { score: 0.3333, passed: false })
  })

  it('does what tasks names, and no more', async () => {
    const only = async (tasks: string) => {
      const [face] = (await read(service.analyze(GRAY, `?tasks=${tasks}`))).faces
      return [face?.embedding !== null, face?.liveness !== null]
    }
    assert.deepEqual(await only('embedding'), [true, false])
    assert.deepEqual(await only('liveness'), [false, true])
    assert.deepEqual(await only('embedding,liveness'), [true, true])
    assert.deepEqual(await only(''), [false, false])
  })

  it('has no embedding and no liveness with faces=all', async () => {
    const { faces } = await read(service.analyze(GRAY, '?faces=all'))
    assert.deepEqual([faces.length, faces[0]?.embedding, faces[0]?.liveness], [1, null, null])
  })

  it('refuses parameters that it does not know', async () => {
    for (const query of ['?faces=some', '?tasks=age', '?face=one', '?tasks=embedding,age']) {
      assert.deepEqual(await codeOf(service.analyze(GRAY, query)), [400, 'INVALID_REQUEST'], query)
    }
  })

  it('believes the bytes, not the Content-Type', async () => {
    const svg = '<svg xmlns="http://www.w3.org/2000/svg" width="10" height="10"/>'
    assert.deepEqual(await codeOf(service.analyze(svg, '', { 'Content-Type': 'image/jpeg' })), [
      415,
      'UNSUPPORTED_MEDIA_TYPE',
    ])
    assert.equal((await service.analyze(GRAY, '', { 'Content-Type': 'text/plain' })).status, 200)
    assert.deepEqual(await codeOf(service.analyze('')), [415, 'UNSUPPORTED_MEDIA_TYPE'])
  })

  it('logs one line of JSON for a request, with neither picture, secret, query nor path in it', async () => {
    service.lines.length = 0
    await (await service.analyze(GRAY, '?faces=all', { 'X-Request-Id': 'request-4711' })).text()
    await (await fetch(`${service.url}/etc/passwd?token=abc`, { headers: { 'X-Request-Id': 'two\twords' } })).text()
    await sleep(20)
    assert.equal(service.lines.length, 2)
    const [analysis, unknown] = service.lines.map((line) => JSON.parse(line) as Record<string, unknown>)
    assert.deepEqual(
      [analysis?.['request_id'], analysis?.['route'], analysis?.['status'], analysis?.['faces'], analysis?.['bytes']],
      ['request-4711', '/analyze', 200, 1, GRAY.length],
    )
    assert.deepEqual([unknown?.['route'], unknown?.['status'], unknown?.['code']], [null, 404, 'NOT_FOUND'])
    assert.match(String(unknown?.['request_id']), /^[\w-]{36}$/)
    assert.doesNotMatch(service.lines.join(), new RegExp(`${SECRET}|passwd|token|embedding|tmp`))
  })
})

describe('several faces and none', () => {
  it('are answered without embeddings, for the caller to decide', async () => {
    const two = [40, 200].map((x) => ({ x, y: 80, width: 80, height: 100, score: 0.95 }))
    for (const faces of [two, []]) {
      const service = await startService({ faces })
      const answer = await read(service.analyze(GRAY))
      assert.equal(answer.faces.length, faces.length)
      assert.ok(answer.faces.every(({ embedding, liveness }) => embedding === null && liveness === null))
      await service.stop()
    }
  })

  it('are not faces below the threshold of the detector', async () => {
    const service = await startService({
      faces: [
        { x: 40, y: 80, width: 80, height: 100, score: 0.841 },
        { x: 200, y: 80, width: 80, height: 100, score: 0.839 },
      ],
    })
    const { faces, models } = await read(service.analyze(GRAY))
    assert.deepEqual(
      faces.map(({ box }) => box.x),
      [80],
    )
    assert.deepEqual(faces[0]?.quality.reasons.includes('LOW_CONFIDENCE'), true)
    // no liveness model is configured: silently null
    assert.deepEqual([faces[0]?.liveness, models['liveness']], [null, null])
    await service.stop()
  })
})

describe('who may ask', () => {
  let service: Service
  before(async () => {
    service = await startService()
  })
  after(() => service.stop())

  it('is told 401 for no secret, a wrong one, and a beginning of it', async () => {
    for (const authorization of ['', SECRET, `Basic ${SECRET}`, `Bearer ${SECRET.slice(0, -1)}`, `Bearer ${SECRET}x`]) {
      const response = service.analyze(GRAY, '', { Authorization: authorization })
      assert.deepEqual(await codeOf(response), [401, 'UNAUTHORIZED'], authorization)
    }
  })

  it('is told 404 and 405 elsewhere', async () => {
    assert.deepEqual(await codeOf(fetch(`${service.url}/v1/faces`)), [404, 'NOT_FOUND'])
    const wrong = await fetch(`${service.url}/analyze`)
    assert.equal(wrong.headers.get('Allow'), 'POST')
    assert.deepEqual(await codeOf(wrong), [405, 'METHOD_NOT_ALLOWED'])
    assert.deepEqual(await codeOf(fetch(`${service.url}/ready`, { method: 'DELETE' })), [405, 'METHOD_NOT_ALLOWED'])
  })

  it('reads the models at /ready with the secret only; /health runs nothing', async () => {
    const anybody: unknown = await (await fetch(`${service.url}/ready`)).json()
    assert.deepEqual(anybody, { status: 'ready' })
    const known = (await (
      await fetch(`${service.url}/ready`, { headers: { Authorization: `Bearer ${SECRET}` } })
    ).json()) as { models: Record<string, unknown> }
    assert.deepEqual(known.models['recognizer'], {
      id: 'staged-recognizer@1',
      license: 'MIT',
      allowed_use: 'commercial',
      thresholds: { floor: 0.65, verification: 0.675, identification: 0.69 },
    })
    assert.equal(known.models['liveness'], null)
    assert.deepEqual(await (await fetch(`${service.url}/health`)).json(), { status: 'ok' })
  })
})

/** Sends a head and then what the test says, over a bare socket. */
async function open(service: Service, head: string[]) {
  const socket = connect(Number(new URL(service.url).port), '127.0.0.1')
  await once(socket, 'connect')
  let received = ''
  socket.on('data', (chunk) => {
    received += chunk.toString('latin1')
  })
  socket.on('error', () => {})
  const closed = new Promise<void>((resolve) => socket.once('close', () => resolve()))
  socket.write(['POST /analyze HTTP/1.1', 'Host: r', `Authorization: Bearer ${SECRET}`, ...head, '', ''].join('\r\n'))
  const until = async (pattern: RegExp) => {
    for (const start = Date.now(); !pattern.test(received); await sleep(5)) {
      if (Date.now() - start > 5_000) assert.fail(`waited for ${pattern}, received: ${received}`)
    }
  }
  return { socket, closed, until, received: () => received }
}

describe('limits', () => {
  it('refuse a body by its announced length before it is sent', async () => {
    const service = await startService()
    const { until, socket, received } = await open(service, ['Content-Length: 10485761', 'Expect: 100-continue'])
    await until(/IMAGE_TOO_LARGE/)
    assert.match(received(), /^HTTP\/1.1 413 /)
    socket.destroy()
    const exact = await open(service, ['Content-Length: 10485760', 'Expect: 100-continue'])
    await exact.until(/^HTTP\/1.1 100 Continue/)
    exact.socket.destroy()
    await service.stop()
  })

  it('refuse a body that announces nothing by the bytes that came', async () => {
    const service = await startService({}, { limits: { maxBytes: GRAY.length } })
    const chunked = async (bytes: Uint8Array) => {
      const { until, socket, received } = await open(service, ['Transfer-Encoding: chunked'])
      socket.write(`${bytes.length.toString(16)}\r\n`)
      socket.write(bytes)
      socket.write('\r\n0\r\n\r\n')
      await until(/"\}|\]\}/)
      socket.destroy()
      return received().slice(9, 12)
    }
    assert.equal(await chunked(GRAY), '200')
    assert.equal(await chunked(Buffer.concat([GRAY, Buffer.from([0])])), '413')
    await service.stop()
  })

  it('end a body that drips, although each byte comes in time', async () => {
    const service = await startService({}, { limits: { bodyMs: 150 } })
    const { socket, closed, until, received } = await open(service, ['Content-Length: 1000'])
    const drip = setInterval(() => socket.write('x'), 20)
    await until(/TIMEOUT/)
    assert.match(received(), /^HTTP\/1.1 503 .*Retry-After: 1/s)
    // whoever goes on sending is hung up on
    assert.equal(await Promise.race([closed.then(() => 'closed'), sleep(3_000, 'open')]), 'closed')
    clearInterval(drip)
    await service.stop()
  })

  it('end a head that never ends', async () => {
    const service = await startService()
    const socket = connect(Number(new URL(service.url).port), '127.0.0.1')
    // not `once`, which throws for the error of writing to a closed socket
    const closed = new Promise((resolve) => socket.once('close', () => resolve('closed')))
    socket.on('error', () => {})
    const drip = setInterval(() => socket.write('X-A: b\r\n'), 100)
    socket.write('POST /analyze HTTP/1.1\r\n')
    const outcome = await Promise.race([closed, sleep(8_000, 'open')])
    clearInterval(drip)
    assert.equal(outcome, 'closed')
    await service.stop()
  })

  it('answer 503 with Retry-After when all places are taken, and give places back', async () => {
    const service = await startService({}, { threads: 1, queue: 2 })
    const slow = await Promise.all([1, 2, 3].map(() => open(service, [`Content-Length: ${GRAY.length}`])))
    await sleep(50)
    const refused = await service.analyze(GRAY)
    assert.equal(refused.headers.get('Retry-After'), '1')
    assert.deepEqual(await codeOf(refused), [503, 'OVERLOADED'])
    // one ends by an answer, one by hanging up
    slow[0]?.socket.write(GRAY)
    await slow[0]?.until(/"faces"/)
    slow[1]?.socket.destroy()
    await sleep(50)
    const answers = await Promise.all([service.analyze(GRAY), service.analyze(GRAY)])
    assert.deepEqual(
      answers.map(({ status }) => status),
      [200, 200],
    )
    for (const { socket } of slow) socket.destroy()
    await service.stop()
  })

  it('answer TIMEOUT when an analysis takes too long, and go on', async () => {
    const service = await startService({ slowness: 15 }, { limits: { analysisMs: 60 } })
    const timedOut = await service.analyze(GRAY)
    assert.equal(timedOut.headers.get('Retry-After'), '1')
    assert.deepEqual(await codeOf(timedOut), [503, 'TIMEOUT'])
    for (const from = Date.now(); (await service.analyze(GRAY, '?tasks=')).status !== 200; ) {
      assert.ok(Date.now() - from < 30_000, 'the thread is never free again')
    }
    await service.stop()
  })
})

describe('a caller who hangs up', () => {
  it('has its waiting image dropped', async () => {
    const service = await startService({ slowness: 10 }, { threads: 1 })
    const startedAt = performance.now()
    await (await service.analyze(GRAY)).text()
    const oneMs = performance.now() - startedAt
    const first = service.analyze(GRAY)
    await sleep(20)
    const given = await Promise.all([1, 2, 3, 4, 5, 6].map(() => open(service, [`Content-Length: ${GRAY.length}`])))
    for (const { socket } of given) socket.write(GRAY)
    await sleep(30)
    for (const { socket } of given) socket.destroy()
    const from = performance.now()
    await (await first).text()
    assert.equal((await service.analyze(GRAY)).status, 200)
    // what was dropped would have taken six times as long before it
    assert.ok(performance.now() - from < 4 * oneMs, `${performance.now() - from} ms, one takes ${oneMs}`)
    await sleep(20)
    const codes = service.lines.map((line) => (JSON.parse(line) as { code?: string }).code)
    assert.equal(codes.filter((code) => code === 'CLOSED' || code === 'TIMEOUT').length, 6)
    await service.stop()
  })
})

describe('the event loop', () => {
  it('answers while images are analyzed', async () => {
    const service = await startService({ slowness: 20 }, { threads: 1 })
    const analysis = service.analyze(GRAY).then(async (response) => {
      await response.text()
      return 'analysis'
    })
    await sleep(30)
    const health = fetch(`${service.url}/health`).then(() => 'health')
    assert.equal(await Promise.race([analysis, health]), 'health')
    await analysis
    await service.stop()
  })
})

describe('stopping', () => {
  it('ends what is under way and takes nothing new', async () => {
    const service = await startService({ slowness: 10 })
    const last = service.analyze(GRAY)
    await sleep(50)
    const stopped = service.stop()
    assert.equal((await last).status, 200)
    assert.equal(await Promise.race([stopped.then(() => 'stopped'), sleep(3_000, 'running')]), 'stopped')
    await assert.rejects(fetch(`${service.url}/health`))
  })
})
