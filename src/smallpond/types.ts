/**
 * @file Schemas, in the type and at run time. `schema({ host: t.utf8, n: t.i64 })` carries SQL types
 * that files are checked against, and the row type that `map` and `rows` show.
 */
import { type Field, quoteName } from "./duck.ts";

declare const row: unique symbol;

/** A column's type: SQL text at run time, `T` (or null) in a row. */
export interface ColumnType<T> {
  /** The SQL type, as DuckDB writes it. */
  readonly sql: string;
  /** Only for the compiler. */
  readonly [row]?: T;
}

/** Names and types of columns, in order. */
export interface Schema<T = Record<string, unknown>> {
  readonly fields: readonly Field[];
  /** Only for the compiler. */
  readonly [row]?: T;
}

/** A row of any columns. */
export type Row = Record<string, unknown>;

type ValueOf<C> = C extends ColumnType<infer T> ? T : never;

/** The row type of a list of columns. */
export type RowOf<C extends Readonly<Record<string, ColumnType<unknown>>>> = {
  [K in keyof C]: ValueOf<C[K]> | null;
};

const type = <T>(sql: string): ColumnType<T> => ({ sql });

/** An INTERVAL in JavaScript. */
export interface Interval {
  readonly months: number;
  readonly days: number;
  readonly micros: bigint;
}

interface Types {
  readonly bool: ColumnType<boolean>;
  readonly i8: ColumnType<number>;
  readonly i16: ColumnType<number>;
  readonly i32: ColumnType<number>;
  readonly i64: ColumnType<bigint>;
  readonly i128: ColumnType<bigint>;
  readonly u8: ColumnType<number>;
  readonly u16: ColumnType<number>;
  readonly u32: ColumnType<number>;
  readonly u64: ColumnType<bigint>;
  readonly u128: ColumnType<bigint>;
  readonly f32: ColumnType<number>;
  readonly f64: ColumnType<number>;
  readonly utf8: ColumnType<string>;
  readonly blob: ColumnType<Uint8Array>;
  readonly bit: ColumnType<string>;
  readonly uuid: ColumnType<string>;
  readonly date: ColumnType<Date>;
  readonly time: ColumnType<bigint>;
  readonly timestamp: ColumnType<Date>;
  readonly timestampTz: ColumnType<Date>;
  readonly timestampNs: ColumnType<bigint>;
  readonly interval: ColumnType<Interval>;
  decimal(width: number, scale: number): ColumnType<string>;
  enumOf<const V extends string>(values: readonly V[]): ColumnType<V>;
  list<T>(item: ColumnType<T>): ColumnType<(T | null)[]>;
  array<T>(item: ColumnType<T>, length: number): ColumnType<(T | null)[]>;
  struct<C extends Readonly<Record<string, ColumnType<unknown>>>>(members: C): ColumnType<RowOf<C>>;
  map<K, V>(key: ColumnType<K>, value: ColumnType<V>): ColumnType<Map<K, V | null>>;
  /** Any type, by its SQL text. */
  sql<T = unknown>(text: string): ColumnType<T>;
}

/** The types of columns, by short names. What a value is in JavaScript: see `values.ts`. */
export const t: Types = {
  bool: type("BOOLEAN"),
  i8: type("TINYINT"),
  i16: type("SMALLINT"),
  i32: type("INTEGER"),
  i64: type("BIGINT"),
  i128: type("HUGEINT"),
  u8: type("UTINYINT"),
  u16: type("USMALLINT"),
  u32: type("UINTEGER"),
  u64: type("UBIGINT"),
  u128: type("UHUGEINT"),
  f32: type("FLOAT"),
  f64: type("DOUBLE"),
  utf8: type("VARCHAR"),
  blob: type("BLOB"),
  bit: type("BIT"),
  uuid: type("UUID"),
  date: type("DATE"),
  time: type("TIME"),
  timestamp: type("TIMESTAMP"),
  timestampTz: type("TIMESTAMP WITH TIME ZONE"),
  timestampNs: type("TIMESTAMP_NS"),
  interval: type("INTERVAL"),
  decimal: (width, scale) => type(`DECIMAL(${width},${scale})`),
  enumOf: (values) =>
    type(`ENUM(${values.map((value) => `'${value.replaceAll("'", "''")}'`).join(", ")})`),
  list: (item) => type(`${item.sql}[]`),
  array: (item, length) => type(`${item.sql}[${length}]`),
  struct: (members) => {
    const list = Object.entries(members).map(([name, { sql }]) => `${quoteName(name)} ${sql}`);
    return type(`STRUCT(${list.join(", ")})`);
  },
  map: (key, value) => type(`MAP(${key.sql}, ${value.sql})`),
  sql: (text) => type(text),
};

/** A schema of these columns, in order. */
export function schema<const C extends Readonly<Record<string, ColumnType<unknown>>>>(
  columns: C,
): Schema<RowOf<C>> {
  return { fields: Object.entries(columns).map(([name, { sql }]) => ({ name, type: sql })) };
}
