/** @file The bytes of a file, range by range: a view of a mapping where there is one, else read. */
import { closeSync, fstatSync, openSync, readSync } from "node:fs";
import { tensorError } from "./errors.ts";

/** An open file. */
export interface FileBytes {
  readonly path: string;
  /** Bytes when it was opened. */
  readonly length: number;
  /** The bytes [offset, offset + length), which must lie within the file; not to be written to. */
  read(offset: number, length: number): Uint8Array;
  close(): void;
}

/** The most that one call reads: the system's limit is below 2 GiB. */
const readBytesMax = 2 ** 30;

/** Opens `path` for reading; raises `tensors-io`. */
export function openFileBytes(path: string): FileBytes {
  return attempt(path, () => readerOf(path));
}

function readerOf(path: string): FileBytes {
  const handle = openSync(path, "r");
  const length = fstatSync(handle).size;
  let open = true;
  return {
    path,
    length,
    read: (offset, count) => attempt(path, () => readRange(path, handle, offset, count)),
    close() {
      if (open) closeSync(handle);
      open = false;
    },
  };
}

function readRange(path: string, handle: number, offset: number, length: number): Uint8Array {
  // A buffer of its own, so that what is read starts aligned for every dtype.
  const bytes = new Uint8Array(length);
  for (let done = 0; done < length; ) {
    const count = Math.min(readBytesMax, length - done);
    const got = readSync(handle, bytes, done, count, offset + done);
    if (got === 0) {
      const message = `${path} became shorter while it was read. Download or write the file again.`;
      throw tensorError("tensors-invalid", message);
    }
    done += got;
  }
  return bytes;
}

function attempt<T>(path: string, action: () => T): T {
  try {
    return action();
  } catch (cause) {
    // Only the system's failures are translated; they carry a code such as EACCES.
    const code = (cause as NodeJS.ErrnoException).syscall && (cause as NodeJS.ErrnoException).code;
    if (!code) throw cause;
    const message = `${path} can't be read (${code}). Check that the file is there and readable.`;
    throw tensorError("tensors-io", message, cause);
  }
}
