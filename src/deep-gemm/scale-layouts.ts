/**
 * @file Layouts of scales as Hopper's and Blackwell's kernels want them: transposed ("MN-major"),
 * rows aligned to 16 bytes, and, for powers of two, four exponents packed into an int32. A torch
 * view `[mn, k]` with strides (1, aligned) is here the tensor `[k, mn]` with row stride `aligned`.
 * Source: github.com/deepseek-ai/DeepGEMM (README, "Utilities").
 */
import { alignUp, assert, ceilDiv } from "../base/index.ts";
import { type Tensor, tensorOf, zeros } from "../tensor/index.ts";
import { checkTensor, isCount } from "./checks.ts";

/** Bytes that a row of scales is aligned to. */
const rowAlignment = 16;
/** Exponents in an int32. */
const packed = 4;

/** `x` elements of `elementSize` bytes (1, 2, 4, 8 or 16), rounded up to a multiple of 16 bytes. */
export function getTmaAlignedSize(x: number, elementSize: number): number {
  assert(isCount(x), () => `size: got ${x}, wanted a count`);
  assert(
    [1, 2, 4, 8, 16].includes(elementSize),
    () => `elementSize: got ${elementSize}, wanted 1, 2, 4, 8 or 16`,
  );
  return alignUp(x, rowAlignment / elementSize);
}

/** Groups, rows and columns of `[mn, k]` or `[groups, mn, k]`, checked. */
function sizesOf(sf: Tensor<"f32">): [groups: number, mn: number, k: number] {
  const dimensions = sf?.shape?.length === 3 ? ["groups", "mn", "k"] : ["mn", "k"];
  const shape = checkTensor("sf", sf, "f32", dimensions);
  return shape.length === 3 ? [shape[0], shape[1], shape[2]] : [1, shape[0], shape[1]];
}

/** A zeroed tensor `[groups, rows, mn]`, or `[rows, mn]`, whose rows are aligned. */
function alignedTensor<D extends "f32" | "i32">(
  dtype: D,
  leading: readonly number[],
  rows: number,
  mn: number,
): Tensor<D> {
  const stride = Math.max(1, getTmaAlignedSize(mn, 4));
  const whole = zeros(dtype, [...leading, rows, stride]);
  return tensorOf(dtype, [...leading, rows, mn], whole.data, stride);
}

/**
 * Scales `[mn, k]` or `[groups, mn, k]` transposed to `[k, mn]` or `[groups, k, mn]`, in new memory
 * whose rows lie `getTmaAlignedSize(mn, 4)` apart, zero between.
 */
export function getMnMajorTmaAlignedTensor(sf: Tensor<"f32">): Tensor<"f32"> {
  const [groups, mn, k] = sizesOf(sf);
  const out = alignedTensor("f32", sf.shape.slice(0, -2), k, mn);
  if (groups * mn * k === 0) return out;
  for (let group = 0; group < groups; group++) {
    for (let i = 0; i < mn; i++) {
      const from = (group * mn + i) * sf.stride;
      for (let j = 0; j < k; j++) {
        out.data[(group * k + j) * out.stride + i] = sf.data[from + j];
      }
    }
  }
  return out;
}

/** The exponent byte of the float32 with these bits; scales that are powers of two are just that. */
function exponentOf(bits: number): number {
  return (bits >>> 23) & 0xff;
}

/** The bits of a tensor of float32. */
function bitsOf({ data }: Tensor<"f32">): Uint32Array {
  return new Uint32Array(data.buffer, data.byteOffset, data.length);
}

/**
 * Scales that are powers of two, `[mn, k]` or `[groups, mn, k]`, as int32 `[ceil(k / 4), mn]` or
 * `[groups, ceil(k / 4), mn]`: byte b of element (q, i) is the exponent byte (UE8M0) of scale
 * (i, 4 q + b), 0 behind the last. Rows are aligned as `getMnMajorTmaAlignedTensor` does. Bits of
 * the mantissa are dropped.
 */
