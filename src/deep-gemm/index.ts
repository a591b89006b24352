/**
 * @file Door of `deep-gemm`: matrix products in f32, bf16 and FP8 with block scales.
 */
export type {
  Activations,
  ActivationType,
  GemmGroup,
  PackedWeights,
  WeightMatrix,
} from "./types.ts";
