/** @file An NVIDIA GPU: opened by number, with memory, modules, streams and timing. */
import { rmSync } from "node:fs";
import { assert, BaleenError, formatBytes } from "../../base/index.ts";
import { addressOf, type CudaDriver, cudaAbsence, cudaDriver } from "../../native/index.ts";
import { compileCubin, cubinFolder, cubinPath, keptCubin } from "./compile.ts";
import { callDriver, cudaError } from "./errors.ts";
import { CudaKernel } from "./launch.ts";
import {
  closeShared,
  type MappedMemory,
  mapImported,
  mapMemory,
  openShared,
  shareMemory,
} from "./shared-memory.ts";
import { CudaStream } from "./stream.ts";
import { encodeTensorMap, type TensorMapOptions } from "./tensor-map.ts";
import { Words } from "./words.ts";

/** Which GPU, and where its driver and its kept machine code are. */
export interface CudaOptions {
  /** Number of the GPU among those that are visible; default 0. */
  readonly ordinal?: number | undefined;
  /** The driver's library; default `BALEEN_CUDA_LIBRARY`, else `libcuda.so.1`. */
  readonly library?: string | undefined;
  /** Where compiled kernels are kept; default in the user's cache folder. */
  readonly cacheFolder?: string | undefined;
}

/** Memory of the GPU. */
export interface CudaBuffer {
  readonly address: number;
  readonly bytes: number;
}

/** The oldest driver that every kernel's PTX (8.0) loads into: CUDA 12.0. */
const driverVersionMin = 12_000;
const attributes = {
  multiprocessors: 16,
  clockKhz: 13,
  memoryClockKhz: 36,
  memoryBusBits: 37,
  l2Bytes: 38,
  major: 75,
  minor: 76,
  sharedBytesPerBlock: 97,
} as const;

/**
 * Opens a GPU. Throws `no-cuda-driver`, `no-cuda-device` or `cuda-driver-too-old` with what to do.
 */
export function openCuda(options: CudaOptions = {}): CudaDevice {
  const driver = cudaDriver(options.library);
  if (driver === undefined) {
    throw new BaleenError(
      "no-cuda-driver",
      `${cudaAbsence(options.library)}: install NVIDIA's driver, or in a container pass it in ` +
        "(--gpus all).",
    );
  }
  callDriver(driver, "starting CUDA", "cuInit", 0);
  const out = new Words(8);
  callDriver(driver, "reading the driver's version", "cuDriverGetVersion", out.address);
  const driverVersion = out.int();
  if (driverVersion < driverVersionMin) {
    throw new BaleenError(
      "cuda-driver-too-old",
      `the driver speaks CUDA ${versionText(driverVersion)}, and kernels need ` +
        `${versionText(driverVersionMin)}: install a newer driver.`,
    );
  }
  callDriver(driver, "counting GPUs", "cuDeviceGetCount", out.address);
  const [count, ordinal] = [out.int(), options.ordinal ?? 0];
  if (!(Number.isInteger(ordinal) && ordinal >= 0 && ordinal < count)) {
    throw new BaleenError(
      "no-cuda-device",
      `GPU ${ordinal} is not there: ${count} are visible, numbered from 0; check CUDA_VISIBLE_DEVICES.`,
    );
  }
  return new CudaDevice(driver, ordinal, driverVersion, options.cacheFolder ?? cubinFolder());
}

function versionText(version: number): string {
  return `${Math.floor(version / 1000)}.${Math.floor((version % 1000) / 10)}`;
}

/** An open GPU; one thread uses it. */
export class CudaDevice {
  /** Such as `NVIDIA H100 80GB HBM3`. */
  readonly name: string;
  readonly ordinal: number;
  /** Such as 90: compute capability 9.0. */
  readonly architecture: number;
  /** The CUDA version that the driver speaks, such as 13000 for 13.0. */
  readonly driverVersion: number;
  readonly multiprocessors: number;
  /** Memory in bytes. */
  readonly memoryBytes: number;
  /** Shared memory that a block may ask for. */
  readonly sharedBytesPerBlock: number;
  readonly l2Bytes: number;
  /** Memory bandwidth by clock and bus width, bytes a second; a bound, not a measurement. */
  readonly memoryBytesPerSecond: number;
  /** The stream that is meant where none is named. */
  readonly stream: CudaStream;
  private readonly driver: CudaDriver;
  private readonly device: number;
  private readonly cacheFolder: string;
  private readonly modules = new Map<string, number>();

