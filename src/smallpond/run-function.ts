/**
 * @file Functions of the user inside a task: chunks in, typed columns, one call a row or a batch,
 * typed columns out. A row is built by generated code that reads only the columns the function uses.
 */
import type { DuckDBAppender, DuckDBConnection, DuckDBType } from "@duckdb/node-api";
import { readChunk } from "./chunk-reader.ts";
import { writeChunks } from "./chunk-writer.ts";
import { type Column, concatColumns } from "./column.ts";
import { columnOf } from "./column-builder.ts";
import { duckFailure, parseType, quoteName } from "./duck.ts";
import { pondError } from "./errors.ts";
import type { ShippedFunction } from "./function-source.ts";
import { toBound, type WireValue } from "./sql.ts";
import type { Definition } from "./task.ts";
import { type Getter, getterOf } from "./values.ts";

type FunctionDefinition = Extract<Definition, { kind: "function" }>;
type AnyFunction = (...values: unknown[]) => unknown;

/** Runs a function over its input; its output is a temporary table of the definition's name. */
export async function runFunction(
  connection: DuckDBConnection,
  definition: FunctionDefinition,
  before: string,
  parameters: Readonly<Record<string, WireValue>>,
): Promise<void> {
  const call = await loadFunction(definition.function, definition.where);
  const { name, fields, reads } = definition;
  const columns = fields.map((field) => `${quoteName(field.name)} ${field.type}`);
  await connection.run(`CREATE TEMP TABLE ${quoteName(name)} (${columns.join(", ")})`);
  const appender = await connection.createAppender(name, null, "temp");
  const outTypes: DuckDBType[] = [];
  for (const { type } of fields) outTypes.push(await parseType(connection, type));
  const list =
    reads.length > 0 ? reads.map((field) => quoteName(field.name)).join(", ") : "1 AS __row";
  const sql = `${before}SELECT ${list} FROM ${quoteName(definition.input)}`;
  const used = new Set([...sql.matchAll(/\$(p\d+)\b/g)].map(([, key]) => key));
  const bound = toBound(
    Object.fromEntries(Object.entries(parameters).filter(([key]) => used.has(key))),
  );
  const result = await connection.stream(sql, bound.values, bound.types);
  const sink = { appender, outTypes, definition, call };
  let batch: Column[][] = [];
  let rows = 0;
  const types = result.columnTypes();
  for (;;) {
    const chunk = await result.fetchChunk();
    if (!chunk || chunk.rowCount === 0) break;
    batch.push(readChunk(chunk, types));
    rows += chunk.rowCount;
    if (definition.mode === "mapBatches" && rows < definition.batchRows) continue;
    await apply(sink, joined(batch), rows);
    [batch, rows] = [[], 0];
  }
  if (rows > 0) await apply(sink, joined(batch), rows);
  appender.closeSync();
}

function joined(chunks: readonly Column[][]): Column[] {
  return chunks[0].map((_, c) => concatColumns(chunks.map((chunk) => chunk[c])));
}

interface Sink {
  readonly appender: DuckDBAppender;
  readonly outTypes: readonly DuckDBType[];
  readonly definition: FunctionDefinition;
  readonly call: AnyFunction;
}

async function apply(sink: Sink, columns: readonly Column[], rows: number): Promise<void> {
  const { appender, outTypes, definition } = sink;
  const output =
    definition.mode === "mapBatches"
      ? await applyToBatch(sink, columns)
      : await applyToRows(sink, columns, rows);
  for (const chunk of writeChunks(output, outTypes)) {
    try {
      appender.appendDataChunk(chunk);
    } catch (error) {
      throw duckFailure(error, definition.where);
    }
  }
}

function failed(definition: FunctionDefinition, error: unknown): Error {
  if ((error as { code?: unknown }).code !== undefined) return error as Error;
  const text = error instanceof Error ? `${error.name}: ${error.message}` : String(error);
  const outer =
    error instanceof ReferenceError ? "; a function sees only its parameters and globals" : "";
  const place = definition.where === undefined ? "" : ` (given at ${definition.where})`;
  return pondError(
    outer ? "closure-refused" : "function-failed",
    `The function of ${definition.mode}${place} threw ${text}${outer}.`,
    error,
  );
}

