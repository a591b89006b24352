/** @file Names that go away: unlink, rmdir, whole trees, the trash. */
import { fsError } from "../errors.ts";
import { notFound, type Place } from "./paths.ts";
import { access, isRoot, requireAccess, requireUnstuck } from "./permissions.ts";
import { directoryOf, inodeOf, records, rootId, trashId } from "./records.ts";
import type { Inode, RemoveOptions } from "./types.ts";
import { discard, putInode, touch, type Work } from "./work.ts";

/** Removes the name at a place, and what it names with its last name. */
export async function removeAt(
  work: Work,
  place: Place,
  path: string,
  options: RemoveOptions,
): Promise<void> {
  const { directory, name, entry, asksDirectory } = place;
  if (!entry) throw notFound(path);
  if (name === "") {
    const isRoot = entry.id === rootId;
    if (isRoot) throw fsError("fs-busy", "The root can't be removed: name what is in it.");
    throw fsError("fs-input-invalid", `${JSON.stringify(path)} ends in no name: give one.`);
  }
  if (entry.id === trashId) throw fsError("fs-not-permitted", "The trash stays: empty it instead.");
  requireAccess(work.caller, directory, access.write | access.execute);
  const inode = await inodeOf(work.transaction, entry.id);
  requireUnstuck(work.caller, directory, inode);
  checkKind(inode, name, asksDirectory, options.expect ?? "any");
  if (inode.kind === "directory") {
    if (options.isRecursive) requireTree(work, inode);
    else await requireEmpty(work, inode);
  }
  records.entries.clear(work.transaction, directory.id, name);
  touch(work, directory.id);
  if (options.trashMs === undefined) await dropLink(work, inode);
  else await putInTrash(work, inode, name, options.trashMs);
}

/** Takes one name from an inode; without any, its space is to come back once nobody writes to it. */
export async function dropLink(work: Work, inode: Inode): Promise<void> {
  const links = inode.links - 1;
  putInode(work, { ...inode, links, ctime: work.now });
  if (links > 0) return;
  // A file that is open for writing is discarded by the close of its last writer.
  if (await records.sessions.isEmpty(work.transaction, inode.id)) discard(work, inode);
}

/** Throws `fs-not-empty` where a directory holds anything; the commit fails if it comes to. */
export async function requireEmpty({ transaction }: Work, { id }: Inode): Promise<void> {
  if (await records.entries.isEmpty(transaction, id)) return;
  const message = `Directory ${id} is not empty: empty it, or remove it recursively.`;
  throw fsError("fs-not-empty", message);
}

/** Only the owner removes a tree by one call, since nobody asks every directory below. */
function requireTree({ caller }: Work, inode: Inode): void {
  if (isRoot(caller) || inode.uid === caller.uid) return;
  const message = `Directory ${inode.id} belongs to user ${inode.uid}: remove what is in it first`;
  throw fsError("fs-not-permitted", `${message}, or ask its owner.`);
}

function checkKind(
  { kind }: Inode,
  name: string,
  asksDirectory: boolean,
  expect: "file" | "directory" | "any",
): void {
  const isDirectory = kind === "directory";
  if (expect === "file" && isDirectory) {
    throw fsError("fs-is-directory", `${JSON.stringify(name)} is a directory: remove it as one.`);
  }
  if (!isDirectory && (expect === "directory" || asksDirectory)) {
    throw fsError("fs-not-directory", `${JSON.stringify(name)} is no directory: unlink it.`);
  }
}

/** Renames into `/.trash`, under a name that begins with when it expires, so that names sort by it. */
async function putInTrash(work: Work, inode: Inode, name: string, trashMs: number): Promise<void> {
  const expiresS = work.now.s + Math.ceil(trashMs / 1000);
  const kept = Buffer.from(name)
    .subarray(0, 200)
    .toString("utf8")
    .replace(/\uFFFD$/, "");
  const entry = `${String(expiresS).padStart(12, "0")}.${inode.id}.${kept}`;
  await directoryOf(work.transaction, trashId);
  records.entries.set(work.transaction, { id: inode.id, kind: inode.kind }, trashId, entry);
  touch(work, trashId);
  const moved = inode.kind === "directory" ? { parent: trashId, name: entry } : {};
  putInode(work, { ...inode, ...moved, ctime: work.now });
}

/** When an entry of the trash expires, in seconds; undefined where its name does not say. */
export function expiryOf(name: string): number | undefined {
  const digits = /^(\d{12})\./.exec(name)?.[1];
  return digits === undefined ? undefined : Number(digits);
}
