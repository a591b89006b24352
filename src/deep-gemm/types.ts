/** @file The contract of the GEMM workshop: operands, packed weights, groups. */
import type { Tensor } from "../tensor/index.ts";

/** What the activations of a GEMM are, hence its arithmetic. */
export type ActivationType = "f32" | "bf16" | "f8e4m3";

/**
 * Row operand A of one group, `[m, k]`, row stride free, k contiguous.
 * - `f32`: as it is. - `bf16`: as it is.
 * - `f8e4m3`: e4m3 values *held as bf16* (exact), zero beyond k up to the next multiple of 128,
 *   with float32 scales `[m, ceil(k / 128)]`, one per row and 128 columns.
 */
export type Activations =
  | { readonly type: "f32"; readonly values: Tensor<"f32"> }
  | { readonly type: "bf16"; readonly values: Tensor<"bf16"> }
  | {
      readonly type: "f8e4m3";
      readonly values: Tensor<"bf16">;
      readonly scales: Tensor<"f32">;
    };

/**
 * A weight matrix as checkpoints store it, `[n, k]` row-major ("NT": D = A B^T); or, `transposed`,
 * `[k, n]` ("NN": D = A B).
 */
export type WeightMatrix = { readonly transposed?: boolean } & (
  | { readonly weight: Tensor<"f32"> | Tensor<"bf16"> }
  | {
      readonly weight: Tensor<"f8e4m3">;
      /**
       * float32 `[ceil(n / 128), ceil(k / 128)]`, one for each block; or `[n, ceil(k / 128)]`, one
       * for each column of D and 128 of k. A weight is its code times its scale.
       */
      readonly scales: Tensor<"f32">;
    }
);

/**
 * One or more weight matrices of equal k and dtype, prepared once into one linear stream for one
 * activation type. Part i writes exactly the columns `[columns[i], columns[i] + parts[i])` of D.
 * Each part starts at a multiple of 64; the columns between parts, and those after the last part,
 * are left untouched (the last panel stores under a mask: D may be a view whose neighbours are
 * live).
 */
export interface PackedWeights {
  readonly activation: ActivationType;
  readonly dtype: "f32" | "bf16" | "f8e4m3";
  readonly k: number;
  /** Rows of each part. */
  readonly parts: readonly number[];
  /** First column of D that each part writes. */
  readonly columns: readonly number[];
  /** End of the last part's columns: `columns.at(-1) + parts.at(-1)`, the least width of D. */
  readonly width: number;
  /** Bytes that one pass over the weights reads. */
  readonly bytes: number;
}

/** One product of a group launch: `d[i, j] (+)= sum_k a[i, k] b[j, k]` for i < m, j < b.width. */
export interface GemmGroup {
  readonly a: Activations;
  /** Rows; 0 is allowed and does nothing. */
  readonly m: number;
  readonly b: PackedWeights;
  /** `[m or more, b.width or more]`, row stride free. */
  readonly d: Tensor<"f32">;
  /** Add to `d` instead of overwriting it. */
  readonly accumulate?: boolean;
}
