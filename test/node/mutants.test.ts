// Proves that every line which `make mutants` breaks is there to be broken, once, and that its tests exist: a change of
// the source cannot leave a mutant behind. The run itself takes minutes and is not made here.
import { readFile } from 'node:fs/promises'
import { describe, expect, it } from 'vitest'
import { MUTANTS } from '../../scripts/mutant-list.ts'

describe('the list of mutants', () => {
  it('has at least twenty, each with a name of its own', () => {
    const names = MUTANTS.map(({ name }) => name)
    expect(names.length).toBeGreaterThanOrEqual(20)
    expect(names).toEqual([...new Set(names)])
  })

  it.each(MUTANTS)('finds what $name breaks, and the tests that are to notice', async ({ edits, tests }) => {
    expect(edits).not.toEqual([])
    for (const { file, from, to } of edits) {
      expect((await readFile(file, 'utf8')).split(from).length - 1, `${file}: ${from}`).toBe(1)
      expect(to).not.toBe(from)
    }
    expect(tests).not.toEqual([])
    for (const file of tests) expect(await readFile(file, 'utf8')).toContain('describe(')
  })
})
