/** @file Any schedule by its name. */
import { dualPipe, dualPipeV } from "./bidirectional.ts";
import {
  interleaved,
  oneForwardOneBackward,
  zeroBubbleH1,
  zeroBubbleH2,
  zeroBubbleV,
} from "./classic.ts";
import type { Schedule, ScheduleKind } from "./types.ts";

const makers: Readonly<Record<ScheduleKind, (ranks: number, microBatches: number) => Schedule>> = {
  dualpipe: dualPipe,
  dualpipev: dualPipeV,
  "1f1b": oneForwardOneBackward,
  interleaved: (ranks, microBatches) => interleaved(ranks, microBatches),
  "zb-h1": zeroBubbleH1,
  "zb-h2": zeroBubbleH2,
  "zb-v": zeroBubbleV,
};

/** The names of all schedules. */
export const scheduleKinds: readonly ScheduleKind[] = Object.keys(makers) as ScheduleKind[];

/** The schedule `kind` on `numRanks` ranks; throws a `BaleenError` where the numbers do not fit it. */
export function makeSchedule(
  kind: ScheduleKind,
  numRanks: number,
  numMicroBatches: number,
): Schedule {
  return makers[kind](numRanks, numMicroBatches);
}
