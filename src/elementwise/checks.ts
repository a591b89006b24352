/**
 * @file Checks of the door: a wrong address would kill the process, so nothing passes unchecked.
 * Bounds are those of the memory behind a tensor, since views are strided.
 */
import { alignUp, assert, assertEqual, ceilDiv } from "../base/index.ts";
import type { Tensor } from "../tensor/index.ts";
import type { Combination, Rotation, Sink } from "./types.ts";

/** Columns that share one scale of an `f8e4m3` sink. */
export const groupColumns = 128;

/** Elements from one index of the first dimension to the next. */
export function firstStep(tensor: Tensor): number {
  return tensor.shape.slice(1, -1).reduce((product, size) => product * size, tensor.stride);
}

/** `count` is a whole number, at least 0. */
function checkCount(what: string, count: number): void {
  assert(Number.isSafeInteger(count) && count >= 0, () => `${what}: got ${count}, wanted a count`);
}

/** The memory of `tensor` holds `count` runs of `width` elements, `step` apart. */
function checkReach(
  what: string,
  tensor: Tensor,
  count: number,
  step: number,
  width: number,
): void {
  const needed = count === 0 || width === 0 ? 0 : (count - 1) * step + width;
  assert(
    tensor.data.length >= needed,
    () => `${what}: got memory for ${tensor.data.length} elements, wanted ${needed}`,
  );
}

/** `tensor` is made of `rows` rows or more of at least `width` columns. */
export function checkRows(what: string, tensor: Tensor, rows: number, width: number): void {
  checkCount(`rows of ${what}`, rows);
  const last = tensor.shape.at(-1) ?? 0;
  assert(tensor.shape.length >= 2, () => `${what}: got shape [${tensor.shape}], wanted rows`);
  assert(last >= width, () => `columns of ${what}: got ${last}, wanted at least ${width}`);
  assert(tensor.stride >= last, () => `row stride of ${what}: got ${tensor.stride} for ${last}`);
  const got = tensor.shape.slice(0, -1).reduce((product, size) => product * size, 1);
  assert(got >= rows, () => `rows of ${what}: got ${got}, wanted at least ${rows}`);
  checkReach(what, tensor, rows, tensor.stride, width);
}

/** `tensor` is a vector of `count` elements or more. */
export function checkVector(what: string, tensor: Tensor, count: number): void {
  const last = tensor.shape.at(-1) ?? 0;
  assert(
    tensor.shape.length === 1 && last >= count,
    () => `${what}: got shape [${tensor.shape}], wanted [${count}]`,
  );
  checkReach(what, tensor, 1, 0, count);
}

/**
 * The first `count` entries of a list of rows lie in [0, bound); returns one more than the largest.
 */
export function checkIndex(
  what: string,
  index: Tensor<"i32">,
  count: number,
  bound: number,
): number {
  assertEqual(index.dtype, "i32", `dtype of ${what}`);
  checkVector(what, index, count);
  let end = 0;
  for (let i = 0; i < count; i++) {
    const row = index.data[i];
    assert(row >= 0 && row < bound, () => `${what}[${i}]: got ${row}, wanted 0..${bound - 1}`);
    if (row >= end) end = row + 1;
  }
  return end;
}

/** Rows that a result of `rows` rows reaches in its destination, through `toRows` where given. */
export function checkScatter(
  toRows: Tensor<"i32"> | undefined,
  rows: number,
  bound: number,
): number {
  return toRows === undefined ? rows : checkIndex("toRows", toRows, rows, bound);
}

/** `sink` takes `rows` rows of `columns` columns. */
export function checkSink(sink: Sink, rows: number, columns: number): void {
  const { values } = sink;
  assertEqual(values.dtype, sink.type === "f32" ? "f32" : "bf16", "dtype of sink.values");
  checkRows("sink.values", values, rows, columns);
  if (sink.type !== "f8e4m3") return;
  const padded = alignUp(columns, groupColumns);
  assert(
    values.stride % groupColumns === 0,
    () => `row stride of sink.values: got ${values.stride}, wanted a multiple of ${groupColumns}`,
  );
  checkReach("sink.values", values, rows, values.stride, padded);
  assertEqual(sink.scales.dtype, "f32", "dtype of sink.scales");
  checkRows("sink.scales", sink.scales, rows, ceilDiv(columns, groupColumns));
}

/** Every address of a rotation lies inside its memory. */
export function checkRotation(call: Rotation): void {
  const { from, to, heads, dim, cosSin, positions, tokens, toRows } = call;
  checkCount("tokens", tokens);
  checkCount("heads", heads);
  checkCount("dim", dim);
  assert(dim % 2 === 0, () => `dim: got ${dim}, wanted an even number`);
  assertEqual(from.dtype, "f32", "dtype of from");
  assert(to.dtype === "f32" || to.dtype === "bf16", () => `dtype of to: got ${to.dtype}`);
  assertEqual(cosSin.dtype, "f32", "dtype of cosSin");
  const width = (stride: number): number => (heads === 0 ? 0 : (heads - 1) * stride + dim);
  for (const stride of [call.fromHeadStride, call.toHeadStride]) {
    checkCount("head stride", stride);
    assert(heads < 2 || stride >= dim, () => `head stride: got ${stride}, wanted at least ${dim}`);
  }
  assertEqual(cosSin.shape.length, 2, "dimensions of cosSin");
  checkRows("cosSin", cosSin, checkIndex("positions", positions, tokens, cosSin.shape[0]), dim);
  checkReach("from", from, tokens, firstStep(from), width(call.fromHeadStride));
  const end = checkScatter(toRows, tokens, Number.MAX_SAFE_INTEGER);
  checkReach("to", to, end, firstStep(to), width(call.toHeadStride));
}

/** Every address of a combination lies inside its memory. */
export function checkCombination(call: Combination): void {
  const { y, slotOf, weights, shared, tokens, to } = call;
  const hidden = y.shape.at(-1) ?? 0;
  assertEqual(y.dtype, "f32", "dtype of y");
  assertEqual(to.dtype, "f32", "dtype of to");
  assertEqual(weights.dtype, "f32", "dtype of weights");
  assertEqual(slotOf.dtype, "i32", "dtype of slotOf");
  assertEqual(slotOf.shape.length, 2, "dimensions of slotOf");
  const k = slotOf.shape[1];
  checkRows("slotOf", slotOf, tokens, k);
  checkRows("weights", weights, tokens, k);
  checkRows("to", to, tokens, hidden);
  if (shared !== undefined) {
    assertEqual(shared.dtype, "f32", "dtype of shared");
    checkRows("shared", shared, tokens, hidden);
  }
  let end = 0;
  for (let t = 0; t < tokens; t++) {
    for (let j = 0; j < k; j++) {
      const slot = slotOf.data[t * slotOf.stride + j];
      assert(
        slot >= 0 && slot < y.shape[0],
        () => `slotOf[${t}, ${j}]: got ${slot}, wanted 0..${y.shape[0] - 1}`,
      );
      if (slot >= end) end = slot + 1;
    }
  }
  checkRows("y", y, end, hidden);
}
