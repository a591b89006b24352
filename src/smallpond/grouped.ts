/**
 * @file Groups of rows and what is made of them. Aggregates given by name (`sum("price")`) are computed
 * in each partition first, so that only one row a group and partition changes partitions; those
 * given as SQL are computed where the group's rows have come together.
 */
import { DataFrame } from "./data-frame.ts";
import { quoteName } from "./duck.ts";
import type { Node } from "./plan.ts";
import type { Pond } from "./pond.ts";
import { callSite, type Sql, sql, toSql } from "./sql.ts";
import type { Row } from "./types.ts";

/** An aggregate that can be computed in two steps. */
export interface Aggregate {
  readonly partial: readonly string[];
  /** Over columns `$0`, `$1`: the partial results. */
  readonly final: string;
}

const one = (partial: string, final: string): Aggregate => ({ partial: [partial], final });

/** Aggregates by name, of a column. NULL is passed over. */
export const aggregates: {
  readonly sum: (column: string) => Aggregate;
  readonly min: (column: string) => Aggregate;
  readonly max: (column: string) => Aggregate;
  readonly avg: (column: string) => Aggregate;
  readonly count: (column?: string) => Aggregate;
} = {
  sum: (column) => one(`sum(${quoteName(column)})`, "sum($0)"),
  min: (column) => one(`min(${quoteName(column)})`, "min($0)"),
  max: (column) => one(`max(${quoteName(column)})`, "max($0)"),
  avg: (column) => ({
    partial: [`sum(${quoteName(column)})::DOUBLE`, `count(${quoteName(column)})`],
    final: "sum($0) / nullif(sum($1), 0)",
  }),
  count: (column) =>
    one(`count(${column ? quoteName(column) : "*"})`, "coalesce(sum($0), 0)::BIGINT"),
};

/** Rows by equal keys. */
export class Grouped {
  private readonly pond: Pond;
  private readonly node: Node;
  private readonly keys: readonly string[];

  constructor(pond: Pond, node: Node, keys: readonly string[]) {
    this.pond = pond;
    this.node = node;
    this.keys = keys;
  }

  /** One row a group: its keys, and a column for each aggregate: `agg({ total: aggregates.sum("price") })`. */
  agg<R = Row>(made: Readonly<Record<string, Aggregate | Sql>>): DataFrame<R> {
    const entries = Object.entries(made);
    const staged = entries.every(([, one]) => "partial" in one);
    const where = callSite();
    const names = this.keys.map(quoteName);
    const group = names.length > 0 ? `GROUP BY ${names.join(", ")}` : "";
    const keeps = this.keys;
    if (!staged) {
      const wholes = entries.map(([name, one]) => {
        const piece = "texts" in one ? one : toSql(wholeOf(one));
        return sql`${piece} AS ${toSql(quoteName(name))}`;
      });
      const query = listQuery(names, wholes, group);
      return this.frame({
        op: "query",
        name: "group",
        query,
        inputs: [this.dealt(this.node)],
        keeps,
        where,
      });
    }
    const columns = entries.flatMap(([, one], a) =>
      (one as Aggregate).partial.map((partial, i) => toSql(`${partial} AS __${a}_${i}`)),
    );
    const partial: Node = {
      op: "query",
      name: "group each",
      query: listQuery(names, columns, group),
      inputs: [this.node],
      keeps,
      where,
    };
    const finals = entries.map(([name, one], a) => {
      const final = (one as Aggregate).final.replace(/\$(\d)/g, (_, i) => `__${a}_${i}`);
      return toSql(`${final} AS ${quoteName(name)}`);
    });
    const query = listQuery(names, finals, group);
    return this.frame({
      op: "query",
      name: "group",
      query,
      inputs: [this.dealt(partial)],
      keeps,
      where,
    });
  }

  private frame<R>(node: Node): DataFrame<R> {
    return new DataFrame<R>(this.pond, node);
  }

  /** Groups lie whole in one partition; without keys all rows do. */
  private dealt(node: Node): Node {
    const keys = this.keys.map((column) => ({ column, descending: false, nullsFirst: false }));
    const by = keys.length > 0 ? "hash" : "files";
    const n = keys.length > 0 ? undefined : 1;
    const base = { targetBytes: undefined, seed: 0, cluster: true, where: undefined } as const;
    return { op: "exchange", by, keys, n, ...base, inputs: [node] };
  }
}

function wholeOf({ partial, final }: Aggregate): string {
  if (partial.length === 1) return partial[0];
  return final.replace(/sum\(\$(\d)\)/g, (_, i) => partial[Number(i)]);
}

function listQuery(names: readonly string[], columns: readonly Sql[], group: string): Sql {
  const all = [...names.map(toSql), ...columns];
  const joined = all.reduce((text, piece) => sql`${text}, ${piece}`);
  return sql`SELECT ${joined} FROM {0} ${toSql(group)}`;
}
