/**
 * @file DeepGEMM's functions by their names, in camelCase, arguments in its order after the device.
 * Each is a thin door over `gemm`. D is float32. "nt": A `[m, k]` and B `[n, k]`, D = A B^T (+ C).
 * Weights that are used more than once should come packed; raw ones are packed at every call.
 * Source: github.com/deepseek-ai/DeepGEMM, whose README states the shapes.
 */
import { assert, assertEqual } from "../base/index.ts";
import type { Device } from "../device/index.ts";
import {
  type BlockScaled,
  type DType,
  elementCount,
  f8e4m3ToF32,
  f32ToBf16,
  type Tensor,
  zeros,
} from "../tensor/index.ts";
import { gemm } from "./gemm.ts";
import { packWeights } from "./pack.ts";
import type { Activations, GemmGroup, PackedWeights, WeightMatrix } from "./types.ts";

/** One weight matrix `[n, k]`: packed for the function's activation type, or raw. */
export type Weights<Raw> = PackedWeights | Raw;
/** The matrices of all groups: packed, one each, or raw as one tensor `[groups, n, k]`. */
export type GroupedWeights<Raw> = readonly PackedWeights[] | Raw;

/**
 * D = A B^T (+ C) for float32 A `[m, k]` and float32 or bf16 B `[n, k]`; D and C are float32
 * `[m, n]`, C may be D itself.
 */
export function f32GemmNt(
  device: Device,
  a: Tensor<"f32">,
  b: Weights<Tensor<"f32"> | Tensor<"bf16">>,
  d: Tensor<"f32">,
  c?: Tensor<"f32">,
): void {
  const weights = isTensor(b) ? packWeights(device, [{ weight: b }], "f32") : b;
  dense(device, { type: "f32", values: a }, weights, d, c);
}

/** D = A B^T (+ C) for bf16 A `[m, k]` and B `[n, k]`; D and C are float32 `[m, n]`, C may be D. */
export function bf16GemmNt(
  device: Device,
  a: Tensor<"bf16">,
  b: Weights<Tensor<"bf16">>,
  d: Tensor<"f32">,
  c?: Tensor<"f32">,
): void {
  const weights = isTensor(b) ? packWeights(device, [{ weight: b }], "bf16") : b;
  dense(device, { type: "bf16", values: a }, weights, d, c);
}

/**
 * D = A B^T (+ C) for FP8 operands: A codes `[m, k]` with scales `[m, ceil(k / 128)]`, B codes
 * `[n, k]` with scales `[ceil(n / 128), ceil(k / 128)]`; D and C are float32 `[m, n]`, C may be D.
 */
export function fp8GemmNt(
  device: Device,
  a: BlockScaled,
  b: Weights<BlockScaled>,
  d: Tensor<"f32">,
  c?: Tensor<"f32">,
): void {
  const weights = "codes" in b ? packWeights(device, [matrixOf(b)], "f8e4m3") : b;
  dense(device, expand(device, a), weights, d, c);
}

/**
 * For every row i with g = mIndices[i] >= 0: D[i] = A[i] B[g]^T. A `[m, k]` float32, B float32 or
 * bf16 `[groups, n, k]`, D float32 `[m, n]`, mIndices int32 `[m]`; rows of -1 are padding, D keeps
 * them. Rows of one group need not lie together, but each run of equal indices is one product.
 */
export function mGroupedF32GemmNtContiguous(
  device: Device,
  a: Tensor<"f32">,
  b: GroupedWeights<Tensor<"f32"> | Tensor<"bf16">>,
  d: Tensor<"f32">,
  mIndices: Tensor<"i32">,
): void {
  contiguous(device, { type: "f32", values: a }, packAll(device, b, "f32"), d, mIndices);
}

/** As `mGroupedF32GemmNtContiguous`, for bf16 A and B. */
export function mGroupedBf16GemmNtContiguous(
  device: Device,
  a: Tensor<"bf16">,
  b: GroupedWeights<Tensor<"bf16">>,
  d: Tensor<"f32">,
  mIndices: Tensor<"i32">,
): void {
  contiguous(device, { type: "bf16", values: a }, packAll(device, b, "bf16"), d, mIndices);
}

/**
 * As `mGroupedF32GemmNtContiguous`, for FP8: A codes `[m, k]` and scales `[m, ceil(k / 128)]`, B
 * codes `[groups, n, k]` and scales `[groups, ceil(n / 128), ceil(k / 128)]`.
 */
