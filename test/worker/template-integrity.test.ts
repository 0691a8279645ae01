// Proves that nobody who can write to the database can make a face match: the attacker has a direct connection, bound by
// no policy, and changes rows one by one; whatever is changed, the answer is never a match. And that nothing of a plain
// embedding reaches the database. On a real PostgreSQL. Fake: the embeddings.
import { describe, expect, it, vi } from 'vitest'
import { type Embedding, isFault, toEmbedding } from '../../src/face/embedding.ts'
import { asAdmin, atCosine, axis, countRows, createTenant, enroll, randomEmbedding, type TestTenant } from './tenant.ts'

const THRESHOLD = 0.675

/** A tenant with ada, and mallory who would like to be taken for her. */
async function arrange(): Promise<{ tenant: TestTenant; ada: number[]; mallory: number[] }> {
  const tenant = await createTenant()
  const [ada, mallory] = [randomEmbedding(), randomEmbedding()]
  await enroll(tenant, 'ada', ada)
  await enroll(tenant, 'mallory', mallory)
  return { tenant, ada, mallory }
}

async function verify(tenant: TestTenant, externalId: string, embedding: number[]) {
  const response = await tenant.request('POST', '/v1/faces/verify', { external_id: externalId, embedding })
  return { status: response.status, body: await response.json<Record<string, unknown>>() }
}

async function search(tenant: TestTenant, embedding: number[]) {
  const response = await tenant.request('POST', '/v1/faces/search', { embedding })
  return { status: response.status, body: await response.json<Record<string, unknown>>() }
}

async function readEvents(tenant: TestTenant) {
  return asAdmin`
    select e.reason, f.external_id, v.verified, i.identified
    from integrity_events e
    left join faces f on f.tenant_id = e.tenant_id and f.id = e.face_id
    left join verifications v on v.tenant_id = e.tenant_id and v.id = e.verification_id
    left join identifications i on i.tenant_id = e.tenant_id and i.id = e.identification_id
    where e.tenant_id = ${tenant.id} order by e.created_at, e.id`
}

const TAMPERED = { status: 500, body: { code: 'TEMPLATE_INTEGRITY' } }

/** What the attacker does to ada's row so that mallory is taken for her, and why it is noticed. */
const ATTACKS: [title: string, attack: (tenant: TestTenant) => Promise<unknown>, reason: string][] = [
  [
    "the vector is mallory's",
    (tenant) => asAdmin`
      update faces f set embedding = m.embedding from faces m
      where f.tenant_id = ${tenant.id} and f.external_id = 'ada' and m.tenant_id = f.tenant_id and m.external_id = 'mallory'`,
    'differs',
  ],
  [
    "the vector and the sealed copy are mallory's",
    (tenant) => asAdmin`
      update faces f set embedding = m.embedding, sealed = m.sealed from faces m
      where f.tenant_id = ${tenant.id} and f.external_id = 'ada' and m.tenant_id = f.tenant_id and m.external_id = 'mallory'`,
    'not opened',
  ],
  [
    "the whole template is mallory's, and its key",
    (tenant) => asAdmin`
      update faces f set embedding = m.embedding, sealed = m.sealed, key_version = m.key_version
      from faces m
      where f.tenant_id = ${tenant.id} and f.external_id = 'ada' and m.tenant_id = f.tenant_id and m.external_id = 'mallory'`,
    'not opened',
  ],
  [
    "mallory's row is given ada's name",
    async (tenant) => {
      await asAdmin`delete from faces where tenant_id = ${tenant.id} and external_id = 'ada'`
      await asAdmin`update faces set external_id = 'ada' where tenant_id = ${tenant.id} and external_id = 'mallory'`
    },
    'not opened',
  ],
]

