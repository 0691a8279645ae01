// How far the clients of a round are, for whoever waits for a part of it.

export class Progress {
  readonly #total: number
  #done = 0
  readonly #waiting = new Set<{ count: number; resolve: () => void }>()

  /** @param total operations that there will be at least */
  constructor(total: number) {
    this.#total = total
  }

  advance(): void {
    this.#done++
    for (const waiting of this.#waiting) {
      if (waiting.count > this.#done) continue
      this.#waiting.delete(waiting)
      waiting.resolve()
    }
  }

  /** @param part 0 to below 1 */
  reach(part: number): Promise<void> {
    return new Promise((resolve) => {
      const count = Math.floor(part * this.#total)
      if (count <= this.#done) resolve()
      else this.#waiting.add({ count, resolve })
    })
  }
}
