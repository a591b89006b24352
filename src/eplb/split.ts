/**
 * @file The best split of each expert's tokens among its replicas, for loads that differ from those
 * the placement was made for. Which least peak is possible is a question of flows: expert e sends w[e] to
 * the GPUs that hold it, each GPU takes at most T. T = mean is tried first; where the flow falls
 * short, the experts on the source's side of the least cut can go to too few GPUs, and their load over
 * those GPUs is the next T. That rises to the answer in a few rounds (Dinkelbach 1967), and the last
 * such set is the proof that no split does better. Flows: Dinic (1970).
 */
import { checkLoads, refuse } from "./errors.ts";
import type { Loads } from "./types.ts";

/** How to split. */
export interface SplitOptions {
  /** Whole tokens only; the loads must be whole numbers. */
  readonly whole?: boolean;
}

/** One layer's split. */
export interface LayerSplit {
  /** `[numReplicas]`: load of each slot. */
  readonly slots: number[];
  /** Load of the busiest GPU. */
  readonly peak: number;
  /**
   * Why no split has a lower peak: all load of these experts must go to these GPUs, and
   * load / gpus.length is the peak (with `whole`, rounded up).
   */
  readonly certificate: {
    readonly experts: number[];
    readonly gpus: number[];
    readonly load: number;
  };
}

/**
 * The split of the loads `weight` `[layers][experts]` among replicas that makes each layer's busiest GPU
 * as light as `phy2log` `[layers][slots]` allows, with a proof. Exact for whole-number loads; else to
 * rounding. Throws a `BaleenError` that names the field.
 */
export function splitTokens(
  weight: Loads,
  phy2log: readonly ArrayLike<number>[],
  numGpus: number,
  options: SplitOptions = {},
): LayerSplit[] {
  const numExperts = checkLoads(weight);
  if (phy2log.length !== weight.length) {
    const problem = `has ${phy2log.length} layers, weight has ${weight.length}`;
    throw refuse("phy2log", problem, "give both for the same layers");
  }
  return weight.map((loads, layer) => {
    const row = phy2log[layer];
    checkRow(row, layer, numExperts, numGpus);
    if (options.whole) {
      const odd = Array.from(loads).findIndex((load) => !Number.isSafeInteger(load));
      if (odd >= 0) {
        const field = `weight[${layer}][${odd}]`;
        throw refuse(field, `is ${loads[odd]}`, "give whole numbers, or leave whole out");
      }
    }
    return splitLayer(Float64Array.from(loads), row, numGpus, options.whole ?? false);
  });
}

function checkRow(row: ArrayLike<number>, layer: number, experts: number, numGpus: number): void {
  if (!Number.isInteger(numGpus) || numGpus < 1 || row.length % numGpus !== 0) {
    const problem = `is ${numGpus} for ${row.length} slots`;
    throw refuse("numGpus", problem, "give a divisor of the number of slots");
  }
  const seen = new Uint8Array(experts);
  for (let slot = 0; slot < row.length; slot++) {
    const expert = row[slot];
    if (!Number.isInteger(expert) || expert < 0 || expert >= experts) {
      const field = `phy2log[${layer}][${slot}]`;
      throw refuse(field, `is ${String(expert)}`, `give an expert from 0 to ${experts - 1}`);
    }
    seen[expert] = 1;
  }
  const missing = seen.indexOf(0);
  if (missing < 0) return;
  throw refuse(`phy2log[${layer}]`, `has no slot of expert ${missing}`, "give every expert one");
}

function splitLayer(
  weight: Float64Array,
  row: ArrayLike<number>,
  numGpus: number,
  whole: boolean,
): LayerSplit {
  const network = new Network(weight, row, numGpus);
  let experts = Array.from(weight, (_, expert) => expert);
  let gpus = Array.from({ length: numGpus }, (_, gpu) => gpu);
  for (;;) {
    const load = experts.reduce((sum, expert) => sum + weight[expert], 0);
    const exact = load / gpus.length;
    // Units of 1 / scale make the capacity whole where the loads are, so that flows are exact.
    const isWhole = Number.isSafeInteger(load * gpus.length);
    const scale = whole || !isWhole ? 1 : gpus.length;
    const capacity = whole ? Math.ceil(exact) : isWhole ? load : exact;
    const cut = network.fill(capacity, scale);
    if (cut !== undefined) {
      const tighter = loadOf(weight, cut.experts) / cut.gpus.length;
      if (tighter > exact * (1 + 1e-12)) {
        [experts, gpus] = [cut.experts, cut.gpus];
        continue;
      }
    }
    const slots = network.slotLoads(scale);
    const loads = new Float64Array(numGpus);
    slots.forEach((slot, i) => {
      loads[Math.floor((i * numGpus) / slots.length)] += slot;
    });
    return { slots, peak: Math.max(...loads), certificate: { experts, gpus, load } };
  }
}

function loadOf(weight: Float64Array, experts: readonly number[]): number {
  return experts.reduce((sum, expert) => sum + weight[expert], 0);
}

