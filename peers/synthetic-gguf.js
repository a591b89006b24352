/**
 * @file The synthetic model under llama.cpp's names: architecture "deepseek2", as its converter
 * writes DeepSeek-V3, with kv_b absorbed (`attn_k_b`, `attn_v_b`) and experts stacked.
 */
import { writeGguf } from "./gguf.js";
import {
  matricesOf,
  maxPositions,
  normEps,
  ropeTheta,
  routedScale,
  tokensOf,
  valuesOf,
  vectorsOf,
  vectorValuesOf,
} from "./synthetic-weights.js";

/**
 * Writes a GGUF file whose matrices are of type `type` (the gate's stay F32, as llama.cpp has
 * them).
 * @param {string} path
 * @param {string} modelName
 * @param {import("./synthetic-weights.js").Shape} shape
 * @param {import("./gguf.js").GgufType} type
 */
export function writeLlamaModel(path, modelName, shape, type) {
  const matrices = new Map(Array.from(matricesOf(shape), (matrix) => [matrix.name, matrix]));
  const vectors = new Map(Array.from(vectorsOf(shape), (vector) => [vector.name, vector]));
  const tensors = [];
  /** One of our matrices under llama.cpp's name; several make a stack of experts. */
  const add = (name, sources, tensorType = type) => {
    const found = sources.map((source) => matrices.get(source));
    const { rows, columns } = found[0];
    const size = found.length === 1 ? [rows, columns] : [found.length, rows, columns];
    const parts = found.map((matrix) => () => valuesOf(matrix));
    tensors.push({ name, type: tensorType, shape: size, parts });
  };
  const addVector = (name, source) => {
    const vector = vectors.get(source);
    const parts = [() => vectorValuesOf(vector)];
    tensors.push({ name, type: "F32", shape: [vector.length], parts });
  };

  add("token_embd.weight", ["model.embed_tokens.weight"]);
  for (let layer = 0; layer < shape.layers; layer++) {
    const ours = `model.layers.${layer}`;
    const theirs = `blk.${layer}`;
    addVector(`${theirs}.attn_norm.weight`, `${ours}.input_layernorm.weight`);
    add(`${theirs}.attn_q_a.weight`, [`${ours}.self_attn.q_a_proj.weight`]);
    addVector(`${theirs}.attn_q_a_norm.weight`, `${ours}.self_attn.q_a_layernorm.weight`);
    add(`${theirs}.attn_q_b.weight`, [`${ours}.self_attn.q_b_proj.weight`]);
    add(`${theirs}.attn_kv_a_mqa.weight`, [`${ours}.self_attn.kv_a_proj_with_mqa.weight`]);
    addVector(`${theirs}.attn_kv_a_norm.weight`, `${ours}.self_attn.kv_a_layernorm.weight`);
    tensors.push(
      ...keyAndValueOf(theirs, shape, type, matrices.get(`${ours}.self_attn.kv_b_proj.weight`)),
    );
    add(`${theirs}.attn_output.weight`, [`${ours}.self_attn.o_proj.weight`]);
    addVector(`${theirs}.ffn_norm.weight`, `${ours}.post_attention_layernorm.weight`);
    addMlp(theirs, `${ours}.mlp`, layer < shape.denseLayers);
  }
  addVector("output_norm.weight", "model.norm.weight");
  add("output.weight", ["lm_head.weight"]);
  writeGguf(path, metadataOf(shape, modelName), tensors);

  function addMlp(theirs, ours, isDense) {
    for (const part of ["gate", "up", "down"]) {
      if (isDense) {
        add(`${theirs}.ffn_${part}.weight`, [`${ours}.${part}_proj.weight`]);
        continue;
      }
      const experts = Array.from(
        { length: shape.experts },
        (_, expert) => `${ours}.experts.${expert}.${part}_proj.weight`,
      );
      add(`${theirs}.ffn_${part}_exps.weight`, experts);
      add(`${theirs}.ffn_${part}_shexp.weight`, [`${ours}.shared_experts.${part}_proj.weight`]);
    }
    if (isDense) return;
    add(`${theirs}.ffn_gate_inp.weight`, [`${ours}.gate.weight`], "F32");
    addVector(`${theirs}.exp_probs_b.bias`, `${ours}.gate.e_score_correction_bias`);
  }
}

