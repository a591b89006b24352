/** @file From nothing to a searched placement: several starts, then shakes of the best. */
import { Random } from "../base/index.ts";
import { deal, minimalCounts, waterfill } from "./deal.ts";
import type { Shape } from "./errors.ts";
import { type Field, type Homes, Layout } from "./layout.ts";
import { type Budget, descend, shake } from "./search.ts";

/** How far between bound and peak the targets of minimal counts lie. */
const targets = [0, 0.5, 0.25, 0.75];

/** Leaves `layout` at the best placement found; ends early where the peak is at most `target`. */
export function searchField(layout: Layout, target: number, budget: Budget): void {
  const { weight, numGpus } = layout.field;
  const { numSlots } = layout;
  deal(layout, waterfill(weight, numSlots, numGpus));
  budget.left -= numSlots * numGpus;
  descend(layout, target, budget);
  let peak = layout.peak();
  const best = layout.expert.slice();
  // Half of what is left is for shakes.
  const starts = { left: budget.left / 2 };
  budget.left -= starts.left;
  for (const part of targets) {
    if (peak <= target || starts.left <= 0) break;
    const aim = target + part * (peak - target);
    const counts = minimalCounts(weight, numSlots, numGpus, aim);
    if (counts === undefined) continue;
    deal(layout, counts);
    starts.left -= numSlots * numGpus;
    descend(layout, target, starts);
    if (layout.peak() >= peak) continue;
    peak = layout.peak();
    best.set(layout.expert);
  }
  layout.assign(best);
  budget.left += Math.max(0, starts.left);
  shake(layout, target, budget, new Random(1));
}

/**
 * A placement in which every expert lies on its own node; `members` lists the experts node by node.
 * The heaviest node comes first and sets what is good enough for the others.
 */
export function searchNodes(
  weight: Float64Array,
  members: Int32Array,
  shape: Shape,
  bound: number,
  budget: Budget,
): Int32Array {
  const { numNodes, slotsPerGpu } = shape;
  const numGpus = shape.numGpus / numNodes;
  const perNode = weight.length / numNodes;
  const nodes = Array.from({ length: numNodes }, (_, node) => {
    const experts = members.subarray(node * perNode, (node + 1) * perNode);
    const own = Float64Array.from(experts, (expert) => weight[expert]);
    const sum = own.reduce((total, load) => total + load, 0);
    const counts = waterfill(own, numGpus * slotsPerGpu, numGpus);
    const heaviest = own.reduce((max, load, e) => Math.max(max, load / counts[e]), 0);
    return { node, experts, own, least: Math.max(sum / numGpus, heaviest) };
  }).sort((a, b) => b.least - a.least);
  const expert = new Int32Array(shape.numReplicas);
  let target = bound;
  for (const { node, experts, own, least } of nodes) {
    const layout = new Layout({ weight: own, numGpus, slotsPerGpu });
    const allotted = { left: budget.left / 2 };
    budget.left -= allotted.left;
    searchField(layout, Math.max(target, least * (1 + 1e-5)), allotted);
    budget.left += allotted.left;
    target = Math.max(target, layout.peak());
    const begin = node * layout.numSlots;
    for (let slot = 0; slot < layout.numSlots; slot++) {
      expert[begin + slot] = experts[layout.expert[slot]];
    }
  }
  return expert;
}

/** Homes: each expert's node as `members` deals them. */
export function homesOf(members: Int32Array, shape: Shape, spill: number): Homes {
  const perNode = members.length / shape.numNodes;
  const gpusPerNode = shape.numGpus / shape.numNodes;
  const homeOf = new Int32Array(members.length);
  members.forEach((expert, i) => {
    homeOf[expert] = Math.floor(i / perNode);
  });
  const nodeOf = Int32Array.from({ length: shape.numGpus }, (_, g) => Math.floor(g / gpusPerNode));
  return { homeOf, nodeOf, spill };
}

/** Search from a given placement with twins allowed, for when twins are what makes it good. */
export function polishTwins(
  field: Field,
  start: Int32Array,
  target: number,
  budget: Budget,
): Int32Array {
  const layout = new Layout(field);
  layout.allowTwins = true;
  layout.assign(start);
  const extra = { left: Math.max(budget.left, layout.numSlots * layout.numSlots) };
  descend(layout, target, extra);
  shake(layout, target, extra, new Random(2));
  return layout.expert;
}
