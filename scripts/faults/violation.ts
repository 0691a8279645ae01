// What a round must not show.

/** Of issue 8, and of what a client is told. */
export type Invariant = 'I1' | 'I2' | 'I3' | 'I4' | 'I5' | 'I6' | 'I7' | 'I8'

export interface Violation {
  invariant: Invariant
  /** Gone, there twice, or not what it should be. */
  kind: 'lost' | 'doubled' | 'wrong'
  /** A sentence for whoever looks for the reason. */
  says: string
}
