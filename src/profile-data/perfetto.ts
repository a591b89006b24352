/**
 * @file A trace for Perfetto: what the reader kept of a trace, and what the report found as lanes and
 * charts of its own. `profile-data` reads it again and finds the same figures.
 */
import { type TraceArgs, type TraceEvent, TraceRecorder } from "../trace/index.ts";
import type { Intervals } from "./intervals.ts";
import { queueOf } from "./launches.ts";
import { startOf } from "./operations.ts";
import type { DeviceProfile } from "./report.ts";
import type { Trace } from "./trace.ts";

const categoryOfKind = ["kernel", "gpu_memcpy", "cuda_runtime", "user_annotation", "cuda_sync"];

/**
 * Events of the profiles of one trace, for `writeTrace`: the kept spans, and for each device a
 * process "analysis" with lanes for computation, communication, exposed communication and the
 * critical path, and a chart of each stream's queue. Times count from the first operation.
 */
export function perfettoEvents(profiles: readonly DeviceProfile[]): TraceEvent[] {
  const [{ trace, operations }] = profiles;
  const recorder = new TraceRecorder({ capacity: Number.POSITIVE_INFINITY });
  keptSpans(recorder, trace, operations.baseUs);
  for (const profile of profiles) {
    const name = `analysis ${profile.operations.device}`;
    recorder.nameProcess(name, `Analysis of GPU ${profile.operations.device}`, -1);
    analysis(recorder, profile, name);
  }
  return [...recorder.events];
}

function keptSpans(recorder: TraceRecorder, trace: Trace, baseUs: number): void {
  const text = (id: number): string => (id < 0 ? "?" : trace.strings.text(id));
  for (const [pid, name] of trace.processNames) recorder.nameProcess(laneName(text(pid)), name);
  const waits = new Map(trace.waits.map((wait) => [wait.row, wait]));
  for (let row = 0; row < trace.count; row++) {
    const args: Record<string, unknown> = {};
    if (trace.stream[row] >= 0) args.stream = laneName(text(trace.stream[row]));
    if (!Number.isNaN(trace.correlation[row])) args.correlation = trace.correlation[row];
    const wait = waits.get(row);
    if (wait) {
      args.wait_on_stream = laneName(text(wait.stream));
      if (!Number.isNaN(wait.correlation))
        args.wait_on_cuda_event_record_corr_id = wait.correlation;
    }
    const span = {
      name: text(trace.name[row]),
      cat: categoryOfKind[trace.kind[row]],
      pid: laneName(text(trace.pid[row])),
      tid: laneName(text(trace.tid[row])),
      ...(Object.keys(args).length > 0 && { args: args as TraceArgs }),
    };
    recorder.span(span, startOf(trace, row, baseUs) / 1000, trace.durationNs[row] / 1000);
  }
}

/** Numbers as numbers, so that viewers sort them so. */
function laneName(text: string): number | string {
  return /^\d{1,9}$/.test(text) ? Number(text) : text;
}

const lanes = ["computation", "communication", "exposed communication", "critical path"];

function analysis(recorder: TraceRecorder, profile: DeviceProfile, pid: string): void {
  const { operations, trace, computation, communication, exposed, criticalPath } = profile;
  lanes.forEach((name, tid) => {
    recorder.nameThread({ pid, tid }, name, tid);
  });
  [computation, communication, exposed].forEach((intervals: Intervals, tid) => {
    for (let i = 0; i < intervals.length; i += 2) {
      const span = { name: lanes[tid], cat: "analysis", pid, tid };
      recorder.span(span, intervals[i] / 1000, (intervals[i + 1] - intervals[i]) / 1000);
    }
  });
  for (const { what, index, start, end } of criticalPath) {
    const name =
      what === "operation" ? trace.strings.text(trace.name[operations.row[index]]) : what;
    recorder.span({ name, cat: "analysis", pid, tid: 3 }, start / 1000, (end - start) / 1000);
  }
  operations.streams.forEach((stream, index) => {
    const indices = Array.from(operations.stream.keys()).filter(
      (i) => operations.stream[i] === index,
    );
    for (const { at, length } of queueOf(operations, indices)) {
      recorder.counter(`queue of stream ${stream}`, pid, { launched: length }, at / 1000);
    }
  });
}
