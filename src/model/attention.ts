/**
 * @file Multi-head latent attention in the absorbed form, for prefill and decode alike: the same
 * operations in the same order give a token the same bits in either, which batch invariance,
 * prefix caching of generated tokens and exact speculative decoding rest on. The plain form would
 * take a third of the arithmetic of a long prefill's core; see docs/decisions/absorbed-attention.md.
 * Source: DeepSeek-V2 (arXiv 2405.04434, 2.1 and appendix C).
 */
import { alignUp } from "../base/index.ts";
import { type Activations, type GemmGroup, gemm, type PackedWeights } from "../deep-gemm/index.ts";
import { castRows, rmsNorm, rotate, type Sink } from "../elementwise/index.ts";
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

/** What a pass of some number of tokens works on; kept while that number and the buffers stay. */
interface Views {
  readonly tokens: number;
  readonly generation: number;
  /** `[tokens, down.width]`, and its parts. */
  readonly projected: Tensor<"f32">;
  readonly lowRank: Tensor<"f32">;
  readonly latent: Tensor<"f32">;
  readonly rotaryKey: Tensor<"f32">;
  /** `[tokens, heads * (nope + rope)]`, and from the first rotary element on. */
  readonly query: Tensor<"f32">;
  readonly rotaryQuery: Tensor<"f32">;
  /** Absorbed queries, `[tokens, heads, latent + rope]`, and from the first rotary element on. */
  readonly absorbed: Tensor<"f32">;
  readonly rotaryAbsorbed: Tensor<"f32">;
  /** `[tokens, heads, latent]`, also as a matrix. */
  readonly attended: Tensor<"f32">;
  readonly attendedRows: Tensor<"f32">;
  /** `[tokens, heads * v]`. */
  readonly values: Tensor<"f32">;
  /** Per head, query to latent and attended latent to value. */
  readonly absorb: readonly GemmGroup[];
  readonly raise: readonly GemmGroup[];
}

/** A cache slab as a matrix of token rows, and from the first rotary element on. */
interface SlabViews {
  readonly slab: Slab;
  readonly latent: Sink;
  readonly rotary: Slab;
}

type Slab = Tensor<"f32"> | Tensor<"bf16">;

/** One layer's attention. */
export class Attention {
  private readonly shape: AttentionShape;
  private readonly weights: AttentionWeights;
  private views: Views | undefined;
  private slabViews: SlabViews | undefined;

  constructor(shape: AttentionShape, weights: AttentionWeights) {
    this.shape = shape;
    this.weights = weights;
  }

  /**
   * What comes before the attention of the normed rows `input`: writes the tokens' latents and
   * rotary keys to the layer's cache `slab` `[pages, 64, latentDim + ropeDim]`, and keeps the
   * absorbed queries.
   */
  before(pass: Pass, input: Activations, slab: Slab): void {
    const { device, tokens } = pass;
    const { down, keyAbsorbed } = this.weights;
    const views = this.viewsOf(pass);
    gemm(device, [{ a: input, m: tokens, b: down, d: views.projected }]);
    this.writeCache(pass, views, slab);
    this.projectQuery(pass, views);

    this.castIfNeeded(pass, "attention.nope", views.query, keyAbsorbed[0]);
    gemm(device, views.absorb);
    this.rotateQuery(pass, views);
  }

  /** The attention itself: the one operation that depends on where the sequences are. */
  attend(pass: Pass, slab: Slab): void {
    const { latentDim, softmaxScale } = this.shape;
    const views = this.viewsOf(pass);
    mlaAttention(pass.device, {
      q: views.absorbed,
      kvCache: slab,
      sequences: pass.sequences,
      headDimV: latentDim,
      softmaxScale,
      out: views.attended,
    });
  }

  /** What comes behind it: adds its output to `x` `[tokens, hidden]`. */
  after(pass: Pass, x: Tensor<"f32">): void {
    const { device, tokens } = pass;
    const { output, valueUp } = this.weights;
    const views = this.viewsOf(pass);
    this.castIfNeeded(pass, "attention.latent", views.attendedRows, valueUp[0]);
    gemm(device, views.raise);
    const sink = pass.workspace.sink("attention.values16", tokens, output.k, output.activation);
    castRows(device, views.values, tokens, sink);
    gemm(device, [{ a: sink, m: tokens, b: output, d: x, accumulate: true }]);
  }

  private writeCache(pass: Pass, { latent, rotaryKey }: Views, slab: Slab): void {
    const { device, tokens, cacheRows, cosSin, positions } = pass;
    const { ropeDim } = this.shape;
    const to = this.slabViewsOf(slab);
    rmsNorm(device, latent, this.weights.latentNorm, lowRankEps, tokens, to.latent, cacheRows);
    rotate(device, {
      from: rotaryKey,
      fromHeadStride: ropeDim,
      to: to.rotary,
      toHeadStride: ropeDim,
      heads: 1,
      dim: ropeDim,
      cosSin,
      positions,
      tokens,
      toRows: cacheRows,
    });
  }

