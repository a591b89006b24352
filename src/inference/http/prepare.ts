/** @file What both endpoints check and derive before an answer can run. */
import { randomUUID } from "node:crypto";
import type { GenerationRequest } from "../types.ts";
import { ApiError, invalid } from "./errors.ts";
import type { Served } from "./options.ts";
import { maxChoices, type SharedRequest } from "./requests.ts";
import { logitBiasOf, samplingOf, seedOf } from "./sampling.ts";

/** A new answer's id, such as `chatcmpl-6f1c...`. */
export function newId(prefix: string): string {
  return `${prefix}-${randomUUID().replaceAll("-", "")}`;
}

/** Throws a 404 unless `name` is the served model's (or absent). */
export function checkModel(name: string | null | undefined, served: Served): void {
  const { id } = served.engine.info;
  if (name === null || name === undefined || name === id) return;
  throw new ApiError(
    404,
    "model_not_found",
    `model: there is no "${name.slice(0, 100)}" here. Use "${id}"; /v1/models lists what there is.`,
    { param: "model" },
  );
}

/** Throws a 400 for `stream_options` without `stream`. */
export function checkStreamOptions(request: SharedRequest): void {
  if (!request.stream_options || request.stream) return;
  throw invalid(
    "stream_options",
    "invalid_value",
    "stream_options: has a meaning only with stream: true. Add that or leave it out.",
  );
}

/** The token ids of a prompt text; `param` names it in the 400 for one that can't fit. */
export function encodePrompt(text: string, param: string, served: Served): readonly number[] {
  const options = { addSpecialTokens: true, allowSpecial: true };
  return checkPrompt(served.tokenizer.encode(text, options), param, served);
}

/** `ids`, if they are of the vocabulary and leave room for an answer; else a 400. */
export function checkPrompt(
  ids: readonly number[],
  param: string,
  served: Served,
): readonly number[] {
  const { maxContext, vocabSize } = served.engine.info;
  if (ids.length === 0) {
    throw invalid(param, "invalid_value", `${param}: is empty, wanted at least one token.`);
  }
  if (ids.length >= maxContext) throw contextTooLong(param, ids.length, maxContext);
  const foreign = ids.find((id) => id >= vocabSize);
  if (foreign !== undefined) {
    throw invalid(
      param,
      "invalid_value",
      `${param}: got the token id ${foreign}, wanted ids below ${vocabSize}. ` +
        "Encode the text with this model's tokenizer, or send the text.",
    );
  }
  return ids;
}

function contextTooLong(param: string, tokens: number, maxContext: number): ApiError {
  return invalid(
    param,
    "context_length_exceeded",
    `${param}: has ${tokens} tokens, and this model's context holds ${maxContext}, at least one ` +
      "of them for the answer. Shorten the prompt.",
  );
}

/** Throws a 400 for more than `maxChoices` answers in one request. */
export function checkChoices(prompts: number, n: number): void {
  if (prompts * n <= maxChoices) return;
  throw invalid(
    "n",
    "invalid_value",
    `n: ${prompts} prompts times ${n} are more than ${maxChoices} answers. Send several requests.`,
  );
}

/** Engine requests for `n` choices of each prompt, in the order of their indices. */
export function engineRequests(
  id: string,
  prompts: readonly (readonly number[])[],
  request: SharedRequest,
  logprobs: number | undefined,
  served: Served,
): GenerationRequest[] {
  const { maxContext, vocabSize } = served.engine.info;
  const n = request.n ?? 1;
  const limit = maxTokensOf(request);
  const logitBias = logitBiasOf(request, vocabSize);
  const seed = seedOf(request);
  const { stop } = request;
  const shared = {
    stop: typeof stop === "string" ? [stop] : (stop ?? []),
    stopTokenIds: request.stop_token_ids ?? [],
    ignoreEos: request.ignore_eos ?? false,
    logprobs,
  };
  return prompts.flatMap((prompt, at) =>
    Array.from({ length: n }, (_, choice) => ({
      ...shared,
      id: `${id}-${at * n + choice}`,
      prompt,
      maxTokens: Math.min(limit, maxContext - prompt.length),
      sampling: samplingOf(request, served.defaults ?? {}, seed + choice, logitBias),
    })),
  );
}

function maxTokensOf(request: SharedRequest): number {
  const { max_tokens, max_completion_tokens } = request;
  if (max_tokens && max_completion_tokens && max_tokens !== max_completion_tokens) {
    throw invalid(
      "max_tokens",
      "invalid_value",
      "max_tokens and max_completion_tokens differ. Send one of them.",
    );
  }
  return max_completion_tokens ?? max_tokens ?? Number.POSITIVE_INFINITY;
}
