// The operator's door: tenants and issuers of tokens, through functions only. Its login, rekko_operator, has no
// right on any table, and none of those functions answers a face, an embedding or a decision.
import type { Env } from '../env.ts'
import type { Trace } from '../trace.ts'
import { connect, type Row, type Sql, type Statement } from './neon.ts'
import { repeating } from './repetition.ts'

export interface OperatorDatabase {
  readonly sql: Sql
  /** Runs one statement: one HTTP request, one transaction, with the operator's name for the events it writes. */
  run<Result extends Row>(statement: Statement): Promise<Result[]>
}

/** @param actor who the operator's token names */
export function openOperator(env: Env, trace: Trace, actor: string): OperatorDatabase {
  const { sql, transact } = connect(env, env.OPERATOR_DATABASE_URL, trace)
  return {
    sql,
    async run<Result extends Row>(statement: Statement) {
      const name = sql`
        select set_config('app.actor', ${`operator:${actor}`}, true), set_config('app.request_id', ${trace.requestId}, true)`
      const [, result] = await repeating(
        trace,
        () => transact([name, statement], { readOnly: false }),
        // it is not remembered, so nothing is sent twice that may have been carried out
        (error) => error.isTransient,
      )
      // the caller's statement and its row type stand side by side in one function of db/
      return (result?.rows ?? []) as Result[]
    },
  }
}
