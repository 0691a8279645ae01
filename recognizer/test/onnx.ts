// Tiny ONNX networks of the shapes that the service takes, made here so that no weights are needed: what they
// answer can be worked out by hand. Includes the part of protobuf's wire format that ONNX needs.
import { HEADS, STRIDES } from '../src/face/detection.ts'

const FLOAT = 1
const INT64 = 7

interface Node {
  type: string
  inputs: string[]
  outputs: string[]
  ints?: Record<string, number | number[]>
}

interface Tensor {
  dims: number[]
  values: Float32Array | BigInt64Array
}

interface Graph {
  input: (number | string)[]
  outputs: Record<string, number[]>
  nodes: Node[]
  constants: Record<string, Tensor>
}

/** A face for the detector to find whatever it is shown, in pixels of its input of 320 by 320. */
export interface StagedFace {
  x: number
  y: number
  width: number
  height: number
  score: number
}

/** Where the landmarks of a staged face are, in shares of its box: right eye, left eye, nose, mouth. */
export const STAGED_LANDMARKS = [
  [0.3, 0.4],
  [0.7, 0.4],
  [0.5, 0.6],
  [0.35, 0.8],
  [0.65, 0.8],
] as const

/** @param omit the name of an output that the network shall not have */
export function makeDetector(faces: StagedFace[], size = 320, omit = ''): Uint8Array {
  const constants: Graph['constants'] = {}
  for (const stride of STRIDES) {
    for (const [head, numbers] of Object.entries(HEADS)) {
      const cells = (size / stride) ** 2
      constants[`${head}_${stride}_value`] = {
        dims: [1, cells, numbers],
        values: new Float32Array(cells * numbers),
      }
    }
  }
  const STRIDE = 16
  const columns = size / STRIDE
  for (const { x, y, width, height, score } of faces) {
    const [centerX, centerY] = [x + width / 2, y + height / 2]
    const [column, row] = [Math.floor(centerX / STRIDE), Math.floor(centerY / STRIDE)]
    const cell = row * columns + column
    const write = (head: string, values: number[]) => {
      const tensor = constants[`${head}_${STRIDE}_value`]
      if (tensor?.values instanceof Float32Array) tensor.values.set(values, cell * values.length)
    }
    write('cls', [score])
    write('obj', [score])
    write('bbox', [
      centerX / STRIDE - column,
      centerY / STRIDE - row,
      Math.log(width / STRIDE),
      Math.log(height / STRIDE),
    ])
    write(
      'kps',
      STAGED_LANDMARKS.flatMap(([u, v]) => [(x + u * width) / STRIDE - column, (y + v * height) / STRIDE - row]),
    )
  }
  const names = Object.keys(constants).map((name) => name.replace('_value', ''))
  return encode({
    input: [1, 3, size, size],
    outputs: Object.fromEntries(
      names.filter((name) => name !== omit).map((name) => [name, constants[`${name}_value`]?.dims ?? []]),
    ),
    nodes: names.map((name) => ({ type: 'Identity', inputs: [`${name}_value`], outputs: [name] })),
    constants,
  })
}

/**
 * The embedding is the mean of 7 by 7 pixels: the red plane's 256, then the green one's.
 *
 * @param slowness products of matrices of 768 by 768 on the way; 1 takes some 20 ms of one core
 */
