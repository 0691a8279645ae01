// Proves that whatever an operation of /openapi.json is asked, its answer is one that the document has: never a 5xx,
// nothing of another tenant or of what lies inside, and no row changed by what was refused. Operations are read
// from the document, so that a new one is fuzzed unasked. On a real PostgreSQL with row-level security. Fake: the
// embeddings; the recognizer, for which a picture is a text that says what it shows; and the rate limiters, which are
// out of the way.
//
// FUZZ_SEED=1234 asks the same again; FUZZ_REQUESTS=10000 (`make fuzz`) asks more.
import { env } from 'cloudflare:workers'
import fc from 'fast-check'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { app } from '../../src/app.ts'
import { type Credentials, goodRequests, hostileRequests, Known, type Plan, type Sent } from './fuzz-requests.ts'
import { findFaults, formSchema, isOperators, type Operation, operations } from './openapi-document.ts'
import { operatorToken } from './operator.ts'
import { asAdmin, axis, createKey, createTenant, enroll, type TestTenant } from './tenant.ts'

const { seed, requestsPerOperation } = env.TEST.fuzz
/** Sent at once; then the rows are counted. */
const BATCH = 8
/** One batch in three is of good requests: without them there would be nothing to spoil. */
const GOOD_EVERY = 3
const TIMEOUT_MS = 60_000 + requestsPerOperation * operations.length * 60

/** Successes that 200 requests do not meet; openapi.test.ts meets them. */
const RARE: Record<string, string[]> = {
  // only a tenant of more than 40,000 rows is not erased by one request
  eraseTenant: ['202'],
}

// == What is wrong with an answer ==

interface Answer {
  operation: Operation
  sent: Sent
  response: Response
  text: string
}

