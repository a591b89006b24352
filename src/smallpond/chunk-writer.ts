/** @file From typed columns to DuckDB's chunks, of at most 2,048 rows each. */
import { DuckDBDataChunk, type DuckDBType } from "@duckdb/node-api";
import duckdb, { type Vector } from "@duckdb/node-bindings";
import { type Column, sliceColumn } from "./column.ts";

/** The most rows of one chunk. */
const chunkRowsMax = 2048;

/** The rows of `columns` (all of one length) as chunks. */
export function* writeChunks(
  columns: readonly Column[],
  types: readonly DuckDBType[],
): Generator<DuckDBDataChunk> {
  const rows = columns[0]?.length ?? 0;
  for (let from = 0; from < rows; from += chunkRowsMax) {
    const to = Math.min(rows, from + chunkRowsMax);
    const chunk = DuckDBDataChunk.create(types, to - from);
    columns.forEach((column, i) => {
      const part = from === 0 && to === rows ? column : sliceColumn(column, from, to);
      writeVector(duckdb.data_chunk_get_vector(chunk.chunk, i), part);
    });
    yield chunk;
  }
}

function writeVector(vector: Vector, column: Column): void {
  writeValidity(vector, column);
  switch (column.kind) {
    case "fixed":
      copyInto(vector, column.values);
      break;
    case "bytes":
      for (let i = 0; i < column.length; i++) {
        const value = column.data.subarray(column.offsets[i], column.offsets[i + 1]);
        duckdb.vector_assign_string_element_len(vector, i, value);
      }
      break;
    case "list": {
      const entries = new BigUint64Array(column.length * 2);
      for (let i = 0; i < column.length; i++) {
        entries[i * 2] = BigInt(column.offsets[i]);
        entries[i * 2 + 1] = BigInt(column.offsets[i + 1] - column.offsets[i]);
      }
      const rows = column.child.length;
      duckdb.list_vector_reserve(vector, rows);
      duckdb.list_vector_set_size(vector, rows);
      copyInto(vector, entries);
      writeVector(duckdb.list_vector_get_child(vector), column.child);
      break;
    }
    case "array":
      writeVector(duckdb.array_vector_get_child(vector), column.child);
      break;
    case "struct":
      column.children.forEach((child, i) => {
        writeVector(duckdb.struct_vector_get_child(vector, i), child);
      });
      break;
  }
}

function copyInto(vector: Vector, values: ArrayBufferView): void {
  if (values.byteLength === 0) return;
  const { buffer, byteOffset, byteLength } = values;
  duckdb.copy_data_to_vector(vector, 0, buffer as ArrayBuffer, byteOffset, byteLength);
}

function writeValidity(vector: Vector, column: Column): void {
  if (column.validity === undefined || column.length === 0) return;
  const words = new Uint8Array(Math.ceil(column.length / 64) * 8);
  words.set(column.validity.subarray(0, (column.length + 7) >> 3));
  duckdb.vector_ensure_validity_writable(vector);
  duckdb.copy_data_to_vector_validity(vector, 0, words.buffer, 0, words.byteLength);
}
