/**
 * @file The FP8 cache of DeepSeek-V3.2's sparse decoding: 656 bytes a token, being 512 e4m3 codes of
 * the latent, 4 float32 scales (one for each 128 codes) and the 64 rotary values in bf16.
 * Source: README of github.com/deepseek-ai/FlashMLA, "FP8 KV Cache".
 */
import {
  type Allocate,
  bf16ToF32,
  type DType,
  f8e4m3Max,
  f8e4m3ToF32,
  f32ToBf16,
  f32ToF8e4m3,
  f32ToUe8m0,
  type Tensor,
  ue8m0ToF32,
  zeros,
} from "../tensor/index.ts";
import { checkTensor, sizesOf } from "./checks.ts";

/** Widths of a token, and the byte offsets of its parts. */
export const latentFp8 = {
  nopeDim: 512,
  ropeDim: 64,
  /** Codes that share a scale. */
  scaleBlock: 128,
  scaleBytes: 512,
  ropeBytes: 528,
  tokenBytes: 656,
} as const;

const { nopeDim, ropeDim, scaleBlock, scaleBytes, ropeBytes, tokenBytes } = latentFp8;
const dim = nopeDim + ropeDim;

/** Options of `quantiseKvCache`. */
export interface QuantiseKvOptions {
  /** Scales rounded up to powers of two, as upstream's are (default), or the exact amax / 448. */
  readonly powerOfTwo?: boolean;
  readonly allocate?: Allocate;
}

/**
 * The cache `[pages, pageSize, 1, 576]` in bf16 as FP8 `[pages, pageSize, 1, 656]` (bytes): each 128
 * of the first 512 values divided by their scale (largest magnitude / 448, at least 1e-4) and rounded
 * to e4m3; the last 64 kept.
 */
export function quantiseKvCache(
  kvCache: Tensor<"bf16">,
  { powerOfTwo = true, allocate }: QuantiseKvOptions = {},
): Tensor<"f8e4m3"> {
  checkCache(kvCache, "bf16", dim);
  const [pages, pageSize] = kvCache.shape;
  const out = zeros("f8e4m3", [pages, pageSize, 1, tokenBytes], allocate);
  const view = new DataView(out.data.buffer, out.data.byteOffset, out.data.byteLength);
  const values = new Float32Array(dim);
  for (let row = 0; row < pages * pageSize; row++) {
    const codes = kvCache.data.subarray(row * kvCache.stride, row * kvCache.stride + dim);
    for (let i = 0; i < dim; i++) values[i] = bf16ToF32(codes[i]);
    const start = row * tokenBytes;
    for (let first = 0; first < nopeDim; first += scaleBlock) {
      let largest = 0;
      for (let i = first; i < first + scaleBlock; i++) {
        largest = Math.max(largest, Math.abs(values[i]));
      }
      const exact = Math.fround(Math.max(largest / f8e4m3Max, 1e-4));
      const scale = powerOfTwo ? ue8m0ToF32(f32ToUe8m0(exact)) : exact;
      view.setFloat32(start + scaleBytes + 4 * (first / scaleBlock), scale, true);
      for (let i = first; i < first + scaleBlock; i++) {
        out.data[start + i] = f32ToF8e4m3(values[i] / scale);
      }
    }
    for (let i = 0; i < ropeDim; i++) {
      view.setUint16(start + ropeBytes + 2 * i, codes[nopeDim + i], true);
    }
  }
  return out;
}

/** The bf16 cache `[pages, pageSize, 1, 576]` that an FP8 one stands for, rounded to nearest. */
export function dequantiseKvCache(kvCache: Tensor<"f8e4m3">, allocate?: Allocate): Tensor<"bf16"> {
  checkCache(kvCache, "f8e4m3", tokenBytes);
  const [pages, pageSize] = kvCache.shape;
  const out = zeros("bf16", [pages, pageSize, 1, dim], allocate);
  for (let row = 0; row < pages * pageSize; row++) {
    dequantiseToken(
      kvCache.data.subarray(row * kvCache.stride, row * kvCache.stride + tokenBytes),
      out.data.subarray(row * dim, (row + 1) * dim),
    );
  }
  return out;
}

/** Writes the 576 bf16 values of one token's 656 bytes. */
export function dequantiseToken(token: Uint8Array, out: Uint16Array): void {
  const view = new DataView(token.buffer, token.byteOffset, token.byteLength);
  for (let i = 0; i < nopeDim; i++) {
    const scale = view.getFloat32(scaleBytes + 4 * Math.floor(i / scaleBlock), true);
    out[i] = f32ToBf16(f8e4m3ToF32(token[i]) * scale);
  }
  for (let i = 0; i < ropeDim; i++) out[nopeDim + i] = view.getUint16(ropeBytes + 2 * i, true);
}

/** Throws unless `cache` is `[pages, pageSize, 1, width]`. */
function checkCache(cache: Tensor, dtype: DType, width: number): void {
  const [pages, pageSize] = sizesOf("kvCache", cache, `pages, pageSize, 1, ${width}`);
  checkTensor("kvCache", cache, dtype, [pages, pageSize, 1, width]);
}
