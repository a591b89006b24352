/** @file What every operation gets: its transaction, who asks, the time, and the routing. */
import type { Transaction } from "../../kv/index.ts";
import { fsError } from "../errors.ts";
import type { Routing } from "../routing.ts";
import type { InodeId } from "../types.ts";
import { records } from "./records.ts";
import type { Caller, FileTime, Inode } from "./types.ts";

/** One attempt of one operation. */
export interface Work {
  readonly transaction: Transaction;
  readonly caller: Caller;
  readonly now: FileTime;
  readonly routing: Routing;
}

/** Writes an inode. */
export function putInode({ transaction }: Work, inode: Inode): Inode {
  records.inodes.set(transaction, inode, inode.id);
  return inode;
}

/** Notes that a directory's entries change now, without a conflict with others who do. */
export function touch({ transaction, now }: Work, directory: InodeId): void {
  records.touched.set(transaction, now, directory);
}

/** Has the collector take something up. */
export function discard({ transaction, now }: Work, { id, kind }: Inode): void {
  records.garbage.set(transaction, { id, kind }, now.s, id);
}

const usageShards = 16;

/**
 * Counts inodes and bytes, added or with a minus gone, for the quotas of `inode`; throws
 * `fs-quota-exceeded` where they do not fit. Counters are in shards, so that not all creates under a
 * quota conflict; requests under way together may exceed a limit by what they add.
 */
export async function charge(
  { transaction }: Work,
  { id, quotas = [] }: Pick<Inode, "id" | "quotas">,
  files: number,
  bytes: number,
): Promise<void> {
  if (files === 0 && bytes === 0) return;
  for (const directory of quotas) {
    if (files > 0 || bytes > 0) {
      const limit = await records.quotas.peek(transaction, directory);
      const [usedFiles, usedBytes] = await usageOf(transaction, directory);
      const over = (used: number, more: number, most = Infinity) => more > 0 && used + more > most;
      if (over(usedFiles, files, limit?.files) || over(usedBytes, bytes, limit?.bytes)) {
        const used = `${usedFiles} files and ${usedBytes} bytes`;
        const message = `The quota of directory ${directory} is used up (${used})`;
        throw fsError("fs-quota-exceeded", `${message}: remove files or raise it.`);
      }
    }
    const shard = id % usageShards;
    const before = (await records.usage.get(transaction, directory, shard)) ?? [0, 0];
    const after = [before[0] + files, before[1] + bytes] as const;
    records.usage.set(transaction, after, directory, shard);
  }
}

/** Files and bytes that count for a directory's quota, from the snapshot. */
export async function usageOf(
  transaction: Transaction,
  directory: InodeId,
): Promise<[files: number, bytes: number]> {
  const shards = await records.usage.list(transaction, directory);
  return [
    shards.reduce((sum, [files]) => sum + files, 0),
    shards.reduce((sum, [, bytes]) => sum + bytes, 0),
  ];
}
