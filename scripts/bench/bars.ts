// What `make bench` holds its figures to. No I/O.

export interface Bar {
  name: string
  /** Null where this run did not measure it. */
  measured: number | null
  relation: '<=' | '>=' | '='
  limit: number
  /** A run that misses one of correctness fails. */
  kind: 'correctness' | 'speed'
}

export function isMet({ measured, relation, limit }: Bar): boolean | null {
  if (measured === null) return null
  if (relation === '=') return measured === limit
  // written so that NaN misses
  return relation === '<=' ? measured <= limit : measured >= limit
}
