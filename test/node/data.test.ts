// Proves test data and bulk import: which files and rows are taken and which are refused, that an imported
// face is the one the API would have stored and is metered like it, that a run can stop anywhere and start
// again; seeded tenants, keys and their revocation. Fake: the faces, and a constraint that refuses a name.
import { spawn } from 'node:child_process'
import { randomBytes } from 'node:crypto'
import { once } from 'node:events'
import { mkdir, mkdtemp, readFile, rm, stat, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import type { Command } from 'commander'
import { afterAll, beforeAll, describe, expect, it, type TestContext } from 'vitest'
import { bootstrap } from '../../scripts/database/bootstrap.ts'
import { registerData } from '../../scripts/database/commands/data.ts'
import { registerMigrations } from '../../scripts/database/commands/migrations.ts'
import { type Connection, connectNative } from '../../scripts/database/connection.ts'
import { DEVELOPMENT_PASSWORDS } from '../../scripts/database/development.ts'
import { type EmbeddingFile, type FileRow, openEmbeddingFile } from '../../scripts/database/embedding-files.ts'
import { type ImportTotals, importFaces, type Reject, toFace } from '../../scripts/database/import.ts'
import { migrate } from '../../scripts/database/migrate.ts'
import { seedFaces, seedTenant } from '../../scripts/database/seed.ts'
import { toTarget } from '../../scripts/database/target.ts'
import { findTemplateKeys } from '../../scripts/database/template-keys.ts'
import { findKey, findTenant, listKeys, listTenants, revokeKey, rotateKey } from '../../scripts/database/tenants.ts'
import { EXIT } from '../../scripts/database/terminal.ts'
import { asOwner, asTenant } from '../../scripts/database/transaction.ts'
import { findVectorArray } from '../../scripts/database/vector-array.ts'
import { generateGallery } from '../../scripts/gallery.ts'
import { createApiKey, createTenant } from '../../scripts/provision.ts'
import { hashApiKey, isApiKey, SCOPES, toPepper } from '../../src/auth/api-key.ts'
import { enrollFace } from '../../src/db/faces.ts'
import { isFault, toEmbedding } from '../../src/face/embedding.ts'
import { rotationOf } from '../../src/face/protection/keyring.ts'
import { fromBase64 } from '../../src/face/protection/octets.ts'
import { rotate } from '../../src/face/protection/rotation.ts'
import { open } from '../../src/face/protection/sealed-copy.ts'
import { createDatabase, type FreshDatabase, needsNative } from './database.ts'
import { type Result, runCommand } from './run-command.ts'
import { masterKeys, openDoor } from './tenant-door.ts'

const PEPPER = 'a pepper that only this test file knows'
const MODEL = 'arcface-512@1'
const ROOT = join(import.meta.dirname, '../..')

let database: FreshDatabase
let folder: string
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'rekko-data-'))
  database = await createDatabase()
  await migrate(database.connection)
})
afterAll(async () => {
  await database.drop()
  await rm(folder, { recursive: true })
})

const PEOPLE = generateGallery(40, 2, 7)

/** The embedding of a person, as text or numbers would carry it. */
function faceOf(person: number, sample = 0): number[] {
  const numbers = PEOPLE[person]?.samples[sample]
  if (!numbers) throw new RangeError(`there is no person ${person}`)
  return numbers
}

async function write(name: string, content: string | Buffer): Promise<string> {
  const path = join(folder, `${randomBytes(4).toString('hex')}-${name}`)
  await writeFile(path, content)
  return path
}

const COMPONENTS = Array.from({ length: 512 }, (_, index) => `e${index}`)
const HEADER = ['external_id', ...COMPONENTS].join(',')

function toCsv(rows: (string | number)[][], header = HEADER): string {
  return [header, ...rows.map((row) => row.join(','))].join('\n')
}

function toJsonl(rows: object[]): string {
  return rows.map((row) => `${JSON.stringify(row)}\n`).join('')
}

function toNpy(
  rows: number[][],
  {
    version = 1,
    type = '<f4',
    order = 'False',
    shape = `(${rows.length}, 512)`,
    width = type.endsWith('8') ? 8 : 4,
  } = {},
): Buffer {
  const dictionary = `{'descr': '${type}', 'fortran_order': ${order}, 'shape': ${shape}, }`
  const prefix = Buffer.alloc(version === 1 ? 10 : 12)
  prefix.write('\x93NUMPY', 'latin1')
  prefix.writeUInt8(version, 6)
  const header = Buffer.from(`${dictionary.padEnd(127 - prefix.length)}\n`)
  if (version === 1) prefix.writeUInt16LE(header.length, 8)
  else prefix.writeUInt32LE(header.length, 8)
  const data = Buffer.alloc(rows.flat().length * width)
  for (const [index, component] of rows.flat().entries()) {
    if (width === 8) data.writeDoubleLE(component, index * 8)
    else data.writeFloatLE(component, index * 4)
  }
  return Buffer.concat([prefix, header, data])
}

function toBase64(numbers: number[]): string {
  return Buffer.from(Float32Array.from(numbers).buffer).toString('base64')
}

async function readRows(file: EmbeddingFile): Promise<FileRow[]> {
  const rows: FileRow[] = []
  for await (const row of file.rows()) rows.push(row)
  return rows
}

/** The place of each row and why it is refused; '' when it is not. */
async function readFaults(path: string, ids?: string): Promise<[number, string][]> {
  const rows = await readRows(await openEmbeddingFile(path, undefined, ids))
  return rows.map((row) => {
    const face = toFace(row)
    return [row.place, typeof face === 'string' ? face : '']
  })
}

function makeTenant(name = `tenant ${randomBytes(4).toString('hex')}`): Promise<string> {
  return createTenant(database.connection, masterKeys, name, 'test')
}

interface Run {
  totals: ImportTotals
  rejects: Reject[]
}

async function importInto(
  tenantId: string,
  file: EmbeddingFile,
  options: { isReplacing?: boolean; batchSize?: number; connection?: Connection; isDryRun?: boolean } = {},
): Promise<Run> {
  const { isReplacing = false, batchSize = 1000, connection = database.connection, isDryRun = false } = options
  const rejects: Reject[] = []
  const toVectorArray = await findVectorArray(connection, database.isNative)
  const findKeys = () => findTemplateKeys(connection, masterKeys, tenantId, MODEL)
  const totals = await importFaces(connection, file, {
    gallery: isDryRun ? null : { tenantId, keys: await findKeys(), model: MODEL, toVectorArray },
    findKeys,
    isReplacing,
    batchSize,
    onRows: () => {},
    onReject: async (reject) => void rejects.push(reject),
  })
  return { totals, rejects }
}

async function importCsv(tenantId: string, rows: (string | number)[][], options?: Parameters<typeof importInto>[2]) {
  return importInto(tenantId, await openEmbeddingFile(await write('faces.csv', toCsv(rows))), options)
}

/** What is enrolled of a tenant's faces, but for ids and times: the embeddings as the sealed copies have them. */
async function readGallery(tenantId: string): Promise<Record<string, unknown>[]> {
  const rows = await database.connection.query<{
    external_id: string
    model: string
    vector: string
    id: string
    sealed: string
  }>(
    `select external_id, model, metadata, quality_score::text, embedding::text as vector, id,
      encode(sealed, 'base64') as sealed
    from faces where tenant_id = $1 order by external_id`,
    [tenantId],
  )
  if (rows.length === 0) return []
  const [keyring] = await findTemplateKeys(database.connection, masterKeys, tenantId, MODEL)
  return Promise.all(
    rows.map(async ({ id, vector, sealed, ...row }) => {
      const face = { id, externalId: row.external_id, model: row.model }
      const embedding = await open(keyring, face, fromBase64(sealed))
      if (embedding === 'not opened') throw new Error(`the sealed copy of ${row.external_id} does not open`)
      // what a search finds it by
      expect(Float32Array.from(JSON.parse(vector))).toEqual(rotate(rotationOf(keyring, row.model), embedding))
      return { ...row, embedding }
    }),
  )
}

/** The rows themselves, to see that nothing has touched them. */
async function readFaceRows(tenantId: string): Promise<unknown[]> {
  return database.connection.query('select to_jsonb(f) as row from faces f where tenant_id = $1 order by external_id', [
    tenantId,
  ])
}

async function countUsage(tenantId: string): Promise<Record<string, number>> {
  const rows = await database.connection.query<{ kind: string; events: number }>(
    'select kind, count(*)::int as events from usage_events where tenant_id = $1 group by kind',
    [tenantId],
  )
  return Object.fromEntries(rows.map(({ kind, events }) => [kind, events]))
}

async function enrollByApi(tenantId: string, externalId: string, input: unknown): Promise<void> {
  const embedding = toEmbedding(input)
  if (isFault(embedding)) throw new RangeError(embedding.detail)
  const { connection } = database
  const keys = await findTemplateKeys(connection, masterKeys, tenantId, MODEL)
  const door = openDoor(tenantId, keys, (text, parameters) =>
    asTenant(connection, tenantId, () => connection.query(text, parameters)),
  )
  await enrollFace(door, { externalId, embedding, metadata: { sector: 'é' }, qualityScore: 0.87654321 })
}

