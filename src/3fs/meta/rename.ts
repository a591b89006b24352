/** @file Rename, in one transaction: replacing, not replacing, or exchanging; directories never into themselves. */
import { fsError } from "../errors.ts";
import { requireSameQuotas } from "./create.ts";
import { notFound, type Place } from "./paths.ts";
import { access, isRoot, requireAccess, requireUnstuck } from "./permissions.ts";
import { inodeOf, records, rootId, trashId } from "./records.ts";
import { dropLink, requireEmpty } from "./remove.ts";
import type { Inode, RenameOptions } from "./types.ts";
import { putInode, touch, type Work } from "./work.ts";

/** Gives what is at `from` the name at `to`. */
export async function renameAt(
  work: Work,
  from: Place,
  to: Place,
  options: RenameOptions,
): Promise<void> {
  const { transaction, caller } = work;
  if (from.name === "" || to.name === "") {
    const last = from.name === "" ? from : to;
    const code = last.directory.id === rootId ? "fs-busy" : "fs-input-invalid";
    throw fsError(code, "A path to rename ends in no name: give one.");
  }
  if (!from.entry) throw notFound(from.name);
  for (const { directory } of [from, to]) {
    requireAccess(caller, directory, access.write | access.execute);
  }
  const moved = await inodeOf(transaction, from.entry.id);
  const replaced = to.entry && (await inodeOf(transaction, to.entry.id));
  if (moved.id === trashId || replaced?.id === trashId) {
    throw fsError("fs-not-permitted", "The trash stays where it is: rename what is in it.");
  }
  requireUnstuck(caller, from.directory, moved);
  if (replaced) requireUnstuck(caller, to.directory, replaced);
  if (options.exchange && !replaced) throw notFound(to.name);
  if (options.noReplace && replaced) {
    throw fsError("fs-exists", `${JSON.stringify(to.name)} exists: choose another name.`);
  }
  const needsDirectory = from.asksDirectory || to.asksDirectory;
  if (needsDirectory && moved.kind !== "directory") throw notDirectory(from.name);
  // Two names of one file: POSIX has rename do nothing.
  if (replaced?.id === moved.id) return;
  await requireNoLoop(work, moved, to.directory);
  requireSameQuotas(moved, to.directory);
  requireOwnedParent(work, moved, from, to);
  if (replaced && options.exchange) {
    await requireNoLoop(work, replaced, from.directory);
    requireSameQuotas(replaced, from.directory);
    requireOwnedParent(work, replaced, to, from);
    place(work, replaced, from);
  } else {
    if (replaced) await replace(work, moved, replaced, to.name);
    records.entries.clear(transaction, from.directory.id, from.name);
  }
  place(work, moved, to);
  touch(work, from.directory.id);
  touch(work, to.directory.id);
}

/** Writes the entry, and for directories where they lie now. */
function place(work: Work, inode: Inode, { directory, name }: Place): void {
  const { id, kind } = inode;
  records.entries.set(work.transaction, { id, kind }, directory.id, name);
  const moved = kind === "directory" ? { parent: directory.id, name } : {};
  putInode(work, { ...inode, ...moved, ctime: work.now });
}

/** Removes what the new name named, if what comes may take its place. */
async function replace(work: Work, moved: Inode, replaced: Inode, name: string): Promise<void> {
  const [comes, goes] = [moved.kind === "directory", replaced.kind === "directory"];
  if (comes && !goes) throw notDirectory(name);
  if (goes && !comes) {
    throw fsError("fs-is-directory", `${JSON.stringify(name)} is a directory: remove it first.`);
  }
  if (goes) await requireEmpty(work, replaced);
  await dropLink(work, replaced);
}

/**
 * Throws where a directory would come to lie in itself: `target` and all above it are read up to the
 * root. The commit fails if any of them moves meanwhile.
 */
async function requireNoLoop(work: Work, moved: Inode, target: Inode): Promise<void> {
  if (moved.kind !== "directory" || moved.parent === target.id) return;
  for (let above = target; ; ) {
    if (above.id === moved.id) {
      const message = `Directory ${moved.id} can't move into itself: choose another place.`;
      throw fsError("fs-input-invalid", message);
    }
    if (above.id === rootId) return;
    above = await inodeOf(work.transaction, above.parent ?? rootId);
  }
}

/** Moving a directory elsewhere changes its `..`, which takes the right to write to it. */
function requireOwnedParent({ caller }: Work, moved: Inode, from: Place, to: Place): void {
  const changes = moved.kind === "directory" && from.directory.id !== to.directory.id;
  if (changes && !isRoot(caller)) requireAccess(caller, moved, access.write);
}

function notDirectory(name: string): Error {
  return fsError("fs-not-directory", `${JSON.stringify(name)} is no directory: check the path.`);
}
