/** @file The metadata service as its clients see it. */
import type { InodeId } from "../types.ts";
import type { AttributeMode } from "./attributes.ts";
import type {
  At,
  AttributeChanges,
  Caller,
  DirectoryPage,
  FileKind,
  Inode,
  OpenOptions,
  Quota,
  QuotaReport,
  RemoveOptions,
  RenameOptions,
  User,
} from "./types.ts";

/** A page to read. */
export interface PageOptions {
  /** The last name already seen; default: from the beginning. */
  readonly after?: string;
  /** Default 1,000, at most 10,000. */
  readonly limit?: number;
  /** Return the inodes too. */
  readonly withInodes?: boolean;
}

/**
 * Every method checks the caller's permissions, and fails with the codes of `FsErrorCode`. Instances
 * hold no state: any number may run, and any may answer.
 */
export interface MetaService {
  /** What a path names. Throws `fs-not-found`. */
  lookup(caller: Caller, at: At, options?: { readonly noFollow?: boolean }): Promise<Inode>;
  /** Inodes by id; null for those that are gone. At most 10,000. */
  batchStat(caller: Caller, ids: readonly InodeId[]): Promise<readonly (Inode | null)[]>;
  /** What each path names; null where it names nothing. At most 10,000. */
  batchLookup(caller: Caller, ats: readonly At[]): Promise<readonly (Inode | null)[]>;
  /** Whether the caller may read (4), write (2), execute (1): the sum of what is asked. */
  mayAccess(caller: Caller, id: InodeId, wanted: number): Promise<boolean>;
  /** The path of a directory from the root. */
  realPath(caller: Caller, id: InodeId): Promise<string>;
  /** Opens a file, and makes or empties it where asked to. */
  open(caller: Caller, at: At, options: OpenOptions): Promise<Inode>;
  /** Ends an opening for writing and settles the exact length. */
  close(caller: Caller, id: InodeId, sessionId: string): Promise<Inode>;
  /** Settles the exact length. */
  sync(caller: Caller, id: InodeId): Promise<Inode>;
  /** Lets others see a length before it is settled; ignored where a truncation came between. */
  hintLength(caller: Caller, id: InodeId, length: number, truncations: number): Promise<void>;
  /** Widens the stripe in use, so that chunk `index` may be written. */
  extendStripe(caller: Caller, id: InodeId, index: number): Promise<Inode>;
  /** Sets the length; what lies beyond is gone, what is added reads as zeros. */
  truncate(caller: Caller, id: InodeId, length: number): Promise<Inode>;
  /** Makes a directory; with `isRecursive` also those that lead to it, and none that is there. */
  mkdir(
    caller: Caller,
    at: At,
    mode: number,
    options?: { readonly isRecursive?: boolean },
  ): Promise<Inode>;
  /** Makes an empty file, fifo, socket or device. */
  makeNode(caller: Caller, at: At, kind: FileKind, mode: number, device?: number): Promise<Inode>;
  /** Makes a symbolic link that says `target`. */
  symlink(caller: Caller, at: At, target: string): Promise<Inode>;
  /** Gives a file one more name. */
  link(caller: Caller, id: InodeId, at: At): Promise<Inode>;
  /** Removes a name, and what it names with its last; see `RemoveOptions`. */
  remove(caller: Caller, at: At, options?: RemoveOptions): Promise<void>;
  /** Gives what is at `from` the name `to`. */
  rename(caller: Caller, from: At, to: At, options?: RenameOptions): Promise<void>;
  /** A page of a directory. */
  readdir(caller: Caller, id: InodeId, options?: PageOptions): Promise<DirectoryPage>;
  /** Changes mode, owner, times, layout of what comes. */
  setAttributes(caller: Caller, id: InodeId, changes: AttributeChanges): Promise<Inode>;
  /** Sets an extended attribute, of at most 64 KiB. */
  setXattr(
    caller: Caller,
    id: InodeId,
    name: string,
    value: Uint8Array,
    mode?: AttributeMode,
  ): Promise<void>;
  /** An extended attribute; throws `fs-no-attribute`. */
  getXattr(caller: Caller, id: InodeId, name: string): Promise<Uint8Array>;
  /** The names of an inode's extended attributes. */
  listXattr(caller: Caller, id: InodeId): Promise<readonly string[]>;
  /** Removes an extended attribute. */
  removeXattr(caller: Caller, id: InodeId, name: string): Promise<void>;
  /** Takes a lock as `flock` does, without waiting: throws `fs-locked` where another holds it. */
  lock(caller: Caller, id: InodeId, owner: string, isExclusive: boolean): Promise<void>;
  /** Gives a lock up. */
  unlock(caller: Caller, id: InodeId, owner: string): Promise<void>;
  /** Ends all openings and locks of a client that is gone. */
  pruneClient(caller: Caller, clientId: string): Promise<void>;
  /** Limits a directory with all below it. The directory must be empty, but for a change of limits. */
  setQuota(caller: Caller, id: InodeId, quota: Quota): Promise<void>;
  /** A directory's quota with its use; null where it has none. */
  quota(caller: Caller, id: InodeId): Promise<QuotaReport | null>;
  /** Whose token it is; throws `fs-unauthenticated`. */
  authenticate(token: string): Promise<User>;
  /** Adds or replaces a user. */
  putUser(caller: Caller, user: User): Promise<void>;
  /** Makes a token for a user; with `replaces`, earlier ones end. */
  makeToken(caller: Caller, uid: number, replaces?: boolean): Promise<string>;
  /** Removes a user with its tokens. */
  removeUser(caller: Caller, uid: number): Promise<void>;
  /** All users. */
  users(caller: Caller): Promise<readonly User[]>;
}
