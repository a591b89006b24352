/** @file Records in files: read block by block, one ahead, and written the same way. */
import { type FileHandle, open, stat } from "node:fs/promises";
import { BaleenError } from "../../base/index.ts";
import { recordBytes } from "./record.ts";

/** A stretch of a file that holds whole records. */
export interface Segment {
  readonly path: string;
  /** Byte at which it starts. */
  readonly offset: number;
  /** Its length. */
  readonly bytes: number;
}

/** Bytes of a block: whole records, small enough to stay in the cache until they are used. */
export const blockBytes: number = Math.floor((4 * 2 ** 20) / recordBytes) * recordBytes;

/** The bytes of all `segments`. */
export function bytesOf(segments: readonly Segment[]): number {
  return segments.reduce((sum, { bytes }) => sum + bytes, 0);
}

/** The whole of the file at `path`. Throws where it is missing, no file, or cuts a record short. */
export async function wholeFile(path: string): Promise<Segment> {
  const found = await stat(path).catch((cause) => {
    throw fileError(`input ${path}`, cause);
  });
  if (!found.isFile()) {
    throw new BaleenError("not-a-file", `input ${path} is no file: name a file of records.`);
  }
  if (found.size % recordBytes !== 0) {
    throw new BaleenError(
      "torn-record",
      `input ${path} has ${found.size} bytes, which is no multiple of ${recordBytes}: ` +
        "it is cut short, or does not hold records.",
    );
  }
  return { path, offset: 0, bytes: found.size };
}

/** A failure of the file system as a sentence that says what to do. */
export function fileError(what: string, cause: unknown): Error {
  const { code } = cause as NodeJS.ErrnoException;
  const advice: Record<string, string> = {
    ENOENT: "does not exist: check the path.",
    EACCES: "may not be accessed: check its permissions.",
    EISDIR: "is a directory: name a file.",
    ENOSPC: "does not fit on the disk: free space, then run again; what is finished is kept.",
    EDQUOT: "exceeds the disk quota: free space, then run again; what is finished is kept.",
    EFBIG: "exceeds the file size limit: raise it (ulimit -f), then run again.",
    EIO: "could not be read or written (EIO): check the disk.",
  };
  if (code === undefined || !(code in advice)) return cause as Error;
  const full = ["ENOSPC", "EDQUOT", "EFBIG"].includes(code);
  return new BaleenError(full ? "disk-full" : "file-failed", `${what} ${advice[code]}`, {
    retry: "same",
    cause,
  });
}

/**
 * The records of `segments` in order, in blocks of at most `blockBytes`; a block is valid until the
 * next is asked for. The next block is read while the caller works on one.
 */
export async function* readBlocks(
  segments: readonly Segment[],
  signal?: AbortSignal,
): AsyncGenerator<Uint8Array> {
  const buffers = [Buffer.allocUnsafeSlow(blockBytes), Buffer.allocUnsafeSlow(blockBytes)];
  let turn = 0;
  for (const { path, offset, bytes } of segments) {
    const file = await open(path).catch((cause) => {
      throw fileError(`input ${path}`, cause);
    });
    let ahead: Promise<Uint8Array> | undefined;
    try {
      for (let at = 0; at < bytes; at += blockBytes) {
        signal?.throwIfAborted();
        const size = Math.min(blockBytes, bytes - at);
        ahead ??= readWhole(file, buffers[turn].subarray(0, size), offset + at, path);
        const block = await ahead;
        turn ^= 1;
        const nextSize = Math.min(blockBytes, bytes - at - blockBytes);
        ahead =
          nextSize > 0
            ? readWhole(file, buffers[turn].subarray(0, nextSize), offset + at + size, path)
            : undefined;
        ahead?.catch(() => {}); // reported when awaited, or moot
        yield block;
      }
    } finally {
      await ahead?.catch(() => {});
      await file.close();
    }
  }
}

async function readWhole(
  file: FileHandle,
  buffer: Uint8Array,
  offset: number,
  path: string,
): Promise<Uint8Array> {
  for (let done = 0; done < buffer.length; ) {
    const { bytesRead } = await file.read(buffer, done, buffer.length - done, offset + done);
    if (bytesRead === 0) {
      throw new BaleenError(
        "input-changed",
        `input ${path} ended before byte ${offset + buffer.length}: it was cut while it was read.`,
      );
    }
    done += bytesRead;
  }
  return buffer;
}

/** Writes a file from its start, one block behind the caller; `finish` makes it durable. */
export class BlockWriter {
  readonly path: string;
  private readonly file: FileHandle;
  private readonly buffers: Buffer[] = [];
  private turn = 0;
  private pending: Promise<unknown> = Promise.resolve();
  private written = 0;

  private constructor(path: string, file: FileHandle) {
    this.path = path;
    this.file = file;
  }

  /** A writer of a new file; an existing one is emptied. */
  static async open(path: string): Promise<BlockWriter> {
    const file = await open(path, "w").catch((cause) => {
      throw fileError(`output ${path}`, cause);
    });
    return new BlockWriter(path, file);
  }

  /** Bytes handed over so far. */
  get bytes(): number {
    return this.written;
  }

  /** Writes `bytes` (at most `blockBytes`) that `fill` puts into the buffer it gets. */
  async write(bytes: number, fill: (buffer: Uint8Array) => void): Promise<void> {
    this.buffers[this.turn] ??= Buffer.allocUnsafeSlow(blockBytes);
    const buffer = this.buffers[this.turn].subarray(0, bytes);
    this.turn ^= 1;
    fill(buffer);
    await this.settle();
    this.start([buffer]);
  }

  /** Writes `pieces`, which must keep their contents until the next call returns. */
  async writeAll(pieces: readonly Uint8Array[]): Promise<void> {
    await this.settle();
    this.start(pieces);
  }

  private start(pieces: readonly Uint8Array[]): void {
    const position = this.written;
    this.written += pieces.reduce((sum, { length }) => sum + length, 0);
    this.pending = writePieces(this.file, pieces, position);
    this.pending.catch(() => {}); // thrown by the next `settle`
  }

  /** Waits until what was handed over has been written; throws what went wrong. */
  async settle(): Promise<void> {
    await this.pending.catch((cause) => {
      throw fileError(`output ${this.path}`, cause);
    });
  }

  /** Waits, makes the file durable and closes it. */
  async finish(): Promise<void> {
    await this.settle();
    await this.file.datasync().catch((cause) => {
      throw fileError(`output ${this.path}`, cause);
    });
    await this.file.close();
  }

  /** Closes the file as it is. */
  async abandon(): Promise<void> {
    await this.pending.catch(() => {});
    await this.file.close().catch(() => {});
  }
}

/** Pieces that one system call takes. */
const piecesMax = 512;

async function writePieces(
  file: FileHandle,
  pieces: readonly Uint8Array[],
  start: number,
): Promise<void> {
  let position = start;
  for (let first = 0; first < pieces.length; first += piecesMax) {
    let rest: Uint8Array[] = pieces.slice(first, first + piecesMax);
    while (rest.length > 0) {
      const { bytesWritten } = await file.writev(rest, position);
      position += bytesWritten;
      rest = without(rest, bytesWritten);
    }
  }
}

/** What is left of `pieces` behind their first `bytes`. */
function without(pieces: readonly Uint8Array[], bytes: number): Uint8Array[] {
  let skip = bytes;
  return pieces.flatMap((piece) => {
    const dropped = Math.min(skip, piece.length);
    skip -= dropped;
    return dropped === piece.length ? [] : [piece.subarray(dropped)];
  });
}
