/**
 * @file Typed columns: the form in which rows travel between DuckDB, functions and Arrow. The layout
 * is Arrow's (values, a validity bitmap with the lowest bit first, offsets, children), so that Arrow
 * vectors share it and DuckDB chunks are copied once.
 */
import { type DuckDBType, DuckDBTypeId } from "@duckdb/node-api";
import { pondError } from "./errors.ts";

/** Values of fixed width. 128-bit ones lie as two 64-bit words, the low one first. */
export type FixedValues =
  | Int8Array
  | Uint8Array
  | Int16Array
  | Uint16Array
  | Int32Array
  | Uint32Array
  | BigInt64Array
  | BigUint64Array
  | Float32Array
  | Float64Array;

interface ColumnBase {
  readonly type: DuckDBType;
  readonly length: number;
  /** Bit i is 1 where row i is not NULL; undefined where none is. */
  readonly validity: Uint8Array | undefined;
}

/** One value of one or two words a row; a BOOLEAN is a byte. */
export interface FixedColumn extends ColumnBase {
  readonly kind: "fixed";
  readonly values: FixedValues;
}

/** Texts in UTF-8, blobs, bit strings and big numbers as DuckDB stores them. */
export interface BytesColumn extends ColumnBase {
  readonly kind: "bytes";
  /** Row i is bytes `offsets[i]` to `offsets[i + 1]` of `data`. */
  readonly offsets: Int32Array;
  readonly data: Uint8Array;
}

/** Lists; a map is a list of key and value structs. */
export interface ListColumn extends ColumnBase {
  readonly kind: "list";
  /** Row i is rows `offsets[i]` to `offsets[i + 1]` of `child`. */
  readonly offsets: Int32Array;
  readonly child: Column;
}

/** Lists of one fixed length. */
export interface ArrayColumn extends ColumnBase {
  readonly kind: "array";
  readonly size: number;
  readonly child: Column;
}

/** Structs, a column a member. */
export interface StructColumn extends ColumnBase {
  readonly kind: "struct";
  readonly names: readonly string[];
  readonly children: readonly Column[];
}

/** A column of any type. */
export type Column = FixedColumn | BytesColumn | ListColumn | ArrayColumn | StructColumn;

/** Whether row `i` of a column with this bitmap is not NULL. */
export function isValid(validity: Uint8Array | undefined, i: number): boolean {
  return validity === undefined || (validity[i >> 3] & (1 << (i & 7))) !== 0;
}

const constructors: Partial<Record<DuckDBTypeId, new (length: number) => FixedValues>> = {
  [DuckDBTypeId.BOOLEAN]: Uint8Array,
  [DuckDBTypeId.TINYINT]: Int8Array,
  [DuckDBTypeId.UTINYINT]: Uint8Array,
  [DuckDBTypeId.SMALLINT]: Int16Array,
  [DuckDBTypeId.USMALLINT]: Uint16Array,
  [DuckDBTypeId.INTEGER]: Int32Array,
  [DuckDBTypeId.UINTEGER]: Uint32Array,
  [DuckDBTypeId.DATE]: Int32Array,
  [DuckDBTypeId.FLOAT]: Float32Array,
  [DuckDBTypeId.DOUBLE]: Float64Array,
  [DuckDBTypeId.UBIGINT]: BigUint64Array,
  [DuckDBTypeId.TIME_TZ]: BigUint64Array,
  [DuckDBTypeId.BIGINT]: BigInt64Array,
  [DuckDBTypeId.TIME]: BigInt64Array,
  [DuckDBTypeId.TIME_NS]: BigInt64Array,
  [DuckDBTypeId.TIMESTAMP]: BigInt64Array,
  [DuckDBTypeId.TIMESTAMP_TZ]: BigInt64Array,
  [DuckDBTypeId.TIMESTAMP_S]: BigInt64Array,
  [DuckDBTypeId.TIMESTAMP_MS]: BigInt64Array,
  [DuckDBTypeId.TIMESTAMP_NS]: BigInt64Array,
  [DuckDBTypeId.HUGEINT]: BigUint64Array,
  [DuckDBTypeId.UHUGEINT]: BigUint64Array,
  [DuckDBTypeId.UUID]: BigUint64Array,
  [DuckDBTypeId.INTERVAL]: Int32Array,
};

/** How values of a type of fixed width lie: their array, and how many of its words one row takes. */
export interface FixedLayout {
  readonly make: new (length: number) => FixedValues;
  readonly wordsPerRow: number;
}

/** The layout of a type of fixed width, or undefined for other types. */
export function fixedLayout(type: DuckDBType): FixedLayout | undefined {
  if (type.typeId === DuckDBTypeId.DECIMAL) {
    if (type.width <= 4) return { make: Int16Array, wordsPerRow: 1 };
    if (type.width <= 9) return { make: Int32Array, wordsPerRow: 1 };
    if (type.width <= 18) return { make: BigInt64Array, wordsPerRow: 1 };
    return { make: BigUint64Array, wordsPerRow: 2 };
  }
  if (type.typeId === DuckDBTypeId.ENUM) {
    const count = type.values.length;
    const make = count <= 0xff ? Uint8Array : count <= 0xffff ? Uint16Array : Uint32Array;
    return { make, wordsPerRow: 1 };
  }
  const make = constructors[type.typeId];
  if (!make) return undefined;
  const wide = [DuckDBTypeId.HUGEINT, DuckDBTypeId.UHUGEINT, DuckDBTypeId.UUID];
  const wordsPerRow =
    type.typeId === DuckDBTypeId.INTERVAL ? 4 : wide.includes(type.typeId) ? 2 : 1;
  return { make, wordsPerRow };
}

