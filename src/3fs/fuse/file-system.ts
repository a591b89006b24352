/**
 * @file What a file system has to answer, as the session asks for it: nodes by number, names by
 * directory. What is left out is answered with "not implemented", which the kernel then does itself or
 * reports.
 */
import { BaleenError } from "../../base/index.ts";
import {
  type Attributes,
  type DirectoryEntry,
  type Entry,
  type ErrorName,
  errno,
  type Requester,
} from "./protocol.ts";

/** A refusal by an error number of Linux. */
export class FileSystemError extends BaleenError {
  readonly errno: number;

  constructor(name: ErrorName, what: string) {
    super(name.toLowerCase(), `${what}: ${name}.`);
    this.name = "FileSystemError";
    this.errno = errno[name];
  }
}

/** An opened file or directory. */
export interface Opened {
  /** The file system's own number for it. */
  readonly handle: number;
  /** Reads and writes pass the kernel's cache by. */
  readonly directIo?: boolean;
  /** What the cache holds of it stays. */
  readonly keepCache?: boolean;
}

/** What `setattr` changes; times in milliseconds since 1970. */
export interface AttributeChange {
  readonly mode?: number;
  readonly uid?: number;
  readonly gid?: number;
  readonly size?: number;
  readonly accessedMs?: number | "now";
  readonly modifiedMs?: number | "now";
  /** The open file by which it was asked. */
  readonly handle?: number;
}

/** A POSIX lock on a range, or (flock) on all of a file. */
export interface FileLock {
  readonly kind: "read" | "write" | "none";
  readonly start: number;
  /** Inclusive; 2^63 - 1 is the end of the file, which a Number rounds up. */
  readonly end: number;
  readonly owner: bigint;
  readonly pid: number;
  /** Whether it came from `flock`. */
  readonly isFlock: boolean;
}

/** Totals of a file system. */
export interface Totals {
  readonly blocks: number;
  readonly freeBlocks: number;
  readonly files: number;
  readonly freeFiles: number;
  readonly blockBytes: number;
}

/** The operations; every one may throw a `FileSystemError`, and others end as EIO. */
export interface FileSystem {
  lookup(who: Requester, parent: number, name: string): Promise<Entry>;
  /** The kernel drops `count` of the look-ups that it holds of `node`. */
  forget?(node: number, count: number): void;
  getattr(who: Requester, node: number, handle?: number): Promise<Attributes>;
  setattr(who: Requester, node: number, change: AttributeChange): Promise<Attributes>;
  readlink?(who: Requester, node: number): Promise<string>;
  symlink?(who: Requester, parent: number, name: string, target: string): Promise<Entry>;
  mknod?(
    who: Requester,
    parent: number,
    name: string,
    mode: number,
    device: number,
  ): Promise<Entry>;
  mkdir(who: Requester, parent: number, name: string, mode: number): Promise<Entry>;
  unlink(who: Requester, parent: number, name: string): Promise<void>;
  rmdir(who: Requester, parent: number, name: string): Promise<void>;
  /** `flags` of renameat2: 1 do not replace, 2 exchange. */
  rename(
    who: Requester,
    parent: number,
    name: string,
    newParent: number,
    newName: string,
    flags: number,
  ): Promise<void>;
  link?(who: Requester, node: number, parent: number, name: string): Promise<Entry>;
  /** `flags` as of open(2); O_TRUNC (0o1000) is for the file system to carry out. */
  open(who: Requester, node: number, flags: number): Promise<Opened>;
  create(
    who: Requester,
    parent: number,
    name: string,
    mode: number,
    flags: number,
  ): Promise<{ readonly entry: Entry; readonly opened: Opened }>;
  /** At most `size` bytes from `offset`; fewer only at the end. Pieces are sent one after another. */
  read(
    who: Requester,
    node: number,
    handle: number,
    offset: number,
    size: number,
  ): Promise<Uint8Array | readonly Uint8Array[]>;
  /** All of `data`, which is valid until the promise settles; the result is how much was written. */
  write(
    who: Requester,
    node: number,
    handle: number,
    offset: number,
    data: Uint8Array,
  ): Promise<number>;
  /** A descriptor of the open file was closed, perhaps not the last. */
  flush?(who: Requester, node: number, handle: number, lockOwner: bigint): Promise<void>;
  release(
    node: number,
    handle: number,
    flags: number,
    flockOwner: bigint | undefined,
  ): Promise<void>;
  fsync?(who: Requester, node: number, handle: number, dataOnly: boolean): Promise<void>;
  opendir?(who: Requester, node: number): Promise<Opened>;
  /** Entries from `offset` on (0, or an entry's `next`), about as many as fit in `sizeHint` bytes. */
  readdir(
    who: Requester,
    node: number,
    handle: number,
    offset: number,
    sizeHint: number,
    plus: boolean,
  ): Promise<readonly DirectoryEntry[]>;
  /** The kernel took `count` of the entries of `readdirplus`: as many look-ups. */
  tookEntries?(entries: readonly DirectoryEntry[]): void;
  releasedir?(node: number, handle: number): Promise<void>;
  statfs(who: Requester, node: number): Promise<Totals>;
  setxattr?(
    who: Requester,
    node: number,
    name: string,
    value: Uint8Array,
    flags: number,
  ): Promise<void>;
  getxattr?(who: Requester, node: number, name: string): Promise<Uint8Array>;
  listxattr?(who: Requester, node: number): Promise<readonly string[]>;
  removexattr?(who: Requester, node: number, name: string): Promise<void>;
  fallocate?(
    who: Requester,
    node: number,
    handle: number,
    offset: number,
    length: number,
    mode: number,
  ): Promise<void>;
  /** `whence` 3: the next data, 4: the next hole. */
  lseek?(
    who: Requester,
    node: number,
    handle: number,
    offset: number,
    whence: number,
  ): Promise<number>;
  /** The lock that stands in the way of `lock`, or one of kind "none". */
  getlk?(who: Requester, node: number, handle: number, lock: FileLock): Promise<FileLock>;
  /** Takes, changes or drops a lock; waits where `wait` is set, until `signal` aborts (EINTR). */
  setlk?(
    who: Requester,
    node: number,
    handle: number,
    lock: FileLock,
    wait: boolean,
    signal: AbortSignal,
  ): Promise<void>;
  syncfs?(node: number): Promise<void>;
}
