/**
 * @file The weights of a Hugging Face directory, checked against the config before any is used:
 * every tensor that the architecture has is there in the right shape and a known dtype, and there
 * are none that would be silently left out of the computation.
 * Names: research of DeepSeek's published checkpoints. A linear is `[out, in]`; FP8 ones have
 * `X.weight_scale_inv` `[ceil(out / 128), ceil(in / 128)]`, which despite its name multiplies.
 */
import { ceilDiv } from "../base/index.ts";
import type { WeightMatrix } from "../deep-gemm/index.ts";
import {
  blockSize,
  openSafetensors,
  type Safetensors,
  type SafetensorsDtype,
  type Tensor,
} from "../tensor/index.ts";
import { isMoeLayer, type ModelConfig } from "./config.ts";
import { modelError } from "./errors.ts";

/** An open, checked checkpoint. */
export interface Checkpoint {
  /** Tensor names, in the file's order. */
  readonly names: readonly string[];
  /** Bytes of all tensors that the model uses. */
  readonly bytes: number;
  /** Whether the MTP layer's weights are there, and announced by the config. */
  readonly hasMtp: boolean;
  /** Whether there is a tensor of this full name, such as `lm_head.weight`. */
  has(name: string): boolean;
  /**
   * The matrix `name`.weight, `[out, in]`, with its scales where it is FP8. F32, BF16 and FP8 are
   * views of the file, not to be written to; F16 is converted to f32.
   */
  linear(name: string): WeightMatrix;
  /** The values of the tensor `name` (a full name) in f32: a norm's weight or the gate's bias. */
  vector(name: string): Float32Array;
}

const plainDtypes: readonly SafetensorsDtype[] = ["F32", "BF16", "F16"];
const scaleDtypes: readonly SafetensorsDtype[] = ["F32", "BF16", "F8_E8M0"];

/** What the architecture says of one weight. */
interface Expected {
  /** Without `.weight` for a linear, in full for a vector. */
  readonly name: string;
  readonly shape: readonly number[];
  /** A vector and a table (the embedding) are never FP8. */
  readonly kind: "linear" | "table" | "vector";
}

/**
 * Opens the weights in `dir` and checks them against `config`; see `Checkpoint`.
 * Raises the errors of `openSafetensors`, and `checkpoint-invalid` naming the tensor.
 */
export function openCheckpoint(dir: string, config: ModelConfig): Checkpoint {
  const file = openSafetensors(dir);
  const mtp = `model.layers.${config.numHiddenLayers}`;
  const hasMtp = config.numNextnPredictLayers > 0 && file.tensors.has(`${mtp}.eh_proj.weight`);
  const known = new Set<string>();
  for (const expected of expectedWeights(config, hasMtp, file)) check(file, expected, known);
  checkNothingElse(file, config, known, hasMtp);
  let bytes = 0;
  for (const name of known) bytes += file.info(name).byteLength;
  return {
    names: [...file.tensors.keys()],
    bytes,
    hasMtp,
    has: (name) => file.tensors.has(name),
    linear: (name) => linearOf(file, name),
    vector: (name) => file.f32(name).data,
  };
}

function linearOf(file: Safetensors, name: string): WeightMatrix {
  const { dtype } = file.info(`${name}.weight`);
  if (dtype === "F16") return { weight: file.f32(`${name}.weight`) };
  const weight = file.tensor(`${name}.weight`);
  if (weight.dtype !== "f8e4m3") return { weight: weight as Tensor<"f32"> };
  return {
    weight: weight as Tensor<"f8e4m3">,
    scales: file.f32(`${name}.weight_scale_inv`),
  };
}

function* expectedWeights(
  config: ModelConfig,
  hasMtp: boolean,
  file: Safetensors,
): Generator<Expected> {
  const { hiddenSize: hidden, vocabSize: vocab, numHiddenLayers } = config;
  yield { name: "model.embed_tokens", shape: [vocab, hidden], kind: "table" };
  for (let i = 0; i < numHiddenLayers; i++) yield* layerWeights(config, i);
  yield { name: "model.norm.weight", shape: [hidden], kind: "vector" };
  if (!config.tieWordEmbeddings || file.tensors.has("lm_head.weight")) {
    yield { name: "lm_head", shape: [vocab, hidden], kind: "linear" };
  }
  if (!hasMtp) return;
  const prefix = `model.layers.${numHiddenLayers}`;
  yield* layerWeights(config, numHiddenLayers);
  for (const norm of ["enorm", "hnorm", "shared_head.norm"]) {
    yield { name: `${prefix}.${norm}.weight`, shape: [hidden], kind: "vector" };
  }
  yield { name: `${prefix}.eh_proj`, shape: [hidden, 2 * hidden], kind: "linear" };
  // Copies of the main model's, which serve where these are left out.
  if (file.tensors.has(`${prefix}.embed_tokens.weight`)) {
    yield { name: `${prefix}.embed_tokens`, shape: [vocab, hidden], kind: "table" };
  }
  if (file.tensors.has(`${prefix}.shared_head.head.weight`)) {
    yield { name: `${prefix}.shared_head.head`, shape: [vocab, hidden], kind: "linear" };
  }
}

