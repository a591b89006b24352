/** @file What storage nodes say to clients and to each other. */
import { type CallContext, defineService, type Service } from "../../transport/index.ts";
import type { ChainId, ChainVersion, ChunkId, InodeId, TargetId } from "../types.ts";
import type { ChannelState, ChunkChange } from "./engine.ts";
import type { UpdateTag } from "./records.ts";

/** Which target is meant, and how the caller sees its chain: the fence. */
export interface ChainAddress {
  readonly chainId: ChainId;
  readonly chainVersion: ChainVersion;
  readonly targetId: TargetId;
}

/** A read of part of a chunk, from any target that serves. */
export interface ReadRequest extends ChainAddress {
  readonly chunk: ChunkId;
  readonly offset: number;
  readonly length: number;
}

/** Whole pages around what was asked, as far as the chunk goes. */
export interface ReadAnswer {
  readonly version: number;
  /** Bytes of the chunk. */
  readonly chunkLength: number;
  /** Where `data` begins in the chunk. */
  readonly offset: number;
  readonly pageBytes: number;
  /** CRC32C of each page of `data`. */
  readonly checksums: readonly number[];
  readonly data: Uint8Array;
  /** `data` has these checksums, so frames need none. */
  readonly ownChecksum: true;
}

/** An update from a client, to a chain's head. */
export interface UpdateRequest extends ChainAddress {
  readonly chunk: ChunkId;
  /** The chunk size of the file. */
  readonly chunkBytes: number;
  readonly change: ChunkChange;
  readonly tag: UpdateTag;
}

/** What an update made. */
export interface UpdateAnswer {
  /** The chunk's version; 0 where the chunk was removed. */
  readonly version: number;
  /** Bytes of the chunk. */
  readonly chunkLength: number;
}

/** An update from a target to its successor in the chain. */
export interface ForwardRequest extends ChainAddress {
  readonly chunk: ChunkId;
  readonly chunkBytes: number;
  readonly change: ChunkChange;
  readonly tag?: UpdateTag;
  readonly version: number;
  /** The chain's version when the update was first made. */
  readonly madeIn: ChainVersion;
  /** Of the content after the update: see `digestOf`. */
  readonly digest: number;
  /** The sender's generation and a count: what was sent earlier and comes later is refused. */
  readonly order: readonly [epoch: number, count: number];
  /** The content replaces whatever is there, whichever version that has. */
  readonly isReplacement: boolean;
}

/** A page of a listing. */
export interface ListRequest extends ChainAddress {
  /** One file, or all. */
  readonly inode?: InodeId;
  /** `next` of the page before; absent at first. */
  readonly from?: string;
  readonly limit: number;
}

/** A chunk in a listing. */
export interface ChunkInfo {
  readonly chunk: ChunkId;
  /** 0 where only a pending version is there. */
  readonly version: number;
  readonly length: number;
  readonly digest: number;
  readonly isPending: boolean;
}

/** A page of a listing; `next` is absent at the end. */
export interface ListAnswer {
  readonly chunks: readonly ChunkInfo[];
  readonly next?: string;
}

/** The end of filling a target: it holds all that its predecessor does. */
export interface SyncDoneRequest extends ChainAddress {
  readonly channels: readonly (readonly [key: string, state: ChannelState])[];
}

/** A storage node, as clients and other nodes call it. */
export interface StorageApi {
  read(request: ReadRequest, context?: CallContext): Promise<ReadAnswer>;
  update(request: UpdateRequest, context?: CallContext): Promise<UpdateAnswer>;
  list(request: ListRequest, context?: CallContext): Promise<ListAnswer>;
  forward(request: ForwardRequest, context?: CallContext): Promise<UpdateAnswer>;
  /** The predecessor has filled the target. */
  syncDone(request: SyncDoneRequest, context?: CallContext): Promise<void>;
}

/** The storage service on the wire. */
export const storageService: Service<StorageApi> = defineService<StorageApi>(3, "storage", [
  "read",
  "update",
  "list",
  "forward",
  "syncDone",
]);
