/**
 * @file Door of `device`: the processor that kernels run on. Probed when opened, never on import.
 */
export { ArgumentBlock } from "./argument-block.ts";
export { type CudaBuffer, CudaDevice, type CudaOptions, openCuda } from "./cuda/cuda-device.ts";
export type { CudaKernel, KernelArgument, LaunchOptions, PreparedLaunch } from "./cuda/launch.ts";
export { type KernelRunner, kernelRunner, prepareStaged } from "./cuda/staged.ts";
export type { Device, Isa, LaunchList, Rung } from "./device.ts";
export { measureFmaRate, measureReadRate } from "./limits.ts";
export { type DeviceOptions, openDevice } from "./open.ts";
export { type Timing, type TimingOptions, timeRuns } from "./timing.ts";
