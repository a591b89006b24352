/** @file Which member of each chain comes first. Heads order the writes, so each node should head alike. */

/**
 * The chains with their members reordered so that the nodes that head most and least differ by at most
 * one, as far as their chains allow: heads change along shortest paths from a busy node to an idle one.
 */
export function balanceHeads(
  chains: readonly (readonly number[])[],
  numNodes: number,
): readonly (readonly number[])[] {
  const heads = chains.map((chain) => chain[0]);
  const count = new Int32Array(numNodes);
  for (const head of heads) count[head]++;
  const headed = (node: number): number[] =>
    heads.flatMap((head, chain) => (head === node ? [chain] : []));
  for (let improved = true; improved; ) {
    improved = false;
    for (let busy = 0; busy < numNodes; busy++) {
      const path = count[busy] > 1 ? pathToIdle(busy, chains, headed, count) : undefined;
      if (!path) continue;
      for (const { chain, to } of path) {
        count[heads[chain]]--;
        heads[chain] = to;
        count[to]++;
      }
      improved = true;
    }
  }
  return chains.map((chain, i) => [heads[i], ...chain.filter((node) => node !== heads[i])]);
}

/** The changes of heads by which `busy` gives one up to a node that heads two fewer. */
function pathToIdle(
  busy: number,
  chains: readonly (readonly number[])[],
  headed: (node: number) => number[],
  count: Int32Array,
): { chain: number; to: number }[] | undefined {
  const cameBy = new Map<number, { from: number; chain: number }>();
  const queue = [busy];
  for (const node of queue) {
    if (count[node] <= count[busy] - 2) {
      const path: { chain: number; to: number }[] = [];
      for (let to = node; to !== busy; to = cameBy.get(to)!.from) {
        path.push({ chain: cameBy.get(to)!.chain, to });
      }
      return path;
    }
    for (const chain of headed(node)) {
      for (const other of chains[chain]) {
        if (other === busy || cameBy.has(other)) continue;
        cameBy.set(other, { from: node, chain });
        queue.push(other);
      }
    }
  }
  return undefined;
}
