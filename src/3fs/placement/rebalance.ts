/**
 * @file Chains for a changed set of nodes, moving the fewest replicas: nodes above their share give up
 * just what is above it, nodes below it take it. Which replicas go where is searched for, so that pairs
 * of nodes share about equally many chains again.
 */
import { Random } from "../../base/index.ts";
import { fsError } from "../errors.ts";
import type { NodeId } from "../types.ts";
import { PairTable } from "./pairs.ts";
import { checkNodes } from "./plan.ts";
import type { PairSpread, PlacementNode, PlacementOptions, TargetMove } from "./types.ts";

/** Chains after a rebalance, and what leads there. */
export interface Rebalance {
  /** The chains; a new member stands last, since it must be filled. */
  readonly chains: readonly (readonly NodeId[])[];
  readonly moves: readonly TargetMove[];
  /** No plan with these shares moves fewer. */
  readonly fewestMoves: number;
  readonly pairs: PairSpread;
}

interface Move {
  readonly chain: number;
  from: number;
  to: number;
}

/**
 * The chains spread over `nodes`, each in proportion to its `targets`; nodes of the chains that are not
 * among them, or have no room, are drained. Throws `fs-input-invalid` where too few nodes are left.
 */
export function rebalancePlacement(
  current: readonly (readonly NodeId[])[],
  nodes: readonly PlacementNode[],
  { seed = 1, effort = 1 }: PlacementOptions = {},
): Rebalance {
  const replicas = current[0]?.length ?? 1;
  checkNodes(nodes, replicas);
  if (current.some((chain) => chain.length !== replicas || new Set(chain).size !== replicas)) {
    const advice = "give chains of equal length without repetition";
    throw fsError("fs-input-invalid", `current has a chain of another length: ${advice}.`);
  }
  const ids = [...new Set([...nodes.map(({ nodeId }) => nodeId), ...current.flat()])];
  const indexOf = new Map(ids.map((nodeId, i) => [nodeId, i]));
  const chains = current.map((chain) => chain.map((nodeId) => indexOf.get(nodeId)!));
  const held = ids.map((_, node) => chains.filter((chain) => chain.includes(node)).length);
  const weights = ids.map((id) => nodes.find(({ nodeId }) => nodeId === id)?.targets ?? 0);
  const shares = sharesOf(weights, held, chains.length, replicas);
  const excess = held.map((count, node) => count - shares[node]);
  const fewestMoves = excess.reduce((sum, count) => sum + Math.max(0, count), 0);
  const table = new PairTable(ids.length, chains);
  const random = new Random(seed);
  settle(table, chains, excess, random);
  const moves = movesBetween(chains, table.chains);
  improve(table, moves, random, Math.round(effort * Math.min(400_000, 2000 * moves.length)));
  const named = moves.map(({ chain, from, to }) => ({ chain, from: ids[from], to: ids[to] }));
  return {
    chains: table.chains.map((chain, i) => {
      const stays = current[i].filter((nodeId) => chain.includes(indexOf.get(nodeId)!));
      const joins = chain.map((node) => ids[node]).filter((nodeId) => !stays.includes(nodeId));
      return [...stays, ...joins];
    }),
    moves: named.filter(({ from, to }) => from !== to),
    fewestMoves,
    pairs: table.spread(),
  };
}

/** How many chains each node should be in: by weight, at most all, and where it ties as it is now. */
function sharesOf(
  weights: readonly number[],
  held: readonly number[],
  numChains: number,
  replicas: number,
): number[] {
  const shares = weights.map(() => 0);
  const open = new Set(weights.flatMap((weight, node) => (weight > 0 ? [node] : [])));
  for (let rest = numChains * replicas; rest > 0; ) {
    const total = [...open].reduce((sum, node) => sum + weights[node], 0);
    const ideal = (node: number) => (rest * weights[node]) / total;
    const capped = [...open].filter((node) => ideal(node) >= numChains);
    for (const node of capped) {
      shares[node] = numChains;
      open.delete(node);
      rest -= numChains;
    }
    if (capped.length > 0) continue;
    for (const node of open) shares[node] = Math.floor(ideal(node));
    const short = rest - [...open].reduce((sum, node) => sum + shares[node], 0);
    const gain = (node: number) => (held[node] > shares[node] ? 1 : 0);
    const order = [...open].sort((x, y) => gain(y) - gain(x) || (ideal(y) % 1) - (ideal(x) % 1));
    for (const node of order.slice(0, short)) shares[node]++;
    rest = 0;
  }
  return shares;
}

/**
 * Brings every node to its share in place: the cheapest replica first; where none can go straight to a
 * node with room, by the shortest chain of changes that moves no more replicas in all.
 */
