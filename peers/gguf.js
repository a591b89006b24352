/**
 * @file Writes GGUF version 3 files, the format that llama.cpp loads.
 *
 * Layout, little-endian: magic "GGUF", version, tensor count, key count; the keys with typed
 * values; for each tensor its name, dimensions (fastest first), type and offset; then the tensors,
 * each at a multiple of 32 bytes. Source: the format description in the ggml repository,
 * docs/gguf.md.
 */
import { closeSync, openSync, writeSync } from "node:fs";

const alignment = 32;

/** Type numbers of ggml, and how many bytes `columns` values of a row take. */
const tensorTypes = {
  F32: { id: 0, rowBytes: (columns) => 4 * columns, encode: encodeF32 },
  F16: { id: 1, rowBytes: (columns) => 2 * columns, encode: encodeF16 },
  BF16: { id: 30, rowBytes: (columns) => 2 * columns, encode: encodeBf16 },
  Q8_0: { id: 8, rowBytes: (columns) => 34 * (columns / 32), encode: encodeQ8 },
};

/**
 * @typedef {"F32" | "F16" | "BF16" | "Q8_0"} GgufType
 * @typedef {object} GgufTensor
 * @property {string} name
 * @property {GgufType} type
 * @property {readonly number[]} shape Row-major: the last dimension is contiguous.
 * @property {readonly (() => Float32Array)[]} parts The values, in order; each part holds
 *   whole rows and is asked for once, so that a model never has to fit in memory.
 * @typedef {string | number | boolean | { u32: number } | { strings: readonly string[] } |
 *   { i32s: readonly number[] }} GgufValue A number is a float32; integers are `{ u32 }`.
 */

/**
 * Writes a GGUF file with `metadata` and `tensors`, which are in the file in this order.
 * @param {string} path
 * @param {Readonly<Record<string, GgufValue>>} metadata
 * @param {readonly GgufTensor[]} tensors
 */
export function writeGguf(path, metadata, tensors) {
  const header = new Bytes();
  header.text("GGUF");
  header.u32(3);
  header.u64(tensors.length);
  header.u64(Object.keys(metadata).length);
  for (const [key, value] of Object.entries(metadata)) {
    header.string(key);
    header.value(value);
  }
  let offset = 0;
  for (const tensor of tensors) {
    header.string(tensor.name);
    header.u32(tensor.shape.length);
    for (const size of tensor.shape.toReversed()) header.u64(size);
    header.u32(tensorTypes[tensor.type].id);
    header.u64(offset);
    offset += align(tensorBytes(tensor));
  }
  header.pad();

  const file = openSync(path, "w");
  try {
    writeAll(file, header.bytes());
    for (const tensor of tensors) writeTensor(file, tensor);
  } finally {
    closeSync(file);
  }
}

/** Writes a tensor's parts, and zeros up to the alignment. */
function writeTensor(file, tensor) {
  const { encode, rowBytes } = tensorTypes[tensor.type];
  const columns = tensor.shape.at(-1);
  let written = 0;
  for (const part of tensor.parts) {
    const values = part();
    const bytes = new Uint8Array((values.length / columns) * rowBytes(columns));
    encode(values, bytes);
    writeAll(file, bytes);
    written += bytes.length;
  }
  const expected = tensorBytes(tensor);
  if (written !== expected) {
    throw new Error(`tensor ${tensor.name}: got ${written} bytes, wanted ${expected}`);
  }
  writeAll(file, new Uint8Array(align(written) - written));
}

function tensorBytes(tensor) {
  const columns = tensor.shape.at(-1);
  const rows = tensor.shape.slice(0, -1).reduce((product, size) => product * size, 1);
  return rows * tensorTypes[tensor.type].rowBytes(columns);
}

function align(bytes) {
  return Math.ceil(bytes / alignment) * alignment;
}

/** Writes all of `bytes`; one call of `write` may take only a part of a large buffer. */
export function writeAll(file, bytes) {
  for (let done = 0; done < bytes.length; ) done += writeSync(file, bytes, done);
}

function encodeF32(values, bytes) {
  bytes.set(new Uint8Array(values.buffer, values.byteOffset, values.byteLength));
}

