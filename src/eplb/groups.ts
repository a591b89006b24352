/** @file Whole groups of experts to nodes, so that the heaviest node is as light as can be. */
import type { Shape } from "./errors.ts";
import { packGroups } from "./packing.ts";

/**
 * The experts node by node. Starts from the greedy packing; then groups of the heaviest node change
 * places with lighter groups elsewhere for as long as that lowers the heavier of the two nodes.
 */
export function dealGroups(weight: Float64Array, shape: Shape): Int32Array {
  const { numGroups, numNodes } = shape;
  const members = packGroups(Float32Array.from(weight), numGroups, numNodes);
  const size = weight.length / numGroups;
  const perNode = numGroups / numNodes;
  const group = Int32Array.from({ length: numGroups }, (_, i) => members[i * size] / size);
  const sum = new Float64Array(numGroups);
  for (let e = 0; e < weight.length; e++) sum[Math.floor(e / size)] += weight[e];
  const node = new Float64Array(numNodes);
  for (let i = 0; i < numGroups; i++) node[Math.floor(i / perNode)] += sum[group[i]];
  while (exchangeGroups(group, sum, node, perNode)) {
    // Each exchange lowers the heaviest node, so there is a last one.
  }
  return Int32Array.from(weight, (_, i) => group[Math.floor(i / size)] * size + (i % size));
}

function exchangeGroups(
  group: Int32Array,
  sum: Float64Array,
  node: Float64Array,
  perNode: number,
): boolean {
  let heaviest = 0;
  for (let n = 1; n < node.length; n++) if (node[n] > node[heaviest]) heaviest = n;
  let lowest = node[heaviest] * (1 - 1e-9);
  let [from, to] = [-1, -1];
  for (let i = heaviest * perNode; i < (heaviest + 1) * perNode; i++) {
    for (let j = 0; j < group.length; j++) {
      const other = Math.floor(j / perNode);
      if (other === heaviest) continue;
      const less = sum[group[i]] - sum[group[j]];
      const worse = Math.max(node[heaviest] - less, node[other] + less);
      if (worse < lowest) [lowest, from, to] = [worse, i, j];
    }
  }
  if (from < 0) return false;
  const less = sum[group[from]] - sum[group[to]];
  node[heaviest] -= less;
  node[Math.floor(to / perNode)] += less;
  [group[from], group[to]] = [group[to], group[from]];
  return true;
}