export function makeRecognizer(slowness = 0, dimensions = 512): Uint8Array {
  const nodes: Node[] = [
    { type: 'AveragePool', inputs: ['input'], outputs: ['pooled'], ints: { kernel_shape: [7, 7], strides: [7, 7] } },
    { type: 'Flatten', inputs: ['pooled'], outputs: ['flat'], ints: { axis: 1 } },
    { type: 'Transpose', inputs: ['flat'], outputs: ['standing'], ints: { perm: [1, 0] } },
    { type: 'MatMul', inputs: ['standing', 'flat'], outputs: ['square0'] },
  ]
  for (let index = 0; index < slowness; index++) {
    nodes.push({ type: 'MatMul', inputs: [`square${index}`, 'square0'], outputs: [`product${index}`] })
    nodes.push({ type: 'Tanh', inputs: [`product${index}`], outputs: [`square${index + 1}`] })
  }
  nodes.push(
    { type: 'ReduceMean', inputs: [`square${slowness}`], outputs: ['mean'], ints: { axes: [0], keepdims: 1 } },
    { type: 'Mul', inputs: ['mean', 'nothing'], outputs: ['added'] },
    { type: 'Add', inputs: ['flat', 'added'], outputs: ['sum'] },
    { type: 'Slice', inputs: ['sum', 'from', 'to', 'axis'], outputs: ['output'] },
  )
  return encode({
    input: ['N', 3, 112, 112],
    outputs: { output: [1, dimensions] },
    nodes,
    constants: {
      nothing: { dims: [1], values: new Float32Array(1) },
      from: { dims: [1], values: new BigInt64Array([0n]) },
      to: { dims: [1], values: new BigInt64Array([BigInt(dimensions)]) },
      axis: { dims: [1], values: new BigInt64Array([1n]) },
    },
  })
}

/** The logits are the means of the three planes, so the middle one decides: live is what is green. */
export function makeLiveness(): Uint8Array {
  return encode({
    input: [1, 3, 80, 80],
    outputs: { logits: [1, 3] },
    nodes: [
      { type: 'GlobalAveragePool', inputs: ['input'], outputs: ['means'] },
      { type: 'Flatten', inputs: ['means'], outputs: ['logits'], ints: { axis: 1 } },
    ],
    constants: {},
  })
}

function encode({ input, outputs, nodes, constants }: Graph): Uint8Array {
  const graph = [
    ...nodes.map((node) => field(1, encodeNode(node))),
    field(2, text('test')),
    ...Object.entries(constants).map(([name, tensor]) => field(5, encodeTensor(name, tensor))),
    field(11, encodeValue('input', input)),
    ...Object.entries(outputs).map(([name, dims]) => field(12, encodeValue(name, dims))),
  ]
  const IR_VERSION = 8
  const OPSET = 13
  return Buffer.concat([number(1, IR_VERSION), field(7, Buffer.concat(graph)), field(8, number(2, OPSET))])
}

function encodeNode({ type, inputs, outputs, ints = {} }: Node): Buffer {
  const attributes = Object.entries(ints).map(([name, value]) => {
    const values = Array.isArray(value)
      ? [number(20, 7), ...value.map((each) => number(8, each))]
      : [number(20, 2), number(3, value)]
    return field(5, Buffer.concat([field(1, text(name)), ...values]))
  })
  return Buffer.concat([
    ...inputs.map((name) => field(1, text(name))),
    ...outputs.map((name) => field(2, text(name))),
    field(4, text(type)),
    ...attributes,
  ])
}

function encodeTensor(name: string, { dims, values }: Tensor): Buffer {
  return Buffer.concat([
    ...dims.map((dim) => number(1, dim)),
    number(2, values instanceof Float32Array ? FLOAT : INT64),
    field(8, text(name)),
    field(9, Buffer.from(values.buffer)),
  ])
}

function encodeValue(name: string, dims: (number | string)[]): Buffer {
  const shape = dims.map((dim) => field(1, typeof dim === 'number' ? number(1, dim) : field(2, text(dim))))
  const tensorType = Buffer.concat([number(1, FLOAT), field(2, Buffer.concat(shape))])
  return Buffer.concat([field(1, text(name)), field(2, field(1, tensorType))])
}

function field(id: number, bytes: Buffer): Buffer {
  return Buffer.concat([varint((id << 3) | 2), varint(bytes.length), bytes])
}

function number(id: number, value: number): Buffer {
  return Buffer.concat([varint(id << 3), varint(value)])
}

function varint(value: number): Buffer {
  const bytes: number[] = []
  let rest = value
  for (; rest > 127; rest = Math.floor(rest / 128)) bytes.push((rest % 128) | 128)
  return Buffer.from([...bytes, rest])
}

function text(value: string): Buffer {
  return Buffer.from(value)
}
