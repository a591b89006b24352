/**
 * @file `Pond`: a session. Makes data frames, and plans, runs and publishes for their actions. Its root
 * folder holds intermediate files and commits; sessions with the same root share what is done.
 */
import { EventEmitter } from "node:events";
import { rm } from "node:fs/promises";
import { availableParallelism, homedir, totalmem } from "node:os";
import { join, resolve as resolvePath } from "node:path";
import type { Table } from "apache-arrow";
import { assert } from "../base/index.ts";
import { Batch } from "./batch.ts";
import { readChunk } from "./chunk-reader.ts";
import { makeRoot } from "./commits.ts";
import { type ActionOptions, DataFrame, type WriteOptions } from "./data-frame.ts";
import { closeDuck, type Duck, duckFailure, type Field, openDuck } from "./duck.ts";
import { pondError, throwIfAborted } from "./errors.ts";
import { ItemStore } from "./items.ts";
import { lineageOf } from "./lineage.ts";
import { type Executor, LocalPool } from "./local-pool.ts";
import { optimize } from "./optimize.ts";
import { Planner, type SinkSpec } from "./physical.ts";
import { highestPlaceholder, type Node, type SourceNode } from "./plan.ts";
import {
  checkTarget,
  type OutputManifest,
  publish,
  readManifest,
  stagingFolder,
} from "./publish.ts";
import { hashOf, Resolver } from "./resolve.ts";
import { type RunEvent, type RunOptions, type RunResult, runPlan } from "./scheduler.ts";
import { callSite, type Sql, toSql } from "./sql.ts";
import { type Stage, upstreamOf } from "./stage.ts";
import { type Faults, readOwn } from "./task.ts";
import type { Row, Schema } from "./types.ts";

/** How a session runs. */
export interface PondOptions {
  /** Folder of intermediate files and commits. Default: `~/.cache/baleen/pond`. */
  readonly root?: string;
  /** Tasks that run at once. Default: one a processor. */
  readonly workers?: number;
  /** Memory of one task at its first attempt. Default: half the machine's, shared by the workers. */
  readonly taskMemoryBytes?: number;
  /** Memory of one task after attempts that ran out of it. Default: three quarters of the machine's. */
  readonly taskMemoryBytesMax?: number;
  /** Attempts of a task. Default: 5. */
  readonly attemptsMax?: number;
  /** A task is copied when it has run for this long and three times its stage's median. Default: 5000. */
  readonly stragglerMs?: number;
  /** A side of a join up to this size goes whole to every partition of the other. Default: 16 MiB. */
  readonly broadcastBytes?: number;
  /** Runs tasks elsewhere, such as `queueExecutor`. Default: processes here. */
  readonly executor?: Executor;
  /** Faults to inject, for tests. */
  readonly faults?: Faults;
}

/** Options of `readCsv`. */
export interface CsvOptions<T> {
  readonly schema?: Schema<T>;
  readonly delimiter?: string;
  readonly header?: boolean;
}

/** A session; make one with `init`. */
export class Pond {
  /** The folder of intermediate files and commits, absolute. */
  readonly root: string;
  /** Emits `event` for everything that happens in its runs. */
  readonly events: EventEmitter<{ event: [RunEvent] }> = new EventEmitter();
  /** Counts of the last run. */
  lastRun: RunResult["stats"] | undefined;
  private readonly options: PondOptions;
  private readonly duck: Duck;
  private readonly executor: Executor;
  private readonly items: ItemStore;

  constructor(options: PondOptions, root: string, duck: Duck) {
    this.options = options;
    this.root = root;
    this.duck = duck;
    this.items = new ItemStore(duck, join(root, "items"));
    const slots = options.workers ?? availableParallelism();
    const onLog: (attempt: { attempt: string; task: { key: string } }, text: string) => void = (
      { attempt, task },
      text,
    ) => this.events.emit("event", { kind: "log", key: task.key, attempt, text });
    this.executor =
      options.executor ?? new LocalPool({ slots, threads: availableParallelism(), onLog });
  }

  /** Parquet files: paths, patterns, or folders. A schema, where given, is checked against each file. */
  readParquet<T = Row>(paths: string | readonly string[], schema?: Schema<T>): DataFrame<T> {
    return this.source<T>("parquet", paths, schema, {});
  }

  /** CSV files; without a schema, types are inferred from their first rows. */
  readCsv<T = Row>(paths: string | readonly string[], options: CsvOptions<T> = {}): DataFrame<T> {
    const { schema, delimiter, header } = options;
    return this.source<T>("csv", paths, schema, {
      ...(delimiter !== undefined && { delim: `'${delimiter.replaceAll("'", "''")}'` }),
      ...(header !== undefined && { header: String(header) }),
    });
  }

