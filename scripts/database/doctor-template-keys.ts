// The check of doctor that looks at template keys: whether every tenant has one, whether it opens, and whether faces are
// what they were when they were sealed. It only reads.
import { toMasterNumber } from '../../src/face/protection/data-secret.ts'
import { isDevelopmentKey, type MasterKeys, newestMasterKey } from '../../src/face/protection/master-keys.ts'
import type { Connection } from './connection.ts'
import { findMasterKeys } from './master-keys.ts'
import {
  type Doors,
  findUnopened,
  isLive,
  type LiveTemplateKey,
  listMasterNumbers,
  openRandomTemplates,
} from './open-templates.ts'
import type { Target } from './target.ts'
import { listStoredKeys } from './template-keys.ts'
import { CommandError, toCount } from './terminal.ts'
import { enterTenant } from './transaction.ts'
import { orOk, type Patient, problem, skipped, type Verdict, warning } from './verdict.ts'

/** Of thousands, how many are named. */
const NAMED = 5
/** Faces that are opened: enough to notice a wrong key, few enough to look every minute. */
const OPENED_FACES = 20

const BRING_BACK = 'scripts/db.sh restore --template-keys FILE'

export async function examineTemplateKeys({ connection, target, seesAllRows }: Patient): Promise<Verdict[]> {
  const [schema] = await connection.query<{ can_have: boolean; has: boolean }>(`
    select to_regprocedure('public.create_vault()') is not null as can_have,
      to_regclass('vault.template_keys') is not null as has`)
  if (!schema?.can_have) return [skipped('the schema is older than protected templates: scripts/db.sh up')]
  if (!schema.has) {
    return [
      problem('the vault is missing, and every template key with it', `${BRING_BACK} makes it again and fills it`),
    ]
  }
  const keys = (await listStoredKeys(connection, null)).filter(isLive)
  const masters = await readMasters(target)
  const sample = 'verdict' in masters ? null : await examineSample(connection, masters.keys)
  const verdicts = [
    ...(await examineTenants(connection, seesAllRows)),
    ...judgeMasters(keys, target),
    ...('verdict' in masters ? [masters.verdict] : await examineWrapping(keys, masters.keys)),
    ...(seesAllRows ? await examineMissingKeys(connection) : []),
    ...(seesAllRows ? await examineEvents(connection) : []),
    ...(sample?.verdicts ?? []),
  ]
  if (!seesAllRows) {
    verdicts.push(
      skipped('this login is bound by row-level security and sees neither which keys faces are under, nor tampering'),
    )
  }
  return orOk(
    verdicts,
    `every tenant has its key; ${toCount(keys.length, 'key')} and ${toCount(sample?.opened ?? 0, 'face')} that chance picked were opened`,
  )
}

// == Tenants and their keys ==

async function examineTenants(connection: Connection, seesAllRows: boolean): Promise<Verdict[]> {
  const keyless = `
    select t.id::text as name, coalesce((select sum(c.change) from face_counts c where c.tenant_id = t.id), 0) > 0 as has_faces
    from tenants t
    where t.erasure_requested_at is null
      and not exists (select from vault.template_keys k where k.tenant_id = t.id and k.destroyed_at is null)`
  const verdicts: Verdict[] = []
  const fresh = await listFirst(connection, `select name from (${keyless}) as keyless where not has_faces`)
  if (fresh.total > 0) {
    verdicts.push(
      problem(`${fresh.words} no template key, so nobody can be enrolled there`, 'scripts/db.sh template-keys init'),
    )
  }
  // whoever sees all rows says more of these: how many faces, and under which key
  if (!seesAllRows) {
    const lost = await listFirst(connection, `select name from (${keyless}) as keyless where has_faces`)
    if (lost.total > 0) {
      verdicts.push(problem(`${lost.words} faces and no template key, so nobody can be recognized there`, BRING_BACK))
    }
  }
  const double = await listFirst(
    connection,
    `select tenant_id::text as name from vault.template_keys where destroyed_at is null group by tenant_id having count(*) > 1`,
  )
  if (double.total > 0) {
    verdicts.push(
      warning(
        `${double.words} two live keys: re-keying was not finished`,
        'scripts/db.sh template-keys rekey TENANT, for each',
      ),
    )
  }
  return verdicts
}

/** The first of what a query names, and how many there are: "2 tenants (a, b) have". */
async function listFirst(connection: Connection, query: string): Promise<{ words: string; total: number }> {
  const rows = await connection.query<{ name: string; total: number }>(
    `select name, count(*) over ()::int as total from (${query}) as named order by name limit ${NAMED}`,
  )
  const total = rows[0]?.total ?? 0
  const names = nameFirst(
    rows.map(({ name }) => name),
    total,
  )
  return { words: `${toCount(total, 'tenant')} (${names}) ${total === 1 ? 'has' : 'have'}`, total }
}

function nameFirst(names: string[], total: number): string {
  const rest = total - Math.min(names.length, NAMED)
  return names.slice(0, NAMED).join(', ') + (rest > 0 ? ` and ${rest.toLocaleString('en')} more` : '')
}

