/**
 * @file Door of `dualpipe`: pipeline schedules as data, and what they cost. Pure functions, no I/O: they
 * run in a browser too.
 */
export { type BidirectionalOptions, dualPipe, dualPipeV } from "./bidirectional.ts";
export {
  interleaved,
  oneForwardOneBackward,
  zeroBubbleH1,
  zeroBubbleH2,
  zeroBubbleV,
} from "./classic.ts";
export { type DualPipeErrorCode, dualPipeErrors } from "./errors.ts";
export { bubbleFormula } from "./formulas.ts";
export { makeSchedule, scheduleKinds } from "./make.ts";
export { pictureSchedule } from "./picture.ts";
export { type SearchOptions, type SearchResult, searchSchedule } from "./search.ts";
export {
  type RankReport,
  type SimulateOptions,
  type Simulation,
  simulate,
  type TimelineEvent,
} from "./simulate.ts";
export { traceSimulation } from "./trace.ts";
export { withTransfers } from "./transfers.ts";
export { toTuples } from "./tuples.ts";
export type {
  ChunkId,
  CommOp,
  ComputeOp,
  Durations,
  PairOp,
  Place,
  Schedule,
  ScheduleKind,
  SingleOp,
  Step,
  StepTuple,
  Transfer,
} from "./types.ts";
