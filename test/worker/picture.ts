// Pictures of the tests, for the recognizer of test/recognizer-server.ts: texts that say what is to be seen on them.

import { env } from 'cloudflare:workers'
import { app } from '../../src/app.ts'
import type { Shown } from '../recognizer-server.ts'
import type { TestTenant } from './tenant.ts'

/** Of one person, who is alive. */
export function pictureOf(face: number[], more: Shown = {}): string {
  return JSON.stringify({ faces: [face], liveness: 0.9, ...more } satisfies Shown)
}

/** As JSON has it. @param picture in ASCII */
export function inBase64(picture: string): string {
  return btoa(picture)
}

/** What a form holds: texts, and files by their contents. */
export type Parts = [name: string, part: string | { file: string | Uint8Array<ArrayBuffer> }][]

export function toForm(parts: Parts): FormData {
  const form = new FormData()
  for (const [name, part] of parts) {
    if (typeof part === 'string') form.append(name, part)
    else form.append(name, new Blob([part.file]), 'picture.jpg')
  }
  return form
}

/** With the tenant's key. */
export async function sendForm(
  { key }: TestTenant,
  method: string,
  path: string,
  body: FormData,
  headers: Record<string, string> = {},
): Promise<Response> {
  return app.request(path, { method, headers: { Authorization: `Bearer ${key}`, ...headers }, body }, env)
}
