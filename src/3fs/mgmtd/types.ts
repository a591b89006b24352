/** @file What `mgmtd` is asked and answers. Plain data, safe to put on a wire. */
import type {
  ChainId,
  ChainInfo,
  ChainTable,
  ChainVersion,
  LocalState,
  NodeId,
  NodeKind,
  RoutingInfo,
  TargetId,
  TargetInfo,
} from "../types.ts";

/** Who leads, as the lease record says. */
export interface Primary {
  readonly nodeId: NodeId;
  /** Where it listens. */
  readonly address: string;
  /** Grows with every change of primary. */
  readonly term: number;
}

/** What a node says of one of its targets. */
export interface TargetReport {
  readonly targetId: TargetId;
  readonly diskIndex: number;
  readonly localState: LocalState;
  /** The version of its chain that it acts on: `uptodate` counts for that version only. */
  readonly chainVersion: ChainVersion;
  readonly usedBytes: number;
  readonly freeBytes: number;
}

/** A sign of life. */
export interface Heartbeat {
  readonly nodeId: NodeId;
  readonly kind: NodeKind;
  readonly addresses: readonly string[];
  /** Grows each time the node's process starts. */
  readonly generation: number;
  /** Grows with every heartbeat of a generation: late ones are refused. */
  readonly sequence: number;
  /** The node's targets; empty for nodes that have none. */
  readonly targets: readonly TargetReport[];
}

/** What a living node hears back. */
export interface HeartbeatReply {
  readonly routingVersion: number;
  /** The version of the configuration of the node's kind; 0 where there is none. */
  readonly configVersion: number;
  /** After that long a silence the node counts as failed. It must stop serving after half of it. */
  readonly failAfterMs: number;
}

/** A configuration: any JSON object, for all nodes of a kind. */
export interface Config {
  readonly kind: NodeKind;
  /** Grows with every change. */
  readonly version: number;
  readonly values: Readonly<Record<string, unknown>>;
}

/** A client that is alive; files that a dead one holds open for writing are closed for it. */
export interface ClientSession {
  /** Unique for ever, such as a UUID. */
  readonly clientId: string;
  readonly description: string;
  /** Wall clock. */
  readonly startedMs: number;
}

/** A chain as it is to be made. */
export interface ChainPlan {
  readonly chainId: ChainId;
  /** Its targets, head first. */
  readonly targets: readonly { readonly targetId: TargetId; readonly nodeId: NodeId }[];
}

/** A move of an administrator on one chain. */
export type ChainMove =
  | { readonly kind: "shut-down" }
  | { readonly kind: "start-up" }
  | { readonly kind: "rotate-lastsrv" }
  | { readonly kind: "rotate-preferred" }
  | { readonly kind: "set-preferred"; readonly order: readonly TargetId[] }
  | { readonly kind: "add-target"; readonly targetId: TargetId; readonly nodeId: NodeId }
  | { readonly kind: "remove-target"; readonly targetId: TargetId };

/**
 * The management service. Every instance answers `primary`; all else is the primary's, and others
 * refuse it with `mgmtd-not-primary`.
 */
export interface MgmtdService {
  /** Who leads now; throws `fs-unavailable` where nobody does. */
  primary(): Promise<Primary>;
  /** Notes that a node lives, and what it says of its targets. */
  heartbeat(request: Heartbeat): Promise<HeartbeatReply>;
  /** The routing, or null where it is still at `knownVersion`. */
  routing(knownVersion: number): Promise<RoutingInfo | null>;
  /** Lets a disabled node take part again. */
  enableNode(nodeId: NodeId): Promise<void>;
  /** Treats a node as gone until it is enabled. */
  disableNode(nodeId: NodeId): Promise<void>;
  /** Forgets a node that is not active and whose targets are in no chain. */
  unregisterNode(nodeId: NodeId): Promise<void>;
  /** Replaces a node's tags. */
  setTags(nodeId: NodeId, tags: Readonly<Record<string, string>>): Promise<void>;
  /** Makes chains; new ones start with every target serving, for they hold nothing. */
  createChains(plans: readonly ChainPlan[]): Promise<void>;
  /** Makes the next version of a table of chains. */
  setChainTable(tableId: number, chainIds: readonly ChainId[]): Promise<ChainTable>;
  /** Does one move on a chain and returns what it became. */
  moveChain(chainId: ChainId, move: ChainMove): Promise<ChainInfo>;
  /** Targets that nodes reported and no chain has. */
  orphanTargets(): Promise<readonly TargetInfo[]>;
  /** Replaces the configuration of a kind of node; nodes hear of it by their next heartbeat. */
  setConfig(kind: NodeKind, values: Readonly<Record<string, unknown>>): Promise<Config>;
  /** The configuration of a kind, or null where there is none. */
  config(kind: NodeKind): Promise<Config | null>;
  /** Begins a client's session, or goes on with it. */
  extendSession(clientId: string, description: string): Promise<void>;
  /** Ends a client's session. */
  endSession(clientId: string): Promise<void>;
  /** The sessions of the clients that are alive. */
  sessions(): Promise<readonly ClientSession[]>;
}
