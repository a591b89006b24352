/**
 * @file One layer's placement while it is being changed: the expert in each slot, the load of each
 * GPU, the replicas of each expert, kept in step by every change. Replicas share their expert's load
 * equally, so one more or one fewer moves load on all GPUs that hold the expert.
 */

/** What a layout is over; GPUs and experts are numbered from 0, slots GPU by GPU. */
export interface Field {
  /** Load of each expert. */
  readonly weight: Float64Array;
  readonly numGpus: number;
  readonly slotsPerGpu: number;
  /** Homes, where experts have them. */
  readonly homes?: Homes;
}

/** Where experts belong, and how many replicas may lie elsewhere. */
export interface Homes {
  /** Node of each GPU. */
  readonly nodeOf: Int32Array;
  /** Home node of each expert. */
  readonly homeOf: Int32Array;
  /** Replicas that may lie away from home. */
  readonly spill: number;
}

/** A placement under change. Between `deal` and `fill` slots may be empty (-1), else never. */
export class Layout {
  readonly field: Field;
  readonly numSlots: number;
  /** The expert in each slot, or -1. */
  readonly expert: Int32Array;
  /** The GPU of each slot. */
  readonly gpuOf: Int32Array;
  /** Load of each GPU. */
  readonly load: Float64Array;
  /** Replicas of each expert. */
  readonly count: Int32Array;
  /** Load of one replica of each expert. */
  readonly share: Float64Array;
  /** Whether replicas of one expert may share a GPU; it wastes a slot, so only as a last resort. */
  allowTwins = false;
  /** `[experts][numGpus]`: replicas of an expert on a GPU. */
  private readonly present: Uint16Array;
  /** `[experts][most]`: the slots of an expert, in no order; `rank` says where a slot stands. */
  private readonly holders: Int32Array;
  private readonly rank: Int32Array;
  private readonly most: number;
  private away = 0;

  constructor(field: Field) {
    const { weight, numGpus, slotsPerGpu } = field;
    this.field = field;
    this.numSlots = numGpus * slotsPerGpu;
    this.most = this.numSlots - weight.length + 1;
    this.expert = new Int32Array(this.numSlots).fill(-1);
    this.gpuOf = this.expert.map((_, slot) => Math.floor(slot / slotsPerGpu));
    this.load = new Float64Array(numGpus);
    this.count = new Int32Array(weight.length);
    this.share = weight.slice();
    this.present = new Uint16Array(weight.length * numGpus);
    this.holders = new Int32Array(weight.length * this.most);
    this.rank = new Int32Array(this.numSlots);
  }

  /** Empties all slots. */
  clear(): void {
    this.expert.fill(-1);
    this.load.fill(0);
    this.count.fill(0);
    this.present.fill(0);
    this.away = 0;
  }

  /** Takes the placement `expert` over; sums loads afresh, so that no rounding piles up. */
  assign(expert: ArrayLike<number>): void {
    this.clear();
    for (let slot = 0; slot < this.numSlots; slot++) this.link(slot, expert[slot]);
    const { weight } = this.field;
    for (let e = 0; e < weight.length; e++) this.share[e] = weight[e] / this.count[e];
    for (let slot = 0; slot < this.numSlots; slot++) {
      this.load[this.gpuOf[slot]] += this.share[this.expert[slot]];
    }
  }

  /** The GPU with the most load, the first of several. */
  hottest(): number {
    const { load } = this;
    let hottest = 0;
    for (let gpu = 1; gpu < load.length; gpu++) if (load[gpu] > load[hottest]) hottest = gpu;
    return hottest;
  }

  /** The load of the hottest GPU. */
  peak(): number {
    return this.load[this.hottest()];
  }

  /** Replicas of `expert` on `gpu`. */
  replicasOn(expert: number, gpu: number): number {
    return this.present[expert * this.field.numGpus + gpu];
  }

  /** Whether a replica of `expert` may come to `gpu` without meeting a twin. */
  mayHold(expert: number, gpu: number): boolean {
    return this.allowTwins || this.present[expert * this.field.numGpus + gpu] === 0;
  }

