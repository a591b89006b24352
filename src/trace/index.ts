/**
 * @file Door of `trace`: a recorder of spans, and a writer of the files that Perfetto and
 * chrome://tracing open. Pure, no I/O: it runs in a browser too.
 */
export { type RecorderOptions, type SpanParts, TraceRecorder } from "./recorder.ts";
export type {
  CounterEvent,
  FlowEvent,
  InstantEvent,
  MetadataEvent,
  SpanEvent,
  TraceArgs,
  TraceEvent,
  TraceLane,
} from "./types.ts";
export { writeTrace } from "./write.ts";
