/**
 * @file What `eplb` takes and gives. Loads are any non-negative numbers in one unit (tokens, say); a
 * slot is a place for one expert's weights on a GPU, and slot s lies on GPU floor(s / slotsPerGpu).
 */

/** Loads by layer and expert, `[layers][experts]`. */
export type Loads = readonly ArrayLike<number>[];

/** Which experts lie in which slots, by layer. The names are the original's. */
export interface Placement {
  /** `[layers][numReplicas]`: the expert in each slot. */
  readonly phy2log: number[][];
  /** `[layers][experts][most replicas of any expert]`: an expert's slots, padded with -1. */
  readonly log2phy: number[][][];
  /** `[layers][experts]`: an expert's number of replicas. */
  readonly logcnt: number[][];
}

/**
 * How far an expert may lie from home. Groups of experts that a token's gate chooses together have a
 * home node each, so that a token crosses few links. `strict`: every replica lies at home. `spill`:
 * at most that many replicas a layer lie elsewhere. `global`: there are no homes.
 */
export type Affinity = "strict" | "global" | { readonly spill: number };

/** What keeps a layer's balance from being better than it is. */
export type Limit = "mean" | "replicas" | "node" | "slots";

/** How well one layer came out. Ratios are to the layer's mean load over GPUs. */
export interface LayerReport {
  /** Load of the busiest GPU. */
  readonly maxOverMean: number;
  /** The same of the exact mode's plan. */
  readonly exactMaxOverMean: number;
  /** No placement with these slots and this affinity has a lower one. */
  readonly lowerBound: number;
  /** What the lower bound comes from. */
  readonly limit: Limit;
  /** The same in a sentence. */
  readonly reason: string;
  /** Whose plan it is: ours where that is better, else the exact mode's. */
  readonly source: "balanced" | "exact";
}

/** A placement with what is known about its balance. */
export interface BalancedPlacement extends Placement {
  /** By layer. */
  readonly maxOverMean: number[];
  /** By layer. */
  readonly layers: LayerReport[];
}

/** How to balance. */
export interface BalanceOptions {
  /** Default: `strict` where the groups can be dealt evenly to the nodes, else `global`. */
  readonly affinity?: Affinity;
  /** Search steps as a multiple of the usual; default 1. Time grows about as fast. */
  readonly effort?: number;
}
