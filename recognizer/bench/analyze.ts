// `make bench-recognizer`: what an analysis costs beside the decoding and the inferences that nobody can save, how
// many images one core analyzes, and whether memory is steady. Real networks and photographs: REKKO_FACES_DIR.
import { readFile } from 'node:fs/promises'
import { join } from 'node:path'
import sharp from 'sharp'
import { writeEvaluationModels } from '../evaluation-models.ts'
import { type Analyst, analyze, type Task } from '../src/analysis.ts'
import { ALIGNED_SIZE, alignFace } from '../src/face/alignment.ts'
import { cropAligned, shrink } from '../src/face/picture.ts'
import { decode } from '../src/image/decode.ts'
import { LIMITS } from '../src/limits.ts'
import { readModels, readNetwork } from '../src/models.ts'
import { openNetworks } from '../src/networks.ts'
import { startRecognizer } from '../src/server.ts'

const MAX_RATIO = 1.3
const ROUNDS = 12
const PER_ROUND = 10
/** Resident memory may breathe by this much; a leak of 10 kB an image would be 100 MB. */
const MAX_GROWTH_BYTES = 64e6
const IMAGES = Number(process.env['IMAGES'] ?? 10_000)
const TASK: Task = { faces: 'one', embedding: true, liveness: true }

const folder = process.env['REKKO_FACES_DIR']
if (!folder) {
  console.log('skipped: REKKO_FACES_DIR names no folder with real faces and networks')
  process.exit(0)
}
const evaluation = await writeEvaluationModels(join(folder, 'models'))
const models = await readModels(evaluation.path, 'dev')
const photograph = await readFile(join(folder, 'images/portraits/obama-1.jpg'))
const megapixel = await sharp(photograph).resize(1000, 1000, { position: 'top' }).jpeg({ quality: 90 }).toBuffer()

let missed = 0
try {
  await measureCpu()
  await measureMemory()
} finally {
  await evaluation.remove()
}
process.exitCode = missed === 0 ? 0 : 1

function report(bar: string, measured: number, limit: number): void {
  if (!(measured <= limit)) missed++
  console.log(
    `${measured <= limit ? 'met   ' : 'MISSED'}  ${bar.padEnd(64)} ${measured.toFixed(2).padStart(9)}  <= ${limit}`,
  )
}

async function measureCpu(): Promise<void> {
  const networks = await openNetworks(models, {
    detector: await readNetwork('detector', models.detector.network),
    recognizer: await readNetwork('recognizer', models.recognizer.network),
    liveness: [],
  })
  const analyst: Analyst = { models, networks, limits: LIMITS }
  // the bare inferences see what those of the analysis see
  const { picture } = await decode(megapixel, LIMITS)
  const { faces } = await analyze(analyst, megapixel, TASK, () => {})
  const [first] = faces
  if (faces.length !== 1 || !first) throw new Error('the picture of the benchmark must have one face')
  const canvas = shrink(picture, models.detector.sizes[0] / 1000, models.detector.sizes[0])
  const aligned = cropAligned(picture, alignFace(first.face.landmarks), ALIGNED_SIZE)
  const parts = {
    analysis: () => analyze(analyst, megapixel, TASK, () => {}),
    decode: () => decode(megapixel, LIMITS),
    detector: () => networks.detect(canvas),
    recognizer: () => networks.embed(aligned),
  }
  const cpuMs = { analysis: 0, decode: 0, detector: 0, recognizer: 0 }
  // round by round, so that a busy machine is busy for all of them; the first round warms up
  for (let round = 0; round <= ROUNDS; round++) {
    for (const [name, part] of Object.entries(parts)) {
      const before = process.cpuUsage()
      for (let index = 0; index < PER_ROUND; index++) await part()
      const { user, system } = process.cpuUsage(before)
      // the keys are those of `parts`
      if (round > 0) cpuMs[name as keyof typeof parts] += (user + system) / 1000 / (ROUNDS * PER_ROUND)
    }
  }
  const bare = cpuMs.decode + cpuMs.detector + cpuMs.recognizer
  console.log(
    `        CPU of a 1-megapixel JPEG: ${cpuMs.analysis.toFixed(1)} ms; decoding ${cpuMs.decode.toFixed(1)}, ` +
      `detector ${cpuMs.detector.toFixed(1)}, recognizer ${cpuMs.recognizer.toFixed(1)} ms; no liveness model`,
  )
  console.log(`        images a second on one core: ${(1000 / cpuMs.analysis).toFixed(1)}`)
  report('CPU of an analysis / (decoding + bare inferences)', cpuMs.analysis / bare, MAX_RATIO)
}

async function measureMemory(): Promise<void> {
  const secret = 'x'.repeat(32)
  const service = await startRecognizer(models, {
    ...{ host: '127.0.0.1', port: 0, secret, threads: 1, queue: 4, log: () => {} },
  })
  const images = [
    megapixel,
    photograph,
    await sharp(photograph).resize(400).png().toBuffer(),
    await sharp(photograph).resize(500).webp().toBuffer(),
    megapixel.subarray(0, megapixel.length / 2),
    Buffer.from('not an image'),
  ]
  const run = async (count: number) => {
    for (let index = 0; index < count; index++) {
      const response = await fetch(`${service.url}/analyze`, {
        method: 'POST',
        headers: { Authorization: `Bearer ${secret}` },
        body: images[index % images.length] ?? megapixel,
      })
      await response.arrayBuffer()
    }
    return process.memoryUsage.rss()
  }
  // the first tenth fills what is allocated once
  const warm = await run(IMAGES / 10)
  let highest = 0
  for (let tenth = 1; tenth < 10; tenth++) {
    const rss = await run(IMAGES / 10)
    highest = Math.max(highest, rss)
    console.log(`        after ${(((tenth + 1) * IMAGES) / 10).toFixed(0)} images: ${(rss / 1e6).toFixed(0)} MB`)
  }
  report(`MB more after ${IMAGES} images than after a tenth of them`, (highest - warm) / 1e6, MAX_GROWTH_BYTES / 1e6)
  await service.close()
}
