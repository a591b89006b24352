/**
 * @file Operands of upstream's functions for this room's tests: random, shuffled, strided, what must
 * not be read being NaN and what must be written poisoned; and upstream's tolerances.
 */
import { assert, ceilDiv, type Random } from "../base/index.ts";
import { type Device, openDevice } from "../device/index.ts";
import { map, pageBytes, unmap, viewAt } from "../native/index.ts";
import { bf16ArrayToF32, f32ToBf16, type Tensor, tensorOf, zeros } from "../tensor/index.ts";

/** bf16 NaN. */
const nan = 0x7fc0;

/** The reference, and a device for every instruction set that this processor has. */
export function openAll(): { reference: Device; machines: Device[] } {
  const best = openDevice({ threads: 2 });
  const reference = openDevice({ rung: "reference" });
  if (best.isa === undefined) {
    console.log(`machine code is not tested: ${best.description}`);
    return { reference, machines: [] };
  }
  const isas = ["avx512-bf16", "avx512", "avx2"] as const;
  const others = isas.slice(isas.indexOf(best.isa) + 1);
  return { reference, machines: [best, ...others.map((isa) => openDevice({ isa, threads: 2 }))] };
}

/** Normal values over 10 within -1..1, as upstream's tests have them. */
function fillNormal(random: Random, data: Uint16Array): void {
  for (let i = 0; i < data.length; i++) {
    data[i] = f32ToBf16(Math.max(-1, Math.min(1, random.normal() / 10)));
  }
}

/** A tensor of small normal values; rows `pad` elements longer than they need be, NaN there. */
export function randomBf16(random: Random, shape: readonly number[], pad = 0): Tensor<"bf16"> {
  const width = shape.at(-1)!;
  const rows = shape.slice(0, -1).reduce((product, size) => product * size, 1);
  const data = new Uint16Array(rows * (width + pad)).fill(nan);
  for (let row = 0; row < rows; row++) {
    fillNormal(random, data.subarray(row * (width + pad), row * (width + pad) + width));
  }
  return tensorOf("bf16", shape, data, width + pad);
}

/** A tensor to write to, which holds nothing but NaN. */
export function poisoned<D extends "bf16" | "f32">(
  dtype: D,
  shape: readonly number[],
  pad = 0,
): Tensor<D> {
  const width = shape.at(-1)! + pad;
  const tensor = zeros(dtype, [...shape.slice(0, -1), width]);
  tensor.data.fill(dtype === "bf16" ? nan : Number.NaN);
  return tensorOf(dtype, shape, tensor.data as Tensor<D>["data"], width);
}

/** A paged cache with the tables of its requests. */
export interface PagedCache {
  readonly kCache: Tensor<"bf16">;
  readonly blockTable: Tensor<"i32">;
  readonly cacheSeqlens: Tensor<"i32">;
}

/** Pages in random order; unused rows and pages are NaN, unused table entries no page numbers. */
export function makeCache(
  random: Random,
  lengths: readonly number[],
  heads: number,
  dim: number,
  pad = 0,
): PagedCache {
  const counts = lengths.map((length) => ceilDiv(length, 64));
  const pages = counts.reduce((sum, count) => sum + count, 2);
  const free = random.shuffle(Array.from({ length: pages }, (_, i) => i));
  const kCache = poisoned("bf16", [pages, 64, heads, dim], pad);
  const width = Math.max(0, ...counts) + 2;
  const blockTable = tensorOf(
    "i32",
    [lengths.length, width],
    new Int32Array(lengths.length * width),
  );
  blockTable.data.fill(2147480000);
  lengths.forEach((length, request) => {
    for (let page = 0; page < counts[request]; page++) {
      const id = free.pop()!;
      blockTable.data[request * width + page] = id;
      const rows = Math.min(64, length - 64 * page) * heads;
      for (let row = 0; row < rows; row++) {
        const start = (id * 64 * heads + row) * (dim + pad);
        fillNormal(random, kCache.data.subarray(start, start + dim));
      }
    }
  });
  const cacheSeqlens = tensorOf("i32", [lengths.length], Int32Array.from(lengths));
  return { kCache, blockTable, cacheSeqlens };
}

/** The elements of a bf16 or float32 tensor, row strides taken out. */
export function valuesOf(tensor: Tensor<"bf16"> | Tensor<"f32">): Float32Array {
  const width = tensor.shape.at(-1)!;
  const rows = tensor.shape.slice(0, -1).reduce((product, size) => product * size, 1);
  const values = new Float32Array(rows * width);
  for (let row = 0; row < rows; row++) {
    const part = tensor.data.subarray(row * tensor.stride, row * tensor.stride + width);
    values.set(part instanceof Uint16Array ? bf16ArrayToF32(part) : part, row * width);
  }
  return values;
}

/** Tolerances of a result: either of the first two, and the cosine difference. */
export interface Tolerance {
  readonly absolute: number;
  readonly relative: number;
  readonly cosine?: number;
}

/** Upstream's of decode: results, and logarithms of sums. */
export const outTolerance: Tolerance = { absolute: 8e-4, relative: 2.01 / 128, cosine: 5e-6 };
/** Of logarithms of sums. */
export const lseTolerance: Tolerance = { absolute: 1e-6, relative: 8.01 / 65536 };

/** Throws unless all elements are close; NaN and infinities must be at the same places. */
export function checkClose(
  what: string,
  got: Tensor<"bf16"> | Tensor<"f32">,
  wanted: Tensor<"bf16"> | Tensor<"f32">,
  { absolute, relative, cosine }: Tolerance,
): void {
  const [x, y] = [valuesOf(got), valuesOf(wanted)];
  let [dot, squares] = [0, 0];
  for (let i = 0; i < y.length; i++) {
    if (!Number.isFinite(y[i])) {
      assert(Object.is(x[i], y[i]), () => `${what}[${i}]: got ${x[i]}, wanted ${y[i]}`);
      continue;
    }
    const error = Math.abs(x[i] - y[i]);
    assert(
      error <= absolute || error <= relative * Math.abs(y[i]),
      () => `${what}[${i}]: got ${x[i]}, wanted ${y[i]}`,
    );
    dot += x[i] * y[i];
    squares += x[i] ** 2 + y[i] ** 2;
  }
  // Of few elements it is a matter of luck: rounding a weight to bf16 moves whole rows.
  if (cosine === undefined || squares < 1e-10 || y.length < 1000) return;
  const difference = 1 - (2 * dot) / squares;
  assert(difference <= cosine, () => `${what}: cosine difference ${difference}, wanted ${cosine}`);
}

/**
 * The same numbers in memory that ends where a page ends that is not there: a step beyond is fatal.
 */
export function atEdge<T extends Tensor>(tensor: T): T {
  const { dtype, shape, data, stride } = tensor;
  const bytes = Math.ceil(data.byteLength / pageBytes) * pageBytes;
  const address = map(bytes + pageBytes);
  unmap(address + bytes, pageBytes);
  const start = bytes - data.byteLength;
  const buffer = viewAt(address, bytes);
  const Data = data.constructor as new (b: ArrayBuffer, at: number, n: number) => typeof data;
  const copy = new Data(buffer, start, data.length);
  copy.set(data);
  return tensorOf(dtype, shape, copy as T["data"], stride) as T;
}
