/**
 * @file `config.json` of the DeepSeek-V2 and -V3 architectures (Kimi-K2 is a V3), checked and
 * resolved: every optional field has its value, both spellings of the rotary parameters are one,
 * nulls are gone.
 * Defaults are those of the configuration classes in DeepSeek's repositories and `transformers`.
 */
import { join } from "node:path";
import { z } from "zod";
import { modelError } from "./errors.ts";
import { readJsonFile } from "./json-file.ts";
import type { YarnScaling } from "./rope.ts";

/** A model's architecture. Sizes are counts of elements; names are the config's, in camelCase. */
export interface ModelConfig {
  /** `kimi_k2` is `deepseek_v3` under the name that Moonshot gave it. */
  readonly modelType: "deepseek_v2" | "deepseek_v3" | "kimi_k2";
  readonly vocabSize: number;
  readonly hiddenSize: number;
  /** Width of a dense layer's MLP. */
  readonly intermediateSize: number;
  /** Width of one expert's MLP; the shared experts form one MLP of `nSharedExperts` times it. */
  readonly moeIntermediateSize: number;
  readonly numHiddenLayers: number;
  /** MTP layers after the hidden ones, as announced; the weights may lack them all the same. */
  readonly numNextnPredictLayers: number;
  readonly numAttentionHeads: number;
  /** Width of the queries' latent; undefined where queries are projected directly. */
  readonly qLoraRank: number | undefined;
  /** Width of the latent that keys and values come from. */
  readonly kvLoraRank: number;
  readonly qkNopeHeadDim: number;
  /** Even. */
  readonly qkRopeHeadDim: number;
  readonly vHeadDim: number;
  /** 0: every layer is dense. */
  readonly nRoutedExperts: number;
  readonly nSharedExperts: number;
  readonly numExpertsPerTok: number;
  /** Groups of routed experts; divides `nRoutedExperts`. */
  readonly nGroup: number;
  /** Groups that a token's experts may come from. */
  readonly topkGroup: number;
  readonly topkMethod: "noaux_tc" | "greedy" | "group_limited_greedy";
  readonly scoringFunc: "sigmoid" | "softmax";
  readonly normTopkProb: boolean;
  readonly routedScalingFactor: number;
  /** The first layers, which are dense. */
  readonly firstKDenseReplace: number;
  /** After those, layers whose index is a multiple of it have experts. */
  readonly moeLayerFreq: number;
  readonly rmsNormEps: number;
  readonly rope: RopeSettings;
  readonly maxPositionEmbeddings: number;
  readonly tieWordEmbeddings: boolean;
  readonly bosTokenId: number | undefined;
  /** Ids that end an answer: those of `config.json` and of `generation_config.json`. */
  readonly eosTokenIds: readonly number[];
  /** How FP8 weights and activations are scaled; undefined where no weights are FP8. */
  readonly quantization: Quantization | undefined;
}

/** Rotary positions. */
export interface RopeSettings {
  readonly theta: number;
  readonly yarn: YarnScaling | undefined;
}

/** E4M3 weights in 128 x 128 blocks, activations quantised as they come, per 128 channels. */
export interface Quantization {
  /** `ue8m0`: activations' scales are rounded up to powers of two. */
  readonly scaleFormat: "f32" | "ue8m0";
}

/** The model types that `readModelConfig` takes. */
export const supportedModelTypes: readonly ModelConfig["modelType"][] = [
  "deepseek_v2",
  "deepseek_v3",
  "kimi_k2",
];

const size = z.int().min(1);
const count = z.int().min(0);
const tokenId = z.int().min(0);
/** Absent and null are alike. */
const optional = <T extends z.ZodType>(type: T) => type.nullish().transform((v) => v ?? undefined);

const ropeSchema = z.object({
  type: optional(z.string()),
  rope_type: optional(z.string()),
  rope_theta: optional(z.number().positive()),
  factor: optional(z.number().positive()),
  original_max_position_embeddings: optional(size),
  beta_fast: optional(z.number().positive()),
  beta_slow: optional(z.number().positive()),
  mscale: optional(z.number().min(0)),
  mscale_all_dim: optional(z.number().min(0)),
  attention_factor: optional(z.number()),
  partial_rotary_factor: optional(z.number()),
  truncate: optional(z.boolean()),
});

const quantizationSchema = z.object({
  quant_method: z.literal("fp8"),
  fmt: optional(z.literal("e4m3")),
  activation_scheme: optional(z.literal("dynamic")),
  weight_block_size: z.tuple([z.literal(128), z.literal(128)]),
  scale_fmt: optional(z.enum(["ue8m0", "float"])),
});

