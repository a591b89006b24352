/**
 * @file Casts to e4m3 with scales, bit for bit as DeepGEMM's published formulas: over a block,
 * amax = max(|x|, 1e-4), sf = amax / 448, rounded up to a power of two for UE8M0, and each code is
 * e4m3(x * (1 / sf)): every step in float32, to nearest even. (`quantiseBlocks` of `tensor` and the
 * kernels of `elementwise` divide by the scale instead, which differs in the last bit of some
 * quotients.) The result lies in new memory, or in `out` of the result's shapes: memory that is used
 * again spares touching fresh pages, which costs several times the cast. A block with a NaN is NaN, scale and codes; an infinite element is NaN.
 * Source: github.com/deepseek-ai/DeepGEMM, deep_gemm/utils/math.py.
 */
import { assert, ceilDiv } from "../base/index.ts";
import type { Device } from "../device/index.ts";
import {
  type BlockScaled,
  bf16ToF32,
  bytesPerElement,
  f32ToF8e4m3,
  type Tensor,
  zeros,
} from "../tensor/index.ts";
import { checkTensor } from "./checks.ts";
import { kernelOf } from "./kernels.ts";
import { getTmaAlignedSize } from "./scale-layouts.ts";
import { type CastShape, castBlock, castWords, emitCast } from "./x86-cast.ts";

/** Casts float32 or bf16 `[m, k]` with a scale for each row and 128 columns, `[m, ceil(k / 128)]`. */
export function perTokenCastToFp8(
  device: Device,
  x: Tensor<"f32"> | Tensor<"bf16">,
  useUe8m0: boolean,
  out?: BlockScaled,
): BlockScaled {
  return cast(device, x, "token", useUe8m0, out);
}

/** Casts float32 or bf16 `[k, n]` with a scale for each 128 rows and column, `[ceil(k / 128), n]`. */
export function perChannelCastToFp8(
  device: Device,
  x: Tensor<"f32"> | Tensor<"bf16">,
  useUe8m0: boolean,
  out?: BlockScaled,
): BlockScaled {
  return cast(device, x, "channel", useUe8m0, out);
}

/**
 * Casts float32 or bf16 `[n, k]` with a scale for each 128 x 128,
 * `[ceil(n / 128), ceil(k / 128)]`.
 */
export function perBlockCastToFp8(
  device: Device,
  x: Tensor<"f32"> | Tensor<"bf16">,
  useUe8m0: boolean,
  out?: BlockScaled,
): BlockScaled {
  return cast(device, x, "block", useUe8m0, out);
}

/**
 * Scales that are powers of two, `[m, k]` with k a multiple of 4, as int32 `[m, k / 4]` of their
 * exponent bytes, the first lowest.
 */
export function packUe8m0ToInt(scales: Tensor<"f32">): Tensor<"i32"> {
  const [m, k] = checkTensor("scales", scales, "f32", ["m", "k"]);
  const wanted = getTmaAlignedSize(k, 4);
  assert(k === wanted, () => `k of scales: got ${k}, wanted a multiple of 4`);
  const out = zeros("i32", [m, k / 4]);
  if (k === 0) return out;
  const bits = new Uint32Array(scales.data.buffer, scales.data.byteOffset, scales.data.length);
  for (let i = 0; i < m; i++) {
    for (let j = 0; j < k; j++) {
      const word = bits[i * scales.stride + j];
      assert(
        (word & 0x807fffff) === 0,
        () =>
          `scales[${i}][${j}]: got ${scales.data[i * scales.stride + j]}, wanted a power of two`,
      );
      out.data[(i * k + j) >> 2] |= (word >>> 23) << (8 * (j & 3));
    }
  }
  return out;
}

/** `x` as published: the least power of two that is not below |x|, within 2^-126 to 2^127. */
export function ceilToUe8m0(x: number): number {
  word.float[0] = Math.abs(x);
  const bits = word.bits[0];
  const exponent = ((bits >>> 23) & 0xff) + ((bits & 0x7fffff) === 0 ? 0 : 1);
  word.bits[0] = Math.min(254, Math.max(1, exponent)) << 23;
  return word.float[0];
}

