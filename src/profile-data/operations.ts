/**
 * @file What a device did: its kernels, copies and fills, sorted by start, each with its stream, its
 * class and the call that launched it. A device is a process of the trace that has such spans.
 */
import { type KernelClass, memoryCategory, otherCategory } from "./rules.ts";
import { spanKinds, type Trace } from "./trace.ts";

/** The operations of one device; `count` entries of each column. Times: nanoseconds from `baseUs`. */
export interface Operations {
  /** The device's name: its pid in the trace. */
  readonly device: string;
  /** Whole microseconds of the trace's origin; the same for all devices of a trace. */
  readonly baseUs: number;
  readonly count: number;
  readonly start: Float64Array;
  readonly end: Float64Array;
  /** Row of the trace. */
  readonly row: Int32Array;
  /** Index into `streams`. */
  readonly stream: Int32Array;
  /** Names of streams, numbers in their order. */
  readonly streams: readonly string[];
  /** Index into `categories`. */
  readonly category: Int32Array;
  readonly categories: readonly string[];
  /** 1 for kernels, 0 for copies and fills. */
  readonly kernel: Uint8Array;
  /** 1 for kernels that communicate. */
  readonly communication: Uint8Array;
  /** The row of the call that launched it, or -1. */
  readonly launch: Int32Array;
  /** When that call began; NaN without one. */
  readonly launchStart: Float64Array;
}

/** The devices of `trace`, in the order of their pids. */
export function operationsOf(trace: Trace, classify: (name: string) => KernelClass): Operations[] {
  const rowsOfPid = new Map<number, number[]>();
  let baseUs = Number.POSITIVE_INFINITY;
  for (let row = 0; row < trace.count; row++) {
    if (trace.kind[row] > spanKinds.memory) continue;
    baseUs = Math.min(baseUs, trace.startUs[row]);
    const rows = rowsOfPid.get(trace.pid[row]);
    if (rows) rows.push(row);
    else rowsOfPid.set(trace.pid[row], [row]);
  }
  const launches = launchesOf(trace);
  const classOf = memoized(trace, classify);
  return [...rowsOfPid]
    .map(([pid, rows]) => {
      const device = pid < 0 ? "?" : trace.strings.text(pid);
      return deviceOf(trace, device, baseUs, rows, launches, classOf);
    })
    .sort((a, b) => byNumber(a.device, b.device));
}

/** Nanoseconds from `baseUs` to the start of a row; exact up to 104 days. */
export function startOf(trace: Trace, row: number, baseUs: number): number {
  return (trace.startUs[row] - baseUs) * 1000 + trace.startNs[row];
}

/** Sorts numbers as numbers, before words. */
function byNumber(a: string, b: string): number {
  const [x, y] = [Number(a), Number(b)];
  if (!Number.isNaN(x) && !Number.isNaN(y)) return x - y;
  if (Number.isNaN(x) !== Number.isNaN(y)) return Number.isNaN(x) ? 1 : -1;
  return a < b ? -1 : a > b ? 1 : 0;
}

/** The calling row of each correlation that an operation has. */
function launchesOf(trace: Trace): Map<number, number> {
  const launches = new Map<number, number>();
  for (let row = 0; row < trace.count; row++) {
    const correlation = trace.correlation[row];
    const isCall = trace.kind[row] === spanKinds.call && correlation > 0;
    if (isCall && !launches.has(correlation)) launches.set(correlation, row);
  }
  return launches;
}

function memoized(
  trace: Trace,
  classify: (name: string) => KernelClass,
): (nameId: number) => KernelClass {
  const known: KernelClass[] = [];
  return (nameId) => {
    known[nameId] ??= classify(trace.strings.text(nameId));
    return known[nameId];
  };
}

/** `rows` by start, those that start together in the order of the file. */
export function sortedByStart(trace: Trace, rows: ArrayLike<number>, baseUs: number): Int32Array {
  const at = Float64Array.from(rows, (row) => startOf(trace, row, baseUs));
  if (at.every((start, i) => i === 0 || start >= at[i - 1])) return Int32Array.from(rows);
  const order = Int32Array.from(rows, (_, i) => i).sort((a, b) => at[a] - at[b] || a - b);
  return order.map((i) => rows[i]);
}

function deviceOf(
  trace: Trace,
  device: string,
  baseUs: number,
  rows: readonly number[],
  launches: ReadonlyMap<number, number>,
  classOf: (nameId: number) => KernelClass,
): Operations {
  const count = rows.length;
  const row = sortedByStart(trace, rows, baseUs);
  const streams = new Numbering();
  const categories = new Numbering();
  const kernel = row.map((at) => (trace.kind[at] === spanKinds.kernel ? 1 : 0));
  const classes = Array.from(row, (at, i): KernelClass => {
    if (kernel[i] === 0) return { category: memoryCategory, communication: false };
    if (trace.name[at] < 0) return { category: otherCategory, communication: false };
    return classOf(trace.name[at]);
  });
  const stream = row.map((at) => streams.of(streamOf(trace, at)));
  const start = Float64Array.from(row, (at) => startOf(trace, at, baseUs));
  const launch = row.map((at) => launches.get(trace.correlation[at]) ?? -1);
  const inOrder = streams.names.toSorted(byNumber);
  return {
    device,
    baseUs,
    count,
    row,
    start,
    end: start.map((from, i) => from + trace.durationNs[row[i]]),
    stream: stream.map((index) => inOrder.indexOf(streams.names[index])),
    streams: inOrder,
    category: row.map((_, i) => categories.of(classes[i].category)),
    categories: categories.names,
    kernel: Uint8Array.from(kernel),
    communication: Uint8Array.from(classes, ({ communication }) => (communication ? 1 : 0)),
    launch,
    launchStart: Float64Array.from(launch, (call) =>
      call < 0 ? Number.NaN : startOf(trace, call, baseUs),
    ),
  };
}

/** Numbers names in the order in which they come. */
class Numbering {
  readonly names: string[] = [];
  private readonly known = new Map<string, number>();

  of(name: string): number {
    let number = this.known.get(name);
    if (number === undefined) {
      number = this.names.push(name) - 1;
      this.known.set(name, number);
    }
    return number;
  }
}

function streamOf(trace: Trace, row: number): string {
  const id = trace.stream[row] >= 0 ? trace.stream[row] : trace.tid[row];
  return id < 0 ? "?" : trace.strings.text(id);
}