/** bfloat16 codes of float32 values, rounded to nearest, ties to even; no NaN among them. */
export function encodeBf16(values, bytes) {
  const bits = new Uint32Array(values.buffer, values.byteOffset, values.length);
  const codes = new Uint16Array(bytes.buffer, bytes.byteOffset, values.length);
  for (let i = 0; i < codes.length; i++) {
    codes[i] = (bits[i] + 0x7fff + ((bits[i] >>> 16) & 1)) >>> 16;
  }
}

function encodeF16(values, bytes) {
  const codes = new Uint16Array(bytes.buffer, bytes.byteOffset, values.length);
  for (let i = 0; i < codes.length; i++) codes[i] = halfOf(values[i]);
}

/** Blocks of 32 values: their largest magnitude / 127 as float16, then 32 signed bytes. */
function encodeQ8(values, bytes) {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  for (let start = 0, at = 0; start < values.length; start += 32, at += 34) {
    let largest = 0;
    for (let i = start; i < start + 32; i++) largest = Math.max(largest, Math.abs(values[i]));
    const scale = Math.fround(largest / 127);
    const inverse = scale === 0 ? 0 : 1 / scale;
    view.setUint16(at, halfOf(scale), true);
    for (let i = 0; i < 32; i++) bytes[at + 2 + i] = Math.round(values[start + i] * inverse);
  }
}

const float = new Float32Array(1);
const floatBits = new Uint32Array(float.buffer);

/**
 * The float16 code of a number, rounded to nearest, ties to even; subnormals and infinity included.
 * @param {number} value
 */
export function halfOf(value) {
  float[0] = value;
  const sign = (floatBits[0] >>> 16) & 0x8000;
  const magnitude = Math.abs(value);
  if (!(magnitude < 65520)) return sign | (Number.isNaN(value) ? 0x7e00 : 0x7c00);
  // Below 2^-14 float16 has a fixed step of 2^-24; above, 10 bits after the leading one.
  const exponent = Math.max(-14, ((floatBits[0] >>> 23) & 0xff) - 127);
  const steps = magnitude * 2 ** (10 - exponent);
  const floor = Math.floor(steps);
  const rest = steps - floor;
  const rounded = floor + (rest > 0.5 || (rest === 0.5 && floor % 2 === 1) ? 1 : 0);
  // A carry out of the fraction lands in the exponent, as it should.
  return sign | (((exponent + 14) << 10) + rounded);
}

/** Collects the header, little-endian. */
class Bytes {
  #chunks = [];
  #length = 0;

  #add(chunk) {
    this.#chunks.push(chunk);
    this.#length += chunk.length;
  }

  bytes() {
    return Buffer.concat(this.#chunks);
  }

  pad() {
    this.#add(Buffer.alloc(align(this.#length) - this.#length));
  }

  u32(value) {
    const chunk = Buffer.alloc(4);
    chunk.writeUInt32LE(value);
    this.#add(chunk);
  }

  u64(value) {
    const chunk = Buffer.alloc(8);
    chunk.writeBigUInt64LE(BigInt(value));
    this.#add(chunk);
  }

  text(text) {
    this.#add(Buffer.from(text));
  }

  string(text) {
    this.u64(Buffer.byteLength(text));
    this.text(text);
  }

  /** A metadata value after the number of its type. */
  value(value) {
    if (typeof value === "string") {
      this.u32(8);
      this.string(value);
    } else if (typeof value === "boolean") {
      this.u32(7);
      this.#add(Buffer.of(value ? 1 : 0));
    } else if (typeof value === "number") {
      this.u32(6);
      this.#add(Buffer.from(Float32Array.of(value).buffer));
    } else if ("u32" in value) {
      this.u32(4);
      this.u32(value.u32);
    } else if ("strings" in value) {
      this.u32(9);
      this.u32(8);
      this.u64(value.strings.length);
      for (const text of value.strings) this.string(text);
    } else {
      this.u32(9);
      this.u32(5);
      this.u64(value.i32s.length);
      this.#add(Buffer.from(Int32Array.from(value.i32s).buffer));
    }
  }
}
