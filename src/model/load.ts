/** @file From a Hugging Face directory to a model in memory: every weight is packed once. */
import {
  type ActivationType,
  type PackedWeights,
  packWeights,
  type WeightMatrix,
} from "../deep-gemm/index.ts";
import { type Device, openDevice, type Rung } from "../device/index.ts";
import type { GateConfig } from "../elementwise/index.ts";
import { type Tensor, zeros } from "../tensor/index.ts";
import { Attention, type AttentionWeights } from "./attention.ts";
import { Block } from "./block.ts";
import { type Checkpoint, openCheckpoint } from "./checkpoint.ts";
import { type ModelConfig, readModelConfig } from "./config.ts";
import { splitKeyValueUp } from "./key-value-up.ts";
import { DenseMlp, MixtureOfExperts, type MlpWeights } from "./mlp.ts";
import { RopeTable, softmaxScale } from "./rope.ts";
import { type MtpLayer, Transformer } from "./transformer.ts";
import { Workspace } from "./workspace.ts";

/**
 * Arithmetic of the matrix products. `native`: the checkpoint's own (FP8 weights meet activations
 * quantised per token and 128 channels, bf16 weights meet bf16 activations); the gate, the output
 * head and FP8 key/value up-projections keep f32 activations in either. `f32`: f32 activations
 * everywhere, weights dequantised in registers.
 */
export type Precision = "native" | "f32";

/** How to load a model. */
export interface LoadOptions {
  readonly precision?: Precision | undefined;
  readonly rung?: Rung | undefined;
  /** Threads of the device, the calling one included. */
  readonly threads?: number | undefined;
  /** Type of the cache; f32 unless told otherwise. bf16 halves it and rounds keys and values. */
  readonly kvDtype?: "f32" | "bf16" | undefined;
  /** Longest context; the checkpoint's own unless told otherwise. */
  readonly maxContext?: number | undefined;
}

/**
 * The model of the Hugging Face directory `dir`, ready to run.
 * Errors: BaleenError where files are missing or broken, or the architecture is another.
 */
export async function loadModel(dir: string, options: LoadOptions = {}): Promise<Transformer> {
  const config = readModelConfig(dir);
  const checkpoint = openCheckpoint(dir, config);
  const device = openDevice({ rung: options.rung ?? "auto", threads: options.threads });
  try {
    return new Loader(device, config, checkpoint, options).load();
  } catch (error) {
    device.close();
    throw error;
  }
}

class Loader {
  private readonly device: Device;
  private readonly config: ModelConfig;
  private readonly checkpoint: Checkpoint;
  private readonly options: LoadOptions;
  private readonly expertCounts: Float64Array;

  constructor(device: Device, config: ModelConfig, checkpoint: Checkpoint, options: LoadOptions) {
    this.device = device;
    this.config = config;
    this.checkpoint = checkpoint;
    this.options = options;
    const layers = this.moeLayers.length;
    this.expertCounts = new Float64Array(layers * config.nRoutedExperts);
  }

  /** The main model's layers that have routed experts. */
  private get moeLayers(): number[] {
    const { numHiddenLayers } = this.config;
    return Array.from({ length: numHiddenLayers }, (_, i) => i).filter((i) => this.isMoe(i));
  }

  private isMoe(layer: number): boolean {
    const { nRoutedExperts, firstKDenseReplace, moeLayerFreq } = this.config;
    return nRoutedExperts > 0 && layer >= firstKDenseReplace && layer % moeLayerFreq === 0;
  }

  load(): Transformer {
    const { config, device, options } = this;
    const { yarn, theta } = config.rope;
    const layers = Array.from({ length: config.numHiddenLayers }, (_, i) => this.block(i));
    const embedding = this.rows("model.embed_tokens.weight");
    const tied = config.tieWordEmbeddings || !this.checkpoint.has("lm_head.weight");
    const head = this.pack([tied ? "model.embed_tokens" : "lm_head"], "f32");
    const cacheDtype = options.kvDtype ?? "f32";
    return new Transformer({
      device,
      workspace: new Workspace(this.allocate, config.quantization?.scaleFormat === "ue8m0"),
      rope: new RopeTable({ dim: config.qkRopeHeadDim, theta, yarn }, this.allocate),
      vocabSize: config.vocabSize,
      hiddenSize: config.hiddenSize,
      maxContext: options.maxContext ?? config.maxPositionEmbeddings,
      eosTokenIds: config.eosTokenIds,
      description: `${config.modelType}, ${this.precision} precision, ${device.description}`,
      eps: config.rmsNormEps,
      embedding,
      blocks: layers,
      norm: this.vector("model.norm.weight"),
      head,
      mtp: this.mtp(embedding, head),
      expertLoad: {
        layers: this.moeLayers.length,
        experts: config.nRoutedExperts,
        counts: this.expertCounts,
      },
      cacheDtype,
      cacheDim: config.kvLoraRank + config.qkRopeHeadDim,
    });
  }

  private get precision(): Precision {
    return this.options.precision ?? "native";
  }

  private readonly allocate = (bytes: number): ArrayBufferLike => this.device.allocate(bytes);