describe('a CSV file', () => {
  it('finds its columns by name, in any order, under either name of the person, and tells which it does not read', async () => {
    const header = ['photo', ...COMPONENTS.toReversed(), ' identity ', 'quality_score', 'metadata']
    const metadata = '"{""sector"": ""north, gate\n2""}"'
    const escaped = metadata.replace('\n', '\\n')
    const path = await write(
      'faces.csv',
      `\ufeff${toCsv(
        [
          ['1.jpg', ...faceOf(0).toReversed(), 'ada', 0.5, escaped],
          [''],
          ['2.jpg', ...faceOf(1).toReversed(), '"o""neil"', '', ' '],
        ],
        header.join(','),
      ).replaceAll('\n', '\r\n')}`,
    )
    const file = await openEmbeddingFile(path)
    expect(file).toMatchObject({ format: 'csv', unit: 'line', ignored: ['photo'], total: 3 })
    expect(await readRows(file)).toEqual([
      {
        place: 2,
        externalId: 'ada',
        embedding: faceOf(0),
        qualityScore: 0.5,
        metadata: { sector: 'north, gate\n2' },
      },
      { place: 4, externalId: 'o"neil', embedding: faceOf(1), qualityScore: undefined },
    ])
  })

  it('reads a cell that goes on over the end of a line, and counts lines as an editor does', async () => {
    const header = `${HEADER},metadata`
    const path = await write(
      'faces.csv',
      toCsv(
        [
          ['ada', ...faceOf(0), '"{\n""a"":\n1}"'],
          ['bob', ...faceOf(1), ''],
        ],
        header,
      ),
    )
    const rows = await readRows(await openEmbeddingFile(path))
    expect(rows).toMatchObject([
      { place: 2, metadata: { a: 1 } },
      { place: 5, externalId: 'bob' },
    ])
  })

  it.each([
    ['no name of the person', COMPONENTS.join(','), 'there is no column "external_id" or "identity".'],
    ['no first component', HEADER.replace('e0,', ''), 'there is no column "e0".'],
    ['no last component', HEADER.replace(',e511', ''), 'there is no column "e511".'],
    ['a component too many', `${HEADER},e512`, 'there is a column "e512", and an embedding has 512 components.'],
    ['a component twice', `${HEADER},e7`, 'there are two columns "e7".'],
    ['nothing in it', '', 'there are no column names.'],
  ])('is refused with %s', async (_, header, fault) => {
    await expect(openEmbeddingFile(await write('faces.csv', header))).rejects.toThrow(`Line 1: ${fault}`)
  })

  it('refuses a row that is no face, names its line and goes on', async () => {
    const header = `${HEADER},metadata,quality_score`
    const good = faceOf(0)
    const rows: [(string | number)[], string][] = [
      [['ada', ...good, '', ''], ''],
      [['ada', ...good, ''], 'Must have 515 cells as line 1 has, not 514.'],
      [['ada', ...good.with(3, Number.NaN), '', ''], 'e3: Must be a finite number.'],
      [['ada', ...good.slice(1), ' ', '', ''], 'e511: Must be a finite number.'],
      [['ada', '1e999', ...good.slice(1), '', ''], 'e0: Must be a finite number.'],
      [
        ['ada', ...good.map(() => 0), '', ''],
        'embedding: Must be L2-normalized: the norm must be 1, and 0.5 to 2 is accepted.',
      ],
      [
        ['ada', ...good.map((n) => n * 20), '', ''],
        'embedding: Must be L2-normalized: the norm must be 1, and 0.5 to 2 is accepted.',
      ],
      [['', ...good, '', ''], 'external_id: Must have 1 to 255 characters.'],
      [['a'.repeat(256), ...good, '', ''], 'external_id: Must have 1 to 255 characters.'],
      [['a'.repeat(255), ...good, '', ''], ''],
      [[' ada', ...good, '', ''], 'external_id: Must not begin or end with a space.'],
      [['..', ...good, '', ''], 'external_id: Must not be "." or "..": a URL cannot address them.'],
      [['Ame\u0301lie', ...good, '', ''], 'external_id: Must be in Unicode normalization form C.'],
      [['a\u200bda', ...good, '', ''], 'external_id: Must not have control or invisible characters.'],
      [['ada', ...good, '{x}', ''], 'metadata: Must be JSON.'],
      [['ada', ...good, '[]', ''], 'metadata: Must be an object.'],
      [['ada', ...good, '"{""a"":1,""a"":2}"', ''], 'metadata: Give each key of an object once.'],
      [['ada', ...good, `"{""a"":""${'x'.repeat(8185)}""}"`, ''], 'metadata: Must take at most 8192 bytes.'],
      [['ada', ...good, `"{""a"":""${'x'.repeat(8184)}""}"`, ''], ''],
      [['ada', ...good, '', '1.01'], 'quality_score: Must be a number from 0 to 1.'],
      [['ada', ...good, '', 'good'], 'quality_score: Must be a number from 0 to 1.'],
      [['a"b', ...good, '', ''], 'A quotation mark stands in the wrong place.'],
      [['"a"b', ...good, '', ''], 'A quotation mark stands in the wrong place.'],
      [['bob', ...good, '{}', '1'], ''],
      [['"zoe', ...good, '{}', '1'], 'A quotation mark stands in the wrong place.'],
    ]
    const path = await write(
      'faces.csv',
      toCsv(
        rows.map(([cells]) => cells),
        header,
      ),
    )
    expect(await readFaults(path)).toEqual(rows.map(([, fault], index) => [index + 2, fault]))
  })
})

describe('a JSON Lines file', () => {
  it('takes numbers and base64, with and without the rest', async () => {
    const path = await write(
      'faces.ndjson',
      `${toJsonl([
        { external_id: 'ada', embedding: faceOf(0), metadata: { a: 1 }, quality_score: 1 },
        { external_id: 'bob', embedding: toBase64(faceOf(1)), quality_score: null },
      ])}\n\n`,
    )
    const file = await openEmbeddingFile(path)
    expect(file).toMatchObject({ format: 'jsonl', unit: 'line' })
    expect(await readRows(file)).toMatchObject([
      { place: 1, externalId: 'ada', embedding: faceOf(0), metadata: { a: 1 }, qualityScore: 1 },
      { place: 2, externalId: 'bob', embedding: toBase64(faceOf(1)) },
    ])
    expect(await readFaults(path)).toEqual([
      [1, ''],
      [2, ''],
    ])
  })

  it('refuses a row that is no face, names its line and goes on', async () => {
    const face = { external_id: 'ada', embedding: faceOf(0) }
    const text = JSON.stringify(face)
    const lines: [string, string][] = [
      ['{"external_id": "ada"', 'Must be one JSON object on one line.'],
      ['[]', 'Must be one JSON object on one line.'],
      ['null', 'Must be one JSON object on one line.'],
      [text, ''],
      [
        JSON.stringify({ ...face, name: 'Ada' }),
        'Must have only the fields external_id, embedding, metadata, quality_score.',
      ],
      [text.replace('{', '{"external_id":"bob",'), 'Give each key of an object once.'],
      [JSON.stringify({ ...face, external_id: 4711 }), 'external_id: Must be text.'],
      [JSON.stringify({ embedding: face.embedding }), 'external_id: Must be text.'],
      [
        JSON.stringify({ ...face, external_id: 'a\u0000' }),
        'external_id: Must not have control or invisible characters.',
      ],
      [text.replace('"ada"', '"\\ud800"'), 'external_id: Must be well-formed Unicode.'],
      [JSON.stringify({ ...face, embedding: faceOf(0).slice(1) }), 'embedding: Must have 512 components, not 511.'],
      [JSON.stringify({ ...face, embedding: faceOf(0).with(2, Number.NaN) }), 'e2: Must be a finite number.'],
      [
        JSON.stringify({ ...face, embedding: 'AAAA' }),
        'embedding: Must be base64 of 512 little-endian float32 (2732 characters).',
      ],
      [
        JSON.stringify({ ...face, embedding: toBase64(Array(512).fill(0)) }),
        'embedding: Must be L2-normalized: the norm must be 1, and 0.5 to 2 is accepted.',
      ],
      [JSON.stringify({ ...face, embedding: toBase64(faceOf(0).with(2, Number.NaN)) }), 'e2: Must be a finite number.'],
      [JSON.stringify({ ...face, metadata: null }), 'metadata: Must be an object.'],
      [`{"metadata":${'{"a":'.repeat(9)}1${'}'.repeat(9)},${text.slice(1)}`, 'Nest at most 8 levels deep.'],
      [
        JSON.stringify({ ...face, metadata: { a: '\ud800' } }),
        'metadata: Must have only well-formed text without NUL, and numbers of at most 2^53 - 1 and at least 1e-15, or 0.',
      ],
      [JSON.stringify({ ...face, quality_score: '0.5' }), 'quality_score: Must be a number from 0 to 1.'],
      [JSON.stringify({ ...face, quality_score: -0.1 }), 'quality_score: Must be a number from 0 to 1.'],
    ]
    const path = await write('faces.jsonl', lines.map(([line]) => line).join('\n'))
    expect(await readFaults(path)).toEqual(lines.map(([, fault], index) => [index + 1, fault]))
  })
})

