// Proves how the demo reads a folder of photographs: who is in one, by its name, and how many are in a group. Fake: the
// photographs, which nobody looks at here.
import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { readGroups, readPeople, toPerson } from '../../scripts/photographs.ts'
import { readFaceModels } from '../../scripts/recognizer.ts'

let folder: string
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'rekko-photographs-'))
})
afterAll(() => rm(folder, { recursive: true }))

describe('the name of a photograph', () => {
  it.each([
    ['ada-1.jpg', 'ada'],
    ['ada-2.JPEG', 'ada'],
    ['mary-ann-3.png', 'mary-ann'],
    ['ada-5partial.jpg', 'ada'],
    ['ada-7-240p.jpg', 'ada'],
    ['2024-03_ada.webp', 'ada'],
    ['cf-001_A.jpg', 'A'],
    ['ada.jpg', 'ada'],
  ])('says who is in it: %s', (file, person) => {
    expect(toPerson(file)).toBe(person)
  })
})

describe('a folder of photographs', () => {
  it('has its people in the order of their names, with the picture that is enrolled first, and nothing else', async () => {
    for (const file of ['bob-1.jpg', 'ada-2.jpg', 'ada-1.png', 'notes.txt', 'list.csv']) {
      await writeFile(join(folder, file), file)
    }
    expect(await readPeople(folder)).toEqual([
      {
        name: 'ada',
        photographs: [
          { name: 'ada-1.png', image: btoa('ada-1.png') },
          { name: 'ada-2.jpg', image: btoa('ada-2.jpg') },
        ],
      },
      { name: 'bob', photographs: [{ name: 'bob-1.jpg', image: btoa('bob-1.jpg') }] },
    ])
    await expect(readPeople(join(folder, 'nothing-here'))).rejects.toThrow()
  })

  it('says how many people are in a group, where its name does', async () => {
    const groups = await mkdtemp(join(folder, 'groups-'))
    for (const file of ['team_8.jpg', 'nobody_0.jpg', 'two-friends.jpg']) await writeFile(join(groups, file), '')
    expect((await readGroups(groups)).map(({ photograph, faces }) => [photograph.name, faces])).toEqual([
      ['nobody_0.jpg', 0],
      ['team_8.jpg', 8],
    ])
    expect(await readGroups(join(folder, 'nothing-here'))).toEqual([])
  })
})

describe('models.json', () => {
  it('gives the Worker the thresholds of its recognizer, and no others', async () => {
    const path = join(folder, 'models.json')
    const recognizer = {
      id: 'mine',
      version: '2',
      thresholds: { floor: 0.65, verification: 0.68, identification: 0.7 },
    }
    await writeFile(path, JSON.stringify({ recognizer }))
    expect(JSON.parse(await readFaceModels(path))).toEqual([
      { id: 'mine@2', floor: 0.65, verification: 0.68, identification: 0.7 },
    ])
    recognizer.thresholds.floor = 0.5
    await writeFile(path, JSON.stringify({ recognizer }))
    await expect(readFaceModels(path)).rejects.toThrow('thresholds must rise from 0.6')
  })
})
