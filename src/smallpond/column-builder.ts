/** @file From JavaScript values to typed columns; the counterpart of `values.ts`. */
import { type DuckDBType, DuckDBTypeId } from "@duckdb/node-api";
import { entryType } from "./chunk-reader.ts";
import { type Column, type FixedValues, fixedLayout, isBytes, unsupported } from "./column.ts";
import { pondError } from "./errors.ts";

const encoder = new TextEncoder();

/** A column of `type` with these values; null and undefined are NULL. `name` is for messages. */
export function columnOf(type: DuckDBType, values: readonly unknown[], name: string): Column {
  const length = values.length;
  const validity = validityOf(values);
  const base = { type, length, validity };
  const layout = fixedLayout(type);
  if (layout) {
    const column = new layout.make(length * layout.wordsPerRow);
    const put = putterOf(type, column, name);
    for (let i = 0; i < length; i++) {
      const value = values[i];
      if (value !== null && value !== undefined) put(i, value);
    }
    return { ...base, kind: "fixed", values: column };
  }
  if (isBytes(type)) return { ...base, kind: "bytes", ...bytesOf(type, values, name) };
  switch (type.typeId) {
    case DuckDBTypeId.LIST:
      return { ...base, kind: "list", ...listOf(type.valueType, values, name) };
    case DuckDBTypeId.MAP: {
      const lists = values.map((value) =>
        value instanceof Map ? [...value].map(([key, item]) => ({ key, value: item })) : value,
      );
      return { ...base, kind: "list", ...listOf(entryType(type), lists, name) };
    }
    case DuckDBTypeId.ARRAY: {
      const size = type.length;
      const flat = values.flatMap((value) => {
        if (value === null || value === undefined) return new Array(size).fill(null);
        if (!isList(value) || value.length !== size) throw wrong(name, type, value);
        return Array.from(value);
      });
      return { ...base, kind: "array", size, child: columnOf(type.valueType, flat, name) };
    }
    case DuckDBTypeId.STRUCT: {
      const children = type.entryTypes.map((entry, m) => {
        const member = type.entryNames[m];
        const items = values.map((value) => {
          if (value !== null && value !== undefined && typeof value !== "object") {
            throw wrong(name, type, value);
          }
          return (value as Record<string, unknown> | null | undefined)?.[member];
        });
        return columnOf(entry, items, `${name}.${member}`);
      });
      return { ...base, kind: "struct", names: type.entryNames, children };
    }
  }
  throw unsupported(type);
}

function wrong(name: string, type: DuckDBType, value: unknown): Error {
  const shown = typeof value === "bigint" ? `${value}n` : (JSON.stringify(value) ?? String(value));
  const what = typeof value === "object" ? shown : `${typeof value} ${shown}`;
  return pondError(
    "schema-mismatch",
    `Column ${name} is ${type}, but a value is ${what.slice(0, 80)}.`,
  );
}

const isList = (value: unknown): value is ArrayLike<unknown> =>
  Array.isArray(value) || (ArrayBuffer.isView(value) && !(value instanceof DataView));

function validityOf(values: readonly unknown[]): Uint8Array | undefined {
  if (values.every((value) => value !== null && value !== undefined)) return undefined;
  const bits = new Uint8Array((values.length + 7) >> 3);
  values.forEach((value, i) => {
    if (value !== null && value !== undefined) bits[i >> 3] |= 1 << (i & 7);
  });
  return bits;
}

function bytesOf(
  type: DuckDBType,
  values: readonly unknown[],
  name: string,
): { offsets: Int32Array; data: Uint8Array } {
  const offsets = new Int32Array(values.length + 1);
  let data = new Uint8Array(Math.max(64, values.length * 16));
  let at = 0;
  const room = (bytes: number) => {
    if (at + bytes <= data.length) return;
    const grown = new Uint8Array(Math.max(data.length * 2, at + bytes));
    grown.set(data);
    data = grown;
  };
  values.forEach((value, i) => {
    if (value !== null && value !== undefined) {
      if (type.typeId === DuckDBTypeId.VARCHAR && typeof value === "string") {
        room(value.length * 3);
        at += encoder.encodeInto(value, data.subarray(at)).written;
      } else {
        const bytes = rawBytes(type, value, name);
        room(bytes.length);
        data.set(bytes, at);
        at += bytes.length;
      }
    }
    offsets[i + 1] = at;
  });
  return { offsets, data: data.subarray(0, at) };
}

function rawBytes(type: DuckDBType, value: unknown, name: string): Uint8Array {
  if (type.typeId === DuckDBTypeId.BLOB && value instanceof Uint8Array) return value;
  if (type.typeId === DuckDBTypeId.BIT && typeof value === "string" && /^[01]+$/.test(value)) {
    const unused = (8 - (value.length % 8)) % 8;
    const bits = "1".repeat(unused) + value;
    const bytes = bits.match(/.{8}/g)?.map((byte) => Number.parseInt(byte, 2)) ?? [];
    return Uint8Array.from([unused, ...bytes]);
  }
  throw wrong(name, type, value);
}

function listOf(
  valueType: DuckDBType,
  values: readonly unknown[],
  name: string,
): { offsets: Int32Array; child: Column } {
  const offsets = new Int32Array(values.length + 1);
  const flat: unknown[] = [];
  values.forEach((value, i) => {
    if (value !== null && value !== undefined) {
      if (!isList(value)) {
        throw pondError(
          "schema-mismatch",
          `Column ${name} is a list, but a value is ${String(value)}.`,
        );
      }
      for (let j = 0; j < value.length; j++) flat.push(value[j]);
    }
    offsets[i + 1] = flat.length;
  });
  return { offsets, child: columnOf(valueType, flat, name) };
}

