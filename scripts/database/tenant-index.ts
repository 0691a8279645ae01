// What the database guide calls vector-index optimization, for one tenant at a time: exact search is measured
// first, and an HNSW index over one tenant's faces must find what exact search finds.
import { setTimeout as sleep } from 'node:timers/promises'
import { SHORTLIST_SIZE } from '../../src/db/templates.ts'
import { DIMENSIONS, type Embedding, isFault, toEmbedding } from '../../src/face/embedding.ts'
import { signCode } from '../../src/face/protection/rotation.ts'
import { toSettings } from '../../src/settings.ts'
import { gaussian } from '../gallery.ts'
import type { Connection } from './connection.ts'
import type { Context } from './context.ts'
import { findModels } from './face-models.ts'
import { isBefore } from './server.ts'
import { requireDirect, requireNative, withConnection } from './target.ts'
import { CommandError, EXIT, type Terminal } from './terminal.ts'

export interface IndexOptions {
  /** Searches to measure with, 1 to 10,000. */
  probes: number
  build: boolean
  /** Keep an index that finds too little. */
  force: boolean
  drop: boolean
}

/** Below both, exact search is fast enough, and an index only costs memory, writes and missed people. */
const LARGE_GALLERY = 1_000_000
const SLOW_SEARCH_MS = 200
/** An index must find the same nearest face in this share of searches. */
const LEAST_RECALL = 0.99
/** The mean cosine between two photographs of one person: scripts/gallery.ts has the measurement. */
const GENUINE_COSINE = 0.63
/** Searches before the clock counts, so that what they read is in memory. */
const WARM_UP = 5
const POLL_MS = 500

/**
 * Measures a tenant's searches and, when asked, builds, verifies or drops its index.
 *
 * @param efSearch candidates that a search of the index keeps, as hnsw.ef_search; as many as the
 *   shortlist that the index would stand in for
 */
export async function tuneIndex(
  context: Context,
  tenant: string,
  options: IndexOptions,
  efSearch = SHORTLIST_SIZE,
): Promise<void> {
  const { target, terminal } = context
  requireNative(target, 'It has one session and small galleries; use DATABASE_URL, or make dev DB=native.')
  requireDirect(target)
  if (!/^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$/.test(tenant)) {
    throw new CommandError(
      'Name the tenant by its id, a UUID in lower case: scripts/db.sh stats --section tenants',
      EXIT.usage,
    )
  }
  await withConnection(target, async (connection) => {
    const gallery = await findGallery(connection, tenant)
    const statements = await writeStatements(connection, gallery)
    if (context.isDryRun) {
      const planned = options.drop
        ? [...statements.prepare, statements.drop]
        : options.build
          ? [...statements.prepare, statements.build]
          : []
      return terminal.result(
        { statements: planned },
        planned.length > 0 ? planned : ['would measure, and change nothing'],
      )
    }
    if (options.build || options.drop) {
      await lockOut(connection)
      for (const statement of statements.prepare) await connection.execute(statement)
    }
    if (options.drop) return drop(terminal, connection, gallery, statements)
    await tune(context, connection, gallery, statements, options, efSearch)
  })
}

interface Gallery {
  tenant: string
  /** Of faces; others are not searched. */
  model: string
  faces: number
  indexName: string
  index: { isValid: boolean; bytes: number } | null
  pgvector: string
}

async function findGallery(connection: Connection, tenant: string): Promise<Gallery> {
  const [facts] = await connection.query<{ has_schema: boolean; sees_all_rows: boolean; pgvector: string }>(`
    select to_regclass('public.face_counts') is not null as has_schema, rolsuper or rolbypassrls as sees_all_rows,
      coalesce((select extversion from pg_extension where extname = 'vector'), '0') as pgvector
    from pg_roles where rolname = current_user`)
  if (!facts?.has_schema) throw new CommandError('The schema is not there yet: scripts/db.sh up', EXIT.findings)
  if (!facts.sees_all_rows) {
    throw new CommandError(
      'This login is bound by row-level security and cannot read the gallery. Use one with BYPASSRLS.',
      EXIT.refused,
    )
  }
  const [row] = await connection.query<{ settings: unknown; faces: number }>(
    `select settings, (select coalesce(sum(change), 0)::float8 from face_counts where tenant_id = t.id) as faces
     from tenants t where id = $1`,
    [tenant],
  )
  if (!row) throw new CommandError(`There is no tenant ${tenant}: scripts/db.sh stats --section tenants lists them.`)
  const indexName = `idx_faces_hnsw_${tenant.slice(0, 8)}`
  return {
    tenant,
    model: toSettings(row.settings, findModels()).model.id,
    faces: row.faces,
    indexName,
    index: await findIndex(connection, indexName, tenant),
    pgvector: facts.pgvector,
  }
}

