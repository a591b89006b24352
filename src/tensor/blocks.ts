/**
 * @file Block-scaled e4m3: activations with one scale per row and 128 columns, weights with one per
 * 128 x 128, blocks at the edges partial. The rounding is what `Sink` in `elementwise` states.
 * Source: DeepSeek-V3 (arXiv 2412.19437, 3.3.2).
 */
import { assert, ceilDiv } from "../base/index.ts";
import { f8e4m3Max, f8e4m3ToF32, f32ToF8e4m3, f32ToUe8m0, ue8m0ToF32 } from "./convert.ts";
import { type Allocate, type Tensor, zeros } from "./tensor.ts";

/** Columns of a block, and rows of a weight's block. */
export const blockSize: 128 = 128;

/** Amax of a block whose elements are all smaller: keeps a block of zeros from a scale of zero. */
const amaxMin = Math.fround(1e-4);

/** A matrix as e4m3 codes times scales. */
export interface BlockScaled {
  /** `[n, k]`, contiguous. */
  readonly codes: Tensor<"f8e4m3">;
  /** `[ceil(n / block rows), ceil(k / 128)]`; an element is its code's value times its scale. */
  readonly scales: Tensor<"f32">;
}

/** How `quantiseBlocks` cuts and rounds. */
export interface QuantiseOptions {
  /** Rows of a block: 1 as activations have it, 128 (default) as weights do. */
  readonly blockRows?: 1 | 128;
  /** Round each scale up to a power of two (DeepSeek-V3.1's `ue8m0`). */
  readonly powerOfTwoScales?: boolean;
  readonly allocate?: Allocate;
}

/**
 * Quantises `[n, k]` by blocks: amax = max(|x|, 1e-4) over the block, scale = amax / 448 (rounded
 * up to a power of two if asked), code = e4m3(x / scale), each step in float32, to nearest even.
 * NaN elements become NaN codes and take no part in amax; an infinite element makes its block's
 * scale infinite, hence itself NaN and the rest zero.
 */
export function quantiseBlocks(values: Tensor<"f32">, options: QuantiseOptions = {}): BlockScaled {
  const { blockRows = 128, powerOfTwoScales = false, allocate } = options;
  assert(values.shape.length === 2, () => `a matrix: got shape [${values.shape}], wanted [n, k]`);
  const [n, k] = values.shape;
  const codes = zeros("f8e4m3", [n, k], allocate);
  const scales = zeros("f32", [ceilDiv(n, blockRows), ceilDiv(k, blockSize)], allocate);
  for (let top = 0, block = 0; top < n; top += blockRows) {
    const bottom = Math.min(n, top + blockRows);
    for (let left = 0; left < k; left += blockSize, block++) {
      const right = Math.min(k, left + blockSize);
      const amax = amaxOf(values, top, bottom, left, right);
      const exact = Math.fround(amax / f8e4m3Max);
      const scale = powerOfTwoScales ? ue8m0ToF32(f32ToUe8m0(exact)) : exact;
      scales.data[block] = scale;
      for (let i = top; i < bottom; i++) {
        for (let j = left; j < right; j++) {
          codes.data[i * k + j] = f32ToF8e4m3(values.data[i * values.stride + j] / scale);
        }
      }
    }
  }
  return { codes, scales };
}

function amaxOf(
  values: Tensor<"f32">,
  top: number,
  bottom: number,
  left: number,
  right: number,
): number {
  let amax = amaxMin;
  for (let i = top; i < bottom; i++) {
    for (let j = i * values.stride + left; j < i * values.stride + right; j++) {
      const magnitude = Math.abs(values.data[j]);
      if (magnitude > amax) amax = magnitude;
    }
  }
  return amax;
}

/**
 * The float32 matrix `[n, k]` that `codes` and `scales` stand for, each product rounded once.
 * `scales` is `[ceil(n / blockRows), ceil(k / 128)]`, and its shape is checked.
 */
export function dequantise(
  codes: Tensor<"f8e4m3">,
  scales: Tensor<"f32">,
  options: { readonly blockRows?: 1 | 128; readonly allocate?: Allocate } = {},
): Tensor<"f32"> {
  const { blockRows = 128, allocate } = options;
  assert(codes.shape.length === 2, () => `a matrix: got shape [${codes.shape}], wanted [n, k]`);
  const [n, k] = codes.shape;
  const wanted = [ceilDiv(n, blockRows), ceilDiv(k, blockSize)];
  assert(
    scales.shape.length === 2 && wanted.every((size, i) => scales.shape[i] === size),
    () => `scales of [${n}, ${k}]: got shape [${scales.shape}], wanted [${wanted}]`,
  );
  const values = zeros("f32", [n, k], allocate);
  for (let i = 0; i < n; i++) {
    const scaleRow = Math.floor(i / blockRows) * scales.stride;
    for (let left = 0, block = scaleRow; left < k; left += blockSize, block++) {
      const scale = scales.data[block];
      const right = Math.min(k, left + blockSize);
      for (let j = left; j < right; j++) {
        values.data[i * k + j] = f8e4m3ToF32(codes.data[i * codes.stride + j]) * scale;
      }
    }
  }
  return values;
}
