/**
 * @file The embedded engine: LMDB (package `lmdb`), one process, durable. LMDB's own snapshots are
 * the versions. A group is one LMDB transaction that is flushed before it becomes visible
 * (`overlappingSync` off), so that a reader never sees what a power cut could take back.
 */
import { mkdirSync, statfsSync } from "node:fs";
import { open, type RootDatabase } from "lmdb";
import type { CommitRequest, TextEntry, TextRange } from "./backend.ts";
import { kvError } from "./errors.ts";
import { bytesOf, textOf } from "./keys.ts";
import {
  type GroupStorage,
  type OptimisticOptions,
  OptimisticStore,
  type StorageSnapshot,
} from "./optimistic.ts";
import type { KvStore } from "./types.ts";

/** Address space to map at first; LMDB maps more when the store outgrows it. */
const mapBytes = 64 * 2 ** 30;

type Database = RootDatabase<Buffer, Buffer>;
type ReadTransaction = ReturnType<Database["useReadTransaction"]>;

/** How to open an LMDB store. */
export interface LmdbOptions extends OptimisticOptions {
  /** Flush every group; default true. Without it a power cut loses the last seconds. */
  readonly durable?: boolean;
}

class LmdbStorage implements GroupStorage {
  private readonly database: Database;
  private readonly folder: string;

  constructor(database: Database, folder: string) {
    this.database = database;
    this.folder = folder;
  }

  snapshot(): StorageSnapshot {
    // LMDB's shared read transaction may be older than the last commit: have it renewed.
    this.database.resetReadTxn();
    return new LmdbSnapshot(this.database, this.database.useReadTransaction());
  }

  /** Whoever the last group let go on has its next commit ready by the event loop's next turn. */
  gather(): Promise<void> {
    return new Promise((resolve) => setImmediate(resolve));
  }

  async apply(group: readonly CommitRequest[]): Promise<void> {
    const final = this.finalWrites(group);
    try {
      await this.database.batch(() => {
        for (const [key, value] of final) {
          const one = value
            ? this.database.put(bytesOf(key), value as Buffer)
            : this.database.remove(bytesOf(key));
          // The batch tells of a failure; each write would tell of it too.
          one.catch(() => undefined);
        }
      });
    } catch (error) {
      throw this.failure(await causeOf(error));
    }
  }

  close(): Promise<void> {
    return this.database.close();
  }

  /** A full disk makes LMDB's first writes fall short, which it reports as EIO and takes back. */
  private failure(cause: unknown): unknown {
    const { bavail, bsize } = statfsSync(this.folder);
    if (bavail * bsize > 2 ** 20) return cause;
    const message = `The disk of ${this.folder} is full: free some space, then try again.`;
    return kvError("kv-no-space", message, cause);
  }

  /** What each key ends up as; ranges become the keys that are there. */
  private finalWrites(group: readonly CommitRequest[]): Map<string, Uint8Array | undefined> {
    const final = new Map<string, Uint8Array | undefined>();
    for (const { clears, writes } of group) {
      for (const { begin, end } of clears) {
        for (const key of final.keys()) if (key >= begin && key < end) final.set(key, undefined);
        this.database.resetReadTxn();
        const range = { start: bytesOf(begin), end: bytesOf(end) };
        for (const key of this.database.getKeys(range)) final.set(textOf(key), undefined);
      }
      for (const [key, value] of writes) final.set(key, value);
    }
    return final;
  }
}

class LmdbSnapshot implements StorageSnapshot {
  private readonly database: Database;
  private readonly transaction: ReadTransaction;

  constructor(database: Database, transaction: ReadTransaction) {
    this.database = database;
    this.transaction = transaction;
  }

  get(key: string): Uint8Array | undefined {
    return this.database.get(bytesOf(key), { transaction: this.transaction });
  }

  range({ begin, end }: TextRange, limit: number, reverse: boolean): TextEntry[] {
    const { transaction } = this;
    const bounds = reverse
      ? // LMDB's backward ranges hold their start and not their end: the mirror of ours.
        { start: bytesOf(end), exclusiveStart: true, end: bytesOf(begin), inclusiveEnd: true }
      : { start: bytesOf(begin), end: bytesOf(end) };
    const entries = this.database.getRange({ ...bounds, limit, reverse, transaction });
    return Array.from(entries, ({ key, value }) => ({ key: textOf(key), value }));
  }

  release(): void {
    this.transaction.done();
  }
}

/** What LMDB failed of: its promise comes with a second one that rejects with the reason. */
async function causeOf(error: unknown): Promise<unknown> {
  const { commitError } = error as { commitError?: Promise<never> };
  if (!commitError) return error;
  return commitError.catch((cause: unknown) => cause);
}

/**
 * Opens the store in `folder`, which is made where it is missing; one process at a time may write to
 * it. Throws `kv-unavailable` where the folder can't be opened.
 */
export function openLmdbKv(folder: string, options: LmdbOptions = {}): KvStore {
  const { durable = true, ...bounds } = options;
  let database: Database;
  try {
    mkdirSync(folder, { recursive: true });
    database = open<Buffer, Buffer>({
      path: folder,
      noSubdir: false,
      encoding: "binary",
      keyEncoding: "binary",
      overlappingSync: false,
      // Groups are ours; LMDB's own batches would reject promises that nobody holds.
      eventTurnBatching: false,
      noSync: !durable,
      mapSize: mapBytes,
    });
  } catch (error) {
    const message = `The store at ${folder} can't be opened (${String(error)}): check the path.`;
    throw kvError("kv-unavailable", message, error);
  }
  return new OptimisticStore("lmdb", new LmdbStorage(database, folder), bounds);
}
