/** @file A kernel and its prepared launch: the structures are written once, a launch is one call. */
import { assert } from "../../base/index.ts";
import type { CudaDriver } from "../../native/index.ts";
import { callDriver, cudaError } from "./errors.ts";
import { Words } from "./words.ts";

/** An argument of a kernel, in the order and with the size that its parameters have. */
export type KernelArgument =
  | { readonly kind: "pointer" | "u64"; readonly value: number }
  | { readonly kind: "u32" | "s32" | "f32"; readonly value: number }
  /** 128 bytes by value, from `encodeTensorMap`. */
  | { readonly kind: "tensor-map"; readonly value: Words };

/** How a kernel is launched. */
export interface LaunchOptions {
  /** Blocks in x, y, z. */
  readonly grid: readonly [number, number?, number?];
  /** Threads of a block in x, y, z; 1024 in all at most. */
  readonly block: readonly [number, number?, number?];
  /** Dynamic shared memory of a block in bytes. */
  readonly sharedBytes?: number;
  /** Blocks of a cluster in x, y, z. */
  readonly cluster?: readonly [number, number?, number?];
  /** May start before the kernel in front of it has ended (programmatic dependent launch). */
  readonly overlapsPrevious?: boolean;
}

const attributeBytes = 72;
const attributeCluster = 4;
const attributeOverlap = 6;
const maxDynamicShared = 8;
const registers = 4;
const localBytes = 3;

/** Bytes and alignment of each kind of argument. */
const sizes = {
  pointer: [8, 8],
  u64: [8, 8],
  u32: [4, 4],
  s32: [4, 4],
  f32: [4, 4],
  "tensor-map": [128, 64],
} as const;

/** What the compiler made of a kernel. */
export interface KernelFacts {
  readonly registers: number;
  /** Spilled or indexed memory of a thread. */
  readonly localBytes: number;
}

/** A kernel of a loaded module. */
export class CudaKernel {
  readonly name: string;
  private readonly driver: CudaDriver;
  private readonly handle: number;
  private sharedBytes = 48 * 1024;

  constructor(driver: CudaDriver, name: string, handle: number) {
    this.driver = driver;
    this.name = name;
    this.handle = handle;
  }

  /** Registers and local memory of a thread. */
  get facts(): KernelFacts {
    const out = new Words(8);
    const read = (attribute: number): number => {
      const what = `reading an attribute of kernel ${this.name}`;
      callDriver(this.driver, what, "cuFuncGetAttribute", out.address, attribute, this.handle);
      return out.int();
    };
    return { registers: read(registers), localBytes: read(localBytes) };
  }

  /** Blocks that fit on a multiprocessor at a time. */
  blocksPerMultiprocessor(threads: number, sharedBytes: number): number {
    this.allowShared(sharedBytes);
    const out = new Words(8);
    callDriver(
      this.driver,
      `the occupancy of kernel ${this.name}`,
      "cuOccupancyMaxActiveBlocksPerMultiprocessor",
      out.address,
      this.handle,
      threads,
      sharedBytes,
    );
    return out.int();
  }

  /** A launch whose structures are ready; `set` changes arguments between runs. */
  prepare(options: LaunchOptions, args: readonly KernelArgument[]): PreparedLaunch {
    this.allowShared(options.sharedBytes ?? 0);
    return new PreparedLaunch(this.driver, this.name, this.handle, options, args);
  }

  /** More than 48 KiB must be asked for, once. */
  private allowShared(bytes: number): void {
    if (bytes <= this.sharedBytes) return;
    const what = `${bytes} bytes of shared memory for kernel ${this.name}`;
    callDriver(this.driver, what, "cuFuncSetAttribute", this.handle, maxDynamicShared, bytes);
    this.sharedBytes = bytes;
  }
}

/** A launch that can be run again and again. */
export class PreparedLaunch {
  private readonly driver: CudaDriver;
  private readonly name: string;
  private readonly handle: number;
  private readonly config = new Words(56);
  private readonly attributes = new Words(2 * attributeBytes);
  private readonly pointers: Words;
  private readonly values: Words;
  private readonly kinds: readonly KernelArgument["kind"][];
  private readonly offsets: number[] = [];

