// Proves what the program says and does when it starts and stops, and that image, lock file and packages are as the
// documents promise. The program is run as a process of its own, on tiny networks.
import assert from 'node:assert/strict'
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { describe, it } from 'node:test'
import { SECRET, stageModels } from './stage.ts'

const ROOT = join(import.meta.dirname, '..')

async function run(env: Record<string, string>, args: string[] = []) {
  const program = spawn(process.execPath, [join(ROOT, 'src/main.ts'), ...args], {
    env,
    stdio: ['ignore', 'pipe', 'pipe'],
  })
  let output = ''
  for (const stream of [program.stdout, program.stderr]) {
    stream.on('data', (chunk: Buffer) => {
      output += chunk.toString()
    })
  }
  return { program, exit: once(program, 'exit'), output: () => output }
}

describe('the program', () => {
  it('explains itself', async () => {
    const { exit, output } = await run({}, ['--help'])
    assert.deepEqual(await exit, [0, null])
    for (const name of ['MODELS', 'RECOGNIZER_SECRET', 'ENVIRONMENT', 'HOST', 'PORT', 'THREADS', 'QUEUE']) {
      assert.match(output(), new RegExp(`^ {2}${name} `, 'm'))
    }
  })

  it('says in one line what is missing or wrong, and ends', async () => {
    const staged = await stageModels()
    const good = { RECOGNIZER_SECRET: SECRET, MODELS: staged.path, PORT: '0', THREADS: '1' }
    const research = structuredClone(staged.json)
    Object.assign(research['recognizer'] ?? {}, { allowed_use: 'research-only' })
    const cases: [Record<string, string>, RegExp][] = [
      [{ ...good, RECOGNIZER_SECRET: '' }, /^RECOGNIZER_SECRET must have 32 characters/],
      [{ ...good, RECOGNIZER_SECRET: SECRET.slice(0, 31) }, /^RECOGNIZER_SECRET must have 32 characters/],
      [{ ...good, RECOGNIZER_SECRET: `${SECRET} with a space` }, /^RECOGNIZER_SECRET must be of visible ASCII/],
      [{ ...good, MODELS: '' }, /^MODELS must be/],
      [{ ...good, MODELS: '/none/models.json' }, /^MODELS: .* cannot be read/],
      [{ ...good, ENVIRONMENT: 'test' }, /^ENVIRONMENT must be one of/],
      [{ ...good, PORT: 'http' }, /^PORT must be a whole number/],
      [{ ...good, THREADS: '0' }, /^THREADS must be a whole number/],
      [{ ...good, QUEUE: '-1' }, /^QUEUE must be a whole number/],
      [{ ...good, HOST: '192.0.2.1' }, /^The recognizer did not start \(EADDRNOTAVAIL\)/],
    ]
    for (const [env, message] of cases) {
      const { exit, output } = await run(env)
      assert.deepEqual(await exit, [2, null], output())
      assert.match(output(), message)
      assert.equal(output().trim().split('\n').length, 1, output())
      assert.doesNotMatch(output(), new RegExp(SECRET))
    }
    await staged.write(research)
    // nobody said what this is: it is production
    const { exit, output } = await run(good)
    assert.deepEqual(await exit, [2, null])
    assert.match(output(), /^recognizer "staged-recognizer" is for research-only and starts with ENVIRONMENT=dev only/)
    await staged.remove()
  })

  it('serves on this machine alone, and ends by SIGTERM', async () => {
    const staged = await stageModels()
    const { program, exit, output } = await run({
      RECOGNIZER_SECRET: SECRET,
      MODELS: staged.path,
      PORT: '0',
      THREADS: '1',
    })
    await once(program.stdout, 'data')
    const url = /on (http:\/\/127\.0\.0\.1:\d+) with staged-detector@1, staged-recognizer@1/.exec(output())?.[1]
    assert.equal((await fetch(`${url}/ready`)).status, 200)
    program.kill('SIGTERM')
    assert.deepEqual(await exit, [0, null])
    await staged.remove()
  })
})

describe('the package', () => {
  it('pins what it needs, and its lock file names no place to fetch it from', async () => {
    const { dependencies } = JSON.parse(await readFile(join(ROOT, 'package.json'), 'utf8')) as {
      dependencies: Record<string, string>
    }
    for (const version of Object.values(dependencies)) assert.match(version, /^\d+\.\d+\.\d+$/)
    const text = await readFile(join(ROOT, 'package-lock.json'), 'utf8')
    assert.doesNotMatch(text, /"resolved"/)
    const { packages } = JSON.parse(text) as { packages: Record<string, { integrity?: string }> }
    for (const [name, { integrity }] of Object.entries(packages)) {
      if (name !== '') assert.match(integrity ?? '', /^sha512-/, name)
    }
    // sharp's binaries for the machines that containers and developers have
    for (const machine of ['linux-x64', 'linux-arm64', 'darwin-x64', 'darwin-arm64']) {
      assert.ok(
        packages[`node_modules/@img/sharp-${machine}`] && packages[`node_modules/@img/sharp-libvips-${machine}`],
      )
    }
    assert.match(await readFile(join(ROOT, '.npmrc'), 'utf8'), /^onnxruntime-node-install=skip$/m)
  })

  it('is built into an image without networks, that runs as nobody in particular', async () => {
    const text = await readFile(join(ROOT, 'Dockerfile'), 'utf8')
    assert.match(text, /^USER node$/m)
    assert.match(text, /^HEALTHCHECK /m)
    const copied = [...text.matchAll(/^COPY (?!--from)(.+)$/gm)].map(([, what]) => what)
    assert.deepEqual(copied, ['package.json package-lock.json .npmrc ./', 'package.json ./', 'src src'])
    assert.match(await readFile(join(ROOT, '.dockerignore'), 'utf8'), /^\*\.onnx$/m)
  })
})
