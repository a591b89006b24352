/**
 * @file The physical plan: stages, each a chain of definitions run once a partition, and how a
 * partition of one stage reads what others wrote. `taskOf` makes a task's plain data, once the
 * commits it depends on are there.
 */
import { type Field, quoteName, quoteText } from "./duck.ts";
import type { SortKey } from "./plan.ts";
import type { WireValue } from "./sql.ts";
import { type Commit, type Definition, readOwn, type Scatter, type Task } from "./task.ts";

/** A file of a source, or some of its rows. */
export interface FilePart {
  readonly path: string;
  /** Rows `from` to `to`; all where absent. */
  readonly from?: number;
  readonly to?: number;
}

/** How partition p of a stage reads another stage's outputs. */
export type ReadMode =
  /** Output p. */
  | "same"
  /** The rows scattered to p, from all outputs. */
  | "part"
  /** All outputs. */
  | "all"
  /** The p-th of `partitions` groups of neighbouring outputs. */
  | "group"
  /** The p-th of `partitions` equal ranges of rows. */
  | "rows";

/** What a stage reads, under the name by which its definitions know it. */
export type StageInput =
  | {
      readonly kind: "files";
      readonly name: string;
      readonly fields: readonly Field[];
      readonly format: "parquet" | "csv" | "json";
      /** Reader options as SQL. */
      readonly options: Readonly<Record<string, string>>;
      /** By partition; one entry serves all. */
      readonly parts: readonly (readonly FilePart[])[];
    }
  | {
      readonly kind: "stage";
      readonly name: string;
      readonly fields: readonly Field[];
      readonly mode: ReadMode;
      readonly stage: Stage;
    }
  | {
      /** Partition p is output p of the stages, counted through. */
      readonly kind: "union";
      readonly name: string;
      readonly fields: readonly Field[];
      readonly stages: readonly Stage[];
    };

/** How a stage deals its rows to the partitions of the next. */
export interface ScatterSpec {
  readonly by: "hash" | "range" | "column" | "shuffle";
  readonly keys: readonly SortKey[];
  readonly parts: number;
  readonly seed: number;
  /** The stage whose answer are the borders of a range. */
  readonly splitters?: Stage;
}

/** A step of the physical plan. */
export interface Stage {
  readonly key: string;
  readonly label: string;
  readonly partitions: number;
  readonly fields: readonly Field[];
  readonly inputs: readonly StageInput[];
  readonly definitions: readonly Definition[];
  readonly parameters: Readonly<Record<string, WireValue>>;
  readonly output: string | undefined;
  readonly scatter: ScatterSpec | undefined;
  readonly answer: string | undefined;
  readonly format: "parquet" | "csv" | "json";
  readonly sink: boolean;
  readonly copyOptions: string;
  readonly folder: string;
}

/** The stages that a stage reads, each once. */
export function upstreamOf(stage: Stage): Stage[] {
  const found = new Set<Stage>();
  for (const input of stage.inputs) {
    if (input.kind === "stage") found.add(input.stage);
    if (input.kind === "union") for (const one of input.stages) found.add(one);
  }
  if (stage.scatter?.splitters) found.add(stage.scatter.splitters);
  return [...found];
}

/** The key of a task. */
export function taskKey(stage: Stage, partition: number): string {
  return `${stage.key}-${partition}`;
}

/** The commits of a finished stage, by partition. */
export type CommitsOf = (stage: Stage) => readonly Commit[];

/** The tasks of `other` that partition p of `stage` waits for: undefined for all. */
export function waitsFor(stage: Stage, partition: number, other: Stage): number | undefined {
  let only: number | undefined;
  for (const input of stage.inputs) {
    if (input.kind === "stage" && input.stage === other) {
      if (input.mode !== "same") return undefined;
      only = partition;
    }
    if (input.kind === "union") {
      const [one, p] = unionPart(input.stages, partition);
      if (one === other) only = p;
      else if (input.stages.includes(other)) only ??= -1;
    }
  }
  return stage.scatter?.splitters === other ? undefined : only;
}