describe('a face that was changed in the database', () => {
  it.each(ATTACKS)('never verifies somebody else: %s', async (_, attack, reason) => {
    const { tenant, mallory } = await arrange()
    await attack(tenant)
    expect(await verify(tenant, 'ada', mallory)).toMatchObject(TAMPERED)
    // the audit keeps what the database decided
    expect(await readEvents(tenant)).toEqual([{ reason, external_id: 'ada', verified: true, identified: null }])
  })

  it.each(ATTACKS)('is never named by a search: %s', async (_, attack, reason) => {
    const { tenant, mallory } = await arrange()
    await attack(tenant)
    // where mallory's own row stayed, she is found beside ada: one that does not agree spoils the answer
    expect(await search(tenant, mallory)).toMatchObject(TAMPERED)
    expect(await readEvents(tenant)).toEqual([
      { reason, external_id: expect.any(String), verified: null, identified: true },
    ])
  })

  it('does not verify the person either, and says so instead of "no match"', async () => {
    const { tenant, ada } = await arrange()
    await asAdmin`
      update faces set sealed = set_byte(sealed, 100, get_byte(sealed, 100) # 1)
      where tenant_id = ${tenant.id} and external_id = 'ada'`
    expect(await verify(tenant, 'ada', ada)).toMatchObject(TAMPERED)
    expect(await search(tenant, ada)).toMatchObject(TAMPERED)
    expect(await readEvents(tenant)).toMatchObject([{ reason: 'not opened' }, { reason: 'not opened' }])
  })

  it.each([
    ['nonce', 3],
    ['ciphertext', 15],
    ['last byte of the ciphertext', 2_062],
    ['tag', 2_063],
    ['last byte', 2_078],
  ])('is not opened with one bit of its %s changed', async (_, at) => {
    const { tenant, ada } = await arrange()
    await asAdmin`
      update faces set sealed = set_byte(sealed, ${at}, get_byte(sealed, ${at}) # 128)
      where tenant_id = ${tenant.id} and external_id = 'ada'`
    expect(await verify(tenant, 'ada', ada)).toMatchObject(TAMPERED)
  })

  it('is not answered under an id that is not its own', async () => {
    const { tenant, ada } = await arrange()
    await asAdmin`
      update faces set id = gen_random_uuid() where tenant_id = ${tenant.id} and external_id = 'ada'`
    expect(await verify(tenant, 'ada', ada)).toMatchObject(TAMPERED)
    expect(await search(tenant, ada)).toMatchObject(TAMPERED)
    expect(await readEvents(tenant)).toMatchObject([{ reason: 'not opened' }, { reason: 'not opened' }])
  })

  it("cannot be a replay of another tenant's row", async () => {
    const [here, there] = [await arrange(), await arrange()]
    await asAdmin`
      update faces f set embedding = o.embedding, sealed = o.sealed, id = o.id
      from faces o
      where f.tenant_id = ${here.tenant.id} and f.external_id = 'ada' and o.tenant_id = ${there.tenant.id} and o.external_id = 'ada'`
    // under the rotation of this tenant the vector is nobody's
    expect(await verify(here.tenant, 'ada', there.ada)).toMatchObject({ status: 200, body: { verified: false } })
    // and with a vector that fits, the sealed copy does not open
    await asAdmin`
      update faces f set embedding = m.embedding from faces m
      where f.tenant_id = ${here.tenant.id} and f.external_id = 'ada' and m.tenant_id = f.tenant_id and m.external_id = 'mallory'`
    expect(await verify(here.tenant, 'ada', here.mallory)).toMatchObject(TAMPERED)
  })

  it('is not taken with a truncated sealed copy, or one of another key: the database refuses both', async () => {
    const { tenant } = await arrange()
    const ofAda = { tenant_id: tenant.id }
    await expect(asAdmin`
      update faces set sealed = substring(sealed for 2078) where tenant_id = ${ofAda.tenant_id}`).rejects.toThrow(
      'faces_template_check',
    )
    await expect(asAdmin`
      update faces set key_version = 2 where tenant_id = ${ofAda.tenant_id}`).rejects.toThrow('faces_template_check')
    await expect(asAdmin`
      update faces set sealed = null where tenant_id = ${ofAda.tenant_id}`).rejects.toThrow()
  })

  it('is never a match with them all the same, where the attacker has dropped that constraint', async () => {
    const { tenant, ada } = await arrange()
    await asAdmin`alter table faces drop constraint faces_template_check`
    try {
      for (const change of [
        asAdmin`update faces set sealed = substring(sealed for 2078) where tenant_id = ${tenant.id}`,
        asAdmin`update faces set sealed = '' where tenant_id = ${tenant.id}`,
        asAdmin`update faces set key_version = 2 where tenant_id = ${tenant.id}`,
      ]) {
        await change
        expect(await verify(tenant, 'ada', ada)).toMatchObject(TAMPERED)
      }
      // under a key that is not the tenant's, nothing can be compared, so nobody is found
      expect(await search(tenant, ada)).toMatchObject({ status: 200, body: { matches: [] } })
    } finally {
      await asAdmin`delete from faces where tenant_id = ${tenant.id}`
      await asAdmin`
        alter table faces add constraint faces_template_check check (
          key_version is not null and sealed is not null
          and octet_length(sealed) = 2079 and get_byte(sealed, 0) = 1
          and (get_byte(sealed, 1) << 8 | get_byte(sealed, 2)) = key_version
        )`
    }
  })

  it('is not believed when only its model was changed', async () => {
    const { tenant, ada } = await arrange()
    await asAdmin`update faces set model = 'other@1' where tenant_id = ${tenant.id} and external_id = 'ada'`
    expect(await verify(tenant, 'ada', ada)).toMatchObject({ status: 409, body: { code: 'MODEL_MISMATCH' } })
    expect(await search(tenant, ada)).toMatchObject({ status: 200, body: { matches: [] } })
  })

  it('is written to the log, without a name, and billed like any other decision', async () => {
    const { tenant, ada } = await arrange()
    await asAdmin`
      update faces set sealed = set_byte(sealed, 100, get_byte(sealed, 100) # 1) where tenant_id = ${tenant.id}`
    const lines: string[] = []
    const spy = vi.spyOn(console, 'error').mockImplementation((line: string) => void lines.push(line))
    await verify(tenant, 'ada', ada)
    spy.mockRestore()
    expect(lines.map((line) => JSON.parse(line))).toMatchObject([
      { level: 'error', event: 'request', status: 500, fault: 'template_integrity', reason: 'not opened' },
    ])
    expect(lines.join()).not.toContain('ada')
    expect(await countRows(tenant)).toMatchObject({ verifications: 1, usage_events: 3 })
  })

  it('is no match when the event cannot be written either', async () => {
    const { tenant, ada } = await arrange()
    await asAdmin`
      update faces set sealed = set_byte(sealed, 100, get_byte(sealed, 100) # 1) where tenant_id = ${tenant.id}`
    await asAdmin`revoke insert (tenant_id, verification_id, identification_id, face_id, reason, request_id)
      on integrity_events from rekko_app`
    try {
      const { status, body } = await verify(tenant, 'ada', ada)
      expect(status).toBe(500)
      expect(body).not.toHaveProperty('verified')
    } finally {
      await asAdmin`grant insert (tenant_id, verification_id, identification_id, face_id, reason, request_id)
        on integrity_events to rekko_app`
    }
  })

  it('is mended by enrolling the person again', async () => {
    const { tenant, ada } = await arrange()
    await asAdmin`
      update faces set sealed = set_byte(sealed, 100, get_byte(sealed, 100) # 1)
      where tenant_id = ${tenant.id} and external_id = 'ada'`
    expect((await tenant.request('PUT', '/v1/faces/ada', { embedding: ada })).status).toBe(200)
    expect(await verify(tenant, 'ada', ada)).toMatchObject({ status: 200, body: { verified: true, confidence: 1 } })
  })
})

