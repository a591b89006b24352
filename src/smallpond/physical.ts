/**
 * @file From the logical plan to stages. Neighbouring operations become one chain; a stage ends only
 * where rows must change partitions. An exchange disappears where rows already lie right, where one
 * partition holds all, or where files or ranges of rows can be dealt without touching them; a small
 * side of a join is given whole to every partition of the other.
 */
import type { Duck, Field } from "./duck.ts";
import { quoteName } from "./duck.ts";
import {
  type ExchangeNode,
  type LimitNode,
  type Node,
  nameOf,
  type QueryNode,
  renderNode,
  type SortKey,
} from "./plan.ts";
import { hashOf, parquetRows, type Resolver } from "./resolve.ts";
import { Parameters } from "./sql.ts";
import {
  type FilePart,
  type ReadMode,
  rowRanges,
  type ScatterSpec,
  type Stage,
  type StageInput,
  share,
  sortKeyOf,
} from "./stage.ts";
import type { Definition } from "./task.ts";

/** What the planner may decide by. */
export interface PlannerOptions {
  readonly duck: Duck;
  readonly resolver: Resolver;
  /** Folder of intermediate files. */
  readonly folder: string;
  /** A side of a join up to this size is given whole to every partition of the other. */
  readonly broadcastBytes: number;
}

/** A chain that has not yet become a stage. */
interface Chain {
  readonly inputs: readonly StageInput[];
  readonly definitions: readonly Definition[];
  readonly output: string;
  readonly fields: readonly Field[];
  readonly partitions: number;
  /** The columns by whose hash rows are dealt, where they are. */
  readonly hashedBy: readonly string[] | undefined;
  /** What the chain computes, whatever its names. */
  readonly identity: string;
  readonly labels: readonly string[];
}

/** Format and options of the last stage's files. */
export interface SinkSpec {
  readonly format: "parquet" | "csv" | "json";
  readonly copyOptions: string;
  readonly folder: string;
}

/** Intermediate files: no compression, since they are read once, soon, from the page cache. */
const ownCopyOptions = "FORMAT parquet, COMPRESSION uncompressed";

/** Makes the stages of one plan. */
export class Planner {
  private readonly options: PlannerOptions;
  private readonly parameters = new Parameters();
  private readonly chains = new Map<Node, Chain>();
  private readonly uses = new Map<Node, number>();
  private readonly stages = new Map<string, Stage>();
  private names = 0;

  constructor(options: PlannerOptions) {
    this.options = options;
  }

  /** The last stage of `node`'s plan; the others are reached through its inputs. */
  async plan(node: Node, sink?: SinkSpec): Promise<Stage> {
    this.countUses(node);
    return this.stageOf(await this.chainOf(node), undefined, sink);
  }

  private countUses(node: Node): void {
    const uses = this.uses.get(node) ?? 0;
    this.uses.set(node, uses + 1);
    if (uses === 0) for (const input of node.inputs) this.countUses(input);
  }

  private async chainOf(node: Node): Promise<Chain> {
    const known = this.chains.get(node);
    if (known) return known;
    await this.options.resolver.facts(node);
    let chain = await this.makeChain(node);
    // What several operations use is computed once, so that random() gives all the same.
    if ((this.uses.get(node) ?? 0) > 1 && node.op !== "source" && chain.definitions.length > 0) {
      chain = this.reading(this.stageOf(chain), "same", chain.partitions, chain.hashedBy);
    }
    this.chains.set(node, chain);
    return chain;
  }

  private async makeChain(node: Node): Promise<Chain> {
    const { key, fields } = this.options.resolver.factsOf(node);
    switch (node.op) {
      case "source": {
        const { files } = this.options.resolver.factsOf(node);
        return this.readingFiles(node, [files.map(({ path }) => ({ path }))]);
      }
      case "exchange":
        return await this.exchange(node, node.n);
      case "limit":
        return await this.limit(node);
      case "union":
        return await this.union(node);
      case "query": {
        const inputs = await this.queryInputs(node);
        return this.extend(node, key, fields, inputs);
      }
      default:
        return this.extend(node, key, fields, [await this.chainOf(node.inputs[0])]);
    }
  }

