/** @file Door of `model`: DeepSeek-V3-family checkpoints, from files to logits. */
export type {
  DraftSequence,
  ForwardResult,
  ForwardSequence,
  KvCache,
  LanguageModel,
} from "./types.ts";
