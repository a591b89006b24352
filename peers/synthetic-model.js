/**
 * @file One synthetic model of the DeepSeek-V3 family, in our format and in llama.cpp's.
 *
 * The FP8 and BF16 checkpoints and the F32 and BF16 GGUF files hold the same numbers exactly; the
 * Q8_0 file holds them rounded to llama.cpp's 8 bits. Good for speed and for agreement, not for
 * prose.
 */
import { existsSync, mkdirSync, renameSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { encodeBf16 } from "./gguf.js";
import { writeSafetensors } from "./safetensors.js";
import { writeLlamaModel } from "./synthetic-gguf.js";
import {
  codesOf,
  matricesOf,
  maxPositions,
  normEps,
  ropeTheta,
  routedScale,
  scalesOf,
  shapes,
  tokensOf,
  valuesOf,
  vectorsOf,
  vectorValuesOf,
} from "./synthetic-weights.js";

/** The files that can be asked for. @typedef {"fp8" | "bf16" | "Q8_0" | "BF16" | "F32"} Form */

/** Raised when the contents of files change, so that old ones in a cache folder are not used. */
const revision = 1;

/**
 * Makes sure that `folder` holds the model named `size` in each of `forms`, writing what is
 * missing. `fp8` and `bf16` are Hugging Face directories, the others GGUF files of that tensor
 * type.
 * @param {string} folder
 * @param {keyof typeof shapes} size
 * @param {readonly Form[]} forms
 * @returns {Record<Form, string>} Paths.
 */
export function buildSyntheticModel(folder, size, forms) {
  mkdirSync(folder, { recursive: true });
  const paths = {};
  for (const form of forms) {
    const isDirectory = form === "fp8" || form === "bf16";
    const path = join(folder, `${size}-r${revision}-${form}${isDirectory ? "" : ".gguf"}`);
    paths[form] = path;
    if (existsSync(path)) continue;
    // Written under another name first: a file cut short is never mistaken for a model.
    const partial = `${path}.partial`;
    rmSync(partial, { recursive: true, force: true });
    if (isDirectory) writeCheckpoint(partial, shapes[size], form);
    else writeLlamaModel(partial, `baleen-${size}`, shapes[size], form);
    renameSync(partial, path);
  }
  return paths;
}

/** Writes a Hugging Face directory: config, tokenizer, weights in FP8 with scales or in BF16. */
function writeCheckpoint(folder, shape, form) {
  mkdirSync(folder);
  writeFileSync(join(folder, "config.json"), JSON.stringify(configOf(shape, form), null, 2));
  writeFileSync(join(folder, "tokenizer.json"), JSON.stringify(tokenizerOf(shape)));
  const tensors = [];
  for (const matrix of matricesOf(shape)) {
    const { name, rows, columns, plain } = matrix;
    if (plain || form === "bf16") {
      const bytes = () => bf16Bytes(valuesOf(matrix));
      tensors.push({ name, dtype: "BF16", shape: [rows, columns], bytes });
      continue;
    }
    tensors.push({ name, dtype: "F8_E4M3", shape: [rows, columns], bytes: () => codesOf(matrix) });
    tensors.push({
      name: `${name}_scale_inv`,
      dtype: "F32",
      shape: [Math.ceil(rows / 128), Math.ceil(columns / 128)],
      bytes: () => new Uint8Array(scalesOf(matrix).buffer),
    });
  }
  for (const vector of vectorsOf(shape)) {
    const { name, length, bias } = vector;
    const bytes = bias
      ? () => new Uint8Array(vectorValuesOf(vector).buffer)
      : () => bf16Bytes(vectorValuesOf(vector));
    tensors.push({ name, dtype: bias ? "F32" : "BF16", shape: [length], bytes });
  }
  writeSafetensors(join(folder, "model.safetensors"), tensors);
}

function bf16Bytes(values) {
  const bytes = new Uint8Array(2 * values.length);
  encodeBf16(values, bytes);
  return bytes;
}

function configOf(shape, form) {
  const quantization = {
    quant_method: "fp8",
    fmt: "e4m3",
    activation_scheme: "dynamic",
    weight_block_size: [128, 128],
  };
  return {
    architectures: ["DeepseekV3ForCausalLM"],
    model_type: "deepseek_v3",
    vocab_size: shape.vocab,
    hidden_size: shape.hidden,
    intermediate_size: shape.denseInner,
    moe_intermediate_size: shape.expertInner,
    num_hidden_layers: shape.layers,
    num_nextn_predict_layers: 0,
    num_attention_heads: shape.heads,
    num_key_value_heads: shape.heads,
    n_shared_experts: shape.sharedExperts,
    n_routed_experts: shape.experts,
    num_experts_per_tok: shape.expertsPerToken,
    routed_scaling_factor: routedScale,
    q_lora_rank: shape.qRank,
    kv_lora_rank: shape.kvRank,
    qk_nope_head_dim: shape.nope,
    qk_rope_head_dim: shape.rope,
    v_head_dim: shape.headDimV,
    topk_method: "noaux_tc",
    n_group: shape.groups,
    topk_group: shape.groupsPerToken,
    norm_topk_prob: true,
    scoring_func: "sigmoid",
    first_k_dense_replace: shape.denseLayers,
    moe_layer_freq: 1,
    hidden_act: "silu",
    max_position_embeddings: maxPositions,
    rms_norm_eps: normEps,
    rope_theta: ropeTheta,
    rope_scaling: null,
    attention_bias: false,
    tie_word_embeddings: false,
    bos_token_id: null,
    eos_token_id: null,
    torch_dtype: "bfloat16",
    ...(form === "fp8" ? { quantization_config: quantization } : {}),
  };
}

/** A byte-level tokenizer: 256 bytes, and names for the ids above, which no text encodes to. */
function tokenizerOf(shape) {
  const vocab = Object.fromEntries(tokensOf(shape).map((token, id) => [token, id]));
  const byteLevel = { type: "ByteLevel", add_prefix_space: false, trim_offsets: true };
  return {
    version: "1.0",
    truncation: null,
    padding: null,
    added_tokens: [],
    normalizer: null,
    pre_tokenizer: { ...byteLevel, use_regex: false },
    post_processor: null,
    decoder: { ...byteLevel, use_regex: false },
    model: { type: "BPE", unk_token: null, byte_fallback: false, vocab, merges: [] },
  };
}
