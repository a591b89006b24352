/**
 * @file Between typed columns and JavaScript values, for functions of the user and for rows.
 * BIGINT and wider are bigint, DECIMAL is a text (exact), DATE and TIMESTAMP are Date (UTC, to the
 * millisecond), TIME and TIMESTAMP_NS bigint of their unit, UUID and ENUM text, MAP a Map.
 */
import { type DuckDBType, DuckDBTypeId } from "@duckdb/node-api";
import { type Column, type FixedColumn, isValid, unsupported } from "./column.ts";

/** Reads row `i` of a column as a JavaScript value. */
export type Getter = (i: number) => unknown;

const dayMs = 86_400_000;

/** The function that reads the values of a column. */
export function getterOf(column: Column): Getter {
  const get = validGetterOf(column);
  const { validity } = column;
  return validity === undefined ? get : (i) => (isValid(validity, i) ? get(i) : null);
}

function validGetterOf(column: Column): Getter {
  switch (column.kind) {
    case "fixed":
      return fixedGetterOf(column);
    case "bytes":
      return bytesGetterOf(column.type, column.offsets, column.data);
    case "list": {
      const child = getterOf(column.child);
      const { offsets } = column;
      const list = (i: number) =>
        Array.from({ length: offsets[i + 1] - offsets[i] }, (_, j) => child(offsets[i] + j));
      if (column.type.typeId !== DuckDBTypeId.MAP) return list;
      return (i) =>
        new Map(
          (list(i) as { key: unknown; value: unknown }[]).map(({ key, value }) => [key, value]),
        );
    }
    case "array": {
      const child = getterOf(column.child);
      const { size } = column;
      return (i) => Array.from({ length: size }, (_, j) => child(i * size + j));
    }
    case "struct": {
      const members = column.children.map(getterOf);
      return (i) => Object.fromEntries(column.names.map((name, m) => [name, members[m](i)]));
    }
  }
}

function bytesGetterOf(type: DuckDBType, offsets: Int32Array, data: Uint8Array): Getter {
  if (type.typeId === DuckDBTypeId.VARCHAR) {
    const buffer = Buffer.from(data.buffer, data.byteOffset, data.byteLength);
    return (i) => buffer.toString("utf8", offsets[i], offsets[i + 1]);
  }
  if (type.typeId === DuckDBTypeId.BIT) {
    // The first byte counts the unused bits, at the front of the second.
    return (i) => {
      const bytes = data.subarray(offsets[i] + 1, offsets[i + 1]);
      const bits = Array.from(bytes, (byte) => byte.toString(2).padStart(8, "0")).join("");
      return bits.slice(data[offsets[i]]);
    };
  }
  if (type.typeId === DuckDBTypeId.BLOB) return (i) => data.slice(offsets[i], offsets[i + 1]);
  throw unsupported(type);
}

function fixedGetterOf({ type, values }: FixedColumn): Getter {
  const words = values as BigInt64Array;
  switch (type.typeId) {
    case DuckDBTypeId.BOOLEAN:
      return (i) => values[i] !== 0;
    case DuckDBTypeId.DATE:
      return (i) => new Date(Number(values[i]) * dayMs);
    case DuckDBTypeId.TIMESTAMP_S:
      return (i) => new Date(Number(words[i]) * 1e3);
    case DuckDBTypeId.TIMESTAMP_MS:
      return (i) => new Date(Number(words[i]));
    case DuckDBTypeId.TIMESTAMP:
    case DuckDBTypeId.TIMESTAMP_TZ:
      return (i) => new Date(Math.floor(Number(words[i]) / 1e3));
    case DuckDBTypeId.HUGEINT:
      return (i) => BigInt.asIntN(128, wideAt(values, i));
    case DuckDBTypeId.UHUGEINT:
      return (i) => wideAt(values, i);
    case DuckDBTypeId.UUID:
      return (i) => uuidText(wideAt(values, i));
    case DuckDBTypeId.DECIMAL:
      return type.width > 18
        ? (i) => decimalText(BigInt.asIntN(128, wideAt(values, i)), type.scale)
        : (i) => decimalText(BigInt(values[i]), type.scale);
    case DuckDBTypeId.ENUM:
      return (i) => type.values[Number(values[i])];
    case DuckDBTypeId.INTERVAL: {
      const micros = new BigInt64Array(values.buffer, values.byteOffset, values.length / 2);
      return (i) => ({
        months: Number(values[i * 4]),
        days: Number(values[i * 4 + 1]),
        micros: micros[i * 2 + 1],
      });
    }
    default:
      return (i) => values[i];
  }
}

function wideAt(values: ArrayLike<number | bigint>, i: number): bigint {
  return ((values[i * 2 + 1] as bigint) << 64n) | (values[i * 2] as bigint);
}

function uuidText(stored: bigint): string {
  // DuckDB flips the top bit, so that UUIDs order as signed numbers.
  const hex = (stored ^ (1n << 127n)).toString(16).padStart(32, "0");
  return hex.replace(/^(.{8})(.{4})(.{4})(.{4})(.{12})$/, "$1-$2-$3-$4-$5");
}

function decimalText(unscaled: bigint, scale: number): string {
  if (scale === 0) return String(unscaled);
  const digits = (unscaled < 0n ? -unscaled : unscaled).toString().padStart(scale + 1, "0");
  const sign = unscaled < 0n ? "-" : "";
  return `${sign}${digits.slice(0, -scale)}.${digits.slice(-scale)}`;
}
