/**
 * @file Rebalancing a running deployment: what a better placement saves is weighed against the experts
 * that must move for it. Per layer three kinds of placements compete: the old one; the balanced one,
 * its GPUs renamed so that as much as possible stays where it is; and those on the way from the old
 * one by local search, which moves one or two experts a step.
 */
import { balanceExperts } from "./balance.ts";
import { checkNumber, refuse, type Shape, shapeOf } from "./errors.ts";
import { type Homes, Layout } from "./layout.ts";
import { countMoves, type Move, planMoves } from "./moves.ts";
import { layerLoads, maxOverMean, placementOf } from "./placement.ts";
import { step } from "./search.ts";
import type { Affinity, BalanceOptions, Loads, Placement } from "./types.ts";

/** How to weigh and to order moves. */
export interface MigrateOptions extends BalanceOptions {
  /** What a moved expert must save, in max over mean of its layer; default 0. */
  readonly moveCost?: number;
  /** Experts that a GPU can take in at once beside those it serves; default 1. */
  readonly stagingPerGpu?: number;
}

/** A new placement and the way there. */
export interface Migration extends Placement {
  /** In order: by layer, then by round. */
  readonly moves: Move[];
  /** By layer: max over mean before and after, and the experts moved. */
  readonly layers: {
    readonly before: number;
    readonly after: number;
    readonly moved: number;
    readonly rounds: number;
  }[];
}

/**
 * The placement for loads `weight` that has, layer by layer, the lowest max over mean plus `moveCost`
 * times the experts moved from `phy2log`, of those considered; and the moves that lead to it, no more
 * than `stagingPerGpu` at once into a GPU, with every expert served at all times. Other arguments as
 * for `rebalanceExperts`. Throws a `BaleenError` that names the field.
 */
export function migrateExperts(
  weight: Loads,
  phy2log: readonly ArrayLike<number>[],
  numGroups: number,
  numNodes: number,
  numGpus: number,
  options: MigrateOptions = {},
): Migration {
  const { moveCost = 0, stagingPerGpu = 1, ...balance } = options;
  const shape = shapeOf(weight, phy2log[0]?.length ?? 0, numGroups, numNodes, numGpus);
  checkOld(phy2log, shape);
  checkNumber("moveCost", moveCost, 0);
  if (!Number.isInteger(stagingPerGpu) || stagingPerGpu < 1) {
    throw refuse("stagingPerGpu", `is ${String(stagingPerGpu)}`, "give at least 1");
  }
  const target = balanceExperts(weight, shape.numReplicas, numGroups, numNodes, numGpus, balance);
  const affinity = balance.affinity ?? (shape.hierarchical ? "strict" : "global");
  const plans = weight.map((row, layer) => {
    const loads = Float64Array.from(row);
    const old = phy2log[layer];
    const fresh = alignGpus(old, target.phy2log[layer], shape, affinity);
    const chosen = choose(loads, old, fresh, shape, affinity, moveCost);
    const planned = planMoves(old, chosen, { layer, numGpus, numNodes, stagingPerGpu });
    return {
      ...planned,
      before: maxOverMean(layerLoads(loads, old, numGpus)),
      after: maxOverMean(layerLoads(loads, planned.phy2log, numGpus)),
    };
  });
  return {
    ...placementOf(
      plans.map((plan) => plan.phy2log),
      shape.numExperts,
    ),
    moves: plans.flatMap((plan) => plan.moves),
    layers: plans.map(({ before, after, moves }) => ({
      before,
      after,
      moved: moves.length,
      rounds: moves.length === 0 ? 0 : moves[moves.length - 1].round + 1,
    })),
  };
}

function checkOld(phy2log: readonly ArrayLike<number>[], shape: Shape): void {
  if (phy2log.length !== shape.numLayers) {
    const problem = `has ${phy2log.length} layers, weight has ${shape.numLayers}`;
    throw refuse("phy2log", problem, "give both for the same layers");
  }
  phy2log.forEach((row, layer) => {
    const wanted = shape.numReplicas;
    if (row.length !== wanted) {
      const problem = `has ${row.length} slots, phy2log[0] has ${wanted}`;
      throw refuse(`phy2log[${layer}]`, problem, "give every layer the same slots");
    }
    const seen = new Set(Array.from(row));
    for (let expert = 0; expert < shape.numExperts; expert++) {
      if (seen.delete(expert)) continue;
      throw refuse(`phy2log[${layer}]`, `has no slot of expert ${expert}`, "give every expert one");
    }
    for (const stray of seen) {
      const advice = `give experts from 0 to ${shape.numExperts - 1}`;
      throw refuse(`phy2log[${layer}]`, `names expert ${String(stray)}`, advice);
    }
  });
}

