/**
 * @file A trace in memory: one typed array for each field of the spans that are kept, names as numbers.
 * What a report does not use (operators of the CPU, Python functions, arrows) is counted, not kept,
 * so that a file of several gigabytes needs a few hundred megabytes.
 */
import { profileError } from "./errors.ts";
import { type EventSink, TraceScanner } from "./scanner.ts";
import { grown, type StringTable } from "./strings.ts";

/** What a kept span is. */
export const spanKinds = {
  kernel: 0,
  memory: 1,
  call: 2,
  annotation: 3,
  sync: 4,
} as const;

/** Categories of spans, lower case, and what they are; others are not kept. */
const kindOfCategory = new Map<string, number>([
  ["kernel", spanKinds.kernel],
  ["gpu_memcpy", spanKinds.memory],
  ["gpu_memset", spanKinds.memory],
  ["memcpy", spanKinds.memory],
  ["memset", spanKinds.memory],
  ["runtime", spanKinds.call],
  ["user_annotation", spanKinds.annotation],
  ["cuda_sync", spanKinds.sync],
  ...["cuda", "hip", "xpu", "mtia", "musa", "privateuse1"].flatMap((vendor) =>
    ["runtime", "driver"].map((layer): [string, number] => [`${vendor}_${layer}`, spanKinds.call]),
  ),
]);

/** The spans of a trace that reports use, in the order of the file; `count` rows of each column. */
export interface Trace {
  readonly count: number;
  /** Start: whole microseconds from the trace's own origin, and nanoseconds from 0 to 999. */
  readonly startUs: Float64Array;
  readonly startNs: Uint16Array;
  readonly durationNs: Float64Array;
  /** One of `spanKinds`. */
  readonly kind: Uint8Array;
  /** Numbers of strings. */
  readonly name: Int32Array;
  readonly pid: Int32Array;
  readonly tid: Int32Array;
  /** The number of the stream's name, or -1. */
  readonly stream: Int32Array;
  /** What joins a call to the operation it launched; NaN where there is none. */
  readonly correlation: Float64Array;
  /** Of rows that make a stream wait for an event: row, stream waited for, the recording call. */
  readonly waits: readonly { row: number; stream: number; correlation: number }[];
  readonly strings: StringTable;
  /** Names of processes by the number of their pid. */
  readonly processNames: ReadonlyMap<number, string>;
  /** Values beside the events that are kept: `distributedInfo`, `traceName`, `schemaVersion`, ... */
  readonly metadata: Readonly<Record<string, unknown>>;
  /** Events of the file, kept or not. */
  readonly numEvents: number;
}

const phaseX = 0x58;
const phaseBegin = 0x42;
const phaseEnd = 0x45;
const phaseMetadata = 0x4d;
const unknown = 255;

class TraceBuilder implements EventSink {
  private count = 0;
  private capacity = 1 << 12;
  private startUs = new Float64Array(this.capacity);
  private startNs = new Uint16Array(this.capacity);
  private durationNs = new Float64Array(this.capacity);
  private kind = new Uint8Array(this.capacity);
  private name = new Int32Array(this.capacity);
  private pid = new Int32Array(this.capacity);
  private tid = new Int32Array(this.capacity);
  private stream = new Int32Array(this.capacity);
  private correlation = new Float64Array(this.capacity);
  private readonly waits: { row: number; stream: number; correlation: number }[] = [];
  private readonly processNames = new Map<number, string>();
  private readonly values: Record<string, unknown> = {};
  private readonly kinds: number[] = [];
  /** Rows begun by a B event whose E has not come, by process and thread. */
  private readonly open = new Map<string, number[]>();

  metadata(key: string, value: unknown): void {
    this.values[key] = value;
  }

  event(scanner: TraceScanner): void {
    const { phase } = scanner;
    if (phase === phaseX) {
      const kind = this.kindOf(scanner);
      if (kind === unknown) return;
      this.checkTime(scanner);
      this.append(scanner, kind);
    } else if (phase === phaseBegin || phase === phaseEnd) this.beginOrEnd(scanner);
    else if (phase === phaseMetadata && scanner.argName >= 0) {
      const { strings } = scanner;
      if (scanner.name() === strings.idOf("process_name")) {
        this.processNames.set(scanner.pid, strings.text(scanner.argName));
      }
    }
  }