  constructor(driver: CudaDriver, ordinal: number, driverVersion: number, cacheFolder: string) {
    this.driver = driver;
    this.ordinal = ordinal;
    this.driverVersion = driverVersion;
    this.cacheFolder = cacheFolder;
    const out = new Words(8);
    callDriver(driver, `finding GPU ${ordinal}`, "cuDeviceGet", out.address, ordinal);
    this.device = out.int();
    const read = (attribute: number): number => {
      const args = [out.address, attribute, this.device] as const;
      callDriver(driver, `reading GPU ${ordinal}`, "cuDeviceGetAttribute", ...args);
      return out.int();
    };
    this.architecture = read(attributes.major) * 10 + read(attributes.minor);
    this.multiprocessors = read(attributes.multiprocessors);
    this.sharedBytesPerBlock = read(attributes.sharedBytesPerBlock);
    this.l2Bytes = read(attributes.l2Bytes);
    const busBytes = read(attributes.memoryBusBits) / 8;
    this.memoryBytesPerSecond = 2 * read(attributes.memoryClockKhz) * 1000 * busBytes;
    callDriver(driver, `reading GPU ${ordinal}`, "cuDeviceTotalMem", out.address, this.device);
    this.memoryBytes = out.long();
    const name = new Words(256);
    callDriver(driver, `naming GPU ${ordinal}`, "cuDeviceGetName", name.address, 256, this.device);
    this.name = Buffer.from(name.bytes.subarray(0, name.bytes.indexOf(0))).toString();
    const retain = "cuDevicePrimaryCtxRetain";
    callDriver(driver, `opening GPU ${ordinal}`, retain, out.address, this.device);
    callDriver(driver, `opening GPU ${ordinal}`, "cuCtxSetCurrent", out.long());
    this.stream = new CudaStream(driver);
  }

  /** One line for people. */
  get description(): string {
    const version = versionText(this.driverVersion);
    return `cuda (${this.name}, ${formatBytes(this.memoryBytes)}, driver for CUDA ${version})`;
  }

  /** Memory that no process uses, in bytes. */
  get freeBytes(): number {
    const [free, total] = [new Words(8), new Words(8)];
    const args = [free.address, total.address] as const;
    callDriver(this.driver, "reading free memory", "cuMemGetInfo", ...args);
    return free.long();
  }

  /** New memory, aligned to 256 bytes, its contents undefined. `free` gives it back. */
  allocate(bytes: number): CudaBuffer {
    assert(bytes > 0, () => `bytes of GPU memory: got ${bytes}, wanted some`);
    const out = new Words(8);
    callDriver(
      this.driver,
      `allocating ${formatBytes(bytes)} of GPU memory`,
      "cuMemAlloc",
      out.address,
      bytes,
    );
    return { address: out.long(), bytes };
  }

  /** Gives back what `allocate` made; work that uses it must have ended. */
  free(buffer: CudaBuffer): void {
    callDriver(this.driver, "freeing GPU memory", "cuMemFree", buffer.address);
  }

  /** Copies `data` to `buffer` at `offset` bytes; done when this returns. */
  upload(buffer: CudaBuffer, data: ArrayBufferView, offset: number = 0): void {
    checkRange("upload", buffer, offset, data.byteLength);
    if (data.byteLength === 0) return;
    const to = buffer.address + offset;
    const args = [to, addressOf(data), data.byteLength, this.stream.handle] as const;
    callDriver(this.driver, "copying to the GPU", "cuMemcpyHtoDAsync", ...args);
    this.stream.synchronize();
  }

  /** Fills `out` from `buffer` at `offset` bytes; waits for the stream. */
  download(out: ArrayBufferView, buffer: CudaBuffer, offset: number = 0): void {
    checkRange("download", buffer, offset, out.byteLength);
    if (out.byteLength === 0) return;
    const from = buffer.address + offset;
    const args = [addressOf(out), from, out.byteLength, this.stream.handle] as const;
    callDriver(this.driver, "copying from the GPU", "cuMemcpyDtoHAsync", ...args);
    this.stream.synchronize();
  }

