// Stands for the types of onnxruntime-node where it is not installed: what src/networks.ts uses of it, no more.

export class Tensor {
  readonly data: unknown
  constructor(type: 'float32', data: Float32Array, dims: readonly number[])
}

export namespace InferenceSession {
  interface SessionOptions {
    intraOpNumThreads?: number
    interOpNumThreads?: number
    executionMode?: 'sequential' | 'parallel'
    graphOptimizationLevel?: 'disabled' | 'basic' | 'extended' | 'all'
    executionProviders?: readonly string[]
    enableCpuMemArena?: boolean
    logSeverityLevel?: 0 | 1 | 2 | 3 | 4
  }
  type OnnxValueMapType = { readonly [name: string]: Tensor }
}

export interface InferenceSession {
  readonly inputNames: readonly string[]
  run(feeds: { [name: string]: Tensor }): Promise<InferenceSession.OnnxValueMapType>
}

export const InferenceSession: {
  create(bytes: Uint8Array, options?: InferenceSession.SessionOptions): Promise<InferenceSession>
}