  constructor(
    driver: CudaDriver,
    name: string,
    handle: number,
    options: LaunchOptions,
    args: readonly KernelArgument[],
  ) {
    this.driver = driver;
    this.name = name;
    this.handle = handle;
    let end = 0;
    for (const { kind } of args) {
      const [bytes, alignment] = sizes[kind];
      this.offsets.push(Math.ceil(end / alignment) * alignment);
      end = this.offsets[this.offsets.length - 1] + bytes;
    }
    assert(end <= 4096, () => `arguments of kernel ${name}: got ${end} bytes, wanted at most 4096`);
    this.kinds = args.map(({ kind }) => kind);
    this.values = new Words(Math.max(8, end), 64);
    this.pointers = new Words(Math.max(8, 8 * args.length));
    for (const [i, argument] of args.entries()) {
      this.pointers.setLong(8 * i, this.values.address + this.offsets[i]);
      this.set(i, argument);
    }
    this.configure(options);
  }

  private configure({ grid, block, sharedBytes = 0, ...rest }: LaunchOptions): void {
    const shape = [...triple(grid, "grid"), ...triple(block, "block")];
    const threads = shape[3] * shape[4] * shape[5];
    assert(
      threads <= 1024,
      () => `block of kernel ${this.name}: got ${threads}, wanted at most 1024`,
    );
    for (const [i, size] of shape.entries()) this.config.setInt(4 * i, size);
    this.config.setInt(24, sharedBytes);
    let count = 0;
    if (rest.cluster) {
      const cluster = triple(rest.cluster, "cluster");
      for (const [i, size] of cluster.entries()) {
        assert(
          shape[i] % size === 0,
          () =>
            `grid of kernel ${this.name}: got ${shape[i]}, wanted a multiple of cluster ${size}`,
        );
        this.attributes.setInt(8 + 4 * i, size);
      }
      this.attributes.setInt(0, attributeCluster);
      count++;
    }
    if (rest.overlapsPrevious) {
      this.attributes.setInt(count * attributeBytes, attributeOverlap);
      this.attributes.setInt(count * attributeBytes + 8, 1);
      count++;
    }
    this.config.setLong(40, count > 0 ? this.attributes.address : 0);
    this.config.setInt(48, count);
  }

  /** Replaces argument `index`; it must be of the kind that it was prepared with. */
  set(index: number, argument: KernelArgument): void {
    const { kind, value } = argument;
    assert(
      kind === this.kinds[index],
      () => `argument ${index} of kernel ${this.name}: got ${kind}, wanted ${this.kinds[index]}`,
    );
    const offset = this.offsets[index];
    if (kind === "tensor-map") this.values.bytes.set(value.bytes, offset);
    else if (kind === "f32") this.values.setFloat(offset, value);
    else if (kind === "pointer" || kind === "u64") this.values.setLong(offset, value);
    else this.values.setInt(offset, value);
  }

  /** Puts the kernel on `stream`, a handle; it runs when the GPU comes to it. */
  run(stream: number = 0): void {
    this.config.setLong(32, stream);
    const { config, pointers } = this;
    const status = this.driver.call(
      "cuLaunchKernelEx",
      config.address,
      this.handle,
      pointers.address,
      0,
    );
    if (status !== 0) throw cudaError(`launching kernel ${this.name}`, status);
  }

  /** Clusters of this shape that the whole GPU holds at a time. */
  clustersAtOnce(): number {
    const out = new Words(8);
    const what = `the cluster occupancy of kernel ${this.name}`;
    const args = [out.address, this.handle, this.config.address] as const;
    callDriver(this.driver, what, "cuOccupancyMaxActiveClusters", ...args);
    return out.int();
  }
}

function triple(
  sizes: readonly [number, number?, number?],
  what: string,
): [number, number, number] {
  const [x, y = 1, z = 1] = sizes;
  for (const size of [x, y, z]) {
    assert(
      Number.isInteger(size) && size >= 1 && size < 2 ** 31,
      () => `${what} of a launch: got ${size}, wanted a positive integer`,
    );
  }
  return [x, y, z];
}
