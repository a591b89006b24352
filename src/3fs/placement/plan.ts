/**
 * @file Where the replicas of new chains lie. Never without an answer: exact cyclic designs where the
 * search finds one, else chains dealt one by one to the nodes that share least, evened out by annealing.
 */
import { Random } from "../../base/index.ts";
import { fsError } from "../errors.ts";
import { develop, searchBaseBlocks } from "./cyclic.ts";
import { balanceHeads } from "./heads.ts";
import { anneal, isEven, PairTable } from "./pairs.ts";
import type { Placement, PlacementNode, PlacementOptions } from "./types.ts";

/**
 * Chains of `replicas` nodes that use each node's room, differing by at most one where the sum does not
 * divide, such that every pair of nodes shares about as many chains as every other, and every node
 * heads about as many. Throws `fs-input-invalid` where there are fewer nodes than replicas.
 */
export function planPlacement(
  nodes: readonly PlacementNode[],
  replicas: number,
  { seed = 1, effort = 1 }: PlacementOptions = {},
): Placement {
  checkNodes(nodes, replicas);
  const random = new Random(seed);
  const quotas = quotasOf(nodes, replicas);
  const numChains = quotas.reduce((sum, quota) => sum + quota, 0) / replicas;
  const found =
    cyclicPlan(quotas, replicas, random, effort) ??
    searchedPlan(quotas, replicas, numChains, random, effort);
  const chains = balanceHeads(found.table.chains, nodes.length);
  return {
    chains: chains.map((chain) => chain.map((node) => nodes[node].nodeId)),
    pairs: found.table.spread(),
    source: found.source,
  };
}

/** Throws unless the nodes can hold chains. */
export function checkNodes(nodes: readonly PlacementNode[], replicas: number): void {
  const refuse = (field: string, problem: string, advice: string) =>
    fsError("fs-input-invalid", `${field} ${problem}: ${advice}.`);
  if (!Number.isInteger(replicas) || replicas < 1) {
    throw refuse("replicas", `is ${replicas}`, "give a whole number of at least 1");
  }
  for (const { nodeId, targets } of nodes) {
    if (Number.isInteger(targets) && targets >= 0) continue;
    throw refuse(`targets of node ${nodeId}`, `is ${targets}`, "give a whole number, 0 or more");
  }
  if (new Set(nodes.map(({ nodeId }) => nodeId)).size < nodes.length) {
    throw refuse("nodes", "names a node twice", "name each once");
  }
  const usable = nodes.filter(({ targets }) => targets > 0).length;
  if (usable < replicas) {
    throw refuse("nodes", `has ${usable} with room for ${replicas} replicas`, "add nodes");
  }
}

/** How many chains each node is in: its room, less what can't be used with chains of that length. */
function quotasOf(nodes: readonly PlacementNode[], replicas: number): number[] {
  const quotas = nodes.map(({ targets }) => targets);
  while (true) {
    const sum = quotas.reduce((total, quota) => total + quota, 0);
    const chains = Math.floor(sum / replicas);
    // No node can be in more chains than there are; lowering it may lower that number again.
    const most = Math.max(...quotas);
    if (most > chains) {
      quotas[quotas.indexOf(most)] = Math.max(1, chains);
      continue;
    }
    if (sum % replicas === 0) return quotas;
    quotas[quotas.indexOf(most)]--;
  }
}

interface Found {
  readonly table: PairTable;
  readonly source: Placement["source"];
}

/** An exact design, where all nodes are alike and one is found. */
function cyclicPlan(
  quotas: readonly number[],
  replicas: number,
  random: Random,
  effort: number,
): Found | undefined {
  const [numNodes, quota] = [quotas.length, quotas[0]];
  if (quotas.some((other) => other !== quota) || quota % replicas !== 0) return undefined;
  if (replicas < 2 || numNodes === replicas) return undefined;
  // Each step looks at all differences, so that large designs get fewer.
  const steps = Math.round((effort * 3e7) / (numNodes + 50));
  const count = quota / replicas;
  for (let attempt = 0; attempt < 4; attempt++) {
    const { blocks, isEven: even } = searchBaseBlocks(
      numNodes,
      replicas,
      count,
      random,
      Math.ceil(steps / 4),
    );
    if (even) {
      return { table: new PairTable(numNodes, develop(blocks, numNodes)), source: "cyclic" };
    }
  }
  return undefined;
}

/** Chains dealt and evened out. */
function searchedPlan(
  quotas: readonly number[],
  replicas: number,
  numChains: number,
  random: Random,
  effort: number,
): Found {
  let best: PairTable | undefined;
  for (let attempt = 0; attempt < 3; attempt++) {
    const table = deal(quotas, replicas, numChains, random);
    const steps = Math.min(1.2e6, 30_000 + numChains * replicas * 1500);
    anneal(table, random, Math.round(steps * effort));
    const gap = ({ fewest, most }: { fewest: number; most: number }) => most - fewest;
    if (!best || gap(table.spread()) < gap(best.spread())) best = table;
    if (isEven(best.spread())) break;
  }
  return { table: best!, source: "search" };
}

/** Chains one by one, each of the nodes that share least among those with most room left. */
function deal(
  quotas: readonly number[],
  replicas: number,
  numChains: number,
  random: Random,
): PairTable {
  const table = new PairTable(quotas.length);
  const left = [...quotas];
  for (let chainsLeft = numChains; chainsLeft > 0; chainsLeft--) {
    const order = random.shuffle(left.map((_, node) => node).filter((node) => left[node] > 0));
    // A node with as much room as there are chains must be in every one of them.
    const chain = order.filter((node) => left[node] === chainsLeft);
    while (chain.length < replicas) {
      const open = order.filter((node) => !chain.includes(node));
      const price = (node: number) => table.cost(node, chain) - left[node] / (chainsLeft + 1);
      chain.push(open.reduce((best, node) => (price(node) < price(best) ? node : best)));
    }
    for (const node of chain) left[node]--;
    table.add(chain);
  }
  return table;
}
