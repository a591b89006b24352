/**
 * @file Runs kernels of the kernel language (`codegen/ptx`) on a GPU: with the arguments and the
 * memory that the emulator takes, so that a test runs on either.
 */
import { assert } from "../../base/index.ts";
import {
  type ElementType,
  emitPtx,
  emulate,
  type Kernel,
  type Launch,
  type TensorView,
} from "../../codegen/index.ts";
import { type CudaDevice, openCuda } from "./cuda-device.ts";
import type { KernelArgument, PreparedLaunch } from "./launch.ts";

/** The driver's names of element types; FP8 is bytes to it. */
const mapTypes = { e4m3: "u8", bf16: "bf16", f32: "f32", u32: "u32" } as const satisfies Record<
  ElementType,
  string
>;

/** A kernel's launch on `device`; pointers and tensors name the GPU's memory. */
export function prepareStaged(
  device: CudaDevice,
  kernel: Kernel,
  grid: readonly [number, number, number],
  args: readonly (number | TensorView)[],
): PreparedLaunch {
  assert(
    args.length === kernel.params.length,
    () => `${kernel.name}: got ${args.length} arguments, wanted ${kernel.params.length}`,
  );
  const values = kernel.params.map((param, i): KernelArgument => {
    const value = args[i];
    if (param.type !== "map") {
      assert(typeof value === "number", () => `${param.name} of ${kernel.name}: wanted a number`);
      return { kind: param.type, value };
    }
    assert(typeof value === "object", () => `${param.name} of ${kernel.name}: wanted a tensor`);
    const { type, box, swizzle } = param.box!;
    const { address, dims, strideBytes } = value;
    const map = { type: mapTypes[type], address, shape: dims, strides: strideBytes, box, swizzle };
    return { kind: "tensor-map", value: device.tensorMap(map) };
  });
  const options = {
    grid,
    block: [kernel.threads],
    sharedBytes: kernel.sharedBytes,
    ...(kernel.clusterSize > 1 && { cluster: [kernel.clusterSize] as const }),
  } as const;
  return device.kernel(emitPtx(kernel).text, kernel.name).prepare(options, values);
}

/** Does what `emulate` does, on a GPU: the launch's buffers go there, and back when it is over. */
export function runOnGpu(device: CudaDevice, kernel: Kernel, launch: Launch): void {
  const { buffers } = launch.memory;
  const copies = buffers.map(({ bytes }) => device.allocate(bytes.length));
  try {
    buffers.forEach(({ bytes }, i) => {
      device.upload(copies[i], bytes);
    });
    const place = (address: number): number => {
      const index = buffers.findIndex((buffer) => buffer.address === address);
      assert(index >= 0, () => `${kernel.name}: address ${address} is that of no buffer`);
      return copies[index].address;
    };
    const args = launch.args.map((value, i) => {
      if (typeof value === "object") return { ...value, address: place(value.address) };
      return kernel.params[i].type === "pointer" ? place(value) : value;
    });
    prepareStaged(device, kernel, launch.grid, args).run(device.stream.handle);
    device.stream.synchronize();
    buffers.forEach(({ bytes, use }, i) => {
      if (use !== "input") device.download(bytes, copies[i]);
    });
  } finally {
    for (const copy of copies) device.free(copy);
  }
}

/** Where tests run their kernels. */
export interface KernelRunner {
  readonly onGpu: boolean;
  readonly run: (kernel: Kernel, launch: Launch) => void;
}

/** The emulator, or, where `BALEEN_GPU` is set, the first GPU: `npm run gpu` sets it. */
export function kernelRunner(): KernelRunner {
  if (!process.env.BALEEN_GPU) return { onGpu: false, run: emulate };
  const device = openCuda();
  return { onGpu: true, run: (kernel, launch) => runOnGpu(device, kernel, launch) };
}