/** The candidate with the lowest max over mean plus cost of moves; the one with fewer moves on a tie. */
function choose(
  weight: Float64Array,
  old: ArrayLike<number>,
  fresh: Int32Array,
  shape: Shape,
  affinity: Affinity,
  moveCost: number,
): ArrayLike<number> {
  const { numGpus } = shape;
  const price = (expert: ArrayLike<number>): number =>
    maxOverMean(layerLoads(weight, expert, numGpus)) + moveCost * countMoves(old, expert, numGpus);
  let best: ArrayLike<number> = old;
  let lowest = price(old);
  const consider = (expert: ArrayLike<number>): void => {
    const now = price(expert);
    if (now >= lowest - 1e-12) return;
    [best, lowest] = [Int32Array.from(expert), now];
  };
  const homes = affinity === "global" ? undefined : homesOfOld(old, shape);
  if (homes !== "none") {
    const field = { weight, numGpus, slotsPerGpu: shape.slotsPerGpu };
    const layout = new Layout(homes ? { ...field, homes } : field);
    layout.assign(old);
    const budget = { left: 50 * shape.numReplicas * shape.numReplicas };
    while (step(layout, budget) && budget.left > 0) consider(layout.expert);
  }
  consider(fresh);
  return best;
}

/** The homes that the old placement gives its groups, or "none" where a group lies on several nodes. */
function homesOfOld(old: ArrayLike<number>, shape: Shape): Homes | "none" | undefined {
  if (shape.numNodes === 1) return undefined;
  const { numExperts, numGroups, numNodes, numGpus } = shape;
  const nodeOf = Int32Array.from({ length: numGpus }, (_, gpu) =>
    Math.floor((gpu * numNodes) / numGpus),
  );
  const home = new Int32Array(numGroups).fill(-1);
  for (let slot = 0; slot < old.length; slot++) {
    const group = Math.floor((old[slot] * numGroups) / numExperts);
    const node = Math.floor((slot * numNodes) / old.length);
    if (home[group] >= 0 && home[group] !== node) return "none";
    home[group] = node;
  }
  const homeOf = Int32Array.from(
    { length: numExperts },
    (_, expert) => home[Math.floor((expert * numGroups) / numExperts)],
  );
  return { nodeOf, homeOf, spill: 0 };
}

/**
 * The same placement with GPUs (and under affinity whole nodes) renamed, so that many experts lie where
 * they did: pairs of old and new are matched greedily, those with the most experts in common first.
 */
function alignGpus(
  old: ArrayLike<number>,
  fresh: ArrayLike<number>,
  shape: Shape,
  affinity: Affinity,
): Int32Array {
  const { numGpus, numNodes } = shape;
  const nodes = affinity === "global" ? 1 : numNodes;
  const aligned = new Int32Array(old.length);
  const nodeSlots = old.length / nodes;
  const gpuSlots = old.length / numGpus;
  matchBlocks(old, fresh, nodeSlots, 0, 0, nodes).forEach((oldNode, freshNode) => {
    const [toOld, toFresh] = [oldNode * nodeSlots, freshNode * nodeSlots];
    const gpus = numGpus / nodes;
    matchBlocks(old, fresh, gpuSlots, toOld, toFresh, gpus).forEach((oldGpu, freshGpu) => {
      for (let k = 0; k < gpuSlots; k++) {
        aligned[toOld + oldGpu * gpuSlots + k] = fresh[toFresh + freshGpu * gpuSlots + k];
      }
    });
  });
  return aligned;
}

/** For each of `count` new blocks of `size` slots the old one it takes the place of. */
function matchBlocks(
  old: ArrayLike<number>,
  fresh: ArrayLike<number>,
  size: number,
  oldBegin: number,
  freshBegin: number,
  count: number,
): Int32Array {
  const pairs: { oldBlock: number; freshBlock: number; common: number }[] = [];
  for (let freshBlock = 0; freshBlock < count; freshBlock++) {
    const has = new Map<number, number>();
    for (let k = 0; k < size; k++) {
      const expert = fresh[freshBegin + freshBlock * size + k];
      has.set(expert, (has.get(expert) ?? 0) + 1);
    }
    for (let oldBlock = 0; oldBlock < count; oldBlock++) {
      const left = new Map(has);
      let common = 0;
      for (let k = 0; k < size; k++) {
        const expert = old[oldBegin + oldBlock * size + k];
        const copies = left.get(expert) ?? 0;
        if (copies > 0) common++;
        left.set(expert, copies - 1);
      }
      pairs.push({ oldBlock, freshBlock, common });
    }
  }
  pairs.sort((a, b) => b.common - a.common || a.freshBlock - b.freshBlock);
  const match = new Int32Array(count).fill(-1);
  const taken = new Set<number>();
  for (const { oldBlock, freshBlock } of pairs) {
    if (match[freshBlock] >= 0 || taken.has(oldBlock)) continue;
    match[freshBlock] = oldBlock;
    taken.add(oldBlock);
  }
  return match;
}