  /** JSON files, one object a line or one array; without a schema, types are inferred. */
  readJson<T = Row>(paths: string | readonly string[], schema?: Schema<T>): DataFrame<T> {
    return this.source<T>("json", paths, schema, {});
  }

  private source<T>(
    format: SourceNode["format"],
    paths: string | readonly string[],
    schema: Schema<T> | undefined,
    options: Readonly<Record<string, string>>,
  ): DataFrame<T> {
    const all = typeof paths === "string" ? [paths] : paths;
    const fields = schema?.fields;
    return new DataFrame<T>(this, {
      op: "source",
      format,
      paths: all,
      fields,
      options,
      inputs: [],
      where: callSite(),
    });
  }

  /** Rows given here; anything but objects becomes a column `item`. Types are inferred without a schema. */
  fromItems<T extends Row>(items: readonly T[], schema?: Schema<T>): DataFrame<T>;
  fromItems<T>(items: readonly T[]): DataFrame<{ item: T }>;
  fromItems(items: readonly unknown[], schema?: Schema): DataFrame<never> {
    return new DataFrame<never>(this, this.items.ofRows(items, schema?.fields, callSite()));
  }

  /** The rows of an Arrow table. */
  fromArrow<T = Row>(table: Table): DataFrame<T> {
    return new DataFrame<T>(this, this.items.ofArrow(table, callSite()));
  }

  /** A query over data frames, `{0}`, `{1}`, ..., run in each partition of them. One with a single partition goes whole to each. */
  partialSql<T = Row>(query: string | Sql, ...frames: readonly DataFrame<never>[]): DataFrame<T>;
  partialSql<T = Row>(
    query: string | Sql,
    ...frames: readonly { readonly node: Node }[]
  ): DataFrame<T>;
  partialSql<T = Row>(
    query: string | Sql,
    ...frames: readonly { readonly node: Node }[]
  ): DataFrame<T> {
    const piece = toSql(query);
    const highest = highestPlaceholder(piece);
    assert(
      highest === frames.length - 1,
      () => `partialSql: got {${highest}} and ${frames.length} inputs, wanted one input for each`,
    );
    const inputs = frames.map(({ node }) => node);
    return new DataFrame<T>(this, {
      op: "query",
      name: "sql",
      query: piece,
      inputs,
      where: callSite(),
    });
  }

  /** Names and types of what an operation yields. */
  async fieldsOf(node: Node): Promise<readonly Field[]> {
    await this.items.write(node);
    return (await new Resolver(this.duck).facts(node)).fields;
  }

  private async plan(node: Node, sink?: SinkSpec): Promise<Stage> {
    await this.items.write(node);
    const resolver = new Resolver(this.duck);
    await resolver.facts(node);
    const optimized = await optimize(node, resolver, this.duck);
    await resolver.facts(optimized);
    const { broadcastBytes = 16 * 2 ** 20 } = this.options;
    const folder = join(this.root, "data");
    return await new Planner({ duck: this.duck, resolver, folder, broadcastBytes }).plan(
      optimized,
      sink,
    );
  }

  private async execute(stage: Stage, { signal }: ActionOptions): Promise<RunResult> {
    const { workers = availableParallelism(), faults } = this.options;
    const memory = totalmem();
    const options: RunOptions = {
      root: this.root,
      executor: this.executor,
      taskMemoryBytes: this.options.taskMemoryBytes ?? memory / 2 / Math.max(1, workers),
      taskMemoryBytesMax: this.options.taskMemoryBytesMax ?? memory * 0.75,
      attemptsMax: this.options.attemptsMax ?? 5,
      stragglerMs: this.options.stragglerMs ?? 5000,
      ...(faults && { faults }),
      ...(signal && { signal }),
    };
    const result = await runPlan(stage, options, this.events);
    this.lastRun = result.stats;
    return result;
  }

  /** Runs the plan of an operation; its result stays under the root. */
  async run(node: Node, options: ActionOptions): Promise<{ stage: Stage; result: RunResult }> {
    throwIfAborted(options.signal);
    const stage = await this.plan(node);
    return { stage, result: await this.execute(stage, options) };
  }

  /** Runs a physical plan made elsewhere, such as one of empty tasks. */
  async runStage(stage: Stage, options: ActionOptions = {}): Promise<RunResult> {
    return await this.execute(stage, options);
  }