async function findIndex(connection: Connection, name: string, tenant: string): Promise<Gallery['index']> {
  const [row] = await connection.query<{ is_valid: boolean; bytes: number; predicate: string | null }>(
    `select i.indisvalid and i.indisready as is_valid, pg_relation_size(c.oid)::float8 as bytes,
       pg_get_expr(i.indpred, i.indrelid) as predicate
     from pg_class c join pg_index i on i.indexrelid = c.oid
     where c.relname = $1 and c.relnamespace = 'public'::regnamespace`,
    [name],
  )
  if (!row) return null
  if (!row.predicate?.includes(tenant)) {
    throw new CommandError(`${name} exists and is of another tenant: look at it with \\d faces.`, EXIT.refused)
  }
  return { isValid: row.is_valid, bytes: row.bytes }
}

interface Statements {
  prepare: string[]
  build: string
  drop: string
}

/** The index is of one tenant, so its predicate is a constant: PostgreSQL quotes what is put into the text. */
async function writeStatements(connection: Connection, { indexName, tenant, pgvector }: Gallery): Promise<Statements> {
  const [row] = await connection.query<{ build: string; drop: string }>(
    `select
       format(
         'create index concurrently %I on public.faces using hnsw (embedding vector_cosine_ops) where tenant_id = %L',
         $1::text, $2::uuid
       ) as build,
       format('drop index concurrently if exists public.%I', $1::text) as drop`,
    [indexName, tenant],
  )
  if (!row) throw new RangeError('format answered no row')
  return {
    ...row,
    prepare: [
      // it waits for transactions that are open; what waits behind it is other DDL and vacuum, not requests
      "set lock_timeout = '10min'",
      "set statement_timeout = '12h'",
      // or PostgreSQL would go on for hours after Ctrl-C
      "set client_connection_check_interval = '10s'",
      // parallel builds can leak other tables before 0.8.2 (CVE-2026-3172)
      ...(isBefore(pgvector, '0.8.2') ? ['set max_parallel_maintenance_workers = 0'] : []),
    ],
  }
}

/** One build at a time: two would take the memory of both. */
async function lockOut(connection: Connection): Promise<void> {
  const [row] = await connection.query<{ is_mine: boolean }>(
    "select pg_try_advisory_lock(hashtext('rekko.index')) as is_mine",
  )
  if (!row?.is_mine) throw new CommandError('Another index is being built or dropped: wait for it.', EXIT.refused)
}

async function drop(
  terminal: Terminal,
  connection: Connection,
  gallery: Gallery,
  statements: Statements,
): Promise<void> {
  await connection.execute(statements.drop)
  terminal.ok(gallery.index ? `${gallery.indexName} is dropped` : `there is no ${gallery.indexName}`)
  if (terminal.isJson) terminal.result({ index: gallery.indexName, dropped: gallery.index !== null }, [])
}

async function tune(
  context: Context,
  connection: Connection,
  gallery: Gallery,
  statements: Statements,
  options: IndexOptions,
  efSearch: number,
): Promise<void> {
  const { terminal } = context
  const probes = await takeProbes(connection, gallery, options.probes)
  if (probes.length === 0) throw new CommandError(`The tenant has no faces of ${gallery.model}: nothing to measure.`)
  const exact = await searchAll(connection, gallery, probes, EXACT)
  const exactRow = summarize('exact', exact, exact, probes)
  const advice = advise(gallery.faces, exactRow.p50_ms)
  terminal.info(`${gallery.faces.toLocaleString('en')} faces, ${probes.length} searches. ${advice.reason}`)

  let isBuilt = false
  if (options.build && !gallery.index?.isValid) {
    await build(context, connection, gallery, statements)
    gallery.index = await findIndex(connection, gallery.indexName, gallery.tenant)
    isBuilt = true
  }
  const { index } = gallery
  if (!index?.isValid) {
    if (isBuilt) throw new CommandError(`${gallery.indexName} was built and is not valid: scripts/db.sh doctor`)
    const left = index ? 'The index of this tenant is not valid: --build makes it anew, --drop drops it.' : null
    if (left) terminal.warn(left)
    if (terminal.isJson) terminal.result({ ...toSummary(gallery, advice), searches: [exactRow], index: null }, [])
    else terminal.table([exactRow])
    return
  }

  const indexed = await searchAll(connection, gallery, probes, toIndexed(gallery.indexName, efSearch))
  const indexRow = summarize('index', indexed, exact, probes)
  const isGood = indexRow.recall_at_1 >= LEAST_RECALL
  const isKept = isGood || options.force || !options.build
  if (!isKept) await connection.execute(statements.drop)
  if (terminal.isJson) {
    const about = { name: gallery.indexName, valid: true, bytes: index.bytes, built: isBuilt, kept: isKept }
    terminal.result({ ...toSummary(gallery, advice), searches: [exactRow, indexRow], index: about }, [])
  } else terminal.table([exactRow, indexRow])

  const found = `${gallery.indexName} finds ${toPercent(indexRow.recall_at_1)} of what exact search finds`
  if (!isKept) {
    throw new CommandError(`${found}, less than ${toPercent(LEAST_RECALL)}: it is dropped. --force keeps it.`)
  }
  const size = `${(index.bytes / 2 ** 20).toFixed(1)} MiB, valid`
  if (isGood) terminal.ok(`${found} (${size})`)
  else terminal.warn(`${found}, less than ${toPercent(LEAST_RECALL)}, and stays (${size}): --drop drops it`)
  terminal.info(
    'The service searches through shortlist_faces, which does not read this index unless a migration makes it.',
  )
}

