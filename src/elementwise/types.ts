/** @file The contract of the element-wise workshop: what lies between two matrix products. */
import type { Tensor } from "../tensor/index.ts";

/**
 * Where a kernel's result goes, in the form that the next GEMM wants; see `Activations` of
 * `deep-gemm`, which a sink of the same type is structurally.
 * For `f8e4m3`, per row and 128 columns: amax = max(|x|, 1e-4), scale = amax / 448 (rounded up to a
 * power of two where `powerOfTwoScales`), value = e4m3(x / scale), round to nearest even.
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
