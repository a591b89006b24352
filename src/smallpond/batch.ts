/** @file A batch of rows as a reader gets it: typed columns, with rows and Arrow made when asked for. */
import type { RecordBatch } from "apache-arrow";
import type { Column } from "./column.ts";
import type { Field } from "./duck.ts";
import { getterOf } from "./values.ts";

/** Some rows of a data frame, by column. */
export class Batch<T = Record<string, unknown>> {
  /** Names and SQL types, in order. */
  readonly fields: readonly Field[];
  /** Typed columns, in the same order. */
  readonly columns: readonly Column[];
  readonly numRows: number;

  constructor(fields: readonly Field[], columns: readonly Column[]) {
    this.fields = fields;
    this.columns = columns;
    this.numRows = columns[0]?.length ?? 0;
  }

  /** The column of that name, or undefined. */
  column(name: string): Column | undefined {
    return this.columns[this.fields.findIndex((field) => field.name === name)];
  }

  /** The rows as objects. */
  *rows(): Generator<T> {
    const getters = this.columns.map(getterOf);
    for (let i = 0; i < this.numRows; i++) {
      const row: Record<string, unknown> = {};
      this.fields.forEach(({ name }, c) => {
        row[name] = getters[c](i);
      });
      yield row as T;
    }
  }

  /** The batch as an Arrow batch that shares its memory. */
  async toArrow(): Promise<RecordBatch> {
    const { toRecordBatch } = await import("./arrow.ts");
    return toRecordBatch(
      this.fields.map(({ name }) => name),
      this.columns,
    );
  }
}
