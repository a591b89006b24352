/** @file The table of node kinds: how each is verified, written as PTX, and executed. */
import type { NodeKind } from "../ir.ts";
import * as alu from "./alu.ts";
import * as barrier from "./barrier.ts";
import * as bulk from "./bulk.ts";
import * as control from "./control.ts";
import * as memory from "./memory.ts";
import type { Op } from "./op.ts";
import * as tensor from "./tensor.ts";
import * as warpWide from "./warp-wide.ts";

/** Every kind of node; `tsc` misses none. */
export const ops: { readonly [K in NodeKind]: Op<K> } = {
  If: control.If,
  Loop: control.Loop,
  Break: control.Break,
  Trap: control.Trap,
  Yield: control.Yield,
  SetMaxRegisters: control.SetMaxRegisters,
  Pdl: control.Pdl,
  Special: alu.Special,
  Param: alu.Param,
  SharedBase: alu.SharedBase,
  Move: alu.Move,
  Alu: alu.Alu,
  Compare: alu.Compare,
  Select: alu.Select,
  Shuffle: warpWide.Shuffle,
  Vote: warpWide.Vote,
  Elect: warpWide.Elect,
  Redux: warpWide.Redux,
  SyncWarp: warpWide.SyncWarp,
  Load: memory.Load,
  Store: memory.Store,
  Atomic: memory.Atomic,
  Fence: memory.Fence,
  LoadMatrix: memory.LoadMatrix,
  StoreMatrix: memory.StoreMatrix,
  MbarInit: barrier.MbarInit,
  MbarInval: barrier.MbarInval,
  MbarArrive: barrier.MbarArrive,
  MbarExpect: barrier.MbarExpect,
  MbarWait: barrier.MbarWait,
  NamedBarrier: barrier.NamedBarrier,
  ClusterBarrier: barrier.ClusterBarrier,
  MapShared: barrier.MapShared,
  PrefetchMap: bulk.PrefetchMap,
  TmaLoad: bulk.TmaLoad,
  TmaStore: bulk.TmaStore,
  BulkCopy: bulk.BulkCopy,
  BulkCommit: bulk.BulkCommit,
  BulkWait: bulk.BulkWait,
  StoreAsync: bulk.StoreAsync,
  CpAsync: bulk.CpAsync,
  CpAsyncCommit: bulk.CpAsyncCommit,
  CpAsyncWait: bulk.CpAsyncWait,
  WgFence: tensor.WgFence,
  WgMma: tensor.WgMma,
  WgCommit: tensor.WgCommit,
  WgWait: tensor.WgWait,
  MmaSync: tensor.MmaSync,
};
