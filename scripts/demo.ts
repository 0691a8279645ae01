// `make demo`: the main job for real. A database, the Worker in workerd, and over HTTP: enroll a gallery,
// verify genuine people and impostors, identify known and unknown people, read audit and usage, erase.
// Ends with one line of totals; fails when the gate would have let somebody wrong in. With IMAGES it does all of that from
// photographs, with the recognizer beside the Worker.
import { randomBytes } from 'node:crypto'
import { mkdir } from 'node:fs/promises'
import { join } from 'node:path'
import { SCOPES } from '../src/auth/api-key.ts'
import { FAILED_VERIFICATIONS } from '../src/settings.ts'
import { generateGallery, readGallery } from './gallery.ts'
import { type Photograph, readGroups, readPeople } from './photographs.ts'
import { createApiKey, createTenant } from './provision.ts'
import { startRecognizer } from './recognizer.ts'
import { startService, toServiceDatabase } from './service.ts'
import { findFreePort } from './worker.ts'

const GENERATED = { people: 25, samplesEach: 3, seed: 20261123 }
/** Every so-manyth identity stays out of the gallery, to be searched for in vain. */
const UNKNOWN_EVERY = 5
const CONCURRENCY = 8

/** A face as the API takes it. */
type Sample = { embedding: number[] } | { image: string }

interface Identity {
  name: string
  /** The first is the one to enroll. */
  samples: Sample[]
}

interface Probe {
  identity: string
  sample: Sample
}

interface Totals {
  enrolled: number
  genuine: number
  genuineVerified: number
  impostors: number
  impostorsAccepted: number
  probes: number
  identified: number
  misidentified: number
  unknown: number
  unknownRefused: number
  erased: number
}

async function main(): Promise<void> {
  const { FACES: file, IMAGES: images, MODELS: models = join(images ?? '', '../../models') } = process.env
  const people = await findPeople(file, images)
  const { enrolled, genuine, unknown } = split(people)
  const source = images ? 'in the photographs' : file ? 'from the file' : 'generated'
  report(`${people.length} people ${source}: ${enrolled.length} to enroll`)
  if (enrolled.length < 2) throw new Error('The demo needs at least two people to enroll.')

  const port = await findFreePort(0)
  const pepper = randomBytes(32).toString('base64')
  // the demo's own embedded database is in memory: it never touches the data of `make dev`
  const database = process.env['DB'] === 'embedded' ? {} : toServiceDatabase({})
  report(`starting ${'url' in database ? 'on PostgreSQL' : 'the embedded database'}`)
  await mkdir('.rekko', { recursive: true })
  const recognizer = images ? await startRecognizer(models) : null
  const service = await startService(database, port ?? 0, pepper, report, recognizer).catch(async (error: unknown) => {
    await recognizer?.stop()
    throw error
  })
  // its standard input ends the Worker with this process; the database goes with it too
  for (const signal of ['SIGINT', 'SIGTERM'] as const) process.once(signal, () => process.exit(130))
  try {
    const tenant = await createTenant(service.admin, service.masterKeys, 'Demo', 'test')
    const key = await createApiKey(service.admin, pepper, tenant, 'test', 'make demo', SCOPES)
    const client = new Client(service.url, key)
    const totals = await run(client, enrolled, genuine, unknown)
    const looks = images ? await look(client, people, images) : null
    const faults = [...findFaults(totals), ...(looks ? findLookFaults(looks) : []), ...wrongTotals]
    for (const fault of faults) report(`FAILED: ${fault}`)
    console.log(
      `demo: enrolled ${totals.enrolled}, genuine verified ${totals.genuineVerified}/${totals.genuine}, ` +
        `impostors accepted ${totals.impostorsAccepted}/${totals.impostors}, ` +
        `identified ${totals.identified}/${totals.probes}, misidentified ${totals.misidentified}, ` +
        `unknown people refused ${totals.unknownRefused}/${totals.unknown}, erased ${totals.erased}`,
    )
    if (looks) {
      console.log(
        `photographs: genuine pairs verified ${looks.genuineVerified}/${looks.genuine}, ` +
          `impostor pairs accepted ${looks.impostorsAccepted}/${looks.impostors}, ` +
          `groups counted right ${looks.groupsRight}/${looks.groups}`,
      )
    }
    if (faults.length > 0) process.exitCode = 1
  } finally {
    await service.stop()
    await recognizer?.stop()
  }
}

async function findPeople(file: string | undefined, images: string | undefined): Promise<Identity[]> {
  if (images) {
    const people = await readPeople(images)
    return people.map(({ name, photographs }) => ({ name, samples: photographs.map(({ image }) => ({ image })) }))
  }
  const people = file
    ? await readGallery(file)
    : generateGallery(GENERATED.people, GENERATED.samplesEach, GENERATED.seed)
  return people.map(({ name, samples }) => ({ name, samples: samples.map((embedding) => ({ embedding })) }))
}

