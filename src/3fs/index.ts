/**
 * @file Door of `3fs`: a strongly consistent parallel file system. Services are classes with typed
 * asynchronous methods; the network is put between them by `transport`.
 */
export {
  ChunkClient,
  type ChunkClientOptions,
  type ChunkPart,
  type RoutingSource,
} from "./client/chunk-client.ts";
export { type FileBody, FileClient } from "./client/file-client.ts";
export { errnoOf, type FsErrorCode, fsError, fsErrors } from "./errors.ts";
export { Meta, type MetaOptions } from "./meta/meta.ts";
export type { MetaService, PageOptions } from "./meta/service.ts";
export type {
  At,
  AttributeChanges,
  Caller,
  DirectoryEntry,
  DirectoryPage,
  FileKind,
  FileLock,
  FileStorage,
  FileTime,
  Inode,
  LayoutDefaults,
  OpenOptions,
  Quota,
  QuotaReport,
  RemoveOptions,
  RenameOptions,
  RequestId,
  User,
} from "./meta/types.ts";
export {
  type ChainMember,
  nextChain,
  rotateLastsrv,
  rotateToPreferred,
  shutDownChain,
} from "./mgmtd/chain-states.ts";
export { Mgmtd, type MgmtdOptions } from "./mgmtd/mgmtd.ts";
export type {
  ChainMove,
  ChainPlan,
  ClientSession,
  Config,
  Heartbeat,
  HeartbeatReply,
  MgmtdService,
  Primary,
  TargetReport,
} from "./mgmtd/types.ts";
export { planPlacement } from "./placement/plan.ts";
export { type Rebalance, rebalancePlacement } from "./placement/rebalance.ts";
export type {
  PairSpread,
  Placement,
  PlacementNode,
  PlacementOptions,
  TargetMove,
} from "./placement/types.ts";
export { chainOfChunk, Routing, takesWrites } from "./routing.ts";
export type { Disk, RecordChange, RecordStore } from "./storage/disk.ts";
export { type ChannelState, type ChunkChange, ChunkEngine } from "./storage/engine.ts";
export { openFileDisk } from "./storage/file-disk.ts";
export { openLmdbStore } from "./storage/lmdb-store.ts";
export { StorageNode, type StorageNodeOptions } from "./storage/node.ts";
export type { UpdateTag } from "./storage/records.ts";
export {
  type ChainAddress,
  type ChunkInfo,
  type ForwardRequest,
  type ListAnswer,
  type ListRequest,
  type ReadAnswer,
  type ReadRequest,
  type StorageApi,
  type SyncDoneRequest,
  storageService,
  type UpdateAnswer,
  type UpdateRequest,
} from "./storage/types.ts";
export {
  type ChainId,
  type ChainInfo,
  type ChainTable,
  type ChainTarget,
  type ChainVersion,
  type ChunkId,
  chunkSizes,
  type FileLayout,
  type InodeId,
  type LocalState,
  localStates,
  type NodeId,
  type NodeInfo,
  type NodeKind,
  type NodeStatus,
  type PublicState,
  publicStates,
  type RoutingInfo,
  type TargetId,
  type TargetInfo,
} from "./types.ts";