type Putter = (i: number, value: unknown) => void;

function putterOf(type: DuckDBType, column: FixedValues, name: string): Putter {
  const refuse = (value: unknown): never => {
    throw wrong(name, type, value);
  };
  const numbers = column as Float64Array;
  const bigs = column as BigInt64Array;
  switch (type.typeId) {
    case DuckDBTypeId.BOOLEAN:
      return (i, value) => {
        numbers[i] = typeof value === "boolean" ? Number(value) : refuse(value);
      };
    case DuckDBTypeId.FLOAT:
    case DuckDBTypeId.DOUBLE:
      return (i, value) => {
        numbers[i] = typeof value === "number" ? value : refuse(value);
      };
    case DuckDBTypeId.DATE:
      return (i, value) => {
        numbers[i] =
          value instanceof Date ? Math.floor(value.getTime() / 86_400_000) : refuse(value);
      };
    case DuckDBTypeId.TIMESTAMP_S:
    case DuckDBTypeId.TIMESTAMP_MS:
    case DuckDBTypeId.TIMESTAMP:
    case DuckDBTypeId.TIMESTAMP_TZ: {
      const [multiply, divide] = timeScale(type.typeId);
      return (i, value) => {
        const ms = value instanceof Date ? BigInt(value.getTime()) : refuse(value);
        bigs[i] = (ms * multiply) / divide;
      };
    }
    case DuckDBTypeId.ENUM: {
      const codes = new Map(type.values.map((text, code) => [text, code]));
      return (i, value) => {
        numbers[i] = codes.get(value as string) ?? refuse(value);
      };
    }
    case DuckDBTypeId.INTERVAL: {
      const micros = new BigInt64Array(column.buffer);
      return (i, value) => {
        const parts = value as { months?: number; days?: number; micros?: bigint };
        if (typeof parts.micros !== "bigint") refuse(value);
        numbers[i * 4] = parts.months ?? 0;
        numbers[i * 4 + 1] = parts.days ?? 0;
        micros[i * 2 + 1] = parts.micros ?? 0n;
      };
    }
  }
  return integerPutterOf(type, column, refuse);
}

function timeScale(typeId: DuckDBTypeId): [bigint, bigint] {
  if (typeId === DuckDBTypeId.TIMESTAMP_S) return [1n, 1000n];
  return typeId === DuckDBTypeId.TIMESTAMP_MS ? [1n, 1n] : [1000n, 1n];
}

/** Integers and what is stored as one: a value that the column's words can't hold is refused. */
function integerPutterOf(
  type: DuckDBType,
  column: FixedValues,
  refuse: (value: unknown) => never,
): Putter {
  if (!(column instanceof BigInt64Array || column instanceof BigUint64Array)) {
    const numbers = column as Int32Array;
    return (i, value) => {
      const number =
        type.typeId === DuckDBTypeId.DECIMAL ? Number(unscaled(type, value, refuse)) : value;
      numbers[i] = number as number;
      if (typeof number !== "number" || numbers[i] !== number) refuse(value);
    };
  }
  const wide = fixedLayout(type)?.wordsPerRow === 2;
  const unsigned = type.typeId === DuckDBTypeId.UHUGEINT;
  return (i, value) => {
    const big = wholeOf(type, value, refuse);
    if (!wide) {
      column[i] = big;
      if (column[i] !== big) refuse(value);
      return;
    }
    const kept = unsigned ? BigInt.asUintN(128, big) : BigInt.asIntN(128, big);
    if (kept !== big && type.typeId !== DuckDBTypeId.UUID) refuse(value);
    column[i * 2] = BigInt.asUintN(64, big);
    column[i * 2 + 1] = BigInt.asUintN(64, big >> 64n);
  };
}

function wholeOf(type: DuckDBType, value: unknown, refuse: (value: unknown) => never): bigint {
  if (type.typeId === DuckDBTypeId.DECIMAL) return unscaled(type, value, refuse);
  if (type.typeId === DuckDBTypeId.UUID) {
    const hex = typeof value === "string" ? value.replaceAll("-", "") : "";
    return /^[0-9a-f]{32}$/i.test(hex) ? BigInt(`0x${hex}`) ^ (1n << 127n) : refuse(value);
  }
  if (typeof value === "bigint") return value;
  return typeof value === "number" && Number.isSafeInteger(value) ? BigInt(value) : refuse(value);
}

function unscaled(
  type: { width?: number; scale?: number },
  value: unknown,
  refuse: (value: unknown) => never,
): bigint {
  const { width = 38, scale = 0 } = type;
  const text = typeof value === "bigint" ? `${value}` : value;
  const shown = typeof text === "number" ? text.toFixed(Math.min(scale, 100)) : text;
  const parts = typeof shown === "string" ? /^([+-]?)(\d*)(?:\.(\d*))?$/.exec(shown) : null;
  if (!parts) return refuse(value);
  const [, sign, whole, fraction = ""] = parts;
  if (fraction.length > scale && !/^0*$/.test(fraction.slice(scale))) return refuse(value);
  const digits = BigInt(`0${whole}${fraction.slice(0, scale).padEnd(scale, "0")}`);
  if (digits >= 10n ** BigInt(width)) return refuse(value);
  return sign === "-" ? -digits : digits;
}
