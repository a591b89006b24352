/**
 * @file Who gets what: the three load balancers of a deployment with prefill and decode apart, as pure
 * functions from published loads to decisions. Goals as the Day 6 article states them: prefill
 * evens out core-attention work and input tokens over GPUs, decode evens out KV cache use and
 * number of requests, the experts' balancer lowers the tokens that the busiest GPU receives.
 *
 * Each reports balancedness, mean over maximum: 1 is perfect, 1 / GPUs is all on one.
 *
 * Method of the first two: requests by size, largest first (one alone is just that), each to the rank
 * where the larger of its two loads, each over the mean, comes out least. Two goals in different
 * units become one by those means; no weights to tune.
 */
import { assert } from "../base/index.ts";
import {
  balanceExperts,
  gpuLoads,
  type Loads,
  maxOverMean,
  type Placement,
} from "../eplb/index.ts";

/** Mean over maximum of loads that are not negative; 1 where there is no load at all. */
export function balancedness(loads: ArrayLike<number>): number {
  assert(loads.length > 0, "balancedness: got no loads, wanted at least one");
  let [sum, max] = [0, 0];
  for (let i = 0; i < loads.length; i++) {
    sum += loads[i];
    max = Math.max(max, loads[i]);
  }
  return max === 0 ? 1 : sum / loads.length / max;
}

/** Prompt work: what a rank has waiting and running, or what a request adds. */
export interface PrefillLoad {
  /** Query-key pairs of attention's core, see `attentionWork`. */
  readonly attentionWork: number;
  /** Tokens to compute. */
  readonly tokens: number;
}

/** What a decode rank holds. */
export interface DecodeLoad {
  /** Tokens in its cache. */
  readonly kvTokens: number;
  readonly requests: number;
  /** Most tokens that its cache can hold. */
  readonly kvTokensMax: number;
  /** Most requests at once. */
  readonly requestsMax: number;
}

/** Where requests go. */
export interface Assignment<L> {
  /** Rank by request; -1 where no rank has room. */
  readonly rankOf: number[];
  /** Loads by rank, these requests included. */
  readonly loads: L[];
}

/** Query-key pairs of `tokens` new tokens behind `cached` known ones, under the causal mask. */
export function attentionWork(tokens: number, cached: number): number {
  return tokens * cached + (tokens * (tokens + 1)) / 2;
}

/** Prompts to prefill ranks; every one gets a rank. */
export function assignPrefill(
  ranks: readonly PrefillLoad[],
  requests: readonly PrefillLoad[],
): Assignment<PrefillLoad> & { readonly balancedness: PrefillLoad } {
  assert(ranks.length > 0, "assignPrefill: got no ranks, wanted at least one");
  const work = ranks.map((load) => load.attentionWork);
  const tokens = ranks.map((load) => load.tokens);
  const rankOf = spread(
    requests.map((request) => [request.attentionWork, request.tokens]),
    [work, tokens],
    () => true,
  );
  return {
    rankOf,
    loads: work.map((attentionWork, rank) => ({ attentionWork, tokens: tokens[rank] })),
    balancedness: { attentionWork: balancedness(work), tokens: balancedness(tokens) },
  };
}

/**
 * Requests of `kvTokens` tokens each (what they may grow to, if one knows it) to decode ranks that
 * have room; a request without any gets -1.
 */
export function assignDecode(
  ranks: readonly DecodeLoad[],
  requests: readonly { readonly kvTokens: number }[],
): Assignment<DecodeLoad> & {
  readonly balancedness: { readonly kvTokens: number; readonly requests: number };
} {
  assert(ranks.length > 0, "assignDecode: got no ranks, wanted at least one");
  const kv = ranks.map((load) => load.kvTokens);
  const counts = ranks.map((load) => load.requests);
  const rankOf = spread(
    requests.map((request) => [request.kvTokens, 1]),
    [kv, counts],
    (rank, [tokens]) =>
      kv[rank] + tokens <= ranks[rank].kvTokensMax && counts[rank] < ranks[rank].requestsMax,
  );
  return {
    rankOf,
    loads: ranks.map((load, rank) => ({ ...load, kvTokens: kv[rank], requests: counts[rank] })),
    balancedness: { kvTokens: balancedness(kv), requests: balancedness(counts) },
  };
}

/** How the experts' placement stands up to the tokens that came. */
export interface ExpertReview {
  /** Mean over maximum of tokens received by GPU: the mean of the layers. */
  readonly balancedness: number;
  /** By layer. */
  readonly layers: number[];
  /** A better placement where the old one falls short of `target`, else undefined. */
  readonly placement: Placement | undefined;
}

/** Where experts lie now, and when to move them. */
export interface ExpertShape {
  readonly phy2log: Placement["phy2log"];
  readonly numGroups: number;
  readonly numNodes: number;
  readonly numGpus: number;
  /** Balancedness below which a new placement is made; default 0.9. */
  readonly target?: number;
}

/**
 * Judges a placement by tokens received, `[layers][experts]`; makes a new one (by `eplb`) where it is
 * below target and the new one is better on these very tokens.
 */
export function reviewExperts(received: Loads, shape: ExpertShape): ExpertReview {
  const { phy2log, numGroups, numNodes, numGpus, target = 0.9 } = shape;
  const judge = (slots: Placement["phy2log"]) =>
    gpuLoads(received, slots, numGpus).map((loads) => 1 / (maxOverMean(loads) || 1));
  const layers = judge(phy2log);
  const now = meanOf(layers);
  if (now >= target) return { balancedness: now, layers, placement: undefined };
  const placement = balanceExperts(received, phy2log[0].length, numGroups, numNodes, numGpus);
  const isBetter = meanOf(judge(placement.phy2log)) > now;
  return { balancedness: now, layers, placement: isBetter ? placement : undefined };
}

/** Adds each request's two sizes to one rank's two loads, and says which. */
function spread(
  sizes: readonly (readonly [number, number])[],
  [first, second]: readonly [number[], number[]],
  hasRoom: (rank: number, size: readonly [number, number]) => boolean,
): number[] {
  const rankOf = sizes.map(() => -1);
  let [firstSum, secondSum] = [sumOf(first), sumOf(second)];
  const order = sizes.map((_, i) => i).sort((a, b) => sizes[b][0] - sizes[a][0] || a - b);
  for (const request of order) {
    const [x, y] = sizes[request];
    firstSum += x;
    secondSum += y;
    let best = -1;
    let [least, leastSum] = [Number.POSITIVE_INFINITY, Number.POSITIVE_INFINITY];
    for (let rank = 0; rank < first.length; rank++) {
      if (!hasRoom(rank, sizes[request])) continue;
      const a = firstSum === 0 ? 0 : (first[rank] + x) / firstSum;
      const b = secondSum === 0 ? 0 : (second[rank] + y) / secondSum;
      const score = Math.max(a, b);
      if (score > least || (score === least && a + b >= leastSum)) continue;
      [best, least, leastSum] = [rank, score, a + b];
    }
    rankOf[request] = best;
    if (best < 0) {
      firstSum -= x;
      secondSum -= y;
      continue;
    }
    first[best] += x;
    second[best] += y;
  }
  return rankOf;
}

function sumOf(values: readonly number[]): number {
  return values.reduce((sum, value) => sum + value, 0);
}

function meanOf(values: readonly number[]): number {
  return sumOf(values) / values.length;
}
