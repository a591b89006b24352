/** @file The room's small kernels of a device: emitted at first use, each with its arguments. */
import { ArgumentBlock, type Device, type Isa } from "../device/index.ts";

/** A loaded kernel and the block that it is launched with. */
export interface Kernel {
  readonly address: number;
  readonly block: ArgumentBlock;
}

const kernelsOf = new WeakMap<Device, Map<string, Kernel>>();

/** The kernel `name` of a device that runs machine code; `emit` makes it at the first call. */
export function kernelOf(
  device: Device,
  name: string,
  emit: (isa: Isa) => Uint8Array,
  argumentBytes: number = 64,
): Kernel {
  let kernels = kernelsOf.get(device);
  if (!kernels) {
    kernels = new Map();
    kernelsOf.set(device, kernels);
  }
  let kernel = kernels.get(name);
  if (!kernel) {
    const address = device.load(emit(device.isa!), `deep-gemm ${name}`);
    kernel = { address, block: new ArgumentBlock(device, argumentBytes) };
    kernels.set(name, kernel);
  }
  return kernel;
}