describe('a text file', () => {
  it.each([0, 1])(
    'may be longer than what is read at once, with characters of two bytes across the seams (%i)',
    async (shift) => {
      const names = Array.from({ length: 100 }, (_, index) => `é${'ü'.repeat(index)}`)
      const embedding = toBase64(faceOf(0))
      const rows = names.map((external_id) => ({ external_id, embedding, metadata: { é: 'ñ'.repeat(4000) } }))
      // an empty line moves every seam by a byte: in one of the two files it falls into a character
      const path = await write('faces.jsonl', '\n'.repeat(shift) + toJsonl(rows))
      expect((await stat(path)).size).toBeGreaterThan(4 * 256 * 1024)
      const read = await readRows(await openEmbeddingFile(path))
      expect(read.map(({ externalId }) => externalId)).toEqual(names)
      expect(read.every((row) => typeof toFace(row) === 'object')).toBe(true)
    },
  )

  it('that is not UTF-8 is refused where that shows', async () => {
    const path = await write('faces.jsonl', Buffer.from([0x7b, 0xff, 0x7d]))
    await expect(readFaults(path)).rejects.toThrow('is not in UTF-8, at line 1 or soon after.')
  })

  it('with a line that never ends, or a quotation mark that never closes, is not read into memory', async () => {
    const endless = await write('faces.jsonl', `{}\n${' '.repeat(3 * 1024 * 1024)}`)
    await expect(readFaults(endless)).rejects.toThrow('Line 2 is longer than 1048576 characters.')
    const row = faceOf(0).join(',')
    const open = await write('faces.csv', `${HEADER}\n"ada,${row}\n${`bob,${row}\n`.repeat(200)}`)
    await expect(readFaults(open)).rejects.toThrow('Line 2: a quotation mark is not closed.')
  })

  it('of an unknown ending needs a word about what it is', async () => {
    const path = await write('faces.txt', toCsv([['ada', ...faceOf(0)]]))
    await expect(openEmbeddingFile(path)).rejects.toThrow(/--format csv\|jsonl\|npy/)
    expect(await readRows(await openEmbeddingFile(path, 'csv'))).toHaveLength(1)
    // whatever it may be, it is not there
    for (const none of ['none.csv', 'none']) {
      await expect(openEmbeddingFile(join(folder, none))).rejects.toThrow(/^There is no file/)
    }
    await expect(openEmbeddingFile(folder, 'csv')).rejects.toThrow(/is not a file/)
  })
})

describe('a NumPy file', () => {
  const rows = [faceOf(0), faceOf(1), faceOf(2)]

  it.each([
    [1, '<f4'],
    [2, '<f4'],
    [3, '<f4'],
    [1, '<f8'],
  ])('of version %i with %s is read, with its names beside it', async (version, type) => {
    const path = await write('faces.npy', toNpy(rows, { version, type }))
    const ids = await write('ids.txt', 'ada\nbob\r\nzoë')
    const file = await openEmbeddingFile(path, undefined, ids)
    expect(file).toMatchObject({ format: 'npy', unit: 'row', total: 3 })
    const expected = type === '<f8' ? rows : rows.map((row) => Array.from(Float32Array.from(row)))
    expect(await readRows(file)).toEqual(
      ['ada', 'bob', 'zoë'].map((externalId, index) => ({ place: index + 1, externalId, embedding: expected[index] })),
    )
  })

  it('longer than what is read at once keeps its rows in order', async () => {
    const many = Array.from({ length: 1100 }, (_, index) => faceOf(index % 40).with(511, index / 10_000))
    const path = await write('faces.npy', toNpy(many))
    const ids = await write('ids.txt', many.map((_, index) => `p${index}\n`).join(''))
    const read = await readRows(await openEmbeddingFile(path, undefined, ids))
    expect(read).toHaveLength(1100)
    const wrong = read.findIndex((row, index) => {
      const last = row.fault === undefined && Array.isArray(row.embedding) ? row.embedding[511] : Number.NaN
      return row.externalId !== `p${index}` || last !== Math.fround(index / 10_000)
    })
    expect(wrong).toBe(-1)
  })

  it('refuses a row that is no face, names it and goes on', async () => {
    const path = await write(
      'faces.npy',
      toNpy([faceOf(0), faceOf(1).with(9, Number.NaN), Array(512).fill(0), faceOf(2)]),
    )
    const ids = await write('ids.txt', 'ada\nbob\nzoe\n\n')
    expect(await readFaults(path, ids)).toEqual([
      [1, ''],
      [2, 'e9: Must be a finite number.'],
      [3, 'embedding: Must be L2-normalized: the norm must be 1, and 0.5 to 2 is accepted.'],
      [4, 'external_id: Must have 1 to 255 characters.'],
    ])
  })

  const good = toNpy(rows)
  it.each<[string, Buffer, RegExp]>([
    ['cut off by a byte', good.subarray(0, -1), /has 6271 bytes, and 3 rows take 6272: it is cut off/],
    ['a byte too long', Buffer.concat([good, Buffer.alloc(1)]), /it is too long/],
    ['cut off in its header', good.subarray(0, 60), /is cut off, or no \.npy file/],
    ['empty', Buffer.alloc(0), /is not a \.npy file/],
    ['a picture', Buffer.from('\x89PNG and the rest of it', 'latin1'), /is not a \.npy file/],
    ['in Fortran order', toNpy(rows, { order: 'True' }), /is in Fortran order/],
    ['big-endian', toNpy(rows, { type: '>f4' }), /not >f4, big-endian/],
    ['of whole numbers', toNpy(rows, { type: '<i4' }), /not <i4\./],
    ['of Python objects', toNpy(rows, { type: '|O' }), /not \|O\./],
    ['of 511 components', toNpy(rows, { shape: '(3, 511)' }), /must have the shape \(n, 512\), not \(3, 511\)/],
    ['of one dimension', toNpy(rows, { shape: '(1536,)' }), /must have the shape \(n, 512\), not \(1536\)/],
    ['of three dimensions', toNpy(rows, { shape: '(3, 512, 1)' }), /must have the shape/],
    ['of another version', toNpy(rows, { version: 4 }), /header of version 4/],
    [
      'longer by its header than by its bytes',
      toNpy(rows, { shape: '(99999999999999999999, 512)' }),
      /must have the shape|cut off/,
    ],
  ])('%s is refused before its first row', async (_, content, fault) => {
    const ids = await write('ids.txt', 'ada\nbob\nzoe\n')
    await expect(openEmbeddingFile(await write('faces.npy', content), undefined, ids)).rejects.toThrow(fault)
  })

  it('needs exactly one name a row, and only it takes names', async () => {
    const path = await write('faces.npy', good)
    await expect(openEmbeddingFile(path)).rejects.toThrow(/--ids FILE/)
    for (const ids of ['ada\nbob\n', 'ada\nbob\nzoe\neve']) {
      await expect(openEmbeddingFile(path, undefined, await write('ids.txt', ids))).rejects.toThrow(
        /has [24] lines, and .* has 3 rows/,
      )
    }
    const csv = await write('faces.csv', HEADER)
    await expect(openEmbeddingFile(csv, undefined, csv)).rejects.toThrow(/--ids is for \.npy/)
  })
})

