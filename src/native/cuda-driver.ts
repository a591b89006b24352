/**
 * @file NVIDIA's driver library, bound function by function on first use. Its addresses, handles and
 * sizes are Numbers here; every function returns the driver's status, 0 for success. Signatures:
 * the CUDA driver API reference.
 */
import { assert } from "../base/index.ts";
import { nativeAbsence, nativeLayer } from "./koffi.ts";

/**
 * Parameters by letter: `p` an address, a handle or 64 bits; `i` 32 bits; `b` a byte; `h` the 64 bytes
 * of an interprocess handle, by value. A name after `=` is the library's own, where it has a version.
 */
const signatures = {
  cuInit: "i",
  cuDriverGetVersion: "p",
  cuDeviceGetCount: "p",
  cuDeviceGet: "pi",
  cuDeviceGetName: "pii",
  cuDeviceGetAttribute: "pii",
  cuDeviceTotalMem: "pi=cuDeviceTotalMem_v2",
  cuDevicePrimaryCtxRetain: "pi",
  cuDevicePrimaryCtxRelease: "i=cuDevicePrimaryCtxRelease_v2",
  cuCtxSetCurrent: "p",
  cuCtxSynchronize: "",
  cuMemGetInfo: "pp=cuMemGetInfo_v2",
  cuMemAlloc: "pp=cuMemAlloc_v2",
  cuMemFree: "p=cuMemFree_v2",
  cuMemHostRegister: "ppi=cuMemHostRegister_v2",
  cuMemHostUnregister: "p",
  cuMemcpyHtoDAsync: "pppp=cuMemcpyHtoDAsync_v2",
  cuMemcpyDtoHAsync: "pppp=cuMemcpyDtoHAsync_v2",
  cuMemcpyDtoDAsync: "pppp=cuMemcpyDtoDAsync_v2",
  cuMemsetD8Async: "pbpp",
  cuStreamCreate: "pi",
  cuStreamDestroy: "p=cuStreamDestroy_v2",
  cuStreamSynchronize: "p",
  cuStreamWaitEvent: "ppi",
  cuStreamBeginCapture: "pi=cuStreamBeginCapture_v2",
  cuStreamEndCapture: "pp",
  cuEventCreate: "pi",
  cuEventRecord: "pp",
  cuEventSynchronize: "p",
  cuEventElapsedTime: "ppp",
  cuEventDestroy: "p=cuEventDestroy_v2",
  cuGraphInstantiateWithFlags: "ppp",
  cuGraphLaunch: "pp",
  cuGraphExecDestroy: "p",
  cuGraphDestroy: "p",
  cuLinkCreate: "ippp=cuLinkCreate_v2",
  cuLinkAddData: "pipppipp=cuLinkAddData_v2",
  cuLinkComplete: "ppp",
  cuLinkDestroy: "p",
  cuModuleLoadData: "pp",
  cuModuleGetFunction: "ppp",
  cuModuleUnload: "p",
  cuFuncSetAttribute: "pii",
  cuFuncGetAttribute: "pip",
  cuLaunchKernelEx: "pppp",
  cuOccupancyMaxActiveBlocksPerMultiprocessor: "ppip",
  cuOccupancyMaxActiveClusters: "ppp",
  cuTensorMapEncodeTiled: "piipppppiiii",
  cuIpcGetMemHandle: "pp",
  cuIpcOpenMemHandle: "phi=cuIpcOpenMemHandle_v2",
  cuIpcCloseMemHandle: "p",
  cuMemGetAllocationGranularity: "ppi",
  cuMemCreate: "pppp",
  cuMemRelease: "p",
  cuMemAddressReserve: "ppppp",
  cuMemAddressFree: "pp",
  cuMemMap: "ppppp",
  cuMemUnmap: "pp",
  cuMemSetAccess: "pppp",
  cuMemExportToShareableHandle: "ppip",
  cuMemImportFromShareableHandle: "ppi",
} as const;

/** A function of the driver that this house uses. */
export type CudaFunction = keyof typeof signatures;

/** The driver's functions; an argument is a Number, an interprocess handle 64 bytes. */
export interface CudaDriver {
  /** The library that serves. */
  readonly library: string;
  /** Calls a function; the result is the driver's status. A driver too old for it: status 36. */
  call(name: CudaFunction, ...args: readonly (number | Uint8Array)[]): number;
}

/** What a driver that lacks a function is taken to have answered: it needs a newer driver. */
const statusOldDriver = 36;

const drivers = new Map<string, CudaDriver | string>();

/**
 * The driver in `library`, or undefined where it cannot be loaded; `cudaAbsence` then says why.
 * Loads it at the first call; never throws.
 */
export function cudaDriver(library: string = defaultLibrary()): CudaDriver | undefined {
  const found = lookUp(library);
  return typeof found === "string" ? undefined : found;
}

/** Why there is no driver, in one line without a full stop; undefined when there is one. */
export function cudaAbsence(library: string = defaultLibrary()): string | undefined {
  const found = lookUp(library);
  return typeof found === "string" ? found : undefined;
}

function defaultLibrary(): string {
  return process.env.BALEEN_CUDA_LIBRARY ?? "libcuda.so.1";
}

function lookUp(library: string): CudaDriver | string {
  const known = drivers.get(library);
  if (known !== undefined) return known;
  const found = load(library);
  drivers.set(library, found);
  return found;
}

function load(library: string): CudaDriver | string {
  const layer = nativeLayer();
  if (layer === undefined) return nativeAbsence() ?? "there is no native layer";
  try {
    return bind(library, layer.koffi);
  } catch (error) {
    const [line] = String(error instanceof Error ? error.message : error).split("\n");
    return `NVIDIA's driver library could not be loaded (${line})`;
  }
}

type Koffi = NonNullable<ReturnType<typeof nativeLayer>>["koffi"];

function bind(library: string, koffi: Koffi): CudaDriver {
  const opened = koffi.load(library);
  const handle = koffi.struct({ bytes: koffi.array("uint8_t", 64) });
  const types = { p: "int64_t", i: "int32_t", b: "uint8_t", h: handle } as const;
  const functions = new Map<CudaFunction, ((...args: unknown[]) => number) | undefined>();
  const find = (name: CudaFunction): ((...args: unknown[]) => number) | undefined => {
    const [letters, symbol = name] = signatures[name].split("=");
    const parameters = [...letters].map((letter) => types[letter as keyof typeof types]);
    try {
      return opened.func(symbol, "int", parameters);
    } catch {
      return undefined;
    }
  };
  return {
    library,
    call(name, ...args) {
      if (!functions.has(name)) functions.set(name, find(name));
      const wanted = signatures[name].split("=")[0].length;
      assert(
        args.length === wanted,
        () => `${name}: got ${args.length} arguments, wanted ${wanted}`,
      );
      const call = functions.get(name);
      if (call === undefined) return statusOldDriver;
      return call(...args.map((arg) => (typeof arg === "number" ? arg : { bytes: arg })));
    },
  };
}