function settle(
  table: PairTable,
  original: readonly (readonly number[])[],
  excess: number[],
  random: Random,
): void {
  const nodes = excess.map((_, node) => node);
  const order = table.chains.map((_, chain) => chain);
  while (excess.some((count) => count > 0)) {
    const from = nodes.reduce((best, node) => (excess[node] > excess[best] ? node : best));
    let best: Move | undefined;
    let least = Infinity;
    for (const chain of random.shuffle(order)) {
      const members = table.chains[chain];
      if (!members.includes(from)) continue;
      for (const to of nodes) {
        if (excess[to] >= 0 || members.includes(to)) continue;
        const delta = table.replaceDelta(members, from, to);
        if (delta < least) [best, least] = [{ chain, from, to }, delta];
      }
    }
    const path = best
      ? [best]
      : (pathToRoom(table, original, excess, from) ?? detour(table, excess, from));
    for (const { chain, from: leaver, to } of path) {
      table.replace(table.chains[chain], leaver, to);
      excess[leaver]--;
      excess[to]++;
    }
  }
}

/**
 * Changes by which `from` gives up a replica to a node with room: along the way a node may only take
 * back a replica that it gave up before, or pass on one that it was given, so that the number of
 * replicas moved grows by one (an augmenting path of the flow from full nodes through chains).
 */
function pathToRoom(
  table: PairTable,
  original: readonly (readonly number[])[],
  excess: readonly number[],
  from: number,
): Move[] | undefined {
  interface Step {
    readonly node: number;
    readonly isNew: boolean;
    readonly by?: Move;
    readonly before?: Step;
  }
  const seen = new Set<string>([`${from} false`]);
  const queue: Step[] = [{ node: from, isNew: false }];
  for (const step of queue) {
    if (step.by && step.isNew && excess[step.node] < 0) {
      const path: Move[] = [];
      for (let at: Step | undefined = step; at?.by; at = at.before) path.unshift(at.by);
      return path;
    }
    for (const [chain, members] of table.chains.entries()) {
      const joined = !original[chain].includes(step.node);
      if (!members.includes(step.node) || joined !== step.isNew) continue;
      for (let node = 0; node < excess.length; node++) {
        const isNew = !original[chain].includes(node);
        const key = `${node} ${isNew}`;
        if (members.includes(node) || seen.has(key)) continue;
        seen.add(key);
        queue.push({ node, isNew, by: { chain, from: step.node, to: node }, before: step });
      }
    }
  }
  return undefined;
}

/** No such path: a third node takes the replica, and gives up one of another chain that has room. */
function detour(table: PairTable, excess: readonly number[], from: number): Move[] {
  const to = excess.findIndex((count) => count < 0);
  for (const [other, members] of table.chains.entries()) {
    if (members.includes(to)) continue;
    for (const middle of members) {
      const chain = table.chains.findIndex((held) => held.includes(from) && !held.includes(middle));
      if (middle === from || chain < 0) continue;
      return [
        { chain, from, to: middle },
        { chain: other, from: middle, to },
      ];
    }
  }
  throw new Error("a node below its share is in every chain");
}

/** What changed, as one move a replica. */
function movesBetween(
  before: readonly (readonly number[])[],
  after: readonly (readonly number[])[],
): Move[] {
  return before.flatMap((chain, i) => {
    const joined = after[i].filter((node) => !chain.includes(node));
    const left = chain.filter((node) => !after[i].includes(node));
    return left.map((from, k) => ({ chain: i, from, to: joined[k] }));
  });
}

/** Exchanges the destinations of two moves, or moves another replica of the same node, if that evens. */
function improve(table: PairTable, moves: Move[], random: Random, steps: number): void {
  const own = new Set(moves.map(({ chain }) => chain));
  // Where a chain moves twice, its moves hang together: leave them.
  const free = moves.filter(
    (move) => moves.filter(({ chain }) => chain === move.chain).length === 1,
  );
  if (free.length === 0) return;
  for (let step = 0; step < steps; step++) {
    const at = random.below(free.length);
    const first = free[at];
    const a = table.chains[first.chain];
    const second = free[random.below(free.length)];
    const b = table.chains[second.chain];
    if (random.below(2) === 0) {
      const [x, y] = [first.to, second.to];
      if (first === second || x === y || a.includes(y) || b.includes(x)) continue;
      if (y === first.from || x === second.from) continue;
      if (table.exchangeDelta(a, x, b, y) > 0) continue;
      table.replace(a, x, y);
      table.replace(b, y, x);
      [first.to, second.to] = [y, x];
    } else {
      const chain = random.below(table.chains.length);
      const c = table.chains[chain];
      const { from, to } = first;
      if (own.has(chain) || !c.includes(from) || c.includes(to)) continue;
      if (table.exchangeDelta(a, to, c, from) > 0) continue;
      table.replace(a, to, from);
      table.replace(c, from, to);
      own.delete(first.chain);
      own.add(chain);
      const next = { chain, from, to };
      moves[moves.indexOf(first)] = next;
      free[at] = next;
    }
  }
}