/** The first sample of each person is enrolled, the others are probes; every fifth person is unknown. */
function split(people: Identity[]): { enrolled: Identity[]; genuine: Probe[]; unknown: Probe[] } {
  const toProbes = ({ name, samples }: Identity) => samples.map((sample) => ({ identity: name, sample }))
  const isUnknown = (_: Identity, index: number) => (index + 1) % UNKNOWN_EVERY === 0
  const enrolled = people.filter((identity, index) => !isUnknown(identity, index))
  return {
    enrolled,
    genuine: enrolled.flatMap((identity) => toProbes({ ...identity, samples: identity.samples.slice(1) })),
    unknown: people.filter(isUnknown).flatMap(toProbes),
  }
}

async function run(client: Client, enrolled: Identity[], genuine: Probe[], unknown: Probe[]): Promise<Totals> {
  const names = enrolled.map(({ name }) => name)

  // an hour has room for this many wrong faces in front of one name; nobody shows as many at a gate
  const { perHour, perDay } = FAILED_VERIFICATIONS
  await client.send(200, 'PATCH', '/v1/tenant', {
    settings: { failed_verifications_per_hour: perHour.max, failed_verifications_per_day: perDay.max },
  })

  report(`enrolling ${enrolled.length} faces`)
  await forEach(enrolled, async ({ name, samples }) => {
    await client.send(201, 'POST', '/v1/faces', { external_id: name, ...samples[0] })
  })

  report(`verifying ${genuine.length} genuine claims`)
  const verify = async (claimed: string, sample: Sample) => {
    const decision = await client.send<{ verified: boolean }>(200, 'POST', '/v1/faces/verify', {
      external_id: claimed,
      ...sample,
    })
    return decision.verified
  }
  const genuineVerified = await count(genuine, ({ identity, sample }) => verify(identity, sample))

  const others = [...genuine, ...unknown]
  // genuine people who were not recognized count as failed too
  const impostors = names.flatMap((claimed) =>
    others
      .filter(({ identity }) => identity !== claimed)
      .slice(0, perHour.max / 2)
      .map(({ sample }) => ({ claimed, sample })),
  )
  report(`verifying ${impostors.length} claims of impostors`)
  const impostorsAccepted = await count(impostors, ({ claimed, sample }) => verify(claimed, sample))

  report(`searching for ${genuine.length} known and ${unknown.length} unknown probes`)
  const identify = async (sample: Sample) => {
    const search = await client.send<{ matches: { external_id: string }[]; faces_searched: number }>(
      200,
      'POST',
      '/v1/faces/search',
      sample,
    )
    if (search.faces_searched !== enrolled.length) throw new Error(`${search.faces_searched} faces were searched`)
    return search.matches[0]?.external_id ?? null
  }
  let identified = 0
  let misidentified = 0
  await forEach(genuine, async ({ identity, sample }) => {
    const name = await identify(sample)
    if (name === identity) identified++
    else if (name !== null) misidentified++
  })
  const unknownRefused = await count(unknown, async ({ sample }) => (await identify(sample)) === null)

  report('reading the audit and the usage')
  const verifications = await client.countList('/v1/verifications')
  const identifications = await client.countList('/v1/identifications')
  expectEqual('verifications in the audit', verifications, genuine.length + impostors.length)
  expectEqual('searches in the audit', identifications, genuine.length + unknown.length)

  const [erasedName = ''] = names
  report(`erasing ${erasedName}`)
  await client.send(204, 'DELETE', `/v1/faces/${encodeURIComponent(erasedName)}`)
  await client.send(404, 'GET', `/v1/faces/${encodeURIComponent(erasedName)}`)
  await client.send(404, 'POST', '/v1/faces/verify', { external_id: erasedName, ...enrolled[0]?.samples[0] })
  const found = await client.send<{ matches: { external_id: string }[] }>(200, 'POST', '/v1/faces/search', {
    ...enrolled[0]?.samples[0],
  })
  const stillNamed = found.matches.filter((match) => match.external_id === erasedName)
  expectEqual('matches that still name the erased person', stillNamed.length, 0)
  for (const list of ['/v1/verifications', '/v1/identifications']) {
    expectEqual(
      `rows of ${list} that still name the erased person`,
      await client.countList(`${list}?external_id=${encodeURIComponent(erasedName)}`),
      0,
    )
  }

  const usage = await client.send<Record<string, number>>(200, 'GET', '/v1/usage')
  expectEqual('registrations billed', usage['registrations'], enrolled.length)
  expectEqual('verifications billed', usage['verifications'], verifications)
  expectEqual('identifications billed', usage['identifications'], identifications + 1)
  expectEqual('deletions billed', usage['deletions'], 1)

  return {
    enrolled: enrolled.length,
    genuine: genuine.length,
    genuineVerified,
    impostors: impostors.length,
    impostorsAccepted,
    probes: genuine.length,
    identified,
    misidentified,
    unknown: unknown.length,
    unknownRefused,
    erased: 1,
  }
}

