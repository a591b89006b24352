/**
 * @file Rows and Arrow tables that a program hands over: written, when first needed, as a Parquet file
 * named by their content, so that the same rows are the same source in every run.
 */
import { createHash } from "node:crypto";
import { existsSync, renameSync, statSync } from "node:fs";
import { join } from "node:path";
import { serialize } from "node:v8";
import type { DuckDBType } from "@duckdb/node-api";
import { type Table, tableToIPC } from "apache-arrow";
import { fromVector, sqlTypeOf } from "./arrow.ts";
import { writeChunks } from "./chunk-writer.ts";
import type { Column } from "./column.ts";
import { columnOf } from "./column-builder.ts";
import { type Duck, duckFailure, type Field, parseType, quoteName, quoteText } from "./duck.ts";
import { pondError } from "./errors.ts";
import type { Node, SourceNode } from "./plan.ts";
import { carrierList } from "./task.ts";

type Content = { fields: readonly Field[]; columns: (types: readonly DuckDBType[]) => Column[] };

/** The sources of one session that come from memory. */
export class ItemStore {
  private readonly duck: Duck;
  private readonly folder: string;
  private readonly pending = new Map<Node, Content>();

  constructor(duck: Duck, folder: string) {
    this.duck = duck;
    this.folder = folder;
  }

  /** A source of these rows. */
  ofRows(
    items: readonly unknown[],
    given: readonly Field[] | undefined,
    where?: string,
  ): SourceNode {
    const rows = items.map(asRow);
    const fields = given ?? inferFields(rows);
    if (fields.length === 0) {
      throw pondError("input-invalid", "fromItems got no rows and no schema; give one of them.");
    }
    const digest = createHash("sha256")
      .update(serialize([fields, items]))
      .digest("hex");
    const columns = (types: readonly DuckDBType[]) =>
      fields.map(({ name }, c) =>
        columnOf(
          types[c],
          rows.map((row) => row[name]),
          name,
        ),
      );
    return this.source(digest, { fields, columns }, where);
  }

  /** A source of an Arrow table's rows. */
  ofArrow(table: Table, where?: string): SourceNode {
    const fields = table.schema.fields.map((field) => ({
      name: field.name,
      type: sqlTypeOf(field),
    }));
    const digest = createHash("sha256").update(tableToIPC(table, "stream")).digest("hex");
    const columns = (types: readonly DuckDBType[]) =>
      fields.map(({ name }, c) => {
        const vector = table.getChildAt(c);
        if (!vector) throw pondError("input-invalid", `The Arrow table has no column ${name}.`);
        return fromVector(vector, types[c], name);
      });
    return this.source(digest, { fields, columns }, where);
  }

  private source(digest: string, content: Content, where: string | undefined): SourceNode {
    const path = join(this.folder, `${digest.slice(0, 32)}.parquet`);
    const { fields } = content;
    const node: SourceNode = {
      op: "source",
      format: "parquet",
      paths: [path],
      fields,
      options: {},
      inputs: [],
      where,
    };
    this.pending.set(node, content);
    return node;
  }

  /** Writes the sources of a plan that are not yet there. */
  async write(node: Node): Promise<void> {
    for (const input of node.inputs) await this.write(input);
    const content = this.pending.get(node);
    if (!content || node.op !== "source") return;
    const [path] = node.paths;
    if (!existsSync(path) || statSync(path).size === 0) await this.writeFile(path, content);
    this.pending.delete(node);
  }

  private async writeFile(path: string, { fields, columns }: Content): Promise<void> {
    const connection = await this.duck.instance.connect();
    const temporary = `${path}.${process.pid}.tmp`;
    try {
      const types: DuckDBType[] = [];
      for (const { type } of fields) types.push(await parseType(connection, type));
      const list = fields.map(({ name, type }) => `${quoteName(name)} ${type}`).join(", ");
      await connection.run(`CREATE TEMP TABLE items (${list})`);
      const appender = await connection.createAppender("items", null, "temp");
      for (const chunk of writeChunks(columns(types), types)) appender.appendDataChunk(chunk);
      appender.closeSync();
      const query = `SELECT ${carrierList(fields, "parquet")} FROM items`;
      await connection.run(`COPY (${query}) TO ${quoteText(temporary)} (FORMAT parquet)`);
      renameSync(temporary, path);
    } catch (error) {
      throw duckFailure(error, undefined);
    } finally {
      connection.closeSync();
    }
  }
}

function asRow(item: unknown): Record<string, unknown> {
  const isRow =
    typeof item === "object" &&
    item !== null &&
    !Array.isArray(item) &&
    !(item instanceof Date) &&
    !(item instanceof Map) &&
    !ArrayBuffer.isView(item);
  return isRow ? (item as Record<string, unknown>) : { item };
}

function inferFields(rows: readonly Record<string, unknown>[]): Field[] {
  const names = new Set(rows.flatMap((row) => Object.keys(row)));
  return [...names].map((name) => ({
    name,
    type: inferType(
      rows.map((row) => row[name]),
      name,
    ),
  }));
}

/** The narrowest SQL type that holds all values; texts where there are none. */
function inferType(values: readonly unknown[], name: string): string {
  const given = values.filter((value) => value !== null && value !== undefined);
  const [first] = given;
  const all = (test: (value: unknown) => boolean) => given.every(test);
  if (first === undefined) return "VARCHAR";
  if (all((value) => typeof value === "string")) return "VARCHAR";
  if (all((value) => typeof value === "boolean")) return "BOOLEAN";
  if (all((value) => typeof value === "number")) {
    return all((value) => value === ((value as number) | 0)) ? "INTEGER" : "DOUBLE";
  }
  if (all((value) => typeof value === "bigint")) {
    return all((value) => BigInt.asIntN(64, value as bigint) === value) ? "BIGINT" : "HUGEINT";
  }
  if (all((value) => value instanceof Date)) return "TIMESTAMP";
  if (all((value) => value instanceof Uint8Array)) return "BLOB";
  if (all(Array.isArray)) return `${inferType((given as unknown[][]).flat(), name)}[]`;
  if (all((value) => value instanceof Map)) {
    const entries = (given as Map<unknown, unknown>[]).flatMap((map) => [...map]);
    const key = inferType(
      entries.map(([k]) => k),
      name,
    );
    return `MAP(${key}, ${inferType(
      entries.map(([, v]) => v),
      name,
    )})`;
  }
  if (all((value) => asRow(value) === value)) {
    const members = inferFields(given as Record<string, unknown>[]);
    return `STRUCT(${members.map((member) => `${quoteName(member.name)} ${member.type}`).join(", ")})`;
  }
  throw pondError(
    "schema-mismatch",
    `Column ${name} holds values of different types; give a schema.`,
  );
}
