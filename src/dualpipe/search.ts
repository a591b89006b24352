/**
 * @file A better order for measured durations: local search from a given schedule. A change moves a
 * computation a few places, splits a backward in two or joins it again, or pairs a forward with a
 * backward or parts them, on one rank. Changes that lengthen the schedule a little are allowed at first
 * and less and less later (simulated annealing, Kirkpatrick et al. 1983); the best schedule counts, and
 * only if it is shorter than the first one and fits the memory.
 */
import { Random } from "../base/index.ts";
import { checkWhole, refuse } from "./errors.ts";
import { partsOf, Routes } from "./graph.ts";
import { checkDurations, type SimulateOptions, simulate } from "./simulate.ts";
import { withTransfers } from "./transfers.ts";
import type { ChunkId, ComputeOp, Durations, Schedule } from "./types.ts";

/** How to search. */
export interface SearchOptions extends Pick<SimulateOptions, "activation" | "weightStash"> {
  /** Most memory of a rank, in the units of `activation` and `weightStash`; default: the start's. */
  readonly memoryLimit?: number;
  /** Changes to try; default 50,000. */
  readonly steps?: number;
  /** Of the random numbers; default 1. The same seed finds the same schedule. */
  readonly seed?: number;
}

/** What a search found. */
export interface SearchResult {
  /** The best schedule with messages made anew, or the one that was given. */
  readonly schedule: Schedule;
  /** Whether it is shorter than the one that was given. */
  readonly improved: boolean;
  /** Time of the schedule that was given. */
  readonly before: number;
  /** Time of `schedule`. */
  readonly after: number;
}

/**
 * A schedule with the work of `start` that takes less time under `durations` and keeps every rank within
 * the memory limit; `start` itself where none was found. Weight parts are done in the order of their
 * backwards. Throws a `BaleenError` that names the field.
 */
export function searchSchedule(
  start: Schedule,
  durations: Durations,
  options: SearchOptions = {},
): SearchResult {
  const times = checkDurations(durations);
  const { steps = 50_000, seed = 1, memoryLimit } = options;
  checkWhole("steps", steps, 0);
  const first = simulate(start, durations, options);
  const before = first.total;
  const used = first.ranks.reduce((most, rank) => Math.max(most, rank.peakMemory), 0);
  const limit = memoryLimit ?? used;
  if (!(limit >= used)) {
    throw refuse("memoryLimit", `is ${limit}, the start needs ${used}`, "give at least that");
  }
  const walk = new Walk(start, times, limit, options);
  const orders = walk.run(steps, new Random(seed));
  const unchanged = { schedule: start, improved: false, before, after: before };
  if (orders === undefined) return unchanged;
  const positive = times.forward > 0 && times.weight > 0 && times.backward > times.weight;
  const bare = { ...start, ranks: orders };
  const schedule = positive ? withTransfers(bare, durations) : withTransfers(bare);
  const after = simulate(schedule, durations, options).total;
  return after < before * (1 - 1e-9) ? { schedule, improved: true, before, after } : unchanged;
}

/** A computation with its needs looked up. */
interface Node {
  readonly op: ComputeOp;
  readonly duration: number;
  /** Numbers of results; those from other ranks come with a message. */
  readonly local: readonly number[];
  readonly remote: readonly number[];
  readonly makes: readonly number[];
}

/** Length of a set of orders, and the sum of the ranks' ends, which tells equal lengths apart. */
interface Cost {
  readonly total: number;
  readonly ends: number;
}

class Walk {
  private orders: Node[][];
  private readonly routes: Routes;
  private readonly times: Required<Durations>;
  private readonly limit: number;
  private readonly activation: number;
  private readonly weightStash: number;
  private readonly made: Float64Array;

  constructor(start: Schedule, times: Required<Durations>, limit: number, options: SearchOptions) {
    this.routes = new Routes(start);
    this.times = times;
    this.limit = limit;
    this.activation = options.activation ?? 1;
    this.weightStash = options.weightStash ?? 0;
    const results = start.numRanks * this.routes.numPhases * start.chunksPerRoute * 2;
    this.made = new Float64Array(results);
    this.orders = start.ranks.map((steps, rank) =>
      steps.flatMap((step) => (step.op === "comm" ? [] : [this.node(rank, step)])),
    );
  }

  /** Tries `steps` changes; the shortest orders if they are shorter than the first. */
  run(steps: number, random: Random): ComputeOp[][] | undefined {
    let now = this.cost();
    const first = now;
    let best = now;
    let bestOrders: Node[][] | undefined;
    for (let step = 0; step < steps; step++) {
      const rank = random.below(this.orders.length);
      const old = this.orders[rank];
      const changed = this.change(rank, random);
      if (changed === undefined || !this.fits(changed)) continue;
      this.orders[rank] = changed;
      const next = this.cost();
      const heat = 5e-4 * first.total * (1 - step / steps) ** 2;
      const worse = next.total - now.total + 0.1 * (next.ends - now.ends);
      if (worse > 0 && !(random.uniform() < Math.exp(-worse / heat))) {
        this.orders[rank] = old;
        continue;
      }
      now = next;
      if (now.total >= best.total * (1 - 1e-9)) continue;
      best = now;
      bestOrders = this.orders.map((order) => order.slice());
    }
    return bestOrders?.map((order) => order.map(({ op }) => op));
  }

