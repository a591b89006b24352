/**
 * @file The optimiser on the logical plan: filters move below exchanges, so that fewer rows travel;
 * columns that nothing above needs are dropped below exchanges; an exchange right above another
 * makes the lower one needless. (Within a stage DuckDB optimises the fused query itself, and which
 * exchanges disappear altogether is the planner's to say: see `physical.ts`.)
 */
import { type Duck, quoteName } from "./duck.ts";
import type { ExchangeNode, Node } from "./plan.ts";
import { namesIn, treeOf } from "./query-columns.ts";
import type { Resolver } from "./resolve.ts";
import { toSql } from "./sql.ts";

/** An equal plan that moves less. */
export async function optimize(node: Node, resolver: Resolver, duck: Duck): Promise<Node> {
  const moved = sinkFilters(node, new Map());
  await resolver.facts(moved);
  return await new Pruner(resolver, duck).prune(moved, undefined);
}

/** Filters below exchanges; lower exchanges dropped. Shared operations stay shared. */
function sinkFilters(node: Node, done: Map<Node, Node>): Node {
  const known = done.get(node);
  if (known) return known;
  const inputs = node.inputs.map((input) => sinkFilters(input, done));
  let made = inputs.every((input, i) => input === node.inputs[i])
    ? node
    : ({ ...node, inputs } as Node);
  if (made.op === "filter" && made.inputs[0].op === "exchange" && commutes(made.inputs[0])) {
    const [exchange] = made.inputs as [ExchangeNode];
    const lower = sinkFilters({ ...made, inputs: exchange.inputs }, done);
    made = { ...exchange, inputs: [lower] };
  }
  if (
    made.op === "exchange" &&
    made.inputs[0].op === "exchange" &&
    isNeedless(made.inputs[0], made)
  ) {
    made = { ...made, inputs: made.inputs[0].inputs };
  }
  done.set(node, made);
  return made;
}

/** Whether dropping rows before the exchange leaves the others where they would have been. */
function commutes({ by }: ExchangeNode): boolean {
  return by === "hash" || by === "column" || by === "range";
}

function isNeedless(lower: ExchangeNode, upper: ExchangeNode): boolean {
  // A count of partitions that is taken over from below must stay there.
  if (upper.n === undefined) return false;
  return lower.by !== "shuffle" && lower.by !== "range";
}

class Pruner {
  private readonly resolver: Resolver;
  private readonly duck: Duck;
  /** All columns that anything needs of an operation; undefined for every one. */
  private readonly needed = new Map<Node, Set<string> | undefined>();

  constructor(resolver: Resolver, duck: Duck) {
    this.resolver = resolver;
    this.duck = duck;
  }

  async prune(node: Node, needs: Set<string> | undefined): Promise<Node> {
    for (const one of this.inOrder(node)) {
      if (one === node) this.needed.set(node, needs);
      const wanted = await this.inputNeeds(one, this.needed.get(one));
      one.inputs.forEach((input, i) => {
        this.add(input, wanted[i]);
      });
    }
    return this.rebuild(node, new Map());
  }

  /** Users before what they use. */
  private inOrder(node: Node): Node[] {
    const order: Node[] = [];
    const seen = new Set<Node>();
    const visit = (one: Node): void => {
      if (seen.has(one)) return;
      seen.add(one);
      for (const input of one.inputs) visit(input);
      order.push(one);
    };
    visit(node);
    return order.reverse();
  }

  private add(node: Node, names: ReadonlySet<string> | undefined): void {
    if (!this.needed.has(node)) {
      this.needed.set(node, names && new Set(names));
      return;
    }
    const known = this.needed.get(node);
    if (known === undefined || names === undefined) this.needed.set(node, undefined);
    else for (const name of names) known.add(name);
  }

  /** What `node` needs of each input, if `needs` of its own columns are needed. */
  private async inputNeeds(
    node: Node,
    needs: ReadonlySet<string> | undefined,
  ): Promise<(ReadonlySet<string> | undefined)[]> {
    switch (node.op) {
      case "source":
        return [];
      case "function": {
        if (node.mode === "filter" || !node.reads) return [undefined];
        return [new Set(node.reads)];
      }
      case "exchange":
        return [needs && new Set([...needs, ...node.keys.map(({ column }) => column)])];
      case "limit":
        return [needs];
      case "union":
        return node.inputs.map(() => needs);
      case "filter": {
        const named = await this.named(node);
        return [named && needs ? new Set([...needs, ...named]) : undefined];
      }
      case "query":
        if (node.needs) return node.needs.map((names) => new Set(names));
    }
    const named = await this.named(node);
    return node.inputs.map((input) => {
      const has = this.resolver.factsOf(input).fields.map(({ name }) => name);
      return named && new Set(has.filter((name) => named.has(name)));
    });
  }

  /** The names in an operation's SQL, in the case of the columns; undefined where it may use all. */
  private async named(node: Node): Promise<Set<string> | undefined> {
    if (node.op !== "query" && node.op !== "filter" && node.op !== "project") return undefined;
    const tree = await treeOf(node, this.duck);
    if (tree === undefined) return undefined;
    const found = namesIn(tree);
    // A filter's own SELECT * is not the user's; its predicate is.
    const whole =
      node.op === "filter" ? /\*|columns\s*\(/i.test(node.predicate.texts.join("")) : found.whole;
    if (whole) return undefined;
    const lower = new Set([...found.columns].map((name) => name.toLowerCase()));
    if (node.inputs.some((_, i) => lower.has(`input_${i}`) && node.op !== "query"))
      return undefined;
    const columns = node.inputs.flatMap((input) => this.resolver.factsOf(input).fields);
    return new Set(columns.map(({ name }) => name).filter((name) => lower.has(name.toLowerCase())));
  }

  /** The plan with a projection below each exchange that would carry columns nobody needs. */
  private rebuild(node: Node, done: Map<Node, Node>): Node {
    const known = done.get(node);
    if (known) return known;
    const inputs = node.inputs.map((input) => this.rebuild(input, done));
    let made = inputs.every((input, i) => input === node.inputs[i])
      ? node
      : ({ ...node, inputs } as Node);
    if (made.op === "exchange") {
      const [input] = node.inputs;
      const needs = this.needed.get(input);
      const fields = this.resolver.factsOf(input).fields;
      const kept = fields.filter(({ name }) => needs?.has(name));
      if (needs && kept.length < fields.length) {
        // Rows without columns can't be written; one column stands for them.
        const names = (kept.length > 0 ? kept : fields.slice(0, 1)).map(({ name }) => name);
        const columns = names.map((name) => ({ name, expression: toSql(quoteName(name)) }));
        const lower = made.inputs[0];
        // Sources are dealt by files and rows as they are; only what is written is pruned.
        const isFree = lower.op === "source" && (made.by === "files" || made.by === "rows");
        if (!isFree) {
          made = {
            ...made,
            inputs: [{ op: "project", columns, inputs: [lower], where: undefined }],
          };
        }
      }
    }
    done.set(node, made);
    return made;
  }
}
