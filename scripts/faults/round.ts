// One round: clients at work, a fault among them, and what must be true when it is over.
import { setTimeout as wait } from 'node:timers/promises'
import { Chance } from './chance.ts'
import { checkAnswers } from './check-answers.ts'
import { checkAudit } from './check-audit.ts'
import { checkTemplates, checkTenantsApart, checkUsage, checkWhole, listAudit, listFaces } from './check-database.ts'
import { checkHistory } from './check-history.ts'
import { checkRemembered } from './check-remembered.ts'
import { checkRepeats, type Repeat } from './check-repeats.ts'
import { carryOut, repeat } from './client.ts'
import type { Act, Crowd, Fault } from './fault.ts'
import { type Entry, type Intent, isAcknowledged } from './history.ts'
import { generatePeople, type Person } from './people.ts'
import { Progress } from './progress.ts'
import { PASS } from './proxy.ts'
import { checkPurge, plantRemembered } from './purge.ts'
import { listRemembered } from './remembered.ts'
import type { Stage, Tenant } from './stage.ts'
import type { Violation } from './violation.ts'
import { SCHEDULE_PATH } from './worker-build.ts'
import { planClient, planFinalReads, type Scale } from './workload.ts'

export interface RoundResult {
  seed: number
  seconds: number
  requests: number
  acknowledged: number
  /** Requests that got no answer, or one of 500 or more. */
  failed: number
  /** Batches that the fault met, where it is one of batches. */
  spoiled: number
  /** From the end of the fault to the first answer after it, the longest of its acts; null where it has no end. */
  recoveryMs: number | null
  violations: Violation[]
}

/** When the schedule runs, twice at the same time, whatever else happens. */
const SCHEDULE_AT = [0.25, 0.5, 0.75]
const FINAL_ATTEMPTS = 20
/** So many operations with a key are sent once more when they were answered. */
const REPEATED = 0.15
/** In the end: keys under which the same is asked again, and something else. */
const AGAIN = 8
const REUSED = 3
/** Operations of each client after the fault is over; and how often as many as planned it does at most. */
const AFTERWARDS = 3
const MOST = 10

/** @param sendsKeys false for clients that know no Idempotency-Key */
export async function playRound(
  stage: Stage,
  fault: Fault,
  seed: number,
  scale: Scale,
  sendsKeys: boolean,
): Promise<RoundResult> {
  const startedAt = performance.now()
  const tenants = await stage.beginRound(scale.tenants)
  const planted = await stage.administer((admin) => plantRemembered(admin, tenants))
  const people = generatePeople(scale.tenants, scale.names)
  const progress = new Progress(scale.clients * scale.operations)
  if (fault.toRule) stage.proxy.serve(stage.endpointUrl, fault.toRule(new Chance(seed, fault.name, 'rule')))

  let isOver = false
  const acts = fault.toActs?.(new Chance(seed, fault.name, 'acts')) ?? []
  const crowded: Entry[] = []
  const crowd: Crowd = async (count) => {
    const chance = new Chance(seed, fault.name, 'crowd')
    const intents = planClient(seed, fault.name, scale.clients, scale, sendsKeys)
    const answers = Array.from({ length: count }, () => {
      const intent = intents.next().value
      return carryOut(stage, tenantOf(tenants, intent), personOf(people, intent), intent, chance)
    })
    crowded.push(...(await Promise.all(answers)))
  }
  const played = playActs(stage, acts, progress, crowd).finally(() => {
    isOver = true
  })
  // told when the clients are done
  played.catch(() => {})
  const scheduled = runSchedule(stage, progress)
  const repeats: Repeat[] = []
  const work = async (client: number) => {
    const chance = new Chance(seed, fault.name, 'pauses', client)
    const done: Entry[] = []
    let left = AFTERWARDS
    for (const intent of planClient(seed, fault.name, client, scale, sendsKeys)) {
      const entry = await carryOut(stage, tenantOf(tenants, intent), personOf(people, intent), intent, chance)
      done.push(entry)
      progress.advance()
      if (entry.key !== null && isAcknowledged(entry) && chance.happens(REPEATED)) {
        const { answer } = await repeat(stage, tenantOf(tenants, entry), personOf(people, entry), entry)
        repeats.push({ entry, answer, isAnother: false, isCalm: false })
      }
      // so that the time to recover can be told
      if (isOver) left--
      if ((done.length >= scale.operations && left <= 0) || done.length >= scale.operations * MOST) break
    }
    return done
  }
  const entries = (await Promise.all(Array.from({ length: scale.clients }, (_, client) => work(client)))).flat()
  const overs = await played
  entries.push(...crowded)
  await scheduled
  const { spoiled } = stage.proxy.counts()
  if (fault.toRule && spoiled === 0) throw new Error(`${fault.name} met no batch: the round says nothing`)
  stage.proxy.serve(stage.endpointUrl, () => PASS)
  await stage.proxy.settle()
  const recoveryMs = toRecovery(entries, overs)
  entries.push(...(await readAll(stage, tenants, people, planFinalReads(seed, scale))))

  repeats.push(...(await useKeysAgain(stage, tenants, people, entries)))
  await Promise.all([schedule(stage), schedule(stage)])

  const violations = [...checkAnswers(entries, fault), ...checkRepeats(repeats)]
  await stage.administer(async (admin) => {
    const faces = await listFaces(admin, tenants)
    const audit = await listAudit(admin, tenants)
    const remembered = await listRemembered(admin, tenants)
    const ofNobody = new Set([...planted.expired, ...planted.lasting])
    violations.push(
      ...checkHistory(entries, faces),
      ...checkAudit(entries, audit),
      ...checkPurge(planted, new Set(remembered.map(({ key }) => key))),
      ...checkRemembered(
        entries,
        remembered.filter(({ key }) => !ofNobody.has(key)),
        {
          ...{ audit, faces, hasStepped: fault.cluster?.hasClock ?? false },
          toKey: (entry) => stage.toRememberedKey(tenantOf(tenants, entry), entry.key ?? ''),
        },
      ),
      ...(await checkTemplates(admin, stage, faces.size)),
      ...(await checkUsage(admin, tenants, entries)),
      ...(await checkWhole(admin)),
      ...(await checkTenantsApart(admin, stage)),
    )
  })
  return {
    ...{ seed, seconds: (performance.now() - startedAt) / 1000, spoiled, recoveryMs, violations },
    requests: entries.reduce((total, { attempts }) => total + attempts.length, 0),
    acknowledged: entries.filter(isAcknowledged).length,
    failed: entries.flatMap(({ attempts }) => attempts).filter(({ answer }) => !answer || answer.status >= 500).length,
  }
}

