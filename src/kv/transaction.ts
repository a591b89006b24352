/**
 * @file A transaction of an optimistic engine: reads a pinned version, keeps its writes in an overlay,
 * remembers what it read, and has the engine decide at commit whether any of that has changed.
 */
import type { OptimisticBackend, TextEntry, TextRange } from "./backend.ts";
import { checkKey, checkLimit, checkRange, checkValue, kvError, kvLimits } from "./errors.ts";
import { bytesOf, keyAfter, textOf } from "./keys.ts";
import { Overlay } from "./overlay.ts";
import type { KvEntry, RangeOptions, Transaction } from "./types.ts";

/** The entries that a range read returns where no limit is given. */
const defaultRangeLimit = 1000;

/** A transaction over an `OptimisticBackend`. */
export class OptimisticTransaction implements Transaction {
  private readonly backend: OptimisticBackend;
  private readonly overlay = new Overlay();
  private readonly readKeys = new Set<string>();
  private readonly readRanges: TextRange[] = [];
  private readonly unreadKeys: string[] = [];
  private readonly unreadRanges: TextRange[] = [];
  private pinned: Promise<number> | undefined;
  private isOver = false;

  constructor(backend: OptimisticBackend) {
    this.backend = backend;
  }

  async get(key: Uint8Array): Promise<Uint8Array | undefined> {
    const value = await this.read(key);
    this.readKeys.add(textOf(key));
    return value;
  }

  snapshotGet(key: Uint8Array): Promise<Uint8Array | undefined> {
    return this.read(key);
  }

  async getRange(
    begin: Uint8Array,
    end: Uint8Array,
    options: RangeOptions = {},
  ): Promise<KvEntry[]> {
    const { limit = defaultRangeLimit, reverse = false } = options;
    const entries = await this.snapshotGetRange(begin, end, options);
    const last = entries.at(-1)?.key;
    const stopped = last !== undefined && entries.length === limit;
    this.readRanges.push({
      begin: textOf(stopped && reverse ? last : begin),
      end: textOf(stopped && !reverse ? keyAfter(last) : end),
    });
    return entries;
  }

  async snapshotGetRange(
    begin: Uint8Array,
    end: Uint8Array,
    { limit = defaultRangeLimit, reverse = false }: RangeOptions = {},
  ): Promise<KvEntry[]> {
    checkRange(begin, end);
    checkLimit(limit);
    this.checkOpen();
    const version = await this.version();
    let range = { begin: textOf(begin), end: textOf(end) };
    const found: TextEntry[] = [];
    while (range.begin < range.end && found.length < limit) {
      // What this transaction cleared may fill whole pages, so that small ones would come to nothing.
      const wanted = Math.max(limit - found.length, this.overlay.isEmpty ? 0 : 256);
      const page = await this.backend.range(version, range, wanted, reverse);
      const last = page.length < wanted ? undefined : page[page.length - 1].key;
      const seen: TextRange =
        last === undefined
          ? range
          : reverse
            ? { begin: last, end: range.end }
            : { begin: range.begin, end: `${last}\0` };
      found.push(...this.overlay.merge(page, seen.begin, seen.end, reverse));
      if (last === undefined) break;
      range = reverse ? { begin: range.begin, end: last } : { begin: `${last}\0`, end: range.end };
    }
    this.checkOpen();
    const entries = found.length > limit ? found.slice(0, limit) : found;
    return entries.map(({ key, value }) => ({ key: bytesOf(key), value }));
  }

  addReadConflictKey(key: Uint8Array): void {
    checkKey("key", key);
    this.checkOpen();
    this.readKeys.add(textOf(key));
    this.unreadKeys.push(textOf(key));
    this.version();
  }

  addReadConflictRange(begin: Uint8Array, end: Uint8Array): void {
    checkRange(begin, end);
    this.checkOpen();
    const range = { begin: textOf(begin), end: textOf(end) };
    this.readRanges.push(range);
    this.unreadRanges.push(range);
    this.version();
  }

  set(key: Uint8Array, value: Uint8Array): void {
    checkKey("key", key);
    checkValue(value);
    this.checkOpen();
    this.overlay.put(textOf(key), Buffer.from(value));
  }

  clear(key: Uint8Array): void {
    checkKey("key", key);
    this.checkOpen();
    this.overlay.put(textOf(key), undefined);
  }

  clearRange(begin: Uint8Array, end: Uint8Array): void {
    checkRange(begin, end);
    this.checkOpen();
    this.overlay.clearRange(textOf(begin), textOf(end));
  }

  async commit(): Promise<void> {
    this.checkOpen();
    const { bytes, isEmpty, clears, writes } = this.overlay;
    checkTransactionBytes(bytes);
    this.isOver = true;
    try {
      if (isEmpty && !this.pinned) return;
      const version = await this.version();
      const { readKeys, readRanges, unreadKeys, unreadRanges } = this;
      const reads = { readKeys, readRanges, unreadKeys, unreadRanges };
      await this.backend.commit({ version, ...reads, clears, writes });
    } finally {
      this.letGo();
    }
  }

  cancel(): void {
    if (this.isOver) return;
    this.isOver = true;
    this.letGo();
  }

  private async read(key: Uint8Array): Promise<Uint8Array | undefined> {
    checkKey("key", key);
    this.checkOpen();
    const text = textOf(key);
    if (this.overlay.covers(text)) return this.overlay.writes.get(text);
    const value = await this.backend.get(await this.version(), text);
    this.checkOpen();
    return value;
  }

  /** Pins a version at the first need, so that a transaction holds nothing before. */
  private version(): Promise<number> {
    if (!this.pinned) {
      this.pinned = this.backend.pin();
      // Who awaits it hears of a failure; adding a conflict awaits nothing.
      this.pinned.catch(() => undefined);
    }
    return this.pinned;
  }

  private letGo(): void {
    this.pinned?.then(
      (version) => this.backend.release(version),
      () => undefined,
    );
    this.pinned = undefined;
  }

  private checkOpen(): void {
    if (this.isOver) throw transactionOver();
  }
}

/** The refusal of a transaction that has ended. */
function transactionOver(): Error {
  return kvError("kv-transaction-over", "The transaction has ended: begin another.");
}

/** Throws `kv-input-invalid` where a transaction writes too much. */
function checkTransactionBytes(bytes: number): void {
  const limit = kvLimits.transactionBytes;
  if (bytes <= limit) return;
  const problem = `The transaction writes ${bytes} bytes, more than ${limit}`;
  throw kvError("kv-input-invalid", `${problem}: split it.`);
}
