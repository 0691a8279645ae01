// Photographs of people in a folder, and what is known of them: who is in a picture, how many, where.
import { readdir, readFile } from 'node:fs/promises'
import { basename, extname, join } from 'node:path'

export interface Photograph {
  name: string
  /** Base64, as the API takes it. */
  image: string
}

export interface Person {
  name: string
  photographs: Photograph[]
}

const PICTURE = /\.(jpe?g|png|webp)$/i

/**
 * Photographs of one person each, by person: `ada-1.jpg` and `ada-2.jpg` show Ada, and so does `2024-03_ada.jpg`.
 *
 * @throws Error when there are none
 */
export async function readPeople(folder: string): Promise<Person[]> {
  const people = new Map<string, Person>()
  for (const photograph of await readPhotographs(folder)) {
    const name = toPerson(photograph.name)
    const person = people.get(name) ?? { name, photographs: [] }
    person.photographs.push(photograph)
    people.set(name, person)
  }
  if (people.size === 0) throw new Error(`There are no photographs (JPEG, PNG or WebP) in IMAGES=${folder}.`)
  return [...people.values()]
}

export function toPerson(file: string): string {
  const stem = basename(file, extname(file))
  const behind = /_([^_]+)$/.exec(stem)?.[1]
  return behind ?? stem.replace(/-\d[^-]*(-[^-]*)?$/, '')
}

/** Photographs whose names end in how many people are in them: `team_8.jpg`. Others, and a folder that is not there, have none. */
export async function readGroups(folder: string): Promise<{ photograph: Photograph; faces: number }[]> {
  const photographs = await readPhotographs(folder).catch(() => [])
  return photographs.flatMap((photograph) => {
    const faces = /_(\d+)\.\w+$/.exec(photograph.name)?.[1]
    return faces === undefined ? [] : [{ photograph, faces: Number(faces) }]
  })
}

async function readPhotographs(folder: string): Promise<Photograph[]> {
  const names = (await readdir(folder)).filter((name) => PICTURE.test(name)).sort()
  return Promise.all(names.map(async (name) => ({ name, image: await readFile(join(folder, name), 'base64') })))
}
