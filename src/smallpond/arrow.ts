/**
 * @file Between typed columns and Apache Arrow. Values share their memory with Arrow's vectors where
 * the layouts agree (all but BOOLEAN, narrow DECIMAL, UUID and INTERVAL). Types that Arrow lacks
 * travel in the nearest one, with the DuckDB type in the field's metadata, and come back as they were.
 */
import { type DuckDBType, DuckDBTypeId } from "@duckdb/node-api";
import {
  Binary,
  Bool,
  type Data,
  type DataType,
  DateDay,
  Decimal,
  Dictionary,
  Field,
  FixedSizeBinary,
  FixedSizeList,
  Float32,
  Float64,
  Int8,
  Int16,
  Int32,
  Int64,
  List,
  Map_,
  makeData,
  RecordBatch,
  Schema,
  Struct,
  TimeMicrosecond,
  TimeNanosecond,
  Timestamp,
  TimeUnit,
  Uint8,
  Uint16,
  Uint32,
  Uint64,
  Utf8,
  type Vector,
  vectorFromArray,
} from "apache-arrow";
import { type Column, type FixedColumn, isValid, sliceColumn, unsupported } from "./column.ts";
import { columnOf } from "./column-builder.ts";

/** The metadata key under which a field keeps its DuckDB type. */
const typeKey = "duckdb.type";

/** An Arrow batch of these columns; `names` are theirs, in order. */
export function toRecordBatch(names: readonly string[], columns: readonly Column[]): RecordBatch {
  const children = columns.map(toData);
  const fields = columns.map(
    ({ type }, i) =>
      new Field(names[i], children[i].type, true, new Map([[typeKey, String(type)]])),
  );
  const length = columns[0]?.length ?? 0;
  const data = makeData({ type: new Struct(fields), length, nullCount: 0, children });
  return new RecordBatch(new Schema(fields), data as Data<Struct>);
}

function toData(column: Column): Data {
  const { length, validity } = column;
  const nullBitmap = validity ?? null;
  const base = { length, nullBitmap, ...(validity ? {} : { nullCount: 0 }) };
  switch (column.kind) {
    case "fixed":
      return fixedData(column, base);
    case "bytes": {
      const type = column.type.typeId === DuckDBTypeId.VARCHAR ? new Utf8() : new Binary();
      const { offsets: valueOffsets, data } = column;
      return makeData({ ...base, type: type as Utf8, valueOffsets, data });
    }
    case "list": {
      const child = toData(column.child);
      const isMap = column.type.typeId === DuckDBTypeId.MAP;
      const field = new Field(isMap ? "entries" : "item", child.type, !isMap);
      const type = isMap ? new Map_(field as Field<never>) : new List(field);
      return makeData({ ...base, type: type as List, valueOffsets: column.offsets, child });
    }
    case "array": {
      const child = toData(column.child);
      const type = new FixedSizeList(column.size, new Field("item", child.type, true));
      return makeData({ ...base, type, child });
    }
    case "struct": {
      const children = column.children.map(toData);
      const fields = children.map((child, i) => new Field(column.names[i], child.type, true));
      return makeData({ ...base, type: new Struct(fields), children }) as Data;
    }
  }
}

type Base = { length: number; nullBitmap: Uint8Array | null };

function fixedData(column: FixedColumn, base: Base): Data {
  const { type, values } = column;
  const of = (arrow: DataType, data: unknown = values): Data =>
    makeData({ ...base, type: arrow, data } as never);
  switch (type.typeId) {
    case DuckDBTypeId.BOOLEAN:
      return of(new Bool(), packBits(values as Uint8Array));
    case DuckDBTypeId.DECIMAL:
      return of(new Decimal(type.scale, type.width, 128), wideWords(column));
    case DuckDBTypeId.HUGEINT:
    case DuckDBTypeId.UHUGEINT:
      return of(new Decimal(0, 38, 128), wideWords(column));
    case DuckDBTypeId.UUID:
      return of(new FixedSizeBinary(16), swapUuids(bytesOf(values)));
    case DuckDBTypeId.INTERVAL:
      return of(new FixedSizeBinary(16), bytesOf(values));
    case DuckDBTypeId.TIME_TZ:
      return of(new FixedSizeBinary(8), bytesOf(values));
    case DuckDBTypeId.ENUM: {
      const index = { 1: new Uint8(), 2: new Uint16(), 4: new Uint32() }[values.BYTES_PER_ELEMENT];
      const dictionary = vectorFromArray([...type.values], new Utf8());
      const arrow = new Dictionary(new Utf8(), index as never);
      return makeData({ ...base, type: arrow, data: values as never, dictionary });
    }
    default: {
      const arrow = plainTypes[type.typeId]?.();
      if (!arrow) throw unsupported(type);
      return of(arrow);
    }
  }
}

