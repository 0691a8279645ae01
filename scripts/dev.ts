// `make dev`, `make dev-clean` and `make dev-reset`: the service on this machine, with data that stay.
import { mkdir, rm, writeFile } from 'node:fs/promises'
import { createInterface } from 'node:readline/promises'
import { SCOPES } from '../src/auth/api-key.ts'
import { findProcess } from './database/connection.ts'
import { describeTarget, EMBEDDED_FOLDER, toTarget } from './database/target.ts'
import { type DevelopmentSecrets, findSecrets, keepSecrets, makeSecrets, SECRETS_FILE } from './development-secrets.ts'
import { createApiKey, createTenant } from './provision.ts'
import { startRecognizer } from './recognizer.ts'
import { type Service, type ServiceDatabase, startService, toServiceDatabase } from './service.ts'
import { findFreePort } from './worker.ts'

const PID_FILE = '.rekko/dev.pid'
const DEFAULT_PORT = 8787
const ROLL_UP_INTERVAL_MS = 60_000

async function start(): Promise<void> {
  const port = Number(process.env['PORT'] ?? DEFAULT_PORT)
  const running = await findProcess(PID_FILE, 'scripts/dev.ts')
  if (running)
    throw new Error(`"make dev" runs already, as process ${running}. Use it, or stop it with "make dev-clean".`)
  if (!(Number.isInteger(port) && port > 0 && port < 65_536)) throw new Error('PORT must be a number from 1 to 65535.')
  if ((await findFreePort(port)) === null) {
    throw new Error(`Port ${port} is in use. Stop what listens there, or choose another: make dev PORT=${port + 1}`)
  }

  // asked from the start, so that Ctrl-C while things start still ends them in order
  const asked = signalled()
  const database = toServiceDatabase({ folder: EMBEDDED_FOLDER })
  const secrets = (await findSecrets()) ?? makeSecrets()
  const { MODELS: models } = process.env
  await mkdir('.rekko', { recursive: true })
  const recognizer = models ? await startRecognizer(models) : null
  const service = await startService(database, port, secrets.pepper, report, recognizer).catch(
    async (error: unknown) => {
      await recognizer?.stop()
      throw error
    },
  )
  await writeFile(PID_FILE, String(process.pid))
  try {
    const apiKey = await findKey(service, database, secrets)
    printWelcome(service.url, apiKey, recognizer !== null)
    // Cloudflare runs the schedule in production; here somebody has to ask for it
    const schedule = setInterval(() => {
      fetch(`${service.url}/cdn-cgi/handler/scheduled`).catch(() => {})
    }, ROLL_UP_INTERVAL_MS)
    const end = await Promise.race([asked, service.workerStopped.then(() => 'the Worker stopped by itself' as const)])
    clearInterval(schedule)
    if (end) throw new Error(`${end}. Start it again with VERBOSE=1 to see what it says.`)
  } finally {
    report('stopping')
    await service.stop()
    await recognizer?.stop()
    await rm(PID_FILE, { force: true })
  }
}

async function stop(): Promise<void> {
  const running = await findProcess(PID_FILE, 'scripts/dev.ts')
  if (!running) return report('nothing is running')
  process.kill(running, 'SIGTERM')
  const deadline = Date.now() + 15_000
  while ((await findProcess(PID_FILE, 'scripts/dev.ts')) !== null) {
    if (Date.now() > deadline) throw new Error(`Process ${running} does not stop. End it yourself: kill -9 ${running}`)
    await new Promise((resolve) => setTimeout(resolve, 100))
  }
  report(`stopped process ${running}`)
}

async function reset(): Promise<void> {
  if (await findProcess(PID_FILE, 'scripts/dev.ts')) throw new Error('Stop "make dev" first: make dev-clean')
  if (process.env['YES'] !== '1') {
    if (!process.stdin.isTTY) throw new Error('This deletes the development data. Say so: make dev-reset YES=1')
    const terminal = createInterface({ input: process.stdin, output: process.stdout })
    const answer = await terminal.question(`Delete all data in ${EMBEDDED_FOLDER}, with the development key? [y/N] `)
    terminal.close()
    if (!/^y(es)?$/i.test(answer)) return report('nothing was deleted')
  }
  await rm(EMBEDDED_FOLDER, { recursive: true, force: true })
  await rm(SECRETS_FILE, { force: true })
  report('deleted the development data')
}

/** The development key, made once and kept, so that what a developer pasted yesterday works today. */
async function findKey(service: Service, database: ServiceDatabase, secrets: DevelopmentSecrets): Promise<string> {
  const name = 'url' in database ? describeTarget(toTarget(database.url, undefined)) : 'embedded'
  const known = secrets.apiKeys[name]
  if (known) {
    const { status } = await fetch(`${service.url}/v1/usage`, { headers: { Authorization: `Bearer ${known}` } })
    if (status === 200) return known
    // only a database that was emptied needs another
    if (status !== 401) throw new Error(`The development key was answered ${status}. Try again, or VERBOSE=1 make dev.`)
  }
  const tenantId = await createTenant(service.admin, service.masterKeys, 'Development', 'test')
  const apiKey = await createApiKey(service.admin, secrets.pepper, tenantId, 'test', 'make dev', SCOPES)
  const apiKeys = { ...secrets.apiKeys, [name]: apiKey }
  await keepSecrets({ ...secrets, apiKeys })
  return apiKey
}

function printWelcome(url: string, apiKey: string, takesPictures: boolean): void {
  console.log(`
Rekko answers on ${url}    (stop it with Ctrl-C)

An embedding to try with: 512 numbers of unit norm

  export REKKO_KEY=${apiKey}
  FACE="[$(printf '0.04419417,%.0s' {1..511})0.04419417]"

Enroll it, then verify it:

  curl ${url}/v1/faces -H "Authorization: Bearer $REKKO_KEY" -H 'Content-Type: application/json' \\
    -d '{"external_id":"ada","embedding":'"$FACE"'}'

  curl ${url}/v1/faces/verify -H "Authorization: Bearer $REKKO_KEY" -H 'Content-Type: application/json' \\
    -d '{"external_id":"ada","embedding":'"$FACE"'}'

${takesPictures ? `Or a photograph:\n\n  curl ${url}/v1/faces -H "Authorization: Bearer $REKKO_KEY" -F external_id=ada -F image=@ada.jpg\n` : 'For photographs: make dev MODELS=... (docs/models.md)\n'}
Every address: ${url}/openapi.json
`)
}

function signalled(): Promise<void> {
  return new Promise((resolve) => {
    for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) process.once(signal, () => resolve())
  })
}

function report(step: string): void {
  console.error(`dev: ${step}`)
}

const commands: Record<string, () => Promise<void>> = { start, stop, reset }

try {
  const command = commands[process.argv[2] ?? '']
  if (!command) throw new Error('usage: dev.ts start | stop | reset')
  await command()
} catch (error) {
  report(error instanceof Error ? error.message : String(error))
  process.exitCode = 1
}
