/**
 * @file Tensor maps: 128 bytes that tell the copy engine a tensor's shape, its strides, the box that
 * one copy moves and how the box is swizzled in shared memory. Source: cuTensorMapEncodeTiled.
 */
import { assert } from "../../base/index.ts";
import type { CudaDriver } from "../../native/index.ts";
import { callDriver } from "./errors.ts";
import { Words } from "./words.ts";

/** Element types by the driver's number, and their bytes. */
const elementTypes = {
  u8: [0, 1],
  u16: [1, 2],
  u32: [2, 4],
  f16: [6, 2],
  f32: [7, 4],
  bf16: [9, 2],
} as const;

const swizzles = { 0: 0, 32: 1, 64: 2, 128: 3 } as const;
const promotions = { 0: 0, 64: 1, 128: 2, 256: 3 } as const;

/** What a tensor map describes; dimension 0 is the one that lies contiguous. */
export interface TensorMapOptions {
  /** e4m3 is `u8`. */
  readonly type: keyof typeof elementTypes;
  /** Address in the GPU's memory, a multiple of 16. */
  readonly address: number;
  /** Elements in each of 1 to 5 dimensions. */
  readonly shape: readonly number[];
  /** Bytes from one index to the next of dimension 1 and following: multiples of 16. */
  readonly strides: readonly number[];
  /** Elements of the box in each dimension, 256 at most. */
  readonly box: readonly number[];
  /** Width of the swizzle in bytes; the box's first dimension may be no wider. Default 128. */
  readonly swizzle?: keyof typeof swizzles;
  /** Bytes that the L2 cache fetches at a time; default 256. */
  readonly promotion?: keyof typeof promotions;
}

/** The map, at an address that is a multiple of 64, as a kernel's parameter needs it. */
export function encodeTensorMap(driver: CudaDriver, options: TensorMapOptions): Words {
  const { type, address, shape, strides, box, swizzle = 128, promotion = 256 } = options;
  checkTensorMap(options, swizzle);
  const [number] = elementTypes[type];
  const rank = shape.length;
  const map = new Words(128, 64);
  const dims = new Words(8 * rank);
  const steps = new Words(Math.max(8, 8 * (rank - 1)));
  const boxes = new Words(4 * rank);
  const ones = new Words(4 * rank);
  for (let i = 0; i < rank; i++) {
    dims.setLong(8 * i, shape[i]);
    if (i > 0) steps.setLong(8 * (i - 1), strides[i - 1]);
    boxes.setInt(4 * i, box[i]);
    ones.setInt(4 * i, 1);
  }
  callDriver(
    driver,
    `the tensor map of [${shape}] in boxes of [${box}]`,
    "cuTensorMapEncodeTiled",
    map.address,
    number,
    rank,
    address,
    dims.address,
    steps.address,
    boxes.address,
    ones.address,
    0,
    swizzles[swizzle],
    promotions[promotion],
    0,
  );
  return map;
}

/** The rules that the driver answers with no more than "invalid value". */
function checkTensorMap(options: TensorMapOptions, swizzle: number): void {
  const { type, address, shape, strides, box } = options;
  const [, bytes] = elementTypes[type];
  const rank = shape.length;
  assert(rank >= 1 && rank <= 5, () => `dimensions of a tensor map: got ${rank}, wanted 1 to 5`);
  assert(
    strides.length === rank - 1 && box.length === rank,
    () =>
      `a tensor map of ${rank} dimensions: got ${strides.length} strides and a box of ${box.length}`,
  );
  assert(
    address % 16 === 0,
    () => `address of a tensor map: got ${address}, wanted 16 to divide it`,
  );
  for (const [i, stride] of strides.entries()) {
    assert(
      stride % 16 === 0 && stride > 0 && stride < 2 ** 40,
      () => `stride of dimension ${i + 1}: got ${stride} bytes, wanted a multiple of 16`,
    );
  }
  for (const [i, size] of box.entries()) {
    assert(size >= 1 && size <= 256, () => `box in dimension ${i}: got ${size}, wanted 1 to 256`);
    assert(
      Number.isSafeInteger(shape[i]) && shape[i] >= 1 && shape[i] <= 2 ** 32,
      () => `dimension ${i} of a tensor map: got ${shape[i]}, wanted 1 to 2^32`,
    );
  }
  const width = box[0] * bytes;
  assert(width % 16 === 0, () => `box of ${width} bytes a row: wanted a multiple of 16`);
  assert(
    swizzle === 0 || width <= swizzle,
    () => `box of ${width} bytes a row: wanted at most the swizzle's ${swizzle}`,
  );
}
