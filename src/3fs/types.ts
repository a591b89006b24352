/**
 * @file The words that all services of `3fs` share: ids, states of targets, routing, layout of files.
 * Plain data, safe to put on a wire. Ids are positive safe integers unless said otherwise; times are
 * wall-clock milliseconds since 1970.
 */

/** A machine that runs a service; one process registers under one node id. */
export type NodeId = number;

/** A storage target: one replica's place, on one disk of one node. Never used again once retired. */
export type TargetId = number;

/** A chain: an ordered list of targets that hold the same chunks. */
export type ChainId = number;

/** Grows by one whenever a chain's members, order or states change. Requests carry it as a fence. */
export type ChainVersion = number;

/** A file, directory or symbolic link, for ever. The root directory is 1. */
export type InodeId = number;

/** Which chunk: the file it belongs to and its place there, from 0. */
export interface ChunkId {
  readonly inode: InodeId;
  readonly index: number;
}

/**
 * What all may know of a target, in the order in which targets stand in a chain. `serving`: reads and
 * writes. `lastsrv`: died last, holds the newest data, and the chain waits for it. `syncing`: takes
 * writes while it is filled. `waiting`: alive, not yet being filled. `offline`: gone.
 */
export const publicStates = ["serving", "lastsrv", "syncing", "waiting", "offline"] as const;

/** One of `publicStates`. */
export type PublicState = (typeof publicStates)[number];

/**
 * What a target's own node says of it. `uptodate`: it holds all that its chain has acknowledged.
 * `online`: it is open, but may lag. `offline`: it can't be used, or its node is silent.
 */
export const localStates = ["uptodate", "online", "offline"] as const;

/** One of `localStates`. */
export type LocalState = (typeof localStates)[number];

/** A member of a chain. */
export interface ChainTarget {
  readonly targetId: TargetId;
  readonly state: PublicState;
}

/** A chain as routing shows it. The head is the first target, the tail the last that serves. */
export interface ChainInfo {
  readonly chainId: ChainId;
  readonly version: ChainVersion;
  /** Ordered as `publicStates` is. */
  readonly targets: readonly ChainTarget[];
  /** The order that an administrator would like best; empty where there is none. */
  readonly preferredOrder: readonly TargetId[];
  /** Set while an administrator keeps it at rest: its states do not move. */
  readonly isShut?: boolean;
}

/** A target as routing shows it. */
export interface TargetInfo {
  readonly targetId: TargetId;
  /** The node that serves it. */
  readonly nodeId: NodeId;
  /** The node's disk that holds it, from 0. */
  readonly diskIndex: number;
  /** The chain it belongs to; absent for an orphan. */
  readonly chainId?: ChainId;
  readonly publicState: PublicState;
  readonly localState: LocalState;
  /** Bytes that its chunks take, as last reported. */
  readonly usedBytes: number;
  /** Bytes that its disk still has, as last reported. */
  readonly freeBytes: number;
}

/** What a node runs. */
export type NodeKind = "mgmtd" | "meta" | "storage" | "client";

/** What is known of a node's life. */
export type NodeStatus = "active" | "failed" | "disabled";

/** A node as routing shows it. */
export interface NodeInfo {
  readonly nodeId: NodeId;
  readonly kind: NodeKind;
  /** Where it listens, as the transport writes addresses (`tcp://127.0.0.1:7001`, `unix:///...`). */
  readonly addresses: readonly string[];
  readonly status: NodeStatus;
  /** Free words of an administrator, such as a zone. */
  readonly tags: Readonly<Record<string, string>>;
}

/** Chains for one class of files. Old versions stay, since files name the version they were made with. */
export interface ChainTable {
  readonly tableId: number;
  readonly version: number;
  readonly chainIds: readonly ChainId[];
}

/** All that clients and services need to find each other. Replaced as a whole, never changed in place. */
export interface RoutingInfo {
  /** Grows with every change. */
  readonly version: number;
  readonly nodes: readonly NodeInfo[];
  readonly targets: readonly TargetInfo[];
  readonly chains: readonly ChainInfo[];
  readonly chainTables: readonly ChainTable[];
}

/** Where the bytes of a file lie: chunk `index` is on the chain that `chainOfChunk` names. */
export interface FileLayout {
  readonly tableId: number;
  readonly tableVersion: number;
  /** A power of two from 64 KiB to 64 MiB. */
  readonly chunkBytes: number;
  /** Over how many chains of the table the chunks go round. */
  readonly stripe: number;
  /** Position in the table of the chain of chunk 0. */
  readonly seed: number;
}

/** The sizes that a chunk may have, in bytes: 64 KiB, 128 KiB, and so on to 64 MiB. */
export const chunkSizes: readonly number[] = Array.from({ length: 11 }, (_, i) => 65536 * 2 ** i);
