/**
 * @file Phases: an operation belongs to the innermost annotation (`record_function`, a step of the
 * profiler) that was open in its process when it was launched; on the launching thread if there is
 * one, else on any, since the backward pass is launched from another thread than the one that
 * annotates. Layers: the number in an annotation's name, or else which time in turn a phase comes.
 */
import { type Operations, startOf } from "./operations.ts";
import { spanKinds, type Trace } from "./trace.ts";

/** One opening of an annotation. */
export interface PhaseInstance {
  /** The annotation's name without numbers: `attn(F)`, `ProfilerStep`. */
  readonly name: string;
  /** The layer that names itself, or how often the phase had come before in what is around it. */
  readonly layer: number;
  /** Whether `layer` is a number from a name, or one of several openings. */
  readonly repeats: boolean;
  /** Nanoseconds from the operations' `baseUs`, on the host. */
  readonly start: number;
  readonly end: number;
}

/** The phases of a device, and for each operation the index of its phase, or -1. */
export interface Phases {
  readonly instances: readonly PhaseInstance[];
  readonly ofOperation: Int32Array;
}

interface Open {
  readonly index: number;
  readonly end: number;
  readonly pid: number;
  readonly tid: number;
}

const layerNumber = /\b(?:layers?|blocks?)[._ #:/-]*(\d+)\b/i;

/** The phases of the calls that launched `operations`. */
export function phasesOf(trace: Trace, operations: Operations): Phases {
  const { baseUs, count, launch, launchStart } = operations;
  const rows: number[] = [];
  for (let row = 0; row < trace.count; row++) {
    if (trace.kind[row] === spanKinds.annotation && trace.name[row] >= 0) rows.push(row);
  }
  const ofOperation = new Int32Array(count).fill(-1);
  if (rows.length === 0) return { instances: [], ofOperation };
  const starts = rows.map((row) => startOf(trace, row, baseUs));
  const order = rows
    .map((_, i) => i)
    .sort((a, b) => starts[a] - starts[b] || trace.durationNs[rows[b]] - trace.durationNs[rows[a]]);
  const launched = Array.from(launch.keys())
    .filter((i) => launch[i] >= 0)
    .sort((a, b) => launchStart[a] - launchStart[b]);

  const naming = new Naming();
  let open: Open[] = [];
  let next = 0;
  const openUntil = (time: number): void => {
    for (; next < order.length; next++) {
      const at = starts[order[next]];
      if (at > time) break;
      const row = rows[order[next]];
      const [pid, tid] = [trace.pid[row], trace.tid[row]];
      open = open.filter(({ end }) => end > at);
      const index = naming.add(
        trace.strings.text(trace.name[row]),
        innermost(open, pid, tid),
        at,
        at + trace.durationNs[row],
      );
      open.push({ index, end: at + trace.durationNs[row], pid, tid });
    }
  };
  for (const i of launched) {
    const time = launchStart[i];
    openUntil(time);
    if (open.some(({ end }) => end <= time)) open = open.filter(({ end }) => end > time);
    ofOperation[i] = innermost(open, trace.pid[launch[i]], trace.tid[launch[i]]);
  }
  openUntil(Number.POSITIVE_INFINITY);
  return { instances: naming.finish(), ofOperation };
}

/** The annotation opened last, on the thread itself if there is one, else in the process; or -1. */
function innermost(open: readonly Open[], pid: number, tid: number): number {
  const own = open.findLast((entry) => entry.pid === pid && entry.tid === tid);
  const any = own ?? open.findLast((entry) => entry.pid === pid);
  return any?.index ?? -1;
}

/** Finds each opening's name and layer. */
class Naming {
  private readonly list: (PhaseInstance & { key: string; explicit: number })[] = [];
  private readonly counts = new Map<string, number>();

  add(text: string, parent: number, start: number, end: number): number {
    const match = layerNumber.exec(text);
    const inherited = parent >= 0 ? this.list[parent].explicit : -1;
    const explicit = match ? Number(match[1]) : inherited;
    const name = nameOf(text);
    const key = `${parent} ${name}`;
    const turn = this.counts.get(key) ?? 0;
    this.counts.set(key, turn + 1);
    const layer = explicit >= 0 ? explicit : turn;
    this.list.push({ name, layer, repeats: explicit >= 0, start, end, key, explicit });
    return this.list.length - 1;
  }

  finish(): PhaseInstance[] {
    return this.list.map(({ name, layer, repeats, start, end, key }) => ({
      name,
      layer,
      repeats: repeats || (this.counts.get(key) ?? 0) > 1,
      start,
      end,
    }));
  }
}

/** `layers.3.mlp` becomes `mlp`, `ProfilerStep#7` becomes `ProfilerStep`. */
function nameOf(text: string): string {
  const bare = text
    .replace(layerNumber, "")
    .replace(/#\d+$/, "")
    .replace(/^[\s._:/-]+|[\s._:/-]+$/g, "");
  return bare === "" ? "layer" : bare;
}
