/** @file Door of `inference`: the engine and the server. */
export { Engine, type EngineOptions } from "./engine.ts";
export { type EngineErrorCode, engineErrors } from "./errors.ts";
export { type App, createApp } from "./http/app.ts";
export { type LoadedModel, loadServed } from "./http/load-served.ts";
export {
  defaultHttpOptions,
  type HttpOptions,
  type PlainMessage,
  type Served,
  type TextCodec,
} from "./http/options.ts";
export { type PageServer, type PageServerOptions, startPageServer } from "./http/page-server.ts";
export { type SamplingDefaults, samplingDefaults } from "./http/sampling.ts";
export { type ListenOptions, type RunningServer, startServer } from "./http/server.ts";
export { exitOnSignals } from "./http/signals.ts";
export { NullModel, type NullModelOptions, nullDetokenizer } from "./null-model.ts";
export type { StartOptions } from "./protocol.ts";
export { Sampler, type TokenHistory } from "./sampler.ts";
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
export type { Detokenizer, StreamDecoder } from "./sequence.ts";
export { startEngine } from "./service.ts";
export {
  defaultSampling,
  type EngineService,
  type EngineStats,
  type FinishReason,
  type GenerationEvent,
  type GenerationRequest,
  type ModelInfo,
  type Sampling,
  type TokenLogprob,
  type Usage,
} from "./types.ts";