  private node(rank: number, op: ComputeOp): Node {
    const { forward, backward, weight, overlapped } = this.times;
    const duration = { F: forward, B: backward, Bi: backward - weight, W: weight, FB: overlapped };
    const needs = partsOf(op).flatMap((part) => this.routes.needs(rank, part));
    const makes = partsOf(op).filter((part) => part.op !== "W");
    return {
      op,
      duration: duration[op.op],
      local: needs.filter(({ from }) => from.rank === rank).map(({ id }) => id),
      remote: needs.filter(({ from }) => from.rank !== rank).map(({ id }) => id),
      makes: makes.map(({ op: kind, phase, chunk }) =>
        this.routes.resultId({ rank, phase }, chunk, kind !== "F"),
      ),
    };
  }

  /** Plays the orders; infinite where ranks wait for ever. */
  private cost(): Cost {
    const { made, orders } = this;
    const { send } = this.times;
    made.fill(-1);
    const next = new Int32Array(orders.length);
    const now = new Float64Array(orders.length);
    for (let moved = true; moved; ) {
      moved = false;
      for (let rank = 0; rank < orders.length; rank++) {
        for (const order = orders[rank]; next[rank] < order.length; next[rank]++) {
          const node = order[next[rank]];
          let start = now[rank];
          let ready = true;
          for (const id of node.local) {
            if (made[id] < 0) ready = false;
            else if (made[id] > start) start = made[id];
          }
          for (const id of node.remote) {
            if (made[id] < 0) ready = false;
            else if (made[id] + send > start) start = made[id] + send;
          }
          if (!ready) break;
          now[rank] = start + node.duration;
          for (const id of node.makes) made[id] = now[rank];
          moved = true;
        }
      }
    }
    let [total, ends] = [0, 0];
    for (let rank = 0; rank < orders.length; rank++) {
      if (next[rank] < orders[rank].length) return { total: Infinity, ends: Infinity };
      total = Math.max(total, now[rank]);
      ends += now[rank];
    }
    return { total, ends: ends / orders.length };
  }

  private fits(order: readonly Node[]): boolean {
    const { activation, weightStash, limit } = this;
    let memory = 0;
    for (const { op } of order) {
      if (op.op === "F" || op.op === "FB") memory += activation;
      if (memory > limit * (1 + 1e-9)) return false;
      if (op.op === "B" || op.op === "FB") memory -= activation;
      if (op.op === "Bi") memory += weightStash - activation;
      if (op.op === "W") memory -= weightStash;
      if (memory > limit * (1 + 1e-9)) return false;
    }
    return true;
  }

  /** A changed copy of a rank's order, or undefined where the change drawn means nothing. */
  private change(rank: number, random: Random): Node[] | undefined {
    const order = this.orders[rank].slice();
    const at = random.below(order.length);
    const { op } = order[at];
    const kind = random.below(4);
    if (kind < 2) {
      const to = at + (random.below(2) === 0 ? -1 : 1) * (1 + random.below(kind === 0 ? 1 : 6));
      if (to < 0 || to >= order.length) return undefined;
      const [moved] = order.splice(at, 1);
      order.splice(to, 0, moved);
      return this.ordered(rank, order);
    }
    if (kind === 2) {
      if (op.op === "B") {
        order[at] = this.node(rank, { op: "Bi", phase: op.phase, chunk: op.chunk });
        const weight = this.node(rank, { op: "W", phase: op.phase, chunk: op.chunk });
        order.splice(at + 1 + random.below(order.length - at), 0, weight);
        return this.ordered(rank, order);
      }
      if (op.op !== "Bi") return undefined;
      const weight = order.findIndex((node) => node.op.op === "W" && sameChunk(node.op, op));
      order.splice(weight, 1);
      order[at] = this.node(rank, { op: "B", phase: op.phase, chunk: op.chunk });
      return this.ordered(rank, order);
    }
    return this.pairOrPart(rank, order, at, random);
  }

  private pairOrPart(rank: number, order: Node[], at: number, random: Random): Node[] | undefined {
    const { op } = order[at];
    if (op.op === "FB") {
      const forward = this.node(rank, { op: "F", ...op.forward });
      const backward = this.node(rank, { op: "B", ...op.backward });
      const parts = random.below(2) === 0 ? [forward, backward] : [backward, forward];
      order.splice(at, 1, ...parts);
      return order;
    }
    const other = order[at + 1]?.op;
    if (other === undefined || op.op === other.op || op.op === "Bi" || op.op === "W")
      return undefined;
    if (other.op === "Bi" || other.op === "W" || other.op === "FB") return undefined;
    const [forward, backward] = op.op === "F" ? [op, other] : [other, op];
    if (sameChunk(forward, backward)) return undefined;
    const ids = {
      forward: { phase: forward.phase, chunk: forward.chunk },
      backward: { phase: backward.phase, chunk: backward.chunk },
    };
    order.splice(at, 2, this.node(rank, { op: "FB", ...ids }));
    return order;
  }

  /** The order if chunks of a phase keep their turns; weight parts are renamed into theirs. */
  private ordered(rank: number, order: Node[]): Node[] | undefined {
    const turns = new Map<string, number>();
    const waiting: ChunkId[] = [];
    for (let i = 0; i < order.length; i++) {
      const { op } = order[i];
      if (op.op === "W") {
        const oldest = waiting.shift();
        if (oldest === undefined) return undefined;
        if (!sameChunk(oldest, op)) {
          order[i] = this.node(rank, { op: "W", phase: oldest.phase, chunk: oldest.chunk });
        }
        continue;
      }
      for (const part of partsOf(op)) {
        const key = `${part.op === "F"} ${part.phase}`;
        if (part.chunk !== (turns.get(key) ?? 0)) return undefined;
        turns.set(key, part.chunk + 1);
      }
      if (op.op === "Bi") waiting.push(op);
    }
    return order;
  }
}

function sameChunk(a: ChunkId, b: ChunkId): boolean {
  return a.phase === b.phase && a.chunk === b.chunk;
}
