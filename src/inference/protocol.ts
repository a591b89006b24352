/** @file What the engine's thread and the thread that started it say to each other. */
import type { BaleenError, RetryAdvice } from "../base/index.ts";
import type { LoadOptions } from "../model/index.ts";
import type { EngineOptions } from "./engine.ts";
import type { NullModelOptions } from "./null-model.ts";
import type { EngineStats, GenerationEvent, GenerationRequest, ModelInfo } from "./types.ts";

/** What to serve and how: the model's options, the engine's, and which model. */
export interface StartOptions extends Omit<EngineOptions, "clock">, LoadOptions {
  /** A Hugging Face directory: its tokenizer, and its model unless another is named below. */
  readonly modelDir?: string | undefined;
  /** The model's name towards clients; the directory's name unless given. */
  readonly id?: string | undefined;
  /** Run a null model. */
  readonly nullModel?: NullModelOptions | undefined;
  /** URL of a module whose `loadModel(modelDir, options)` returns the model, or a promise of it. */
  readonly modelModule?: string | undefined;
}

/** To the engine's thread; a message is a list of these. */
export type Command =
  | { readonly type: "add"; readonly request: GenerationRequest }
  | { readonly type: "cancel"; readonly id: string }
  | { readonly type: "close" };

/** From the engine's thread. */
export type Report =
  | { readonly type: "ready"; readonly info: Omit<ModelInfo, "id">; readonly stats: EngineStats }
  | {
      readonly type: "events";
      readonly events: readonly GenerationEvent[];
      readonly stats: EngineStats | undefined;
    }
  | {
      readonly type: "failed";
      readonly code: string | undefined;
      readonly retry: RetryAdvice;
      readonly message: string;
    };

/** The one event of a request that never reached a step. */
export function refusalOf(
  { id, prompt }: GenerationRequest,
  { code, message }: Pick<BaleenError, "code" | "message">,
): GenerationEvent {
  const usage = { promptTokens: prompt.length, cachedTokens: 0, completionTokens: 0 };
  return { id, tokenIds: [], text: "", finish: { reason: "error", usage, code, message } };
}
