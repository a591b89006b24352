/**
 * @file What a device did with its time, in figures. All sums are of whole nanoseconds and therefore
 * exact; they are given in microseconds. README.md defines each figure.
 */

import { criticalPath, type PathSegment } from "./critical-path.ts";
import { profileError } from "./errors.ts";
import { type IdleReport, idleOf } from "./idle.ts";
import { difference, type Intervals, intersection, lengthOf, unionOf } from "./intervals.ts";
import { type LaunchReport, launchToStart, queueOf } from "./launches.ts";
import { type Operations, operationsOf } from "./operations.ts";
import { type PhaseInstance, type Phases, phasesOf } from "./phases.ts";
import { classifier, type KernelRule } from "./rules.ts";
import type { Trace } from "./trace.ts";

/** How to read a trace's kernels. */
export interface ProfileOptions {
  /** Lines before the table of `kernelRules`. */
  readonly rules?: readonly KernelRule[];
  /** Replaces the table's answer to what is communication: kernels whose name fits. */
  readonly communication?: RegExp;
  /** Gaps below this are the device's own delay; default 30. */
  readonly kernelWaitUs?: number;
}

/** What one stream did. */
export interface StreamReport {
  readonly operations: number;
  readonly busyUs: number;
  /** Of the gaps between its first and last operation. */
  readonly idle: IdleReport;
}

/** Operations of one category, or of one name. */
export interface CategoryReport {
  readonly count: number;
  readonly sumUs: number;
}

/** Kernels of one name. */
export interface KernelReport extends CategoryReport {
  readonly name: string;
  readonly category: string;
  readonly communication: boolean;
  readonly maxUs: number;
}

/** The time of some operations, by use. */
interface TimeReport {
  readonly operations: number;
  readonly sumUs: number;
  readonly busyUs: number;
  readonly computationUs: number;
  readonly communicationUs: number;
  /** Of this communication, what no computation of the device runs beside. */
  readonly exposedUs: number;
}

/** What was launched in one phase. */
export interface PhaseReport extends TimeReport {
  readonly name: string;
  readonly instances: number;
  /** Time that the host spent in the phase. */
  readonly hostUs: number;
}

/** What was launched for one layer. */
export interface LayerReport extends TimeReport {
  readonly layer: number;
}

/** Where the time of the critical path went; the parts sum to `totalUs`. */
export interface CriticalPathReport {
  readonly totalUs: number;
  readonly operations: number;
  readonly computationUs: number;
  readonly communicationUs: number;
  readonly memoryUs: number;
  readonly hostUs: number;
  readonly waitUs: number;
  /** Operations on the path by category, in microseconds. */
  readonly categories: Readonly<Record<string, number>>;
}

/** The figures of one device; times in microseconds. */
export interface TraceReport {
  readonly device: string;
  /** What was taken for communication. */
  readonly communicationRule: string;
  readonly operations: number;
  readonly kernels: number;
  readonly communicationKernels: number;
  readonly spanUs: number;
  readonly busyUs: number;
  readonly idleUs: number;
  readonly idle: IdleReport;
  readonly sumUs: number;
  readonly communicationUs: number;
  readonly communicationSumUs: number;
  readonly computationUs: number;
  readonly computationSumUs: number;
  readonly overlappedUs: number;
  readonly exposedUs: number;
  readonly overlappedPercentOfCommunication: number;
  readonly exposedPercentOfCommunication: number;
  readonly exposedPercentOfSpan: number;
  readonly streams: Readonly<Record<string, StreamReport>>;
  readonly streamOverlapsUs: Readonly<Record<string, number>>;
  readonly queueMax: Readonly<Record<string, number>>;
  readonly launchToStart: LaunchReport;
  readonly categories: Readonly<Record<string, CategoryReport>>;
  readonly kernelsByName: readonly KernelReport[];
  readonly phases: readonly PhaseReport[];
  readonly layers: readonly LayerReport[];
  readonly criticalPath: CriticalPathReport;
}

/** A device's report, and what pictures of it need. */
export interface DeviceProfile {
  readonly report: TraceReport;
  readonly trace: Trace;
  readonly operations: Operations;
  readonly phases: Phases;
  readonly computation: Intervals;
  readonly communication: Intervals;
  readonly exposed: Intervals;
  readonly criticalPath: readonly PathSegment[];
}

const us = (intervals: Intervals): number => lengthOf(intervals) / 1000;

