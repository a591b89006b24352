/**
 * @file Events of Chrome's Trace Event Format, as far as this room writes them. Times are microseconds
 * from any one origin, fractions allowed. Source: "Trace Event Format", Google, 2016.
 */

/** What may hang on an event; shown by viewers. */
export type TraceArgs = Readonly<Record<string, unknown>>;

/** Where an event belongs: a process and one of its threads, by number or by word. */
export interface TraceLane {
  readonly pid: number | string;
  readonly tid: number | string;
}

/** A span: something that began and ended. */
export interface SpanEvent extends TraceLane {
  readonly ph: "X";
  readonly name: string;
  readonly cat: string;
  readonly ts: number;
  readonly dur: number;
  readonly args?: TraceArgs;
}

/** A moment on a lane. */
export interface InstantEvent extends TraceLane {
  readonly ph: "i";
  readonly name: string;
  readonly cat: string;
  readonly ts: number;
  readonly s: "t";
  readonly args?: TraceArgs;
}

/** Numbers that hold from now on; each key of `args` is one line of the chart. */
export interface CounterEvent extends TraceLane {
  readonly ph: "C";
  readonly name: string;
  readonly ts: number;
  readonly args: Readonly<Record<string, number>>;
}

/** One end of an arrow between spans: `s` where it starts, `f` where it ends. */
export interface FlowEvent extends TraceLane {
  readonly ph: "s" | "f";
  readonly name: string;
  readonly cat: string;
  readonly id: number;
  readonly ts: number;
  /** The arrow ends at the span around it, not at the next one. */
  readonly bp?: "e";
}

/** The name or the place of a process or thread. */
export interface MetadataEvent extends TraceLane {
  readonly ph: "M";
  readonly name: "process_name" | "thread_name" | "process_sort_index" | "thread_sort_index";
  readonly args: TraceArgs;
}

/** One event of a trace file. */
export type TraceEvent = SpanEvent | InstantEvent | CounterEvent | FlowEvent | MetadataEvent;