  private block(layer: number): Block {
    const prefix = `model.layers.${layer}`;
    const weights = this.attentionWeights(`${prefix}.self_attn`);
    const { config } = this;
    const attention = new Attention(
      {
        heads: config.numAttentionHeads,
        nopeDim: config.qkNopeHeadDim,
        ropeDim: config.qkRopeHeadDim,
        vDim: config.vHeadDim,
        latentDim: config.kvLoraRank,
        softmaxScale: softmaxScale(config.qkNopeHeadDim + config.qkRopeHeadDim, config.rope.yarn),
      },
      weights,
    );
    return new Block({
      eps: config.rmsNormEps,
      attentionNorm: this.vector(`${prefix}.input_layernorm.weight`),
      attention,
      attentionInput: weights.down.activation,
      mlpNorm: this.vector(`${prefix}.post_attention_layernorm.weight`),
      mlp: this.isMoe(layer) ? this.moe(layer) : new DenseMlp(this.mlp(`${prefix}.mlp`)),
    });
  }

  private attentionWeights(prefix: string): AttentionWeights {
    const { qLoraRank } = this.config;
    const keyValue = this.checkpoint.linear(`${prefix}.kv_b_proj`);
    // FP8 up-projections are dequantised for the absorbed form, as DeepSeek's own code does.
    const activation = keyValue.weight.dtype === "bf16" ? this.activationOf(keyValue) : "f32";
    const heads = splitKeyValueUp(keyValue, this.config, this.allocate);
    const pack = (matrix: WeightMatrix) => packWeights(this.device, [matrix], activation);
    return {
      down: this.pack([
        `${prefix}.${qLoraRank === undefined ? "q_proj" : "q_a_proj"}`,
        `${prefix}.kv_a_proj_with_mqa`,
      ]),
      query:
        qLoraRank === undefined
          ? undefined
          : {
              norm: this.vector(`${prefix}.q_a_layernorm.weight`),
              up: this.pack([`${prefix}.q_b_proj`]),
            },
      latentNorm: this.vector(`${prefix}.kv_a_layernorm.weight`),
      keyAbsorbed: heads.map(({ key }) => pack(key)),
      valueUp: heads.map(({ value }) => pack(value)),
      output: this.pack([`${prefix}.o_proj`]),
    };
  }

  private mlp(prefix: string): MlpWeights {
    return {
      gateUp: this.pack([`${prefix}.gate_proj`, `${prefix}.up_proj`]),
      down: this.pack([`${prefix}.down_proj`]),
    };
  }

  private moe(layer: number): MixtureOfExperts {
    const { config } = this;
    const prefix = `model.layers.${layer}.mlp`;
    const biasName = `${prefix}.gate.e_score_correction_bias`;
    const gate: GateConfig = {
      numExperts: config.nRoutedExperts,
      topK: config.numExpertsPerTok,
      numGroups: config.topkMethod === "greedy" ? 1 : config.nGroup,
      topkGroups: config.topkGroup,
      scoring: config.scoringFunc,
      groupScore: config.topkMethod === "noaux_tc" ? "top2-sum" : "max",
      normalise: config.normTopkProb,
      scale: config.routedScalingFactor,
      correctionBias: config.topkMethod === "noaux_tc" ? this.vector(biasName) : undefined,
    };
    const experts = Array.from({ length: config.nRoutedExperts }, (_, e) =>
      this.mlp(`${prefix}.experts.${e}`),
    );
    const shared = config.nSharedExperts > 0 ? this.mlp(`${prefix}.shared_experts`) : undefined;
    return new MixtureOfExperts(
      gate,
      this.pack([`${prefix}.gate`], "f32"),
      experts,
      shared,
      this.loadOf(layer),
    );
  }

  /** The counters of a layer's experts; the MTP layer, which is not reported, has its own. */
  private loadOf(layer: number): Float64Array {
    const { nRoutedExperts } = this.config;
    const row = this.moeLayers.indexOf(layer);
    return row < 0
      ? new Float64Array(nRoutedExperts)
      : this.expertCounts.subarray(row * nRoutedExperts, (row + 1) * nRoutedExperts);
  }

  private mtp(embedding: MtpLayer["embedding"], head: PackedWeights): MtpLayer | undefined {
    const layer = this.config.numHiddenLayers;
    const prefix = `model.layers.${layer}`;
    if (
      this.config.numNextnPredictLayers === 0 ||
      !this.checkpoint.has(`${prefix}.eh_proj.weight`)
    ) {
      return undefined;
    }
    const own = (name: string) => this.checkpoint.has(`${prefix}.${name}.weight`);
    return {
      embedding: own("embed_tokens") ? this.rows(`${prefix}.embed_tokens.weight`) : embedding,
      embeddingNorm: this.vector(`${prefix}.enorm.weight`),
      hiddenNorm: this.vector(`${prefix}.hnorm.weight`),
      projection: this.pack([`${prefix}.eh_proj`], "f32"),
      block: this.block(layer),
      norm: this.vector(`${prefix}.shared_head.norm.weight`),
      head: own("shared_head.head") ? this.pack([`${prefix}.shared_head.head`], "f32") : head,
    };
  }

  /** Packs the matrices of these names side by side. */
  private pack(names: readonly string[], activation?: ActivationType): PackedWeights {
    const matrices = names.map((name) => this.checkpoint.linear(name));
    return packWeights(this.device, matrices, activation ?? this.activationOf(matrices[0]));
  }

  private activationOf({ weight }: WeightMatrix): ActivationType {
    return this.precision === "f32" ? "f32" : weight.dtype;
  }

  private vector(name: string): Tensor<"f32"> {
    const values = this.checkpoint.vector(name);
    const tensor = zeros("f32", [values.length], this.allocate);
    tensor.data.set(values);
    return tensor;
  }

  private rows(name: string): MtpLayer["embedding"] {
    return this.checkpoint.linear(name.replace(/\.weight$/, "")).weight as MtpLayer["embedding"];
  }
}
