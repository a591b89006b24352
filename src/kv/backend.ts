/**
 * @file What an optimistic engine answers. A transaction keeps its reads and writes to itself
 * (`transaction.ts`) and asks only for this; it is also all that crosses a process boundary, so that
 * an engine may live in a process of its own. Keys are strings of one character a byte.
 */

/** An entry with its key as a string. */
export interface TextEntry {
  readonly key: string;
  readonly value: Uint8Array;
}

/** A range of keys, the end excluded. */
export interface TextRange {
  readonly begin: string;
  readonly end: string;
}

/** What a transaction asks to be decided and made durable. */
export interface CommitRequest {
  /** What it read, as `pin` named it. */
  readonly version: number;
  /** Keys and ranges that must not have changed since. */
  readonly readKeys: Iterable<string>;
  readonly readRanges: readonly TextRange[];
  /** Those of them that were never read, for engines that note by themselves what was. */
  readonly unreadKeys: readonly string[];
  readonly unreadRanges: readonly TextRange[];
  /** Ranges to clear, before the writes. */
  readonly clears: readonly TextRange[];
  /** Keys to set, or where undefined to clear. */
  readonly writes: ReadonlyMap<string, Uint8Array | undefined>;
}

/** An engine as an optimistic transaction sees it. */
export interface OptimisticBackend {
  /** The name of the newest durable state, held readable until it is released as often. */
  pin(): Promise<number>;
  /** Lets go of a pinned version. */
  release(version: number): void;
  /** The value of a key in a pinned version. */
  get(version: number, key: string): Promise<Uint8Array | undefined>;
  /** At most `limit` entries of a range in a pinned version, from its end where `reverse`. */
  range(
    version: number,
    range: TextRange,
    limit: number,
    reverse: boolean,
  ): Promise<readonly TextEntry[]>;
  /** Resolves when the writes are durable and every later `pin` sees them; see `Transaction.commit`. */
  commit(request: CommitRequest): Promise<void>;
}