describe('an import', () => {
  it('stores what the API stores for the same input, whatever the file', async () => {
    // not quite normalized, and with digits that float32 cannot hold
    const input = faceOf(0).map((component) => component * 1.2345678901234567 + 1e-9)
    const single = Array.from(Float32Array.from(input))
    const meta = { metadata: { sector: 'é' }, quality_score: 0.87654321 }
    const csv = [['csv', ...input, '"{""sector"":""é""}"', 0.87654321]]
    const files: [EmbeddingFile, unknown, Record<string, unknown>][] = [
      [await openEmbeddingFile(await write('f.csv', toCsv(csv, `${HEADER},metadata,quality_score`))), input, {}],
      [
        await openEmbeddingFile(await write('f.jsonl', toJsonl([{ external_id: 'jsonl', embedding: input, ...meta }]))),
        input,
        {},
      ],
      [
        await openEmbeddingFile(
          await write('f.jsonl', toJsonl([{ external_id: 'base64', embedding: toBase64(input), ...meta }])),
        ),
        toBase64(input),
        {},
      ],
      [
        await openEmbeddingFile(await write('f.npy', toNpy([input])), 'npy', await write('ids.txt', 'npy4')),
        single,
        { metadata: {}, quality_score: null },
      ],
      [
        await openEmbeddingFile(
          await write('f.npy', toNpy([input], { type: '<f8' })),
          'npy',
          await write('ids.txt', 'npy8'),
        ),
        input,
        { metadata: {}, quality_score: null },
      ],
    ]
    for (const [file, body, without] of files) {
      const [tenantId, twin] = [await makeTenant(), await makeTenant()]
      expect((await importInto(tenantId, file)).totals).toMatchObject({ enrolled: 1, rejected: 0 })
      const [imported] = await readGallery(tenantId)
      await enrollByApi(twin, String(imported?.['external_id']), body)
      expect([imported]).toEqual([{ ...(await readGallery(twin))[0], ...without }])
    }
  })

  it('meters one registration for each face, as the API does, and counts the gallery', async () => {
    const tenantId = await makeTenant()
    const rows = PEOPLE.map(({ name }, person) => [name, ...faceOf(person)])
    const { totals } = await importCsv(tenantId, [...rows, ['nobody', ...Array(512).fill(0)]], { batchSize: 7 })
    expect(totals).toEqual({ read: 41, enrolled: 40, replaced: 0, skipped: 0, rejected: 1 })
    expect(await countUsage(tenantId)).toEqual({ registration: 40 })
    expect(await findTenant(database.connection, tenantId)).toMatchObject({ faces: 40 })
  })

  it('run again changes nothing and meters nothing', async () => {
    const tenantId = await makeTenant()
    const rows = PEOPLE.map(({ name }, person) => [name, ...faceOf(person)])
    await importCsv(tenantId, rows)
    const before = await readFaceRows(tenantId)
    for (const isReplacing of [false, true]) {
      const { totals, rejects } = await importCsv(tenantId, rows, { isReplacing, batchSize: 11 })
      expect(totals).toEqual({ read: 40, enrolled: 0, replaced: 0, skipped: 40, rejected: 0 })
      expect(rejects).toEqual([])
    }
    expect(await readFaceRows(tenantId)).toEqual(before)
    expect(await countUsage(tenantId)).toEqual({ registration: 40 })
  })

  it('refuses another face under an external_id that is enrolled, and replaces it when asked, metered', async () => {
    const tenantId = await makeTenant()
    await enrollByApi(tenantId, 'ada', faceOf(0))
    await importCsv(tenantId, [['bob', ...faceOf(1)]])
    const ids = () =>
      database.connection.query<{ id: string; created_at: Date }>(
        'select id, created_at from faces where tenant_id = $1 order by external_id',
        [tenantId],
      )
    const idsBefore = await ids()
    const before = [await readFaceRows(tenantId), idsBefore]
    const rows = [
      ['ada', ...faceOf(0, 1)],
      ['bob', ...faceOf(1)],
      ['eve', ...faceOf(2)],
    ]
    const refused = await importCsv(tenantId, rows.slice(0, 2))
    expect(refused.totals).toEqual({ read: 2, enrolled: 0, replaced: 0, skipped: 1, rejected: 1 })
    expect(refused.rejects).toEqual([
      {
        place: 2,
        externalId: 'ada',
        reason: 'external_id: Is enrolled already, with another embedding. --replace replaces it.',
      },
    ])
    expect([await readFaceRows(tenantId), await ids()]).toEqual(before)

    const { totals } = await importCsv(tenantId, rows, { isReplacing: true })
    expect(totals).toEqual({ read: 3, enrolled: 1, replaced: 1, skipped: 1, rejected: 0 })
    expect(await countUsage(tenantId)).toEqual({ registration: 4 })
    // another face for who was replaced, enrolled when the first was; the same for who was not
    const [ada, bob] = await ids()
    const [adaBefore, bobBefore] = idsBefore
    expect(ada).toEqual({ id: expect.any(String), created_at: adaBefore?.created_at })
    expect(ada?.id).not.toBe(adaBefore?.id)
    expect(bob).toEqual(bobBefore)
    const twin = await makeTenant()
    await importCsv(twin, rows)
    expect(await readGallery(tenantId)).toEqual(await readGallery(twin))
  })

  it('refuses an embedding of another model, which no probe can be compared with', async () => {
    const tenantId = await makeTenant()
    await importCsv(tenantId, [['ada', ...faceOf(0)]])
    await database.connection.query("update faces set model = 'other@1' where tenant_id = $1", [tenantId])
    const { rejects } = await importCsv(tenantId, [['ada', ...faceOf(0)]])
    expect(rejects).toMatchObject([{ reason: expect.stringContaining('with an embedding of another model') }])
    expect((await importCsv(tenantId, [['ada', ...faceOf(0)]], { isReplacing: true })).totals.replaced).toBe(1)
    expect(await readGallery(tenantId)).toMatchObject([{ model: MODEL }])
  })

  it.each([
    ['one transaction', 1000],
    ['several', 2],
  ])(
    'of one external_id twice keeps the first and refuses the other, in %s, replacing or not, however often',
    async (_, batchSize) => {
      const rows = [
        ['ada', ...faceOf(0)],
        ['bob', ...faceOf(1)],
        ['ada', ...faceOf(0)],
        ['eve', ...faceOf(2)],
        ['ada', ...faceOf(0, 1)],
      ]
      const tenantId = await makeTenant()
      const first = await importCsv(tenantId, rows, { batchSize })
      expect(first.totals).toEqual({ read: 5, enrolled: 3, replaced: 0, skipped: 1, rejected: 1 })
      expect(first.rejects).toMatchObject([{ place: 6, externalId: 'ada' }])
      const stored = await readFaceRows(tenantId)

      for (let run = 0; run < 2; run++) {
        const again = await importCsv(tenantId, rows, { batchSize, isReplacing: true })
        expect(again.totals).toEqual({ read: 5, enrolled: 0, replaced: 0, skipped: 4, rejected: 1 })
        expect(again.rejects).toEqual([
          {
            place: 6,
            externalId: 'ada',
            reason: 'external_id: An earlier row of this file has it, with another embedding.',
          },
        ])
      }
      expect(await readFaceRows(tenantId)).toEqual(stored)
      expect(await countUsage(tenantId)).toEqual({ registration: 3 })
    },
  )

  it('that stops keeps the transactions before, and run again ends as one run would', async () => {
    const [tenantId, twin] = [await makeTenant(), await makeTenant()]
    const rows = PEOPLE.map(({ name }, person) => [name, ...faceOf(person)])
    const whole = await openEmbeddingFile(await write('faces.csv', toCsv(rows)))
    const torn: EmbeddingFile = {
      ...whole,
      async *rows() {
        for await (const row of whole.rows()) {
          if (row.place === 26) throw new Error('the disk is gone')
          yield row
        }
      },
    }
    await expect(importInto(tenantId, torn, { batchSize: 10 })).rejects.toThrow('the disk is gone')
    expect(await readGallery(tenantId)).toHaveLength(20)
    expect(await countUsage(tenantId)).toEqual({ registration: 20 })

    const { totals } = await importInto(tenantId, whole, { batchSize: 10 })
    expect(totals).toEqual({ read: 40, enrolled: 20, replaced: 0, skipped: 20, rejected: 0 })
    await importInto(twin, whole)
    expect(await readGallery(tenantId)).toEqual(await readGallery(twin))
    expect(await countUsage(tenantId)).toEqual(await countUsage(twin))
  })

  it('enrolls and meters in one transaction: without the one there is not the other', async () => {
    const tenantId = await makeTenant()
    await database.connection.execute(
      `alter table usage_events add constraint test_unmetered check (tenant_id <> '${tenantId}') not valid`,
    )
    try {
      const { totals } = await importCsv(tenantId, [['ada', ...faceOf(0)]])
      expect(totals).toMatchObject({ enrolled: 0, rejected: 1 })
    } finally {
      await database.connection.execute('alter table usage_events drop constraint test_unmetered')
    }
    expect(await readGallery(tenantId)).toEqual([])
  })

  it('loses no other row to one that the database refuses', async () => {
    const tenantId = await makeTenant()
    await database.connection.execute(
      "alter table faces add constraint test_refusal check (external_id <> 'refused here') not valid",
    )
    try {
      const { totals, rejects } = await importCsv(tenantId, [
        ['ada', ...faceOf(0)],
        ['refused here', ...faceOf(1)],
        ['bob', ...faceOf(2)],
      ])
      expect(totals).toMatchObject({ enrolled: 2, rejected: 1 })
      expect(rejects).toEqual([
        { place: 3, externalId: 'refused here', reason: 'The database refuses the row (SQLSTATE 23514).' },
      ])
    } finally {
      await database.connection.execute('alter table faces drop constraint test_refusal')
    }
  })

  it('stays in its tenant: a rival with the same names neither hinders it nor is changed', async () => {
    const [tenantId, rival] = [await makeTenant(), await makeTenant()]
    await importCsv(rival, [['ada', ...faceOf(0)]])
    const before = await readFaceRows(rival)
    const { totals } = await importCsv(tenantId, [['ada', ...faceOf(1)]], { isReplacing: true })
    expect(totals).toMatchObject({ enrolled: 1, replaced: 0 })
    expect(await readFaceRows(rival)).toEqual(before)
    expect(await countUsage(rival)).toEqual({ registration: 1 })
  })

  it('leaves the administrator who he was, in no tenant', async () => {
    await importCsv(await makeTenant(), [['ada', ...faceOf(0)]])
    const [who] = await database.connection.query(
      "select current_user::text as name, coalesce(current_setting('app.current_tenant_id', true), '') as tenant",
    )
    expect(who).toEqual({ name: database.admin.role, tenant: '' })
  })

  it('tried dry counts the same refusals and writes nothing', async () => {
    const tenantId = await makeTenant()
    const rows = [
      ['ada', ...faceOf(0)],
      ['..', ...faceOf(1)],
    ]
    const { totals } = await importCsv(tenantId, rows, { isDryRun: true })
    expect(totals).toMatchObject({ read: 2, rejected: 1 })
    expect(await readGallery(tenantId)).toEqual([])
  })
})

