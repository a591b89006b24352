/**
 * @file A session with the kernel: reads requests, has the file system answer, writes replies.
 *
 * A thread of the event loop's pool waits for requests; then all that have come are taken without
 * waiting. Requests are answered in any order. A write keeps its buffer until it is done, and there
 * are as many buffers as writes may run at a time: when all are in use, nothing more is read, and the
 * kernel waits.
 */
import { closeSync, readSync, writev, writevSync } from "node:fs";
import { promisify } from "node:util";
import { BaleenError } from "../../base/index.ts";
import { waitReadable } from "../../native/index.ts";
import { type FileSystem, FileSystemError } from "./file-system.ts";
import { type Answer, answerRequest } from "./handlers.ts";
import {
  errno,
  inHeaderBytes,
  initFlag,
  opcode,
  outHeaderBytes,
  ReplyWriter,
  RequestReader,
} from "./protocol.ts";

const writevAsync = promisify(writev) as unknown as (
  descriptor: number,
  pieces: readonly Uint8Array[],
) => Promise<unknown>;

/** How a session behaves. */
export interface SessionOptions {
  /** How long the kernel may keep entries and attributes; default 1,000 ms. 0 asks every time. */
  readonly validMs?: number;
  /** Most bytes of one write; default 1 MiB. */
  readonly maxWriteBytes?: number;
  /** Writes that may run at a time; default 16. */
  readonly maxWrites?: number;
  /** Told of errors that no error number fits, before they are answered with EIO. */
  readonly onError?: (error: unknown) => void;
}

/** What session and kernel agreed on. */
export interface Agreement {
  readonly minor: number;
  readonly maxWriteBytes: number;
}

/** How long the wait for requests lasts before it begins anew, so that a process can end. */
const pollMs = 1000;
const minorMin = 31;
const minorMax = 45;
const pageBytes = 4096;
const wantedFlags = [
  initFlag.asyncRead,
  initFlag.posixLocks,
  initFlag.atomicTruncate,
  initFlag.exportSupport,
  initFlag.bigWrites,
  initFlag.flockLocks,
  initFlag.autoInvalidate,
  initFlag.readdirplus,
  initFlag.readdirplusAuto,
  initFlag.asyncDirectIo,
  initFlag.parallelDirectoryOps,
  initFlag.abortError,
  initFlag.maxPages,
  initFlag.initExtended,
  initFlag.directIoAllowMmap,
];

const notifyInode = 2;
const notifyEntry = 3;

/** Serves one mount. */
export class FuseSession {
  private readonly fileSystem: FileSystem;
  private readonly descriptor: number;
  private readonly validMs: number;
  private readonly maxWriteBytes: number;
  private readonly onError: (error: unknown) => void;
  private readonly buffers: Buffer[] = [];
  private readonly waiting: ((buffer: Buffer) => void)[] = [];
  private readonly interruptible = new Map<bigint, AbortController>();
  private readonly running = new Set<Promise<void>>();
  private agreement: Agreement | undefined;
  private onAgreed: ((agreement: Agreement) => void) | undefined;
  private ended = false;

  /** `descriptor` is what `mountFuse` returned. */
  constructor(fileSystem: FileSystem, descriptor: number, options: SessionOptions = {}) {
    this.fileSystem = fileSystem;
    this.descriptor = descriptor;
    this.validMs = options.validMs ?? 1000;
    this.maxWriteBytes = options.maxWriteBytes ?? 2 ** 20;
    this.onError = options.onError ?? (() => {});
    const bytes = this.maxWriteBytes + pageBytes;
    for (let i = 0; i < (options.maxWrites ?? 16); i++)
      this.buffers.push(Buffer.allocUnsafe(bytes));
  }

  /** Resolves with what was agreed when the kernel has said hello. */
  agreed(): Promise<Agreement> {
    const { agreement } = this;
    if (agreement) return Promise.resolve(agreement);
    return new Promise((resolve) => {
      this.onAgreed = resolve;
    });
  }

