// Proves recognition on real photographs with real networks, which are not part of the repository: REKKO_FACES_DIR
// names a folder with images, landmarks.csv, embeddings.csv and models. Nothing is fake.
import assert from 'node:assert/strict'
import { readdir, readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { after, before, describe, it } from 'node:test'
import { writeEvaluationModels } from '../evaluation-models.ts'
import { readModels } from '../src/models.ts'
import { type Recognizer, startRecognizer } from '../src/server.ts'
import { codeOf, cosine, SECRET, toEmbedding } from './stage.ts'

/** Cosine of the 1:1 threshold, docs/thresholds.md. */
const VERIFICATION = 0.35

const folder = process.env['REKKO_FACES_DIR']
if (!folder) console.log('skipped: REKKO_FACES_DIR names no folder with real faces and networks')

interface Face {
  landmarks: Record<string, [number, number]>
  quality: { score: number; reasons: string[] }
  embedding: string | null
}
interface Answer {
  image: { width: number; height: number }
  faces: Face[]
}

describe('real faces', { skip: !folder }, () => {
  const images = join(folder ?? '', 'images')
  let recognizer: Recognizer
  let removeModels: () => Promise<void>
  before(async () => {
    const models = await writeEvaluationModels(join(folder ?? '', 'models'))
    removeModels = models.remove
    recognizer = await startRecognizer(await readModels(models.path, 'dev'), {
      ...{ host: '127.0.0.1', port: 0, secret: SECRET, threads: 1, queue: 8, log: () => {} },
    })
  })
  after(async () => {
    await recognizer.close()
    await removeModels()
  })

  const send = async (file: string, query = '') =>
    fetch(`${recognizer.url}/analyze${query}`, {
      method: 'POST',
      headers: { Authorization: `Bearer ${SECRET}` },
      body: await readFile(join(images, file)),
    })
  const analyze = async (file: string, query = '') => (await (await send(file, query)).json()) as Answer
  const readTable = async (file: string) =>
    (await readFile(join(folder ?? '', file), 'utf8'))
      .trim()
      .split('\n')
      .slice(1)
      .map((line) => line.split(','))

  it('verifies every genuine pair of portraits and accepts no impostor', async () => {
    const people: { identity: string; embedding: Float32Array }[] = []
    for (const [file = '', identity = ''] of await readTable('landmarks.csv')) {
      const { faces } = await analyze(`portraits/${file}`)
      assert.equal(faces.length, 1, file)
      people.push({ identity, embedding: toEmbedding(faces[0]?.embedding ?? '') })
    }
    const genuine: number[] = []
    const impostors: number[] = []
    for (const [index, one] of people.entries()) {
      for (const other of people.slice(index + 1)) {
        const pairs = one.identity === other.identity ? genuine : impostors
        pairs.push(cosine(one.embedding, other.embedding))
      }
    }
    console.log(
      `genuine ${genuine.length}, lowest ${Math.min(...genuine).toFixed(3)}; ` +
        `impostors ${impostors.length}, highest ${Math.max(...impostors).toFixed(3)}`,
    )
    assert.ok(genuine.length > 30 && impostors.length > 100)
    assert.deepEqual(
      genuine.filter((similarity) => similarity < VERIFICATION),
      [],
    )
    assert.deepEqual(
      impostors.filter((similarity) => similarity >= VERIFICATION),
      [],
    )
  })

  it('finds landmarks and embeddings that another implementation found', async () => {
    const embeddings = new Map(
      (await readTable('embeddings.csv')).map(([, , image = '', ...numbers]) => [
        image,
        Float32Array.from(numbers, Number),
      ]),
    )
    const similarities: number[] = []
    const distances: number[] = []
    for (const [file = '', , ...numbers] of await readTable('landmarks.csv')) {
      const { image, faces } = await analyze(`portraits/${file}`)
      const [decodedWidth = 0, , , , , , width = 0, , ...points] = numbers.map(Number)
      const scale = decodedWidth / image.width
      for (const [index, [x, y]] of Object.values(faces[0]?.landmarks ?? {}).entries()) {
        const distance = Math.hypot(x * scale - (points[index * 2] ?? 0), y * scale - (points[index * 2 + 1] ?? 0))
        distances.push(distance / width)
      }
      const reference = embeddings.get(file) ?? new Float32Array(512)
      similarities.push(cosine(toEmbedding(faces[0]?.embedding ?? ''), reference))
    }
    const mean = similarities.reduce((sum, similarity) => sum + similarity, 0) / similarities.length
    console.log(
      `landmarks at most ${(Math.max(...distances) * 100).toFixed(2)} % of the face's width away; ` +
        `embeddings: mean cosine ${mean.toFixed(4)}, lowest ${Math.min(...similarities).toFixed(4)}`,
    )
    assert.equal(distances.length, 18 * 5)
    assert.ok(Math.max(...distances) <= 0.03)
    assert.ok(mean > 0.99 && Math.min(...similarities) > 0.97)
  })

  it('counts the faces of groups', async () => {
    for (const file of await readdir(join(images, 'groups'))) {
      const expected = file === 'multi-obama_and_biden.jpg' ? 2 : Number(/_(\d+)\.jpg$/.exec(file)?.[1])
      const { faces } = await analyze(`groups/${file}`, '?faces=all')
      assert.equal(faces.length, expected, file)
      assert.ok(faces.every(({ embedding }) => embedding === null))
    }
  })

  it('finds nothing wrong with the portraits, and scores the cut ones lower', async () => {
    for (const file of await readdir(join(images, 'portraits'))) {
      const { faces } = await analyze(`portraits/${file}`, '?tasks=')
      assert.deepEqual([file, faces[0]?.quality.reasons], [file, []])
      if (file.includes('partial')) assert.ok((faces[0]?.quality.score ?? 1) < 0.95, file)
    }
  })

  it('answers each hostile file as it must, at once and in bounded memory', async () => {
    const expected: Record<string, [number, string] | number> = {
      'bomb_30000x30000.png': [413, 'IMAGE_TOO_LARGE'],
      'forged_65500x65500.jpg': [413, 'IMAGE_TOO_LARGE'],
      'truncated.jpg': [422, 'INVALID_IMAGE'],
      'not_an_image.jpg': [415, 'UNSUPPORTED_MEDIA_TYPE'],
      'svg_as_jpg.jpg': [415, 'UNSUPPORTED_MEDIA_TYPE'],
      'ok.avif': [415, 'UNSUPPORTED_MEDIA_TYPE'],
      'noface.png': 0,
    }
    let slowestMs = 0
    for (const file of await readdir(join(images, 'hostile'))) {
      const wanted = expected[file] ?? 1
      const memory = process.memoryUsage.rss()
      const from = performance.now()
      const response = await send(`hostile/${file}`)
      const ms = performance.now() - from
      assert.ok(process.memoryUsage.rss() - memory < 200e6, file)
      if (typeof wanted !== 'number') {
        slowestMs = Math.max(slowestMs, ms)
        assert.deepEqual(await codeOf(response), wanted, file)
        continue
      }
      const { faces } = (await response.json()) as Answer
      assert.deepEqual([file, response.status, faces.length], [file, 200, wanted])
    }
    console.log(`the slowest refusal took ${slowestMs.toFixed(0)} ms`)
  })

  it('gives the eight EXIF orientations one embedding', async () => {
    const embeddings = await Promise.all(
      [1, 2, 3, 4, 5, 6, 7, 8].map(async (orientation) => {
        const { faces } = await analyze(`hostile/exif${orientation}.jpg`)
        return toEmbedding(faces[0]?.embedding ?? '')
      }),
    )
    const [first = new Float32Array(512)] = embeddings
    const lowest = Math.min(...embeddings.map((embedding) => cosine(first, embedding)))
    console.log(`EXIF orientations: lowest cosine ${lowest.toFixed(4)}`)
    assert.ok(lowest >= 0.99)
  })
})
