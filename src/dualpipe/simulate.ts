/**
 * @file What a schedule costs: a timeline, and per rank the time it works and waits and what it keeps
 * in memory. Ranks work their lists off in order. Messages go by data dependence (`buffered`), or in
 * the schedule's batches, each of which ends when all peers have come to theirs (`rendezvous`).
 */
import { dualPipeError, refuse } from "./errors.ts";
import { partsOf, Routes } from "./graph.ts";
import type { CommOp, ComputeOp, Durations, Schedule, Transfer } from "./types.ts";

/** How to simulate. */
export interface SimulateOptions {
  /** Default `buffered`. */
  readonly messages?: "buffered" | "rendezvous";
  /** `[numRanks][step]`: extra time before a step. */
  readonly stalls?: readonly (readonly number[])[];
  /** What one chunk's activations take in memory, from forward to backward; default 1. */
  readonly activation?: number;
  /** What a weight part that waits takes in memory; default 0. */
  readonly weightStash?: number;
}

/** One computation in time. */
export interface TimelineEvent {
  readonly op: ComputeOp;
  readonly start: number;
  readonly end: number;
}

/** What one rank did. */
export interface RankReport {
  readonly events: readonly TimelineEvent[];
  /** Time spent computing. */
  readonly busy: number;
  /** The bubble: the whole schedule's time minus `busy`. */
  readonly bubble: number;
  /** Waiting between its first and last computation. */
  readonly idle: number;
  /** Most chunks whose activations it held at once, from the start of F to the end of B or Bi. */
  readonly peakActivations: number;
  /** Most weight parts that waited at once, from the end of Bi to the end of W. */
  readonly peakWeightStash: number;
  /** Most memory at once, in the units of the options. */
  readonly peakMemory: number;
}

/** A schedule in time. */
export interface Simulation {
  /** From the first start, time 0, to the last end. */
  readonly total: number;
  readonly ranks: readonly RankReport[];
}

/** Durations with their defaults, checked. */
export function checkDurations(durations: Durations): Required<Durations> {
  const { forward, backward, weight, overlapped = forward + backward, send = 0 } = durations;
  const all = { forward, backward, weight, overlapped, send };
  for (const [name, value] of Object.entries(all)) {
    if (Number.isFinite(value) && value >= 0) continue;
    throw refuse(`durations.${name}`, `is ${String(value)}`, "give a time of at least 0");
  }
  if (weight > backward) {
    const problem = `is ${weight}, more than the whole backward (${backward})`;
    throw refuse("durations.weight", problem, "give the weight part alone");
  }
  return all;
}

/**
 * The timeline of `schedule`. Throws a `BaleenError` "schedule-deadlock" that names a rank and a step if
 * its ranks wait for each other for ever, or if messages meet that do not belong together.
 */
export function simulate(
  schedule: Schedule,
  durations: Durations,
  options: SimulateOptions = {},
): Simulation {
  const run = new Run(schedule, checkDurations(durations), options);
  return run.finish(options);
}

class Run {
  private readonly schedule: Schedule;
  private readonly times: Required<Durations>;
  private readonly stalls: SimulateOptions["stalls"];
  private readonly rendezvous: boolean;
  private readonly routes: Routes;
  /** When each result is there, where it was made. */
  private readonly made: Float64Array;
  /** When a message of a result has arrived; with rendezvous only. */
  private readonly arrived: Float64Array;
  private readonly events: TimelineEvent[][];
  private readonly next: number[];
  private readonly now: number[];
  /** Channels `from * numRanks + to`: when each message in turn was posted by either side. */
  private readonly sent: Map<number, { transfer: Transfer; time: number }[]> = new Map();
  private readonly received: Map<number, { transfer: Transfer; time: number }[]> = new Map();
  /** Per rank, the posted batch it waits in. */
  private readonly waiting: ({ channel: number; index: number }[] | undefined)[];

  constructor(schedule: Schedule, times: Required<Durations>, options: SimulateOptions) {
    const { numRanks } = schedule;
    this.schedule = schedule;
    this.times = times;
    this.stalls = options.stalls;
    this.rendezvous = options.messages === "rendezvous";
    this.routes = new Routes(schedule);
    const results = numRanks * this.routes.numPhases * schedule.chunksPerRoute * 2;
    this.made = new Float64Array(results).fill(Number.NaN);
    this.arrived = this.made.slice();
    this.events = schedule.ranks.map(() => []);
    this.next = schedule.ranks.map(() => 0);
    this.now = schedule.ranks.map(() => 0);
    this.waiting = schedule.ranks.map(() => undefined);
    for (let moved = true; moved; ) {
      moved = false;
      for (let rank = 0; rank < numRanks; rank++) while (this.advance(rank)) moved = true;
    }
    const stuck = this.next.findIndex((step, rank) => step < schedule.ranks[rank].length);
    if (stuck < 0) return;
    const step = schedule.ranks[stuck][this.next[stuck]];
    throw dualPipeError(
      "schedule-deadlock",
      `rank ${stuck} waits for ever at step ${this.next[stuck]}, ${JSON.stringify(step)}: ` +
        "what it needs is never made, or never sent; correct the order of the steps.",
    );
  }

