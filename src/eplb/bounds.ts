/**
 * @file Lower bounds: what the busiest GPU carries in every placement, and why.
 *
 * - mean: some GPU has at least the mean.
 * - node: under strict affinity a node carries whole groups, so its GPUs have their mean at least.
 * - replicas: the heaviest replica is somewhere, and more of them than slots allow there cannot be.
 * - slots: with two slots a GPU, replicas come in pairs. Take a function f that never falls and has
 *   f(x) + f(y) <= 0 whenever x + y <= T. If all pairs weigh at most T, then f summed over all replicas
 *   is at most 0; so if for some f and some price a replica, the sum over experts of the least
 *   count * (f(load / count) + price) is above price * slots, no counts and pairs reach T. Here f is a
 *   staircase, odd about T / 2, whose steps are adapted by multiplicative weights; any f gives a bound
 *   that holds, a better one a higher bound.
 */
import type { Shape } from "./errors.ts";
import type { Limit } from "./types.ts";

/** A lower bound of the busiest GPU's load, and what it comes from. */
export interface Bound {
  readonly load: number;
  readonly limit: Limit;
  /** The expert whose replicas bind, for `replicas`. */
  readonly expert?: number;
}

/** The bound for one layer; `homes` says whether groups must stay together on nodes. */
export function lowerBound(weight: Float64Array, shape: Shape, homes: boolean): Bound {
  const mean = sumOf(weight) / shape.numGpus;
  const bounds: Bound[] = [{ load: mean, limit: "mean" }];
  const numGroups = homes ? shape.numGroups : 1;
  const numNodes = homes ? shape.numNodes : 1;
  if (numNodes > 1) {
    const load = (heaviestNode(weight, numGroups, numNodes) * numNodes) / shape.numGpus;
    bounds.push({ load, limit: "node" });
  }
  const spares = (shape.numReplicas - shape.numExperts) / numNodes;
  const groupSize = shape.numExperts / numGroups;
  for (let group = 0; group < numGroups; group++) {
    const own = weight.subarray(group * groupSize, (group + 1) * groupSize);
    const { load, expert } = heaviestReplica(own, spares);
    bounds.push({ load, limit: "replicas", expert: group * groupSize + expert });
  }
  // A later bound must be clearly higher: of two that are as good as equal the simpler reason is told.
  return bounds.reduce((best, bound) => (bound.load > best.load * 1.0005 ? bound : best));
}

function sumOf(values: ArrayLike<number>): number {
  let sum = 0;
  for (let i = 0; i < values.length; i++) sum += values[i];
  return sum;
}

/** The lightest that the heaviest replica can be when `spares` replicas are added. */
function heaviestReplica(
  weight: Float64Array,
  spares: number,
): { readonly load: number; readonly expert: number } {
  const share = weight.slice();
  const count = new Int32Array(weight.length).fill(1);
  for (let left = spares; ; left--) {
    let expert = 0;
    for (let e = 1; e < share.length; e++) if (share[e] > share[expert]) expert = e;
    if (left === 0) return { load: share[expert], expert };
    share[expert] = weight[expert] / ++count[expert];
  }
}

/** The least that the heaviest node carries: exact for one or two groups a node, else a bound. */
function heaviestNode(weight: Float64Array, numGroups: number, numNodes: number): number {
  const size = weight.length / numGroups;
  const sums = Array.from({ length: numGroups }, (_, group) =>
    sumOf(weight.subarray(group * size, (group + 1) * size)),
  ).sort((a, b) => b - a);
  const perNode = numGroups / numNodes;
  if (perNode === 2) {
    // The heaviest with the lightest, and so on inwards, is the best pairing.
    return Math.max(...sums.map((sum, i) => sum + sums[numGroups - 1 - i]));
  }
  return sums[0] + sumOf(sums.slice(numGroups - perNode + 1));
}

/** Steps of the staircase. */
const steps = 40;

/**
 * The bound for two slots a GPU. The staircase is kept from one call to the next: the layers of a
 * model are alike, so what fits one nearly fits the next.
 */
export class PairBound {
  /**
   * Height of each step. The staircase sums, over steps k at a = (k + 1/2) / steps * T / 2, height k
   * times 1 for loads above T - a and -1 for loads below a.
   */
  private readonly height = new Float64Array(steps).fill(1 / steps);
  private readonly above = new Float64Array(steps + 1);
  private readonly gain = new Float64Array(steps + 1);
  private price = 0;
  /** By how much the last load was above what it began from. */
  private gained: number | undefined;
  /** Replicas beyond the slots. */
  private surplus = 0;

  /**
   * A load of at least `from`, itself a bound, that every placement of `weight` in `slots` slots, two a
   * GPU, has on some GPU. The first call takes ten times the `rounds` to find a good staircase.
   */
  load(weight: Float64Array, slots: number, from: number, rounds: number): number {
    let proved = from;
    let left = this.gained === undefined ? 10 * rounds : rounds;
    // What held for the last layer is tried first, a little less of it.
    let step = Math.max(0.02, 0.98 * (this.gained ?? 0));
    while (left > 0 && step > 2e-3) {
      const used = this.prove(weight, slots, proved * (1 + step), Math.min(left, 40));
      left -= Math.abs(used);
      if (used > 0) proved *= 1 + step;
      step = used > 0 ? Math.min(step, 0.02) : step / 2;
    }
    this.gained = proved / from - 1;
    return proved;
  }

  /** Rounds that it took to prove that no placement reaches `target`, or minus those spent in vain. */
  private prove(weight: Float64Array, slots: number, target: number, rounds: number): number {
    for (let round = 1; round <= rounds; round++) {
      if (this.excess(weight, slots, target) > 1e-9) return round;
      this.adapt(0.03 / Math.sqrt(round));
    }
    return -rounds;
  }

  /** Above 0 if `target` can't be reached. Leaves in `gain` and `surplus` which way to adapt. */
  private excess(weight: Float64Array, slots: number, target: number): number {
    const { above, gain, height, price } = this;
    for (let k = steps - 1; k >= 0; k--) above[k] = above[k + 1] + height[k];
    gain.fill(0);
    this.surplus = -slots;
    let sum = -price * slots;
    for (let e = 0; e < weight.length; e++) {
      const fewest = Math.max(1, Math.ceil(weight[e] / target));
      const most = slots - weight.length + 1;
      if (fewest > most) return 1;
      const last = Math.min(most, Math.ceil((16 * weight[e]) / target) + 1);
      // Beyond `last` each replica counts -1 at the least, so that one end or the other is the lowest.
      let count = price > 1 ? last : most;
      let least = count * (price - 1);
      let index = 0;
      let sign = -1;
      for (let c = fewest; c <= last; c++) {
        const share = weight[e] / c;
        const upper = 2 * share > target;
        const room = (2 * steps * (upper ? target - share : share)) / target;
        const step = Math.min(steps, Math.floor(room + 0.5));
        const value = c * (price + (upper ? above[step] : -above[step]));
        if (value < least) [least, count, index, sign] = [value, c, step, upper ? 1 : -1];
      }
      sum += least;
      this.surplus += count;
      gain[index] += sign * count;
    }
    return sum;
  }

  private adapt(rate: number): void {
    const { height, gain } = this;
    let sum = 0;
    let reached = 0;
    for (let k = 0; k < steps; k++) {
      reached += gain[k];
      height[k] *= Math.exp(rate * 0.5 * reached);
      sum += height[k];
    }
    for (let k = 0; k < steps; k++) height[k] /= sum;
    this.price += rate * 0.05 * this.surplus;
  }
}
