/** @file Flags that several commands share: which model, how it runs, how its tokens are drawn. */
import { randomInt } from "node:crypto";
import { existsSync } from "node:fs";
import { join } from "node:path";
import { BaleenError } from "../base/index.ts";
import type { Sampling, SamplingDefaults, StartOptions } from "../inference/index.ts";
import type { LoadOptions } from "../model/index.ts";
import type { ChoiceFlag, NumberFlag, Parsed, SwitchFlag, TextFlag, WithDefault } from "./flags.ts";
import { shippedModel } from "./package.ts";

/** Which model, and on what it computes. */
export type ModelFlags = {
  readonly model: WithDefault<TextFlag>;
  readonly precision: WithDefault<ChoiceFlag<"f32" | "native">>;
  readonly rung: ChoiceFlag<"reference" | "x86">;
  readonly threads: NumberFlag;
  readonly "kv-dtype": WithDefault<ChoiceFlag<"f32" | "bf16">>;
};

/** Which model, and on what it computes. */
export const modelFlags: ModelFlags = {
  model: {
    type: "text",
    short: "m",
    value: "DIR",
    default: shippedModel,
    defaultHelp: "the package's models/austen-6m",
    help: "Hugging Face directory of a DeepSeek-V3-family model.",
  },
  precision: {
    type: "choice",
    choices: ["f32", "native"],
    default: "native",
    help: "Arithmetic: the checkpoint's own, or all in f32.",
  },
  rung: {
    type: "choice",
    choices: ["reference", "x86"],
    help: "Kernels: plain TypeScript or machine code; the best there is unless given.",
  },
  threads: {
    type: "whole",
    value: "N",
    min: 1,
    max: 1024,
    help: "Threads that compute; one per core unless given.",
  },
  "kv-dtype": {
    type: "choice",
    choices: ["f32", "bf16"],
    default: "f32",
    help: "Type of the cache: bf16 halves it and rounds keys and values.",
  },
};

/** A model, and how the engine runs it. */
export type EngineFlags = ModelFlags & {
  readonly "max-context": NumberFlag;
  readonly "max-sequences": WithDefault<NumberFlag>;
  readonly "kv-memory": NumberFlag;
  readonly mtp: SwitchFlag;
  readonly "prefix-cache": SwitchFlag;
  readonly "null-engine": SwitchFlag;
};

/** A model, and how the engine runs it. */
export const engineFlags: EngineFlags = {
  ...modelFlags,
  "max-context": {
    type: "whole",
    value: "TOKENS",
    min: 2,
    help: "Longest prompt and answer together; the model's own unless given.",
  },
  "max-sequences": {
    type: "whole",
    value: "N",
    min: 1,
    max: 65_536,
    default: 256,
    help: "Most sequences in a step.",
  },
  "kv-memory": {
    type: "bytes",
    value: "SIZE",
    min: 1,
    help: "Memory of the KV cache, such as 2GiB; a quarter of what is free unless given.",
  },
  mtp: {
    type: "switch",
    default: true,
    help: "Don't draft tokens with the model's MTP layer: same answers, later.",
  },
  "prefix-cache": {
    type: "switch",
    default: true,
    help: "Don't keep the cache of prompts for others that begin the same.",
  },
  "null-engine": {
    type: "switch",
    help: "Compute nothing and answer at once: for measuring the server alone.",
  },
};

/** How tokens are drawn; what is absent comes from the model's generation_config.json. */
export type SamplingFlags = {
  readonly "max-tokens": WithDefault<NumberFlag>;
  readonly temperature: NumberFlag;
  readonly "top-p": NumberFlag;
  readonly "top-k": NumberFlag;
  readonly "min-p": NumberFlag;
  readonly "repetition-penalty": NumberFlag;
  readonly seed: NumberFlag;
};

/** How tokens are drawn; what is absent comes from the model's generation_config.json. */
export const samplingFlags: SamplingFlags = {
  "max-tokens": {
    type: "whole",
    short: "n",
    value: "N",
    min: 1,
    default: 200,
    help: "Most tokens to generate.",
  },
  temperature: { type: "number", short: "t", value: "T", min: 0, max: 2, help: "0 is greedy." },
  "top-p": {
    type: "number",
    value: "P",
    min: 0,
    max: 1,
    help: "Keep the likeliest tokens that reach this share.",
  },
  "top-k": { type: "whole", value: "K", min: 0, help: "Keep the K likeliest; 0 keeps all." },
  "min-p": {
    type: "number",
    value: "P",
    min: 0,
    max: 1,
    help: "Keep tokens this probable relative to the likeliest.",
  },
  "repetition-penalty": {
    type: "number",
    value: "R",
    min: 0.01,
    max: 10,
    help: "Above 1 disfavours tokens seen before.",
  },
  seed: {
    type: "whole",
    value: "N",
    min: 0,
    max: 2 ** 32 - 1,
    help: "Same seed, same answer; random unless given.",
  },
};

/** The model's options that the flags stand for. */
export function loadOptions(flags: Parsed<ModelFlags>["flags"]): LoadOptions {
  const { precision, rung, threads } = flags;
  return { precision, rung, threads, kvDtype: flags["kv-dtype"] };
}

/**
 * Says on standard error, in one line, that plain TypeScript computes and why, where nobody asked for
 * it: it is slower by orders of magnitude. `description` is the model's.
 */
export function tellSlowRung(description: string, asked: string | undefined): void {
  if (asked === "reference" || !description.includes("reference: ")) return;
  process.stderr.write(`baleen: ${description}\n`);
}

/** The engine's options that the flags stand for. */
export function startOptions(
  flags: Parsed<EngineFlags>["flags"],
): StartOptions & { readonly modelDir: string } {
  return {
    ...loadOptions(flags),
    modelDir: modelDirectory(flags.model),
    maxContext: flags["max-context"],
    maxSequences: flags["max-sequences"],
    kvBytes: flags["kv-memory"],
    mtp: flags.mtp,
    prefixCache: flags["prefix-cache"],
    ...(flags["null-engine"] && { nullModel: {} }),
  };
}

/** `dir`, if it is a directory with a model in it. */
export function modelDirectory(dir: string): string {
  if (existsSync(join(dir, "config.json"))) return dir;
  const what = existsSync(dir) ? `${dir} has no config.json` : `${dir} does not exist`;
  throw new BaleenError(
    "model-missing",
    `${what}: give --model a Hugging Face directory of a DeepSeek-V3-family model.`,
  );
}

/** The sampling that the flags and, where they are silent, `defaults` stand for. */
export function samplingOf(
  flags: Partial<Parsed<SamplingFlags>["flags"]>,
  defaults: SamplingDefaults,
): Sampling {
  return {
    temperature: flags.temperature ?? defaults.temperature ?? 1,
    // Zero would keep no token at all: the least positive share keeps the likeliest.
    topP: Math.max(flags["top-p"] ?? defaults.topP ?? 1, 1e-6),
    topK: flags["top-k"] ?? defaults.topK ?? 0,
    minP: flags["min-p"] ?? defaults.minP ?? 0,
    presencePenalty: 0,
    frequencyPenalty: 0,
    repetitionPenalty: flags["repetition-penalty"] ?? defaults.repetitionPenalty ?? 1,
    seed: flags.seed ?? randomInt(2 ** 32),
    logitBias: [],
  };
}