export function mGroupedFp8GemmNtContiguous(
  device: Device,
  a: BlockScaled,
  b: GroupedWeights<BlockScaled>,
  d: Tensor<"f32">,
  mIndices: Tensor<"i32">,
): void {
  contiguous(device, expand(device, a), packAll(device, b, "f8e4m3"), d, mIndices);
}

/**
 * For every group g: the first maskedM[g] rows of D[g] = A[g] B[g]^T; other rows of D keep their
 * values, other rows of A may hold anything. A float32 `[groups, mMax, k]`, B float32 or bf16
 * `[groups, n, k]`, D float32 `[groups, mMax, n]`, maskedM int32 `[groups]`. `expectedM` is
 * upstream's hint to its heuristics, the mean of maskedM; it has no effect here.
 */
export function mGroupedF32GemmNtMasked(
  device: Device,
  a: Tensor<"f32">,
  b: GroupedWeights<Tensor<"f32"> | Tensor<"bf16">>,
  d: Tensor<"f32">,
  maskedM: Tensor<"i32">,
  _expectedM?: number,
): void {
  masked(device, { type: "f32", values: a }, packAll(device, b, "f32"), d, maskedM);
}

/** As `mGroupedF32GemmNtMasked`, for bf16 A and B. */
export function mGroupedBf16GemmNtMasked(
  device: Device,
  a: Tensor<"bf16">,
  b: GroupedWeights<Tensor<"bf16">>,
  d: Tensor<"f32">,
  maskedM: Tensor<"i32">,
  _expectedM?: number,
): void {
  masked(device, { type: "bf16", values: a }, packAll(device, b, "bf16"), d, maskedM);
}

/**
 * As `mGroupedF32GemmNtMasked`, for FP8: A codes `[groups, mMax, k]` and scales
 * `[groups, mMax, ceil(k / 128)]`, B as in `mGroupedFp8GemmNtContiguous`.
 */
export function mGroupedFp8GemmNtMasked(
  device: Device,
  a: BlockScaled,
  b: GroupedWeights<BlockScaled>,
  d: Tensor<"f32">,
  maskedM: Tensor<"i32">,
  _expectedM?: number,
): void {
  masked(device, expand(device, a), packAll(device, b, "f8e4m3"), d, maskedM);
}

function isTensor(value: object): value is Tensor {
  return "data" in value;
}

function matrixOf(b: BlockScaled): WeightMatrix {
  return { weight: b.codes, scales: b.scales };
}

function dense(
  device: Device,
  a: Activations,
  b: PackedWeights,
  d: Tensor<"f32">,
  c: Tensor<"f32"> | undefined,
): void {
  const m = checkOutput(a, b, d, 2)[0];
  if (c && c !== d) {
    assert(
      c.dtype === "f32" && c.shape.length === 2 && c.shape[0] === m && c.shape[1] === d.shape[1],
      () => `c: got ${c.dtype} [${c.shape}], wanted f32 [${d.shape}]`,
    );
    for (let i = 0; i < m; i++) {
      d.data.set(c.data.subarray(i * c.stride, i * c.stride + c.shape[1]), i * d.stride);
    }
  }
  gemm(device, [{ a, m, b, d, accumulate: c !== undefined }]);
}

/** D has A's leading dimensions and B's rows as its last; returns the shape of D. */
function checkOutput(
  a: Activations,
  b: PackedWeights,
  d: Tensor<"f32">,
  dimensions: number,
): readonly number[] {
  const wanted = [...a.values.shape.slice(0, -1), b.width];
  assert(
    a.values.shape.length === dimensions &&
      d.shape.length === dimensions &&
      wanted.every((size, i) => d.shape[i] === size),
    () => `shape of d: got [${d.shape}] for a [${a.values.shape}], wanted [${wanted}]`,
  );
  return wanted;
}

function packAll(
  device: Device,
  b: GroupedWeights<Tensor<"f32"> | Tensor<"bf16"> | BlockScaled>,
  activation: Activations["type"],
): readonly PackedWeights[] {
  if (Array.isArray(b)) return b;
  const raw = b as Tensor<"f32"> | Tensor<"bf16"> | BlockScaled;
  const weight = "codes" in raw ? raw.codes : raw;
  return Array.from({ length: weight.shape[0] }, (_, group) => {
    const matrix =
      "codes" in raw
        ? { weight: subTensor(raw.codes, group), scales: subTensor(raw.scales, group) }
        : { weight: subTensor(raw, group) };
    return packWeights(device, [matrix as WeightMatrix], activation);
  });
}

