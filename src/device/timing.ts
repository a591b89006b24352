/**
 * @file Timing for benchmarks: medians, with processor time beside wall time, as machines are
 * noisy.
 */
import { medianOf } from "../base/index.ts";
import { processCpuTimeUs, threadCpuTimeUs } from "../native/index.ts";

/** Medians over the runs, in microseconds per call of the work. */
export interface Timing {
  readonly wallUs: number;
  /** Processor time of the calling thread; leaves out when it was descheduled. */
  readonly threadCpuUs: number;
  /** Processor time of all threads together. */
  readonly processCpuUs: number;
  /** Runs that the medians are over. */
  readonly runs: number;
}

/** How often to call. */
export interface TimingOptions {
  /** Runs that are thrown away first; default 3. */
  readonly warmups?: number;
  /** Runs that count; default 15. */
  readonly runs?: number;
  /** Calls per run, for work near the clocks' resolution (about 0.1 us); default 1. */
  readonly calls?: number;
}

/** Times `work`, which must do the same at every call. */
export function timeRuns(work: () => void, options: TimingOptions = {}): Timing {
  const { warmups = 3, runs = 15, calls = 1 } = options;
  const wall: number[] = [];
  const thread: number[] = [];
  const whole: number[] = [];
  for (let run = -warmups; run < runs; run++) {
    const before = [performance.now(), threadCpuTimeUs(), processCpuTimeUs()];
    for (let call = 0; call < calls; call++) work();
    const after = [performance.now(), threadCpuTimeUs(), processCpuTimeUs()];
    if (run < 0) continue;
    wall.push(((after[0] - before[0]) * 1e3) / calls);
    thread.push((after[1] - before[1]) / calls);
    whole.push((after[2] - before[2]) / calls);
  }
  return {
    wallUs: medianOf(wall),
    threadCpuUs: medianOf(thread),
    processCpuUs: medianOf(whole),
    runs,
  };
}