describe('a decision', () => {
  it('stands at the threshold, whatever the rotation, and not below it', async () => {
    // every tenant has a rotation of its own: each rounds in another way
    for (let round = 0; round < 40; round++) {
      const tenant = await createTenant()
      await enroll(tenant, 'ada', axis(0))
      const cosine = 2 * THRESHOLD - 1
      expect(await verify(tenant, 'ada', atCosine(cosine, 0, 1))).toMatchObject({
        status: 200,
        body: { verified: true, confidence: THRESHOLD, threshold: THRESHOLD },
      })
      expect(await verify(tenant, 'ada', atCosine(cosine - 1e-5, 0, 1))).toMatchObject({
        status: 200,
        body: { verified: false, confidence: THRESHOLD - 1e-4 },
      })
    }
  })

  it('compares nothing of another model', async () => {
    const tenant = await createTenant()
    const body = { embedding: axis(0), model: 'another@3' }
    const mismatch = { status: 409, body: { code: 'MODEL_MISMATCH', detail: 'Send an embedding of arcface-512@1.' } }
    const send = async (method: string, path: string, more: object = {}) => {
      const response = await tenant.request(method, path, { ...body, ...more })
      return { status: response.status, body: await response.json() }
    }
    expect(await send('POST', '/v1/faces', { external_id: 'ada' })).toMatchObject(mismatch)
    expect(await send('PUT', '/v1/faces/ada')).toMatchObject(mismatch)
    expect(await countRows(tenant)).toMatchObject({ faces: 0, usage_events: 0 })
    await enroll(tenant, 'ada', axis(0))
    expect(await send('POST', '/v1/faces/verify', { external_id: 'ada' })).toMatchObject(mismatch)
    expect(await send('POST', '/v1/faces/search')).toMatchObject(mismatch)
    expect(await countRows(tenant)).toMatchObject({ verifications: 0, identifications: 0 })

    expect(
      (await tenant.request('POST', '/v1/faces/verify', { ...body, model: 'arcface-512@1', external_id: 'ada' }))
        .status,
    ).toBe(200)
  })
})

