/** @file Machine code: bytes in, address out; a page is writable or executable, never both. */
import { assert } from "../base/index.ts";
import { type NativeLayer, neededLayer } from "./koffi.ts";
import { map, unmap, viewAt } from "./memory.ts";

const protectReadExecute = 5;

/** Copies `code` to pages of its own, makes them executable, and returns their address. */
export function loadCode(code: Uint8Array): number {
  assert(code.length > 0, "machine code: got no bytes");
  const address = map(code.length);
  new Uint8Array(viewAt(address, code.length)).set(code);
  const layer = neededLayer();
  const failed = layer.mprotect(address, code.length, protectReadExecute) !== 0;
  assert(!failed, () => `pages could not be made executable (${layer.errorName()})`);
  return address;
}

/** Unmaps the `bytes` of code at `address`; nobody may run it now or later. */
export function freeCode(address: number, bytes: number): void {
  unmap(address, bytes);
}

let prototypes: { one: unknown; three: unknown } | undefined;

function prototypesOf(layer: NativeLayer): { one: unknown; three: unknown } {
  const { koffi } = layer;
  // Without names, since names are unique per thread and this module may be loaded twice.
  prototypes ??= {
    one: koffi.proto("void", ["int64_t"]),
    three: koffi.proto("void", ["int64_t", "int64_t", "int64_t"]),
  };
  return prototypes;
}

/** The code at `address` as a function of one integer (rdi); a call costs about 25 ns. */
export function callable(address: number): (argument: number) => void {
  const layer = neededLayer();
  return layer.koffi.decode(BigInt(address), prototypesOf(layer).one as string);
}

/**
 * The code at `address` as a function of three integers (rdi, rsi, rdx): the signature of a kernel.
 */
export function callableOfThree(address: number): (a: number, b: number, c: number) => void {
  const layer = neededLayer();
  return layer.koffi.decode(BigInt(address), prototypesOf(layer).three as string);
}
