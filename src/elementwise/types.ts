/** @file The contract of the element-wise workshop: what lies between two matrix products. */
import type { Tensor } from "../tensor/index.ts";

/**
 * Where a kernel's result goes, in the form that the next GEMM wants; see `Activations` of
 * `deep-gemm`, which a sink of the same type is structurally.
 * For `f8e4m3`, per row and 128 columns: amax = max(|x|, 1e-4), scale = amax / 448 (rounded up to a
 * power of two where `powerOfTwoScales`), value = e4m3(x / scale), round to nearest even, as
 * `quantiseBlocks` of `tensor` does with rows of one: a NaN stays one and takes no part in amax; an
 * infinity makes its group's scale infinite, hence itself NaN and the rest zero (with powers of two
 * the scale is 2^127, the infinity 448 and the rest zero).
 */
export type Sink =
  | { readonly type: "f32"; readonly values: Tensor<"f32"> }
  | { readonly type: "bf16"; readonly values: Tensor<"bf16"> }
  | {
      readonly type: "f8e4m3";
      /** e4m3 values held as bf16, row stride a multiple of 128, zeroed beyond the last column. */
      readonly values: Tensor<"bf16">;
      readonly scales: Tensor<"f32">;
      readonly powerOfTwoScales?: boolean;
    };

/** A rotary embedding of some heads of some tokens; see `rotate`. */
export interface Rotation {
  /**
   * First element: the rotary part of the first token's first head. A step of the first dimension
   * is a token.
   */
  readonly from: Tensor<"f32">;
  /** Elements from one head to the next in `from`. */
  readonly fromHeadStride: number;
  /** First element: where the rotary part of row 0's first head goes. May be `from` itself. */
  readonly to: Tensor<"f32"> | Tensor<"bf16">;
  /** Elements from one head to the next in `to`. */
  readonly toHeadStride: number;
  readonly heads: number;
  /** Width of the rotary part, even. */
  readonly dim: number;
  /** `[positions, dim]`: dim / 2 cosines, then dim / 2 sines. */
  readonly cosSin: Tensor<"f32">;
  /** Position of each token, a row of `cosSin`. */
  readonly positions: Tensor<"i32">;
  readonly tokens: number;
  /** Row of `to` that each token goes to; token t goes to row t without it. */
  readonly toRows?: Tensor<"i32">;
}

/** The weighted sum of a token's experts; see `combineExperts`. */
export interface Combination {
  /** `[slots, hidden]`: what the experts gave. */
  readonly y: Tensor<"f32">;
  /** `[tokens, k]`: the row of `y` that holds the answer of a token's j-th expert. */
  readonly slotOf: Tensor<"i32">;
  /** `[tokens, k]`. */
  readonly weights: Tensor<"f32">;
  /** `[tokens, hidden]`: what the shared experts gave, added with weight 1. */
  readonly shared?: Tensor<"f32">;
  readonly tokens: number;
  /** `[tokens, hidden]`, added to. */
  readonly to: Tensor<"f32">;
}
