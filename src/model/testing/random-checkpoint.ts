/** @file Writes small Hugging Face directories with random weights, for tests. */
import { mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { Random } from "../../base/index.ts";
import {
  fromF32,
  quantiseBlocks,
  type Tensor,
  tensorOf,
  writeSafetensors,
} from "../../tensor/index.ts";

/** A config.json as a plain object, with the fields that the writer reads. */
export interface RandomConfig {
  readonly [field: string]: unknown;
  readonly hidden_size: number;
  readonly vocab_size: number;
  readonly intermediate_size: number;
  readonly moe_intermediate_size: number;
  readonly num_hidden_layers: number;
  readonly num_nextn_predict_layers?: number;
  readonly num_attention_heads: number;
  readonly n_routed_experts: number;
  readonly n_shared_experts: number;
  readonly first_k_dense_replace: number;
  readonly q_lora_rank: number | null;
  readonly kv_lora_rank: number;
  readonly qk_nope_head_dim: number;
  readonly qk_rope_head_dim: number;
  readonly v_head_dim: number;
  readonly topk_method: string;
}

/** The base of the configs that tests vary: tiny, V3-like, ragged where it may be. */
export const tinyConfig: RandomConfig = {
  architectures: ["DeepseekV3ForCausalLM"],
  model_type: "deepseek_v3",
  vocab_size: 200,
  hidden_size: 96,
  intermediate_size: 160,
  moe_intermediate_size: 48,
  num_hidden_layers: 3,
  num_nextn_predict_layers: 1,
  num_attention_heads: 3,
  num_key_value_heads: 3,
  n_routed_experts: 8,
  n_shared_experts: 1,
  num_experts_per_tok: 3,
  n_group: 4,
  topk_group: 2,
  first_k_dense_replace: 1,
  moe_layer_freq: 1,
  topk_method: "noaux_tc",
  scoring_func: "sigmoid",
  norm_topk_prob: true,
  routed_scaling_factor: 2.5,
  q_lora_rank: 40,
  kv_lora_rank: 72,
  qk_nope_head_dim: 24,
  qk_rope_head_dim: 16,
  v_head_dim: 20,
  hidden_act: "silu",
  rms_norm_eps: 1e-6,
  rope_theta: 10000,
  rope_scaling: null,
  max_position_embeddings: 4096,
  attention_bias: false,
  tie_word_embeddings: false,
  bos_token_id: 0,
  eos_token_id: 1,
};

/** How the weights of a random checkpoint are stored. */
export interface RandomCheckpointOptions {
  readonly seed: number;
  /** Type of the linear layers; the rest is bf16, the correction bias f32. */
  readonly weights: "bf16" | "f32" | "f8e4m3";
  /** Files that the tensors are spread over; above 1 with an index. */
  readonly shards?: number;
}

/** Writes `config.json` and the weights of a random model to the directory `dir`. */
export function writeRandomCheckpoint(
  dir: string,
  config: RandomConfig,
  options: RandomCheckpointOptions,
): void {
  mkdirSync(dir, { recursive: true });
  const quantised = options.weights === "f8e4m3";
  const written = quantised
    ? {
        ...config,
        quantization_config: {
          quant_method: "fp8",
          fmt: "e4m3",
          activation_scheme: "dynamic",
          weight_block_size: [128, 128],
        },
      }
    : config;
  writeFileSync(join(dir, "config.json"), JSON.stringify(written, null, 1));
  const tensors = randomTensors(config, options);
  const shards = options.shards ?? 1;
  if (shards === 1) {
    writeSafetensors(join(dir, "model.safetensors"), tensors);
    return;
  }
  const weightMap: Record<string, string> = {};
  const names = [...tensors.keys()];
  for (let s = 0; s < shards; s++) {
    const file = `model-${s + 1}-of-${shards}.safetensors`;
    const part = names.filter((_, i) => i % shards === s);
    for (const name of part) weightMap[name] = file;
    writeSafetensors(join(dir, file), new Map(part.map((n) => [n, tensors.get(n) as Tensor])));
  }
  const index = { metadata: {}, weight_map: weightMap };
  writeFileSync(join(dir, "model.safetensors.index.json"), JSON.stringify(index));
}

function randomTensors(
  config: RandomConfig,
  { seed, weights }: RandomCheckpointOptions,
): Map<string, Tensor> {
  const random = new Random(seed);
  const tensors = new Map<string, Tensor>();
  const values = (shape: number[], mean: number, deviation: number) =>
    tensorOf(
      "f32",
      shape,
      Float32Array.from(
        { length: shape.reduce((a, b) => a * b, 1) },
        () => mean + deviation * random.normal(),
      ),
    );
  const vector = (name: string, size: number) =>
    tensors.set(`${name}.weight`, fromF32(values([size], 1, 0.1), "bf16"));
  const plain = (name: string, rows: number, columns: number, deviation = columns ** -0.5) =>
    tensors.set(`${name}.weight`, fromF32(values([rows, columns], 0, deviation), "bf16"));
  const linear = (name: string, rows: number, columns: number) => {
    const matrix = values([rows, columns], 0, columns ** -0.5);
    if (weights === "f8e4m3") {
      const { codes, scales } = quantiseBlocks(matrix);
      tensors.set(`${name}.weight`, codes);
      tensors.set(`${name}.weight_scale_inv`, scales);
    } else {
      tensors.set(`${name}.weight`, weights === "f32" ? matrix : fromF32(matrix, "bf16"));
    }
  };
  const bias = (name: string, size: number) => tensors.set(name, values([size], 6, 0.2));
  const add = { vector, plain, linear, bias };
  const { hidden_size: hidden, num_hidden_layers: layers } = config;
  plain("model.embed_tokens", config.vocab_size, hidden, 1);
  for (let i = 0; i < layers; i++) {
    addLayer(config, `model.layers.${i}`, i < config.first_k_dense_replace, add);
  }
  vector("model.norm", hidden);
  plain("lm_head", config.vocab_size, hidden);
  if (config.num_nextn_predict_layers) {
    const prefix = `model.layers.${layers}`;
    addLayer(config, prefix, false, add);
    vector(`${prefix}.enorm`, hidden);
    vector(`${prefix}.hnorm`, hidden);
    plain(`${prefix}.eh_proj`, hidden, 2 * hidden);
    vector(`${prefix}.shared_head.norm`, hidden);
  }
  return tensors;
}

interface Add {
  vector(name: string, size: number): void;
  plain(name: string, rows: number, columns: number): void;
  linear(name: string, rows: number, columns: number): void;
  bias(name: string, size: number): void;
}

function addLayer(config: RandomConfig, prefix: string, dense: boolean, add: Add): void {
  const { hidden_size: hidden, num_attention_heads: heads, kv_lora_rank: latent } = config;
  const queryDim = heads * (config.qk_nope_head_dim + config.qk_rope_head_dim);
  const attention = `${prefix}.self_attn`;
  add.vector(`${prefix}.input_layernorm`, hidden);
  add.vector(`${prefix}.post_attention_layernorm`, hidden);
  if (config.q_lora_rank) {
    add.linear(`${attention}.q_a_proj`, config.q_lora_rank, hidden);
    add.vector(`${attention}.q_a_layernorm`, config.q_lora_rank);
    add.linear(`${attention}.q_b_proj`, queryDim, config.q_lora_rank);
  } else {
    add.linear(`${attention}.q_proj`, queryDim, hidden);
  }
  add.linear(`${attention}.kv_a_proj_with_mqa`, latent + config.qk_rope_head_dim, hidden);
  add.vector(`${attention}.kv_a_layernorm`, latent);
  add.linear(
    `${attention}.kv_b_proj`,
    heads * (config.qk_nope_head_dim + config.v_head_dim),
    latent,
  );
  add.linear(`${attention}.o_proj`, hidden, heads * config.v_head_dim);
  const mlp = (name: string, width: number) => {
    add.linear(`${name}.gate_proj`, width, hidden);
    add.linear(`${name}.up_proj`, width, hidden);
    add.linear(`${name}.down_proj`, hidden, width);
  };
  if (dense) {
    mlp(`${prefix}.mlp`, config.intermediate_size);
    return;
  }
  add.plain(`${prefix}.mlp.gate`, config.n_routed_experts, hidden);
  if (config.topk_method === "noaux_tc") {
    add.bias(`${prefix}.mlp.gate.e_score_correction_bias`, config.n_routed_experts);
  }
  for (let e = 0; e < config.n_routed_experts; e++) {
    mlp(`${prefix}.mlp.experts.${e}`, config.moe_intermediate_size);
  }
  if (config.n_shared_experts > 0) {
    mlp(`${prefix}.mlp.shared_experts`, config.moe_intermediate_size * config.n_shared_experts);
  }
}
