/**
 * @file Lineage of columns: which columns of which files each output column is computed from. Exact
 * for select lists; where a query is more than that (nested, set operations), a column is taken to
 * come from every input column the query names.
 */
import type { Duck } from "./duck.ts";
import type { Node } from "./plan.ts";
import { namesIn, type Tree, treeOf } from "./query-columns.ts";
import type { Resolver } from "./resolve.ts";

type Origins = Map<string, Set<string>>;

/** For each column of `node`, in order, the sorted `file.column`s it comes from. */
export async function lineageOf(
  node: Node,
  resolver: Resolver,
  duck: Duck,
): Promise<Record<string, string[]>> {
  const origins = await new Lineage(resolver, duck).of(node);
  return Object.fromEntries([...origins].map(([name, from]) => [name, [...from].sort()]));
}

class Lineage {
  private readonly resolver: Resolver;
  private readonly duck: Duck;
  private readonly known = new Map<Node, Origins>();

  constructor(resolver: Resolver, duck: Duck) {
    this.resolver = resolver;
    this.duck = duck;
  }

  async of(node: Node): Promise<Origins> {
    const known = this.known.get(node);
    if (known) return known;
    const found = await this.find(node);
    this.known.set(node, found);
    return found;
  }

  private async find(node: Node): Promise<Origins> {
    const { fields, files } = this.resolver.factsOf(node);
    if (node.op === "source") {
      const file = files.length === 1 ? files[0].path : node.paths.join(",");
      return new Map(fields.map(({ name }) => [name, new Set([`${file}:${name}`])]));
    }
    const inputs: Origins[] = [];
    for (const input of node.inputs) inputs.push(await this.of(input));
    if (node.op === "exchange" || node.op === "limit" || node.op === "filter") return inputs[0];
    if (node.op === "union") {
      return new Map(fields.map(({ name }) => [name, merged(inputs.map((one) => one.get(name)))]));
    }
    if (node.op === "function") {
      if (node.mode === "filter") return inputs[0];
      const reads = node.reads ?? [...inputs[0].keys()];
      const all = merged(reads.map((name) => inputs[0].get(name)));
      return new Map(fields.map(({ name }) => [name, all]));
    }
    const tree = await treeOf(node, this.duck);
    return queryOrigins(
      tree,
      fields.map(({ name }) => name),
      inputs,
    );
  }
}

function merged(sets: readonly (Set<string> | undefined)[]): Set<string> {
  return new Set(sets.flatMap((set) => [...(set ?? [])]));
}

function originsOf(names: Iterable<string>, inputs: readonly Origins[]): Set<string> {
  return merged([...names].flatMap((name) => inputs.map((input) => input.get(name))));
}

function queryOrigins(
  tree: Tree | undefined,
  names: readonly string[],
  inputs: readonly Origins[],
): Origins {
  const select = tree as
    | { type?: string; select_list?: Tree[]; from_table?: { type?: string } }
    | undefined;
  const flat = select?.type === "SELECT_NODE" && isFlat(select.from_table as Tree);
  const found: Origins = new Map();
  if (flat) {
    for (const item of select?.select_list ?? []) {
      const { alias, column_names: columns } = item as { alias?: string; column_names?: string[] };
      const named = namesIn(item);
      const name = alias || columns?.at(-1);
      if (!named.whole && name) found.set(name, originsOf(named.columns, inputs));
    }
  }
  const everything = tree === undefined ? undefined : namesIn(tree);
  for (const name of names) {
    if (found.has(name)) continue;
    const passed = flat && inputs.some((input) => input.has(name));
    const all =
      everything && !everything.whole
        ? everything.columns
        : inputs.flatMap((one) => [...one.keys()]);
    found.set(name, passed ? originsOf([name], inputs) : originsOf(all, inputs));
  }
  return new Map(names.map((name) => [name, found.get(name) ?? new Set<string>()]));
}

/** Whether a FROM clause holds only tables and joins of them. */
function isFlat(from: Tree): boolean {
  const table = from as { type?: string; left?: Tree; right?: Tree } | null;
  if (table?.type === "BASE_TABLE" || table?.type === "EMPTY") return true;
  return table?.type === "JOIN" && isFlat(table.left as Tree) && isFlat(table.right as Tree);
}
