/** @file Who may do what: POSIX permission bits, owners, groups, the sticky bit. Pure. */
import { fsError } from "../errors.ts";
import type { Caller, Inode } from "./types.ts";

/** Bits of an access: as in a mode's last digit. */
export const access = { read: 4, write: 2, execute: 1 } as const;

/** Whether the caller is user 0. */
export function isRoot({ uid }: Caller): boolean {
  return uid === 0;
}

/** Whether the caller is in a group. */
export function isInGroup({ gid, groups = [] }: Caller, group: number): boolean {
  return gid === group || groups.includes(group);
}

/** Whether the mode lets the caller do all of `wanted`. */
export function mayAccess(caller: Caller, inode: Inode, wanted: number): boolean {
  if (isRoot(caller)) {
    // Root may do anything, but execute only what somebody may.
    const runs = (wanted & access.execute) === 0 || inode.kind === "directory";
    return runs || (inode.mode & 0o111) !== 0;
  }
  const shift = caller.uid === inode.uid ? 6 : isInGroup(caller, inode.gid) ? 3 : 0;
  return ((inode.mode >> shift) & wanted) === wanted;
}

/** Throws `fs-access-denied` unless the caller may. */
export function requireAccess(caller: Caller, inode: Inode, wanted: number): void {
  if (mayAccess(caller, inode, wanted)) return;
  const names = Object.entries(access).filter(([, bit]) => wanted & bit);
  const verbs = names.map(([name]) => name).join(" and ");
  const what = `User ${caller.uid} may not ${verbs} inode ${inode.id}`;
  const mode = inode.mode.toString(8).padStart(4, "0");
  throw fsError("fs-access-denied", `${what} (mode ${mode}, owner ${inode.uid}): ask its owner.`);
}

/** Throws `fs-not-permitted` unless the caller owns the inode or is root. */
export function requireOwner(caller: Caller, inode: Inode): void {
  if (isRoot(caller) || caller.uid === inode.uid) return;
  const what = `Inode ${inode.id} belongs to user ${inode.uid}, not ${caller.uid}`;
  throw fsError("fs-not-permitted", `${what}: ask its owner.`);
}

/** Throws `fs-not-permitted` where a sticky directory keeps the caller from removing `child`. */
export function requireUnstuck(caller: Caller, directory: Inode, child: Inode): void {
  const isSticky = (directory.mode & 0o1000) !== 0;
  if (!isSticky || isRoot(caller)) return;
  if (caller.uid === directory.uid || caller.uid === child.uid) return;
  const what = `Directory ${directory.id} is sticky, and inode ${child.id} is not the caller's`;
  throw fsError("fs-not-permitted", `${what}: ask its owner.`);
}
