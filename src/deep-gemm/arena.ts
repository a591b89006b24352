/**
 * @file Memory for packed weights: large chunks that many matrices share. The mappings of a model
 * with tens of thousands of matrices stay few (systems limit their number), and small matrices,
 * such as an expert's, lie in huge pages like large ones, which spares a stream most page-table
 * walks.
 */
import { alignUp } from "../base/index.ts";
import type { Device } from "../device/index.ts";
import { bytesPerElement, elementCount, type Tensor, tensorOf } from "../tensor/index.ts";
import type { PackedType } from "./layout.ts";

/** Bytes of a chunk; what no matrix touches of it costs no memory. */
const chunkBytes = 64 * 2 ** 20;
/** Matrices start at multiples of this. */
const alignment = 128;

const arrayTypes = {
  f32: Float32Array,
  bf16: Uint16Array,
  f8e4m3: Uint8Array,
  i32: Int32Array,
} as const;

interface Chunk {
  readonly buffer: ArrayBufferLike;
  used: number;
}

const chunks = new WeakMap<Device, Chunk>();

/**
 * Zeroed memory for a tensor that lives long. A chunk is freed when no tensor over it is
 * referenced; tensors of more than half a chunk have one of their own.
 */
export function allocateLasting<D extends PackedType | "i32">(
  device: Device,
  dtype: D,
  shape: readonly number[],
): Tensor<D> {
  const count = elementCount(shape);
  const bytes = alignUp(count * bytesPerElement[dtype], alignment);
  let chunk = chunks.get(device);
  if (bytes > chunkBytes / 2) {
    chunk = { buffer: device.allocate(bytes), used: 0 };
  } else if (!chunk || chunk.used + bytes > chunkBytes) {
    chunk = { buffer: device.allocate(chunkBytes), used: 0 };
    chunks.set(device, chunk);
  }
  const { buffer, used } = chunk;
  chunk.used += bytes;
  const data = new arrayTypes[dtype](buffer as ArrayBuffer, used, count);
  return tensorOf<D>(dtype, shape, data as Tensor<D>["data"]);
}