function toSummary({ tenant, faces }: Gallery, { helps, reason }: Advice) {
  return { tenant, faces, would_help: helps, reason }
}

interface Advice {
  helps: boolean
  reason: string
}

/**
 * Whether an index is worth what it costs.
 *
 * @param exactP50Ms median of exact searches, milliseconds
 */
export function advise(faces: number, exactP50Ms: number): Advice {
  const median = `${exactP50Ms} ms at the median`
  if (faces < LARGE_GALLERY) {
    return {
      helps: false,
      reason: `An index would not help: exact search takes ${median}, and below ${LARGE_GALLERY.toLocaleString('en')} faces it is enough.`,
    }
  }
  if (exactP50Ms < SLOW_SEARCH_MS) {
    return {
      helps: false,
      reason: `An index would not help: exact search takes ${median}, under ${SLOW_SEARCH_MS} ms.`,
    }
  }
  return { helps: true, reason: `An index may help: exact search takes ${median}.` }
}

// == Measuring ==

interface Probe {
  /** The face that it was made from, and that a search should find. */
  person: string
  vector: string
  code: string
}

/**
 * Other photographs of enrolled people, as far from the enrolled one as photographs of one person are. Made in the space
 * of the tenant's rotation, where the stored vectors are and distances are the same: no key is needed.
 */
async function takeProbes(connection: Connection, { tenant, model }: Gallery, count: number): Promise<Probe[]> {
  const rows = await connection.query<{ id: string; embedding: string }>(
    // ids are random, so the face that follows a random id is a random face, found by the primary key;
    // behind the last one, the first
    `select f.id::text, f.embedding::text
     from (select gen_random_uuid() as place from generate_series(1, $3::int)) as places
     join faces f on f.tenant_id = $1 and f.id = coalesce(
       (select id from faces where tenant_id = $1 and model = $2 and id >= places.place order by id limit 1),
       (select id from faces where tenant_id = $1 and model = $2 order by id limit 1)
     )`,
    [tenant, model, count],
  )
  return rows.map(({ id, embedding }) => toProbe(id, embedding))
}

function toProbe(person: string, enrolled: string): Probe {
  // pgvector writes [1,2,3], which is JSON
  const face = JSON.parse(enrolled) as number[]
  const noise = Array.from({ length: DIMENSIONS }, () => gaussian(Math.random))
  const along = dot(face, noise)
  const across = noise.map((component, index) => component - along * (face[index] ?? 0))
  const scale = Math.sqrt((1 - GENUINE_COSINE ** 2) / dot(across, across))
  const embedding = toEmbedding(
    across.map((component, index) => scale * component + GENUINE_COSINE * (face[index] ?? 0)),
  )
  if (isFault(embedding)) throw new RangeError(embedding.detail)
  return { person, vector: toText(embedding), code: signCode(embedding) }
}

function toText(embedding: Embedding): string {
  return `[${embedding.join(',')}]`
}

function dot(a: number[], b: number[]): number {
  return a.reduce((sum, component, index) => sum + component * (b[index] ?? 0), 0)
}

interface Search {
  settings: string
  /** Of $1 tenant, $2 model, $3 vector, $4 sign code: the nearest face and its distance. */
  text: string
  /** The index that it must read. */
  index: string | null
}

/** The two steps of src/db/identifications.ts, without its record. */
const EXACT: Search = {
  settings: '',
  text: `
    select id::text, embedding <=> $3::vector as distance from faces
    where tenant_id = $1 and model = $2
      and id = any ((select shortlist_faces($1, $4::bit(512), ${SHORTLIST_SIZE}))::uuid[])
    order by distance, id limit 1`,
  index: null,
}

function toIndexed(index: string, efSearch: number): Search {
  return {
    // the planner would rather sort a small gallery: what is measured is the index
    settings: `set local hnsw.ef_search = ${efSearch}; set local plan_cache_mode = force_custom_plan;
      set local enable_seqscan = off; set local enable_bitmapscan = off; set local enable_sort = off;`,
    // the sign code is of no use here, and must still be named
    text: `
      select id::text, embedding <=> $3::vector as distance from faces
      where tenant_id = $1 and model = $2 and $4::text is not null
      order by embedding <=> $3::vector limit 1`,
    index,
  }
}

