/**
 * @file SQL with bound values: sql`price > ${x}`. A value never becomes part of the text; it travels
 * as a parameter. A piece made by `sql` may stand inside another.
 */
import {
  BIGINT,
  DOUBLE,
  DuckDBDateValue,
  DuckDBTimestampTZValue,
  type DuckDBType,
  type DuckDBValue,
  INTEGER,
} from "@duckdb/node-api";
import { pondError } from "./errors.ts";

/** What may be bound. */
export type SqlValue = string | number | bigint | boolean | Date | null;

/** A piece of SQL: n + 1 texts around n values. */
export interface Sql {
  readonly texts: readonly string[];
  /** In the form that travels and is hashed. */
  readonly values: readonly WireValue[];
}

const isSql = (value: unknown): value is Sql =>
  typeof value === "object" && value !== null && Array.isArray((value as Sql).texts);

/** SQL from a template; the values in it are bound, pieces in it become part of it. */
export function sql(texts: TemplateStringsArray, ...values: readonly (SqlValue | Sql)[]): Sql {
  const allTexts = [texts[0]];
  const allValues: WireValue[] = [];
  values.forEach((value, i) => {
    const last = allTexts.length - 1;
    if (isSql(value)) {
      allTexts[last] += value.texts[0];
      allTexts.push(...value.texts.slice(1));
      allValues.push(...value.values);
      allTexts[allTexts.length - 1] += texts[i + 1];
      return;
    }
    checkValue(value);
    allValues.push(toWire(value));
    allTexts.push(texts[i + 1]);
  });
  return { texts: allTexts, values: allValues };
}

function checkValue(value: unknown): asserts value is SqlValue {
  const fits =
    value === null ||
    ["string", "number", "bigint", "boolean"].includes(typeof value) ||
    value instanceof Date;
  if (fits) return;
  throw pondError(
    "input-invalid",
    `A value of type ${typeof value} can't be bound in SQL; give a text, number, bigint, boolean, Date or null.`,
  );
}

/** A text as a piece without values; a piece as it is. */
export function toSql(piece: Sql | string): Sql {
  return typeof piece === "string" ? { texts: [piece], values: [] } : piece;
}

/** A value as JSON can carry it between processes. */
export type WireValue = null | boolean | string | number | { bigint: string } | { date: number };

function toWire(value: SqlValue): WireValue {
  if (typeof value === "bigint") return { bigint: String(value) };
  if (value instanceof Date) return { date: value.getTime() };
  if (typeof value === "number" && !Number.isFinite(value)) {
    throw pondError("input-invalid", `${value} can't be bound in SQL; write 'NaN'::DOUBLE there.`);
  }
  return value;
}

const dayMs = 86_400_000;

/** Values and their types, as DuckDB binds them: whole numbers as integers, a Date at midnight UTC as DATE. */
export function toBound(parameters: Readonly<Record<string, WireValue>>): {
  values: Record<string, DuckDBValue>;
  types: Record<string, DuckDBType | undefined>;
} {
  const values: Record<string, DuckDBValue> = {};
  const types: Record<string, DuckDBType | undefined> = {};
  for (const [name, value] of Object.entries(parameters)) {
    [values[name], types[name]] = boundOne(value);
  }
  return { values, types };
}

function boundOne(value: WireValue): [DuckDBValue, DuckDBType | undefined] {
  if (typeof value === "number") {
    if (!Number.isSafeInteger(value)) return [value, DOUBLE];
    return value === (value | 0) ? [value, INTEGER] : [BigInt(value), BIGINT];
  }
  if (value === null || typeof value !== "object") return [value, undefined];
  if ("bigint" in value) {
    const big = BigInt(value.bigint);
    return [big, BigInt.asIntN(64, big) === big ? BIGINT : undefined];
  }
  if (value.date % dayMs === 0) return [new DuckDBDateValue(value.date / dayMs), undefined];
  return [new DuckDBTimestampTZValue(BigInt(value.date) * 1000n), undefined];
}

/** Collects the values of several pieces, and names each `$pN`. */
export class Parameters {
  /** By name, in wire form. */
  readonly values: Record<string, WireValue> = {};
  private count = 0;

  /** The text of a piece with its values replaced by their names. */
  render(piece: Sql): string {
    return piece.values.reduce<string>((text, value, i) => {
      const name = `p${this.count++}`;
      this.values[name] = value;
      return `${text}$${name}${piece.texts[i + 1]}`;
    }, piece.texts[0]);
  }
}

/** Where in the user's code a piece was written: the first line of the stack outside this room. */
export function callSite(): string | undefined {
  const lines = new Error().stack?.split("\n").slice(1) ?? [];
  const outside = lines.find(
    (line) => !/[/\\]smallpond[/\\][\w-]+\.[jt]s/.test(line) || /\.(test|bench)\.[jt]s/.test(line),
  );
  return /\(?((?:file:\/\/)?[^()\s]+:\d+):\d+\)?$/.exec(outside ?? "")?.[1]?.replace("file://", "");
}
