// Every error a caller can meet. A code never changes its meaning.

const CATALOGUE = {
  INVALID_REQUEST: [400, 'The parameters of the request are not valid.'],
  UNAUTHORIZED: [401, 'Send the secret of this service as "Authorization: Bearer ...".'],
  NOT_FOUND: [404, 'There is nothing at this address.'],
  METHOD_NOT_ALLOWED: [405, 'This address does not take this method.'],
  IMAGE_TOO_LARGE: [413, 'The image has more bytes or more pixels than are accepted.'],
  UNSUPPORTED_MEDIA_TYPE: [415, 'The body must be a JPEG, PNG or WebP image.'],
  INVALID_IMAGE: [422, 'The image cannot be decoded: it is damaged or incomplete.'],
  INTERNAL: [500, 'Something went wrong on our side.'],
  TIMEOUT: [503, 'The time for this request is over.'],
  OVERLOADED: [503, 'All places are taken. Try again soon.'],
  NOT_READY: [503, 'The service is not ready to analyze images.'],
} as const satisfies Record<string, readonly [number, string]>

export type RefusalCode = keyof typeof CATALOGUE

/** Thrown anywhere on a request's road, in either thread; `server.ts` turns it into the answer. */
export class Refusal extends Error {
  readonly code: RefusalCode
  readonly detail: string

  /** @param detail what the caller can do next; never a decoder's or a driver's words */
  constructor(code: RefusalCode, detail: string = CATALOGUE[code][1]) {
    super(code)
    this.code = code
    this.detail = detail
  }

  get status(): number {
    return CATALOGUE[this.code][0]
  }
}
