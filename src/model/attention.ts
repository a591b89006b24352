/**
 * @file Multi-head latent attention in the absorbed form, for prefill and decode alike: the same
 * operations in the same order give a token the same bits in either, which batch invariance,
 * prefix caching of generated tokens and exact speculative decoding rest on. The plain form would
 * take a third of the arithmetic of a long prefill's core; see docs/decisions/absorbed-attention.md.
 * Source: DeepSeek-V2 (arXiv 2405.04434, 2.1 and appendix C).
 */
import { alignUp } from "../base/index.ts";
import { type Activations, type GemmGroup, gemm, type PackedWeights } from "../deep-gemm/index.ts";
import { castRows, rmsNorm, rotate } from "../elementwise/index.ts";
import { mlaAttention } from "../flash-mla/index.ts";
import { columnsOf, type Tensor } from "../tensor/index.ts";
import type { Pass } from "./pass.ts";

/** Epsilon of the two low-rank norms, whatever the config says (as every implementation has it). */
const lowRankEps = 1e-6;

/** Sizes of the heads. */
export interface AttentionShape {
  readonly heads: number;
  readonly nopeDim: number;
  readonly ropeDim: number;
  readonly vDim: number;
  /** kv_lora_rank: width of the latent, hence of a cached value. */
  readonly latentDim: number;
  readonly softmaxScale: number;
}

/** One layer's attention weights. */
export interface AttentionWeights {
  /** Parts [q_a or q, kv_a]: from the normed hidden state. */
  readonly down: PackedWeights;
  /** The norm after q_a and q_b, where queries have a low-rank form. */
  readonly query?: { readonly norm: Tensor<"f32">; readonly up: PackedWeights } | undefined;
  readonly latentNorm: Tensor<"f32">;
  /** Per head, `[latentDim, nopeDim]`: the query's nope part to the latent. */
  readonly keyAbsorbed: readonly PackedWeights[];
  /** Per head, `[vDim, latentDim]`: the attended latent to the head's value. */
  readonly valueUp: readonly PackedWeights[];
  readonly output: PackedWeights;
}

/** The per-head products of a pass, kept from pass to pass while shapes and buffers stay. */
interface HeadGroups {
  readonly tokens: number;
  readonly generation: number;
  readonly absorb: readonly GemmGroup[];
  readonly raise: readonly GemmGroup[];
}

/** One layer's attention. */
export class Attention {
  private readonly shape: AttentionShape;
  private readonly weights: AttentionWeights;
  private kept: HeadGroups | undefined;

  constructor(shape: AttentionShape, weights: AttentionWeights) {
    this.shape = shape;
    this.weights = weights;
  }

  /**
   * Adds the attention of the normed rows `input` to `x` `[tokens, hidden]`, and writes the tokens'
   * latents and rotary keys to the layer's cache `slab` `[pages, 64, latentDim + ropeDim]`.
   */
  forward(
    pass: Pass,
    input: Activations,
    slab: Tensor<"f32"> | Tensor<"bf16">,
    x: Tensor<"f32">,
  ): void {
    const { device, tokens } = pass;
    const { heads, latentDim, ropeDim, nopeDim, softmaxScale } = this.shape;
    const buffers = this.buffers(pass);
    gemm(device, [{ a: input, m: tokens, b: this.weights.down, d: buffers.projected }]);
    this.writeCache(pass, buffers.projected, slab);
    this.projectQuery(pass, buffers.projected);

    const groups = this.headGroups(pass);
    this.castIfNeeded(pass, "attention.nope", buffers.query, this.weights.keyAbsorbed[0]);
    gemm(device, groups.absorb);
    rotate(device, {
      from: columnsOf(buffers.query, nopeDim, buffers.query.shape[1]),
      fromHeadStride: nopeDim + ropeDim,
      to: columnsOf(buffers.absorbed, latentDim, buffers.absorbed.shape[1]),
      toHeadStride: buffers.headStride,
      heads,
      dim: ropeDim,
      cosSin: pass.cosSin,
      positions: pass.positions,
      tokens,
    });
    const dimQk = latentDim + ropeDim;
    mlaAttention(device, {
      q: { ...buffers.absorbed, shape: [tokens, heads, dimQk], stride: buffers.headStride },
      kvCache: slab,
      sequences: pass.sequences,
      headDimV: latentDim,
      softmaxScale,
      out: { ...buffers.attended, shape: [tokens, heads, latentDim], stride: latentDim },
    });
    this.castIfNeeded(pass, "attention.attended", buffers.attended, this.weights.valueUp[0]);
    gemm(device, groups.raise);
    const { output } = this.weights;
    const sink = pass.workspace.sink("attention.output", tokens, output.k, output.activation);
    castRows(device, buffers.values, tokens, sink);
    gemm(device, [{ a: sink, m: tokens, b: output, d: x, accumulate: true }]);
  }

