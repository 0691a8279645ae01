// Middleware: reads a body that may bring pictures, within limits: JSON with base64, or a multipart form, whose file is
// passed on without another copy.
import { createMiddleware } from 'hono/factory'
import type { AppContext } from './env.ts'
import { bodyTooLarge, MAX_BODY_BYTES, readText, requireNoEncoding, requireSound } from './json-body.ts'
import { Problem } from './problem.ts'
import { imageTooLarge, MAX_IMAGE_BYTES } from './recognizer.ts'

/**
 * One picture in base64, or the two of a comparison that are as large together, and the fields beside them. JSON is held as
 * bytes, as text and parsed at the same time: two of the largest would be more than an isolate has.
 */
const MAX_JSON_BYTES = Math.ceil((MAX_IMAGE_BYTES * 4) / 3) + MAX_BODY_BYTES
const MAX_FORM_BYTES = 2 * MAX_IMAGE_BYTES + MAX_BODY_BYTES
/** As strict as Hono's own check behind it: one rule, one answer. */
const FORM = /^multipart\/form-data;\s?boundary=[a-zA-Z0-9'"()+_,\-./:=?]+$/i
/** In JSON: the name, which is looked for and counted, and the picture, which is measured by itself later. */
const MARK = '"image"'
const PICTURES = /("image"\s*:\s*)"[^"\\]*"/g

export const faceBody = createMiddleware<AppContext>(async (c, next) => {
  const contentType = c.req.header('Content-Type') ?? ''
  if (/^multipart\//i.test(contentType)) {
    if (!FORM.test(contentType)) {
      throw new Problem('UNSUPPORTED_MEDIA_TYPE', 'Send a form as "Content-Type: multipart/form-data; boundary=...".')
    }
    requireNoEncoding(c.req.raw)
    const form = await readForm(c.req.raw, contentType)
    requireSmall(sizeBesidePictures(form))
    // Hono's validators read the form from here; its own cache holds promises, whatever its type says
    c.req.bodyCache.formData = Promise.resolve(form) as unknown as FormData
  } else {
    const text = await readText(c.req.raw, { mark: MARK, maxBytes: MAX_JSON_BYTES })
    requireSmall(Buffer.byteLength(text.replace(PICTURES, '$1')))
    requireSound(text)
    c.req.bodyCache.text = Promise.resolve(text) as unknown as string
  }
  await next()
})

/**
 * What stands beside pictures is as small as a body is anywhere: three million keys would take ten seconds and more
 * memory than there is.
 */
function requireSmall(byteLength: number): void {
  if (byteLength > MAX_BODY_BYTES) throw bodyTooLarge(MAX_BODY_BYTES)
}

function sizeBesidePictures(form: FormData): number {
  let byteLength = 0
  form.forEach((value, name) => {
    byteLength += Buffer.byteLength(name) + (typeof value === 'string' ? Buffer.byteLength(value) : 0)
  })
  return byteLength
}

async function readForm(request: Request, contentType: string): Promise<FormData> {
  if (Number(request.headers.get('Content-Length')) > MAX_FORM_BYTES) throw imageTooLarge()
  let byteLength = 0
  const limited = request.body?.pipeThrough(
    new TransformStream<Uint8Array, Uint8Array>({
      transform(chunk, controller) {
        byteLength += chunk.byteLength
        if (byteLength > MAX_FORM_BYTES) controller.error(new RangeError('the form is too large'))
        else controller.enqueue(chunk)
      },
    }),
  )
  try {
    return await new Response(limited ?? null, { headers: { 'Content-Type': contentType } }).formData()
  } catch {
    if (byteLength > MAX_FORM_BYTES) throw imageTooLarge()
    throw new Problem('MALFORMED_FORM', 'Send one multipart form (RFC 7578).')
  }
}