/**
 * llama.cpp absorbs kv_b: per head, the key rows transposed to `[kvRank, nope]`, and the value
 * rows.
 */
function keyAndValueOf(theirs, shape, type, matrix) {
  const { heads, nope, headDimV, kvRank } = shape;
  const keys = () => {
    const values = valuesOf(matrix);
    const keysOut = new Float32Array(heads * kvRank * nope);
    for (let head = 0, at = 0; head < heads; head++) {
      const first = head * (nope + headDimV);
      for (let rank = 0; rank < kvRank; rank++) {
        for (let row = 0; row < nope; row++) keysOut[at++] = values[(first + row) * kvRank + rank];
      }
    }
    return keysOut;
  };
  const valueRows = () => {
    const values = valuesOf(matrix);
    const out = new Float32Array(heads * headDimV * kvRank);
    for (let head = 0; head < heads; head++) {
      const first = (head * (nope + headDimV) + nope) * kvRank;
      out.set(values.subarray(first, first + headDimV * kvRank), head * headDimV * kvRank);
    }
    return out;
  };
  return [
    { name: `${theirs}.attn_k_b.weight`, type, shape: [heads, kvRank, nope], parts: [keys] },
    {
      name: `${theirs}.attn_v_b.weight`,
      type,
      shape: [heads, headDimV, kvRank],
      parts: [valueRows],
    },
  ];
}

/** llama.cpp's keys; attention is described as it is cached: one head of latent and rotated key. */
function metadataOf(shape, name) {
  const integers = {
    vocab_size: shape.vocab,
    context_length: maxPositions,
    block_count: shape.layers,
    embedding_length: shape.hidden,
    feed_forward_length: shape.denseInner,
    leading_dense_block_count: shape.denseLayers,
    expert_feed_forward_length: shape.expertInner,
    expert_count: shape.experts,
    expert_used_count: shape.expertsPerToken,
    expert_shared_count: shape.sharedExperts,
    expert_group_count: shape.groups,
    expert_group_used_count: shape.groupsPerToken,
    // 2 is the sigmoid.
    expert_gating_func: 2,
    "attention.head_count": shape.heads,
    "attention.head_count_kv": 1,
    "attention.q_lora_rank": shape.qRank,
    "attention.kv_lora_rank": shape.kvRank,
    "attention.key_length": shape.kvRank + shape.rope,
    "attention.value_length": shape.kvRank,
    "attention.key_length_mla": shape.nope + shape.rope,
    "attention.value_length_mla": shape.headDimV,
    "rope.dimension_count": shape.rope,
  };
  const prefixed = Object.entries(integers).map(([key, u32]) => [`deepseek2.${key}`, { u32 }]);
  return {
    "general.architecture": "deepseek2",
    "general.name": name,
    "general.alignment": { u32: 32 },
    ...Object.fromEntries(prefixed),
    "deepseek2.expert_weights_scale": routedScale,
    "deepseek2.expert_weights_norm": true,
    "deepseek2.attention.layer_norm_rms_epsilon": normEps,
    "deepseek2.rope.freq_base": ropeTheta,
    "tokenizer.ggml.model": "gpt2",
    "tokenizer.ggml.pre": "default",
    "tokenizer.ggml.tokens": { strings: tokensOf(shape) },
    "tokenizer.ggml.token_type": { i32s: Array(shape.vocab).fill(1) },
    // The loader insists on merges; no text that is tokenised contains this pair.
    "tokenizer.ggml.merges": { strings: ["\u0100 \u0100"] },
    "tokenizer.ggml.eos_token_id": { u32: 0 },
    "tokenizer.ggml.add_bos_token": false,
  };
}
