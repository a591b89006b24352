/**
 * @file What every door of this room asks of a tensor before its address reaches machine code: what
 * it is, how large, and that its memory holds it at the address it names.
 */
import { assert } from "../base/index.ts";
import { addressOf } from "../native/index.ts";
import { bytesPerElement, type DType, elementCount, type Tensor } from "../tensor/index.ts";

/**
 * `tensor` has `dtype` and `shape`, of which a name stands for any size, and its memory holds it.
 * Returns its shape. Throws an assertion that names `what`.
 */
export function checkTensor(
  what: string,
  tensor: Tensor,
  dtype: DType,
  shape: readonly (number | string)[],
): readonly number[] {
  const isTensor = typeof tensor === "object" && tensor !== null && Array.isArray(tensor.shape);
  assert(isTensor, () => `${what}: got ${typeof tensor}, wanted a tensor`);
  const got = tensor.shape;
  const fits =
    got.length === shape.length &&
    got.every((size, i) => isCount(size) && (typeof shape[i] === "string" || size === shape[i]));
  assert(
    fits && tensor.dtype === dtype,
    () => `${what}: got ${tensor.dtype} [${got}], wanted ${dtype} [${shape}]`,
  );
  const width = got.at(-1) ?? 1;
  const rows = width === 0 ? 0 : elementCount(got) / width;
  checkMemory(what, tensor, rows, width);
  return got;
}

/** Whether `value` is a number of things. */
export function isCount(value: unknown): value is number {
  return Number.isSafeInteger(value) && (value as number) >= 0;
}

/** Whether the memory of `tensor` holds `rows` rows of `width` elements, at its address. */
export function holdsRows(tensor: Tensor, rows: number, width: number): boolean {
  const { stride, data, dtype } = tensor;
  return (
    Number.isSafeInteger(stride) &&
    stride >= width &&
    ArrayBuffer.isView(data) &&
    data.BYTES_PER_ELEMENT === bytesPerElement[dtype] &&
    data.length >= (rows === 0 ? 0 : (rows - 1) * stride + width) &&
    (data.length === 0 || tensor.address === addressOf(data))
  );
}

/** Throws an assertion that names `what` unless `holdsRows`. */
export function checkMemory(what: string, tensor: Tensor, rows: number, width: number): void {
  if (holdsRows(tensor, rows, width)) return;
  const { stride, data, dtype } = tensor;
  const needed = rows === 0 ? 0 : (rows - 1) * stride + width;
  const isArray = ArrayBuffer.isView(data) && data.BYTES_PER_ELEMENT === bytesPerElement[dtype];
  assert(isArray, () => `${what}: got data of other elements than ${dtype}`);
  assert(
    tensor.address === addressOf(data) || !(data.length >= needed),
    () => `${what}: got address ${tensor.address}, wanted that of its data`,
  );
  assert(
    false,
    () => `${what}: got ${data.length} elements in rows of ${stride}, wanted ${needed}`,
  );
}