interface Answer {
  /** Null when nobody was found. */
  id: string | null
  distance: number
  latencyMs: number
}

async function searchAll(
  connection: Connection,
  { tenant, model }: Gallery,
  probes: Probe[],
  search: Search,
): Promise<Answer[]> {
  await connection.execute(`begin read only; set local statement_timeout = '60s'; ${search.settings}`)
  try {
    const run = async ({ vector, code }: Probe): Promise<Answer> => {
      const startedAt = performance.now()
      const [row] = await connection.query<{ id: string; distance: number }>(search.text, [tenant, model, vector, code])
      const latencyMs = performance.now() - startedAt
      return { id: row?.id ?? null, distance: row?.distance ?? Number.POSITIVE_INFINITY, latencyMs }
    }
    const [first] = probes
    if (search.index !== null && first) {
      const parameters = [tenant, model, first.vector, first.code]
      const plan = await connection.query<object>(`explain (format json) ${search.text}`, parameters)
      if (!JSON.stringify(plan).includes(`"Index Name":"${search.index}"`)) {
        throw new CommandError(`PostgreSQL does not read ${search.index} for this search: its plan is another.`)
      }
    }
    for (const probe of probes.slice(0, WARM_UP)) await run(probe)
    const answers: Answer[] = []
    for (const probe of probes) answers.push(await run(probe))
    return answers
  } finally {
    await connection.execute('rollback')
  }
}

// a type, so that it is assignable to the rows of a table
type Summary = {
  search: string
  p50_ms: number
  p95_ms: number
  /** Share of searches whose nearest face is as near as that of exact search, 0 to 1. */
  recall_at_1: number
  /** Share of searches that found the person whom the probe was made from, 0 to 1. */
  person_found: number
}

function summarize(search: string, answers: Answer[], exact: Answer[], probes: Probe[]): Summary {
  const latencies = answers.map(({ latencyMs }) => latencyMs).sort((a, b) => a - b)
  const at = (share: number) => round(latencies[Math.ceil(share * latencies.length) - 1] ?? 0, 2)
  // two faces may be equally near; a float's last digits differ with the order of its sum
  const isAsNear = (answer: Answer, index: number) => answer.distance <= (exact[index]?.distance ?? 0) + 1e-6
  const share = (count: number) => round(count / answers.length, 4)
  return {
    search,
    p50_ms: at(0.5),
    p95_ms: at(0.95),
    recall_at_1: share(answers.filter(isAsNear).length),
    person_found: share(answers.filter(({ id }, index) => id !== null && id === probes[index]?.person).length),
  }
}

function round(value: number, decimals: number): number {
  return Math.round(value * 10 ** decimals) / 10 ** decimals
}

function toPercent(share: number): string {
  return `${round(100 * share, 2)} %`
}

// == Building ==

async function build(
  { target, terminal }: Context,
  connection: Connection,
  gallery: Gallery,
  statements: Statements,
): Promise<void> {
  // an invalid one, left by a build that was interrupted
  if (gallery.index) await connection.execute(statements.drop)
  const [session] = await connection.query<{ pid: number }>('select pg_backend_pid() as pid')
  try {
    await withConnection(target, (observer) =>
      follow(terminal, observer, session?.pid ?? 0, gallery.faces, connection.execute(statements.build)),
    )
  } catch (error) {
    const reason = error instanceof Error ? error.message : String(error)
    const isDropped = await connection.execute(statements.drop).then(
      () => true,
      () => false,
    )
    throw new CommandError(
      `The build failed: ${reason}. ${isDropped ? 'What it left behind was dropped.' : `Drop what it left behind: ${statements.drop}`}`,
    )
  }
}

/** Shows how far a build is until it ends. */
async function follow(
  terminal: Terminal,
  observer: Connection,
  pid: number,
  faces: number,
  work: Promise<void>,
): Promise<void> {
  const progress = terminal.progress('building', faces)
  let isDone = false
  let seen = 0
  const end = work.finally(() => {
    isDone = true
  })
  const settled = end.catch(() => {})
  while (!isDone) {
    await Promise.race([settled, sleep(POLL_MS)])
    // what cannot be read is not shown; the build goes on
    const [row] = await observer
      .query<{ tuples: number }>(
        'select tuples_done::float8 as tuples from pg_stat_progress_create_index where pid = $1',
        [pid],
      )
      .catch(() => [])
    if (row && row.tuples > seen) {
      progress.advance(row.tuples - seen)
      seen = row.tuples
    }
  }
  await end
  progress.advance(Math.max(0, faces - seen))
  progress.done()
}
