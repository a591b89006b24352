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
  const moves = firstMoves(table, excess, random);
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

/** Moves that bring every node to its share: cheapest first; where one is stuck, through a third chain. */
function firstMoves(table: PairTable, excess: number[], random: Random): Move[] {
  const moves: Move[] = [];
  const makeMove = (chain: number, from: number, to: number): void => {
    table.replace(table.chains[chain], from, to);
    moves.push({ chain, from, to });
    excess[from]--;
    excess[to]++;
  };
  const nodes = excess.map((_, node) => node);
  while (excess.some((count) => count > 0)) {
    const from = nodes.reduce((best, node) => (excess[node] > excess[best] ? node : best));
    let best: { chain: number; to: number; delta: number } | undefined;
    for (const chain of random.shuffle(table.chains.map((_, i) => i))) {
      const members = table.chains[chain];
      if (!members.includes(from)) continue;
      for (const to of nodes) {
        if (excess[to] >= 0 || members.includes(to)) continue;
        const delta = table.replaceDelta(members, from, to);
        if (!best || delta < best.delta) best = { chain, to, delta };
      }
    }
    if (best) makeMove(best.chain, from, best.to);
    else makeDetour(table, excess, from, makeMove);
  }
  return moves;
}

/** Every chain of `from` has all nodes with room: another node takes its place, and gives one up. */
function makeDetour(
  table: PairTable,
  excess: readonly number[],
  from: number,
  makeMove: (chain: number, from: number, to: number) => void,
): void {
  const to = excess.findIndex((count) => count < 0);
  for (const [other, members] of table.chains.entries()) {
    if (members.includes(to)) continue;
    for (const middle of members) {
      const chain = table.chains.findIndex((held) => held.includes(from) && !held.includes(middle));
      if (middle === from || chain < 0) continue;
      makeMove(chain, from, middle);
      makeMove(other, middle, to);
      return;
    }
  }
  throw new Error("a node below its share is in every chain");
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
