/** @file Who needs whose result: a pipeline's routes, looked up by rank and phase. */
import type { ComputeOp, Place, Schedule, SingleOp } from "./types.ts";

/** A single operation that is part of a computation: both halves of a pair, or the operation itself. */
export type Part = Pick<SingleOp, "phase" | "chunk"> & { readonly op: "F" | "B" | "Bi" | "W" };

/** The parts of a computation; a pair's forward first. */
export function partsOf(op: ComputeOp): readonly Part[] {
  if (op.op !== "FB") return [op];
  return [
    { op: "F", ...op.forward },
    { op: "B", ...op.backward },
  ];
}

/** The routes of a schedule, with the neighbours of each place and dense numbers for results. */
export class Routes {
  readonly numPhases: number;
  readonly chunks: number;
  private readonly before: (Place | undefined)[] = [];
  private readonly after: (Place | undefined)[] = [];

  constructor(schedule: Pick<Schedule, "routes" | "chunksPerRoute">) {
    const places = schedule.routes.flat();
    this.numPhases = 1 + places.reduce((most, { phase }) => Math.max(most, phase), 0);
    this.chunks = schedule.chunksPerRoute;
    for (const route of schedule.routes) {
      route.forEach((place, i) => {
        this.before[this.placeId(place)] = route[i - 1];
        this.after[this.placeId(place)] = route[i + 1];
      });
    }
  }

  private placeId({ rank, phase }: Place): number {
    return rank * this.numPhases + phase;
  }

  /** The place that activations come from; undefined at the start of a route. */
  previous(place: Place): Place | undefined {
    return this.before[this.placeId(place)];
  }

  /** The place that activations go to; undefined at the end. */
  next(place: Place): Place | undefined {
    return this.after[this.placeId(place)];
  }

  /** A number for the activation (or gradient) that comes out of `place` for `chunk`. */
  resultId(place: Place, chunk: number, gradient: boolean): number {
    return (this.placeId(place) * this.chunks + chunk) * 2 + (gradient ? 1 : 0);
  }

  /** The results that a part on `rank` needs, each with the place it comes from. */
  needs(rank: number, part: Part): { readonly id: number; readonly from: Place }[] {
    const here = { rank, phase: part.phase };
    const need = (from: Place, gradient: boolean) => ({
      id: this.resultId(from, part.chunk, gradient),
      from,
    });
    if (part.op === "F") {
      const from = this.previous(here);
      return from ? [need(from, false)] : [];
    }
    if (part.op === "W") return [need(here, true)];
    const from = this.next(here);
    return from ? [need(here, false), need(from, true)] : [need(here, false)];
  }
}
