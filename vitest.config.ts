import { cloudflareTest } from '@cloudflare/vitest-plugin'
import { defineConfig } from 'vitest/config'
import { POLICIES } from './src/rate-limit.ts'

function toLimit(name: string, limit: number) {
  return { namespace_id: name, simple: { limit, period: 60 as const } }
}

/** Out of the way of tests, but for one to put in the place of any other: the real limiter, soon at its end. */
const RATE_LIMITS = {
  ...Object.fromEntries(Object.values(POLICIES).map(({ binding }) => [binding, toLimit(binding, 1_000_000)])),
  TIGHT_LIMIT: toLimit('TIGHT_LIMIT', 3),
}

export default defineConfig({
  test: {
    globalSetup: './test/global-setup.ts',
    // the Worker's own lines, one a request; tests that read them listen themselves
    onConsoleLog: (text) => !text.startsWith('{"level":'),
    // one database and one `/stats` for all files
    fileParallelism: false,
    projects: [
      {
        extends: true,
        plugins: [
          cloudflareTest(({ inject }) => ({
            wrangler: { configPath: './wrangler.toml', environment: 'dev' },
            miniflare: {
              bindings: { ...inject('workerBindings'), TEST: inject('testDatabase') },
              ratelimits: RATE_LIMITS,
            },
          })),
        ],
        test: { name: 'worker', include: ['test/worker/**/*.test.ts'], testTimeout: 30_000 },
      },
      {
        extends: true,
        test: { name: 'node', include: ['test/node/**/*.test.ts'], testTimeout: 60_000, hookTimeout: 60_000 },
      },
    ],
  },
})