  /** `inputs` and one more definition, all in one chain. */
  private extend(
    node: Exclude<Node, { op: "source" | "exchange" | "union" }>,
    key: string,
    fields: readonly Field[],
    given: readonly Chain[],
  ): Chain {
    const partitions = Math.max(1, ...given.map((chain) => chain.partitions));
    const inputs = given.map((chain) =>
      chain.partitions === partitions ? chain : this.whole(chain, partitions),
    );
    const name = this.newName();
    const definition = this.definition(node, name, inputs, fields);
    const [first] = inputs;
    return {
      inputs: unique(inputs.flatMap((chain) => chain.inputs)),
      definitions: unique([...inputs.flatMap((chain) => chain.definitions), definition]),
      output: name,
      fields,
      partitions,
      hashedBy: first && keptPartitioning(node, first.hashedBy),
      identity: hashOf(JSON.stringify([key, inputs.map(({ identity }) => identity)])),
      labels: [...inputs.flatMap(({ labels }) => labels), nameOf(node)],
    };
  }

  private definition(
    node: Exclude<Node, { op: "source" | "exchange" | "union" }>,
    name: string,
    inputs: readonly Chain[],
    fields: readonly Field[],
  ): Definition {
    const where = node.where === undefined ? {} : { where: node.where };
    if (node.op !== "function") {
      const quoted = inputs.map(({ output }) => quoteName(output));
      return { kind: "query", name, sql: renderNode(node, quoted, this.parameters), ...where };
    }
    const [{ output, fields: all }] = inputs;
    const reads = node.mode === "filter" ? undefined : node.reads;
    return {
      kind: "function",
      name,
      input: output,
      mode: node.mode,
      function: node.function,
      reads: reads ? all.filter((field) => reads.includes(field.name)) : all,
      fields,
      batchRows: node.batchRows,
      ...where,
    };
  }

  /** The inputs of a query, each dealt as it needs. A join's small side is not dealt at all. */
  private async queryInputs(node: QueryNode): Promise<Chain[]> {
    const exchanges = node.inputs.filter(
      (input) => input.op === "exchange" && input.n === undefined,
    );
    if (node.inputs.length < 2 || exchanges.length < node.inputs.length || !node.broadcastable) {
      const chains: Chain[] = [];
      for (const input of node.inputs) chains.push(await this.chainOf(input));
      return chains;
    }
    const sides: Chain[] = [];
    for (const { inputs } of exchanges)
      sides.push(await this.chainOf((inputs as readonly [Node])[0]));
    const partitions = Math.max(...sides.map((side) => side.partitions));
    if (partitions === 1) return sides;
    const small = sides.findIndex((side, i) => {
      const bytes = this.options.resolver.factsOf(exchanges[i].inputs[0] as Node).bytesGuess;
      const others = sides.every((other, j) => i === j || other.partitions === partitions);
      const fits = bytes <= this.options.broadcastBytes || (side.partitions === 1 && bytes === 0);
      return node.broadcastable?.[i] && fits && others;
    });
    if (small >= 0) {
      return sides.map((side, i) => (i === small ? this.whole(side, partitions) : side));
    }
    const dealt: Chain[] = [];
    for (const exchange of exchanges)
      dealt.push(await this.exchange(exchange as ExchangeNode, partitions));
    return dealt;
  }

  /** All rows of a chain, for each of `partitions` partitions. */
  private whole(chain: Chain, partitions: number): Chain {
    const [input] = chain.inputs;
    const bare = chain.definitions.length === 0 && chain.inputs.length === 1;
    if (bare && input.kind === "files") {
      const parts = [input.parts.flat()];
      return { ...chain, inputs: [{ ...input, parts }], partitions, hashedBy: undefined };
    }
    return this.reading(this.stageOf(chain), "all", partitions, undefined);
  }

  private async limit(node: LimitNode): Promise<Chain> {
    const { key, fields } = this.options.resolver.factsOf(node);
    const chain = await this.chainOf(node.inputs[0]);
    const each = this.extend(node, key, fields, [chain]);
    if (chain.partitions === 1) return each;
    return this.extend(node, `${key}+`, fields, [this.whole(each, 1)]);
  }

