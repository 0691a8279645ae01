// models.json for the networks beside the real photographs: for evaluation, never for a product.
import { createHash } from 'node:crypto'
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join, resolve } from 'node:path'

/** @param folder with `yunet_n_dynamic.onnx` and `mbf_512.onnx` */
export async function writeEvaluationModels(folder: string) {
  const network = async (file: string) => {
    const path = resolve(folder, file)
    return {
      path,
      sha256: createHash('sha256')
        .update(await readFile(path))
        .digest('hex'),
    }
  }
  const models = {
    detector: {
      ...{ id: 'yunet', version: 'n', license: 'Apache-2.0', allowed_use: 'commercial' },
      ...(await network('yunet_n_dynamic.onnx')),
      input: { sizes: [320, 640], channels: 'BGR', mean: 0, std: 1 },
      thresholds: { score: 0.84, nms: 0.3 },
    },
    recognizer: {
      ...{ id: 'mobilefacenet', version: 'esp', license: 'not cleared', allowed_use: 'evaluation' },
      ...(await network('mbf_512.onnx')),
      input: { channels: 'RGB', mean: 127.5, std: 127.5 },
      thresholds: { floor: 0.65, verification: 0.675, identification: 0.69 },
    },
  }
  const home = await mkdtemp(join(tmpdir(), 'rekko-evaluation-'))
  const path = join(home, 'models.json')
  await writeFile(path, JSON.stringify(models))
  return { path, remove: () => rm(home, { recursive: true }) }
}