describe('a seeded tenant', () => {
  const PLAN = { name: 'Seed for the test', faces: 50, verifications: 80, identifications: 40 }
  let seeded: { id: string; apiKey: string }

  beforeAll(async () => {
    const { connection } = database
    const toVectorArray = await findVectorArray(connection, database.isNative)
    const made = await seedTenant(connection, toVectorArray, { pepper: PEPPER, masterKeys }, PLAN, 1, () => {})
    if (!made) throw new RangeError('nothing was seeded')
    seeded = made
  })

  it('has the gallery that its name says, alike as real faces are, enrolled over three months', async () => {
    expect(await findTenant(database.connection, PLAN.name)).toMatchObject({ faces: 50, environment: 'test' })
    const [gallery] = await database.connection.query(
      `select count(*)::int as faces, count(distinct external_id)::int as people, count(distinct to_char(created_at, 'YYYY-MM'))::int as months,
        bool_and(quality_score between 0 and 1) as has_quality, max(created_at) < now() as is_past
      from faces where tenant_id = $1`,
      [seeded.id],
    )
    expect(gallery).toEqual({ faces: 50, people: 50, months: expect.any(Number), has_quality: true, is_past: true })
    expect(gallery).toHaveProperty(
      'months',
      expect.toSatisfy((months: number) => months >= 3),
    )
  })

  it('has decisions of both kinds, by the thresholds, after the person was enrolled', async () => {
    const decided = await database.connection.query(
      `select verified as is_match, count(*)::int as decisions, bool_and(verified = (confidence >= threshold)) as is_right,
        bool_and(v.face_id is null or v.created_at >= f.created_at) as is_later
      from verifications v left join faces f on f.tenant_id = v.tenant_id and f.id = v.face_id
      where v.tenant_id = $1 group by verified order by verified`,
      [seeded.id],
    )
    expect(decided).toMatchObject([
      { is_match: false, is_right: true, is_later: true },
      { is_match: true, is_right: true, is_later: true },
    ])
    const searched = await database.connection.query(
      `select identified as is_match, bool_and(identified = (confidence >= threshold and external_id is not null)) as is_right,
        bool_and((faces_matched > 0) = identified and faces_searched between 50 and 51) as is_counted
      from identifications where tenant_id = $1 group by identified order by identified`,
      [seeded.id],
    )
    expect(searched).toEqual([
      { is_match: false, is_right: true, is_counted: true },
      { is_match: true, is_right: true, is_counted: true },
    ])
  })

  it('is metered for all of it: what was rolled up and what was not are together what happened', async () => {
    const [rolled] = await database.connection.query<Record<string, number>>(
      `select count(distinct period)::int as months, sum(registrations)::int as registration, sum(verifications)::int as verification,
        sum(identifications)::int as identification from usage_records where tenant_id = $1`,
      [seeded.id],
    )
    const waiting = await countUsage(seeded.id)
    expect(rolled?.['months']).toBeGreaterThanOrEqual(3)
    expect(waiting).toEqual({ verification: 10, identification: 10, deletion: 1 })
    expect(rolled).toMatchObject({ registration: 51, verification: 70, identification: 30 })
  })

  it('is entered by its key, with every scope', async () => {
    expect(isApiKey(seeded.apiKey) && seeded.apiKey.startsWith('rk_test_')).toBe(true)
    expect(await enter(seeded.id, seeded.apiKey)).toEqual([...SCOPES])
  })

  it('is not made twice', async () => {
    const toVectorArray = await findVectorArray(database.connection, database.isNative)
    expect(
      await seedTenant(database.connection, toVectorArray, { pepper: PEPPER, masterKeys }, PLAN, 1, () => {}),
    ).toBeNull()
    expect((await listTenants(database.connection)).filter(({ name }) => name === PLAN.name)).toHaveLength(1)
  })

  it('takes more faces, each time others', async () => {
    const tenantId = await makeTenant()
    const toVectorArray = await findVectorArray(database.connection, database.isNative)
    for (const expected of [501, 504]) {
      await seedFaces(database.connection, toVectorArray, masterKeys, tenantId, expected === 501 ? 501 : 3, () => {})
      expect(await findTenant(database.connection, tenantId)).toMatchObject({ faces: expected })
    }
    expect(await countUsage(tenantId)).toEqual({ registration: 504 })
  })
})

/** Enters a tenant as the Worker does; answers the scopes. */
async function enter(tenantId: string, apiKey: string): Promise<string[]> {
  if (!isApiKey(apiKey)) throw new RangeError('this is no key')
  const hash = await hashApiKey(apiKey, await toPepper(PEPPER))
  const [row] = await database.connection.query<{ scopes: string[] }>(
    "select enter_tenant_by_api_key($1, decode($2, 'hex'), 'verify') as scopes",
    [tenantId, hash],
  )
  return row?.scopes ?? []
}

describe('an API key', () => {
  async function makeKey(tenantId: string): Promise<string> {
    return createApiKey(database.connection, PEPPER, tenantId, 'test', 'gate', ['verify'])
  }

  it('that was revoked is refused at the next request, and another of the tenant is not', async () => {
    const tenantId = await makeTenant()
    const [revoked, kept] = [await makeKey(tenantId), await makeKey(tenantId)]
    expect(await enter(tenantId, revoked)).toEqual(['verify'])
    const key = await findKey(database.connection, tenantId, `${revoked.slice(0, 12)}…`)
    expect(await revokeKey(database.connection, tenantId, key.id)).toBe(true)
    await expect(enter(tenantId, revoked)).rejects.toMatchObject({ code: 'RK411' })
    expect(await enter(tenantId, kept)).toEqual(['verify'])

    const [first] = await listKeys(database.connection, tenantId)
    expect(first?.revoked_at).toBeInstanceOf(Date)
    // the moment of the revocation stays
    expect(await revokeKey(database.connection, tenantId, key.id)).toBe(false)
    expect((await listKeys(database.connection, tenantId))[0]).toEqual(first)
  })

  it('of another tenant cannot be revoked by naming the wrong one', async () => {
    const [tenantId, rival] = [await makeTenant(), await makeTenant()]
    const apiKey = await makeKey(rival)
    const [key] = await listKeys(database.connection, rival)
    if (!key) throw new RangeError('the rival has a key')
    expect(await revokeKey(database.connection, tenantId, key.id)).toBe(false)
    await expect(findKey(database.connection, tenantId, key.id)).rejects.toThrow(/no such key/)
    expect(await enter(rival, apiKey)).toEqual(['verify'])
  })

  it('is revoked by its prefix only when one begins so, and by its id always', async () => {
    const tenantId = await makeTenant()
    await makeKey(tenantId)
    await makeKey(tenantId)
    await database.connection.query("update api_keys set prefix = 'rk_live_same' where tenant_id = $1", [tenantId])
    await expect(findKey(database.connection, tenantId, 'rk_live_same')).rejects.toThrow(/^2 keys begin with/)
    const [, second] = await listKeys(database.connection, tenantId)
    expect(await findKey(database.connection, tenantId, String(second?.id).toUpperCase())).toEqual(second)
  })

  const HOUR_MS = 60 * 60 * 1000

  it('that is rotated has a successor of its name and scopes, and both work until the overlap is over', async () => {
    const tenant = { id: await makeTenant(), environment: 'test' } as const
    const apiKey = await makeKey(tenant.id)
    const [old] = await listKeys(database.connection, tenant.id)
    if (!old) throw new RangeError('the tenant has a key')
    const successor = await rotateKey(database.connection, PEPPER, tenant, old.id, 24 * HOUR_MS, null)
    if (successor === null) throw new RangeError('a valid key was not rotated')
    expect(await enter(tenant.id, apiKey)).toEqual(['verify'])
    expect(await enter(tenant.id, successor)).toEqual(['verify'])
    const keys = await listKeys(database.connection, tenant.id)
    expect(keys).toMatchObject([
      { ...old, expires_at: expect.any(Date) },
      { name: old.name, scopes: old.scopes, prefix: successor.slice(0, 12), expires_at: null, last_used_at: null },
    ])
    // never later than it would have
    await rotateKey(database.connection, PEPPER, tenant, old.id, 48 * HOUR_MS, null)
    expect((await listKeys(database.connection, tenant.id))[0]).toEqual(keys[0])

    expect(await rotateKey(database.connection, PEPPER, tenant, old.id, 0, null)).not.toBeNull()
    await expect(enter(tenant.id, apiKey)).rejects.toMatchObject({ code: 'RK412' })
    expect(await enter(tenant.id, successor)).toEqual(['verify'])
    const events = await asAdmin(
      'select action, target from admin_events where tenant_id = $1 order by created_at',
      tenant.id,
    )
    expect(events.slice(1)).toEqual(Array(3).fill({ action: 'api_key.rotated', target: old.id }))
  })

  it('that is revoked, has expired or is of another tenant has no successor, and nothing is written', async () => {
    const [tenant, rival] = [
      { id: await makeTenant(), environment: 'test' },
      { id: await makeTenant(), environment: 'test' },
    ] as const
    for (let count = 0; count < 3; count++) await makeKey(tenant.id)
    const [revoked, expired, valid] = await listKeys(database.connection, tenant.id)
    await asAdmin('update api_keys set revoked_at = now() where id = $1', revoked?.id)
    await asAdmin('update api_keys set expires_at = now() where id = $1', expired?.id)
    const read = () => asAdmin('select * from api_keys where tenant_id = any ($1)', [tenant.id, rival.id])
    const before = await read()
    const attempt = (owner: typeof tenant | typeof rival, id: string | undefined) =>
      rotateKey(database.connection, PEPPER, owner, id ?? '', HOUR_MS, null)
    expect(await attempt(tenant, revoked?.id)).toBeNull()
    expect(await attempt(tenant, expired?.id)).toBeNull()
    expect(await attempt(rival, valid?.id)).toBeNull()
    expect(await read()).toEqual(before)
    expect(await attempt(tenant, valid?.id)).toMatch(/^rk_test_/)
  })

  /** Beyond row-level security: to arrange, and to look. */
  function asAdmin(text: string, parameter: unknown): Promise<object[]> {
    return database.connection.query(text, [parameter])
  }

  it('comes back to life by no hand of the owner, who may revoke it', async () => {
    const tenantId = await makeTenant()
    await makeKey(tenantId)
    const change = (assignment: string) =>
      asOwner(database.connection, () =>
        database.connection.query(`update api_keys set ${assignment} where tenant_id = $1 returning id`, [tenantId]),
      )
    expect(await change('revoked_at = now()')).toHaveLength(1)
    expect(await change('revoked_at = null')).toHaveLength(0)
    expect(await change("expires_at = now() + interval '1 day'")).toHaveLength(0)
  })

  it('is revoked by the operator, through the function only, and not by the service', async () => {
    const tenantId = await makeTenant()
    await makeKey(tenantId)
    const [key] = await listKeys(database.connection, tenantId)
    const as = async (role: string) => {
      await database.connection.execute(`begin; set local role ${role}`)
      try {
        return await database.connection.query('select revoke_api_key($1, $2) as revoked', [tenantId, key?.id])
      } finally {
        await database.connection.execute('commit')
      }
    }
    await expect(as('rekko_app')).rejects.toMatchObject({ code: '42501' })
    await expect(as('rekko_jobs')).rejects.toMatchObject({ code: '42501' })
    expect(await as('rekko_operator')).toEqual([{ revoked: true }])
  })
})

