/**
 * @file A simulated schedule as a trace: a process a rank, with what it computes and how many chunks
 * it holds. Perfetto opens it, and `profile-data` reads it as one device a rank.
 */
import { type TraceEvent, TraceRecorder } from "../trace/index.ts";
import type { Simulation } from "./simulate.ts";
import type { ComputeOp } from "./types.ts";

/** The events of `simulation`, for `writeTrace`; a unit of its durations becomes `unitUs` (1000). */
export function traceSimulation(simulation: Simulation, unitUs = 1000): TraceEvent[] {
  const recorder = new TraceRecorder({ capacity: Number.POSITIVE_INFINITY });
  simulation.ranks.forEach(({ events }, rank) => {
    recorder.nameProcess(rank, `rank ${rank}`, rank);
    recorder.nameThread({ pid: rank, tid: 0 }, "compute");
    let held = 0;
    for (const { op, start, end } of events) {
      const span = { name: nameOf(op), cat: "kernel", pid: rank, tid: 0, args: argsOf(op) };
      recorder.span(span, start * unitUs, (end - start) * unitUs);
      const [begins, ends] = [op.op === "F" || op.op === "FB", op.op !== "F" && op.op !== "W"];
      if (begins) recorder.counter("chunks held", rank, { chunks: ++held }, start * unitUs);
      if (ends) recorder.counter("chunks held", rank, { chunks: --held }, end * unitUs);
    }
  });
  return [...recorder.events];
}

const names = { F: "F", B: "B", Bi: "B input", W: "W", FB: "F&B" } as const;

function nameOf({ op }: ComputeOp): string {
  return names[op];
}

function argsOf(op: ComputeOp): Record<string, unknown> {
  if (op.op === "FB") return { stream: 0, forward: op.forward, backward: op.backward };
  return { stream: 0, phase: op.phase, chunk: op.chunk };
}
