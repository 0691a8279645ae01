// An act: a statement that changes something, done once however often it is sent. How it is written, what is remembered of it,
// and how that becomes an answer again. The door (tenant.ts) sends it.
import type { RequestName } from '../idempotency.ts'
import { Problem } from '../problem.ts'
import type { Row, Sql, Statement, StatementResult } from './neon.ts'

/** A statement that changes something. */
export interface Act {
  /** An external_id, for which acts are done one after another. */
  subject?: string
  /** Its common table expressions, without `with`. */
  parts: Statement
  /**
   * The rows that the request is answered from. They are remembered, so no column may hold what only a face may, its
   * external_id, metadata or sealed copy: its erasure leaves nothing of it. `face_id` names a face whose `external_id`,
   * `key_version` and `sealed` are read again for a repetition.
   */
  answer: Statement
  /** SQL of the columns of `answer`: nothing was done, and another time, or by another credential, it may be. */
  unless?: Statement
}

/**
 * An act that is a function of the database, whose plans are kept: it remembers its answer itself, under `name`, without the
 * columns that are a face's.
 */
export interface Call {
  subject?: string
  call(name: NameInSql): Statement
}

/** SQL: the columns `key` and `fingerprint` of idempotent_requests, and for how long an answer is remembered. */
export interface NameInSql {
  key: Statement
  fingerprint: Statement
  rememberedFor: Statement
}

/** As long as a client may repeat; and as long as the Worker may, with something to spare for one that was held up. */
const REMEMBERED = { clients: '24 hours', ours: '10 minutes' }
/** Of PostgreSQL's types: timestamptz, which travels as text in JSON. */
const TIMESTAMPTZ = 1184

/** A face as a remembered answer names it, as it is now. */
export type NamedFace = { id: string; external_id: string; model: string; key_version: number; sealed: string }

/** SQL: waits for who is at work on this person, and keeps others waiting; the lock's number is that of seconds_until_attempt. */
export function lockSubject(sql: Sql, tenantId: string, externalId: string): Statement {
  return sql`
    select pg_advisory_xact_lock(
      ('x' || left(encode(sha256(convert_to(${`${tenantId} ${externalId}`}, 'UTF8')), 'hex'), 16))::bit(64)::bigint
    )`
}

/** SQL: what is remembered under this name, if anything is. */
export function claimRequest(sql: Sql, name: RequestName): Statement {
  const { key, fingerprint } = toSqlName(sql, name)
  return sql`select answer, faces, age_ms from claim_request(${key}, ${fingerprint})`
}

/** SQL: that claim_request has found nothing, or was not asked. */
export function isFirst(sql: Sql): Statement {
  return sql`nullif(current_setting('app.is_replay', true), '') is null`
}

/**
 * The statement of an act, with what it answers written down in the same transaction. That nothing could be done is written
 * down too: else a batch that is carried out twice would be told of an enrollment that the person is enrolled already.
 */
export function remembering(sql: Sql, tenantId: string, name: RequestName, act: Act | Call): Statement {
  const { key, fingerprint, rememberedFor } = toSqlName(sql, name)
  if ('call' in act) return act.call({ key, fingerprint, rememberedFor })
  return sql`
    with ${act.parts}, answer as materialized (
      ${act.answer}
    ), remembered as (
      insert into idempotent_requests (tenant_id, key, fingerprint, answer, expires_at)
      select
        ${tenantId}, ${key}, ${fingerprint},
        coalesce(jsonb_agg(to_jsonb(answer)), '[]'),
        transaction_timestamp() + ${rememberedFor}
      from answer
      having ${isFirst(sql)}
        and bool_or(${act.unless ?? sql`false`}) is not true
    )
    select * from answer`
}

function toSqlName(sql: Sql, { key, fingerprint }: RequestName): NameInSql {
  return {
    key: sql`decode(${key}, 'hex')`,
    fingerprint: sql`decode(${fingerprint}, 'hex')`,
    rememberedFor: sql`${fingerprint === null ? REMEMBERED.ours : REMEMBERED.clients}::interval`,
  }
}

/**
 * The rows of an answer that was remembered; null when a face that it names is gone.
 *
 * @param faces those that the rows name, as far as they are still there
 * @param model of the tenant
 * @param columns of the statement that was asked again and had nothing to do
 */
export function restore(
  answer: Row[],
  faces: NamedFace[],
  model: string,
  columns: StatementResult['columns'],
): Row[] | null {
  const times = columns.filter(({ dataTypeID }) => dataTypeID === TIMESTAMPTZ).map(({ name }) => name)
  const rows: Row[] = []
  for (const remembered of answer) {
    const row = { ...remembered }
    for (const time of times) if (typeof row[time] === 'string') row[time] = new Date(row[time])
    const faceId = row['face_id'] ?? null
    const face = faces.find(({ id }) => id === faceId)
    // replaced, erased, or left behind by another recognizer: it cannot be confirmed any more
    if (faceId !== null && face?.model !== (row['model'] ?? model)) return null
    if (face) {
      const { external_id, key_version, sealed } = face
      Object.assign(row, { external_id, key_version, sealed })
    }
    rows.push(row)
  }
  return rows
}

export function answerGone(): Problem {
  return new Problem('ANSWER_GONE', 'Ask anew, with another Idempotency-Key.')
}
