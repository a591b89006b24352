/**
 * @file From the call to the operation: how long launched operations wait, and how many wait at once.
 * Joined by correlation ids, since the arrows of PyTorch's traces are not complete.
 */
import { medianOf } from "../base/index.ts";
import type { Operations } from "./operations.ts";

/** From the beginning of the launching call to the start of the operation, in microseconds. */
export interface LaunchReport {
  /** Operations whose call is in the trace. */
  readonly count: number;
  readonly meanUs: number;
  readonly medianUs: number;
  readonly minUs: number;
  readonly maxUs: number;
}

/** How long operations waited between launch and start; zeros where no launch is known. */
export function launchToStart({ count, start, launchStart }: Operations): LaunchReport {
  const waits: number[] = [];
  for (let i = 0; i < count; i++) {
    if (!Number.isNaN(launchStart[i])) waits.push((start[i] - launchStart[i]) / 1000);
  }
  if (waits.length === 0) return { count: 0, meanUs: 0, medianUs: 0, minUs: 0, maxUs: 0 };
  let [sum, min, max] = [0, Number.POSITIVE_INFINITY, Number.NEGATIVE_INFINITY];
  for (const wait of waits) {
    sum += wait;
    min = Math.min(min, wait);
    max = Math.max(max, wait);
  }
  const meanUs = sum / waits.length;
  return { count: waits.length, meanUs, medianUs: medianOf(waits), minUs: min, maxUs: max };
}

/** One step of a queue's length: from `at` on (nanoseconds) it is `length`. */
export interface QueueStep {
  readonly at: number;
  readonly length: number;
}

/**
 * The operations of `indices` that are launched but not started, over time. An operation enters when
 * its call begins and leaves when it starts; at one instant, all that leave and enter do so at once.
 * One that seems to start before its launch (clocks differ) never waits.
 */
export function queueOf(
  { start, launchStart }: Operations,
  indices: readonly number[],
): QueueStep[] {
  const known = indices.filter((i) => !Number.isNaN(launchStart[i]));
  const entries = Float64Array.from(known, (i) => Math.min(launchStart[i], start[i])).sort();
  const exits = Float64Array.from(known, (i) => start[i]).sort();
  const steps: QueueStep[] = [];
  let [entered, left] = [0, 0];
  while (left < exits.length) {
    const at = Math.min(entries[entered] ?? Number.POSITIVE_INFINITY, exits[left]);
    while (entries[entered] === at) entered++;
    while (exits[left] === at) left++;
    steps.push({ at, length: entered - left });
  }
  return steps;
}
