// The Worker of a drill: src/ as it is, or a copy of it with a line replaced, with an address that starts the scheduled work.
import { cp, mkdtemp, readFile, rm, symlink, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { build } from 'esbuild'
import { applyEdit, type Edit } from '../edit.ts'

const ROOT = join(import.meta.dirname, '../..')

/** POST here is what the platform does once a minute. */
export const SCHEDULE_PATH = '/scheduled'
/** POST here sets the Worker's clock, by as many milliseconds as the query says. */
export const CLOCK_PATH = '/clock'

export interface WorkerBuild {
  /** One module, for `startWorkerd`. */
  file: string
  close(): Promise<void>
}

/** @throws Error when the text of an edit does not stand in its file once */
export async function buildWorker(edits: readonly Edit[]): Promise<WorkerBuild> {
  const folder = await mkdtemp(join(tmpdir(), 'rekko-faults-'))
  const close = () => rm(folder, { recursive: true, force: true })
  try {
    await cp(join(ROOT, 'src'), join(folder, 'src'), { recursive: true })
    await symlink(join(ROOT, 'node_modules'), join(folder, 'node_modules'))
    for (const edit of edits) await apply(folder, edit)
    await writeFile(join(folder, 'entry.ts'), ENTRY)
    const file = join(folder, 'worker.js')
    await build({
      ...{ entryPoints: [join(folder, 'entry.ts')], outfile: file, bundle: true, format: 'esm', target: 'es2024' },
      ...{ external: ['node:*', 'cloudflare:*'], minify: true, logLevel: 'warning', preserveSymlinks: true },
    })
    return { file, close }
  } catch (error) {
    await close()
    throw error
  }
}

async function apply(folder: string, edit: Edit): Promise<void> {
  const path = join(folder, edit.file)
  const edited = applyEdit(await readFile(path, 'utf8'), edit)
  if (typeof edited !== 'string')
    throw new Error(`${edit.file} has the text to replace ${edited.places} times: ${edit.from}`)
  await writeFile(path, edited)
}

const ENTRY = `import worker from './src/index.ts'
const Clock = Date
let offset = 0
globalThis.Date = class extends Clock {
  constructor(...parts) {
    if (parts.length > 0) super(...parts)
    else super(Clock.now() + offset)
  }
  static now() {
    return Clock.now() + offset
  }
}
export default {
  ...worker,
  async fetch(request, env, context) {
    const { pathname, search } = new URL(request.url)
    if (pathname === '${SCHEDULE_PATH}') await worker.scheduled({}, env, context)
    else if (pathname === '${CLOCK_PATH}') offset = Number(search.slice(1))
    else return worker.fetch(request, env, context)
    return new Response('done')
  },
}
`