interface Looks {
  genuine: number
  genuineVerified: number
  impostors: number
  impostorsAccepted: number
  groups: number
  groupsRight: number
}

/** Compares every photograph with every other, and counts the people in the groups beside them, if there are any. */
async function look(client: Client, people: Identity[], images: string): Promise<Looks> {
  const all = people.flatMap(({ name, samples }) => samples.map((sample) => ({ name, sample })))
  const pairs = all.flatMap((first, index) => all.slice(index + 1).map((second) => ({ first, second })))
  const [genuine, impostors] = [true, false].map((isSame) =>
    pairs.filter(({ first, second }) => (first.name === second.name) === isSame),
  )
  const isVerified = async ({ first, second }: (typeof pairs)[number]) => {
    const comparison = await client.send<{ verified: boolean }>(200, 'POST', '/v1/faces/compare', {
      first: first.sample,
      second: second.sample,
    })
    return comparison.verified
  }
  report(`comparing ${pairs.length} pairs of photographs`)
  const genuineVerified = await count(genuine ?? [], isVerified)
  const impostorsAccepted = await count(impostors ?? [], isVerified)

  const groups = await readGroups(join(images, '../groups'))
  report(`counting the people in ${groups.length} groups`)
  const groupsRight = await count(groups, async ({ photograph, faces }) => {
    const found = await countFaces(client, photograph)
    if (found !== faces) report(`${photograph.name}: ${found} faces found`)
    return found === faces
  })
  return {
    genuine: genuine?.length ?? 0,
    genuineVerified,
    impostors: impostors?.length ?? 0,
    impostorsAccepted,
    groups: groups.length,
    groupsRight,
  }
}

async function countFaces(client: Client, { image }: Photograph): Promise<number> {
  const { faces } = await client.send<{ faces: unknown[] }>(200, 'POST', '/v1/faces/detect', { image })
  return faces.length
}

function findLookFaults(looks: Looks): string[] {
  return [
    looks.genuineVerified < looks.genuine && 'two photographs of one person were taken for two people',
    looks.impostorsAccepted > 0 && 'two people were taken for one',
    looks.groupsRight < looks.groups && 'the people in a group were not counted right',
  ].filter((fault) => fault !== false)
}

function findFaults(totals: Totals): string[] {
  return [
    totals.impostorsAccepted > 0 && 'an impostor got in',
    totals.misidentified > 0 && 'somebody was taken for somebody else',
    totals.unknownRefused < totals.unknown && 'somebody who is not enrolled was named',
    totals.genuineVerified === 0 && totals.genuine > 0 && 'nobody genuine got in',
    totals.identified === 0 && totals.probes > 0 && 'nobody was identified',
  ].filter((fault) => fault !== false)
}

class Client {
  readonly #url: string
  readonly #key: string

  constructor(url: string, key: string) {
    this.#url = url
    this.#key = key
  }

  /** @throws Error unless the answer has this status */
  async send<Answer>(status: number, method: string, path: string, body?: unknown): Promise<Answer> {
    const response = await fetch(this.#url + path, {
      method,
      headers: {
        Authorization: `Bearer ${this.#key}`,
        ...(body !== undefined && { 'Content-Type': 'application/json' }),
      },
      ...(body !== undefined && { body: JSON.stringify(body) }),
      signal: AbortSignal.timeout(30_000),
    })
    const text = await response.text()
    if (response.status !== status) throw new Error(`${method} ${path} answered ${response.status}: ${text}`)
    return (text === '' ? {} : JSON.parse(text)) as Answer
  }

  /** Rows of a list, over all its pages. */
  async countList(path: string): Promise<number> {
    let rows = 0
    let cursor: string | null = null
    do {
      const query: string = `${path.includes('?') ? '&' : '?'}limit=100${cursor ? `&cursor=${cursor}` : ''}`
      const page: { data: unknown[]; next_cursor: string | null } = await this.send(200, 'GET', path + query)
      rows += page.data.length
      cursor = page.next_cursor
    } while (cursor)
    return rows
  }
}

async function forEach<Item>(items: Item[], act: (item: Item) => Promise<void>): Promise<void> {
  const queue = items.values()
  await Promise.all(
    Array.from({ length: CONCURRENCY }, async () => {
      for (const item of queue) await act(item)
    }),
  )
}

async function count<Item>(items: Item[], holds: (item: Item) => Promise<boolean>): Promise<number> {
  let held = 0
  await forEach(items, async (item) => {
    if (await holds(item)) held++
  })
  return held
}

/** Totals that are off are told with the others, behind the work. */
const wrongTotals: string[] = []

function expectEqual(what: string, actual: unknown, expected: number): void {
  if (actual !== expected) wrongTotals.push(`${what}: ${actual}, and it should be ${expected}`)
}

function report(step: string): void {
  console.error(`demo: ${step}`)
}

try {
  await main()
} catch (error) {
  report(`FAILED: ${error instanceof Error ? error.message : String(error)}`)
  process.exitCode = 1
}
