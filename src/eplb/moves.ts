/**
 * @file From one placement to another, in rounds. In a round each GPU takes in at most as many experts
 * as it has staging buffers, from slots that hold them when the round begins; when all copies are
 * there, the buffers change places with slots and the round ends. So every expert is served at all
 * times. What a GPU takes in is given by the target; which of the experts it gives up makes room is
 * free, and is chosen so that chains of moves end soon: a chain goes from a GPU to the one that the
 * displaced expert goes to, and ends where an expert is displaced that lives elsewhere too, or where it
 * meets itself.
 */

/** One expert's weights from one slot to another. */
export interface Move {
  readonly layer: number;
  /** Moves of a round may be copied at once; a layer's rounds come one after the other. */
  readonly round: number;
  readonly expert: number;
  /** A slot that holds the expert when the round begins. */
  readonly fromSlot: number;
  /** The slot that holds it when the round ends; the expert there before is gone. */
  readonly toSlot: number;
}

/** What a plan of moves needs to know. */
export interface MoveOptions {
  readonly layer: number;
  readonly numGpus: number;
  readonly numNodes: number;
  /** Experts that a GPU may take in at once, at least 1. */
  readonly stagingPerGpu: number;
}

/** Experts that differ between two multisets of slots, GPU by GPU; order within a GPU counts nothing. */
export function countMoves(
  before: ArrayLike<number>,
  after: ArrayLike<number>,
  numGpus: number,
): number {
  const slotsPerGpu = before.length / numGpus;
  let moves = 0;
  for (let gpu = 0; gpu < numGpus; gpu++) {
    const left = Array.from({ length: slotsPerGpu }, (_, k) => before[gpu * slotsPerGpu + k]);
    for (let slot = gpu * slotsPerGpu; slot < (gpu + 1) * slotsPerGpu; slot++) {
      const kept = left.indexOf(after[slot]);
      if (kept < 0) moves++;
      else left.splice(kept, 1);
    }
  }
  return moves;
}

/** The moves that lead from `before` to a placement that has on each GPU what `after` has there. */
export function planMoves(
  before: ArrayLike<number>,
  after: ArrayLike<number>,
  options: MoveOptions,
): { readonly moves: Move[]; readonly phy2log: Int32Array } {
  const planner = new MovePlanner(before, after, options);
  while (planner.round()) {
    // Each round makes at least one move of a finite number.
  }
  return { moves: planner.moves, phy2log: planner.slots };
}

interface Pending {
  /** Experts to take in. */
  readonly incoming: number[];
  /** Slots whose expert has no place here. */
  readonly outgoing: number[];
}

/** A move that a chain intends. */
interface Intent {
  readonly gpu: number;
  readonly expert: number;
  readonly toSlot: number;
}

class MovePlanner {
  readonly moves: Move[] = [];
  readonly slots: Int32Array;
  private readonly options: MoveOptions;
  private readonly slotsPerGpu: number;
  private readonly pending: Pending[];
  /** Slots that hold each expert, this round's changes included. */
  private readonly alive: Int32Array;
  private rounds = 0;

  constructor(before: ArrayLike<number>, after: ArrayLike<number>, options: MoveOptions) {
    const { numGpus } = options;
    this.options = options;
    this.slots = Int32Array.from(before);
    this.slotsPerGpu = before.length / numGpus;
    this.alive = new Int32Array(1 + this.slots.reduce((max, e) => Math.max(max, e), 0));
    for (const expert of this.slots) this.alive[expert]++;
    this.pending = Array.from({ length: numGpus }, (_, gpu) => {
      const begin = gpu * this.slotsPerGpu;
      const incoming = Array.from({ length: this.slotsPerGpu }, (_, k) => after[begin + k]);
      const outgoing: number[] = [];
      for (let slot = begin; slot < begin + this.slotsPerGpu; slot++) {
        const kept = incoming.indexOf(this.slots[slot]);
        if (kept >= 0) incoming.splice(kept, 1);
        else outgoing.push(slot);
      }
      return { incoming, outgoing };
    });
  }

  /** Plans one round; false if nothing is left to do. */
  round(): boolean {
    const { numGpus, stagingPerGpu, layer } = this.options;
    const start = this.slots.slice();
    const room = new Int32Array(numGpus).fill(stagingPerGpu);
    const uses = new Int32Array(this.slots.length);
    const before = this.moves.length;
    for (let gpu = 0; gpu < numGpus; gpu++) {
      for (;;) {
        const chain = room[gpu] > 0 ? this.chainFrom(gpu, room) : undefined;
        if (chain === undefined) break;
        for (const { gpu: target, expert, toSlot } of chain) {
          const fromSlot = this.sourceOf(start, expert, target, uses);
          uses[fromSlot]++;
          room[target]--;
          this.take(target, expert, toSlot);
          this.moves.push({ layer, round: this.rounds, expert, fromSlot, toSlot });
        }
      }
    }
    this.rounds++;
    return this.moves.length > before;
  }

  /** Moves that belong together, each GPU at most once; undefined where room is lacking. */
  private chainFrom(first: number, room: Int32Array): Intent[] | undefined {
    const chain: Intent[] = [];
    let gpu = first;
    let expert = this.pending[gpu].incoming[0];
    if (expert === undefined) return undefined;
    for (;;) {
      const again = chain.findIndex((intent) => intent.gpu === gpu);
      if (again >= 0) {
        // The chain bites its tail: what it displaced last makes room for what came first.
        const loop = chain.slice(again);
        return [{ ...loop[0], expert }, ...loop.slice(1)];
      }
      if (room[gpu] === 0) return undefined;
      const toSlot = this.displaced(gpu);
      chain.push({ gpu, expert, toSlot });
      expert = this.slots[toSlot];
      if (this.alive[expert] > 1) return chain;
      gpu = this.pending.findIndex(({ incoming }) => incoming.includes(expert));
    }
  }

  /** The slot of `gpu` to give up: one whose expert lives elsewhere too, if there is one. */
  private displaced(gpu: number): number {
    const { outgoing } = this.pending[gpu];
    return outgoing.find((slot) => this.alive[this.slots[slot]] > 1) ?? outgoing[0];
  }

  private take(gpu: number, expert: number, slot: number): void {
    const { incoming, outgoing } = this.pending[gpu];
    incoming.splice(incoming.indexOf(expert), 1);
    outgoing.splice(outgoing.indexOf(slot), 1);
    this.alive[this.slots[slot]]--;
    this.alive[expert]++;
    this.slots[slot] = expert;
  }

  /** A slot that holds `expert`: on the target's node if possible, the least used one. */
  private sourceOf(start: Int32Array, expert: number, gpu: number, uses: Int32Array): number {
    const perNode = start.length / this.options.numNodes;
    const node = Math.floor((gpu * this.slotsPerGpu) / perNode);
    let best = -1;
    let cost = Number.POSITIVE_INFINITY;
    for (let slot = 0; slot < start.length; slot++) {
      if (start[slot] !== expert) continue;
      const price = uses[slot] + (Math.floor(slot / perNode) === node ? 0 : 0.5);
      if (price < cost) [best, cost] = [slot, price];
    }
    return best;
  }
}