describe('a tenant', () => {
  it('is found by its id or its exact name, and not by a guess', async () => {
    const name = `Acme ${randomBytes(4).toString('hex')}`
    const id = await makeTenant(name)
    for (const reference of [id, id.toUpperCase(), name]) {
      expect(await findTenant(database.connection, reference)).toMatchObject({ id, name, faces: 0 })
    }
    for (const reference of [name.toLowerCase(), name.slice(0, -1), '', '%', crypto.randomUUID()]) {
      await expect(findTenant(database.connection, reference)).rejects.toThrow(/^There is no tenant/)
    }
    const twin = await makeTenant(name)
    await expect(findTenant(database.connection, name)).rejects.toThrow(new RegExp(`^2 tenants .* ${id}, ${twin}$`))
  })
})

describe('the target of a command', () => {
  it.each([
    ['postgres://u:p@localhost/db', true],
    ['postgres://u:p@127.0.0.1:5433/db', true],
    ['postgres://u:p@[::1]/db', true],
    ['postgres:///db?host=/var/run/postgresql', true],
    ['postgres://u:p@db.example/db', false],
    // the driver lets a parameter win
    ['postgres://u:p@localhost/db?host=db.example', false],
    ['postgres:///db?host=localhost&host=db.example', false],
    ['postgres://u:p@localhost.db.example/db', false],
  ])('%s is on this machine: %s', (url, isLocal) => {
    expect(toTarget(url, undefined)).toMatchObject({ isLocal })
  })

  it('is elsewhere when the URL has no host and PGHOST is elsewhere', () => {
    process.env['PGHOST'] = 'db.example'
    try {
      expect(toTarget('postgres:///db', undefined)).toMatchObject({ isLocal: false })
    } finally {
      delete process.env['PGHOST']
    }
    expect(toTarget('postgres:///db', undefined)).toMatchObject({ isLocal: true })
  })
})

/** In the folder of this file's tests, and without what the environment of whoever runs them says. */
async function run(args: string[], env: Record<string, string> = {}, cwd = folder): Promise<Result> {
  const before = process.cwd()
  process.chdir(cwd)
  try {
    const register = (program: Command) => {
      registerMigrations(program)
      registerData(program)
    }
    return await runCommand(register, args, { API_KEY_PEPPER: '', DATABASE_URL: '', ...env })
  } finally {
    process.chdir(before)
  }
}

