/**
 * @file Door of `planner`: what a deployment of a mixture-of-experts model costs, yields and needs. Pure
 * functions over plain data, no I/O: they run in a browser too.
 */
export {
  type Architecture,
  type ArchitectureConfig,
  architectureOf,
  deepSeekV3,
  type Matrix,
  type ParameterCount,
} from "./architecture.ts";
export {
  type ArticleReport,
  articleFigures,
  articleNodesAt,
  articleReport,
  type NodeSpan,
  nodeSpans,
  poolScale,
} from "./article.ts";
export type { PoolScale } from "./autoscale.ts";
export {
  type Calibration,
  type CheckedPoint,
  calibrate,
  calibration,
} from "./calibration.ts";
export {
  type DayOptions,
  type DayResult,
  type DayWindow,
  publishedDay,
  simulateDay,
} from "./day.ts";
export { type DecodeLoad, type DecodeStep, decodeStep } from "./decode.ts";
export { articleDemand, type Demand } from "./demand.ts";
export {
  type Deployment,
  type FittedNumbers,
  type MemoryBudget,
  memoryOf,
  type UnitOptions,
  unitsOf,
} from "./deployment.ts";
export {
  type DocumentRequest,
  type EstimateOptions,
  type EstimateReport,
  estimateReport,
  type FrontPoint,
  type PhaseReport,
  type PlanDocument,
  planDocument,
  type SearchReport,
} from "./document.ts";
export { type PlannerErrorCode, plannerErrors } from "./errors.ts";
export {
  type Bottleneck,
  type DecodeEstimate,
  estimateDecode,
  estimatePrefill,
  type PrefillEstimate,
  type Workload,
} from "./estimate.ts";
export { type Hardware, hardware, hardwareOf, parseHardware } from "./hardware.ts";
export {
  contiguousRates,
  denseRates,
  kernelConstants,
  lowLatencyUs,
  maskedRates,
  normalRates,
  type ProductRate,
  type Sourced,
} from "./kernels.ts";
export type { Lane, LayerTimeline, TimedOperation } from "./overlap.ts";
export { type PublishedPoint, publishedPoints } from "./points.ts";
export {
  type PrefillLoad,
  type PrefillStep,
  prefillLoad,
  prefillStep,
} from "./prefill.ts";
export {
  type DecodeChoice,
  type Plan,
  type PrefillChoice,
  type SearchOptions,
  type SearchResult,
  searchPlans,
} from "./search.ts";
