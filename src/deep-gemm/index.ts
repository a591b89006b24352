/**
 * @file Door of `deep-gemm`: matrix products in f32, bf16 and FP8 with block scales.
 */
export { gemm } from "./gemm.ts";
export { packWeights } from "./pack.ts";
export type {
  Activations,
  ActivationType,
  GemmGroup,
  PackedWeights,
  WeightMatrix,
} from "./types.ts";
export {
  bf16GemmNt,
  f32GemmNt,
  fp8GemmNt,
  type GroupedWeights,
  mGroupedBf16GemmNtContiguous,
  mGroupedBf16GemmNtMasked,
  mGroupedF32GemmNtContiguous,
  mGroupedF32GemmNtMasked,
  mGroupedFp8GemmNtContiguous,
  mGroupedFp8GemmNtMasked,
  type Weights,
} from "./upstream.ts";