const SECURITY_HEADERS = {
  'Cache-Control': 'no-store',
  'Content-Security-Policy': "default-src 'none'; frame-ancestors 'none'",
  'Referrer-Policy': 'no-referrer',
  'Strict-Transport-Security': 'max-age=63072000; includeSubDomains',
  'X-Content-Type-Options': 'nosniff',
}
/** Places in code, SQL, and the names of what lies behind us; long enough that no cursor has them by chance. */
const INSIDE =
  /postgres|pgvector|neondb|sqlstate|rekko_(app|operator|owner|jobs)|current_tenant|node_modules|words of the recognizer|\.ts:\d|\bat \w+ \(|ZodError|select .+ from|insert into/i
/** In the classes that PostgreSQL and our functions raise; a date (11-23T12:00) is none. */
const SQLSTATE = /(?<![\w-])(?:0A|08|2[1-8]|40|42|53|54|55|57|P0|XX|RK)[0-9A-Z]{3}(?![\w:-])/

/** Every way in which the answer is not what it must be. */
function findWrongs({ operation, sent, response, text }: Answer, secrets: readonly string[]): string[] {
  const { status, headers } = response
  const wrongs: string[] = []
  if (status >= 500) wrongs.push(`the status ${status}`)
  for (const [name, value] of Object.entries(SECURITY_HEADERS)) {
    if (headers.get(name) !== value) wrongs.push(`the header ${name} is ${headers.get(name)}`)
  }
  const proposed = sent.headers['X-Request-Id']
  const requestId = headers.get('X-Request-Id') ?? ''
  if (proposed === 'gate-7' ? requestId !== proposed : !/^[0-9a-f-]{36}$/.test(requestId)) {
    wrongs.push('another request id')
  }
  if (headers.has('Access-Control-Allow-Origin')) wrongs.push('an origin is allowed that nobody named')
  if (headers.has('Set-Cookie')) wrongs.push('a cookie')
  for (const secret of secrets) if (text.includes(secret)) wrongs.push('something that is not the tenant’s to see')
  if (INSIDE.test(text)) wrongs.push(`words from the inside: ${INSIDE.exec(text)?.[0]}`)
  return [...wrongs, ...(response.ok ? findWrongSuccess : findWrongRefusal)(operation, response, text, requestId)]
}

function findWrongSuccess({ responses }: Operation, { status, headers }: Response, text: string): string[] {
  const documented = responses[status]
  if (!documented) return [`the status ${status} is not documented`]
  const schema = documented.content?.['application/json']?.schema
  if (!schema) return text === '' ? [] : ['a body where none is documented']
  if (headers.get('Content-Type') !== 'application/json') return [`the type ${headers.get('Content-Type')}`]
  return findFaults(JSON.parse(text), schema)
}

function findWrongRefusal({ responses }: Operation, response: Response, text: string, requestId: string): string[] {
  const { status, headers } = response
  if (headers.get('Content-Type') !== 'application/problem+json') return [`the type ${headers.get('Content-Type')}`]
  const problem = JSON.parse(text)
  const wrongs = findFaults(problem, { $ref: '#/components/schemas/Problem' })
  if (problem.status !== status) wrongs.push('another status in the problem')
  if (problem.request_id !== requestId) wrongs.push('another request id in the problem')
  // pointers and parameters are in the words of the client
  const ourWords = [problem.title, problem.detail, ...(problem.errors ?? []).map((error: FieldError) => error.detail)]
  if (SQLSTATE.test(ourWords.join(' '))) wrongs.push('an SQLSTATE')
  const documented = responses[status]?.description.split(', ') ?? []
  if (!documented.includes(problem.code)) wrongs.push(`${status} ${problem.code} is not documented`)
  return wrongs
}

interface FieldError {
  detail: string
}

// == Whose answer it is ==

/** What a URL is answered with when it leads to no operation. */
const NOWHERE: Operation = {
  method: '',
  path: '',
  operationId: 'nowhere',
  summary: '',
  responses: {
    400: { description: 'MALFORMED_URL' },
    404: { description: 'NOT_FOUND' },
    405: { description: 'METHOD_NOT_ALLOWED' },
  },
}

const patterns = operations
  .map((operation) => ({ operation, pattern: new RegExp(`^${operation.path.replace(/\{\w+\}/g, '[^/]+')}$`, 's') }))
  // a word in the path comes before a parameter
  .toSorted((one, other) => one.operation.path.split('{').length - other.operation.path.split('{').length)

/** The operation that a path leads to, which a hostile one need not do: "/v1/faces/.." is "/v1/". */
function findAddressed(method: string, path: string): Operation {
  const { pathname } = new URL(path, 'http://localhost')
  const found = patterns.find(({ operation, pattern }) => operation.method === method && pattern.test(decode(pathname)))
  return found?.operation ?? NOWHERE
}

/** As Hono reads a path: what does not stand for "/", "?" or "#" is decoded before routes are matched. */
function decode(pathname: string): string {
  try {
    return decodeURI(pathname.replaceAll('%25', '%2525'))
  } catch {
    return pathname
  }
}

// == The rows ==

/** Of a picture that shows nobody alive, or somebody who is enrolled already, it is kept that it was refused. */
const RECORDED = ['LIVENESS_FAILED', 'DUPLICATE_IDENTITY']
const RECORDS = ['identifications', 'verifications', 'usage_events']

function isRecorded({ response, text }: Answer): boolean {
  return !response.ok && RECORDED.includes(JSON.parse(text).code)
}

/** That an act was refused is remembered too, for whoever sends it again. */
const REMEMBERED = 'idempotent_requests'

/** The tables in which something has changed, but for those of `ignored`. */
function findChanged(before: string, after: string, ignored: readonly string[]): string[] {
  const tables = (rows: string) =>
    new Map<string, string>(JSON.parse(rows).map((row: { name: string }) => [row.name, JSON.stringify(row)]))
  const [earlier, later] = [tables(before), tables(after)]
  return [...later]
    .filter(([name, row]) => earlier.get(name) !== row && name !== REMEMBERED && !ignored.includes(name))
    .map(([name]) => name)
}

/**
 * How many rows of these tenants there are in each table of the catalog, and in what versions: no change is too small.
 *
 * @param options.isWhole with the tables that are of no tenant
 */
async function readRows(tenantIds: readonly string[], { isWhole } = { isWhole: true }): Promise<string> {
  const rows = await asAdmin.query(await rowsQuery, [tenantIds])
  return JSON.stringify(rows.filter(({ of_tenants }) => isWhole || of_tenants))
}

// when a key was last used is noted also for what is refused later: it is left out of the version
const rowsQuery = asAdmin`
  select string_agg(format(
    'select %L as name, %L::boolean as of_tenants, count(*)::int as rows, sum(%s)::text as versions from %I t%s',
    t.relname, owned.attname is not null,
    case when noted.attname is null then 'xmin::text::bigint' else $q$hashtext((to_jsonb(t) - 'last_used_at')::text)::bigint$q$ end,
    t.relname,
    case when owned.attname is null then '' else ' where tenant_id = any ($1::uuid[])' end
  ), ' union all ' order by t.relname) as query
  from pg_class t
  left join pg_attribute owned on owned.attrelid = t.oid and owned.attname = 'tenant_id'
  left join pg_attribute noted on noted.attrelid = t.oid and noted.attname = 'last_used_at'
  where t.relnamespace = 'public'::regnamespace and t.relkind = 'r'`.then(([row]) => String(row?.['query']))

async function readConstraints(): Promise<string[]> {
  const rows = await asAdmin`
    select conname as name from pg_constraint where connamespace = 'public'::regnamespace
    union select relname from pg_class where relnamespace = 'public'::regnamespace and relkind = 'i'`
  return rows.map(({ name }) => String(name))
}

// == The run ==

const codes = new Set<string>()
/** Operations that took one. */
const takenForms = new Set<string>()
const statuses = new Map<string, Map<number, number>>()
/** By operation: what was wrong, with the first request that showed it. */
const findings = new Map<string, Map<string, { request: string; times: number }>>()
const rowChecks = { refused: 0, checked: 0 }
let unsendable = 0
let rivalRows: { before: string; after: string } | undefined

function note({ operation, sent, response, text }: Answer, wrong: string): void {
  const found = findings.get(operation.operationId) ?? new Map()
  findings.set(operation.operationId, found)
  const request = JSON.stringify({ ...sent, status: response.status, answer: text })
  const { times } = found.get(wrong) ?? { times: 0 }
  found.set(wrong, { request: found.get(wrong)?.request ?? cut(request), times: times + 1 })
}

function cut(text: string): string {
  return text.length > 1500 ? `${text.slice(0, 1500)}… (${text.length} characters)` : text
}

/** Null when no client could send it: fetch itself refuses a header. */
async function send(sent: Sent): Promise<Answer | null> {
  let request: Request
  try {
    request = new Request(`http://localhost${sent.path}`, sent)
  } catch {
    unsendable++
    return null
  }
  const response = await app.request(request, undefined, env)
  return { operation: findAddressed(sent.method, sent.path), sent, response, text: await response.text() }
}

async function run(): Promise<void> {
  const [tenant, rival] = [await createTenant(), await createTenant()]
  const scopeless = await createKey(tenant.id, [])
  const known = new Known(new Set([tenant.id, tenant.keyId, scopeless.keyId, rival.id]))
  const secrets = await makeBusy(rival, known)
  const inside = await readConstraints()
  const before = await readRows([rival.id], { isWhole: false })
  let watched: string[] = []
  let rows = ''

  async function sendAll(requests: Sent[]): Promise<Answer[]> {
    const answers = await Promise.all(requests.map(send))
    return answers.filter((answer) => answer !== null)
  }

  function judge(answer: Answer): void {
    const { operation, sent, response, text } = answer
    const counts = statuses.get(operation.operationId) ?? new Map()
    statuses.set(operation.operationId, counts.set(response.status, (counts.get(response.status) ?? 0) + 1))
    const forbidden = isOperators(operation) ? inside : [...inside, ...secrets]
    for (const wrong of findWrongs(answer, forbidden)) note(answer, wrong)
    if (response.ok && text) known.learn(JSON.parse(text))
    if (!response.ok) codes.add(JSON.parse(text).code)
    if (response.ok && sent.headers['Content-Type']?.startsWith('multipart/')) takenForms.add(operation.operationId)
    if (response.ok && operation.method === 'DELETE') known.forget(sent.path)
  }

  /** Refused once more, and alone: then no row may change. */
  async function checkRows(operation: Operation, answers: Answer[]): Promise<void> {
    const refused = answers.filter(({ response }) => !response.ok)
    rowChecks.refused += refused.length
    const isAllRefused = refused.length === answers.length && !refused.some(isRecorded)
    const now = await readRows(watched)
    if (isAllRefused || operation.method === 'GET') {
      checkChanges(answers, refused.length, rows, now)
      rows = now
      return
    }
    rows = now
    for (const isKept of [false, true]) {
      const same = refused.filter((answer) => isRecorded(answer) === isKept)
      if (same.length === 0) continue
      const again = await sendAll(same.map(({ sent }) => sent))
      const after = await readRows(watched)
      // what is refused for another reason now is not of this kind any more
      if (again.every((answer) => !answer.response.ok && (isKept || !isRecorded(answer)))) {
        checkChanges(again, again.length, rows, after, isKept ? RECORDS : [])
      }
      rows = after
    }
  }

  function checkChanges(
    answers: Answer[],
    refusals: number,
    before: string,
    after: string,
    ignored: readonly string[] = [],
  ): void {
    rowChecks.checked += refusals
    for (const table of findChanged(before, after, ignored)) {
      for (const answer of answers) note(answer, `a row of ${table} was changed by it or one beside it`)
    }
  }

  const rounds = Math.ceil(requestsPerOperation / BATCH)
  const arbitraries = operations.map((operation) => ({
    operation,
    good: goodRequests(operation),
    hostile: hostileRequests(operation),
  }))
  for (let round = 0; round < rounds; round++) {
    const operator = { good: await operatorToken(), scopeless: await operatorToken({ scope: '' }) }
    // of this round only: answers teach and erase tenants while it lasts
    watched = [tenant.id, rival.id, ...known.all('tenant_id')]
    rows = await readRows(watched)
    for (const [index, { operation, good, hostile }] of arbitraries.entries()) {
      const credentials: Credentials = isOperators(operation)
        ? operator
        : { good: tenant.key, scopeless: scopeless.key }
      const plans = fc.sample<Plan>(round % GOOD_EVERY === 0 ? good : hostile, {
        seed: seed + round * operations.length + index,
        numRuns: BATCH,
      })
      const answers = await sendAll(plans.map((plan) => plan(known, credentials)))
      for (const answer of answers) judge(answer)
      await checkRows(operation, answers)
    }
  }
  rivalRows = { before, after: await readRows([rival.id], { isWhole: false }) }
}

/** Somebody whose faces, decisions and ids are nobody else's to see; answers what may never be answered. */
async function makeBusy(rival: TestTenant, known: Known): Promise<string[]> {
  const secret = `secret-${crypto.randomUUID()}`
  await enroll(rival, 'rival', axis(0))
  await rival.request('PATCH', '/v1/faces/rival', { metadata: { secret } })
  await rival.request('POST', '/v1/faces/verify', { external_id: 'rival', embedding: axis(0) })
  await rival.request('POST', '/v1/faces/search', { embedding: axis(0) })
  for (const { path } of operations.filter(({ method, path }) => method === 'GET' && !path.includes('{'))) {
    const response = await rival.request('GET', path)
    if (response.ok) known.learnForeign(await response.json())
  }
  return [secret, rival.key, ...known.foreignIds()]
}

/** A line for each operation: how often it answered what. */
function table(): string {
  const lines = [...statuses].map(([id, counts]) => {
    const met = [...counts].toSorted(([one], [other]) => one - other).map(([status, times]) => `${status}: ${times}`)
    return `  ${id.padEnd(24)}${met.join('  ')}`
  })
  return [
    `fuzzed with FUZZ_SEED=${seed} FUZZ_REQUESTS=${requestsPerOperation}: ` +
      `of ${rowChecks.refused} refusals ${rowChecks.checked} were seen to change no row, ${unsendable} could not be sent`,
    ...lines,
  ].join('\n')
}

describe('whatever is asked', () => {
  beforeAll(async () => {
    console.log(`FUZZ_SEED=${seed}`)
    await run()
  }, TIMEOUT_MS)
  afterAll(() => console.log(table()))

  it.each(operations)('$method $path answers what the document says', ({ operationId }) => {
    expect([...(statuses.get(operationId)?.keys() ?? [])]).not.toHaveLength(0)
    expect(Object.fromEntries(findings.get(operationId) ?? [])).toEqual({})
  })

  it('is answered as unknown where no operation is', () => {
    expect([...(statuses.get('nowhere')?.keys() ?? [])]).toContain(404)
    expect(Object.fromEntries(findings.get('nowhere') ?? [])).toEqual({})
  })

  it.each(operations)('$method $path was met with every success that the document has', (operation) => {
    const documented = Object.keys(operation.responses).filter((status) => status.startsWith('2'))
    const expected = documented.filter((status) => !RARE[operation.operationId]?.includes(status))
    expect(expected).not.toHaveLength(0)
    expect([...(statuses.get(operation.operationId)?.keys() ?? [])]).toEqual(
      expect.arrayContaining(expected.map(Number)),
    )
  })

  it('is refused in every way that a client can be to blame for', () => {
    const met = new Set([...statuses.values()].flatMap((counts) => [...counts.keys()]))
    expect([...met]).toEqual(expect.arrayContaining([400, 401, 403, 404, 405, 409, 413, 415, 422]))
    // and for what a picture can show, whatever the tenant has set in the meantime
    expect([...codes]).toEqual(
      expect.arrayContaining([
        'IMAGE_TOO_LARGE',
        'INVALID_IMAGE',
        'MALFORMED_FORM',
        'MODEL_MISMATCH',
        'MULTIPLE_FACES',
        'NO_FACE_DETECTED',
      ]),
    )
  })

  it('was asked as a form too, and that was taken wherever the document has one', () => {
    const taking = operations.filter(formSchema).map(({ operationId }) => operationId)
    expect(taking).toHaveLength(7)
    expect([...takenForms].sort()).toEqual(taking.sort())
  })

  it('changes nothing of a rival’s, and refusals were seen to change nothing at all', () => {
    for (const table of ['faces', 'verifications', 'identifications', 'api_keys']) {
      expect(rivalRows?.before).toContain(`"name":"${table}","of_tenants":true,"rows":1,`)
    }
    expect(rivalRows?.after).toBe(rivalRows?.before)
    expect(rowChecks.checked).toBeGreaterThan(rowChecks.refused * 0.9)
    expect(unsendable).toBeLessThan(requestsPerOperation)
  })
})