/** One read of the whole table: no index knows the version. */
async function examineMissingKeys(connection: Connection): Promise<Verdict[]> {
  const missing = await connection.query<{ tenant: string; version: number; faces: string; total: number }>(`
    select f.tenant_id::text as tenant, f.key_version as version, f.faces::text as faces, count(*) over ()::int as total
    from (select tenant_id, key_version, count(*) as faces from faces where key_version is not null group by 1, 2) as f
    join tenants t on t.id = f.tenant_id and t.erasure_requested_at is null
    where not exists (
      select from vault.template_keys k
      where k.tenant_id = f.tenant_id and k.version = f.key_version and k.destroyed_at is null
    )
    order by f.faces desc, f.tenant_id, f.key_version
    limit ${NAMED}`)
  const [first] = missing
  if (!first) return []
  const verdicts = missing.map(({ tenant, version, faces }) =>
    problem(
      `${toCount(Number(faces), 'face')} of tenant ${tenant} ${Number(faces) === 1 ? 'is' : 'are'} under key ${version}, which is not there`,
      BRING_BACK,
    ),
  )
  const rest = first.total - missing.length
  if (rest > 0) verdicts.push(problem(`and so are faces under ${toCount(rest, 'other key')}`, BRING_BACK))
  return verdicts
}

// == Master keys ==

async function readMasters(target: Target): Promise<{ keys: MasterKeys } | { verdict: Verdict }> {
  try {
    const keys = await findMasterKeys(target)
    if (keys) return { keys }
  } catch (error) {
    if (!(error instanceof CommandError)) throw error
    return { verdict: problem(error.message, 'set it to what the Worker that serves this database has, or to nothing') }
  }
  return {
    verdict: warning(
      'TEMPLATE_MASTER_KEYS is not set here, so the keys were not tried',
      'set it to the secret of the Worker that serves this database, where that secret may be',
    ),
  }
}

function judgeMasters(keys: LiveTemplateKey[], target: Target): Verdict[] {
  const isLocal = target.kind === 'embedded' || target.isLocal
  const known = keys.filter(({ wrapped }) => isDevelopmentKey(toMasterNumber(wrapped)))
  if (isLocal || known.length === 0) return []
  return [
    problem(
      `${toCount(known.length, 'key')} ${known.length === 1 ? 'is' : 'are'} wrapped with the master key of development, which everybody knows: these faces are not protected`,
      'see docs/keys.md',
    ),
  ]
}

async function examineWrapping(keys: LiveTemplateKey[], masterKeys: MasterKeys): Promise<Verdict[]> {
  const verdicts: Verdict[] = []
  const unopened = await findUnopened(masterKeys, keys)
  if (unopened.length > 0) {
    const tenants = [...new Set(unopened.map(({ tenantId }) => tenantId))].sort()
    const numbers = listMasterNumbers(unopened)
    verdicts.push(
      problem(
        `${toCount(unopened.length, 'key')} of ${toCount(tenants.length, 'tenant')} (${nameFirst(tenants, tenants.length)}) ` +
          `${unopened.length === 1 ? 'does' : 'do'} not open: master key ${numbers} is needed, ` +
          `and TEMPLATE_MASTER_KEYS has the numbers ${[...masterKeys.keys()].join(', ')}`,
        `set TEMPLATE_MASTER_KEYS with master key ${numbers} as it was; where it is there and does not open, the keys were changed: ${BRING_BACK}`,
      ),
    )
  }
  const newest = newestMasterKey(masterKeys)
  const old = keys.filter((key) => toMasterNumber(key.wrapped) !== newest && !unopened.includes(key))
  if (old.length > 0) {
    verdicts.push(
      warning(
        `${toCount(old.length, 'key')} ${old.length === 1 ? 'is' : 'are'} wrapped with master key ${listMasterNumbers(old)}, and ${newest} is the newest`,
        'scripts/db.sh template-keys rotate-master',
      ),
    )
  }
  return verdicts
}

// == Faces ==

/** Inside the read-only transaction of the check: entering a tenant is undone, and nothing is committed. */
const WITHIN: Doors = {
  // as the login: what it sees as a member of the owner
  asOwner: (_, work) => work(),
  async asTenant(connection, tenantId, work) {
    await connection.execute('savepoint tenant')
    try {
      await enterTenant(connection, tenantId)
      return await work()
    } finally {
      await connection.execute('rollback to savepoint tenant')
    }
  },
}

async function examineSample(
  connection: Connection,
  masterKeys: MasterKeys,
): Promise<{ opened: number; verdicts: Verdict[] }> {
  const { opened, failed } = await openRandomTemplates(connection, masterKeys, OPENED_FACES, WITHIN)
  // a key that is missing or does not open is said elsewhere, of all tenants
  const changed = failed.filter(({ reason }) => reason === 'not opened' || reason === 'differs')
  if (changed.length === 0) return { opened, verdicts: [] }
  const names = changed.map(({ faceId, tenantId, reason }) => `face ${faceId} of tenant ${tenantId}: ${reason}`)
  return {
    opened,
    verdicts: [
      problem(
        `${changed.length} of ${toCount(opened + failed.length, 'face')} that chance picked ${changed.length === 1 ? 'is' : 'are'} not what was enrolled ` +
          `(${nameFirst(names, names.length)}): somebody changed faces in the database`,
        'see docs/keys.md: enroll them again, or restore a backup. Where no face of a tenant opens, its key is another one than they were made with',
      ),
    ],
  }
}

async function examineEvents(connection: Connection): Promise<Verdict[]> {
  const [row] = await connection.query<{ events: number; tenants: string[]; first: string }>(`
    select count(*)::int as events, coalesce(array_agg(distinct tenant_id::text), '{}') as tenants,
      to_char(min(created_at) at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"Z"') as first
    from integrity_events where created_at > now() - interval '7 days'`)
  if (!row || row.events === 0) return []
  return [
    problem(
      `${row.events.toLocaleString('en')} ${row.events === 1 ? 'match was' : 'matches were'} not confirmed by ${row.events === 1 ? 'its sealed copy' : 'their sealed copies'} ` +
        `since ${row.first}, of ${toCount(row.tenants.length, 'tenant')} (${nameFirst(row.tenants, row.tenants.length)}): somebody changed faces in the database`,
      'see docs/keys.md',
    ),
  ]
}
