/** @file Door of `tensor`: dtypes, views, conversions, block scales, safetensors. */
export {
  type BlockScaled,
  blockSize,
  dequantise,
  type QuantiseOptions,
  quantiseBlocks,
} from "./blocks.ts";
export {
  bf16ArrayToF32,
  bf16ToF32,
  type FloatDType,
  f8e4m3ArrayToF32,
  f8e4m3Max,
  f8e4m3ToF32,
  f8e5m2ArrayToF32,
  f8e5m2Max,
  f8e5m2ToF32,
  f16ToF32,
  f32ArrayToBf16,
  f32ArrayToF8e4m3,
  f32ArrayToF8e5m2,
  f32ArrayToUe8m0,
  f32ToBf16,
  f32ToF8e4m3,
  f32ToF8e5m2,
  f32ToUe8m0,
  fromF32,
  toF32,
  ue8m0ArrayToF32,
  ue8m0ToF32,
} from "./convert.ts";
export { type TensorErrorCode, tensorErrors } from "./errors.ts";
export { openSafetensors, type Safetensors } from "./safetensors.ts";
export type { SafetensorsDtype, TensorInfo } from "./safetensors-header.ts";
export { type NamedTensors, writeSafetensors } from "./safetensors-writer.ts";
export {
  type Allocate,
  bytesPerElement,
  columnsOf,
  type DataOf,
  type DType,
  elementCount,
  rowsOf,
  type Tensor,
  tensorOf,
  zeros,
} from "./tensor.ts";
