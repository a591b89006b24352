/**
 * @file Anonymous memory: page-aligned, zeroed, huge pages where large, freed by the garbage
 * collector.
 */
import { alignUp, assert, BaleenError, formatBytes } from "../base/index.ts";
import { neededLayer, noteAddress } from "./koffi.ts";

/** Bytes of the smallest page; the alignment of every mapping. */
export const pageBytes = 4096;

/** The largest ArrayBuffer over native memory; a larger one would abort the process on Node 20. */
export const viewBytesMax: number = 2 ** 32;

/**
 * From this size on, memory asks for huge pages; below, they would waste more than they save.
 */
const hugeBytesMin = 4 * 2 ** 20;

const protectReadWrite = 3;
const mapPrivateAnonymous = 0x22;
const adviseHugePage = 14;

/**
 * Maps `bytes` of zeroed memory and returns its address; the caller calls `unmap`.
 * Throws `out-of-memory`.
 */
export function map(bytes: number): number {
  const layer = neededLayer();
  const size = alignUp(Math.max(1, bytes), pageBytes);
  const address = layer.mmap(0, size, protectReadWrite, mapPrivateAnonymous, -1, 0);
  if (address === -1) {
    throw new BaleenError(
      "out-of-memory",
      `${formatBytes(bytes)} of memory could not be mapped (${layer.errorName()}): ` +
        "free memory, raise the limit (ulimit -v), or ask for less.",
      { retry: "same" },
    );
  }
  // A hint only: where the kernel keeps huge pages off, it fails and nothing is lost.
  if (size >= hugeBytesMin) layer.madvise(address, size, adviseHugePage);
  return address;
}

/**
 * Gives back what `map` returned. Nothing may refer to it any more: a late access ends the process.
 */
export function unmap(address: number, bytes: number): void {
  neededLayer().munmap(address, alignUp(Math.max(1, bytes), pageBytes));
}

const freedWithBuffer = new FinalizationRegistry<{ address: number; bytes: number }>(
  ({ address, bytes }) => unmap(address, bytes),
);

/**
 * Zeroed memory, aligned to a page, freed when the buffer and every typed array over it are
 * unreachable (and not before: but an address taken from it keeps nothing alive). At most 4 GiB; a
 * larger need takes several. Other threads of the process may see it through `viewAt`, while this
 * thread keeps the buffer. Never transfer it: the memory would be freed with the emptied original.
 */
export function allocateMemory(bytes: number): ArrayBuffer {
  assert(
    Number.isSafeInteger(bytes) && bytes >= 0 && bytes <= viewBytesMax,
    () => `bytes of one allocation: got ${bytes}, wanted 0 to 4 GiB; use several for more`,
  );
  const address = map(bytes);
  const buffer = viewAt(address, bytes);
  freedWithBuffer.register(buffer, { address, bytes });
  return buffer;
}

/**
 * An ArrayBuffer over the `bytes` at `address`, without a copy; it owns nothing. Addresses travel
 * between threads as Numbers, and each thread makes its own view. At most 4 GiB.
 */
export function viewAt(address: number, bytes: number): ArrayBuffer {
  assert(
    Number.isSafeInteger(address) && address > 0,
    () => `address of a view: got ${address}, wanted a positive safe integer`,
  );
  assert(
    Number.isSafeInteger(bytes) && bytes >= 0 && bytes <= viewBytesMax,
    () => `bytes of one view: got ${bytes}, wanted 0 to 4 GiB; use several for more`,
  );
  const buffer = neededLayer().koffi.view(BigInt(address), bytes);
  noteAddress(buffer, address);
  return buffer;
}

const protectNone = 0;

/**
 * Zeroed memory of `bytes` (at least 1) between two pages that may be neither read nor written: it
 * ends right before the second one, or, with `side` "start", begins right after the first. An
 * access beyond that end kills the process by SIGSEGV: tests run kernels on such memory, in a child
 * process, to prove that they touch nothing else. Freed as `allocateMemory`'s is.
 */
export function allocateGuarded(bytes: number, side: "start" | "end" = "end"): ArrayBuffer {
  assert(
    Number.isSafeInteger(bytes) && bytes > 0 && bytes <= viewBytesMax,
    () => `bytes of guarded memory: got ${bytes}, wanted 1 to 4 GiB`,
  );
  const inside = alignUp(bytes, pageBytes);
  const address = map(inside + 2 * pageBytes);
  const layer = neededLayer();
  for (const guard of [address, address + pageBytes + inside]) {
    const failed = layer.mprotect(guard, pageBytes, protectNone) !== 0;
    assert(!failed, () => `a page could not be guarded (${layer.errorName()})`);
  }
  const start = address + pageBytes + (side === "end" ? inside - bytes : 0);
  const buffer = viewAt(start, bytes);
  freedWithBuffer.register(buffer, { address, bytes: inside + 2 * pageBytes });
  return buffer;
}
