/** @file Files as memory: mapped where there is a native layer, else read range by range. */
import { closeSync, fstatSync, openSync, readSync } from "node:fs";
import { assert, BaleenError } from "../base/index.ts";
import { nativeLayer, neededLayer } from "./koffi.ts";
import { viewAt, viewBytesMax } from "./memory.ts";

const protectRead = 1;
const mapPrivate = 2;
/** Node refuses to read 2 GiB at once. */
const readBytesMax = 2 ** 30;

/**
 * A file's bytes, read-only, as they were (or are: a file must not change while it is open here).
 */
export interface FileBytes {
  /** The file's path, for messages. */
  readonly path: string;
  /** Bytes in the file. */
  readonly bytes: number;
  /** Whether views are the page cache itself, rather than copies. */
  readonly mapped: boolean;
  /**
   * The bytes from `offset` on, at most 4 GiB; the file stays open as long as any view is
   * reachable. Where `mapped`, writing to a view ends the process.
   */
  view(offset: number, length: number): Uint8Array<ArrayBuffer>;
}

/**
 * Opens the file at `path`: mapped, without reading it, where there is a native layer; else each
 * view reads its range. Throws `file-unreadable`.
 */
export function mapFile(path: string): FileBytes {
  const file = attempt(path, () => openSync(path, "r"));
  let kept = false;
  try {
    const bytes = attempt(path, () => {
      const status = fstatSync(file);
      if (!status.isFile()) throw new Error("it is not a regular file");
      return status.size;
    });
    const layer = bytes === 0 ? undefined : nativeLayer();
    const address = layer?.mmap(0, bytes, protectRead, mapPrivate, file, 0) ?? -1;
    // Some file systems cannot map; reading serves there too.
    if (address !== -1) return mappedBytes(path, bytes, address);
    kept = true;
    return readBytes(path, bytes, file);
  } finally {
    if (!kept) closeSync(file);
  }
}

function attempt<T>(path: string, action: () => T): T {
  try {
    return action();
  } catch (cause) {
    const reason = cause instanceof Error ? cause.message : String(cause);
    throw new BaleenError(
      "file-unreadable",
      `file ${path} cannot be read (${reason}): check the path and its permissions.`,
      { cause },
    );
  }
}

// A hold is the object that everybody who needs the open file refers to. What runs when it is
// unreachable gets plain numbers: a closure made beside the hold would keep it reachable for ever.
const unmappedWithHold = new FinalizationRegistry<{ address: number; bytes: number }>(
  ({ address, bytes }) => neededLayer().munmap(address, bytes),
);
const closedWithHold = new FinalizationRegistry<number>((file) => closeSync(file));
/** Makes every view refer to the hold of the mapping it lies in. */
const holdOfView = new WeakMap<ArrayBuffer, object>();

function checkRange(path: string, bytes: number, offset: number, length: number): void {
  const whole = Number.isSafeInteger(offset) && Number.isSafeInteger(length);
  assert(
    whole && offset >= 0 && length >= 0 && offset + length <= bytes && length <= viewBytesMax,
    () =>
      `range of ${path}: got ${length} bytes at ${offset}, wanted within ${bytes}, 4 GiB at most`,
  );
}

function mappedBytes(path: string, bytes: number, address: number): FileBytes {
  const hold = { address };
  unmappedWithHold.register(hold, { address, bytes });
  return {
    path,
    bytes,
    mapped: true,
    view(offset, length) {
      checkRange(path, bytes, offset, length);
      if (length === 0) return new Uint8Array(0);
      const buffer = viewAt(hold.address + offset, length);
      holdOfView.set(buffer, hold);
      return new Uint8Array(buffer);
    },
  };
}

function readBytes(path: string, bytes: number, file: number): FileBytes {
  // Views are copies, so the reader alone holds the file; it does so by naming `hold` in `view`.
  const hold = { file };
  closedWithHold.register(hold, file);
  return {
    path,
    bytes,
    mapped: false,
    view(offset, length) {
      checkRange(path, bytes, offset, length);
      const view = new Uint8Array(length);
      const done = attempt(path, () =>
        readPieces(length, readBytesMax, (start, count) =>
          readSync(hold.file, view, start, count, offset + start),
        ),
      );
      if (done < length) {
        throw new BaleenError(
          "file-unreadable",
          `file ${path} ended at ${offset + done} of ${bytes} bytes: it changed while open.`,
        );
      }
      return view;
    },
  };
}

/**
 * Calls `read(start, count)`, which returns how many bytes it read there, until `length` bytes are
 * read or there are no more, and returns how many were; `count` is `pieceBytes` at most.
 */
export function readPieces(
  length: number,
  pieceBytes: number,
  read: (start: number, count: number) => number,
): number {
  let done = 0;
  while (done < length) {
    const count = read(done, Math.min(pieceBytes, length - done));
    if (count === 0) break;
    done += count;
  }
  return done;
}
