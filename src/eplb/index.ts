/**
 * @file Door of `eplb`: where experts' replicas lie so that all GPUs of an expert-parallel deployment
 * get the same load. Pure functions over plain data, no I/O: they run in a browser too.
 */
export { balanceExperts } from "./balance.ts";
export { type EplbErrorCode, eplbErrors } from "./errors.ts";
export { rebalanceExperts } from "./exact.ts";
export { type ZipfOptions, zipfLoads } from "./loads.ts";
export { type MigrateOptions, type Migration, migrateExperts } from "./migrate.ts";
export { type Move, type MoveOptions, planMoves } from "./moves.ts";
export { picturePlacement } from "./picture.ts";
export { gpuLoads, maxOverMean, placementOf } from "./placement.ts";
export { type LayerSplit, type SplitOptions, splitTokens } from "./split.ts";
export type {
  Affinity,
  BalancedPlacement,
  BalanceOptions,
  LayerReport,
  Limit,
  Loads,
  Placement,
} from "./types.ts";