  /** One step of a rank, if it can be done now. */
  private advance(rank: number): boolean {
    const step = this.schedule.ranks[rank][this.next[rank]];
    if (step === undefined) return false;
    const done = step.op === "comm" ? this.communicate(rank, step) : this.compute(rank, step);
    if (done) this.next[rank]++;
    return done;
  }

  private stall(rank: number): number {
    return this.stalls?.[rank]?.[this.next[rank]] ?? 0;
  }

  private compute(rank: number, op: ComputeOp): boolean {
    let start = this.now[rank] + this.stall(rank);
    const parts = partsOf(op);
    for (const part of parts) {
      for (const { id, from } of this.routes.needs(rank, part)) {
        const local = from.rank === rank;
        const ready = local || !this.rendezvous ? this.made[id] : this.arrived[id];
        if (Number.isNaN(ready)) return false;
        start = Math.max(start, ready + (local || this.rendezvous ? 0 : this.times.send));
      }
    }
    const end = start + this.durationOf(op);
    for (const { op: kind, phase, chunk } of parts) {
      if (kind !== "W") this.made[this.routes.resultId({ rank, phase }, chunk, kind !== "F")] = end;
    }
    this.events[rank].push({ op, start, end });
    this.now[rank] = end;
    return true;
  }

  private durationOf({ op }: ComputeOp): number {
    const { forward, backward, weight, overlapped } = this.times;
    return { F: forward, B: backward, Bi: backward - weight, W: weight, FB: overlapped }[op];
  }

  /** Posts a batch, and passes it when all of its messages have met their other ends. */
  private communicate(rank: number, { transfers }: CommOp): boolean {
    if (!this.rendezvous) return true;
    this.waiting[rank] ??= transfers.map((transfer) => this.post(rank, transfer));
    let end = this.now[rank];
    for (const { channel, index } of this.waiting[rank]) {
      const [here, there] = [this.sent.get(channel)?.[index], this.received.get(channel)?.[index]];
      if (here === undefined || there === undefined) return false;
      this.checkMatch(here.transfer, there.transfer);
      const done = Math.max(here.time, there.time) + this.times.send;
      end = Math.max(end, done);
      const place = { rank: there.transfer.peer, phase: here.transfer.phase };
      const gradient = here.transfer.what === "gradient";
      this.arrived[this.routes.resultId(place, here.transfer.chunk, gradient)] = done;
    }
    this.waiting[rank] = undefined;
    this.now[rank] = end;
    return true;
  }

  private post(rank: number, transfer: Transfer): { channel: number; index: number } {
    const { numRanks } = this.schedule;
    const send = transfer.direction === "send";
    const channel = send ? rank * numRanks + transfer.peer : transfer.peer * numRanks + rank;
    const side = send ? this.sent : this.received;
    const queue = side.get(channel) ?? [];
    side.set(channel, queue);
    queue.push({ transfer, time: this.now[rank] + this.stall(rank) });
    return { channel, index: queue.length - 1 };
  }

  /** A message's two ends must mean the same result: messages of a channel meet in order. */
  private checkMatch(sent: Transfer, received: Transfer): void {
    const from = { rank: received.peer, phase: sent.phase };
    const to = sent.what === "activation" ? this.routes.next(from) : this.routes.previous(from);
    const fits =
      sent.what === received.what &&
      sent.chunk === received.chunk &&
      to?.rank === sent.peer &&
      to?.phase === received.phase;
    if (fits) return;
    throw dualPipeError(
      "schedule-deadlock",
      `rank ${received.peer} sends ${JSON.stringify(sent)} where rank ${sent.peer} expects ` +
        `${JSON.stringify(received)}: correct the order of the messages.`,
    );
  }

  finish({ activation = 1, weightStash = 0 }: SimulateOptions): Simulation {
    const total = Math.max(0, ...this.now);
    const ranks = this.events.map((events) => {
      const busy = events.reduce((sum, { start, end }) => sum + end - start, 0);
      const span = events.length > 0 ? events[events.length - 1].end - events[0].start : 0;
      const memory = memoryOf(events, activation, weightStash);
      return { events, busy, bubble: total - busy, idle: span - busy, ...memory };
    });
    return { total, ranks };
  }
}

function memoryOf(
  events: readonly TimelineEvent[],
  activation: number,
  weightStash: number,
): Pick<RankReport, "peakActivations" | "peakWeightStash" | "peakMemory"> {
  let [held, stashed] = [0, 0];
  let [peakActivations, peakWeightStash, peakMemory] = [0, 0, 0];
  for (const { op } of events) {
    const kinds = partsOf(op).map((part) => part.op);
    if (kinds.includes("F")) held++;
    peakActivations = Math.max(peakActivations, held);
    peakMemory = Math.max(peakMemory, held * activation + stashed * weightStash);
    if (kinds.includes("Bi")) stashed++;
    if (kinds.includes("B") || kinds.includes("Bi")) held--;
    if (kinds.includes("W")) stashed--;
    peakWeightStash = Math.max(peakWeightStash, stashed);
    peakMemory = Math.max(peakMemory, held * activation + stashed * weightStash);
  }
  return { peakActivations, peakWeightStash, peakMemory };
}
