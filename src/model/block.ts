/** @file One transformer block: attention, then an MLP or a mixture of experts, each behind a norm. */
import type { ActivationType } from "../deep-gemm/index.ts";
import { rmsNorm } from "../elementwise/index.ts";
import type { Tensor } from "../tensor/index.ts";
import type { Attention } from "./attention.ts";
import { DenseMlp, type MixtureOfExperts } from "./mlp.ts";
import type { Pass } from "./pass.ts";
import { Segment } from "./segment.ts";

/** A block and its weights. */
export class Block {
  private readonly eps: number;
  private readonly attentionNorm: Tensor<"f32">;
  private readonly attention: Attention;
  private readonly attentionInput: ActivationType;
  private readonly mlpNorm: Tensor<"f32">;
  private readonly mlp: DenseMlp | MixtureOfExperts;
  private readonly beforeAttention: Segment = new Segment();
  private readonly afterAttention: Segment = new Segment();

  constructor(parts: {
    eps: number;
    attentionNorm: Tensor<"f32">;
    attention: Attention;
    attentionInput: ActivationType;
    mlpNorm: Tensor<"f32">;
    mlp: DenseMlp | MixtureOfExperts;
  }) {
    this.eps = parts.eps;
    this.attentionNorm = parts.attentionNorm;
    this.attention = parts.attention;
    this.attentionInput = parts.attentionInput;
    this.mlpNorm = parts.mlpNorm;
    this.mlp = parts.mlp;
  }

  /** Runs the block on the residual stream `x` float32 `[tokens, hidden]`, in place. */
  forward(pass: Pass, x: Tensor<"f32">, slab: Tensor<"f32"> | Tensor<"bf16">): void {
    const { device, workspace, tokens } = pass;
    const hidden = x.shape[1];
    const { attention, mlp } = this;
    // Positions, rows of the cache and activations lie in the workspace's buffers.
    const key = [tokens, workspace.generation, x.address, slab, pass.cosSin.address];
    this.beforeAttention.run(device, key, () => {
      const input = workspace.sink("attention.input", tokens, hidden, this.attentionInput);
      rmsNorm(device, x, this.attentionNorm, this.eps, tokens, input);
      attention.before(pass, input, slab);
    });
    attention.attend(pass, slab);
    const normed = workspace.tensor("mlp.normed", "f32", tokens, hidden);
    this.afterAttention.run(device, key, () => {
      attention.after(pass, x);
      rmsNorm(device, x, this.mlpNorm, this.eps, tokens, { type: "f32", values: normed });
      mlp.begin(pass, normed, x);
    });
    if (!(mlp instanceof DenseMlp)) mlp.finish(pass, x);
  }
}
