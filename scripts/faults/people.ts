// Who is enrolled in a drill: a few people for each external_id, so that a verification tells which of them stands there.
import { generateGallery } from '../gallery.ts'

export interface Person {
  /** Base64 of 512 float32, as the API takes it. */
  embedding: string
}

/** People per external_id: another one for each tenant, so that nobody of one tenant is anybody of the next. */
export const VARIANTS = 3

/** @returns enough of them for `count` external_ids of each tenant; see `toPerson` */
export function generatePeople(tenants: number, count: number): Person[] {
  return generateGallery(tenants * count * VARIANTS, 1, PEOPLE_SEED).map(({ samples: [sample = []] }) => ({
    embedding: Buffer.from(Float32Array.from(sample).buffer).toString('base64'),
  }))
}

/** The same people in all rounds: what is drilled is not the arithmetic. */
const PEOPLE_SEED = 8

/** @param name number of the external_id */
export function toPerson(tenant: number, name: number, variant: number, names: number): number {
  return (tenant * names + name) * VARIANTS + variant
}
