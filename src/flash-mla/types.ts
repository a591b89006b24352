/** @file The contract of the attention workshop. */
import type { Tensor } from "../tensor/index.ts";

/** Tokens in one block of the paged cache. */
export const pageTokens = 64;

/** One sequence's part of an attention call. */
export interface MlaSequence {
  /** Row of its first query in `q` and `out`. */
  readonly queryStart: number;
  /**
   * Its number of queries, the last positions of its context: query i sits at contextLength -
   * queryCount + i.
   */
  readonly queryCount: number;
  /** Its tokens in the cache, those of the queries included. */
  readonly contextLength: number;
  /** Page ids, one for each 64 tokens of context; entries beyond are ignored. */
  readonly blockTable: Int32Array;
}

/**
 * Absorbed multi-head latent attention over a paged cache: one latent head serves all query heads.
 */
export interface MlaCall {
  /**
   * float32 `[tokens, heads, dimQk]`: absorbed nope part first (headDimV), then the rotary part.
   * The stride from one (token, head) row to the next is free, here and in `out`.
   */
  readonly q: Tensor<"f32">;
  /** `[pages, 64, dimQk]`, f32 or bf16; the first headDimV values of a row are also the value. */
  readonly kvCache: Tensor<"f32"> | Tensor<"bf16">;
  readonly sequences: readonly MlaSequence[];
  /** Width of a value: kv_lora_rank. */
  readonly headDimV: number;
  /** Factor of the scores before softmax. */
  readonly softmaxScale: number;
  /** float32 `[tokens, heads, headDimV]`. */
  readonly out: Tensor<"f32">;
  /** float32 `[tokens, heads]`: natural log of the sum of exponentials of the scaled scores. */
  readonly lse?: Tensor<"f32">;
}