  private buffers({ workspace, tokens }: Pass) {
    const { heads, latentDim, ropeDim, nopeDim, vDim } = this.shape;
    const headStride = alignUp(latentDim + ropeDim, 16);
    const { down, query } = this.weights;
    const buffer = (name: string, columns: number) =>
      workspace.tensor(`attention.${name}`, "f32", tokens, columns);
    const projected = buffer("projected", down.width);
    const queryWidth = heads * (nopeDim + ropeDim);
    return {
      projected,
      query: query ? buffer("query", queryWidth) : columnsOf(projected, 0, queryWidth),
      /** Absorbed queries, `[tokens, heads * headStride]`: latent part, then rotary part. */
      absorbed: buffer("absorbed", heads * headStride),
      headStride,
      attended: buffer("attended", heads * latentDim),
      values: buffer("values", heads * vDim),
    };
  }

  private writeCache(
    pass: Pass,
    projected: Tensor<"f32">,
    slab: Tensor<"f32"> | Tensor<"bf16">,
  ): void {
    const { device, tokens, cacheRows } = pass;
    const { latentDim, ropeDim } = this.shape;
    const dim = latentDim + ropeDim;
    const start = this.weights.down.columns[1];
    const rows = { ...slab, shape: [slab.shape[0] * slab.shape[1], dim] } as typeof slab;
    const latent = columnsOf(projected, start, start + latentDim);
    const sink = { type: slab.dtype, values: columnsOf<"f32" | "bf16">(rows, 0, latentDim) };
    rmsNorm(device, latent, this.weights.latentNorm, lowRankEps, tokens, sink as never, cacheRows);
    rotate(device, {
      from: columnsOf(projected, start + latentDim, start + dim),
      fromHeadStride: ropeDim,
      to: columnsOf<"f32" | "bf16">(rows, latentDim, dim) as typeof slab,
      toHeadStride: ropeDim,
      heads: 1,
      dim: ropeDim,
      cosSin: pass.cosSin,
      positions: pass.positions,
      tokens,
      toRows: cacheRows,
    });
  }

  private projectQuery(pass: Pass, projected: Tensor<"f32">): void {
    const { query, down } = this.weights;
    if (!query) return;
    const { device, workspace, tokens } = pass;
    const lowRank = columnsOf(projected, 0, down.parts[0]);
    const sink = workspace.sink("attention.lowRank", tokens, query.up.k, query.up.activation);
    rmsNorm(device, lowRank, query.norm, lowRankEps, tokens, sink);
    gemm(device, [{ a: sink, m: tokens, b: query.up, d: this.buffers(pass).query }]);
  }

  /** Fills the bf16 copy of `x` that the per-head products read when their activations are bf16. */
  private castIfNeeded(pass: Pass, name: string, x: Tensor<"f32">, weights: PackedWeights): void {
    if (weights.activation === "f32") return;
    castRows(pass.device, x, pass.tokens, this.headSink(pass, name, x, weights));
  }

  private headSink({ workspace, tokens }: Pass, name: string, x: Tensor, weights: PackedWeights) {
    return workspace.sink(name, tokens, x.shape[1], weights.activation);
  }

  private headGroups(pass: Pass): HeadGroups {
    const { tokens, workspace } = pass;
    const { nopeDim, ropeDim, vDim, latentDim } = this.shape;
    const { keyAbsorbed, valueUp } = this.weights;
    const { query, absorbed, headStride, attended, values } = this.buffers(pass);
    const source = (name: string, x: Tensor<"f32">, weights: PackedWeights): Activations =>
      weights.activation === "f32"
        ? { type: "f32", values: x }
        : this.headSink(pass, name, x, weights);
    const nope = source("attention.nope", query, keyAbsorbed[0]);
    const latent = source("attention.attended", attended, valueUp[0]);
    const { generation } = workspace;
    if (this.kept?.tokens === tokens && this.kept.generation === generation) return this.kept;
    this.kept = {
      tokens,
      generation,
      absorb: keyAbsorbed.map((b, head) => ({
        a: headColumns(nope, head * (nopeDim + ropeDim), nopeDim),
        m: tokens,
        b,
        d: columnsOf(absorbed, head * headStride, head * headStride + latentDim),
      })),
      raise: valueUp.map((b, head) => ({
        a: headColumns(latent, head * latentDim, latentDim),
        m: tokens,
        b,
        d: columnsOf(values, head * vDim, (head + 1) * vDim),
      })),
    };
    return this.kept;
  }
}

function headColumns(rows: Activations, from: number, width: number): Activations {
  const values = columnsOf(rows.values as Tensor, from, from + width);
  return { type: rows.type, values } as Activations;
}
