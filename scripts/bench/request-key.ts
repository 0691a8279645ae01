// The random key under which the Worker has a request remembered: the same once more would be a repetition, and do nothing.
// Runs in Node and in workerd.
import { nameUnkeyedRequest } from '../../src/idempotency.ts'

const KEY = /^[0-9a-f]{32}$/

export function isRequestKey(param: unknown): param is string {
  return typeof param === 'string' && KEY.test(param)
}

export function newRequestKey(): string {
  return nameUnkeyedRequest().key
}

/** A parameter of a batch that is another request: the key anew, and anything else as it is. */
export function renewKey(param: unknown): unknown {
  return isRequestKey(param) ? newRequestKey() : param
}