/** Whether values of a type lie as bytes of any length. */
export function isBytes(type: DuckDBType): boolean {
  return [DuckDBTypeId.VARCHAR, DuckDBTypeId.BLOB, DuckDBTypeId.BIT, DuckDBTypeId.BIGNUM].includes(
    type.typeId,
  );
}

/** The refusal of a type that columns do not carry. */
export function unsupported(type: DuckDBType): Error {
  return pondError(
    "type-unsupported",
    `Columns of type ${type} can't leave DuckDB here; cast them in SQL, for example to VARCHAR.`,
  );
}

/** The rows `from` to `to` of a column, sharing its values where they lie on byte borders. */
export function sliceColumn(column: Column, from: number, to: number): Column {
  const base = {
    type: column.type,
    length: to - from,
    validity: column.validity && sliceBits(column.validity, from, to),
  };
  switch (column.kind) {
    case "fixed": {
      const words = column.length === 0 ? 1 : column.values.length / column.length;
      const values = column.values.subarray(from * words, to * words);
      return { ...base, kind: "fixed", values };
    }
    case "bytes": {
      const start = column.offsets[from];
      const offsets = column.offsets.slice(from, to + 1).map((offset) => offset - start);
      return {
        ...base,
        kind: "bytes",
        offsets,
        data: column.data.subarray(start, column.offsets[to]),
      };
    }
    case "list": {
      const start = column.offsets[from];
      const offsets = column.offsets.slice(from, to + 1).map((offset) => offset - start);
      return {
        ...base,
        kind: "list",
        offsets,
        child: sliceColumn(column.child, start, column.offsets[to]),
      };
    }
    case "array": {
      const { size } = column;
      return {
        ...base,
        kind: "array",
        size,
        child: sliceColumn(column.child, from * size, to * size),
      };
    }
    case "struct": {
      const children = column.children.map((child) => sliceColumn(child, from, to));
      return { ...base, kind: "struct", names: column.names, children };
    }
  }
}

/** One column of the rows of all, in order. `columns` is not empty and of one type. */
export function concatColumns(columns: readonly Column[]): Column {
  const [first] = columns;
  if (columns.length === 1) return first;
  const length = columns.reduce((sum, column) => sum + column.length, 0);
  const base = { type: first.type, length, validity: concatBits(columns, length) };
  switch (first.kind) {
    case "fixed": {
      const parts = columns.map((column) => (column as FixedColumn).values);
      return { ...base, kind: "fixed", values: concatValues(parts) };
    }
    case "bytes": {
      const parts = columns as readonly BytesColumn[];
      const data = concatValues(parts.map((column) => column.data)) as Uint8Array;
      return { ...base, kind: "bytes", offsets: concatOffsets(parts, length), data };
    }
    case "list": {
      const parts = columns as readonly ListColumn[];
      const child = concatColumns(parts.map((column) => column.child));
      return { ...base, kind: "list", offsets: concatOffsets(parts, length), child };
    }
    case "array": {
      const child = concatColumns(columns.map((column) => (column as ArrayColumn).child));
      return { ...base, kind: "array", size: first.size, child };
    }
    case "struct": {
      const children = first.children.map((_, member) =>
        concatColumns(columns.map((column) => (column as StructColumn).children[member])),
      );
      return { ...base, kind: "struct", names: first.names, children };
    }
  }
}

function concatValues(parts: readonly FixedValues[]): FixedValues {
  const length = parts.reduce((sum, part) => sum + part.length, 0);
  const make = parts[0].constructor as new (length: number) => FixedValues;
  const values = new make(length);
  let at = 0;
  for (const part of parts) {
    (values as Uint8Array).set(part as Uint8Array, at);
    at += part.length;
  }
  return values;
}

function concatOffsets(
  parts: readonly { offsets: Int32Array; length: number }[],
  length: number,
): Int32Array {
  const offsets = new Int32Array(length + 1);
  let [at, base] = [0, 0];
  for (const part of parts) {
    for (let i = 0; i < part.length; i++) offsets[at++] = base + part.offsets[i];
    base += part.offsets[part.length];
  }
  offsets[length] = base;
  return offsets;
}

function sliceBits(bits: Uint8Array, from: number, to: number): Uint8Array {
  if (from % 8 === 0) return bits.subarray(from >> 3, (to + 7) >> 3);
  const sliced = new Uint8Array((to - from + 7) >> 3);
  for (let i = from; i < to; i++) {
    if (isValid(bits, i)) sliced[(i - from) >> 3] |= 1 << ((i - from) & 7);
  }
  return sliced;
}

function concatBits(columns: readonly Column[], length: number): Uint8Array | undefined {
  if (columns.every((column) => column.validity === undefined)) return undefined;
  const bits = new Uint8Array((length + 7) >> 3);
  let at = 0;
  for (const { validity, length: rows } of columns) {
    for (let i = 0; i < rows; i++, at++) {
      if (isValid(validity, i)) bits[at >> 3] |= 1 << (at & 7);
    }
  }
  return bits;
}