  private projectQuery({ device, workspace, tokens }: Pass, { lowRank, query }: Views): void {
    const weights = this.weights.query;
    if (!weights) return;
    const { norm, up } = weights;
    const sink = workspace.sink("attention.lowRank", tokens, up.k, up.activation);
    rmsNorm(device, lowRank, norm, lowRankEps, tokens, sink);
    gemm(device, [{ a: sink, m: tokens, b: up, d: query }]);
  }

  private rotateQuery({ device, tokens, cosSin, positions }: Pass, views: Views): void {
    const { heads, nopeDim, ropeDim } = this.shape;
    rotate(device, {
      from: views.rotaryQuery,
      fromHeadStride: nopeDim + ropeDim,
      to: views.rotaryAbsorbed,
      toHeadStride: views.absorbed.stride,
      heads,
      dim: ropeDim,
      cosSin,
      positions,
      tokens,
    });
  }

  /** Fills the copy of `x` that the per-head products read where their activations are not f32. */
  private castIfNeeded(pass: Pass, name: string, x: Tensor<"f32">, weights: PackedWeights): void {
    if (weights.activation === "f32") return;
    const { device, workspace, tokens } = pass;
    castRows(device, x, tokens, workspace.sink(name, tokens, x.shape[1], weights.activation));
  }

  private viewsOf(pass: Pass): Views {
    const { workspace, tokens } = pass;
    const kept = this.views;
    if (kept?.tokens === tokens && kept.generation === workspace.generation) return kept;
    const { heads, latentDim, ropeDim, nopeDim, vDim } = this.shape;
    const { down, query: lowRankQuery } = this.weights;
    const buffer = (name: string, columns: number) =>
      workspace.tensor(`attention.${name}`, "f32", tokens, columns);
    const headStride = alignUp(latentDim + ropeDim, 16);
    const projected = buffer("projected", down.width);
    const lowRank = columnsOf(projected, 0, down.parts[0]);
    const query = lowRankQuery ? buffer("query", heads * (nopeDim + ropeDim)) : lowRank;
    const absorbedRows = buffer("absorbed", heads * headStride);
    const attendedRows = buffer("attended", heads * latentDim);
    const values = buffer("values", heads * vDim);
    const groups = this.headGroups(pass, query, absorbedRows, headStride, attendedRows, values);
    const latentStart = down.columns[1];
    this.views = {
      tokens,
      // Read last: the first pass of a size makes buffers.
      generation: workspace.generation,
      projected,
      lowRank,
      latent: columnsOf(projected, latentStart, latentStart + latentDim),
      rotaryKey: columnsOf(projected, latentStart + latentDim, down.width),
      query,
      rotaryQuery: columnsOf(query, nopeDim, query.shape[1]),
      absorbed: {
        ...absorbedRows,
        shape: [tokens, heads, latentDim + ropeDim],
        stride: headStride,
      },
      rotaryAbsorbed: columnsOf(absorbedRows, latentDim, heads * headStride),
      attended: { ...attendedRows, shape: [tokens, heads, latentDim], stride: latentDim },
      attendedRows,
      values,
      ...groups,
    };
    return this.views;
  }

  private headGroups(
    { workspace, tokens }: Pass,
    query: Tensor<"f32">,
    absorbed: Tensor<"f32">,
    headStride: number,
    attended: Tensor<"f32">,
    values: Tensor<"f32">,
  ): Pick<Views, "absorb" | "raise"> {
    const { nopeDim, ropeDim, vDim, latentDim } = this.shape;
    const source = (name: string, x: Tensor<"f32">, { activation }: PackedWeights): Activations =>
      activation === "f32"
        ? { type: "f32", values: x }
        : workspace.sink(name, tokens, x.shape[1], activation);
    const { keyAbsorbed, valueUp } = this.weights;
    const nope = source("attention.nope", query, keyAbsorbed[0]);
    const latent = source("attention.latent", attended, valueUp[0]);
    return {
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
  }

  private slabViewsOf(slab: Slab): SlabViews {
    if (this.slabViews?.slab === slab) return this.slabViews;
    const { latentDim, ropeDim } = this.shape;
    const dim = latentDim + ropeDim;
    const rows = { ...slab, shape: [slab.shape[0] * slab.shape[1], dim] } as Tensor<"f32">;
    this.slabViews = {
      slab,
      latent: { type: slab.dtype, values: columnsOf(rows, 0, latentDim) } as Sink,
      rotary: columnsOf(rows, latentDim, dim) as Slab,
    };
    return this.slabViews;
  }
}

function headColumns(rows: Activations, from: number, width: number): Activations {
  const values = columnsOf(rows.values as Tensor, from, from + width);
  return { type: rows.type, values } as Activations;
}
