/**
 * @file How unevenly tokens fall on GPUs, from `eplb` itself: experts' popularity follows a Zipf law,
 * the placement is made for that popularity, and a batch is a random sample of it, so that small
 * batches are uneven even where popularity is not. All GPUs of a layer wait for the busiest one:
 * its load over the mean multiplies the experts' time.
 */
import { Random } from "../base/index.ts";
import {
  balanceExperts,
  gpuLoads,
  maxOverMean,
  rebalanceExperts,
  zipfLoads,
} from "../eplb/index.ts";

/** Where the experts lie and what they are asked for. */
export interface ImbalanceCase {
  /** Zipf exponent of the popularity; 0: all alike. */
  readonly skew: number;
  readonly experts: number;
  readonly groups: number;
  readonly slots: number;
  readonly gpus: number;
  readonly nodes: number;
  /** Token-expert pairs of one layer and micro-batch, all GPUs together. */
  readonly routed: number;
  readonly placement: "exact" | "balanced";
}

/** Load of the busiest over the mean, averaged over layers. */
export interface Imbalance {
  readonly gpu: number;
  readonly node: number;
}

const layers = 6;
const seed = 2025;
const cache = new Map<string, Imbalance>();
const placements = new Map<string, { known: number[][]; phy2log: number[][] }>();
/** So many tokens that the popularity is known without noise. */
const longRun = 2 ** 44;

/** The imbalance of `problem`; the same for the same numbers, and remembered. */
export function imbalanceOf(problem: ImbalanceCase): Imbalance {
  // A sample's noise hardly depends on its size: a fifth more or less is the same case.
  const routed = 2 ** (Math.round(Math.log2(problem.routed) * 4) / 4);
  const { skew, experts, groups, slots, gpus, nodes, placement } = problem;
  const key = [skew, experts, groups, slots, gpus, nodes, placement].join();
  const wholeKey = `${key},${routed}`;
  let result = cache.get(wholeKey);
  if (result) return result;
  let placed = placements.get(key);
  if (!placed) {
    const known = zipfLoads({ seed, layers, experts, exponent: skew, total: longRun });
    const place = placement === "exact" ? rebalanceExperts : balanceExperts;
    placed = { known, phy2log: place(known, slots, groups, nodes, gpus).phy2log };
    placements.set(key, placed);
  }
  const batch = sampleOf(placed.known, routed);
  result = {
    gpu: meanOf(gpuLoads(batch, placed.phy2log, gpus).map(maxOverMean)),
    node: meanOf(gpuLoads(batch, placed.phy2log, nodes).map(maxOverMean)),
  };
  cache.set(wholeKey, result);
  return result;
}

/** Loads of a batch of `total` choices: Poisson, by its normal approximation. */
export function sampleOf(known: readonly number[][], total: number): number[][] {
  const random = new Random(seed);
  return known.map((row) => {
    const sum = row.reduce((x, y) => x + y, 0);
    return row.map((load) => {
      const mean = (load / sum) * total;
      return Math.max(0, mean + Math.sqrt(mean) * random.normal());
    });
  });
}

function meanOf(values: readonly number[]): number {
  return values.reduce((sum, value) => sum + value, 0) / values.length;
}
