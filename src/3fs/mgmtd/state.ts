/**
 * @file What the primary knows: the records in `kv` that survive it, and beside them what only the
 * living say (who was heard when, local states, bytes used), which a new primary hears anew.
 */
import type { Clock } from "../../base/index.ts";
import { type KvStore, type Transaction, transact } from "../../kv/index.ts";
import { RecordFamily } from "../json-records.ts";
import type {
  ChainId,
  ChainInfo,
  ChainTable,
  NodeId,
  NodeInfo,
  NodeKind,
  RoutingInfo,
  TargetId,
  TargetInfo,
} from "../types.ts";
import type { ChainMember } from "./chain-states.ts";
import type { ClientSession, Config, Heartbeat, TargetReport } from "./types.ts";

/** Which node a target belongs to. */
export interface TargetHome {
  readonly targetId: TargetId;
  readonly nodeId: NodeId;
}

const families = {
  version: new RecordFamily<number>("mgmtd-version"),
  nodes: new RecordFamily<NodeInfo>("mgmtd-node"),
  homes: new RecordFamily<TargetHome>("mgmtd-target"),
  chains: new RecordFamily<ChainInfo>("mgmtd-chain"),
  tables: new RecordFamily<ChainTable>("mgmtd-table"),
  configs: new RecordFamily<Config>("mgmtd-config"),
  sessions: new RecordFamily<ClientSession>("mgmtd-session"),
};

/** Records to write together. Undefined values remove. */
export interface Changes {
  readonly nodes?: ReadonlyMap<NodeId, NodeInfo | undefined>;
  readonly homes?: ReadonlyMap<TargetId, TargetHome | undefined>;
  readonly chains?: ReadonlyMap<ChainId, ChainInfo>;
  readonly tables?: readonly ChainTable[];
  readonly configs?: readonly Config[];
  readonly sessions?: ReadonlyMap<string, ClientSession | undefined>;
}

interface Life {
  seenMs: number;
  generation: number;
  sequence: number;
}

/** The primary's knowledge in one term. */
export class ManagementState {
  readonly term: number;
  readonly nodes: Map<NodeId, NodeInfo> = new Map();
  readonly homes: Map<TargetId, TargetHome> = new Map();
  readonly chains: Map<ChainId, ChainInfo> = new Map();
  readonly tables: ChainTable[] = [];
  readonly configs: Map<NodeKind, Config> = new Map();
  readonly sessions: Map<string, ClientSession> = new Map();
  /** When each client was last heard. */
  readonly sessionSeenMs: Map<string, number> = new Map();
  /** What nodes said of their targets in this term. */
  readonly reports: Map<TargetId, TargetReport & TargetHome> = new Map();
  /** The nodes heard in this term. */
  readonly lives: Map<NodeId, Life> = new Map();
  /** The chain of each target that has one. */
  readonly chainOf: Map<TargetId, ChainId> = new Map();
  /** When the term began. */
  readonly loadedMs: number;
  version = 0;

  constructor(term: number, loadedMs: number) {
    this.term = term;
    this.loadedMs = loadedMs;
  }

  /** Reads the records. */
  async load(store: KvStore, clock: Clock): Promise<void> {
    const read = async (transaction: Transaction): Promise<[number, Changes]> => [
      (await families.version.peek(transaction)) ?? 0,
      {
        nodes: byId(await families.nodes.list(transaction), ({ nodeId }) => nodeId),
        homes: byId(await families.homes.list(transaction), ({ targetId }) => targetId),
        chains: byId(await families.chains.list(transaction), ({ chainId }) => chainId),
        tables: await families.tables.list(transaction),
        configs: await families.configs.list(transaction),
        sessions: byId(await families.sessions.list(transaction), ({ clientId }) => clientId),
      },
    ];
    const [version, records] = await transact(store, read, { clock });
    this.version = version;
    this.apply(records);
    for (const clientId of this.sessions.keys()) this.sessionSeenMs.set(clientId, this.loadedMs);
  }

  /** Puts changes into a transaction. */
  write(transaction: Transaction, changes: Changes): void {
    const { nodes, homes, chains, tables, configs, sessions } = changes;
    put(transaction, families.nodes, nodes);
    put(transaction, families.homes, homes);
    put(transaction, families.chains, chains);
    put(transaction, families.sessions, sessions);
    for (const table of tables ?? []) {
      families.tables.set(transaction, table, table.tableId, table.version);
    }
    for (const config of configs ?? []) families.configs.set(transaction, config, config.kind);
    if (isRouted(changes)) families.version.set(transaction, this.version + 1);
  }