/** Source, experts, GPUs, sink; one edge a slot between experts and GPUs. */
class Network {
  private readonly weight: Float64Array;
  private readonly row: ArrayLike<number>;
  private readonly numGpus: number;
  /** Edges come in pairs, an edge and its reverse; `to` where they lead, `room` what they still take. */
  private readonly to: number[] = [];
  private readonly room: number[] = [];
  private readonly edges: number[][];
  private level: Int32Array = new Int32Array(0);
  private cursor: Int32Array = new Int32Array(0);
  private least = 0;

  constructor(weight: Float64Array, row: ArrayLike<number>, numGpus: number) {
    this.weight = weight;
    this.row = row;
    this.numGpus = numGpus;
    const nodes = weight.length + numGpus + 2;
    this.edges = Array.from({ length: nodes }, () => []);
    for (let slot = 0; slot < row.length; slot++) {
      const gpu = Math.floor((slot * numGpus) / row.length);
      this.connect(row[slot], weight.length + gpu);
    }
    for (let expert = 0; expert < weight.length; expert++) this.connect(this.source, expert);
    for (let gpu = 0; gpu < numGpus; gpu++) this.connect(weight.length + gpu, this.sink);
  }

  private get source(): number {
    return this.weight.length + this.numGpus;
  }

  private get sink(): number {
    return this.source + 1;
  }

  private connect(from: number, to: number): void {
    this.edges[from].push(this.to.length);
    this.edges[to].push(this.to.length + 1);
    this.to.push(to, from);
    this.room.push(0, 0);
  }

  /**
   * Sends all loads times `scale` to GPUs that take `capacity` each. Undefined if all arrive; else the
   * experts on the source's side of the least cut, and all GPUs that hold them.
   */
  fill(capacity: number, scale: number): { experts: number[]; gpus: number[] } | undefined {
    const { row, weight, numGpus, room, to } = this;
    room.fill(0);
    let total = 0;
    for (let slot = 0; slot < row.length; slot++) room[2 * slot] = weight[row[slot]] * scale;
    for (let expert = 0; expert < weight.length; expert++) {
      room[2 * (row.length + expert)] = weight[expert] * scale;
      total += weight[expert] * scale;
    }
    const begin = row.length + weight.length;
    for (let gpu = 0; gpu < numGpus; gpu++) room[2 * (begin + gpu)] = capacity;
    // Whole numbers flow without rounding; for others what is below rounding counts as nothing.
    this.least = Number.isInteger(capacity) && Number.isInteger(total) ? 0 : total * 1e-14;
    while (this.findLevels()) {
      this.cursor = new Int32Array(this.edges.length);
      while (this.push(this.source, Number.POSITIVE_INFINITY) > 0) {
        // Each push fills one path; the levels hold until no path is left.
      }
    }
    const experts: number[] = [];
    for (let e = 0; e < weight.length; e++) if (this.level[e] >= 0) experts.push(e);
    if (experts.length === 0) return undefined;
    const gpus = new Set<number>();
    for (const expert of experts) {
      for (const edge of this.edges[expert]) {
        const node = to[edge];
        if (edge % 2 === 0 && node < this.source) gpus.add(node - weight.length);
      }
    }
    return { experts, gpus: [...gpus].sort((a, b) => a - b) };
  }

  private findLevels(): boolean {
    this.level = new Int32Array(this.edges.length).fill(-1);
    this.level[this.source] = 0;
    const queue = [this.source];
    for (const node of queue) {
      for (const edge of this.edges[node]) {
        const next = this.to[edge];
        if (this.room[edge] <= this.least || this.level[next] >= 0) continue;
        this.level[next] = this.level[node] + 1;
        queue.push(next);
      }
    }
    return this.level[this.sink] >= 0;
  }

  private push(node: number, most: number): number {
    if (node === this.sink) return most;
    for (; this.cursor[node] < this.edges[node].length; this.cursor[node]++) {
      const edge = this.edges[node][this.cursor[node]];
      const next = this.to[edge];
      if (this.room[edge] <= this.least || this.level[next] !== this.level[node] + 1) continue;
      const sent = this.push(next, Math.min(most, this.room[edge]));
      if (sent === 0) continue;
      this.room[edge] -= sent;
      this.room[edge ^ 1] += sent;
      return sent;
    }
    return 0;
  }

  /** Load of each slot; what rounding kept back goes to the expert's first slot. */
  slotLoads(scale: number): number[] {
    const slots = Array.from(this.row, (_, slot) => this.room[2 * slot + 1] / scale);
    if (scale === 1 && this.least === 0) return slots;
    const sums = new Float64Array(this.weight.length);
    slots.forEach((load, slot) => {
      sums[this.row[slot]] += load;
    });
    const seen = new Uint8Array(this.weight.length);
    return slots.map((load, slot) => {
      const expert = this.row[slot];
      const first = seen[expert] === 0;
      seen[expert] = 1;
      return first ? Math.max(0, load + this.weight[expert] - sums[expert]) : load;
    });
  }
}
