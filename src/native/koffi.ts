/**
 * @file The way out of JavaScript: koffi, loaded once per thread on first use, and the C library
 * that the process already runs on (glibc and musl alike). Everything else in this room stands on
 * it.
 */
import { createRequire } from "node:module";
import { assert } from "../base/index.ts";

type Koffi = typeof import("koffi").default;

/** The C functions in use. Addresses, sizes and results are Numbers; -1 means see `errno`. */
export interface NativeLayer {
  readonly koffi: Koffi;
  mmap(
    address: number,
    bytes: number,
    protection: number,
    flags: number,
    file: number,
    offset: number,
  ): number;
  munmap(address: number, bytes: number): number;
  mprotect(address: number, bytes: number, protection: number): number;
  madvise(address: number, bytes: number, advice: number): number;
  clockGettime(clock: number, timespecAddress: number): number;
  pthreadCreate(handleAddress: number, attributes: number, start: number, argument: number): number;
  pthreadJoin(handle: number, resultAddress: number): number;
  setsockopt(socket: number, level: number, option: number, address: number, bytes: number): number;
  /** A raw system call with up to three arguments. */
  syscall(number: number, a: number, b: number, c: number): number;
  /** The name of the last error on this thread, such as `ENOMEM`. */
  errorName(): string;
}

let loaded: NativeLayer | string | undefined;

/** The native layer, or undefined where there is none; loads it at the first call. Never throws. */
export function nativeLayer(): NativeLayer | undefined {
  loaded ??= load();
  return typeof loaded === "string" ? undefined : loaded;
}

/** Why there is no native layer, in one line without a full stop; undefined when there is one. */
export function nativeAbsence(): string | undefined {
  loaded ??= load();
  return typeof loaded === "string" ? loaded : undefined;
}

/** The native layer; throws an assertion where there is none, so ask `nativeLayer()` first. */
export function neededLayer(): NativeLayer {
  const layer = nativeLayer();
  assert(layer !== undefined, () => `the native layer is needed: ${nativeAbsence()}`);
  return layer;
}

function load(): NativeLayer | string {
  if (process.env.BALEEN_NO_NATIVE === "1") return "BALEEN_NO_NATIVE=1 forbids it";
  // The constants in this room are those of this one system; others are not tested, so not tried.
  if (process.platform !== "linux" || process.arch !== "x64") {
    return `machine code is written for linux x64, and this is ${process.platform} ${process.arch}`;
  }
  try {
    return bind(createRequire(import.meta.url)("koffi") as Koffi);
  } catch (error) {
    const [line] = String(error instanceof Error ? error.message : error).split("\n");
    return `koffi could not be loaded (${line})`;
  }
}

function bind(koffi: Koffi): NativeLayer {
  const libc = koffi.load(null);
  const long = "int64_t";
  return {
    koffi,
    mmap: libc.func("mmap", long, [long, long, "int", "int", "int", long]),
    munmap: libc.func("munmap", "int", [long, long]),
    mprotect: libc.func("mprotect", "int", [long, long, "int"]),
    madvise: libc.func("madvise", "int", [long, long, "int"]),
    clockGettime: libc.func("clock_gettime", "int", ["int", long]),
    pthreadCreate: libc.func("pthread_create", "int", [long, long, long, long]),
    pthreadJoin: libc.func("pthread_join", "int", [long, long]),
    setsockopt: libc.func("setsockopt", "int", ["int", "int", "int", long, "int"]),
    syscall: libc.func("syscall", long, [long, long, long, long]),
    errorName() {
      const code = koffi.errno();
      const found = Object.entries(koffi.os.errno).find(([, value]) => value === code);
      return found?.[0] ?? `error ${code}`;
    },
  };
}

const baseAddresses = new WeakMap<ArrayBufferLike, number>();

/**
 * The address of a typed array's first byte, or 0 where there is no native layer. It holds as long
 * as the buffer does. The first call for a buffer costs about 50 ns, later ones a table look-up.
 */
export function addressOf(data: ArrayBufferView): number {
  // V8 keeps small arrays on its moving heap until somebody asks for their buffer: that pins them.
  const buffer = data.buffer;
  let base = baseAddresses.get(buffer);
  if (base === undefined) {
    const layer = nativeLayer();
    base = layer === undefined ? 0 : Number(layer.koffi.address(new Uint8Array(buffer)));
    baseAddresses.set(buffer, base);
  }
  return base === 0 ? 0 : base + data.byteOffset;
}

/**
 * Notes the address of a buffer that this room made itself, which saves `addressOf` from asking.
 */
export function noteAddress(buffer: ArrayBufferLike, address: number): void {
  baseAddresses.set(buffer, address);
}