  /** Whether `expert` may have one replica more. */
  mayGrow(expert: number): boolean {
    return this.count[expert] < this.most;
  }

  /** The most load among GPUs that hold `expert`, leaving out the slot `slot` and the GPU `gpu`. */
  peakOfHolders(expert: number, slot: number, gpu: number): number {
    const { load, gpuOf, holders } = this;
    const begin = expert * this.most;
    let peak = 0;
    for (let i = begin; i < begin + this.count[expert]; i++) {
      const other = gpuOf[holders[i]];
      if (holders[i] !== slot && other !== gpu && load[other] > peak) peak = load[other];
    }
    return peak;
  }

  /** Whether homes allow the slots of `a` on GPU `x` and `b` on GPU `y` to change places. */
  exchangeFits(a: number, x: number, b: number, y: number): boolean {
    const { homes } = this.field;
    if (homes === undefined) return true;
    const more = this.isAway(a, y) + this.isAway(b, x) - this.isAway(a, x) - this.isAway(b, y);
    return more <= 0 || this.away + more <= homes.spill;
  }

  /** Whether homes allow `expert` to take a slot on `gpu` from `old`. */
  changeFits(expert: number, gpu: number, old: number): boolean {
    const { homes } = this.field;
    if (homes === undefined) return true;
    const more = this.isAway(expert, gpu) - this.isAway(old, gpu);
    return more <= 0 || this.away + more <= homes.spill;
  }

  /** Two slots change experts. */
  exchange(s: number, t: number): void {
    const [a, b] = [this.expert[s], this.expert[t]];
    const more = this.share[b] - this.share[a];
    this.load[this.gpuOf[s]] += more;
    this.load[this.gpuOf[t]] -= more;
    this.unlink(s);
    this.unlink(t);
    this.link(s, b);
    this.link(t, a);
  }

  /** The slot goes to `expert`: its old expert has a replica fewer, `expert` one more. */
  change(slot: number, expert: number): void {
    this.remove(slot);
    this.add(slot, expert);
  }

  /** An empty slot gets a replica of `expert`, which has one already. */
  add(slot: number, expert: number): void {
    const share = this.field.weight[expert] / (this.count[expert] + 1);
    this.spread(expert, share - this.share[expert]);
    this.link(slot, expert);
    this.share[expert] = share;
    this.load[this.gpuOf[slot]] += share;
  }

  private remove(slot: number): void {
    const expert = this.expert[slot];
    this.load[this.gpuOf[slot]] -= this.share[expert];
    this.unlink(slot);
    const share = this.field.weight[expert] / this.count[expert];
    this.spread(expert, share - this.share[expert]);
    this.share[expert] = share;
  }

  /** Adds `more` to the load of each replica's GPU. */
  private spread(expert: number, more: number): void {
    const begin = expert * this.most;
    for (let i = begin; i < begin + this.count[expert]; i++) {
      this.load[this.gpuOf[this.holders[i]]] += more;
    }
  }

  /** Puts `expert` into an empty slot; loads are the caller's business. */
  link(slot: number, expert: number): void {
    const gpu = this.gpuOf[slot];
    this.expert[slot] = expert;
    this.rank[slot] = this.count[expert]++;
    this.holders[expert * this.most + this.rank[slot]] = slot;
    this.present[expert * this.field.numGpus + gpu]++;
    this.away += this.isAway(expert, gpu);
  }

  private unlink(slot: number): void {
    const expert = this.expert[slot];
    const gpu = this.gpuOf[slot];
    const begin = expert * this.most;
    const last = this.holders[begin + --this.count[expert]];
    this.holders[begin + this.rank[slot]] = last;
    this.rank[last] = this.rank[slot];
    this.present[expert * this.field.numGpus + gpu]--;
    this.away -= this.isAway(expert, gpu);
    this.expert[slot] = -1;
  }

  private isAway(expert: number, gpu: number): number {
    const { homes } = this.field;
    return homes !== undefined && homes.homeOf[expert] !== homes.nodeOf[gpu] ? 1 : 0;
  }
}
