/** @file Door of the GPU half of `codegen`: kernels in TypeScript, PTX, and the emulator. */
export {
  type AccessOptions,
  Builder,
  type KernelOptions,
  type Role,
  stageKernel,
} from "./dsl/builder.ts";
export {
  Barriers,
  type ConsumerStage,
  Cursor,
  initBarriers,
  Pipeline,
  type ProducerStage,
} from "./dsl/pipeline.ts";
export {
  commitStores,
  type LoadOptions,
  SharedTile,
  TensorMap,
  type TileOperand,
  type TileShape,
  tileBytes,
  waitStores,
} from "./dsl/tile.ts";
export {
  F32,
  type F32Like,
  F32Variable,
  Pred,
  U32,
  type U32Like,
  U32Variable,
  U64,
} from "./dsl/values.ts";
export {
  Accumulator,
  type Cell,
  firstRow,
  multiplyWarp,
  startProduct,
  waitProducts,
} from "./dsl/warpgroup.ts";
export { emitPtx, type PtxSource } from "./emit.ts";
export { EmulatorFault, type FaultCode } from "./emulator/fault.ts";
export { emulate, type Launch, type Schedule, type TensorView } from "./emulator/machine.ts";
export { type GlobalBuffer, GlobalMemory } from "./emulator/memory.ts";
export { testSchedules } from "./emulator/schedules.ts";
export type { NumericsMode } from "./emulator/tensor-core.ts";
export { goldenListing } from "./golden.ts";
export type { ElementType, Kernel, MapBox, Node, Param, Swizzle } from "./ir.ts";
export { litmusTests } from "./litmus/index.ts";
export type { Litmus, LitmusRun } from "./litmus/litmus.ts";
export { type Mutant, mutantsOf } from "./mutate.ts";
export { describePosition } from "./position.ts";
export { type Assembly, assembleKernel, wgmmaCounts, whyNoPtxas } from "./ptxas.ts";
