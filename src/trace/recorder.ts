/**
 * @file Records what happens as events of a trace: spans by a clock, or with times that the caller
 * has. Keeps plain objects, up to a limit; `writeTrace` makes the file.
 */
import { assert, type Clock, realClock } from "../base/index.ts";
import type { TraceArgs, TraceEvent, TraceLane } from "./types.ts";

/** How a recorder works. */
export interface RecorderOptions {
  /** What tells the time of `begin` and `instant`; default: the process's monotonic clock. */
  readonly clock?: Clock;
  /** Events kept; later ones are counted and dropped. Default 1,000,000. */
  readonly capacity?: number;
}

/** What a span or a moment is called and where it belongs. */
export interface SpanParts extends TraceLane {
  readonly name: string;
  readonly cat: string;
  readonly args?: TraceArgs;
}

/** A list of events that grows. Not for use from several threads: give each its own. */
export class TraceRecorder {
  private readonly clock: Clock;
  private readonly capacity: number;
  private readonly list: TraceEvent[] = [];
  private numDropped = 0;
  private numFlows = 0;

  constructor({ clock = realClock, capacity = 1_000_000 }: RecorderOptions = {}) {
    assert(capacity >= 1, () => `capacity of a recorder: got ${capacity}, wanted at least 1`);
    this.clock = clock;
    this.capacity = capacity;
  }

  /** What was recorded, in the order of recording: a span stands where it ended. */
  get events(): readonly TraceEvent[] {
    return this.list;
  }

  /** How many events came after the recorder was full. */
  get dropped(): number {
    return this.numDropped;
  }

  /** Begins a span now; the function returned ends it, once, and may add what is known only then. */
  begin(parts: SpanParts): (args?: TraceArgs) => void {
    const startUs = this.clock.now() * 1000;
    let open = true;
    return (args) => {
      assert(open, () => `span ${parts.name}: ended twice, wanted once`);
      open = false;
      const all = args === undefined ? parts : { ...parts, args: { ...parts.args, ...args } };
      this.span(all, startUs, this.clock.now() * 1000 - startUs);
    };
  }

  /** A span of known start and length, in microseconds. */
  span({ name, cat, pid, tid, args }: SpanParts, startUs: number, durationUs: number): void {
    assert(durationUs >= 0, () => `duration of ${name}: got ${durationUs}, wanted at least 0`);
    const times = { ts: startUs, dur: durationUs };
    this.add({ ph: "X", name, cat, pid, tid, ...times, ...(args && { args }) });
  }

  /** A moment; by default now. */
  instant(parts: SpanParts, atUs: number = this.clock.now() * 1000): void {
    const { name, cat, pid, tid, args } = parts;
    this.add({ ph: "i", name, cat, pid, tid, ts: atUs, s: "t", ...(args && { args }) });
  }

  /** Numbers that hold from `atUs` (by default now) on, drawn as a chart of the process `pid`. */
  counter(
    name: string,
    pid: TraceLane["pid"],
    values: Readonly<Record<string, number>>,
    atUs: number = this.clock.now() * 1000,
  ): void {
    this.add({ ph: "C", name, pid, tid: 0, ts: atUs, args: values });
  }

  /** An arrow from a span to another: from the one around `from` to the one around `to`. */
  flow(
    name: string,
    from: TraceLane & { readonly atUs: number },
    to: TraceLane & { readonly atUs: number },
  ): void {
    const shared = { name, cat: "flow", id: ++this.numFlows };
    this.add({ ph: "s", ...shared, pid: from.pid, tid: from.tid, ts: from.atUs });
    this.add({ ph: "f", ...shared, pid: to.pid, tid: to.tid, ts: to.atUs, bp: "e" });
  }

  /** Names a process; processes stand in viewers by `order`. */
  nameProcess(pid: TraceLane["pid"], name: string, order?: number): void {
    this.describe("process", { pid, tid: 0 }, name, order);
  }

  /** Names a thread; threads stand in their process by `order`. */
  nameThread(lane: TraceLane, name: string, order?: number): void {
    this.describe("thread", { pid: lane.pid, tid: lane.tid }, name, order);
  }

  private describe(
    what: "process" | "thread",
    lane: TraceLane,
    name: string,
    order: number | undefined,
  ): void {
    this.add({ ph: "M", name: `${what}_name`, ...lane, args: { name } });
    if (order === undefined) return;
    this.add({ ph: "M", name: `${what}_sort_index`, ...lane, args: { sort_index: order } });
  }

  private add(event: TraceEvent): void {
    if (this.list.length < this.capacity) this.list.push(event);
    else this.numDropped++;
  }
}
