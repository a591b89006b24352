/**
 * @file What `meta` is asked and answers. Plain data, safe to put on a wire. Names are 1 to 255 bytes of
 * UTF-8 without `/` and zero; `mode` is the permission bits, 0 to 0o7777.
 */
import type { FileLayout, InodeId } from "../types.ts";

/** A moment: seconds since 1970 and nanoseconds, 0 to 999,999,999. */
export interface FileTime {
  readonly s: number;
  readonly ns: number;
}

/** What an inode is. */
export type FileKind = "file" | "directory" | "symlink" | "fifo" | "socket" | "character" | "block";

/** What new files of a directory get, and new directories inherit. */
export interface LayoutDefaults {
  readonly tableId: number;
  readonly chunkBytes: number;
  readonly stripe: number;
}

/** A file of any kind. Directories have one link, which stands for "not counted". */
export interface Inode {
  readonly id: InodeId;
  readonly kind: FileKind;
  readonly mode: number;
  readonly uid: number;
  readonly gid: number;
  readonly links: number;
  readonly atime: FileTime;
  readonly mtime: FileTime;
  readonly ctime: FileTime;
  /** Bytes: exact for a file nobody writes to, else at least what was synced. 0 for directories. */
  readonly length: number;
  /** Of files. */
  readonly layout?: FileLayout;
  /** Of files: chunks with an index below this number of chains may exist; see `extendStripe`. */
  readonly usedStripe?: number;
  /** Of files: grows with every truncation; hints of lengths from before one are ignored. */
  readonly truncations?: number;
  /** Of symbolic links. */
  readonly target?: string;
  /** Of devices. */
  readonly device?: number;
  /** Of directories: the one that holds it; the root holds itself. */
  readonly parent?: InodeId;
  /** Of directories: its name there; empty for the root. */
  readonly name?: string;
  /** Of directories: what new files get. */
  readonly defaults?: LayoutDefaults;
  /** The directories with a quota that it counts for. */
  readonly quotas?: readonly InodeId[];
}

/** Who asks. Root is user 0. */
export interface Caller {
  readonly uid: number;
  readonly gid: number;
  /** Further groups. */
  readonly groups?: readonly number[];
  /** Proof, where the service asks for it: the user's own, or an administrator's for any user. */
  readonly token?: string;
  /** Makes a request take effect once, however often it is sent. */
  readonly request?: RequestId;
}

/** The name of a request. */
export interface RequestId {
  /** Unique for ever, such as a UUID; the id of the client's session with `mgmtd`. */
  readonly clientId: string;
  /** Grows from request to request. */
  readonly requestId: number;
  /** The client will send none of its requests below this again. */
  readonly ackedBelow: number;
}

/** A path from a directory; `/` and an empty path are the directory itself, as is `.`. */
export interface At {
  /** Default: the root. */
  readonly directory?: InodeId;
  readonly path: string;
}

/** An entry of a directory. */
export interface DirectoryEntry {
  readonly name: string;
  readonly id: InodeId;
  readonly kind: FileKind;
  /** Where it was asked for. */
  readonly inode?: Inode;
}

/** One page of a directory. */
export interface DirectoryPage {
  /** In the order of their names' bytes. */
  readonly entries: readonly DirectoryEntry[];
  /** Whether names follow the last one. */
  readonly hasMore: boolean;
}

/** How to open. */
export interface OpenOptions {
  /** Reading, writing or both; checked against the permissions. */
  readonly read?: boolean;
  readonly write?: boolean;
  /** Make it, if it is missing, with this mode. */
  readonly createMode?: number;
  /** Fail if it exists. */
  readonly isExclusive?: boolean;
  /** Set its length to 0; needs `write`. */
  readonly truncate?: boolean;
  /** The layout of a new file, where the directory's is not wanted. */
  readonly layout?: Partial<LayoutDefaults>;
  /** Names this opening for writing; unique within the client. Needed with `write`. */
  readonly sessionId?: string;
  /** The last component may be a symbolic link and is not followed: fails on one. */
  readonly noFollow?: boolean;
}

/** What to change; absent fields stay. */
export interface AttributeChanges {
  readonly mode?: number;
  readonly uid?: number;
  readonly gid?: number;
  readonly atime?: FileTime | "now";
  readonly mtime?: FileTime | "now";
  /** Of directories: what new files get. */
  readonly defaults?: Partial<LayoutDefaults>;
}

/** How to remove. */
export interface RemoveOptions {
  /** `file` refuses directories, `directory` all else (`unlink`, `rmdir`); default `any`. */
  readonly expect?: "file" | "directory" | "any";
  /** A directory goes with all it holds; space comes back in the background. */
  readonly isRecursive?: boolean;
  /** It goes to `/.trash` for that long, instead of away. */
  readonly trashMs?: number;
}

/** How to rename. */
export interface RenameOptions {
  /** Fail if the new name exists. */
  readonly noReplace?: boolean;
  /** The two names, which must both exist, change places. */
  readonly exchange?: boolean;
}

/** A lock on a whole file, as `flock` makes it. */
export interface FileLock {
  readonly clientId: string;
  /** Who within the client, such as an open file. */
  readonly owner: string;
  readonly isExclusive: boolean;
}

/** A limit on a directory with all below it. */
export interface Quota {
  /** Inodes; absent: no limit. */
  readonly files?: number;
  /** Bytes of file lengths; absent: no limit. */
  readonly bytes?: number;
}

/** A quota and what of it is used. */
export interface QuotaReport {
  readonly limit: Quota;
  readonly files: number;
  readonly bytes: number;
}

/** A person or program. */
export interface User {
  readonly uid: number;
  readonly name: string;
  readonly gid: number;
  readonly groups: readonly number[];
  /** May act for every user and administer users and quotas. */
  readonly isAdmin: boolean;
}

/** What `meta` needs of the storage. Every method may be called again for the same effect. */
export interface FileStorage {
  /** Where the file's last byte ends, over chunks of the first `usedStripe` chains; 0 without chunks. */
  endOf(inode: InodeId, layout: FileLayout, usedStripe: number): Promise<number>;
  /** Removes what lies at or beyond `length`. */
  truncate(inode: InodeId, layout: FileLayout, usedStripe: number, length: number): Promise<void>;
  /** Removes every chunk. */
  remove(inode: InodeId, layout: FileLayout, usedStripe: number): Promise<void>;
}
