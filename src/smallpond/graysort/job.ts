/**
 * @file A sort of files: plans tasks, runs them on workers, and publishes the result at once.
 *
 * What fits in memory is one task. What does not is cut into splits, each scattered to ranges of keys
 * (phase one); then each range is sorted (phase two). A task's attempt writes a file of its own; the
 * first attempt that links its record into the staging folder wins. The output folder counts only
 * from the moment when its manifest appears, by one rename. Whatever was committed before an
 * interruption is not done again.
 */
import { createHash, randomUUID } from "node:crypto";
import {
  link,
  mkdir,
  open,
  readdir,
  readFile,
  rename,
  rm,
  stat,
  writeFile,
} from "node:fs/promises";
import { join, resolve } from "node:path";
import { BaleenError, ceilDiv, formatBytes } from "../../base/index.ts";
import { blockBytes, bytesOf, fileError, type Segment, wholeFile } from "./blocks.ts";
import { recordBytes } from "./record.ts";
import { samplePrefixes, splittersOf } from "./splitters.ts";
import { splitsOf, type Task, type TaskResult } from "./tasks.ts";
import { openWorkers, type Workers } from "./workers.ts";

/** What to sort, where to, and with how much. */
export interface SortOptions {
  /** Files of records, sorted as if they were one. */
  readonly inputs: readonly string[];
  /** Folder of the result; made where it is missing. */
  readonly output: string;
  /** Bytes of records that all workers together may hold; default 1 GiB. */
  readonly memoryBytes?: number | undefined;
  /** Processes that sort; default 1, which is this one. */
  readonly workers?: number | undefined;
  readonly signal?: AbortSignal | undefined;
  /** Called when a task ends. */
  readonly onProgress?: ((progress: SortProgress) => void) | undefined;
}

/** How far a sort is. */
export interface SortProgress {
  readonly phase: "scatter" | "sort";
  readonly done: number;
  readonly tasks: number;
}

/** What a sort did. */
export interface SortReport {
  readonly records: number;
  /** Files of the result, in order. */
  readonly parts: readonly string[];
  /** Tasks that ran; 0 when the result was there already. */
  readonly executed: number;
  /** Tasks that an earlier run had committed. */
  readonly reused: number;
}

/** The file that makes a folder a result. */
export interface Manifest {
  readonly format: "baleen-graysort-1";
  /** Hash of the inputs' identity and the plan. */
  readonly key: string;
  readonly records: number;
  /** Files in order of their keys, with their bytes. */
  readonly parts: readonly { readonly name: string; readonly bytes: number }[];
}

const manifestName = "_manifest.json";
/** Memory that a worker needs beside the records it holds: blocks, entries, partly filled chunks. */
const overheadShare = 0.2;
const smallestMemory: number = 16 * blockBytes;

/**
 * Sorts the inputs into part files under `output`, which together, in the order of the manifest, are
 * the records in order of their keys; equal keys keep their order of arrival where one task sorts
 * all. Running again does nothing; running again after an interruption does the rest. Throws
 * `output-taken` where the folder holds another result, and what the file system reports.
 */
export async function sortFiles(options: SortOptions): Promise<SortReport> {
  const { workers: workerCount = 1, memoryBytes = 2 ** 30 } = options;
  const output = resolve(options.output); // what is committed names its files whatever the folder
  const taskBytes = Math.floor((memoryBytes / workerCount) * (1 - overheadShare));
  if (taskBytes < smallestMemory) {
    const least = Math.ceil((smallestMemory * workerCount) / (1 - overheadShare));
    throw new BaleenError(
      "memory-too-small",
      `memory of ${formatBytes(memoryBytes)} is too little for ${workerCount} workers: ` +
        `give at least ${formatBytes(least)}.`,
    );
  }
  if (options.inputs.length === 0) {
    throw new BaleenError("no-input", "there is no input: name a file of records.");
  }
  const inputs = await Promise.all(options.inputs.map((path) => wholeFile(resolve(path))));
  const key = await keyOf(inputs, taskBytes, workerCount);
  const published = await readManifest(output);
  if (published?.key === key) return reportOf(published, output, 0, 0);
  if (published) {
    throw new BaleenError(
      "output-taken",
      `output ${output} holds another result: choose another folder, or remove it.`,
    );
  }
  await refuseForeign(output, key);
  return new SortJob({ ...options, output }, inputs, key, taskBytes, workerCount).run();
}

