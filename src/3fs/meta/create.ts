/** @file New files, directories, symbolic links, special files, and further links to files. */
import { assert } from "../../base/index.ts";
import { fsError } from "../errors.ts";
import type { FileLayout, InodeId } from "../types.ts";
import { checkDefaults, checkPath, refuse } from "./checks.ts";
import { inodeAt, type Place, placeOf } from "./paths.ts";
import { access, isInGroup, isRoot, requireAccess } from "./permissions.ts";
import { records, rootId } from "./records.ts";
import type { At, FileKind, Inode, LayoutDefaults } from "./types.ts";
import { charge, putInode, touch, type Work } from "./work.ts";

const maxLinks = 65_000;
/** How many chains a new file uses at first, so that a small one has few to be asked about. */
const firstStripe = 16;

/** What to make. */
export interface NewInode {
  readonly id: InodeId;
  readonly kind: FileKind;
  readonly mode: number;
  readonly target?: string;
  readonly device?: number;
  readonly layout?: Partial<LayoutDefaults>;
}

/** Makes an inode at a place where nothing is; throws `fs-exists`, `fs-access-denied`. */
export async function createAt(work: Work, place: Place, made: NewInode): Promise<Inode> {
  const { directory, name, entry, asksDirectory } = place;
  if (entry) {
    const what = JSON.stringify(name || "/");
    throw fsError("fs-exists", `${what} exists: choose another name, or remove it first.`);
  }
  if (asksDirectory && made.kind !== "directory") {
    throw fsError("fs-is-directory", `${name}/ asks for a directory: leave out the slash.`);
  }
  requireAccess(work.caller, directory, access.write | access.execute);
  const inode = freshInode(work, directory, name, made);
  await charge(work, inode, 1, 0);
  records.entries.set(work.transaction, { id: inode.id, kind: inode.kind }, directory.id, name);
  touch(work, directory.id);
  return putInode(work, inode);
}

/** Makes a directory, and with `isRecursive` those that lead to it; those that are there stay. */
export async function makeDirectory(
  work: Work,
  at: At,
  mode: number,
  isRecursive: boolean,
  takeId: () => InodeId,
): Promise<Inode> {
  const { transaction, caller } = work;
  if (!isRecursive) {
    const place = await placeOf(transaction, caller, at, { follow: false });
    return createAt(work, place, { id: takeId(), kind: "directory", mode });
  }
  checkPath("path", at.path);
  let directory = at.path.startsWith("/") ? rootId : (at.directory ?? rootId);
  let inode: Inode | undefined;
  for (const name of at.path.split("/").filter((part) => part !== "")) {
    const step = { directory, path: name };
    const place = await placeOf(transaction, caller, step);
    inode = place.entry
      ? await inodeAt(transaction, caller, step)
      : await createAt(work, place, { id: takeId(), kind: "directory", mode });
    if (inode.kind !== "directory") {
      throw fsError("fs-exists", `${JSON.stringify(name)} is no directory: choose another name.`);
    }
    directory = inode.id;
  }
  return inode ?? inodeAt(transaction, caller, at);
}

/** Gives a file one more name; throws `fs-not-permitted` for directories. */
export async function linkAt(work: Work, inode: Inode, place: Place): Promise<Inode> {
  const { directory, name, entry, asksDirectory } = place;
  if (inode.kind === "directory") {
    throw fsError("fs-not-permitted", "A directory has one name only: make a symbolic link.");
  }
  if (entry) throw fsError("fs-exists", `${JSON.stringify(name)} exists: choose another name.`);
  if (asksDirectory || inode.links === 0) {
    throw fsError("fs-not-found", `Inode ${inode.id} or the new name's directory is gone.`);
  }
  if (inode.links >= maxLinks) {
    throw fsError("fs-too-many-links", `Inode ${inode.id} has ${maxLinks} names: copy it.`);
  }
  requireAccess(work.caller, directory, access.write | access.execute);
  requireSameQuotas(inode, directory);
  records.entries.set(work.transaction, { id: inode.id, kind: inode.kind }, directory.id, name);
  touch(work, directory.id);
  return putInode(work, { ...inode, links: inode.links + 1, ctime: work.now });
}

/** Throws `fs-cross-quota` where an inode would come under other quotas. */
export function requireSameQuotas(inode: Inode, directory: Inode): void {
  const [own, wanted] = [inode.quotas ?? [], quotasBelow(directory)];
  // A directory with a quota counts for itself, wherever it lies.
  const outer = own.filter((id) => id !== inode.id);
  if (outer.join() === wanted.join()) return;
  const message = `Inode ${inode.id} counts for other quotas than directory ${directory.id}`;
  throw fsError("fs-cross-quota", `${message}: copy it instead.`);
}

/** The quotas that what lies in a directory counts for. */
function quotasBelow(directory: Inode): readonly InodeId[] {
  return directory.quotas ?? [];
}

function freshInode(work: Work, directory: Inode, name: string, made: NewInode): Inode {
  const { caller, now } = work;
  const { id, kind } = made;
  const inheritsGroup = (directory.mode & 0o2000) !== 0;
  const gid = inheritsGroup ? directory.gid : caller.gid;
  let mode = made.mode & 0o7777;
  if (kind === "directory" && inheritsGroup) mode |= 0o2000;
  else if (kind !== "directory" && !isRoot(caller) && !isInGroup(caller, gid)) mode &= ~0o2000;
  const quotas = quotasBelow(directory);
  const common = { id, kind, mode, uid: caller.uid, gid, links: 1, length: 0 };
  const inode: Inode = {
    ...common,
    atime: now,
    mtime: now,
    ctime: now,
    ...(quotas.length > 0 ? { quotas } : {}),
  };
  const defaults = directory.defaults;
  assert(defaults, () => `directory ${directory.id} has no layout`);
  switch (kind) {
    case "file": {
      const layout = freshLayout(work, id, { ...defaults, ...made.layout });
      const usedStripe = Math.min(firstStripe, layout.stripe);
      return { ...inode, layout, usedStripe, truncations: 0 };
    }
    case "directory":
      return { ...inode, parent: directory.id, name, defaults };
    case "symlink":
      return { ...inode, mode: 0o777, ...checkedTarget(made.target ?? "") };
    default:
      return made.device === undefined ? inode : { ...inode, device: made.device };
  }
}

function checkedTarget(target: string): { target: string; length: number } {
  checkPath("target", target);
  if (target === "") throw fsError("fs-not-found", "The link's target is empty: give a path.");
  return { target, length: Buffer.byteLength(target) };
}

/** A layout in the newest version of its table. Ids follow each other, so that seeds go round. */
function freshLayout({ routing }: Work, id: InodeId, defaults: LayoutDefaults): FileLayout {
  checkDefaults(defaults);
  const { version, chainIds } = routing.newestTable(defaults.tableId);
  if (chainIds.length === 0) throw refuse("tableId", "names an empty table", "choose another");
  return {
    tableId: defaults.tableId,
    tableVersion: version,
    chunkBytes: defaults.chunkBytes,
    stripe: Math.min(defaults.stripe, chainIds.length),
    seed: id % chainIds.length,
  };
}
