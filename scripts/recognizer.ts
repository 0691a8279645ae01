// Runs the recognizer service on this machine, with models that somebody has put in place.
import { spawn } from 'node:child_process'
import { randomBytes } from 'node:crypto'
import { once } from 'node:events'
import { access, mkdtemp, readFile, stat } from 'node:fs/promises'
import { join } from 'node:path'
import { writeEvaluationModels } from '../recognizer/evaluation-models.ts'
import { type Models, parseModels } from '../src/face/models.ts'
import { findFreePort } from './worker.ts'

const ROOT = join(import.meta.dirname, '..')
const START_DEADLINE_MS = 60_000

export interface RunningRecognizer {
  url: string
  secret: string
  /** What the Worker has to know of its models, as FACE_MODELS holds it. */
  faceModels: string
  stop(): Promise<void>
}

/**
 * @param models path of a models.json, or a folder with one, or with the networks that docs/thresholds.md was measured with
 * @throws Error with the recognizer's own words, when it does not start
 */
export async function startRecognizer(models: string): Promise<RunningRecognizer> {
  await access(join(ROOT, 'recognizer/node_modules/sharp')).catch(() => {
    throw new Error('The recognizer is not installed: make install-recognizer')
  })
  const { path, remove } = await findModels(models)
  const port = (await findFreePort(0)) ?? 0
  const secret = randomBytes(24).toString('hex')
  const folder = await mkdtemp(join(ROOT, '.rekko', 'recognizer-'))
  // its standard input is what ties it to this process: see supervise.ts
  const child = spawn(
    process.execPath,
    [join(ROOT, 'scripts/supervise.ts'), folder, process.execPath, join(ROOT, 'recognizer/src/main.ts')],
    {
      cwd: ROOT,
      env: { ...process.env, MODELS: path, RECOGNIZER_SECRET: secret, ENVIRONMENT: 'dev', PORT: String(port) },
      stdio: ['pipe', 'pipe', 'pipe'],
    },
  )
  let output = ''
  for (const stream of [child.stdout, child.stderr]) {
    stream.on('data', (chunk: Buffer) => {
      output = (output + chunk.toString()).slice(-5_000)
      if (process.env['VERBOSE']) process.stderr.write(chunk)
    })
  }
  const stopped = once(child, 'exit')
  const stop = async () => {
    child.stdin.end()
    await stopped
    await remove()
  }
  const url = `http://127.0.0.1:${port}`
  const deadline = Date.now() + START_DEADLINE_MS
  while (!(await isReady(url))) {
    if (child.exitCode !== null || Date.now() > deadline) {
      await stop()
      throw new Error(`The recognizer did not start: ${output.trim()}`)
    }
    await new Promise((resolve) => setTimeout(resolve, 100))
  }
  return { url, secret, faceModels: await readFaceModels(path), stop }
}

async function findModels(models: string): Promise<{ path: string; remove(): Promise<void> }> {
  const stats = await stat(models).catch(() => {
    throw new Error(
      `MODELS=${models} is neither a models.json nor a folder with one. docs/models.md says how to write it.`,
    )
  })
  const keep = async () => {}
  if (stats.isFile()) return { path: models, remove: keep }
  const path = join(models, 'models.json')
  if (await isThere(path)) return { path, remove: keep }
  return writeEvaluationModels(models).catch(() => {
    throw new Error(`There is no models.json in MODELS=${models}. docs/models.md says how to write one.`)
  })
}

function isThere(path: string): Promise<boolean> {
  return access(path).then(
    () => true,
    () => false,
  )
}

/** The thresholds of models.json are the ones that decide: the Worker is given them, and has no other place for them. */
export async function readFaceModels(path: string): Promise<string> {
  const { recognizer } = JSON.parse(await readFile(path, 'utf8'))
  const text = JSON.stringify([{ id: `${recognizer.id}@${recognizer.version}`, ...recognizer.thresholds }])
  const models: Models | { fault: string } = parseModels(text)
  if ('fault' in models) throw new Error(`The recognizer of ${path} cannot be used: it ${models.fault}.`)
  return text
}

async function isReady(url: string): Promise<boolean> {
  try {
    return (await fetch(`${url}/ready`, { signal: AbortSignal.timeout(10_000) })).ok
  } catch {
    return false
  }
}