  /** The rows of an operation, batch by batch. */
  async *batches<T>(node: Node, options: ActionOptions): AsyncGenerator<Batch<T>> {
    const { stage, result } = await this.run(node, options);
    const files = result.commits.filter(({ rows }) => rows > 0).map(({ file }) => file as string);
    if (files.length === 0) return;
    const connection = await this.duck.instance.connect();
    try {
      const stream = await connection.stream(readOwn(files, stage.fields));
      const types = stream.columnTypes();
      for (;;) {
        throwIfAborted(options.signal);
        const chunk = await stream.fetchChunk();
        if (!chunk || chunk.rowCount === 0) return;
        yield new Batch<T>(stage.fields, readChunk(chunk, types));
      }
    } catch (error) {
      throw duckFailure(error, node.where);
    } finally {
      connection.closeSync();
    }
  }

  /** Runs an operation's plan and publishes what it yields as `folder`. */
  async write(
    node: Node,
    folder: string,
    format: SinkSpec["format"],
    options: WriteOptions,
  ): Promise<OutputManifest> {
    throwIfAborted(options.signal);
    const target = resolvePath(folder);
    const { mode = "create", compression = "snappy" } = options;
    const copyOptions = {
      parquet: `FORMAT parquet, COMPRESSION ${compression}`,
      csv: "FORMAT csv, HEADER true",
      json: "FORMAT json",
    }[format];
    const stage = await this.plan(node, { format, copyOptions, folder: stagingFolder(target) });
    const there = readManifest(target);
    if (there?.key === stage.key) {
      this.lastRun = { executed: 0, reused: stage.partitions, attempts: 0, copies: 0 };
      return there;
    }
    await checkTarget(target, mode);
    const { commits } = await this.execute(stage, options);
    try {
      return await publish(target, stage.key, format, commits);
    } catch (error) {
      const { code } = error as NodeJS.ErrnoException;
      if (code !== "ENOSPC" && code !== "EDQUOT") throw error;
      throw pondError(
        "disk-full",
        `The disk of ${target} is full; nothing was published. Free some space and run again.`,
        error,
      );
    }
  }

  /** The physical plan of an operation, in words. */
  async explain(node: Node): Promise<string> {
    const last = await this.plan(node);
    const order: Stage[] = [];
    const visit = (stage: Stage): void => {
      if (order.includes(stage)) return;
      for (const other of upstreamOf(stage)) visit(other);
      order.push(stage);
    };
    visit(last);
    return order.map((stage, i) => describe(stage, i, order)).join("\n");
  }

  /** For each column, the columns of files it comes from. */
  async lineage(node: Node): Promise<Record<string, string[]>> {
    await this.items.write(node);
    const resolver = new Resolver(this.duck);
    await resolver.facts(node);
    return await lineageOf(node, resolver, this.duck);
  }

  /** Ends the workers and frees what the session holds; files stay. */
  async close(): Promise<void> {
    await this.executor.close();
    closeDuck(this.duck);
  }

  /** Removes all intermediate files and commits of the root. */
  async clear(): Promise<void> {
    await rm(this.root, { recursive: true, force: true });
    makeRoot(this.root);
  }
}

function describe(stage: Stage, index: number, order: readonly Stage[]): string {
  const reads = stage.inputs.map((input) => {
    if (input.kind === "files") {
      const files = new Set(input.parts.flat().map(({ path }) => path));
      return `  reads ${files.size} ${input.format} file${files.size === 1 ? "" : "s"}: ${input.fields.map(({ name }) => name).join(", ")}`;
    }
    if (input.kind === "union")
      return `  reads ${input.stages.map((one) => `stage ${order.indexOf(one)}`).join(", ")}`;
    return `  reads stage ${order.indexOf(input.stage)} (${input.mode}): ${input.fields.map(({ name }) => name).join(", ")}`;
  });
  const tasks = `${stage.partitions} task${stage.partitions === 1 ? "" : "s"}`;
  return [`stage ${index}: ${stage.label} (${tasks}, key ${stage.key.slice(0, 8)})`, ...reads].join(
    "\n",
  );
}

/** Opens a session. */
export async function init(options: PondOptions = {}): Promise<Pond> {
  const root = resolvePath(options.root ?? join(homedir(), ".cache", "baleen", "pond"));
  try {
    makeRoot(root);
  } catch (error) {
    throw pondError(
      "input-invalid",
      `The root ${root} can't be made (${(error as Error).message}); give another.`,
      error,
    );
  }
  const spillFolder = join(
    root,
    "spill",
    `session-${process.pid}-${hashOf(String(performance.now())).slice(0, 6)}`,
  );
  const duck = await openDuck({
    threads: availableParallelism(),
    memoryBytes: totalmem() / 4,
    spillFolder,
  });
  return new Pond(options, root, duck);
}
