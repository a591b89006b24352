/**
 * @file The order of packed weights: one linear stream of panels, each of 64 columns of D.
 * Within a panel k goes slowest, so that a kernel which walks down k reads memory in order:
 * - f32: for each k, 64 columns.
 * - bf16: for each pair (k, k + 1), 64 columns of two values: the operand order of `vdpbf16ps`.
 * - f8e4m3: for each pair, 64 columns of two codes, permuted within 64 bytes so that two byte
 *   unpacks of decoded codes give the bf16 order; block scales in an array beside the stream.
 * Columns beyond a part's last and the partner of a last odd k are zero.
 */
import { ceilDiv } from "../base/index.ts";
import type { PackedWeights } from "./types.ts";

/** Columns of a panel. */
export const panelColumns: 64 = 64;

/** Weight dtypes that can be packed. */
export type PackedType = PackedWeights["dtype"];

/** Elements of a panel of depth `k`: the bytes of f8e4m3, the halves of bf16, the floats of f32. */
export function panelElements(dtype: PackedType, k: number): number {
  return dtype === "f32" ? k * panelColumns : ceilDiv(k, 2) * 2 * panelColumns;
}

/**
 * Place of (k, column) in a panel, in elements. FP8: of each 32 columns, 64 bytes hold four lanes
 * of 16 bytes; a lane holds four columns of the first 16, then four of the second, two codes each.
 */
export function panelIndex(dtype: PackedType, k: number, column: number): number {
  if (dtype === "f32") return k * panelColumns + column;
  const pair = (k >> 1) * 2 * panelColumns;
  if (dtype === "bf16") return pair + column * 2 + (k & 1);
  const lane = (column >> 2) & 3;
  const half = (column >> 4) & 1;
  return pair + (column >> 5) * 64 + lane * 16 + half * 8 + (column & 3) * 2 + (k & 1);
}
