/**
 * @file The alignment of groups in contiguous layouts. Here no kernel needs one: it is a convention
 * between whoever lays out the rows and the functions that read prefix sums.
 */
import { assert } from "../base/index.ts";

const defaultAlignment = 128;
let alignment = defaultAlignment;

/** Makes groups of contiguous layouts start at multiples of `value` rows (or of k); at least 1. */
export function setMkAlignmentForContiguousLayout(value: number): void {
  assert(
    Number.isSafeInteger(value) && value >= 1,
    () => `alignment of contiguous layouts: got ${value}, wanted a positive integer`,
  );
  alignment = value;
}

/** The alignment in force, 128 until `setMkAlignmentForContiguousLayout` changes it. */
export function getMkAlignmentForContiguousLayout(): number {
  return alignment;
}

/**
 * The least alignment that the kernels themselves need: 1, since rows of any group may begin
 * anywhere. `expectedM` is upstream's hint; it has no effect here.
 */
export function getTheoreticalMkAlignmentForContiguousLayout(_expectedM?: number): number {
  return 1;
}
