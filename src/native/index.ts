/** @file Door of `native`: the only FFI of the house. */

export { processCpuTimeUs, threadCpuTimeUs } from "./clock.ts";
export { callable, callableOfThree, freeCode, loadCode } from "./code.ts";
export { type CudaDriver, type CudaFunction, cudaAbsence, cudaDriver } from "./cuda-driver.ts";
export { addressOf, nativeAbsence, nativeLayer } from "./koffi.ts";
export { type FileBytes, mapFile } from "./map-file.ts";
export {
  allocateGuarded,
  allocateMemory,
  map,
  pageBytes,
  unmap,
  viewAt,
  viewBytesMax,
} from "./memory.ts";
export { mountFileSystem, unmountFileSystem, waitReadable } from "./mount.ts";
export { setCongestionControl } from "./socket.ts";
export { currentProcessor, currentThreadId, joinThread, startThread, wakeAll } from "./thread.ts";