function unionPart(stages: readonly Stage[], partition: number): [Stage, number] {
  let p = partition;
  for (const stage of stages) {
    if (p < stage.partitions) return [stage, p];
    p -= stage.partitions;
  }
  throw new Error(`a union has no partition ${partition}`);
}

/** The task of a partition, as data. */
export function taskOf(stage: Stage, partition: number, commitsOf: CommitsOf): Task {
  const reads: Definition[] = stage.inputs.map((input) => ({
    kind: "query",
    name: input.name,
    sql: readInput(input, stage, partition, commitsOf),
  }));
  return {
    key: taskKey(stage, partition),
    label: stage.label,
    partition,
    definitions: [...reads, ...stage.definitions],
    parameters: stage.parameters,
    output: stage.output,
    fields: stage.fields,
    scatter: stage.scatter && scatterOf(stage.scatter, partition, commitsOf),
    format: stage.format,
    sink: stage.sink,
    copyOptions: stage.copyOptions,
    answer: stage.answer,
    folder: stage.folder,
  };
}

function readInput(
  input: StageInput,
  stage: Stage,
  partition: number,
  commitsOf: CommitsOf,
): string {
  if (input.kind === "files") {
    return readFiles(input, input.parts.length === 1 ? input.parts[0] : input.parts[partition]);
  }
  if (input.kind === "union") {
    const [one, p] = unionPart(input.stages, partition);
    return readOwn([commitsOf(one)[p].file as string], input.fields);
  }
  const { fields } = input;
  const commits = commitsOf(input.stage);
  if (input.mode === "same") return readOwn([commits[partition].file as string], fields);
  const files = commits.map(({ file }) => file as string);
  switch (input.mode) {
    case "all":
      return readOwn(files, fields);
    case "part": {
      const filled = files.filter((_, i) => commits[i].rows > 0);
      return readOwn(filled.length > 0 ? filled : files.slice(0, 1), fields, partition);
    }
    case "group": {
      const [from, to] = share(files.length, partition, stage.partitions);
      if (from === to) return `${readOwn(files.slice(0, 1), fields)} LIMIT 0`;
      return readOwn(files.slice(from, to), fields);
    }
    case "rows": {
      const rows = commits.map((commit) => commit.rows);
      return (
        rowRanges(files, rows, partition, stage.partitions)
          .map((part) => readRange(readOwn([part.path], fields), part))
          .join(" UNION ALL ") || `${readOwn(files.slice(0, 1), fields)} LIMIT 0`
      );
    }
  }
}

/** The p-th of `parts` nearly equal shares of `count` things, as a half-open range. */
export function share(count: number, p: number, parts: number): [number, number] {
  return [Math.floor((count * p) / parts), Math.floor((count * (p + 1)) / parts)];
}

/** The rows of share p of `parts`, file by file. */
export function rowRanges(
  paths: readonly string[],
  rows: readonly number[],
  p: number,
  parts: number,
): FilePart[] {
  const total = rows.reduce((sum, count) => sum + count, 0);
  const [from, to] = share(total, p, parts);
  const found: FilePart[] = [];
  let start = 0;
  paths.forEach((path, i) => {
    const low = Math.max(from, start);
    const high = Math.min(to, start + rows[i]);
    if (low < high) found.push({ path, from: low - start, to: high - start });
    start += rows[i];
  });
  return found;
}

function readRange(query: string, part: FilePart): string {
  if (part.from === undefined) return query;
  const path = quoteText(part.path);
  const numbered = query.replace(
    /read_parquet\(\[[^\n]*\]\)$/,
    `read_parquet(${path}, file_row_number=true)`,
  );
  return `${numbered} WHERE file_row_number >= ${part.from} AND file_row_number < ${part.to}`;
}