const plainTypes: Partial<Record<DuckDBTypeId, () => DataType>> = {
  [DuckDBTypeId.TINYINT]: () => new Int8(),
  [DuckDBTypeId.UTINYINT]: () => new Uint8(),
  [DuckDBTypeId.SMALLINT]: () => new Int16(),
  [DuckDBTypeId.USMALLINT]: () => new Uint16(),
  [DuckDBTypeId.INTEGER]: () => new Int32(),
  [DuckDBTypeId.UINTEGER]: () => new Uint32(),
  [DuckDBTypeId.BIGINT]: () => new Int64(),
  [DuckDBTypeId.UBIGINT]: () => new Uint64(),
  [DuckDBTypeId.FLOAT]: () => new Float32(),
  [DuckDBTypeId.DOUBLE]: () => new Float64(),
  [DuckDBTypeId.DATE]: () => new DateDay(),
  [DuckDBTypeId.TIME]: () => new TimeMicrosecond(),
  [DuckDBTypeId.TIME_NS]: () => new TimeNanosecond(),
  [DuckDBTypeId.TIMESTAMP_S]: () => new Timestamp(TimeUnit.SECOND),
  [DuckDBTypeId.TIMESTAMP_MS]: () => new Timestamp(TimeUnit.MILLISECOND),
  [DuckDBTypeId.TIMESTAMP]: () => new Timestamp(TimeUnit.MICROSECOND),
  [DuckDBTypeId.TIMESTAMP_NS]: () => new Timestamp(TimeUnit.NANOSECOND),
  [DuckDBTypeId.TIMESTAMP_TZ]: () => new Timestamp(TimeUnit.MICROSECOND, "UTC"),
};

function bytesOf(values: ArrayBufferView): Uint8Array {
  return new Uint8Array(values.buffer, values.byteOffset, values.byteLength);
}

function packBits(bytes: Uint8Array): Uint8Array {
  const bits = new Uint8Array((bytes.length + 7) >> 3);
  for (let i = 0; i < bytes.length; i++) if (bytes[i]) bits[i >> 3] |= 1 << (i & 7);
  return bits;
}

/** Four 32-bit words a value, sign-extended where DuckDB stores fewer. */
function wideWords({ values, length }: FixedColumn): Uint32Array {
  if (values.length === length * 2) {
    return new Uint32Array(values.buffer, values.byteOffset, length * 4);
  }
  const wide = new BigInt64Array(length * 2);
  for (let i = 0; i < length; i++) {
    const value = BigInt(values[i]);
    wide[i * 2] = value;
    wide[i * 2 + 1] = value < 0n ? -1n : 0n;
  }
  return new Uint32Array(wide.buffer);
}

/** Between DuckDB's UUIDs (low byte first, top bit flipped) and the bytes as they are written. */
function swapUuids(bytes: Uint8Array): Uint8Array {
  const swapped = new Uint8Array(bytes.length);
  for (let i = 0; i < bytes.length; i++) swapped[i] = bytes[(i & ~15) + 15 - (i & 15)];
  for (let i = 0; i < bytes.length; i += 16) swapped[i] ^= 0x80;
  return swapped;
}

function unswapUuids(bytes: Uint8Array): Uint8Array {
  const flipped = bytes.slice();
  for (let i = 0; i < flipped.length; i += 16) flipped[i] ^= 0x80;
  const back = new Uint8Array(bytes.length);
  for (let i = 0; i < bytes.length; i++) back[i] = flipped[(i & ~15) + 15 - (i & 15)];
  return back;
}

/** The SQL type of an Arrow field: the one in its metadata, else the one that matches. */
export function sqlTypeOf(field: Field): string {
  return field.metadata.get(typeKey) ?? sqlTypeOfArrow(field.type);
}

/** The typed column of an Arrow vector, as DuckDB type `type` stores it; `name` is for messages. */
export function fromVector(vector: Vector, type: DuckDBType, name: string): Column {
  const foreign = type.typeId !== DuckDBTypeId.ENUM && foreignLayouts.test(String(vector.type));
  if (foreign) return columnOf(type, Array.from(vector), name);
  return fromData(
    vector.data.length === 1 ? vector.data[0] : vector.concat().memoize().data[0],
    type,
  );
}

/** Arrow types whose values do not lie as DuckDB's do; they go through JavaScript values. */
const foreignLayouts = /^(Dictionary|Date64|Time32|Large|Utf8View|BinaryView)/;

function fromData(data: Data, type: DuckDBType): Column {
  const { length } = data;
  const validity = data.nullCount > 0 ? shiftBits(data.nullBitmap, data.offset, length) : undefined;
  const base = { type, length, validity };
  switch (type.typeId) {
    case DuckDBTypeId.VARCHAR:
    case DuckDBTypeId.BLOB:
    case DuckDBTypeId.BIT:
    case DuckDBTypeId.BIGNUM:
      return { ...base, kind: "bytes", ...rebased(data, data.values) };
    case DuckDBTypeId.LIST:
    case DuckDBTypeId.MAP: {
      const whole = fromData(data.children[0], listChildType(type));
      const { valueOffsets } = data;
      const child = sliceColumn(whole, valueOffsets[0], valueOffsets[length]);
      return { ...base, kind: "list", offsets: fromZero(valueOffsets), child };
    }
    case DuckDBTypeId.ARRAY: {
      const child = fromData(data.children[0], type.valueType);
      return { ...base, kind: "array", size: type.length, child };
    }
    case DuckDBTypeId.STRUCT: {
      const children = type.entryTypes.map((entry, i) => fromData(data.children[i], entry));
      return { ...base, kind: "struct", names: type.entryNames, children };
    }
  }
  return { ...base, kind: "fixed", values: fixedValues(data, type) };
}