/** Matrix `index` of a tensor `[groups, rows, columns]`. */
function subTensor<D extends DType>(tensor: Tensor<D>, index: number): Tensor<D> {
  assert(tensor.shape.length === 3, () => `shape: got [${tensor.shape}], wanted three dimensions`);
  return view(tensor, index * tensor.shape[1], tensor.shape[1]);
}

/** `count` rows from row `from` on, leading dimensions taken together, as a matrix. */
function view<D extends DType>(tensor: Tensor<D>, from: number, count: number): Tensor<D> {
  const data = tensor.data.subarray(from * tensor.stride) as Tensor<D>["data"];
  const address = tensor.address && tensor.address + from * tensor.stride * data.BYTES_PER_ELEMENT;
  return { ...tensor, shape: [count, tensor.shape.at(-1)!], data, address };
}

function viewActivations(a: Activations, from: number, count: number): Activations {
  if (a.type === "f32") return { type: a.type, values: view(a.values, from, count) };
  const values = view(a.values, from, count);
  if (a.type === "bf16") return { type: a.type, values };
  return { type: a.type, values, scales: view(a.scales, from, count) };
}

function contiguous(
  device: Device,
  a: Activations,
  b: readonly PackedWeights[],
  d: Tensor<"f32">,
  mIndices: Tensor<"i32">,
): void {
  const m = checkOutput(a, b[0], d, 2)[0];
  assertEqual(mIndices.dtype, "i32", "dtype of mIndices");
  assertEqual(`${mIndices.shape}`, `${m}`, "shape of mIndices");
  const groups: GemmGroup[] = [];
  for (let from = 0, to = 0; from < m; from = to) {
    const group = mIndices.data[from];
    while (to < m && mIndices.data[to] === group) to++;
    if (group === -1) continue;
    assert(
      group >= 0 && group < b.length,
      () => `mIndices[${from}]: got ${group}, wanted -1..${b.length - 1}`,
    );
    const count = to - from;
    const rows = { a: viewActivations(a, from, count), d: view(d, from, count) };
    groups.push({ ...rows, m: count, b: b[group] });
  }
  gemm(device, groups);
}

function masked(
  device: Device,
  a: Activations,
  b: readonly PackedWeights[],
  d: Tensor<"f32">,
  maskedM: Tensor<"i32">,
): void {
  const [groups, mMax] = checkOutput(a, b[0], d, 3);
  assertEqual(maskedM.dtype, "i32", "dtype of maskedM");
  assertEqual(`${maskedM.shape}`, `${groups}`, "shape of maskedM");
  assertEqual(b.length, groups, "groups of b");
  const launch = b.map((weights, group) => {
    const m = maskedM.data[group];
    assert(m >= 0 && m <= mMax, () => `maskedM[${group}]: got ${m}, wanted 0..${mMax}`);
    const rows = { a: viewActivations(a, group * mMax, mMax), d: view(d, group * mMax, mMax) };
    return { ...rows, m, b: weights };
  });
  gemm(device, launch);
}

/** The bf16 code of each e4m3 code's value. */
const bf16OfCode = Uint16Array.from({ length: 256 }, (_, code) => f32ToBf16(f8e4m3ToF32(code)));

/** A's codes as the bf16 values that kernels read; leading dimensions as they are. */
function expand(device: Device, a: BlockScaled): Activations {
  const { codes, scales } = a;
  assertEqual(codes.dtype, "f8e4m3", "dtype of a.codes");
  const values = zeros("bf16", codes.shape, (bytes) => device.allocate(bytes));
  const k = codes.shape.at(-1)!;
  const rows = elementCount(codes.shape.slice(0, -1));
  for (let row = 0; row < rows; row++) {
    const from = codes.data.subarray(row * codes.stride, row * codes.stride + k);
    const to = values.data.subarray(row * k, row * k + k);
    for (let i = 0; i < k; i++) to[i] = bf16OfCode[from[i]];
  }
  return { type: "f8e4m3", values, scales };
}