  /** Serves until the file system is unmounted; what runs then is waited for. */
  async serve(): Promise<void> {
    try {
      while (!this.ended) {
        await waitReadable(this.descriptor, pollMs);
        await this.drain();
      }
    } finally {
      this.ended = true;
      for (const controller of this.interruptible.values()) controller.abort();
      await Promise.all(this.running);
      closeSync(this.descriptor);
    }
  }

  /** Takes what has come, with a turn of the event loop now and then. */
  private async drain(): Promise<void> {
    for (let taken = 1; !this.ended; taken++) {
      const buffer = await this.takeBuffer();
      const length = readNow(this.descriptor, buffer);
      if (length < 0) this.ended = true;
      if (length <= 0) {
        this.giveBuffer(buffer);
        return;
      }
      this.dispatch(buffer, length);
      if (taken % 32 === 0) await new Promise(setImmediate);
    }
  }

  private takeBuffer(): Promise<Buffer> {
    const buffer = this.buffers.pop();
    if (buffer) return Promise.resolve(buffer);
    return new Promise((resolve) => this.waiting.push(resolve));
  }

  private giveBuffer(buffer: Buffer): void {
    const next = this.waiting.shift();
    if (next) next(buffer);
    else this.buffers.push(buffer);
  }

  /** Starts the answer to the request in `buffer`, which comes back when it is no longer needed. */
  private dispatch(buffer: Buffer, length: number): void {
    const code = buffer.readUInt32LE(4);
    const unique = buffer.readBigUInt64LE(8);
    const isWrite = code === opcode.write;
    // Only a write is worth keeping the buffer for; the others are a few bytes.
    const request = isWrite ? buffer.subarray(0, length) : Buffer.from(buffer.subarray(0, length));
    if (!isWrite) this.giveBuffer(buffer);
    const done = this.handle(code, unique, request)
      .catch(this.onError)
      .finally(() => {
        if (isWrite) this.giveBuffer(buffer);
        this.running.delete(done);
      });
    this.running.add(done);
  }

  private async handle(code: number, unique: bigint, request: Buffer): Promise<void> {
    const body = new RequestReader(request.subarray(inHeaderBytes));
    if (code === opcode.init) this.greet(unique, body);
    else if (code === opcode.interrupt) this.interruptible.get(body.big())?.abort();
    else if (code === opcode.destroy) this.reply(unique, 0, []);
    else {
      const answer = await this.answer(code, unique, request, body);
      if (answer === "none") return;
      if (typeof answer === "number") this.reply(unique, -answer, []);
      else this.reply(unique, 0, answer);
    }
  }

  /** The reply's pieces, an error number, or "none" where the kernel waits for nothing. */
  private async answer(
    code: number,
    unique: bigint,
    request: Buffer,
    body: RequestReader,
  ): Promise<Answer | number> {
    const who = {
      uid: request.readUInt32LE(24),
      gid: request.readUInt32LE(28),
      pid: request.readUInt32LE(32),
    };
    const node = request.readUInt32LE(16) + request.readUInt32LE(20) * 2 ** 32;
    const signal = (): AbortSignal => {
      const controller = new AbortController();
      this.interruptible.set(unique, controller);
      return controller.signal;
    };
    const context = { who, node, body, validMs: this.validMs, signal };
    try {
      return (await answerRequest(this.fileSystem, code, context)) ?? errno.ENOSYS;
    } catch (error) {
      return this.errnoOf(error);
    } finally {
      this.interruptible.delete(unique);
    }
  }

  private errnoOf(error: unknown): number {
    if (error instanceof FileSystemError) return error.errno;
    if (error instanceof Error && error.name === "AbortError") return errno.EINTR;
    this.onError(error);
    return errno.EIO;
  }

