/** @file Two traces beside each other: what got slower, what got faster, what is new or gone. */
import type { CategoryReport, TraceReport } from "./report.ts";

/** A figure of both traces, in microseconds. */
export interface FigureDiff {
  readonly name: string;
  readonly beforeUs: number;
  readonly afterUs: number;
  readonly changeUs: number;
}

/** Operations of one category or name in both traces; counts of 0 where there are none. */
export interface CountedDiff extends FigureDiff {
  readonly beforeCount: number;
  readonly afterCount: number;
}

/** How a trace differs from an earlier one; lists begin with the largest change. */
export interface TraceDiff {
  readonly figures: readonly FigureDiff[];
  readonly categories: readonly CountedDiff[];
  readonly kernels: readonly CountedDiff[];
  readonly phases: readonly CountedDiff[];
}

const figureNames = [
  "spanUs",
  "busyUs",
  "idleUs",
  "computationUs",
  "communicationUs",
  "overlappedUs",
  "exposedUs",
] as const;

/** What changed from `before` to `after`. Kernels and phases are matched by name. */
export function diffReports(before: TraceReport, after: TraceReport): TraceDiff {
  const figures = figureNames.map((name) => ({
    name: name.replace(/Us$/, ""),
    beforeUs: before[name],
    afterUs: after[name],
    changeUs: microseconds(after[name] - before[name]),
  }));
  const categories = matched(Object.entries(before.categories), Object.entries(after.categories));
  const byName = ({ kernelsByName }: TraceReport): [string, CategoryReport][] =>
    kernelsByName.map((kernel) => [kernel.name, kernel]);
  const byPhase = ({ phases }: TraceReport): [string, CategoryReport][] =>
    phases.map(({ name, instances, busyUs }) => [name, { count: instances, sumUs: busyUs }]);
  return {
    figures,
    categories,
    kernels: matched(byName(before), byName(after)),
    phases: matched(byPhase(before), byPhase(after)),
  };
}

const none: CategoryReport = { count: 0, sumUs: 0 };

function matched(
  before: readonly [string, CategoryReport][],
  after: readonly [string, CategoryReport][],
): CountedDiff[] {
  const [old, now] = [new Map(before), new Map(after)];
  return [...new Set([...old.keys(), ...now.keys()])]
    .map((name) => {
      const [a, b] = [old.get(name) ?? none, now.get(name) ?? none];
      const changeUs = microseconds(b.sumUs - a.sumUs);
      const counts = { beforeCount: a.count, afterCount: b.count };
      return { name, beforeUs: a.sumUs, afterUs: b.sumUs, changeUs, ...counts };
    })
    .sort((a, b) => Math.abs(b.changeUs) - Math.abs(a.changeUs));
}

/** Whole nanoseconds: the difference of two exact figures has no rounding noise. */
function microseconds(value: number): number {
  return Math.round(value * 1000) / 1000;
}
