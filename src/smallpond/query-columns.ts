/** @file Which columns a query names, from the syntax tree that DuckDB itself makes of it. */
import { type Duck, quoteText, rowsOf } from "./duck.ts";
import { type Node, renderAlone } from "./plan.ts";

type Tree = { readonly [key: string]: Tree } | readonly Tree[] | string | number | boolean | null;

/** The syntax tree of an operation that is SQL, over inputs `input_0`, ...; undefined where DuckDB gives none. */
export async function treeOf(
  node: Extract<Node, { op: "query" | "filter" | "project" | "limit" }>,
  duck: Duck,
): Promise<Tree | undefined> {
  const { text } = renderAlone(
    node,
    node.inputs.map((_, i) => `input_${i}`),
  );
  const sql = `SELECT json_serialize_sql(${quoteText(text)})::VARCHAR`;
  try {
    const [[json]] = await rowsOf(duck.connection, sql);
    const tree = JSON.parse(String(json)) as { error: boolean; statements?: { node: Tree }[] };
    return tree.error ? undefined : tree.statements?.[0].node;
  } catch {
    // What can't be serialised is valid SQL all the same: nothing is known about its columns.
    return undefined;
  }
}

/** What a tree names: columns (last part of their names), and whether it names a table whole or `*`. */
export interface Named {
  readonly columns: Set<string>;
  whole: boolean;
}

/** Collects the names in a tree. `tables`: names that stand for a whole row. */
export function namesIn(tree: Tree, found: Named = { columns: new Set(), whole: false }): Named {
  if (typeof tree !== "object" || tree === null) return found;
  if (Array.isArray(tree)) {
    for (const item of tree) namesIn(item, found);
    return found;
  }
  const node = tree as { readonly [key: string]: Tree };
  if (node.class === "STAR") found.whole = true;
  if (node.class === "COLUMN_REF")
    for (const name of node.column_names as string[]) found.columns.add(name);
  if (Array.isArray(node.using_columns))
    for (const name of node.using_columns) found.columns.add(String(name));
  for (const value of Object.values(node)) namesIn(value, found);
  return found;
}

/** Members of a tree, for readers of its shape. */
export type { Tree };
