/**
 * @file The pages of one rank's cache: who holds them, and what the unheld ones still know.
 *
 * A page is in one of three states: empty (on a stack), held (one or more references) or idle (no
 * reference, but its content has a key: a later prompt with the same prefix may take it up again).
 * Idle pages form a list by last use; when no page is empty the one unused for longest is evicted.
 * A sequence releases its pages last to first, so that a prefix outlives its continuations.
 * Every operation is O(1), except `match`, which is O(keys). No page's content is ever copied.
 */
import { assert } from "../base/index.ts";

/** What the cache knows of a prefix. */
export interface PrefixMatch {
  /** How many of the leading blocks are cached. */
  readonly blocks: number;
  /** How many of those are idle: taking them up uses free blocks. */
  readonly idle: number;
  /** Key of the first block that is not cached; undefined where all are. */
  readonly missing: string | undefined;
}

/** Book-keeping over `total` pages; the memory itself belongs to the model's cache. */
export class BlockManager {
  /** Pages in all. */
  readonly total: number;
  private readonly references: Int32Array;
  private readonly keyOf: (string | undefined)[];
  private readonly pageOf = new Map<string, number>();
  private readonly expected = new Map<string, number>();
  private readonly empty: Int32Array;
  private emptyCount: number;
  private readonly idle: PageList;

  constructor(total: number) {
    assert(total >= 1, () => `pages: got ${total}, wanted at least 1`);
    this.total = total;
    this.references = new Int32Array(total);
    this.keyOf = new Array(total).fill(undefined);
    this.empty = Int32Array.from({ length: total }, (_, i) => total - 1 - i);
    this.emptyCount = total;
    this.idle = new PageList(total);
  }

  /** Pages that can be allocated: empty and idle ones. */
  get free(): number {
    return this.emptyCount + this.idle.size;
  }

  /** Pages that sequences hold. */
  get used(): number {
    return this.total - this.free;
  }

  /** Pages without a holder whose content may be asked for again. */
  get cached(): number {
    return this.idle.size;
  }

  /** References to `page`. */
  referencesOf(page: number): number {
    return this.references[page];
  }

  /** What is cached of a sequence whose blocks have these keys: at most `limit` blocks. */
  match(keys: readonly string[], limit: number): PrefixMatch {
    let idle = 0;
    for (let i = 0; i < limit; i++) {
      const page = this.pageOf.get(keys[i]);
      if (page === undefined) return { blocks: i, idle, missing: keys[i] };
      if (this.references[page] === 0) idle++;
    }
    return { blocks: limit, idle, missing: undefined };
  }

  /** Takes a reference to the page that holds the block `key`, which must be cached. */
  take(key: string): number {
    const page = this.pageOf.get(key);
    assert(page !== undefined, "take: wanted the key of a cached block");
    if (this.references[page]++ === 0) this.idle.remove(page);
    return page;
  }

  /** A page with one reference and no key; evicts the page unused for longest if none is empty. */
  allocate(): number {
    assert(this.free > 0, "allocate: no free page, the plan promised one");
    let page: number;
    if (this.emptyCount > 0) {
      page = this.empty[--this.emptyCount];
    } else {
      page = this.idle.removeOldest();
      this.pageOf.delete(this.keyOf[page]!);
      this.keyOf[page] = undefined;
    }
    this.references[page] = 1;
    return page;
  }

  /** Gives up one reference to `page`. */
  release(page: number): void {
    assert(this.references[page] > 0, () => `release: page ${page} has no reference`);
    if (--this.references[page] > 0) return;
    if (this.keyOf[page] === undefined) this.empty[this.emptyCount++] = page;
    else this.idle.append(page);
  }

  /**
   * Makes the content of a full, solely held page known under `key`, and returns the page to use
   * from now on. Where another page holds the same content already, that one is returned with the
   * reference moved to it: the model is batch-invariant, so the two hold the same bits.
   */
  publish(page: number, key: string): number {
    assert(
      this.references[page] === 1 && this.keyOf[page] === undefined,
      () => `publish: page ${page} is shared or has a key already`,
    );
    if (this.pageOf.has(key)) {
      this.release(page);
      return this.take(key);
    }
    this.pageOf.set(key, page);
    this.keyOf[page] = key;
    return page;
  }

  /** Announces that a running sequence will publish the block `key`: others can wait for it. */
  expect(key: string): void {
    this.expected.set(key, (this.expected.get(key) ?? 0) + 1);
  }

  /** Takes back one announcement: the block was published, or its sequence stopped. */
  unexpect(key: string): void {
    const count = this.expected.get(key);
    assert(count !== undefined, "unexpect: wanted a key announced before");
    if (count === 1) this.expected.delete(key);
    else this.expected.set(key, count - 1);
  }

  /** Whether a running sequence will publish the block `key`. */
  isExpected(key: string): boolean {
    return this.expected.has(key);
  }

  /** Throws unless the books balance; for tests, O(pages). */
  check(): void {
    const isEmpty = new Set(this.empty.subarray(0, this.emptyCount));
    const isIdle = new Set(this.idle.pages());
    assert(isEmpty.size === this.emptyCount, "an empty page is listed twice");
    assert(isIdle.size === this.idle.size, "an idle page is listed twice");
    for (let page = 0; page < this.total; page++) {
      const [held, key] = [this.references[page] > 0, this.keyOf[page]];
      const states = Number(held) + Number(isEmpty.has(page)) + Number(isIdle.has(page));
      assert(states === 1, () => `page ${page} is in ${states} states`);
      assert(this.references[page] >= 0, () => `page ${page} has negative references`);
      assert(!isIdle.has(page) || key !== undefined, () => `idle page ${page} has no key`);
      assert(!isEmpty.has(page) || key === undefined, () => `empty page ${page} has a key`);
      assert(key === undefined || this.pageOf.get(key) === page, () => `page ${page} lost its key`);
    }
    const keyed = this.keyOf.filter((key) => key !== undefined).length;
    assert(this.pageOf.size === keyed, "a key names a page that has none");
  }

  /** How many announcements are open; for tests. */
  get expectedCount(): number {
    return this.expected.size;
  }
}

/** A doubly linked list of pages, oldest first, as two arrays with a sentinel at `capacity`. */
class PageList {
  size = 0;
  private readonly sentinel: number;
  private readonly next: Int32Array;
  private readonly previous: Int32Array;

  constructor(capacity: number) {
    this.sentinel = capacity;
    this.next = new Int32Array(capacity + 1).fill(capacity);
    this.previous = new Int32Array(capacity + 1).fill(capacity);
  }

  append(page: number): void {
    const last = this.previous[this.sentinel];
    this.next[last] = page;
    this.previous[page] = last;
    this.next[page] = this.sentinel;
    this.previous[this.sentinel] = page;
    this.size++;
  }

  remove(page: number): void {
    this.next[this.previous[page]] = this.next[page];
    this.previous[this.next[page]] = this.previous[page];
    this.size--;
  }

  removeOldest(): number {
    const page = this.next[this.sentinel];
    this.remove(page);
    return page;
  }

  *pages(): Iterable<number> {
    for (let p = this.next[this.sentinel]; p !== this.sentinel; p = this.next[p]) yield p;
  }
}
