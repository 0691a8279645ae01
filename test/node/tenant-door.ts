// The Worker's door to a tenant, for tests in Node: the statements of src/db/ over a plain connection, with the real keys.
// Fake: the way to the database, and that nobody's credential is checked.
import { neon, SqlTemplate } from '@neondatabase/serverless'
import { readDevelopmentMasterKeys } from '../../scripts/database/development.ts'
import { type Act, type Call, isFirst, remembering } from '../../src/db/acts.ts'
import type { Statement } from '../../src/db/neon.ts'
import type { TemplateKeys } from '../../src/db/template-keys.ts'
import type { TenantDatabase } from '../../src/db/tenant.ts'
import { BUILT_IN_MODELS } from '../../src/face/models.ts'
import { nameUnkeyedRequest } from '../../src/idempotency.ts'
import { toSettings } from '../../src/settings.ts'

/** What the tests' databases are wrapped with. */
export const masterKeys = await readDevelopmentMasterKeys()

const sql = neon('postgres://nobody:nothing@nowhere.test/none')

/** @param query runs one statement inside the tenant, as rekko_app */
export function openDoor(
  tenantId: string,
  keys: TemplateKeys,
  query: (text: string, parameters: unknown[]) => Promise<object[]>,
): TenantDatabase {
  async function run<Result>(statement: Statement): Promise<Result[]> {
    if (!(statement.queryData instanceof SqlTemplate)) throw new TypeError('not written with the sql template')
    const { query: text, params } = statement.queryData.toParameterizedQuery()
    return (await query(text, params)) as Result[]
  }
  async function act<Result>(written: Act | Call): Promise<Result[]> {
    return run<Result>(remembering(sql, tenantId, nameUnkeyedRequest(), written))
  }
  return {
    tenant: { id: tenantId, environment: 'test', settings: toSettings({}) },
    models: BUILT_IN_MODELS,
    requestId: 'a request',
    sql,
    scopes: new Set(),
    run,
    act,
    isFirst: isFirst(sql),
    isReplay: false,
    name: async () => nameUnkeyedRequest(),
    async actProtected<Result, Protected>(
      protect: (keys: TemplateKeys) => Promise<Protected>,
      write: (protected_: Protected) => Act | Call,
    ) {
      const found = await protect(keys)
      return { rows: await act<Result>(write(found)), protected: found, wasDone: false }
    },
    noteTampering() {},
  }
}
