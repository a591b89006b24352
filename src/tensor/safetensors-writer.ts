/** @file Writes safetensors: to a file beside the target first, which then takes its name. */
import { closeSync, fsyncSync, openSync, renameSync, rmSync, writeSync } from "node:fs";
import { alignUp, assert } from "../base/index.ts";
import { tensorError } from "./errors.ts";
import { headerBytesMax, headerStart, type SafetensorsDtype } from "./safetensors-header.ts";
import { bytesPerElement, type DType, elementCount, type Tensor } from "./tensor.ts";

const fileDtypes: Readonly<Record<DType, SafetensorsDtype>> = {
  f32: "F32",
  bf16: "BF16",
  i32: "I32",
  f8e4m3: "F8_E4M3",
  f8e5m2: "F8_E5M2",
  ue8m0: "F8_E8M0",
};

/** Tensors by name, to be written. */
export type NamedTensors = Readonly<Record<string, Tensor>> | ReadonlyMap<string, Tensor>;

/**
 * Writes `tensors` and `metadata` to `path`, replacing what was there in one step: a reader sees
 * the old file or the new one, never a part. Wider elements come first, so that all are aligned;
 * row strides are taken out. Raises `tensors-unwritable` and leaves no temporary file behind.
 */
export function writeSafetensors(
  path: string,
  tensors: NamedTensors,
  metadata?: Readonly<Record<string, string>>,
): void {
  const named: [string, Tensor][] = tensors instanceof Map ? [...tensors] : Object.entries(tensors);
  named.sort(
    ([a, x], [b, y]) =>
      bytesPerElement[y.dtype] - bytesPerElement[x.dtype] || (a < b ? -1 : a > b ? 1 : 0),
  );
  const temporary = `${path}.${process.pid}.tmp`;
  let handle: number | undefined;
  try {
    handle = openSync(temporary, "w");
    writeAll(handle, headerOf(named, metadata));
    for (const [, tensor] of named) writeTensor(handle, tensor);
    fsyncSync(handle);
    closeSync(handle);
    handle = undefined;
    renameSync(temporary, path);
  } catch (cause) {
    if (handle !== undefined) closeSync(handle);
    rmSync(temporary, { force: true });
    const code = (cause as NodeJS.ErrnoException).syscall && (cause as NodeJS.ErrnoException).code;
    if (!code) throw cause;
    const message = `${path} can't be written (${code}). Check the folder and its disk.`;
    throw tensorError("tensors-unwritable", message, cause);
  }
}

function headerOf(
  named: readonly (readonly [string, Tensor])[],
  metadata: Readonly<Record<string, string>> | undefined,
): Uint8Array {
  const entries: [string, unknown][] = metadata ? [["__metadata__", metadata]] : [];
  let position = 0;
  for (const [name, { dtype, shape }] of named) {
    assert(name !== "__metadata__", "a tensor can't be named __metadata__");
    const end = position + elementCount(shape) * bytesPerElement[dtype];
    entries.push([name, { dtype: fileDtypes[dtype], shape, data_offsets: [position, end] }]);
    position = end;
  }
  const json = new TextEncoder().encode(JSON.stringify(Object.fromEntries(entries)));
  // Spaces after the JSON, as the format allows, start the data at a multiple of 64.
  const length = alignUp(headerStart + json.length, 64) - headerStart;
  assert(length <= headerBytesMax, () => `header: got ${length} bytes, wanted ${headerBytesMax}`);
  const header = new Uint8Array(headerStart + length).fill(0x20);
  new DataView(header.buffer).setBigUint64(0, BigInt(length), true);
  header.set(json, headerStart);
  return header;
}

function writeTensor(handle: number, { dtype, shape, stride, data }: Tensor): void {
  const width = shape.at(-1) ?? 1;
  const count = elementCount(shape);
  const bytes = new Uint8Array(data.buffer, data.byteOffset, data.byteLength);
  const size = bytesPerElement[dtype];
  const step = stride === width ? count : width;
  for (let row = 0, done = 0; done < count; row++, done += step) {
    const start = row * stride * size;
    writeAll(handle, bytes.subarray(start, start + step * size));
  }
}

function writeAll(handle: number, bytes: Uint8Array): void {
  for (let done = 0; done < bytes.length; ) {
    done += writeSync(handle, bytes, done, Math.min(2 ** 30, bytes.length - done));
  }
}