  /** Takes changes that were written. */
  commit(changes: Changes): void {
    if (isRouted(changes)) this.version++;
    this.apply(changes);
  }

  /** The routing as it is now. */
  routing(): RoutingInfo {
    return {
      version: this.version,
      nodes: [...this.nodes.values()],
      targets: [...this.homes.values()].map((home) => this.targetInfo(home)),
      chains: [...this.chains.values()],
      chainTables: [...this.tables],
    };
  }

  /** A target as routing shows it. */
  targetInfo({ targetId, nodeId }: TargetHome): TargetInfo {
    const report = this.reports.get(targetId);
    const chainId = this.chainOf.get(targetId);
    const chain = chainId === undefined ? undefined : this.chains.get(chainId);
    const state = chain?.targets.find((target) => target.targetId === targetId)?.state;
    const isLost = this.nodes.get(nodeId)?.status !== "active";
    return {
      targetId,
      nodeId,
      diskIndex: report?.diskIndex ?? 0,
      ...(chainId === undefined ? {} : { chainId }),
      publicState: state ?? "offline",
      localState: isLost ? "offline" : (report?.localState ?? "offline"),
      usedBytes: report?.usedBytes ?? 0,
      freeBytes: report?.freeBytes ?? 0,
    };
  }

  /**
   * The members of a chain with what is known of them; undefined as long as somebody may yet be heard
   * for the first time in this term.
   */
  members(chain: ChainInfo, nowMs: number, failAfterMs: number): ChainMember[] | undefined {
    const members: ChainMember[] = [];
    for (const target of chain.targets) {
      const home = this.homes.get(target.targetId);
      const report = this.reports.get(target.targetId);
      const isAlive = home && this.nodes.get(home.nodeId)?.status === "active";
      if (isAlive && !report) {
        if (nowMs - this.loadedMs < failAfterMs) return undefined;
        members.push({ ...target, local: "offline" });
      } else if (!isAlive || !report) members.push({ ...target, local: "offline" });
      else {
        const { localState, chainVersion } = report;
        // What it says of an earlier version of the chain does not make it complete for this one.
        const isStale = target.state === "syncing" && chainVersion !== chain.version;
        const local = localState === "uptodate" && isStale ? "online" : localState;
        members.push({ ...target, local });
      }
    }
    return members;
  }

  /** Notes a heartbeat; false where a later one was heard before. */
  hear({ nodeId, generation, sequence, targets }: Heartbeat, nowMs: number): boolean {
    const life = this.lives.get(nodeId);
    const isLate =
      life &&
      (generation < life.generation ||
        (generation === life.generation && sequence <= life.sequence));
    if (isLate) return false;
    this.lives.set(nodeId, { seenMs: nowMs, generation, sequence });
    // A target that is no longer named is no longer there.
    for (const [targetId, report] of this.reports) {
      if (report.nodeId === nodeId)
        this.reports.set(targetId, { ...report, localState: "offline" });
    }
    for (const report of targets) this.reports.set(report.targetId, { ...report, nodeId });
    return true;
  }

  private apply(changes: Changes): void {
    merge(this.nodes, changes.nodes);
    merge(this.homes, changes.homes);
    merge(this.chains, changes.chains);
    merge(this.sessions, changes.sessions);
    this.tables.push(...(changes.tables ?? []));
    for (const config of changes.configs ?? []) this.configs.set(config.kind, config);
    if (!changes.chains) return;
    this.chainOf.clear();
    for (const { chainId, targets } of this.chains.values()) {
      for (const { targetId } of targets) this.chainOf.set(targetId, chainId);
    }
  }
}

function isRouted({ nodes, homes, chains, tables }: Changes): boolean {
  return [nodes, homes, chains].some((map) => map && map.size > 0) || (tables?.length ?? 0) > 0;
}

function byId<Id, T>(records: readonly T[], idOf: (record: T) => Id): Map<Id, T> {
  return new Map(records.map((record) => [idOf(record), record]));
}

function put<Id extends number | string, T>(
  transaction: Transaction,
  family: RecordFamily<T>,
  changes: ReadonlyMap<Id, T | undefined> = new Map(),
): void {
  for (const [id, record] of changes) {
    if (record === undefined) family.clear(transaction, id);
    else family.set(transaction, record, id);
  }
}

function merge<Id, T>(
  held: Map<Id, T>,
  changes: ReadonlyMap<Id, T | undefined> = new Map<Id, T>(),
): void {
  for (const [id, record] of changes) {
    if (record === undefined) held.delete(id);
    else held.set(id, record);
  }
}
