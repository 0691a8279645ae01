// Promises of the service that are broken on purpose, one at a time: `make faults` must notice each, or its silence says nothing.

import type { Edit } from '../edit.ts'
import type { Violation } from './violation.ts'

export interface Bite {
  name: string
  /** For the table. */
  breaks: string
  /** The fault that brings it to light. */
  fault: string
  /** What must be reported, by any of these. */
  expects: readonly Violation['invariant'][]
  /** Settings of the cluster. */
  settings?: readonly string[]
  edits?: readonly Edit[]
}

const FACES = 'src/db/faces.ts'
const ACTS = 'src/db/acts.ts'

export const BITES: readonly Bite[] = [
  {
    name: 'asynchronous-commit',
    breaks: 'synchronous_commit = off: an answer is given before its transaction is on disk',
    ...{ fault: 'crash', expects: ['I1', 'I2'] },
    settings: ['synchronous_commit=off'],
  },
  {
    name: 'idempotency-insert-removed',
    breaks: 'nothing but decisions is remembered, so an act that comes twice is carried out twice',
    ...{ fault: 'duplicate', expects: ['I2', 'I3', 'I5', 'I7'] },
    edits: [{ file: ACTS, from: 'having ${isFirst(sql)}', to: 'having false and ${isFirst(sql)}' }],
  },
  {
    name: 'metering-after-the-answer',
    breaks: 'usage of enrollments is written in waitUntil, behind the answer',
    ...{ fault: 'drop-before', expects: ['I3'] },
    edits: [
      {
        file: FACES,
        from: "import { toDistance } from '../face/similarity.ts'",
        to: "import { waitUntil } from 'cloudflare:workers'\nimport { toDistance } from '../face/similarity.ts'",
      },
      { file: FACES, from: "select tenant_id, 'registration' from enrolled union all ", to: '' },
      {
        file: FACES,
        from: "  if (!row) throw new RangeError('an insert answered no row')\n",
        to: `  if (!row) throw new RangeError('an insert answered no row')
  if (row.id) waitUntil(db.run(sql\`insert into usage_events (tenant_id, kind) values (\${tenant.id}, 'registration')\`))
`,
      },
    ],
  },
]
