// Stands for the types of sharp where it is not installed: what we use of it, no more.
import type { Buffer } from 'node:buffer'

interface Options {
  limitInputPixels?: number | boolean
  failOn?: 'none' | 'truncated' | 'error' | 'warning'
  pages?: number
}

interface Sharp {
  metadata(): Promise<{ autoOrient: { width: number; height: number }; hasAlpha: boolean }>
  timeout(options: { seconds: number }): Sharp
  autoOrient(): Sharp
  resize(width: number, height: number, options?: { fit?: 'inside' | 'fill' }): Sharp
  flatten(options: { background: string }): Sharp
  toColourspace(space: 'srgb'): Sharp
  raw(options?: { depth?: 'uchar' }): Sharp
  toBuffer(options: {
    resolveWithObject: true
  }): Promise<{ data: Buffer; info: { width: number; height: number; channels: number } }>
}

declare const sharp: {
  (input: Uint8Array | Options, options?: Options): Sharp
  block(options: { operation: string[] }): void
  unblock(options: { operation: string[] }): void
  cache(options: boolean): void
  concurrency(threads: number): number
}
export default sharp
