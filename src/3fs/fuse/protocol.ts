/**
 * @file The kernel's file-system protocol (FUSE 7.31 to 7.45): operation codes, flags, and the layout
 * of requests and replies, little-endian. Source of numbers and layouts: the kernel's interface header
 * <linux/fuse.h>.
 */

/** Operations by the kernel's number. */
export const opcode = {
  lookup: 1,
  forget: 2,
  getattr: 3,
  setattr: 4,
  readlink: 5,
  symlink: 6,
  mknod: 8,
  mkdir: 9,
  unlink: 10,
  rmdir: 11,
  rename: 12,
  link: 13,
  open: 14,
  read: 15,
  write: 16,
  statfs: 17,
  release: 18,
  fsync: 20,
  setxattr: 21,
  getxattr: 22,
  listxattr: 23,
  removexattr: 24,
  flush: 25,
  init: 26,
  opendir: 27,
  readdir: 28,
  releasedir: 29,
  fsyncdir: 30,
  getlk: 31,
  setlk: 32,
  setlkw: 33,
  access: 34,
  create: 35,
  interrupt: 36,
  destroy: 38,
  batchForget: 42,
  fallocate: 43,
  readdirplus: 44,
  rename2: 45,
  lseek: 46,
  copyFileRange: 47,
  syncfs: 50,
} as const;

/** What the session asks the kernel for; bits 32 and up lie in the second word of flags. */
export const initFlag = {
  asyncRead: 0,
  posixLocks: 1,
  atomicTruncate: 3,
  exportSupport: 4,
  bigWrites: 5,
  dontMask: 6,
  flockLocks: 10,
  autoInvalidate: 12,
  readdirplus: 13,
  readdirplusAuto: 14,
  asyncDirectIo: 15,
  parallelDirectoryOps: 18,
  abortError: 21,
  maxPages: 22,
  setxattrExtended: 29,
  initExtended: 30,
  directIoAllowMmap: 36,
} as const;

/** Error numbers of Linux that a file system answers with. */
export const errno = {
  EPERM: 1,
  ENOENT: 2,
  EINTR: 4,
  EIO: 5,
  E2BIG: 7,
  EBADF: 9,
  EAGAIN: 11,
  ENOMEM: 12,
  EACCES: 13,
  EBUSY: 16,
  EEXIST: 17,
  EXDEV: 18,
  ENODEV: 19,
  ENOTDIR: 20,
  EISDIR: 21,
  EINVAL: 22,
  ENFILE: 23,
  ETXTBSY: 26,
  EFBIG: 27,
  ENOSPC: 28,
  EROFS: 30,
  EMLINK: 31,
  ERANGE: 34,
  EDEADLK: 35,
  ENAMETOOLONG: 36,
  ENOSYS: 38,
  ENOTEMPTY: 39,
  ELOOP: 40,
  ENODATA: 61,
  EPROTO: 71,
  EOVERFLOW: 75,
  EOPNOTSUPP: 95,
  ETIMEDOUT: 110,
  ESTALE: 116,
  EDQUOT: 122,
} as const;

/** The name of an error number. */
export type ErrorName = keyof typeof errno;

/** Bytes of the header of a request. */
export const inHeaderBytes = 40;
/** Bytes of the header of a reply. */
export const outHeaderBytes = 16;
/** Bytes of a file's attributes in a reply. */
const attributesBytes = 88;
/** Bytes of an entry: node, generation, validity, attributes. */
const entryBytes = 40 + attributesBytes;

/** Who asks. */
export interface Requester {
  readonly uid: number;
  readonly gid: number;
  /** The process; 0 where it is of another namespace. */
  readonly pid: number;
}

/** A file's attributes; times are milliseconds since 1970, with fractions. */
export interface Attributes {
  readonly inode: number;
  readonly size: number;
  /** Kind of file and permissions, as in `stat`. */
  readonly mode: number;
  readonly links: number;
  readonly uid: number;
  readonly gid: number;
  readonly device?: number;
  readonly accessedMs: number;
  readonly modifiedMs: number;
  readonly changedMs: number;
  /** Units of 512 bytes in use; default as many as the size needs. */
  readonly blocks?: number;
  /** The size that suits reading and writing; default 1 MiB. */
  readonly preferredBytes?: number;
}

/** The answer to a look-up. */
export interface Entry {
  /** What the kernel calls the file from now on; 0 in a cached absence. */
  readonly node: number;
  readonly attributes: Attributes;
  /** Grows when a node number is used again. */
  readonly generation?: number;
}

/** Reads the fields of a request in order. */
export class RequestReader {
  private readonly view: DataView;
  private readonly bytes: Uint8Array;
  private at = 0;

  /** `bytes` is the body behind the header. */
  constructor(bytes: Uint8Array) {
    this.bytes = bytes;
    this.view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  }

  /** An unsigned 32-bit field. */
  u32(): number {
    this.at += 4;
    return this.view.getUint32(this.at - 4, true);
  }

  /** An unsigned 64-bit field, exact up to 2^53. */
  u64(): number {
    this.at += 8;
    const low = this.view.getUint32(this.at - 8, true);
    return this.view.getUint32(this.at - 4, true) * 2 ** 32 + low;
  }

