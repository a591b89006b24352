/**
 * @file Door of `deep-gemm`: matrix products in f32, bf16 and FP8 with block scales.
 */
export {
  getMkAlignmentForContiguousLayout,
  getTheoreticalMkAlignmentForContiguousLayout,
  setMkAlignmentForContiguousLayout,
} from "./alignment.ts";
export {
  ceilToUe8m0,
  packUe8m0ToInt,
  perBlockCastToFp8,
  perChannelCastToFp8,
  perTokenCastToFp8,
} from "./casts.ts";
export {
  bf16GemmNn,
  bf16GemmNt,
  bf16GemmTn,
  bf16GemmTt,
  f32GemmNt,
  fp8GemmNt,
} from "./dense.ts";
export { type EinsumExpression, einsum } from "./einsum.ts";
export { gemm, type PreparedGemm, prepareGemm } from "./gemm.ts";
export {
  type ContiguousOptions,
  mGroupedBf16GemmNnContiguous,
  mGroupedBf16GemmNtContiguous,
  mGroupedBf16GemmNtMasked,
  mGroupedF32GemmNtContiguous,
  mGroupedF32GemmNtMasked,
  mGroupedFp8GemmNtContiguous,
  mGroupedFp8GemmNtMasked,
} from "./grouped.ts";
export {
  kGroupedBf16GemmTnContiguous,
  kGroupedFp8GemmNtContiguous,
  kGroupedFp8GemmTnContiguous,
} from "./k-grouped.ts";
export { fp8MqaLogits, fp8PagedMqaLogits, getPagedMqaLogitsMetadata } from "./mqa-logits.ts";
export type { GroupedWeights, Weights } from "./operands.ts";
export { packWeights } from "./pack.ts";
export { type Bf16Addresses, type Bf16Config, bf16Arguments, bf16GemmKernel } from "./ptx-bf16.ts";
export { type CastConfig, castKernel, castLaunch } from "./ptx-cast.ts";
export {
  type Fp8Addresses,
  type Fp8Config,
  fp8Arguments,
  fp8GemmKernel,
  type GroupedSizes,
} from "./ptx-fp8.ts";
export { type CardModel, type GemmPlan, hopperFp8Card, planGemm } from "./ptx-heuristics.ts";
export {
  type MqaLogitsAddresses,
  type MqaLogitsConfig,
  mqaLogitsKernel,
  mqaLogitsLaunch,
} from "./ptx-mqa-logits.ts";
export { type PortableConfig, portableGemmKernel } from "./ptx-portable.ts";
export type { OutputType } from "./ptx-store.ts";
export type { Grouping, TileGrid } from "./ptx-tiles.ts";
export {
  getKGroupedMnMajorTmaAlignedPackedUe8m0Tensor,
  getMnMajorTmaAlignedPackedUe8m0Tensor,
  getMnMajorTmaAlignedTensor,
  getTmaAlignedSize,
  unpackMnMajorUe8m0Tensor,
} from "./scale-layouts.ts";
export type {
  Activations,
  ActivationType,
  GemmGroup,
  PackedWeights,
  WeightMatrix,
} from "./types.ts";
