/**
 * @file Second door of `inference`, for planners and browsers: what decides and touches nothing. The
 * scheduler and the load balancers, as the engine uses them, without any import of Node's.
 */
export {
  type Assignment,
  assignDecode,
  assignPrefill,
  attentionWork,
  balancedness,
  type DecodeLoad,
  type ExpertReview,
  type ExpertShape,
  type PrefillLoad,
  reviewExperts,
} from "./balancers.ts";
export type { PrefixMatch } from "./block-manager.ts";
export {
  type Admission,
  blockTokens,
  planStep,
  type RankPlan,
  type RankState,
  type SchedulerLimits,
  type SequenceView,
  type Share,
} from "./scheduler.ts";