const configSchema = z.object({
  model_type: z.enum(supportedModelTypes),
  vocab_size: size,
  hidden_size: size,
  intermediate_size: size,
  moe_intermediate_size: optional(size),
  num_hidden_layers: size,
  num_nextn_predict_layers: optional(count),
  num_mtp_layers: optional(count),
  num_attention_heads: size,
  // Null says: no query latent. Absent says: the class default.
  q_lora_rank: size.nullable().default(1536),
  kv_lora_rank: size.default(512),
  qk_nope_head_dim: size.default(128),
  qk_rope_head_dim: size.multipleOf(2).default(64),
  v_head_dim: size.default(128),
  n_routed_experts: optional(count),
  n_shared_experts: optional(count),
  num_experts_per_tok: optional(size),
  n_group: optional(size),
  topk_group: optional(size),
  topk_method: optional(z.enum(["noaux_tc", "greedy", "group_limited_greedy"])),
  scoring_func: optional(z.enum(["sigmoid", "softmax"])),
  norm_topk_prob: optional(z.boolean()),
  routed_scaling_factor: optional(z.number()),
  first_k_dense_replace: optional(count),
  moe_layer_freq: optional(size),
  rms_norm_eps: optional(z.number().positive()),
  rope_theta: optional(z.number().positive()),
  rope_scaling: optional(ropeSchema),
  rope_parameters: optional(ropeSchema),
  rope_interleave: optional(z.literal(true)),
  max_position_embeddings: optional(size),
  hidden_act: optional(z.literal("silu")),
  attention_bias: optional(z.literal(false)),
  mlp_bias: optional(z.literal(false)),
  tie_word_embeddings: optional(z.boolean()),
  bos_token_id: optional(tokenId),
  eos_token_id: optional(z.union([tokenId, z.array(tokenId)])),
  quantization_config: optional(quantizationSchema),
});

const generationSchema = z.object({
  eos_token_id: optional(z.union([tokenId, z.array(tokenId)])),
});

/**
 * The config of the Hugging Face directory `dir`: `config.json`, and the end-of-answer ids of
 * `generation_config.json` where there is one. Raises `config-invalid`, naming file and field.
 */
export function readModelConfig(dir: string): ModelConfig {
  const path = join(dir, "config.json");
  const json = readJsonFile(path, "config-invalid");
  if (json === undefined) {
    const message = `${path} does not exist. Give a Hugging Face model directory.`;
    throw modelError("config-invalid", message);
  }
  const generationPath = join(dir, "generation_config.json");
  const generation = readJsonFile(generationPath, "config-invalid") ?? {};
  const { eos_token_id: more } = checked(generationPath, generationSchema, generation);
  const config = parseModelConfig(json, path);
  const ids = new Set([...config.eosTokenIds, ...listOf(more)]);
  return { ...config, eosTokenIds: [...ids] };
}

/** The config that the parsed `config.json` describes; `path` is for messages. */
export function parseModelConfig(json: unknown, path: string = "config.json"): ModelConfig {
  const raw = checked(path, configSchema, json);
  const isV3 = raw.model_type !== "deepseek_v2";
  const config: ModelConfig = {
    modelType: raw.model_type,
    vocabSize: raw.vocab_size,
    hiddenSize: raw.hidden_size,
    intermediateSize: raw.intermediate_size,
    moeIntermediateSize: raw.moe_intermediate_size ?? raw.intermediate_size,
    numHiddenLayers: raw.num_hidden_layers,
    numNextnPredictLayers: raw.num_nextn_predict_layers ?? raw.num_mtp_layers ?? 0,
    numAttentionHeads: raw.num_attention_heads,
    qLoraRank: raw.q_lora_rank ?? undefined,
    kvLoraRank: raw.kv_lora_rank,
    qkNopeHeadDim: raw.qk_nope_head_dim,
    qkRopeHeadDim: raw.qk_rope_head_dim,
    vHeadDim: raw.v_head_dim,
    nRoutedExperts: raw.n_routed_experts ?? 0,
    nSharedExperts: raw.n_shared_experts ?? 0,
    numExpertsPerTok: raw.num_experts_per_tok ?? (isV3 ? 8 : 6),
    nGroup: raw.n_group ?? 1,
    topkGroup: raw.topk_group ?? 1,
    topkMethod: raw.topk_method ?? (isV3 ? "noaux_tc" : "greedy"),
    scoringFunc: raw.scoring_func ?? (isV3 ? "sigmoid" : "softmax"),
    normTopkProb: raw.norm_topk_prob ?? isV3,
    routedScalingFactor: raw.routed_scaling_factor ?? (isV3 ? 2.5 : 1),
    firstKDenseReplace: raw.first_k_dense_replace ?? (isV3 ? 3 : 0),
    moeLayerFreq: raw.moe_layer_freq ?? 1,
    rmsNormEps: raw.rms_norm_eps ?? 1e-6,
    rope: ropeOf(path, raw),
    maxPositionEmbeddings: raw.max_position_embeddings ?? (isV3 ? 4096 : 2048),
    tieWordEmbeddings: raw.tie_word_embeddings ?? false,
    bosTokenId: raw.bos_token_id,
    eosTokenIds: listOf(raw.eos_token_id),
    quantization: raw.quantization_config && {
      scaleFormat: raw.quantization_config.scale_fmt === "ue8m0" ? "ue8m0" : "f32",
    },
  };
  checkExperts(path, config);
  return config;
}

