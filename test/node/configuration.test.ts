// Proves that wrangler.toml says what the code says. Nothing is fake.
import { describe, expect, it } from 'vitest'
import { unstable_readConfig as readConfig } from 'wrangler'
import { POLICIES } from '../../src/rate-limit.ts'

const ENVIRONMENTS = ['dev', 'staging', 'production']

interface Configuration {
  env: string
  ratelimits: { name: string; namespace_id: string; simple: { limit: number; period: number } }[]
  workers_dev: boolean
  preview_urls: boolean
  observability: { logs: { invocation_logs: boolean } }
  vars: Record<string, string>
}

// as wrangler's own schema of the file has it
const configurations = ENVIRONMENTS.map((env) => ({
  env,
  ...readConfig({ config: 'wrangler.toml', env }),
})) as Configuration[]

describe('wrangler.toml', () => {
  it.each(configurations)('limits the calls of $env as src/rate-limit.ts says', ({ ratelimits }) => {
    const configured = ratelimits.map(({ name, simple }) => ({ name, ...simple }))
    expect(configured).toEqual(
      Object.values(POLICIES).map(({ binding, quota, periodSeconds }) => ({
        name: binding,
        limit: quota,
        period: periodSeconds,
      })),
    )
  })

  it('gives each environment counters of its own', () => {
    const namespaces = configurations.flatMap(({ ratelimits }) => ratelimits.map(({ namespace_id }) => namespace_id))
    expect(new Set(namespaces).size).toBe(ENVIRONMENTS.length * Object.keys(POLICIES).length)
  })

  it.each(configurations)(
    'keeps the addresses that $env is asked for out of the log of the platform',
    (configuration) => {
      expect(configuration.observability.logs.invocation_logs).toBe(false)
    },
  )

  it.each(configurations)('keeps $env off workers.dev and off preview addresses, and names it', (configuration) => {
    expect(configuration.workers_dev).toBe(false)
    expect(configuration.preview_urls).toBe(false)
    expect(configuration.vars).toEqual({ ENVIRONMENT: configuration.env })
  })
})
