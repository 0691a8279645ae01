// Whatever the drills leave to chance, from one seed, so that it can be had again. Not for secrets.
import { createHash } from 'node:crypto'
import { createRandom } from '../gallery.ts'

export class Chance {
  readonly #random: () => number

  /** @param parts the seed, and for whom: two that differ in any part have nothing in common */
  constructor(...parts: (string | number)[]) {
    this.#random = createRandom(createHash('sha256').update(JSON.stringify(parts)).digest().readInt32LE())
  }

  /** @returns a whole number, 0 or more */
  below(limit: number): number {
    return Math.floor(this.#random() * limit)
  }

  between(low: number, high: number): number {
    return low + this.#random() * (high - low)
  }

  happens(probability: number): boolean {
    return this.#random() < probability
  }

  pick<Item>(items: readonly Item[]): Item {
    const item = items[this.below(items.length)]
    if (item === undefined) throw new RangeError('there is nothing to pick')
    return item
  }

  /** @param weights of each item; they need not add up to one */
  pickWeighted<Item extends string>(weights: Readonly<Record<Item, number>>): Item {
    // the keys of a record are those of its type
    const items = Object.entries(weights) as [Item, number][]
    let left = this.#random() * items.reduce((total, [, weight]) => total + weight, 0)
    for (const [item, weight] of items) {
      left -= weight
      if (left < 0) return item
    }
    throw new RangeError('there is nothing to pick')
  }
}
