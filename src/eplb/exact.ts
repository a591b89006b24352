/**
 * @file The exact mode: DeepSeek's EPLB, digit for digit. Groups go to nodes, replicas to experts, and
 * replicas to GPUs, each greedily, heaviest first; where groups can't be dealt evenly to nodes, all is
 * one group on one node. Ties go to the lowest index, the first lightest pack and the first heaviest
 * expert, and every sum and quotient is rounded to float32, as in the original with a stable sort;
 * a group's sum is rounded once.
 * Source: github.com/deepseek-ai/EPLB, `rebalance_experts`.
 */
import { type Shape, shapeOf } from "./errors.ts";
import { packGroups, packItems, sortDescending } from "./packing.ts";
import { placementOf } from "./placement.ts";
import type { Loads, Placement } from "./types.ts";

/**
 * The placement that the original computes for loads `[layers][experts]`: `numReplicas` slots on
 * `numGpus` GPUs of `numNodes` nodes, the experts in `numGroups` equal consecutive groups. Throws a
 * `BaleenError` that names the field where a load is negative or no number, or where sizes do not
 * divide. Source: `rebalance_experts`.
 */
export function rebalanceExperts(
  weight: Loads,
  numReplicas: number,
  numGroups: number,
  numNodes: number,
  numGpus: number,
): Placement {
  const shape = shapeOf(weight, numReplicas, numGroups, numNodes, numGpus);
  const plans = weight.map((loads) => exactLayer(loads, shape, shape.hierarchical));
  return placementOf(
    plans.map((plan) => plan.phy2log),
    shape.numExperts,
    plans.map((plan) => plan.replica),
  );
}

/** One layer of the exact mode: the expert in each slot, and which of its replicas that is. */
export interface ExactLayer {
  readonly phy2log: Int32Array;
  readonly replica: Int32Array;
}

/** The exact mode for one layer; with `hierarchical` false all is one group on one node. */
export function exactLayer(
  loads: ArrayLike<number>,
  shape: Shape,
  hierarchical: boolean,
): ExactLayer {
  const { numExperts, numReplicas } = shape;
  const numNodes = hierarchical ? shape.numNodes : 1;
  const weight = Float32Array.from(loads);
  const members = packGroups(weight, hierarchical ? shape.numGroups : 1, numNodes);
  const phy2log = new Int32Array(numReplicas);
  const replica = new Int32Array(numReplicas);
  const expertsPerNode = numExperts / numNodes;
  const slotsPerNode = numReplicas / numNodes;
  for (let node = 0; node < numNodes; node++) {
    const experts = members.subarray(node * expertsPerNode, (node + 1) * expertsPerNode);
    const local = Float32Array.from(experts, (expert) => weight[expert]);
    const { owner, rank, share } = replicate(local, slotsPerNode);
    const slots = packItems(share, shape.numGpus / numNodes, sortDescending(share));
    for (let item = 0; item < slotsPerNode; item++) {
      const slot = node * slotsPerNode + slots[item];
      phy2log[slot] = experts[owner[item]];
      replica[slot] = rank[item];
    }
  }
  return { phy2log, replica };
}

/** Replicas: one each, then one more at a time for the expert whose replicas are the heaviest. */
function replicate(
  weight: Float32Array,
  numReplicas: number,
): { owner: Int32Array; rank: Int32Array; share: Float32Array } {
  const numExperts = weight.length;
  const owner = Int32Array.from({ length: numReplicas }, (_, item) => item);
  const rank = new Int32Array(numReplicas);
  const count = new Int32Array(numExperts).fill(1);
  const quotient = weight.slice();
  for (let item = numExperts; item < numReplicas; item++) {
    let heaviest = 0;
    let most = quotient[0];
    for (let expert = 1; expert < numExperts; expert++) {
      if (quotient[expert] <= most) continue;
      heaviest = expert;
      most = quotient[expert];
    }
    owner[item] = heaviest;
    rank[item] = count[heaviest]++;
    // A quotient of two float32 numbers, rounded to float64 and then to float32, is rounded rightly.
    quotient[heaviest] = weight[heaviest] / count[heaviest];
  }
  return { owner, rank, share: Float32Array.from(owner, (expert) => quotient[expert]) };
}
