/**
 * @file `DataFrame`: a lazy table. Every operation returns a new one and touches nothing; actions
 * (`collect`, `count`, `rows`, `for await`, `write`) plan and run.
 */
import { assert } from "../base/index.ts";
import type { Batch } from "./batch.ts";
import { type Field, quoteName } from "./duck.ts";
import { pondError } from "./errors.ts";
import { type ModuleFunction, membersRead, shipFunction } from "./function-source.ts";
import { Grouped } from "./grouped.ts";
import type { ExchangeBy, FunctionNode, Node, SortKey } from "./plan.ts";
import type { Pond } from "./pond.ts";
import type { OutputManifest } from "./publish.ts";
import { callSite, type Sql, sql, toSql } from "./sql.ts";
import type { Row, Schema } from "./types.ts";

/** How an action runs. */
export interface ActionOptions {
  /** Stops the run; what is done stays done. */
  readonly signal?: AbortSignal;
}

/** How output is written. */
export interface WriteOptions extends ActionOptions {
  /** Whether a folder that is not empty may be replaced. Default: create. */
  readonly mode?: "create" | "overwrite";
  /** Parquet's compression. Default: snappy. */
  readonly compression?: "snappy" | "zstd" | "lz4" | "gzip" | "uncompressed";
}

/** How rows are dealt to partitions. */
export interface RepartitionOptions {
  /** Number of partitions; or give `targetBytes`. */
  readonly n?: number;
  /** Size of a partition's input; decides their number. */
  readonly targetBytes?: number;
  /** Default: hash where there are keys, else rows. `column`: the key holds the partition. */
  readonly by?: Exclude<ExchangeBy, "shuffle">;
  readonly keys?: string | readonly string[];
}

/** A key of an order: a column, or one with its direction. */
export type SortBy = string | (Partial<Omit<SortKey, "column">> & { readonly column: string });

/** Descending by a column, NULL last. */
export function desc(column: string): SortBy {
  return { column, descending: true };
}

/** The function of a `map`: inline, or exported by a module (see `fn`). */
export type RowFunction<T, R> = ((row: T) => R) | ModuleFunction<(row: T) => R>;

/** How two tables are joined. */
export interface JoinOptions {
  /** Columns of the same name on both sides. */
  readonly on: string | readonly string[];
  /** Default: inner. */
  readonly how?: "inner" | "left" | "right" | "full" | "semi" | "anti";
}

/** A lazy table with rows of type `T`. */
export class DataFrame<T = Row> implements AsyncIterable<Batch<T>> {
  /** The operation that yields it. */
  readonly node: Node;
  private readonly pond: Pond;

  constructor(pond: Pond, node: Node) {
    this.pond = pond;
    this.node = node;
  }

  private derive<R = T>(node: Node): DataFrame<R> {
    return new DataFrame<R>(this.pond, node);
  }

  /** Deals rows to partitions anew. */
  repartition(options: RepartitionOptions): DataFrame<T> {
    const { n, targetBytes } = options;
    const keys = list(options.keys ?? []);
    const by = options.by ?? (keys.length > 0 ? "hash" : "rows");
    const sized = n !== undefined || targetBytes !== undefined;
    assert(sized, "repartition: got neither n nor targetBytes, wanted one");
    assert(
      n === undefined || (Number.isInteger(n) && n > 0),
      () => `repartition: got n = ${n}, wanted 1 or more`,
    );
    const wanted = { rows: 0, files: 0, column: 1, hash: undefined, range: undefined }[by];
    const fits = wanted === undefined ? keys.length > 0 : keys.length === wanted;
    assert(fits, () => `repartition by ${by}: got ${keys.length} keys`);
    assert(by !== "column" || n !== undefined, "repartition by column: wanted n");
    return this.derive(this.exchange(by, keys.map(toSortKey), n, targetBytes));
  }

  private exchange(
    by: ExchangeBy,
    keys: SortKey[],
    n?: number,
    targetBytes?: number,
    seed = 0,
  ): Node {
    const { node } = this;
    const cluster = by === "hash" && n === undefined;
    return {
      op: "exchange",
      by,
      keys,
      n,
      targetBytes,
      seed,
      cluster,
      inputs: [node],
      where: callSite(),
    };
  }

  /** The rows for which a predicate holds: SQL with bound values, or a function. */
  filter(predicate: Sql | RowFunction<T, boolean>): DataFrame<T> {
    if ("texts" in predicate) {
      return this.derive({ op: "filter", predicate, inputs: [this.node], where: callSite() });
    }
    return this.derive(this.function("filter", predicate, undefined));
  }