/** Names that the sort of `key` gives to what it puts into the output folder. */
function isOurs(name: string, key: string): boolean {
  const patterns = /^(part-\d{5}\.[0-9a-f]{8}(\.\d+)?|_manifest\.json(\.[0-9a-f-]{36})?)$/;
  return name === stagingName(key) || patterns.test(name);
}

function stagingName(key: string): string {
  return `_staging-${key}`;
}

/**
 * Throws unless the folder is missing, empty, or was begun by this very sort: what a sort finds there
 * when it publishes, it takes for its own and removes.
 */
async function refuseForeign(output: string, key: string): Promise<void> {
  const names = await readdir(output).catch((cause: NodeJS.ErrnoException): string[] => {
    if (cause.code === "ENOENT") return [];
    throw fileError(`output ${output}`, cause);
  });
  const isBegun = names.includes(stagingName(key));
  const foreign = names.find((name) => !isBegun || !isOurs(name, key));
  if (foreign === undefined) return;
  throw new BaleenError(
    "output-taken",
    `output ${output} holds ${foreign}, which this sort did not make: choose an empty folder.`,
  );
}

/** The manifest of the folder `output`; undefined where there is none. */
export async function readManifest(output: string): Promise<Manifest | undefined> {
  const path = join(output, manifestName);
  const text = await readFile(path, "utf8").catch((cause: NodeJS.ErrnoException) => {
    if (cause.code === "ENOENT" || cause.code === "ENOTDIR") return undefined;
    throw fileError(path, cause);
  });
  if (text === undefined) return undefined;
  try {
    const manifest = JSON.parse(text) as Manifest;
    if (manifest.format === "baleen-graysort-1" && Array.isArray(manifest.parts)) return manifest;
  } catch {
    // Said below, as for a manifest of another kind.
  }
  throw new BaleenError("bad-manifest", `${path} is no manifest of a sort: remove the folder.`);
}

async function keyOf(
  inputs: readonly Segment[],
  taskBytes: number,
  workers: number,
): Promise<string> {
  const identities = await Promise.all(
    inputs.map(async ({ path, bytes }) => [path, bytes, (await stat(path)).mtimeMs]),
  );
  const text = JSON.stringify(["graysort-1", identities, taskBytes, workers]);
  return createHash("sha256").update(text).digest("hex").slice(0, 32);
}

function reportOf(
  manifest: Manifest,
  output: string,
  executed: number,
  reused: number,
): SortReport {
  const parts = manifest.parts.map(({ name }) => join(output, name));
  return { records: manifest.records, parts, executed, reused };
}

/** A task before an attempt gives it a file to write. */
type Plan = Task extends infer T ? (T extends Task ? Omit<T, "output"> : never) : never;

class SortJob {
  private readonly options: SortOptions;
  private readonly inputs: readonly Segment[];
  private readonly key: string;
  private readonly taskBytes: number;
  private readonly workerCount: number;
  private readonly staging: string;
  private executed = 0;
  private reused = 0;

  constructor(
    options: SortOptions,
    inputs: readonly Segment[],
    key: string,
    taskBytes: number,
    workerCount: number,
  ) {
    this.options = options;
    this.inputs = inputs;
    this.key = key;
    this.taskBytes = taskBytes;
    this.workerCount = workerCount;
    this.staging = join(options.output, stagingName(key));
  }

  async run(): Promise<SortReport> {
    await mkdir(this.staging, { recursive: true }).catch((cause) => {
      throw fileError(`output ${this.options.output}`, cause);
    });
    const workers = await openWorkers(this.workerCount, this.options.signal);
    try {
      const ranges = await this.scatter(workers);
      const results = await this.runAll(
        workers,
        "sort",
        ranges.map((inputs) => ({ kind: "sort", inputs, memoryBytes: this.taskBytes })),
      );
      return await this.publish(results.map(({ segments }) => segments[0]));
    } finally {
      await workers.close();
    }
  }