/** The profiles of all devices of `trace`. Throws a `BaleenError` "trace-empty" if it has none. */
export function profileTrace(trace: Trace, options: ProfileOptions = {}): DeviceProfile[] {
  const { rules, communication, kernelWaitUs = 30 } = options;
  if (!(kernelWaitUs >= 0)) {
    throw profileError(
      "profile-input-invalid",
      `kernelWaitUs is ${String(kernelWaitUs)}: give a time of at least 0.`,
    );
  }
  const devices = operationsOf(trace, classifier(rules, communication));
  if (devices.length === 0) {
    throw profileError(
      "trace-empty",
      `The trace has ${trace.numEvents} events but no kernel (spans with "cat":"kernel"): ` +
        "record it with the profiler's CUDA activity.",
    );
  }
  const rule = communication === undefined ? "the rule table" : String(communication);
  return devices.map((operations) => profileDevice(trace, operations, rule, kernelWaitUs * 1000));
}

function profileDevice(
  trace: Trace,
  operations: Operations,
  communicationRule: string,
  kernelWaitNs: number,
): DeviceProfile {
  const { count, start, end, kernel, communication: talks } = operations;
  const all = Array.from({ length: count }, (_, i) => i);
  const talking = all.filter((i) => talks[i] === 1);
  const computing = all.filter((i) => kernel[i] === 1 && talks[i] === 0);
  const union = (indices: readonly number[]): Intervals => unionOf(start, end, indices);
  const [busy, communication, computation] = [all, talking, computing].map(union);
  const overlapped = intersection(communication, computation);
  const exposed = difference(communication, computation);
  const phases = phasesOf(trace, operations);
  const path = criticalPath(trace, operations, kernelWaitNs);
  const [communicationNs, exposedNs] = [lengthOf(communication), lengthOf(exposed)];
  const spanNs = end.reduce((latest, time) => Math.max(latest, time), 0) - start[0];
  const timeOf = (indices: readonly number[]): TimeReport =>
    timeReport(operations, indices, computation);
  const report: TraceReport = {
    device: operations.device,
    communicationRule,
    operations: count,
    kernels: talking.length + computing.length,
    communicationKernels: talking.length,
    spanUs: spanNs / 1000,
    busyUs: us(busy),
    idleUs: (spanNs - lengthOf(busy)) / 1000,
    idle: idleOf(operations, all, busy, kernelWaitNs),
    sumUs: sumOf(operations, all),
    communicationUs: communicationNs / 1000,
    communicationSumUs: sumOf(operations, talking),
    computationUs: us(computation),
    computationSumUs: sumOf(operations, computing),
    overlappedUs: us(overlapped),
    exposedUs: exposedNs / 1000,
    overlappedPercentOfCommunication: percent(lengthOf(overlapped), communicationNs),
    exposedPercentOfCommunication: percent(exposedNs, communicationNs),
    exposedPercentOfSpan: percent(exposedNs, spanNs),
    ...streamReports(operations, kernelWaitNs),
    launchToStart: launchToStart(operations),
    categories: categoryReports(operations),
    kernelsByName: kernelReports(trace, operations),
    phases: phaseReports(phases, timeOf),
    layers: layerReports(phases, timeOf),
    criticalPath: pathReport(operations, path, spanNs),
  };
  return {
    report,
    trace,
    operations,
    phases,
    computation,
    communication,
    exposed,
    criticalPath: path,
  };
}

function percent(part: number, whole: number): number {
  return whole === 0 ? 0 : (part / whole) * 100;
}

function sumOf({ start, end }: Operations, indices: readonly number[]): number {
  let sum = 0;
  for (const i of indices) sum += end[i] - start[i];
  return sum / 1000;
}

/** Entries of `keyOf` to lists of indices; keys in the order of their first index. */
function grouped<K>(count: number, keyOf: (index: number) => K | undefined): Map<K, number[]> {
  const groups = new Map<K, number[]>();
  for (let i = 0; i < count; i++) {
    const key = keyOf(i);
    if (key === undefined) continue;
    const group = groups.get(key);
    if (group) group.push(i);
    else groups.set(key, [i]);
  }
  return groups;
}

function streamReports(
  operations: Operations,
  kernelWaitNs: number,
): Pick<TraceReport, "streams" | "streamOverlapsUs" | "queueMax"> {
  const { count, start, end, stream, streams: names } = operations;
  const lists = grouped(count, (i) => stream[i]);
  const streams: Record<string, StreamReport> = {};
  const queueMax: Record<string, number> = {};
  const unions = names.map((name, index) => {
    const indices = lists.get(index) ?? [];
    const busy = unionOf(start, end, indices);
    const idle = idleOf(operations, indices, busy, kernelWaitNs);
    streams[name] = { operations: indices.length, busyUs: us(busy), idle };
    queueMax[name] = queueOf(operations, indices).reduce(
      (max, { length }) => Math.max(max, length),
      0,
    );
    return busy;
  });
  const streamOverlapsUs: Record<string, number> = {};
  names.forEach((a, i) => {
    names.slice(i + 1).forEach((b, j) => {
      streamOverlapsUs[`${a}&${b}`] = us(intersection(unions[i], unions[i + 1 + j]));
    });
  });
  return { streams, streamOverlapsUs, queueMax };
}

