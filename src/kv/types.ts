/**
 * @file The contract of `kv`: an ordered map from bytes to bytes, changed by transactions that are
 * strictly serialisable: they act as if run one by one, in an order that agrees with real time.
 */

/** A key with its value. */
export interface KvEntry {
  readonly key: Uint8Array;
  readonly value: Uint8Array;
}

/** How to read a range. */
export interface RangeOptions {
  /** The most entries to return; default 1,000. `scan` pages through longer ranges. */
  readonly limit?: number;
  /** From the end backwards. */
  readonly reverse?: boolean;
}

/**
 * One transaction. It reads from one snapshot, sees its own writes, and keeps them to itself until
 * `commit`. Reads fail with `kv-too-old` once the snapshot is gone, with `kv-unavailable` when the
 * engine can't be reached. Ranges hold their begin and not their end; keys are ordered by their bytes.
 */
export interface Transaction {
  /** The value of `key`; the commit fails if it has changed by then. */
  get(key: Uint8Array): Promise<Uint8Array | undefined>;
  /** The value of `key` in the snapshot; later changes of it do not matter. */
  snapshotGet(key: Uint8Array): Promise<Uint8Array | undefined>;
  /** The entries of a range in order; the commit fails if any of what was seen, gaps too, changed. */
  getRange(begin: Uint8Array, end: Uint8Array, options?: RangeOptions): Promise<KvEntry[]>;
  /** The entries of a range in the snapshot; later changes do not matter. */
  snapshotGetRange(begin: Uint8Array, end: Uint8Array, options?: RangeOptions): Promise<KvEntry[]>;
  /** As if `key` had been read by `get`. */
  addReadConflictKey(key: Uint8Array): void;
  /** As if all of the range had been read by `getRange`. */
  addReadConflictRange(begin: Uint8Array, end: Uint8Array): void;
  /** Sets `key`. */
  set(key: Uint8Array, value: Uint8Array): void;
  /** Removes `key`, if it is there. */
  clear(key: Uint8Array): void;
  /** Removes every key of the range. */
  clearRange(begin: Uint8Array, end: Uint8Array): void;
  /**
   * Makes the writes durable and visible together, or throws: `kv-conflict`, `kv-too-old`,
   * `kv-throttled`, `kv-unavailable`, `kv-no-space` (nothing was written) or `kv-maybe-committed`.
   */
  commit(): Promise<void>;
  /** Ends the transaction without writing; no effect once it has ended. */
  cancel(): void;
}

/** A store of one engine. */
export interface KvStore {
  /** Which engine: `memory`, `lmdb`, `postgres`, `foundationdb`. */
  readonly engine: string;
  /** A new transaction; its snapshot holds everything committed before its first read began. */
  begin(): Transaction;
  /** Ends the store; transactions under way fail with `kv-closed`. */
  close(): Promise<void>;
}
