/**
 * @file What a task is: plain data that travels to a worker as JSON. A task reads files, runs its
 * definitions in order, and writes one file. Types that Parquet can't hold (HUGEINT, ENUM, ...)
 * travel as text and are cast back where they are read.
 */
import { type Field, quoteName, quoteText } from "./duck.ts";
import type { ShippedFunction } from "./function-source.ts";
import type { WireValue } from "./sql.ts";

/** A named query, or a function over an earlier definition; later ones may use its name. */
export type Definition =
  | { readonly kind: "query"; readonly name: string; readonly sql: string; readonly where?: string }
  | {
      readonly kind: "function";
      readonly name: string;
      readonly input: string;
      readonly mode: "map" | "flatMap" | "filter" | "mapBatches";
      readonly function: ShippedFunction;
      /** Columns to fetch, in order. */
      readonly reads: readonly Field[];
      readonly fields: readonly Field[];
      readonly batchRows: number;
      readonly where?: string;
    };

/** How a task's output is dealt to the partitions that follow. */
export interface Scatter {
  /** SQL of the number of the partition, over the output's columns. */
  readonly expression: string;
  readonly parts: number;
  /** SQL that `expression` may name as `__key`. */
  readonly key?: string;
}

/** Faults to inject, for tests: each is a probability from 0 to 1, drawn from `seed`, task and attempt. */
export interface Faults {
  readonly seed: number;
  /** The worker kills itself in the middle. */
  readonly crash?: number;
  /** The task fails with `fault-injected`. */
  readonly fail?: number;
  /** The task stands still for `stallMs`. */
  readonly stall?: number;
  readonly stallMs?: number;
}

/** One unit of work. */
export interface Task {
  /** The name under which its commit is found. */
  readonly key: string;
  readonly label: string;
  readonly partition: number;
  readonly definitions: readonly Definition[];
  readonly parameters: Readonly<Record<string, WireValue>>;
  /** The definition that is written; undefined for a task that does nothing. */
  readonly output: string | undefined;
  readonly fields: readonly Field[];
  readonly scatter: Scatter | undefined;
  readonly format: "parquet" | "csv" | "json";
  /** Whether users read the file, so that columns keep the types Parquet has for them. */
  readonly sink: boolean;
  /** Options of COPY, as SQL. */
  readonly copyOptions: string;
  /** A query whose rows (texts) come back in the commit: the splitters of a range exchange. */
  readonly answer: string | undefined;
  /** Folder for the output. */
  readonly folder: string;
}

/** How a task is to be run this time. */
export interface Attempt {
  readonly task: Task;
  /** Unique among all attempts of all runs. */
  readonly attempt: string;
  /** 0 for the first. */
  readonly tries: number;
  readonly root: string;
  readonly memoryBytes: number;
  readonly threads: number;
  readonly faults?: Faults;
}

/** What a finished task left behind; its commit file holds this as JSON. */
export interface Commit {
  readonly key: string;
  readonly label: string;
  readonly partition: number;
  readonly attempt: string;
  /** The output file, absolute; undefined where there is none. */
  readonly file: string | undefined;
  readonly bytes: number;
  readonly rows: number;
  readonly answer?: readonly string[];
  readonly wallMs: number;
  readonly cpuMs: number;
}

/** The column that holds a row's partition in a scattered file. */
export const partColumn = "__part";

const textCarried =
  /\b(HUGEINT|UHUGEINT|BIT|INTERVAL|TIME WITH TIME ZONE|TIME_NS|BIGNUM|TIMESTAMP_S|TIMESTAMP_MS)\b|ENUM\((?:[^()']|'(?:[^']|'')*')*\)/g;

/** The type in which a file holds values of `type`: itself, or with text for what Parquet lacks. */
function carrierOf(type: string): string {
  // Names of struct members are quoted, so they are set aside before types are replaced.
  return type
    .split(/("(?:[^"]|"")*")/)
    .map((piece, i) => (i % 2 === 1 ? piece : piece.replace(textCarried, "VARCHAR")))
    .join("");
}

/** A select list that casts columns for the file. */
export function carrierList(fields: readonly Field[], format: Task["format"]): string {
  const list = fields.map(({ name, type }) => {
    const quoted = quoteName(name);
    if (format !== "parquet") return quoted;
    const carrier = carrierOf(type);
    return carrier === type ? quoted : `CAST(${quoted} AS ${carrier}) AS ${quoted}`;
  });
  return list.join(", ");
}

/** A select list for a file that users read: exact types where Parquet has them. */
export function sinkList(fields: readonly Field[], format: Task["format"]): string {
  if (format !== "parquet") return fields.map(({ name }) => quoteName(name)).join(", ");
  return fields
    .map(({ name, type }) => {
      const quoted = quoteName(name);
      return /^U?HUGEINT$/.test(type) ? `CAST(${quoted} AS DECIMAL(38,0)) AS ${quoted}` : quoted;
    })
    .join(", ");
}

/** A select list that casts what a file of ours holds back to its types. */
function restoreList(fields: readonly Field[]): string {
  return fields
    .map(({ name, type }) => {
      const quoted = quoteName(name);
      return carrierOf(type) === type ? quoted : `CAST(${quoted} AS ${type}) AS ${quoted}`;
    })
    .join(", ");
}

/** A query over files of ours, all rows or those of one partition. */
export function readOwn(files: readonly string[], fields: readonly Field[], part?: number): string {
  const list = files.map(quoteText).join(", ");
  const filter = part === undefined ? "" : ` WHERE ${partColumn} = ${part}`;
  return `SELECT ${restoreList(fields)} FROM read_parquet([${list}])${filter}`;
}
