/**
 * @file What a token costs: parameters, floating-point operations and bytes of a DeepSeek-V2/V3-family
 * model, counted from its config. Source of the shapes: DeepSeek-V2 and -V3 technical reports.
 *
 * One multiply-add is 2 operations. Attention over cached keys has two forms with the same result:
 * plain expands the latent to keys and values per head (2 (nope + rope + v) operations a head and
 * key), absorbed folds that expansion into query and output (2 (2 rank + rope), more work, but it
 * reads only the latent). Plain pays in prefill, absorbed in decode.
 */
import type { ModelConfig } from "../model/index.ts";
import { checkNumber, refuse } from "./errors.ts";

/** The part of a model's config that costs depend on. */
export type ArchitectureConfig = Pick<
  ModelConfig,
  | "vocabSize"
  | "hiddenSize"
  | "intermediateSize"
  | "moeIntermediateSize"
  | "numHiddenLayers"
  | "numNextnPredictLayers"
  | "numAttentionHeads"
  | "qLoraRank"
  | "kvLoraRank"
  | "qkNopeHeadDim"
  | "qkRopeHeadDim"
  | "vHeadDim"
  | "nRoutedExperts"
  | "nSharedExperts"
  | "numExpertsPerTok"
  | "nGroup"
  | "topkGroup"
  | "firstKDenseReplace"
  | "moeLayerFreq"
>;

/** DeepSeek-V3 and -R1. Source: config.json at huggingface.co/deepseek-ai/DeepSeek-V3. */
export const deepSeekV3: ArchitectureConfig = {
  vocabSize: 129280,
  hiddenSize: 7168,
  intermediateSize: 18432,
  moeIntermediateSize: 2048,
  numHiddenLayers: 61,
  numNextnPredictLayers: 1,
  numAttentionHeads: 128,
  qLoraRank: 1536,
  kvLoraRank: 512,
  qkNopeHeadDim: 128,
  qkRopeHeadDim: 64,
  vHeadDim: 128,
  nRoutedExperts: 256,
  nSharedExperts: 1,
  numExpertsPerTok: 8,
  nGroup: 8,
  topkGroup: 4,
  firstKDenseReplace: 3,
  moeLayerFreq: 1,
};

/** One matrix, as a product with it is written: `[rows, k] x [k, n]`. */
export interface Matrix {
  readonly name: string;
  readonly n: number;
  readonly k: number;
}

/** Parameters by where they lie; elements. Of one layer unless said. */
export interface ParameterCount {
  readonly attention: number;
  readonly denseMlp: number;
  readonly expert: number;
  readonly sharedExperts: number;
  readonly gate: number;
  /** Embedding and output head together. */
  readonly vocabulary: number;
  /** All of the model without MTP layers. */
  readonly total: number;
  /** Those that one token passes through, embedding and head included. */
  readonly active: number;
  /** One MTP layer, its two-to-one projection included; it shares embedding and head. */
  readonly mtpLayer: number;
}

/** A model's costs. */
export interface Architecture {
  readonly config: ArchitectureConfig;
  readonly denseLayers: number;
  readonly moeLayers: number;
  readonly parameters: ParameterCount;
  /** Projections of attention; `kv_b` is the expansion that only the plain form computes. */
  readonly projections: readonly Matrix[];
  /** Bytes of the cache: latent and rotary key in bf16, all layers without MTP. */
  readonly kvBytesPerToken: number;
  /** The same of one layer. */
  readonly kvBytesPerLayer: number;
  /** Operations of one query token per key, one layer, all heads. */
  readonly plainFlopsPerKey: number;
  readonly absorbedFlopsPerKey: number;
  /** Operations of one token outside attention's core, by part, one layer. */
  readonly flops: {
    readonly projections: number;
    readonly routed: number;
    readonly shared: number;
    readonly denseMlp: number;
    readonly head: number;
  };
}

