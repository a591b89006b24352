/**
 * @file Open files: writers' sessions, exact lengths, truncation, the stripe in use.
 *
 * A length only grows by what the storage says that it holds, and only shrinks by truncation, which
 * trims the storage first. So the greater of the record and the storage's answer is exact, as long as
 * neither a truncation nor a wider stripe came between: then it is asked again.
 */
import { fsError } from "../errors.ts";
import type { InodeId } from "../types.ts";
import { inodeOf, records } from "./records.ts";
import type { FileLock, FileStorage, Inode } from "./types.ts";
import { charge, discard, putInode, type Work } from "./work.ts";

/** Notes an opening for writing. */
export function addSession(
  { transaction, caller }: Work,
  { id }: Inode,
  sessionId: string | undefined,
): void {
  if (typeof sessionId !== "string" || sessionId === "" || sessionId.length > 100) {
    const message = "sessionId has no 1 to 100 characters: give a name for this opening.";
    throw fsError("fs-input-invalid", message);
  }
  const clientId = caller.request?.clientId ?? "";
  records.sessions.set(transaction, { clientId, sessionId }, id, clientId, sessionId);
  records.clientSessions.set(transaction, id, clientId, id, sessionId);
}

/** Ends an opening for writing; a file without names goes with its last writer. */
export async function endSession(
  work: Work,
  inode: Inode,
  clientId: string,
  sessionId: string,
): Promise<void> {
  const { transaction } = work;
  records.sessions.clear(transaction, inode.id, clientId, sessionId);
  records.clientSessions.clear(transaction, clientId, inode.id, sessionId);
  if (inode.links === 0 && (await records.sessions.isEmpty(transaction, inode.id))) {
    discard(work, inode);
  }
}

/** What the storage said of a file's end, and of which state of the file. */
export interface KnownEnd {
  readonly end: number;
  readonly truncations: number;
  readonly usedStripe: number;
}

/** Asks the storage where a file ends. */
export async function askEnd(storage: FileStorage, inode: Inode): Promise<KnownEnd> {
  const { id, layout, usedStripe = 0, truncations = 0 } = inode;
  const end = layout ? await storage.endOf(id, layout, usedStripe) : 0;
  return { end, truncations, usedStripe };
}

/** Whether an answer is of the present state of the file. */
export function isCurrent(known: KnownEnd, inode: Inode): boolean {
  return known.truncations === inode.truncations && known.usedStripe === inode.usedStripe;
}

/** Lengthens a file to `end`, if that is beyond its length; it counts as modified now. */
export async function growTo(work: Work, inode: Inode, end: number): Promise<Inode> {
  const length = Math.max(inode.length, end);
  await charge(work, inode, 0, length - inode.length);
  return putInode(work, { ...inode, length, mtime: work.now, ctime: work.now });
}

/** Sets the length after the storage was trimmed. */
export async function cutTo(work: Work, inode: Inode, length: number): Promise<Inode> {
  await charge(work, inode, 0, length - inode.length);
  return putInode(work, {
    ...inode,
    length,
    truncations: (inode.truncations ?? 0) + 1,
    // As a write by somebody else than root, it takes the right to run as the owner away.
    mode: work.caller.uid === 0 ? inode.mode : withoutSetId(inode.mode),
    mtime: work.now,
    ctime: work.now,
  });
}

/** The mode without set-user-id, and without set-group-id where the group may execute. */
export function withoutSetId(mode: number): number {
  return mode & ~(mode & 0o010 ? 0o6000 : 0o4000);
}

/** Widens the stripe in use, by doubling, so that chunk `index` may be written. */
export function widenTo(work: Work, inode: Inode, index: number): Inode {
  const { stripe = 1 } = inode.layout ?? {};
  let usedStripe = inode.usedStripe ?? 1;
  while (usedStripe <= index && usedStripe < stripe) usedStripe = Math.min(stripe, usedStripe * 2);
  return usedStripe === inode.usedStripe ? inode : putInode(work, { ...inode, usedStripe });
}

/** Takes a lock, exchanges its kind, or throws `fs-locked` where another holds it. */
export async function takeLock(work: Work, id: InodeId, lock: FileLock): Promise<void> {
  await inodeOf(work.transaction, id);
  const held = (await records.locks.get(work.transaction, id)) ?? [];
  const others = held.filter((other) => !isSameOwner(other, lock));
  const obstacle = others.find((other) => other.isExclusive || lock.isExclusive);
  if (obstacle) {
    const who = `client ${obstacle.clientId}, ${obstacle.owner}`;
    throw fsError("fs-locked", `Inode ${id} is locked by ${who}: try again when it is free.`);
  }
  records.locks.set(work.transaction, [...others, lock], id);
  records.clientLocks.set(work.transaction, id, lock.clientId, id);
}

/** Gives up a lock, if it is held; without an owner all of the client's on that inode. */
export async function dropLock(
  { transaction }: Work,
  id: InodeId,
  clientId: string,
  owner?: string,
): Promise<void> {
  const held = (await records.locks.get(transaction, id)) ?? [];
  const rest = held.filter(
    (lock) => lock.clientId !== clientId || (owner !== undefined && lock.owner !== owner),
  );
  if (rest.length === 0) records.locks.clear(transaction, id);
  else records.locks.set(transaction, rest, id);
  if (!rest.some((lock) => lock.clientId === clientId)) {
    records.clientLocks.clear(transaction, clientId, id);
  }
}

function isSameOwner(x: FileLock, y: FileLock): boolean {
  return x.clientId === y.clientId && x.owner === y.owner;
}