const float = new Float32Array(1);
const word = { float, bits: new Uint32Array(float.buffer) };

function cast(
  device: Device,
  x: Tensor<"f32"> | Tensor<"bf16">,
  shape: CastShape,
  useUe8m0: boolean,
  out: BlockScaled | undefined,
): BlockScaled {
  const dtype = x?.dtype === "bf16" ? "bf16" : "f32";
  const [m, k] = checkTensor("x", x, dtype, ["rows", "columns"]);
  const allocate = (bytes: number) => device.allocate(bytes);
  const scaleRows = shape === "token" ? m : ceilDiv(m, castBlock);
  const scaleColumns = shape === "channel" ? k : ceilDiv(k, castBlock);
  if (out !== undefined) {
    checkTensor("out.codes", out?.codes, "f8e4m3", [m, k]);
    checkTensor("out.scales", out?.scales, "f32", [scaleRows, scaleColumns]);
  }
  const codes = out?.codes ?? zeros("f8e4m3", [m, k], allocate);
  const scales = out?.scales ?? zeros("f32", [scaleRows, scaleColumns], allocate);
  if (m === 0 || k === 0) return { codes, scales };
  const done = castWhole(device, x, shape, useUe8m0, { codes, scales });
  const value = dtype === "bf16" ? bf16ToF32 : (code: number) => code;
  const [rows, columns] = [shape === "token" ? 1 : castBlock, shape === "channel" ? 1 : castBlock];
  for (let top = 0; top < m; top += rows) {
    for (let left = done; left < k; left += columns) {
      const bottom = Math.min(m, top + rows);
      const right = Math.min(k, left + columns);
      const scale = scaleOf(x, [top, bottom, left, right], value, useUe8m0);
      scales.data[(top / rows) * scales.stride + left / columns] = scale;
      const inverse = Math.fround(1 / scale);
      for (let i = top; i < bottom; i++) {
        for (let j = left; j < right; j++) {
          const scaled = Math.fround(value(x.data[i * x.stride + j]) * inverse);
          codes.data[i * codes.stride + j] = Number.isFinite(scaled) ? f32ToF8e4m3(scaled) : 0x7f;
        }
      }
    }
  }
  return { codes, scales };
}

const amaxMin = Math.fround(1e-4);

function scaleOf(
  x: Tensor,
  [top, bottom, left, right]: readonly number[],
  value: (code: number) => number,
  useUe8m0: boolean,
): number {
  let amax = amaxMin;
  for (let i = top; i < bottom; i++) {
    for (let j = left; j < right; j++)
      amax = Math.max(amax, Math.abs(value(x.data[i * x.stride + j])));
  }
  const scale = Math.fround(amax / 448);
  return useUe8m0 ? ceilToUe8m0(scale) : scale;
}

/** Casts as many columns as machine code does, and returns how many those are. */
function castWhole(
  device: Device,
  x: Tensor<"f32"> | Tensor<"bf16">,
  shape: CastShape,
  useUe8m0: boolean,
  { codes, scales }: BlockScaled,
): number {
  if (device.isa === undefined) return 0;
  const [m, k] = x.shape;
  const blocks = Math.floor(k / castBlock);
  if (m === 0 || blocks === 0) return 0;
  const powers = useUe8m0 ? " powers" : "";
  const { address, block } = kernelOf(
    device,
    `cast ${x.dtype} ${shape}${powers}`,
    (isa) => emitCast(isa, { dtype: x.dtype, shape, powers: useUe8m0 }),
    Object.keys(castWords).length * 8,
  );
  block.setAddress(castWords.source * 8, x.address);
  block.setInt64(castWords.sourceStride * 8, x.stride * bytesPerElement[x.dtype]);
  block.setAddress(castWords.codes * 8, codes.address);
  block.setInt64(castWords.codesStride * 8, codes.stride);
  block.setAddress(castWords.scales * 8, scales.address);
  block.setInt64(castWords.scalesStride * 8, scales.stride * 4);
  block.setInt64(castWords.rows * 8, m);
  block.setInt64(castWords.blocks * 8, blocks);
  device.launch(address, block.address, ceilDiv(m, castBlock));
  return blocks * castBlock;
}
