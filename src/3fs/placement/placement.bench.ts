/**
 * @file How even plans come out and how long they take. Optimal spread of pair counts is 0 where the
 * mean is whole and a design exists, else 1. Times are the processor's.
 */
import { planPlacement } from "./plan.ts";
import { rebalancePlacement } from "./rebalance.ts";

const isLarge = process.argv.includes("--large");
const sizes = isLarge ? [6, 7, 10, 13, 16, 25, 31, 50, 64, 100, 150, 200] : [6, 13];
const alike = (numNodes: number, targets: number) =>
  Array.from({ length: numNodes }, (_, i) => ({ nodeId: i + 1, targets }));

console.log(
  "nodes replicas targets   pairs: mean fewest most  source   CPU ms   one node more: moves pairs",
);
for (const numNodes of sizes) {
  for (const replicas of [2, 3, 4, 5]) {
    const targets = isLarge ? 12 : 4;
    const before = process.cpuUsage();
    const { chains, pairs, source } = planPlacement(alike(numNodes, targets), replicas);
    const cpuMs = process.cpuUsage(before).user / 1000;
    const grown = rebalancePlacement(chains, alike(numNodes + 1, targets));
    const columns = [
      String(numNodes).padStart(5),
      String(replicas).padStart(9),
      String(targets).padStart(8),
      pairs.mean.toFixed(3).padStart(13),
      String(pairs.fewest).padStart(7),
      String(pairs.most).padStart(5),
      `  ${source}`.padEnd(9),
      cpuMs.toFixed(0).padStart(8),
      String(grown.moves.length).padStart(21),
      `${grown.pairs.fewest}-${grown.pairs.most}`.padStart(6),
    ];
    console.log(columns.join(""));
  }
}
