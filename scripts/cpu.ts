// The CPU time and the memory of processes on this machine, from the /proc of Linux.
import { readdir, readFile } from 'node:fs/promises'

/**
 * CPU that a process has used so far, of all its threads that live, to the nanosecond: ticks of 10 ms would hide a
 * request.
 */
export async function readCpuMs(pid: number): Promise<number> {
  const threads = await readdir(`/proc/${pid}/task`)
  const times = threads.map(async (thread) => {
    // a thread may end between the two
    const stat = await readFile(`/proc/${pid}/task/${thread}/schedstat`, 'utf8').catch(() => '0')
    return Number(stat.split(' ')[0]) / 1e6
  })
  return (await Promise.all(times)).reduce((total, ms) => total + ms, 0)
}

/** What a process holds in memory, and the most that it ever held. */
export async function readMemoryMb(pid: number): Promise<{ now: number; most: number }> {
  const status = await readFile(`/proc/${pid}/status`, 'utf8')
  const kbOf = (name: string) => Number(new RegExp(`^${name}:\\s+(\\d+) kB$`, 'm').exec(status)?.[1])
  return { now: kbOf('VmRSS') / 1024, most: kbOf('VmHWM') / 1024 }
}

/** Runnable processes, over the last minute: more of them than cores, and times say little. */
export async function readLoad(): Promise<number> {
  return Number((await readFile('/proc/loadavg', 'utf8')).split(' ')[0])
}