function rebased(data: Data, values: Uint8Array): { offsets: Int32Array; data: Uint8Array } {
  const { valueOffsets, length } = data;
  const bytes = values.subarray(valueOffsets[0], valueOffsets[length]);
  return { offsets: fromZero(valueOffsets), data: bytes };
}

function fromZero(offsets: Int32Array): Int32Array {
  const [first] = offsets;
  return first === 0 ? offsets : offsets.map((offset) => offset - first);
}

function listChildType(type: DuckDBType): DuckDBType {
  if (type.typeId === DuckDBTypeId.LIST) return type.valueType;
  if (type.typeId !== DuckDBTypeId.MAP) throw unsupported(type);
  const { keyType, valueType } = type;
  return {
    typeId: DuckDBTypeId.STRUCT,
    entryNames: ["key", "value"],
    entryTypes: [keyType, valueType],
  } as unknown as DuckDBType;
}

function fixedValues(data: Data, type: DuckDBType): FixedColumn["values"] {
  const { values, length } = data;
  switch (type.typeId) {
    case DuckDBTypeId.BOOLEAN:
      return Uint8Array.from({ length }, (_, i) => Number(isValid(values, data.offset + i)));
    case DuckDBTypeId.UUID: {
      const bytes = unswapUuids(new Uint8Array(values));
      return new BigUint64Array(bytes.buffer);
    }
    case DuckDBTypeId.INTERVAL:
      return new Int32Array(new Uint8Array(values).buffer);
    case DuckDBTypeId.TIME_TZ:
      return new BigUint64Array(new Uint8Array(values).buffer);
    case DuckDBTypeId.HUGEINT:
    case DuckDBTypeId.UHUGEINT:
      return new BigUint64Array(new Uint32Array(values).buffer);
    case DuckDBTypeId.DECIMAL: {
      const wide = new BigInt64Array(new Uint32Array(values).buffer);
      if (type.width > 18) return new BigUint64Array(wide.buffer);
      const narrow = Array.from({ length }, (_, i) => wide[i * 2]);
      if (type.width > 9) return BigInt64Array.from(narrow);
      const make = type.width > 4 ? Int32Array : Int16Array;
      return make.from(narrow.map(Number));
    }
    default:
      return values;
  }
}

function shiftBits(bits: Uint8Array, offset: number, length: number): Uint8Array {
  if (offset === 0) return bits;
  const shifted = new Uint8Array((length + 7) >> 3);
  for (let i = 0; i < length; i++) {
    if (isValid(bits, offset + i)) shifted[i >> 3] |= 1 << (i & 7);
  }
  return shifted;
}

/** The SQL type for an Arrow type that came from elsewhere. */
function sqlTypeOfArrow(type: DataType): string {
  const name = String(type);
  const known = foreignTypes[name.replace(/<.*/, "")];
  if (known) return known;
  if (type instanceof Decimal) return `DECIMAL(${type.precision},${type.scale})`;
  if (type instanceof Dictionary) return sqlTypeOfArrow(type.dictionary);
  if (type instanceof Timestamp) {
    if (type.timezone) return "TIMESTAMP WITH TIME ZONE";
    return ["TIMESTAMP_S", "TIMESTAMP_MS", "TIMESTAMP", "TIMESTAMP_NS"][type.unit];
  }
  if (type instanceof Map_)
    return `MAP(${sqlTypeOf(type.children[0].type.children[0])}, ${sqlTypeOf(type.children[0].type.children[1])})`;
  if (type instanceof List) return `${sqlTypeOf(type.children[0])}[]`;
  if (type instanceof FixedSizeList) return `${sqlTypeOf(type.children[0])}[${type.listSize}]`;
  if (type instanceof Struct) {
    const members = (type.children as Field[]).map(
      (child) => `"${child.name.replaceAll('"', '""')}" ${sqlTypeOf(child)}`,
    );
    return `STRUCT(${members.join(", ")})`;
  }
  return "VARCHAR";
}

const foreignTypes: Readonly<Record<string, string>> = {
  Bool: "BOOLEAN",
  Int8: "TINYINT",
  Uint8: "UTINYINT",
  Int16: "SMALLINT",
  Uint16: "USMALLINT",
  Int32: "INTEGER",
  Uint32: "UINTEGER",
  Int64: "BIGINT",
  Uint64: "UBIGINT",
  Float32: "FLOAT",
  Float64: "DOUBLE",
  Utf8: "VARCHAR",
  Binary: "BLOB",
  Date32: "DATE",
  Time64: "TIME",
};
