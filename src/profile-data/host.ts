/**
 * @file What the host's threads say about waiting: calls that make a stream wait, calls that wait for
 * the device, and pauses that can only be such waits.
 */
import { type Operations, sortedByStart, startOf } from "./operations.ts";
import { spanKinds, type Trace } from "./trace.ts";

/** A time in which a thread waited for the device, in nanoseconds. */
export interface HostWait {
  readonly start: number;
  readonly end: number;
  /** The operation waited for, where known. */
  readonly by?: number;
}

/** What the calls of the trace tell about waiting. */
export interface HostFacts {
  /** For each operation, 1 if its thread made streams wait since its last launch on that stream. */
  readonly mayWait: Uint8Array;
  /** By `laneOf` a thread, its waits, sorted by end. */
  readonly waits: ReadonlyMap<number, HostWait[]>;
}

/** A shorter pause of a thread is no wait; and a wait ends that close to what it waits for. */
const pauseNs = 100_000;

/** One thread, while its calls are walked through. */
interface Thread {
  waitCalls: number;
  /** How many wait calls there had been at the last launch on each stream. */
  readonly seen: Map<number, number>;
  lastEnd: number;
  lastLaunched: number;
  readonly waits: HostWait[];
}

/** Walks through all calls in the order of time. */
export function hostFacts(trace: Trace, operations: Operations): HostFacts {
  const { count, launch, stream, baseUs, end } = operations;
  /** The operation that each row launched, or -1. */
  const launched = new Int32Array(trace.count).fill(-1);
  launch.forEach((call, i) => {
    if (call >= 0) launched[call] = i;
  });
  const calls = Int32Array.from(trace.kind.keys()).filter(
    (row) => trace.kind[row] === spanKinds.call,
  );
  const mayWait = new Uint8Array(count);
  const threads = new Map<number, Thread>();
  const meaningOf = meanings(trace);
  for (const row of sortedByStart(trace, calls, baseUs)) {
    const at = startOf(trace, row, baseUs);
    const lane = laneOf(trace, row);
    let thread = threads.get(lane);
    if (thread === undefined) {
      thread = { waitCalls: 0, seen: new Map(), lastEnd: at, lastLaunched: -1, waits: [] };
      threads.set(lane, thread);
    }
    const { lastLaunched, lastEnd } = thread;
    const pauses = lastLaunched >= 0 && at - lastEnd >= pauseNs;
    if (pauses && Math.abs(at - end[lastLaunched]) <= pauseNs) {
      thread.waits.push({ start: lastEnd, end: at, by: lastLaunched });
    }
    const until = at + trace.durationNs[row];
    const meaning = meaningOf(trace.name[row]);
    if (meaning === "stream waits") thread.waitCalls++;
    else if (meaning === "host waits") thread.waits.push({ start: at, end: until });
    const index = launched[row];
    if (index >= 0) {
      if (thread.waitCalls > (thread.seen.get(stream[index]) ?? 0)) mayWait[index] = 1;
      thread.seen.set(stream[index], thread.waitCalls);
      thread.lastLaunched = index;
    }
    thread.lastEnd = Math.max(lastEnd, until);
  }
  const waits = [...threads].map(([lane, thread]): [number, HostWait[]] => [lane, thread.waits]);
  return { mayWait, waits: new Map(waits) };
}

/** How many of the sorted `values` are at most `limit`. */
export function upperBound(values: Float64Array, limit: number): number {
  let [low, high] = [0, values.length];
  while (low < high) {
    const middle = (low + high) >> 1;
    if (values[middle] <= limit) low = middle + 1;
    else high = middle;
  }
  return low;
}

/** What calls of a name do, looked up once for each name. */
function meanings(trace: Trace): (name: number) => string {
  const known: string[] = [];
  return (name) => {
    if (name < 0) return "";
    known[name] ??= meaningOfText(trace.strings.text(name));
    return known[name];
  };
}

function meaningOfText(name: string): string {
  if (name.includes("StreamWaitEvent")) return "stream waits";
  return name.includes("Synchronize") ? "host waits" : "";
}

/** Process and thread of a row, as one key. */
export function laneOf(trace: Trace, row: number): number {
  return trace.pid[row] * 2 ** 26 + trace.tid[row];
}

/**
 * Which operations each operation waits for, from `cuda_sync` spans that say "this stream waits for
 * an event that call c recorded on stream s": the first operation launched on the stream after the
 * waiting call waits for the last operation launched on s before c.
 */
export function recordedWaits(trace: Trace, operations: Operations): Map<number, number[]> {
  const found = new Map<number, number[]>();
  if (trace.waits.length === 0) return found;
  const { streams, stream, launchStart, baseUs, count, device } = operations;
  const callOf = new Map<number, number>();
  for (let row = 0; row < trace.count; row++) {
    if (trace.kind[row] === spanKinds.call) callOf.set(trace.correlation[row], row);
  }
  const byLaunch = streams.map((_, index) =>
    Array.from({ length: count }, (_, i) => i)
      .filter((i) => stream[i] === index && !Number.isNaN(launchStart[i]))
      .sort((a, b) => launchStart[a] - launchStart[b]),
  );
  const launches = byLaunch.map((list) => Float64Array.from(list, (i) => launchStart[i]));
  const streamIndex = (id: number): number =>
    id < 0 ? -1 : streams.indexOf(trace.strings.text(id));
  for (const { row, stream: awaited, correlation } of trace.waits) {
    const waiting = streamIndex(trace.stream[row]);
    const recording = streamIndex(awaited);
    const [waitCall, recordCall] = [callOf.get(trace.correlation[row]), callOf.get(correlation)];
    const here = trace.pid[row] < 0 || trace.strings.text(trace.pid[row]) === device;
    const known = waiting >= 0 && recording >= 0 && here;
    if (!known || waitCall === undefined || recordCall === undefined) continue;
    const after = upperBound(launches[waiting], startOf(trace, waitCall, baseUs));
    const before = upperBound(launches[recording], startOf(trace, recordCall, baseUs)) - 1;
    if (after >= byLaunch[waiting].length || before < 0) continue;
    const index = byLaunch[waiting][after];
    found.set(index, [...(found.get(index) ?? []), byLaunch[recording][before]]);
  }
  return found;
}