function* layerWeights(config: ModelConfig, layer: number): Generator<Expected> {
  const { hiddenSize: hidden, numAttentionHeads: heads, kvLoraRank, qLoraRank } = config;
  const prefix = `model.layers.${layer}`;
  const vector = (name: string, length: number): Expected => ({
    name: `${prefix}.${name}`,
    shape: [length],
    kind: "vector",
  });
  const linear = (name: string, out: number, columns: number): Expected => ({
    name: `${prefix}.${name}`,
    shape: [out, columns],
    kind: "linear",
  });
  const queryWidth = heads * (config.qkNopeHeadDim + config.qkRopeHeadDim);
  yield vector("input_layernorm.weight", hidden);
  yield vector("post_attention_layernorm.weight", hidden);
  if (qLoraRank === undefined) {
    yield linear("self_attn.q_proj", queryWidth, hidden);
  } else {
    yield linear("self_attn.q_a_proj", qLoraRank, hidden);
    yield vector("self_attn.q_a_layernorm.weight", qLoraRank);
    yield linear("self_attn.q_b_proj", queryWidth, qLoraRank);
  }
  yield linear("self_attn.kv_a_proj_with_mqa", kvLoraRank + config.qkRopeHeadDim, hidden);
  yield vector("self_attn.kv_a_layernorm.weight", kvLoraRank);
  const keyValueWidth = heads * (config.qkNopeHeadDim + config.vHeadDim);
  yield linear("self_attn.kv_b_proj", keyValueWidth, kvLoraRank);
  yield linear("self_attn.o_proj", hidden, heads * config.vHeadDim);

  const mlp = (name: string, width: number): Expected[] => [
    linear(`${name}.gate_proj`, width, hidden),
    linear(`${name}.up_proj`, width, hidden),
    linear(`${name}.down_proj`, hidden, width),
  ];
  if (!isMoeLayer(config, layer)) {
    yield* mlp("mlp", config.intermediateSize);
    return;
  }
  const { nRoutedExperts, nSharedExperts, moeIntermediateSize } = config;
  yield linear("mlp.gate", nRoutedExperts, hidden);
  if (config.topkMethod === "noaux_tc") {
    yield vector("mlp.gate.e_score_correction_bias", nRoutedExperts);
  }
  for (let e = 0; e < nRoutedExperts; e++) yield* mlp(`mlp.experts.${e}`, moeIntermediateSize);
  if (nSharedExperts > 0) yield* mlp("mlp.shared_experts", nSharedExperts * moeIntermediateSize);
}

/** Checks one weight and adds the names of its tensors to `known`. */
function check(file: Safetensors, { name, shape, kind }: Expected, known: Set<string>): void {
  if (kind === "vector") {
    checkTensor(file, name, shape, plainDtypes);
    known.add(name);
    return;
  }
  const weight = `${name}.weight`;
  const dtypes = kind === "linear" ? [...plainDtypes, "F8_E4M3" as const] : plainDtypes;
  checkTensor(file, weight, shape, dtypes);
  known.add(weight);
  if (file.info(weight).dtype === "F8_E4M3") {
    const blocks = shape.map((size) => ceilDiv(size, blockSize));
    checkTensor(file, `${weight}_scale_inv`, blocks, scaleDtypes);
    known.add(`${weight}_scale_inv`);
  }
}

function checkTensor(
  file: Safetensors,
  name: string,
  shape: readonly number[],
  dtypes: readonly SafetensorsDtype[],
): void {
  const info = file.tensors.get(name);
  if (!info) {
    throw invalid(file, `tensor ${name} [${shape}] is missing`);
  }
  if (info.shape.length !== shape.length || !info.shape.every((size, i) => size === shape[i])) {
    throw invalid(file, `tensor ${name} is [${info.shape}], but the config makes it [${shape}]`);
  }
  if (!dtypes.includes(info.dtype)) {
    throw invalid(file, `tensor ${name} is ${info.dtype}, not one of ${dtypes.join(", ")}`);
  }
}

/**
 * Refuses tensors that the computation would leave out: biases, scales of plain weights, an
 * attention indexer, layers beyond the config's. Announced or not, MTP layers after the first, and
 * tables that old checkpoints store and nobody reads, are no harm.
 */
function checkNothingElse(
  file: Safetensors,
  config: ModelConfig,
  known: ReadonlySet<string>,
  hasMtp: boolean,
): void {
  for (const name of file.tensors.keys()) {
    if (known.has(name) || name.endsWith(".rotary_emb.inv_freq")) continue;
    const layer = Number(/^model\.layers\.(\d+)\./.exec(name)?.[1] ?? Number.NaN);
    const extraMtp =
      layer > config.numHiddenLayers || (layer === config.numHiddenLayers && !hasMtp);
    if (extraMtp && file.tensors.has(`model.layers.${layer}.eh_proj.weight`)) continue;
    const { modelType, numHiddenLayers } = config;
    throw invalid(
      file,
      `tensor ${name} has no place in a ${modelType} of ${numHiddenLayers} layers with this config`,
    );
  }
}

function invalid(file: Safetensors, what: string): Error {
  return modelError(
    "checkpoint-invalid",
    `${file.path}: ${what}. Check that config.json and the weights belong together.`,
  );
}
