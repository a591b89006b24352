/**
 * @file A tensor is a typed view of memory: dtype, shape, row stride, data, and the address that
 * machine code uses. It owns nothing; whoever allocated the memory keeps it alive through `data`.
 */
import { assert } from "../base/index.ts";
import { addressOf } from "../native/index.ts";

/** Element types. `ue8m0` is a power-of-two scale: the exponent byte of a float32. */
export type DType = "f32" | "bf16" | "f8e4m3" | "f8e5m2" | "ue8m0" | "i32";

/** The typed array that holds a dtype: bf16 as its upper 16 bits, the 8-bit types as codes. */
export type DataOf<D extends DType> = D extends "f32"
  ? Float32Array
  : D extends "bf16"
    ? Uint16Array
    : D extends "i32"
      ? Int32Array
      : Uint8Array;

/** Bytes of one element. */
export const bytesPerElement: Readonly<Record<DType, number>> = {
  f32: 4,
  bf16: 2,
  f8e4m3: 1,
  f8e5m2: 1,
  ue8m0: 1,
  i32: 4,
};

/** A view of memory, row-major, with the last dimension contiguous. */
export interface Tensor<D extends DType = DType> {
  readonly dtype: D;
  readonly shape: readonly number[];
  /** Elements from one row (all but the last dimension) to the next; the last dimension or more. */
  readonly stride: number;
  /** The elements from the first on; may be longer than the tensor where rows are strided. */
  readonly data: DataOf<D>;
  /** Address of the first element for machine code, or 0 where there is no native layer. */
  readonly address: number;
}

/** An allocator of zeroed, 64-byte-aligned memory that lives while the buffer is referenced. */
export type Allocate = (bytes: number) => ArrayBufferLike;

const arrayTypes = {
  f32: Float32Array,
  bf16: Uint16Array,
  f8e4m3: Uint8Array,
  f8e5m2: Uint8Array,
  ue8m0: Uint8Array,
  i32: Int32Array,
} as const;

/** The number of elements of `shape`; 1 for a scalar. */
export function elementCount(shape: readonly number[]): number {
  return shape.reduce((product, size) => product * size, 1);
}

/** A tensor over `data`, whose length must be that of `shape` (or reach its last strided row). */
export function tensorOf<D extends DType>(
  dtype: D,
  shape: readonly number[],
  data: DataOf<D>,
  stride: number = shape.at(-1) ?? 1,
): Tensor<D> {
  const last = shape.at(-1) ?? 1;
  const rows = last === 0 ? 0 : elementCount(shape) / last;
  const needed = rows === 0 ? 0 : (rows - 1) * stride + last;
  assert(stride >= last, () => `row stride: got ${stride}, wanted at least ${last}`);
  assert(
    data.length >= needed,
    () => `data of ${dtype} [${shape}]: got ${data.length} elements, wanted ${needed}`,
  );
  return { dtype, shape, stride, data, address: data.length === 0 ? 0 : addressOf(data) };
}

/** A zeroed tensor; `allocate` (a device's) aligns it to 64 bytes, the default is the JS heap's. */
export function zeros<D extends DType>(
  dtype: D,
  shape: readonly number[],
  allocate: Allocate = (bytes) => new ArrayBuffer(bytes),
): Tensor<D> {
  const count = elementCount(shape);
  // A cast: the typed array may lie over shared memory, which its users need not know.
  const buffer = allocate(Math.max(64, count * bytesPerElement[dtype])) as ArrayBuffer;
  return tensorOf(dtype, shape, new arrayTypes[dtype](buffer, 0, count) as DataOf<D>);
}

/** Rows `from` (inclusive) to `to` (exclusive) of the first dimension, as a view. */
export function rowsOf<D extends DType>(tensor: Tensor<D>, from: number, to: number): Tensor<D> {
  const [first, ...rest] = tensor.shape;
  assert(0 <= from && from <= to && to <= first, () => `rows: got ${from}..${to} of ${first}`);
  const step = (elementCount(rest) / (rest.at(-1) ?? 1)) * tensor.stride;
  const start = from * (rest.length === 0 ? 1 : step);
  return {
    ...tensor,
    shape: [to - from, ...rest],
    data: tensor.data.subarray(start) as DataOf<D>,
    address: tensor.address && tensor.address + start * bytesPerElement[tensor.dtype],
  };
}

/** Columns `from` to `to` of the last dimension, as a strided view. */
export function columnsOf<D extends DType>(tensor: Tensor<D>, from: number, to: number): Tensor<D> {
  const last = tensor.shape.at(-1) ?? 1;
  assert(0 <= from && from <= to && to <= last, () => `columns: got ${from}..${to} of ${last}`);
  return {
    ...tensor,
    shape: [...tensor.shape.slice(0, -1), to - from],
    data: tensor.data.subarray(from) as DataOf<D>,
    address: tensor.address && tensor.address + from * bytesPerElement[tensor.dtype],
  };
}
