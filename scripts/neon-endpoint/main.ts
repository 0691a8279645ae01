// The local Neon endpoint as a program of its own: the second service of docker-compose.yml. In
// development and tests it runs inside their process instead.
import { LOGIN_ROLES } from '../database/bootstrap.ts'
import { nativeBackend } from './backend.ts'
import { startEndpoint } from './server.ts'

const database = process.env['NEON_ENDPOINT_DATABASE']
if (!database || !URL.canParse(database)) {
  console.error('Set NEON_ENDPOINT_DATABASE, for example postgres://localhost:5432/rekko_dev: host, port and name.')
  process.exit(2)
}

const { hostname, port, pathname } = new URL(database)
const endpoint = await startEndpoint(
  nativeBackend({ host: hostname, port: Number(port || 5432), database: pathname.slice(1) }, LOGIN_ROLES),
  Number(process.env['NEON_ENDPOINT_PORT'] ?? 5434),
  // inside a container only: the port is published on 127.0.0.1
  process.env['NEON_ENDPOINT_HOST'],
)
console.log(`Neon endpoint on ${endpoint.url}`)

for (const signal of ['SIGINT', 'SIGTERM'] as const) {
  process.once(signal, () => void endpoint.close().then(() => process.exit(0)))
}
