/**
 * @file From DuckDB's chunks to typed columns. Values of fixed width are copied as they lie; long
 * texts are reached through one view over the span of memory that holds all of a chunk's.
 */
import type { DuckDBDataChunk, DuckDBType } from "@duckdb/node-api";
import { DuckDBTypeId } from "@duckdb/node-api";
import duckdb, { type Vector } from "@duckdb/node-bindings";
import { viewAt } from "../native/index.ts";
import { type Column, fixedLayout, isBytes, isValid, unsupported } from "./column.ts";

/** The columns of a chunk, copied: they outlive it. `types` are the chunk's, in order. */
export function readChunk(chunk: DuckDBDataChunk, types: readonly DuckDBType[]): Column[] {
  const rows = chunk.rowCount;
  return types.map((type, i) =>
    readVector(duckdb.data_chunk_get_vector(chunk.chunk, i), type, rows),
  );
}

/** A string of up to 12 bytes lies in its 16-byte entry; of a longer one the address does. */
const inlineBytes = 12;
/** Strings that lie further apart than this are fetched one by one. */
const spanBytesMax = 2 ** 30;

function readVector(vector: Vector, type: DuckDBType, length: number): Column {
  const base = { type, length, validity: readValidity(vector, length) };
  const layout = fixedLayout(type);
  if (layout) {
    const words = length * layout.wordsPerRow;
    const bytesPerWord = new layout.make(0).BYTES_PER_ELEMENT;
    const raw = dataOf(vector, words * bytesPerWord);
    return { ...base, kind: "fixed", values: new (layout.make as typeof Uint8Array)(raw.buffer) };
  }
  if (isBytes(type)) return { ...base, kind: "bytes", ...readBytes(vector, base.validity, length) };
  switch (type.typeId) {
    case DuckDBTypeId.LIST:
      return { ...base, ...readList(vector, type.valueType, base.validity, length) };
    case DuckDBTypeId.MAP:
      return { ...base, ...readList(vector, entryType(type), base.validity, length) };
    case DuckDBTypeId.ARRAY: {
      const child = duckdb.array_vector_get_child(vector);
      const rows = length * type.length;
      return {
        ...base,
        kind: "array",
        size: type.length,
        child: readVector(child, type.valueType, rows),
      };
    }
    case DuckDBTypeId.STRUCT: {
      const children = type.entryTypes.map((entry, i) =>
        readVector(duckdb.struct_vector_get_child(vector, i), entry, length),
      );
      return { ...base, kind: "struct", names: type.entryNames, children };
    }
  }
  throw unsupported(type);
}

/** The type of a map's entries, as the struct that DuckDB stores. */
export function entryType(type: DuckDBType): DuckDBType {
  if (type.typeId !== DuckDBTypeId.MAP) throw unsupported(type);
  return {
    typeId: DuckDBTypeId.STRUCT,
    entryNames: ["key", "value"],
    entryTypes: [type.keyType, type.valueType],
    toString: () => `STRUCT("key" ${type.keyType}, "value" ${type.valueType})`,
  } as unknown as DuckDBType;
}

/** A copy of a vector's data, at offset 0 of its own buffer. */
function dataOf(vector: Vector, bytes: number): Uint8Array<ArrayBuffer> {
  const copy = new Uint8Array(bytes);
  if (bytes > 0) copy.set(duckdb.vector_get_data(vector, bytes));
  return copy;
}

function readValidity(vector: Vector, length: number): Uint8Array | undefined {
  if (length === 0) return undefined;
  const words = Math.ceil(length / 64) * 8;
  const bits = duckdb.vector_get_validity(vector, words) as Uint8Array | null;
  return bits ? new Uint8Array(bits.subarray(0, (length + 7) >> 3)) : undefined;
}

