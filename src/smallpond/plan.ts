/**
 * @file The logical plan: an immutable graph of operations, made by `DataFrame` without touching a
 * file. `renderNode` is the SQL of the operations that are SQL.
 */

import type { Field } from "./duck.ts";
import { quoteName } from "./duck.ts";
import type { ShippedFunction } from "./function-source.ts";
import { Parameters, type Sql } from "./sql.ts";

/** How an exchange says to which partition a row goes. */
export type ExchangeBy = "rows" | "files" | "hash" | "range" | "column" | "shuffle";

/** A key of an order. */
export interface SortKey {
  readonly column: string;
  readonly descending: boolean;
  /** NULL first; otherwise last. */
  readonly nullsFirst: boolean;
}

/** Reads files. */
export interface SourceNode {
  readonly op: "source";
  readonly format: "parquet" | "csv" | "json";
  /** Paths or patterns as the user gave them. */
  readonly paths: readonly string[];
  readonly fields: readonly Field[] | undefined;
  /** Options of DuckDB's reader, already as SQL. */
  readonly options: Readonly<Record<string, string>>;
  readonly inputs: readonly [];
  readonly where: string | undefined;
}

/** Any query, once a partition; `{0}`, `{1}` stand for the inputs. */
export interface QueryNode {
  readonly op: "query";
  readonly name: string;
  readonly query: Sql;
  readonly inputs: readonly Node[];
  readonly where: string | undefined;
  /** Columns of the input that are needed, per input, where the maker knows; else from the SQL. */
  readonly needs?: readonly (readonly string[])[];
  /** Columns of input 0 that pass unchanged, so that a partitioning by them holds on. */
  readonly keeps?: readonly string[];
  /** Whether input `i` may be given whole to every partition, if it is small. */
  readonly broadcastable?: readonly boolean[];
}

/** Keeps the rows for which a predicate holds. */
export interface FilterNode {
  readonly op: "filter";
  readonly predicate: Sql;
  readonly inputs: readonly [Node];
  readonly where: string | undefined;
}

/** Makes each output column from an expression. */
export interface ProjectNode {
  readonly op: "project";
  readonly columns: readonly { readonly name: string; readonly expression: Sql }[];
  readonly inputs: readonly [Node];
  readonly where: string | undefined;
}

/** Runs a function of the user over rows or batches. */
export interface FunctionNode {
  readonly op: "function";
  readonly mode: "map" | "flatMap" | "filter" | "mapBatches";
  readonly function: ShippedFunction;
  /** Columns the function reads; undefined for all. */
  readonly reads: readonly string[] | undefined;
  /** What it makes; undefined where rows are only kept or dropped. */
  readonly fields: readonly Field[] | undefined;
  readonly batchRows: number;
  readonly inputs: readonly [Node];
  readonly where: string | undefined;
}

/** Deals rows to partitions anew. */
export interface ExchangeNode {
  readonly op: "exchange";
  readonly by: ExchangeBy;
  readonly keys: readonly SortKey[];
  /** Partitions; undefined for as many as the input has (or as `targetBytes` wants). */
  readonly n: number | undefined;
  readonly targetBytes: number | undefined;
  readonly seed: number;
  /** Rows of equal keys need only lie together: any partitioning by some of the keys will do. */
  readonly cluster?: boolean;
  readonly inputs: readonly [Node];
  readonly where: string | undefined;
}

/** Keeps the first rows, in order of partitions. */
export interface LimitNode {
  readonly op: "limit";
  readonly count: number;
  readonly inputs: readonly [Node];
  readonly where: string | undefined;
}

/** The rows of all inputs; columns are matched by name. */
interface UnionNode {
  readonly op: "union";
  readonly inputs: readonly Node[];
  readonly where: string | undefined;
}

/** An operation of the plan. */
export type Node =
  | SourceNode
  | QueryNode
  | FilterNode
  | ProjectNode
  | FunctionNode
  | ExchangeNode
  | LimitNode
  | UnionNode;

/** The query of an operation, over inputs of these names (already quoted). */
export function renderNode(
  node: QueryNode | FilterNode | ProjectNode | LimitNode,
  inputs: readonly string[],
  parameters: Parameters,
): string {
  switch (node.op) {
    case "filter":
      return `SELECT * FROM ${inputs[0]} WHERE ${parameters.render(node.predicate)}`;
    case "project": {
      const list = node.columns.map(
        ({ name, expression }) => `${parameters.render(expression)} AS ${quoteName(name)}`,
      );
      return `SELECT ${list.join(", ")} FROM ${inputs[0]}`;
    }
    case "limit":
      return `SELECT * FROM ${inputs[0]} LIMIT ${node.count}`;
    case "query":
      return placeInputs(parameters.render(node.query), inputs).replace(/;\s*$/, "");
  }
}

/** The text with `{0}`, `{1}`, ... replaced by names. Other braces are SQL's own. */
function placeInputs(text: string, inputs: readonly string[]): string {
  return text.replace(/\{(\d+)\}/g, (_, index: string) => inputs[Number(index)]);
}

/** The highest `{n}` in a query, or -1. */
export function highestPlaceholder(query: Sql): number {
  const found = query.texts.flatMap((text) => [...text.matchAll(/\{(\d+)\}/g)]);
  return Math.max(-1, ...found.map(([, index]) => Number(index)));
}

/** A query over its own parameters, for describing. */
export function renderAlone(
  node: QueryNode | FilterNode | ProjectNode | LimitNode,
  inputs: readonly string[],
): { text: string; parameters: Parameters } {
  const parameters = new Parameters();
  return { text: renderNode(node, inputs, parameters), parameters };
}

/** A short name of an operation, for people. */
export function nameOf(node: Node): string {
  switch (node.op) {
    case "source":
      return `read ${node.format}`;
    case "query":
      return node.name;
    case "function":
      return node.mode;
    case "exchange":
      return `repartition by ${node.by}`;
    default:
      return node.op;
  }
}