  /** Columns by expressions: `select({ total: sql`price * amount` })`, or by name. */
  select<const K extends keyof T & string>(...names: readonly K[]): DataFrame<Pick<T, K>>;
  select<R = Row>(columns: Readonly<Record<string, Sql | string>>): DataFrame<R>;
  select(...given: readonly (string | Readonly<Record<string, Sql | string>>)[]): DataFrame<never> {
    const columns = given.flatMap((one) =>
      typeof one === "string"
        ? [{ name: one, expression: toSql(quoteName(one)) }]
        : Object.entries(one).map(([name, piece]) => ({ name, expression: toSql(piece) })),
    );
    return this.derive({ op: "project", columns, inputs: [this.node], where: callSite() });
  }

  /** One row for each row. `schema` names and types what the function returns. */
  map<R extends Row>(f: RowFunction<T, R>, schema: Schema<R>): DataFrame<R> {
    return this.derive(this.function("map", f, schema.fields));
  }

  /** Any number of rows for each row. */
  flatMap<R extends Row>(f: RowFunction<T, Iterable<R>>, schema: Schema<R>): DataFrame<R> {
    return this.derive(this.function("flatMap", f, schema.fields));
  }

  /** Arrow batches to Arrow batches (or tables), of about `batchRows` rows (default 122,880). */
  mapBatches<R extends Row>(
    f: RowFunction<import("apache-arrow").RecordBatch, unknown>,
    schema: Schema<R>,
    options: { readonly batchRows?: number } = {},
  ): DataFrame<R> {
    return this.derive(this.function("mapBatches", f, schema.fields, options.batchRows));
  }

  private function(
    mode: FunctionNode["mode"],
    f: RowFunction<never, unknown>,
    fields: readonly Field[] | undefined,
    batchRows = 122_880,
  ): FunctionNode {
    const shipped = shipFunction(f as never);
    const reads =
      shipped.kind === "source" && mode !== "mapBatches" ? membersRead(shipped.source) : undefined;
    return {
      op: "function",
      mode,
      function: shipped,
      reads,
      fields,
      batchRows,
      inputs: [this.node],
      where: callSite(),
    };
  }

  /** Each partition in order; partitions keep their rows. */
  partialSort(...by: readonly SortBy[]): DataFrame<T> {
    return this.derive(sortNode(this.node, by.map(toSortKey)));
  }

  /** All rows in order, over all partitions: dealt by ranges of the keys, then sorted in each. */
  sort(...by: readonly SortBy[]): DataFrame<T> {
    const keys = by.map(toSortKey);
    return this.derive(sortNode(this.exchange("range", keys), keys));
  }

  /** The rows in random order, over all partitions; the same order for the same seed. */
  randomShuffle(options: { readonly seed?: number; readonly n?: number } = {}): DataFrame<T> {
    const { seed = 1, n } = options;
    const dealt = this.exchange("shuffle", [], n, undefined, seed);
    const query = sql`SELECT * EXCLUDE (__order) FROM (SELECT *, hash(${seed}, row_number() OVER ()) AS __order FROM {0}) ORDER BY __order`;
    return this.derive({ op: "query", name: "shuffle", query, inputs: [dealt], where: callSite() });
  }

  /** The first `count` rows, in order of partitions. */
  limit(count: number): DataFrame<T> {
    assert(Number.isInteger(count) && count >= 0, () => `limit: got ${count}, wanted 0 or more`);
    return this.derive({ op: "limit", count, inputs: [this.node], where: callSite() });
  }

  /** Rows by equal keys; say with `agg` what is made of each group. */
  groupBy(...keys: readonly (keyof T & string)[]): Grouped {
    assert(keys.length > 0, "groupBy: got no keys; for the whole table use agg");
    return new Grouped(this.pond, this.node, keys);
  }

  /** One row made of all. */
  agg<R = Row>(made: Parameters<Grouped["agg"]>[0]): DataFrame<R> {
    return new Grouped(this.pond, this.node, []).agg<R>(made);
  }

  /** Pairs of rows with equal keys. The other columns must have different names. */
  join<U = Row>(other: DataFrame<U>, options: JoinOptions): DataFrame<T & U> {
    const on = list(options.on);
    assert(on.length > 0, "join: got no columns in `on`, wanted at least one");
    const how = options.how ?? "inner";
    const query = toSql(
      `SELECT * FROM {0} ${how.toUpperCase()} JOIN {1} USING (${on.map(quoteName).join(", ")})`,
    );
    const keys = on.map(toSortKey);
    const inputs = [this.exchange("hash", keys), other.exchange("hash", keys)];
    const broadcastable = [
      how === "inner" || how === "right",
      ["inner", "left", "semi", "anti"].includes(how),
    ];
    const keeps = how === "full" || how === "right" ? [] : on;
    return this.derive({
      op: "query",
      name: `${how} join`,
      query,
      inputs,
      broadcastable,
      keeps,
      where: callSite(),
    });
  }