/** Whether layer `layer` (the MTP layer follows the hidden ones) has routed experts. */
export function isMoeLayer(config: ModelConfig, layer: number): boolean {
  const { nRoutedExperts, firstKDenseReplace, moeLayerFreq } = config;
  return nRoutedExperts > 0 && layer >= firstKDenseReplace && layer % moeLayerFreq === 0;
}

function ropeOf(path: string, raw: z.infer<typeof configSchema>): RopeSettings {
  const field = raw.rope_scaling ? "rope_scaling" : "rope_parameters";
  const rope = raw[field];
  const theta = rope?.rope_theta ?? raw.rope_theta ?? 10_000;
  const type = rope?.rope_type ?? rope?.type ?? "default";
  const part = rope?.partial_rotary_factor ?? 1;
  if (part !== 1) throw unsupported(path, `${field}.partial_rotary_factor`, part, "1 and null");
  if (!rope || type === "default") return { theta, yarn: undefined };
  if (type !== "yarn") throw unsupported(path, `${field}.rope_type`, type, '"default" and "yarn"');
  if (rope.attention_factor !== undefined) {
    throw unsupported(
      path,
      `${field}.attention_factor`,
      rope.attention_factor,
      "mscale and mscale_all_dim",
    );
  }
  if (rope.truncate === false) throw unsupported(path, `${field}.truncate`, false, "true and null");
  const { factor, original_max_position_embeddings: original } = rope;
  if (factor === undefined || original === undefined) {
    const missing = factor === undefined ? "factor" : "original_max_position_embeddings";
    throw invalid(path, `${field}.${missing}`, "is missing, and yarn needs it");
  }
  const yarn = {
    factor,
    originalMaxPositionEmbeddings: original,
    betaFast: rope.beta_fast ?? 32,
    betaSlow: rope.beta_slow ?? 1,
    mscale: rope.mscale ?? 1,
    mscaleAllDim: rope.mscale_all_dim ?? 0,
  };
  return { theta, yarn };
}

function checkExperts(path: string, config: ModelConfig): void {
  const { nRoutedExperts, nGroup, topkGroup, numExpertsPerTok, topkMethod } = config;
  if (nRoutedExperts === 0) return;
  if (nRoutedExperts % nGroup !== 0) {
    throw invalid(path, "n_group", `is ${nGroup}, which does not divide ${nRoutedExperts} experts`);
  }
  if (topkGroup > nGroup) {
    throw invalid(path, "topk_group", `is ${topkGroup}, more than the n_group of ${nGroup}`);
  }
  const grouped = topkMethod !== "greedy" && nGroup > 1;
  const reachable = grouped ? (nRoutedExperts / nGroup) * topkGroup : nRoutedExperts;
  if (numExpertsPerTok > reachable) {
    const what = `is ${numExpertsPerTok}, more than the ${reachable} experts a token can reach`;
    throw invalid(path, "num_experts_per_tok", what);
  }
}

function checked<T extends z.ZodType>(path: string, schema: T, json: unknown): z.infer<T> {
  const result = schema.safeParse(json);
  if (result.success) return result.data;
  const [issue] = result.error.issues;
  const field = issue.path.map(String).join(".") || "the file";
  const got = issue.path.reduce<unknown>(
    (value, key) => (value as Record<PropertyKey, unknown> | undefined)?.[key],
    json,
  );
  const what = got === undefined ? "is missing" : `is ${JSON.stringify(got)?.slice(0, 100)}`;
  throw invalid(path, field, `${what} (${issue.message})`, result.error);
}

function unsupported(path: string, field: string, got: unknown, supported: string): Error {
  const what = `is ${JSON.stringify(got)}, which is not supported; ${supported} are`;
  return invalid(path, field, what);
}

function invalid(path: string, field: string, what: string, cause?: unknown): Error {
  return modelError(
    "config-invalid",
    `${path}: ${field} ${what}. Give a checkpoint of ${supportedModelTypes.join(" or ")}.`,
    cause,
  );
}

function listOf(ids: number | readonly number[] | undefined): readonly number[] {
  return ids === undefined ? [] : typeof ids === "number" ? [ids] : ids;
}
