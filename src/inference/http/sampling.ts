/** @file From a request's fields to the engine's `Sampling`, with the model's own defaults. */
import { randomInt } from "node:crypto";
import type { Sampling } from "../types.ts";
import { invalid } from "./errors.ts";
import type { SharedRequest } from "./requests.ts";

/** Values for fields that a request leaves out. */
export type SamplingDefaults = Partial<
  Pick<Sampling, "temperature" | "topP" | "topK" | "minP" | "repetitionPenalty">
>;

/**
 * The sampling defaults of a parsed `generation_config.json`; entries that are no number are left
 * out. `do_sample: false` is greedy.
 */
export function samplingDefaults(config: unknown): SamplingDefaults {
  if (config === null || typeof config !== "object") return {};
  const fields = config as Readonly<Record<string, unknown>>;
  const defaults: Record<string, number> = {};
  const names = [
    ["temperature", "temperature"],
    ["topP", "top_p"],
    ["topK", "top_k"],
    ["minP", "min_p"],
    ["repetitionPenalty", "repetition_penalty"],
  ] as const;
  for (const [ours, theirs] of names) {
    const value = fields[theirs];
    if (typeof value === "number" && Number.isFinite(value)) defaults[ours] = value;
  }
  if (fields.do_sample === false) defaults.temperature = 0;
  return defaults;
}

/** The `Sampling` of one choice of a checked request. */
export function samplingOf(
  request: SharedRequest,
  defaults: SamplingDefaults,
  seed: number,
  logitBias: Sampling["logitBias"],
): Sampling {
  return {
    temperature: request.temperature ?? defaults.temperature ?? 1,
    // Zero would keep no token at all: the least positive share keeps the likeliest.
    topP: Math.max(request.top_p ?? defaults.topP ?? 1, 1e-6),
    topK: Math.max(request.top_k ?? defaults.topK ?? 0, 0),
    minP: request.min_p ?? defaults.minP ?? 0,
    presencePenalty: request.presence_penalty ?? 0,
    frequencyPenalty: request.frequency_penalty ?? 0,
    repetitionPenalty: request.repetition_penalty ?? defaults.repetitionPenalty ?? 1,
    seed,
    logitBias,
  };
}

/** The request's seed, or a random one of 32 bits. */
export function seedOf(request: SharedRequest): number {
  return request.seed ?? randomInt(2 ** 32);
}

/** The request's `logit_bias` as pairs; a 400 for a key that is no id of the vocabulary. */
export function logitBiasOf(request: SharedRequest, vocabSize: number): Sampling["logitBias"] {
  return Object.entries(request.logit_bias ?? {}).map(([key, bias]) => {
    const id = /^\d{1,10}$/.test(key) ? Number(key) : Number.NaN;
    if (!(id < vocabSize)) {
      throw invalid(
        "logit_bias",
        "invalid_value",
        `logit_bias: got the key "${key.slice(0, 40)}", wanted a token id below ${vocabSize}. ` +
          "Correct the key or leave it out.",
      );
    }
    return [id, bias] as const;
  });
}