  /** An unsigned 64-bit field, whatever its value. */
  big(): bigint {
    this.at += 8;
    return this.view.getBigUint64(this.at - 8, true);
  }

  /** Passes over `bytes`. */
  skip(bytes: number): this {
    this.at += bytes;
    return this;
  }

  /** A text that ends with a zero byte. */
  name(): string {
    const end = this.bytes.indexOf(0, this.at);
    const text = Buffer.from(
      this.bytes.buffer,
      this.bytes.byteOffset + this.at,
      (end < 0 ? this.bytes.length : end) - this.at,
    ).toString();
    this.at = end < 0 ? this.bytes.length : end + 1;
    return text;
  }

  /** The next `length` bytes, or all that are left; a view. */
  rest(length: number = this.bytes.length - this.at): Uint8Array {
    this.at += length;
    return this.bytes.subarray(this.at - length, this.at);
  }
}

/** Writes the fields of a reply in order. */
export class ReplyWriter {
  readonly bytes: Buffer;
  private at = 0;

  constructor(bytes: number) {
    this.bytes = Buffer.alloc(bytes);
  }

  /** Bytes written so far. */
  get length(): number {
    return this.at;
  }

  /** An unsigned 16-bit field. */
  u16(value: number): this {
    this.at = this.bytes.writeUInt16LE(value, this.at);
    return this;
  }

  /** A 32-bit field. */
  u32(value: number): this {
    this.at = this.bytes.writeUInt32LE(value >>> 0, this.at);
    return this;
  }

  /** A 64-bit field, exact up to 2^53. */
  u64(value: number): this {
    return this.u32(value).u32(Math.floor(value / 2 ** 32));
  }

  /** Bytes as they are. */
  raw(bytes: Uint8Array): this {
    this.bytes.set(bytes, this.at);
    this.at += bytes.length;
    return this;
  }

  /** Zero bytes. */
  zeros(count: number): this {
    this.at += count;
    return this;
  }

  /** How long something may be cached: whole seconds now, nanoseconds with `nanoseconds`. */
  private seconds(ms: number): this {
    return this.u64(Math.floor(ms / 1000));
  }

  private nanoseconds(ms: number): this {
    return this.u32(Math.floor((ms - Math.floor(ms / 1000) * 1000) * 1e6));
  }

  /** A file's attributes. */
  attributes(a: Attributes): this {
    this.u64(a.inode)
      .u64(a.size)
      .u64(a.blocks ?? Math.ceil(a.size / 512));
    this.seconds(a.accessedMs).seconds(a.modifiedMs).seconds(a.changedMs);
    this.nanoseconds(a.accessedMs).nanoseconds(a.modifiedMs).nanoseconds(a.changedMs);
    return this.u32(a.mode)
      .u32(a.links)
      .u32(a.uid)
      .u32(a.gid)
      .u32(a.device ?? 0)
      .u32(a.preferredBytes ?? 2 ** 20)
      .u32(0);
  }

  /** An entry that the kernel may keep for `validMs`. */
  entry({ node, attributes, generation = 0 }: Entry, validMs: number): this {
    this.u64(node).u64(generation).seconds(validMs).seconds(validMs);
    return this.nanoseconds(validMs).nanoseconds(validMs).attributes(attributes);
  }

  /** Attributes that the kernel may keep for `validMs`. */
  attributesReply(attributes: Attributes, validMs: number): this {
    return this.seconds(validMs).nanoseconds(validMs).u32(0).attributes(attributes);
  }
}

/** The bytes of a reply that is an entry. */
export function entryReply(entry: Entry, validMs: number): Buffer {
  return new ReplyWriter(entryBytes).entry(entry, validMs).bytes;
}

/** An entry of a directory. */
export interface DirectoryEntry {
  readonly name: string;
  readonly inode: number;
  /** Kind of file, as in `stat`'s mode. */
  readonly mode: number;
  /** What the next read of the directory goes on from behind this entry. */
  readonly next: number;
  /** For `readdirplus`: the entry as a look-up would answer it. */
  readonly entry?: Entry;
}

/** Packs directory entries, as many as fit in `bytesMax`; the names taken are counted. */
export function packDirectory(
  entries: readonly DirectoryEntry[],
  bytesMax: number,
  plus: boolean,
  validMs: number,
): { bytes: Buffer; count: number } {
  const writer = new ReplyWriter(bytesMax);
  let count = 0;
  for (const { name, inode, mode, next, entry } of entries) {
    const text = Buffer.from(name);
    const padded = Math.ceil(text.length / 8) * 8;
    if (writer.length + (plus ? entryBytes : 0) + 24 + padded > bytesMax) break;
    if (plus) {
      if (entry) writer.entry(entry, validMs);
      else writer.zeros(entryBytes); // node 0: the kernel looks it up when it needs to
    }
    writer
      .u64(inode)
      .u64(next)
      .u32(text.length)
      .u32((mode >>> 12) & 15);
    writer.raw(text).zeros(padded - text.length);
    count++;
  }
  return { bytes: writer.bytes.subarray(0, writer.length), count };
}
