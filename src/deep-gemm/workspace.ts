/**
 * @file Memory for what a call needs on its way: kept from call to call, since mapping it and
 * touching its pages afresh costs a tenth of a millisecond, as much as a small product.
 */
import { alignUp } from "../base/index.ts";
import type { Device } from "../device/index.ts";
import {
  bytesPerElement,
  type DType,
  elementCount,
  type Tensor,
  tensorOf,
  zeros,
} from "../tensor/index.ts";

const alignment = 64;
/** What is kept at most; a call that needs more allocates the rest for itself. */
const keptBytesMax = 256 * 2 ** 20;

class Workspace {
  private readonly device: Device;
  private buffer: ArrayBufferLike;
  private used = 0;
  /** What the call at hand would have used, had there been enough. */
  private wanted = 0;
  private depth = 0;

  constructor(device: Device) {
    this.device = device;
    this.buffer = device.allocate(alignment);
  }

  take<D extends DType>(dtype: D, shape: readonly number[]): Tensor<D> {
    const count = elementCount(shape);
    const bytes = alignUp(count * bytesPerElement[dtype], alignment);
    this.wanted += bytes;
    if (this.depth === 0 || this.used + bytes > this.buffer.byteLength) {
      return zeros(dtype, shape, (size) => this.device.allocate(size));
    }
    const start = this.used;
    this.used += bytes;
    const data = new arrayTypes[dtype](this.buffer as ArrayBuffer, start, count);
    return tensorOf(dtype, shape, data as Tensor<D>["data"]);
  }

  during<T>(call: () => T): T {
    const { used } = this;
    this.depth++;
    try {
      return call();
    } finally {
      this.used = used;
      if (--this.depth === 0) {
        const bytes = Math.min(this.wanted, keptBytesMax);
        if (bytes > this.buffer.byteLength) this.buffer = this.device.allocate(bytes);
        this.wanted = 0;
      }
    }
  }
}

const arrayTypes = {
  f32: Float32Array,
  bf16: Uint16Array,
  f8e4m3: Uint8Array,
  f8e5m2: Uint8Array,
  ue8m0: Uint8Array,
  i32: Int32Array,
} as const;

const workspaces = new WeakMap<Device, Workspace>();

function workspaceOf(device: Device): Workspace {
  let workspace = workspaces.get(device);
  if (!workspace) {
    workspace = new Workspace(device);
    workspaces.set(device, workspace);
  }
  return workspace;
}

/**
 * A contiguous tensor whose contents are anything; within `duringCall` of memory that is used again
 * once the call has ended.
 */
export function temporary<D extends DType>(
  device: Device,
  dtype: D,
  shape: readonly number[],
): Tensor<D> {
  return workspaceOf(device).take(dtype, shape);
}

/** Runs `call`, whose `temporary` tensors are good until it ends; none may leave it. */
export function duringCall<T>(device: Device, call: () => T): T {
  return workspaceOf(device).during(call);
}
