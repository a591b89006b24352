/** @file What placement takes and gives. Plain data; nothing here touches the world. */
import type { NodeId } from "../types.ts";

/** A node that can hold targets. */
export interface PlacementNode {
  readonly nodeId: NodeId;
  /** How many targets it has room for, or in a rebalance its share relative to the others. */
  readonly targets: number;
}

/** How evenly the chains lie. Two nodes that share many chains load each other when one fails. */
export interface PairSpread {
  /** Chains shared by the pair of nodes that shares the fewest, and the most. */
  readonly fewest: number;
  readonly most: number;
  /** Targets of the pair's mean: `sum over nodes of r (k-1) / (v (v-1))`. */
  readonly mean: number;
}

/** Chains as lists of nodes, head first. */
export interface Placement {
  readonly chains: readonly (readonly NodeId[])[];
  readonly pairs: PairSpread;
  /** Where it comes from: a cyclic design, exact, or the search. */
  readonly source: "cyclic" | "search";
}

/** One replica that changes its node. */
export interface TargetMove {
  /** Index of the chain. */
  readonly chain: number;
  readonly from: NodeId;
  readonly to: NodeId;
}

/** How hard to look. */
export interface PlacementOptions {
  /** The seed of the search; default 1. The same input gives the same plan everywhere. */
  readonly seed?: number;
  /** Search steps as a multiple of the usual; default 1. */
  readonly effort?: number;
}
