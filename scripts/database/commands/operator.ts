// issuers, and tenants suspend, resume, erase: what /v1/operator does, for who has the database and no token.
import type { Command } from 'commander'
import type { Connection } from '../connection.ts'
import { type Context, toContext } from '../context.ts'
import { addIssuer, countKeys, findIssuer, listIssuers, readIssuerFile, removeIssuer } from '../issuers.ts'
import { requireDirect, withConnection } from '../target.ts'
import { findTenant, requireLasting, type Tenant } from '../tenants.ts'
import { toCount } from '../terminal.ts'
import { asOwner } from '../transaction.ts'
import { requireTenancy } from './data.ts'
import { confirmLoss } from './migrations.ts'

/** As the schedule takes it (src/db/jobs.ts): a transaction of well under a second. */
const ERASURE_BATCH = 5_000

/** @param tenants the command that `registerData` has made */
export function registerOperator(program: Command, tenants: Command): void {
  const issuers = program.command('issuers').description('list, add or remove the issuers whose tokens are accepted')
  issuers
    .command('list', { isDefault: true })
    .description('list the issuers of tokens and what they may grant')
    .action((_, command) => showIssuers(toContext(command)))
  issuers
    .command('add')
    .description('accept the tokens of an issuer')
    .argument('<file>', 'JSON, as POST /v1/operator/issuers takes it')
    .action((file: string, _, command) => add(toContext(command), file))
  issuers
    .command('remove')
    .description('refuse the tokens of an issuer from the next request on')
    .argument('<issuer>', 'its id or its name')
    .action((reference: string, _, command) => remove(toContext(command), reference))

  tenants
    .command('suspend')
    .description('refuse a tenant from the next request on')
    .argument('<tenant>', 'its id or its exact name')
    .action((reference: string, _, command) => setActive(toContext(command), reference, false))
  tenants
    .command('resume')
    .description('let a suspended tenant in again')
    .argument('<tenant>', 'its id or its exact name')
    .action((reference: string, _, command) => setActive(toContext(command), reference, true))
  tenants
    .command('erase')
    .description('shut a tenant out and erase everything it has; run it again after an interruption')
    .argument('<tenant>', 'its id or its exact name')
    .action((reference: string, _, command) => erase(toContext(command), reference))
}

// == issuers ==

async function showIssuers({ target, terminal }: Context): Promise<void> {
  const issuers = await withConnection(target, async (connection) => {
    await requireTenancy(connection)
    return listIssuers(connection)
  })
  terminal.table(
    issuers.map((issuer) => ({
      id: issuer.id,
      issuer: issuer.issuer,
      audience: issuer.audience,
      algorithms: issuer.algorithms.join(','),
      keys: issuer.jwks_url ?? `${countKeys(issuer)} stored`,
      scopes: issuer.scopes.join(','),
      tenants: issuer.tenant_ids.length,
      active: issuer.is_active,
      created: issuer.created_at.toISOString(),
    })),
    issuers,
  )
}

async function add(context: Context, path: string): Promise<void> {
  const { target, terminal } = context
  const issuer = await readIssuerFile(path, target.kind === 'embedded' || target.isLocal)
  const { issuer: name } = issuer.configuration
  const about = { issuer: name, scopes: issuer.scopes, tenant_ids: issuer.tenantIds }
  if (context.isDryRun) return terminal.result(about, [`would accept the tokens of ${name}`])
  await withConnection(target, async (connection) => {
    await requireTenancy(connection)
    const id = await addIssuer(connection, issuer)
    terminal.ok(`the tokens of ${name} are accepted for ${toCount(issuer.tenantIds.length, 'tenant')}`)
    terminal.result({ id, ...about }, [id])
  })
}

async function remove(context: Context, reference: string): Promise<void> {
  const { target, terminal } = context
  await withConnection(target, async (connection) => {
    await requireTenancy(connection)
    const { id, issuer } = await findIssuer(connection, reference)
    if (context.isDryRun) return terminal.result({ id, issuer }, [`would refuse the tokens of ${issuer}`])
    await terminal.confirm(`Refuse the tokens of ${issuer} from now on?`)
    await removeIssuer(connection, id)
    terminal.ok(`the tokens of ${issuer} are refused from the next request on`)
    if (terminal.isJson) terminal.result({ id, issuer }, [])
  })
}

// == tenants ==

async function setActive(context: Context, reference: string, isActive: boolean): Promise<void> {
  const { target, terminal } = context
  await withConnection(target, async (connection) => {
    await requireTenancy(connection)
    const found = await findTenant(connection, reference)
    requireLasting(found)
    const { id, name } = found
    if (context.isDryRun) return terminal.result({ id }, [`would ${isActive ? 'resume' : 'suspend'} "${name}"`])
    if (!isActive) await terminal.confirm(`Refuse all requests of "${name}" from now on?`)
    await asOwner(connection, () => connection.query('select set_tenant_active($1, $2)', [id, isActive]))
    // while somebody was asked, an erasure may have begun, which stays as it is
    requireLasting(await findTenant(connection, id))
    terminal.ok(
      isActive ? `"${name}" is let in again, within a minute` : `"${name}" is refused from the next request on`,
    )
    if (terminal.isJson) terminal.result({ id, is_active: isActive }, [])
  })
}

async function erase(context: Context, reference: string): Promise<void> {
  const { target, terminal } = context
  requireDirect(target)
  await withConnection(target, async (connection) => {
    await requireTenancy(connection)
    const tenant = await findTenant(connection, reference)
    const about = { id: tenant.id, name: tenant.name, faces: tenant.faces }
    const everything = `"${tenant.name}" (${tenant.id}) with its ${toCount(tenant.faces, 'face')}`
    if (context.isDryRun) return terminal.result(about, [`would erase ${everything}`])
    await confirmLoss(context, `Erase ${everything}, its decisions, usage and keys? It cannot be taken back.`)
    const erased = await eraseInBatches(connection, tenant, terminal)
    terminal.ok(`"${tenant.name}" is erased; backups still have it until they are deleted`)
    terminal.result({ ...about, rows: erased }, [`${toCount(erased, 'row')} erased`])
  })
}

/** Each batch is a transaction of its own: stopped anywhere, it is gone on with. */
async function eraseInBatches(connection: Connection, { id }: Tenant, terminal: Context['terminal']): Promise<number> {
  await asOwner(connection, () => connection.query('select request_tenant_erasure($1)', [id]))
  const progress = terminal.progress('erase', null)
  let total = 0
  for (;;) {
    const [row] = await asOwner(connection, () =>
      connection.query<{ rows: number }>('select erase_tenant_batch($1, $2) as rows', [id, ERASURE_BATCH]),
    )
    const erased = row?.rows ?? 0
    if (erased === 0) break
    total += erased
    progress.advance(erased)
  }
  progress.done()
  return total
}
