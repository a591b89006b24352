/** @file The engine's error codes, and the refusal of requests that it can not serve. */
import { BaleenError, type RetryAdvice } from "../base/index.ts";
import type { GenerationRequest, Sampling } from "./types.ts";

/** A code of the engine's errors, in thrown `BaleenError`s and in events that end with "error". */
export type EngineErrorCode =
  | "invalid-request"
  | "prompt-too-long"
  | "queue-full"
  | "bad-logits"
  | "model-failed"
  | "cache-too-small"
  | "engine-closing"
  | "engine-failed";

/** Those codes, each with its retry advice. */
export const engineErrors: Readonly<Record<EngineErrorCode, RetryAdvice>> = {
  /** A field of the request is out of range. */
  "invalid-request": "never",
  /** The prompt leaves no room for an answer. */
  "prompt-too-long": "never",
  /** Too many requests wait. */
  "queue-full": "same",
  /** The model's output is not a number, for this sequence. */
  "bad-logits": "never",
  /** The model failed in a step. */
  "model-failed": "same",
  /** Not one block fits in the memory given to the cache. */
  "cache-too-small": "never",
  /** The engine shuts down. */
  "engine-closing": "same",
  /** The engine's thread died. */
  "engine-failed": "same",
};

/** What a request must fit into. */
export interface RequestBounds {
  readonly vocabSize: number;
  readonly maxContext: number;
}

/** A refusal, with the advice that belongs to its code. */
export function engineError(code: EngineErrorCode, message: string, cause?: unknown): BaleenError {
  return new BaleenError(code, message, { retry: engineErrors[code], cause });
}

/** Throws a BaleenError that names the field, unless `request` can be served within `bounds`. */
export function checkRequest(request: GenerationRequest, bounds: RequestBounds): void {
  const { prompt, maxTokens, sampling, stop, logprobs } = request;
  const { vocabSize, maxContext } = bounds;
  require(prompt.length > 0, "prompt", "is empty", "give at least one token");
  if (prompt.length >= maxContext) {
    throw engineError(
      "prompt-too-long",
      `prompt: ${prompt.length} tokens leave no room for an answer in a context of ` +
        `${maxContext}; shorten it.`,
    );
  }
  const isToken = (id: number) => Number.isInteger(id) && id >= 0 && id < vocabSize;
  const stray = prompt.findIndex((id) => !isToken(id));
  const vocabulary = `give ids from 0 to ${vocabSize - 1}`;
  require(stray < 0, `prompt[${stray}]`, `is ${prompt[stray]}, no token id`, vocabulary);
  const positive = Number.isInteger(maxTokens) && maxTokens >= 1;
  require(positive, "maxTokens", `is ${maxTokens}`, "give an integer of at least 1");
  const emptyStop = stop.indexOf("");
  require(emptyStop < 0, `stop[${emptyStop}]`, "is empty", "leave it out");
  const count = logprobs ?? 0;
  require(Number.isInteger(count) && count >= 0, "logprobs", `is ${logprobs}`, "give 0 or more");
  checkSampling(sampling, isToken, vocabulary);
}

function checkSampling(
  sampling: Sampling,
  isToken: (id: number) => boolean,
  vocabulary: string,
): void {
  const between = (name: keyof Sampling, low: number, high: number, integer = false) => {
    const value = sampling[name] as number;
    const fits = value >= low && value <= high && (!integer || Number.isInteger(value));
    const kind = integer ? "an integer" : "a number";
    require(fits, name, `is ${value}`, `give ${kind} from ${low} to ${high}`);
  };
  between("temperature", 0, 1e6);
  between("topP", 0, 1);
  between("topK", 0, 2 ** 31 - 1, true);
  between("minP", 0, 1);
  between("presencePenalty", -1e6, 1e6);
  between("frequencyPenalty", -1e6, 1e6);
  between("repetitionPenalty", 1e-6, 1e6);
  between("seed", -(2 ** 53), 2 ** 53, true);
  sampling.logitBias.forEach(([tokenId, bias], i) => {
    require(isToken(tokenId), `logitBias[${i}]`, `names ${tokenId}, no token id`, vocabulary);
    require(Number.isFinite(bias), `logitBias[${i}]`, `is ${bias}`, "give a finite number");
  });
}

function require(holds: boolean, field: string, problem: string, advice: string): void {
  if (!holds) throw engineError("invalid-request", `${field} ${problem}: ${advice}.`);
}