function readFiles(
  input: Extract<StageInput, { kind: "files" }>,
  parts: readonly FilePart[],
): string {
  const casts = input.fields.map(
    ({ name, type }) => `CAST(${quoteName(name)} AS ${type}) AS ${quoteName(name)}`,
  );
  const list = casts.join(", ");
  const options = Object.entries(input.options).map(([name, value]) => `, ${name}=${value}`);
  if (input.format !== "parquet") options.push(columnTypes(input.fields, input.format));
  const reader = `read_${input.format}`;
  const whole = parts.filter(({ from }) => from === undefined).map(({ path }) => quoteText(path));
  const pieces = parts
    .filter(({ from }) => from !== undefined)
    .map(({ path, from, to }) => {
      const rows = `file_row_number >= ${from} AND file_row_number < ${to}`;
      return `SELECT ${list} FROM ${reader}(${quoteText(path)}, file_row_number=true) WHERE ${rows}`;
    });
  if (whole.length > 0) {
    pieces.unshift(`SELECT ${list} FROM ${reader}([${whole.join(", ")}]${options.join("")})`);
  }
  if (pieces.length > 0) return pieces.join(" UNION ALL ");
  const nulls = input.fields.map(({ name, type }) => `NULL::${type} AS ${quoteName(name)}`);
  return `SELECT ${nulls.join(", ")} WHERE false`;
}

function columnTypes(fields: readonly Field[], format: "csv" | "json"): string {
  const list = fields.map(({ name, type }) => `${quoteText(name)}: ${quoteText(type)}`);
  return format === "csv" ? `, types={${list.join(", ")}}` : `, columns={${list.join(", ")}}`;
}

function scatterOf(spec: ScatterSpec, partition: number, commitsOf: CommitsOf): Scatter {
  const { parts, keys } = spec;
  const names = keys.map(({ column }) => quoteName(column));
  switch (spec.by) {
    case "hash":
      return { parts, expression: `hash(${names.join(", ")}) % ${parts}` };
    case "column":
      return { parts, expression: checkedPart(names[0], keys[0].column, parts) };
    case "shuffle":
      return {
        parts,
        expression: `hash(${spec.seed}, ${partition}, row_number() OVER ()) % ${parts}`,
      };
    case "range": {
      const answer = spec.splitters ? (commitsOf(spec.splitters)[0].answer ?? []) : [];
      return { parts, key: sortKeyOf(keys), expression: searchTree(answer, 0, answer.length) };
    }
  }
}

/** A column as the number of a partition; a value that is none fails the task, lest its row be lost. */
function checkedPart(quoted: string, column: string, parts: number): string {
  const message = `Column ${column} holds a value that is no partition from 0 to ${parts - 1}.`;
  const bad = `error(${quoteText(message)})`;
  return `CASE WHEN ${quoted} BETWEEN 0 AND ${parts - 1} THEN ${quoted} ELSE ${bad} END`;
}

/** A blob whose byte order is the order of the keys. */
export function sortKeyOf(keys: readonly SortKey[]): string {
  const terms = keys.map(({ column, descending, nullsFirst }) => {
    const order = `${descending ? "DESC" : "ASC"} NULLS ${nullsFirst ? "FIRST" : "LAST"}`;
    return `${quoteName(column)}, '${order}'`;
  });
  // Keys of fixed width alone would become an integer; a text makes it a blob.
  return `create_sort_key(${terms.join(", ")}, '', 'ASC NULLS LAST')`;
}

/** How many of the borders (hexadecimal, ascending) lie below the key, as a tree of comparisons. */
function searchTree(borders: readonly string[], from: number, to: number): string {
  if (from === to) return String(from);
  const middle = (from + to) >> 1;
  const border = `unhex('${borders[middle]}')`;
  const below = searchTree(borders, from, middle);
  const above = searchTree(borders, middle + 1, to);
  return `CASE WHEN __key <= ${border} THEN ${below} ELSE ${above} END`;
}
