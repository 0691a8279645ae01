// Files that only their owner may read, and that have their name only when they are whole and on the disk.
import { open, rename, rm } from 'node:fs/promises'
import { dirname } from 'node:path'
import { CommandError, EXIT } from './terminal.ts'

/**
 * Makes the empty file that becomes another one when it is whole.
 *
 * @throws CommandError when it exists: it is no file of this run
 */
export async function createPartial(partial: string): Promise<void> {
  try {
    // faces, or keys to them: nobody else on the machine may read them
    await (await open(partial, 'wx', 0o600)).close()
  } catch (error) {
    if (!(error instanceof Error && 'code' in error && error.code === 'EEXIST')) throw error
    throw new CommandError(
      `${partial} exists: another dump is writing it, or one was killed. Remove it if none is running.`,
      EXIT.refused,
    )
  }
}

/** Writes all of a file, at once or not at all. Its name is on the disk after `syncFolder`. */
export async function writeWhole(file: string, text: string): Promise<void> {
  const partial = `${file}.partial`
  try {
    const handle = await open(partial, 'w', 0o600)
    try {
      await handle.writeFile(text)
      await handle.sync()
    } finally {
      await handle.close()
    }
    await rename(partial, file)
  } finally {
    await rm(partial, { force: true })
  }
}

/** @param file whose folder has a new name in it */
export async function syncFolder(file: string): Promise<void> {
  const folder = await open(dirname(file), 'r')
  try {
    await folder.sync()
  } finally {
    await folder.close()
  }
}
