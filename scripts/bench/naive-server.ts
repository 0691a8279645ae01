// What `make bench` compares with: the same job as it is usually done, Fastify with pg and pgvector. The key is looked up,
// then the tenant, then the face; the decision is written and the counter of the month raised in one transaction. No
// row-level security, no protected templates, no limit of attempts; embeddings lie in the database as they are.
//
//   node naive-server.ts DATABASE_URL     prints its own URL; ends with its standard input
import type { AddressInfo } from 'node:net'
import fastify from 'fastify'
import pg from 'pg'
import { toSql } from 'pgvector'
import { hashNaiveKey } from './naive-schema.ts'

const THRESHOLD = 0.35

interface Body {
  external_id: string
  embedding: number[]
}

const BODY = {
  schema: {
    body: {
      type: 'object',
      required: ['external_id', 'embedding'],
      properties: {
        external_id: { type: 'string', minLength: 1, maxLength: 255 },
        embedding: { type: 'array', items: { type: 'number' }, minItems: 512, maxItems: 512 },
      },
    },
  },
} as const

async function serve(databaseUrl: string): Promise<void> {
  const pool = new pg.Pool({ connectionString: databaseUrl, options: '-c search_path=naive,public', max: 10 })
  const app = fastify()

  async function findTenant(authorization: string | undefined): Promise<string | null> {
    const key = authorization?.replace(/^Bearer /, '') ?? ''
    const keys = await pool.query('select tenant_id from api_keys where key_hash = $1 and revoked_at is null', [
      hashNaiveKey(key),
    ])
    const tenantId = keys.rows[0]?.tenant_id
    if (!tenantId) return null
    const tenants = await pool.query('select id, settings from tenants where id = $1 and is_active', [tenantId])
    return tenants.rows[0]?.id ?? null
  }

  async function record<Row extends object>(
    tenantId: string,
    counter: 'registrations' | 'verifications',
    insert: string,
    values: unknown[],
  ): Promise<Row> {
    const client = await pool.connect()
    try {
      await client.query('begin')
      const inserted = await client.query(insert, values)
      await client.query(
        `insert into usage_records (tenant_id, period, ${counter}) values ($1, to_char(now(), 'YYYY-MM'), 1)
        on conflict (tenant_id, period) do update set ${counter} = usage_records.${counter} + 1`,
        [tenantId],
      )
      await client.query('commit')
      return inserted.rows[0]
    } catch (error) {
      await client.query('rollback')
      throw error
    } finally {
      client.release()
    }
  }

  app.post<{ Body: Body }>('/v1/faces/verify', BODY, async (request, reply) => {
    const tenantId = await findTenant(request.headers.authorization)
    if (!tenantId) return reply.code(401).send({ error: 'unauthorized' })
    const { external_id, embedding } = request.body
    const faces = await pool.query(
      'select id, 1 - (embedding <=> $3) as similarity from faces where tenant_id = $1 and external_id = $2',
      [tenantId, external_id, toSql(embedding)],
    )
    const face = faces.rows[0]
    if (!face) return reply.code(404).send({ error: 'not found' })
    const verified = face.similarity >= THRESHOLD
    const confidence = (1 + face.similarity) / 2
    const { id } = await record<{ id: string }>(
      tenantId,
      'verifications',
      `insert into verifications (tenant_id, face_id, external_id, verified, confidence) values ($1, $2, $3, $4, $5)
      returning id`,
      [tenantId, face.id, external_id, verified, confidence],
    )
    return { verification_id: id, verified, confidence }
  })

  app.post<{ Body: Body }>('/v1/faces', BODY, async (request, reply) => {
    const tenantId = await findTenant(request.headers.authorization)
    if (!tenantId) return reply.code(401).send({ error: 'unauthorized' })
    const { external_id, embedding } = request.body
    const existing = await pool.query('select id from faces where tenant_id = $1 and external_id = $2', [
      tenantId,
      external_id,
    ])
    if (existing.rows.length > 0) return reply.code(409).send({ error: 'exists' })
    const face = await record(
      tenantId,
      'registrations',
      'insert into faces (tenant_id, external_id, embedding) values ($1, $2, $3) returning id, created_at',
      [tenantId, external_id, toSql(embedding)],
    )
    return reply.code(201).send({ ...face, external_id })
  })

  await app.listen({ host: '127.0.0.1', port: 0 })
  // listening on TCP, so the address is not a pipe's name
  const { port } = app.server.address() as AddressInfo
  console.log(`http://127.0.0.1:${port}`)
  process.stdin.once('end', () => process.exit(0)).resume()
}

await serve(String(process.argv[2]))
