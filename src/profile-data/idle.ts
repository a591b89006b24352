/**
 * @file Why a stream, or a device, did nothing: a gap ends with an operation, and that operation was
 * launched too late (host wait), or follows so closely that only the device's own delay lies between
 * (kernel wait), or waited for something else. The split of Meta's Holistic Trace Analysis.
 */
import type { Intervals } from "./intervals.ts";
import type { Operations } from "./operations.ts";

/** Idle time by cause, in microseconds; the three sum to the gaps between first and last operation. */
export interface IdleReport {
  /** Gaps whose ending operation was launched after the gap had begun. */
  readonly hostWaitUs: number;
  /** Of the other gaps, those shorter than the threshold. */
  readonly kernelWaitUs: number;
  readonly otherUs: number;
}

/** The idle time between the intervals of `busy`, the union of the operations `indices`. */
export function idleOf(
  operations: Operations,
  indices: readonly number[],
  busy: Intervals,
  kernelWaitNs: number,
): IdleReport {
  let [host, kernel, other] = [0, 0, 0];
  let next = 0;
  for (let i = 2; i < busy.length; i += 2) {
    const [from, to] = [busy[i - 1], busy[i]];
    // The first of those that start where the gap ends; empty ones don't end a gap.
    while (!endsGap(operations, indices[next], to)) next++;
    const launched = operations.launchStart[indices[next]];
    if (launched > from) host += to - from;
    else if (to - from < kernelWaitNs) kernel += to - from;
    else other += to - from;
  }
  return { hostWaitUs: host / 1000, kernelWaitUs: kernel / 1000, otherUs: other / 1000 };
}

function endsGap({ start, end }: Operations, index: number, at: number): boolean {
  return start[index] === at && end[index] > at;
}