function readBytes(
  vector: Vector,
  validity: Uint8Array | undefined,
  length: number,
): { offsets: Int32Array; data: Uint8Array } {
  const entries = dataOf(vector, length * 16);
  const words = new Uint32Array(entries.buffer);
  const addresses = new BigUint64Array(entries.buffer);
  const offsets = new Int32Array(length + 1);
  let total = 0;
  let low = Number.POSITIVE_INFINITY;
  let high = 0;
  for (let i = 0; i < length; i++) {
    offsets[i] = total;
    if (!isValid(validity, i)) continue;
    const bytes = words[i * 4];
    total += bytes;
    if (bytes <= inlineBytes) continue;
    const address = Number(addresses[i * 2 + 1]);
    if (address < low) low = address;
    if (address + bytes > high) high = address + bytes;
  }
  offsets[length] = total;
  const data = new Uint8Array(total);
  const near = high - low <= spanBytesMax;
  const span = high > 0 && near ? new Uint8Array(viewAt(low, high - low)) : undefined;
  for (let i = 0; i < length; i++) {
    const bytes = offsets[i + 1] - offsets[i];
    if (bytes === 0) continue;
    if (bytes <= inlineBytes) {
      const from = i * 16 + 4;
      for (let j = 0; j < bytes; j++) data[offsets[i] + j] = entries[from + j];
      continue;
    }
    const address = Number(addresses[i * 2 + 1]);
    const source = span
      ? span.subarray(address - low, address - low + bytes)
      : new Uint8Array(viewAt(address, bytes));
    data.set(source, offsets[i]);
  }
  return { offsets, data };
}

function readList(
  vector: Vector,
  valueType: DuckDBType,
  validity: Uint8Array | undefined,
  length: number,
): { kind: "list"; offsets: Int32Array; child: Column } {
  const entries = new BigUint64Array(dataOf(vector, length * 16).buffer);
  const rows = duckdb.list_vector_get_size(vector);
  const child = readVector(duckdb.list_vector_get_child(vector), valueType, rows);
  const offsets = new Int32Array(length + 1);
  let inOrder = true;
  for (let i = 0; i < length; i++) {
    const count = isValid(validity, i) ? Number(entries[i * 2 + 1]) : 0;
    if (count > 0 && Number(entries[i * 2]) !== offsets[i]) inOrder = false;
    offsets[i + 1] = offsets[i] + count;
  }
  if (inOrder) return { kind: "list", offsets, child };
  const order = new Int32Array(offsets[length]);
  let at = 0;
  for (let i = 0; i < length; i++) {
    const from = Number(entries[i * 2]);
    for (let j = 0; j < offsets[i + 1] - offsets[i]; j++) order[at++] = from + j;
  }
  return { kind: "list", offsets, child: takeRows(child, order) };
}

/** The rows of `column` at `order`, in that order. */
function takeRows(column: Column, order: Int32Array): Column {
  const length = order.length;
  let validity: Uint8Array | undefined;
  if (column.validity) {
    validity = new Uint8Array((length + 7) >> 3);
    for (let i = 0; i < length; i++) {
      if (isValid(column.validity, order[i])) validity[i >> 3] |= 1 << (i & 7);
    }
  }
  const base = { type: column.type, length, validity };
  if (column.kind === "fixed") {
    const words = column.length === 0 ? 1 : column.values.length / column.length;
    const make = column.values.constructor as new (length: number) => Uint8Array;
    const values = new make(length * words);
    const source = column.values as Uint8Array;
    for (let i = 0; i < length; i++) {
      for (let w = 0; w < words; w++) values[i * words + w] = source[order[i] * words + w];
    }
    return { ...base, kind: "fixed", values };
  }
  if (column.kind === "struct") {
    const children = column.children.map((child) => takeRows(child, order));
    return { ...base, kind: "struct", names: column.names, children };
  }
  if (column.kind === "array") {
    const { size } = column;
    const rows = new Int32Array(length * size).map(
      (_, i) => order[Math.floor(i / size)] * size + (i % size),
    );
    return { ...base, kind: "array", size, child: takeRows(column.child, rows) };
  }
  const offsets = new Int32Array(length + 1);
  for (let i = 0; i < length; i++) {
    offsets[i + 1] = offsets[i] + column.offsets[order[i] + 1] - column.offsets[order[i]];
  }
  if (column.kind === "bytes") {
    const data = new Uint8Array(offsets[length]);
    for (let i = 0; i < length; i++) {
      data.set(
        column.data.subarray(column.offsets[order[i]], column.offsets[order[i] + 1]),
        offsets[i],
      );
    }
    return { ...base, kind: "bytes", offsets, data };
  }
  const rows = new Int32Array(offsets[length]);
  for (let i = 0, at = 0; i < length; i++) {
    for (let row = column.offsets[order[i]]; row < column.offsets[order[i] + 1]; row++)
      rows[at++] = row;
  }
  return { ...base, kind: "list", offsets, child: takeRows(column.child, rows) };
}
