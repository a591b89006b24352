/**
 * @file What happens in the background: the space of removed files comes back, removed trees are taken
 * apart, expired trash is removed. Every step is a small transaction that may be repeated, so that any
 * number of services may collect at once.
 */
import { BaleenError } from "../../base/index.ts";
import type { Transaction } from "../../kv/index.ts";
import { lastText } from "../json-records.ts";
import { isCurrent, type KnownEnd } from "./files.ts";
import { type GarbageRecord, inodeOf, records, trashId } from "./records.ts";
import { dropLink, expiryOf } from "./remove.ts";
import type { FileStorage, Inode } from "./types.ts";
import { charge, discard, touch, type Work } from "./work.ts";

/** Runs work in a transaction until it commits. */
export interface Runner {
  /** For work that only reads. */
  readonly read: <T>(work: (work: Work) => Promise<T>) => Promise<T>;
  /** Takes effect once. The result must be plain data. */
  readonly write: <T>(work: (work: Work) => Promise<T>) => Promise<T>;
}

const entriesPerStep = 200;

/** What a round did. */
export interface Collected {
  /** Files whose chunks and inodes are gone. */
  readonly files: number;
  /** Directories that are gone. */
  readonly directories: number;
  /** Whether there is or may be more to do. */
  readonly hasMore: boolean;
}

/** Takes up to `limit` things from the garbage. Throws what the storage throws; nothing is lost then. */
export async function collect(
  run: Runner,
  storage: FileStorage,
  limit: number,
): Promise<Collected> {
  const found = await run.read(({ transaction }) => records.garbage.entries(transaction, limit));
  let [files, directories] = [0, 0];
  let failure: unknown;
  for (const { key, record } of found) {
    try {
      if (record.kind === "directory") {
        if (await takeApart(run, key, record)) directories++;
      } else if (await removeFile(run, storage, key, record)) files++;
    } catch (error) {
      // One file's chain may be away: the others need not wait for it.
      if (!(error instanceof BaleenError)) throw error;
      failure = error;
    }
  }
  if (failure && files + directories === 0) throw failure;
  // What a directory held is garbage now.
  const hasMore = found.length === limit || found.some(({ record }) => record.kind === "directory");
  return { files, directories, hasMore };
}

/** Removes the next entries of a removed directory; true once it is gone. */
function takeApart(run: Runner, key: Uint8Array, { id }: GarbageRecord): Promise<boolean> {
  return run.write(async (work) => {
    const { transaction } = work;
    const inode = await records.inodes.get(transaction, id);
    if (!inode) {
      transaction.clear(key);
      return false;
    }
    const page = await records.entries.page(transaction, entriesPerStep, id);
    for (const { key: entryKey, record } of page) {
      transaction.clear(entryKey);
      const child = await records.inodes.get(transaction, record.id);
      if (child) await dropLink(work, child);
    }
    if (page.length === entriesPerStep) return false;
    transaction.clear(key);
    await forget(work, inode);
    return true;
  });
}

/** Removes a file's chunks, then the file; true once it is gone. */
async function removeFile(
  run: Runner,
  storage: FileStorage,
  key: Uint8Array,
  { id }: GarbageRecord,
): Promise<boolean> {
  const inode = await run.read(({ transaction }) => records.inodes.peek(transaction, id));
  if (inode?.layout) await storage.remove(id, inode.layout, inode.usedStripe ?? 1);
  return run.write(async (work) => {
    work.transaction.clear(key);
    const current = await records.inodes.get(work.transaction, id);
    if (!current || current.links > 0) return false;
    const known: KnownEnd | undefined = inode && {
      end: 0,
      truncations: inode.truncations ?? 0,
      usedStripe: inode.usedStripe ?? 0,
    };
    if (current.layout && known && !isCurrent(known, current)) {
      discard(work, current);
      return false;
    }
    await forget(work, current);
    return true;
  });
}

/** Removes every record of an inode, and what it counts for in quotas. */
async function forget(work: Work, inode: Inode): Promise<void> {
  const { transaction } = work;
  const { id, kind, length } = inode;
  await charge(work, inode, -1, kind === "file" ? -length : 0);
  records.inodes.clear(transaction, id);
  records.locks.clear(transaction, id);
  records.attributes.clearAll(transaction, id);
  if (kind !== "directory") return;
  records.touched.clear(transaction, id);
  records.quotas.clear(transaction, id);
  records.usage.clearAll(transaction, id);
}

/** Removes up to `limit` entries of the trash that have expired; how many. */
export function emptyTrash(run: Runner, limit: number): Promise<number> {
  return run.write(async (work) => {
    const { transaction, now } = work;
    const expired = [];
    for (const { key, record } of await records.entries.entries(transaction, limit, trashId)) {
      const expiresS = expiryOf(lastText(key, records.entries.name, trashId));
      // Names sort by when they expire: the rest of them expires later.
      if (expiresS !== undefined && expiresS > now.s) break;
      if (expiresS !== undefined) expired.push({ key, id: record.id });
    }
    for (const { key, id } of expired) {
      // Read with the conflict check: somebody may just be taking it out of the trash.
      if (!(await (transaction as Transaction).get(key))) continue;
      transaction.clear(key);
      await dropLink(work, await inodeOf(transaction, id));
    }
    if (expired.length > 0) touch(work, trashId);
    return expired.length;
  });
}