/** One after the other. Answers from which moment on each was over. */
async function playActs(stage: Stage, acts: readonly Act[], progress: Progress, crowd: Crowd): Promise<number[]> {
  const overs: number[] = []
  for (const act of [...acts].sort((a, b) => a.at - b.at)) {
    await progress.reach(act.at)
    overs.push(await act.run(stage, crowd))
  }
  return overs
}

async function runSchedule(stage: Stage, progress: Progress): Promise<void> {
  for (const part of SCHEDULE_AT) {
    await progress.reach(part)
    await Promise.all([schedule(stage), schedule(stage)])
  }
}

/** What is cut off, the next one does. */
async function schedule({ workerUrl }: Stage): Promise<void> {
  await fetch(workerUrl + SCHEDULE_PATH, { method: 'POST' }).catch(() => null)
}

/** Under keys that were answered, asks the same again, and under a few something else: for somebody else. */
async function useKeysAgain(
  stage: Stage,
  tenants: readonly Tenant[],
  people: readonly Person[],
  entries: readonly Entry[],
): Promise<Repeat[]> {
  const answered = entries.filter((entry) => entry.key !== null && isAcknowledged(entry))
  const repeats: Repeat[] = []
  for (const entry of answered.slice(-AGAIN)) {
    const { answer } = await repeat(stage, tenantOf(tenants, entry), personOf(people, entry), entry)
    repeats.push({ entry, answer, isAnother: false, isCalm: true })
  }
  for (const entry of answered.filter(({ kind }) => kind === 'verify').slice(-REUSED)) {
    const another = { ...entry, person: entry.person === 0 ? 1 : 0, attempts: [...entry.attempts] }
    const { answer } = await repeat(stage, tenantOf(tenants, another), personOf(people, another), another)
    repeats.push({ entry, answer, isAnother: true, isCalm: true })
  }
  return repeats
}

function toRecovery(entries: readonly Entry[], overs: readonly number[]): number | null {
  const acknowledged = entries.flatMap(({ attempts }) => attempts.filter(({ answer }) => answer && answer.status < 300))
  const times = overs.flatMap((over) => {
    const ends = acknowledged.filter(({ start }) => start >= over).map(({ end }) => end)
    return ends.length === 0 ? [] : [Math.min(...ends) - over]
  })
  return times.length === 0 ? null : Math.max(...times)
}

/** Reads what is there when nobody disturbs any more; each until it is answered. */
async function readAll(
  stage: Stage,
  tenants: readonly Tenant[],
  people: readonly Person[],
  plan: readonly Intent[],
): Promise<Entry[]> {
  const chance = new Chance('final reads')
  const queue = plan.values()
  const entries: Entry[] = []
  await Promise.all(
    tenants.map(async () => {
      for (const intent of queue) {
        for (let attempt = 0; attempt < FINAL_ATTEMPTS; attempt++) {
          const again = { ...intent, id: `${intent.id}-${attempt}` }
          const entry = await carryOut(stage, tenantOf(tenants, again), personOf(people, again), again, chance)
          entries.push(entry)
          if (entry.answer && entry.answer.status < 500) break
          await wait(200)
        }
      }
    }),
  )
  return entries
}

function tenantOf(tenants: readonly Tenant[], { tenant }: Intent): Tenant {
  const found = tenants[tenant]
  if (!found) throw new RangeError(`there is no tenant ${tenant}`)
  return found
}

function personOf(people: readonly Person[], { person }: Intent): Person {
  const found = people[person]
  if (!found) throw new RangeError(`there is no person ${person}`)
  return found
}
