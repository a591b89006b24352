/**
 * @file Door of `profile-data`: traces of PyTorch's profiler and our own, read as they stream in, and
 * what they say about overlap, waiting and the critical path. Pure, no I/O: it runs in a browser too.
 */
export { type CountedDiff, diffReports, type FigureDiff, type TraceDiff } from "./diff.ts";
export { type ProfileErrorCode, profileErrors } from "./errors.ts";
export type { IdleReport } from "./idle.ts";
export type { Intervals } from "./intervals.ts";
export type { LaunchReport } from "./launches.ts";
export type { Operations } from "./operations.ts";
export { type PageDevice, profilePage } from "./page.ts";
export { perfettoEvents } from "./perfetto.ts";
export { findStragglers, type RankReport, type StragglerReport } from "./ranks.ts";
export {
  type CategoryReport,
  type CriticalPathReport,
  type DeviceProfile,
  type KernelReport,
  type LayerReport,
  type PhaseReport,
  type ProfileOptions,
  profileTrace,
  type StreamReport,
  type TraceReport,
} from "./report.ts";
export { classifier, type KernelClass, type KernelRule, kernelRules } from "./rules.ts";
export { readTrace, type Trace } from "./trace.ts";