async function applyToRows(
  { definition, call, outTypes }: Sink,
  columns: readonly Column[],
  rows: number,
): Promise<Column[]> {
  const { mode, fields } = definition;
  const rowAt = rowMaker(
    definition.reads.map(({ name }) => name),
    columns.map(getterOf),
  );
  const outputs: unknown[][] = fields.map(() => []);
  const put = rowTaker(
    fields.map(({ name }) => name),
    outputs,
  );
  for (let i = 0; i < rows; i++) {
    const row = rowAt(i);
    let result: unknown;
    try {
      result = call(row);
      if (result instanceof Promise) result = await result;
    } catch (error) {
      throw failed(definition, error);
    }
    if (mode === "map") put(checked(definition, result));
    else if (mode === "filter") {
      if (result) put(row);
    } else for (const item of iterated(definition, result)) put(checked(definition, item));
  }
  return fields.map(({ name }, c) => columnOf(outTypes[c], outputs[c], name));
}

function checked(definition: FunctionDefinition, value: unknown): object {
  if (typeof value === "object" && value !== null && !Array.isArray(value)) return value;
  const got = Array.isArray(value) ? "a list" : String(value);
  throw failed(definition, new TypeError(`a row is ${got}, wanted an object by column`));
}

function iterated(definition: FunctionDefinition, value: unknown): Iterable<unknown> {
  if (typeof value === "object" && value !== null && Symbol.iterator in value) {
    return value as Iterable<unknown>;
  }
  throw failed(definition, new TypeError(`flatMap got ${String(value)}, wanted a list of rows`));
}

/** A function that makes the object of row i; all rows are of one shape. */
function rowMaker(names: readonly string[], getters: readonly Getter[]): (i: number) => object {
  const members = names.map((name, c) => `${JSON.stringify(name)}: get${c}(i)`);
  const parameters = names.map((_, c) => `get${c}`);
  const make = new Function(...parameters, `return (i) => ({ ${members.join(", ")} });`);
  return make(...getters) as (i: number) => object;
}

function rowTaker(names: readonly string[], outputs: readonly unknown[][]): (row: object) => void {
  const statements = names.map((name, c) => `out${c}.push(row[${JSON.stringify(name)}]);`);
  const parameters = names.map((_, c) => `out${c}`);
  const make = new Function(...parameters, `return (row) => { ${statements.join(" ")} };`);
  return make(...outputs) as (row: object) => void;
}

async function applyToBatch(
  { definition, call, outTypes }: Sink,
  columns: readonly Column[],
): Promise<Column[]> {
  const { RecordBatch, Table } = await import("apache-arrow");
  const { fromVector, toRecordBatch } = await import("./arrow.ts");
  const batch = toRecordBatch(
    definition.reads.map(({ name }) => name),
    columns,
  );
  let result: unknown;
  try {
    result = await call(batch);
  } catch (error) {
    throw failed(definition, error);
  }
  if (!(result instanceof RecordBatch || result instanceof Table)) {
    throw failed(definition, new TypeError("mapBatches wants an Arrow RecordBatch or Table back"));
  }
  return definition.fields.map(({ name }, c) => {
    const vector = result.getChild(name as never);
    if (vector) return fromVector(vector, outTypes[c], name);
    throw pondError(
      "schema-mismatch",
      `Column ${name} is missing in the batch that mapBatches returned.`,
    );
  });
}

const loaded = new Map<string, AnyFunction>();

async function loadFunction(
  shipped: ShippedFunction,
  where: string | undefined,
): Promise<AnyFunction> {
  const id =
    shipped.kind === "source" ? shipped.source : `${shipped.url}#${shipped.name}#${shipped.digest}`;
  const known = loaded.get(id);
  if (known) return known;
  const call =
    shipped.kind === "source" ? compile(shipped.source) : await importFunction(shipped, where);
  loaded.set(id, call);
  return call;
}

async function importFunction(
  shipped: Extract<ShippedFunction, { kind: "module" }>,
  where: string | undefined,
): Promise<AnyFunction> {
  const module = (await import(shipped.url)) as Record<string, unknown>;
  const found = module[shipped.name];
  if (typeof found === "function") return found as AnyFunction;
  const place = where === undefined ? "" : ` (at ${where})`;
  throw pondError("input-invalid", `${shipped.url} exports no function ${shipped.name}${place}.`);
}

/** A function from its source; a method's lacks the word `function`. */
function compile(source: string): AnyFunction {
  const build = (text: string) => new Function(`"use strict"; return (${text});`)() as AnyFunction;
  try {
    return build(source);
  } catch {
    const method = /^(async\s+)?(\*?)/.exec(source);
    return build(
      `${method?.[1] ?? ""}function${method?.[2] ?? ""} ${source.slice(method?.[0].length)}`,
    );
  }
}