describe('the commands, on native PostgreSQL', () => {
  const db = (...args: string[]) => run(args, { DATABASE_URL: database.url, API_KEY_PEPPER: PEPPER })
  const native = (context: TestContext) => needsNative(context, database, 'a command opens a connection of its own')

  it("import enrolls for the tenant's model, of those that FACE_MODELS names, and refuses what is not written right", async (context) => {
    native(context)
    const tenantId = await makeTenant()
    const file = await write('faces.csv', toCsv([['ada', ...faceOf(0)]]))
    const models = JSON.stringify([{ id: 'mine@2', floor: 0.65, verification: 0.7, identification: 0.75 }])
    const importWith = (FACE_MODELS: string) =>
      run(['import', file, '--tenant', tenantId], { DATABASE_URL: database.url, FACE_MODELS })
    expect(await importWith('{')).toMatchObject({
      code: EXIT.usage,
      stderr: expect.stringContaining('FACE_MODELS is not JSON'),
    })
    expect(await importWith(models)).toMatchObject({ code: EXIT.ok })
    expect(await database.connection.query('select model from faces where tenant_id = $1', [tenantId])).toEqual([
      { model: 'mine@2' },
    ])
  })

  it('seed makes every query of the guide show something, and says the second time that it is all there', async (context) => {
    native(context)
    await database.connection.execute('create extension if not exists pg_stat_statements')
    const { code, stdout, stderr } = await db('seed', '--json')
    expect({ code, stderr }).toMatchObject({ code: 0 })
    // the shape that the command documents
    const { tenants, existing } = JSON.parse(stdout) as {
      tenants: { id: string; name: string; api_key: string }[]
      existing: string[]
    }
    expect(existing).toEqual([])
    expect(tenants.map(({ name }) => name)).toEqual([
      'Seed small: 20 faces',
      'Seed medium: 200 faces',
      'Seed large: 2,000 faces',
    ])
    for (const { id, name, api_key } of tenants) {
      expect(await enter(id, api_key)).toEqual([...SCOPES])
      const size = Number(name.replace(/^.*: /, '').replace(/[^0-9]/g, ''))
      expect(await findTenant(database.connection, id)).toMatchObject({ faces: size })
      expect(stderr).not.toContain(api_key)
    }

    const queries = {
      migrations: 'select * from schema_migrations',
      sizes: `select schemaname, tablename, pg_size_pretty(pg_total_relation_size(schemaname||'.'||tablename)) as size
        from pg_tables where schemaname = 'public' order by pg_total_relation_size(schemaname||'.'||tablename) desc`,
      indexes: `select schemaname, relname, indexrelname, idx_scan, idx_tup_read, idx_tup_fetch
        from pg_stat_user_indexes where idx_scan > 0 order by idx_scan desc`,
      connections:
        'select datname, count(*) as connections from pg_stat_activity where datname is not null group by datname',
      slow: `select query, calls, total_exec_time, mean_exec_time, max_exec_time
        from pg_stat_statements order by mean_exec_time desc limit 10`,
      tenants: 'select * from tenants where is_active',
      faces: 'select * from faces limit 1',
      verifications: 'select * from verifications limit 1',
      identifications: 'select * from identifications limit 1',
      usage_events: 'select * from usage_events limit 1',
      usage_records: 'select * from usage_records limit 1',
    }
    for (const [name, query] of Object.entries(queries)) {
      expect({ name, rows: (await database.connection.query(query)).length }).not.toEqual({ name, rows: 0 })
    }
    const scanned = await database.connection.query<{ name: string }>(
      'select indexrelname as name from pg_stat_user_indexes where idx_scan > 0',
    )
    expect(scanned.map(({ name }) => name)).toEqual(
      expect.arrayContaining(['idx_faces_tenant_code', 'faces_tenant_external_key']),
    )

    const again = await db('seed', '--json')
    expect(again.code).toBe(0)
    expect(JSON.parse(again.stdout)).toEqual({ tenants: [], existing: tenants.map(({ name }) => name) })
    expect((await listTenants(database.connection)).filter(({ name }) => name.startsWith('Seed '))).toHaveLength(4)

    const more = await db('seed', '--faces', '7', '--tenant', 'Seed small: 20 faces')
    expect(more.code).toBe(0)
    expect(await findTenant(database.connection, 'Seed small: 20 faces')).toMatchObject({ faces: 27 })
  })

  it('seed refuses another machine however often it is told, an old schema, and half of its options', async (context) => {
    native(context)
    for (const url of ['postgres://u:secret@db.example/rekko', `${database.url}?host=db.example`]) {
      const { code, stderr, stdout } = await run(['seed', '--yes', '--yes'], {
        DATABASE_URL: url,
        API_KEY_PEPPER: PEPPER,
      })
      expect({ code, stdout }).toEqual({ code: 3, stdout: '' })
      expect(stderr).toContain('db.example')
      expect(stderr).toContain('is not on this machine')
      expect(stderr).not.toContain('secret')
    }
    expect(await db('seed', '--faces', '7')).toMatchObject({ code: 2 })
    expect(await db('seed', '--tenant', 'x')).toMatchObject({ code: 2 })
    expect(await db('seed', '--faces', '0', '--tenant', 'x')).toMatchObject({ code: 2 })
    expect(await db('seed', '--faces', '7', '--tenant', 'nobody')).toMatchObject({ code: 2 })

    const old = await createDatabase()
    try {
      await migrate(old.connection, 2)
      const refused = await run(['seed'], { DATABASE_URL: old.url, API_KEY_PEPPER: PEPPER })
      expect(refused).toMatchObject({ code: 3, stdout: '', stderr: expect.stringContaining('scripts/db.sh up') })
      expect(await old.connection.query('select from tenants')).toEqual([])
    } finally {
      await old.drop()
    }
  })

  it('import reports what it did, writes what it refused and ends with 5; with nothing refused there is no such file', async (context) => {
    native(context)
    const name = `tenant ${randomBytes(4).toString('hex')}`
    const tenantId = await makeTenant(name)
    const path = await write(
      'faces.csv',
      toCsv([
        ['ada', ...faceOf(0)],
        ['bob', ...faceOf(1).with(4, Number.NaN)],
        ['..', ...faceOf(2)],
      ]),
    )
    const dry = await db('import', path, '--tenant', name, '--json', '--dry-run')
    expect(dry.code).toBe(5)
    await expect(stat(`${path}.rejects.jsonl`)).rejects.toThrow('ENOENT')
    expect(await readGallery(tenantId)).toEqual([])

    const { code, stdout, stderr } = await db('import', path, '--tenant', name, '--json')
    expect(code).toBe(5)
    expect(JSON.parse(stdout)).toEqual({
      tenant: tenantId,
      ...{ read: 3, enrolled: 1, replaced: 0, skipped: 0, rejected: 2 },
      reasons: {
        'embedding: Must be a finite number.': 1,
        'external_id: Must not be "." or "..": a URL cannot address them.': 1,
      },
      rejects_file: `${path}.rejects.jsonl`,
    })
    const rejects = await readFile(`${path}.rejects.jsonl`, 'utf8')
    expect(
      rejects
        .trimEnd()
        .split('\n')
        .map((line) => JSON.parse(line)),
    ).toEqual([
      { line: 3, external_id: 'bob', reason: 'e4: Must be a finite number.' },
      { line: 4, external_id: '..', reason: 'external_id: Must not be "." or "..": a URL cannot address them.' },
    ])
    const someComponent = String(faceOf(1)[0]).slice(0, 8)
    expect(rejects + stdout + stderr).not.toContain(someComponent)
    // names of people: for the one who imports only
    expect((await stat(`${path}.rejects.jsonl`)).mode & 0o777).toBe(0o600)

    await writeFile(path, toCsv([['ada', ...faceOf(0)]]))
    const again = await db('import', path, '--tenant', tenantId, '--json')
    expect(again.code).toBe(0)
    expect(JSON.parse(again.stdout)).toMatchObject({ enrolled: 0, skipped: 1, rejects_file: null })
    await expect(stat(`${path}.rejects.jsonl`)).rejects.toThrow('ENOENT')
  })

  it('import refuses a tenant, a model or a place for its rejects that cannot be', async (context) => {
    native(context)
    const tenantId = await makeTenant()
    const path = await write('faces.csv', toCsv([['ada', ...faceOf(0)]]))
    const attempt = (...args: string[]) => db('import', path, ...args)
    expect(await attempt()).toMatchObject({ code: 2 })
    expect(await attempt('--tenant', 'nobody')).toMatchObject({ code: 2 })
    expect(await attempt('--tenant', tenantId, '--model', 'facenet@1')).toMatchObject({ code: 2 })
    expect(await attempt('--tenant', tenantId, '--batch', '0')).toMatchObject({ code: 2 })
    expect(await attempt('--tenant', tenantId, '--rejects', path)).toMatchObject({ code: 2 })
    expect(await readFile(path, 'utf8')).toBe(toCsv([['ada', ...faceOf(0)]]))
    expect(await readGallery(tenantId)).toEqual([])
    expect(await attempt('--tenant', tenantId, '--model', MODEL, '--batch', '1')).toMatchObject({ code: 0 })
  })

  it('import killed in the middle is run again and ends as one run would', async (context) => {
    native(context)
    const [tenantId, twin] = [await makeTenant(), await makeTenant()]
    const people = generateGallery(3000, 1, 5)
    const path = await write('faces.npy', toNpy(people.map(({ samples }) => samples[0] ?? [])))
    const ids = await write('ids.txt', people.map(({ name }) => name).join('\n'))
    const args = (tenant: string) => ['import', path, '--ids', ids, '--batch', '50', '--tenant', tenant]
    const child = spawn(process.execPath, [join(ROOT, 'scripts/db.ts'), ...args(tenantId)], {
      env: { PATH: process.env['PATH'], DATABASE_URL: database.url },
      stdio: 'ignore',
    })
    const ended = once(child, 'exit')
    const count = async () => (await findTenant(database.connection, tenantId)).faces
    while (child.exitCode === null && (await count()) === 0) await new Promise((resolve) => setTimeout(resolve, 5))
    child.kill('SIGKILL')
    expect(await ended).toEqual([null, 'SIGKILL'])
    const faces = await count()
    expect(faces).toBeGreaterThan(0)
    expect(faces).toBeLessThan(3000)

    expect(await db(...args(tenantId))).toMatchObject({ code: 0 })
    expect(await db(...args(twin))).toMatchObject({ code: 0 })
    expect(await readGallery(tenantId)).toEqual(await readGallery(twin))
    expect(await countUsage(tenantId)).toEqual({ registration: 3000 })
  })

  it('tenants and keys: make, list, rotate, revoke', async (context) => {
    native(context)
    const name = `Stadium ${randomBytes(4).toString('hex')}`
    const made = await db('tenants', 'create', name, '--environment', 'live')
    const id = made.stdout.trim()
    expect(made.code).toBe(0)
    const listed = await db('tenants', '--json')
    // the rows that the command documents
    const rows = JSON.parse(listed.stdout) as { id: string }[]
    expect(rows.find((row) => row.id === id)).toEqual({
      ...{
        id,
        name,
        environment: 'live',
        status: 'active',
        is_active: true,
        faces: 0,
        created: expect.stringMatching(/^20.*Z$/),
      },
    })
    expect(await db('tenants', 'create', ' x')).toMatchObject({ code: 2 })
    expect(await db('tenants', 'create', 'x', '--environment', 'prod')).toMatchObject({ code: 2 })

    const created = await db(
      'keys',
      'create',
      '--tenant',
      name,
      '--name',
      'gate',
      '--scopes',
      'verify',
      '--expires',
      '90d',
    )
    const apiKey = created.stdout.trim()
    expect(isApiKey(apiKey) && apiKey.startsWith('rk_live_')).toBe(true)
    expect(created.stderr).not.toContain(apiKey)
    expect(await enter(id, apiKey)).toEqual(['verify'])
    for (const wrong of [
      ['--scopes', 'verify,all'],
      ['--expires', '0d'],
      ['--expires', 'soon'],
      ['--expires', '9999d'],
    ]) {
      expect(await db('keys', 'create', '--tenant', name, '--name', 'gate', ...wrong)).toMatchObject({
        code: 2,
        stdout: '',
      })
    }

    const { stdout } = await db('keys', 'list', '--tenant', name, '--json')
    expect(stdout).not.toContain(apiKey)
    const [key] = JSON.parse(stdout) as { key: string; created: string; expires: string }[]
    expect(key).toMatchObject({ key: `${apiKey.slice(0, 12)}…`, name: 'gate', scopes: 'verify', revoked: null })
    const days = (Date.parse(key?.expires ?? '') - Date.parse(key?.created ?? '')) / 86_400_000
    expect(days).toBeCloseTo(90, 2)

    const reference = apiKey.slice(0, 12)
    const rotate = (...args: string[]) => db('keys', 'rotate', reference, '--tenant', name, ...args)
    expect(await rotate('--dry-run')).toMatchObject({ code: 0 })
    for (const wrong of [
      ['--overlap', '169h'],
      ['--overlap', '8d'],
      ['--overlap', '1'],
      ['--expires', '0h'],
    ]) {
      expect(await rotate(...wrong)).toMatchObject({ code: 2, stdout: '' })
    }
    const rotated = await rotate('--overlap', '12h', '--expires', '30d')
    expect(rotated.code).toBe(0)
    const successor = rotated.stdout.trim()
    expect(rotated.stderr).not.toContain(successor)
    for (const one of [apiKey, successor]) expect(await enter(id, one)).toEqual(['verify'])
    const afterwards = JSON.parse((await db('keys', 'list', '--tenant', name, '--json')).stdout) as {
      key: string
      created: string
      expires: string
    }[]
    expect(afterwards).toMatchObject([
      { key: `${reference}…`, last_used: null },
      { key: `${successor.slice(0, 12)}…`, name: 'gate', scopes: 'verify', last_used: null },
    ])
    // the new key is as old as the rotation
    const madeAt = Date.parse(afterwards[1]?.created ?? '')
    expect((Date.parse(afterwards[0]?.expires ?? '') - madeAt) / 3_600_000).toBeCloseTo(12, 2)
    expect((Date.parse(afterwards[1]?.expires ?? '') - madeAt) / 86_400_000).toBeCloseTo(30, 2)
    const ending = ['keys', 'rotate', successor.slice(0, 12), '--tenant', name, '--overlap', '0h']
    expect(await db(...ending)).toMatchObject({ code: 3 })
    expect(await enter(id, successor)).toEqual(['verify'])
    expect(await db(...ending, '--yes')).toMatchObject({ code: 0 })
    await expect(enter(id, successor)).rejects.toMatchObject({ code: 'RK412' })
    expect(await db(...ending, '--yes')).toMatchObject({ code: 3 })

    expect(await db('keys', 'revoke', reference, '--tenant', name)).toMatchObject({ code: 3 })
    expect(await enter(id, apiKey)).toEqual(['verify'])
    expect(await db('keys', 'revoke', reference, '--tenant', name, '--dry-run', '--yes')).toMatchObject({ code: 0 })
    expect(await enter(id, apiKey)).toEqual(['verify'])
    expect(await db('keys', 'revoke', reference, '--tenant', name, '--yes')).toMatchObject({ code: 0 })
    await expect(enter(id, apiKey)).rejects.toMatchObject({ code: 'RK411' })
    expect(await db('keys', 'revoke', 'rk_live_none', '--tenant', name, '--yes')).toMatchObject({ code: 2 })
  })

  it('a key made without a pepper works with the one of make dev, which is made when there is none', async (context) => {
    native(context)
    const tenantId = await makeTenant()
    const home = await mkdtemp(join(folder, 'home-'))
    const create = (env: Record<string, string> = {}) =>
      run(['keys', 'create', '--tenant', tenantId, '--name', 'x'], { DATABASE_URL: database.url, ...env }, home)
    const first = await create()
    expect(first.code).toBe(0)
    // the file of scripts/dev.ts
    const secrets = JSON.parse(await readFile(join(home, '.rekko/dev.json'), 'utf8')) as { pepper: string }
    const keys = [first, await create()].map(({ stdout }) => stdout.trim())
    const stored = await database.connection.query<{ hash: string }>(
      "select encode(hash, 'hex') as hash from api_keys where tenant_id = $1 order by created_at",
      [tenantId],
    )
    const pepper = await toPepper(secrets.pepper)
    expect(stored.map(({ hash }) => hash)).toEqual(
      await Promise.all(keys.map((key) => (isApiKey(key) ? hashApiKey(key, pepper) : ''))),
    )
    expect(first.stderr + first.stdout).not.toContain(secrets.pepper)
    expect(await create({ API_KEY_PEPPER: 'short' })).toMatchObject({ code: 2 })
  })
})

