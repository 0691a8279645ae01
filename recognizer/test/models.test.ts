// Proves that models.json is checked field by field, that a network is what its hash says, that it fits its role, and
// that nothing licensed for research starts outside development. The networks are tiny and made here.
import assert from 'node:assert/strict'
import { appendFile } from 'node:fs/promises'
import { join } from 'node:path'
import { after, before, describe, it } from 'node:test'
import { LIMITS } from '../src/limits.ts'
import { ConfigurationError, readModels } from '../src/models.ts'
import { startPool } from '../src/pool.ts'
import { makeDetector, makeRecognizer } from './onnx.ts'
import { type ModelsJson, ONE_FACE, stageModels } from './stage.ts'

type Staged = Awaited<ReturnType<typeof stageModels>>

describe('models.json', () => {
  let staged: Staged
  before(async () => {
    staged = await stageModels({ liveness: true })
  })
  after(() => staged.remove())

  const spoil = async (change: (json: ModelsJson) => unknown, environment = 'production') => {
    const json = structuredClone(staged.json)
    await staged.write(change(json) ?? json)
    return readModels(staged.path, environment)
  }
  const refuses = async (change: (json: ModelsJson) => unknown, message: RegExp) =>
    assert.rejects(spoil(change), (error: Error) => {
      assert.ok(error instanceof ConfigurationError, String(error))
      assert.match(error.message, message)
      assert.doesNotMatch(error.message, /\n/)
      return true
    })

  it('is read as it stands', async () => {
    const { detector, recognizer, liveness } = await spoil(() => {})
    assert.deepEqual([detector.id, detector.sizes, detector.pixels.channels], ['staged-detector', [320], 'BGR'])
    assert.deepEqual(recognizer.thresholds, { floor: 0.65, verification: 0.675, identification: 0.69 })
    assert.deepEqual(
      liveness?.networks.map(({ cropScale }) => cropScale),
      [2.7, 4],
    )
    assert.equal((await spoil((json) => void delete json['liveness'])).liveness, null)
  })

  it('is refused for each field that is missing, of a wrong kind or out of range, with its name', async () => {
    const set = (path: string, value: unknown) => (json: ModelsJson) => {
      const names = path.split('.')
      const last = names.pop() ?? ''
      const place = names.reduce<Record<string, unknown>>((at, name) => at[name] as Record<string, unknown>, json)
      if (value === undefined) delete place[last]
      else place[last] = value
    }
    const faults: [string, unknown[]][] = [
      ['detector', [undefined, null, 5, []]],
      ['detector.id', [undefined, '', 'Über', 'a b', 'x'.repeat(41)]],
      ['detector.version', [undefined, 1]],
      ['detector.path', [undefined, '', 5]],
      ['detector.sha256', [undefined, 'abc', 'A'.repeat(64)]],
      ['detector.license', [undefined, '', 'two\nlines']],
      ['detector.allowed_use', [undefined, 'anything']],
      ['detector.input', [undefined]],
      ['detector.input.sizes', [undefined, [], [300], [640, 320], [320, 640, 960], 320, [null]]],
      ['detector.input.channels', [undefined, 'RGBA']],
      ['detector.input.mean', [undefined, '0']],
      ['detector.input.std', [undefined, 0]],
      ['detector.thresholds.score', [undefined, 0, 1.1]],
      ['detector.thresholds.nms', [undefined, -1]],
      ['recognizer', [undefined]],
      ['recognizer.thresholds.floor', [undefined, 0.4, 0.7]],
      ['recognizer.thresholds.identification', [undefined, 0.66]],
      ['liveness.networks', [undefined, [], {}]],
      ['liveness.input.size', [undefined, 80.5, 5000]],
      ['liveness.thresholds.live', [undefined, 2]],
    ]
    for (const [path, values] of faults) {
      // a fault between thresholds is told by their common name
      const name = path.startsWith('recognizer.thresholds') ? 'recognizer.thresholds' : path
      for (const value of values) await refuses(set(path, value), new RegExp(name.replaceAll('.', '\\.')))
    }
    await refuses(set('detector.treshold', 1), /detector\.treshold is not a field/)
    await refuses(
      set('liveness.networks', [{ path: 'x', sha256: '0'.repeat(64), crop_scale: 0.5 }]),
      /networks\[0\]\.crop_scale/,
    )
    await refuses(() => 'a text', /must be an object/)
  })

  it('is told when it is missing or no JSON', async () => {
    await assert.rejects(readModels(join(staged.folder, 'none.json'), 'dev'), /cannot be read/)
    await appendFile(staged.path, '}')
    await assert.rejects(readModels(staged.path, 'dev'), /is not JSON/)
  })

  it('starts a model for research or evaluation in development only', async () => {
    for (const role of ['detector', 'recognizer', 'liveness']) {
      for (const use of ['research-only', 'evaluation']) {
        const change = (json: ModelsJson) => {
          const model = json[role]
          if (model) model['allowed_use'] = use
        }
        await spoil(change, 'dev')
        for (const environment of ['staging', 'production', 'Dev', '']) {
          await assert.rejects(
            spoil(change, environment),
            new RegExp(`${role} .* ${use} and starts with ENVIRONMENT=dev only`),
          )
        }
      }
    }
  })
})

describe('a network', () => {
  const start = async (staged: Staged) => {
    const pool = await startPool(await readModels(staged.path, 'production'), 1, 1, LIMITS)
    await pool.close()
  }
  const refuses = async (staged: Staged, message: RegExp) => {
    await assert.rejects(start(staged), (error: Error) => {
      assert.ok(error instanceof ConfigurationError, String(error))
      assert.match(error.message, message)
      return true
    })
    await staged.remove()
  }

  it('that was changed by one byte is not loaded', async () => {
    const staged = await stageModels()
    await appendFile(join(staged.folder, 'recognizer.onnx'), '\0')
    await refuses(staged, /recognizer: .* has the SHA-256 [0-9a-f]{64}, and models\.json says/)
  })

  it('that is missing is told', async () => {
    const staged = await stageModels()
    await staged.write({ ...staged.json, detector: { ...staged.json['detector'], path: 'none.onnx' } })
    await refuses(staged, /detector: .*none\.onnx cannot be read/)
  })

  it('that is none is told', async () => {
    await refuses(await stageModels({ detector: Buffer.from('no network') }), /detector: the file is not a network/)
  })

  it('that does not fit its role is told', async () => {
    await refuses(await stageModels({ detector: makeDetector(ONE_FACE, 320, 'kps_16') }), /detector: at 320 px, kps_16/)
    await refuses(
      await stageModels({ detector: makeDetector(ONE_FACE, 640) }),
      /detector: the network takes no input of 1x3x320x320/,
    )
    await refuses(await stageModels({ detector: makeRecognizer() }), /detector: the network takes no input/)
    await refuses(await stageModels({ recognizer: makeRecognizer(0, 128) }), /128 components, not 512/)
  })
})
