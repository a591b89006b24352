/**
 * @file kv_b_proj, `[heads * (nope + v), latent]`, taken apart for the absorbed form. Per head, rows
 * are [nope | v]: the nope rows, transposed, carry a query to the latent; the v rows carry the
 * attended latent to the head's value.
 */
import type { WeightMatrix } from "../deep-gemm/index.ts";
import {
  type Allocate,
  type DType,
  dequantise,
  rowsOf,
  type Tensor,
  zeros,
} from "../tensor/index.ts";
import type { ModelConfig } from "./config.ts";

/** Rows and columns of one FP8 scale block. */
const block = 128;

/** One head's share. */
export interface HeadUp {
  /** `[latent, nope]`. */
  readonly key: WeightMatrix;
  /** `[v, latent]`. */
  readonly value: WeightMatrix;
}

/**
 * The heads of `matrix`, in its own dtype; FP8 weights whose heads straddle scale blocks become f32.
 */
export function splitKeyValueUp(
  matrix: WeightMatrix,
  shape: Pick<ModelConfig, "numAttentionHeads" | "qkNopeHeadDim" | "vHeadDim">,
  allocate: Allocate,
): HeadUp[] {
  const { numAttentionHeads: heads, qkNopeHeadDim: nope, vHeadDim: v } = shape;
  const starts = Array.from({ length: heads }, (_, h) => h * (nope + v));
  if ("scales" in matrix) {
    const aligned = starts.every((start) => isInBlocks(start, nope) && isInBlocks(start + nope, v));
    if (!aligned) {
      const weight = dequantise(matrix.weight, matrix.scales);
      return splitKeyValueUp({ weight }, shape, allocate);
    }
    return starts.map((start) => ({
      key: {
        weight: transpose(rowsOf(matrix.weight, start, start + nope), allocate),
        scales: transpose(blocksOf(matrix.scales, start, nope), allocate),
      },
      value: {
        weight: rowsOf(matrix.weight, start + nope, start + nope + v),
        scales: blocksOf(matrix.scales, start + nope, v),
      },
    }));
  }
  return starts.map((start) => ({
    key: { weight: transpose(rowsOf(matrix.weight, start, start + nope), allocate) },
    value: { weight: rowsOf(matrix.weight, start + nope, start + nope + v) },
  })) as HeadUp[];
}

/** Whether rows [start, start + count) see scale blocks that begin where they begin, or only one. */
function isInBlocks(start: number, count: number): boolean {
  return (
    start % block === 0 || Math.floor(start / block) === Math.floor((start + count - 1) / block)
  );
}

function blocksOf(scales: Tensor<"f32">, start: number, count: number): Tensor<"f32"> {
  return rowsOf(scales, Math.floor(start / block), Math.floor((start + count - 1) / block) + 1);
}

function transpose<D extends DType>(matrix: Tensor<D>, allocate: Allocate): Tensor<D> {
  const [rows, columns] = matrix.shape;
  const result = zeros(matrix.dtype, [columns, rows], allocate);
  for (let r = 0; r < rows; r++) {
    for (let c = 0; c < columns; c++) {
      result.data[c * rows + r] = matrix.data[r * matrix.stride + c];
    }
  }
  return result;
}
