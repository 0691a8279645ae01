// What the one log line of a request says, gathered on its road. Never a key, a token, an embedding, an
// external_id, or words of the driver.

export interface Trace {
  requestId: string
  /** Milliseconds since the epoch when the request came in. */
  startedAt: number
  /** Null until a credential has named one. */
  tenantId: string | null
  /** Why a credential was refused: for the log alone, the answer is the same for every reason. */
  refusal: string | null
  /** Milliseconds spent waiting for the database, and how often. */
  databaseMs: number
  databaseRequests: number
  /** Milliseconds spent waiting for the recognizer; null when it was not asked. */
  recognizerMs: number | null
  /** What went wrong on our side: SQLSTATE, or the class and place of an error, never its message. */
  fault: Record<string, string | null> | null
}

export function startTrace(requestId: string): Trace {
  return {
    requestId,
    startedAt: Date.now(),
    tenantId: null,
    refusal: null,
    databaseMs: 0,
    databaseRequests: 0,
    recognizerMs: null,
    fault: null,
  }
}

/**
 * Writes the line.
 *
 * @param route the pattern that matched, never the URL, which names people; null when none did
 */
export function logRequest(trace: Trace, method: string, route: string | null, status: number): void {
  const isFault = trace.fault !== null || status >= 500
  const line = JSON.stringify({
    level: isFault ? 'error' : 'info',
    event: 'request',
    request_id: trace.requestId,
    tenant: trace.tenantId,
    method,
    route,
    status,
    ms: Date.now() - trace.startedAt,
    database_ms: trace.databaseMs,
    database_requests: trace.databaseRequests,
    ...(trace.recognizerMs !== null && { recognizer_ms: trace.recognizerMs }),
    ...(trace.refusal !== null && { refusal: trace.refusal }),
    ...trace.fault,
  })
  if (isFault) console.error(line)
  else console.log(line)
}
