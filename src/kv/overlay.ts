/** @file The writes of one transaction before its commit, and how they look over what was there. */
import type { TextEntry, TextRange } from "./backend.ts";

/** Pending sets and clears. Ranges that were cleared come first, single keys on top of them. */
export class Overlay {
  /** Ranges cleared. */
  readonly clears: TextRange[] = [];
  /** Keys set, or where undefined cleared, after the ranges. */
  readonly writes: Map<string, Uint8Array | undefined> = new Map();
  /** Bytes of all keys and values that were written. */
  bytes = 0;

  /** Whether nothing is written. */
  get isEmpty(): boolean {
    return this.clears.length === 0 && this.writes.size === 0;
  }

  /** Sets a key, or clears it where `value` is undefined. */
  put(key: string, value: Uint8Array | undefined): void {
    this.bytes += key.length + (value?.length ?? 0);
    this.writes.set(key, value);
  }

  /** Clears a range. */
  clearRange(begin: string, end: string): void {
    this.bytes += begin.length + end.length;
    if (begin >= end) return;
    for (const key of this.writes.keys()) if (key >= begin && key < end) this.writes.delete(key);
    this.clears.push({ begin, end });
  }

  /** Whether the overlay decides what `key` is. */
  covers(key: string): boolean {
    return this.writes.has(key) || this.clears.some(({ begin, end }) => key >= begin && key < end);
  }

  /** `page`, the entries below that lie within `begin` and `end`, as they look through the overlay. */
  merge(page: readonly TextEntry[], begin: string, end: string, reverse: boolean): TextEntry[] {
    const below = this.isEmpty ? [...page] : page.filter(({ key }) => !this.covers(key));
    const set: TextEntry[] = [];
    for (const [key, value] of this.writes) {
      if (value && key >= begin && key < end) set.push({ key, value });
    }
    if (set.length === 0) return below;
    const sign = reverse ? -1 : 1;
    return [...below, ...set].sort((x, y) => (x.key < y.key ? -sign : sign));
  }
}