function categoryReports(operations: Operations): Record<string, CategoryReport> {
  const { count, category, categories } = operations;
  const reports = [...grouped(count, (i) => category[i])].map(([index, indices]) => ({
    name: categories[index],
    report: { count: indices.length, sumUs: sumOf(operations, indices) },
  }));
  reports.sort((a, b) => b.report.sumUs - a.report.sumUs);
  return Object.fromEntries(reports.map(({ name, report }) => [name, report]));
}

function kernelReports(trace: Trace, operations: Operations): KernelReport[] {
  const { count, row, start, end, kernel, category, categories, communication } = operations;
  return [...grouped(count, (i) => (kernel[i] === 1 ? trace.name[row[i]] : undefined))]
    .map(([nameId, indices]) => {
      let max = 0;
      for (const i of indices) max = Math.max(max, end[i] - start[i]);
      return {
        name: nameId < 0 ? "?" : trace.strings.text(nameId),
        category: categories[category[indices[0]]],
        communication: communication[indices[0]] === 1,
        count: indices.length,
        sumUs: sumOf(operations, indices),
        maxUs: max / 1000,
      };
    })
    .sort((a, b) => b.sumUs - a.sumUs);
}

function timeReport(
  operations: Operations,
  indices: readonly number[],
  computation: Intervals,
): TimeReport {
  const { start, end, kernel, communication } = operations;
  const talking = unionOf(
    start,
    end,
    indices.filter((i) => communication[i] === 1),
  );
  const computing = indices.filter((i) => kernel[i] === 1 && communication[i] === 0);
  return {
    operations: indices.length,
    sumUs: sumOf(operations, indices),
    busyUs: us(unionOf(start, end, indices)),
    computationUs: us(unionOf(start, end, computing)),
    communicationUs: us(talking),
    exposedUs: us(difference(talking, computation)),
  };
}

type Timing = (indices: readonly number[]) => TimeReport;

/** Phases that launched something, in the order of their first opening. */
function phaseReports({ instances, ofOperation }: Phases, timeOf: Timing): PhaseReport[] {
  const phaseOf = (i: number): PhaseInstance | undefined => instances[ofOperation[i]];
  const groups = grouped(ofOperation.length, (i) => phaseOf(i)?.name);
  const openings = grouped(instances.length, (i) => instances[i].name);
  return [...openings].flatMap(([name, own]) => {
    const indices = groups.get(name);
    if (indices === undefined) return [];
    const hostNs = own.reduce((sum, i) => sum + instances[i].end - instances[i].start, 0);
    return [{ name, instances: own.length, hostUs: hostNs / 1000, ...timeOf(indices) }];
  });
}

/** Layers that launched something, by number. */
function layerReports({ instances, ofOperation }: Phases, timeOf: Timing): LayerReport[] {
  const groups = grouped(ofOperation.length, (i) => {
    const phase = instances[ofOperation[i]];
    return phase?.repeats ? phase.layer : undefined;
  });
  return [...groups]
    .sort(([a], [b]) => a - b)
    .map(([layer, indices]) => ({ layer, ...timeOf(indices) }));
}

function pathReport(
  { kernel, communication, category, categories }: Operations,
  path: readonly PathSegment[],
  spanNs: number,
): CriticalPathReport {
  const sums = { computation: 0, communication: 0, memory: 0, host: 0, wait: 0 };
  const byCategory = new Map<string, number>();
  let operations = 0;
  for (const { what, index, start, end } of path) {
    if (what !== "operation") {
      sums[what] += end - start;
      continue;
    }
    operations++;
    const use =
      communication[index] === 1 ? "communication" : kernel[index] === 1 ? "computation" : "memory";
    sums[use] += end - start;
    const name = categories[category[index]];
    byCategory.set(name, (byCategory.get(name) ?? 0) + end - start);
  }
  const sorted = [...byCategory].sort(([, a], [, b]) => b - a);
  return {
    totalUs: spanNs / 1000,
    operations,
    computationUs: sums.computation / 1000,
    communicationUs: sums.communication / 1000,
    memoryUs: sums.memory / 1000,
    hostUs: sums.host / 1000,
    waitUs: sums.wait / 1000,
    categories: Object.fromEntries(sorted.map(([name, ns]) => [name, ns / 1000])),
  };
}
