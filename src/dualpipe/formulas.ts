/** @file The closed formulas for bubbles, to hold simulations against. */
import { checkDurations } from "./simulate.ts";
import type { Durations, Schedule } from "./types.ts";

/**
 * The bubble of a schedule by its published formula, in the units of `durations` (of one chunk on one
 * rank). 1F1B: (P-1)(F+B), interleaved too, with the chunk's own F and B. ZB-H1: (P-1)(F+B-2W). ZB-H2:
 * (P-1)(F+B-3W), counted within each rank's own span. DualPipe: (P/2-1)(F&B+B-3W); exact where forward,
 * input backward and weight backward take equally long, else an upper bound. DualPipeV: the same with P
 * the number of stages. ZB-V has no closed formula: undefined.
 */
export function bubbleFormula(schedule: Schedule, durations: Durations): number | undefined {
  const { forward, backward, weight, overlapped } = checkDurations(durations);
  const { numRanks } = schedule;
  switch (schedule.kind) {
    case "1f1b":
    case "interleaved":
      return (numRanks - 1) * (forward + backward);
    case "zb-h1":
      return (numRanks - 1) * (forward + backward - 2 * weight);
    case "zb-h2":
      return (numRanks - 1) * (forward + backward - 3 * weight);
    case "dualpipe":
      return (numRanks / 2 - 1) * (overlapped + backward - 3 * weight);
    case "dualpipev":
      return (numRanks - 1) * (overlapped + backward - 3 * weight);
    case "zb-v":
      return undefined;
  }
}
