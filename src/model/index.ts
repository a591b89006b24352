/** @file Door of `model`: DeepSeek-V3-family checkpoints, from files to logits. */
export {
  type ChatMessage,
  ChatTemplate,
  encodeChat,
  type RenderOptions,
} from "./chat-template.ts";
export { type Checkpoint, openCheckpoint } from "./checkpoint.ts";
export {
  isMoeLayer,
  type ModelConfig,
  parseModelConfig,
  type Quantization,
  type RopeSettings,
  readModelConfig,
  supportedModelTypes,
} from "./config.ts";
export { type ModelErrorCode, modelErrors } from "./errors.ts";
export { type LoadOptions, loadModel, type Precision } from "./load.ts";
export { type EncodeOptions, Tokenizer, type TokenStream } from "./tokenizer/tokenizer.ts";
export type {
  DraftSequence,
  ForwardResult,
  ForwardSequence,
  KvCache,
  LanguageModel,
} from "./types.ts";