/** The costs of the model that `config` describes; `plan-input-invalid` names a field. */
export function architectureOf(config: ArchitectureConfig): Architecture {
  checkConfig(config);
  const { hiddenSize: h, numAttentionHeads: heads, kvLoraRank, qkRopeHeadDim: rope } = config;
  const { qkNopeHeadDim: nope, vHeadDim: v, moeIntermediateSize, numHiddenLayers } = config;
  const projections = projectionsOf(config);
  const moeLayers = countMoeLayers(config);
  const denseLayers = numHiddenLayers - moeLayers;
  const parameters = parametersOf(config, projections, moeLayers);
  const kvBytesPerLayer = (kvLoraRank + rope) * 2;
  const expertFlops = 6 * h * moeIntermediateSize;
  return {
    config,
    denseLayers,
    moeLayers,
    parameters,
    projections,
    kvBytesPerLayer,
    kvBytesPerToken: kvBytesPerLayer * numHiddenLayers,
    plainFlopsPerKey: 2 * heads * (nope + rope + v),
    absorbedFlopsPerKey: 2 * heads * (2 * kvLoraRank + rope),
    flops: {
      projections: projections.reduce((sum, { n, k }) => sum + 2 * n * k, 0),
      routed: expertFlops * config.numExpertsPerTok,
      shared: expertFlops * config.nSharedExperts,
      denseMlp: 6 * h * config.intermediateSize,
      head: 2 * h * config.vocabSize,
    },
  };
}

function projectionsOf(config: ArchitectureConfig): Matrix[] {
  const { hiddenSize: h, numAttentionHeads: heads, qLoraRank, kvLoraRank } = config;
  const { qkNopeHeadDim: nope, qkRopeHeadDim: rope, vHeadDim: v } = config;
  const queries = heads * (nope + rope);
  // The two down-projections share their input and run as one product.
  const down = kvLoraRank + rope + (qLoraRank ?? queries);
  return [
    { name: "qkv_a", n: down, k: h },
    ...(qLoraRank === undefined ? [] : [{ name: "q_b", n: queries, k: qLoraRank }]),
    { name: "kv_b", n: heads * (nope + v), k: kvLoraRank },
    { name: "o", n: h, k: heads * v },
  ];
}

function countMoeLayers(config: ArchitectureConfig): number {
  const { numHiddenLayers, firstKDenseReplace, moeLayerFreq, nRoutedExperts } = config;
  if (nRoutedExperts === 0) return 0;
  let count = 0;
  for (let layer = firstKDenseReplace; layer < numHiddenLayers; layer++) {
    if (layer % moeLayerFreq === 0) count++;
  }
  return count;
}

function parametersOf(
  config: ArchitectureConfig,
  projections: readonly Matrix[],
  moeLayers: number,
): ParameterCount {
  const { hiddenSize: h, numHiddenLayers, vocabSize, moeIntermediateSize } = config;
  const attention = projections.reduce((sum, { n, k }) => sum + n * k, 0);
  const denseMlp = 3 * h * config.intermediateSize;
  const expert = 3 * h * moeIntermediateSize;
  const sharedExperts = expert * config.nSharedExperts;
  const gate = h * config.nRoutedExperts;
  const vocabulary = 2 * h * vocabSize;
  const common =
    numHiddenLayers * attention +
    (numHiddenLayers - moeLayers) * denseMlp +
    moeLayers * (sharedExperts + gate) +
    vocabulary;
  return {
    attention,
    denseMlp,
    expert,
    sharedExperts,
    gate,
    vocabulary,
    total: common + moeLayers * config.nRoutedExperts * expert,
    active: common + moeLayers * config.numExpertsPerTok * expert,
    mtpLayer: attention + sharedExperts + gate + config.nRoutedExperts * expert + 2 * h * h,
  };
}

/** Optional keys of a config that may be 0. */
const mayBeZero: readonly string[] = [
  "numNextnPredictLayers",
  "nRoutedExperts",
  "nSharedExperts",
  "firstKDenseReplace",
];

function checkConfig(config: ArchitectureConfig): void {
  for (const key of Object.keys(deepSeekV3) as (keyof ArchitectureConfig)[]) {
    const value = config[key];
    if (key === "qLoraRank" && value === undefined) continue;
    checkNumber(`config.${key}`, value, { min: mayBeZero.includes(key) ? 0 : 1, whole: true });
  }
  if (config.nRoutedExperts > 0 && config.numExpertsPerTok > config.nRoutedExperts) {
    const problem = `is ${config.numExpertsPerTok}, more than the ${config.nRoutedExperts} experts`;
    throw refuse("config.numExpertsPerTok", problem, "give at most all experts");
  }
}
