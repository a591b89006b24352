/**
 * @file DeepGEMM's products grouped by k (the weight gradients of a layer's experts), by their names
 * in camelCase, arguments in its order after the device: D[g] = A_g^T B_g (+ C[g]), summed in
 * float32, where A_g and B_g are the rows of group g. Source: github.com/deepseek-ai/DeepGEMM.
 */
import { assert, ceilDiv } from "../base/index.ts";
import type { Device } from "../device/index.ts";
import { type BlockScaled, blockSize, type DType, type Tensor } from "../tensor/index.ts";
import { checkTensor, isCount } from "./checks.ts";
import { transpose, widen } from "./convert.ts";
import { gemm } from "./gemm.ts";
import { matrixAt, placeC, rowsAt, viewAt } from "./operands.ts";
import { packForCall } from "./pack.ts";
import type { GemmGroup } from "./types.ts";
import { duringCall } from "./workspace.ts";

/**
 * D[g] = A_g^T B_g (+ C[g]) for bf16 A `[k, m]` and B `[k, n]`, whose rows are those of group 0, then
 * of group 1, and so on: `ks[g]` rows each, their sum k. D and C float32 `[groups, m, n]`, C may be
 * D. A group without rows gives C[g], or zero without C. `groupedLayout`, int32 `[groups]`, holds
 * the same numbers as `ks`, as upstream wants them on both sides.
 */
export function kGroupedBf16GemmTnContiguous(
  device: Device,
  a: Tensor<"bf16">,
  b: Tensor<"bf16">,
  d: Tensor<"f32">,
  ks: readonly number[],
  groupedLayout: Tensor<"i32">,
  c?: Tensor<"f32">,
): void {
  const { m, n, k, accumulate } = checkGroups(d, ks, groupedLayout, c);
  checkTensor("a", a, "bf16", [k, m]);
  checkTensor("b", b, "bf16", [k, n]);
  launch(device, d, ks, accumulate, (group, from) => {
    const values = transpose(device, rowsAt(a, from, ks[group]));
    const weight = rowsAt(b, from, ks[group]);
    const packed = packForCall(device, { weight, transposed: true }, "bf16");
    return { a: { type: "bf16", values }, b: packed };
  });
}

/**
 * As `kGroupedBf16GemmTnContiguous`, for FP8: A codes `[k, m]` and B codes `[k, n]`, each with
 * float32 scales `[sum of ceil(ks[g] / 128), m or n]`: one for each column and 128 rows of a group,
 * as `perChannelCastToFp8` gives them group by group.
 */
export function kGroupedFp8GemmTnContiguous(
  device: Device,
  a: BlockScaled,
  b: BlockScaled,
  d: Tensor<"f32">,
  ks: readonly number[],
  groupedLayout: Tensor<"i32">,
  c?: Tensor<"f32">,
): void {
  const { m, n, k, blocks, accumulate } = checkGroups(d, ks, groupedLayout, c);
  checkTensor("a.codes", a?.codes, "f8e4m3", [k, m]);
  checkTensor("a.scales", a.scales, "f32", [blocks, m]);
  checkTensor("b.codes", b?.codes, "f8e4m3", [k, n]);
  checkTensor("b.scales", b.scales, "f32", [blocks, n]);
  launch(device, d, ks, accumulate, (group, from, block) => {
    const count = ceilDiv(ks[group], blockSize);
    const scalesOf = ({ scales }: BlockScaled) => transpose(device, rowsAt(scales, block, count));
    const values = widen(device, transpose(device, rowsAt(a.codes, from, ks[group])));
    const weight = rowsAt(b.codes, from, ks[group]);
    const matrix = { weight, scales: scalesOf(b), transposed: true };
    return {
      a: { type: "f8e4m3", values, scales: scalesOf(a) },
      b: packForCall(device, matrix, "f8e4m3"),
    };
  });
}

/**
 * As `kGroupedFp8GemmTnContiguous`, for codes that are transposed group by group: A's memory holds
 * `[m, ks[0]]`, then `[m, ks[1]]`, and so on, contiguous, seen as one dimension `[k m]`; B's the same
 * of n. Scales as there.
 */
export function kGroupedFp8GemmNtContiguous(
  device: Device,
  a: BlockScaled,
  b: BlockScaled,
  d: Tensor<"f32">,
  ks: readonly number[],
  groupedLayout: Tensor<"i32">,
  c?: Tensor<"f32">,
): void {
  const { m, n, k, blocks, accumulate } = checkGroups(d, ks, groupedLayout, c);
  checkTensor("a.codes", a?.codes, "f8e4m3", [k * m]);
  checkTensor("a.scales", a.scales, "f32", [blocks, m]);
  checkTensor("b.codes", b?.codes, "f8e4m3", [k * n]);
  checkTensor("b.scales", b.scales, "f32", [blocks, n]);
  launch(device, d, ks, accumulate, (group, from, block) => {
    const depth = ks[group];
    const count = ceilDiv(depth, blockSize);
    const scalesOf = ({ scales }: BlockScaled) => transpose(device, rowsAt(scales, block, count));
    const codesOf = ({ codes }: BlockScaled, rows: number): Tensor<"f8e4m3"> =>
      viewAt(codes, from * rows, [rows, depth], depth);
    const matrix = { weight: codesOf(b, n), scales: scalesOf(b) };
    return {
      a: { type: "f8e4m3", values: widen(device, codesOf(a, m)), scales: scalesOf(a) },
      b: packForCall(device, matrix, "f8e4m3"),
    };
  });
}

/** The sizes of the product, once D, C, `ks` and `groupedLayout` are found to fit each other. */
function checkGroups(
  d: Tensor<"f32">,
  ks: readonly number[],
  groupedLayout: Tensor<"i32">,
  c: Tensor<"f32"> | undefined,
) {
  const [groups, m, n] = checkTensor("d", d, "f32", ["groups", "m", "n"]);
  assert(
    Array.isArray(ks) && ks.length === groups && ks.every(isCount),
    () => `ks: got ${ks}, wanted ${groups} counts`,
  );
  checkTensor("groupedLayout", groupedLayout, "i32", [groups]);
  ks.forEach((k, i) => {
    const got = groupedLayout.data[i];
    assert(got === k, () => `groupedLayout[${i}]: got ${got}, wanted ${k} as ks[${i}]`);
  });
  return {
    m,
    n,
    k: ks.reduce((sum, k) => sum + k, 0),
    blocks: ks.reduce((sum, k) => sum + ceilDiv(k, blockSize), 0),
    accumulate: placeC(c, d),
  };
}

/** Products of the groups that have rows, prepared by `prepare`, in one launch. */
function launch(
  device: Device,
  d: Tensor<"f32">,
  ks: readonly number[],
  accumulate: boolean,
  prepare: (group: number, firstRow: number, firstBlock: number) => Pick<GemmGroup, "a" | "b">,
): void {
  const [, m, n] = d.shape;
  duringCall(device, () => {
    const groups: GemmGroup[] = [];
    let [from, block] = [0, 0];
    ks.forEach((k, group) => {
      const to: Tensor<DType & "f32"> = matrixAt(d, group);
      if (k > 0 && m > 0 && n > 0) {
        groups.push({ ...prepare(group, from, block), m, d: to, accumulate });
      } else if (!accumulate) {
        for (let i = 0; i < m; i++) to.data.fill(0, i * to.stride, i * to.stride + n);
      }
      from += k;
      block += ceilDiv(k, blockSize);
    });
    gemm(device, groups);
  });
}