  private greet(unique: bigint, body: RequestReader): void {
    const [major, minor, readAhead, low] = [body.u32(), body.u32(), body.u32(), body.u32()];
    if (major !== 7 || minor < minorMin) {
      this.reply(unique, -errno.EPROTO, []);
      this.ended = true;
      throw new BaleenError(
        "kernel-too-old",
        `the kernel speaks FUSE ${major}.${minor}, and 7.${minorMin} is needed: use Linux 5.4 or later.`,
      );
    }
    const isExtended = (low & (1 << initFlag.initExtended)) !== 0;
    const offered = BigInt(low) | (isExtended ? BigInt(body.u32()) << 32n : 0n);
    const wanted = wantedFlags.reduce((all, bit) => all | (1n << BigInt(bit)), 0n);
    const flags = offered & wanted;
    const agreedMinor = Math.min(minor, minorMax);
    const answer = new ReplyWriter(64)
      .u32(7)
      .u32(agreedMinor)
      .u32(readAhead)
      .u32(Number(flags & 0xffffffffn))
      .u16(256) // requests that the kernel keeps in the background
      .u16(192) // from here on it holds back who asks
      .u32(this.maxWriteBytes)
      .u32(1) // nanoseconds of a timestamp's step
      .u16(this.maxWriteBytes / pageBytes)
      .u16(0)
      .u32(Number(flags >> 32n)).bytes;
    this.reply(unique, 0, [answer]);
    this.agreement = {
      minor: agreedMinor,
      maxWriteBytes: this.maxWriteBytes,
    };
    this.onAgreed?.(this.agreement);
  }

  private reply(unique: bigint, status: number, pieces: readonly Uint8Array[]): void {
    const header = Buffer.allocUnsafe(outHeaderBytes);
    const length = pieces.reduce((sum, piece) => sum + piece.length, outHeaderBytes);
    header.writeUInt32LE(length, 0);
    header.writeInt32LE(status, 4);
    header.writeBigUInt64LE(unique, 8);
    try {
      writevSync(this.descriptor, [header, ...pieces]);
    } catch (error) {
      const { code } = error as NodeJS.ErrnoException;
      // The asker was interrupted or the mount is gone: nobody waits for the reply.
      if (code !== "ENOENT" && code !== "ENODEV") throw error;
    }
  }

  /** Has the kernel forget what it keeps of the file `node`: attributes, and its cached bytes. */
  async invalidateNode(node: number): Promise<void> {
    await this.notify(notifyInode, new ReplyWriter(24).u64(node).u64(0).u64(0).bytes);
  }

  /** Has the kernel forget the entry `name` of the directory `parent`. */
  async invalidateEntry(parent: number, name: string): Promise<void> {
    const text = Buffer.from(name);
    const body = new ReplyWriter(17 + text.length).u64(parent).u32(text.length).u32(0).raw(text);
    await this.notify(notifyEntry, body.bytes);
  }

  /** On another thread: the kernel may wait for a reply of this one before it takes a notice. */
  private async notify(code: number, body: Uint8Array): Promise<void> {
    const header = Buffer.alloc(outHeaderBytes);
    header.writeUInt32LE(outHeaderBytes + body.length, 0);
    header.writeInt32LE(code, 4);
    try {
      await writevAsync(this.descriptor, [header, body]);
    } catch (error) {
      // What it was to forget, the kernel does not know.
      if ((error as NodeJS.ErrnoException).code !== "ENOENT") throw error;
    }
  }
}

/** The length of a request that is there already; 0 when none is, -1 when unmounted. */
function readNow(descriptor: number, buffer: Buffer): number {
  try {
    return readSync(descriptor, buffer, 0, buffer.length, null);
  } catch (error) {
    return isOver(error) ? -1 : 0;
  }
}

/** Whether the mount is gone; throws what is neither that nor a reason to read again. */
function isOver(error: unknown): boolean {
  const { code } = error as NodeJS.ErrnoException;
  if (code === "ENODEV" || code === "ECONNABORTED") return true;
  if (code === "EINTR" || code === "EAGAIN" || code === "ENOENT") return false;
  throw error;
}
