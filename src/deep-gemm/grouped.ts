/**
 * @file DeepGEMM's products grouped by rows (the experts of a layer), by their names in camelCase,
 * arguments in its order after the device. Each is a thin door over `gemm`: a run of rows is a
 * group. Source: github.com/deepseek-ai/DeepGEMM.
 */
import { alignUp, assert } from "../base/index.ts";
import type { Device } from "../device/index.ts";
import type { BlockScaled, Tensor } from "../tensor/index.ts";
import { getMkAlignmentForContiguousLayout } from "./alignment.ts";
import { checkTensor } from "./checks.ts";
import { gemm } from "./gemm.ts";
import {
  activationsAt,
  checkOutput,
  type GroupedWeights,
  packAll,
  plainRows,
  rowsAt,
  scaledRows,
} from "./operands.ts";
import type { Activations, GemmGroup, PackedWeights } from "./types.ts";
import { duringCall } from "./workspace.ts";

/** How the rows of a contiguous layout are given and treated. */
export interface ContiguousOptions {
  /**
   * The layout is int32 `[groups]` of prefix sums: group g's rows end before row layout[g] and
   * begin at the end of group g - 1, rounded up to `getMkAlignmentForContiguousLayout()`. By
   * default it is int32 `[m]`, the group of each row, -1 for padding.
   */
  readonly usePsumLayout?: boolean;
  /** Rows of padding become zero in D; by default D keeps them. */
  readonly ensureZeroPadding?: boolean;
}

/**
 * For every row i of group g: D[i] = A[i] B[g]^T. A `[m, k]` float32, B float32 or bf16
 * `[groups, n, k]`, D float32 `[m, n]`; `groupedLayout` as `ContiguousOptions` says. Rows of one
 * group need not lie together, but each run of equal indices is one product.
 */
export function mGroupedF32GemmNtContiguous(
  device: Device,
  a: Tensor<"f32">,
  b: GroupedWeights<Tensor<"f32"> | Tensor<"bf16">>,
  d: Tensor<"f32">,
  groupedLayout: Tensor<"i32">,
  options?: ContiguousOptions,
): void {
  duringCall(device, () => {
    const rows = plainRows("f32", a, 2);
    contiguous(device, rows, packAll(device, b, "f32"), d, groupedLayout, options);
  });
}

/** As `mGroupedF32GemmNtContiguous`, for bf16 A and B. */
export function mGroupedBf16GemmNtContiguous(
  device: Device,
  a: Tensor<"bf16">,
  b: GroupedWeights<Tensor<"bf16">>,
  d: Tensor<"f32">,
  groupedLayout: Tensor<"i32">,
  options?: ContiguousOptions,
): void {
  duringCall(device, () => {
    const rows = plainRows("bf16", a, 2);
    contiguous(device, rows, packAll(device, b, "bf16"), d, groupedLayout, options);
  });
}

/** As `mGroupedBf16GemmNtContiguous`, for B `[groups, k, n]`: D[i] = A[i] B[g]. */
export function mGroupedBf16GemmNnContiguous(
  device: Device,
  a: Tensor<"bf16">,
  b: GroupedWeights<Tensor<"bf16">>,
  d: Tensor<"f32">,
  groupedLayout: Tensor<"i32">,
  options?: ContiguousOptions,
): void {
  duringCall(device, () => {
    const rows = plainRows("bf16", a, 2);
    contiguous(device, rows, packAll(device, b, "bf16", true), d, groupedLayout, options);
  });
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
  groupedLayout: Tensor<"i32">,
  options?: ContiguousOptions,
): void {
  duringCall(device, () => {
    const rows = scaledRows(device, a, 2);
    contiguous(device, rows, packAll(device, b, "f8e4m3"), d, groupedLayout, options);
  });
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
  duringCall(device, () =>
    masked(device, plainRows("f32", a, 3), packAll(device, b, "f32"), d, maskedM),
  );
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
  duringCall(device, () =>
    masked(device, plainRows("bf16", a, 3), packAll(device, b, "bf16"), d, maskedM),
  );
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
  duringCall(device, () =>
    masked(device, scaledRows(device, a, 3), packAll(device, b, "f8e4m3"), d, maskedM),
  );
}

/** Rows `from` to `to` of one group; -1 is padding. */
interface Run {
  readonly group: number;
  readonly from: number;
  readonly to: number;
}

function contiguous(
  device: Device,
  a: Activations,
  b: readonly PackedWeights[],
  d: Tensor<"f32">,
  layout: Tensor<"i32">,
  options: ContiguousOptions = {},
): void {
  checkOutput(a, b[0], d);
  const m = d.shape[0];
  const { usePsumLayout = false, ensureZeroPadding = false } = options;
  const runs = usePsumLayout ? runsOfSums(layout, b.length, m) : runsOfRows(layout, b.length, m);
  const groups: GemmGroup[] = [];
  for (const { group, from, to } of runs) {
    if (group >= 0) {
      const rows = { a: activationsAt(a, from, to - from), d: rowsAt(d, from, to - from) };
      groups.push({ ...rows, m: to - from, b: b[group] });
    } else if (ensureZeroPadding) {
      for (let i = from; i < to; i++) d.data.fill(0, i * d.stride, i * d.stride + b[0].width);
    }
  }
  gemm(device, groups);
}

/** Runs of equal indices. */
function runsOfRows(mIndices: Tensor<"i32">, groups: number, m: number): Run[] {
  checkTensor("groupedLayout", mIndices, "i32", [m]);
  const { data } = mIndices;
  const runs: Run[] = [];
  for (let from = 0, to = 0; from < m; from = to) {
    const group = data[from];
    assert(
      group >= -1 && group < groups,
      () => `groupedLayout[${from}]: got ${group}, wanted -1..${groups - 1}`,
    );
    while (to < m && data[to] === group) to++;
    runs.push({ group, from, to });
  }
  return runs;
}

/** The groups' rows, and the padding before, between and behind them. */
function runsOfSums(ends: Tensor<"i32">, groups: number, m: number): Run[] {
  checkTensor("groupedLayout", ends, "i32", [groups]);
  const alignment = getMkAlignmentForContiguousLayout();
  const runs: Run[] = [];
  let last = 0;
  for (let group = 0; group < groups; group++) {
    const from = Math.min(m, alignUp(last, alignment));
    const to = ends.data[group];
    assert(
      to >= from && to <= m,
      () => `groupedLayout[${group}]: got ${to}, wanted ${from}..${m}, an end in order`,
    );
    if (from > last) runs.push({ group: -1, from: last, to: from });
    if (to > from) runs.push({ group, from, to });
    last = to;
  }
  if (m > last) runs.push({ group: -1, from: last, to: m });
  return runs;
}

function masked(
  device: Device,
  a: Activations,
  b: readonly PackedWeights[],
  d: Tensor<"f32">,
  maskedM: Tensor<"i32">,
): void {
  checkOutput(a, b[0], d);
  const [groups, mMax] = d.shape;
  checkTensor("maskedM", maskedM, "i32", [groups]);
  assert(b.length === groups, () => `groups of b: got ${b.length}, wanted ${groups}`);
  const launch = b.map((weights, group) => {
    const m = maskedM.data[group];
    assert(m >= 0 && m <= mMax, () => `maskedM[${group}]: got ${m}, wanted 0..${mMax}`);
    const rows = {
      a: activationsAt(a, group * mMax, mMax),
      d: rowsAt(d, group * mMax, mMax),
    };
    return { ...rows, m, b: weights };
  });
  gemm(device, launch);
}