  private async union(node: Extract<Node, { op: "union" }>): Promise<Chain> {
    const { fields } = this.options.resolver.factsOf(node);
    const stages: Stage[] = [];
    for (const input of node.inputs) stages.push(this.stageOf(await this.chainOf(input)));
    const name = this.newName();
    return {
      inputs: [{ kind: "union", name, fields, stages }],
      definitions: [],
      output: name,
      fields,
      partitions: stages.reduce((sum, stage) => sum + stage.partitions, 0),
      hashedBy: undefined,
      identity: hashOf(JSON.stringify(["union", stages.map((stage) => stage.key)])),
      labels: ["union"],
    };
  }

  private async exchange(node: ExchangeNode, given: number | undefined): Promise<Chain> {
    const [input] = node.inputs;
    const chain = await this.chainOf(input);
    const parts = given ?? this.partsOf(node, chain);
    const sortKeys = node.keys.length > 0 || node.by !== "hash" ? node.keys : allKeys(chain.fields);
    const keys = sortKeys.map(({ column }) => column);
    if (parts === 1 && chain.partitions === 1) return chain;
    if (node.by === "hash" && chain.hashedBy) {
      const enough = node.cluster
        ? chain.hashedBy.every((column) => keys.includes(column))
        : JSON.stringify(chain.hashedBy) === JSON.stringify(keys) && chain.partitions === parts;
      if (enough) return chain;
    }
    if (parts === 1) return this.whole(chain, 1);
    if (node.by === "files" || node.by === "rows")
      return await this.deal(node.by, input, chain, parts);
    const { by, seed } = node;
    const spec: ScatterSpec = { by, keys: sortKeys, parts, seed };
    const hashedBy = by === "hash" ? keys : undefined;
    if (by !== "range") return this.reading(this.stageOf(chain, spec), "part", parts, hashedBy);
    const child = this.stageOf(chain);
    const splitters = this.sampler(child, node, parts);
    const again = this.reading(child, "same", chain.partitions, undefined);
    const scattered = this.stageOf(again, { ...spec, splitters });
    return this.reading(scattered, "part", parts, undefined);
  }

  private partsOf(node: ExchangeNode, chain: Chain): number {
    if (node.targetBytes === undefined) return chain.partitions;
    const { bytesGuess } = this.options.resolver.factsOf(node.inputs[0]);
    return Math.max(1, Math.ceil(bytesGuess / node.targetBytes));
  }

  /** Deals whole files, or ranges of rows, without moving any. */
  private async deal(
    by: "files" | "rows",
    node: Node,
    chain: Chain,
    parts: number,
  ): Promise<Chain> {
    if (node.op !== "source" || (by === "rows" && node.format !== "parquet")) {
      const mode = by === "files" ? "group" : "rows";
      return this.reading(this.stageOf(chain), mode, parts, undefined);
    }
    const paths = this.options.resolver.factsOf(node).files.map(({ path }) => path);
    const rows = by === "rows" ? await parquetRows(this.options.duck, paths) : [];
    const dealt = Array.from({ length: parts }, (_, p): FilePart[] => {
      if (by === "rows") return rowRanges(paths, rows, p, parts);
      const [from, to] = share(paths.length, p, parts);
      return paths.slice(from, to).map((path) => ({ path }));
    });
    return this.readingFiles(node, dealt);
  }

  private sampler(child: Stage, node: ExchangeNode, parts: number): Stage {
    const chain = this.reading(child, "all", 1, undefined);
    const rows = Math.max(20_000, parts * 200);
    const answer =
      `SELECT hex(max(k)) FROM (SELECT k, ntile(${parts}) OVER (ORDER BY k) AS tile FROM ` +
      `(SELECT ${sortKeyOf(node.keys)} AS k FROM ${quoteName(chain.output)} ` +
      `USING SAMPLE reservoir(${rows} ROWS) REPEATABLE (7))) ` +
      `WHERE tile < ${parts} GROUP BY tile ORDER BY 1`;
    const key = hashOf(JSON.stringify(["sample", child.key, answer.replaceAll(chain.output, "")]));
    return this.known({ ...this.bare(chain, ["sample"]), key, answer, output: undefined });
  }

