/**
 * @file From paths to inodes. Components on the way are read from the snapshot: a rename of one of them
 * meanwhile means that this request came first. The directory and the entry at the end are checked at
 * commit.
 */
import type { Transaction } from "../../kv/index.ts";
import { fsError } from "../errors.ts";
import type { InodeId } from "../types.ts";
import { checkName, checkPath } from "./checks.ts";
import { access, requireAccess } from "./permissions.ts";
import { directoryOf, type EntryRecord, inodeOf, records, rootId } from "./records.ts";
import type { At, Caller, Inode } from "./types.ts";

const maxLinks = 40;

/** Where a path ends: in `directory`, with `name`, and with what is there, if anything. */
export interface Place {
  readonly directory: Inode;
  /** Empty where the path names a directory by itself (`/`, `.`, `a/..`). */
  readonly name: string;
  readonly entry: EntryRecord | undefined;
  /** Whether the path ended in a slash, which asks for a directory. */
  readonly asksDirectory: boolean;
}

/** How to walk. */
export interface WalkOptions {
  /** Follow a symbolic link at the end; default true. */
  readonly follow?: boolean;
}

interface Walk {
  readonly transaction: Transaction;
  readonly caller: Caller;
  linksLeft: number;
}

/** Walks to the end of a path, of which all but the last component must exist. */
export async function placeOf(
  transaction: Transaction,
  caller: Caller,
  { directory = rootId, path }: At,
  { follow = true }: WalkOptions = {},
): Promise<Place> {
  checkPath("path", path);
  return walk({ transaction, caller, linksLeft: maxLinks }, directory, path, follow);
}

/** The inode at the end of a path; the commit fails if it changes. Throws `fs-not-found`. */
export async function inodeAt(
  transaction: Transaction,
  caller: Caller,
  at: At,
  options: WalkOptions = {},
): Promise<Inode> {
  const place = await placeOf(transaction, caller, at, options);
  if (place.name === "") return place.directory;
  if (!place.entry) throw notFound(at.path);
  const inode = await inodeOf(transaction, place.entry.id);
  if (place.asksDirectory && inode.kind !== "directory") throw notDirectory(place.name);
  return inode;
}

/** The refusal of a path that leads nowhere. */
export function notFound(path: string): Error {
  return fsError("fs-not-found", `${JSON.stringify(path)} does not exist: check the path.`);
}

function notDirectory(name: string): Error {
  return fsError("fs-not-directory", `${JSON.stringify(name)} is no directory: check the path.`);
}

async function walk(state: Walk, start: InodeId, path: string, follow: boolean): Promise<Place> {
  const { transaction, caller } = state;
  const names = path.split("/").filter((name) => name !== "" && name !== ".");
  const asksDirectory = /\/\.?$/.test(path);
  let at = path.startsWith("/") ? rootId : start;
  for (const [i, name] of names.entries()) {
    const isLast = i === names.length - 1;
    if (name === "..") {
      const here = await searchable(state, at);
      at = here.parent ?? rootId;
      continue;
    }
    checkName(name);
    const here = isLast ? await directoryOf(transaction, at) : await searchable(state, at);
    if (isLast) requireAccess(caller, here, access.execute);
    const entry = isLast
      ? await records.entries.get(transaction, at, name)
      : await records.entries.peek(transaction, at, name);
    const isLink = entry?.kind === "symlink" && (!isLast || follow || asksDirectory);
    if (isLink) {
      const target = await readTarget(state, entry.id);
      const rest = [...names.slice(i + 1)].join("/");
      const joined = rest === "" ? target : `${target}/${rest}`;
      return walk(state, at, asksDirectory ? `${joined}/` : joined, follow);
    }
    if (isLast) return { directory: here, name, entry, asksDirectory };
    if (!entry) throw notFound(path);
    if (entry.kind !== "directory") throw notDirectory(name);
    at = entry.id;
  }
  const directory = await directoryOf(transaction, at);
  return { directory, name: "", entry: { id: at, kind: "directory" }, asksDirectory: true };
}

/** A directory on the way, from the snapshot, that the caller may search. */
async function searchable({ transaction, caller }: Walk, id: InodeId): Promise<Inode> {
  const inode = await records.inodes.peek(transaction, id);
  if (!inode) throw fsError("fs-stale-handle", `Inode ${id} is gone: look its path up again.`);
  if (inode.kind !== "directory") throw notDirectory(`#${id}`);
  requireAccess(caller, inode, access.execute);
  return inode;
}

async function readTarget(state: Walk, id: InodeId): Promise<string> {
  if (state.linksLeft-- === 0) {
    const message = `The path leads through more than ${maxLinks} symbolic links: check them.`;
    throw fsError("fs-symlink-loop", message);
  }
  const link = await records.inodes.peek(state.transaction, id);
  if (!link?.target) throw fsError("fs-stale-handle", `Link ${id} is gone: look it up again.`);
  return link.target;
}
