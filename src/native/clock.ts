/** @file Processor time, which noise from other programs does not inflate as it does wall time. */
import { addressOf, nativeLayer } from "./koffi.ts";

const clockProcessCpu = 2;
const clockThreadCpu = 3;

// struct timespec: seconds and nanoseconds as 64-bit integers, of which the low halves suffice.
const timespec = new Int32Array(4);

function readUs(clock: number): number | undefined {
  const layer = nativeLayer();
  if (layer === undefined || layer.clockGettime(clock, addressOf(timespec)) !== 0) return undefined;
  return timespec[0] * 1e6 + timespec[2] / 1e3;
}

/**
 * Microseconds, with fractions, that the calling thread has spent on a processor. Without the
 * native layer: the whole process's, which is an upper bound.
 */
export function threadCpuTimeUs(): number {
  return readUs(clockThreadCpu) ?? processCpuTimeUs();
}

/**
 * Microseconds, with fractions, that all threads of the process together have spent on processors.
 */
export function processCpuTimeUs(): number {
  const us = readUs(clockProcessCpu);
  if (us !== undefined) return us;
  const { user, system } = process.cpuUsage();
  return user + system;
}