  private readingFiles(node: Extract<Node, { op: "source" }>, parts: readonly FilePart[][]): Chain {
    const { key, fields } = this.options.resolver.factsOf(node);
    const name = this.newName();
    const { format, options } = node;
    return {
      inputs: [{ kind: "files", name, fields, format, options, parts }],
      definitions: [],
      output: name,
      fields,
      partitions: parts.length,
      hashedBy: undefined,
      identity: hashOf(JSON.stringify([key, parts])),
      labels: [nameOf(node)],
    };
  }

  private reading(
    stage: Stage,
    mode: ReadMode,
    partitions: number,
    hashedBy: readonly string[] | undefined,
  ): Chain {
    const name = this.newName();
    const { fields } = stage;
    return {
      inputs: [{ kind: "stage", name, fields, mode, stage }],
      definitions: [],
      output: name,
      fields,
      partitions,
      hashedBy,
      identity: hashOf(JSON.stringify([stage.key, mode, partitions])),
      labels: [],
    };
  }

  /** The stage that computes a chain; a chain that only reads a stage as it is, is that stage. */
  private stageOf(chain: Chain, scatter?: ScatterSpec, sink?: SinkSpec): Stage {
    const [input] = chain.inputs;
    const bare = chain.definitions.length === 0 && chain.inputs.length === 1;
    if (bare && !scatter && !sink && input.kind === "stage" && input.mode === "same") {
      return input.stage;
    }
    const labels = [...chain.labels];
    if (scatter) labels.push(`scatter by ${scatter.by}`);
    if (sink) labels.push(`write ${sink.format}`);
    const { keys, by, parts, seed, splitters } = scatter ?? {};
    const shape = scatter ? [keys, by, parts, seed, splitters?.key] : [];
    const output = sink ? [sink.format, sink.copyOptions, sink.folder] : [];
    const key = hashOf(
      JSON.stringify([chain.identity, chain.partitions, chain.fields, shape, output]),
    );
    const stage = { ...this.bare(chain, labels), key, scatter };
    if (sink) return this.known({ ...stage, ...sink, sink: true });
    const small = scatter && scatter.parts >= 16 ? ", ROW_GROUP_SIZE 16384" : "";
    return this.known({ ...stage, copyOptions: ownCopyOptions + small });
  }

  private bare(chain: Chain, labels: readonly string[]): Stage {
    return {
      key: "",
      label: labels.length > 0 ? labels.join(" → ") : "copy",
      partitions: chain.partitions,
      fields: chain.fields,
      inputs: chain.inputs,
      definitions: chain.definitions,
      parameters: this.parameters.values,
      output: chain.output,
      scatter: undefined,
      answer: undefined,
      format: "parquet",
      sink: false,
      copyOptions: ownCopyOptions,
      folder: this.options.folder,
    };
  }

  /** The same stage once, however often it is made. */
  private known(stage: Stage): Stage {
    const known = this.stages.get(stage.key);
    if (known) return known;
    this.stages.set(stage.key, stage);
    return stage;
  }

  private newName(): string {
    return `d${this.names++}`;
  }
}

/** Rows that are equal as a whole. */
function allKeys(fields: readonly Field[]): SortKey[] {
  return fields.map(({ name }) => ({ column: name, descending: false, nullsFirst: false }));
}

function unique<T extends { name: string }>(items: readonly T[]): T[] {
  return [...new Map(items.map((item) => [item.name, item])).values()];
}

/** The partitioning of an operation's output, given that of its first input. */
function keptPartitioning(
  node: Node,
  hashedBy: readonly string[] | undefined,
): readonly string[] | undefined {
  if (!hashedBy) return undefined;
  if (node.op === "filter" || node.op === "limit") return hashedBy;
  if (node.op === "function") return node.mode === "filter" ? hashedBy : undefined;
  const kept = (column: string): boolean => {
    if (node.op === "query") return node.keeps?.includes(column) ?? false;
    if (node.op !== "project") return false;
    const made = node.columns.find(({ name }) => name === column);
    return made?.expression.texts.length === 1 && made.expression.texts[0] === quoteName(column);
  };
  return hashedBy.every(kept) ? hashedBy : undefined;
}
