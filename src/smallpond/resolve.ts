/**
 * @file From the plan to facts: which files there are, what columns each operation yields, and the
 * key of each operation. A key is a hash of the operation, its SQL and values, its function's source
 * and the keys of its inputs; of a source, of each file's path, size and time of change. Equal keys
 * therefore mean equal results, which is what makes a run resumable.
 */
import { createHash } from "node:crypto";
import { existsSync, readFileSync, statSync } from "node:fs";
import { join, resolve as resolvePath } from "node:path";
import {
  type Duck,
  describeQuery,
  duckFailure,
  type Field,
  quoteName,
  quoteText,
  rowsOf,
} from "./duck.ts";
import { pondError } from "./errors.ts";
import { type Node, nameOf, renderAlone, type SourceNode } from "./plan.ts";
import { toBound } from "./sql.ts";

/** A file as it was when the plan was resolved. */
export interface FileIdentity {
  readonly path: string;
  readonly bytes: number;
  readonly changedMs: number;
}

/** What is known of an operation. */
export interface Facts {
  readonly node: Node;
  /** Hexadecimal, 32 digits. */
  readonly key: string;
  readonly fields: readonly Field[];
  /** Of a source; else empty. */
  readonly files: readonly FileIdentity[];
  /** A guess at the size of its output, from the files below it. */
  readonly bytesGuess: number;
}

/** The facts of operations, found once each. */
export class Resolver {
  private readonly duck: Duck;
  private readonly known = new Map<Node, Facts>();

  constructor(duck: Duck) {
    this.duck = duck;
  }

  /** The facts of `node` and, before it, of all it stands on. */
  async facts(node: Node): Promise<Facts> {
    const known = this.known.get(node);
    if (known) return known;
    const inputs: Facts[] = [];
    for (const input of node.inputs) inputs.push(await this.facts(input));
    const found = await this.find(node, inputs);
    this.known.set(node, found);
    return found;
  }

  /** The facts of a node that `facts` has seen. */
  factsOf(node: Node): Facts {
    return this.known.get(node) as Facts;
  }

  private async find(node: Node, inputs: readonly Facts[]): Promise<Facts> {
    const files = node.op === "source" ? await findFiles(this.duck, node) : [];
    const fields = await this.fieldsOf(node, inputs, files);
    const { inputs: _, where: __, ...operation } = node;
    const identity = JSON.stringify([operation, fields, files, inputs.map(({ key }) => key)]);
    const bytesGuess =
      node.op === "source"
        ? files.reduce((sum, { bytes }) => sum + bytes, 0)
        : inputs.reduce((sum, { bytesGuess }) => sum + bytesGuess, 0);
    return { node, key: hashOf(identity), fields, files, bytesGuess };
  }

  /** Fields that the user gave, their types as DuckDB writes them. */
  private async declared(
    fields: readonly Field[] | undefined,
  ): Promise<readonly Field[] | undefined> {
    if (fields === undefined || fields.length === 0) return fields;
    try {
      return await describeQuery(this.duck.connection, emptyQuery(fields));
    } catch (error) {
      throw duckFailure(error, undefined);
    }
  }

  private async fieldsOf(
    node: Node,
    inputs: readonly Facts[],
    files: readonly FileIdentity[],
  ): Promise<readonly Field[]> {
    switch (node.op) {
      case "source":
        return await sourceFields(this.duck, await this.declared(node.fields), node, files);
      case "function":
        checkReads(node.reads, inputs[0].fields, node.where);
        return (await this.declared(node.fields)) ?? inputs[0].fields;
      case "exchange":
        checkReads(
          node.keys.map(({ column }) => column),
          inputs[0].fields,
          node.where,
        );
        return inputs[0].fields;
      case "limit":
        return inputs[0].fields;
      case "union":
        checkUnion(inputs);
        return inputs[0].fields;
    }
    const names = inputs.map((_, i) => `input_${i}`);
    const { text, parameters } = renderAlone(node, names);
    const ctes = inputs.map(({ fields }, i) => `${names[i]} AS (${emptyQuery(fields)})`);
    const { values, types } = toBound(parameters.values);
    try {
      const full = `DESCRIBE ${ctes.length > 0 ? "WITH " : ""}${ctes.join(", ")} FROM (${text}\n)`;
      const rows = await (await this.duck.connection.run(full, values, types)).getRows();
      return rows.map(([name, type]) => ({ name: String(name), type: String(type) }));
    } catch (error) {
      throw duckFailure(error, node.where);
    }
  }
}

/** The first 32 hexadecimal digits of a SHA-256. */
export function hashOf(text: string): string {
  return createHash("sha256").update(text).digest("hex").slice(0, 32);
}

/** A query with these columns and no rows. */
function emptyQuery(fields: readonly Field[]): string {
  const list = fields.map(({ name, type }) => `NULL::${type} AS ${quoteName(name)}`);
  return `SELECT ${list.join(", ")} WHERE false`;
}

function checkReads(
  reads: readonly string[] | undefined,
  fields: readonly Field[],
  where: string | undefined,
): void {
  const missing = reads?.find((name) => !fields.some((field) => field.name === name));
  if (missing === undefined) return;
  const names = fields.map(({ name }) => name).join(", ");
  const place = where === undefined ? "" : ` (at ${where})`;
  throw pondError("schema-mismatch", `There is no column ${missing}${place}; there are ${names}.`);
}