  /** Sets every byte of `buffer`, in the order of the stream. */
  fill(buffer: CudaBuffer, byte: number): void {
    const args = [buffer.address, byte, buffer.bytes, this.stream.handle] as const;
    callDriver(this.driver, "filling GPU memory", "cuMemsetD8Async", ...args);
  }

  /** Kernel `name` of the PTX text `ptx`, compiled where it is not kept already. */
  kernel(ptx: string, name: string): CudaKernel {
    const handle = this.modules.get(ptx) ?? this.load(ptx);
    const out = new Words(8);
    const symbol = new Words(Buffer.byteLength(name) + 1);
    symbol.bytes.set(Buffer.from(name));
    const args = [out.address, handle, symbol.address] as const;
    callDriver(this.driver, `finding kernel ${name}`, "cuModuleGetFunction", ...args);
    return new CudaKernel(this.driver, name, out.long());
  }

  private load(ptx: string): number {
    const { driver, driverVersion, architecture } = this;
    const path = cubinPath(ptx, { driverVersion, architecture, folder: this.cacheFolder });
    const out = new Words(8);
    const kept = keptCubin(path);
    let status = kept ? this.loadData(kept, out) : undefined;
    if (status !== 0) {
      if (kept) rmSync(path, { force: true }); // torn, or of another driver after all
      status = this.loadData(compileCubin(driver, ptx, path), out);
    }
    if (status !== 0) throw cudaError("loading a kernel", status);
    this.modules.set(ptx, out.long());
    return out.long();
  }

  private loadData(cubin: Uint8Array, out: Words): number {
    const image = new Words(cubin.length, 64);
    image.bytes.set(cubin);
    return this.driver.call("cuModuleLoadData", out.address, image.address);
  }

  /** The tensor map that `options` describe, as a kernel's argument. */
  tensorMap(options: TensorMapOptions): Words {
    return encodeTensorMap(this.driver, options);
  }

  /** Another stream. */
  openStream(): CudaStream {
    return new CudaStream(this.driver);
  }

  /** Microseconds that the GPU takes for what `body` puts on the stream. */
  time(body: () => void): number {
    const start = this.stream.record();
    body();
    const end = this.stream.record();
    try {
      return end.microsecondsSince(start);
    } finally {
      start.close();
      end.close();
    }
  }

  /** 64 bytes by which another process opens `buffer`. */
  share(buffer: CudaBuffer): Uint8Array {
    return shareMemory(this.driver, buffer.address);
  }

  /** The address here of what another process shares; `closeShared` ends it. */
  openShared(handle: Uint8Array): number {
    assert(handle.length === 64, () => `handle: got ${handle.length} bytes, wanted 64`);
    return openShared(this.driver, handle);
  }

  /** Ends the mapping at `address`. */
  closeShared(address: number): void {
    closeShared(this.driver, address);
  }

  /** Mapped memory of at least `bytes` that can be exported as a file descriptor. */
  mapMemory(bytes: number): MappedMemory {
    return mapMemory(this.driver, this.ordinal, bytes);
  }

  /** The memory behind another process's file descriptor, of exactly `bytes`. */
  mapImported(descriptor: number, bytes: number): MappedMemory {
    return mapImported(this.driver, this.ordinal, descriptor, bytes);
  }

  /** Unloads the modules and lets the GPU go; buffers that were not freed go with it. */
  close(): void {
    this.stream.close();
    for (const handle of this.modules.values()) {
      callDriver(this.driver, "unloading a kernel", "cuModuleUnload", handle);
    }
    this.modules.clear();
    callDriver(this.driver, "closing the GPU", "cuDevicePrimaryCtxRelease", this.device);
  }
}

function checkRange(what: string, buffer: CudaBuffer, offset: number, bytes: number): void {
  assert(
    offset >= 0 && offset + bytes <= buffer.bytes,
    () => `${what}: got ${bytes} bytes at ${offset}, and the buffer has ${buffer.bytes}`,
  );
}
