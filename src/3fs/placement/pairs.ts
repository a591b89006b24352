/**
 * @file Chains over nodes 0 to v-1 with the count of chains that each pair of nodes shares, and the
 * search that evens the counts out: simulated annealing over exchanges of two replicas, on the sum of
 * the counts' squares. An exchange leaves how many chains each node is in.
 */
import type { Random } from "../../base/index.ts";
import type { PairSpread } from "./types.ts";

/** Chains and their pair counts. */
export class PairTable {
  readonly numNodes: number;
  readonly chains: number[][] = [];
  private readonly counts: Int32Array;

  constructor(numNodes: number, chains: readonly (readonly number[])[] = []) {
    this.numNodes = numNodes;
    this.counts = new Int32Array(numNodes * numNodes);
    for (const chain of chains) this.add(chain);
  }

  /** Appends a chain. */
  add(chain: readonly number[]): void {
    this.chains.push([...chain]);
    for (let i = 0; i < chain.length; i++) {
      for (let j = 0; j < i; j++) this.change(chain[i], chain[j], 1);
    }
  }

  /** The chains that `node` shares with the members of `chain`, but for `except` and itself, summed. */
  cost(node: number, chain: readonly number[], except = -1): number {
    let sum = 0;
    const row = node * this.numNodes;
    for (const other of chain) {
      if (other !== except && other !== node) sum += this.counts[row + other];
    }
    return sum;
  }

  /** Half the growth of the sum of squares if `to` took the place of `from` in `chain`. */
  replaceDelta(chain: readonly number[], from: number, to: number): number {
    return this.cost(to, chain, from) - this.cost(from, chain, from) + chain.length - 1;
  }

  /** Puts `to` in the place of `from`. */
  replace(chain: number[], from: number, to: number): void {
    for (const other of chain) {
      if (other === from) continue;
      this.change(from, other, -1);
      this.change(to, other, 1);
    }
    chain[chain.indexOf(from)] = to;
  }

  /** Half the growth of the sum of squares if `x` of chain `a` and `y` of chain `b` changed places. */
  exchangeDelta(a: readonly number[], x: number, b: readonly number[], y: number): number {
    // Members of both chains keep their counts with x and y; each sum saw them leave or come once.
    let common = 0;
    for (const other of a) if (other !== x && b.includes(other)) common++;
    return this.replaceDelta(a, x, y) + this.replaceDelta(b, y, x) - 2 * common;
  }

  /** The counts over all pairs. */
  spread(): PairSpread {
    let [fewest, most, sum] = [Infinity, 0, 0];
    for (let x = 1; x < this.numNodes; x++) {
      for (let y = 0; y < x; y++) {
        const count = this.counts[x * this.numNodes + y];
        fewest = Math.min(fewest, count);
        most = Math.max(most, count);
        sum += count;
      }
    }
    const numPairs = (this.numNodes * (this.numNodes - 1)) / 2;
    return numPairs ? { fewest, most, mean: sum / numPairs } : { fewest: 0, most: 0, mean: 0 };
  }

  private change(x: number, y: number, by: number): void {
    this.counts[x * this.numNodes + y] += by;
    this.counts[y * this.numNodes + x] += by;
  }
}

/** Whether no pair shares more than one chain more than another. */
export function isEven({ fewest, most, mean }: PairSpread): boolean {
  return most - fewest <= (Number.isInteger(mean) ? 0 : 1);
}

/** Evens out the pair counts of `table` in place by at most `steps` tries; stops when they are even. */
export function anneal(table: PairTable, random: Random, steps: number): void {
  const { chains } = table;
  if (chains.length < 2 || table.numNodes <= chains[0].length) return;
  for (let step = 0; step < steps; step++) {
    // Cooling down twice lets the second round start from the first one's result.
    const phase = (step % Math.ceil(steps / 2)) / Math.ceil(steps / 2);
    const temperature = 0.9 * (1 - phase) ** 2 + 0.02;
    const a = chains[random.below(chains.length)];
    const b = chains[random.below(chains.length)];
    const x = a[random.below(a.length)];
    const y = b[random.below(b.length)];
    if (a === b || a.includes(y) || b.includes(x)) continue;
    const delta = table.exchangeDelta(a, x, b, y);
    if (delta <= 0 || random.uniform() < Math.exp(-delta / temperature)) {
      table.replace(a, x, y);
      table.replace(b, y, x);
    }
    if (step % 4096 === 0 && isEven(table.spread())) return;
  }
}
