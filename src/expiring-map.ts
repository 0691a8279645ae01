// A Map whose entries end after a time, and which never grows beyond a number of them. One per isolate.

export class ExpiringMap<Value> {
  readonly #entries = new Map<string, { value: Value; expiresAt: number }>()
  readonly #maxEntries: number
  readonly #ttlMs: number

  /** @param maxEntries beyond it, the oldest entry gives way */
  constructor(maxEntries: number, ttlMs: number) {
    this.#maxEntries = maxEntries
    this.#ttlMs = ttlMs
  }

  get(key: string): Value | undefined {
    const entry = this.#entries.get(key)
    if (!entry) return undefined
    if (entry.expiresAt > Date.now()) return entry.value
    this.#entries.delete(key)
    return undefined
  }

  /** The entry; or what `load` answers, which is kept from now on. Null is not kept. */
  async find(key: string, load: () => Promise<Value | null>): Promise<Value | null> {
    const known = this.get(key)
    if (known !== undefined) return known
    const loaded = await load()
    if (loaded !== null) this.set(key, loaded)
    return loaded
  }

  /** Begins the entry's time anew: not for what was only read. */
  set(key: string, value: Value): void {
    // deleted first, because a Map keeps the order of insertion: the first key is the oldest entry
    this.#entries.delete(key)
    const oldest = this.#entries.size >= this.#maxEntries ? this.#entries.keys().next().value : undefined
    if (oldest !== undefined) this.#entries.delete(oldest)
    this.#entries.set(key, { value, expiresAt: Date.now() + this.#ttlMs })
  }

  delete(key: string): void {
    this.#entries.delete(key)
  }

  deleteWhere(isUnwanted: (value: Value) => boolean): void {
    for (const [key, { value }] of this.#entries) if (isUnwanted(value)) this.#entries.delete(key)
  }
}
