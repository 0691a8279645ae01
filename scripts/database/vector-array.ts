// Many vectors as one parameter of a statement.
import { toVector } from '../../src/db/templates.ts'
import { DIMENSIONS } from '../../src/face/embedding.ts'
import type { RotatedEmbedding } from '../../src/face/protection/rotation.ts'
import type { Connection } from './connection.ts'

/** How the vectors of a batch become one parameter. */
export type VectorArray = (embeddings: RotatedEmbedding[]) => unknown

/**
 * Native PostgreSQL takes vectors as they are, without 512 numbers written out and read; the embedded one takes
 * parameters as text only.
 */
export async function findVectorArray(connection: Connection, isNative: boolean): Promise<VectorArray> {
  if (!isNative) return toVectorTexts
  const [type] = await connection.query<{ oid: number }>("select 'vector'::regtype::oid::int as oid")
  if (!type) throw new RangeError('regtype answered no row')
  return (embeddings) => toBinaryArray(type.oid, embeddings)
}

/** As PostgreSQL reads an array of vectors. */
export function toVectorTexts(embeddings: RotatedEmbedding[]): string {
  return `{${embeddings.map((embedding) => `"${toVector(embedding)}"`).join(',')}}`
}

/** As array_recv and pgvector's vector_recv read it. */
function toBinaryArray(elementType: number, embeddings: RotatedEmbedding[]): Buffer {
  const elementBytes = 4 + DIMENSIONS * 4
  const buffer = Buffer.alloc(20 + embeddings.length * (4 + elementBytes))
  const view = new DataView(buffer.buffer, buffer.byteOffset, buffer.byteLength)
  // one dimension, no nulls, the type of its elements, their number, counted from 1
  const header = [1, 0, elementType, embeddings.length, 1]
  for (const [index, word] of header.entries()) view.setInt32(index * 4, word)
  let at = header.length * 4
  for (const embedding of embeddings) {
    view.setInt32(at, elementBytes)
    view.setInt16(at + 4, DIMENSIONS)
    at += 8
    for (const component of embedding) {
      view.setFloat32(at, component)
      at += 4
    }
  }
  return buffer
}
