/**
 * @file The records of `meta` in `kv`. Inodes by id, entries by directory and name. A directory's
 * modification time is a record of its own that is written without being read, so that creates in one
 * directory do not conflict with each other.
 */
import type { Transaction } from "../../kv/index.ts";
import { fsError } from "../errors.ts";
import { RecordFamily } from "../json-records.ts";
import type { InodeId } from "../types.ts";
import type { FileKind, FileLock, FileTime, Inode, Quota, User } from "./types.ts";

/** An entry as it is kept. */
export interface EntryRecord {
  readonly id: InodeId;
  readonly kind: FileKind;
}

/** An opening for writing. */
export interface SessionRecord {
  readonly clientId: string;
  readonly sessionId: string;
}

/** Something whose space is to come back. */
export interface GarbageRecord {
  readonly id: InodeId;
  readonly kind: FileKind;
}

/** The families. The comment of each names the parts of its keys. */
export const records: {
  /** id */
  readonly inodes: RecordFamily<Inode>;
  /** directory, name */
  readonly entries: RecordFamily<EntryRecord>;
  /** directory */
  readonly touched: RecordFamily<FileTime>;
  /** id, client, session */
  readonly sessions: RecordFamily<SessionRecord>;
  /** client, id, session */
  readonly clientSessions: RecordFamily<number>;
  /** id, name; the value in base64 */
  readonly attributes: RecordFamily<string>;
  /** id */
  readonly locks: RecordFamily<readonly FileLock[]>;
  /** client, id */
  readonly clientLocks: RecordFamily<number>;
  /** since when, id */
  readonly garbage: RecordFamily<GarbageRecord>;
  /** client, request */
  readonly once: RecordFamily<unknown>;
  /** client */
  readonly acked: RecordFamily<number>;
  /** uid */
  readonly users: RecordFamily<User>;
  /** SHA-256 of a token, in hexadecimal; the uid */
  readonly tokens: RecordFamily<number>;
  /** directory */
  readonly quotas: RecordFamily<Quota>;
  /** directory, shard */
  readonly usage: RecordFamily<readonly [files: number, bytes: number]>;
  /** none */
  readonly nextInode: RecordFamily<number>;
} = {
  inodes: new RecordFamily("meta-inode"),
  entries: new RecordFamily("meta-entry"),
  touched: new RecordFamily("meta-touched"),
  sessions: new RecordFamily("meta-session"),
  clientSessions: new RecordFamily("meta-client-session"),
  attributes: new RecordFamily("meta-xattr"),
  locks: new RecordFamily("meta-lock"),
  clientLocks: new RecordFamily("meta-client-lock"),
  garbage: new RecordFamily("meta-garbage"),
  once: new RecordFamily("meta-once"),
  acked: new RecordFamily("meta-acked"),
  users: new RecordFamily("meta-user"),
  tokens: new RecordFamily("meta-token"),
  quotas: new RecordFamily("meta-quota"),
  usage: new RecordFamily("meta-usage"),
  nextInode: new RecordFamily("meta-next-inode"),
};

/** The root directory's id. */
export const rootId: InodeId = 1;
/** The id of `/.trash`. */
export const trashId: InodeId = 2;

/** The inode; the commit fails if it changes. Throws `fs-stale-handle` where it is gone. */
export async function inodeOf(transaction: Transaction, id: InodeId): Promise<Inode> {
  const inode = await records.inodes.get(transaction, id);
  if (!inode) throw fsError("fs-stale-handle", `Inode ${id} is gone: look its path up again.`);
  return inode;
}

/** A directory that may get entries; throws `fs-not-directory`, or `fs-not-found` where it is removed. */
export async function directoryOf(transaction: Transaction, id: InodeId): Promise<Inode> {
  const inode = await inodeOf(transaction, id);
  if (inode.kind !== "directory") {
    throw fsError("fs-not-directory", `Inode ${id} is no directory: check the path.`);
  }
  if (inode.links === 0) {
    throw fsError("fs-not-found", `Directory ${id} has been removed: check the path.`);
  }
  return inode;
}

/** An inode as callers see it, in the snapshot: a directory with the time of its last change. */
export async function shownInode(
  transaction: Transaction,
  id: InodeId,
): Promise<Inode | undefined> {
  const inode = await records.inodes.peek(transaction, id);
  if (inode?.kind !== "directory") return inode;
  const touched = await records.touched.peek(transaction, id);
  if (!touched) return inode;
  const later = (time: FileTime) => (isLater(touched, time) ? touched : time);
  return { ...inode, mtime: later(inode.mtime), ctime: later(inode.ctime) };
}

function isLater(x: FileTime, y: FileTime): boolean {
  return x.s > y.s || (x.s === y.s && x.ns > y.ns);
}
