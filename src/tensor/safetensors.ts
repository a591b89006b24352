/**
 * @file Reads safetensors: one file, or a Hugging Face directory of shards. Opening reads headers
 * only; a tensor's bytes are mapped (or read, where mapping is not possible) when asked for.
 */
import { readFileSync, statSync } from "node:fs";
import { basename, join } from "node:path";
import { assert, type BaleenError } from "../base/index.ts";
import { type FileBytes, mapFile } from "../native/index.ts";
import { type FloatDType, f16ToF32, toF32 } from "./convert.ts";
import { tensorError } from "./errors.ts";
import {
  type Header,
  headerLength,
  headerStart,
  invalid,
  parseHeader,
  quote,
  type SafetensorsDtype,
  safetensorsDtypes,
  type TensorInfo,
} from "./safetensors-header.ts";
import {
  type Allocate,
  type DataOf,
  type DType,
  elementCount,
  type Tensor,
  tensorOf,
  zeros,
} from "./tensor.ts";

/** The dtype that each file dtype is read as; the others can be listed but not read. */
const readableDtypes: Readonly<Partial<Record<SafetensorsDtype, DType>>> = {
  F32: "f32",
  BF16: "bf16",
  I32: "i32",
  F8_E4M3: "f8e4m3",
  F8_E5M2: "f8e5m2",
  F8_E8M0: "ue8m0",
};

const arrayTypes = {
  f32: Float32Array,
  bf16: Uint16Array,
  f8e4m3: Uint8Array,
  f8e5m2: Uint8Array,
  ue8m0: Uint8Array,
  i32: Int32Array,
} as const;

/** An open checkpoint file or directory; see `openSafetensors`. */
export interface Safetensors {
  /** The file or directory, as given. */
  readonly path: string;
  /** Every tensor, by name. */
  readonly tensors: ReadonlyMap<string, TensorInfo>;
  /** The `__metadata__` of the file; of a directory, that of its first shard. */
  readonly metadata: Readonly<Record<string, string>>;
  /** The entry of `name`; raises `tensor-unavailable` where there is none. */
  info(name: string): TensorInfo;
  /**
   * The tensor as the file has it, a view of the mapped file where that is aligned for the dtype,
   * else a copy. F32, BF16, I32 and the 8-bit floats; other dtypes raise `tensor-unavailable`.
   * Not to be written to: that would end the process. A view keeps the file mapped.
   */
  tensor(name: string): Tensor;
  /** The values as a new f32 tensor: of F16 too, and of every float dtype except F64. */
  f32(name: string, allocate?: Allocate): Tensor<"f32">;
}

/**
 * Opens a `.safetensors` file, or a directory that holds `model.safetensors` or
 * `model.safetensors.index.json` with its shards, and checks all headers. The files stay open as
 * long as the result or a view of them is reachable, and must not change meanwhile.
 * Raises `tensors-missing` or `tensors-invalid`, naming file and field, or `file-unreadable`.
 */
export function openSafetensors(path: string): Safetensors {
  const location = locate(path);
  const shards = new Map(location.files.map((file) => [file, openShard(file)]));
  const first = shards.get(location.files[0]);
  let tensors: ReadonlyMap<string, TensorInfo> = first?.header.tensors ?? new Map();
  if (location.weightMap) {
    const chosen = new Map<string, TensorInfo>();
    for (const [name, file] of location.weightMap) {
      const info = shards.get(file)?.header.tensors.get(name);
      if (!info) {
        const what = `weight_map puts ${quote(name)} in ${basename(file)}, which lacks it`;
        throw invalid(location.path, what);
      }
      chosen.set(name, info);
    }
    tensors = chosen;
  }
  const bytesOf = ({ file, dtype, byteOffset, byteLength }: TensorInfo): Uint8Array => {
    const shard = shards.get(file);
    assert(shard, () => `shard: got ${file}, wanted one of this checkpoint`);
    const view = shard.bytes.view(byteOffset, byteLength);
    // A mapping starts at a page, so a view is aligned where its offset is; a copy always is.
    const aligned = !shard.bytes.mapped || byteOffset % safetensorsDtypes[dtype] === 0;
    return aligned ? view : view.slice();
  };
  return reader(path, tensors, first?.header.metadata ?? {}, bytesOf);
}

function openShard(file: string): { bytes: FileBytes; header: Header } {
  const bytes = mapFile(file);
  const prefix = bytes.view(0, Math.min(headerStart, bytes.bytes));
  const length = headerLength(file, prefix, bytes.bytes);
  return { bytes, header: parseHeader(file, bytes.view(headerStart, length), bytes.bytes) };
}