  /** The inputs of each range: all of them at once where they fit into one task. */
  private async scatter(workers: Workers): Promise<readonly (readonly Segment[])[]> {
    const total = bytesOf(this.inputs);
    if (total <= this.taskBytes) return [this.inputs];
    // Ranges come out a little larger or smaller than their share; a fifth is kept free for that.
    const ranges = 2 ** Math.ceil(Math.log2(ceilDiv(1.2 * total, this.taskBytes)));
    const sample = await samplePrefixes(this.inputs);
    const splitters = Array.from(splittersOf(sample, ranges), String);
    const splitBytes = Math.min(this.taskBytes, ceilDiv(total, this.workerCount) + recordBytes);
    const results = await this.runAll(
      workers,
      "scatter",
      splitsOf(this.inputs, splitBytes).map((inputs) => ({
        kind: "scatter",
        inputs,
        splitters,
        memoryBytes: this.taskBytes,
      })),
    );
    return Array.from({ length: ranges }, (_, range) =>
      results.map(({ segments }) => segments[range]).filter(({ bytes }) => bytes > 0),
    );
  }

  private async runAll(
    workers: Workers,
    phase: SortProgress["phase"],
    plans: readonly Plan[],
  ): Promise<TaskResult[]> {
    let done = 0;
    const note = (): void => {
      done++;
      this.options.onProgress?.({ phase, done, tasks: plans.length });
    };
    return Promise.all(
      plans.map(async (plan, i) => {
        const result = await this.runOnce(workers, `${phase}-${String(i).padStart(5, "0")}`, plan);
        note();
        return result;
      }),
    );
  }

  /** The committed result of the task `name`, from an earlier run or from this one. */
  private async runOnce(workers: Workers, name: string, plan: Plan): Promise<TaskResult> {
    const committed = await this.committed(name);
    if (committed) {
      this.reused++;
      return committed;
    }
    const folder = plan.kind === "sort" ? this.options.output : this.staging;
    const label = plan.kind === "sort" ? name.replace("sort", "part") : name;
    const result = await workers.run(() => ({
      ...plan,
      output: join(folder, `${label}.${randomUUID().slice(0, 8)}`),
    }));
    this.executed++;
    return this.commit(name, result);
  }

  private async committed(name: string): Promise<TaskResult | undefined> {
    const text = await readFile(join(this.staging, `${name}.json`), "utf8").catch(() => undefined);
    if (text === undefined) return undefined;
    const result = JSON.parse(text) as TaskResult;
    const path = result.segments[0]?.path;
    const found = path === undefined ? undefined : await stat(path).catch(() => undefined);
    return found?.size === bytesOf(result.segments) ? result : undefined;
  }

  /** Links the attempt's record into place, durable; an earlier one wins, and this file goes. */
  private async commit(name: string, result: TaskResult): Promise<TaskResult> {
    const target = join(this.staging, `${name}.json`);
    const attempt = `${target}.${randomUUID()}`;
    await writeDurably(attempt, JSON.stringify(result));
    try {
      await link(attempt, target);
      return result;
    } catch (cause) {
      if ((cause as NodeJS.ErrnoException).code !== "EEXIST") throw fileError(target, cause);
      const earlier = await this.committed(name);
      if (!earlier) {
        await rename(attempt, target);
        return result;
      }
      await rm(result.segments[0].path, { force: true });
      return earlier;
    } finally {
      await rm(attempt, { force: true });
    }
  }

  /** The manifest appears by one rename; then what no manifest names is removed. */
  private async publish(parts: readonly Segment[]): Promise<SortReport> {
    const { output } = this.options;
    const manifest: Manifest = {
      format: "baleen-graysort-1",
      key: this.key,
      records: bytesOf(parts) / recordBytes,
      parts: parts.map(({ path, bytes }) => ({ name: path.slice(output.length + 1), bytes })),
    };
    const temporary = join(output, `${manifestName}.${randomUUID()}`);
    await writeDurably(temporary, `${JSON.stringify(manifest, undefined, 2)}\n`);
    await rename(temporary, join(output, manifestName));
    await syncFolder(output);
    const named = new Set([manifestName, ...manifest.parts.map(({ name }) => name)]);
    for (const name of await readdir(output)) {
      const isLeftOver = isOurs(name, this.key) && !named.has(name);
      if (isLeftOver) await rm(join(output, name), { recursive: true });
    }
    return reportOf(manifest, output, this.executed, this.reused);
  }
}

async function writeDurably(path: string, text: string): Promise<void> {
  await writeFile(path, text, { flush: true }).catch((cause) => {
    throw fileError(`output ${path}`, cause);
  });
}

async function syncFolder(path: string): Promise<void> {
  const folder = await open(path);
  await folder.sync().finally(() => folder.close());
}
