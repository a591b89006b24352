/**
 * @file The critical path of a device: walked back from the operation that ends last. An operation
 * starts when the last of these is there: the operation before it on its stream, the call that
 * launched it, and what its stream waited for. That one is next on the path. A call leads into the
 * host's thread, back to the last synchronisation that waited for the device, and from there to the
 * operation waited for. Every moment of the span is on the path exactly once.
 *
 * Where the host's thread waits without a call that says so (DeepEP's dispatch reads counts that a
 * kernel writes), it is inferred too: a pause of the thread that ends when the operation that it
 * launched last does, give or take 100 us.
 *
 * What a stream waited for is known where the profiler recorded it (`cuda_sync` spans). Else it is
 * inferred: if the thread told some stream to wait since it last launched on this one, the operation
 * of another stream that ended last before the start, at most `kernelWaitNs` before, was the cause.
 */
import {
  type HostFacts,
  type HostWait,
  hostFacts,
  laneOf,
  recordedWaits,
  upperBound,
} from "./host.ts";
import type { Operations } from "./operations.ts";
import type { Trace } from "./trace.ts";

/** A piece of the path, from `start` to `end` in nanoseconds. */
export interface PathSegment {
  /** An operation; the host's thread; or the time until an operation starts that could have. */
  readonly what: "operation" | "host" | "wait";
  /** Index of the operation (that waits, or before which the host works). */
  readonly index: number;
  readonly start: number;
  readonly end: number;
}

/** The path, first segment first; its segments fill the time from the first start to the last end. */
export function criticalPath(
  trace: Trace,
  operations: Operations,
  kernelWaitNs: number,
): PathSegment[] {
  const { start, end, count, launch } = operations;
  const graph = new Graph(trace, operations, kernelWaitNs);
  const path: PathSegment[] = [];
  const add = (what: PathSegment["what"], index: number, from: number, to: number): void => {
    const segment = { what, index, start: Math.max(from, start[0]), end: to };
    if (segment.end > segment.start) path.push(segment);
  };
  let index = 0;
  for (let i = 1; i < count; i++) if (end[i] > end[index]) index = i;
  let until = end[index];
  for (;;) {
    add("operation", index, start[index], until);
    const cause = graph.causeOf(index);
    add("wait", index, cause?.at ?? start[0], start[index]);
    if (cause === undefined) break;
    if (cause.by >= 0) {
      [index, until] = [cause.by, cause.at];
      continue;
    }
    const before = graph.waitedFor(launch[index], cause.at, index);
    add("host", index, before?.at ?? start[0], cause.at);
    if (before === undefined) break;
    [index, until] = [before.by, before.at];
  }
  return path.reverse();
}

/** What an operation waited for last: the operation `by`, or (-1) its launch. */
interface Cause {
  readonly by: number;
  readonly at: number;
}

/** The edges into each operation. All lead to operations that stand before it in the order of starts. */
class Graph {
  private readonly operations: Operations;
  private readonly trace: Trace;
  private readonly kernelWaitNs: number;
  /** The operation of the same stream, started before, that ended last; or -1. */
  private readonly previous: Int32Array;
  /** Indices in the order of ends, and those ends. */
  private readonly byEnd: Int32Array;
  private readonly ends: Float64Array;
  private readonly host: HostFacts;
  private readonly recorded: Map<number, number[]>;

  constructor(trace: Trace, operations: Operations, kernelWaitNs: number) {
    const { count, stream, streams, end } = operations;
    this.trace = trace;
    this.operations = operations;
    this.kernelWaitNs = kernelWaitNs;
    const last = new Int32Array(streams.length).fill(-1);
    this.previous = new Int32Array(count);
    for (let i = 0; i < count; i++) {
      const before = last[stream[i]];
      this.previous[i] = before;
      if (before < 0 || end[i] >= end[before]) last[stream[i]] = i;
    }
    this.byEnd = Int32Array.from(end, (_, i) => i).sort((a, b) => end[a] - end[b] || a - b);
    this.ends = Float64Array.from(this.byEnd, (i) => end[i]);
    this.host = hostFacts(trace, operations);
    this.recorded = recordedWaits(trace, operations);
  }

  causeOf(index: number): Cause | undefined {
    const { start, end, launchStart } = this.operations;
    let cause: Cause | undefined;
    const consider = (by: number, at: number): void => {
      const then = Math.min(at, start[index]);
      if (cause === undefined || then > cause.at) cause = { by, at: then };
    };
    const before = this.previous[index];
    if (before >= 0) consider(before, end[before]);
    for (const by of this.recorded.get(index) ?? []) if (by < index) consider(by, end[by]);
    if (!this.recorded.has(index) && this.host.mayWait[index] === 1) {
      const by = this.endedLast(start[index], start[index] - this.kernelWaitNs, index);
      if (by >= 0) consider(by, end[by]);
    }
    if (!Number.isNaN(launchStart[index])) consider(-1, launchStart[index]);
    return cause;
  }

  /** The operation before `index` that ended last in (after, until], or -1. */
  private endedLast(until: number, after: number, index: number): number {
    for (let at = upperBound(this.ends, until) - 1; at >= 0 && this.ends[at] > after; at--) {
      if (this.byEnd[at] < index) return this.byEnd[at];
    }
    return -1;
  }

  /**
   * The operation for which the thread of `call` last waited before `at`, and until when. Asked with
   * falling `at` only: waits that are passed are forgotten.
   */
  waitedFor(call: number, at: number, index: number): Cause | undefined {
    const list: HostWait[] = this.host.waits.get(laneOf(this.trace, call)) ?? [];
    for (let wait = list.pop(); wait !== undefined; wait = list.pop()) {
      if (wait.end > at) continue;
      const by = wait.by ?? this.endedLast(wait.end, wait.start, index);
      if (by < 0 || by >= index) continue;
      return { by, at: Math.min(wait.end, this.operations.end[by]) };
    }
    return undefined;
  }
}