describe('an administrator who is no superuser', () => {
  it('does all of it as a member of the owner, without a way around row-level security', async (context) => {
    needsNative(context, database, 'its administrator is the only login that can be one')
    const role = `rekko_test_admin_${process.pid}_${randomBytes(4).toString('hex')}`
    const { connection } = database
    // as if he had made the roles: whoever creates one may grant it
    await connection.execute(`
      create role ${role} login password '${role}' nosuperuser nobypassrls createrole;
      grant rekko_owner to ${role} with admin option, inherit false, set false;
      grant rekko_app, rekko_operator, rekko_jobs, rekko_backup to ${role} with admin option, inherit false, set false`)
    await connection.execute(`create database ${role} owner ${role}`)
    const url = new URL(database.url)
    url.username = role
    url.password = role
    url.pathname = `/${role}`
    const setUp = await connectNative(Object.assign(new URL(database.url), { pathname: `/${role}` }).href)
    try {
      // what Neon's administrator may do and this server's may not
      await setUp.execute(`create extension vector; alter schema public owner to ${role}`)
      const admin = await connectNative(url.href)
      try {
        await bootstrap(admin, DEVELOPMENT_PASSWORDS)
        const [grant] = await admin.query(
          `select bool_or(set_option) as may_set, bool_or(inherit_option) as inherits from pg_auth_members
          where member = $1::regrole and roleid = 'rekko_app'::regrole`,
          [role],
        )
        expect(grant).toEqual({ may_set: true, inherits: false })
        await migrate(admin)

        const env = { DATABASE_URL: url.href, API_KEY_PEPPER: PEPPER }
        const created = await run(['tenants', 'create', 'Neon'], env)
        expect(created).toMatchObject({ code: 0 })
        const path = await write('faces.csv', toCsv(PEOPLE.map(({ name }, person) => [name, ...faceOf(person)])))
        for (const expected of [{ enrolled: 40 }, { skipped: 40 }]) {
          const { code, stdout } = await run(['import', path, '--tenant', 'Neon', '--json'], env)
          expect(code).toBe(0)
          expect(JSON.parse(stdout)).toMatchObject(expected)
        }
        expect(await run(['seed'], env)).toMatchObject({ code: 0 })
        expect(await run(['seed', '--faces', '3', '--tenant', 'Neon'], env)).toMatchObject({ code: 0 })
        const tenants = await listTenants(admin)
        expect(tenants.map(({ faces }) => faces)).toEqual([43, 20, 200, 2000])
        const key = await run(['keys', 'create', '--tenant', 'Neon', '--name', 'gate'], env)
        const reference = key.stdout.slice(0, 12)
        expect(await run(['keys', 'revoke', reference, '--tenant', 'Neon', '--yes'], env)).toMatchObject({ code: 0 })
        expect((await listKeys(admin, tenants[0]?.id ?? ''))[0]?.revoked_at).toBeInstanceOf(Date)
        // the wall is up for him as for everybody
        await expect(admin.query('select id from faces')).rejects.toMatchObject({ code: '42501' })

        await admin.execute(`revoke rekko_app from ${role}`)
        const refused = await run(['import', path, '--tenant', 'Neon'], env)
        expect(refused).toMatchObject({ code: 3, stderr: expect.stringContaining('may not act as rekko_app') })
      } finally {
        await admin.close()
      }
    } finally {
      await setUp.close()
      await connection.execute(`drop database ${role} with (force)`)
      await connection.execute(`drop owned by ${role}`)
      await connection.execute(`drop role ${role}`)
    }
  })
})

describe('the embedded database', () => {
  it('takes the same commands', async (context) => {
    if (database.isNative) context.skip('it needs no server: the run without DATABASE_URL has it')
    const home = await mkdtemp(join(folder, 'embedded-'))
    await mkdir(join(home, '.rekko'))
    const db = (...args: string[]) => run(['--db', 'embedded', ...args], { API_KEY_PEPPER: PEPPER }, home)
    expect(await db('up')).toMatchObject({ code: 0 })
    expect(await db('tenants', 'create', 'Local')).toMatchObject({ code: 0 })
    const path = await write(
      'faces.jsonl',
      toJsonl(PEOPLE.map(({ name }, person) => ({ external_id: name, embedding: faceOf(person) }))),
    )
    const { code, stdout } = await db('import', path, '--tenant', 'Local', '--json')
    expect(code).toBe(0)
    expect(JSON.parse(stdout)).toMatchObject({ enrolled: 40, rejected: 0 })
    expect(await db('seed', '--faces', '5', '--tenant', 'Local')).toMatchObject({ code: 0 })
    expect(JSON.parse((await db('tenants', '--json')).stdout)).toMatchObject([{ name: 'Local', faces: 45 }])
  })
})
