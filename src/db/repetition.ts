// When a request to the database is sent once more, and how soon.
import { DatabaseError, type DatabaseTrace, DEADLINE_MS } from './neon.ts'

const MAX_ATTEMPTS = 3
/** Before the second attempt half of this to all of it, before the third four times as long. */
const PAUSE_MS = 200
/** A repetition that begins later would be given up by us before PostgreSQL gives it up, and carried out behind our back. */
const LATEST_START_MS = DEADLINE_MS / 2

/**
 * What an isolate may repeat: one request in ten, and so many at once. A database that is down is not brought up by three
 * times as many requests.
 */
const MAX_BUDGET = 50
const BUDGET_PER_REQUEST = 0.1
let budget = MAX_BUDGET

/**
 * @param trace of the client's request, which has one deadline for all that it asks of the database
 * @param isRepeatable whether the same may be sent again after this error
 * @throws the error of the last attempt
 */
export async function repeating<Result>(
  trace: DatabaseTrace,
  send: (isRepetition: boolean) => Promise<Result>,
  isRepeatable: (error: DatabaseError, isRepetition: boolean) => boolean,
): Promise<Result> {
  budget = Math.min(MAX_BUDGET, budget + BUDGET_PER_REQUEST)
  for (let count = 1; ; count++) {
    const isRepetition = count > 1
    try {
      return await send(isRepetition)
    } catch (error) {
      if (!(error instanceof DatabaseError) || !isRepeatable(error, isRepetition)) throw error
      const pauseMs = PAUSE_MS * 4 ** (count - 1) * (0.5 + Math.random() / 2)
      const isLate = trace.databaseMs + pauseMs > LATEST_START_MS
      if (count === MAX_ATTEMPTS || isLate || budget < 1) throw error
      budget--
      await new Promise((resolve) => setTimeout(resolve, pauseMs))
      trace.databaseMs += Math.round(pauseMs)
    }
  }
}
