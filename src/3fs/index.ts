/**
 * @file Door of `3fs`: a strongly consistent parallel file system. Services are classes with typed
 * asynchronous methods; the network is put between them by `transport`.
 */
export { errnoOf, type FsErrorCode, fsError, fsErrors } from "./errors.ts";
export { chainOfChunk, Routing, takesWrites } from "./routing.ts";
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
