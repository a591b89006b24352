/**
 * @file GPU memory that several processes see: by interprocess handle (whole allocations, 64 bytes
 * that travel anywhere), or by file descriptor (virtual memory management, pages of 2 MiB).
 */
import { alignUp } from "../../base/index.ts";
import type { CudaDriver } from "../../native/index.ts";
import { callDriver } from "./errors.ts";
import { Words } from "./words.ts";

const lazyPeerAccess = 1;

/** The handle of the allocation at `address`, for `openShared` in another process. */
export function shareMemory(driver: CudaDriver, address: number): Uint8Array {
  const out = new Words(64);
  callDriver(driver, "sharing GPU memory", "cuIpcGetMemHandle", out.address, address);
  return out.bytes.slice();
}

/** Maps what another process shares; the address is this process's own. */
export function openShared(driver: CudaDriver, handle: Uint8Array): number {
  const out = new Words(8);
  const args = [out.address, handle, lazyPeerAccess] as const;
  callDriver(driver, "opening shared GPU memory", "cuIpcOpenMemHandle", ...args);
  return out.long();
}

/** Ends the mapping of `openShared`. */
export function closeShared(driver: CudaDriver, address: number): void {
  callDriver(driver, "closing shared GPU memory", "cuIpcCloseMemHandle", address);
}

/** Physical memory that is mapped at an address, and can be exported as a file descriptor. */
export interface MappedMemory {
  readonly address: number;
  /** A multiple of the GPU's granularity. */
  readonly bytes: number;
  /** A file descriptor for another process, which imports it by `mapImported`. */
  export(): number;
  /** Unmaps it and gives the address range and this process's share back. */
  free(): void;
}

const pinned = 1;
const fileDescriptor = 1;
const onDevice = 1;
const readWrite = 3;

/** The properties of memory on GPU `ordinal` that can be exported: 32 bytes, as the driver wants. */
function propertiesOf(ordinal: number): Words {
  const properties = new Words(32);
  properties.setInt(0, pinned);
  properties.setInt(4, fileDescriptor);
  properties.setInt(8, onDevice);
  properties.setInt(12, ordinal);
  return properties;
}

/** New memory of at least `bytes` on GPU `ordinal`, mapped and zero-copy shareable. */
export function mapMemory(driver: CudaDriver, ordinal: number, bytes: number): MappedMemory {
  const properties = propertiesOf(ordinal);
  const out = new Words(8);
  const what = "mapping GPU memory";
  const granularity = "cuMemGetAllocationGranularity";
  callDriver(driver, what, granularity, out.address, properties.address, 0);
  const size = alignUp(bytes, out.long());
  callDriver(driver, what, "cuMemCreate", out.address, size, properties.address, 0);
  return mapHandle(driver, ordinal, out.long(), size);
}

/** The memory behind `descriptor`, of exactly `bytes`, mapped into this process. */
export function mapImported(
  driver: CudaDriver,
  ordinal: number,
  descriptor: number,
  bytes: number,
): MappedMemory {
  const out = new Words(8);
  const args = [out.address, descriptor, fileDescriptor] as const;
  callDriver(driver, "importing GPU memory", "cuMemImportFromShareableHandle", ...args);
  return mapHandle(driver, ordinal, out.long(), bytes);
}

function mapHandle(
  driver: CudaDriver,
  ordinal: number,
  handle: number,
  bytes: number,
): MappedMemory {
  const what = "mapping GPU memory";
  const out = new Words(8);
  callDriver(driver, what, "cuMemAddressReserve", out.address, bytes, 0, 0, 0);
  const address = out.long();
  callDriver(driver, what, "cuMemMap", address, bytes, 0, handle, 0);
  const access = new Words(16);
  access.setInt(0, onDevice);
  access.setInt(4, ordinal);
  access.setInt(8, readWrite);
  callDriver(driver, what, "cuMemSetAccess", address, bytes, access.address, 1);
  return {
    address,
    bytes,
    export() {
      const descriptor = new Words(8);
      const args = [descriptor.address, handle, fileDescriptor, 0] as const;
      callDriver(driver, "exporting GPU memory", "cuMemExportToShareableHandle", ...args);
      return descriptor.int();
    },
    free() {
      callDriver(driver, "unmapping GPU memory", "cuMemUnmap", address, bytes);
      callDriver(driver, "unmapping GPU memory", "cuMemAddressFree", address, bytes);
      callDriver(driver, "unmapping GPU memory", "cuMemRelease", handle);
    },
  };
}
