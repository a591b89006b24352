/**
 * @file The only door to DuckDB: connections, the raw chunk calls, its types as SQL text, and its
 * errors in one sentence. Types travel as SQL text (`DECIMAL(18,3)[]`), since that is what plans
 * hash, files carry and DuckDB itself parses back.
 */
import {
  type DuckDBConnection,
  DuckDBInstance,
  type DuckDBType,
  type DuckDBValue,
} from "@duckdb/node-api";
import { BaleenError } from "../base/index.ts";
import { pondError } from "./errors.ts";

/** How a DuckDB instance is opened. */
export interface DuckOptions {
  /** Threads that work on one query. */
  readonly threads: number;
  /** Memory beyond which it spills. */
  readonly memoryBytes: number;
  /** Folder that takes what is spilled. */
  readonly spillFolder: string;
}

/** An in-memory DuckDB with a connection; closing is `closeDuck`. */
export interface Duck {
  readonly instance: DuckDBInstance;
  readonly connection: DuckDBConnection;
}

/** Opens an in-memory DuckDB that spills into `spillFolder` beyond its memory. */
export async function openDuck(options: DuckOptions): Promise<Duck> {
  const instance = await DuckDBInstance.create(":memory:", {
    threads: String(options.threads),
    memory_limit: `${Math.floor(options.memoryBytes / 1024)}KiB`,
    temp_directory: options.spillFolder,
    autoinstall_known_extensions: "false",
    autoload_known_extensions: "false",
  });
  return { instance, connection: await instance.connect() };
}

/** Closes a DuckDB; its memory and spill files are gone afterwards. */
export function closeDuck(duck: Duck): void {
  duck.connection.closeSync();
  duck.instance.closeSync();
}

/** The rows of a small result, as arrays of values. */
export async function rowsOf(connection: DuckDBConnection, sql: string): Promise<DuckDBValue[][]> {
  return await (await connection.run(sql)).getRows();
}

/** A column's name and its SQL type. */
export interface Field {
  readonly name: string;
  readonly type: string;
}

/** The columns that a query yields, without running it. */
export async function describeQuery(connection: DuckDBConnection, query: string): Promise<Field[]> {
  const rows = await rowsOf(connection, `DESCRIBE ${query}`);
  return rows.map(([name, type]) => ({ name: String(name), type: String(type) }));
}

const types = new Map<string, DuckDBType>();

/** The parsed form of a SQL type. */
export async function parseType(connection: DuckDBConnection, type: string): Promise<DuckDBType> {
  const known = types.get(type);
  if (known) return known;
  const result = await connection.run(`SELECT NULL::${type}`);
  const parsed = result.columnType(0);
  types.set(type, parsed);
  return parsed;
}

/** A name as SQL reads it, whatever it holds. */
export function quoteName(name: string): string {
  return `"${name.replaceAll('"', '""')}"`;
}

/** A text as a SQL literal. */
export function quoteText(text: string): string {
  return `'${text.replaceAll("'", "''")}'`;
}

/** A DuckDB failure as one of ours; `where` is the user's line, where there is one. */
export function duckFailure(error: unknown, where: string | undefined): Error {
  if (error instanceof BaleenError) return error;
  const given = error instanceof Error ? error.message : String(error);
  const text = given.replace(/^Failed to extract statements: /, "");
  const [first] = text.split("\n");
  if (/^Out of Memory Error/.test(text)) {
    return pondError("out-of-memory", `${first}; give the task more memory.`, error);
  }
  if (/No space left on device|ENOSPC|File too large|disk is full/i.test(text)) {
    return pondError(
      "disk-full",
      `The disk is full (${first}); free some space and run again.`,
      error,
    );
  }
  const converted = /Error when converting column "(.*?)"\. (.*)/.exec(text);
  const file = /^\s*file = (.*)$/m.exec(text)?.[1];
  if (converted && file) {
    const line = /CSV Error on Line: (\d+)/.exec(text)?.[1];
    const message = `Column ${converted[1]} of ${file}, line ${line}: ${converted[2]}; give its type in the schema.`;
    return pondError("schema-mismatch", message, error);
  }
  if (/^Invalid Input Error: JSON transform error/.test(text)) {
    return pondError(
      "schema-mismatch",
      `${first.replace("Invalid Input Error: ", "")}; give its type in the schema.`,
      error,
    );
  }
  if (
    /^(Parser|Binder|Catalog|Conversion|Invalid Input|Out of Range|Constraint) Error/.test(text)
  ) {
    const hint = /Candidate bindings: (.*)/.exec(text)?.[1];
    const place = where === undefined ? "" : ` (in the query written at ${where})`;
    return pondError("sql-error", `${first}${hint ? ` Did you mean ${hint}?` : ""}${place}`, error);
  }
  if (/^IO Error: (No files found|Cannot open file)/.test(text)) {
    return pondError("input-missing", `${first}; check the path.`, error);
  }
  return error instanceof Error ? error : new Error(text);
}
