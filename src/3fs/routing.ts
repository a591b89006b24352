/** @file Look-ups in routing: who serves a chain, where a target lives, which chain holds a chunk. */
import { assert } from "../base/index.ts";
import { fsError } from "./errors.ts";
import type {
  ChainId,
  ChainInfo,
  ChainTable,
  ChainTarget,
  FileLayout,
  NodeId,
  NodeInfo,
  RoutingInfo,
  TargetId,
  TargetInfo,
} from "./types.ts";

/** The chain that holds chunk `index` of a file with `layout`, in the table that the layout names. */
export function chainOfChunk(layout: FileLayout, table: ChainTable, index: number): ChainId {
  assert(index >= 0, () => `index of a chunk: got ${index}, wanted 0 or more`);
  const { chainIds } = table;
  return chainIds[(layout.seed + (index % layout.stripe)) % chainIds.length];
}

/** Whether a target in `chain`'s `state` takes writes: it serves, or is being filled. */
export function takesWrites({ state }: ChainTarget): boolean {
  return state === "serving" || state === "syncing";
}

/** One version of routing, indexed. Every look-up of what is not there is a typed refusal. */
export class Routing {
  /** What is indexed. */
  readonly info: RoutingInfo;
  private readonly nodes: ReadonlyMap<NodeId, NodeInfo>;
  private readonly targets: ReadonlyMap<TargetId, TargetInfo>;
  private readonly chains: ReadonlyMap<ChainId, ChainInfo>;
  private readonly tables: ReadonlyMap<string, ChainTable>;

  constructor(info: RoutingInfo) {
    this.info = info;
    this.nodes = new Map(info.nodes.map((node) => [node.nodeId, node]));
    this.targets = new Map(info.targets.map((target) => [target.targetId, target]));
    this.chains = new Map(info.chains.map((chain) => [chain.chainId, chain]));
    this.tables = new Map(
      info.chainTables.map((table) => [`${table.tableId}@${table.version}`, table]),
    );
  }

  /** The node; throws `mgmtd-unknown`. */
  node(nodeId: NodeId): NodeInfo {
    return this.nodes.get(nodeId) ?? this.unknown(`node ${nodeId}`);
  }

  /** The target; throws `mgmtd-unknown`. */
  target(targetId: TargetId): TargetInfo {
    return this.targets.get(targetId) ?? this.unknown(`target ${targetId}`);
  }

  /** The chain; throws `mgmtd-unknown`. */
  chain(chainId: ChainId): ChainInfo {
    return this.chains.get(chainId) ?? this.unknown(`chain ${chainId}`);
  }

  /** The table in that version; throws `mgmtd-unknown`. */
  chainTable(tableId: number, version: number): ChainTable {
    const name = `${tableId}@${version}`;
    return this.tables.get(name) ?? this.unknown(`chain table ${name}`);
  }

  /** The newest version of a table; throws `mgmtd-unknown`. */
  newestTable(tableId: number): ChainTable {
    const versions = this.info.chainTables.filter((table) => table.tableId === tableId);
    const newest = versions.toSorted((x, y) => y.version - x.version)[0];
    return newest ?? this.unknown(`chain table ${tableId}`);
  }

  /** The chain of a file's chunk. */
  chainOf(layout: FileLayout, index: number): ChainInfo {
    const table = this.chainTable(layout.tableId, layout.tableVersion);
    return this.chain(chainOfChunk(layout, table, index));
  }

  /** The targets of a chain that writes pass, head first: those that serve, then the one being filled. */
  writers(chainId: ChainId): readonly ChainTarget[] {
    return this.chain(chainId).targets.filter(takesWrites);
  }

  /** The targets of a chain that answer reads. */
  readers(chainId: ChainId): readonly ChainTarget[] {
    return this.chain(chainId).targets.filter(({ state }) => state === "serving");
  }

  private unknown(what: string): never {
    const advice = "refresh the routing, or check the id";
    throw fsError("mgmtd-unknown", `${what} is not in routing ${this.info.version}: ${advice}.`);
  }
}
