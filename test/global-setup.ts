// One database for the whole run: a new one on the PostgreSQL of DATABASE_URL, or the embedded one; in
// front of it the local Neon endpoint. Migrated as rekko_owner, used as the roles of production.
import { generateKeyPairSync, randomBytes, randomInt } from 'node:crypto'
import { readFile } from 'node:fs/promises'
import { join } from 'node:path'
import type { TestProject } from 'vitest/node'
import { DEVELOPMENT_MASTER_KEYS, DEVELOPMENT_PASSWORDS } from '../scripts/database/development.ts'
import { migrate } from '../scripts/database/migrate.ts'
import { startEndpoint } from '../scripts/neon-endpoint/server.ts'
import { startIssuerServer } from './issuer-server.ts'
import { createDatabase } from './node/database.ts'
import { RECOGNIZER_SECRET, startRecognizerServer } from './recognizer-server.ts'

export type TestDatabase = {
  /** Connection string of an administrator, good at the endpoint: for what no login of ours may do. */
  adminUrl: string
  operatorUrl: string
  /** The private key, as JWK text, whose public half OPERATOR_ISSUER names. */
  operatorKey: string
  statsUrl: string
  isNative: boolean
  /** Contents of `embeddings.csv` in REKKO_FACES_DIR; null where there is none. */
  facesCsv: string | null
  /** Where `issuer-server.ts` serves key sets. */
  keySetsUrl: string
  /** Files of Wycheproof in REKKO_WYCHEPROOF_DIR, as text; null where there are none. */
  wycheproof: { signatures: string; keys: string; aesGcm: string; hkdf: string } | null
  /** FUZZ_SEED, or a new one; and FUZZ_REQUESTS, or what CI has time for. */
  fuzz: { seed: number; requestsPerOperation: number }
}

declare module 'vitest' {
  interface ProvidedContext {
    workerBindings: Record<string, string>
    testDatabase: TestDatabase
  }
}

export default async function setup(project: TestProject): Promise<() => Promise<void>> {
  const database = await createDatabase()
  console.log(`tests run on ${database.isNative ? 'native PostgreSQL' : 'the embedded PostgreSQL'}`)
  await migrate(database.connection)
  const endpoint = await startEndpoint(database.openBackend())
  const issuerServer = await startIssuerServer()
  const recognizerServer = await startRecognizerServer()
  const operatorKeys = generateKeyPairSync('ec', { namedCurve: 'P-256' })

  const urlOf = (role: string, password: string) =>
    `postgres://${role}:${encodeURIComponent(password)}@database.test/rekko`
  project.provide('workerBindings', {
    DATABASE_URL: urlOf('rekko_app', DEVELOPMENT_PASSWORDS.rekko_app),
    JOBS_DATABASE_URL: urlOf('rekko_jobs', DEVELOPMENT_PASSWORDS.rekko_jobs),
    OPERATOR_DATABASE_URL: urlOf('rekko_operator', DEVELOPMENT_PASSWORDS.rekko_operator),
    OPERATOR_ISSUER: JSON.stringify({
      issuer: 'https://operator.example.com',
      audience: 'https://api.rekko.test/v1/operator',
      algorithms: ['ES256'],
      jwks: { keys: [{ kid: 'operator', ...operatorKeys.publicKey.export({ format: 'jwk' }) }] },
    }),
    API_KEY_PEPPER: randomBytes(32).toString('base64'),
    TEMPLATE_MASTER_KEYS: DEVELOPMENT_MASTER_KEYS,
    NEON_FETCH_ENDPOINT: endpoint.url,
    RECOGNIZER_URL: recognizerServer.url,
    RECOGNIZER_SECRET,
  })
  project.provide('testDatabase', {
    adminUrl: urlOf(database.admin.role, database.admin.password),
    operatorUrl: urlOf('rekko_operator', DEVELOPMENT_PASSWORDS.rekko_operator),
    operatorKey: JSON.stringify(operatorKeys.privateKey.export({ format: 'jwk' })),
    statsUrl: endpoint.url.replace(/sql$/, 'stats'),
    isNative: database.isNative,
    facesCsv: await readFaces(),
    keySetsUrl: issuerServer.url,
    wycheproof: await readWycheproof(),
    fuzz: {
      seed: Number(process.env['FUZZ_SEED'] || randomInt(2 ** 31)),
      requestsPerOperation: Number(process.env['FUZZ_REQUESTS'] || 200),
    },
  })

  return async () => {
    await issuerServer.close()
    await recognizerServer.close()
    await endpoint.close()
    await database.drop()
  }
}

async function readFaces(): Promise<string | null> {
  const folder = process.env['REKKO_FACES_DIR']
  return folder ? readFile(join(folder, 'embeddings.csv'), 'utf8') : null
}

async function readWycheproof(): Promise<TestDatabase['wycheproof']> {
  const folder = process.env['REKKO_WYCHEPROOF_DIR']
  if (!folder) return null
  return {
    signatures: await readFile(join(folder, 'json_web_signature_test.json'), 'utf8'),
    keys: await readFile(join(folder, 'json_web_key_test.json'), 'utf8'),
    aesGcm: await readFile(join(folder, 'aes_gcm_test.json'), 'utf8'),
    hkdf: await readFile(join(folder, 'hkdf_sha256_test.json'), 'utf8'),
  }
}
