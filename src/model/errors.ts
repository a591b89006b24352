/** @file The error codes of `model`, with what a caller may do about each. */
import { BaleenError, type RetryAdvice } from "../base/index.ts";

/** A code of the errors that reading a model directory raises. */
export type ModelErrorCode =
  | "config-invalid"
  | "checkpoint-invalid"
  | "tokenizer-invalid"
  | "text-too-long"
  | "chat-template-missing"
  | "chat-template-failed";

/** Those codes, each with its retry advice. */
export const modelErrors: Readonly<Record<ModelErrorCode, RetryAdvice>> = {
  /** `config.json` is missing, broken, or describes what is not supported. */
  "config-invalid": "never",
  /** Weights don't fit the config: a tensor is missing, misshapen or of another architecture. */
  "checkpoint-invalid": "never",
  /** `tokenizer.json` is missing, broken, or asks for what is not supported. */
  "tokenizer-invalid": "never",
  /** A text has a run that the regular expressions can't take in one go; some megabytes. */
  "text-too-long": "never",
  /** The model has no chat template. */
  "chat-template-missing": "never",
  /** The chat template can't be parsed, or refuses these messages. */
  "chat-template-failed": "never",
};

/** A `BaleenError` of this room; the retry advice comes from the table. */
export function modelError(code: ModelErrorCode, message: string, cause?: unknown): BaleenError {
  return new BaleenError(code, message, { retry: modelErrors[code], cause });
}