  /** The rows of all; columns are matched by name and must have the same types. */
  union(...others: readonly DataFrame<T>[]): DataFrame<T> {
    const inputs = [this.node, ...others.map(({ node }) => node)];
    return this.derive({ op: "union", inputs, where: callSite() });
  }

  /** Each row once; or one row for each value of the columns given. */
  distinct(...columns: readonly (keyof T & string)[]): DataFrame<T> {
    const on = columns.map(quoteName).join(", ");
    const query = toSql(`SELECT DISTINCT ${on ? `ON (${on}) ` : ""}* FROM {0}`);
    const dealt = this.exchange("hash", columns.map(toSortKey));
    return this.derive({
      op: "query",
      name: "distinct",
      query,
      inputs: [dealt],
      keeps: columns,
      where: callSite(),
    });
  }

  /** Names and SQL types of the columns; reads headers only. */
  async schema(): Promise<readonly Field[]> {
    return await this.pond.fieldsOf(this.node);
  }

  /** Batches, as they are read; partitions in order. */
  [Symbol.asyncIterator](): AsyncGenerator<Batch<T>> {
    return this.batches();
  }

  /** Batches, with options. */
  batches(options: ActionOptions = {}): AsyncGenerator<Batch<T>> {
    return this.pond.batches<T>(this.node, options);
  }

  /** Rows as objects, one by one. */
  async *rows(options: ActionOptions = {}): AsyncGenerator<T> {
    for await (const batch of this.batches(options)) yield* batch.rows();
  }

  /** All rows as objects. */
  async collect(options: ActionOptions = {}): Promise<T[]> {
    const all: T[] = [];
    for await (const batch of this.batches(options)) for (const row of batch.rows()) all.push(row);
    return all;
  }

  /** The first `count` rows. */
  async take(count: number, options: ActionOptions = {}): Promise<T[]> {
    return await this.limit(count).collect(options);
  }

  /** The number of rows. */
  async count(options: ActionOptions = {}): Promise<number> {
    const query = toSql("SELECT count(*) AS n FROM {0}");
    const where = callSite();
    const counted = this.derive<{ n: bigint }>({
      op: "query",
      name: "count",
      query,
      inputs: [this.node],
      needs: [[]],
      where,
    });
    let total = 0;
    for await (const { n } of counted.rows(options)) total += Number(n);
    return total;
  }

  /** Runs the plan and keeps its result under the root, so that later actions reuse it. */
  async compute(options: ActionOptions = {}): Promise<this> {
    await this.pond.run(this.node, options);
    return this;
  }

  /** Writes a folder of files, which appears as a whole. */
  get write(): Writer {
    const to = (format: OutputManifest["format"]) => (folder: string, options?: WriteOptions) =>
      this.pond.write(this.node, folder, format as "parquet", options ?? {});
    return { parquet: to("parquet"), csv: to("csv"), json: to("json") };
  }

  /** The physical plan in words. */
  async explain(): Promise<string> {
    return await this.pond.explain(this.node);
  }

  /** For each column, the columns of files it comes from. */
  async lineage(): Promise<Record<string, string[]>> {
    return await this.pond.lineage(this.node);
  }
}

/** Writes a data frame's rows into `folder`; resolves to the manifest. */
export type Write = (folder: string, options?: WriteOptions) => Promise<OutputManifest>;

/** The formats that can be written. */
export interface Writer {
  readonly parquet: Write;
  readonly csv: Write;
  readonly json: Write;
}

function list<S extends string>(value: S | readonly S[]): readonly S[] {
  return typeof value === "string" ? [value] : value;
}

function toSortKey(by: SortBy): SortKey {
  const {
    column,
    descending = false,
    nullsFirst = false,
  } = typeof by === "string" ? { column: by } : by;
  return { column, descending, nullsFirst };
}

function sortNode(input: Node, keys: readonly SortKey[]): Node {
  if (keys.length === 0) throw pondError("input-invalid", "sort: give at least one column.");
  const terms = keys.map(
    ({ column, descending, nullsFirst }) =>
      `${quoteName(column)} ${descending ? "DESC" : "ASC"} NULLS ${nullsFirst ? "FIRST" : "LAST"}`,
  );
  const query = toSql(`SELECT * FROM {0} ORDER BY ${terms.join(", ")}`);
  return { op: "query", name: "sort", query, inputs: [input], where: callSite() };
}
