/** @file Door of `inference`: the engine and the server. */
export type {
  EngineService,
  EngineStats,
  FinishReason,
  GenerationEvent,
  GenerationRequest,
  ModelInfo,
  Sampling,
  TokenLogprob,
  Usage,
} from "./types.ts";
