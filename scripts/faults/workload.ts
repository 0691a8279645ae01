// What the clients of a round want: decided by its seed before anything is sent.
import { Chance } from './chance.ts'
import type { Intent, Kind } from './history.ts'
import { toPerson, VARIANTS } from './people.ts'

export interface Scale {
  tenants: number
  /** external_ids of each tenant. */
  names: number
  clients: number
  /** Of each client, at least: it goes on until the fault is over. */
  operations: number
}

const KINDS: Readonly<Record<Kind, number>> = { verify: 34, search: 12, read: 12, enroll: 14, replace: 14, erase: 14 }
/** Half of the clients' operations are a gate's, which asks until it is answered. */
const WITH_KEY = 0.5

/**
 * @param client whose
 * @returns what it wants, one after the other, without an end
 */
export function* planClient(
  seed: number,
  fault: string,
  client: number,
  scale: Scale,
  sendsKeys: boolean,
): Generator<Intent, never> {
  const chance = new Chance(seed, fault, 'client', client)
  for (let operation = 0; ; operation++) {
    const tenant = chance.below(scale.tenants)
    const name = chance.below(scale.names)
    const kind = chance.pickWeighted(KINDS)
    const person = toPerson(tenant, name, chance.below(VARIANTS), scale.names)
    const id = `s${seed}-c${client}-${operation}`
    const hasKey = chance.happens(WITH_KEY) && sendsKeys && kind !== 'read'
    yield { id, tenant, kind, externalId: `person-${name}`, person, key: hasKey ? `key-${id}` : null }
  }
}

/** What is there at the end: everybody is read, every face is shown once, and searched for in another tenant. */
export function planFinalReads(seed: number, { tenants, names }: Scale): Intent[] {
  return Array.from({ length: tenants * names }, (_, index): Intent[] => {
    const [tenant, name] = [index % tenants, Math.floor(index / tenants)]
    const about = { tenant, externalId: `person-${name}`, key: null }
    const first = toPerson(tenant, name, 0, names)
    const rival = (tenant + 1) % tenants
    return [
      { ...about, id: `s${seed}-f${index}`, kind: 'read', person: first },
      { ...about, id: `s${seed}-f${index}-x`, tenant: rival, kind: 'search', person: first },
      ...Array.from({ length: VARIANTS }, (_, variant) => ({
        ...{ ...about, id: `s${seed}-f${index}-${variant}`, kind: 'verify' as const, person: first + variant },
      })),
    ]
  }).flat()
}