export function getMnMajorTmaAlignedPackedUe8m0Tensor(sf: Tensor<"f32">): Tensor<"i32"> {
  const [groups, mn, k] = sizesOf(sf);
  const rows = ceilDiv(k, packed);
  const out = alignedTensor("i32", sf.shape.slice(0, -2), rows, mn);
  if (groups * mn * k === 0) return out;
  const bits = bitsOf(sf);
  for (let group = 0; group < groups; group++) {
    for (let i = 0; i < mn; i++) {
      const from = (group * mn + i) * sf.stride;
      for (let j = 0; j < k; j++) {
        const place = (group * rows + Math.floor(j / packed)) * out.stride + i;
        out.data[place] |= exponentOf(bits[from + j]) << (8 * (j % packed));
      }
    }
  }
  return out;
}

/**
 * Scales of a k-grouped product, `[sum of ceil(ks[g] / granK), mn]`, as int32
 * `[sum of ceil(ks[g] / (4 granK)), mn]`: each group packed by itself, four rows to one, as
 * `getMnMajorTmaAlignedPackedUe8m0Tensor` packs them. `groupedLayout`, int32 `[groups]`, holds the
 * numbers of `ks`; `granK` is 32 or 128, mn a multiple of 4.
 */
export function getKGroupedMnMajorTmaAlignedPackedUe8m0Tensor(
  sf: Tensor<"f32">,
  groupedLayout: Tensor<"i32">,
  ks: readonly number[],
  granK: number = 128,
): Tensor<"i32"> {
  assert(granK === 32 || granK === 128, () => `granK: got ${granK}, wanted 32 or 128`);
  assert(Array.isArray(ks) && ks.every(isCount), () => `ks: got ${ks}, wanted counts`);
  checkTensor("groupedLayout", groupedLayout, "i32", [ks.length]);
  ks.forEach((k, i) => {
    const got = groupedLayout.data[i];
    assert(got === k, () => `groupedLayout[${i}]: got ${got}, wanted ${k} as ks[${i}]`);
  });
  const rows = ks.reduce((sum, k) => sum + ceilDiv(k, granK), 0);
  const [, mn] = checkTensor("sf", sf, "f32", [rows, "mn"]);
  assert(mn % packed === 0, () => `mn: got ${mn}, wanted a multiple of ${packed}`);
  const out = zeros("i32", [ks.reduce((sum, k) => sum + ceilDiv(k, granK * packed), 0), mn]);
  const bits = bitsOf(sf);
  let [row, outRow] = [0, 0];
  for (const k of ks) {
    const count = ceilDiv(k, granK);
    for (let j = 0; j < count; j++, row++) {
      const to = (outRow + Math.floor(j / packed)) * mn;
      for (let i = 0; i < mn; i++) {
        out.data[to + i] |= exponentOf(bits[row * sf.stride + i]) << (8 * (j % packed));
      }
    }
    outRow += ceilDiv(count, packed);
  }
  return out;
}

/**
 * The float32 scales `[mn, k]` or `[groups, mn, k]` that a result of
 * `getMnMajorTmaAlignedPackedUe8m0Tensor` stands for: what the functions of this room take.
 */
export function unpackMnMajorUe8m0Tensor(sf: Tensor<"i32">, k: number): Tensor<"f32"> {
  assert(isCount(k), () => `k: got ${k}, wanted a count`);
  const rows = ceilDiv(k, packed);
  const isGrouped = sf?.shape?.length === 3;
  const shape = checkTensor("sf", sf, "i32", isGrouped ? ["groups", rows, "mn"] : [rows, "mn"]);
  const mn = shape.at(-1)!;
  const out = zeros("f32", [...shape.slice(0, -2), mn, k]);
  const bits = bitsOf(out);
  for (let i = 0; i < bits.length; i++) {
    const [row, j] = [Math.floor(i / k), i % k];
    const place = (Math.floor(row / mn) * rows + Math.floor(j / packed)) * sf.stride + (row % mn);
    bits[i] = ((sf.data[place] >>> (8 * (j % packed))) & 0xff) << 23;
  }
  return out;
}
