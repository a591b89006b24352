/**
 * @file Runs one attempt of a task inside a worker: definitions become a chain of common table
 * expressions, which DuckDB optimises as one query; a function breaks the chain, its input streams
 * through it chunk by chunk into a temporary table. The output is written under the attempt's own
 * name and committed by a link that only the first attempt can make.
 */
import { statSync } from "node:fs";
import { mkdir, rm } from "node:fs/promises";
import { join } from "node:path";
import type { DuckDBConnection } from "@duckdb/node-api";
import { commitTask } from "./commits.ts";
import { type Duck, duckFailure, quoteName, quoteText, rowsOf } from "./duck.ts";
import { runFunction } from "./run-function.ts";
import { toBound, type WireValue } from "./sql.ts";
import {
  type Attempt,
  type Commit,
  carrierList,
  type Definition,
  partColumn,
  sinkList,
  type Task,
} from "./task.ts";

/** Where a running attempt can be stopped. */
export interface Running {
  connection: DuckDBConnection | undefined;
  cancelled: boolean;
}

/** Runs an attempt to its commit, which may be an earlier attempt's. */
export async function runTask(duck: Duck, attempt: Attempt, running: Running): Promise<Commit> {
  const { task } = attempt;
  const startedMs = performance.now();
  const startedCpu = process.cpuUsage();
  const written =
    task.output === undefined && !task.answer ? nothing : await work(duck, attempt, running);
  const cpu = process.cpuUsage(startedCpu);
  return commitTask(attempt.root, {
    key: task.key,
    label: task.label,
    partition: task.partition,
    attempt: attempt.attempt,
    ...written,
    wallMs: performance.now() - startedMs,
    cpuMs: (cpu.user + cpu.system) / 1e3,
  });
}

type Written = Pick<Commit, "file" | "bytes" | "rows" | "answer">;

const nothing: Written = { file: undefined, bytes: 0, rows: 0 };

async function work(duck: Duck, attempt: Attempt, running: Running): Promise<Written> {
  const { task } = attempt;
  const connection = await duck.instance.connect();
  running.connection = connection;
  let where: string | undefined;
  const file = join(task.folder, `${task.key}.${attempt.attempt}.${task.format}`);
  try {
    await connection.run(`SET memory_limit = '${Math.floor(attempt.memoryBytes / 1024)}KiB'`);
    await connection.run(`SET threads = ${attempt.threads}`);
    const chain: Definition[] = [];
    for (const definition of task.definitions) {
      where = definition.where ?? where;
      if (definition.kind === "query") chain.push(definition);
      else await runFunction(connection, definition, withClause(chain), task.parameters);
    }
    if (task.answer !== undefined) {
      const rows = await rowsOf(connection, `${withClause(chain)}${task.answer}`);
      return { ...nothing, answer: rows.map(([value]) => String(value)) };
    }
    await mkdir(task.folder, { recursive: true });
    const rows = await copy(connection, task, `${withClause(chain)}${outputQuery(task)}`, file);
    return { file, bytes: statSync(file).size, rows };
  } catch (error) {
    await rm(file, { force: true });
    throw duckFailure(error, where);
  } finally {
    running.connection = undefined;
    connection.closeSync();
  }
}

async function copy(
  connection: DuckDBConnection,
  task: Task,
  query: string,
  file: string,
): Promise<number> {
  const sql = `COPY (${query}) TO ${quoteText(file)} (${task.copyOptions})`;
  const { values, types } = toBound(usedParameters(sql, task.parameters));
  const [[rows]] = await (await connection.run(sql, values, types)).getRows();
  return Number(rows);
}

/** DuckDB refuses values that a query does not name. */
function usedParameters(
  sql: string,
  parameters: Readonly<Record<string, WireValue>>,
): Record<string, WireValue> {
  const used = new Set([...sql.matchAll(/\$(p\d+)\b/g)].map(([, name]) => name));
  return Object.fromEntries(Object.entries(parameters).filter(([name]) => used.has(name)));
}

function outputQuery(task: Task): string {
  const output = quoteName(task.output as string);
  const { scatter, fields, format } = task;
  if (scatter) {
    const list = carrierList(fields, format);
    const part = `CAST(${scatter.expression} AS ${partType(scatter.parts)}) AS ${partColumn}`;
    const from = scatter.key ? `(SELECT *, ${scatter.key} AS __key FROM ${output})` : output;
    return `SELECT ${list}, ${part} FROM ${from} ORDER BY ${partColumn}`;
  }
  const list = task.sink ? sinkList(fields, format) : carrierList(fields, format);
  return `SELECT ${list} FROM ${output}`;
}

/** The narrowest type: rows are sorted by it. */
function partType(parts: number): string {
  return parts <= 2 ** 8 ? "UTINYINT" : parts <= 2 ** 16 ? "USMALLINT" : "INTEGER";
}

function withClause(chain: readonly Definition[]): string {
  const ctes = chain.map((definition) =>
    definition.kind === "query" ? `${quoteName(definition.name)} AS (${definition.sql}\n)` : "",
  );
  return ctes.length > 0 ? `WITH ${ctes.join(", ")} ` : "";
}