interface Location {
  /** The file that names the shards, for messages. */
  readonly path: string;
  readonly files: readonly string[];
  /** Tensor name to file; undefined where one file holds all. */
  readonly weightMap?: ReadonlyMap<string, string>;
}

function locate(path: string): Location {
  if (!isDirectory(path)) return { path, files: [path] };
  const single = join(path, "model.safetensors");
  const index = join(path, "model.safetensors.index.json");
  if (exists(single)) return { path: single, files: [single] };
  if (exists(index)) return readIndex(path, index);
  throw tensorError(
    "tensors-missing",
    `${path} has neither model.safetensors nor model.safetensors.index.json. ` +
      "Give a Hugging Face model directory with safetensors weights.",
  );
}

function readIndex(folder: string, path: string): Location {
  let json: unknown;
  try {
    json = JSON.parse(readFileSync(path, "utf8"));
  } catch (cause) {
    throw invalid(path, "is not valid JSON", cause);
  }
  const map = (json as { weight_map?: unknown } | null)?.weight_map;
  if (typeof map !== "object" || map === null || Array.isArray(map)) {
    throw invalid(path, "weight_map is not an object");
  }
  const weightMap = new Map<string, string>();
  for (const [name, shard] of Object.entries(map)) {
    // A shard lies in the directory itself: a name with a path could point anywhere on the disk.
    if (typeof shard !== "string" || !/^[^/\\:\0]+\.safetensors$/.test(shard)) {
      const place = `${quote(shard)}, not a .safetensors file name of this directory`;
      throw invalid(path, `weight_map puts ${quote(name)} in ${place}`);
    }
    weightMap.set(name, join(folder, shard));
  }
  const files = [...new Set(weightMap.values())].sort();
  const missing = files.find((file) => !exists(file));
  if (missing) {
    throw tensorError(
      "tensors-missing",
      `${path}: weight_map names ${basename(missing)}, which is not there. Download that shard.`,
    );
  }
  return { path, files, weightMap };
}

function isDirectory(path: string): boolean {
  const stats = statSync(path, { throwIfNoEntry: false });
  if (!stats) {
    throw tensorError("tensors-missing", `${path} does not exist. Check the path.`);
  }
  return stats.isDirectory();
}

function exists(path: string): boolean {
  return statSync(path, { throwIfNoEntry: false })?.isFile() ?? false;
}

function reader(
  path: string,
  tensors: ReadonlyMap<string, TensorInfo>,
  metadata: Readonly<Record<string, string>>,
  bytesOf: (info: TensorInfo) => Uint8Array,
): Safetensors {
  const info = (name: string): TensorInfo => {
    const found = tensors.get(name);
    if (found) return found;
    const advice = "List what it has with `baleen inspect`.";
    throw tensorError("tensor-unavailable", `${path} has no tensor ${quote(name)}. ${advice}`);
  };
  const tensor = (name: string): Tensor => {
    const entry = info(name);
    const dtype = readableDtypes[entry.dtype];
    if (!dtype) throw unreadable(entry, Object.keys(readableDtypes));
    return viewAs(dtype, entry.shape, bytesOf(entry));
  };
  return {
    path,
    tensors,
    metadata,
    info,
    tensor,
    f32(name, allocate) {
      const entry = info(name);
      if (entry.dtype === "F16") return f16Tensor(entry.shape, bytesOf(entry), allocate);
      if (!readableDtypes[entry.dtype] || entry.dtype === "I32") {
        throw unreadable(entry, ["F32", "F16", "BF16", "F8_E4M3", "F8_E5M2", "F8_E8M0"]);
      }
      return toF32(tensor(name) as Tensor<FloatDType>, allocate);
    },
  };
}

function unreadable({ file, name, dtype }: TensorInfo, readable: readonly string[]): BaleenError {
  return tensorError(
    "tensor-unavailable",
    `${file}: tensor ${quote(name)} is ${dtype}; what can be read is ${readable.join(", ")}. ` +
      "Convert the file first.",
  );
}

/** A tensor over `bytes`, which are aligned for the dtype. */
function viewAs<D extends DType>(dtype: D, shape: readonly number[], bytes: Uint8Array): Tensor<D> {
  const { buffer, byteOffset } = bytes;
  const data = new arrayTypes[dtype](buffer as ArrayBuffer, byteOffset, elementCount(shape));
  return tensorOf(dtype, shape, data as DataOf<D>);
}

function f16Tensor(
  shape: readonly number[],
  bytes: Uint8Array,
  allocate: Allocate | undefined,
): Tensor<"f32"> {
  const out = zeros("f32", shape, allocate);
  for (let i = 0; i < out.data.length; i++) {
    out.data[i] = f16ToF32(bytes[2 * i] | (bytes[2 * i + 1] << 8));
  }
  return out;
}
