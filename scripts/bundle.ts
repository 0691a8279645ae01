// `make bundle`: builds the Worker as a release would, and holds it to its size.
import { execFileSync } from 'node:child_process'
import { readdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { gzipSync } from 'node:zlib'

/** Start-up time on Cloudflare grows with it; the platform's own limit is 3 MiB. */
const MAX_GZIP_KIB = 250
const ROOT = join(import.meta.dirname, '..')
const OUTPUT = join(ROOT, '.rekko/bundle')

build('production', OUTPUT)
// with the recognizer beside it; the image itself would take Docker
build('production-containers', `${OUTPUT}-containers`, '--containers-rollout=none')
const scripts = readdirSync(OUTPUT).filter((file) => file.endsWith('.js'))
const gzipBytes = scripts.reduce((total, file) => total + gzipSync(readFileSync(join(OUTPUT, file))).length, 0)
const kib = gzipBytes / 1024
console.log(`bundle: ${kib.toFixed(1)} KiB gzip, at most ${MAX_GZIP_KIB}`)
if (scripts.length === 0 || kib > MAX_GZIP_KIB) process.exitCode = 1

function build(environment: string, output: string, ...options: string[]): void {
  execFileSync(
    process.execPath,
    [
      ...[join(ROOT, 'node_modules/wrangler/bin/wrangler.js'), 'deploy', '--dry-run'],
      ...['--env', environment, '--outdir', output, ...options],
    ],
    { cwd: ROOT, stdio: ['ignore', 'ignore', 'inherit'] },
  )
}
