/** @file Modes, owners, times, layouts of directories, extended attributes. */
import { fsError } from "../errors.ts";
import { checkDefaults, checkWhole, refuse } from "./checks.ts";
import { withoutSetId } from "./files.ts";
import {
  access,
  isInGroup,
  isRoot,
  mayAccess,
  requireAccess,
  requireOwner,
} from "./permissions.ts";
import { inodeOf, records } from "./records.ts";
import type { AttributeChanges, FileTime, Inode } from "./types.ts";
import { putInode, type Work } from "./work.ts";

/** Changes attributes, as `chmod`, `chown`, `utimensat` would be allowed to. */
export function changeAttributes(work: Work, inode: Inode, changes: AttributeChanges): Inode {
  const { caller, now } = work;
  let changed: Inode = { ...inode, ctime: now };
  if (changes.uid !== undefined || changes.gid !== undefined) {
    changed = changeOwner(work, changed, changes);
  }
  if (changes.mode !== undefined) {
    requireOwner(caller, inode);
    checkWhole("mode", changes.mode, 0, 0o7777);
    const keepsGroup = isRoot(caller) || isInGroup(caller, changed.gid);
    changed = { ...changed, mode: keepsGroup ? changes.mode : changes.mode & ~0o2000 };
  }
  for (const field of ["atime", "mtime"] as const) {
    const time = changes[field];
    if (time === undefined) continue;
    changed = { ...changed, [field]: time === "now" ? now : checkedTime(field, time) };
    requireTimes(work, inode, time);
  }
  if (changes.defaults) {
    requireOwner(caller, inode);
    if (!inode.defaults) throw refuse("defaults", "belong to directories", "name a directory");
    const defaults = { ...inode.defaults, ...changes.defaults };
    checkDefaults(defaults);
    changed = { ...changed, defaults };
  }
  if (changed.kind === "directory" && changes.mtime !== undefined) {
    // The record of the last change would win over a time that is set to the past.
    records.touched.clear(work.transaction, inode.id);
  }
  return putInode(work, changed);
}

function changeOwner(work: Work, inode: Inode, { uid, gid }: AttributeChanges): Inode {
  const { caller } = work;
  if (uid !== undefined) checkWhole("uid", uid, 0, 2 ** 32 - 2);
  if (gid !== undefined) checkWhole("gid", gid, 0, 2 ** 32 - 2);
  if (!isRoot(caller)) {
    requireOwner(caller, inode);
    const givesAway = uid !== undefined && uid !== inode.uid;
    const isStranger = gid !== undefined && gid !== inode.gid && !isInGroup(caller, gid);
    if (givesAway || isStranger) {
      const message = `User ${caller.uid} may not give inode ${inode.id} to others`;
      throw fsError("fs-not-permitted", `${message}: ask an administrator.`);
    }
  }
  const runs = inode.kind === "file" && (inode.mode & 0o111) !== 0;
  const mode = runs && !isRoot(caller) ? withoutSetId(inode.mode) : inode.mode;
  return { ...inode, mode, uid: uid ?? inode.uid, gid: gid ?? inode.gid };
}

/** The owner sets any time; who may write sets the present one. */
function requireTimes({ caller }: Work, inode: Inode, time: FileTime | "now"): void {
  if (isRoot(caller) || caller.uid === inode.uid) return;
  if (time !== "now") requireOwner(caller, inode);
  requireAccess(caller, inode, access.write);
}

function checkedTime(field: string, time: FileTime): FileTime {
  checkWhole(`${field}.s`, time.s, -(2 ** 40), 2 ** 40);
  checkWhole(`${field}.ns`, time.ns, 0, 999_999_999);
  return { s: time.s, ns: time.ns };
}

const attributeLimits = { nameBytes: 255, valueBytes: 65_536 };

/** How a value is set: always, only where there is none, or only where there is one. */
export type AttributeMode = "set" | "create" | "replace";

/** Sets an extended attribute, or with `undefined` removes it. */
export async function changeAttribute(
  work: Work,
  inode: Inode,
  name: string,
  value: Uint8Array | undefined,
  mode: AttributeMode,
): Promise<void> {
  const { transaction, caller, now } = work;
  checkAttributeName(caller.uid, name);
  requireAccess(caller, inode, access.write);
  const held = await records.attributes.get(transaction, inode.id, name);
  if (held === undefined && (value === undefined || mode === "replace")) throw noAttribute(name);
  if (value !== undefined && held !== undefined && mode === "create") {
    throw fsError("fs-exists", `Attribute ${JSON.stringify(name)} exists: replace it.`);
  }
  if (value === undefined) records.attributes.clear(transaction, inode.id, name);
  else {
    if (value.length > attributeLimits.valueBytes) {
      const advice = `give at most ${attributeLimits.valueBytes}`;
      throw refuse("value", `has ${value.length} bytes`, advice);
    }
    const text = Buffer.from(value).toString("base64");
    records.attributes.set(transaction, text, inode.id, name);
  }
  putInode(work, { ...inode, ctime: now });
}

/** The value of an extended attribute; throws `fs-no-attribute`. */
export async function readAttribute(
  { transaction, caller }: Work,
  id: number,
  name: string,
): Promise<Uint8Array> {
  const inode = await inodeOf(transaction, id);
  requireAccess(caller, inode, access.read);
  const text = await records.attributes.get(transaction, id, name);
  if (text === undefined) throw noAttribute(name);
  return Buffer.from(text, "base64");
}

function checkAttributeName(uid: number, name: string): void {
  const bytes = Buffer.byteLength(name);
  if (bytes < 1 || bytes > attributeLimits.nameBytes || name.includes("\0")) {
    throw refuse("name", "has no 1 to 255 bytes without zeros", "shorten it");
  }
  const space = name.split(".")[0];
  if (space === "user" || (space === "trusted" && uid === 0) || space === "security") return;
  const message = `Attributes of ${JSON.stringify(space)} are not kept: use names that begin with user.`;
  throw fsError("fs-not-supported", message);
}

function noAttribute(name: string): Error {
  return fsError("fs-no-attribute", `There is no attribute ${JSON.stringify(name)}: list them.`);
}

/** Whether the caller may do all of `wanted`, as `access(2)` asks. */
export function answerAccess({ caller }: Work, inode: Inode, wanted: number): boolean {
  checkWhole("wanted", wanted, 0, 7);
  return mayAccess(caller, inode, wanted);
}
