// The networks, ready to run: the only file that speaks to the inference engine. `run` of onnxruntime-node blocks
// the thread that calls it (measured with 1.30: no timer fires meanwhile), so this lives in analysis threads.
import * as ort from 'onnxruntime-node'
import { ALIGNED_SIZE } from './face/alignment.ts'
import { type DetectorOutputs, HEADS, STRIDES } from './face/detection.ts'
import { CLASSES } from './face/liveness.ts'
import { type Planes, toNetworkInput } from './face/picture.ts'
import { ConfigurationError, type Detector, type LivenessModel, type Models, type Recognizer } from './models.ts'

/** Components of an embedding. */
export const DIMENSIONS = 512

/** Bytes of the networks, in the order in which `openNetworks` takes them. */
export interface NetworkBytes {
  detector: Uint8Array
  recognizer: Uint8Array
  liveness: Uint8Array[]
}

export interface Networks {
  detect(canvas: Planes): Promise<DetectorOutputs>
  /** @returns L2-normalized */
  embed(aligned: Planes): Promise<Float32Array>
  /** @param index of the network in the model's list */
  judge(crop: Planes, index: number): Promise<Float32Array>
}

/**
 * @throws ConfigurationError when a network does not have the shape that its role needs: each is run once
 */
export async function openNetworks(models: Models, bytes: NetworkBytes): Promise<Networks> {
  const detector = await open('detector', bytes.detector)
  const recognizer = await open('recognizer', bytes.recognizer)
  const liveness = await Promise.all(bytes.liveness.map((each) => open('liveness', each)))

  const networks: Networks = {
    async detect(canvas) {
      const outputs = await run(detector, canvas, models.detector)
      return Object.fromEntries(Object.entries(outputs).map(([name, { data }]) => [name, data as Float32Array]))
    },
    async embed(aligned) {
      return normalize(firstOutput(await run(recognizer, aligned, models.recognizer)))
    },
    async judge(crop, index) {
      const session = liveness[index]
      if (!session || !models.liveness) throw new RangeError('there is no such liveness network')
      return firstOutput(await run(session, crop, models.liveness))
    },
  }
  await proveNetworks(networks, models)
  return networks
}

async function open(role: string, bytes: Uint8Array): Promise<ort.InferenceSession> {
  // a copy: the engine takes no shared memory
  return ort.InferenceSession.create(bytes.slice(), {
    // one analysis, one core: the pool of threads is the parallelism
    intraOpNumThreads: 1,
    interOpNumThreads: 1,
    executionMode: 'sequential',
    graphOptimizationLevel: 'all',
    executionProviders: ['cpu'],
    // a growing arena keeps the largest detection of all times
    enableCpuMemArena: false,
    // its warnings name nodes and files
    logSeverityLevel: 4,
  }).catch(() => {
    throw new ConfigurationError(`${role}: the file is not a network that ONNX Runtime can load.`)
  })
}

async function run(
  session: ort.InferenceSession,
  planes: Planes,
  { pixels }: Detector | Recognizer | LivenessModel,
): Promise<ort.InferenceSession.OnnxValueMapType> {
  const [input = ''] = session.inputNames
  const tensor = new ort.Tensor('float32', toNetworkInput(planes, pixels), [1, 3, planes.height, planes.width])
  return session.run({ [input]: tensor })
}

function firstOutput(outputs: ort.InferenceSession.OnnxValueMapType): Float32Array {
  const [output] = Object.values(outputs)
  if (!output || !('data' in output) || !(output.data instanceof Float32Array)) {
    throw new RangeError('the network answered no float32')
  }
  return output.data
}

function normalize(output: Float32Array): Float32Array {
  const norm = Math.hypot(...output)
  // written so that NaN fails it: such a vector must never be compared with
  if (!(norm > 0 && Number.isFinite(norm))) throw new RangeError('the recognizer answered no direction')
  return output.map((component) => component / norm)
}

/**
 * Runs every network once, on gray levels.
 *
 * @throws ConfigurationError when one does not take or answer what its role needs
 */
export async function proveNetworks(networks: Networks, models: Models): Promise<void> {
  for (const size of models.detector.sizes) {
    const outputs = await tried('detector', networks.detect(gray(size)), `takes no input of 1x3x${size}x${size}`)
    for (const stride of STRIDES) {
      for (const [head, numbers] of Object.entries(HEADS)) {
        const expected = (size / stride) ** 2 * numbers
        if (outputs[`${head}_${stride}`]?.length !== expected) {
          throw new ConfigurationError(`detector: at ${size} px, ${head}_${stride} must be ${expected} numbers.`)
        }
      }
    }
  }
  const embedding = await tried('recognizer', networks.embed(gray(ALIGNED_SIZE)), 'takes no input of 1x3x112x112')
  if (embedding.length !== DIMENSIONS) {
    throw new ConfigurationError(`recognizer: the output has ${embedding.length} components, not ${DIMENSIONS}.`)
  }
  const { networks: judges = [], size = 0 } = models.liveness ?? {}
  for (const index of judges.keys()) {
    const classes = await tried('liveness', networks.judge(gray(size), index), `takes no input of 1x3x${size}x${size}`)
    if (classes.length !== CLASSES) {
      throw new ConfigurationError(`liveness: the output has ${classes.length} classes, not ${CLASSES}.`)
    }
  }
}

function tried<T>(role: string, inference: Promise<T>, fault: string): Promise<T> {
  return inference.catch(() => {
    throw new ConfigurationError(`${role}: the network ${fault}, or answers no numbers.`)
  })
}

function gray(size: number): Planes {
  // not constant, or a network without a bias would answer zeros
  return { data: Float32Array.from({ length: 3 * size * size }, (_, index) => index % 256), width: size, height: size }
}
