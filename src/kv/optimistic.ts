/**
 * @file The engine that memory and LMDB share: snapshots by version, optimistic validation, and group
 * commit. While one group is being made durable, the next one gathers; a version becomes readable
 * only when its group is durable, so that nothing read is ever lost.
 */
import { BaleenError, type Clock, realClock } from "../base/index.ts";
import type { CommitRequest, OptimisticBackend, TextEntry, TextRange } from "./backend.ts";
import { kvError } from "./errors.ts";
import { Resolver } from "./resolver.ts";
import { OptimisticTransaction } from "./transaction.ts";
import type { KvStore, Transaction } from "./types.ts";

/** One state of the storage, readable until it is released. */
export interface StorageSnapshot {
  /** The value of a key. */
  get(key: string): Uint8Array | undefined;
  /** Entries of a range, see `OptimisticBackend.range`. */
  range(range: TextRange, limit: number, reverse: boolean): TextEntry[];
  /** Ends the snapshot. */
  release(): void;
}

/** Where an optimistic engine keeps its entries. */
export interface GroupStorage {
  /** The newest durable state. */
  snapshot(): StorageSnapshot;
  /** Lets those who are about to commit join the next group: a turn of whatever drives them. */
  gather(): Promise<void>;
  /** Makes the writes of a group, in order, durable and visible to later snapshots together. */
  apply(group: readonly CommitRequest[]): Promise<void>;
  /** Ends the storage. */
  close(): Promise<void>;
}

/** How an optimistic engine bounds what it holds. */
export interface OptimisticOptions {
  /** How long a transaction may read its snapshot, in milliseconds; default 5,000. */
  readonly maxAgeMs?: number;
  /** Commits that may wait before others are refused with `kv-throttled`; default 10,000. */
  readonly maxPendingCommits?: number;
  /** Commits of one group; default 1,000. */
  readonly maxGroupCommits?: number;
  /** The time that ages are measured on; default the process's clock. */
  readonly clock?: Clock;
}

interface Pinned {
  readonly snapshot: StorageSnapshot;
  /** When it was last pinned. */
  pinnedMs: number;
  pins: number;
}

interface Waiter {
  readonly request: CommitRequest;
  readonly resolve: () => void;
  readonly reject: (error: unknown) => void;
}

/** A store over a `GroupStorage`. */
export class OptimisticStore implements KvStore, OptimisticBackend {
  readonly engine: string;
  private readonly storage: GroupStorage;
  private readonly options: Required<OptimisticOptions>;
  private readonly resolver = new Resolver();
  private readonly snapshots = new Map<number, Pinned>();
  private readonly waiting: Waiter[] = [];
  private durable = 0;
  private flushing: Promise<void> | undefined;
  private isClosed = false;

  constructor(engine: string, storage: GroupStorage, options: OptimisticOptions = {}) {
    this.engine = engine;
    this.storage = storage;
    this.options = {
      maxAgeMs: 5000,
      maxPendingCommits: 10_000,
      maxGroupCommits: 1000,
      clock: realClock,
      ...options,
    };
  }

  begin(): Transaction {
    return new OptimisticTransaction(this);
  }

  async close(): Promise<void> {
    if (this.isClosed) return;
    this.isClosed = true;
    await this.flushing;
    for (const version of [...this.snapshots.keys()]) this.drop(version);
    await this.storage.close();
  }

  async pin(): Promise<number> {
    this.checkOpen();
    this.dropOld();
    const version = this.durable;
    const held = this.snapshots.get(version);
    const pinnedMs = this.options.clock.now();
    if (held) {
      held.pins++;
      held.pinnedMs = pinnedMs;
    } else this.snapshots.set(version, { snapshot: this.storage.snapshot(), pinnedMs, pins: 1 });
    return version;
  }

  release(version: number): void {
    const held = this.snapshots.get(version);
    if (held && --held.pins === 0 && version !== this.durable) this.drop(version);
  }

  async get(version: number, key: string): Promise<Uint8Array | undefined> {
    return this.snapshotOf(version).get(key);
  }

  async range(
    version: number,
    range: TextRange,
    limit: number,
    reverse: boolean,
  ): Promise<readonly TextEntry[]> {
    return this.snapshotOf(version).range(range, limit, reverse);
  }

  commit(request: CommitRequest): Promise<void> {
    this.checkOpen();
    // What was read is one durable state, and nothing is to be written: there is nothing to decide.
    if (request.writes.size === 0 && request.clears.length === 0) return Promise.resolve();
    if (this.waiting.length >= this.options.maxPendingCommits) {
      const message = `${this.waiting.length} commits wait: try again a little later.`;
      return Promise.reject(kvError("kv-throttled", message));
    }
    return new Promise((resolve, reject) => {
      this.waiting.push({ request, resolve, reject });
      this.flushing ??= this.flush();
    });
  }

  /** Commits group after group until nobody waits. */
  private async flush(): Promise<void> {
    while (this.waiting.length > 0) {
      await this.storage.gather();
      await this.commitGroup(this.waiting.splice(0, this.options.maxGroupCommits));
    }
    this.flushing = undefined;
  }

  private async commitGroup(waiters: readonly Waiter[]): Promise<void> {
    const admitted = waiters.filter((waiter) => this.decide(waiter));
    if (admitted.length === 0) return;
    const version = this.resolver.openVersion;
    let failure: unknown;
    try {
      await this.storage.apply(admitted.map(({ request }) => request));
    } catch (error) {
      failure = error instanceof BaleenError ? error : maybeCommitted(error);
    }
    const before = this.durable;
    this.durable = version;
    if (this.snapshots.get(before)?.pins === 0) this.drop(before);
    this.dropOld();
    this.resolver.closeGroup(Math.min(version, ...this.snapshots.keys()));
    for (const { resolve, reject } of admitted) failure ? reject(failure) : resolve();
  }

  /** Admits a transaction to the open group, or refuses it. */
  private decide({ request, reject }: Waiter): boolean {
    if (!this.snapshots.has(request.version)) reject(this.tooOld(request.version));
    else if (this.resolver.admits(request)) {
      this.resolver.add(request);
      return true;
    } else {
      const advice = "run the transaction again";
      reject(kvError("kv-conflict", `Something that was read has changed since: ${advice}.`));
    }
    return false;
  }

  private snapshotOf(version: number): StorageSnapshot {
    this.checkOpen();
    this.dropOld();
    const held = this.snapshots.get(version);
    if (!held) throw this.tooOld(version);
    return held.snapshot;
  }

  /**
   * Ends snapshots past their age, so that a forgotten transaction can't hold storage for ever. The
   * newest holds nothing that would be free without it.
   */
  private dropOld(): void {
    const limitMs = this.options.clock.now() - this.options.maxAgeMs;
    for (const [version, { pinnedMs }] of this.snapshots) {
      if (pinnedMs > limitMs || version === this.durable) break;
      this.drop(version);
    }
  }

  private drop(version: number): void {
    this.snapshots.get(version)?.snapshot.release();
    this.snapshots.delete(version);
  }

  private tooOld(version: number): Error {
    const age = `older than ${this.options.maxAgeMs} ms`;
    return kvError("kv-too-old", `Snapshot ${version} is ${age}: begin a shorter transaction.`);
  }

  private checkOpen(): void {
    if (this.isClosed) throw kvError("kv-closed", "The store is closed: open it again.");
  }
}

function maybeCommitted(cause: unknown): Error {
  const message = "The commit failed half-way: look whether its writes are there.";
  return kvError("kv-maybe-committed", message, cause);
}
