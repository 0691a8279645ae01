// The recognizer service as a program.   node recognizer/src/main.ts --help
import { ConfigurationError, readModels, toName } from './models.ts'
import { startRecognizer } from './server.ts'
import { toSettings } from './settings.ts'

const HELP = `Rekko recognizer: from an image to faces, quality, an embedding and passive liveness.

  MODELS             path of models.json (docs/models.md)                      required
  RECOGNIZER_SECRET  what callers send as "Authorization: Bearer ...",
                     32 characters or more                                     required
  ENVIRONMENT        dev, staging or production; models that are not licensed
                     for commercial use start in dev only                      production
  HOST               where to listen                                           127.0.0.1
  PORT                                                                         8790
  THREADS            images analyzed at once, one core each                    all cores
  QUEUE              further requests that may wait; beyond them 503           16

POST /analyze, GET /ready, GET /health: docs/recognizer.md.`

if (process.argv.includes('--help')) {
  console.log(HELP)
} else {
  try {
    const settings = toSettings(process.env)
    const models = await readModels(settings.modelsPath, settings.environment)
    const recognizer = await startRecognizer(models, settings)
    const names = [models.detector, models.recognizer, ...(models.liveness ? [models.liveness] : [])].map(toName)
    console.log(`Recognizer on ${recognizer.url} with ${names.join(', ')}`)
    for (const signal of ['SIGINT', 'SIGTERM'] as const) {
      process.once(signal, () => void recognizer.close().then(() => process.exit(0)))
    }
  } catch (error) {
    console.error(error instanceof ConfigurationError ? error.message : toStartFailure(error))
    process.exit(2)
  }
}

function toStartFailure(error: unknown): string {
  const code = error instanceof Error && 'code' in error ? String(error.code) : 'unknown'
  return code === 'EADDRINUSE' ? 'PORT is taken by another program.' : `The recognizer did not start (${code}).`
}