  private kindOf({ category, strings }: TraceScanner): number {
    if (category < 0) return unknown;
    this.kinds[category] ??= kindOfCategory.get(strings.text(category).toLowerCase()) ?? unknown;
    return this.kinds[category];
  }

  private checkTime(scanner: TraceScanner): void {
    const { hasTime, hasDuration, duration, numEvents } = scanner;
    const problem = !hasTime
      ? "has no ts"
      : hasDuration && duration.us < 0
        ? `has a negative dur (${duration.us})`
        : undefined;
    if (problem === undefined) return;
    throw profileError("trace-invalid", `traceEvents[${numEvents}] ${problem}: record it again.`);
  }

  private append(scanner: TraceScanner, kind: number): void {
    if (this.count === this.capacity) this.grow();
    const row = this.count++;
    const { time, duration, hasDuration, waitOnStream } = scanner;
    this.startUs[row] = time.us;
    this.startNs[row] = time.ns;
    this.durationNs[row] = hasDuration ? duration.us * 1000 + duration.ns : 0;
    this.kind[row] = kind;
    this.name[row] = scanner.name();
    this.pid[row] = scanner.pid;
    this.tid[row] = scanner.tid;
    this.stream[row] = scanner.stream;
    this.correlation[row] = scanner.correlation;
    if (waitOnStream >= 0) {
      this.waits.push({ row, stream: waitOnStream, correlation: scanner.waitOnCorrelation });
    }
  }

  /** Spans as two events, which nest in a thread: the row is made by B, its length known by E. */
  private beginOrEnd(scanner: TraceScanner): void {
    const lane = `${scanner.pid} ${scanner.tid}`;
    const stack = this.open.get(lane) ?? [];
    this.open.set(lane, stack);
    if (scanner.phase === phaseBegin) {
      const kind = this.kindOf(scanner);
      if (kind !== unknown) {
        this.checkTime(scanner);
        this.append(scanner, kind);
      }
      stack.push(kind === unknown ? -1 : this.count - 1);
      return;
    }
    const row = stack.pop();
    if (row === undefined || row < 0) return;
    this.checkTime(scanner);
    const { us, ns } = scanner.time;
    const length = (us - this.startUs[row]) * 1000 + ns - this.startNs[row];
    this.durationNs[row] = Math.max(0, length);
  }

  private grow(): void {
    this.capacity *= 2;
    this.startUs = grown(this.startUs, this.capacity);
    this.startNs = grown(this.startNs, this.capacity);
    this.durationNs = grown(this.durationNs, this.capacity);
    this.kind = grown(this.kind, this.capacity);
    this.name = grown(this.name, this.capacity);
    this.pid = grown(this.pid, this.capacity);
    this.tid = grown(this.tid, this.capacity);
    this.stream = grown(this.stream, this.capacity);
    this.correlation = grown(this.correlation, this.capacity);
  }

  finish({ strings, numEvents }: TraceScanner): Trace {
    const { count, waits, processNames, values } = this;
    return {
      count,
      startUs: this.startUs.subarray(0, count),
      startNs: this.startNs.subarray(0, count),
      durationNs: this.durationNs.subarray(0, count),
      kind: this.kind.subarray(0, count),
      name: this.name.subarray(0, count),
      pid: this.pid.subarray(0, count),
      tid: this.tid.subarray(0, count),
      stream: this.stream.subarray(0, count),
      correlation: this.correlation.subarray(0, count),
      waits,
      strings,
      processNames,
      metadata: values,
      numEvents,
    };
  }
}

/**
 * The trace whose file's bytes (JSON, not compressed) come in `chunks`, of any sizes. Takes
 * `{"traceEvents": [...]}` and bare lists; a bare list may lack its closing bracket, as Chrome
 * allows, but not half an event. Throws a `BaleenError`: "trace-truncated" where the file ends
 * early, "trace-invalid" where it is no trace; the message says at which byte or event.
 */
export async function readTrace(
  chunks: AsyncIterable<Uint8Array> | Iterable<Uint8Array>,
): Promise<Trace> {
  const builder = new TraceBuilder();
  const scanner = new TraceScanner(builder);
  for await (const chunk of chunks) scanner.feed(chunk);
  scanner.finish();
  return builder.finish(scanner);
}