function checkUnion(inputs: readonly Facts[]): void {
  const [first, ...others] = inputs;
  for (const other of others) {
    for (const { name, type } of first.fields) {
      const match = other.fields.find((field) => field.name === name);
      if (match?.type === type) continue;
      const got = match ? `is ${match.type} there` : "is missing there";
      throw pondError(
        "schema-mismatch",
        `Union: column ${name} is ${type} in ${nameOf(first.node)}, but ${got} (${nameOf(other.node)}); make them alike with select.`,
      );
    }
    if (other.fields.length === first.fields.length) continue;
    const extra = other.fields.find(
      (field) => !first.fields.some(({ name }) => name === field.name),
    );
    throw pondError(
      "schema-mismatch",
      `Union: column ${extra?.name} is only in one of the inputs; drop it with select.`,
    );
  }
}

/** The files of a source, in order of their paths as patterns yield them. */
async function findFiles(duck: Duck, node: SourceNode): Promise<FileIdentity[]> {
  const found: string[] = [];
  for (const path of node.paths) found.push(...(await expand(duck, path, node.format)));
  return found.map((path) => {
    try {
      const { size, mtimeMs } = statSync(path);
      return { path, bytes: size, changedMs: mtimeMs };
    } catch (error) {
      throw pondError("input-missing", `${path} can't be read; check the path.`, error);
    }
  });
}

/** A folder stands for the files its manifest names, or those with the format's ending. */
async function expand(duck: Duck, path: string, format: string): Promise<string[]> {
  const absolute = resolvePath(path);
  if (/[*?[]/.test(path) && !existsSync(absolute)) return await globbed(duck, path, absolute);
  if (!existsSync(absolute)) {
    throw pondError("input-missing", `There is no file ${path}; check the path.`);
  }
  if (!statSync(absolute).isDirectory()) return [absolute];
  const manifest = join(absolute, manifestName);
  if (existsSync(manifest)) {
    const { files } = JSON.parse(readFileSync(manifest, "utf8")) as { files: { name: string }[] };
    return files.map(({ name }) => join(absolute, name));
  }
  const pattern = join(absolute, "**", `*.${format}`);
  return await globbed(duck, pattern, pattern);
}

/** The name of the file that lists what a folder of output holds. */
export const manifestName = "_manifest.json";

async function globbed(duck: Duck, shown: string, pattern: string): Promise<string[]> {
  const query = `SELECT file FROM glob(${quoteText(pattern)}) ORDER BY file`;
  const found = (await rowsOf(duck.connection, query)).map(([file]) => String(file));
  if (found.length > 0) return found;
  throw pondError("input-missing", `No file matches ${shown}; check the pattern.`);
}

/** The columns of a source; every file is checked against them. */
async function sourceFields(
  duck: Duck,
  declared: readonly Field[] | undefined,
  node: SourceNode,
  files: readonly FileIdentity[],
): Promise<readonly Field[]> {
  if (files.length === 0) {
    throw pondError("input-missing", `There is nothing to read at ${node.paths.join(", ")}.`);
  }
  if (node.format !== "parquet") return declared ?? (await sniff(duck, node, files));
  let wanted = declared;
  for (const { path } of files) {
    const got = await describeFile(duck, path);
    wanted ??= got;
    compareFields(wanted, got, path, declared ? "the schema" : files[0].path);
  }
  return wanted ?? [];
}

async function describeFile(duck: Duck, path: string): Promise<Field[]> {
  try {
    return await describeQuery(duck.connection, `FROM read_parquet(${quoteText(path)})`);
  } catch (error) {
    const [first] = String((error as Error).message).split("\n");
    throw pondError(
      "input-invalid",
      `${path} is no readable Parquet file (${first}); check it.`,
      error,
    );
  }
}

function compareFields(
  wanted: readonly Field[],
  got: readonly Field[],
  path: string,
  source: string,
): void {
  for (const { name, type } of wanted) {
    const match = got.find((field) => field.name === name);
    if (!match) {
      throw pondError("schema-mismatch", `Column ${name} is missing in ${path}; ${source} has it.`);
    }
    if (!reads(type, match.type)) {
      throw pondError(
        "schema-mismatch",
        `Column ${name} is ${match.type} in ${path}, but ${type} in ${source}; cast one of them.`,
      );
    }
  }
}

/** Whether a file's column of type `stored` can be read as `wanted`: types that files can't hold. */
function reads(wanted: string, stored: string): boolean {
  if (wanted === stored) return true;
  const carried: Record<string, readonly string[]> = {
    HUGEINT: ["DECIMAL(38,0)", "VARCHAR", "BIGINT"],
    UHUGEINT: ["DECIMAL(38,0)", "VARCHAR"],
    TIMESTAMP_S: ["TIMESTAMP"],
    TIMESTAMP_MS: ["TIMESTAMP"],
  };
  return (
    carried[wanted]?.includes(stored) ??
    (/^(ENUM|BIT|INTERVAL|TIME)/.test(wanted) && stored === "VARCHAR")
  );
}

async function sniff(
  duck: Duck,
  node: SourceNode,
  files: readonly FileIdentity[],
): Promise<readonly Field[]> {
  const list = files.map(({ path }) => quoteText(path)).join(", ");
  const options = Object.entries(node.options).map(([name, value]) => `, ${name}=${value}`);
  try {
    const reader = `read_${node.format}([${list}]${options.join("")})`;
    return await describeQuery(duck.connection, `FROM ${reader}`);
  } catch (error) {
    throw duckFailure(error, node.where);
  }
}

/** The number of rows of each Parquet file. */
export async function parquetRows(duck: Duck, paths: readonly string[]): Promise<number[]> {
  if (paths.length === 0) return [];
  const list = paths.map(quoteText).join(", ");
  const rows = await rowsOf(
    duck.connection,
    `SELECT file_name, num_rows FROM parquet_file_metadata([${list}])`,
  );
  const counts = new Map(rows.map(([path, count]) => [String(path), Number(count)]));
  return paths.map((path) => counts.get(path) ?? 0);
}
