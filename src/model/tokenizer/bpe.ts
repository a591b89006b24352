/**
 * @file Byte-pair encoding of one piece: of all adjacent pairs that a merge joins, the one of the
 * lowest rank (the leftmost of equals) is joined, until none is left. Pairs wait in a heap and
 * tokens are a linked list, so that n bytes take O(n log n) however long the piece is.
 * Source: Sennrich et al., arXiv 1508.07909.
 */
import { modelError } from "../errors.ts";
import type { Vocabulary } from "./vocabulary.ts";

/** Which pairs of tokens are joined, and in which order. */
export interface Merges {
  /** Rank of the merge of this pair of ids, below `mergesMax`, or -1 where none joins it. */
  rank(left: number, right: number): number;
  /** Id that this pair, which has a rank, becomes. */
  joined(left: number, right: number): number;
}

/** Merges by pair of ids: a hash table with open addressing over typed arrays. */
export class MergeTable implements Merges {
  /** Four numbers an entry: left id + 1 (0: free), right id, rank, id of the joined token. */
  private entries = new Int32Array(1 << 12);
  /** The merges that there are; the next one's rank. */
  count = 0;

  /** Adds the merge of a pair of ids into one, of the next rank. */
  add(left: number, right: number, joined: number): void {
    // Half full at most.
    if (8 * this.count >= this.entries.length) this.rehash();
    const at = this.slotOf(left, right);
    const rank = this.count++;
    // The same pair twice: the first, which ranks lower, would always be taken.
    if (this.entries[at] !== 0) return;
    this.entries[at] = left + 1;
    this.entries[at + 1] = right;
    this.entries[at + 2] = rank;
    this.entries[at + 3] = joined;
  }

  rank(left: number, right: number): number {
    const at = this.slotOf(left, right);
    return this.entries[at] === 0 ? -1 : this.entries[at + 2];
  }

  joined(left: number, right: number): number {
    return this.entries[this.slotOf(left, right) + 3];
  }

  private slotOf(left: number, right: number): number {
    const { entries } = this;
    const mask = entries.length - 4;
    let hash = Math.imul(left ^ Math.imul(right, 0x85ebca6b), 0x9e3779b1);
    hash = Math.imul(hash ^ (hash >>> 16), 0x21f0aaad);
    let at = ((hash ^ (hash >>> 15)) << 2) & mask;
    while (entries[at] !== 0 && (entries[at] !== left + 1 || entries[at + 1] !== right)) {
      at = (at + 4) & mask;
    }
    return at;
  }

  private rehash(): void {
    const old = this.entries;
    this.entries = new Int32Array(4 * old.length);
    for (let from = 0; from < old.length; from += 4) {
      if (old[from] === 0) continue;
      const at = this.slotOf(old[from] - 1, old[from + 1]);
      for (let i = 0; i < 4; i++) this.entries[at + i] = old[from + i];
    }
  }
}

/** The bytes that UTF-8 has no use for. Some vocabularies lack them. */
const isOutsideUtf8 = (byte: number): boolean => byte === 0xc0 || byte === 0xc1 || byte > 0xf4;

/** The most merges: keys of the heap, rank and position in one number, are exact up to there. */
export const mergesMax: number = 2 ** 21;

/** Factor of the rank in a heap key; the position is the rest. */
const rankUnit = 2 ** 32;

/** A binary heap of numbers, smallest first. */
class MinHeap {
  private keys = new Float64Array(64);
  private count = 0;

  push(key: number): void {
    if (this.count === this.keys.length) {
      const larger = new Float64Array(2 * this.count);
      larger.set(this.keys);
      this.keys = larger;
    }
    const { keys } = this;
    let at = this.count++;
    while (at > 0) {
      const parent = (at - 1) >> 1;
      if (keys[parent] <= key) break;
      keys[at] = keys[parent];
      at = parent;
    }
    keys[at] = key;
  }

  /** The smallest, taken out; -1 where there is none. */
  pop(): number {
    if (this.count === 0) return -1;
    const { keys } = this;
    const first = keys[0];
    const last = keys[--this.count];
    let at = 0;
    for (let child = 1; child < this.count; child = 2 * at + 1) {
      if (child + 1 < this.count && keys[child + 1] < keys[child]) child++;
      if (keys[child] >= last) break;
      keys[at] = keys[child];
      at = child;
    }
    keys[at] = last;
    return first;
  }
}

/** Encodes bytes of UTF-8 by merges. */
export class BytePairEncoder {
  private readonly merges: Merges;
  private readonly byteIds: Int32Array;
  private readonly heap = new MinHeap();
  private ids = new Int32Array(64);
  private next = new Int32Array(64);
  private previous = new Int32Array(64);

  /** Raises `tokenizer-invalid`, naming `file`, for a byte that has no token of its own. */
  constructor(vocabulary: Vocabulary, merges: Merges, file: string) {
    this.merges = merges;
    this.byteIds = Int32Array.from({ length: 256 }, (_, byte) => {
      const id = vocabulary.idOf(Uint8Array.of(byte));
      if (id >= 0 || isOutsideUtf8(byte)) return id;
      throw modelError(
        "tokenizer-invalid",
        `${file}: there is no token for the byte ${byte}. Give a byte-level BPE tokenizer.`,
      );
    });
  }

  /** Appends the ids of the first `length` of `bytes` to `out`. */
  encode(bytes: Uint8Array, length: number, out: number[]): void {
    if (length === 0) return;
    if (length > this.ids.length) this.grow(length);
    const { ids, next, previous, heap, merges, byteIds } = this;
    for (let i = 0; i < length; i++) {
      ids[i] = byteIds[bytes[i]];
      next[i] = i + 1;
      previous[i] = i - 1;
    }
    next[length - 1] = -1;
    for (let i = 0; i + 1 < length; i++) this.offer(i);
    for (let key = heap.pop(); key >= 0; key = heap.pop()) {
      const rank = Math.floor(key / rankUnit);
      const at = key - rank * rankUnit;
      const right = ids[at] < 0 ? -1 : next[at];
      // An entry is stale when its pair has changed since it was offered.
      if (right < 0 || merges.rank(ids[at], ids[right]) !== rank) continue;
      ids[at] = merges.joined(ids[at], ids[right]);
      ids[right] = -1;
      next[at] = next[right];
      if (next[at] >= 0) {
        previous[next[at]] = at;
        this.offer(at);
      }
      if (previous[at] >= 0) this.offer(previous[at]);
    }
    for (let i = 0; i >= 0; i = next[i]) out.push(ids[i]);
  }

  /** Puts the pair that starts at `at` into the heap, if a merge joins it. */
  private offer(at: number): void {
    const rank = this.merges.rank(this.ids[at], this.ids[this.next[at]]);
    if (rank >= 0) this.heap.push(rank * rankUnit + at);
  }

  private grow(length: number): void {
    const size = 2 ** Math.ceil(Math.log2(length));
    this.ids = new Int32Array(size);
    this.next = new Int32Array(size);
    this.previous = new Int32Array(size);
  }
}