describe('the database', () => {
  it('holds nothing of an embedding but its rotation and a sealed copy', async () => {
    const tenant = await createTenant()
    const embeddings = Array.from({ length: 40 }, randomEmbedding)
    for (const [index, embedding] of embeddings.entries()) await enroll(tenant, `person ${index}`, embedding)
    await verify(tenant, 'person 0', embeddings[0] ?? [])
    await search(tenant, embeddings[1] ?? [])

    const rows = await asAdmin`
      select external_id, embedding::text as stored, row_to_json(faces)::text as row, encode(sealed, 'hex') as sealed
      from faces where tenant_id = ${tenant.id} order by created_at, external_id`
    expect(rows).toHaveLength(40)
    for (const { external_id, stored, row, sealed } of rows) {
      const plain = toPlain(embeddings[Number(String(external_id).slice(7))])
      const vector = JSON.parse(String(stored)) as number[]
      const cosine = vector.reduce((sum, component, index) => sum + component * (plain[index] ?? 0), 0)
      expect(Math.abs(cosine)).toBeLessThan(0.25)
      for (const form of formsOf(plain)) {
        expect(String(row)).not.toContain(form)
        expect(String(sealed)).not.toContain(form)
      }
    }
    // the scan bites
    const [planted] = await asAdmin`select ${JSON.stringify([...toPlain(embeddings[0])])}::vector::text as text`
    expect(formsOf(toPlain(embeddings[0])).some((form) => String(planted?.['text']).includes(form))).toBe(true)
  })

  it('has the rotations of one face in two tenants that do not resemble each other', async () => {
    const [here, there] = [await createTenant(), await createTenant()]
    const faces = Array.from({ length: 30 }, randomEmbedding)
    for (const tenant of [here, there]) {
      for (const [index, face] of faces.entries()) await enroll(tenant, `person ${index}`, face)
    }
    const pairs = await asAdmin`
      select (a.embedding <=> b.embedding) as distance from faces a join faces b using (external_id)
      where a.tenant_id = ${here.id} and b.tenant_id = ${there.id}`
    expect(pairs).toHaveLength(30)
    // independent directions of 512 dimensions: a cosine of more than 0.25 would be 5.6 standard deviations
    for (const { distance } of pairs) expect(Math.abs(1 - Number(distance))).toBeLessThan(0.25)
  })
})

function toPlain(input: number[] | undefined): Embedding {
  const embedding = toEmbedding(input)
  if (isFault(embedding)) throw new RangeError(embedding.detail)
  return embedding
}

/** How three components in a row would stand in a text, a dump, or a vector in hexadecimal. */
function formsOf(embedding: Embedding): string[] {
  const part = embedding.slice(100, 103)
  const bytes = (isLittle: boolean) => {
    const view = new DataView(new ArrayBuffer(12))
    part.forEach((component, index) => {
      view.setFloat32(index * 4, component, isLittle)
    })
    return [...new Uint8Array(view.buffer)].map((byte) => byte.toString(16).padStart(2, '0')).join('')
  }
  return [[...part].map(toShortest).join(','), bytes(true), bytes(false)]
}

/** As PostgreSQL writes a float4: the shortest text that reads back as it. */
function toShortest(component: number): string {
  for (let digits = 1; digits <= 9; digits++) {
    const text = component.toPrecision(digits)
    if (Math.fround(Number(text)) === component) return String(Number(text))
  }
  return String(component)
}
