/**
 * @file Writes safetensors files tensor by tensor, so that a model never has to fit in memory.
 *
 * Layout: length of the header (u64), header (JSON: dtype, shape and place of each tensor), data.
 * Source: the format description of the safetensors project.
 */
import { closeSync, openSync } from "node:fs";
import { writeAll } from "./gguf.js";

const bytesPerElement = { F32: 4, BF16: 2, F8_E4M3: 1 };

/**
 * @typedef {object} StoredTensor
 * @property {string} name
 * @property {"F32" | "BF16" | "F8_E4M3"} dtype
 * @property {readonly number[]} shape
 * @property {() => Uint8Array} bytes The data, asked for once.
 */

/**
 * Writes `tensors` to a safetensors file, in this order.
 * @param {string} path
 * @param {readonly StoredTensor[]} tensors
 */
export function writeSafetensors(path, tensors) {
  const entries = {};
  let offset = 0;
  for (const { name, dtype, shape } of tensors) {
    const size = shape.reduce((product, length) => product * length, bytesPerElement[dtype]);
    entries[name] = { dtype, shape, data_offsets: [offset, offset + size] };
    offset += size;
  }
  const json = JSON.stringify(entries);
  // Spaces up to a multiple of 64, so that tensors lie aligned in a mapped file.
  const header = Buffer.from(json.padEnd(Math.ceil((json.length + 8) / 64) * 64 - 8));
  const length = Buffer.alloc(8);
  length.writeBigUInt64LE(BigInt(header.length));

  const file = openSync(path, "w");
  try {
    writeAll(file, length);
    writeAll(file, header);
    for (const { name, bytes } of tensors) {
      const data = bytes();
      const [start, end] = entries[name].data_offsets;
      if (data.length !== end - start) {
        throw new Error(`tensor ${name}: got ${data.length} bytes, wanted ${end - start}`);
      }
      writeAll(file, data);
    }
  } finally {
    closeSync(file);
  }
}
